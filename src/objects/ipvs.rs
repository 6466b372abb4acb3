//! IPVS services and destinations (the kernel's words; an operator's are port and backend).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Family, Mark};

/// An IPVS service of ours is known by its mark and its address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualKey {
    pub mark: Mark,
    pub family: Family,
}

impl fmt::Display for VirtualKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark.meaning() {
            Some((protocol, port)) => write!(f, "{protocol} {port} {} (mark {})", self.family, self.mark),
            None => write!(f, "mark {} {}", self.mark, self.family),
        }
    }
}

/// A service and its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    pub scheduler: Scheduler,
    pub flags: SchedulerFlags,
    pub persistence: Option<Persistence>,
    /// One-packet scheduling, UDP only (ipvsadm(8), `--ops`).
    pub one_packet: bool,
    pub destinations: BTreeMap<DestinationKey, Destination>,
}

impl VirtualService {
    /// Whether the two differ in nothing but their destinations.
    pub fn same_attributes(&self, other: &VirtualService) -> bool {
        self.scheduler == other.scheduler
            && self.flags == other.flags
            && self.persistence == other.persistence
            && self.one_packet == other.one_packet
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scheduler {}", self.scheduler)?;
        for flag in self.flags.names(self.scheduler) {
            write!(f, " {flag}")?;
        }
        if let Some(Persistence { timeout, prefix }) = self.persistence {
            write!(f, " persistent {timeout}s /{prefix}")?;
        }
        if self.one_packet {
            write!(f, " ops")?;
        }
        Ok(())
    }
}

/// A client stays with its backend (ipvsadm(8), `--persistent` and `--netmask`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Persistence {
    /// Seconds.
    pub timeout: u32,
    /// Clients with the same prefix of that length are one client.
    pub prefix: u8,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey {
    pub address: IpAddr,
    /// 0: the packet's own port is kept.
    pub port: u16,
}

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::new(self.address, self.port), f)
    }
}

/// Always reached by masquerading (ipvsadm(8), `-m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    pub weight: u32,
    pub thresholds: Thresholds,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Destination { weight, thresholds: Thresholds { upper, lower } } = self;
        write!(f, "weight {weight}")?;
        if *upper > 0 {
            write!(f, " upper threshold {upper}")?;
        }
        if *lower > 0 {
            write!(f, " lower threshold {lower}")?;
        }
        Ok(())
    }
}

/// How many connections a destination may have (ipvsadm(8), `--u-threshold` and `--l-threshold`).
///
/// Compared with them is ActiveConn and InActConn together: one that was closed counts until IPVS has forgotten it (TCP's
/// after two minutes, ten seconds where it was reset; UDP's, which are all inactive, after `udp` seconds of silence).
/// Templates of persistence do not count.
///
/// A destination that a connection brings to `upper` is overloaded, and schedulers pass it by, until the end of one leaves
/// it less than `lower`, or less than three quarters of `upper` where `lower` is 0. By the same rule it is judged when its
/// thresholds change, on kernels of 2026 (seen on 6.1.192). Older ones open it then if `upper` has become greater, and close
/// it with its next connection at the earliest.
///
/// A persistent client that has its backend is not scheduled, so it is let in beyond that. And each node counts what comes
/// by it, and nothing of the others'. (Linux, ip_vs_bind_dest, ip_vs_unbind_dest, __ip_vs_update_dest.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// 0: no end.
    pub upper: u32,
    /// 0: three quarters of `upper`. Never more than `upper`: the kernel refuses that.
    pub lower: u32,
}

/// IPVS timeouts of one namespace, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Of an established TCP connection that is idle.
    pub tcp: u32,
    /// Of a TCP connection after a FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

impl Default for Timeouts {
    /// The kernel's own.
    fn default() -> Timeouts {
        Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp {}s tcp_fin {}s udp {}s", self.tcp, self.tcp_fin, self.udp)
    }
}

macro_rules! schedulers {
    ($($variant:ident $name:literal $about:literal,)*) => {
        /// The schedulers that IPVS has (ipvsadm(8) describes each), and the one that nftables alone has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scheduler { $(#[doc = $about] $variant,)* }

        impl Scheduler {
            pub const ALL: &'static [Scheduler] = &[$(Scheduler::$variant,)*];

            /// The kernel's name; its module is `ip_vs_<name>`.
            pub fn name(self) -> &'static str {
                match self { $(Scheduler::$variant => $name,)* }
            }
        }
    };
}

schedulers! {
    RoundRobin "rr" "Round robin.",
    WeightedRoundRobin "wrr" "Weighted round robin.",
    LeastConnection "lc" "Least connection.",
    WeightedLeastConnection "wlc" "Weighted least connection.",
    LocalityLeastConnection "lblc" "Locality-based least connection.",
    LocalityLeastConnectionReplicated "lblcr" "Locality-based least connection with replication.",
    SourceHash "sh" "Source hashing.",
    Maglev "mh" "Maglev hashing.",
    DestinationHash "dh" "Destination hashing.",
    WeightedFailover "fo" "The available backend with the highest weight.",
    WeightedOverflow "ovf" "The highest weight until it has as many connections as its weight.",
    ShortestExpectedDelay "sed" "Shortest expected delay.",
    NeverQueue "nq" "Never queue.",
    PowerOfTwo "twos" "The better of two random choices (power of twos choice).",
    Random "random" "Any, as often as their weights say. IPVS has none like it.",
}

impl Scheduler {
    pub fn is_of_ipvs(self) -> bool {
        self != Scheduler::Random
    }

    /// Those that IPVS has.
    pub fn of_ipvs() -> impl Iterator<Item = Scheduler> {
        Scheduler::ALL.iter().copied().filter(|scheduler| scheduler.is_of_ipvs())
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheduler {
    type Err = ();

    fn from_str(text: &str) -> Result<Scheduler, ()> {
        Scheduler::ALL.iter().copied().find(|scheduler| scheduler.name() == text).ok_or(())
    }
}

/// The two flags that `sh` and `mh` know (ipvsadm(8), `--sched-flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `sh-fallback`, `mh-fallback`: another backend when the chosen one has weight 0.
    pub fallback: bool,
    /// `sh-port`, `mh-port`: the source port is hashed too.
    pub port: bool,
}

impl SchedulerFlags {
    /// As ipvsadm writes them.
    pub fn names(self, scheduler: Scheduler) -> impl Iterator<Item = String> {
        let named = |set: bool, flag: &str| set.then(|| format!("{scheduler}-{flag}"));
        named(self.fallback, "fallback").into_iter().chain(named(self.port, "port"))
    }
}
