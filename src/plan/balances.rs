//! How nftables spreads the clients of ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Difference, Step};
use crate::objects::{Balance, DestinationKey, LASTING, NO_LIMIT, Netns, PortRange, Protocol, VirtualKey, Way};

/// A change of one balance, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalanceEdit {
    /// Who may have connections from now on.
    pub backends: Vec<DestinationKey>,
    /// Turns, each with the slot that it leads to from now on, and those that it does not any more.
    pub turns: Vec<(u32, u32)>,
    pub no_turns: Vec<(u32, u32)>,
    /// Slots, each with the connections that it may get from now on, counted anew; and those that have no such limit any more.
    pub room: Vec<(u32, u32)>,
    pub no_room: Vec<u32>,
    pub remove: Vec<(u32, DestinationKey)>,
    pub add: Vec<(u32, DestinationKey)>,
    /// The way that clients were led, and the one that they are.
    pub way: Option<(Option<Way>, Option<Way>)>,
}

impl BalanceEdit {
    /// Whether clients are led to backends only after it.
    pub fn leads(&self) -> bool {
        matches!(self.way, Some((None, Some(_))))
    }

    /// Whether clients are led nowhere after it.
    pub fn closes(&self) -> bool {
        matches!(self.way, Some((_, None)))
    }

    /// Whether it only takes away what nobody is led to.
    pub fn trims(&self) -> bool {
        self.way.is_none()
            && self.add.is_empty()
            && self.backends.is_empty()
            && self.turns.is_empty()
            && self.room.is_empty()
    }

    /// Whether there is a slot after it that takes no more clients that were there before.
    pub fn closes_slots(&self) -> bool {
        self.no_turns.iter().any(|(turn, slot)| turn == slot)
    }

    fn is_empty(&self) -> bool {
        *self == BalanceEdit::default()
    }
}

/// What of one is not in the other.
fn differing<'b>(of: &'b BTreeMap<u32, u32>, other: &'b BTreeMap<u32, u32>) -> impl Iterator<Item = (u32, u32)> + 'b {
    of.iter().filter(|(turn, slot)| other.get(*turn) != Some(*slot)).map(|(turn, slot)| (*turn, *slot))
}

/// A slot's number, as nft(8) writes those that last.
struct Number(u32);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 & LASTING == 0 { write!(f, "{}", self.0) } else { write!(f, "{:#010x}", self.0) }
    }
}

impl fmt::Display for BalanceEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backends.iter().try_for_each(|backend| write!(f, " backend {backend}"))?;
        self.no_turns.iter().try_for_each(|(turn, _)| write!(f, " remove turn {}", Number(*turn)))?;
        self.turns.iter().try_for_each(|(turn, slot)| write!(f, " turn {} slot {}", Number(*turn), Number(*slot)))?;
        self.room.iter().try_for_each(|(slot, most)| match most {
            &NO_LIMIT => write!(f, " slot {} any number", Number(*slot)),
            most => write!(f, " slot {} at most {most}", Number(*slot)),
        })?;
        self.remove.iter().try_for_each(|(slot, _)| write!(f, " remove slot {}", Number(*slot)))?;
        self.add.iter().try_for_each(|(slot, backend)| write!(f, " slot {} {backend}", Number(*slot)))?;
        match self.way {
            Some((_, Some(way))) => write!(f, " by {way}"),
            Some((_, None)) => write!(f, " no more"),
            None => Ok(()),
        }
    }
}

impl Difference<'_> {
    /// Slots that are new or another's, and then the chain that leads to them. What has no slot any more stays: packets may be on
    /// their way.
    pub(super) fn make_balances(&self, steps: &mut Vec<Step>) {
        let none = Balance::default();
        for (key, wanted) in &self.wanted.balances {
            let seen = self.seen_balances().and_then(|seen| seen.get(key)).unwrap_or(&none);
            let backends = wanted.backends.difference(&seen.backends).copied().collect();
            let mut edit = BalanceEdit { backends, ..BalanceEdit::default() };
            // Until the maps were changed, ports may be led here that go elsewhere then: so it is not closed yet.
            if wanted.way.is_some() {
                let changed = wanted.slots.iter().filter(|(slot, place)| seen.slots.get(*slot) != Some(*place));
                edit.add.extend(changed.map(|(slot, place)| (*slot, *place)));
                let before = edit.add.iter().filter_map(|(slot, _)| Some((*slot, *seen.slots.get(slot)?)));
                edit.remove = before.collect();
                edit.way = (seen.way != wanted.way).then_some((seen.way, wanted.way));
                edit.turns = differing(&wanted.turns, &seen.turns).collect();
                // Who takes no more clients gets none that were there before, at once. Other turns that nobody has any more stay.
                let at_once = |turn: u32| turn & LASTING != 0 || wanted.turns.contains_key(&turn);
                edit.no_turns = differing(&seen.turns, &wanted.turns).filter(|(turn, _)| at_once(*turn)).collect();
                edit.room = differing(&wanted.room, &seen.room).collect();
                edit.no_room =
                    edit.room.iter().map(|(slot, _)| *slot).filter(|slot| seen.room.contains_key(slot)).collect();
            }
            if !edit.is_empty() {
                steps.push(Step::EditBalance { key: *key, edit });
            }
        }
    }

    pub(super) fn break_balances(&self, steps: &mut Vec<Step>) {
        if self.is_doomed(Netns::Sandbox) || !self.wanted.tables.contains_key(&Netns::Sandbox) {
            return;
        }
        let none = Balance::default();
        // All at the end: their connections are searched for once.
        let mut dropped = Vec::new();
        for (key, seen) in self.seen_balances().into_iter().flatten() {
            let wanted = self.wanted.balances.get(key).unwrap_or(&none);
            let surplus = seen.slots.iter().filter(|(slot, _)| !wanted.slots.contains_key(slot));
            let is_surplus =
                |turn: u32| wanted.way.is_none() || turn & LASTING == 0 && !wanted.turns.contains_key(&turn);
            let edit = BalanceEdit {
                no_turns: differing(&seen.turns, &wanted.turns).filter(|(turn, _)| is_surplus(*turn)).collect(),
                remove: surplus.map(|(slot, place)| (*slot, *place)).collect(),
                no_room: seen.room.keys().filter(|slot| !wanted.room.contains_key(slot)).copied().collect(),
                way: (seen.way.is_some() && wanted.way.is_none()).then_some((seen.way, None)),
                ..BalanceEdit::default()
            };
            if !edit.is_empty() {
                steps.push(Step::EditBalance { key: *key, edit });
            }
            // Who has a slot may have connections, whatever the set says.
            let known: BTreeSet<DestinationKey> = seen.backends.iter().chain(seen.slots.values()).copied().collect();
            let gone = known.difference(&wanted.backends);
            dropped.extend(gone.map(|backend| Step::DropBackend { key: *key, backend: *backend }));
        }
        steps.extend(dropped);
    }

    /// UDP ports whose clients of one family were led nowhere: flows that began then have stayed in the sandbox.
    pub(super) fn led_again(&self) -> impl Iterator<Item = PortRange> {
        let maps = || self.wanted.tables.get(&Netns::Sandbox).into_iter().flat_map(|table| table.maps.values());
        let led = self.wanted.balances.iter().filter(|(key, wanted)| {
            let seen = self.seen_balances().and_then(|seen| seen.get(key));
            wanted.way.is_some() && seen.is_none_or(|seen| seen.way.is_none())
        });
        let port = move |mark| maps().find_map(|map| map.port_of(mark));
        led.filter_map(move |(key, _)| port(key.mark)).filter(|port| port.protocol == Protocol::Udp)
    }

    /// What the table has that is seen, unless it is made anew.
    fn seen_balances(&self) -> Option<&BTreeMap<VirtualKey, Balance>> {
        self.table(Netns::Sandbox).map(|_| &self.seen.balances)
    }
}
