//! Where a port is published, and whether a client may come to it.

use std::net::IpAddr;

use super::walk::Walk;
use crate::control::protocol::{Hop, Verdict};
use crate::dataplane::access_sets;
use crate::mesh::Bind;
use crate::objects::{Family, Netns, Network, Space};

pub fn way_in(walk: &mut Walk<'_>, family: Family) {
    for (set, what) in access_sets(family) {
        walk.elements(Netns::Host, set, what);
    }
    let access = &walk.port.access;
    let guarded = access.allow.is_some() || !access.deny.is_empty();
    if guarded {
        walk.chain(Netns::Host, "access");
    }
    let Some(from) = walk.from.filter(|_| guarded) else { return };
    let among = |networks: &std::collections::BTreeSet<Network>| {
        networks.iter().find(|network| network.0.contains(from)).map(|network| network.0.to_string())
    };
    let (denied, allowed) = (among(&access.deny), access.allow.as_ref().map(among));
    let (found, verdict, reason) = match (denied, allowed) {
        (Some(network), _) => (
            format!("deny = {network}"),
            Verdict::Broken,
            Some(format!("{from} is denied: it is dropped without a word")),
        ),
        (None, Some(None)) => {
            let reason = format!("{from} is in none of the networks that are allowed: it is dropped without a word");
            ("not in allow".to_owned(), Verdict::Broken, Some(reason))
        }
        (None, Some(Some(network))) => (format!("allow = {network}"), Verdict::Good, None),
        (None, None) => ("not denied".to_owned(), Verdict::Good, None),
    };
    walk.hop(Hop {
        place: walk.place(&Space::Ours(Netns::Host)),
        what: "who may come".to_owned(),
        wanted: format!("{from} may"),
        found,
        verdict,
        reason,
        look: "meshctl service ls -o json".to_owned(),
    });
}

/// Whether a client that comes in by that link, or is the node itself, comes to where the port is bound. To which address it connects
/// is not known.
pub fn bind(walk: &mut Walk<'_>, own: bool, uplink: Option<&str>) {
    let bind = &walk.port.access.bind;
    if bind.is_empty() {
        return;
    }
    let by_address = bind.iter().any(|bind| matches!(bind, Bind::Address(_)));
    let by_link = |link: &str| bind.contains(&Bind::Link(link.to_owned()));
    let reason = match uplink {
        _ if by_address => None,
        _ if own => Some("it is bound to links, and what this node sends itself comes in by none".to_owned()),
        Some(link) if !by_link(link) => Some(format!("this client comes in by {link}, where the port is closed")),
        _ => None,
    };
    let all: Vec<String> = bind.iter().map(Bind::to_string).collect();
    let wanted = format!("published at {} only", all.join(", "));
    walk.hop(Hop {
        place: walk.place(&Space::Ours(Netns::Host)),
        what: "bind".to_owned(),
        found: wanted.clone(),
        wanted,
        verdict: if reason.is_some() { Verdict::Broken } else { Verdict::Good },
        reason,
        look: "nft list set inet meshd bound_ports".to_owned(),
    });
}

/// To [::1] a published port is closed: IPv6 has nothing like route_localnet.
pub fn loopback6(walk: &mut Walk<'_>) {
    if walk.from.is_some_and(|from| from.is_ipv6() && from.is_loopback()) {
        walk.hop(Hop {
            place: walk.place(&Space::Ours(Netns::Host)),
            what: "client".to_owned(),
            wanted: "an address that can leave the node".to_owned(),
            found: "::1".to_owned(),
            verdict: Verdict::Broken,
            reason: Some("what is sent from ::1 stays on the node: connect to another of its addresses".to_owned()),
            look: "nft list chain inet meshd output".to_owned(),
        });
    }
}

/// An address that clients may connect to, where the port is bound to addresses alone.
pub fn only_address(walk: &Walk<'_>, family: Family) -> Option<IpAddr> {
    let mut addresses = walk.port.access.bind.iter().map(|bind| match bind {
        Bind::Address(address) => Some(*address),
        Bind::Link(_) => None,
    });
    match (addresses.next(), addresses.next()) {
        (Some(Some(address)), None) if Family::of(&address) == family => Some(address),
        _ => None,
    }
}
