//! Health checks: how a backend is asked whether it can serve, and what its answers mean.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What a port's backends are asked, how often, and what is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub probe: Probe,
    /// The port that is asked; `None`: the one that serves.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// Without an answer in that time a question has failed.
    pub timeout: Duration,
    /// So many questions in a row have to be answered well before a backend that is down is up.
    pub rise: u32,
    /// So many have to fail before one that is up is down.
    pub fall: u32,
    /// Whether a backend that was never asked is taken to be up.
    pub start_up: bool,
    pub on_down: OnDown,
}

/// What becomes of the connections of one that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// They end: a client's next packet is answered by a reset, its next datagram goes to another backend.
    #[default]
    Reset,
    /// They go on for as long as they can, as with one that is drained (keepalived's inhibit_on_failure).
    Keep,
}

impl OnDown {
    pub const ALL: [OnDown; 2] = [OnDown::Reset, OnDown::Keep];

    pub fn name(self) -> &'static str {
        match self {
            OnDown::Reset => "reset",
            OnDown::Keep => "keep",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it takes a connection.
    Tcp,
    Http(HttpProbe),
    Udp(UdpProbe),
    Dns(DnsProbe),
    Exec(ExecProbe),
}

impl Probe {
    /// As the configuration calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Probe::Tcp => "tcp",
            Probe::Http(HttpProbe { tls: None, .. }) => "http",
            Probe::Http(HttpProbe { tls: Some(_), .. }) => "https",
            Probe::Udp(_) => "udp",
            Probe::Dns(_) => "dns",
            Probe::Exec(_) => "exec",
        }
    }
}

/// A GET by HTTP/1.1 (RFC 9110).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// `None`: in the clear.
    pub tls: Option<Tls>,
    /// With the query, from the slash on.
    pub path: String,
    /// The Host header, and the name in the certificate; `None`: the address.
    pub host: Option<String>,
    /// Codes that are good.
    pub status: RangeInclusive<u16>,
    /// What has to be somewhere in the first 64 KiB of the body.
    pub body: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whether the certificate has to be good, by the host's own authorities, and for `host` (or the address).
    pub verify: bool,
}

/// A datagram. A port that nobody listens at is down at once (ICMP unreachable).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpProbe {
    pub send: Vec<u8>,
    /// What an answer has to begin with; `None`: that none comes is fine, as long as no one says that the port is closed.
    pub expect: Option<Vec<u8>>,
}

/// A question by UDP (RFC 1035), which has to be answered without an error and with at least one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsProbe {
    pub name: String,
    pub record: DnsRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    A,
    Aaaa,
    Ns,
    Soa,
    Txt,
}

impl DnsRecord {
    pub const ALL: [DnsRecord; 5] = [DnsRecord::A, DnsRecord::Aaaa, DnsRecord::Ns, DnsRecord::Soa, DnsRecord::Txt];

    pub fn name(self) -> &'static str {
        match self {
            DnsRecord::A => "A",
            DnsRecord::Aaaa => "AAAA",
            DnsRecord::Ns => "NS",
            DnsRecord::Soa => "SOA",
            DnsRecord::Txt => "TXT",
        }
    }
}

/// A program of the operator's: its exit code 0 is good. It has MESHD_ADDRESS and MESHD_PORT in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecProbe {
    /// An absolute path, and the arguments. No shell.
    pub command: Vec<String>,
    /// Whom it runs as.
    pub user: String,
}
