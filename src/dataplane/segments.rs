//! How large TCP's segments may be towards backends that someone else attached.
//!
//! A leg that meshd makes has the overlay's MTU, so both ends agree on segments that fit. One of another's making may have a
//! larger one, and what is too large for a bridge vanishes there without a word. So the sandbox, which all packets pass
//! both ways, lowers what either end asks for.

use crate::mesh::{Mesh, Protocol};
use crate::objects::{Action, Chain, ChainKind, Family, Hook, Match, Rule, Surroundings, Table};

use super::known;
use super::topology::overlay_mtu;

/// The kernel's NF_IP_PRI_MANGLE. IPVS sends what it has balanced by this hook too, both ways.
const MANGLE: i32 = -150;

/// Bytes of the IP header and TCP's, without options.
fn headers(family: Family) -> u32 {
    match family {
        Family::V4 => 20 + 20,
        Family::V6 => 40 + 20,
    }
}

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, table: &mut Table) {
    let mtu = overlay_mtu(mesh, surroundings);
    let rule = |family| {
        // No packet is larger than 65535 bytes, whatever the configuration has.
        let bytes = u16::try_from(mtu.saturating_sub(headers(family))).unwrap_or(u16::MAX);
        Rule::new([Match::Family(family), Match::Syn], Action::SegmentSize(bytes))
    };
    let rules: Vec<Rule> = Family::ALL.into_iter().filter(|family| has_strangers(mesh, *family)).map(rule).collect();
    if !rules.is_empty() {
        let chain = Chain::base(ChainKind::Filter, Hook::Postrouting, MANGLE, rules);
        table.chains.insert("segments".to_owned(), chain);
    }
}

/// Whether any TCP port has a backend of that family on the overlay that meshd does not attach, on whatever node.
fn has_strangers(mesh: &Mesh, family: Family) -> bool {
    let tcp = mesh.ports().filter(|port| port.published.protocol == Protocol::Tcp);
    tcp.flat_map(|port| known(mesh, port, family))
        .any(|(backend, _)| backend.netns.is_none() && mesh.ingress.contains(backend.address))
}
