//! Namespaces, links, addresses, routes, and the legs of backends on the overlay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mesh::{Gateway, Ingress, Mesh, NetnsRef};
use crate::objects::{
    Address, HOST_END, Leg, Link, LinkId, LinkKind, Mac, Netns, Objects, Route, Surroundings, TUNNEL,
};

use super::speaks_v6;

/// The sandbox's leg on the overlay, as Swarm calls it.
pub const OVERLAY_LEG: &str = "eth0";
/// The sandbox's leg towards the host.
pub const GATEWAY_LEG: &str = "eth1";
/// The other ends of those two.
pub const SANDBOX_PORT: &str = "sbox0";
pub const OVERLAY_BRIDGE: &str = "br0";

/// Bytes of the IP header that each encapsulation puts in front, and of what comes with it.
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// Ethernet 14, VXLAN 8, UDP 8.
const VXLAN: u32 = 30;
/// WireGuard 16, the tag 16, UDP 8.
const WIREGUARD: u32 = 40;
/// Bytes. Between host and sandbox nothing is encapsulated.
const GATEWAY_MTU: u32 = 1500;

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    objects.namespaces.extend([Netns::Sandbox, Netns::Overlay]);
    gateway(mesh, objects);
    overlay(mesh, surroundings, objects);
    if surroundings.bridge_netfilter {
        // There is no rule in there, and to be asked for one costs each packet two microseconds.
        for of in ["iptables", "ip6tables", "arptables"] {
            objects.sysctls.insert((Netns::Overlay, format!("net/bridge/bridge-nf-call-{of}")), "0".to_owned());
        }
    }
    legs(mesh, surroundings, objects);
}

/// The first and the second address of each subnet in use: the host's and the sandbox's.
pub fn gateway_addresses(gateway: &Gateway, v6: bool) -> Vec<(IpNetwork, IpNetwork)> {
    let mut pairs = Vec::new();
    let v4 = IpNetwork::V4(gateway.subnet);
    pairs.push((host_address(v4, 1), host_address(v4, 2)));
    if v6 {
        let v6 = IpNetwork::V6(gateway.subnet6);
        pairs.push((host_address(v6, 1), host_address(v6, 2)));
    }
    pairs
}

/// The n-th address of a network, with the network's prefix length.
fn host_address(network: IpNetwork, n: u32) -> IpNetwork {
    let address = match network.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base).wrapping_add(n)).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base).wrapping_add(n.into())).into()),
    };
    with_prefix(address, network)
}

pub(super) fn with_prefix(address: IpAddr, network: IpNetwork) -> IpNetwork {
    // The prefix length is the network's own, so it always fits its family.
    IpNetwork::new(address, network.prefix()).unwrap_or(network)
}

fn port(master: &str, mut link: Link) -> Link {
    link.master = Some(master.to_owned());
    link
}

pub(super) fn link(kind: LinkKind, mac: Mac, mtu: u32) -> Link {
    Link { kind, mac, mtu, master: None, isolated: false, up: true }
}

/// A pair of linked devices, each with its MAC.
fn veth(objects: &mut Objects, near: (LinkId, Mac), far: (LinkId, Mac), mtu: u32) {
    objects.links.insert(near.0.clone(), link(LinkKind::Veth { peer: far.0.clone() }, near.1, mtu));
    objects.links.insert(far.0, link(LinkKind::Veth { peer: near.0 }, far.1, mtu));
}

/// Makes one end of a pair a port of a bridge.
fn enslave(objects: &mut Objects, id: &LinkId, master: &str, isolated: bool) {
    if let Some(end) = objects.links.remove(id) {
        objects.links.insert(id.clone(), Link { isolated, ..port(master, end) });
    }
}

/// The host's end, the sandbox's, and the sandbox's way out. A bridge between them costs every packet some (bench/README.md), more where
/// br_netfilter is loaded, as Docker does it: so there is none unless the operator wants one.
fn gateway(mesh: &Mesh, objects: &mut Objects) {
    let addresses = gateway_addresses(&mesh.gateway, speaks_v6(mesh));
    let (host_ip, sandbox_ip) = (addresses[0].0.ip(), addresses[0].1.ip());
    let near = LinkId::new(Netns::Host, mesh.gateway.link());
    let outer = LinkId::new(Netns::Host, HOST_END);
    let inner = LinkId::new(Netns::Sandbox, GATEWAY_LEG);

    // Whatever has the host's address has the same MAC, so that the sandbox need not ask again when one takes the other's place.
    let gateway = Mac::of(&host_ip);
    let outer_mac = if mesh.gateway.bridge.is_some() { Mac::with_prefix(0x43, &sandbox_ip) } else { gateway };
    veth(objects, (outer.clone(), outer_mac), (inner.clone(), Mac::of(&sandbox_ip)), GATEWAY_MTU);
    if let Some(bridge) = &mesh.gateway.bridge {
        objects.links.insert(near.clone(), link(LinkKind::Bridge, gateway, GATEWAY_MTU));
        // Isolated: what else may one day hang on this bridge is no one's neighbour.
        enslave(objects, &outer, bridge, true);
    }

    for (host_ip, sandbox_ip) in addresses {
        objects.addresses.insert(Address { link: near.clone(), ip: host_ip });
        objects.addresses.insert(Address { link: inner.clone(), ip: sandbox_ip });
        let gateway = host_ip.ip();
        objects.routes.insert(Route { link: inner.clone(), destination: everything(gateway), gateway: Some(gateway) });
    }
}

/// The default route's destination, in that address's family.
pub(super) fn everything(family: IpAddr) -> IpNetwork {
    let any: IpAddr = if family.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // 0 is a prefix length of both families.
    IpNetwork::new(any, 0).unwrap_or(any.into())
}

/// The bridge and the tunnel of the overlay, and the sandbox's leg on it.
fn overlay(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    let ingress = &mesh.ingress;
    let mtu = overlay_mtu(mesh, surroundings);
    let endpoint = endpoints(ingress);
    let Some(first) = endpoint.first().map(IpNetwork::ip) else { return };
    let leg = LinkId::new(Netns::Sandbox, OVERLAY_LEG);
    let other_end = LinkId::new(Netns::Overlay, SANDBOX_PORT);

    objects.links.insert(
        LinkId::new(Netns::Overlay, OVERLAY_BRIDGE),
        link(LinkKind::Bridge, Mac::with_prefix(0x44, &first), mtu),
    );
    // Encrypted, its packets leave by the namespace that it is in itself, where no way but WireGuard's leads out.
    let underlay = if ingress.encryption.is_some() { Netns::Overlay } else { Netns::Host };
    let tunnel = LinkKind::Vxlan { vni: ingress.vni, port: ingress.port, local: mesh.address, underlay };
    objects.links.insert(
        LinkId::new(Netns::Overlay, TUNNEL),
        port(OVERLAY_BRIDGE, link(tunnel, Mac::with_prefix(0x45, &first), mtu)),
    );
    veth(objects, (leg.clone(), Mac::of(&first)), (other_end.clone(), Mac::with_prefix(0x43, &first)), mtu);
    enslave(objects, &other_end, OVERLAY_BRIDGE, false);
    for ip in endpoint {
        objects.addresses.insert(Address { link: leg.clone(), ip });
    }
}

/// This node's ingress addresses, IPv4 first, with their subnets' prefix lengths.
pub(super) fn endpoints(ingress: &Ingress) -> Vec<IpNetwork> {
    let v4 = ingress.v4.map(|endpoint| with_prefix(endpoint.address.into(), IpNetwork::V4(endpoint.subnet)));
    let v6 = ingress.v6.map(|endpoint| with_prefix(endpoint.address.into(), IpNetwork::V6(endpoint.subnet)));
    v4.into_iter().chain(v6).collect()
}

/// Bytes that a packet of the overlay can have.
pub fn overlay_mtu(mesh: &Mesh, surroundings: &Surroundings) -> u32 {
    mesh.ingress.mtu.unwrap_or(surroundings.underlay_mtu.saturating_sub(encapsulation(mesh)))
}

/// Bytes that a packet of the overlay grows by until it leaves the node.
pub fn encapsulation(mesh: &Mesh) -> u32 {
    vxlan_overhead(mesh) + if mesh.ingress.encryption.is_some() { ip_header(mesh) + WIREGUARD } else { 0 }
}

pub(super) fn vxlan_overhead(mesh: &Mesh) -> u32 {
    ip_header(mesh) + VXLAN
}

fn ip_header(mesh: &Mesh) -> u32 {
    match mesh.address {
        Some(IpAddr::V6(_)) => IPV6,
        _ => IPV4,
    }
}

/// One leg for each namespace that is ours to attach, with all addresses that backends have in it.
fn legs(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    let subnets: Vec<IpNetwork> = endpoints(&mesh.ingress);
    let mut namespaces: BTreeMap<&NetnsRef, BTreeSet<IpNetwork>> = BTreeMap::new();
    for backend in mesh.ports().flat_map(|port| &port.backends) {
        if mesh.is_elsewhere(backend) {
            continue;
        }
        let subnet = subnets.iter().find(|subnet| subnet.contains(backend.address));
        if let (Some(netns), Some(subnet)) = (&backend.netns, subnet) {
            namespaces.entry(netns).or_default().insert(with_prefix(backend.address, *subnet));
        }
    }
    for (netns, addresses) in namespaces {
        // IPv4 sorts before IPv6: a dual-stack leg has the MAC of its IPv4 address.
        let Some(mac) = addresses.first().map(|address| Mac::of(&address.ip())) else { continue };
        let leg = Leg { netns: Some(netns.clone()), mtu: overlay_mtu(mesh, surroundings), addresses };
        objects.legs.insert(mac, leg);
    }
}
