//! Our table as the kernel has it.

use nix::errno::Errno;

use super::expr::Expr;
use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, GETCHAIN, GETRULE, GETSET, GETSETELEM, HOOK_NUMBER,
    HOOK_PRIORITY, HOOKS, INET, POLICY_ACCEPT, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, SET_TABLE, TABLE_FLAGS,
    TABLE_NAME, chain_type, flows, header, map, request, rule,
};
use crate::kernel::attribute::{be32_of, find, string_of};
use crate::kernel::replies::Readers;
use crate::kernel::socket::{Error, Socket};
use crate::objects::{Base, Chain, ChainKind, Rule, Set, TABLE, Table, Way};

pub(super) const GETTABLE: u16 = 1;
/// The table is there and does nothing (nft(8), `flags dormant`).
const DORMANT: u32 = 1;

pub fn table(socket: &mut Socket) -> Result<Option<Table>, Error> {
    let mut question = header(INET);
    question.string(TABLE_NAME, TABLE);
    let reply = match socket.get(request(GETTABLE, 0, question)) {
        Ok(reply) => reply,
        Err(error) if error.is(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    // A table that someone put to sleep does nothing, which is as good as none.
    if is_dormant(body(&reply.body)) {
        return Ok(None);
    }
    let mut table = Table { flows: flows::read(socket)?, ..Table::default() };
    for (name, map) in maps(socket)? {
        table.maps.insert(name, map);
    }
    for (name, set) in sets(socket)? {
        table.sets.insert(name, set);
    }
    for (name, chain) in chains(socket)? {
        table.chains.insert(name, chain);
    }
    for (chain, rule) in rules(socket)? {
        if let Some(chain) = table.chains.get_mut(&chain) {
            chain.rules.push(rule);
        }
    }
    Ok(Some(table))
}

pub(super) fn is_dormant(attributes: &[u8]) -> bool {
    find(attributes, TABLE_FLAGS).and_then(be32_of).unwrap_or(0) & DORMANT != 0
}

/// Packets that the rules of one of our chains counted.
pub fn counted(socket: &mut Socket, chain: &str) -> Result<u64, Error> {
    let mut list = header(INET);
    list.string(RULE_TABLE, TABLE);
    list.string(RULE_CHAIN, chain);
    let counts = socket.dump(&request(GETRULE, 0, list), |_, message| {
        read_count(body(message)).filter(|(of, _)| of == chain).map(|(_, packets)| packets)
    });
    match counts {
        Ok(counts) => Ok(counts.into_iter().fold(0, u64::saturating_add)),
        Err(error) if error.is(Errno::ENOENT) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The chain of a rule of ours, and the packets it counted.
fn read_count(attributes: &[u8]) -> Option<(String, u64)> {
    let of = |kind| find(attributes, kind).and_then(string_of);
    let chain = (of(RULE_TABLE)? == TABLE).then(|| of(RULE_CHAIN))??;
    Some((chain, Expr::packets(find(attributes, RULE_EXPRESSIONS).unwrap_or_default())))
}

/// The attributes of a message that follow its header.
pub fn body(message: &[u8]) -> &[u8] {
    message.get(4..).unwrap_or_default()
}

fn maps(socket: &mut Socket) -> Result<Vec<(String, crate::objects::Map)>, Error> {
    let mut list = header(INET);
    list.string(SET_TABLE, TABLE);
    let found = socket.dump(&request(GETSET, 0, list), |_, message| map::read(body(message)))?;
    let mut maps = Vec::new();
    for (name, map) in found {
        // A map of another make under one of our names differs from what is wanted by having no elements.
        let Some(mut map) = map else { continue };
        if map.kind.is_of_balances() {
            maps.push((name, map));
            continue;
        }
        map.elements = elements(socket, &name, |body| map::read_elements(body, map.kind))?.into_iter().collect();
        maps.push((name, map));
    }
    Ok(maps)
}

fn sets(socket: &mut Socket) -> Result<Vec<(String, Set)>, Error> {
    let mut list = header(INET);
    list.string(SET_TABLE, TABLE);
    let mut found = socket.dump(&request(GETSET, 0, list), |_, message| super::set::read(body(message)))?;
    for (name, set) in found.iter_mut().filter(|(_, set)| !set.kind.is_of_balances()) {
        set.elements = elements(socket, name, |body| super::set::read_elements(body, set.kind))?.into_iter().collect();
    }
    Ok(found)
}

/// The elements of one of our maps or sets.
pub fn elements<T>(socket: &mut Socket, name: &str, read: impl Fn(&[u8]) -> Vec<T>) -> Result<Vec<T>, Error> {
    let mut of = header(INET);
    map::write_elements_of(&mut of, name);
    let found = socket.dump(&request(GETSETELEM, 0, of), |_, message| Some(read(body(message))))?;
    Ok(found.into_iter().flatten().collect())
}

fn chains(socket: &mut Socket) -> Result<Vec<(String, Chain)>, Error> {
    socket.dump(&request(GETCHAIN, 0, header(INET)), |_, message| read_chain(body(message)))
}

fn read_chain(attributes: &[u8]) -> Option<(String, Chain)> {
    if find(attributes, CHAIN_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let name = find(attributes, CHAIN_NAME).and_then(string_of)?;
    let Some(hook) = find(attributes, CHAIN_HOOK) else {
        // Chains of others that others go to are in nobody's way.
        Way::of_chain(&name)?;
        return Some((name, Chain { base: None, rules: Vec::new() }));
    };
    let number = find(hook, HOOK_NUMBER).and_then(be32_of)? as usize;
    let kind = find(attributes, CHAIN_TYPE).and_then(string_of)?;
    let kind = [ChainKind::Filter, ChainKind::Nat].into_iter().find(|known| chain_type(*known) == kind)?;
    let accepts = find(attributes, CHAIN_POLICY).and_then(be32_of) == Some(POLICY_ACCEPT);
    let base = Base { kind, hook: *HOOKS.get(number)?, priority: find(hook, HOOK_PRIORITY).and_then(be32_of)? as i32 };
    let mut chain = Chain { base: Some(base), rules: Vec::new() };
    if !accepts {
        // Shown as a rule, since a policy of drop acts like one.
        chain.rules.push(Rule::new([], crate::objects::Action::Unknown("policy drop".to_owned())));
    }
    Some((name, chain))
}

fn rules(socket: &mut Socket) -> Result<Vec<(String, Rule)>, Error> {
    let mut list = header(INET);
    list.string(RULE_TABLE, TABLE);
    socket.dump(&request(GETRULE, 0, list), |_, message| read_rule(body(message)))
}

fn read_rule(attributes: &[u8]) -> Option<(String, Rule)> {
    if find(attributes, RULE_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let chain = find(attributes, RULE_CHAIN).and_then(string_of)?;
    let expressions = Expr::read_list(find(attributes, RULE_EXPRESSIONS).unwrap_or_default());
    Some((chain, rule::raise(&expressions)))
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[
    |message| _ = is_dormant(body(message)),
    |message| drop(map::read(body(message))),
    |message| drop(super::set::read(body(message))),
    |message| drop(read_chain(body(message))),
    |message| drop(read_rule(body(message))),
    |message| drop(read_count(body(message))),
];
