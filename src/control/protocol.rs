//! What the control socket speaks: JSON, in the keys of the configuration file. Server and meshctl share it.
//!
//! A service is written here as in the file: `port` and `backend` are lists, a port may have its own scheduling
//! keys and backends, what it has not is the service's. So what was tried through the socket can be copied to
//! the file, and the other way round.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::objects::{PortRange, Protocol};

/// Bytes of a request's body, at the most: a service of 10,000 ports with 10 backends fits.
pub const LONGEST_BODY: usize = 4 << 20;

/// Anything that a request has, also in its path and query.
pub trait Readable: DeserializeOwned {}

impl<T: DeserializeOwned> Readable for T {}

/// Anything of all this that goes through the socket, whole.
pub trait Message: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Message for T {}

/// A service, in the keys of `[[service]]`; what is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// 1 to 63 of A-Z a-z 0-9 _ . -
    #[serde(default)]
    pub name: String,
    #[serde(flatten)]
    pub scheduling: Scheduling,
    pub port: Vec<Port>,
    #[serde(flatten)]
    pub way: Way,
    /// Of all ports that have none of their own; default: backends are taken to be well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<Check>>,
    #[serde(flatten)]
    pub spread: Spread,
    /// Of all ports that have none of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend: Vec<Backend>,
}

/// How a backend is chosen, see ipvsadm(8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scheduling {
    /// rr wrr lc wlc lblc lblcr sh mh dh fo ovf sed nq twos, and with nftables random; default rr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// sh-port, sh-fallback, mh-port, mh-fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<Vec<String>>,
    /// Seconds that a client stays with its backend; 0: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<u32>,
    /// Clients alike under it are one client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_mask: Option<Mask>,
    /// The same for IPv6: a prefix's length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_mask6: Option<u8>,
    /// Every datagram is scheduled by itself (UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
}

/// Whom backends see, where a port is published, and who may come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Way {
    /// snat (default): the node that the client came by; preserve: the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    /// ingress (default): on every node; host: where a backend runs, for those only, with the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Addresses of the node, and links that clients come in by; without the key: everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Vec<String>>,
    /// Networks whose hosts may connect; without the key: everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Networks whose hosts may not, also of those that are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}

/// How backends are asked whether they can serve, in the keys of `check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// tcp, http, https, udp, dns, exec or none.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// From one question to the next: such as "5s" (default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Without an answer in that time a question has failed; default "2s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Good answers in a row that make a backend up; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Failures in a row that make it down; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// What a backend that was never asked is taken to be: down (default) or up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What becomes of the connections of one that is down: reset (default), or keep, they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<String>,
    /// The port that is asked; default: the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// http, https: default "/".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// http, https: default: the backend's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// http, https: a code or a range of codes; default "200-399".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Published>,
    /// http, https: what the body has somewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// https: whether the certificate has to be good; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// udp: what is sent; default: an empty datagram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// udp: what the answer begins with; default: none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// dns: the name that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// dns: A (default), AAAA, NS, SOA or TXT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// exec: an absolute path and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// exec: whom it runs as; default nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Which backends get clients when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// any (default), or local: those of this node, as long as one of them is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<String>,
    /// How long the weight of one that comes up rises; default "0s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Span>,
    /// How long a backend that is drained or taken away may keep its connections: such as "30s" (default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Span>,
    /// Backups help while less of the others' weight is up, in hundredths; default 0: when nobody is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u8>,
    /// And until there is so much more; default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<u8>,
    /// What a client meets where nobody takes it: reset, drop or fallback, that is a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_empty: Option<String>,
}

/// Seconds, or a text such as "500ms" or "1m".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Span {
    Seconds(u64),
    Text(String),
}

/// A published port, in the keys of `[[service.port]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    pub published: Published,
    /// The backends' port; default: the published one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u16>,
    /// tcp, udp or sctp; default tcp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(flatten)]
    pub scheduling: Scheduling,
    #[serde(flatten)]
    pub way: Way,
    /// This port's own; without the key, the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<Check>>,
    #[serde(flatten)]
    pub spread: Spread,
    /// This port's own; without the key, the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Vec<Backend>>,
}

/// A real server, in the keys of `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// IPv4 or IPv6.
    pub address: String,
    /// 0 to 65535; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// At that many connections, open and lately closed, it gets no more; default 0: no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// Below that many it gets some again; default 0: three quarters of upper_threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
    /// enabled (default), drain (no new connections) or disabled (none at all).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether it gets clients only while others cannot take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
    /// The peer that it is on; default: this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The network namespace that meshd attaches to the overlay: a name, a path or a process's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
}

/// A port, or a range such as "30000-30099".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Published {
    Port(u16),
    Text(String),
}

/// The length of a prefix, or a netmask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Mask {
    Length(u8),
    Netmask(String),
}

/// A process's number, or a name under /run/netns or a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Netns {
    Pid(u32),
    Name(String),
}

/// Whose a service is: who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The configuration file: it changes by a reload only.
    File,
    Socket,
}

/// A service, whose it is, and since when it is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    pub owner: Owner,
    /// Of its last change.
    pub generation: u64,
    pub service: Service,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// The newest one accepted.
    pub generation: u64,
    /// By name.
    pub services: Vec<Entry>,
}

/// How far a generation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// Accepted and kept; nobody waited for the kernel.
    Accepted,
    /// The kernel holds it.
    Programmed,
    /// Some steps failed; they are retried.
    Failed,
    /// The time to wait was over before the kernel was looked at.
    Pending,
}

/// The answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub generation: u64,
    /// False: it was so already, and no new generation was needed.
    pub changed: bool,
    pub result: Progress,
    /// The steps that failed, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// What would be done to the kernel, if that was the question (`dry_run`): then nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<String>>,
}

/// How far the kernel is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generations {
    /// The newest one accepted.
    pub wanted: u64,
    /// The newest one that the kernel holds in full.
    pub programmed: u64,
}

/// Seconds, as the kernel has them in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeouts {
    pub tcp: u32,
    pub tcp_fin: u32,
    pub udp: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub node: String,
    pub pid: u32,
    /// Seconds since this daemon started.
    pub uptime: f64,
    pub generation: Generations,
    /// Steps that failed at the last look at the kernel; they are retried.
    pub failures: Vec<String>,
    pub services: usize,
    pub ports: usize,
    pub backends: usize,
    /// Who balances: `ipvs` or `nftables`.
    #[serde(default)]
    pub dataplane: String,
    /// IPVS timeouts, read back from the sandbox; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// This node's WireGuard public key, where [ingress] encryption is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Backends that are checked and not up, each with what it last answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwell: Vec<String>,
    /// Backends that are drained, by the operator or since they were taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
    /// Seconds that the last look at the kernel took, with its steps.
    pub look: f64,
    /// Things that were mended since the start because someone else changed them.
    pub repaired: u64,
    /// Tables of the kernel that are nearly full, and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crowded: Vec<String>,
    /// Other firewalls of the host that may keep clients out, and what mends that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewalls: Vec<String>,
    /// Those of them that someone undoes every time; they are mended more and more slowly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contested: Vec<String>,
    pub configuration: Configuration,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    pub path: String,
    /// What was wrong with it at the last reload, if it was refused: then the one before is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Where the socket's services are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct State {
    pub directory: String,
    /// What is kept and not in force, and why nothing can be kept, if so; each with its reason.
    pub refused: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// In their order, as `meshd --dry-run` prints them.
    pub steps: Vec<String>,
}

/// The way of clients to a published port, hop by hop, as the kernel has it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub node: String,
    /// Who balances: `ipvs` or `nftables`.
    pub dataplane: String,
    /// Whether every hop to every backend holds.
    pub good: bool,
    /// The first that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Hop>,
    /// One for each protocol that is published at that port.
    pub ports: Vec<PortWay>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortWay {
    pub service: String,
    /// `tcp/20229`, `udp/30000-30099`.
    pub port: String,
    /// As nftables writes it, and as ipvsadm does: `0x14f05 = 85765`.
    pub mark: String,
    /// In, to each backend, and back.
    pub parts: Vec<Part>,
}

/// A part of a way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    pub title: String,
    pub hops: Vec<Hop>,
}

/// One thing that a packet needs on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hop {
    /// The namespace: `host`, or its name; `underlay`: what is between the nodes.
    pub place: String,
    pub what: String,
    /// What has to be there, in the kernel's words.
    pub wanted: String,
    /// What is there.
    pub found: String,
    pub verdict: Verdict,
    /// Why it does not hold, or what has to be known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A command that shows it with other tools.
    pub look: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    Broken,
    /// It may stand in the way, or could not be seen.
    Unsure,
    /// It is as it is wanted, and clients do not come by here now.
    Idle,
}

/// What happens while all that is published is tried, in the stream of `/v1/check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "check", rename_all = "lowercase")]
pub enum CheckEvent {
    /// So many pairs are tried.
    Begun {
        pairs: usize,
    },
    Checked(Checked),
    /// No more can be tried.
    Failed {
        reason: String,
    },
    /// All have been tried.
    Done {},
}

/// A pair that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Checked {
    pub kind: Kind,
    pub service: String,
    /// The published one: `tcp/20229`.
    pub port: String,
    /// Address and port that were connected to.
    pub to: String,
    /// Whose that is.
    pub node: String,
    pub verdict: Verdict,
    /// What came of it.
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A published port, by an address of a node.
    Port,
    /// A backend, from the sandbox.
    Backend,
}

/// What a node was examined for, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diagnosis {
    pub node: String,
    /// Who balances: `ipvs` or `nftables`.
    pub dataplane: String,
    /// Whether there is no fault.
    pub good: bool,
    /// By area; in each, the worst first.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub area: Area,
    pub grade: Grade,
    /// What was looked at: the same words, whatever is found.
    pub what: String,
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// A command, or lines of the configuration, that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// What it has, and faults that its version is known for.
    Kernel,
    /// Kernel parameters.
    Sysctl,
    /// What is between the nodes.
    Underlay,
    /// What links do in hardware.
    Offload,
    /// Subnets, ports and names that others have, too.
    Clash,
    Firewall,
    /// Room in the kernel's tables.
    Tables,
    Timeouts,
    Clock,
    Limits,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Good,
    /// It works, and may surprise.
    Notice,
    /// Some clients are likely to suffer, or soon will.
    Warning,
    /// Clients do.
    Fault,
}

/// What the kernel counted so far. Two of them make a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Seconds on a clock that only goes forward.
    pub clock: f64,
    pub ports: Vec<PortTraffic>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortTraffic {
    pub service: String,
    /// `tcp/20229`, `udp/30000-30099`.
    pub port: String,
    #[serde(flatten)]
    pub counters: Counters,
    pub backends: Vec<BackendTraffic>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendTraffic {
    /// Address and port; port 0: the published one.
    pub backend: String,
    /// With nftables: the number of its slots.
    pub weight: u32,
    /// Connections now (ActiveConn); for UDP always 0, but with nftables.
    pub active: u32,
    /// Others that are remembered (InActConn).
    pub inactive: u32,
    #[serde(flatten)]
    pub counters: Counters,
}

/// Since the service or the backend was made; with nftables, since the backend has its slots, and connections alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// One thing that happened, in the stream of `/v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A change was accepted and kept.
    Accepted { generation: u64, what: String, uid: Option<u32> },
    /// The kernel holds that generation.
    Programmed {
        generation: u64,
        steps: usize,
        /// From the look's beginning.
        seconds: f64,
    },
    /// Steps failed; they are retried.
    Failed { generation: u64, failures: Vec<String> },
    /// Somebody else had changed something, and it was mended.
    Repaired { steps: Vec<String> },
    /// A backend's checks say something else of it than before.
    Health { service: String, port: String, backend: String, from: String, to: String, reason: String },
    /// The configuration file was read again.
    Reload { accepted: bool, reason: Option<String> },
    /// The listener was too slow for that many events.
    Lost { events: u64 },
}

/// Why a request was not done (RFC 9457, application/problem+json).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status code.
    pub status: u16,
    pub title: String,
    /// What is wrong, and what would do.
    pub detail: String,
    /// All that is wrong with a service, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// In the service: `backend[0].address`; empty: the service itself.
    pub place: String,
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { place, detail } = self;
        if place.is_empty() { f.write_str(detail) } else { write!(f, "{place}: {detail}") }
    }
}

/// What goes with a change.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeQuery {
    /// Of the service as the client knows it (0: it is not there). If it has another by now, the change is
    /// refused with 409.
    pub generation: Option<u64>,
    /// Say what would be done to the kernel, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Answer only when the kernel holds the change, or after so many seconds (at most 300).
    pub wait: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReloadQuery {
    /// As for changes.
    pub wait: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Default: the newest one.
    pub generation: Option<u64>,
    /// Seconds, at most 300; default 30.
    pub timeout: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlanQuery {
    /// What a reload of the file would do, instead of what has to be mended now.
    #[serde(default)]
    pub reload: bool,
}

/// Which way is to be explained.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// tcp, udp or sctp; without: each that is published at that port.
    pub protocol: Option<String>,
    /// The client's address.
    pub from: Option<String>,
    /// Only to the backends on that node.
    pub node: Option<String>,
}

/// What is to be tried.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// Also by the other nodes' addresses.
    #[serde(default)]
    pub all_nodes: bool,
    /// Only this service.
    pub service: Option<String>,
}

/// A published port as a path names it: `tcp/20229`, `udp/30000-30099`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortName(pub PortRange);

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortRange { protocol, first, last } = self.0;
        write!(f, "{protocol}/{first}")?;
        if first == last { Ok(()) } else { write!(f, "-{last}") }
    }
}

impl FromStr for PortName {
    type Err = String;

    fn from_str(text: &str) -> Result<PortName, String> {
        let wrong = || format!("\"{text}\" is no port; one such as tcp/20229 or udp/30000-30099 would do");
        let (protocol, ports) = text.split_once('/').ok_or_else(wrong)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        match (protocol.parse::<Protocol>(), number(first), number(last)) {
            (Ok(protocol), Some(first), Some(last)) if first <= last => {
                Ok(PortName(PortRange { protocol, first, last }))
            }
            _ => Err(wrong()),
        }
    }
}

impl Port {
    /// Its name, if it is a good port.
    pub fn name(&self) -> Option<PortName> {
        let ports = match &self.published {
            Published::Port(port) => port.to_string(),
            Published::Text(text) => text.split('-').map(str::trim).collect::<Vec<_>>().join("-"),
        };
        format!("{}/{ports}", self.protocol.as_deref().unwrap_or("tcp")).parse().ok()
    }
}

impl Problem {
    pub fn new(status: u16, title: &str, detail: impl Into<String>) -> Problem {
        Problem { status, title: title.to_owned(), detail: detail.into(), errors: Vec::new() }
    }

    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(400, "malformed request", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(404, "not found", detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(409, "conflict", detail)
    }

    /// All that is wrong with a service.
    pub fn faults(errors: Vec<Fault>) -> Problem {
        let detail = errors.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
        Problem { errors, ..Problem::new(422, "not a good service", detail) }
    }

    pub fn fault(place: &str, detail: String) -> Problem {
        Problem::faults(vec![Fault { place: place.to_owned(), detail }])
    }

    /// There are so many of these already.
    pub fn busy(what: &str) -> Problem {
        Problem::new(429, "too many at once", format!("meshd is busy with {what}: try again in some seconds"))
    }

    pub fn stopping() -> Problem {
        Problem::new(503, "stopping", "meshd is stopping")
    }
}
