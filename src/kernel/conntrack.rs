//! Connection tracking, made to forget flows (linux/netfilter/nfnetlink_conntrack.h).
//!
//! A datagram flow that began before its port was published is known to connection tracking as not
//! translated, and stays so as long as it goes on: the mesh never sees it. Once forgotten, its next packet is
//! a new flow, which meets the rules.

pub mod balanced;

use std::net::IpAddr;

use nix::errno::Errno;

use super::attribute::{Writer, be16_of, find};
use super::replies::Readers;
use super::socket::{NLM_F_DUMP, Request, Result, Socket};
use crate::objects::{Family, PortRange, Protocol};

/// The netlink protocol to open the socket with (linux/netlink.h).
pub const NETLINK_NETFILTER: isize = 12;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const GET: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 1;
const DELETE: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 2;
/// Bytes of the header after netlink's own: family, version, resource (`struct nfgenmsg`).
const HEADER: usize = 4;

// Attributes of an entry.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

// Attributes of a tuple.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

const FILTER_ORIGINAL_FLAGS: u16 = 1;
/// The filter's original tuple has a protocol to compare; a destination port to compare.
const FILTER_BY_PROTOCOL: u32 = 1 << 3;
const FILTER_BY_DESTINATION_PORT: u32 = 1 << 5;

/// Deletes the entries of flows to one of `ports` at an address of this host that are not translated, in the
/// socket's network namespace. Answers how many there were.
///
/// Flows to the same ports that are merely forwarded are none of our business: `local` tells whether an
/// address is the host's. Many ports cost one look through the table, and the table may be large: ask for
/// all at once.
pub fn forget_untranslated(socket: &mut Socket, ports: &[PortRange], local: &dyn Fn(IpAddr) -> bool) -> Result<usize> {
    let mut deletions = Vec::new();
    for protocol in Protocol::ALL {
        let ports: Vec<&PortRange> = ports.iter().filter(|range| range.protocol == protocol).collect();
        if ports.is_empty() {
            continue;
        }
        for family in Family::ALL {
            let found = socket.dump(&listing(family, protocol, &ports), |_, body| {
                let flow = Flow::read(body)?;
                let port = flow.original.destination.1;
                let meant = ports.iter().any(|range| range.contains(flow.protocol, port));
                (meant && !flow.is_translated() && local(flow.original.destination.0))
                    .then(|| deletion(family, body))?
            })?;
            deletions.extend(found);
        }
    }
    let mut forgotten = 0;
    let mut failure = None;
    for result in socket.requests(&deletions) {
        match result {
            Ok(()) => forgotten += 1,
            // It has ended meanwhile.
            Err(error) if error.is(Errno::ENOENT) => (),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(forgotten), Err)
}

type Endpoint = (IpAddr, u16);

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: Endpoint,
    destination: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    protocol: Protocol,
    original: Tuple,
    reply: Tuple,
}

impl Flow {
    /// What the kernel says of an entry; `None` if it is of a protocol without ports.
    fn read(body: &[u8]) -> Option<Flow> {
        let attributes = body.get(HEADER..)?;
        let original = find(attributes, TUPLE_ORIGINAL)?;
        let &[protocol] = find(find(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)? else { return None };
        Some(Flow {
            protocol: Protocol::from_number(protocol)?,
            original: Tuple::read(original)?,
            reply: Tuple::read(find(attributes, TUPLE_REPLY)?)?,
        })
    }

    /// Whether its packets go elsewhere than their sender addressed them to.
    fn is_translated(&self) -> bool {
        self.reply.source != self.original.destination
    }
}

impl Tuple {
    fn read(tuple: &[u8]) -> Option<Tuple> {
        let ip = find(tuple, TUPLE_IP)?;
        let ports = find(tuple, TUPLE_PROTOCOL)?;
        let address = |v4, v6| match find(ip, v4) {
            Some(octets) => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
            None => Some(IpAddr::from(<[u8; 16]>::try_from(find(ip, v6)?).ok()?)),
        };
        let port = |kind| find(ports, kind).and_then(be16_of);
        Some(Tuple {
            source: (address(V4_SOURCE, V6_SOURCE)?, port(SOURCE_PORT)?),
            destination: (address(V4_DESTINATION, V6_DESTINATION)?, port(DESTINATION_PORT)?),
        })
    }
}

fn header(family: Family) -> [u8; HEADER] {
    // AF_INET, AF_INET6; version 0; no resource.
    match family {
        Family::V4 => [2, 0, 0, 0],
        Family::V6 => [10, 0, 0, 0],
    }
}

/// Asks for the entries of one family and protocol, and of one port if there is but one. The filter spares
/// the kernel to describe the others; one older than 5.8 does not know it and lists all.
fn listing(family: Family, protocol: Protocol, ports: &[&PortRange]) -> Request {
    let port = match ports {
        // SCTP's ports are not compared.
        [range] if range.is_single() && protocol != Protocol::Sctp => Some(range.first),
        _ => None,
    };
    let mut writer = Writer::after(&header(family));
    writer.nested(TUPLE_ORIGINAL, |tuple| {
        tuple.nested(TUPLE_PROTOCOL, |writer| {
            writer.u8(PROTOCOL_NUMBER, protocol.number());
            if let Some(port) = port {
                writer.be16(DESTINATION_PORT, port);
            }
        });
    });
    let by_port = if port.is_some() { FILTER_BY_DESTINATION_PORT } else { 0 };
    writer.nested(FILTER, |filter| filter.u32(FILTER_ORIGINAL_FLAGS, FILTER_BY_PROTOCOL | by_port));
    Request { kind: GET, flags: NLM_F_DUMP, body: writer.finish() }
}

/// Asks to delete the entry that the kernel described with `body`, and not another that took its place.
fn deletion(family: Family, body: &[u8]) -> Option<Request> {
    let attributes = body.get(HEADER..)?;
    let mut writer = Writer::after(&header(family));
    // The tuple goes back as it came, with whatever else tells the entry from others.
    writer.bytes(TUPLE_ORIGINAL, find(attributes, TUPLE_ORIGINAL)?);
    for kind in [ZONE, ID] {
        if let Some(value) = find(attributes, kind) {
            writer.bytes(kind, value);
        }
    }
    Some(Request { kind: DELETE, flags: 0, body: writer.finish() })
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[|body| {
    let _ = (Flow::read(body).map(|flow| flow.is_translated()), deletion(Family::V4, body));
    balanced::READERS.iter().for_each(|read| read(body));
}];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry as the kernel would describe it.
    fn entry(protocol: u8, original: Tuple, reply: Tuple, zone: Option<u16>) -> Vec<u8> {
        let mut writer = Writer::after(&header(Family::of(&original.source.0)));
        for (kind, tuple) in [(TUPLE_ORIGINAL, original), (TUPLE_REPLY, reply)] {
            writer.nested(kind, |writer| {
                writer.nested(TUPLE_IP, |writer| match (tuple.source.0, tuple.destination.0) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        writer.bytes(V4_SOURCE, &source.octets());
                        writer.bytes(V4_DESTINATION, &destination.octets());
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        writer.bytes(V6_SOURCE, &source.octets());
                        writer.bytes(V6_DESTINATION, &destination.octets());
                    }
                    _ => (),
                });
                writer.nested(TUPLE_PROTOCOL, |writer| {
                    writer.u8(PROTOCOL_NUMBER, protocol);
                    writer.be16(SOURCE_PORT, tuple.source.1);
                    writer.be16(DESTINATION_PORT, tuple.destination.1);
                });
            });
        }
        writer.be32(ID, 0x1234_5678);
        if let Some(zone) = zone {
            writer.be16(ZONE, zone);
        }
        writer.finish()
    }

    fn endpoint(address: &str, port: u16) -> Endpoint {
        (address.parse().unwrap(), port)
    }

    #[test]
    fn a_flow_is_translated_if_others_answer() {
        let client = endpoint("192.0.2.1", 40000);
        let node = endpoint("192.0.2.2", 53);
        let original = Tuple { source: client, destination: node };
        for (source, destination, translated) in [
            (node, client, false),
            // Only the client's side is translated.
            (node, endpoint("192.0.2.2", 1024), false),
            (endpoint("169.254.77.2", 53), client, true),
            (endpoint("192.0.2.2", 5353), client, true),
        ] {
            let reply = Tuple { source, destination };
            let flow = Flow::read(&entry(17, original, reply, None)).unwrap();
            assert_eq!(flow, Flow { protocol: Protocol::Udp, original, reply });
            assert_eq!(flow.is_translated(), translated, "{flow:?}");
        }
        let flow = Tuple { source: endpoint("fd00::1", 1), destination: endpoint("fd00::2", 2) };
        assert_eq!(Flow::read(&entry(132, flow, flow, None)).map(|flow| flow.original), Some(flow));
        assert_eq!(Flow::read(&entry(1, flow, flow, None)), None);
    }

    #[test]
    fn an_entry_is_deleted_by_what_tells_it_from_others() {
        let tuple = Tuple { source: endpoint("192.0.2.1", 40000), destination: endpoint("192.0.2.2", 53) };
        let request = deletion(Family::V4, &entry(17, tuple, tuple, Some(7))).unwrap();
        assert_eq!(request.kind, 0x102);
        assert_eq!(
            request.body,
            [
                &[2, 0, 0, 0][..],
                &[52, 0, 1, 0], // CTA_TUPLE_ORIG
                &[20, 0, 1, 0x80, 8, 0, 1, 0, 192, 0, 2, 1, 8, 0, 2, 0, 192, 0, 2, 2],
                &[28, 0, 2, 0x80, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 2, 0, 0x9c, 0x40, 0, 0, 6, 0, 3, 0, 0, 53, 0, 0],
                &[6, 0, 18, 0, 0, 7, 0, 0],             // CTA_ZONE
                &[8, 0, 12, 0, 0x12, 0x34, 0x56, 0x78], // CTA_ID
            ]
            .concat()
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Flow::read(&bytes);
            let _ = deletion(Family::V4, &bytes);
        }

        #[test]
        fn no_torn_entry_makes_the_reader_panic(place in 0..200usize, byte in any::<u8>(), length in 0..200usize) {
            let tuple = Tuple { source: endpoint("192.0.2.1", 40000), destination: endpoint("192.0.2.2", 53) };
            let mut bytes = entry(17, tuple, tuple, Some(7));
            if let Some(there) = bytes.get_mut(place) {
                *there = byte;
            }
            bytes.truncate(length);
            let _ = Flow::read(&bytes);
            let _ = deletion(Family::V6, &bytes);
        }
    }
}
