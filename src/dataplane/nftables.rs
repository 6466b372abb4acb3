//! Balancing by nftables: a slot for each share of a port's clients, in maps that all ports share. No chain and no rule of a port's
//! own: what chooses a slot is a chain for all that choose alike.
//!
//! The first packet of a connection is looked up thrice: its port's mark, its mark's chain, its slot's backend. Connection tracking
//! remembers the rest, the SNAT behind it too; and once both sides have answered, the flow table has it pass the sandbox by one look-up.
//! So here, other than behind IPVS, a backend's connections do not end with its place in a map: the plan sees to that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::mesh::{Backend, Mesh, Port};
use crate::objects::{
    Action, Balance, Chain, ChainKind, DestinationKey, FLOWS, Family, Hook, IN_ORDER, Key, MOST_TRIES, Map, MapKind,
    Match, NO_LIMIT, Objects, Persistence, Pick, Rule, Scheduler, Set, SetElement, SetKind, Surroundings, Table,
    VirtualKey, Way, backends_set, clients_map, full_set, room_set, slots_map, turns_map, ways_map,
};

use super::flows::LAST;
use super::sandbox::{marks, named, preserves};
use super::topology::{GATEWAY_LEG, OVERLAY_LEG};
use super::{serving, slots};

/// The kernel's NF_IP_PRI_NAT_DST.
const DSTNAT: i32 = -100;
/// Ports whose number leaves the same rest share a counter, so two that are asked in turn do most likely not. A prime: ports that belong
/// together, 80 and 8080, 443 and 8443, are often apart by thousands.
const COUNTERS: u32 = 61;

/// Marks of ports whose clients keep their address.
pub const KEPT: &str = "kept";

/// What is made; and whose source stays as it is, where any port has that.
pub(super) fn lower(
    mesh: &Mesh,
    surroundings: &Surroundings,
    table: &mut Table,
    objects: &mut Objects,
) -> Option<Rule> {
    table.maps.extend(named([("marks", marks(mesh, false, |_| true)), ("ranges", marks(mesh, true, |_| true))]));
    let map = |kind| Map { kind, ranges: false, elements: BTreeMap::new() };
    for family in Family::ALL {
        table.maps.extend(named([
            (ways_map(family), map(MapKind::Ways)),
            (slots_map(family, false), map(MapKind::Slots(family))),
            (slots_map(family, true), map(MapKind::Hosts(family))),
        ]));
        let set = Set { kind: SetKind::Backends(family), elements: BTreeSet::new() };
        table.sets.insert(backends_set(family).to_owned(), set);
    }
    table.chains.insert("balance".to_owned(), choose());
    let kept: BTreeSet<SetElement> =
        mesh.ports().filter(|port| preserves(port)).map(|port| SetElement::Mark(port.mark())).collect();
    let keeps = !kept.is_empty();
    if keeps {
        table.sets.insert(KEPT.to_owned(), Set { kind: SetKind::Marks, elements: kept });
    }
    for family in Family::ALL {
        let capped = mesh.ports().any(is_capped);
        if capped || mesh.ports().any(|port| port.scheduling.persistence > 0) {
            table.maps.insert(turns_map(family).to_owned(), map(MapKind::Turns));
        }
        if mesh.ports().any(|port| port.scheduling.persistence > 0) {
            table.maps.insert(clients_map(family).to_owned(), map(MapKind::Clients(family)));
        }
        if capped {
            let set = |kind| Set { kind, elements: BTreeSet::new() };
            table.sets.insert(room_set(family).to_owned(), set(SetKind::Room));
            table.sets.insert(full_set(family).to_owned(), set(SetKind::Full));
        }
        for port in mesh.ports() {
            let balance = balance(mesh, port, family);
            if let Some(way) = balance.way {
                table.chains.entry(way.chain()).or_insert_with(|| Chain::of_way(way));
            }
            if !balance.backends.is_empty() {
                objects.balances.insert(VirtualKey { mark: port.mark(), family }, balance);
            }
        }
    }
    // Where the kernel has no flow tables no links are known.
    if mesh.gateway.flow_table && !surroundings.uplinks.is_empty() {
        // IPVS's own, which may be there still, would be led astray.
        let rule = Rule::new([Match::Established, Match::Translated], Action::Offload);
        table.chains.insert(FLOWS.to_owned(), Chain::base(ChainKind::Filter, Hook::Forward, LAST, vec![rule]));
        table.flows = Some([GATEWAY_LEG, OVERLAY_LEG].map(str::to_owned).into());
    }
    let theirs = Match::Among { key: Key::Mark, set: KEPT.to_owned() };
    keeps.then(|| Rule::new([theirs], Action::Accept))
}

/// Connection tracking remembers connections as long as IPVS would.
pub(super) fn sysctls(mesh: &Mesh) -> Vec<(&'static str, String)> {
    let timeouts = mesh.timeouts;
    [
        ("net/netfilter/nf_conntrack_tcp_timeout_established", timeouts.tcp),
        ("net/netfilter/nf_conntrack_tcp_timeout_fin_wait", timeouts.tcp_fin),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", timeouts.udp),
    ]
    .map(|(name, seconds)| (name, seconds.to_string()))
    .into()
}

/// It has a name of its own, so that it can be there beside IPVS's: who it does not know goes on to that. A chain of type nat sees the first packet of a connection alone.
fn choose() -> Chain {
    let not_in = Rule::new([Match::InterfaceIn(OVERLAY_LEG.to_owned())], Action::Accept);
    // While a single port and a range that has it change places, both are there: the port says more.
    let learn = ["ranges", "marks"].map(|map| Rule::new([], Action::LearnMark { map: map.to_owned() }));
    // By its mark a connection is known later: whose it is, and that it is ours.
    let remember = Rule::new([Match::Marked], Action::MarkConnection);
    let go = Family::ALL.map(|family| Rule::new([Match::Family(family)], Action::GoByMark(family)));
    let rules = std::iter::once(not_in).chain(learn).chain([remember]).chain(go).collect();
    Chain::base(ChainKind::Nat, Hook::Prerouting, DSTNAT, rules)
}

/// Whether any of a port's backends has a cap.
fn is_capped(port: &Port) -> bool {
    port.backends.iter().any(|backend| backend.thresholds.upper > 0)
}

/// The slots of a port that have room for no more than that, and whose they are.
pub fn rooms(mesh: &Mesh, port: &Port) -> BTreeMap<IpAddr, (VirtualKey, u32)> {
    let mut rooms = BTreeMap::new();
    for family in Family::ALL.into_iter().filter(|_| is_capped(port)) {
        let key = VirtualKey { mark: port.mark(), family };
        let slots = balance(mesh, port, family).slots;
        rooms.extend(slots.into_iter().map(|(slot, place)| (place.address, (key, slot))));
    }
    rooms
}

fn balance(mesh: &Mesh, port: &Port, family: Family) -> Balance {
    let place = |backend: &Backend| DestinationKey { address: backend.address, port: port.target.unwrap_or(0) };
    let serving: Vec<(&Backend, u32)> = serving(mesh, port, family).collect();
    let backends = serving.iter().map(|(backend, _)| place(backend)).collect();
    let taking = || serving.iter().filter(|(_, weight)| *weight > 0);
    let capped = is_capped(port);
    let known_full = |backend: &Backend| !mesh.full.is_empty() && mesh.full.contains(&(port.mark(), backend.address));
    // Where all are, it is their room that keeps clients away: who has been there before may come again.
    let all_full = taking().all(|(backend, _)| known_full(backend));
    let shares = taking().filter(|(backend, _)| all_full || !known_full(backend));
    let mut shares: Vec<(DestinationKey, u32)> = shares.map(|(backend, weight)| (place(backend), *weight)).collect();
    // Every node has the same slots, in whatever order its configuration names them.
    shares.sort_unstable();
    let scheduling = &port.scheduling;
    let number = u32::from(port.published.first) + u32::from(port.published.protocol.number());
    let turn = Pick::Turn((number % COUNTERS) as u8);
    let (pick, slots) = match scheduling.scheduler {
        Scheduler::SourceHash | Scheduler::Maglev => {
            (if scheduling.flags.port { Pick::SourceAndPort } else { Pick::Source }, slots::hashed(&shares))
        }
        Scheduler::WeightedRoundRobin => (turn, slots::weighted(&shares)),
        Scheduler::Random => (Pick::Random, slots::weighted(&shares)),
        // Others are refused before (Mesh::misfits).
        _ => (turn, shares.iter().map(|(place, _)| *place).collect()),
    };
    let prefix = match family {
        Family::V4 => scheduling.persistence_mask,
        Family::V6 => scheduling.persistence_mask6,
    };
    let persistence = (scheduling.persistence > 0).then_some(Persistence { timeout: scheduling.persistence, prefix });
    let tries = if capped { u8::try_from(shares.len()).unwrap_or(MOST_TRIES).min(MOST_TRIES) } else { 0 };
    let way = u16::try_from(slots.len()).ok().filter(|count| *count > 0).map(|slots| Way {
        family,
        pick,
        slots,
        keeps_port: port.target.is_none(),
        persistence,
        tries,
    });
    if persistence.is_none() && !capped {
        return Balance { way, slots: (0..).zip(slots).collect(), backends, ..Balance::default() };
    }
    let all: Vec<DestinationKey> = taking().map(|(backend, _)| place(backend)).collect();
    let lasting = slots::lasting(&all);
    let number = |place: &DestinationKey| lasting.get(place).copied();
    // Where clients are remembered, each leads to itself.
    let numbers = lasting.values().filter(|_| persistence.is_some()).map(|number| (*number, *number));
    let in_order = shares.iter().filter_map(|(place, _)| number(place)).take(tries.into());
    let turns = (0..).zip(slots.iter().filter_map(number)).chain((IN_ORDER..).zip(in_order)).chain(numbers).collect();
    let most = |(backend, _): &(&Backend, u32)| {
        let upper = backend.thresholds.upper;
        Some((number(&place(backend))?, if upper > 0 { upper } else { NO_LIMIT }))
    };
    let room = taking().filter(|_| capped).filter_map(most).collect();
    Balance { way, slots: lasting.iter().map(|(place, number)| (*number, *place)).collect(), backends, turns, room }
}
