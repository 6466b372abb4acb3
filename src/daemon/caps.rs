//! Caps, where the data plane does not see to them by itself: who has as many connections as it may have gets no new ones, until it
//! has less than its lower threshold.
//!
//! The kernel keeps to a cap at every moment, by limits that it counts connections with. But it counts only those that came since a
//! limit was made, and also those that it turned away, as long as they live elsewhere. So here all are counted, now and then; who
//! is full is taken out of turns, and a limit that has become wrong is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::dataplane;
use crate::kernel::ipvs::connections::Place;
use crate::kernel::{Kernel, Result};
use crate::mesh::{Key, Mark, Mesh, Port, Protocol, Thresholds};
use crate::objects::{Netns, VirtualKey};
use crate::plan::{self, Step};

/// How often they are counted.
const EVERY: Duration = Duration::from_secs(1);
/// That takes no more than this share of the time.
const SHARE: u32 = 20;
/// Some come while a limit is made anew. So often it is looked whether they did.
const RENEWALS: usize = 3;

#[derive(Default)]
pub(super) struct Caps {
    of: Option<Arc<Mesh>>,
    capped: BTreeMap<Key, Capped>,
    full: BTreeSet<Key>,
    /// Ports of datagrams that someone found full.
    refused: BTreeSet<Mark>,
    /// Of the mesh before that, with those who are full.
    merged: Option<(Arc<Mesh>, Arc<Mesh>)>,
    due: Option<Instant>,
}

/// A backend of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capped {
    thresholds: Thresholds,
    /// Where its connections are found.
    place: Place,
    /// The kernel's limit.
    room: (VirtualKey, u32),
    /// Some come to it whatever the kernel's limit.
    again: bool,
    /// It was not counted before.
    new: bool,
}

/// What is to be done about one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    full: bool,
    /// The limit that it needs, if the kernel's is wrong.
    room: Option<u32>,
}

/// What is seen of one.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    was_full: bool,
    open: u32,
    /// How many the kernel lets in beside those that it does not know.
    limit: u32,
    /// It may let in too few.
    doubtful: bool,
    /// It may let in too many.
    loose: bool,
    /// It has not let in someone.
    turned_away: bool,
}

fn judge(Thresholds { upper, lower }: Thresholds, seen: Seen) -> Verdict {
    let Seen { was_full, open, limit, doubtful, loose, turned_away } = seen;
    let below = if lower > 0 { open < lower } else { u64::from(open) * 4 < u64::from(upper) * 3 };
    let full = open >= upper || was_full && !below;
    let room = upper.saturating_sub(open);
    // As long as it is full its limit stays: whoever has one less there may take one more where all are full, also while nobody counts.
    // It counts those that it turned away, too.
    let wrong = match full {
        true => loose && limit > 0,
        false => was_full || turned_away || (doubtful || loose) && limit != room,
    };
    Verdict { full, room: wrong.then_some(room) }
}

impl Caps {
    /// That mesh, as its backends with caps are now.
    pub fn of(&mut self, mesh: &Arc<Mesh>) -> Arc<Mesh> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh)) {
            self.follow(mesh);
        }
        match &self.merged {
            Some((of, merged)) if Arc::ptr_eq(of, mesh) => merged.clone(),
            _ => self.merged.insert((mesh.clone(), with(mesh, &self.full))).1.clone(),
        }
    }

    /// The same for another mesh; nothing follows from it.
    pub fn preview(&self, mesh: &Mesh) -> Mesh {
        Mesh { full: self.full.clone(), ..mesh.clone() }
    }

    fn follow(&mut self, mesh: &Arc<Mesh>) {
        let mut before = std::mem::take(&mut self.capped);
        let mut rooms: BTreeMap<Mark, BTreeMap<IpAddr, (VirtualKey, u32)>> = BTreeMap::new();
        for (port, backend) in mesh.watched() {
            let rooms = rooms.entry(port.mark()).or_insert_with(|| dataplane::rooms(mesh, port));
            let Some(room) = rooms.get(&backend.address).copied() else { continue };
            let key = (port.mark(), backend.address);
            let place = Place { published: port.published, address: backend.address, port: port.target };
            let (thresholds, again) = (backend.thresholds, port.scheduling.persistence > 0);
            let known = before.remove(&key).filter(|before| (before.thresholds, before.place) == (thresholds, place));
            let new = known.is_none_or(|known| known.new);
            self.capped.insert(key, Capped { thresholds, place, room, again, new });
        }
        self.full.retain(|key| self.capped.contains_key(key));
        self.of = Some(mesh.clone());
        self.merged = None;
        let new = self.capped.values().any(|capped| capped.new);
        let idle = self.capped.is_empty() && self.refused.is_empty();
        self.due = if idle { None } else { self.due.filter(|_| !new).or_else(|| Some(Instant::now())) };
    }

    /// When to count again, if there is anyone to count.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Counts, and sets right what the kernel has; whether someone has become full or has room again.
    pub fn settle(&mut self, kernel: &mut Kernel) -> bool {
        let start = Instant::now();
        let Some(mesh) = self.of.clone() else { return false };
        let changed = self.count(kernel, &mesh).unwrap_or_else(|error| {
            warn!("backends with caps cannot be counted: {error}");
            // What was made meanwhile has been told of, and not seen to.
            self.capped.values_mut().for_each(|capped| capped.new = true);
            false
        });
        let idle = self.capped.is_empty() && self.refused.is_empty();
        self.due = (!idle).then(|| Instant::now() + EVERY.max(start.elapsed() * SHARE));
        changed
    }

    fn count(&mut self, kernel: &mut Kernel, mesh: &Mesh) -> Result<bool> {
        let (made, turned_away, limits) = (kernel.made_rooms(), kernel.full()?, kernel.rooms()?);
        let places: BTreeSet<Place> = self.capped.values().map(|capped| capped.place).collect();
        // Those that the data plane before still has are there, too.
        let open = kernel.open_connections(&places)?;
        let open = |place: &Place| open.get(place).copied().flatten().unwrap_or(0);
        let (mut renewed, mut full) = (BTreeMap::new(), BTreeSet::new());
        for (key, capped) in &self.capped {
            let was_full = self.full.contains(key);
            let Some(limit) = limits.get(&capped.room).copied() else {
                // It is to be made.
                full.extend(was_full.then_some(*key));
                continue;
            };
            let open = open(&capped.place);
            let turned_away = turned_away.contains(&capped.room);
            let (doubtful, loose) = (capped.new, capped.again || made.contains(&capped.room));
            let verdict = judge(capped.thresholds, Seen { was_full, open, limit, doubtful, loose, turned_away });
            if verdict.full != was_full {
                debug!(open, limit, full = verdict.full, "cap of {} at {:#x}", key.1, key.0.0);
            }
            renewed.extend(verdict.room.map(|room| (*key, (room, open))));
            full.extend(verdict.full.then_some(*key));
        }
        self.renew(kernel, renewed)?;
        self.capped.values_mut().for_each(|capped| capped.new = false);
        let changed = full != self.full;
        if changed {
            self.full = full;
            self.merged = None;
        }
        let datagrams = turned_away.iter().map(|(key, _)| key.mark).filter(is_of_datagrams);
        self.refused.extend(datagrams);
        self.forget_refused(kernel, mesh);
        Ok(changed)
    }

    /// Makes limits anew: of each so many that it lets in, beside so many that are open. Those that came while that was done it does not
    /// know: of who has some it is done once more.
    fn renew(&self, kernel: &mut Kernel, mut renewed: BTreeMap<Key, (u32, u32)>) -> Result<()> {
        for _ in 0..RENEWALS {
            let of = |(key, (room, _)): (&Key, &(u32, u32))| Some((self.capped.get(key)?.room, *room));
            let rooms: Vec<_> = renewed.iter().filter_map(of).collect();
            if rooms.is_empty() {
                break;
            }
            kernel.renew_rooms(&rooms)?;
            let place = |key: &Key| self.capped.get(key).map(|capped| capped.place);
            let open = kernel.open_connections(&renewed.keys().filter_map(place).collect())?;
            renewed.retain(|key, (room, before)| {
                let now = place(key).and_then(|place| open.get(&place).copied().flatten()).unwrap_or(0);
                let more = now.saturating_sub(*before);
                (*room, *before) = (room.saturating_sub(more), now);
                more > 0
            });
        }
        Ok(())
    }

    /// Datagrams that came when nobody had room are led nowhere as long as connection tracking remembers that: it forgets them once
    /// someone has.
    fn forget_refused(&mut self, kernel: &mut Kernel, mesh: &Mesh) {
        if self.refused.is_empty() {
            return;
        }
        let takes = |port: &Port| {
            let mut serving = mesh.serving_from_here(port).map(|backend| (port.mark(), backend.address));
            serving.any(|key| !mesh.out.contains(&key) && !mesh.resting.contains(&key) && !self.full.contains(&key))
        };
        let due: Vec<&Port> =
            mesh.ports().filter(|port| self.refused.contains(&port.mark())).filter(|port| takes(port)).collect();
        let steps: Vec<Step> = due.iter().map(|port| plan::take_over(Netns::Sandbox, &port.published)).collect();
        for error in kernel.apply(&steps).into_iter().filter_map(std::result::Result::err) {
            warn!("flows that were refused stay so for a while: {error}");
        }
        let published: BTreeSet<Mark> = mesh.ports().map(|port| port.mark()).collect();
        let done: BTreeSet<Mark> = due.iter().map(|port| port.mark()).collect();
        self.refused.retain(|mark| published.contains(mark) && !done.contains(mark));
    }
}

fn is_of_datagrams(mark: &Mark) -> bool {
    mark.meaning().is_some_and(|(protocol, _)| protocol == Protocol::Udp)
}

fn with(mesh: &Arc<Mesh>, full: &BTreeSet<Key>) -> Arc<Mesh> {
    if full.is_empty() { mesh.clone() } else { Arc::new(Mesh { full: full.clone(), ..mesh.as_ref().clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is full, and what its limit is to be: with so many open connections, a limit, and whether someone was turned away.
    #[track_caller]
    fn judged(thresholds: (u32, u32), was_full: bool, seen: (u32, u32, bool), expected: (bool, Option<u32>)) {
        let thresholds = Thresholds { upper: thresholds.0, lower: thresholds.1 };
        let (open, limit, turned_away) = seen;
        let verdict = judge(thresholds, Seen { was_full, open, limit, turned_away, doubtful: false, loose: false });
        assert_eq!((verdict.full, verdict.room), expected);
    }

    #[test]
    fn who_is_full_has_room_again_below_its_lower_threshold() {
        // As long as it has room, and no one was turned away, the kernel knows.
        judged((8, 0), false, (7, 8, false), (false, None));
        judged((8, 0), false, (8, 8, false), (true, None));
        judged((8, 0), true, (8, 8, true), (true, None));
        // Three quarters, or as it is said.
        judged((8, 0), true, (6, 8, false), (true, None));
        judged((8, 0), true, (5, 8, false), (false, Some(3)));
        judged((8, 2), true, (2, 8, false), (true, None));
        judged((8, 2), true, (1, 8, true), (false, Some(7)));
        judged((u32::MAX, 0), true, (u32::MAX / 2, 0, false), (false, Some(u32::MAX / 2 + 1)));
    }

    #[test]
    fn a_limit_that_turned_someone_away_or_may_know_too_little_is_made_anew() {
        judged((8, 0), false, (3, 5, true), (false, Some(5)));
        judged((8, 0), false, (3, 1, true), (false, Some(5)));
        judged((8, 0), false, (9, 1, true), (true, None));
        let of = |limit| Seen { open: 3, limit, doubtful: true, ..Seen::default() };
        let thresholds = Thresholds { upper: 8, lower: 0 };
        assert_eq!(judge(thresholds, of(8)), Verdict { full: false, room: Some(5) });
        assert_eq!(judge(thresholds, of(5)), Verdict { full: false, room: None });
        // Made when others were there already, which it does not count.
        let of = |open| Seen { open, limit: 8, loose: true, ..Seen::default() };
        assert_eq!(judge(thresholds, of(9)), Verdict { full: true, room: Some(0) });
        assert_eq!(judge(thresholds, of(7)), Verdict { full: false, room: Some(1) });
        assert_eq!(judge(thresholds, of(0)), Verdict { full: false, room: None });
    }
}
