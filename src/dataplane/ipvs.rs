//! Balancing by IPVS: a mark for each published port, and an IPVS service behind each mark.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::mesh::{Backend, Mesh, Port};
use crate::objects::{
    Action, Chain, ChainKind, Destination, DestinationKey, Family, Hook, Match, Objects, Persistence, Rule, Scheduler,
    SchedulerFlags, Surroundings, Table, VirtualKey, VirtualService,
};

use super::sandbox::{marks, named, preserves};
use super::serving;
use super::topology::{OVERLAY_LEG, endpoints};

/// The kernel's NF_IP_PRI_RAW and NF_IP_PRI_MANGLE.
const RAW: i32 = -300;
const MANGLE: i32 = -150;

pub(super) fn lower(mesh: &Mesh, table: &mut Table, objects: &mut Objects) {
    table.maps.extend(named([
        ("marks", marks(mesh, false, |port| !preserves(port))),
        ("ranges", marks(mesh, true, |port| !preserves(port))),
    ]));
    table.chains.insert("prerouting".to_owned(), prerouting(mesh));
    if mesh.ports().any(preserves) {
        table.maps.extend(named([
            ("preserved", marks(mesh, false, preserves)),
            ("preserved_ranges", marks(mesh, true, preserves)),
        ]));
        table.chains.insert("untracked".to_owned(), untracked(mesh));
    }
    objects.timeouts = Some(mesh.timeouts);
    for port in mesh.ports() {
        for family in Family::ALL {
            if serving(mesh, port, family).next().is_some() {
                objects.services.insert(VirtualKey { mark: port.mark(), family }, service(mesh, port, family));
            }
        }
    }
}

pub(super) fn sysctls(surroundings: &Surroundings) -> impl Iterator<Item = (&'static str, &'static str)> {
    // Before 5.9, 1 delays a SYN on a reused source port by a second; since then it does not, and 0 would pin
    // such a client to a backend that is drained (kubernetes#93297, #81775).
    let conn_reuse_mode = if surroundings.kernel >= (5, 9) { "1" } else { "0" };
    [
        // Without it the SNAT behind IPVS does not see IPVS's connections.
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/conn_reuse_mode", conn_reuse_mode),
        // Connections of a backend that is gone end with it.
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
    ]
    .into_iter()
}

/// Where clients keep their address nothing is to be tracked: no address is rewritten but by IPVS, which remembers its
/// connections itself. Only what answers to this node's own address has been rewritten on its way out.
fn untracked(mesh: &Mesh) -> Chain {
    let overlay = || Match::InterfaceIn(OVERLAY_LEG.to_owned());
    let own = endpoints(&mesh.ingress).into_iter().map(|endpoint| IpNetwork::from(endpoint.ip()));
    let tracked = own.map(|own| Rule::new([overlay(), Match::DestinationIn(own)], Action::Accept));
    let answers = [Rule::new([overlay()], Action::Untracked)];
    let published =
        ["preserved", "preserved_ranges"].map(|map| Rule::new([], Action::UntrackedMarkFrom { map: map.to_owned() }));
    Chain::base(ChainKind::Filter, Hook::Prerouting, RAW, tracked.chain(answers).chain(published).collect())
}

fn prerouting(mesh: &Mesh) -> Chain {
    // Backends' answers carry no mark: only what comes in by the gateway is looked up.
    let answers = Rule::new([Match::InterfaceIn(OVERLAY_LEG.to_owned())], Action::Accept);
    let marks = ["marks", "ranges"].map(|map| Rule::new([], Action::MarkFrom { map: map.to_owned() }));
    // What answers a check may come to a port that is published.
    let checked = asks_by_the_gateway(mesh).then(|| Rule::new([Match::Answer], Action::Accept));
    let rules = std::iter::once(answers).chain(checked).chain(marks).collect();
    Chain::base(ChainKind::Filter, Hook::Prerouting, MANGLE, rules)
}

/// Whether backends that are not on the overlay are asked whether they can serve.
fn asks_by_the_gateway(mesh: &Mesh) -> bool {
    let routed = |port: &Port| port.backends.iter().any(|backend| !mesh.ingress.contains(backend.address));
    mesh.ports().any(|port| port.check.is_some() && routed(port))
}

fn service(mesh: &Mesh, port: &Port, family: Family) -> VirtualService {
    let scheduling = &port.scheduling;
    let prefix = match family {
        Family::V4 => scheduling.persistence_mask,
        Family::V6 => scheduling.persistence_mask6,
    };
    let persistence = (scheduling.persistence > 0).then_some(Persistence { timeout: scheduling.persistence, prefix });
    let destinations: BTreeMap<DestinationKey, Destination> =
        serving(mesh, port, family).map(|(backend, weight)| destination(port, backend, weight)).collect();
    // To a scheduler that hashes one of weight 0 is there still: it keeps its share of the clients, and they would be refused.
    let hashes = matches!(scheduling.scheduler, Scheduler::SourceHash | Scheduler::Maglev);
    let someone_rests = destinations.values().any(|destination| destination.weight == 0);
    let fallback = scheduling.flags.fallback || hashes && someone_rests;
    VirtualService {
        scheduler: scheduling.scheduler,
        flags: SchedulerFlags { fallback, ..scheduling.flags },
        persistence,
        one_packet: scheduling.one_packet,
        destinations,
    }
}

fn destination(port: &Port, backend: &Backend, weight: u32) -> (DestinationKey, Destination) {
    // Port 0 keeps the packet's own port, which is what a range wants.
    let key = DestinationKey { address: backend.address, port: port.target.unwrap_or(0) };
    (key, Destination { weight, thresholds: backend.thresholds })
}
