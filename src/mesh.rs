//! What the operator means: services, published ports, backends.
//!
//! A [`Mesh`] is resolved: every port carries its own scheduler, persistence and backends, whether the
//! configuration gave them to the port or to its service. It knows nothing of files, sockets or the kernel.

mod check;
mod dataplane;
mod differing;
mod spread;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::{Ipv4Network, Ipv6Network};

pub use check::{Check, DnsProbe, DnsRecord, ExecProbe, HttpProbe, OnDown, Probe, Tls, UdpProbe};

pub use dataplane::Dataplane;
pub use differing::{Differing, Order};
pub use spread::{OnEmpty, Prefer, Quorum, Spread};

use crate::objects::HOST_END;
pub use crate::objects::{
    Family, Mark, NetnsRef, Network, PortRange, Protocol, PublicKey, Scheduler, SchedulerFlags, Thresholds, Timeouts,
};

/// One backend of one published port.
pub type Key = (Mark, IpAddr);

/// Everything one node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// This node's name, for people.
    pub node: String,
    /// How other nodes reach this one: the local end of the VXLAN tunnel.
    pub address: Option<IpAddr>,
    /// This node's own key, where the tunnel is encrypted.
    pub key: Option<PublicKey>,
    pub ingress: Ingress,
    pub gateway: Gateway,
    pub dataplane: Dataplane,
    /// How long the sandbox remembers connections, in seconds.
    pub timeouts: Timeouts,
    /// The other nodes, in the order of the file.
    pub peers: Vec<Peer>,
    pub services: Vec<Arc<Service>>,
    /// Who cannot serve now, whatever the operator says of them.
    pub out: BTreeSet<Key>,
    /// Who of the others gets no new clients now, and keeps those that it has.
    pub resting: BTreeSet<Key>,
    /// Who of them has as many connections as it may have, where the data plane has to be told.
    pub full: BTreeSet<Key>,
}

/// Another node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// Its end of the VXLAN tunnel.
    pub address: IpAddr,
    /// By which it is known, where the tunnel is encrypted.
    pub key: Option<PublicKey>,
    /// Its ingress addresses: whom backends here see, when a client comes by it.
    pub ingress: Option<Ipv4Addr>,
    pub ingress6: Option<Ipv6Addr>,
}

impl Peer {
    /// Its ingress addresses, IPv4 first.
    pub fn endpoints(&self) -> impl Iterator<Item = IpAddr> {
        self.ingress.map(IpAddr::from).into_iter().chain(self.ingress6.map(IpAddr::from))
    }
}

/// The overlay that carries published traffic from the sandbox to the backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    pub v4: Option<Endpoint4>,
    pub v6: Option<Endpoint6>,
    /// Name of the sandbox's network namespace under /run/netns; the overlay's own is `<namespace>_overlay`.
    pub namespace: String,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of the VXLAN tunnel.
    pub port: u16,
    /// `None`: between the nodes everyone can read what is in the tunnel.
    pub encryption: Option<Encryption>,
    /// Bytes; `None`: what the underlay leaves after the encapsulation.
    pub mtu: Option<u32>,
}

impl Ingress {
    /// UDP, of the tunnel's own packets; the same on all nodes.
    pub fn underlay_port(&self) -> u16 {
        self.encryption.map_or(self.port, |encryption| encryption.port)
    }

    /// Whether an address is on the overlay.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self.v4.is_some_and(|v4| v4.subnet.contains(ip)),
            IpAddr::V6(ip) => self.v6.is_some_and(|v6| v6.subnet.contains(ip)),
        }
    }
}

/// VXLAN inside WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// UDP port of WireGuard, the same on every node.
    pub port: u16,
}

/// The ingress subnet and this node's address in it: the SNAT source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint4 {
    pub subnet: Ipv4Network,
    pub address: Ipv4Addr,
}

/// As [`Endpoint4`], for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint6 {
    pub subnet: Ipv6Network,
    pub address: Ipv6Addr,
}

/// The way between the host and the sandbox. The host has the first address of each subnet, the sandbox the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// A bridge on the host, with the sandbox as its port; `None`: the two are linked by a pair of devices alone.
    pub bridge: Option<String>,
    pub subnet: Ipv4Network,
    pub subnet6: Ipv6Network,
    /// Whether meshd may put its two accept rules into a chain of someone else's that drops forwarded packets.
    pub open_forward: bool,
    /// Whether established connections may pass by a flow table, where the kernel has them.
    pub flow_table: bool,
}

impl Gateway {
    /// The device by which the host's packets leave for the sandbox.
    pub fn link(&self) -> &str {
        self.bridge.as_deref().unwrap_or(HOST_END)
    }
}

/// A named group of published ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub ports: Vec<Port>,
}

/// One published port (or range) and who answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub published: PortRange,
    /// The port the backends listen on; `None` for a range, where the port is kept.
    pub target: Option<u16>,
    pub scheduling: Scheduling,
    pub client_address: ClientAddress,
    pub mode: Mode,
    pub access: Access,
    /// `None`: backends are taken to be well.
    pub check: Option<Check>,
    pub spread: Spread,
    pub backends: Vec<Backend>,
}

/// Where on a node a port is published, and who may come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Empty: everywhere.
    pub bind: BTreeSet<Bind>,
    /// `None`: everyone.
    pub allow: Option<BTreeSet<Network>>,
    /// Also of those that are allowed.
    pub deny: BTreeSet<Network>,
}

/// A part of a node that a port is published at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// What is sent to that address of the node, by whatever way.
    Address(IpAddr),
    /// What comes in by the link of that name, to whatever address of the node.
    Link(String),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => write!(f, "{address}"),
            Bind::Link(name) => write!(f, "{name}"),
        }
    }
}

/// Whom a backend sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientAddress {
    /// The node that the client came by, at its ingress address.
    #[default]
    Snat,
    /// The client.
    Preserve,
}

impl ClientAddress {
    pub const ALL: [ClientAddress; 2] = [ClientAddress::Snat, ClientAddress::Preserve];

    pub fn name(self) -> &'static str {
        match self {
            ClientAddress::Snat => "snat",
            ClientAddress::Preserve => "preserve",
        }
    }
}

/// On which nodes a port is published, in Swarm's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// On every node, for the backends of all.
    #[default]
    Ingress,
    /// Where a backend runs, and for those only: nothing crosses the overlay to another node.
    Host,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Ingress, Mode::Host];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Ingress => "ingress",
            Mode::Host => "host",
        }
    }
}

/// How IPVS chooses a backend, see ipvsadm(8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduling {
    pub scheduler: Scheduler,
    pub flags: SchedulerFlags,
    /// Seconds that a client stays with its backend; 0: not at all.
    pub persistence: u32,
    /// Length of the prefix by which clients are told apart, for IPv4.
    pub persistence_mask: u8,
    /// The same for IPv6.
    pub persistence_mask6: u8,
    /// Every datagram is scheduled by itself (UDP only).
    pub one_packet: bool,
}

/// One real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    /// Relative weight, 0 to 65535; 0: no new connections.
    pub weight: u32,
    /// How many connections it may have by this node.
    pub thresholds: Thresholds,
    pub state: BackendState,
    /// It gets clients only while others cannot take them, see [`Quorum`].
    pub backup: bool,
    /// The node that it is on; `None`: this one, or none of the overlay's.
    pub node: Option<String>,
    /// The network namespace that meshd attaches to the overlay, if it is meshd who does it: the meshd of its node.
    pub netns: Option<NetnsRef>,
}

/// What the operator lets a backend do (haproxy's ready, drain and maint).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendState {
    #[default]
    Enabled,
    /// No new connections; those that are open go on. Its weight is remembered.
    Drain,
    /// Not there for clients at all.
    Disabled,
}

impl BackendState {
    pub const ALL: [BackendState; 3] = [BackendState::Enabled, BackendState::Drain, BackendState::Disabled];

    pub fn name(self) -> &'static str {
        match self {
            BackendState::Enabled => "enabled",
            BackendState::Drain => "drain",
            BackendState::Disabled => "disabled",
        }
    }
}

impl Backend {
    /// The weight that the kernel has; `None`: the backend is not in its tables.
    pub fn programmed_weight(&self) -> Option<u32> {
        match self.state {
            BackendState::Enabled => Some(self.weight),
            BackendState::Drain => Some(0),
            BackendState::Disabled => None,
        }
    }
}

/// The usual time for connections to end by themselves.
const USUAL_DRAIN: Duration = Duration::from_secs(30);

impl Port {
    /// How long one that gets no new clients any more may keep those that it has.
    pub fn grace(&self) -> Duration {
        self.spread.drain.unwrap_or(USUAL_DRAIN)
    }

    /// The firewall mark of this port: the same on every node and after every restart.
    pub fn mark(&self) -> Mark {
        self.published.mark()
    }
}

impl Mesh {
    /// The ports of all services.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.services.iter().flat_map(|service| &service.ports)
    }

    /// Backends of all ports: one that several ports have counts for each.
    pub fn count_backends(&self) -> usize {
        self.ports().map(|port| port.backends.len()).sum()
    }

    /// The node that a backend is on, this one if it does not say.
    pub fn node_of<'a>(&'a self, backend: &'a Backend) -> &'a str {
        backend.node.as_deref().unwrap_or(&self.node)
    }

    /// Whether a backend is on another node.
    pub fn is_elsewhere(&self, backend: &Backend) -> bool {
        backend.node.as_ref().is_some_and(|node| *node != self.node)
    }

    /// A port's backends that this node sends clients to, if they are well and the operator lets them.
    pub fn serving_from_here<'a>(&'a self, port: &'a Port) -> impl Iterator<Item = &'a Backend> {
        let here = port.backends.iter().filter(|backend| self.sends_to(port, backend));
        here.filter(|backend| backend.programmed_weight().is_some())
    }

    /// Whether clients that come by this node may go to that backend of the port.
    pub fn sends_to(&self, port: &Port, backend: &Backend) -> bool {
        port.mode == Mode::Ingress || !self.is_elsewhere(backend)
    }

    /// Whether a backend is on this node, for all that is known.
    pub fn is_local(&self, backend: &Backend) -> bool {
        self.ingress.contains(backend.address) && !self.is_elsewhere(backend)
    }

    /// The peers but for this node itself, which may be listed by the name that its host has.
    pub fn other_nodes(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.name != self.node)
    }

    /// The same, where those cannot serve either, and those rest.
    pub fn without(&self, mut out: BTreeSet<Key>, mut resting: BTreeSet<Key>) -> Mesh {
        out.extend(&self.out);
        resting.extend(&self.resting);
        Mesh { out, resting, ..self.clone() }
    }

    /// Which service owns which mark, for messages.
    pub fn names(&self) -> BTreeMap<Mark, &str> {
        self.services
            .iter()
            .flat_map(|service| service.ports.iter().map(|port| (port.mark(), service.name.as_str())))
            .collect()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}", self.name)
    }
}
