//! The way back of preserved client addresses, in the namespaces of this node's backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mesh::{ClientAddress, Mesh, NetnsRef, Port, Protocol};
use crate::objects::{Mac, Objects, Returns};

use super::topology::{endpoints, with_prefix};

pub(super) fn lower(mesh: &Mesh, objects: &mut Objects) {
    let subnets: Vec<IpNetwork> = endpoints(&mesh.ingress);
    let mut returns: BTreeMap<&NetnsRef, Returns> = BTreeMap::new();
    for port in mesh.ports().filter(|port| port.client_address == ClientAddress::Preserve) {
        for backend in port.backends.iter().filter(|backend| !mesh.is_elsewhere(backend)) {
            let subnet = subnets.iter().find(|subnet| subnet.contains(backend.address));
            if let (Some(netns), Some(subnet)) = (&backend.netns, subnet) {
                let returns = returns.entry(netns).or_default();
                returns.sources.insert(with_prefix(backend.address, *subnet));
                returns.datagrams.extend(answering(port));
            }
        }
    }
    let own = subnets.first().map(|first| (Mac::of(&first.ip()), subnets.iter().map(IpNetwork::ip).collect()));
    let others =
        mesh.other_nodes().filter_map(|peer| Some((Mac::of(&peer.endpoints().next()?), peer.endpoints().collect())));
    let nodes: BTreeMap<Mac, BTreeSet<IpAddr>> = own.into_iter().chain(others).collect();
    for (netns, mut wanted) in returns {
        // One source of each family: the lowest.
        let first = |v4: bool| wanted.sources.iter().find(|source| source.is_ipv4() == v4).copied();
        wanted.sources = first(true).into_iter().chain(first(false)).collect();
        wanted.nodes.clone_from(&nodes);
        objects.returns.insert(netns.clone(), wanted);
    }
}

/// The UDP ports by which that port's backends answer.
fn answering(port: &Port) -> Option<(u16, u16)> {
    let kept = (port.published.first, port.published.last);
    (port.published.protocol == Protocol::Udp).then(|| port.target.map_or(kept, |target| (target, target)))
}
