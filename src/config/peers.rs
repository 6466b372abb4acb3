//! `[[peer]]`: the other nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mesh::Peer;
use crate::objects::{Family, PublicKey};

use super::error::At;
use super::network::{IngressRead, family_name, not_a_host, unreachable};
use super::reader::{Section, choice, quoted};
use super::services;

const PEER: &[&str] = &["name", "address", "ingress", "ingress6", "public_key"];

/// The peers, and where each one's ingress addresses stand.
#[derive(Default)]
pub(super) struct PeersRead {
    pub peers: Vec<Peer>,
    /// By the first address, of which the MAC is made.
    pub endpoints: Vec<At<IpAddr>>,
    /// What the list says of this node itself.
    pub own_key: Option<PublicKey>,
}

/// What a backend's `node` may be.
#[derive(Clone, Default)]
pub(super) struct Nodes {
    /// This one's name, if the file gives it.
    pub own: Option<String>,
    pub peers: Vec<String>,
}

/// This node, as its own sections say it.
pub(super) struct Own<'s> {
    pub name: Option<&'s str>,
    pub address: Option<IpAddr>,
    /// `None`: it could not be read.
    pub ingress: Option<&'s IngressRead>,
}

impl Own<'_> {
    /// This node's end of the overlay, of that family.
    fn endpoint(&self, family: Family) -> Option<IpAddr> {
        let mut endpoints = self.ingress?.endpoints.iter().map(|endpoint| endpoint.address.value);
        endpoints.find(|address| Family::of(address) == family)
    }
}

/// Reads them. This node itself may be listed too, so that all nodes can have the same list; it is left out.
pub(super) fn read(root: &Section<'_>, own: &Own<'_>) -> PeersRead {
    let sections = root.sections("peer", "[[peer]]", PEER).unwrap_or_default();
    let mut read = PeersRead::default();
    let mut names = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut keys: BTreeMap<PublicKey, usize> = BTreeMap::new();
    let encrypted = own.ingress.is_some_and(|read| read.ingress.encryption.is_some());
    for section in &sections {
        let Some((name, address)) = name_and_address(section) else { continue };
        let key = public_key(section, &mut keys);
        if own.name == Some(name.value.as_str()) {
            itself(section, address, own);
            read.own_key = key;
            continue;
        }
        if let Some(first) = names.insert(name.value.clone(), name.at) {
            let (name, place) = (&name.value, section.findings.place(first));
            section.report(section.at, format!("peer \"{name}\" is already defined{place}; another name would do"));
            continue;
        }
        at_the_tunnel(section, address, own);
        if encrypted && !section.has("public_key") {
            section.lacks("public_key", "what `meshd --public-key` prints on that node");
        }
        let v4 = endpoint(section, "ingress", Family::V4, own);
        let v6 = endpoint(section, "ingress6", Family::V6, own);
        for ip in [Some(address), v4, v6].into_iter().flatten() {
            if let Some(first) = addresses.get(&ip.value).copied() {
                let place = section.findings.place(first);
                let trouble = format!("{} is already a peer's address{place}", ip.value);
                section.report(ip.at, format!("{trouble}; one of its own would do"));
            } else {
                addresses.insert(ip.value, ip.at);
            }
        }
        read.endpoints.extend(v4.or(v6).filter(|ip| addresses.get(&ip.value) == Some(&ip.at)));
        let (ingress, ingress6) = (v4.and_then(as_v4), v6.and_then(as_v6));
        read.peers.push(Peer { name: name.value, address: address.value, key, ingress, ingress6 });
    }
    read
}

/// By which one node is known, and no other.
fn public_key(section: &Section<'_>, keys: &mut BTreeMap<PublicKey, usize>) -> Option<PublicKey> {
    let wanted = "44 characters of base64 such as `meshd --public-key` prints";
    let At { value: key, at } = section.text("public_key", wanted, |text| text.parse().ok())?;
    if let Some(first) = keys.insert(key, at) {
        let place = section.findings.place(first);
        section.report(at, format!("`public_key` is \"{key}\", a peer's already{place}; that node's own would do"));
    }
    Some(key)
}

fn name_and_address(section: &Section<'_>) -> Option<(At<String>, At<IpAddr>)> {
    for (key, remedy) in [("name", "the one that backends' `node` has"), ("address", "its end of the VXLAN tunnel")] {
        if !section.has(key) {
            section.lacks(key, remedy);
        }
    }
    if !section.has("ingress") && !section.has("ingress6") {
        section.lacks("ingress", "its own address in [ingress] `subnet`");
    }
    let name = services::name(section);
    let wanted = "an IPv4 or IPv6 address at which this node reaches it";
    let address =
        section.text("address", wanted, |text| text.parse::<IpAddr>().ok().filter(|ip| unreachable(*ip).is_none()));
    Some((name?, address?))
}

/// What the list says of this node is what its own sections say.
fn itself(section: &Section<'_>, address: At<IpAddr>, own: &Own<'_>) {
    let same = |key: &str, found: At<IpAddr>, known: Option<IpAddr>, whose: &str| {
        if known != Some(found.value) {
            let known = known.map_or("not given".to_owned(), |known| known.to_string());
            let trouble = format!("`{key}` of this node is \"{}\", and {whose} is {known}", found.value);
            section.report(found.at, format!("{trouble}; the same in both would do"));
        }
    };
    same("address", address, own.address, "[node] `address`");
    for (key, whose, family) in
        [("ingress", "[ingress] `address`", Family::V4), ("ingress6", "[ingress] `address6`", Family::V6)]
    {
        if let (Some(found), true) = (ip(section, key, family), own.ingress.is_some()) {
            same(key, found, own.endpoint(family), whose);
        }
    }
}

/// Both ends of the tunnel are of one family, and outside of what it carries.
fn at_the_tunnel(section: &Section<'_>, address: At<IpAddr>, own: &Own<'_>) {
    let At { value: ip, at } = address;
    let ours = own.address.map_or(Family::V4, |address| Family::of(&address));
    let overlay = own.ingress.and_then(|ingress| ingress.subnets().find(|subnet| subnet.contains(ip)));
    let (trouble, remedy) = if own.address == Some(ip) {
        ("this node's own".to_owned(), "its own address, or this node's [node] `name`, would do".to_owned())
    } else if let Some(subnet) = overlay {
        (format!("in the ingress subnet {subnet}"), "one of the network between the nodes would do".to_owned())
    } else if Family::of(&ip) != ours {
        let family = family_name(ours);
        let trouble = "of another family than this end of the tunnel".to_owned();
        (trouble, format!("an {family} address here, or another [node] `address`, would do"))
    } else {
        return;
    };
    section.report(at, format!("`address` is \"{ip}\", {trouble}; {remedy}"));
}

fn as_v4(found: At<IpAddr>) -> Option<Ipv4Addr> {
    match found.value {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(found: At<IpAddr>) -> Option<Ipv6Addr> {
    match found.value {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

fn ip(section: &Section<'_>, key: &str, family: Family) -> Option<At<IpAddr>> {
    let wanted = format!("an {} address of its own in the ingress subnet", family_name(family));
    section.text(key, wanted, |text| text.parse::<IpAddr>().ok().filter(|ip| Family::of(ip) == family))
}

/// A peer's own address in the overlay.
fn endpoint(section: &Section<'_>, key: &str, family: Family, own: &Own<'_>) -> Option<At<IpAddr>> {
    let address = ip(section, key, family)?;
    let ingress = own.ingress?;
    let At { value: ip, at } = address;
    let subnet = ingress.subnets().find(|subnet| subnet.contains(ip));
    let trouble = match subnet {
        _ if own.endpoint(family) == Some(ip) => "this node's own".to_owned(),
        None => format!("outside the ingress subnet {}", choice(ingress.subnets())),
        Some(subnet) => match not_a_host(ip, subnet) {
            Some(place) => format!("{place} {subnet}"),
            None => return Some(address),
        },
    };
    let found = quoted(&ip.to_string());
    section.report(at, format!("`{key}` is {found}, {trouble}; an address of its own there would do"));
    None
}
