//! Where on a node a port is published, and who may come to it: looked up before anything is done with a packet.
//!
//! A port that is bound is a published port like others, but for packets to other addresses, or that came in by other
//! links: those are not led into the sandbox, so there the port is as closed as the host has it. Who may not come to a port
//! is dropped before anything is done with the packet. Neither costs more with more ports. The look at bound ports comes once in a
//! connection and is always there, so that none is open for a moment when the last of them goes; who comes is looked up for
//! every packet, and only where someone is kept out.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::mesh::{Bind, Mesh, Port};
use crate::objects::{
    Action, Chain, ChainKind, Family, Hook, Key, Match, Network, Rule, Set, SetElement, SetKind, Table,
};

/// Behind connection tracking (NF_IP_PRI_CONNTRACK, -200), which tells answers from questions; before all that is done with
/// a packet.
const GATE: i32 = -175;

const BOUND: &str = "bound_ports";
const BOUND_LINKS: &str = "bound_links";
const GUARDED: &str = "guarded";

fn per_family(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    if family == Family::V4 { v4 } else { v6 }
}

fn bound_to(family: Family) -> &'static str {
    per_family(family, "bound4", "bound6")
}

fn denied(family: Family) -> &'static str {
    per_family(family, "denied4", "denied6")
}

fn allowed(family: Family) -> &'static str {
    per_family(family, "allowed4", "allowed6")
}

/// The sets that say of a port where it is and who may come, for clients of that family: each with what it has.
pub fn sets(family: Family) -> [(&'static str, &'static str); 6] {
    [
        (BOUND, "bound port"),
        (bound_to(family), "bound address"),
        (BOUND_LINKS, "bound link"),
        (GUARDED, "guarded port"),
        (denied(family), "denied networks"),
        (allowed(family), "allowed networks"),
    ]
}

/// The sets, and the chain that asks them who comes.
pub(super) fn lower(mesh: &Mesh, table: &mut Table) {
    add(table, BOUND, SetKind::Ports, mesh.ports().filter(|port| !port.access.bind.is_empty()).map(ports));
    for family in Family::ALL {
        let addresses = mesh.ports().flat_map(|port| addresses(port, family));
        add(table, bound_to(family), SetKind::Networks(family), addresses);
    }
    add(table, BOUND_LINKS, SetKind::Links, mesh.ports().flat_map(links));
    if is_guarded(mesh) {
        add(table, GUARDED, SetKind::Ports, mesh.ports().filter(|port| port.access.allow.is_some()).map(ports));
        for family in Family::ALL {
            let of = |port: &Port, networks: &BTreeSet<Network>| networks_of(port, networks, family);
            let denied_here = mesh.ports().flat_map(|port| of(port, &port.access.deny));
            add(table, denied(family), SetKind::Networks(family), denied_here);
            let allowed_here =
                mesh.ports().flat_map(|port| port.access.allow.iter().flat_map(move |networks| of(port, networks)));
            add(table, allowed(family), SetKind::Networks(family), allowed_here);
        }
        table.chains.insert("access".to_owned(), chain(mesh));
    }
}

/// Packets to bound ports that are none of theirs go no further in this chain; `by_link`: what came in by a bound link is.
pub(super) fn bound(by_link: bool) -> [Rule; 2] {
    let rule = |family| {
        let mut elsewhere = vec![
            Match::Among { key: Key::Port, set: BOUND.to_owned() },
            Match::NotAmong { key: Key::DestinationAndPort(family), set: bound_to(family).to_owned() },
        ];
        if by_link {
            elsewhere.push(Match::NotAmong { key: Key::LinkAndPort, set: BOUND_LINKS.to_owned() });
        }
        Rule::new(elsewhere, Action::Return)
    };
    Family::ALL.map(rule)
}

pub(super) fn is_guarded(mesh: &Mesh) -> bool {
    mesh.ports().any(|port| port.access.allow.is_some() || !port.access.deny.is_empty())
}

/// Only what comes in from outside is asked: neither the node's own connections nor the sandbox's, nor answers to them, whose
/// port may be a published one by chance.
fn chain(mesh: &Mesh) -> Chain {
    let own = ["lo", mesh.gateway.link()].map(|link| Rule::new([Match::InterfaceIn(link.to_owned())], Action::Return));
    let mut rules: Vec<Rule> = own.into();
    rules.push(Rule::new([Match::Answer], Action::Return));
    for family in Family::ALL {
        let denied = Match::Among { key: Key::SourceAndPort(family), set: denied(family).to_owned() };
        rules.push(Rule::new([Match::DestinationLocal, denied], Action::Drop));
        let guarded = Match::Among { key: Key::Port, set: GUARDED.to_owned() };
        let stranger = Match::NotAmong { key: Key::SourceAndPort(family), set: allowed(family).to_owned() };
        rules.push(Rule::new([Match::DestinationLocal, guarded, stranger], Action::Drop));
    }
    Chain::base(ChainKind::Filter, Hook::Prerouting, GATE, rules)
}

fn add(table: &mut Table, name: &str, kind: SetKind, elements: impl Iterator<Item = SetElement>) {
    table.sets.insert(name.to_owned(), Set { kind, elements: elements.collect() });
}

fn ports(port: &Port) -> SetElement {
    SetElement::Ports(port.published)
}

fn addresses(port: &Port, family: Family) -> impl Iterator<Item = SetElement> {
    port.access.bind.iter().filter_map(move |bind| match bind {
        Bind::Address(address) if Family::of(address) == family => {
            Some(SetElement::Network(Network(IpNetwork::from(*address)), port.published))
        }
        _ => None,
    })
}

fn links(port: &Port) -> impl Iterator<Item = SetElement> {
    port.access.bind.iter().filter_map(|bind| match bind {
        Bind::Link(name) => Some(SetElement::Link(name.clone(), port.published)),
        Bind::Address(_) => None,
    })
}

/// Networks that are in none of the others: elements of a set do not overlap.
fn networks_of(port: &Port, networks: &BTreeSet<Network>, family: Family) -> Vec<SetElement> {
    // By their first addresses and then by length, so one comes behind the ones that it is in.
    let mut outermost: Vec<Network> = Vec::new();
    for network in networks.iter().filter(|network| Family::of(&network.0.ip()) == family) {
        if outermost.last().is_none_or(|last| !last.0.contains(network.0.network())) {
            outermost.push(*network);
        }
    }
    outermost.into_iter().map(|network| SetElement::Network(network, port.published)).collect()
}
