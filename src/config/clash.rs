//! What each part of the file says may be right, and still not go together with what another says.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use crate::mesh::Peer;
use crate::objects::{Mac, NetnsRef, PortRange, Protocol};

use super::error::{At, Findings};
use super::network::{GatewayRead, IngressRead, OVERLAY_SUFFIX, not_a_host, overlap};
use super::reader::choice;
use super::services::{BackendSite, PortSite};

/// Two services of one name.
pub(super) fn names(names: &[At<String>], findings: &Findings<'_>) {
    let mut owners = BTreeMap::new();
    for At { value: name, at } in names {
        match owners.entry(name.as_str()) {
            Entry::Vacant(owner) => {
                owner.insert(*at);
            }
            Entry::Occupied(owner) => {
                let line = findings.line(*owner.get());
                findings.report(
                    *at,
                    format!("service \"{name}\" is already defined at line {line}; another name would do"),
                );
            }
        }
    }
}

/// Published ports that something else has: another service, or meshd itself (`taken`, and by what).
pub(super) fn ports(ports: &[PortSite], taken: &[(PortRange, &str)], findings: &Findings<'_>) {
    // Ports without overlaps, by protocol and first port: so the one that could overlap another is found at once.
    let mut owners: BTreeMap<(Protocol, u16), &PortSite> = BTreeMap::new();
    for site in ports {
        let At { value: port, at } = site.published;
        if let Some((other, owner)) = taken.iter().find(|(other, _)| other.overlaps(&port)) {
            findings.report(at, format!("{site} {} used by {owner}; another port would do", relation(&port, other)));
        }
        let before = owners.range(..=(port.protocol, port.last)).next_back();
        if let Some((_, other)) = before.filter(|(_, other)| other.published.value.overlaps(&port)) {
            let (service, place) = (&other.service, findings.place(other.published.at));
            let relation = relation(&port, &other.published.value);
            let owner = format!("published by service \"{service}\"{place}");
            findings.report(at, format!("{site} {relation} {owner}; a protocol and port has one owner"));
            continue;
        }
        owners.insert((port.protocol, port.first), site);
    }
}

fn relation(port: &PortRange, other: &PortRange) -> String {
    match (port.is_single(), other.is_single()) {
        (true, true) => "is already".to_owned(),
        (true, false) => format!("is one of {other}, already"),
        (false, true) => format!("include {other}, already"),
        (false, false) => format!("overlap {other}, already"),
    }
}

/// Two networks of one address cannot be told apart.
pub(super) fn subnets(ingress: &IngressRead, gateway: &GatewayRead, findings: &Findings<'_>) {
    for At { value: subnet, at } in ingress.endpoints.iter().map(|endpoint| endpoint.subnet) {
        let other = gateway.sites.iter().find(|(other, _)| overlap(subnet, *other));
        match other {
            Some((other, Some(site))) => {
                let line = findings.line(at);
                findings.report(
                    *site,
                    format!("gateway subnet {other} overlaps ingress subnet {subnet} at line {line}; one apart from it would do"),
                );
            }
            Some((other, None)) => findings.report(
                at,
                format!(
                    "ingress subnet {subnet} overlaps the default gateway subnet {other}; one apart from it would do"
                ),
            ),
            None => {}
        }
    }
}

/// The node is reached from outside: by an address of the underlay, of neither network that meshd makes.
pub(super) fn node_address(node: At<IpAddr>, ingress: &IngressRead, gateway: &GatewayRead, findings: &Findings<'_>) {
    let overlay = ingress.endpoints.iter().map(|endpoint| ("ingress", endpoint.subnet.value));
    let bridge = gateway.sites.iter().map(|(subnet, _)| ("gateway", *subnet));
    let At { value: address, at } = node;
    if let Some((name, subnet)) = overlay.chain(bridge).find(|(_, subnet)| subnet.contains(address)) {
        findings.report(
            at,
            format!("node address {address} is in the {name} subnet {subnet}; one that other nodes reach would do"),
        );
    }
}

/// Backends at addresses that others have. Returns those that can be.
pub(super) fn backends<'s>(
    backends: &'s [BackendSite],
    ingress: &IngressRead,
    gateway: &GatewayRead,
    peers: &[Peer],
    findings: &Findings<'_>,
) -> Vec<&'s BackendSite> {
    let sandbox = gateway.sandbox();
    let fits = |site: &&BackendSite| {
        let At { value: address, at } = site.address;
        let subnet = ingress.subnets().find(|subnet| subnet.contains(address));
        let owner = if ingress.endpoints.iter().any(|endpoint| endpoint.address.value == address) {
            "this node's own address in the ingress subnet".to_owned()
        } else if sandbox.contains(&address) {
            "the sandbox's own address in the gateway subnet".to_owned()
        } else if let Some(peer) = peers.iter().find(|peer| peer.endpoints().any(|endpoint| endpoint == address)) {
            format!("node {}'s own address in the ingress subnet", peer.name)
        } else if let Some((place, subnet)) = subnet.and_then(|subnet| Some((not_a_host(address, subnet)?, subnet))) {
            format!("{place} the ingress subnet {subnet}")
        } else {
            return in_ingress_if_attached(site, ingress, findings);
        };
        findings.report(at, format!("backend {address} is {owner}; an address of its own would do"));
        false
    };
    backends.iter().filter(fits).collect()
}

/// A namespace is attached to the overlay: with an address of the overlay.
fn in_ingress_if_attached(site: &BackendSite, ingress: &IngressRead, findings: &Findings<'_>) -> bool {
    let address = site.address.value;
    let (key, at) = match (&site.node, &site.netns) {
        (Some(node), _) => ("node", node.at),
        (None, Some(netns)) => ("netns", netns.at),
        (None, None) => return true,
    };
    if ingress.subnets().any(|subnet| subnet.contains(address)) {
        return true;
    }
    let subnets = choice(ingress.subnets());
    findings.report(
        at,
        format!("backend {address} has a `{key}` but is not in the ingress subnet; an address in {subnets}, or no `{key}`, would do"),
    );
    false
}

/// Namespaces by address: each address in one, each namespace by one name, none of them meshd's own.
pub(super) fn namespaces(backends: &[&BackendSite], ingress: &IngressRead, findings: &Findings<'_>) {
    let sandbox = &ingress.ingress.namespace;
    let own = [sandbox.clone(), format!("{sandbox}{OVERLAY_SUFFIX}")].map(|name| file(&NetnsRef::Name(name)));
    let mut of_address: BTreeMap<IpAddr, &At<NetnsRef>> = BTreeMap::new();
    let mut of_file: BTreeMap<(Option<&str>, String), &At<NetnsRef>> = BTreeMap::new();
    let mut nodes: BTreeMap<IpAddr, &BackendSite> = BTreeMap::new();
    for site in backends {
        let address = site.address.value;
        let node = site.node.as_ref().map(|node| node.value.as_str());
        let first = *nodes.entry(address).or_insert(site);
        let other = first.node.as_ref().map(|node| node.value.as_str());
        if other != node {
            let name = |node: Option<&str>| node.map_or("this node".to_owned(), |node| format!("node {node}"));
            let (other, place, here) = (name(other), findings.place(first.address.at), name(node));
            let trouble = format!("backend {address} is on {other}{place}, here on {here}; one of them would do");
            findings.report(site.node.as_ref().map_or(site.address.at, |node| node.at), trouble);
            continue;
        }
        let Some(netns) = &site.netns else { continue };
        let (name, file) = (&netns.value, file(&netns.value));
        // What a name means on another node is that node's affair.
        let spelled = of_file.entry((node, file.clone())).or_insert(netns);
        let attached = of_address.entry(address).or_insert(netns);
        let trouble = if node.is_none() && own.contains(&file) {
            format!("namespace {name} is meshd's own; a backend's would do")
        } else if spelled.value != *name {
            let (other, place) = (&spelled.value, findings.place(spelled.at));
            format!("namespace {name} is called {other}{place}; one name for it would do")
        } else if attached.value != *name {
            let (other, place) = (&attached.value, findings.place(attached.at));
            format!("backend {address} is in namespace {other}{place}, here in {name}; one of them would do")
        } else {
            continue;
        };
        findings.report(netns.at, trouble);
    }
}

/// The one file of a namespace: /var/run is a link to /run.
pub(super) fn file(netns: &NetnsRef) -> String {
    let path = netns.path();
    match path.strip_prefix("/var/run/") {
        Some(rest) => format!("/run/{rest}"),
        None => path,
    }
}

/// An end of a link on the overlay: the addresses that are reached at one MAC.
struct Leg {
    name: &'static str,
    /// The one that the MAC is made of: the lowest, IPv4 before IPv6.
    address: IpAddr,
    at: usize,
}

/// Two endpoints of the overlay with one MAC (see [`Mac::of`]) would get each other's frames.
pub(super) fn macs(backends: &[&BackendSite], ingress: &IngressRead, peers: &[At<IpAddr>], findings: &Findings<'_>) {
    let mut owners: BTreeMap<Mac, Leg> = BTreeMap::new();
    let node = ingress.endpoints.first().map(|endpoint| endpoint.address);
    let node = node.map(|At { value: address, at }| Leg { name: "ingress address", address, at });
    let peers = peers.iter().map(|peer| Leg { name: "peer's ingress address", address: peer.value, at: peer.at });
    for leg in node.into_iter().chain(peers).chain(legs(backends, ingress)) {
        match owners.entry(Mac::of(&leg.address)) {
            Entry::Vacant(owner) => {
                owner.insert(leg);
            }
            Entry::Occupied(owner) => {
                let (mac, Leg { name, address, at }) = (owner.key(), owner.get());
                let place = findings.place(*at);
                findings.report(
                    leg.at,
                    format!(
                        "{} {} makes the same MAC {mac} as {name} {address}{place}; \
                         an address with other last 32 bits would do",
                        leg.name, leg.address
                    ),
                );
            }
        }
    }
}

/// The legs of backends in the order of the file: one for each namespace, and for each address in none.
fn legs(backends: &[&BackendSite], ingress: &IngressRead) -> Vec<Leg> {
    type Place<'s> = (Option<&'s str>, &'s NetnsRef);
    let mut netns_of: BTreeMap<IpAddr, Option<Place<'_>>> = BTreeMap::new();
    let mut first_site: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let on_overlay = backends.iter().filter(|site| ingress.subnets().any(|subnet| subnet.contains(site.address.value)));
    for site in on_overlay {
        let At { value: address, at } = site.address;
        first_site.entry(address).or_insert(at);
        let netns = netns_of.entry(address).or_default();
        let node = site.node.as_ref().map(|node| node.value.as_str());
        *netns = netns.or(site.netns.as_ref().map(|netns| (node, &netns.value)));
    }
    let mut attached: BTreeMap<Place<'_>, IpAddr> = BTreeMap::new();
    let mut alone = Vec::new();
    // In their order, so the first address of a namespace is its lowest.
    for (address, netns) in netns_of {
        match netns {
            Some(netns) => {
                attached.entry(netns).or_insert(address);
            }
            None => alone.push(address),
        }
    }
    let mut legs: Vec<Leg> = attached
        .into_values()
        .chain(alone)
        .map(|address| Leg { name: "backend", address, at: first_site.get(&address).copied().unwrap_or(0) })
        .collect();
    legs.sort_by_key(|leg| leg.at);
    legs
}
