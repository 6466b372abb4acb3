//! What the WireGuard link is told: its key, its port, and the peers that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::PublicKey;

/// The overlay's WireGuard link, in its own namespace.
pub const WIREGUARD: &str = "wg0";

/// A WireGuard link beyond what every link has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wireguard {
    /// The public one of its key; all zeros: it has none.
    pub key: PublicKey,
    /// The UDP port that it listens on.
    pub port: u16,
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
}

/// Whom it speaks with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardPeer {
    /// `None`: not known.
    pub endpoint: Option<SocketAddr>,
    /// The addresses that are behind it; as sources they are taken from it only (wg(8), `allowed-ips`).
    pub allowed: BTreeSet<IpNetwork>,
    /// Seconds between packets that say that there is someone; 0: none.
    pub keepalive: u16,
}

impl fmt::Display for WireguardPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint {
            Some(endpoint) => write!(f, "endpoint {endpoint}")?,
            None => write!(f, "endpoint (none)")?,
        }
        write!(f, " allowed-ips")?;
        self.allowed.iter().try_for_each(|network| write!(f, " {network}"))?;
        write!(f, " persistent-keepalive {}", self.keepalive)
    }
}
