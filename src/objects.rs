//! What the kernel holds, in our words.
//!
//! What is wanted and what is seen are the same type, [`Objects`]: the difference between two of them is a
//! plan, and teardown is the difference to nothing. Only what is ours stands here. What belongs to others
//! and still matters to us (a chain that drops forwarded packets, say) is in [`Surroundings`].

mod balance;
mod condition;
mod ipvs;
mod key;
mod link;
mod nft;
mod question;
mod returns;
mod set;
mod wireguard;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use balance::{
    Balance, IN_ORDER, LASTING, MOST_TRIES, NO_LIMIT, Pick, Way, backends_set, clients_map, full_set, room_set,
    slots_map, turns_map, ways_map,
};
pub use condition::{Beside, Clock, Condition, Device, Feature, Files, Inquiry, Neighbours, Offloads};
pub use ipvs::{
    Destination, DestinationKey, Persistence, Scheduler, SchedulerFlags, Thresholds, Timeouts, VirtualKey,
    VirtualService,
};
pub use key::{NoKey, PrivateKey, PublicKey};
pub use link::{Address, HOST_END, Leg, Link, LinkId, LinkKind, Route, TUNNEL, port_name};
pub use nft::{
    Action, Base, Chain, ChainKind, FLOWS, FULL_FOR, HASH_SEED, Hook, Key, Map, MapKind, MapValue, Match, Opening,
    Rule, SILENT, TABLE, TUNNEL_CHAIN, Table,
};
pub use question::{Connects, Layer, Obstacle, Onward, Packet, Phase, Question, Reply, Space};
pub use returns::{Returns, return_mark};
pub use set::{Network, Set, SetElement, SetKind};
pub use wireguard::{WIREGUARD, Wireguard, WireguardPeer};
pub use words::{Family, Mac, Mark, Netns, NetnsRef, PortRange, Protocol};

/// All that is ours in the kernel of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// The namespaces we pinned under /run/netns.
    pub namespaces: BTreeSet<Netns>,
    pub links: BTreeMap<LinkId, Link>,
    pub addresses: BTreeSet<Address>,
    pub routes: BTreeSet<Route>,
    /// Backends' namespaces attached to the overlay, by the MAC of their end.
    pub legs: BTreeMap<Mac, Leg>,
    /// What the overlay's WireGuard link is told, if there is one.
    pub wireguard: Option<Wireguard>,
    /// The node behind which the overlay finds a MAC: forwarding entries of the tunnel (bridge(8), `fdb`).
    pub forwarding: BTreeMap<Mac, IpAddr>,
    /// The MAC of an address that is on another node: permanent neighbours of the tunnel, by which it answers ARP and
    /// neighbour solicitations itself. So nothing is flooded and nothing learned.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Backends' namespaces that answer clients by the node that these came by.
    pub returns: BTreeMap<NetnsRef, Returns>,
    /// Our nftables table of each namespace that has one.
    pub tables: BTreeMap<Netns, Table>,
    /// The accept rules we put into other people's forward chains on the host.
    pub openings: BTreeSet<Opening>,
    /// IPVS services of the sandbox.
    pub services: BTreeMap<VirtualKey, VirtualService>,
    /// How nftables spreads clients in the sandbox, where it is not IPVS that does.
    pub balances: BTreeMap<VirtualKey, Balance>,
    /// IPVS timeouts of the sandbox.
    pub timeouts: Option<Timeouts>,
    /// Kernel parameters by namespace and dotted name, as /proc/sys shows them.
    pub sysctls: BTreeMap<(Netns, String), String>,
}

/// What the host and its kernel are like: facts that are not ours, and that lowering a mesh depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Major and minor number of the running kernel. Only for behaviour that cannot be probed.
    pub kernel: (u32, u32),
    /// Bytes; MTU of the link that carries the overlay's tunnel.
    pub underlay_mtu: u32,
    /// Forward chains of others that drop what no rule of theirs accepts.
    pub forward_drops: BTreeSet<Opening>,
    /// Links on which router advertisements are accepted now, and would no longer be once the host forwards IPv6.
    pub accept_ra: BTreeSet<String>,
    /// Links of the host with addresses: clients come in by them. None where the kernel has no flow tables, which need to know.
    pub uplinks: BTreeSet<String>,
    /// Bridges show what they carry to iptables, in each namespace that does not say otherwise (br_netfilter, which Docker loads).
    pub bridge_netfilter: bool,
}

impl Default for Surroundings {
    fn default() -> Self {
        Surroundings {
            kernel: (6, 1),
            underlay_mtu: 1500,
            forward_drops: BTreeSet::new(),
            accept_ra: BTreeSet::new(),
            uplinks: BTreeSet::new(),
            bridge_netfilter: false,
        }
    }
}
