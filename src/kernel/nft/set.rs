//! Sets, as netlink carries them: maps without values. All but sets of addresses hold ranges, of networks and of ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::expr::DATA_VALUE;
use super::map::{
    self, DESC_SIZE, ELEM_KEY, ELEM_KEY_END, ELEMENTS, ELEMENTS_SET, ELEMENTS_TABLE, FLAG_CONCAT, FLAG_EVAL,
    FLAG_INTERVAL, FLAG_MAP, FLAG_TIMEOUT, LIST_ELEM, SET_DESC, SET_FLAGS, SET_ID, SET_KEY_LEN, SET_KEY_TYPE,
    SET_USERDATA, TYPE_INET_PROTO, TYPE_INET_SERVICE, TYPE_IPV4, TYPE_IPV6, TYPE_MARK, read_range, write_parts,
};
use super::rule::{interface, interface_name};
use super::{SET_NAME, SET_TABLE};
use crate::kernel::attribute::{Writer, attributes, be32_of, find, ip_of, octets, string_of};
use crate::objects::{Family, Mark, Network, PortRange, Set, SetElement, SetKind, TABLE};

/// Elements of one message: an attribute holds no more than 64 KiB, and the ends of an IPv6 network with ports are 72 bytes.
pub const ELEMENTS_PER_MESSAGE: usize = 500;

/// A part of a key: nft(8)'s own number for its type, which the kernel only keeps, and its length.
type Part = (u32, usize);
const IPV4: Part = (TYPE_IPV4, 4);
const IPV6: Part = (TYPE_IPV6, 16);
const PROTOCOL: Part = (TYPE_INET_PROTO, 1);
const SERVICE: Part = (TYPE_INET_SERVICE, 2);
const IFNAME: Part = (41, 16);

const MARK: Part = (TYPE_MARK, 4);

/// Slots that had no room, at the most: no more than have caps.
const MOST_FULL: u32 = 1 << 16;

const KINDS: [SetKind; 11] = [
    SetKind::Addresses(Family::V4),
    SetKind::Addresses(Family::V6),
    SetKind::Ports,
    SetKind::Networks(Family::V4),
    SetKind::Networks(Family::V6),
    SetKind::Links,
    SetKind::Marks,
    SetKind::Backends(Family::V4),
    SetKind::Backends(Family::V6),
    SetKind::Room,
    SetKind::Full,
];

fn parts(kind: SetKind) -> Vec<Part> {
    let address = |family| if family == Family::V4 { IPV4 } else { IPV6 };
    match kind {
        SetKind::Addresses(family) => vec![address(family)],
        SetKind::Ports => vec![PROTOCOL, SERVICE],
        SetKind::Networks(family) => vec![address(family), PROTOCOL, SERVICE],
        SetKind::Links => vec![IFNAME, PROTOCOL, SERVICE],
        SetKind::Marks => vec![MARK],
        SetKind::Room | SetKind::Full => vec![MARK, MARK],
        SetKind::Backends(family) => vec![MARK, address(family), SERVICE],
    }
}

/// Six bits for the type of each part; each takes whole words of the key.
fn key(kind: SetKind) -> (u32, u32) {
    let parts = parts(kind);
    let types = parts.iter().fold(0, |types, (number, _)| types << 6 | number);
    (types, parts.iter().map(|(_, length)| length.next_multiple_of(4) as u32).sum())
}

fn flags(kind: SetKind) -> u32 {
    match kind {
        SetKind::Addresses(_) | SetKind::Marks | SetKind::Backends(_) => 0,
        SetKind::Ports | SetKind::Networks(_) | SetKind::Links => FLAG_INTERVAL | FLAG_CONCAT,
        // Each of its elements is a range of one: in a hash table those that count no connection just now would go (nft_rhash_gc).
        SetKind::Room => FLAG_INTERVAL | FLAG_CONCAT,
        SetKind::Full => FLAG_TIMEOUT | FLAG_EVAL,
    }
}

/// The attributes that make a set, empty. `id` tells sets and maps of one transaction apart.
pub fn write(body: &mut Writer, name: &str, kind: SetKind, id: u32) {
    let (types, length) = key(kind);
    body.string(SET_TABLE, TABLE);
    body.string(SET_NAME, name);
    body.be32(SET_FLAGS, flags(kind));
    body.be32(SET_KEY_TYPE, types);
    body.be32(SET_KEY_LEN, length);
    body.be32(SET_ID, id);
    if flags(kind) & FLAG_CONCAT != 0 {
        write_parts(body, parts(kind).into_iter().map(|(_, length)| length as u32));
    }
    // Tells nft(8) the key's byte order, see `map`.
    let order: u32 = if kind == SetKind::Marks || kind.is_of_balances() { 1 } else { 2 };
    if kind == SetKind::Full {
        body.nested(SET_DESC, |desc| desc.be32(DESC_SIZE, MOST_FULL));
    }
    body.bytes(SET_USERDATA, &[&[0, 4][..], &order.to_ne_bytes()].concat());
}

/// A set of ours without its elements, and its name; `None`: a map, or another's.
pub fn read(body: &[u8]) -> Option<(String, Set)> {
    if find(body, SET_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let number = |kind| find(body, kind).and_then(be32_of).unwrap_or(0);
    if number(SET_FLAGS) & FLAG_MAP != 0 {
        return None;
    }
    let same =
        |kind: &SetKind| (key(*kind), flags(*kind)) == ((number(SET_KEY_TYPE), number(SET_KEY_LEN)), number(SET_FLAGS));
    let kind = KINDS.into_iter().find(same)?;
    Some((find(body, SET_NAME).and_then(string_of)?, Set { kind, elements: BTreeSet::new() }))
}

/// The first and the last key of an element.
fn ends(element: &SetElement) -> (Vec<u8>, Vec<u8>) {
    let both = |first: Vec<u8>, last: Vec<u8>, range: &PortRange| {
        let end = |at: &[u8], port| [at, &map::key(range.protocol, port)].concat();
        (end(&first, range.first), end(&last, range.last))
    };
    match element {
        SetElement::Address(address) => (octets(*address), octets(*address)),
        SetElement::Ports(range) => both(Vec::new(), Vec::new(), range),
        SetElement::Network(network, range) => both(octets(network.0.network()), octets(network.0.broadcast()), range),
        SetElement::Link(name, range) => both(interface(name), interface(name), range),
        SetElement::Mark(mark) => (mark.0.to_ne_bytes().into(), mark.0.to_ne_bytes().into()),
    }
}

/// The attributes that add or remove elements.
pub fn write_elements(body: &mut Writer, name: &str, elements: &[SetElement]) {
    let data = |element: &mut Writer, kind, bytes: &[u8]| element.nested(kind, |inner| inner.bytes(DATA_VALUE, bytes));
    body.string(ELEMENTS_TABLE, TABLE);
    body.string(ELEMENTS_SET, name);
    body.nested(ELEMENTS, |list| {
        for element in elements {
            let (first, last) = ends(element);
            list.nested(LIST_ELEM, |inner| {
                data(inner, ELEM_KEY, &first);
                if !matches!(element, SetElement::Address(_) | SetElement::Mark(_)) {
                    data(inner, ELEM_KEY_END, &last);
                }
            });
        }
    });
}

/// The elements of one message; what is not like ours is left out, and so counts as missing.
pub fn read_elements(body: &[u8], kind: SetKind) -> Vec<SetElement> {
    let list = find(body, ELEMENTS).unwrap_or_default();
    attributes(list).filter_map(|(_, element)| read_element(element, kind)).collect()
}

fn read_element(element: &[u8], kind: SetKind) -> Option<SetElement> {
    let data = |attribute| find(element, attribute).and_then(|inner| find(inner, DATA_VALUE));
    let first = data(ELEM_KEY)?;
    if kind == SetKind::Marks {
        return Some(SetElement::Mark(Mark(u32::from_ne_bytes(first.try_into().ok()?))));
    }
    let last = data(ELEM_KEY_END).unwrap_or(first);
    let SetKind::Addresses(_) = kind else {
        let head = first.len().checked_sub(8)?;
        let ((at, from), (end, to)) = (first.split_at_checked(head)?, last.split_at_checked(head)?);
        let ports = read_range(from, to)?;
        return match kind {
            SetKind::Ports => Some(SetElement::Ports(ports)),
            SetKind::Networks(_) => Some(SetElement::Network(Network(network(ip_of(at)?, ip_of(end)?)?), ports)),
            _ => Some(SetElement::Link(interface_name(at)?, ports)),
        };
    };
    Some(SetElement::Address(ip_of(first)?))
}

/// The network from one address to another, if they are its ends.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNetwork> {
    let differing = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => 32 - (u32::from(first) ^ u32::from(last)).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => 128 - (u128::from(first) ^ u128::from(last)).leading_zeros(),
        _ => return None,
    };
    let bits: u32 = if first.is_ipv4() { 32 } else { 128 };
    let network = IpNetwork::new(first, u8::try_from(bits - differing).ok()?).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objects::Protocol;

    fn ports() -> impl Strategy<Value = PortRange> {
        (prop::sample::select(Protocol::ALL.to_vec()), any::<u16>(), any::<u16>())
            .prop_map(|(protocol, one, other)| PortRange { protocol, first: one.min(other), last: one.max(other) })
    }

    fn network() -> impl Strategy<Value = Network> {
        (any::<IpAddr>(), 0u8..=128).prop_map(|(address, prefix)| {
            let prefix = if address.is_ipv4() { prefix.min(32) } else { prefix };
            let network = IpNetwork::new(address, prefix).unwrap();
            Network(IpNetwork::new(network.network(), prefix).unwrap())
        })
    }

    fn element() -> impl Strategy<Value = SetElement> {
        prop_oneof![
            any::<IpAddr>().prop_map(SetElement::Address),
            ports().prop_map(SetElement::Ports),
            (network(), ports()).prop_map(|(network, ports)| SetElement::Network(network, ports)),
            ("[a-z0-9]{1,15}", ports()).prop_map(|(name, ports)| SetElement::Link(name, ports)),
            any::<u32>().prop_map(|mark| SetElement::Mark(Mark(mark))),
        ]
    }

    proptest! {
        #[test]
        fn elements_survive_the_way_through_netlink(element in element()) {
            let kind = KINDS.into_iter().find(|kind| element.fits(*kind)).unwrap();
            let mut body = Writer::default();
            write_elements(&mut body, "some", std::slice::from_ref(&element));
            prop_assert_eq!(read_elements(&body.finish(), kind), [element]);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            KINDS.into_iter().for_each(|kind| drop(read_elements(&bytes, kind)));
        }
    }
}
