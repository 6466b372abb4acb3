//! From the sandbox's leg over the overlay's bridge: to a leg on this node, or into the tunnel.

use std::net::IpAddr;

use super::underlay;
use super::walk::Walk;
use crate::dataplane::SANDBOX_PORT;
use crate::mesh::Backend;
use crate::objects::{Family, Hook, Layer, Leg, Mac, Netns, Objects, Packet, Phase, Space, TUNNEL, port_name};

const OVERLAY: Space = Space::Ours(Netns::Overlay);

pub fn way(walk: &mut Walk<'_>, backend: &Backend, source: Option<IpAddr>, port: u16) {
    let node = backend.node.as_deref().filter(|_| walk.mesh().is_elsewhere(backend));
    let out = match (node, &backend.netns) {
        (Some(node), _) => {
            tunnel(walk, backend, node);
            Some(TUNNEL.to_owned())
        }
        (None, Some(_)) => leg(walk, backend),
        // Someone else attached it.
        (None, None) => None,
    };
    let there = Packet {
        source,
        destination: Some(backend.address),
        destination_port: Some(port),
        link_in: Some(SANDBOX_PORT.to_owned()),
        link_out: out.clone(),
        is_local: false,
        ..walk.packet(Family::of(&backend.address))
    };
    let back = Packet {
        source: Some(backend.address),
        source_port: Some(port),
        destination: source,
        destination_port: None,
        link_in: out,
        link_out: Some(SANDBOX_PORT.to_owned()),
        phase: Phase::Answer,
        ..there.clone()
    };
    let hooks = [
        (Hook::Prerouting, there.clone()),
        (Hook::Forward, there),
        (Hook::Prerouting, back.clone()),
        (Hook::Forward, back),
    ];
    walk.rules(&OVERLAY, Layer::Bridge, "others' rules", &hooks);
    if let Some(node) = node {
        underlay::way(walk, node);
    }
}

/// The leg that meshd made, and the name of its port of the bridge.
fn leg(walk: &mut Walk<'_>, backend: &Backend) -> Option<String> {
    let of = |objects: &Objects| {
        let own = |leg: &Leg| leg.addresses.iter().any(|address| address.ip() == backend.address);
        objects.legs.iter().find(|(_, leg)| own(leg)).map(|(mac, leg)| (*mac, leg.clone()))
    };
    let (wanted, found) = walk.both(of);
    let mac: Option<Mac> = wanted.as_ref().map(|(mac, _)| *mac);
    // Where the address is missing, it is the leg of that MAC that is not as it should be.
    let found = found.or_else(|| Some((mac?, walk.known.seen.legs.get(&mac?)?.clone())));
    let name = mac.map(|mac| port_name(&mac));
    let look = format!("ip -d link show {}", name.as_deref().unwrap_or_default());
    walk.compare(&OVERLAY, "leg of the backend", (wanted.map(text), found.map(text)), &look);
    name
}

fn text((mac, leg): (Mac, Leg)) -> String {
    let netns = leg.netns.map_or_else(|| "no known namespace".to_owned(), |netns| netns.to_string());
    let addresses: Vec<String> = leg.addresses.iter().map(ToString::to_string).collect();
    // One that is half broken is seen so.
    let mtu = if leg.mtu == 0 { "down, or half of it gone".to_owned() } else { format!("mtu {}", leg.mtu) };
    format!("{} to {netns}: address {mac} {mtu} {}", port_name(&mac), addresses.join(" ")).trim_end().to_owned()
}

/// Where the tunnel finds it.
fn tunnel(walk: &mut Walk<'_>, backend: &Backend, node: &str) {
    walk.link(Netns::Overlay, TUNNEL);
    let neighbour = walk.both(|objects| {
        let mac = objects.neighbours.get(&backend.address)?;
        Some(format!("{} lladdr {mac}", backend.address))
    });
    let look = format!("ip neigh show dev {TUNNEL} | grep {}", backend.address);
    walk.compare(&OVERLAY, "neighbour", neighbour, &look);
    let mac = walk.known.wanted.neighbours.get(&backend.address).copied();
    let entry = walk.both(|objects| Some(format!("{} dst {}", mac?, objects.forwarding.get(&mac?)?)));
    walk.compare(&OVERLAY, "forwarding entry", entry, &format!("bridge fdb show dev {TUNNEL}"));
    if walk.mesh().ingress.encryption.is_some() {
        walk.link(Netns::Overlay, crate::objects::WIREGUARD);
        let key = walk.mesh().other_nodes().find(|peer| peer.name == node).and_then(|peer| peer.key);
        let peer = walk.both(|objects| {
            let peer = objects.wireguard.as_ref()?.peers.get(&key?)?;
            Some(format!("peer {}: {peer}", key?))
        });
        walk.compare(&OVERLAY, "WireGuard peer", peer, "wg show");
    }
}
