//! The host's flow table: a connection into the sandbox that both sides have answered passes from link to link by one look-up, past
//! routing, NAT and all chains (Linux, Documentation/networking/nf_flowtable.rst). It spares a request a third of what the way into the sandbox
//! costs (bench/README.md). IPVS, in the sandbox, sees every packet as before: so no backend that goes leaves an entry here.
//!
//! What passes so is not asked again whether it may: where a port keeps someone out (`allow`, `deny`) there is none, else
//! whoever is to be kept out from now on would go on with the connections that it has.

use std::collections::BTreeSet;

use crate::mesh::Mesh;
use crate::objects::{Action, Chain, ChainKind, FLOWS, Hook, Match, Rule, Surroundings, Table};

use super::access;

/// Behind everyone's filters: what one of them drops never comes here.
pub(super) const LAST: i32 = 225;
/// The kernel takes 255 (nf_tables_parse_netdev_hooks), one of them the sandbox's.
const MOST_LINKS: usize = 254;

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, table: &mut Table) {
    if !mesh.gateway.flow_table || surroundings.uplinks.is_empty() || access::is_guarded(mesh) {
        return;
    }
    let link = mesh.gateway.link();
    let links: BTreeSet<String> =
        surroundings.uplinks.iter().take(MOST_LINKS).cloned().chain([link.to_owned()]).collect();
    // Its answers would leave by the link that the connection came in by, whatever the routes say; and are sent in frames.
    let ours = [Match::InterfaceOut(link.to_owned()), Match::Established, Match::Ethernet, Match::ReversePath];
    let rule = Rule::new(ours, Action::Offload);
    let chain = Chain::base(ChainKind::Filter, Hook::Forward, LAST, vec![rule]);
    table.chains.insert(FLOWS.to_owned(), chain);
    table.flows = Some(links);
}
