//! The sandbox's part: a mark for each published port, an IPVS service behind each mark, SNAT behind that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mesh::{Backend, ClientAddress, Mesh, OnEmpty, Port};
use crate::objects::{
    Action, Chain, ChainKind, Destination, DestinationKey, Family, Hook, Key, Map, MapKind, MapValue, Match, Netns,
    Objects, Persistence, Rule, SILENT, Scheduler, SchedulerFlags, Set, SetElement, SetKind, Surroundings, Table,
    VirtualKey, VirtualService,
};

use super::topology::{GATEWAY_LEG, OVERLAY_LEG, endpoints};
use super::{answers, segments, serving, speaks_v6};

/// The kernel's NF_IP_PRI_RAW, NF_IP_PRI_MANGLE and NF_IP_PRI_NAT_SRC.
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const SRCNAT: i32 = 100;
const BEHIND_IPVS: i32 = 200;

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    objects.tables.insert(Netns::Sandbox, table(mesh, surroundings));
    objects.timeouts = Some(mesh.timeouts);
    for port in mesh.ports() {
        for family in Family::ALL {
            if serving(mesh, port, family).next().is_some() {
                objects.services.insert(VirtualKey { mark: port.mark(), family }, service(mesh, port, family));
            }
        }
    }
    for (name, value) in sysctls(mesh, surroundings) {
        objects.sysctls.insert((Netns::Sandbox, name.to_owned()), value.to_owned());
    }
}

fn table(mesh: &Mesh, surroundings: &Surroundings) -> Table {
    let mut table = Table { maps: maps(mesh), chains: chains(mesh), ..Table::default() };
    silent(mesh, &mut table);
    segments::lower(mesh, surroundings, &mut table);
    table
}

fn sysctls(mesh: &Mesh, surroundings: &Surroundings) -> Vec<(&'static str, &'static str)> {
    // Before 5.9, 1 delays a SYN on a reused source port by a second; since then it does not, and 0 would pin
    // such a client to a backend that is drained (kubernetes#93297, #81775).
    let conn_reuse_mode = if surroundings.kernel >= (5, 9) { "1" } else { "0" };
    let mut sysctls = vec![
        ("net/ipv4/ip_forward", "1"),
        // When the ingress address changes within its subnet, the new one outlives the old one.
        ("net/ipv4/conf/all/promote_secondaries", "1"),
        // Without it the SNAT behind IPVS does not see IPVS's connections.
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/conn_reuse_mode", conn_reuse_mode),
        // Connections of a backend that is gone end with it.
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
    ];
    if speaks_v6(mesh) {
        sysctls.push(("net/ipv6/conf/all/forwarding", "1"));
    }
    sysctls
}

fn maps(mesh: &Mesh) -> BTreeMap<String, Map> {
    let of = |preserved: bool, ranges: bool| {
        let alike = |port: &&Port| preserves(port) == preserved && port.published.is_single() != ranges;
        let published = mesh.ports().filter(alike).filter(|port| is_served(mesh, port));
        let elements = published.map(|port| (port.published, MapValue::Mark(port.mark()))).collect();
        Map { kind: MapKind::Mark, ranges, elements }
    };
    let mut maps = BTreeMap::from([("marks".to_owned(), of(false, false)), ("ranges".to_owned(), of(false, true))]);
    if mesh.ports().any(preserves) {
        maps.insert("preserved".to_owned(), of(true, false));
        maps.insert("preserved_ranges".to_owned(), of(true, true));
    }
    maps
}

/// Where that is wanted, a packet that nobody takes gets no answer. What comes here has passed by IPVS, which takes what belongs
/// to a connection or opens one (it looks at a packet just before NF_IP_PRI_NAT_SRC): so it need not be known who is well.
/// The plan uses it, too, while a scheduler changes, so it is there in any case.
fn silent(mesh: &Mesh, table: &mut Table) {
    let ports = mesh.ports().filter(|port| port.spread.on_empty == Some(OnEmpty::Drop));
    let elements: BTreeSet<SetElement> = ports.map(|port| SetElement::Ports(port.published)).collect();
    let gateway = Match::InterfaceIn(GATEWAY_LEG.to_owned());
    let theirs = Match::Among { key: Key::Port, set: SILENT.to_owned() };
    // The sandbox asks backends that are routed by that link, too.
    let answers = Rule::new([Match::Answer], Action::Accept);
    let rules = vec![answers, Rule::new([gateway, theirs], Action::Drop)];
    let chain = Chain { kind: ChainKind::Filter, hook: Hook::Input, priority: BEHIND_IPVS, rules };
    table.sets.insert(SILENT.to_owned(), Set { kind: SetKind::Ports, elements });
    table.chains.insert(SILENT.to_owned(), chain);
}

fn preserves(port: &Port) -> bool {
    port.client_address == ClientAddress::Preserve
}

/// Where clients keep their address nothing is to be tracked: no address is rewritten but by IPVS, which remembers its
/// connections itself. Only what answers to this node's own address has been rewritten on its way out.
fn untracked(mesh: &Mesh) -> Chain {
    let overlay = || Match::InterfaceIn(OVERLAY_LEG.to_owned());
    let own = endpoints(&mesh.ingress).into_iter().map(|endpoint| IpNetwork::from(endpoint.ip()));
    let tracked = own.map(|own| Rule::new([overlay(), Match::DestinationIn(own)], Action::Accept));
    let answers = [Rule::new([overlay()], Action::Untracked)];
    let published =
        ["preserved", "preserved_ranges"].map(|map| Rule::new([], Action::UntrackedMarkFrom { map: map.to_owned() }));
    Chain {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: RAW,
        rules: tracked.chain(answers).chain(published).collect(),
    }
}

fn chains(mesh: &Mesh) -> BTreeMap<String, Chain> {
    // Backends' answers carry no mark: only what comes in by the gateway is looked up.
    let answers = Rule::new([Match::InterfaceIn(OVERLAY_LEG.to_owned())], Action::Accept);
    let marks = ["marks", "ranges"].map(|map| Rule::new([], Action::MarkFrom { map: map.to_owned() }));
    // What answers a check may come to a port that is published.
    let checked = asks_by_the_gateway(mesh).then(|| Rule::new([Match::Answer], Action::Accept));
    let prerouting = std::iter::once(answers).chain(checked).chain(marks).collect();

    // IPVS leaves the mark on the packet, so the mark says here what `-m ipvs` says to iptables. Towards the
    // overlay the source becomes this node's ingress address, which every backend can answer; elsewhere it
    // becomes the address of the link it leaves by.
    let v4 = mesh.ingress.v4.map(|endpoint| (IpNetwork::V4(endpoint.subnet), IpAddr::V4(endpoint.address)));
    let v6 = mesh.ingress.v6.map(|endpoint| (IpNetwork::V6(endpoint.subnet), IpAddr::V6(endpoint.address)));
    let overlay = [v4, v6]
        .into_iter()
        .flatten()
        .map(|(subnet, address)| Rule::new([Match::Marked, Match::DestinationIn(subnet)], Action::Snat(address)));
    let elsewhere = Rule::new([Match::Marked], Action::Masquerade);
    let postrouting = overlay.chain([elsewhere]).collect();

    let mut chains = BTreeMap::from([
        (
            "prerouting".to_owned(),
            Chain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: MANGLE, rules: prerouting },
        ),
        (
            "postrouting".to_owned(),
            Chain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: SRCNAT, rules: postrouting },
        ),
    ]);
    if mesh.ports().any(preserves) {
        chains.insert("untracked".to_owned(), untracked(mesh));
    }
    chains
}

/// Whether backends that are not on the overlay are asked whether they can serve.
fn asks_by_the_gateway(mesh: &Mesh) -> bool {
    let routed = |port: &Port| port.backends.iter().any(|backend| !mesh.ingress.contains(backend.address));
    mesh.ports().any(|port| port.check.is_some() && routed(port))
}

fn is_served(mesh: &Mesh, port: &Port) -> bool {
    Family::ALL.into_iter().any(|family| answers(mesh, port, family))
}

fn service(mesh: &Mesh, port: &Port, family: Family) -> VirtualService {
    let scheduling = &port.scheduling;
    let prefix = match family {
        Family::V4 => scheduling.persistence_mask,
        Family::V6 => scheduling.persistence_mask6,
    };
    let persistence = (scheduling.persistence > 0).then_some(Persistence { timeout: scheduling.persistence, prefix });
    let destinations: BTreeMap<DestinationKey, Destination> =
        serving(mesh, port, family).map(|(backend, weight)| destination(port, backend, weight)).collect();
    // To a scheduler that hashes one of weight 0 is there still: it keeps its share of the clients, and they would be refused.
    let hashes = matches!(scheduling.scheduler, Scheduler::SourceHash | Scheduler::Maglev);
    let someone_rests = destinations.values().any(|destination| destination.weight == 0);
    let fallback = scheduling.flags.fallback || hashes && someone_rests;
    VirtualService {
        scheduler: scheduling.scheduler,
        flags: SchedulerFlags { fallback, ..scheduling.flags },
        persistence,
        one_packet: scheduling.one_packet,
        destinations,
    }
}

fn destination(port: &Port, backend: &Backend, weight: u32) -> (DestinationKey, Destination) {
    // Port 0 keeps the packet's own port, which is what a range wants.
    let key = DestinationKey { address: backend.address, port: port.target.unwrap_or(0) };
    (key, Destination { weight, thresholds: backend.thresholds })
}
