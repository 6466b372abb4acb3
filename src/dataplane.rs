//! What has to be in the kernel for a mesh to work: pure functions from a [`Mesh`] to [`Objects`].
//!
//! What a packet meets on its way is built here, hop by hop: [`topology`] makes the namespaces, the links
//! between them and the backends' legs, [`wireguard`] encrypts what leaves them, [`remote`] the ways to other nodes, [`returns`] the ways back of preserved client
//! addresses; [`tunnel`] keeps strangers out of the overlay; [`host`] leads published ports into the sandbox, as far as
//! [`access`] lets it, and [`flows`] has what is known pass quickly; in the [`sandbox`] [`ipvs`] balances them, or [`nftables`] by its
//! [`slots`], and [`segments`] keeps TCP's segments within what the overlay carries. [`switch`] is from the one to the other.

mod access;
mod flows;
mod host;
mod ipvs;
mod nftables;
mod remote;
mod returns;
mod sandbox;
mod segments;
mod slots;
mod switch;
mod topology;
mod tunnel;
mod wireguard;

pub use access::sets as access_sets;
pub use host::map_names as published_maps;
pub use nftables::{KEPT, rooms};
pub use sandbox::marks_map;
pub use switch::{Stayer, keep, outgoing};
pub use topology::{
    GATEWAY_LEG, OVERLAY_BRIDGE, OVERLAY_LEG, SANDBOX_PORT, encapsulation, gateway_addresses, overlay_mtu,
};

use crate::mesh::{Backend, Mesh, Port};
use crate::objects::{Family, Objects, Scheduler, Surroundings};

/// All that the mesh needs on a host like that.
pub fn objects(mesh: &Mesh, surroundings: &Surroundings) -> Objects {
    let mut objects = Objects::default();
    topology::lower(mesh, surroundings, &mut objects);
    wireguard::lower(mesh, surroundings, &mut objects);
    remote::lower(mesh, &mut objects);
    returns::lower(mesh, &mut objects);
    host::lower(mesh, surroundings, &mut objects);
    sandbox::lower(mesh, surroundings, &mut objects);
    objects
}

/// Whether anything of the mesh speaks IPv6. If not, nothing of IPv6 is touched.
fn speaks_v6(mesh: &Mesh) -> bool {
    mesh.ingress.v6.is_some() || mesh.ports().any(|port| serves(mesh, port, Family::V6))
}

/// Whether clients of that family can be served, as far as the operator has it. A port that can't is not published: it
/// is closed, and a client learns that at once.
fn serves(mesh: &Mesh, port: &Port, family: Family) -> bool {
    known(mesh, port, family).next().is_some()
}

/// Whether someone takes new clients now. Else the port has no mark in the sandbox, where nobody listens: so the
/// sandbox itself answers, with a reset at once, every time (IPVS would answer by ICMP, now and then). Connections that are
/// open need no mark: IPVS knows them.
fn answers(mesh: &Mesh, port: &Port, family: Family) -> bool {
    serving(mesh, port, family).any(|(_, weight)| weight > 0)
}

/// The backends of that family that are in the kernel's tables, with the weight they have there. The scheduler dh refuses those
/// clients whose one has weight 0, and has no flag against that: there such ones are deleted.
fn serving<'a>(mesh: &'a Mesh, port: &'a Port, family: Family) -> impl Iterator<Item = (&'a Backend, u32)> {
    let well =
        |(backend, _): &(&Backend, u32)| mesh.out.is_empty() || !mesh.out.contains(&(port.mark(), backend.address));
    let rests = |weight: u32| weight == 0 && port.scheduling.scheduler == Scheduler::DestinationHash;
    known(mesh, port, family).filter(well).filter(move |(_, weight)| !rests(*weight))
}

/// The backends of that family that may serve, with their weights.
fn known<'a>(mesh: &'a Mesh, port: &'a Port, family: Family) -> impl Iterator<Item = (&'a Backend, u32)> {
    let rests = |backend: &Backend| !mesh.resting.is_empty() && mesh.resting.contains(&(port.mark(), backend.address));
    let weight =
        move |backend: &Backend| backend.programmed_weight().map(|weight| if rests(backend) { 0 } else { weight });
    let known = mesh.serving_from_here(port).filter_map(move |backend| Some((backend, weight(backend)?)));
    known.filter(move |(backend, _)| Family::of(&backend.address) == family)
}
