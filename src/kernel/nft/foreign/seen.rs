//! What a rule sees of a packet: its headers, its links, its connection.

use super::bits::{Byte, known};
use crate::kernel::attribute::octets;
use crate::objects::{Family, Packet, Phase, Protocol};

// linux/netfilter/nf_tables.h, enum nft_meta_keys.
const META_PROTOCOL: u32 = 1;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// IFNAMSIZ.
const NAME: usize = 16;

// enum nft_ct_keys
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
/// enum ip_conntrack_status
const SEEN_REPLY: u32 = 1 << 1;
const CONFIRMED: u32 = 1 << 3;
const SRC_NAT: u32 = 1 << 4;
const DST_NAT: u32 = 1 << 5;

// linux/rtnetlink.h
const RTN_UNICAST: u32 = 1;
const RTN_LOCAL: u32 = 2;

pub const STATE_ESTABLISHED: u32 = 2;
pub const STATE_NEW: u32 = 8;
const STATE_UNTRACKED: u32 = 64;

// Bytes of headers up to what is told of here.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const OTHER: usize = 8;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// NFPROTO_… and ETH_P_…
fn numbers(family: Family) -> (u8, u16) {
    match family {
        Family::V4 => (2, 0x0800),
        Family::V6 => (10, 0x86dd),
    }
}

pub fn state(packet: &Packet) -> u32 {
    match packet.phase {
        Phase::First => STATE_NEW,
        Phase::Later | Phase::Answer => STATE_ESTABLISHED,
        Phase::Untracked => STATE_UNTRACKED,
    }
}

/// What `meta` has of it; `None`: nothing is known. `index`: of a link.
pub fn meta(packet: &Packet, key: u32, index: impl Fn(&str) -> Option<u32>) -> Option<Vec<Byte>> {
    let (family, ethertype) = numbers(packet.family);
    let number = |name: &Option<String>| name.as_deref().and_then(&index).map(|index| known(&index.to_ne_bytes()));
    let name = |name: &Option<String>| {
        name.as_deref().map(|name| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME, 0);
            known(&bytes)
        })
    };
    match key {
        META_PROTOCOL => Some(known(&ethertype.to_be_bytes())),
        META_IIF => number(&packet.link_in),
        META_OIF => number(&packet.link_out),
        META_IIFNAME => name(&packet.link_in),
        META_OIFNAME => name(&packet.link_out),
        META_NFPROTO => Some(known(&[family])),
        META_L4PROTO => Some(known(&[packet.protocol.number()])),
        _ => None,
    }
}

/// What `ct` has of it.
pub fn connection(packet: &Packet, key: u32) -> Option<Vec<Byte>> {
    match key {
        CT_STATE => Some(known(&state(packet).to_ne_bytes())),
        _ if packet.phase == Phase::Untracked => None,
        CT_DIRECTION => Some(known(&[u8::from(packet.phase == Phase::Answer)])),
        CT_STATUS => {
            let mut value = if packet.phase == Phase::First { 0 } else { SEEN_REPLY | CONFIRMED };
            // Behind the first, it may be translated further on.
            let translated = if packet.phase == Phase::First || packet.translated { DST_NAT } else { 0 };
            let sure = SEEN_REPLY | CONFIRMED | translated;
            value |= if packet.translated { DST_NAT } else { 0 };
            let bytes = value.to_ne_bytes().into_iter().zip((sure & !SRC_NAT).to_ne_bytes());
            Some(bytes.map(|(value, known)| Byte::partly(value, known)).collect())
        }
        _ => None,
    }
}

/// The type of its destination, as `fib daddr type` has it.
pub fn destination_type(packet: &Packet) -> Vec<Byte> {
    known(&if packet.is_local { RTN_LOCAL } else { RTN_UNICAST }.to_ne_bytes())
}

/// Its header of that layer (enum nft_payload_bases): link, network or transport.
pub fn header(packet: &Packet, base: u32) -> Option<Vec<Byte>> {
    match base {
        0 => {
            let mut header = vec![Byte::ANY; ETHERNET];
            put(&mut header, 12, &numbers(packet.family).1.to_be_bytes());
            Some(header)
        }
        1 => Some(network(packet)),
        2 => Some(transport(packet)),
        _ => None,
    }
}

fn put(header: &mut [Byte], place: usize, bytes: &[u8]) {
    for (byte, value) in header.iter_mut().skip(place).zip(bytes) {
        *byte = Byte::known(*value);
    }
}

fn network(packet: &Packet) -> Vec<Byte> {
    let (length, version, protocol, source, destination) = match packet.family {
        Family::V4 => (IPV4, 0x45, 9, 12, 16),
        Family::V6 => (IPV6, 0x60, 6, 8, 24),
    };
    let mut header = vec![Byte::ANY; length];
    match packet.family {
        Family::V4 => {
            put(&mut header, 0, &[version]);
            // The first fragment is the whole.
            header[6] = Byte::partly(0, 0x3f);
            put(&mut header, 7, &[0]);
        }
        // The traffic class begins in the same byte.
        Family::V6 => header[0] = Byte::partly(version, 0xf0),
    }
    put(&mut header, protocol, &[packet.protocol.number()]);
    packet.source.into_iter().for_each(|ip| put(&mut header, source, &octets(ip)));
    packet.destination.into_iter().for_each(|ip| put(&mut header, destination, &octets(ip)));
    header
}

fn transport(packet: &Packet) -> Vec<Byte> {
    let length = if packet.protocol == Protocol::Tcp { TCP } else { OTHER };
    let mut header = vec![Byte::ANY; length];
    packet.source_port.into_iter().for_each(|port| put(&mut header, 0, &port.to_be_bytes()));
    packet.destination_port.into_iter().for_each(|port| put(&mut header, 2, &port.to_be_bytes()));
    if packet.protocol == Protocol::Tcp {
        header[13] = match packet.phase {
            Phase::First => Byte::known(SYN),
            // It may push, or be the last.
            Phase::Later => Byte::partly(ACK, SYN | ACK | RST),
            Phase::Answer => Byte::known(SYN | ACK),
            Phase::Untracked => Byte::ANY,
        };
    }
    header
}
