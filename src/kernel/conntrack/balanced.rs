//! Connections that nftables has led to a backend: the sandbox's connection tracking knows them by the port's mark.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;

use super::{Flow, GET, HEADER, deletion, header};
use crate::kernel::attribute::{Writer, be32_of, find};
use crate::kernel::replies::Readers;
use crate::kernel::socket::{NLM_F_DUMP, Request, Result, Socket};
use crate::objects::{DestinationKey, Family, Mark, Protocol};

const PROTOCOL_INFO: u16 = 4;
const MARK: u16 = 8;
const MARK_MASK: u16 = 21;
const INFO_TCP: u16 = 1;
const INFO_SCTP: u16 = 3;
const STATE: u16 = 1;

/// States of TCP in which neither side can say anything any more (linux/netfilter/nf_conntrack_tcp.h: last ACK, time-wait, closed).
const TCP_ENDED: [u8; 3] = [6, 7, 8];
/// The same of SCTP (nf_conntrack_sctp.h: closed, and a shutdown that is acknowledged).
const SCTP_ENDED: [u8; 2] = [1, 7];

/// A backend of one port.
pub type Served = (Mark, DestinationKey);

/// One connection: whose it is, and whether anything may still be said by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    mark: Mark,
    /// Who answers.
    backend: (IpAddr, u16),
    open: bool,
}

impl Connection {
    fn read(body: &[u8]) -> Option<Connection> {
        let flow = Flow::read(body)?;
        let attributes = body.get(HEADER..)?;
        let mark = Mark(find(attributes, MARK).and_then(be32_of)?);
        let state = |protocol| {
            let info = find(find(attributes, PROTOCOL_INFO)?, protocol)?;
            find(info, STATE).and_then(|state| state.first().copied())
        };
        let open = match flow.protocol {
            Protocol::Tcp => state(INFO_TCP).is_none_or(|state| !TCP_ENDED.contains(&state)),
            Protocol::Sctp => state(INFO_SCTP).is_none_or(|state| !SCTP_ENDED.contains(&state)),
            Protocol::Udp => true,
        };
        Some(Connection { mark, backend: flow.reply.source, open })
    }

    /// The backend in `of` that it is of: by its port, or by whichever was asked for.
    fn of(&self, of: &BTreeSet<Served>) -> Option<Served> {
        let (address, port) = self.backend;
        let by = |port| (self.mark, DestinationKey { address, port });
        [by(port), by(0)].into_iter().find(|served| of.contains(served))
    }
}

/// How many open connections each of them has, in the socket's network namespace.
pub fn count(socket: &mut Socket, of: &BTreeSet<Served>) -> Result<BTreeMap<Served, u32>> {
    let mut counts = BTreeMap::new();
    for request in listings(of) {
        let found = socket.dump(&request, |_, body| Connection::read(body).filter(|found| found.open)?.of(of))?;
        found.into_iter().for_each(|served| *counts.entry(served).or_default() += 1);
    }
    Ok(counts)
}

/// What they have that is open, each as the request that has connection tracking forget it.
///
/// What has ended is left to be forgotten in its time: a client may open its next connection with the same port, and the kernel tells the
/// two apart by an identifier that is made of the port and of a place in memory, which the new one likely has, too (nf_ct_get_id;
/// one in 200,000 connections was lost to that).
pub fn open_ones(socket: &mut Socket, of: &BTreeSet<Served>) -> Result<Vec<Request>> {
    let mut deletions = Vec::new();
    for request in listings(of) {
        let family = if request.body.first() == header(Family::V4).first() { Family::V4 } else { Family::V6 };
        let found = socket.dump(&request, |_, body| {
            Connection::read(body).filter(|found| found.open)?.of(of)?;
            deletion(family, body)
        })?;
        deletions.extend(found);
    }
    Ok(deletions)
}

/// Does what [`open_ones`] asks for; what the kernel would not do, since those packets pass by a flow table (Linux before 6.4).
pub fn forget(socket: &mut Socket, deletions: Vec<Request>) -> Result<Vec<Request>> {
    let results = socket.requests(&deletions);
    let (mut busy, mut failure) = (Vec::new(), None);
    for (request, result) in deletions.into_iter().zip(results) {
        match result {
            Ok(()) => {}
            // It has ended meanwhile.
            Err(error) if error.is(Errno::ENOENT) => {}
            Err(error) if error.is(Errno::EBUSY) => busy.push(request),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(busy), Err)
}

/// Asks for the entries of each family that any of them is of; those of one mark alone, if there is but one.
fn listings(of: &BTreeSet<Served>) -> Vec<Request> {
    let families =
        Family::ALL.into_iter().filter(|family| of.iter().any(|(_, place)| Family::of(&place.address) == *family));
    let marks: BTreeSet<Mark> = of.iter().map(|(mark, _)| *mark).collect();
    let listing = |family| {
        let mut writer = Writer::after(&header(family));
        if let (Some(mark), 1) = (marks.first(), marks.len()) {
            writer.be32(MARK, mark.0);
            writer.be32(MARK_MASK, u32::MAX);
        }
        Request { kind: GET, flags: NLM_F_DUMP, body: writer.finish() }
    };
    families.map(listing).collect()
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[|body| _ = Connection::read(body).and_then(|found| found.of(&BTreeSet::new()))];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_of_a_backend_by_its_port_or_by_any() {
        let (mark, address) = (Mark(0x1_0050), IpAddr::from([10, 255, 0, 33]));
        let connection = Connection { mark, backend: (address, 8080), open: true };
        let served = |mark, port| (mark, DestinationKey { address, port });
        for (of, expected) in [
            (served(mark, 8080), true),
            (served(mark, 0), true),
            (served(mark, 8081), false),
            (served(Mark(0x1_0051), 8080), false),
        ] {
            assert_eq!(connection.of(&[of].into()).is_some(), expected, "{of:?}");
        }
    }
}
