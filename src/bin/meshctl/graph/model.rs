//! What is drawn, of the daemon's answers: nodes, ports, backends, and who sends whom how much.

mod build;
#[cfg(test)]
pub mod examples;
mod flow;
mod words;

use meshd::objects::Mark;

pub use flow::{Flow, sum, words};
pub use words::words_of;

/// The sandbox, by the name that it has where the configuration gives none. The daemon does not tell it.
pub const SANDBOX: &str = "ingress_sbox";

#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// This node.
    pub node: String,
    /// `ipvs` or `nftables`; empty: it was not told.
    pub dataplane: String,
    /// Of all ports.
    pub flow: Option<Flow>,
    /// Where there are backends.
    pub places: Vec<Place>,
    /// A service's are next to each other.
    pub ports: Vec<Port>,
    /// By their places.
    pub backends: Vec<Backend>,
    /// By their ports.
    pub edges: Vec<Edge>,
}

/// Where backends run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// This node: it has their namespaces.
    This,
    Peer(String),
    /// The configuration names no node and no namespace: on the overlay by someone else's doing, or routed.
    Unnamed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub service: String,
    /// `tcp/20229`
    pub name: String,
    pub mark: Option<Mark>,
    pub scheduler: String,
    /// `None`: the published one.
    pub target: Option<u16>,
    /// Only where backends run, see [`meshd::control::protocol::Way`].
    pub host_mode: bool,
    pub flow: Option<Flow>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// In [`Graph::places`].
    pub place: usize,
    pub address: String,
    pub netns: Option<String>,
    /// No port sends it new connections.
    pub idle: bool,
    /// By all ports that are drawn.
    pub flow: Option<Flow>,
}

/// From a port to one of its backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    pub port: usize,
    pub backend: usize,
    /// The kernel's, where it is known to have one.
    pub weight: u32,
    pub state: State,
    /// Connections now, and others that are remembered.
    pub connections: Option<(u32, u32)>,
    pub flow: Option<Flow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Enabled,
    Backup,
    Drain,
    Disabled,
    /// It should serve, and the kernel does not have it: it is down, or others are preferred.
    Out,
    /// The kernel has it still, and no service names it any more.
    Leaving,
}

impl Graph {
    /// Those that run there, with their numbers.
    pub fn backends_at(&self, place: usize) -> impl Iterator<Item = (usize, &Backend)> {
        self.backends.iter().enumerate().filter(move |(_, backend)| backend.place == place)
    }
}

impl Edge {
    /// Whether it gets no new connections.
    pub fn is_idle(&self) -> bool {
        self.weight == 0 || !matches!(self.state, State::Enabled | State::Backup)
    }
}
