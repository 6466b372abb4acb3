//! What the kernel is asked when the way of a packet is explained, and what it answers just now.
//!
//! Objects say what is ours. What becomes of a packet is also for others to say, by their rules and routes, and for those who listen or
//! do not: that is asked for one packet at a time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Family, Hook, Netns, NetnsRef, Protocol};

/// A namespace that packets pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    Ours(Netns),
    Backend(NetnsRef),
}

/// A packet at one place of its way, as far as it is decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    pub family: Family,
    pub protocol: Protocol,
    /// `None`, here and below: it may be any.
    pub source: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
    /// The links that it comes in and goes out by.
    pub link_in: Option<String>,
    pub link_out: Option<String>,
    pub mark: u32,
    pub phase: Phase,
    /// It was sent elsewhere than it was addressed to.
    pub translated: bool,
    /// It is addressed to the namespace that it is in.
    pub is_local: bool,
}

impl Packet {
    /// The first of a connection to the namespace that it is in; whose, and whither, is open.
    pub fn first(family: Family, protocol: Protocol) -> Packet {
        Packet {
            family,
            protocol,
            source: None,
            source_port: None,
            destination: None,
            destination_port: None,
            link_in: None,
            link_out: None,
            mark: 0,
            phase: Phase::First,
            translated: false,
            is_local: true,
        }
    }
}

/// Where in its connection a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    First,
    /// Behind it, once it was answered.
    Later,
    /// The other way.
    Answer,
    /// No connection is known, nor is one to be.
    Untracked,
}

/// Whose rules it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The tables of families ip, ip6 and inet, and netdev's before and behind them.
    Network,
    /// Those of family bridge.
    Bridge,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// By which link and gateway a packet to that address is sent on; `link_in`: one that came in by that link.
    Route { space: Space, to: IpAddr, from: Option<IpAddr>, link_in: Option<String>, mark: u32 },
    /// What others' rules at that hook do to a packet.
    Rules { space: Space, layer: Layer, hook: Hook, packet: Packet },
    /// Who listens in that namespace for what comes to an address and port.
    Listens { netns: NetnsRef, protocol: Protocol, at: SocketAddr },
    /// Whether that address and port answers the sandbox.
    Connects { protocol: Protocol, to: SocketAddr },
    /// What a packet of so many bytes to the tunnel of another node meets on its way.
    Underlay { peer: IpAddr, port: u16, bytes: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Route(Onward),
    /// All that stand in the way, in the order in which the packet meets them.
    Rules(Vec<Obstacle>),
    Listens(Vec<SocketAddr>),
    Connects(Connects),
    Underlay {
        mtu: Option<u32>,
        answers: bool,
    },
    /// It could not be asked.
    Unknown(String),
}

/// The kernel's own choice (ip-route(8), `get`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    By {
        link: String,
        gateway: Option<IpAddr>,
    },
    /// To the namespace itself.
    Local,
    /// Nowhere: no route, a blackhole, or a reverse path that is filtered.
    None(String),
}

impl fmt::Display for Onward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Onward::By { link, gateway: Some(gateway) } => write!(f, "via {gateway} dev {link}"),
            Onward::By { link, gateway: None } => write!(f, "dev {link}"),
            Onward::Local => write!(f, "local"),
            Onward::None(reason) => write!(f, "nowhere: {reason}"),
        }
    }
}

/// A rule, or a chain's policy, of someone else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Family, table and chain, as nft(8) names them.
    pub chain: String,
    /// `None`: it is the policy.
    pub handle: Option<u64>,
    /// What becomes of the packet: `drop`, `reject`, `dnat`.
    pub does: &'static str,
    /// Whether it does so to this packet; else that depends on what is not known here.
    pub is_sure: bool,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle { chain, handle, does, is_sure } = self;
        let may = if *is_sure { "" } else { "may " };
        match handle {
            Some(handle) => write!(f, "chain {chain}, rule {handle}: {may}{does}"),
            None => write!(f, "chain {chain}: policy {may}{does}"),
        }
    }
}

/// How an attempt to connect ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connects {
    Answered(Duration),
    /// By a reset or an ICMP error: somebody is there, and nobody listens.
    Refused,
    /// Nothing came back in time.
    Silent(Duration),
    /// It could not even be sent.
    Unsent(String),
}

impl fmt::Display for Connects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Connects::Answered(after) => write!(f, "answers, after {:.1} ms", after.as_secs_f64() * 1e3),
            Connects::Refused => write!(f, "refuses"),
            Connects::Silent(time) => write!(f, "no answer in {} ms", time.as_millis()),
            Connects::Unsent(reason) => write!(f, "cannot be sent to: {reason}"),
        }
    }
}
