//! The way back of preserved client addresses: how a backend's namespace answers through the node that a client came by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Mac;

/// What a namespace on the overlay needs so that a backend in it can answer clients whose address it sees.
///
/// A frame's source MAC says which node's sandbox it came from; the packet, its connection and so the answer get a mark
/// that stands for that node, and a routing rule leads what has that mark back to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    /// The nodes that clients may come by: their sandboxes' MACs, with their ingress addresses.
    pub nodes: BTreeMap<Mac, BTreeSet<IpAddr>>,
    /// The backend's own addresses, one of each family at the most, with the prefix lengths of their subnets.
    pub sources: BTreeSet<IpNetwork>,
    /// The UDP ports that answer, first and last. An unconnected socket's answer has no source yet when it is routed: it
    /// is by its port that it is known.
    pub datagrams: BTreeSet<(u16, u16)>,
}

impl Returns {
    /// All of both: so nothing is taken away that either needs.
    pub fn union(&self, other: &Returns) -> Returns {
        let mut both = self.clone();
        for (mac, addresses) in &other.nodes {
            both.nodes.entry(*mac).or_default().extend(addresses);
        }
        // Of each family one, the other's.
        both.sources.retain(|old| other.sources.iter().all(|new| new.is_ipv4() != old.is_ipv4()));
        both.sources.extend(&other.sources);
        both.datagrams.extend(&other.datagrams);
        both
    }
}

/// The mark, and the number of the routing table, that stand for the node whose sandbox has that MAC.
///
/// The last four bytes of the MAC are the node's ingress address (see [`Mac::of`]), so every node and every restart comes
/// to the same number without a list. One that is small, as those of an overlay of IPv6 alone are, is led away from the
/// numbers that others use.
pub fn return_mark(mac: &Mac) -> u32 {
    let [_, _, a, b, c, d] = mac.0;
    let number = u32::from_be_bytes([a, b, c, d]);
    if number < 1 << 24 { number | 0x6d << 24 } else { number }
}

impl fmt::Display for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from")?;
        self.sources.iter().try_for_each(|source| write!(f, " {}", source.ip()))?;
        write!(f, " by")?;
        for address in self.nodes.values().flatten() {
            write!(f, " {address}")?;
        }
        for (first, last) in &self.datagrams {
            match first == last {
                true => write!(f, " udp {first}")?,
                false => write!(f, " udp {first}-{last}")?,
            }
        }
        Ok(())
    }
}
