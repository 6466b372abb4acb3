//! What is wrong with a host, or may be: every fact that bites a mesh, what it means, and what mends it.
//!
//! [`inquiry`] says what is to be looked at, the kernel answers with a [`Condition`], and [`diagnose`] makes findings of that. What is well is
//! told, too, so that it is known to have been looked at.

mod chart;
mod clash;
mod features;
mod firewall;
mod limits;
mod offload;
mod ports;
mod sysctl;
mod tables;
mod timeouts;
mod underlay;
mod versions;

use std::collections::BTreeSet;

use crate::control::protocol::{Diagnosis, Grade};
use crate::dataplane::{self, OVERLAY_BRIDGE, OVERLAY_LEG, encapsulation, overlay_mtu};
use crate::mesh::{Dataplane, Mesh};
use crate::objects::{Condition, HOST_END, Inquiry, LinkId, Netns, Surroundings, TUNNEL};
use chart::Chart;

/// What is to be looked at for that mesh. `is_daemon`: the process that looks is the daemon.
pub fn inquiry(mesh: &Mesh, surroundings: &Surroundings, is_daemon: bool) -> Inquiry {
    let peers: BTreeSet<_> = mesh.other_nodes().map(|peer| peer.address).collect();
    let mut parameters: BTreeSet<_> = dataplane::objects(mesh, surroundings).sysctls.into_keys().collect();
    let more = sysctl::looked_at(mesh).into_iter();
    parameters.extend(more.chain(ports::looked_at()).chain(tables::looked_at()).chain(timeouts::looked_at()));
    Inquiry {
        ipvs: mesh.dataplane == Dataplane::Ipvs,
        wireguard: mesh.ingress.encryption.is_some(),
        address: mesh.address,
        port: mesh.ingress.underlay_port(),
        bytes: if peers.is_empty() { 0 } else { overlay_mtu(mesh, surroundings) + encapsulation(mesh) },
        peers,
        parameters,
        links: [
            LinkId::new(Netns::Overlay, OVERLAY_BRIDGE),
            LinkId::new(Netns::Overlay, TUNNEL),
            LinkId::new(Netns::Sandbox, OVERLAY_LEG),
        ]
        .into(),
        names: mesh.gateway.bridge.iter().cloned().chain([HOST_END.to_owned()]).collect(),
        is_daemon,
    }
}

/// What that condition means to that mesh.
pub fn diagnose(mesh: &Mesh, condition: &Condition) -> Diagnosis {
    let mut chart = Chart::new(mesh, condition);
    features::look(&mut chart);
    versions::look(&mut chart);
    sysctl::look(&mut chart);
    ports::look(&mut chart);
    underlay::look(&mut chart);
    offload::look(&mut chart);
    clash::look(&mut chart);
    firewall::look(&mut chart);
    tables::look(&mut chart);
    timeouts::look(&mut chart);
    limits::look(&mut chart);
    let findings = chart.finish();
    Diagnosis {
        node: mesh.node.clone(),
        dataplane: mesh.dataplane.to_string(),
        good: findings.iter().all(|finding| finding.grade < Grade::Fault),
        findings,
    }
}
