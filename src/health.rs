//! Whether backends can serve: what they are asked, and what is made of their answers.
//!
//! [`state`] is the rule, without clocks or sockets; [`runner`] asks, from inside the sandbox's network, so that a question
//! takes the way that traffic takes; [`probe`] is one question.

pub mod probe;
pub mod runner;
pub mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::mesh::{Check, Mesh, PortRange, Prefer};

pub use crate::mesh::Key;

/// Whom to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub check: Arc<Check>,
    pub to: SocketAddr,
}

/// A backend that is checked, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'m> {
    pub service: &'m str,
    pub port: PortRange,
    pub target: Target,
    /// It may have no clients though it is well: a backup, or one of another node.
    pub may_rest: bool,
}

/// All backends of a mesh that are checked from this node. Not those that get no new clients anyway: one that is drained may
/// close its port, and those who are with it stay.
pub fn targets(mesh: &Mesh) -> Vec<(Key, Checked<'_>)> {
    let mut targets = Vec::new();
    let ports = mesh.services.iter().flat_map(|service| service.ports.iter().map(|port| (service.name.as_str(), port)));
    for (service, port) in ports {
        let Some(check) = &port.check else { continue };
        let check = Arc::new(check.clone());
        let asked = check.port.or(port.target).unwrap_or(port.published.first);
        for backend in mesh.serving_from_here(port).filter(|backend| backend.programmed_weight() != Some(0)) {
            let to = SocketAddr::new(backend.address, asked);
            let target = Target { check: check.clone(), to };
            let may_rest = backend.backup || port.spread.prefer == Prefer::Local && !mesh.is_local(backend);
            let checked = Checked { service, port: port.published, target, may_rest };
            targets.push(((port.mark(), backend.address), checked));
        }
    }
    targets
}
