//! From one mesh to another without a look at the kernel: that costs what changed, and not what there is.
//!
//! Most of what the kernel holds belongs to one port: its elements of maps and sets, its service with its destinations. So the plan
//! for those services alone that differ is a part of the plan for all, if nothing else is in it. What several share (chains, maps,
//! legs, ways to other nodes) has to be there already, as the last look wanted it: the *frame*. Of that nothing is taken away here:
//! others may need it. Where that does not suffice, the kernel has to be looked at.

use crate::dataplane;
use crate::mesh::Mesh;
use crate::objects::{Netns, Objects, SetElement, Surroundings, Table};
use crate::plan::{self, Plan, SetEdit, Step};

/// What services share, of all that is wanted.
pub fn frame(mut wanted: Objects) -> Objects {
    wanted.services.clear();
    wanted.balances.clear();
    for table in wanted.tables.values_mut() {
        table.maps.values_mut().for_each(|map| map.elements.clear());
        table.sets.values_mut().for_each(|set| set.elements.clear());
    }
    wanted
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub plan: Plan,
    /// Something shared may be needed by nobody any more.
    pub leaves: bool,
}

/// The steps from `old`, which the kernel holds, to `new`; `None`: a look is needed.
pub fn plan(old: &Mesh, new: &Mesh, surroundings: &Surroundings, frame: &Objects) -> Option<Change> {
    let differing = new.differing(old)?;
    let part = |mesh: &Mesh, services| dataplane::objects(&mesh.with_only(services), surroundings);
    let (before, after) = (part(old, &differing.old), part(new, &differing.new));
    let (mut steps, mut leaves) = (Vec::new(), false);
    for step in plan::diff(&before, &after).steps {
        match (&step, place(&step, frame)) {
            // The set stays, empty of what was theirs.
            (Step::DeleteSet { netns, name }, _) => {
                leaves = true;
                steps.extend(emptied(*netns, name, &before));
            }
            (Step::DeleteMap { .. } | Step::DeleteChain { .. }, _) => leaves = true,
            (_, Place::Port) => steps.push(step),
            (_, Place::There) => {}
            (_, Place::Elsewhere) => return None,
        }
    }
    Some(Change { plan: Plan { steps }, leaves })
}

fn emptied(netns: Netns, name: &str, before: &Objects) -> Option<Step> {
    let remove: Vec<SetElement> = before.tables.get(&netns)?.sets.get(name)?.elements.iter().cloned().collect();
    let edit = SetEdit { name: name.to_owned(), remove, add: Vec::new() };
    (!edit.remove.is_empty()).then(|| Step::EditSets { netns, edits: vec![edit] })
}

/// Where what a step is about belongs.
enum Place {
    /// To one port.
    Port,
    /// To the frame, which has it.
    There,
    Elsewhere,
}

fn place(step: &Step, frame: &Objects) -> Place {
    let table = |netns: &Netns| frame.tables.get(netns);
    let there = |is_there: bool| if is_there { Place::There } else { Place::Elsewhere };
    let has = |netns: &Netns, is_in: &dyn Fn(&Table) -> bool| there(table(netns).is_some_and(is_in));
    match step {
        Step::AddService { .. }
        | Step::SetService { .. }
        | Step::DeleteService(_)
        | Step::AddDestination { .. }
        | Step::SetDestination { .. }
        | Step::DeleteDestination { .. }
        | Step::EditBalance { .. }
        | Step::DropBackend { .. }
        | Step::EditMap { .. }
        | Step::TakeOver { .. } => Place::Port,
        Step::EditSets { edits, .. } => {
            let mut elements = edits.iter().flat_map(|edit| edit.remove.iter().chain(&edit.add));
            if elements.all(|element| !matches!(element, SetElement::Address(_))) {
                Place::Port
            } else {
                Place::Elsewhere
            }
        }
        Step::AddMap { netns, name, map } => has(netns, &|table| {
            table.maps.get(name).is_some_and(|there| (there.kind, there.ranges) == (map.kind, map.ranges))
        }),
        Step::AddSet { netns, name, kind } => {
            has(netns, &|table| table.sets.get(name).is_some_and(|there| there.kind == *kind))
        }
        // What chooses a slot is made for the first port that chooses so.
        Step::SetChain { netns, name, chain } if chain.base.is_none() => {
            if table(netns).is_some_and(|table| table.chains.get(name) == Some(chain)) {
                Place::There
            } else {
                Place::Port
            }
        }
        Step::SetChain { netns, name, chain } => has(netns, &|table| table.chains.get(name) == Some(chain)),
        Step::AddFlows { netns, links } => has(netns, &|table| table.flows.as_ref() == Some(links)),
        Step::DeleteFlows { netns } => has(netns, &|table| table.flows.is_none()),
        // Done once more: its namespace may be another one by now.
        Step::AddLeg { mac, leg } if frame.legs.get(mac) == Some(leg) => Place::Port,
        Step::SetForwarding { mac, node } => there(frame.forwarding.get(mac) == Some(node)),
        Step::SetNeighbour { ip, mac } => there(frame.neighbours.get(ip) == Some(mac)),
        Step::SetReturns { netns, returns } if frame.returns.get(netns) == Some(returns) => Place::Port,
        _ => Place::Elsewhere,
    }
}
