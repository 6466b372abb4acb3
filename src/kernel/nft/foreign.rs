//! What others' rules do to one packet: their tables of one namespace, read as they are and run over it.
//!
//! A drop is final, whatever we accept; and who translates a destination before us has the packet. So explaining a way means to
//! read them all. What cannot be told without the packet itself (a limit, an owner, a match that is not known here) is said to be
//! so: it *may* stand in the way.

mod bits;
mod machine;
mod matches;
mod seen;

use std::collections::BTreeMap;
use std::rc::Rc;

use super::expr::{EXPR_DATA, EXPR_NAME};
use super::map::{
    ELEM_DATA, ELEM_KEY, ELEM_KEY_END, ELEMENTS, ELEMENTS_SET, ELEMENTS_TABLE, FLAG_INTERVAL, LIST_ELEM, SET_FLAGS,
};
use super::read::{GETTABLE, body, is_dormant};
use super::*;
use crate::kernel::attribute::{attributes, be32_of, be64_of, find, string_of};
use crate::objects::{Layer, Obstacle, Packet, Phase};
use bits::{Byte, Truth};
use machine::{Element, Elements, Verdict, World};

/// NFPROTO_… numbers of families, and nft(8)'s names for them.
const FAMILIES: [(u8, &str); 5] = [(2, "ip"), (10, "ip6"), (1, "inet"), (7, "bridge"), (5, "netdev")];
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;
const HOOK_DEV: u16 = 3;
const HOOK_DEVS: u16 = 4;
const DEV_NAME: u16 = 1;
/// Netdev's hooks: before all others and behind them.
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;
/// NF_INET_INGRESS: netdev's, in a table of family inet.
const INET_INGRESS: u32 = 5;
/// NF_IP_PRI_NAT_DST: where ours translate destinations.
const DSTNAT: i32 = -100;
const SET_DESC: u16 = 9;
const SET_EXPR: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
const DESC_CONCAT: u16 = 2;
const FIELD_LENGTH: u16 = 1;
const ELEM_FLAGS: u16 = 3;
const ENDS: u32 = 1;
const CATCH_ALL: u32 = 2;

/// As deep as the kernel lets chains call one another (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;
/// No packet meets more rules here, whoever wrote them.
const MOST_RULES: usize = 100_000;
/// So many obstacles are told of.
const TOLD: usize = 8;

/// A chain, by family, table and name.
type Id = (u8, String, String);

struct Base {
    hook: u32,
    priority: i32,
    translates: bool,
    drops: bool,
    /// Netdev's: the links that it is at.
    links: Vec<String>,
}

struct Rule {
    handle: u64,
    expressions: Vec<u8>,
}

impl Rule {
    /// Their names and data.
    fn expressions(&self) -> impl Iterator<Item = (String, &[u8])> {
        attributes(&self.expressions).filter_map(|(_, element)| {
            Some((find(element, EXPR_NAME).and_then(string_of)?, find(element, EXPR_DATA).unwrap_or_default()))
        })
    }
}

/// All that one packet may meet, and what it has met.
struct Pass<'a> {
    socket: &'a mut Socket,
    packet: &'a Packet,
    index: &'a dyn Fn(&str) -> Option<u32>,
    rules: BTreeMap<(u8, String), BTreeMap<String, Vec<Rule>>>,
    sets: BTreeMap<Id, Rc<Elements>>,
    obstacles: Vec<Obstacle>,
    mark: Vec<Byte>,
    /// Someone may have let it pass before.
    clouded: bool,
    left: usize,
}

enum End {
    /// The packet leaves the whole base chain.
    Leaves,
    Returns,
    /// It may have returned before it would leave.
    Either,
}

/// What stands in the way of that packet at that hook, in the namespace of the socket, but for our own table. `index`: the number of a
/// link there.
pub fn obstacles(
    socket: &mut Socket,
    layer: Layer,
    hook: Hook,
    packet: &Packet,
    index: &dyn Fn(&str) -> Option<u32>,
) -> Result<Vec<Obstacle>, Error> {
    let asleep = dormant(socket)?;
    let all = socket.dump(&request(GETCHAIN, 0, header(0)), |_, message| read_base(message))?;
    let mut bases: Vec<(Id, Base)> = all
        .into_iter()
        .filter(|((family, table, _), base)| {
            let ours = *family == INET && table == TABLE;
            !ours && !asleep.contains(&(*family, table.clone())) && is_met(*family, base, layer, hook, packet)
        })
        .collect();
    // Netdev's come before the rest, or behind it.
    let order = |family: u8, base: &Base| match (family, base.hook) {
        (NETDEV, INGRESS) => 0,
        (NETDEV, _) => 2,
        _ => 1,
    };
    bases.sort_by_key(|((family, ..), base)| (order(*family, base), base.priority));
    let (rules, sets) = (BTreeMap::new(), BTreeMap::new());
    let (obstacles, mark) = (Vec::new(), bits::known(&packet.mark.to_ne_bytes()));
    let mut pass = Pass { socket, packet, index, rules, sets, obstacles, mark, clouded: false, left: MOST_RULES };
    for (id, base) in bases {
        pass.base(&id, &base)?;
    }
    pass.obstacles.truncate(TOLD);
    Ok(pass.obstacles)
}

/// All chains of the namespace of the socket, but for our own: family, table and chain, as nft(8) names them.
pub fn chain_names(socket: &mut Socket) -> Result<Vec<(&'static str, String, String)>, Error> {
    let found = socket.dump(&request(GETCHAIN, 0, header(0)), |_, message| {
        let of = |kind| find(body(message), kind).and_then(string_of);
        Some((*message.first()?, of(CHAIN_TABLE)?, of(CHAIN_NAME)?))
    })?;
    let named = found.into_iter().filter_map(|(family, table, chain)| Some((family_name(family)?, table, chain)));
    Ok(named.filter(|(family, table, _)| (*family, table.as_str()) != ("inet", TABLE)).collect())
}

fn is_met(family: u8, base: &Base, layer: Layer, hook: Hook, packet: &Packet) -> bool {
    let own = match packet.family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let at = |link: &Option<String>| link.as_ref().is_some_and(|link| base.links.contains(link));
    match (layer, family) {
        (_, NETDEV) => match hook {
            Hook::Prerouting => base.hook == INGRESS && at(&packet.link_in),
            Hook::Postrouting => base.hook == EGRESS && at(&packet.link_out),
            _ => false,
        },
        (Layer::Bridge, BRIDGE) => base.hook == hook_number(hook),
        (Layer::Network, INET) if base.hook == INET_INGRESS => hook == Hook::Prerouting && at(&packet.link_in),
        (Layer::Network, INET) => base.hook == hook_number(hook),
        (Layer::Network, family) => family == own && base.hook == hook_number(hook),
        _ => false,
    }
}

impl Pass<'_> {
    fn base(&mut self, id: &Id, base: &Base) -> Result<(), Error> {
        self.clouded = false;
        // Who translates first has it. Of two of the same priority, who came last: that nobody tells.
        // And only the first packet of a connection is asked.
        if base.translates && (base.priority > DSTNAT || self.packet.phase != Phase::First) {
            return Ok(());
        }
        let sure = !(base.translates && base.priority == DSTNAT);
        let ends = self.chain(id, sure, DEPTH)?;
        if base.drops && !matches!(ends, End::Leaves) {
            let is_sure = sure && !self.clouded && matches!(ends, End::Returns);
            self.obstacles.push(Obstacle { chain: name(id), handle: None, does: "drop", is_sure });
        }
        Ok(())
    }

    fn chain(&mut self, id: &Id, mut sure: bool, depth: usize) -> Result<End, Error> {
        let (family, table, chain) = id;
        let place = (*family, table.clone());
        if !self.rules.contains_key(&place) {
            let rules = rules(self.socket, *family, table)?;
            self.rules.insert(place.clone(), rules);
        }
        let Some(count) = self.rules.get(&place).and_then(|chains| chains.get(chain)).map(Vec::len) else {
            return Ok(End::Returns);
        };
        let mut may_have_returned = false;
        let leaves = |may_have_returned| if may_have_returned { End::Either } else { End::Leaves };
        for number in 0..count {
            let Some(left) = self.left.checked_sub(1) else {
                // Of the rest nothing is known.
                self.clouded = true;
                self.obstacles.push(Obstacle { chain: name(id), handle: None, does: "drop", is_sure: false });
                return Ok(End::Either);
            };
            self.left = left;
            let Some((handle, truth, verdicts)) = self.rule(id, number, sure)? else { continue };
            let certain = sure && truth == Truth::Yes;
            for verdict in verdicts {
                match verdict {
                    _ if truth == Truth::No => {}
                    Verdict::Continue => {}
                    Verdict::Accept if certain => return Ok(leaves(may_have_returned)),
                    Verdict::Return if certain => return Ok(End::Returns),
                    Verdict::Accept => self.clouded = true,
                    Verdict::Return => (self.clouded, may_have_returned) = (true, true),
                    Verdict::Gone(does) => {
                        let is_sure = certain && !self.clouded;
                        self.obstacles.push(Obstacle { chain: name(id), handle: Some(handle), does, is_sure });
                        if certain {
                            return Ok(leaves(may_have_returned));
                        }
                    }
                    Verdict::To { chain, back } if depth > 0 => {
                        let next = (*family, table.clone(), chain);
                        let end = self.chain(&next, certain, depth - 1)?;
                        match end {
                            End::Leaves => return Ok(leaves(may_have_returned)),
                            // What follows may be met, or not.
                            End::Either => {
                                (self.clouded, sure, may_have_returned) = (true, false, may_have_returned || !back)
                            }
                            End::Returns if back => {}
                            End::Returns if certain => return Ok(End::Returns),
                            // It may not come back.
                            End::Returns => (self.clouded, may_have_returned) = (true, true),
                        }
                    }
                    Verdict::To { .. } => self.clouded = true,
                }
            }
        }
        Ok(End::Returns)
    }

    /// Its handle, whether it is meant for the packet, and what it does with it.
    fn rule(&mut self, id: &Id, number: usize, is_sure: bool) -> Result<Option<(u64, Truth, Vec<Verdict>)>, Error> {
        let (family, table, chain) = id;
        let Some(rule) = self.rules.get(&(*family, table.clone())).and_then(|chains| chains.get(chain)?.get(number))
        else {
            return Ok(None);
        };
        let (socket, sets, mark) = (&mut *self.socket, &mut self.sets, &mut self.mark);
        let mut failure = None;
        let mut set = |name: &str| {
            let of = (*family, table.clone(), name.to_owned());
            if let Some(known) = sets.get(&of) {
                return known.clone();
            }
            match elements(socket, &of) {
                Ok(read) => sets.entry(of).or_insert(Rc::new(read)).clone(),
                Err(error) => {
                    failure = Some(error);
                    Rc::default()
                }
            }
        };
        let mut world = World { packet: self.packet, mark, is_sure, index: self.index, set: &mut set };
        let (truth, verdicts) = machine::run(rule.expressions(), &mut world);
        match failure {
            Some(error) => Err(error),
            None => Ok(Some((rule.handle, truth, verdicts))),
        }
    }
}

fn name((family, table, chain): &Id) -> String {
    format!("{} {table} {chain}", family_name(*family).unwrap_or("?"))
}

fn family_name(family: u8) -> Option<&'static str> {
    FAMILIES.iter().find(|(number, _)| *number == family).map(|(_, name)| *name)
}

/// Tables that someone put to sleep.
fn dormant(socket: &mut Socket) -> Result<Vec<(u8, String)>, Error> {
    socket.dump(&request(GETTABLE, 0, header(0)), |_, message| read_dormant(message))
}

fn read_dormant(message: &[u8]) -> Option<(u8, String)> {
    let attributes = body(message);
    is_dormant(attributes).then(|| Some((*message.first()?, find(attributes, TABLE_NAME).and_then(string_of)?)))?
}

fn read_base(message: &[u8]) -> Option<(Id, Base)> {
    let (family, attributes_) = (*message.first()?, body(message));
    let of = |kind| find(attributes_, kind).and_then(string_of);
    let hook = find(attributes_, CHAIN_HOOK)?;
    let single = find(hook, HOOK_DEV).and_then(string_of);
    let several = find(hook, HOOK_DEVS).unwrap_or_default();
    let several = attributes(several).filter(|(kind, _)| *kind == DEV_NAME).filter_map(|(_, name)| string_of(name));
    let base = Base {
        hook: find(hook, HOOK_NUMBER).and_then(be32_of)?,
        priority: find(hook, HOOK_PRIORITY).and_then(be32_of)? as i32,
        translates: of(CHAIN_TYPE)? == "nat",
        drops: find(attributes_, CHAIN_POLICY).and_then(be32_of) == Some(POLICY_DROP),
        links: single.into_iter().chain(several).collect(),
    };
    Some(((family, of(CHAIN_TABLE)?, of(CHAIN_NAME)?), base))
}

fn rules(socket: &mut Socket, family: u8, table: &str) -> Result<BTreeMap<String, Vec<Rule>>, Error> {
    let mut list = header(family);
    list.string(RULE_TABLE, table);
    let found = socket.dump(&request(GETRULE, 0, list), |_, message| {
        read_rule(message).filter(|((of, name), ..)| *of == family && name == table)
    })?;
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for (_, chain, rule) in found {
        chains.entry(chain).or_default().push(rule);
    }
    Ok(chains)
}

fn read_rule(message: &[u8]) -> Option<((u8, String), String, Rule)> {
    let attributes = body(message);
    let of = |kind| find(attributes, kind).and_then(string_of);
    let handle = find(attributes, RULE_HANDLE).and_then(be64_of)?;
    let expressions = find(attributes, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
    Some(((*message.first()?, of(RULE_TABLE)?), of(RULE_CHAIN)?, Rule { handle, expressions }))
}

/// A set, with what it has. One that is gone again is empty.
fn elements(socket: &mut Socket, (family, table, name): &Id) -> Result<Elements, Error> {
    let mut question = header(*family);
    question.string(SET_TABLE, table);
    question.string(SET_NAME, name);
    let mut elements = match socket.get(request(GETSET, 0, question)) {
        Ok(reply) => read_set(body(&reply.body)),
        Err(error) if error.is(Errno::ENOENT) => return Ok(Elements::default()),
        Err(error) => return Err(error),
    };
    let mut list = header(*family);
    list.string(ELEMENTS_TABLE, table);
    list.string(ELEMENTS_SET, name);
    let found = socket.dump(&request(GETSETELEM, 0, list), |_, message| Some(read_elements(body(message))));
    match found {
        Ok(found) => elements.all = in_order(found.into_iter().flatten().collect(), elements.intervals),
        Err(error) if error.is(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    Ok(elements)
}

fn read_set(attributes_: &[u8]) -> Elements {
    let intervals = find(attributes_, SET_FLAGS).and_then(be32_of).unwrap_or(0) & FLAG_INTERVAL != 0;
    let fields = find(attributes_, SET_DESC).and_then(|desc| find(desc, DESC_CONCAT)).unwrap_or_default();
    let fields = attributes(fields).filter_map(|(_, field)| find(field, FIELD_LENGTH).and_then(be32_of));
    let limits = [SET_EXPR, SET_EXPRESSIONS].into_iter().any(|kind| find(attributes_, kind).is_some());
    Elements { intervals, limits, fields: fields.map(|length| length as usize).collect(), all: Vec::new() }
}

fn in_order(mut all: Vec<Element>, intervals: bool) -> Vec<Element> {
    if intervals {
        all.sort_by(|one, other| one.key.cmp(&other.key).then(other.ends.cmp(&one.ends)));
    }
    all
}

fn read_elements(attributes_: &[u8]) -> Vec<Element> {
    let list = find(attributes_, ELEMENTS).unwrap_or_default();
    let element = |(kind, element): (u16, &[u8])| {
        let value = |kind| find(element, kind).and_then(|inner| find(inner, expr::DATA_VALUE)).map(<[u8]>::to_vec);
        let flags = find(element, ELEM_FLAGS).and_then(be32_of).unwrap_or(0);
        (kind == LIST_ELEM).then(|| Element {
            key: value(ELEM_KEY).unwrap_or_default(),
            last: value(ELEM_KEY_END),
            ends: flags & ENDS != 0,
            is_default: flags & CATCH_ALL != 0,
            data: find(element, ELEM_DATA).unwrap_or_default().to_vec(),
        })
    };
    attributes(list).filter_map(element).collect()
}

/// For `replies`: whatever rules say, they can be run.
pub(super) fn read_any(message: &[u8]) {
    let _ = (read_dormant(message), read_base(message), read_set(body(message)));
    let all = read_elements(body(message));
    let elements = Rc::new(Elements { intervals: true, limits: false, fields: vec![4, 2], all: in_order(all, true) });
    let Some((_, _, rule)) = read_rule(message) else { return };
    for packet in [Family::V4, Family::V6].map(some_packet) {
        let mut set = |_: &str| elements.clone();
        let mut mark = Vec::new();
        let mut world = World { packet: &packet, mark: &mut mark, is_sure: true, index: &|_| Some(7), set: &mut set };
        let _ = machine::run(rule.expressions(), &mut world);
    }
}

fn some_packet(family: Family) -> Packet {
    let any = Packet::first(family, crate::objects::Protocol::Tcp);
    Packet { destination_port: Some(20229), link_in: Some("eth0".to_owned()), ..any }
}
