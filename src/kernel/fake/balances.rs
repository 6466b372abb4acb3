//! How ports are balanced: elements of the sandbox's maps.

use std::collections::BTreeMap;

use super::{Outcome, require};
use crate::objects::{
    Balance, MapKind, Netns, Objects, VirtualKey, backends_set, room_set, slots_map, turns_map, ways_map,
};
use crate::plan::{BalanceEdit, Step};

pub(super) fn apply(objects: &mut Objects, step: &Step) -> Outcome {
    let table = objects.tables.get(&Netns::Sandbox);
    let is_there = table.is_some_and(|table| table.maps.values().any(|map| map.kind == MapKind::Ways));
    match step {
        Step::EditBalance { key, edit } => {
            let mut balance = objects.balances.get(key).cloned().unwrap_or_default();
            // What only takes away is content if it is gone; else the kernel says ENOENT.
            let particular = !edit.trims() && !edit.closes();
            // Who may have connections is known by a set of its own.
            let more = BalanceEdit { backends: Vec::new(), ..edit.clone() } != BalanceEdit::default();
            require(is_there || !particular || !more, || "there are no maps to balance by".to_owned())?;
            let tracked = table.is_some_and(|table| table.sets.contains_key(backends_set(key.family)));
            require(tracked || edit.backends.is_empty(), || "there is no set of backends".to_owned())?;
            exchange(&mut balance.slots, &edit.remove, &edit.add, particular, &format!("slot of {key}"))?;
            balance.backends.extend(&edit.backends);
            for slot in &edit.no_room {
                let removed = balance.room.remove(slot).is_some();
                require(removed || !particular, || format!("slot {slot} of {key} has no limit"))?;
            }
            for (slot, most) in &edit.room {
                let held = balance.room.insert(*slot, *most);
                require(held.is_none(), || format!("slot {slot} of {key} has a limit"))?;
            }
            exchange(&mut balance.turns, &edit.no_turns, &edit.turns, particular, &format!("turn of {key}"))?;
            if let Some((before, after)) = edit.way {
                require(balance.way == before || !particular, || format!("{key} is led by {:?}", balance.way))?;
                let chains = table.map(|table| &table.chains);
                let leads = |chain: &String| chains.is_some_and(|chains| chains.contains_key(chain));
                require(after.is_none_or(|way| leads(&way.chain())), || format!("there is no chain {after:?}"))?;
                balance.way = after;
            }
            put(objects, *key, balance);
        }
        Step::DropBackend { key, backend } => {
            let mut balance = objects.balances.get(key).cloned().unwrap_or_default();
            balance.backends.remove(backend);
            put(objects, *key, balance);
        }
        _ => {}
    }
    Ok(())
}

/// Elements of a map go, then others come. `particular`: each that goes has to be there.
fn exchange<V: Copy + PartialEq + std::fmt::Display>(
    map: &mut BTreeMap<u32, V>,
    remove: &[(u32, V)],
    add: &[(u32, V)],
    particular: bool,
    what: &str,
) -> Outcome {
    for (number, value) in remove {
        let removed = map.get(number) == Some(value);
        require(removed || !particular, || format!("there is no {what}: {number} {value}"))?;
        if removed {
            map.remove(number);
        }
    }
    for (number, value) in add {
        let held = map.insert(*number, *value);
        require(held.is_none_or(|held| held == *value), || format!("it is taken, a {what}: {number}"))?;
    }
    Ok(())
}

/// What was in a map or a set goes with it.
pub(super) fn lose(objects: &mut Objects, name: &str) {
    for (VirtualKey { family, .. }, balance) in &mut objects.balances {
        if name == ways_map(*family) {
            balance.way = None;
        } else if name == backends_set(*family) {
            balance.backends.clear();
        } else if name == turns_map(*family) {
            balance.turns.clear();
        } else if name == room_set(*family) {
            balance.room.clear();
        } else {
            balance.slots.retain(|_, place| name != slots_map(*family, place.port == 0));
        }
    }
    objects.balances.retain(|_, balance| *balance != Balance::default());
}

/// One of which nothing is left is none.
fn put(objects: &mut Objects, key: VirtualKey, balance: Balance) {
    if balance == Balance::default() {
        objects.balances.remove(&key);
    } else {
        objects.balances.insert(key, balance);
    }
}
