//! Maps and their elements, as netlink carries them.

use super::expr::{DATA_VALUE, Expr};
use super::{SET_NAME, SET_TABLE};
use crate::kernel::attribute::{Writer, attributes, be32_of, find, ip_of, octets, string_of};
use crate::objects::{Family, Map, MapKind, MapValue, Mark, PortRange, Protocol, TABLE};

// linux/netfilter/nf_tables.h: maps are sets with values.
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_USERDATA: u16 = 13;
const SET_EXPR: u16 = 17;
pub(super) const DESC_SIZE: u16 = 1;
pub(super) const DESC_CONCAT: u16 = 2;
pub(super) const FIELD_LEN: u16 = 1;
pub(super) const LIST_ELEM: u16 = 1;

pub(super) const FLAG_INTERVAL: u32 = 0x4;
pub(super) const FLAG_MAP: u32 = 0x8;
/// Elements end with their time, and rules add them.
pub(super) const FLAG_TIMEOUT: u32 = 0x10;
pub(super) const FLAG_EVAL: u32 = 0x20;
pub(super) const FLAG_CONCAT: u32 = 0x80;

pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_EXPIRATION: u16 = 5;
pub(super) const ELEM_EXPR: u16 = 7;
pub(super) const ELEM_KEY_END: u16 = 10;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;

/// nft(8)'s own numbers for types; the kernel only keeps them. Six bits each in a concatenation.
pub(super) const TYPE_INET_PROTO: u32 = 12;
pub(super) const TYPE_INET_SERVICE: u32 = 13;
pub(super) const TYPE_MARK: u32 = 19;
pub(super) const TYPE_IPV4: u32 = 7;
pub(super) const TYPE_IPV6: u32 = 8;
/// NFT_DATA_VERDICT.
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Clients that are remembered, at the most: some 50 MB of the kernel's memory. IPVS knows no end here; beyond this one clients are not
/// remembered, and served all the same.
const MOST_CLIENTS: u32 = 1 << 18;

/// Elements of one message: an attribute holds no more than 64 KiB.
pub const ELEMENTS_PER_MESSAGE: usize = 1000;

/// Tells nft(8) how to print: without it marks come out byte-swapped. Entries are type, length, value;
/// 0 is the key's byte order, 1 the data's; 1 is the host's, 2 the network's.
pub(super) fn byte_orders(kind: MapKind) -> Vec<u8> {
    // A verdict has no bytes to order: nft(8) dies of it if it is told to.
    const NONE: u32 = 0;
    const HOST: u32 = 1;
    const NETWORK: u32 = 2;
    let (key, data) = match kind {
        MapKind::Mark => (NETWORK, HOST),
        MapKind::Address(_) => (NETWORK, NETWORK),
        MapKind::Ways => (HOST, NONE),
        MapKind::Slots(_) | MapKind::Hosts(_) => (HOST, NETWORK),
        MapKind::Turns | MapKind::Clients(_) => (HOST, HOST),
    };
    let mut bytes = Vec::new();
    for (entry, order) in [(0u8, key), (1, data)] {
        bytes.extend([entry, 4]);
        bytes.extend(order.to_ne_bytes());
    }
    bytes
}

/// The key's type and its length in bytes: each part of a concatenation takes whole words. A slot is told as a mark, which nft(8) knows
/// the length of.
fn key_type(kind: MapKind) -> (u32, u32) {
    match kind {
        MapKind::Mark | MapKind::Address(_) => (TYPE_INET_PROTO << 6 | TYPE_INET_SERVICE, 8),
        MapKind::Ways => (TYPE_MARK, 4),
        MapKind::Slots(_) | MapKind::Hosts(_) | MapKind::Turns => (TYPE_MARK << 6 | TYPE_MARK, 8),
        MapKind::Clients(Family::V4) => (TYPE_MARK << 6 | TYPE_IPV4, 8),
        MapKind::Clients(Family::V6) => (TYPE_MARK << 6 | TYPE_IPV6, 20),
    }
}

/// The value's type, and its length: a verdict's is not said.
fn data_type(kind: MapKind) -> (u32, u32) {
    match kind {
        MapKind::Mark | MapKind::Turns | MapKind::Clients(_) => (TYPE_MARK, 4),
        MapKind::Address(Family::V4) | MapKind::Hosts(Family::V4) => (TYPE_IPV4, 4),
        MapKind::Address(Family::V6) | MapKind::Hosts(Family::V6) => (TYPE_IPV6, 16),
        MapKind::Slots(Family::V4) => (TYPE_IPV4 << 6 | TYPE_INET_SERVICE, 8),
        MapKind::Slots(Family::V6) => (TYPE_IPV6 << 6 | TYPE_INET_SERVICE, 20),
        MapKind::Ways => (TYPE_VERDICT, 0),
    }
}

fn flags(kind: MapKind, ranges: bool) -> u32 {
    let of_kind = if matches!(kind, MapKind::Clients(_)) { FLAG_TIMEOUT | FLAG_EVAL } else { 0 };
    let of_ranges = if ranges { FLAG_INTERVAL | FLAG_CONCAT } else { 0 };
    FLAG_MAP | of_kind | of_ranges
}

/// The attributes that make a map. `id` tells maps of one transaction apart.
pub fn write(body: &mut Writer, name: &str, map: &Map, id: u32) {
    let ((key_type, key_length), (data_type, data_length)) = (key_type(map.kind), data_type(map.kind));
    body.string(SET_TABLE, TABLE);
    body.string(SET_NAME, name);
    body.be32(SET_FLAGS, flags(map.kind, map.ranges));
    body.be32(SET_KEY_TYPE, key_type);
    body.be32(SET_KEY_LEN, key_length);
    body.be32(SET_DATA_TYPE, data_type);
    if data_length > 0 {
        body.be32(SET_DATA_LEN, data_length);
    }
    body.be32(SET_ID, id);
    if map.ranges {
        // One byte of protocol, two of port.
        write_parts(body, [1, 2]);
    }
    if matches!(map.kind, MapKind::Clients(_)) {
        body.nested(SET_DESC, |desc| desc.be32(DESC_SIZE, MOST_CLIENTS));
    }
    body.bytes(SET_USERDATA, &byte_orders(map.kind));
    if matches!(map.kind, MapKind::Slots(_) | MapKind::Hosts(_)) {
        // Each element counts how often it is found: once for each connection.
        body.nested(SET_EXPR, |expression| Expr::Counter.write_alone(expression));
    }
}

/// Ranges in a concatenation need to know the lengths of its parts.
pub(super) fn write_parts(body: &mut Writer, lengths: impl IntoIterator<Item = u32>) {
    body.nested(SET_DESC, |desc| {
        desc.nested(DESC_CONCAT, |concat| {
            for length in lengths {
                concat.nested(LIST_ELEM, |field| field.be32(FIELD_LEN, length));
            }
        });
    });
}

/// A map without its elements, and its name; `None` where it is not like any that we make.
pub fn read(body: &[u8]) -> Option<(String, Option<Map>)> {
    if find(body, SET_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let name = find(body, SET_NAME).and_then(string_of)?;
    let number = |kind| find(body, kind).and_then(be32_of).unwrap_or(0);
    let found = number(SET_FLAGS);
    // Of a verdict the kernel tells a length of its own.
    let data = (number(SET_DATA_TYPE), if number(SET_DATA_TYPE) == TYPE_VERDICT { 0 } else { number(SET_DATA_LEN) });
    let key = (number(SET_KEY_TYPE), number(SET_KEY_LEN));
    let kind = MapKind::ALL.into_iter().find(|kind| (key_type(*kind), data_type(*kind)) == (key, data));
    let ranges = found & FLAG_INTERVAL != 0;
    let ours = |kind: &MapKind| (found ^ flags(*kind, ranges)) & (FLAG_MAP | FLAG_TIMEOUT | FLAG_EVAL) == 0;
    let map = kind.filter(ours).map(|kind| Map { kind, ranges, elements: Default::default() });
    Some((name, map))
}

pub(super) fn key(protocol: Protocol, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// The ports from one key to another, of one protocol.
pub(super) fn read_range(first: &[u8], last: &[u8]) -> Option<PortRange> {
    let ((protocol, first), (same, last)) = (read_key(first)?, read_key(last)?);
    (protocol == same).then_some(PortRange { protocol, first, last })
}

fn read_key(bytes: &[u8]) -> Option<(Protocol, u16)> {
    let [protocol, _, _, _, high, low, ..] = *bytes else { return None };
    Some((Protocol::from_number(protocol)?, u16::from_be_bytes([high, low])))
}

fn value(value: &MapValue) -> Vec<u8> {
    match value {
        MapValue::Mark(mark) => mark.0.to_ne_bytes().to_vec(),
        MapValue::Address(address) => octets(*address),
    }
}

/// The attributes that add or remove elements.
pub fn write_elements(body: &mut Writer, name: &str, ranges: bool, elements: &[(PortRange, MapValue)]) {
    let data = |element: &mut Writer, kind, bytes: &[u8]| element.nested(kind, |inner| inner.bytes(DATA_VALUE, bytes));
    body.string(ELEMENTS_TABLE, TABLE);
    body.string(ELEMENTS_SET, name);
    body.nested(ELEMENTS, |list| {
        for (port, mapped) in elements {
            list.nested(LIST_ELEM, |element| {
                data(element, ELEM_KEY, &key(port.protocol, port.first));
                data(element, ELEM_DATA, &value(mapped));
                if ranges {
                    data(element, ELEM_KEY_END, &key(port.protocol, port.last));
                }
            });
        }
    });
}

/// Asks for the elements of a map.
pub fn write_elements_of(body: &mut Writer, name: &str) {
    body.string(ELEMENTS_TABLE, TABLE);
    body.string(ELEMENTS_SET, name);
}

/// The elements of one message; what is not like ours is left out, and so counts as missing.
pub fn read_elements(body: &[u8], kind: MapKind) -> Vec<(PortRange, MapValue)> {
    let list = find(body, ELEMENTS).unwrap_or_default();
    attributes(list).filter_map(|(_, element)| read_element(element, kind)).collect()
}

fn read_element(element: &[u8], kind: MapKind) -> Option<(PortRange, MapValue)> {
    let data = |attribute| find(element, attribute).and_then(|inner| find(inner, DATA_VALUE));
    let first = data(ELEM_KEY)?;
    let ports = read_range(first, data(ELEM_KEY_END).unwrap_or(first))?;
    let bytes = data(ELEM_DATA)?;
    let value = match kind {
        MapKind::Mark => MapValue::Mark(Mark(u32::from_ne_bytes(bytes.try_into().ok()?))),
        MapKind::Address(_) => MapValue::Address(ip_of(bytes)?),
        // Balances read theirs themselves.
        _ => return None,
    };
    Some((ports, value))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn elements_survive_the_way_through_netlink(
            ports in prop::collection::vec((prop::sample::select(Protocol::ALL.to_vec()), any::<u16>(), any::<u16>()), 0..20),
            ranges in any::<bool>(),
            to in prop_oneof![any::<u32>().prop_map(|mark| MapValue::Mark(Mark(mark))), any::<IpAddr>().prop_map(MapValue::Address)],
        ) {
            let kind = match to {
                MapValue::Mark(_) => MapKind::Mark,
                MapValue::Address(ip) => MapKind::Address(Family::of(&ip)),
            };
            let elements: Vec<_> = ports
                .into_iter()
                .map(|(protocol, first, last)| (PortRange { protocol, first, last: if ranges { last } else { first } }, to))
                .collect();
            let mut body = Writer::default();
            write_elements(&mut body, "published4", ranges, &elements);
            prop_assert_eq!(read_elements(&body.finish(), kind), elements);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read_elements(&bytes, MapKind::Mark);
            let _ = read_elements(&bytes, MapKind::Address(Family::V6));
        }
    }
}
