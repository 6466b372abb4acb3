//! Balances as nftables has them: elements of maps that all ports share, told apart by the port's mark.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::expr::{DATA_VALUE, DATA_VERDICT, Expr, VERDICT_CHAIN, VERDICT_CODE, VERDICT_GOTO};
use super::map::{
    ELEM_DATA, ELEM_EXPIRATION, ELEM_EXPR, ELEM_KEY, ELEM_KEY_END, ELEMENTS, ELEMENTS_SET, ELEMENTS_TABLE, LIST_ELEM,
};
use super::read::elements;
use super::{DELSETELEM, INET, NEWSETELEM, header, read, request};
use crate::kernel::attribute::{Writer, attributes, be16_of, be64_of, find, ip_of, octets, string_of};
use crate::kernel::replies::Readers;
use crate::kernel::socket::{Error, NLM_F_CREATE, Request, Socket};
use crate::objects::{
    Balance, DestinationKey, Family, IN_ORDER, LASTING, Mark, NO_LIMIT, Pick, TABLE, Table, VirtualKey, Way,
    backends_set, clients_map, full_set, room_set, slots_map, turns_map, ways_map,
};
use crate::plan::Step;

/// Elements of one message: an attribute holds no more than 64 KiB, and a slot of an IPv6 backend is 52 bytes.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// Whose time is over so soon is not worth the trouble, and goes while others are asked for.
const FADING: Duration = Duration::from_secs(5);

/// What an element maps to.
enum Data {
    None,
    Bytes(Vec<u8>),
    Goto(String),
    /// So many connections, of an element that is a range of one.
    Room(u32),
}

type Elements = BTreeMap<&'static str, Vec<(Vec<u8>, Data)>>;

pub(super) fn is_about(step: &Step) -> bool {
    matches!(step, Step::EditBalance { .. } | Step::DropBackend { .. })
}

/// The messages of some steps: what goes first, then what comes.
pub(super) fn requests(steps: &[&Step], out: &mut Vec<Request>) {
    let (mut gone, mut come) = (Elements::new(), Elements::new());
    let put = |elements: &mut Elements, name, element| elements.entry(name).or_default().push(element);
    for step in steps {
        match step {
            Step::EditBalance { key: VirtualKey { mark, family }, edit } => {
                for (slot, place) in &edit.remove {
                    put(&mut gone, slots_map(*family, place.port == 0), slot_element(*mark, *slot, place));
                }
                for (slot, place) in &edit.add {
                    put(&mut come, slots_map(*family, place.port == 0), slot_element(*mark, *slot, place));
                }
                for place in &edit.backends {
                    put(&mut come, backends_set(*family), (backend_key(*mark, place), Data::None));
                }
                // Of what goes its number is nothing to the kernel.
                let room = |(slot, most): &(u32, u32)| (slot_key(*mark, *slot), Data::Room(*most));
                edit.no_room.iter().for_each(|slot| put(&mut gone, room_set(*family), room(&(*slot, 0))));
                edit.room.iter().for_each(|of| put(&mut come, room_set(*family), room(of)));
                let turn = |turn: &(u32, u32)| (slot_key(*mark, turn.0), Data::Bytes(turn.1.to_ne_bytes().into()));
                edit.no_turns.iter().for_each(|of| put(&mut gone, turns_map(*family), turn(of)));
                edit.turns.iter().for_each(|of| put(&mut come, turns_map(*family), turn(of)));
                let (before, after) = edit.way.unwrap_or_default();
                let way = |way: Way| (mark_bytes(*mark).to_vec(), Data::Goto(way.chain()));
                before.into_iter().for_each(|before| put(&mut gone, ways_map(*family), way(before)));
                after.into_iter().for_each(|after| put(&mut come, ways_map(*family), way(after)));
            }
            Step::DropBackend { key: VirtualKey { mark, family }, backend } => {
                put(&mut gone, backends_set(*family), (backend_key(*mark, backend), Data::None));
            }
            _ => {}
        }
    }
    for (kind, flags, elements) in [(DELSETELEM, 0, gone), (NEWSETELEM, NLM_F_CREATE, come)] {
        for (name, elements) in elements {
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let mut body = header(INET);
                write_elements(&mut body, name, chunk);
                out.push(request(kind, flags, body));
            }
        }
    }
}

/// As the rules load it: a mark is in the host's byte order.
fn mark_bytes(mark: Mark) -> [u8; 4] {
    mark.0.to_ne_bytes()
}

fn place_bytes(place: &DestinationKey) -> Vec<u8> {
    let [high, low] = place.port.to_be_bytes();
    [&octets(place.address)[..], &[high, low, 0, 0]].concat()
}

fn slot_key(mark: Mark, slot: u32) -> Vec<u8> {
    [mark_bytes(mark), slot.to_ne_bytes()].concat()
}

fn slot_element(mark: Mark, slot: u32, place: &DestinationKey) -> (Vec<u8>, Data) {
    (slot_key(mark, slot), Data::Bytes(if place.port == 0 { octets(place.address) } else { place_bytes(place) }))
}

fn backend_key(mark: Mark, place: &DestinationKey) -> Vec<u8> {
    [&mark_bytes(mark)[..], &place_bytes(place)].concat()
}

fn write_elements(body: &mut Writer, name: &str, elements: &[(Vec<u8>, Data)]) {
    body.string(ELEMENTS_TABLE, TABLE);
    body.string(ELEMENTS_SET, name);
    body.nested(ELEMENTS, |list| {
        for (key, data) in elements {
            list.nested(LIST_ELEM, |element| {
                element.nested(ELEM_KEY, |inner| inner.bytes(DATA_VALUE, key));
                match data {
                    Data::None => {}
                    Data::Room(most) => {
                        element.nested(ELEM_KEY_END, |inner| inner.bytes(DATA_VALUE, key));
                        // What need not be counted costs nothing.
                        if *most != NO_LIMIT {
                            element
                                .nested(ELEM_EXPR, |limit| Expr::ConnectionLimit { count: *most }.write_alone(limit));
                        }
                    }
                    Data::Bytes(bytes) => element.nested(ELEM_DATA, |inner| inner.bytes(DATA_VALUE, bytes)),
                    Data::Goto(chain) => element.nested(ELEM_DATA, |inner| {
                        inner.nested(DATA_VERDICT, |verdict| {
                            verdict.be32(VERDICT_CODE, VERDICT_GOTO as u32);
                            verdict.string(VERDICT_CHAIN, chain);
                        });
                    }),
                }
            });
        }
    });
}

/// None where there is no such map or set: not every table has those that only some ports need.
fn elements_if_there<T>(socket: &mut Socket, name: &str, read: impl Fn(&[u8]) -> Vec<T>) -> Result<Vec<T>, Error> {
    match elements(socket, name, read) {
        Err(error) if error.is(Errno::ENOENT) => Ok(Vec::new()),
        found => found,
    }
}

/// The balances of a table; what is not like ours is left out, and so counts as missing.
pub(super) fn read(socket: &mut Socket, table: &Table) -> Result<BTreeMap<VirtualKey, Balance>, Error> {
    let mut balances: BTreeMap<VirtualKey, Balance> = BTreeMap::new();
    for family in Family::ALL {
        let key = |mark| VirtualKey { mark, family };
        if table.maps.contains_key(ways_map(family)) {
            for (mark, way) in elements(socket, ways_map(family), read_ways)? {
                balances.entry(key(mark)).or_default().way = Some(way);
            }
        }
        for keeps_port in [false, true] {
            let map = slots_map(family, keeps_port);
            if table.maps.contains_key(map) {
                for (mark, slot, place) in elements(socket, map, read_slots)? {
                    balances.entry(key(mark)).or_default().slots.insert(slot, place);
                }
            }
        }
        if table.maps.contains_key(turns_map(family)) {
            for (mark, turn, slot) in elements(socket, turns_map(family), read_turns)? {
                balances.entry(key(mark)).or_default().turns.insert(turn, slot);
            }
        }
        if table.sets.contains_key(room_set(family)) {
            for (mark, slot, most) in elements(socket, room_set(family), read_room)? {
                balances.entry(key(mark)).or_default().room.insert(slot, most);
            }
        }
        if table.sets.contains_key(backends_set(family)) {
            for (mark, place) in elements(socket, backends_set(family), read_backends)? {
                balances.entry(key(mark)).or_default().backends.insert(place);
            }
        }
    }
    Ok(balances)
}

/// Has the kernel forget clients of slots that take no more: until their time is over each of their connections would be led anew.
/// Whether none is left, as far as can be told; it takes no longer than `most`.
pub(super) fn forget_strays(socket: &mut Socket, most: Duration) -> Result<bool, Error> {
    let until = Instant::now() + most;
    for family in Family::ALL {
        let turns = match elements(socket, turns_map(family), read_turns) {
            // Nobody is remembered.
            Err(error) if error.is(Errno::ENOENT) => continue,
            turns => turns?,
        };
        let taking: BTreeSet<(Mark, u32)> =
            turns.into_iter().filter(|(_, turn, slot)| turn == slot).map(|(mark, _, slot)| (mark, slot)).collect();
        let clients = elements_if_there(socket, clients_map(family), read_clients)?;
        let strays = clients.into_iter().filter(|client| !taking.contains(&(client.mark, client.slot)));
        let keys: Vec<(Vec<u8>, Data)> =
            strays.filter(|client| client.left > FADING).map(|client| (client.key, Data::None)).collect();
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let mut body = header(INET);
            write_elements(&mut body, clients_map(family), chunk);
            match super::transact(socket, &[request(DELSETELEM, 0, body)]).map_err(super::first_of) {
                Ok(()) if Instant::now() < until => {}
                Ok(()) => return Ok(false),
                // One of them went by itself, and kept the others.
                Err(error) if error.is(Errno::ENOENT) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(true)
}

/// How many connections came to each backend by the slots that it has.
pub(super) fn counted(socket: &mut Socket) -> Result<BTreeMap<VirtualKey, BTreeMap<DestinationKey, Slotted>>, Error> {
    let mut counted: BTreeMap<VirtualKey, BTreeMap<DestinationKey, Slotted>> = BTreeMap::new();
    for family in Family::ALL {
        let mut turns: BTreeMap<(Mark, u32), u32> = BTreeMap::new();
        let found = elements_if_there(socket, turns_map(family), read_turns)?;
        for (mark, _, slot) in found.into_iter().filter(|(_, turn, _)| *turn < IN_ORDER) {
            *turns.entry((mark, slot)).or_default() += 1;
        }
        for keeps_port in [false, true] {
            for ((mark, slot, place), connections) in elements(socket, slots_map(family, keeps_port), read_counted)? {
                let of = counted.entry(VirtualKey { mark, family }).or_default().entry(place).or_default();
                // Who is full has no turns, and takes clients again.
                of.slots += if slot & LASTING == 0 { 1 } else { turns.get(&(mark, slot)).copied().unwrap_or(1) };
                of.connections = of.connections.saturating_add(connections);
            }
        }
        for (mark, place) in elements(socket, backends_set(family), read_backends)? {
            counted.entry(VirtualKey { mark, family }).or_default().entry(place).or_default();
        }
    }
    Ok(counted)
}

/// What a backend has of its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slotted {
    pub slots: u32,
    /// Since each of the slots is its.
    pub connections: u64,
}

/// A way that is none of ours: it has no slots.
const ASTRAY: Way =
    Way { family: Family::V4, pick: Pick::Source, slots: 0, keeps_port: false, persistence: None, tries: 0 };

/// Keys, with what they map to, and what else is said of them.
fn listed(body: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &[u8])> {
    let list = find(body, ELEMENTS).unwrap_or_default();
    attributes(list).filter_map(|(_, element)| {
        let key = find(element, ELEM_KEY).and_then(|inner| find(inner, DATA_VALUE))?;
        Some((key, find(element, ELEM_DATA), element))
    })
}

fn read_ways(body: &[u8]) -> Vec<(Mark, Way)> {
    let way = |data| {
        let verdict = find(data, DATA_VERDICT)?;
        Way::of_chain(&find(verdict, VERDICT_CHAIN).and_then(string_of)?)
    };
    // What leads elsewhere is another way than any that is wanted.
    listed(body).filter_map(|(key, data, _)| Some((read_mark(key)?.0, way(data?).unwrap_or(ASTRAY)))).collect()
}

/// Mark, number and backend of a slot.
type Slot = (Mark, u32, DestinationKey);

fn read_slots(body: &[u8]) -> Vec<Slot> {
    listed(body).filter_map(|(key, data, _)| read_slot(key, data?)).collect()
}

/// With the connections that came by them.
fn read_counted(body: &[u8]) -> Vec<(Slot, u64)> {
    let connections = |element| find(element, ELEM_EXPR).and_then(Expr::packets_of).unwrap_or(0);
    listed(body).filter_map(|(key, data, element)| Some((read_slot(key, data?)?, connections(element)))).collect()
}

fn read_slot(key: &[u8], data: &[u8]) -> Option<Slot> {
    let (mark, slot) = read_mark(key)?;
    let (slot, bytes) = (u32::from_ne_bytes(slot.try_into().ok()?), find(data, DATA_VALUE)?);
    let place = match ip_of(bytes) {
        Some(address) => DestinationKey { address, port: 0 },
        None => read_place(bytes)?,
    };
    Some((mark, slot, place))
}

fn read_backends(body: &[u8]) -> Vec<(Mark, DestinationKey)> {
    let backend = |key| {
        let (mark, place) = read_mark(key)?;
        Some((mark, read_place(place)?))
    };
    listed(body).filter_map(|(key, ..)| backend(key)).collect()
}

/// The slot that each turn of a mark leads to.
fn read_turns(body: &[u8]) -> Vec<(Mark, u32, u32)> {
    let turn = |key, data| {
        let (mark, turn) = read_mark(key)?;
        Some((mark, u32::from_ne_bytes(turn.try_into().ok()?), read_number(data)?))
    };
    listed(body).filter_map(|(key, data, _)| turn(key, data?)).collect()
}

/// How many connections each slot of a mark may get. (What has no limit lets in all.)
fn read_room(body: &[u8]) -> Vec<(Mark, u32, u32)> {
    let room = |key, element| {
        let (mark, slot) = read_mark(key)?;
        let most = find(element, ELEM_EXPR).and_then(Expr::limit_of).unwrap_or(NO_LIMIT);
        Some((mark, u32::from_ne_bytes(slot.try_into().ok()?), most))
    };
    listed(body).filter_map(|(key, _, element)| room(key, element)).collect()
}

/// Slots that had no room for someone, since this was asked last.
pub(super) fn full(socket: &mut Socket) -> Result<BTreeSet<(VirtualKey, u32)>, Error> {
    let mut full = BTreeSet::new();
    for family in Family::ALL {
        let found = elements_if_there(socket, full_set(family), read_room)?;
        for chunk in found.chunks(ELEMENTS_PER_MESSAGE) {
            let keys: Vec<_> = chunk.iter().map(|(mark, slot, _)| (slot_key(*mark, *slot), Data::None)).collect();
            let mut body = header(INET);
            write_elements(&mut body, full_set(family), &keys);
            match super::transact(socket, &[request(DELSETELEM, 0, body)]).map_err(super::first_of) {
                // One of them went by itself, and kept the others: they are told of once more.
                Err(error) if error.is(Errno::ENOENT) => {}
                outcome => outcome?,
            }
        }
        full.extend(found.into_iter().map(|(mark, slot, _)| (VirtualKey { mark, family }, slot)));
    }
    Ok(full)
}

/// How many connections slots may get, as the kernel has it.
pub(super) fn rooms(socket: &mut Socket) -> Result<BTreeMap<(VirtualKey, u32), u32>, Error> {
    let mut rooms = BTreeMap::new();
    for family in Family::ALL {
        let found = elements_if_there(socket, room_set(family), read_room)?;
        rooms.extend(found.into_iter().map(|(mark, slot, most)| ((VirtualKey { mark, family }, slot), most)));
    }
    Ok(rooms)
}

/// A client that is remembered.
struct Client {
    mark: Mark,
    slot: u32,
    key: Vec<u8>,
    /// Until it is not.
    left: Duration,
}

fn read_clients(body: &[u8]) -> Vec<Client> {
    let client = |key: &[u8], data, element| {
        let left = find(element, ELEM_EXPIRATION).and_then(be64_of).unwrap_or(0);
        Some(Client {
            mark: read_mark(key)?.0,
            slot: read_number(data)?,
            key: key.to_vec(),
            left: Duration::from_millis(left),
        })
    };
    listed(body).filter_map(|(key, data, element)| client(key, data?, element)).collect()
}

fn read_number(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(find(data, DATA_VALUE)?.try_into().ok()?))
}

/// The mark that a key begins with, and what follows.
fn read_mark(key: &[u8]) -> Option<(Mark, &[u8])> {
    let (mark, rest) = key.split_first_chunk()?;
    Some((Mark(u32::from_ne_bytes(*mark)), rest))
}

fn read_place(bytes: &[u8]) -> Option<DestinationKey> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let address: IpAddr = ip_of(address)?;
    Some(DestinationKey { address, port: be16_of(port.get(..2)?)? })
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[
    |message| drop(read_ways(read::body(message))),
    |message| drop(read_counted(read::body(message))),
    |message| drop(read_backends(read::body(message))),
    |message| drop(read_turns(read::body(message))),
    |message| drop(read_clients(read::body(message))),
    |message| drop(read_room(read::body(message))),
];

/// Backends of ports, each with what is to be deleted of it.
pub(super) fn dropped(steps: &[&Step]) -> BTreeSet<(Mark, DestinationKey)> {
    let of = |step: &&Step| match step {
        Step::DropBackend { key, backend } => Some((key.mark, *backend)),
        _ => None,
    };
    steps.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::BalanceEdit;

    fn bodies(step: &Step) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        requests(&[step], &mut out);
        out.into_iter().map(|request| request.body).collect()
    }

    proptest! {
        #[test]
        fn a_balance_survives_the_way_through_netlink(
            mark in any::<u32>().prop_map(Mark),
            places in prop::collection::vec((any::<IpAddr>(), any::<u16>()), 1..5),
        ) {
            for (address, port) in places {
                let family = Family::of(&address);
                let place = DestinationKey { address, port };
                let way = Way { family, pick: Pick::Turn(7), slots: 3, keeps_port: port == 0, persistence: None, tries: 0 };
                let edit = BalanceEdit {
                    backends: vec![place],
                    add: vec![(2, place)],
                    way: Some((None, Some(way))),
                    ..BalanceEdit::default()
                };
                let bodies = bodies(&Step::EditBalance { key: VirtualKey { mark, family }, edit });
                let attributes = |index: usize| bodies[index][4..].to_vec();
                // In the order of their names.
                prop_assert_eq!(read_backends(&attributes(0)), [(mark, place)]);
                prop_assert_eq!(read_slots(&attributes(1)), [(mark, 2, place)]);
                prop_assert_eq!(read_ways(&attributes(2)), [(mark, way)]);
            }
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            READERS.iter().for_each(|read| read(&bytes));
        }
    }
}
