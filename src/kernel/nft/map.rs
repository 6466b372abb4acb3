//! Maps and their elements, as netlink carries them.

use std::net::IpAddr;

use super::expr::DATA_VALUE;
use super::rule::address;
use crate::kernel::attribute::{Writer, attributes, be32_of, find, string_of};
use crate::objects::{Family, Map, MapKind, MapValue, Mark, PortRange, Protocol, TABLE};

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESC: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const DESC_CONCAT: u16 = 2;
const FIELD_LEN: u16 = 1;
const LIST_ELEM: u16 = 1;

const FLAG_INTERVAL: u32 = 0x4;
const FLAG_MAP: u32 = 0x8;
const FLAG_CONCAT: u32 = 0x80;

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_KEY_END: u16 = 10;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;

/// nft(8)'s own numbers for types; the kernel only keeps them. Six bits each in a concatenation.
const TYPE_INET_PROTO: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const KEY_TYPE: u32 = TYPE_INET_PROTO << 6 | TYPE_INET_SERVICE;
/// Bytes. Each part of a concatenated key takes whole words.
const KEY_LENGTH: u32 = 8;

/// Elements of one message: an attribute holds no more than 64 KiB.
pub const ELEMENTS_PER_MESSAGE: usize = 1000;

/// Tells nft(8) how to print: without it marks come out byte-swapped. Entries are type, length, value;
/// 0 is the key's byte order, 1 the data's; 1 is the host's, 2 the network's.
pub(super) fn byte_orders(kind: MapKind) -> Vec<u8> {
    let data: u32 = match kind {
        MapKind::Mark => 1,
        MapKind::Address(_) => 2,
    };
    let mut bytes = Vec::new();
    for (entry, order) in [(0u8, 2u32), (1, data)] {
        bytes.extend([entry, 4]);
        bytes.extend(order.to_ne_bytes());
    }
    bytes
}

fn data_type(kind: MapKind) -> (u32, u32) {
    match kind {
        MapKind::Mark => (TYPE_MARK, 4),
        MapKind::Address(Family::V4) => (TYPE_IPV4, 4),
        MapKind::Address(Family::V6) => (TYPE_IPV6, 16),
    }
}

/// The attributes that make a map. `id` tells maps of one transaction apart.
pub fn write(body: &mut Writer, name: &str, map: &Map, id: u32) {
    let (data_type, data_length) = data_type(map.kind);
    body.string(SET_TABLE, TABLE);
    body.string(SET_NAME, name);
    body.be32(SET_FLAGS, if map.ranges { FLAG_MAP | FLAG_INTERVAL | FLAG_CONCAT } else { FLAG_MAP });
    body.be32(SET_KEY_TYPE, KEY_TYPE);
    body.be32(SET_KEY_LEN, KEY_LENGTH);
    body.be32(SET_DATA_TYPE, data_type);
    body.be32(SET_DATA_LEN, data_length);
    body.be32(SET_ID, id);
    if map.ranges {
        // Ranges in a concatenation need to know its parts: one byte of protocol, two of port.
        body.nested(SET_DESC, |desc| {
            desc.nested(DESC_CONCAT, |concat| {
                for length in [1, 2] {
                    concat.nested(LIST_ELEM, |field| field.be32(FIELD_LEN, length));
                }
            });
        });
    }
    body.bytes(SET_USERDATA, &byte_orders(map.kind));
}

/// A map without its elements, and its name; `None` where it is not like any that we make.
pub fn read(body: &[u8]) -> Option<(String, Option<Map>)> {
    if find(body, SET_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let name = find(body, SET_NAME).and_then(string_of)?;
    let number = |kind| find(body, kind).and_then(be32_of).unwrap_or(0);
    let flags = number(SET_FLAGS);
    let kind = [MapKind::Mark, MapKind::Address(Family::V4), MapKind::Address(Family::V6)]
        .into_iter()
        .find(|kind| data_type(*kind) == (number(SET_DATA_TYPE), number(SET_DATA_LEN)));
    let ranges = flags & FLAG_INTERVAL != 0;
    let ours = number(SET_KEY_TYPE) == KEY_TYPE && flags & FLAG_MAP != 0;
    let map = kind.filter(|_| ours).map(|kind| Map { kind, ranges, elements: Default::default() });
    Some((name, map))
}

fn key(protocol: Protocol, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn read_key(bytes: &[u8]) -> Option<(Protocol, u16)> {
    let [protocol, _, _, _, high, low, ..] = *bytes else { return None };
    Some((Protocol::from_number(protocol)?, u16::from_be_bytes([high, low])))
}

fn value(value: &MapValue) -> Vec<u8> {
    match value {
        MapValue::Mark(mark) => mark.0.to_ne_bytes().to_vec(),
        MapValue::Address(IpAddr::V4(v4)) => v4.octets().to_vec(),
        MapValue::Address(IpAddr::V6(v6)) => v6.octets().to_vec(),
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
    let (protocol, first) = read_key(data(ELEM_KEY)?)?;
    let last = match data(ELEM_KEY_END) {
        Some(end) => read_key(end).filter(|(same, _)| *same == protocol)?.1,
        None => first,
    };
    let bytes = data(ELEM_DATA)?;
    let value = match kind {
        MapKind::Mark => MapValue::Mark(Mark(u32::from_ne_bytes(bytes.try_into().ok()?))),
        MapKind::Address(_) => MapValue::Address(address(bytes)?),
    };
    Some((PortRange { protocol, first, last }, value))
}

#[cfg(test)]
mod tests {
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
