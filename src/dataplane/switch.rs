//! From one data plane to the other: new connections go the new way, those that are open go on the way that they went.
//!
//! IPVS knows its connections without a mark, and connection tracking without the chain that sent them on. So what the plane
//! before has to keep is little: IPVS its services, in which nobody gets new clients, nftables the set of those who may have
//! connections, by which the plan ends them. That goes when their connections are over.
//!
//! Where clients keep their address it cannot be so: behind IPVS such connections are not tracked, with nftables they have to be.

use std::collections::BTreeSet;

use super::sandbox::preserves;
use crate::mesh::{Dataplane, Mark, Mesh};
use crate::objects::{
    Destination, DestinationKey, Family, Netns, Objects, Set, SetKind, VirtualKey, VirtualService, backends_set,
};

/// A backend of a port.
pub type Stayer = (VirtualKey, DestinationKey);

/// Who may have connections by the plane that does not balance any more. Only those whose port has them still: others end.
pub fn outgoing(mesh: &Mesh, seen: &Objects, wanted: &Objects) -> BTreeSet<Stayer> {
    let mut all = BTreeSet::new();
    match mesh.dataplane {
        Dataplane::Nftables => {
            for (key, service) in &seen.services {
                let wanted = wanted.balances.get(key).map(|balance| &balance.backends);
                let stays = |place: &&DestinationKey| wanted.is_some_and(|wanted| wanted.contains(*place));
                all.extend(service.destinations.keys().filter(stays).map(|place| (*key, *place)));
            }
        }
        Dataplane::Ipvs => {
            for (key, balance) in &seen.balances {
                let wanted = wanted.services.get(key).map(|service| &service.destinations);
                let stays = |place: &&DestinationKey| wanted.is_some_and(|wanted| wanted.contains_key(*place));
                all.extend(balance.backends.iter().filter(stays).map(|place| (*key, *place)));
            }
        }
    }
    if !all.is_empty() {
        let kept: BTreeSet<Mark> = mesh.ports().filter(|port| preserves(port)).map(|port| port.mark()).collect();
        all.retain(|(key, _)| !kept.contains(&key.mark));
    }
    all
}

/// Has the plane that does not balance any more keep what the connections of these need.
pub fn keep(mesh: &Mesh, seen: &Objects, staying: &BTreeSet<Stayer>, wanted: &mut Objects) {
    for (key, place) in staying {
        match mesh.dataplane {
            Dataplane::Nftables => {
                let Some(before) = seen.services.get(key) else { continue };
                let Some(destination) = before.destinations.get(place) else { continue };
                let bare = || VirtualService { destinations: Default::default(), ..before.clone() };
                let service = wanted.services.entry(*key).or_insert_with(bare);
                service.destinations.insert(*place, Destination { weight: 0, ..*destination });
            }
            Dataplane::Ipvs => {
                wanted.balances.entry(*key).or_default().backends.insert(*place);
            }
        }
    }
    let Some(table) = wanted.tables.get_mut(&Netns::Sandbox).filter(|_| !wanted.balances.is_empty()) else { return };
    for family in Family::ALL {
        let set = || Set { kind: SetKind::Backends(family), elements: BTreeSet::new() };
        table.sets.entry(backends_set(family).to_owned()).or_insert_with(set);
    }
}
