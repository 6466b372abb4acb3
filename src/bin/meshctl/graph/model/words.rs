//! What stands at each thing in every kind of picture; not yet safe for any.

use std::collections::BTreeSet;

use super::{Backend, Edge, Graph, Place, Port, SANDBOX, State};

impl Graph {
    /// This node, and what balances there.
    pub fn title(&self) -> String {
        let balancer = if self.dataplane.is_empty() { String::new() } else { format!(" ({})", self.dataplane) };
        format!("{}: published ports ─► {SANDBOX}{balancer}", self.node)
    }

    pub fn name_of(&self, place: &Place) -> String {
        match place {
            Place::This => format!("{} (this node)", self.node),
            Place::Peer(name) => name.clone(),
            Place::Unnamed => "no node named: overlay or routed".to_owned(),
        }
    }
}

impl Port {
    /// Beside its service and its name.
    pub fn details(&self) -> Vec<String> {
        let target = self.target.map(|target| format!("to {target}"));
        let mark = self.mark.map(|mark| format!("mark {mark}"));
        let mode = self.host_mode.then(|| "mode host".to_owned());
        [target, mark, Some(self.scheduler.clone()), mode].into_iter().flatten().collect()
    }
}

impl Backend {
    pub fn words(&self) -> Vec<String> {
        [&self.address].into_iter().chain(&self.netns).cloned().collect()
    }
}

impl Edge {
    pub fn words(&self) -> Vec<String> {
        words_of(&[self])
    }
}

/// Of a backend behind several ports: it may be down, or weigh less, behind some of them only.
pub fn words_of(edges: &[&Edge]) -> Vec<String> {
    let weights = || edges.iter().map(|edge| edge.weight);
    let (least, most) = (weights().min().unwrap_or(0), weights().max().unwrap_or(0));
    let weight = if least == most { format!("weight {most}") } else { format!("weight {least} to {most}") };
    let states: BTreeSet<State> =
        edges.iter().map(|edge| edge.state).filter(|state| *state != State::Enabled).collect();
    let state = |state: State| match edges.iter().filter(|edge| edge.state == state).count() {
        count if count == edges.len() => state.name().to_owned(),
        count => format!("{} at {count} of {} ports", state.name(), edges.len()),
    };
    [weight].into_iter().chain(states.into_iter().map(state)).collect()
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Enabled => "enabled",
            State::Backup => "backup",
            State::Drain => "drain",
            State::Disabled => "disabled",
            State::Out => "out",
            State::Leaving => "leaving",
        }
    }
}
