//! The way from the sandbox to one backend, and into it.

use std::net::SocketAddr;

use super::host::ends;
use super::sandbox::is_masqueraded;
use super::walk::{Walk, Wanted, unknown};
use super::{balancing, overlay, underlay};
use crate::control::protocol::{Hop, Verdict};
use crate::dataplane::{GATEWAY_LEG, OVERLAY_LEG};
use crate::mesh::{Backend, BackendState, ClientAddress, Dataplane, PortRange};
use crate::objects::{
    Connects, DestinationKey, Family, Hook, Layer, Mac, Netns, NetnsRef, Packet, Phase, Protocol, Question, Reply,
    Space, return_mark,
};

const SANDBOX: Space = Space::Ours(Netns::Sandbox);

/// The port that it listens on for the packet at hand.
fn target(walk: &Walk<'_>) -> u16 {
    walk.port.target.unwrap_or(walk.number)
}

/// Whom it sees: the client, or this node.
fn seen_source(walk: &Walk<'_>, family: Family) -> Option<std::net::IpAddr> {
    match walk.port.client_address {
        // What means nothing beyond the node comes in by another address.
        ClientAddress::Preserve => walk.from.map(|from| match is_masqueraded(&from) {
            true => ends(walk, family).1.unwrap_or(from),
            false => from,
        }),
        ClientAddress::Snat => own(walk, family),
    }
}

/// This node's ingress address.
fn own(walk: &Walk<'_>, family: Family) -> Option<std::net::IpAddr> {
    let ingress = &walk.mesh().ingress;
    match family {
        Family::V4 => ingress.v4.map(|endpoint| endpoint.address.into()),
        Family::V6 => ingress.v6.map(|endpoint| endpoint.address.into()),
    }
}

pub fn way(walk: &mut Walk<'_>, backend: &Backend) {
    let mesh = walk.mesh();
    let port = target(walk);
    let at = SocketAddr::new(backend.address, port);
    let node = backend.node.as_deref().filter(|_| mesh.is_elsewhere(backend));
    let place = match (node, &backend.netns) {
        (Some(node), _) => format!(" on {node}"),
        (None, Some(netns)) => format!(" in {netns}"),
        (None, None) => String::new(),
    };
    walk.begin(format!("to {at}{place}"));
    if let Some(reason) = absent(walk, backend) {
        idle(walk, reason);
        return;
    }
    let family = Family::of(&backend.address);
    let key = DestinationKey { address: backend.address, port: walk.port.target.unwrap_or(0) };
    balancing::share(walk, key, family);
    if let Some(reason) = rests(walk, backend) {
        idle(walk, reason);
    }
    let on_overlay = mesh.ingress.contains(backend.address);
    let link = if on_overlay { OVERLAY_LEG } else { GATEWAY_LEG };
    if on_overlay {
        walk.route(&SANDBOX, "way to the backend", (backend.address, None), None, 0, &Wanted::By(link, None));
    } else {
        let gateway = ends(walk, family).1;
        walk.own_route(Netns::Sandbox, GATEWAY_LEG, family, "way out");
        walk.route(&SANDBOX, "way to the backend", (backend.address, None), None, 0, &Wanted::By(link, gateway));
        walk.chain(Netns::Host, "postrouting");
    }
    rules(walk, backend, link);
    if on_overlay {
        overlay::way(walk, backend, seen_source(walk, family), port);
    }
    if let (None, Some(netns)) = (node, &backend.netns) {
        inside(walk, netns, at);
    }
    match answers(walk, at) {
        Some(Connects::Silent(_)) if walk.port.published.protocol != Protocol::Udp => underlay::suspect(walk),
        Some(Connects::Answered(_)) => excuse(walk),
        _ => {}
    }
    standing(walk, backend);
}

/// Why no client can come to it from here, and none is meant to.
fn absent(walk: &Walk<'_>, backend: &Backend) -> Option<&'static str> {
    if backend.state == BackendState::Disabled {
        return Some("disabled by the operator");
    }
    (!walk.mesh().sends_to(walk.port, backend)).then_some("mode = \"host\": only its own node sends clients to it")
}

/// Why it gets no new clients now.
fn rests(walk: &Walk<'_>, backend: &Backend) -> Option<&'static str> {
    let key = (walk.port.mark(), backend.address);
    let mesh = walk.mesh();
    if backend.state == BackendState::Drain {
        Some("drained by the operator: no new clients")
    } else if backend.weight == 0 {
        Some("weight 0: no new clients")
    } else if mesh.full.contains(&key) {
        Some("it has as many connections as it may have")
    } else if mesh.resting.contains(&key) {
        Some("no new clients now: it is a backup that is not needed, or not preferred here, or leaves")
    } else {
        None
    }
}

fn idle(walk: &mut Walk<'_>, reason: &str) {
    walk.hop(Hop {
        place: "meshd".to_owned(),
        what: "state".to_owned(),
        wanted: "as configured".to_owned(),
        found: "as configured".to_owned(),
        verdict: Verdict::Idle,
        reason: Some(reason.to_owned()),
        look: "meshctl service ls".to_owned(),
    });
}

/// Others' rules in the sandbox, behind the choice.
fn rules(walk: &mut Walk<'_>, backend: &Backend, link: &str) {
    let family = Family::of(&backend.address);
    let on = Packet {
        destination: Some(backend.address),
        destination_port: Some(target(walk)),
        link_in: Some(GATEWAY_LEG.to_owned()),
        link_out: Some(link.to_owned()),
        mark: walk.port.mark().0,
        translated: walk.mesh().dataplane == Dataplane::Nftables,
        is_local: false,
        ..walk.packet(family)
    };
    // IPVS sends by itself, as if the namespace had made the packet.
    let first = match walk.mesh().dataplane {
        Dataplane::Ipvs => (Hook::Output, Packet { link_in: None, ..on.clone() }),
        Dataplane::Nftables => (Hook::Forward, on.clone()),
    };
    let back = Packet {
        source: Some(backend.address),
        source_port: Some(target(walk)),
        destination: seen_source(walk, family),
        destination_port: None,
        link_in: Some(link.to_owned()),
        link_out: None,
        phase: Phase::Answer,
        translated: true,
        mark: 0,
        ..on.clone()
    };
    let packets = [first, (Hook::Postrouting, Packet { link_in: None, ..on }), (Hook::Prerouting, back)];
    walk.rules(&SANDBOX, Layer::Network, "others' rules", &packets);
}

/// The backend's own namespace.
fn inside(walk: &mut Walk<'_>, netns: &NetnsRef, at: SocketAddr) {
    let space = Space::Backend(netns.clone());
    let family = Family::of(&at.ip());
    let source = seen_source(walk, family);
    let packet =
        Packet { source, destination: Some(at.ip()), destination_port: Some(at.port()), ..walk.packet(family) };
    let answer = Packet {
        source: Some(at.ip()),
        source_port: Some(at.port()),
        destination: source,
        destination_port: None,
        phase: Phase::Answer,
        is_local: false,
        ..walk.packet(family)
    };
    let hooks = [(Hook::Prerouting, packet.clone()), (Hook::Input, packet), (Hook::Output, answer)];
    walk.rules(&space, Layer::Network, "others' rules", &hooks);
    let returns = walk.both(|objects| objects.returns.get(netns).cloned());
    if walk.port.client_address == ClientAddress::Preserve {
        walk.compare(&space, "return route", returns, "ip rule show");
    }
    if let Some(to) = source {
        let mark = match (walk.port.client_address, own(walk, family)) {
            (ClientAddress::Preserve, Some(node)) => return_mark(&Mac::of(&first_own(walk).unwrap_or(node))),
            _ => 0,
        };
        let way = match walk.port.client_address {
            ClientAddress::Preserve => Wanted::Through(own(walk, family)),
            ClientAddress::Snat => Wanted::Somewhere,
        };
        walk.route(&space, "way back", (to, Some(at.ip())), None, mark, &way);
    }
    let protocol = walk.port.published.protocol;
    let question = Question::Listens { netns: netns.clone(), protocol, at };
    let (found, verdict, reason) = match walk.ask(question) {
        Some(Reply::Listens(sockets)) if sockets.is_empty() => {
            ("nobody".to_owned(), Verdict::Broken, Some("nobody listens there".to_owned()))
        }
        Some(Reply::Listens(sockets)) => {
            (sockets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), Verdict::Good, None)
        }
        other => ("unknown".to_owned(), Verdict::Unsure, Some(unknown(other))),
    };
    let kind = match protocol {
        Protocol::Tcp => "-tln",
        Protocol::Udp => "-uln",
        Protocol::Sctp => "-Sln",
    };
    let look = walk.command(&space, &format!("ss {kind}"));
    let wanted = format!("{protocol} {at}");
    walk.hop(Hop { place: walk.place(&space), what: "listener".to_owned(), wanted, found, verdict, reason, look });
}

/// By which a node is known to backends: the first of its addresses.
fn first_own(walk: &Walk<'_>) -> Option<std::net::IpAddr> {
    own(walk, Family::V4).or_else(|| own(walk, Family::V6))
}

/// Whether it answers the sandbox: so all between the two is as it should be, for small packets.
fn answers<'k>(walk: &mut Walk<'k>, at: SocketAddr) -> Option<&'k Connects> {
    let protocol = walk.port.published.protocol;
    let reply = walk.ask(Question::Connects { protocol, to: at });
    let (found, verdict, reason) = match reply {
        Some(Reply::Connects(connects)) => {
            let (verdict, reason) = match (connects, protocol) {
                (Connects::Answered(_), _) => (Verdict::Good, None),
                (Connects::Silent(_), Protocol::Udp) => {
                    (Verdict::Unsure, Some("to a datagram without a question an answer is not owed"))
                }
                (Connects::Refused, _) => {
                    (Verdict::Broken, Some("nobody listens at that port, or somebody refuses on the way"))
                }
                (Connects::Silent(_), _) => (Verdict::Broken, Some("nothing comes back from there")),
                (Connects::Unsent(_), _) => {
                    (Verdict::Broken, Some("the sandbox has no way there, or it is rejected on the way"))
                }
            };
            (connects.to_string(), verdict, reason.map(str::to_owned))
        }
        other => ("not tried".to_owned(), Verdict::Unsure, Some(unknown(other))),
    };
    let test = match protocol {
        Protocol::Tcp => format!("nc -vz -w 2 {} {}", at.ip(), at.port()),
        Protocol::Udp => format!("nc -vzu -w 2 {} {}", at.ip(), at.port()),
        Protocol::Sctp => format!("ncat --sctp -vz -w 2 {} {}", at.ip(), at.port()),
    };
    let look = walk.command(&SANDBOX, &test);
    let wanted = format!("{} answers the sandbox", PortRange::single(protocol, at.port()));
    walk.hop(Hop { place: walk.place(&SANDBOX), what: "answer".to_owned(), wanted, found, verdict, reason, look });
    match reply {
        Some(Reply::Connects(connects)) => Some(connects),
        _ => None,
    }
}

/// Who answers has somebody who listens, wherever: a namespace may lead the port elsewhere.
fn excuse(walk: &mut Walk<'_>) {
    let listener = walk.hops().iter_mut().find(|hop| hop.what == "listener" && hop.verdict == Verdict::Broken);
    if let Some(hop) = listener {
        hop.verdict = Verdict::Unsure;
        hop.reason = Some("nobody listens there, and it answers all the same".to_owned());
    }
}

/// What its checks say of it.
fn standing(walk: &mut Walk<'_>, backend: &Backend) {
    let Some((serves, reason)) = walk.known.standings.get(&(walk.port.mark(), backend.address)) else { return };
    walk.hop(Hop {
        place: "meshd".to_owned(),
        what: "health".to_owned(),
        wanted: "up".to_owned(),
        found: if *serves { "up" } else { "down" }.to_owned(),
        verdict: if *serves { Verdict::Good } else { Verdict::Broken },
        reason: (!serves).then(|| format!("its checks say: {reason}")),
        look: "meshctl status".to_owned(),
    });
}
