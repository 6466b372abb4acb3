//! What is on other nodes: where the overlay finds their ingress addresses and their backends.
//!
//! All of it is computed, a MAC from an address and its node from the configuration: so no node has to ask or to listen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::mesh::{Mesh, NetnsRef};
use crate::objects::{Mac, Objects};

/// A backend's leg on the overlay, seen from another node: where it is, and in which namespace or, where that is not
/// said, at which address alone.
type Remote<'a> = (IpAddr, Result<&'a NetnsRef, IpAddr>);

pub(super) fn lower(mesh: &Mesh, objects: &mut Objects) {
    for peer in mesh.other_nodes() {
        find(objects, peer.address, peer.endpoints());
    }
    let nodes: BTreeMap<&str, IpAddr> = mesh.other_nodes().map(|peer| (peer.name.as_str(), peer.address)).collect();
    // As the legs that the other node makes.
    let mut legs: BTreeMap<Remote<'_>, BTreeSet<IpAddr>> = BTreeMap::new();
    for backend in mesh.ports().flat_map(|port| &port.backends) {
        let on_overlay = mesh.ingress.contains(backend.address);
        let node = backend.node.as_ref().and_then(|node| nodes.get(node.as_str()));
        if let (true, Some(node)) = (on_overlay, node) {
            let place = backend.netns.as_ref().ok_or(backend.address);
            legs.entry((*node, place)).or_default().insert(backend.address);
        }
    }
    for ((node, _), addresses) in legs {
        find(objects, node, addresses.into_iter());
    }
}

/// Those addresses are on that node, on one link: its MAC is that of the first, IPv4 before IPv6.
fn find(objects: &mut Objects, node: IpAddr, addresses: impl Iterator<Item = IpAddr>) {
    let mut addresses = addresses.peekable();
    let Some(mac) = addresses.peek().map(Mac::of) else { return };
    objects.forwarding.insert(mac, node);
    objects.neighbours.extend(addresses.map(|ip| (ip, mac)));
}
