//! Room in the kernel's tables.

use std::collections::BTreeSet;

use super::chart::{Chart, is_full};
use crate::control::protocol::{Area, Grade};
use crate::objects::{Family, Netns};

const TRACKED: &str = "net/netfilter/nf_conntrack_count";
const TRACKED_MOST: &str = "net/netfilter/nf_conntrack_max";
/// Percent of a table from which on it is nearly full, and full for all that matters.
const CROWDED: u64 = 80;
const FULL: u64 = 95;

pub fn looked_at() -> Vec<(Netns, String)> {
    let tracked = [Netns::Host, Netns::Sandbox]
        .into_iter()
        .flat_map(|netns| [TRACKED, TRACKED_MOST].map(|name| (netns, name.to_owned())));
    let rooms = Family::ALL.into_iter().flat_map(|family| [SOFT, HARD].map(|limit| (Netns::Host, room(family, limit))));
    tracked.chain(rooms).collect()
}

/// Limits of neighbours (arp(7)): above the first some are forgotten as soon as they are five seconds old, above the other none is taken in.
const SOFT: u8 = 2;
const HARD: u8 = 3;

fn room(family: Family, limit: u8) -> String {
    let version = if family == Family::V4 { "ipv4" } else { "ipv6" };
    format!("net/{version}/neigh/default/gc_thresh{limit}")
}

pub fn look(chart: &mut Chart<'_>) {
    [Netns::Host, Netns::Sandbox].into_iter().for_each(|netns| tracked(chart, netns));
    Family::ALL.into_iter().for_each(|family| neighbours(chart, family));
}

fn tracked(chart: &mut Chart<'_>, netns: Netns) {
    // 0 is no limit.
    let most = chart.number(netns, TRACKED_MOST).filter(|most| *most > 0);
    let (Some(entries), Some(most)) = (chart.number(netns, TRACKED), most) else { return };
    let (what, found) = (format!("connection tracking of the {netns}"), format!("{entries} of {most}"));
    let why = "at the limit new connections are dropped, those that are open go on";
    if !is_full(entries, most, CROWDED) {
        return chart.good(Area::Tables, what, found, why);
    }
    let grade = if is_full(entries, most, FULL) { Grade::Fault } else { Grade::Warning };
    // One number for all namespaces, that only the first may set.
    let mend = chart.set(Netns::Host, TRACKED_MOST, most.saturating_mul(2));
    chart.bad((Area::Tables, grade), what, found, why, mend);
}

/// Permanent entries, as those of other nodes' backends on the tunnel, do not count; those by which the sandbox reaches each do.
fn neighbours(chart: &mut Chart<'_>, family: Family) {
    let Some(most) = chart.number(Netns::Host, &room(family, HARD)) else { return };
    let table = chart.condition.neighbours.get(&family).copied().unwrap_or_default();
    let all = chart.mesh.ports().flat_map(|port| &port.backends).map(|backend| backend.address);
    let backends: BTreeSet<_> =
        all.filter(|address| Family::of(address) == family && chart.mesh.ingress.contains(*address)).collect();
    let (entries, backends) = (table.entries, backends.len() as u64);
    let soft = chart.number(Netns::Host, &room(family, SOFT)).unwrap_or(most);
    let what = format!("neighbours, {}", if family == Family::V4 { "IPv4" } else { "IPv6" });
    let mut found = format!("{entries} in all namespaces, of {soft} to {most}; the mesh has {backends} backends");
    let why = "who finds no room is not reached: packets to some backends are lost";
    if table.overflows == 0 && !is_full(entries, most, CROWDED) && backends <= soft {
        return chart.good(Area::Tables, what, found, why);
    }
    if table.overflows > 0 {
        found += &format!("; {} times there was no room", table.overflows);
    }
    let wanted = most.max(entries.saturating_add(backends)).saturating_mul(4);
    let set = |limit, value| chart.set(Netns::Host, &room(family, limit), value);
    let mend = format!("{} && {}", set(HARD, wanted), set(SOFT, wanted / 2));
    chart.bad((Area::Tables, Grade::Warning), what, found, why, mend);
}
