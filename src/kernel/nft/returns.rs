//! The table in a backend's namespace: what comes in gets the mark of the node that it came by, and so do answers.
//!
//! TCP answers have the mark by themselves (ip-sysctl, `tcp_fwmark_accept`), and connection tracking is left out of it. A
//! datagram's socket serves all clients at once: there the connection remembers the mark.

use ipnetwork::IpNetwork;

use super::expr::{CT_DIRECTION, CT_MARK, DATA_VALUE, Expr, LINK_HEADER, META_IIFTYPE, META_L4PROTO, REG_1};
use super::map::{
    ELEM_DATA, ELEM_KEY, ELEMENTS, ELEMENTS_PER_MESSAGE, ELEMENTS_SET, ELEMENTS_TABLE, FLAG_MAP, LIST_ELEM,
    SET_DATA_LEN, SET_DATA_TYPE, SET_FLAGS, SET_ID, SET_KEY_LEN, SET_KEY_TYPE, SET_USERDATA, TYPE_MARK, byte_orders,
};
use super::rule::{REPLY, compile};
use super::*;
use crate::kernel::attribute::{attributes, find, string_of};
use crate::objects::{Action, Mac, MapKind, Match, Returns, Rule, return_mark};

/// Not the name of a node's: a whole node may be someone's backend.
const RETURN_TABLE: &str = "meshd_return";
const MAP: &str = "nodes";
/// The kernel's NF_IP_PRI_MANGLE.
const MANGLE: i32 = -150;
const UDP: u8 = 17;
/// ARPHRD_ETHER (linux/if_arp.h).
const ETHERNET: u16 = 1;
/// nft(8)'s own number for the type; the kernel only keeps it.
const TYPE_ETHER: u32 = 9;

/// Chain, hook, type, and rules, as their expressions.
fn chains(returns: &Returns) -> Vec<(&'static str, Hook, &'static str, Vec<Vec<Expr>>)> {
    let compare = |value: &[u8]| Expr::Compare { register: REG_1, equal: true, value: value.to_vec() };
    let datagram = [Expr::Meta { key: META_L4PROTO, to: REG_1 }, compare(&[UDP])];
    // Frames of an Ethernet have a source to look at.
    let node = [
        Expr::Meta { key: META_IIFTYPE, to: REG_1 },
        compare(&ETHERNET.to_ne_bytes()),
        Expr::Payload { base: LINK_HEADER, offset: 6, length: 6, to: REG_1 },
        Expr::Lookup { map: MAP.to_owned(), from: REG_1, to: REG_1 },
    ];
    // The nodes' own addresses are on the link: what comes from there needs no way back.
    let direct = returns.sources.iter().map(|source| {
        let subnet = IpNetwork::new(source.network(), source.prefix()).unwrap_or(*source);
        compile(&Rule::new([Match::SourceIn(subnet)], Action::Return))
    });
    let mut incoming: Vec<Vec<Expr>> = direct.collect();
    incoming.push([&node[..], &[Expr::SetMark { from: REG_1 }]].concat());
    let mut chains = Vec::new();
    if !returns.datagrams.is_empty() {
        incoming.push([&datagram[..], &node, &[Expr::SetConnectionMark { from: REG_1 }]].concat());
        let answer = [
            Expr::Connection { key: CT_DIRECTION, to: REG_1 },
            compare(&[REPLY]),
            Expr::Connection { key: CT_MARK, to: REG_1 },
            Expr::Compare { register: REG_1, equal: false, value: vec![0; 4] },
            Expr::Connection { key: CT_MARK, to: REG_1 },
            Expr::SetMark { from: REG_1 },
        ];
        // Of type route: a packet whose mark changes is routed anew.
        chains.push(("output", Hook::Output, "route", vec![[&datagram[..], &answer].concat()]));
    }
    chains.push(("prerouting", Hook::Prerouting, "filter", incoming));
    chains
}

/// Replaces the table as a whole, in one transaction.
pub fn set(socket: &mut Socket, returns: &Returns) -> Result<(), Error> {
    let mut requests = vec![table(NEWTABLE, NLM_F_CREATE), table(DELTABLE, 0), table(NEWTABLE, NLM_F_CREATE)];
    let mut map = header(INET);
    map.string(SET_TABLE, RETURN_TABLE);
    map.string(SET_NAME, MAP);
    map.be32(SET_FLAGS, FLAG_MAP);
    map.be32(SET_KEY_TYPE, TYPE_ETHER);
    map.be32(SET_KEY_LEN, 6);
    map.be32(SET_DATA_TYPE, TYPE_MARK);
    map.be32(SET_DATA_LEN, 4);
    map.be32(SET_ID, 1);
    map.bytes(SET_USERDATA, &byte_orders(MapKind::Mark));
    requests.push(request(NEWSET, NLM_F_CREATE, map));
    let nodes: Vec<&Mac> = returns.nodes.keys().collect();
    for chunk in nodes.chunks(ELEMENTS_PER_MESSAGE) {
        let mut body = header(INET);
        body.string(ELEMENTS_TABLE, RETURN_TABLE);
        body.string(ELEMENTS_SET, MAP);
        body.nested(ELEMENTS, |list| {
            for mac in chunk {
                list.nested(LIST_ELEM, |element| {
                    element.nested(ELEM_KEY, |key| key.bytes(DATA_VALUE, &mac.0));
                    element.nested(ELEM_DATA, |data| data.bytes(DATA_VALUE, &return_mark(mac).to_ne_bytes()));
                });
            }
        });
        requests.push(request(NEWSETELEM, NLM_F_CREATE, body));
    }
    for (name, hook, kind, rules) in chains(returns) {
        requests.push(new_chain(RETURN_TABLE, name, Some((kind, hook, MANGLE))));
        requests.extend(rules.iter().map(|rule| new_rule(RETURN_TABLE, name, rule)));
    }
    transact(socket, &requests).map_err(first_of)
}

/// A table that is gone already is removed.
pub fn remove(socket: &mut Socket) -> Result<(), Error> {
    transact(socket, &[table(NEWTABLE, NLM_F_CREATE), table(DELTABLE, 0)]).map_err(first_of)
}

/// Whether the table is what is wanted.
pub fn is(socket: &mut Socket, returns: &Returns) -> Result<bool, Error> {
    let mut elements = header(INET);
    elements.string(ELEMENTS_TABLE, RETURN_TABLE);
    elements.string(ELEMENTS_SET, MAP);
    let nodes = match socket.dump(&request(GETSETELEM, 0, elements), |_, message| Some(read_nodes(read::body(message))))
    {
        Ok(nodes) => nodes,
        Err(error) if error.is(Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted: Vec<(Mac, u32)> = returns.nodes.keys().map(|mac| (*mac, return_mark(mac))).collect();
    let mut nodes: Vec<(Mac, u32)> = nodes.into_iter().flatten().collect();
    nodes.sort_unstable();
    if nodes != wanted {
        return Ok(false);
    }
    let mut list = header(INET);
    list.string(RULE_TABLE, RETURN_TABLE);
    let seen = socket.dump(&request(GETRULE, 0, list), |_, message| {
        let attributes = read::body(message);
        let ours = find(attributes, RULE_TABLE).and_then(string_of)? == RETURN_TABLE;
        let chain = ours.then(|| find(attributes, RULE_CHAIN).and_then(string_of))??;
        Some((chain, Expr::read_list(find(attributes, RULE_EXPRESSIONS).unwrap_or_default())))
    })?;
    let wanted = chains(returns);
    let rules = wanted.iter().flat_map(|(name, _, _, rules)| rules.iter().map(move |rule| ((*name).to_owned(), rule)));
    let (mut seen, mut rules): (Vec<_>, Vec<_>) = (seen, rules.map(|(name, rule)| (name, rule.clone())).collect());
    // Chain by chain; within a chain the order counts, and stays.
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    rules.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(seen == rules)
}

fn table(kind: u16, flags: u16) -> Request {
    let mut body = header(INET);
    body.string(TABLE_NAME, RETURN_TABLE);
    request(kind, flags, body)
}

/// For `replies`.
pub(super) fn read_any(message: &[u8]) {
    let _ = read_nodes(read::body(message));
}

fn read_nodes(body: &[u8]) -> Vec<(Mac, u32)> {
    let list = find(body, ELEMENTS).unwrap_or_default();
    let data = |element, kind| find(element, kind).and_then(|inner| find(inner, DATA_VALUE));
    let read = |element| {
        let mac = Mac(data(element, ELEM_KEY)?.try_into().ok()?);
        Some((mac, u32::from_ne_bytes(data(element, ELEM_DATA)?.try_into().ok()?)))
    };
    attributes(list).filter_map(|(_, element)| read(element)).collect()
}
