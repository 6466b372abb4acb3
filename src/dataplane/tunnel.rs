//! Who may speak into the overlay: the tunnel takes what any address sends it, so strangers are dropped before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::mesh::Mesh;
use crate::objects::{
    Action, Chain, ChainKind, Family, Hook, Key, Match, Rule, Set, SetElement, SetKind, TUNNEL_CHAIN, Table,
};

/// The kernel's NF_IP_PRI_RAW, and NF_IP_PRI_FILTER: a drop there is final, whatever others accept.
const RAW: i32 = -300;
const FILTER: i32 = 0;

/// The peers' addresses, by family.
fn set_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "peers4",
        Family::V6 => "peers6",
    }
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
    rules.push(Rule::new([ours.clone()], Action::Drop));
    let chain = Chain::base(ChainKind::Filter, Hook::Input, FILTER, rules);
    table.chains.insert(TUNNEL_CHAIN.to_owned(), chain);
    if open && mesh.other_nodes().next().is_some() {
        // The source port of a packet of the tunnel is a hash of what is inside, and nothing comes back to it: each connection
        // to a backend of another node would be two more of the tunnel's, on both nodes.
        let (to_us, own) = (vec![ours.clone(), Match::DestinationLocal], vec![ours]);
        // What others' tunnels send by this host is theirs.
        for (name, hook, matches) in [("untracked", Hook::Prerouting, to_us), ("untracked_own", Hook::Output, own)] {
            let rules = vec![Rule::new(matches, Action::Untracked)];
            table.chains.insert(name.to_owned(), Chain::base(ChainKind::Filter, hook, RAW, rules));
        }
    }
}
