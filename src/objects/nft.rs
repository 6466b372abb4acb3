//! nftables in our words: rules that read as sentences, and maps from published ports.
//!
//! The vocabulary is closed: it has what our tables say and no more. Their `Display` is nft(8)'s syntax.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    Family, IN_ORDER, Mark, Pick, PortRange, Set, SetKind, Way, clients_map, full_set, room_set, turns_map, ways_map,
};

/// The name of our one table in a namespace; its family is inet.
pub const TABLE: &str = "meshd";

/// The chain of the host's table that keeps strangers out of the tunnel, and counts them.
pub const TUNNEL_CHAIN: &str = "tunnel";

/// The sandbox's set of ports whose clients get no answer where IPVS has none for them, and the chain that sees to it.
pub const SILENT: &str = "silent";

/// Our flow table, and the chain that fills it.
pub const FLOWS: &str = "flows";

/// Our table in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The links of our flow table, if there is one: what comes in by one of them is looked for there.
    pub flows: Option<BTreeSet<String>>,
    pub maps: BTreeMap<String, Map>,
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

/// A map, most often one whose key is a protocol and a port: a look-up costs the same with one element or with 10,000.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    pub kind: MapKind,
    /// Whether a key is a range of ports: such a map is a tree, a map of single ports is a hash table.
    pub ranges: bool,
    /// None in those whose elements are [`Balance`](super::Balance)s'.
    pub elements: BTreeMap<PortRange, MapValue>,
}

impl Map {
    /// The port that is led to that mark.
    pub fn port_of(&self, mark: Mark) -> Option<PortRange> {
        let (protocol, first) = mark.meaning()?;
        let begins = PortRange { protocol, first, last: first };
        let (port, value) = self.elements.range(begins..).next()?;
        (*value == MapValue::Mark(mark)).then_some(*port)
    }
}

/// The type of a map's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Mark,
    Address(Family),
    /// From a mark to the chain that chooses a slot.
    Ways,
    /// From a mark and a slot to an address and a port.
    Slots(Family),
    /// From a mark and a slot to an address.
    Hosts(Family),
    /// From a mark and a turn, or a slot that lasts, to such a slot.
    Turns,
    /// From a mark and a client's network to a slot that lasts, for a time.
    Clients(Family),
}

impl MapKind {
    pub const ALL: [MapKind; 11] = [
        MapKind::Mark,
        MapKind::Address(Family::V4),
        MapKind::Address(Family::V6),
        MapKind::Ways,
        MapKind::Slots(Family::V4),
        MapKind::Slots(Family::V6),
        MapKind::Hosts(Family::V4),
        MapKind::Hosts(Family::V6),
        MapKind::Turns,
        MapKind::Clients(Family::V4),
        MapKind::Clients(Family::V6),
    ];

    /// Whether its elements are those of balances, which ports share it for.
    pub fn is_of_balances(self) -> bool {
        !matches!(self, MapKind::Mark | MapKind::Address(_))
    }
}

/// What a port is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapValue {
    Mark(Mark),
    Address(IpAddr),
}

impl fmt::Display for MapValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapValue::Mark(mark) => write!(f, "{mark}"),
            MapValue::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A chain and its rules, in order. The policy is always accept: to drop is not our business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come in; `None`: from other chains only.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain (nft(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.hook, self.priority)
    }
}

impl Chain {
    pub fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
        Chain { base: Some(Base { kind, hook, priority }), rules }
    }

    /// The chain that chooses a slot so. Each has a counter of its own for those who take turns.
    pub fn of_way(way: Way) -> Chain {
        let way = way.alike();
        let actions = match way.persistence {
            None if way.tries == 0 => vec![Action::Spread(way)],
            // Who was here before comes again, whether or not there is room; who is new is remembered; and if it cannot be, is sent there
            // all the same. How it is chosen is nothing to the others. Whoever finds no room tries the next one, and leaves word of it.
            _ => {
                let (capped, remembered) = (way.tries > 0, way.persistence.is_some());
                let any = Way { pick: Pick::Turn(0), slots: 1, tries: u8::from(capped), ..way };
                let again = remembered.then_some(Action::SpreadAgain(Way { tries: 0, ..any }));
                let chosen = remembered.then_some(Action::SpreadChosen(Way { persistence: None, ..any }));
                let first = Action::SpreadLasting(Way { tries: any.tries, ..way });
                let others = (0..way.tries).map(|order| Action::SpreadNext(any, order.into()));
                let tries = [first].into_iter().chain(others);
                let tries = tries.flat_map(|action| [Some(action), chosen.clone()]).flatten();
                let word = capped.then_some(Action::NoteFull(way.family));
                again.into_iter().chain(tries).chain(word).collect()
            }
        };
        Chain { base: None, rules: actions.into_iter().map(|action| Rule::new([], action)).collect() }
    }

    /// Whether the two differ in nothing but their rules.
    pub fn same_hook(&self, other: &Chain) -> bool {
        self.base == other.base
    }

    /// Whether it fills our flow table, which then has to be there.
    pub fn offloads(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == Action::Offload)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        })
    }
}

/// Matches, all of which must hold, and what is then done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub action: Action,
}

impl Rule {
    pub fn new(matches: impl Into<Vec<Match>>, action: Action) -> Rule {
        Rule { matches: matches.into(), action }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for matched in &self.matches {
            write!(f, "{matched} ")?;
        }
        write!(f, "{}", self.action)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Family(Family),
    InterfaceIn(String),
    InterfaceOut(String),
    NotInterfaceOut(String),
    /// The packet is addressed to one of this namespace's own addresses.
    DestinationLocal,
    /// The packet comes from one of this namespace's own addresses.
    SourceLocal,
    DestinationIn(IpNetwork),
    SourceIn(IpNetwork),
    /// What the packet has of that is in the set.
    Among {
        key: Key,
        set: String,
    },
    /// It is not.
    NotAmong {
        key: Key,
        set: String,
    },
    /// An encapsulated packet of that VXLAN network (RFC 7348: the identifier follows four bytes of flags).
    Vxlan {
        port: u16,
        vni: u32,
    },
    /// The packet answers one that went the other way.
    Answer,
    /// The way back to its sender is the link that it came in by.
    ReversePath,
    /// It came in by a link that carries Ethernet's frames.
    Ethernet,
    /// It belongs to a connection that both sides have answered.
    Established,
    /// The packet has a mark: in the sandbox, it is of a published port.
    Marked,
    /// A rule has sent its connection elsewhere than it was addressed to. (IPVS does that, too, but does not say so.)
    Translated,
    /// It opens a TCP connection, to one side or to the other: only there a segment's size is agreed on.
    Syn,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Family(family) => write!(f, "meta nfproto {family}"),
            Match::InterfaceIn(name) => write!(f, "iifname \"{name}\""),
            Match::InterfaceOut(name) => write!(f, "oifname \"{name}\""),
            Match::NotInterfaceOut(name) => write!(f, "oifname != \"{name}\""),
            Match::DestinationLocal => write!(f, "fib daddr type local"),
            Match::SourceLocal => write!(f, "fib saddr type local"),
            Match::DestinationIn(network) => write!(f, "{} daddr {}", nft_family(network), nft_network(network)),
            Match::SourceIn(network) => write!(f, "{} saddr {}", nft_family(network), nft_network(network)),
            Match::Among { key, set } => write!(f, "{key} @{set}"),
            Match::NotAmong { key, set } => write!(f, "{key} != @{set}"),
            Match::Vxlan { port, vni } => write!(f, "udp dport {port} @th,96,24 {vni:#x}"),
            Match::Answer => write!(f, "ct direction reply"),
            Match::ReversePath => write!(f, "fib saddr . iif oif exists"),
            Match::Ethernet => write!(f, "iiftype ether"),
            Match::Established => write!(f, "ct state established"),
            Match::Marked => write!(f, "meta mark != 0x00000000"),
            Match::Translated => write!(f, "ct status dnat"),
            Match::Syn => write!(f, "tcp flags syn"),
        }
    }
}

/// What of a packet is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Source(Family),
    /// Protocol and destination port.
    Port,
    SourceAndPort(Family),
    DestinationAndPort(Family),
    LinkAndPort,
    /// The connection's mark.
    Mark,
}

impl Key {
    /// The kind of set that it is looked up in.
    pub fn set(self) -> SetKind {
        match self {
            Key::Source(family) => SetKind::Addresses(family),
            Key::Port => SetKind::Ports,
            Key::SourceAndPort(family) | Key::DestinationAndPort(family) => SetKind::Networks(family),
            Key::LinkAndPort => SetKind::Links,
            Key::Mark => SetKind::Marks,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Source(family) => write!(f, "{} saddr", ip(*family)),
            Key::Port => write!(f, "meta l4proto . th dport"),
            Key::SourceAndPort(family) => write!(f, "{} saddr . meta l4proto . th dport", ip(*family)),
            Key::DestinationAndPort(family) => write!(f, "{} daddr . meta l4proto . th dport", ip(*family)),
            Key::LinkAndPort => write!(f, "iifname . meta l4proto . th dport"),
            Key::Mark => write!(f, "ct mark"),
        }
    }
}

/// A network of one address is written as an address.
fn nft_network(network: &IpNetwork) -> String {
    let whole = if network.is_ipv4() { 32 } else { 128 };
    if network.prefix() == whole { network.ip().to_string() } else { network.to_string() }
}

fn nft_family(network: &IpNetwork) -> &'static str {
    if network.is_ipv4() { "ip" } else { "ip6" }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Accept,
    Return,
    /// And count it.
    Drop,
    /// Set the packet's mark to what the map has for its protocol and destination port, and have done; go on
    /// to the next rule if it has nothing.
    MarkFrom {
        map: String,
    },
    /// The same, and go on to the next rule in any case.
    LearnMark {
        map: String,
    },
    /// Give the connection the packet's mark, and go on.
    MarkConnection,
    /// To the chain that the family's map has for the packet's mark; go on if it has none.
    GoByMark(Family),
    /// Choose one of the slots of the packet's mark, and send it to the backend there; go on if there is none.
    Spread(Way),
    /// Send a client to the slot that is remembered of it, if that takes clients, and remember it longer; go on if not. The packet's mark
    /// says the slot, the connection's the port.
    SpreadAgain(Way),
    /// Choose a slot of the connection's mark, by its turn, remember it if the way does, and send the client there; go on, the slot in the
    /// packet's mark, if it cannot be remembered, or has no room.
    SpreadLasting(Way),
    /// Leave word of the slot that had no room, and do the same with that one in order.
    SpreadNext(Way, u16),
    /// Leave word of it.
    NoteFull(Family),
    /// Send it to the slot that the packet's mark says; of the way only what it does with ports matters.
    SpreadChosen(Way),
    /// Out of connection tracking's sight (nft(8), `notrack`), for all that follows.
    Untracked,
    /// Both: a packet that the map has a mark for gets it, and is not tracked.
    UntrackedMarkFrom {
        map: String,
    },
    /// Send it to the address that the map has for its protocol and destination port; go on if it has nothing.
    DnatFrom {
        map: String,
        family: Family,
    },
    Snat(IpAddr),
    Masquerade,
    /// Lower the largest TCP segment that the packet asks for to so many bytes, and go on to the next rule. One that is
    /// smaller stays, and so does a packet that asks for none.
    SegmentSize(u16),
    /// From now on the connection's packets pass by our flow table.
    Offload,
    /// Seen in the kernel, and nothing that we would write.
    Unknown(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Accept => write!(f, "accept"),
            Action::Return => write!(f, "return"),
            Action::Drop => write!(f, "counter drop"),
            Action::MarkFrom { map } => write!(f, "meta mark set meta l4proto . th dport map @{map} accept"),
            Action::LearnMark { map } => write!(f, "meta mark set meta l4proto . th dport map @{map}"),
            Action::MarkConnection => write!(f, "ct mark set meta mark"),
            Action::GoByMark(family) => write!(f, "meta mark vmap @{}", ways_map(*family)),
            Action::Spread(way) => {
                write!(f, "dnat {} to meta mark . {} map @{}", ip(way.family), Number(way), way.map())
            }
            Action::SpreadAgain(way) => write!(
                f,
                "meta mark set {} map @{} meta mark set ct mark . meta mark map @{} {} {}",
                client(way),
                clients_map(way.family),
                turns_map(way.family),
                remember("update", way),
                to_chosen(way)
            ),
            Action::SpreadLasting(way) => {
                write!(f, "meta mark set ct mark . {} map @{}{}", Number(way), turns_map(way.family), to_slot(way))
            }
            Action::SpreadNext(way, order) => write!(
                f,
                "{} meta mark set ct mark . numgen inc mod 1 offset {} map @{}{}",
                full(way.family),
                IN_ORDER + u32::from(*order),
                turns_map(way.family),
                to_slot(way)
            ),
            Action::NoteFull(family) => f.write_str(&full(*family)),
            Action::SpreadChosen(way) => write!(f, "{}{}", room(way), to_chosen(way)),
            Action::Untracked => write!(f, "notrack accept"),
            Action::UntrackedMarkFrom { map } => {
                write!(f, "meta mark set meta l4proto . th dport map @{map} notrack accept")
            }
            Action::DnatFrom { map, family: Family::V4 } => write!(f, "dnat ip to meta l4proto . th dport map @{map}"),
            Action::DnatFrom { map, family: Family::V6 } => write!(f, "dnat ip6 to meta l4proto . th dport map @{map}"),
            Action::Snat(address @ IpAddr::V4(_)) => write!(f, "snat ip to {address}"),
            Action::Snat(address @ IpAddr::V6(_)) => write!(f, "snat ip6 to {address}"),
            Action::Masquerade => write!(f, "masquerade"),
            Action::SegmentSize(bytes) => write!(f, "tcp option maxseg size set {bytes}"),
            Action::Offload => write!(f, "flow add @{FLOWS}"),
            Action::Unknown(what) => write!(f, "unknown ({what})"),
        }
    }
}

/// Seconds that word of a slot without room is kept.
pub const FULL_FOR: u32 = 60;

/// What goes into the hash of a client: the same on every node and in every version, so that one who comes by another node
/// comes to the same backend.
pub const HASH_SEED: u32 = 0x6d65_7368;

fn ip(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

/// How a slot is chosen.
struct Number<'w>(&'w Way);

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Way { pick, slots, .. }, ip) = (self.0, ip(self.0.family));
        match pick {
            Pick::Turn(_) => write!(f, "numgen inc mod {slots}"),
            Pick::Random => write!(f, "numgen random mod {slots}"),
            Pick::Source => write!(f, "jhash {ip} saddr mod {slots} seed {HASH_SEED:#x}"),
            Pick::SourceAndPort => write!(f, "jhash {ip} saddr . th sport mod {slots} seed {HASH_SEED:#x}"),
        }
    }
}

/// By what a client is known again.
fn client(way: &Way) -> String {
    let mask = way.client_mask().map(|mask| format!(" & {mask}")).unwrap_or_default();
    format!("ct mark . {} saddr{mask}", ip(way.family))
}

fn remember(how: &str, way: &Way) -> String {
    let seconds = way.persistence.map_or(0, |persistence| persistence.timeout);
    format!("{how} @{} {{ {} timeout {seconds}s : meta mark }}", clients_map(way.family), client(way))
}

/// Asks for room where there are caps, remembers where clients are, and goes there.
fn to_slot(way: &Way) -> String {
    let remember = way.persistence.map(|_| remember("add", way) + " ").unwrap_or_default();
    format!(" {}{remember}{}", room(way), to_chosen(way))
}

fn room(way: &Way) -> String {
    if way.tries > 0 { format!("ct mark . meta mark @{} ", room_set(way.family)) } else { String::new() }
}

fn full(family: Family) -> String {
    format!("add @{} {{ ct mark . meta mark timeout {FULL_FOR}s }}", full_set(family))
}

fn to_chosen(way: &Way) -> String {
    format!("dnat {} to ct mark . meta mark map @{}", ip(way.family), way.map())
}

/// A chain of someone else's on the host, at the forward hook, that drops what nobody accepts.
///
/// Whatever our table accepts there, a drop elsewhere is final: so this is the one place where meshd puts
/// rules outside its own tables, two of them, for its link to the sandbox only, each with the comment `meshd`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// `ip`, `ip6` or `inet`, as nft(8) names them.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}
