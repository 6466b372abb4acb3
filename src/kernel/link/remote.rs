//! rtnetlink's messages about what the tunnel knows of other nodes: forwarding entries and neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;

use super::super::attribute::{Writer, find, ip_of};
use super::super::socket::{NLM_F_CREATE, NLM_F_REPLACE, Request, Result, Socket};
use crate::objects::Mac;

// linux/rtnetlink.h
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const NTF_SELF: u8 = 0x02;
const NTF_MASTER: u8 = 0x04;
// Address families, linux/socket.h
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
/// `struct ndmsg`: family, three bytes of padding, the link's index, state, flags, type.
const HEADER: usize = 12;

/// The entry of the tunnel with that index, whatever was there before.
pub(super) fn set_forwarding(index: u32, mac: Mac, node: IpAddr) -> Request {
    set(AF_BRIDGE, &forwarding_entry(index, mac, node))
}

/// The entry of a bridge: frames to that MAC leave by the port with that index, whatever was learned before. Not the
/// bridge's own address, and never forgotten (bridge(8), `static`).
pub(super) fn set_port(index: u32, mac: Mac) -> Request {
    set(AF_BRIDGE, &Entry { index, state: NUD_NOARP, flags: NTF_MASTER, mac: Some(mac), ip: None })
}

pub(super) fn delete_forwarding(index: u32, mac: Mac, node: IpAddr) -> Request {
    forwarding_entry(index, mac, node).request(RTM_DELNEIGH, 0, AF_BRIDGE)
}

pub(super) fn set_neighbour(index: u32, ip: IpAddr, mac: Mac) -> Request {
    set(family(ip), &Entry { index, state: NUD_PERMANENT, flags: 0, mac: Some(mac), ip: Some(ip) })
}

pub(super) fn delete_neighbour(index: u32, ip: IpAddr) -> Request {
    let entry = Entry { index, state: NUD_PERMANENT, flags: 0, mac: None, ip: Some(ip) };
    entry.request(RTM_DELNEIGH, 0, family(ip))
}

fn forwarding_entry(index: u32, mac: Mac, node: IpAddr) -> Entry {
    Entry { index, state: NUD_PERMANENT, flags: NTF_SELF, mac: Some(mac), ip: Some(node) }
}

fn set(family: u8, entry: &Entry) -> Request {
    entry.request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, family)
}

/// What is to be deleted and is gone already is deleted.
pub(super) fn forgiven(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The node behind each MAC, as the tunnel with that index has it.
pub(super) fn forwarding(socket: &mut Socket, index: u32) -> Result<BTreeMap<Mac, IpAddr>> {
    let entry = |entry: Entry| (entry.flags & NTF_SELF != 0).then_some((entry.mac?, entry.ip?));
    Ok(dump(socket, AF_BRIDGE, index)?.into_iter().filter_map(entry).collect())
}

/// The permanent neighbours of the link with that index.
pub(super) fn neighbours(socket: &mut Socket, index: u32) -> Result<BTreeMap<IpAddr, Mac>> {
    let entry = |entry: Entry| (entry.state & NUD_PERMANENT != 0).then_some((entry.ip?, entry.mac?));
    Ok(dump(socket, AF_UNSPEC, index)?.into_iter().filter_map(entry).collect())
}

struct Entry {
    index: u32,
    state: u16,
    flags: u8,
    mac: Option<Mac>,
    ip: Option<IpAddr>,
}

pub(super) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

impl Entry {
    fn request(&self, kind: u16, flags: u16, family: u8) -> Request {
        let mut body = Writer::after(&header(family, self.index, self.state, self.flags));
        if let Some(ip) = self.ip {
            body.ip(NDA_DST, ip);
        }
        if let Some(mac) = self.mac {
            body.bytes(NDA_LLADDR, &mac.0);
        }
        Request { kind, flags, body: body.finish() }
    }
}

fn dump(socket: &mut Socket, family: u8, index: u32) -> Result<Vec<Entry>> {
    let question = Request { kind: RTM_GETNEIGH, flags: 0, body: header(family, 0, 0, 0).to_vec() };
    let all = socket.dump(&question, |kind, body| if kind == RTM_NEWNEIGH { parse(body) } else { None })?;
    Ok(all.into_iter().filter(|entry| entry.index == index).collect())
}

fn parse(body: &[u8]) -> Option<Entry> {
    let header = body.get(..HEADER)?;
    let rest = body.get(HEADER..)?;
    Some(Entry {
        index: u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?),
        state: u16::from_ne_bytes(header.get(8..10)?.try_into().ok()?),
        flags: *header.get(10)?,
        mac: find(rest, NDA_LLADDR).and_then(|value| value.try_into().ok()).map(Mac),
        ip: find(rest, NDA_DST).and_then(ip_of),
    })
}

/// For `replies`.
pub(super) fn read_any(body: &[u8]) {
    let _ = parse(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let (mac, ip) = (Mac([2, 0x42, 10, 255, 0, 33]), ip.parse().unwrap());
            let entry = parse(&set_forwarding(7, mac, ip).body).unwrap();
            assert_eq!((entry.index, entry.mac, entry.ip), (7, Some(mac), Some(ip)));
            assert_eq!((entry.flags, entry.state), (NTF_SELF, NUD_PERMANENT));
            let entry = parse(&delete_neighbour(7, ip).body).unwrap();
            assert_eq!((entry.mac, entry.ip, entry.flags), (None, Some(ip), 0));
        }
        for torn in [&[0; 11][..], &[0; 12], &[0; 15]] {
            assert!(parse(torn).is_none_or(|entry| entry.mac.is_none() && entry.ip.is_none()));
        }
    }
}
