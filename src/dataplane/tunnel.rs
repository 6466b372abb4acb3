//! Who may speak into the overlay: the tunnel takes what any address sends it, so strangers are dropped before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::mesh::Mesh;
use crate::objects::{
    Action, Chain, ChainKind, Family, Hook, Key, Match, Rule, Set, SetElement, SetKind, TUNNEL_CHAIN, Table,
};

/// The kernel's NF_IP_PRI_FILTER. A drop is final, whatever others accept.
const FILTER: i32 = 0;

/// The peers' addresses, by family.
fn set_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "peers4",
        Family::V6 => "peers6",
    }
}

/// What is the tunnel's, where packets of it pass the host as they are.
pub(super) fn packets(mesh: &Mesh) -> Option<Match> {
    let passes = mesh.ingress.encryption.is_none() && mesh.other_nodes().next().is_some();
    passes.then_some(Match::Vxlan { port: mesh.ingress.port, vni: mesh.ingress.vni })
}

/// Packets of our VNI come from a peer, or go no further; where the tunnel is encrypted, none comes as it is. Those of another on the same port are someone else's.
pub(super) fn lower(mesh: &Mesh, table: &mut Table) {
    let open = mesh.ingress.encryption.is_none();
    let peers: BTreeSet<IpAddr> = mesh.peers.iter().filter(|_| open).map(|peer| peer.address).collect();
    let mut rules = Vec::new();
    // Who is known passes by one look-up: every packet of the tunnel comes by here.
    for family in Family::ALL {
        let elements =
            peers.iter().filter(|peer| Family::of(peer) == family).copied().map(SetElement::Address).collect();
        let name = set_name(family).to_owned();
        table.sets.insert(name.clone(), Set { kind: SetKind::Addresses(family), elements });
        rules.push(Rule::new([Match::Among { key: Key::Source(family), set: name }], Action::Accept));
    }
    let ours = Match::Vxlan { port: mesh.ingress.port, vni: mesh.ingress.vni };
    rules.push(Rule::new([ours], Action::Drop));
    let chain = Chain { kind: ChainKind::Filter, hook: Hook::Input, priority: FILTER, rules };
    table.chains.insert(TUNNEL_CHAIN.to_owned(), chain);
}
