//! The small verbs that a plan is made of.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::BalanceEdit;
use crate::objects::{
    Address, Chain, Destination, DestinationKey, Leg, Link, LinkId, Mac, Map, MapValue, Netns, NetnsRef, Opening,
    PortRange, Protocol, PublicKey, Returns, Route, SetElement, SetKind, Timeouts, VirtualKey, VirtualService,
    WireguardPeer,
};

/// A change of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetEdit {
    pub name: String,
    pub remove: Vec<SetElement>,
    pub add: Vec<SetElement>,
}

/// One change to the kernel. Each is idempotent: done twice, it ends the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddNamespace(Netns),
    /// With everything in it.
    DeleteNamespace(Netns),

    SetSysctl {
        netns: Netns,
        name: String,
        value: String,
    },
    /// Gives a parameter of the host back the value it had before meshd first set it.
    RestoreSysctl {
        name: String,
    },

    /// Makes the device, of a veth both ends.
    AddLink {
        id: LinkId,
        link: Link,
    },
    /// Sets all that can be set on a device that exists: MAC, MTU, master, isolation, up.
    SetLink {
        id: LinkId,
        link: Link,
    },
    DeleteLink(LinkId),
    AddAddress(Address),
    DeleteAddress(Address),
    AddRoute(Route),
    DeleteRoute(Route),
    /// Attaches a backend's namespace to the overlay, or mends what is attached.
    AddLeg {
        mac: Mac,
        leg: Leg,
    },
    DeleteLeg {
        mac: Mac,
    },
    /// Gives the WireGuard link its key and its port. Peers stay as they are.
    SetWireguard {
        key: PublicKey,
        port: u16,
    },
    /// Adds the peer, or tells what it is like now.
    SetWireguardPeer {
        key: PublicKey,
        peer: WireguardPeer,
    },
    DeleteWireguardPeer {
        key: PublicKey,
    },
    /// Frames to that MAC leave by the tunnel, to that node; whatever was said of it before.
    SetForwarding {
        mac: Mac,
        node: IpAddr,
    },
    DeleteForwarding {
        mac: Mac,
        node: IpAddr,
    },
    SetNeighbour {
        ip: IpAddr,
        mac: Mac,
    },
    DeleteNeighbour {
        ip: IpAddr,
    },

    /// Has a backend's namespace answer clients by the node that these came by; whatever was said of it before.
    SetReturns {
        netns: NetnsRef,
        returns: Returns,
    },
    DeleteReturns {
        netns: NetnsRef,
    },

    AddTable(Netns),
    /// With everything in it.
    DeleteTable(Netns),
    /// Makes the map, without elements.
    AddMap {
        netns: Netns,
        name: String,
        map: Map,
    },
    DeleteMap {
        netns: Netns,
        name: String,
    },
    /// Makes the set, without elements.
    AddSet {
        netns: Netns,
        name: String,
        kind: SetKind,
    },
    DeleteSet {
        netns: Netns,
        name: String,
    },
    /// Removes and adds elements of sets, at once: who is let in by one may be looked for in another.
    EditSets {
        netns: Netns,
        edits: Vec<SetEdit>,
    },
    /// Makes our flow table, of those links, without a flow.
    AddFlows {
        netns: Netns,
        links: BTreeSet<String>,
    },
    /// Its flows go the long way again.
    DeleteFlows {
        netns: Netns,
    },
    /// Makes the chain, or replaces all its rules, at once.
    SetChain {
        netns: Netns,
        name: String,
        chain: Chain,
    },
    DeleteChain {
        netns: Netns,
        name: String,
    },
    /// Removes and adds elements of one map, at once. `ranges` as in [`Map`].
    EditMap {
        netns: Netns,
        name: String,
        ranges: bool,
        remove: Vec<(PortRange, MapValue)>,
        add: Vec<(PortRange, MapValue)>,
    },
    OpenForward(Opening),
    CloseForward(Opening),
    /// Flows of a datagram protocol that began before its port was published (on the host), or before it had a backend (in the
    /// sandbox), stay on their old way as long as connection tracking remembers them: it is made to forget those.
    TakeOver {
        netns: Netns,
        protocol: Protocol,
        first: u16,
        last: u16,
    },

    SetTimeouts(Timeouts),
    /// Makes the service, without destinations.
    AddService {
        key: VirtualKey,
        service: VirtualService,
    },
    /// Changes scheduler, flags, persistence; destinations stay as they are.
    SetService {
        key: VirtualKey,
        service: VirtualService,
    },
    DeleteService(VirtualKey),
    AddDestination {
        service: VirtualKey,
        key: DestinationKey,
        destination: Destination,
    },
    SetDestination {
        service: VirtualKey,
        key: DestinationKey,
        destination: Destination,
    },
    DeleteDestination {
        service: VirtualKey,
        key: DestinationKey,
    },

    /// Changes how nftables spreads a port's clients, at once.
    EditBalance {
        key: VirtualKey,
        edit: BalanceEdit,
    },
    /// Ends the connections that a backend has of the port, and lets it have none any more.
    DropBackend {
        key: VirtualKey,
        backend: DestinationKey,
    },
}

macro_rules! kinds {
    ($($kind:literal $steps:pat,)*) => {
        impl Step {
            /// Every answer of [`kind`](Step::kind).
            pub const KINDS: &'static [&'static str] = &[$($kind,)*];

            /// The kind of thing that the step changes, for metrics.
            pub fn kind(&self) -> &'static str {
                match self { $($steps => $kind,)* }
            }
        }
    };
}

kinds! {
    "namespace" Step::AddNamespace(_) | Step::DeleteNamespace(_),
    "sysctl" Step::SetSysctl { .. } | Step::RestoreSysctl { .. },
    "link" Step::AddLink { .. } | Step::SetLink { .. } | Step::DeleteLink(_),
    "address" Step::AddAddress(_) | Step::DeleteAddress(_),
    "route" Step::AddRoute(_) | Step::DeleteRoute(_),
    "leg" Step::AddLeg { .. } | Step::DeleteLeg { .. },
    "wireguard" Step::SetWireguard { .. } | Step::SetWireguardPeer { .. } | Step::DeleteWireguardPeer { .. },
    "forwarding" Step::SetForwarding { .. } | Step::DeleteForwarding { .. },
    "neighbour" Step::SetNeighbour { .. } | Step::DeleteNeighbour { .. },
    "return" Step::SetReturns { .. } | Step::DeleteReturns { .. },
    "table" Step::AddTable(_) | Step::DeleteTable(_),
    "chain" Step::SetChain { .. } | Step::DeleteChain { .. },
    "map" Step::AddMap { .. } | Step::DeleteMap { .. },
    "set" Step::AddSet { .. } | Step::DeleteSet { .. } | Step::EditSets { .. },
    "flowtable" Step::AddFlows { .. } | Step::DeleteFlows { .. },
    "port" Step::EditMap { .. },
    "forward" Step::OpenForward(_) | Step::CloseForward(_),
    "flow" Step::TakeOver { .. },
    "timeouts" Step::SetTimeouts(_),
    "service" Step::AddService { .. } | Step::SetService { .. } | Step::DeleteService(_) | Step::EditBalance { .. },
    "backend" Step::AddDestination { .. } | Step::SetDestination { .. } | Step::DeleteDestination { .. }
        | Step::DropBackend { .. },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddNamespace(netns) => write!(f, "add namespace {netns}"),
            Step::DeleteNamespace(netns) => write!(f, "delete namespace {netns}"),
            Step::AddFlows { netns, links } => {
                let links: Vec<&str> = links.iter().map(String::as_str).collect();
                write!(f, "add flow table in {netns}: {}", links.join(", "))
            }
            Step::DeleteFlows { netns } => write!(f, "delete flow table in {netns}"),
            Step::SetSysctl { netns, name, value } => write!(f, "set {name} = {value} in {netns}"),
            Step::RestoreSysctl { name } => write!(f, "restore {name} in host"),
            Step::AddLink { id, link } => write!(f, "add link {id}: {}", link.kind),
            Step::SetLink { id, link } => write!(f, "set link {id}: {link}"),
            Step::DeleteLink(id) => write!(f, "delete link {id}"),
            Step::AddAddress(address) => write!(f, "add address {} to {}", address.ip, address.link),
            Step::DeleteAddress(address) => write!(f, "delete address {} from {}", address.ip, address.link),
            Step::AddRoute(route) => write!(f, "add route {route}"),
            Step::DeleteRoute(route) => write!(f, "delete route {route}"),
            Step::AddLeg { mac, leg } => {
                write!(f, "attach namespace ")?;
                match &leg.netns {
                    Some(netns) => write!(f, "{netns}")?,
                    None => write!(f, "(gone)")?,
                }
                write!(f, " to the overlay: address {mac} mtu {}", leg.mtu)?;
                leg.addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
            Step::DeleteLeg { mac } => write!(f, "detach leg {mac} from the overlay"),
            Step::SetWireguard { key, port } => write!(f, "set wireguard public key {key} port {port}"),
            Step::SetWireguardPeer { key, peer } => write!(f, "set wireguard peer {key} {peer}"),
            Step::DeleteWireguardPeer { key } => write!(f, "delete wireguard peer {key}"),
            Step::SetForwarding { mac, node } => write!(f, "forward {mac} to node {node}"),
            Step::DeleteForwarding { mac, node } => write!(f, "forward {mac} to node {node} no more"),
            Step::SetNeighbour { ip, mac } => write!(f, "set neighbour {ip}: {mac}"),
            Step::DeleteNeighbour { ip } => write!(f, "delete neighbour {ip}"),
            Step::SetReturns { netns, returns } => write!(f, "set ways back of namespace {netns}: {returns}"),
            Step::DeleteReturns { netns } => write!(f, "delete ways back of namespace {netns}"),
            Step::AddTable(netns) => write!(f, "add table in {netns}"),
            Step::DeleteTable(netns) => write!(f, "delete table in {netns}"),
            Step::AddMap { netns, name, .. } => write!(f, "add map {name} in {netns}"),
            Step::DeleteMap { netns, name } => write!(f, "delete map {name} in {netns}"),
            Step::AddSet { netns, name, .. } => write!(f, "add set {name} in {netns}"),
            Step::DeleteSet { netns, name } => write!(f, "delete set {name} in {netns}"),
            Step::EditSets { netns, edits } => {
                write!(f, "sets in {netns}:")?;
                edits.iter().try_for_each(|SetEdit { name, remove, add }| {
                    write!(f, " {name}")?;
                    remove.iter().try_for_each(|element| write!(f, " remove {element}"))?;
                    add.iter().try_for_each(|element| write!(f, " add {element}"))
                })
            }
            Step::SetChain { netns, name, chain } => {
                match &chain.base {
                    Some(base) => write!(f, "set chain {name} in {netns}: {base}")?,
                    None => write!(f, "set chain {name} in {netns}:")?,
                }
                chain.rules.iter().try_for_each(|rule| write!(f, "\n    {rule}"))
            }
            Step::DeleteChain { netns, name } => write!(f, "delete chain {name} in {netns}"),
            Step::EditMap { netns, name, remove, add, .. } => {
                write!(f, "map {name} in {netns}:")?;
                remove.iter().try_for_each(|(port, _)| write!(f, " remove {port}"))?;
                add.iter().try_for_each(|(port, value)| write!(f, " add {port} to {value}"))
            }
            Step::OpenForward(opening) => write!(f, "add accept rules to chain {opening} in host"),
            Step::CloseForward(opening) => write!(f, "delete accept rules from chain {opening} in host"),
            Step::TakeOver { netns, protocol, first, last } => {
                let port = PortRange { protocol: *protocol, first: *first, last: *last };
                match netns {
                    Netns::Host => write!(f, "take over older flows to {port}"),
                    netns => write!(f, "take over older flows to {port} in {netns}"),
                }
            }
            Step::SetTimeouts(timeouts) => write!(f, "set timeouts {timeouts}"),
            Step::AddService { key, service } => write!(f, "add service {key}: {service}"),
            Step::SetService { key, service } => write!(f, "set service {key}: {service}"),
            Step::DeleteService(key) => write!(f, "delete service {key}"),
            Step::AddDestination { service, key, destination } => {
                write!(f, "add backend {key} {destination} to {service}")
            }
            Step::SetDestination { service, key, destination } => {
                write!(f, "set backend {key} {destination} of {service}")
            }
            Step::DeleteDestination { service, key } => write!(f, "delete backend {key} from {service}"),
            Step::EditBalance { key, edit } => write!(f, "balance {key}:{edit}"),
            Step::DropBackend { key, backend } => write!(f, "end connections of backend {backend} of {key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the macro a step's kind is one of the list; what is left is that no two are called alike.
    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut kinds = Step::KINDS.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), Step::KINDS.len());
        let take_over = Step::TakeOver { netns: Netns::Host, protocol: Protocol::Udp, first: 53, last: 53 };
        assert_eq!((Step::DeleteTable(Netns::Host).kind(), take_over.kind()), ("table", "flow"));
        assert!(Step::KINDS.contains(&Step::SetTimeouts(Timeouts::default()).kind()));
    }
}
