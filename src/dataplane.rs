//! What has to be in the kernel for a mesh to work: pure functions from a [`Mesh`] to [`Objects`].
//!
//! What a packet meets on its way is built here, hop by hop: [`topology`] makes the namespaces, the links
//! between them and the backends' legs; [`host`] leads published ports into the sandbox; [`ipvs`] balances
//! them there.

mod host;
mod ipvs;
mod topology;

pub use topology::HOST_END;

use crate::mesh::{Mesh, Port};
use crate::objects::{Family, Objects, Surroundings};

/// All that the mesh needs on a host like that, balanced by IPVS.
pub fn objects(mesh: &Mesh, surroundings: &Surroundings) -> Objects {
    let mut objects = Objects::default();
    topology::lower(mesh, surroundings, &mut objects);
    host::lower(mesh, surroundings, &mut objects);
    ipvs::lower(mesh, surroundings, &mut objects);
    objects
}

/// Whether anything of the mesh speaks IPv6. If not, nothing of IPv6 is touched.
fn speaks_v6(mesh: &Mesh) -> bool {
    mesh.ingress.v6.is_some() || ports(mesh).any(|port| serves(port, Family::V6))
}

/// Whether clients of that family can be served. A port that can't is not published: it is closed, and a
/// client learns that at once.
fn serves(port: &Port, family: Family) -> bool {
    port.backends.iter().any(|backend| Family::of(&backend.address) == family)
}

fn ports(mesh: &Mesh) -> impl Iterator<Item = &Port> {
    mesh.services.iter().flat_map(|service| &service.ports)
}
