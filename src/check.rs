//! Trying all that is published: which pairs there are, and what an attempt says of one.
//!
//! A client is as good as it gets from here: this node itself, which goes in by all that others pass but the links that they come in
//! by. So `allow`, `deny` and a bound link are not tried ([`explain`](crate::explain) says more of one client).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::control::protocol::{CheckQuery, Checked, Kind, PortName, Verdict};
use crate::mesh::{Backend, Bind, Mesh, Mode, Network, Port};
use crate::objects::{Connects, Family, Netns, PortRange, Protocol};

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Where it is made from.
    pub from: Netns,
    pub protocol: Protocol,
    pub to: SocketAddr,
    pub service: String,
    pub port: PortRange,
    /// Whose address that is, or where the backend is.
    pub node: String,
}

/// All that are to be tried, of one service or of all: each published port by each address of this node, which are these, and of
/// the others if they are asked for; and each backend from the sandbox. A range is tried by its first port.
pub fn pairs(mesh: &Mesh, addresses: &BTreeSet<IpAddr>, asked: &CheckQuery) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let peers: Vec<(&str, IpAddr)> = if asked.all_nodes {
        mesh.other_nodes().map(|peer| (peer.name.as_str(), peer.address)).collect()
    } else {
        Vec::new()
    };
    for service in
        mesh.services.iter().filter(|service| asked.service.as_ref().is_none_or(|name| *name == service.name))
    {
        for port in &service.ports {
            let pair = |from, to, node: &str| Pair {
                from,
                protocol: port.published.protocol,
                to,
                service: service.name.clone(),
                port: port.published,
                node: node.to_owned(),
            };
            let first = port.published.first;
            let open = |address: &IpAddr| is_open(mesh, port, Family::of(address));
            let own = addresses.iter().filter(|address| open(address) && reaches(port, address));
            pairs.extend(own.map(|address| pair(Netns::Host, SocketAddr::new(*address, first), &mesh.node)));
            let theirs = peers.iter().filter(|(_, address)| open(address) && is_for_all(mesh, port));
            pairs.extend(theirs.map(|(name, address)| pair(Netns::Host, SocketAddr::new(*address, first), name)));
            let target = port.target.unwrap_or(first);
            let backends = port.backends.iter().filter(|backend| is_tried(mesh, port, backend));
            pairs.extend(
                backends.map(|backend| {
                    pair(Netns::Sandbox, SocketAddr::new(backend.address, target), mesh.node_of(backend))
                }),
            );
        }
    }
    pairs
}

/// Whether clients of that family are to be served now.
fn is_open(mesh: &Mesh, port: &Port, family: Family) -> bool {
    let takes = |backend: &&Backend| {
        let key = (port.mark(), backend.address);
        Family::of(&backend.address) == family
            && backend.programmed_weight().is_some_and(|weight| weight > 0)
            && !mesh.out.contains(&key)
            && !mesh.resting.contains(&key)
    };
    mesh.serving_from_here(port).any(|backend| takes(&backend))
}

/// Whether another node is to let this one come to the port, for all that is known here: not who is where a port of mode host is
/// published, nor to what of its own another node binds it.
fn is_for_all(mesh: &Mesh, port: &Port) -> bool {
    let among = |networks: &BTreeSet<Network>| {
        mesh.address.is_none_or(|own| networks.iter().any(|network| network.0.contains(own)))
    };
    let access = &port.access;
    let denied = !access.deny.is_empty() && among(&access.deny);
    port.mode == Mode::Ingress && access.bind.is_empty() && access.allow.as_ref().is_none_or(among) && !denied
}

/// Whether this node's own connections to that address come to the port. IPv6 has nothing like route_localnet.
fn reaches(port: &Port, address: &IpAddr) -> bool {
    let bind = &port.access.bind;
    !matches!(address, IpAddr::V6(ip) if ip.is_loopback())
        && (bind.is_empty() || bind.contains(&Bind::Address(*address)))
}

fn is_tried(mesh: &Mesh, port: &Port, backend: &Backend) -> bool {
    mesh.sends_to(port, backend) && backend.programmed_weight().is_some()
}

/// What it came to; `None`: it was not tried.
pub fn checked(pair: &Pair, outcome: Option<&Connects>) -> Checked {
    let (verdict, result) = match (outcome, pair.protocol) {
        (None, _) => (Verdict::Unsure, format!("{} is not tried", pair.protocol)),
        (Some(connects @ Connects::Answered(_)), _) => (Verdict::Good, connects.to_string()),
        // To a datagram without a question an answer is not owed.
        (Some(connects @ Connects::Silent(_)), Protocol::Udp) => (Verdict::Unsure, connects.to_string()),
        (Some(connects), _) => (Verdict::Broken, connects.to_string()),
    };
    let milliseconds = match outcome {
        Some(Connects::Answered(after)) => Some(after.as_secs_f64() * 1e3),
        _ => None,
    };
    Checked {
        kind: if pair.from == Netns::Host { Kind::Port } else { Kind::Backend },
        service: pair.service.clone(),
        port: PortName(pair.port).to_string(),
        to: pair.to.to_string(),
        node: pair.node.clone(),
        verdict,
        result,
        milliseconds,
    }
}
