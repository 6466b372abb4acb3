//! Between the nodes: what the tunnel's own packets meet.

use super::walk::{Walk, Wanted, unknown};
use crate::control::protocol::{Hop, Verdict};
use crate::mesh::Peer;
use crate::objects::{
    Family, Hook, Layer, Netns, Packet, Phase, Protocol, Question, Reply, SetElement, Space, TUNNEL_CHAIN,
};

const HOST: Space = Space::Ours(Netns::Host);

pub fn way(walk: &mut Walk<'_>, node: &str) {
    let Some(peer) = walk.mesh().other_nodes().find(|peer| peer.name == node) else { return };
    let own = walk.mesh().address;
    walk.route(&HOST, "way to the node", (peer.address, own), None, 0, &Wanted::Somewhere);
    rules(walk, peer);
    if walk.mesh().ingress.encryption.is_none() {
        walk.chain(Netns::Host, TUNNEL_CHAIN);
        let set = if peer.address.is_ipv4() { "peers4" } else { "peers6" };
        walk.member(Netns::Host, set, "known peer", &SetElement::Address(peer.address));
    }
    carries(walk, peer);
}

fn rules(walk: &mut Walk<'_>, peer: &Peer) {
    let (own, port) = (walk.mesh().address, walk.mesh().ingress.underlay_port());
    let link = walk.link_to(peer.address, own);
    let encrypted = walk.mesh().ingress.encryption.is_some();
    // Nothing that is open is tracked (dataplane, tunnel). WireGuard's is: and both ends send, so each hears answers.
    let (there, here) = if encrypted { (Phase::First, Phase::Answer) } else { (Phase::Untracked, Phase::Untracked) };
    let out = Packet {
        protocol: Protocol::Udp,
        source: own,
        source_port: encrypted.then_some(port),
        destination: Some(peer.address),
        destination_port: Some(port),
        link_out: link.clone(),
        phase: there,
        is_local: false,
        ..walk.packet(Family::of(&peer.address))
    };
    let back = Packet {
        source: Some(peer.address),
        destination: own,
        link_in: link,
        link_out: None,
        phase: here,
        is_local: true,
        ..out.clone()
    };
    let hooks =
        [(Hook::Output, out.clone()), (Hook::Postrouting, out), (Hook::Prerouting, back.clone()), (Hook::Input, back)];
    walk.rules(&HOST, Layer::Network, "others' rules", &hooks);
}

/// Whether what is between carries the tunnel's largest packets.
fn carries(walk: &mut Walk<'_>, peer: &Peer) {
    let bytes = walk.known.overlay_mtu + walk.known.encapsulation;
    let question = Question::Underlay { peer: peer.address, port: walk.mesh().ingress.underlay_port(), bytes };
    let (found, verdict, reason) = match walk.ask(question) {
        Some(Reply::Underlay { mtu, answers }) => {
            let carries = mtu.map_or("unknown".to_owned(), |mtu| format!("{mtu} bytes"));
            let echo = if *answers { "answers an echo request" } else { "answers no echo request" };
            let narrow = mtu.is_some_and(|mtu| mtu < bytes);
            let (verdict, reason) = match (narrow, answers) {
                (true, _) => (
                    Verdict::Broken,
                    Some(format!(
                        "large packets are lost: [ingress] mtu is too large by {}",
                        bytes.saturating_sub(mtu.unwrap_or(bytes))
                    )),
                ),
                (false, true) => (Verdict::Good, None),
                (false, false) => (Verdict::Unsure, Some(format!("{} may be down, cut off, or silent", peer.name))),
            };
            (format!("{carries}, {echo}"), verdict, reason)
        }
        other => ("unknown".to_owned(), Verdict::Unsure, Some(unknown(other))),
    };
    let header = if peer.address.is_ipv4() { 28 } else { 48 };
    walk.hop(Hop {
        place: "underlay".to_owned(),
        what: format!("path to {}", peer.name),
        wanted: format!("{bytes} bytes to {}", peer.address),
        found,
        verdict,
        reason,
        look: format!("ping -M do -s {} {}", bytes.saturating_sub(header), peer.address),
    });
}

/// A node that answers no echo request, behind which nothing answers either, is not only silent.
pub fn suspect(walk: &mut Walk<'_>) {
    let path = walk.hops().iter_mut().find(|hop| hop.place == "underlay" && hop.verdict == Verdict::Unsure);
    path.into_iter().for_each(|hop| hop.verdict = Verdict::Broken);
}
