//! The words that everything else is said in: protocols, families, marks, ports, namespaces.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Address family. Ordered, so that plans print IPv4 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: &IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// Number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn from_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol's share of a mark: its bits above the port.
    fn mark_bits(self) -> u32 {
        match self {
            Protocol::Tcp => 1,
            Protocol::Udp => 2,
            Protocol::Sctp => 3,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Protocol, ()> {
        Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == text).ok_or(())
    }
}

/// The firewall mark of one published port: it leads a packet to its IPVS service.
///
/// It is computed, not allocated: (tcp 1, udp 2, sctp 3) << 16 | port, a range by its first port. So every
/// node and every restart comes to the same marks, and a mark of that form is how ours are told from others'.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u32);

impl Mark {
    pub fn new(protocol: Protocol, port: u16) -> Mark {
        Mark(protocol.mark_bits() << 16 | u32::from(port))
    }

    /// What the mark stands for, if it is one of ours.
    pub fn meaning(self) -> Option<(Protocol, u16)> {
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.mark_bits() == self.0 >> 16)?;
        let port = (self.0 & 0xffff) as u16;
        (port != 0).then_some((protocol, port))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A published port, or a range of them, of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub protocol: Protocol,
    pub first: u16,
    /// The same as `first` for a single port.
    pub last: u16,
}

impl PortRange {
    pub fn single(protocol: Protocol, port: u16) -> PortRange {
        PortRange { protocol, first: port, last: port }
    }

    pub fn is_single(&self) -> bool {
        self.first == self.last
    }

    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }

    pub fn overlaps(&self, other: &PortRange) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }

    pub fn mark(&self) -> Mark {
        Mark::new(self.protocol, self.first)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.first)?;
        if !self.is_single() {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

/// Hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// 02:42 and the IPv4 address, as Docker does it: known to every node without asking. For IPv6 the
    /// address's last four bytes; the configuration refuses two endpoints that would then share a MAC.
    pub fn of(address: &IpAddr) -> Mac {
        Mac::with_prefix(0x42, address)
    }

    /// For our own links that need a fixed MAC beside the endpoint that has the `02:42` one.
    pub fn with_prefix(second: u8, address: &IpAddr) -> Mac {
        let [a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        Mac([0x02, second, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Mac, ()> {
        let mut mac = Mac([0; 6]);
        let mut parts = text.split(':');
        for byte in &mut mac.0 {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_none() { Ok(mac) } else { Err(()) }
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A network namespace by the part it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Netns {
    /// Where meshd was started: clients' packets arrive here.
    Host,
    /// Holds the marks, IPVS and the SNAT (Swarm's `ingress_sbox`).
    Sandbox,
    /// Holds the overlay's bridge and its VXLAN device.
    Overlay,
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Netns::Host => "host",
            Netns::Sandbox => "sandbox",
            Netns::Overlay => "overlay",
        })
    }
}

/// How an operator names a backend's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsRef {
    /// A name under /run/netns, as `ip netns` shows it.
    Name(String),
    /// An absolute path of a namespace file.
    Path(String),
    /// The namespace of a running process.
    Pid(u32),
}

impl NetnsRef {
    /// The file that stands for the namespace.
    pub fn path(&self) -> String {
        match self {
            NetnsRef::Name(name) => format!("/run/netns/{name}"),
            NetnsRef::Path(path) => path.clone(),
            NetnsRef::Pid(pid) => format!("/proc/{pid}/ns/net"),
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetnsRef::Name(name) => f.write_str(name),
            NetnsRef::Path(path) => f.write_str(path),
            NetnsRef::Pid(pid) => write!(f, "pid {pid}"),
        }
    }
}
