//! Our table as the kernel has it.

use nix::errno::Errno;

use super::expr::Expr;
use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, GETCHAIN, GETRULE, GETSET, GETSETELEM, HOOK_NUMBER,
    HOOK_PRIORITY, HOOKS, INET, POLICY_ACCEPT, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, SET_TABLE, TABLE_FLAGS,
    TABLE_NAME, chain_type, header, map, request, rule,
};
use crate::kernel::attribute::{be32_of, find, string_of};
use crate::kernel::socket::{Error, Socket};
use crate::objects::{Chain, ChainKind, Rule, Set, TABLE, Table};

const GETTABLE: u16 = 1;
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
    let flags = find(body(&reply.body), TABLE_FLAGS).and_then(be32_of).unwrap_or(0);
    if flags & DORMANT != 0 {
        return Ok(None);
    }
    let mut table = Table::default();
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

/// Packets that the rules of one of our chains counted.
pub fn counted(socket: &mut Socket, chain: &str) -> Result<u64, Error> {
    let mut list = header(INET);
    list.string(RULE_TABLE, TABLE);
    list.string(RULE_CHAIN, chain);
    let counts = socket.dump(&request(GETRULE, 0, list), |_, message| {
        let attributes = body(message);
        let of = |kind| find(attributes, kind).and_then(string_of);
        let ours = of(RULE_TABLE)? == TABLE && of(RULE_CHAIN)? == chain;
        ours.then(|| Expr::packets(find(attributes, RULE_EXPRESSIONS).unwrap_or_default()))
    });
    match counts {
        Ok(counts) => Ok(counts.into_iter().sum()),
        Err(error) if error.is(Errno::ENOENT) => Ok(0),
        Err(error) => Err(error),
    }
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
        let mut of = header(INET);
        map::write_elements_of(&mut of, &name);
        let elements =
            socket.dump(&request(GETSETELEM, 0, of), |_, message| Some(map::read_elements(body(message), map.kind)))?;
        map.elements = elements.into_iter().flatten().collect();
        maps.push((name, map));
    }
    Ok(maps)
}

fn sets(socket: &mut Socket) -> Result<Vec<(String, Set)>, Error> {
    let mut list = header(INET);
    list.string(SET_TABLE, TABLE);
    let mut found = socket.dump(&request(GETSET, 0, list), |_, message| super::set::read(body(message)))?;
    for (name, set) in &mut found {
        let mut of = header(INET);
        map::write_elements_of(&mut of, name);
        let elements = socket
            .dump(&request(GETSETELEM, 0, of), |_, message| Some(super::set::read_elements(body(message), set.kind)))?;
        set.elements = elements.into_iter().flatten().collect();
    }
    Ok(found)
}

fn chains(socket: &mut Socket) -> Result<Vec<(String, Chain)>, Error> {
    socket.dump(&request(GETCHAIN, 0, header(INET)), |_, message| read_chain(body(message)))
}

fn read_chain(attributes: &[u8]) -> Option<(String, Chain)> {
    if find(attributes, CHAIN_TABLE).and_then(string_of)? != TABLE {
        return None;
    }
    let name = find(attributes, CHAIN_NAME).and_then(string_of)?;
    let hook = find(attributes, CHAIN_HOOK)?;
    let number = find(hook, HOOK_NUMBER).and_then(be32_of)? as usize;
    let kind = find(attributes, CHAIN_TYPE).and_then(string_of)?;
    let kind = [ChainKind::Filter, ChainKind::Nat].into_iter().find(|known| chain_type(*known) == kind)?;
    let accepts = find(attributes, CHAIN_POLICY).and_then(be32_of) == Some(POLICY_ACCEPT);
    let mut chain = Chain {
        kind,
        hook: *HOOKS.get(number)?,
        priority: find(hook, HOOK_PRIORITY).and_then(be32_of)? as i32,
        rules: Vec::new(),
    };
    if !accepts {
        // Shown as a rule, since a policy of drop acts like one.
        chain.rules.push(Rule::new([], crate::objects::Action::Unknown("policy drop".to_owned())));
    }
    Some((name, chain))
}

fn rules(socket: &mut Socket) -> Result<Vec<(String, Rule)>, Error> {
    let mut list = header(INET);
    list.string(RULE_TABLE, TABLE);
    socket.dump(&request(GETRULE, 0, list), |_, message| {
        let attributes = body(message);
        if find(attributes, RULE_TABLE).and_then(string_of)? != TABLE {
            return None;
        }
        let chain = find(attributes, RULE_CHAIN).and_then(string_of)?;
        let expressions = Expr::read_list(find(attributes, RULE_EXPRESSIONS).unwrap_or_default());
        Some((chain, rule::raise(&expressions)))
    })
}
