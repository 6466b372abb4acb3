//! The host's part: from the client into the sandbox, and from there back to the client.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::compare::of_family;
use super::gate;
use super::walk::{Walk, Wanted};
use crate::dataplane::{gateway_addresses, published_maps};
use crate::objects::{Family, HOST_END, Hook, Layer, Netns, Onward, Packet, Phase, Question, Reply, Space};

const HOST: Space = Space::Ours(Netns::Host);

/// The maps of published ports.
pub fn maps(family: Family) -> [&'static str; 2] {
    published_maps(family).map(|(name, _)| name)
}

/// The sandbox's address on the link between the two, and the host's.
pub fn ends(walk: &Walk<'_>, family: Family) -> (Option<IpAddr>, Option<IpAddr>) {
    let pairs = gateway_addresses(&walk.mesh().gateway, family == Family::V6);
    (
        of_family(pairs.iter().map(|(_, sandbox)| sandbox.ip()), family),
        of_family(pairs.iter().map(|(host, _)| host.ip()), family),
    )
}

/// Whether the client is this node itself.
fn is_own(walk: &Walk<'_>) -> bool {
    let Some(to) = walk.from else { return false };
    let question = Question::Route { space: HOST, to, from: None, link_in: None, mark: 0 };
    to.is_loopback() || matches!(walk.ask(question), Some(Reply::Route(Onward::Local)))
}

pub fn way_in(walk: &mut Walk<'_>, family: Family) {
    let own = is_own(walk);
    let uplink = if own { None } else { walk.uplink() };
    if !own {
        gate::way_in(walk, family);
    }
    let (hook, chain) = if own { (Hook::Output, "output") } else { (Hook::Prerouting, "prerouting") };
    let links = if own { vec![None] } else { walk.uplinks() };
    let first = Packet { destination: gate::only_address(walk, family), ..walk.packet(family) };
    let firsts: Vec<(Hook, Packet)> =
        links.iter().map(|link| (hook, Packet { link_in: link.clone(), ..first.clone() })).collect();
    walk.rules(&HOST, Layer::Network, "others' rules", &firsts);
    walk.chain(Netns::Host, chain);
    for map in maps(family) {
        walk.element(Netns::Host, map, "published port");
    }
    gate::bind(walk, own, uplink.as_deref());
    gate::loopback6(walk);
    if own {
        // 127.0.0.1 may leave by this link alone, and means nothing in the sandbox.
        walk.parameters(Netns::Host, &["net/ipv4/conf/"]);
        walk.chain(Netns::Host, "postrouting");
    } else {
        walk.parameters(Netns::Host, forwarding(family));
        openings(walk, family);
    }
    let gateway = walk.mesh().gateway.link().to_owned();
    walk.link(Netns::Host, &gateway);
    if gateway != HOST_END {
        walk.link(Netns::Host, HOST_END);
    }
    walk.addresses(Netns::Host, &gateway, family);
    let (sandbox, _) = ends(walk, family);
    let Some(sandbox) = sandbox else { return };
    // Who asks about a packet that comes in has to say from where.
    let from = walk.from.filter(|_| uplink.is_some());
    walk.route(&HOST, "way to the sandbox", (sandbox, from), uplink.clone(), 0, &Wanted::Link(gateway.clone()));
    let sent_on = Packet {
        destination: Some(sandbox),
        link_out: Some(gateway),
        translated: true,
        is_local: false,
        ..walk.packet(family)
    };
    let hooks: &[Hook] = if own { &[Hook::Postrouting] } else { &[Hook::Forward, Hook::Postrouting] };
    let by = |link: &Option<String>| Packet { link_in: link.clone(), ..sent_on.clone() };
    let by_each = |hook: &Hook| links.iter().map(|link| (*hook, by(link))).collect::<Vec<_>>();
    let packets: Vec<(Hook, Packet)> = hooks.iter().flat_map(by_each).collect();
    walk.rules(&HOST, Layer::Network, "others' rules", &packets);
}

fn forwarding(family: Family) -> &'static [&'static str] {
    match family {
        Family::V4 => &["net/ipv4/ip_forward"],
        Family::V6 => &["net/ipv6/conf/all/forwarding"],
    }
}

/// Our rules in others' chains that drop.
fn openings(walk: &mut Walk<'_>, family: Family) {
    let unspoken = match family {
        Family::V4 => "ip6",
        Family::V6 => "ip",
    };
    let met: BTreeSet<_> =
        [&walk.known.wanted, &walk.known.seen].into_iter().flat_map(|objects| &objects.openings).cloned().collect();
    for opening in met.into_iter().filter(|opening| opening.family != unspoken) {
        let open =
            walk.both(|objects| objects.openings.contains(&opening).then(|| format!("meshd accepts in {opening}")));
        let look = format!("nft list chain {} {} {}", opening.family, opening.table, opening.chain);
        walk.compare(&HOST, "opened chain", open, &look);
    }
}

/// Answers, from the sandbox to the client.
pub fn way_back(walk: &mut Walk<'_>, family: Family) {
    let own = is_own(walk);
    let links = if own { vec![None] } else { walk.uplinks() };
    let (sandbox, _) = ends(walk, family);
    let gateway = walk.mesh().gateway.link().to_owned();
    if let (Some(from), false) = (walk.from, own) {
        // Answers are routed as they come out of the sandbox: their source is the node's only behind that.
        walk.route(&HOST, "way to the client", (from, sandbox), Some(gateway.clone()), 0, &Wanted::Somewhere);
    }
    let answer = Packet {
        source: sandbox,
        source_port: Some(walk.number),
        destination: walk.from,
        destination_port: None,
        link_in: Some(gateway),
        phase: Phase::Answer,
        translated: true,
        is_local: own,
        ..walk.packet(family)
    };
    let mut packets = vec![(Hook::Prerouting, answer.clone())];
    if own {
        packets.push((Hook::Input, answer));
    } else {
        let by = |link: &Option<String>| Packet { link_out: link.clone(), ..answer.clone() };
        let by_each = |hook| links.iter().map(|link| (hook, by(link))).collect::<Vec<_>>();
        packets.extend([Hook::Forward, Hook::Postrouting].into_iter().flat_map(by_each));
    }
    walk.rules(&HOST, Layer::Network, "others' rules", &packets);
}
