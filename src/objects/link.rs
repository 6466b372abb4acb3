//! Links, addresses, routes, and the legs of backends' namespaces on the overlay.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Mac, Netns, NetnsRef};

/// A link is named within its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub netns: Netns,
    pub name: String,
}

impl LinkId {
    pub fn new(netns: Netns, name: impl Into<String>) -> LinkId {
        LinkId { netns, name: name.into() }
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.netns, self.name)
    }
}

/// A network device of ours. Every field is decided, none left to the kernel: so seen and wanted compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// The bridge it is a port of, in the same namespace.
    pub master: Option<String>,
    /// As a bridge port: exchanges no frames with other isolated ports (bridge(8), `isolated`).
    pub isolated: bool,
    pub up: bool,
}

/// What a link is made as; to change it is to make it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Bridge,
    Veth {
        peer: LinkId,
    },
    /// Never learns.
    Vxlan {
        vni: u32,
        port: u16,
        local: Option<IpAddr>,
        /// The namespace that its packets leave by.
        underlay: Netns,
    },
    /// Its packets leave by the host's namespace. It has no MAC.
    Wireguard,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkKind::Bridge => write!(f, "bridge"),
            LinkKind::Veth { peer } => write!(f, "veth to {peer}"),
            LinkKind::Vxlan { vni, port, local, underlay } => {
                write!(f, "vxlan id {vni} port {port}")?;
                if let Some(local) = local {
                    write!(f, " local {local}")?;
                }
                if *underlay == Netns::Host { Ok(()) } else { write!(f, " through {underlay}") }
            }
            LinkKind::Wireguard => write!(f, "wireguard"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.kind != LinkKind::Wireguard {
            write!(f, " address {}", self.mac)?;
        }
        write!(f, " mtu {}", self.mtu)?;
        if let Some(master) = &self.master {
            write!(f, " master {master}")?;
        }
        if self.isolated {
            write!(f, " isolated")?;
        }
        f.write_str(if self.up { " up" } else { " down" })
    }
}

/// The host's end of the link between host and sandbox.
pub const HOST_END: &str = "mesh_sbox";

/// The overlay's tunnel to the other nodes, in its own namespace.
pub const TUNNEL: &str = "vxlan0";

/// An address with its prefix length on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub link: LinkId,
    pub ip: IpNetwork,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub link: LinkId,
    pub destination: IpNetwork,
    /// `None`: what the link leads to is there itself.
    pub gateway: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " on {}", self.link)
    }
}

/// A backend's namespace on the overlay: a veth whose one end is a port of the overlay's bridge.
///
/// The other end is called eth0, or the first free ethN where the namespace has an eth0 of its own: the name
/// is found when it is attached and is not part of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// `None` when seen without a namespace that we know: its backend left the configuration, or died.
    pub netns: Option<NetnsRef>,
    /// Bytes.
    pub mtu: u32,
    pub addresses: BTreeSet<IpNetwork>,
}

/// The overlay's end of the leg with that MAC. A name can have 15 characters; this has 13.
pub fn port_name(mac: &Mac) -> String {
    let mut name = String::from("p");
    for byte in mac.0 {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}
