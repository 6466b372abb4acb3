//! What a host is examined for (`meshctl doctor`), and what is found: plain facts, of which others say what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{LinkId, Netns, Obstacle, Opening, Protocol, Surroundings};

/// What is to be looked at, beside what every host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// Whether IPVS and WireGuard are wanted: to try them loads their modules.
    pub ipvs: bool,
    pub wireguard: bool,
    /// This node's end of the tunnel, the tunnel's port, and where its packets go.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub peers: BTreeSet<IpAddr>,
    /// Bytes of the tunnel's largest packets; 0: nothing is sent.
    pub bytes: u32,
    /// Kernel parameters, as paths below /proc/sys.
    pub parameters: BTreeSet<(Netns, String)>,
    /// Links of ours.
    pub links: BTreeSet<LinkId>,
    /// Names on the host that have to be free, or ours.
    pub names: BTreeSet<String>,
    /// Whether this process is the daemon, whose limits matter.
    pub is_daemon: bool,
}

/// What is found. What could not be read is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Of the kernel, as uname(1) prints it.
    pub release: String,
    pub surroundings: Surroundings,
    pub features: Vec<Feature>,
    /// Our namespaces that are there.
    pub namespaces: BTreeSet<Netns>,
    pub parameters: BTreeMap<(Netns, String), String>,
    /// Links by which clients come in, with the strictness of their own reverse path filters.
    pub uplinks: BTreeMap<String, u64>,
    /// The host's link that carries the tunnel.
    pub underlay: Option<Device>,
    /// Of our links those that are there, with the bytes that they carry.
    pub links: BTreeMap<LinkId, u32>,
    /// Names on the host that someone else has.
    pub foreign: BTreeSet<String>,
    /// The host's addresses, and its routes with their links, but for ours.
    pub addresses: BTreeSet<IpNetwork>,
    pub routes: Vec<(IpNetwork, String)>,
    /// Where somebody on the host waits for clients.
    pub listeners: BTreeSet<(Protocol, SocketAddr)>,
    /// The port of our own WireGuard link.
    pub wireguard_port: Option<u16>,
    /// What paths carry, and whether it was learned by echoes that were not answered.
    pub paths: BTreeMap<IpAddr, (u32, bool)>,
    /// What others' rules do here to the tunnel's packets from a peer.
    pub obstacles: BTreeMap<IpAddr, Vec<Obstacle>>,
    /// Forward chains of others in which our two rules are.
    pub openings: BTreeSet<Opening>,
    /// Commands of legacy iptables that hold a filter table, which cannot be read.
    pub legacy: Vec<&'static str>,
    /// Others that make rules here, and a chain or table by which that is seen.
    pub beside: BTreeMap<Beside, String>,
    /// Tables of neighbours, of all namespaces together.
    pub neighbours: BTreeMap<super::Family, Neighbours>,
    pub files: Option<Files>,
    /// Of memory, in KiB: all, and what is free for new uses.
    pub memory: Option<(u64, u64)>,
    pub clock: Clock,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub what: String,
    /// What is there; or else what is missing and what to do.
    pub outcome: Result<String, String>,
    /// Without it no mesh works.
    pub needed: bool,
}

/// A link that is not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// `None`: it is none of hardware, or cannot be told.
    pub driver: Option<String>,
    pub mtu: u32,
    /// Offloads by ethtool's names: those that it can do, and those that are on. `None`: it does not say.
    pub offloads: Option<Offloads>,
}

/// Names of offloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Can be switched.
    pub can: BTreeSet<String>,
    pub on: BTreeSet<String>,
}

/// Who else makes firewall rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beside {
    Docker,
    Firewalld,
    Ufw,
    Kubernetes,
}

/// How full a table of neighbours is (arp(7), `gc_thresh3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    pub entries: u64,
    /// Times that there was no room.
    pub overflows: u64,
}

/// Of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub open: u64,
    pub limit: u64,
}

/// What is known of the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// Who keeps it says that it is right; false: nobody says so.
    pub kept: bool,
    /// From what the kernel reads it.
    pub source: Option<String>,
}
