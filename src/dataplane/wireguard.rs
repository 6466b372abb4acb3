//! The encrypted underlay: VXLAN inside WireGuard.
//!
//! The WireGuard link stands in the overlay's namespace and sends by the host's. Inside, each node has the address that it
//! has outside, so the tunnel is the same with and without it; what leads there is this link alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::mesh::{Encryption, Mesh, Peer};
use crate::objects::{
    Address, LinkId, LinkKind, Mac, Netns, Objects, Route, Surroundings, WIREGUARD, Wireguard, WireguardPeer,
};

use super::topology::{OVERLAY_BRIDGE, everything, link, overlay_mtu, vxlan_overhead};

/// Seconds. A node that lost its keys, or was away, is heard of at once, not when it next has something to send; and a
/// firewall between remembers the way.
const KEEPALIVE: u16 = 25;

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    let (Some(encryption), Some(key), Some(address)) = (mesh.ingress.encryption, mesh.key, mesh.address) else {
        return;
    };
    let id = LinkId::new(Netns::Overlay, WIREGUARD);
    let mtu = overlay_mtu(mesh, surroundings) + vxlan_overhead(mesh);
    objects.links.insert(id.clone(), link(LinkKind::Wireguard, Mac([0; 6]), mtu));
    objects.addresses.insert(Address { link: id.clone(), ip: address.into() });
    objects.routes.insert(Route { link: id, destination: everything(address), gateway: None });

    if address.is_ipv6() {
        // A router's advertisement from some backend would be a way to the peers that is better than ours, and in the
        // clear: what is a bridge only needs no addresses.
        let name = format!("net/ipv6/conf/{OVERLAY_BRIDGE}/disable_ipv6");
        objects.sysctls.insert((Netns::Overlay, name), "1".to_owned());
    }

    let peers = mesh.other_nodes().filter_map(|node| Some((node.key?, peer(node, encryption))));
    objects.wireguard = Some(Wireguard { key, port: encryption.port, peers: peers.collect() });
}

fn peer(node: &Peer, encryption: Encryption) -> WireguardPeer {
    WireguardPeer {
        endpoint: Some(SocketAddr::new(node.address, encryption.port)),
        allowed: BTreeSet::from([node.address.into()]),
        keepalive: KEEPALIVE,
    }
}
