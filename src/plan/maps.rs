//! Tables, chains, maps, and the published ports in the maps.

use std::collections::{BTreeMap, BTreeSet};

use super::links::Remade;
use super::{Difference, SetEdit, Step};
use crate::objects::{
    Action, Chain, LinkId, Map, MapKind, MapValue, Match, Netns, Objects, PortRange, Protocol, Rule, SetElement, Table,
};

type Elements = BTreeMap<PortRange, MapValue>;

impl Difference<'_> {
    /// Tables with their maps and chains; ports are published later.
    pub(super) fn make_tables(&self, remade: &Remade, steps: &mut Vec<Step>) {
        for (netns, wanted) in &self.wanted.tables {
            let netns = *netns;
            let seen = self.table(netns);
            if seen.is_none() {
                if self.seen.tables.contains_key(&netns) {
                    steps.push(Step::DeleteTable(netns));
                }
                steps.push(Step::AddTable(netns));
            }
            let map_of = |name: &String| seen.and_then(|table| table.maps.get(name));
            let chain_of = |name: &String| seen.and_then(|table| table.chains.get(name));
            for (name, map) in &wanted.maps {
                if map_of(name).is_none() {
                    let map = Map { elements: Elements::new(), ..map.clone() };
                    steps.push(Step::AddMap { netns, name: name.clone(), map });
                }
            }
            let mut edits = Vec::new();
            for (name, set) in &wanted.sets {
                let found = seen.and_then(|table| table.sets.get(name));
                if found.is_none() {
                    steps.push(Step::AddSet { netns, name: name.clone(), kind: set.kind });
                }
                let none = BTreeSet::new();
                let seen = found.map_or(&none, |seen| &seen.elements);
                let add: Vec<SetElement> = set.elements.difference(seen).cloned().collect();
                // What overlaps a new element can't be there beside it.
                let in_the_way = |old: &&SetElement| add.iter().any(|new| new.overlaps(old));
                let remove: Vec<SetElement> = seen.iter().filter(in_the_way).cloned().collect();
                if !add.is_empty() {
                    edits.push(SetEdit { name: name.clone(), remove, add });
                }
            }
            // Who is kept out by what a set has is kept out from the first element on.
            for (name, chain) in
                wanted.chains.iter().filter(|(name, chain)| keeps_out(chain) && chain_of(name).is_none())
            {
                steps.push(Step::SetChain { netns, name: name.clone(), chain: chain.clone() });
            }
            if !edits.is_empty() {
                steps.push(Step::EditSets { netns, edits });
            }
            // The kernel takes a link that goes out of the flow table.
            let lost = |name: &String| remade.contains(&LinkId::new(netns, name.as_str()));
            let loses = wanted.flows.iter().flatten().any(lost);
            let refilled = make_flows(netns, seen, wanted, loses, steps);
            for (name, chain) in &wanted.chains {
                // A chain's hook can't be changed: consecutive steps for one table are one transaction.
                if chain_of(name).is_some_and(|seen| !seen.same_hook(chain)) {
                    steps.push(Step::DeleteChain { netns, name: name.clone() });
                }
                let is_new = chain_of(name).is_none();
                if is_new && !keeps_out(chain)
                    || chain_of(name).is_some_and(|seen| seen != chain)
                    || refilled.contains(&name.as_str())
                {
                    steps.push(Step::SetChain { netns, name: name.clone(), chain: chain.clone() });
                }
            }
        }
    }

    /// The table seen, if it can be worked with. A map's type can't be changed, and no map that a rule looks
    /// up can be deleted: where one is of another type than wanted, the table is made anew.
    pub(super) fn table(&self, netns: Netns) -> Option<&Table> {
        let seen = self.seen.tables.get(&netns)?;
        let mut wanted = self.wanted.tables.get(&netns).into_iter().flat_map(|table| &table.maps);
        let fits = |seen: &Map, map: &Map| (seen.kind, seen.ranges) == (map.kind, map.ranges);
        let maps_fit = wanted.all(|(name, map)| seen.maps.get(name).is_none_or(|seen| fits(seen, map)));
        let mut sets = self.wanted.tables.get(&netns).into_iter().flat_map(|table| &table.sets);
        let sets_fit = sets.all(|(name, set)| seen.sets.get(name).is_none_or(|seen| seen.kind == set.kind));
        (maps_fit && sets_fit).then_some(seen)
    }

    /// Maps published ports: new ones are added; changed ones are replaced, all of a map at once.
    pub(super) fn publish(&self, netns: Netns, steps: &mut Vec<Step>) {
        let Some(wanted) = self.wanted.tables.get(&netns) else { return };
        let none = Elements::new();
        // A port may be new in both families.
        let mut taken_over = BTreeSet::new();
        let balanced = is_balanced(self.wanted);
        if netns == Netns::Sandbox {
            taken_over.extend(self.led_again());
        }
        for (name, map) in &wanted.maps {
            let seen = self.table(netns).and_then(|table| table.maps.get(name)).map_or(&none, |map| &map.elements);
            let edit = |remove, add| Step::EditMap { netns, name: name.clone(), ranges: map.ranges, remove, add };
            let (mut remove, mut replace) = (Elements::new(), Vec::new());
            for (port, value) in map.elements.iter().filter(|(port, value)| seen.get(port) != Some(value)) {
                // What overlaps the new element can't be there beside it.
                let before = remove.len();
                remove.extend(overlapping(seen, port).map(|(old, value)| (*old, *value)));
                let conflicts = remove.len() > before || overlapping(&remove, port).next().is_some();
                if conflicts {
                    replace.push((*port, *value));
                } else {
                    steps.push(edit(Vec::new(), vec![(*port, *value)]));
                }
                if is_taken_over(netns, map, port, balanced) {
                    taken_over.insert(*port);
                }
            }
            if !replace.is_empty() {
                steps.push(edit(remove.into_iter().collect(), replace));
            }
        }
        steps.extend(taken_over.iter().map(|port| take_over(netns, port)));
    }

    pub(super) fn unpublish(&self, netns: Netns, steps: &mut Vec<Step>) {
        if self.is_doomed(netns) {
            return;
        }
        let (Some(seen), Some(wanted)) = (self.table(netns), self.wanted.tables.get(&netns)) else { return };
        let none = Elements::new();
        for (name, map) in &seen.maps {
            // Of a map that will go the elements go first: no mark outlives its service.
            let wanted = wanted.maps.get(name).map_or(&none, |map| &map.elements);
            for (port, value) in &map.elements {
                if !wanted.contains_key(port) && !replaced(&map.elements, wanted, port) {
                    let remove = vec![(*port, *value)];
                    steps.push(Step::EditMap {
                        netns,
                        name: name.clone(),
                        ranges: map.ranges,
                        remove,
                        add: Vec::new(),
                    });
                }
            }
        }
    }

    pub(super) fn break_tables(&self, netns: Netns, steps: &mut Vec<Step>) {
        let Some(seen) = self.table(netns) else { return };
        if self.is_doomed(netns) {
            return;
        }
        let Some(wanted) = self.wanted.tables.get(&netns) else {
            steps.push(Step::DeleteTable(netns));
            return;
        };
        let chains = seen.chains.keys().filter(|name| !wanted.chains.contains_key(*name));
        steps.extend(chains.map(|name| Step::DeleteChain { netns, name: name.clone() }));
        if seen.flows.is_some() && wanted.flows.is_none() {
            steps.push(Step::DeleteFlows { netns });
        }
        let maps = seen.maps.keys().filter(|name| !wanted.maps.contains_key(*name));
        steps.extend(maps.map(|name| Step::DeleteMap { netns, name: name.clone() }));
        let (mut edits, mut gone) = (Vec::new(), Vec::new());
        for (name, set) in &seen.sets {
            let Some(wanted) = wanted.sets.get(name) else {
                gone.push(Step::DeleteSet { netns, name: name.clone() });
                continue;
            };
            let come = || wanted.elements.difference(&set.elements);
            let left = |old: &&SetElement| !come().any(|new| new.overlaps(old));
            let remove: Vec<SetElement> = set.elements.difference(&wanted.elements).filter(left).cloned().collect();
            if !remove.is_empty() {
                edits.push(SetEdit { name: name.clone(), remove, add: Vec::new() });
            }
        }
        if !edits.is_empty() {
            steps.push(Step::EditSets { netns, edits });
        }
        steps.extend(gone);
    }
}

/// Whether a chain drops only what is in a set: as long as all are empty, nobody.
fn keeps_out(chain: &Chain) -> bool {
    let mut drops = chain.rules.iter().filter(|rule| rule.action == Action::Drop).peekable();
    let listed = |rule: &Rule| rule.matches.iter().any(|matched| matches!(matched, Match::Among { .. }));
    drops.peek().is_some() && drops.all(listed)
}

/// A flow table's links cannot all be changed, so one of others is made anew; none that a chain fills can be deleted. The chains
/// that went for that.
fn make_flows<'a>(
    netns: Netns,
    seen: Option<&'a Table>,
    wanted: &Table,
    loses: bool,
    steps: &mut Vec<Step>,
) -> Vec<&'a str> {
    let found = seen.and_then(|table| table.flows.as_ref());
    let Some(links) = wanted.flows.as_ref().filter(|wanted| loses || found != Some(wanted)) else { return Vec::new() };
    let mut refilled = Vec::new();
    if found.is_some() {
        let chains = seen.into_iter().flat_map(|table| &table.chains).filter(|(_, chain)| chain.offloads());
        refilled.extend(chains.map(|(name, _)| name.as_str()));
        steps.extend(refilled.iter().map(|name| Step::DeleteChain { netns, name: (*name).to_owned() }));
        steps.push(Step::DeleteFlows { netns });
    }
    steps.push(Step::AddFlows { netns, links: links.clone() });
    refilled
}

/// Take-overs of all ports that are published, for who does not know which were done.
pub fn take_overs(objects: &Objects) -> Vec<Step> {
    let balanced = is_balanced(objects);
    let of = |netns: Netns| {
        let maps = objects.tables.get(&netns).into_iter().flat_map(|table| table.maps.values());
        let ports = maps.flat_map(|map| map.elements.keys().map(move |port| (map, port)));
        let due = ports.filter(|(map, port)| is_taken_over(netns, map, port, balanced)).map(|(_, port)| port);
        due.collect::<BTreeSet<_>>().into_iter().map(|port| take_over(netns, port)).collect::<Vec<_>>()
    };
    [Netns::Sandbox, Netns::Host].into_iter().flat_map(of).collect()
}

/// Whether the sandbox sends clients on by its rules: then a flow that they met before stays where they sent it. IPVS looks at every
/// packet.
fn is_balanced(objects: &Objects) -> bool {
    objects.tables.get(&Netns::Sandbox).is_some_and(|table| table.maps.values().any(|map| map.kind == MapKind::Ways))
}

/// Whether older flows to a port of that map stay on their old way: datagrams have no beginning that is seen.
fn is_taken_over(netns: Netns, map: &Map, port: &PortRange, balanced: bool) -> bool {
    let leads = match netns {
        Netns::Host => matches!(map.kind, MapKind::Address(_)),
        _ => balanced && map.kind == MapKind::Mark,
    };
    leads && port.protocol == Protocol::Udp
}

/// Has connection tracking forget flows to that port which went elsewhere before.
pub fn take_over(netns: Netns, port: &PortRange) -> Step {
    Step::TakeOver { netns, protocol: port.protocol, first: port.first, last: port.last }
}

/// Whether a seen element that is not wanted went when another came in its place.
fn replaced(seen: &Elements, wanted: &Elements, old: &PortRange) -> bool {
    overlapping(wanted, old).any(|(new, value)| seen.get(new) != Some(value))
}

/// Elements of one map never overlap one another, so those that overlap a port are neighbours in order.
fn overlapping<'a>(elements: &'a Elements, port: &PortRange) -> impl Iterator<Item = (&'a PortRange, &'a MapValue)> {
    let port = *port;
    let upper = PortRange { first: port.last, last: u16::MAX, ..port };
    elements.range(..=upper).rev().take_while(move |(old, _)| old.overlaps(&port))
}
