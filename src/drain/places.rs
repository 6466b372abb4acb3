//! Where backends are on the overlay: a leg of theirs has the MAC of its first address. So one that leaves must not change
//! the leg of those that stay, nor have its address while another has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Leaver, Leavers};
use crate::mesh::{Backend, Mesh, NetnsRef, Peer};

/// A node, `None`: this one or none; and a namespace of it, or the address alone.
pub type Place = (Option<String>, Result<NetnsRef, IpAddr>);

pub fn place(mesh: &Mesh, backend: &Backend) -> Place {
    let node = backend.node.clone().filter(|_| mesh.is_elsewhere(backend));
    (node, backend.netns.clone().ok_or(backend.address))
}

/// The places of a mesh.
pub struct Places<'m> {
    mesh: &'m Mesh,
    addresses: BTreeMap<IpAddr, Place>,
    /// The first address of each.
    first: BTreeMap<Place, IpAddr>,
}

impl Places<'_> {
    pub fn of(mesh: &Mesh) -> Places<'_> {
        let mut places = Places { mesh, addresses: BTreeMap::new(), first: BTreeMap::new() };
        for backend in mesh.ports().flat_map(|port| &port.backends) {
            let at = place(mesh, backend);
            let first = places.first.entry(at.clone()).or_insert(backend.address);
            *first = (*first).min(backend.address);
            places.addresses.insert(backend.address, at);
        }
        let ingress = &mesh.ingress;
        let own = [ingress.v4.map(|v4| v4.address.into()), ingress.v6.map(|v6| v6.address.into())];
        for address in own.into_iter().flatten().chain(mesh.other_nodes().flat_map(Peer::endpoints)) {
            // A node's own: no place that a backend could have.
            places.addresses.insert(address, (Some(String::new()), Err(address)));
        }
        places
    }

    /// Whether one that is in the mesh no more can stay where it was.
    pub fn have_room_for(&self, backend: &Backend) -> bool {
        let own = place(self.mesh, backend);
        match self.addresses.get(&backend.address) {
            Some(at) => *at == own,
            None => self.first.get(&own).is_none_or(|first| *first < backend.address),
        }
    }
}

/// The places of those that are taken away and satisfy that. Of one place all go together: its MAC is that of the first.
pub fn of_those(leavers: &Leavers, mesh: &Mesh, satisfy: impl Fn(&Leaver) -> bool) -> BTreeSet<Place> {
    let those = leavers.values().filter(|leaver| leaver.taken && satisfy(leaver));
    those.map(|leaver| place(mesh, &leaver.backend)).collect()
}
