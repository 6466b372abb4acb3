//! Our sentences to nftables' expressions, and back.

use std::fmt::Write;

use ipnetwork::IpNetwork;

use super::expr::{
    CT_DIRECTION, CT_MARK, CT_STATE, CT_STATUS, Expr, META_IIFNAME, META_IIFTYPE, META_L4PROTO, META_MARK,
    META_NFPROTO, META_OIFNAME, NETWORK_HEADER, REG_1, REG_2, REG_3, REG_VERDICT, REG32_01, REG32_02, REG32_05,
    TRANSPORT_HEADER, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_RETURN,
};
use crate::kernel::attribute::{ip_of, octets};
use crate::objects::{
    Action, FLOWS, FULL_FOR, Family, HASH_SEED, IN_ORDER, Key, Match, Persistence, Pick, Rule, Way, clients_map,
    full_set, room_set, slots_map, turns_map, ways_map,
};

/// The kernel's RTN_LOCAL.
const LOCAL: u32 = 2;
/// Bytes; IFNAMSIZ.
const NAME_LENGTH: usize = 16;

/// Expressions of the longest key, and its look-up.
const MOST_PARTS: usize = 6;
/// The direction of an answer (linux/netfilter/nf_conntrack_tuple_common.h, IP_CT_DIR_REPLY).
pub const REPLY: u8 = 1;
/// Bit of a packet's state that says so (NF_CT_STATE_BIT of IP_CT_ESTABLISHED).
const ESTABLISHED: u32 = 1 << 1;
/// Bit of a connection's status that says so (IPS_DST_NAT).
const DST_NAT: u32 = 1 << 5;
/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Place of the flags in the TCP header, and the one that opens a connection (RFC 9293).
const FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 2;
/// Behind the UDP header and the first word of the VXLAN header (RFC 7348).
const VNI_OFFSET: u32 = 12;

pub fn family_number(family: Family) -> u32 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The expressions of a rule.
pub fn compile(rule: &Rule) -> Vec<Expr> {
    let mut out: Vec<Expr> = rule.matches.iter().flat_map(compile_match).collect();
    out.extend(compile_action(&rule.action));
    out
}

/// The rule that those expressions say; what we would not write ends as [`Action::Unknown`].
pub fn raise(expressions: &[Expr]) -> Rule {
    let mut matches = Vec::new();
    let mut rest = expressions;
    // A match is known by being what we would compile it to: so there is one table, not two.
    while let Some((found, length)) = raise_match(rest) {
        matches.push(found);
        rest = &rest[length..];
    }
    Rule { matches, action: raise_action(rest).unwrap_or_else(|| Action::Unknown(describe(rest))) }
}

fn load(key: u32) -> Expr {
    Expr::Meta { key, to: REG_1 }
}

fn compare(equal: bool, value: impl Into<Vec<u8>>) -> Expr {
    Expr::Compare { register: REG_1, equal, value: value.into() }
}

pub fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_LENGTH, 0);
    bytes
}

fn compile_match(matched: &Match) -> Vec<Expr> {
    match matched {
        Match::Family(family) => vec![load(META_NFPROTO), compare(true, [family_number(*family) as u8])],
        Match::InterfaceIn(name) => vec![load(META_IIFNAME), compare(true, interface(name))],
        Match::InterfaceOut(name) => vec![load(META_OIFNAME), compare(true, interface(name))],
        Match::NotInterfaceOut(name) => vec![load(META_OIFNAME), compare(false, interface(name))],
        Match::DestinationLocal => {
            vec![Expr::AddressType { source: false, to: REG_1 }, compare(true, LOCAL.to_ne_bytes())]
        }
        Match::SourceLocal => vec![Expr::AddressType { source: true, to: REG_1 }, compare(true, LOCAL.to_ne_bytes())],
        Match::DestinationIn(network) => compile_address(network, false),
        Match::SourceIn(network) => compile_address(network, true),
        Match::Among { key, set } => compile_among(*key, set, false),
        Match::NotAmong { key, set } => compile_among(*key, set, true),
        Match::Vxlan { port, vni } => vec![
            load(META_L4PROTO),
            compare(true, [UDP]),
            Expr::Payload { base: TRANSPORT_HEADER, offset: 2, length: 2, to: REG_1 },
            compare(true, port.to_be_bytes()),
            Expr::Payload { base: TRANSPORT_HEADER, offset: VNI_OFFSET, length: 3, to: REG_1 },
            compare(true, vni.to_be_bytes().get(1..).unwrap_or_default()),
        ],
        Match::Answer => vec![Expr::Connection { key: CT_DIRECTION, to: REG_1 }, compare(true, [REPLY])],
        // A byte that says whether there is one.
        Match::ReversePath => vec![Expr::ReversePath { to: REG_1 }, compare(true, [1])],
        Match::Ethernet => vec![load(META_IIFTYPE), compare(true, ETHERNET.to_ne_bytes())],
        Match::Established => vec![
            Expr::Connection { key: CT_STATE, to: REG_1 },
            Expr::Mask { register: REG_1, mask: ESTABLISHED.to_ne_bytes().to_vec() },
            compare(false, 0u32.to_ne_bytes()),
        ],
        Match::Marked => vec![load(META_MARK), compare(false, 0u32.to_ne_bytes())],
        Match::Translated => vec![
            Expr::Connection { key: CT_STATUS, to: REG_1 },
            Expr::Mask { register: REG_1, mask: DST_NAT.to_ne_bytes().to_vec() },
            compare(false, 0u32.to_ne_bytes()),
        ],
        Match::Syn => vec![
            load(META_L4PROTO),
            compare(true, [TCP]),
            Expr::Payload { base: TRANSPORT_HEADER, offset: FLAGS_OFFSET, length: 1, to: REG_1 },
            Expr::Mask { register: REG_1, mask: vec![SYN] },
            compare(false, [0]),
        ],
    }
}

/// The key's parts, one behind the other in the registers, and whether they are in the set.
fn compile_among(key: Key, set: &str, inverted: bool) -> Vec<Expr> {
    let port = |protocol: u32, port: u32| {
        [
            Expr::Meta { key: META_L4PROTO, to: protocol },
            Expr::Payload { base: TRANSPORT_HEADER, offset: 2, length: 2, to: port },
        ]
    };
    let address = |family: Family, source: bool| {
        let (offset, length) = address_field(family, source);
        let mut out = compile_match(&Match::Family(family));
        out.push(Expr::Payload { base: NETWORK_HEADER, offset, length, to: REG_1 });
        out
    };
    let mut out = match key {
        Key::Source(family) => address(family, true),
        Key::Port => port(REG_1, REG32_01).to_vec(),
        Key::SourceAndPort(family) | Key::DestinationAndPort(family) => {
            let mut out = address(family, matches!(key, Key::SourceAndPort(_)));
            out.extend(if family == Family::V4 { port(REG32_01, REG32_02) } else { port(REG_2, REG32_05) });
            out
        }
        Key::LinkAndPort => {
            let mut out = vec![load(META_IIFNAME)];
            out.extend(port(REG_2, REG32_05));
            out
        }
        Key::Mark => vec![connection_mark()],
    };
    out.push(Expr::Member { set: set.to_owned(), from: REG_1, inverted });
    out
}

/// A look-up in a set, known by being what we would compile it to.
fn raise_among(expressions: &[Expr]) -> Option<Match> {
    let (set, inverted) = expressions.iter().take(MOST_PARTS).find_map(|expression| match expression {
        Expr::Member { set, inverted, .. } => Some((set, *inverted)),
        _ => None,
    })?;
    let per_family = |key: fn(Family) -> Key| Family::ALL.map(key);
    let keys = [Key::Port, Key::LinkAndPort, Key::Mark].into_iter();
    let keys = keys.chain([Key::Source, Key::SourceAndPort, Key::DestinationAndPort].into_iter().flat_map(per_family));
    let key = keys.into_iter().find(|key| expressions.starts_with(&compile_among(*key, set, inverted)))?;
    let set = set.clone();
    Some(if inverted { Match::NotAmong { key, set } } else { Match::Among { key, set } })
}

/// Place and length of an address in its IP header.
fn address_field(family: Family, source: bool) -> (u32, u32) {
    match (family, source) {
        (Family::V4, true) => (12, 4),
        (Family::V4, false) => (16, 4),
        (Family::V6, true) => (8, 16),
        (Family::V6, false) => (24, 16),
    }
}

fn compile_address(network: &IpNetwork, source: bool) -> Vec<Expr> {
    let family = Family::of(&network.ip());
    let (offset, length) = address_field(family, source);
    let mut out = compile_match(&Match::Family(family));
    out.push(Expr::Payload { base: NETWORK_HEADER, offset, length, to: REG_1 });
    if u32::from(network.prefix()) < length * 8 {
        out.push(Expr::Mask { register: REG_1, mask: octets(network.mask()) });
    }
    out.push(compare(true, octets(network.network())));
    out
}

/// `meta l4proto . th dport map @map`: the key's two parts, then the look-up.
fn look_up(map: &str) -> [Expr; 3] {
    [
        load(META_L4PROTO),
        Expr::Payload { base: TRANSPORT_HEADER, offset: 2, length: 2, to: REG32_01 },
        Expr::Lookup { map: map.to_owned(), from: REG_1, to: REG_1 },
    ]
}

fn compile_action(action: &Action) -> Vec<Expr> {
    match action {
        Action::Offload => vec![Expr::FlowAdd { table: FLOWS.to_owned() }],
        Action::Accept => vec![Expr::Verdict(VERDICT_ACCEPT)],
        Action::Drop => vec![Expr::Counter, Expr::Verdict(VERDICT_DROP)],
        Action::Return => vec![Expr::Verdict(VERDICT_RETURN)],
        Action::MarkFrom { map } => {
            let mut out = look_up(map).to_vec();
            out.extend([Expr::SetMark { from: REG_1 }, Expr::Verdict(VERDICT_ACCEPT)]);
            out
        }
        Action::LearnMark { map } => {
            let mut out = look_up(map).to_vec();
            out.push(Expr::SetMark { from: REG_1 });
            out
        }
        Action::MarkConnection => vec![load(META_MARK), Expr::SetConnectionMark { from: REG_1 }],
        Action::GoByMark(family) => {
            vec![load(META_MARK), Expr::Lookup { map: ways_map(*family).to_owned(), from: REG_1, to: REG_VERDICT }]
        }
        Action::Spread(way) => {
            let mut out = vec![load(META_MARK)];
            out.extend(compile_number(way));
            out.extend(compile_destination(way));
            out
        }
        Action::SpreadAgain(way) => {
            let mut out = compile_client(way);
            out.extend(learn(clients_map(way.family)));
            // As long as it takes clients it leads to itself.
            out.extend(chosen());
            out.extend(learn(turns_map(way.family)));
            out.extend(compile_remember(way, true));
            out.extend(to_chosen(way));
            out
        }
        Action::SpreadLasting(way) => {
            let mut out = vec![connection_mark()];
            out.extend(compile_number(way));
            out.extend(to_slot(way));
            out
        }
        Action::SpreadNext(way, order) => {
            let mut out = note_full(way.family);
            let offset = IN_ORDER + u32::from(*order);
            out.extend([connection_mark(), Expr::Number { to: REG32_01, modulus: 1, random: false, offset }]);
            out.extend(to_slot(way));
            out
        }
        Action::NoteFull(family) => note_full(*family),
        Action::SpreadChosen(way) => {
            let mut out = compile_room(way);
            out.extend(to_chosen(way));
            out
        }
        Action::Untracked => vec![Expr::Notrack, Expr::Verdict(VERDICT_ACCEPT)],
        Action::UntrackedMarkFrom { map } => {
            let mut out = look_up(map).to_vec();
            out.extend([Expr::SetMark { from: REG_1 }, Expr::Notrack, Expr::Verdict(VERDICT_ACCEPT)]);
            out
        }
        Action::DnatFrom { map, family } => {
            let mut out = look_up(map).to_vec();
            out.push(Expr::Nat { source: false, family: family_number(*family), address: REG_1, port: None });
            out
        }
        Action::Snat(to) => vec![
            Expr::Load { to: REG_1, value: octets(*to) },
            Expr::Nat { source: true, family: family_number(Family::of(to)), address: REG_1, port: None },
        ],
        Action::Masquerade => vec![Expr::Masquerade],
        Action::SegmentSize(bytes) => {
            vec![Expr::Load { to: REG_1, value: bytes.to_be_bytes().to_vec() }, Expr::SetSegmentSize { from: REG_1 }]
        }
        Action::Unknown(what) => vec![Expr::Other(what.clone())],
    }
}

/// A slot's number, behind a mark.
fn compile_number(way: &Way) -> Vec<Expr> {
    let modulus = u32::from(way.slots);
    let hash = |length| Expr::Hash { from: REG_2, length, to: REG32_01, modulus, seed: HASH_SEED };
    let (offset, length) = address_field(way.family, true);
    let source = Expr::Payload { base: NETWORK_HEADER, offset, length, to: REG_2 };
    match way.pick {
        Pick::Turn(_) | Pick::Random => {
            vec![Expr::Number { to: REG32_01, modulus, random: way.pick == Pick::Random, offset: 0 }]
        }
        Pick::Source => vec![source, hash(length)],
        Pick::SourceAndPort => {
            let to = if way.family == Family::V4 { REG32_05 } else { REG_3 };
            let port = Expr::Payload { base: TRANSPORT_HEADER, offset: 0, length: 2, to };
            // The port takes a whole word.
            vec![source, port, hash(length + 4)]
        }
    }
}

/// `dnat to … map @slots`: a mark and a slot's number are there.
fn compile_destination(way: &Way) -> [Expr; 2] {
    // Behind the address.
    let port = (!way.keeps_port).then_some(if way.family == Family::V4 { REG32_01 } else { REG_2 });
    [
        Expr::Lookup { map: way.map().to_owned(), from: REG_1, to: REG_1 },
        Expr::Nat { source: false, family: family_number(way.family), address: REG_1, port },
    ]
}

/// `ct mark`: the port, where the packet's mark says something else.
fn connection_mark() -> Expr {
    Expr::Connection { key: CT_MARK, to: REG_1 }
}

/// `ct mark . meta mark`: the port and its slot.
fn chosen() -> [Expr; 2] {
    [connection_mark(), Expr::Meta { key: META_MARK, to: REG32_01 }]
}

/// `dnat to ct mark . meta mark map @slots`.
fn to_chosen(way: &Way) -> impl Iterator<Item = Expr> {
    chosen().into_iter().chain(compile_destination(way))
}

/// `meta mark set … map @map`.
fn learn(map: &str) -> [Expr; 2] {
    [Expr::Lookup { map: map.to_owned(), from: REG_1, to: REG_1 }, Expr::SetMark { from: REG_1 }]
}

/// `ct mark . <the client>`, of which as many bits count as the way says.
fn compile_client(way: &Way) -> Vec<Expr> {
    let (offset, length) = address_field(way.family, true);
    let mut out = vec![connection_mark(), Expr::Payload { base: NETWORK_HEADER, offset, length, to: REG32_01 }];
    out.extend(way.client_mask().map(|mask| Expr::Mask { register: REG32_01, mask: octets(mask) }));
    out
}

/// `update @clients { … : meta mark }`, or `add`.
fn compile_remember(way: &Way, longer: bool) -> Vec<Expr> {
    let milliseconds = way.persistence.map_or(0, |persistence| u64::from(persistence.timeout) * 1000);
    let map = clients_map(way.family).to_owned();
    let mut out = compile_client(way);
    // Behind a mark and an address of either family.
    out.push(Expr::Meta { key: META_MARK, to: REG32_05 });
    out.push(Expr::Remember { map, key: REG_1, data: Some(REG32_05), milliseconds, longer });
    out
}

/// From a turn to its slot, and to the backend there, if it has room; who comes is remembered, where that is wanted.
fn to_slot(way: &Way) -> Vec<Expr> {
    let mut out = learn(turns_map(way.family)).to_vec();
    out.extend(compile_room(way));
    if way.persistence.is_some() {
        out.extend(compile_remember(way, false));
    }
    out.extend(to_chosen(way));
    out
}

/// `ct mark . meta mark @room`, where there are caps.
fn compile_room(way: &Way) -> Vec<Expr> {
    if way.tries == 0 {
        return Vec::new();
    }
    let room = Expr::Member { set: room_set(way.family).to_owned(), from: REG_1, inverted: false };
    chosen().into_iter().chain([room]).collect()
}

/// `add @full { ct mark . meta mark … }`.
fn note_full(family: Family) -> Vec<Expr> {
    let (map, milliseconds) = (full_set(family).to_owned(), u64::from(FULL_FOR) * 1000);
    let note = Expr::Remember { map, key: REG_1, data: None, milliseconds, longer: false };
    chosen().into_iter().chain([note]).collect()
}

/// What such expressions do with which way, known by being what we would compile it to. Who takes turns is not among them.
fn raise_spread(expressions: &[Expr]) -> Option<Action> {
    if let Some(family) = Family::ALL.into_iter().find(|family| note_full(*family) == expressions) {
        return Some(Action::NoteFull(family));
    }
    let (mut map, mut modulus, mut milliseconds, mut prefix) = (None, 1, None, None);
    let (mut tries, mut order) = (0, 0);
    // The last look-up is the slots'.
    for expression in expressions {
        match expression {
            Expr::Lookup { map: found, .. } => map = Some(found),
            Expr::Number { modulus: found, offset, .. } => (modulus, order) = (*found, offset.saturating_sub(IN_ORDER)),
            Expr::Hash { modulus: found, .. } => modulus = *found,
            Expr::Member { .. } => tries = 1,
            Expr::Remember { data: Some(_), milliseconds: found, .. } => milliseconds = Some(*found),
            Expr::Mask { mask, .. } => prefix = Some(mask.iter().map(|byte| byte.count_ones()).sum::<u32>()),
            _ => {}
        }
    }
    let (map, slots, order) = (map?, u16::try_from(modulus).ok()?, u16::try_from(order).ok()?);
    let timeout = milliseconds.map(|found| u32::try_from(found / 1000)).transpose().ok()?;
    let prefix = prefix.map(u8::try_from).transpose().ok()?;
    let mut ways = Vec::new();
    for family in Family::ALL {
        let persistence = timeout.map(|timeout| Persistence { timeout, prefix: prefix.unwrap_or(family.bits()) });
        for keeps_port in [false, true] {
            if slots_map(family, keeps_port) == map {
                let picks = [Pick::Turn(0), Pick::Random, Pick::Source, Pick::SourceAndPort];
                ways.extend(picks.map(|pick| Way { family, pick, slots, keeps_port, persistence, tries }));
            }
        }
    }
    let actions = ways.into_iter().flat_map(|way| {
        let kinds: [fn(Way) -> Action; 4] =
            [Action::Spread, Action::SpreadAgain, Action::SpreadLasting, Action::SpreadChosen];
        kinds.map(|kind| kind(way)).into_iter().chain([Action::SpreadNext(way, order)])
    });
    actions.into_iter().find(|action| compile_action(action) == expressions)
}

/// The match at the beginning of `expressions`, and how many of them it takes.
fn raise_match(expressions: &[Expr]) -> Option<(Match, usize)> {
    // First: its parts look like other matches.
    if let Some(found) = raise_among(expressions) {
        let length = compile_match(&found).len();
        return Some((found, length));
    }
    let candidate = match expressions {
        [
            Expr::Meta { key: META_L4PROTO, .. },
            Expr::Compare { .. },
            Expr::Payload { .. },
            Expr::Compare { value: port, .. },
            Expr::Payload { offset: VNI_OFFSET, .. },
            Expr::Compare { value: vni, .. },
            ..,
        ] => Match::Vxlan {
            port: u16::from_be_bytes(port.as_slice().try_into().ok()?),
            vni: vni.iter().fold(0, |vni, byte| vni << 8 | u32::from(*byte)),
        },
        [
            Expr::Meta { key: META_L4PROTO, .. },
            Expr::Compare { .. },
            Expr::Payload { offset: FLAGS_OFFSET, .. },
            Expr::Mask { .. },
            ..,
        ] => Match::Syn,
        // Before a plain family match: an address match begins with one.
        [
            Expr::Meta { key: META_NFPROTO, .. },
            Expr::Compare { .. },
            Expr::Payload { base: NETWORK_HEADER, offset, .. },
            rest @ ..,
        ] => raise_address(*offset, rest)?,
        [Expr::Meta { key, .. }, Expr::Compare { equal, value, .. }, ..] => match (*key, *equal) {
            (META_NFPROTO, true) => {
                let number = u32::from(*value.first()?);
                Match::Family(Family::ALL.into_iter().find(|family| family_number(*family) == number)?)
            }
            (META_IIFNAME, true) => Match::InterfaceIn(interface_name(value)?),
            (META_OIFNAME, true) => Match::InterfaceOut(interface_name(value)?),
            (META_OIFNAME, false) => Match::NotInterfaceOut(interface_name(value)?),
            (META_MARK, false) => Match::Marked,
            (META_IIFTYPE, true) => Match::Ethernet,
            _ => return None,
        },
        [Expr::Connection { key: CT_DIRECTION, .. }, ..] => Match::Answer,
        [Expr::Connection { key: CT_STATE, .. }, ..] => Match::Established,
        [Expr::Connection { key: CT_STATUS, .. }, ..] => Match::Translated,
        [Expr::ReversePath { .. }, ..] => Match::ReversePath,
        [Expr::AddressType { source: true, .. }, ..] => Match::SourceLocal,
        [Expr::AddressType { source: false, .. }, ..] => Match::DestinationLocal,
        _ => return None,
    };
    let compiled = compile_match(&candidate);
    expressions.starts_with(&compiled).then_some((candidate, compiled.len()))
}

fn raise_address(offset: u32, rest: &[Expr]) -> Option<Match> {
    let (mask, value) = match rest {
        [Expr::Mask { mask, .. }, Expr::Compare { value, .. }, ..] => (Some(mask), value),
        [Expr::Compare { value, .. }, ..] => (None, value),
        _ => return None,
    };
    let address = ip_of(value)?;
    let bits = match mask {
        Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum::<u32>(),
        None => value.len() as u32 * 8,
    };
    let network = IpNetwork::new(address, u8::try_from(bits).ok()?).ok()?;
    let source = address_field(Family::of(&address), true).0 == offset;
    Some(if source { Match::SourceIn(network) } else { Match::DestinationIn(network) })
}

pub fn interface_name(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0)?;
    Some(std::str::from_utf8(&value[..end]).ok()?.to_owned())
}

fn raise_action(expressions: &[Expr]) -> Option<Action> {
    let candidate = match expressions {
        [Expr::Verdict(VERDICT_ACCEPT)] => Action::Accept,
        [Expr::Verdict(VERDICT_RETURN)] => Action::Return,
        [Expr::Masquerade] => Action::Masquerade,
        [Expr::FlowAdd { .. }] => Action::Offload,
        [Expr::Load { value, .. }, Expr::Nat { source: true, .. }] => Action::Snat(ip_of(value)?),
        [Expr::Load { value, .. }, Expr::SetSegmentSize { .. }] => {
            Action::SegmentSize(u16::from_be_bytes(value.as_slice().try_into().ok()?))
        }
        [_, _, Expr::Lookup { map, .. }, Expr::SetMark { .. }, _] => Action::MarkFrom { map: map.clone() },
        [_, _, Expr::Lookup { map, .. }, Expr::SetMark { .. }, Expr::Notrack, _] => {
            Action::UntrackedMarkFrom { map: map.clone() }
        }
        [Expr::Meta { .. }, Expr::SetConnectionMark { .. }] => Action::MarkConnection,
        [Expr::Meta { .. }, Expr::Lookup { map, to: REG_VERDICT, .. }] => {
            Action::GoByMark(Family::ALL.into_iter().find(|family| ways_map(*family) == map)?)
        }
        [_, _, Expr::Lookup { map, .. }, Expr::SetMark { .. }] => Action::LearnMark { map: map.clone() },
        [.., Expr::Number { .. } | Expr::Hash { .. }, Expr::Lookup { .. }, Expr::Nat { .. }]
        | [Expr::Connection { .. }, .., Expr::Lookup { .. }, Expr::Nat { .. }] => raise_spread(expressions)?,
        [Expr::Connection { .. }, Expr::Meta { .. }, Expr::Remember { .. }] => raise_spread(expressions)?,
        [Expr::Notrack, _] => Action::Untracked,
        [Expr::Counter, _] => Action::Drop,
        [_, _, Expr::Lookup { map, .. }, Expr::Nat { family, .. }] => {
            let family = Family::ALL.into_iter().find(|known| family_number(*known) == *family)?;
            Action::DnatFrom { map: map.clone(), family }
        }
        _ => return None,
    };
    (compile_action(&candidate) == expressions).then_some(candidate)
}

fn describe(expressions: &[Expr]) -> String {
    let mut text = String::new();
    for (index, expression) in expressions.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{expression:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::attribute::Writer;

    fn network() -> impl Strategy<Value = IpNetwork> {
        prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| (IpAddr::V4(bits.into()), prefix)),
            (any::<u128>(), 0u8..=128).prop_map(|(bits, prefix)| (IpAddr::V6(bits.into()), prefix)),
        ]
        .prop_map(|(ip, prefix)| {
            let network = IpNetwork::new(ip, prefix).unwrap();
            IpNetwork::new(network.network(), prefix).unwrap()
        })
    }

    fn family() -> impl Strategy<Value = Family> {
        prop::sample::select(Family::ALL.to_vec())
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            Just(Key::Port),
            Just(Key::LinkAndPort),
            Just(Key::Mark),
            family().prop_map(Key::Source),
            family().prop_map(Key::SourceAndPort),
            family().prop_map(Key::DestinationAndPort),
        ]
    }

    fn matched() -> impl Strategy<Value = Match> {
        prop_oneof![
            family().prop_map(Match::Family),
            "[a-z0-9]{1,15}".prop_map(Match::InterfaceIn),
            "[a-z0-9]{1,15}".prop_map(Match::InterfaceOut),
            "[a-z0-9]{1,15}".prop_map(Match::NotInterfaceOut),
            Just(Match::DestinationLocal),
            Just(Match::SourceLocal),
            network().prop_map(Match::DestinationIn),
            network().prop_map(Match::SourceIn),
            Just(Match::Marked),
            Just(Match::Answer),
            Just(Match::Established),
            Just(Match::Translated),
            Just(Match::ReversePath),
            Just(Match::Ethernet),
            Just(Match::Syn),
            ("[a-z0-9]{1,15}", key()).prop_map(|(set, key)| Match::Among { key, set }),
            ("[a-z0-9]{1,15}", key()).prop_map(|(set, key)| Match::NotAmong { key, set }),
            (any::<u16>(), 0u32..1 << 24).prop_map(|(port, vni)| Match::Vxlan { port, vni }),
        ]
    }

    fn way() -> impl Strategy<Value = Way> {
        let pick = prop::sample::select(vec![Pick::Turn(0), Pick::Random, Pick::Source, Pick::SourceAndPort]);
        (family(), pick, 1u16.., any::<bool>()).prop_map(|(family, pick, slots, keeps_port)| Way {
            family,
            pick,
            slots,
            keeps_port,
            persistence: None,
            tries: 0,
        })
    }

    /// The actions of a way that remembers clients, or whose backends have caps.
    fn lasting() -> impl Strategy<Value = Action> {
        let persistence = prop::option::of((1..=u32::MAX / 1000, 1..=128u8));
        (way(), persistence, 0..=8u8, any::<prop::sample::Index>()).prop_map(|(way, persistence, tries, which)| {
            let of = |(timeout, prefix): (u32, u8)| Persistence { timeout, prefix: prefix.min(way.family.bits()) };
            let chain = crate::objects::Chain::of_way(Way { persistence: persistence.map(of), tries, ..way });
            chain.rules[which.index(chain.rules.len())].action.clone()
        })
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            "[a-z0-9]{1,15}".prop_map(|map| Action::LearnMark { map }),
            Just(Action::MarkConnection),
            family().prop_map(Action::GoByMark),
            way().prop_map(Action::Spread),
            lasting(),
            Just(Action::Accept),
            Just(Action::Return),
            Just(Action::Drop),
            "[a-z0-9]{1,15}".prop_map(|map| Action::MarkFrom { map }),
            Just(Action::Untracked),
            "[a-z0-9]{1,15}".prop_map(|map| Action::UntrackedMarkFrom { map }),
            ("[a-z0-9]{1,15}", family()).prop_map(|(map, family)| Action::DnatFrom { map, family }),
            any::<IpAddr>().prop_map(Action::Snat),
            Just(Action::Masquerade),
            Just(Action::Offload),
            any::<u16>().prop_map(Action::SegmentSize),
        ]
    }

    proptest! {
        #[test]
        fn a_rule_survives_the_way_through_netlink(matches in prop::collection::vec(matched(), 0..4), action in action()) {
            let rule = Rule { matches, action };
            let mut writer = Writer::default();
            for expression in compile(&rule) {
                expression.write(&mut writer);
            }
            prop_assert_eq!(raise(&Expr::read_list(&writer.finish())), rule);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = raise(&Expr::read_list(&bytes));
        }
    }

    #[test]
    fn what_others_write_is_not_ours() {
        let others = [
            vec![Expr::Counter, Expr::Verdict(VERDICT_ACCEPT)],
            vec![
                Expr::Meta { key: META_IIFNAME, to: REG_1 },
                compare(false, interface("eth0")),
                Expr::Verdict(VERDICT_ACCEPT),
            ],
            vec![Expr::Nat { source: false, family: 2, address: REG_1, port: None }],
            vec![],
        ];
        for expressions in others {
            assert!(matches!(raise(&expressions).action, Action::Unknown(_)), "{expressions:?}");
        }
    }
}
