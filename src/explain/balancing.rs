//! The mark, and who chooses a backend by it.

use std::collections::BTreeSet;

use super::walk::Walk;
use crate::control::protocol::{Hop, Verdict};
use crate::dataplane::marks_map;
use crate::mesh::Dataplane;
use crate::objects::{Balance, DestinationKey, Family, Netns, Objects, Space, VirtualKey, backends_set, ways_map};

const SANDBOX: Space = Space::Ours(Netns::Sandbox);

pub fn choice(walk: &mut Walk<'_>, family: Family) {
    let (map, _) = marks_map(walk.mesh(), walk.port);
    let takes = walk.known.wanted.tables.get(&Netns::Sandbox).and_then(|table| table.maps.get(map));
    let takes = takes.is_some_and(|map| map.elements.contains_key(&walk.port.published));
    walk.element(Netns::Sandbox, map, "mark");
    if !takes {
        walk.hop(Hop {
            place: walk.place(&SANDBOX),
            what: "mark".to_owned(),
            wanted: "none".to_owned(),
            found: "none".to_owned(),
            verdict: Verdict::Idle,
            reason: Some("no backend takes clients now: the port is closed".to_owned()),
            look: walk.command(&SANDBOX, &format!("nft list map inet meshd {map}")),
        });
    }
    let key = walk.key(family);
    match walk.mesh().dataplane {
        Dataplane::Ipvs => {
            let service =
                walk.both(|objects| objects.services.get(&key).map(|service| format!("FWM {} {service}", key.mark.0)));
            walk.compare(&SANDBOX, "IPVS service", service, &ipvsadm(&key));
            surplus(walk, "IPVS destination", &ipvsadm(&key), |objects| {
                objects.services.get(&key).map(|service| service.destinations.keys().copied().collect())
            });
        }
        Dataplane::Nftables => {
            let way = |objects: &Objects| objects.balances.get(&key).and_then(|balance| balance.way);
            let texts = walk.both(|objects| way(objects).map(|way| format!("{} → chain {way}", key.mark)));
            let look = format!("nft list map inet meshd {}", ways_map(family));
            walk.compare(&SANDBOX, "chain of the mark", texts, &look);
            if let Some(way) = way(&walk.known.wanted) {
                walk.chain(Netns::Sandbox, &way.chain());
            }
            surplus(walk, "slots", &format!("nft list map inet meshd {}", slots_of(walk, family)), |objects| {
                objects.balances.get(&key).map(|balance| balance.slots.values().copied().collect())
            });
        }
    }
}

/// Who gets clients, and is not to.
fn surplus(walk: &mut Walk<'_>, what: &str, look: &str, of: impl Fn(&Objects) -> Option<BTreeSet<DestinationKey>>) {
    let (wanted, seen) = walk.both(of);
    let wanted = wanted.unwrap_or_default();
    for place in seen.unwrap_or_default().difference(&wanted) {
        walk.compare(&SANDBOX, what, (None, Some(shown(place))), look);
    }
}

fn ipvsadm(key: &VirtualKey) -> String {
    match key.family {
        Family::V4 => format!("ipvsadm -Ln -f {}", key.mark.0),
        Family::V6 => format!("ipvsadm -Ln -f {} -6", key.mark.0),
    }
}

/// Its share of the clients, with the connections that it has.
pub fn share(walk: &mut Walk<'_>, place: DestinationKey, family: Family) {
    let key = walk.key(family);
    match walk.mesh().dataplane {
        Dataplane::Ipvs => {
            let destination = walk.both(|objects| objects.services.get(&key)?.destinations.get(&place).cloned());
            let texts = |one: Option<_>| one.map(|one| format!("{} {one}", shown(&place)));
            let texts = (texts(destination.0), texts(destination.1));
            walk.compare(&SANDBOX, "IPVS destination", texts, &ipvsadm(&key));
        }
        Dataplane::Nftables => {
            let of = |objects: &Objects| objects.balances.get(&key).map(|balance| slots(balance, &place));
            let texts = walk.both(|objects| of(objects).flatten());
            let look = format!("nft list map inet meshd {}", slots_of(walk, family));
            walk.compare(&SANDBOX, "slots", texts, &look);
            let known = walk.both(|objects| {
                let known = objects.balances.get(&key)?.backends.contains(&place);
                known.then(|| format!("{} . {}", key.mark, shown(&place)))
            });
            walk.compare(
                &SANDBOX,
                "known backend",
                known,
                &format!("nft list set inet meshd {}", backends_set(family)),
            );
        }
    }
    let Some(serves) = walk.serves(family, &place).copied() else { return };
    let told = format!("{} connections, and {} that are remembered", serves.active, serves.inactive);
    if let Some(hop) = walk.hops().last_mut().filter(|hop| hop.verdict == Verdict::Good) {
        hop.reason = Some(told);
    }
}

/// The slots of one backend: which they are, the first of them at least, and how many.
fn slots(balance: &Balance, place: &DestinationKey) -> Option<String> {
    let own: Vec<u32> = balance.slots.iter().filter(|(_, other)| *other == place).map(|(slot, _)| *slot).collect();
    let turns = balance.turns.values().filter(|slot| own.contains(slot)).count();
    let first: Vec<String> = own.iter().take(6).map(u32::to_string).collect();
    let more = own.len().saturating_sub(first.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let turns = if balance.turns.is_empty() { String::new() } else { format!(", {turns} turns") };
    (!own.is_empty())
        .then(|| format!("slots {}{more} of {}{turns} → {}", first.join(" "), balance.slots.len(), shown(place)))
}

fn slots_of(walk: &Walk<'_>, family: Family) -> &'static str {
    crate::objects::slots_map(family, walk.port.target.is_none())
}

/// Where the packet's own port is kept, it is not part of the place.
fn shown(place: &DestinationKey) -> String {
    if place.port == 0 { place.address.to_string() } else { place.to_string() }
}
