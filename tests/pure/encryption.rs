//! The encrypted underlay: nothing of the tunnel leaves but by WireGuard, and all of it fits.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meshd::dataplane::{self, encapsulation, overlay_mtu};
use meshd::kernel::fake;
use meshd::mesh::Mesh;
use meshd::objects::{LinkId, LinkKind, Netns, Objects, PublicKey, Surroundings, TUNNEL, WIREGUARD};
use meshd::plan::diff;
use proptest::prelude::*;

use super::build::{encrypted, node};
use super::meshes::{mesh, surroundings};
use super::peers::peer;

fn underlay(objects: &Objects) -> Option<Netns> {
    match objects.links.get(&LinkId::new(Netns::Overlay, TUNNEL))?.kind {
        LinkKind::Vxlan { underlay, .. } => Some(underlay),
        _ => None,
    }
}

/// Bytes that WireGuard and VXLAN put around a packet, counted header by header.
#[test]
fn what_is_left_for_a_packet() {
    let mut mesh = node();
    let (ipv4, ipv6, udp, vxlan, ethernet, wireguard) = (20, 40, 8, 8, 14, 16 + 16);
    for (address, ip) in [("192.168.50.1", ipv4), ("2001:db8:50::1", ipv6)] {
        mesh.address = Some(address.parse().unwrap());
        let plain = ip + udp + vxlan + ethernet;
        assert_eq!(encapsulation(&mesh), plain);
        let secret = encrypted(mesh.clone());
        assert_eq!(encapsulation(&secret), plain + ip + udp + wireguard);
        let objects = dataplane::objects(&secret, &Surroundings::default());
        let mtu = |name| objects.links[&LinkId::new(Netns::Overlay, name)].mtu;
        assert_eq!(
            (mtu(WIREGUARD), mtu(TUNNEL)),
            (1500 - ip - udp - wireguard, overlay_mtu(&secret, &Surroundings::default()))
        );
        assert_eq!(mtu(WIREGUARD) - mtu(TUNNEL), plain);
    }
}

/// A mesh that is told to encrypt and has no key yet sends nothing, rather than all in the clear.
#[test]
fn without_a_key_there_is_no_way_out() {
    let mesh = Mesh { key: None, peers: vec![peer(2)], ..encrypted(node()) };
    let objects = dataplane::objects(&mesh, &Surroundings::default());
    assert_eq!((underlay(&objects), objects.wireguard), (Some(Netns::Overlay), None));
    assert!(objects.routes.iter().all(|route| route.link.netns != Netns::Overlay));
}

proptest! {
    /// Each node that the tunnel sends to is behind one peer, at its own address and its own key; and the way there is
    /// the only one.
    #[test]
    fn what_the_tunnel_sends_goes_to_who_has_the_key(mesh in mesh(), surroundings in surroundings()) {
        let objects = dataplane::objects(&mesh, &surroundings);
        let secret = mesh.ingress.encryption.is_some();
        prop_assert_eq!(underlay(&objects), Some(if secret { Netns::Overlay } else { Netns::Host }));
        prop_assert_eq!(objects.wireguard.is_some(), secret);
        let trusted = ["peers4", "peers6"].iter().map(|set| objects.tables[&Netns::Host].sets[*set].elements.len());
        prop_assert_eq!(trusted.sum::<usize>(), if secret { 0 } else { mesh.peers.len() });
        let Some(wireguard) = &objects.wireguard else { return Ok(()) };
        let keys: BTreeMap<IpAddr, PublicKey> = mesh.peers.iter().map(|peer| (peer.address, peer.key.unwrap())).collect();
        prop_assert_eq!(wireguard.peers.len(), keys.len());
        for (key, peer) in &wireguard.peers {
            let allowed: Vec<IpAddr> = peer.allowed.iter().map(|network| network.ip()).collect();
            prop_assert_eq!(allowed.len(), 1);
            prop_assert_eq!(keys.get(&allowed[0]), Some(key));
            prop_assert_eq!(peer.endpoint.map(|endpoint| endpoint.ip()), Some(allowed[0]));
        }
        prop_assert!(objects.forwarding.values().all(|node| keys.contains_key(node)));
        let ways: Vec<_> = objects.routes.iter().filter(|route| route.link.netns == Netns::Overlay).collect();
        prop_assert_eq!(ways.iter().map(|route| route.link.name.as_str()).collect::<Vec<_>>(), [WIREGUARD]);
    }

    /// Whatever is there before: once the tunnel in the clear is gone, there is none again on the way.
    #[test]
    fn on_the_way_to_secrecy_nothing_is_sent_in_the_clear_again(a in mesh(), b in mesh(), around in surroundings()) {
        let mut state = dataplane::objects(&a, &around);
        let mut hidden = false;
        for step in diff(&state, &dataplane::objects(&encrypted(b), &around)).steps {
            fake::apply(&mut state, &step).unwrap();
            let open = underlay(&state) == Some(Netns::Host);
            prop_assert!(!(hidden && open), "{}", step);
            hidden |= !open;
        }
        // There may be nothing to do: it was hidden before.
        prop_assert!(underlay(&state) != Some(Netns::Host));
    }
}
