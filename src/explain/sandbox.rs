//! The sandbox's links to the host: what comes in, and what goes back.

use std::net::IpAddr;

use super::host::ends;
use super::walk::{Walk, Wanted};
use crate::dataplane::{GATEWAY_LEG, KEPT, OVERLAY_BRIDGE, OVERLAY_LEG, SANDBOX_PORT, marks_map};
use crate::mesh::{Backend, ClientAddress, Dataplane};
use crate::objects::{Family, Hook, Layer, Netns, Packet, SetElement, Space};

const SANDBOX: Space = Space::Ours(Netns::Sandbox);

pub fn way_in(walk: &mut Walk<'_>, family: Family) {
    walk.namespace(Netns::Sandbox);
    walk.link(Netns::Sandbox, GATEWAY_LEG);
    walk.addresses(Netns::Sandbox, GATEWAY_LEG, family);
    let forwarding = match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    };
    walk.parameters(Netns::Sandbox, &[forwarding, "net/ipv4/vs/", "net/netfilter/"]);
    let packet =
        Packet { destination: ends(walk, family).0, link_in: Some(GATEWAY_LEG.to_owned()), ..walk.packet(family) };
    let ipvs = walk.mesh().dataplane == Dataplane::Ipvs;
    // IPVS takes what is addressed to the namespace itself.
    let marked = Packet { mark: walk.port.mark().0, ..packet.clone() };
    let hooks: Vec<(Hook, Packet)> =
        [(Hook::Prerouting, packet)].into_iter().chain(ipvs.then_some((Hook::Input, marked))).collect();
    walk.rules(&SANDBOX, Layer::Network, "others' rules", &hooks);
    walk.chain(Netns::Sandbox, marks_map(walk.mesh(), walk.port).1);
}

/// What all backends of the overlay have in common: whom they see, and the way to them as far as the overlay's bridge.
pub fn way_out(walk: &mut Walk<'_>, family: Family) {
    walk.chain(Netns::Sandbox, "postrouting");
    walk.chain(Netns::Sandbox, "segments");
    if walk.mesh().dataplane == Dataplane::Nftables && walk.port.client_address == ClientAddress::Preserve {
        walk.member(Netns::Sandbox, KEPT, "kept source", &SetElement::Mark(walk.port.mark()));
    }
    let on_overlay = |backend: &Backend| walk.mesh().ingress.contains(backend.address);
    let there = walk.port.backends.iter().filter(|backend| Family::of(&backend.address) == family).any(on_overlay);
    if there {
        walk.link(Netns::Sandbox, OVERLAY_LEG);
        walk.addresses(Netns::Sandbox, OVERLAY_LEG, family);
        walk.namespace(Netns::Overlay);
        walk.link(Netns::Overlay, OVERLAY_BRIDGE);
        walk.link(Netns::Overlay, SANDBOX_PORT);
    }
}

pub fn way_back(walk: &mut Walk<'_>, family: Family) {
    walk.own_route(Netns::Sandbox, GATEWAY_LEG, family, "way back");
    let gateway = ends(walk, family).1;
    let Some(from) = walk.from.filter(|from| !is_masqueraded(from)) else { return };
    walk.route(&SANDBOX, "way to the client", (from, None), None, 0, &Wanted::By(GATEWAY_LEG, gateway));
}

/// Addresses that mean nothing here come in by another one, the host's.
pub fn is_masqueraded(from: &IpAddr) -> bool {
    match from {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}
