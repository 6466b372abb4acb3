//! nftables.

use std::collections::BTreeSet;

use super::{Outcome, Refusal, balances, exists, require};
use crate::objects::{
    Action, Chain, Family, Map, MapKind, MapValue, Match, Netns, Objects, PortRange, Set, Table, clients_map, full_set,
    room_set, turns_map, ways_map,
};
use crate::plan::{SetEdit, Step};

pub(super) fn apply(objects: &mut Objects, step: &Step) -> Outcome {
    match step.clone() {
        Step::AddTable(netns) => {
            exists(objects, netns)?;
            objects.tables.entry(netns).or_default();
        }
        Step::DeleteTable(netns) => {
            objects.tables.remove(&netns);
            if netns == Netns::Sandbox {
                objects.balances.clear();
            }
        }
        Step::AddMap { netns, name, map } => {
            let table = table(objects, netns)?;
            let fits = table.maps.get(&name).is_none_or(|seen| (seen.kind, seen.ranges) == (map.kind, map.ranges));
            require(fits, || format!("map {name} exists, of another type"))?;
            table.maps.entry(name).or_insert(map);
        }
        Step::DeleteMap { netns, name } => {
            let table = table(objects, netns)?;
            let used = table.chains.values().any(|chain| looks_up(chain).any(|map| *map == name));
            require(!used, || format!("map {name} is in use"))?;
            table.maps.remove(&name);
            balances::lose(objects, &name);
        }
        Step::AddSet { netns, name, kind } => {
            let table = table(objects, netns)?;
            let fits = table.sets.get(&name).is_none_or(|seen| seen.kind == kind);
            require(fits, || format!("set {name} exists, of another type"))?;
            table.sets.entry(name).or_insert(Set { kind, elements: BTreeSet::new() });
        }
        Step::DeleteSet { netns, name } => {
            let table = table(objects, netns)?;
            let used = table.chains.values().any(|chain| asks(chain).any(|set| *set == name));
            require(!used, || format!("set {name} is in use"))?;
            table.sets.remove(&name);
            balances::lose(objects, &name);
        }
        Step::EditSets { netns, edits } => {
            // All of the changes or none.
            let table = table(objects, netns)?;
            let mut sets = table.sets.clone();
            for SetEdit { name, remove, add } in edits {
                let set = sets.get_mut(&name);
                let set = set.ok_or_else(|| Refusal(format!("there is no set {name} in {netns}")))?;
                let fits = add.iter().all(|element| element.fits(set.kind));
                require(fits, || format!("set {name} is of another type"))?;
                set.elements.retain(|element| !remove.contains(element));
                for element in add {
                    let rival = set.elements.iter().find(|other| **other != element && other.overlaps(&element));
                    require(rival.is_none(), || format!("{element} overlaps {rival:?}"))?;
                    set.elements.insert(element);
                }
            }
            table.sets = sets;
        }
        Step::AddFlows { netns, links } => {
            let table = table(objects, netns)?;
            require(table.flows.is_none(), || "the flow table exists".to_owned())?;
            table.flows = Some(links);
        }
        Step::DeleteFlows { netns } => {
            let table = table(objects, netns)?;
            let used = table.chains.values().any(Chain::offloads);
            require(!used, || "the flow table is in use".to_owned())?;
            table.flows = None;
        }
        Step::SetChain { netns, name, chain } => {
            let table = table(objects, netns)?;
            let missing = looks_up(&chain).find(|map| !table.maps.contains_key(*map));
            require(missing.is_none(), || format!("chain {name} looks up a map that is not there: {missing:?}"))?;
            let missing = asks(&chain).find(|set| !table.sets.contains_key(*set));
            require(missing.is_none(), || format!("chain {name} asks a set that is not there: {missing:?}"))?;
            require(table.flows.is_some() || !chain.offloads(), || format!("chain {name} fills no flow table"))?;
            let fits = table.chains.get(&name).is_none_or(|seen| seen.same_hook(&chain));
            require(fits, || format!("chain {name} exists, with another hook"))?;
            table.chains.insert(name, chain);
        }
        Step::DeleteChain { netns, name } => {
            let used = netns == Netns::Sandbox
                && objects.balances.values().any(|balance| balance.way.is_some_and(|way| way.chain() == name));
            require(!used, || format!("chain {name} is in use"))?;
            table(objects, netns)?.chains.remove(&name);
        }
        Step::EditMap { netns, name, ranges, remove, add } => {
            let map = table(objects, netns)?.maps.get_mut(&name);
            let map = map.ok_or_else(|| Refusal(format!("there is no map {name} in {netns}")))?;
            require(map.ranges == ranges, || format!("map {name} is of another type"))?;
            *map = edited(map, &remove, &add)?;
        }
        _ => {}
    }
    Ok(())
}

fn table(objects: &mut Objects, netns: Netns) -> Result<&mut Table, Refusal> {
    objects.tables.get_mut(&netns).ok_or_else(|| Refusal(format!("there is no table in {netns}")))
}

fn asks(chain: &Chain) -> impl Iterator<Item = &str> {
    let matched = chain.rules.iter().flat_map(|rule| &rule.matches).filter_map(|matched| match matched {
        Match::Among { set, .. } | Match::NotAmong { set, .. } => Some(set.as_str()),
        _ => None,
    });
    let room = chain.rules.iter().flat_map(|rule| match &rule.action {
        Action::SpreadLasting(way) | Action::SpreadChosen(way) if way.tries > 0 => vec![room_set(way.family)],
        Action::SpreadNext(way, _) => vec![full_set(way.family), room_set(way.family)],
        Action::NoteFull(family) => vec![full_set(*family)],
        _ => Vec::new(),
    });
    matched.chain(room)
}

fn looks_up(chain: &Chain) -> impl Iterator<Item = &str> {
    chain.rules.iter().flat_map(|rule| match &rule.action {
        Action::MarkFrom { map } | Action::UntrackedMarkFrom { map } => vec![map.as_str()],
        Action::DnatFrom { map, .. } | Action::LearnMark { map } => vec![map.as_str()],
        Action::GoByMark(family) => vec![ways_map(*family)],
        Action::Spread(way) | Action::SpreadChosen(way) => vec![way.map()],
        Action::SpreadAgain(way) | Action::SpreadLasting(way) | Action::SpreadNext(way, _) => {
            let clients = way.persistence.map(|_| clients_map(way.family));
            clients.into_iter().chain([turns_map(way.family), way.map()]).collect()
        }
        _ => Vec::new(),
    })
}

/// All of the changes or none: they are one transaction.
fn edited(map: &Map, remove: &[(PortRange, MapValue)], add: &[(PortRange, MapValue)]) -> Result<Map, Refusal> {
    let mut map = map.clone();
    for (port, _) in remove {
        // A step that only removes is content if the element is gone; in any other the kernel says ENOENT.
        let removed = map.elements.remove(port).is_some();
        require(removed || add.is_empty(), || format!("there is no element {port}"))?;
    }
    for (port, value) in add {
        require(map.ranges || port.is_single(), || format!("{port} in a map of single ports"))?;
        require(fits(map.kind, value), || format!("{value} in a map of another type"))?;
        let rival = map.elements.iter().find(|(other, held)| other.overlaps(port) && (*other, *held) != (port, value));
        require(rival.is_none(), || format!("{port} overlaps {rival:?}"))?;
        map.elements.insert(*port, *value);
    }
    Ok(map)
}

fn fits(kind: MapKind, value: &MapValue) -> bool {
    match (kind, value) {
        (MapKind::Mark, MapValue::Mark(_)) => true,
        (MapKind::Address(family), MapValue::Address(address)) => Family::of(address) == family,
        // Balances' are not edited as maps.
        _ => false,
    }
}
