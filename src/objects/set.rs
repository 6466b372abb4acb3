//! Sets of nftables: who, where and which ports, looked up at once whatever their number.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Family, Mark, PortRange};

/// What a set's elements are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Addresses of one family.
    Addresses(Family),
    /// Protocols and ports.
    Ports,
    /// Networks of one family, each with a protocol and ports.
    Networks(Family),
    /// Names of links, each with a protocol and ports.
    Links,
    Marks,
    /// Backends of one family that may have connections: mark, address and port. Its elements are
    /// [`Balance`](super::Balance)s'.
    Backends(Family),
    /// Marks and slots, each with the connections that it may get: [`Balance`](super::Balance)s', too.
    Room,
    /// Marks and slots that had no room, for some time; the kernel's own.
    Full,
}

impl SetKind {
    /// Whether its elements are not those of a table but of balances.
    pub fn is_of_balances(self) -> bool {
        matches!(self, SetKind::Backends(_) | SetKind::Room | SetKind::Full)
    }
}

/// A set in one of our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub kind: SetKind,
    pub elements: BTreeSet<SetElement>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetElement {
    Address(IpAddr),
    Ports(PortRange),
    Network(Network, PortRange),
    Link(String, PortRange),
    Mark(Mark),
}

/// A network by its first address, ordered so that it can be an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNetwork);

impl Ord for Network {
    fn cmp(&self, other: &Network) -> Ordering {
        (self.0.network(), self.0.prefix()).cmp(&(other.0.network(), other.0.prefix()))
    }
}

impl PartialOrd for Network {
    fn partial_cmp(&self, other: &Network) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl SetElement {
    pub fn fits(&self, kind: SetKind) -> bool {
        match (self, kind) {
            (SetElement::Address(address), SetKind::Addresses(family)) => Family::of(address) == family,
            (SetElement::Network(network, _), SetKind::Networks(family)) => Family::of(&network.0.ip()) == family,
            (SetElement::Ports(_), SetKind::Ports) | (SetElement::Link(..), SetKind::Links) => true,
            (SetElement::Mark(_), SetKind::Marks) => true,
            _ => false,
        }
    }

    pub fn ports(&self) -> Option<PortRange> {
        match self {
            SetElement::Address(_) | SetElement::Mark(_) => None,
            SetElement::Ports(ports) | SetElement::Network(_, ports) | SetElement::Link(_, ports) => Some(*ports),
        }
    }

    /// Whether both have something in common: then they cannot be in one set.
    pub fn overlaps(&self, other: &SetElement) -> bool {
        match (self, other) {
            (SetElement::Ports(one), SetElement::Ports(other)) => one.overlaps(other),
            (SetElement::Network(net, ports), SetElement::Network(other_net, other_ports)) => {
                let contains = net.0.contains(other_net.0.network()) || other_net.0.contains(net.0.network());
                contains && ports.overlaps(other_ports)
            }
            (SetElement::Link(name, ports), SetElement::Link(other_name, other_ports)) => {
                name == other_name && ports.overlaps(other_ports)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for SetElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetElement::Address(address) => write!(f, "{address}"),
            SetElement::Ports(ports) => write!(f, "{ports}"),
            SetElement::Network(network, ports) => write!(f, "{} {ports}", network.0),
            SetElement::Link(name, ports) => write!(f, "{name} {ports}"),
            SetElement::Mark(mark) => write!(f, "mark {mark}"),
        }
    }
}
