//! The sandbox's part that is the same whoever balances there: whom it answers in whose place, and who gets no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mesh::{ClientAddress, Dataplane, Mesh, OnEmpty, Port};
use crate::objects::{
    Action, Chain, ChainKind, Family, Hook, Key, Map, MapKind, MapValue, Match, Netns, Objects, Rule, SILENT, Set,
    SetElement, SetKind, Surroundings, Table,
};

use super::topology::GATEWAY_LEG;
use super::{answers, ipvs, nftables, segments, speaks_v6};

/// The kernel's NF_IP_PRI_NAT_SRC.
const SRCNAT: i32 = 100;
const BEHIND_IPVS: i32 = 200;

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    let mut table = Table::default();
    silent(mesh, &mut table);
    segments::lower(mesh, surroundings, &mut table);
    let mut sysctls = vec![
        ("net/ipv4/ip_forward", "1".to_owned()),
        // When the ingress address changes within its subnet, the new one outlives the old one.
        ("net/ipv4/conf/all/promote_secondaries", "1".to_owned()),
    ];
    if speaks_v6(mesh) {
        sysctls.push(("net/ipv6/conf/all/forwarding", "1".to_owned()));
    }
    let kept = match mesh.dataplane {
        Dataplane::Ipvs => {
            ipvs::lower(mesh, &mut table, objects);
            sysctls.extend(ipvs::sysctls(surroundings).map(|(name, value)| (name, value.to_owned())));
            None
        }
        Dataplane::Nftables => {
            sysctls.extend(nftables::sysctls(mesh));
            nftables::lower(mesh, surroundings, &mut table, objects)
        }
    };
    table.chains.insert("postrouting".to_owned(), postrouting(mesh, kept));
    objects.tables.insert(Netns::Sandbox, table);
    objects.sysctls.extend(sysctls.into_iter().map(|(name, value)| ((Netns::Sandbox, name.to_owned()), value)));
}

/// From single ports to marks, or from ranges: of those ports that are `of` the map.
pub(super) fn marks(mesh: &Mesh, ranges: bool, of: impl Fn(&Port) -> bool) -> Map {
    let alike = |port: &&Port| of(port) && port.published.is_single() != ranges;
    let published = mesh.ports().filter(alike).filter(|port| is_served(mesh, port));
    let elements = published.map(|port| (port.published, MapValue::Mark(port.mark()))).collect();
    Map { kind: MapKind::Mark, ranges, elements }
}

/// The map that has a port's mark, and the chain that looks there.
pub fn marks_map(mesh: &Mesh, port: &Port) -> (&'static str, &'static str) {
    let single = port.published.is_single();
    match mesh.dataplane {
        Dataplane::Ipvs if preserves(port) => (if single { "preserved" } else { "preserved_ranges" }, "untracked"),
        Dataplane::Ipvs => (if single { "marks" } else { "ranges" }, "prerouting"),
        Dataplane::Nftables => (if single { "marks" } else { "ranges" }, "balance"),
    }
}

fn is_served(mesh: &Mesh, port: &Port) -> bool {
    Family::ALL.into_iter().any(|family| answers(mesh, port, family))
}

pub(super) fn preserves(port: &Port) -> bool {
    port.client_address == ClientAddress::Preserve
}

/// Whoever balances leaves the mark on the packet, so the mark says here what `-m ipvs` says to iptables. Towards the
/// overlay the source becomes this node's ingress address, which every backend can answer; elsewhere it
/// becomes the address of the link it leaves by. `kept`: whose source stays.
fn postrouting(mesh: &Mesh, kept: Option<Rule>) -> Chain {
    let v4 = mesh.ingress.v4.map(|endpoint| (IpNetwork::V4(endpoint.subnet), IpAddr::V4(endpoint.address)));
    let v6 = mesh.ingress.v6.map(|endpoint| (IpNetwork::V6(endpoint.subnet), IpAddr::V6(endpoint.address)));
    let overlay = [v4, v6]
        .into_iter()
        .flatten()
        .map(|(subnet, address)| Rule::new([Match::Marked, Match::DestinationIn(subnet)], Action::Snat(address)));
    let elsewhere = Rule::new([Match::Marked], Action::Masquerade);
    Chain::base(ChainKind::Nat, Hook::Postrouting, SRCNAT, kept.into_iter().chain(overlay).chain([elsewhere]).collect())
}

/// Where that is wanted, a packet that nobody takes gets no answer. What comes here has passed by IPVS, which takes what belongs
/// to a connection or opens one (it looks at a packet just before NF_IP_PRI_NAT_SRC), or was led elsewhere by nftables: so it need
/// not be known who is well. The plan uses it, too, while a scheduler changes, so it is there in any case.
fn silent(mesh: &Mesh, table: &mut Table) {
    let ports = mesh.ports().filter(|port| port.spread.on_empty == Some(OnEmpty::Drop));
    let elements: BTreeSet<SetElement> = ports.map(|port| SetElement::Ports(port.published)).collect();
    let gateway = Match::InterfaceIn(GATEWAY_LEG.to_owned());
    let theirs = Match::Among { key: Key::Port, set: SILENT.to_owned() };
    // The sandbox asks backends that are routed by that link, too.
    let answers = Rule::new([Match::Answer], Action::Accept);
    let rules = vec![answers, Rule::new([gateway, theirs], Action::Drop)];
    table.sets.insert(SILENT.to_owned(), Set { kind: SetKind::Ports, elements });
    table.chains.insert(SILENT.to_owned(), Chain::base(ChainKind::Filter, Hook::Input, BEHIND_IPVS, rules));
}

/// One of each name.
pub(super) fn named<T, const N: usize>(things: [(&str, T); N]) -> BTreeMap<String, T> {
    things.into_iter().map(|(name, thing)| (name.to_owned(), thing)).collect()
}
