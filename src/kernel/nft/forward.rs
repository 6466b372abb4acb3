//! Other people's forward chains that drop, and our two accept rules in them.
//!
//! A verdict of drop is final, whichever table it comes from and whatever ours accepts. Docker, ufw and many
//! hand-made firewalls set a FORWARD policy of drop, firewalld rejects at the end of its chain.

use std::collections::{BTreeMap, BTreeSet};

use super::expr::{Expr, META_IIFNAME, META_OIFNAME, REG_1, VERDICT_ACCEPT, VERDICT_DROP};
use super::read::body;
use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, DELRULE, GETCHAIN, GETRULE, HOOK_NUMBER, NEWRULE, POLICY_DROP,
    RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, header, hook_number, request, transact,
};
use crate::kernel::attribute::{be32_of, be64_of, find, string_of};
use crate::kernel::socket::{Error, NLM_F_CREATE, Request, Socket};
use crate::objects::{Hook, Opening, TABLE};

/// NFPROTO_… numbers of the families whose forward hook our packets pass.
const FAMILIES: [(&str, u8); 3] = [("ip", 2), ("ip6", 10), ("inet", 1)];
/// Docker leaves this chain to the operator and calls it before its own rules.
const OPERATORS_CHAIN: &str = "DOCKER-USER";
/// What marks a rule as ours; nft(8) shows it as `comment "meshd"`.
const COMMENT: &str = "meshd";
/// Type of a comment in a rule's user data.
const USERDATA_COMMENT: u8 = 0;
/// The two rules of an opening.
const RULES: usize = 2;

/// What the host's forward chains are like.
#[derive(Clone, Debug, Default)]
pub struct Forward {
    /// Chains that drop what nobody accepts, or the operator's chain before them.
    pub drops: BTreeSet<Opening>,
    /// Chains with our rules in them, both as they should be.
    pub open: BTreeSet<Opening>,
    /// Chains with some rule of ours that is not as it should be (only one of the two is left, say).
    pub stale: BTreeSet<Opening>,
}

struct FoundRule {
    handle: u64,
    ours: bool,
    expressions: Vec<Expr>,
}

impl FoundRule {
    /// Whether someone else accepts all that comes (`way` META_IIFNAME) or goes (META_OIFNAME) by that link.
    fn lets_pass(&self, way: u32, link: &str) -> bool {
        let mut expressions = self.expressions.iter().filter(|expression| **expression != Expr::Counter);
        // nft compares 16 bytes, iptables as many as the name has with its end.
        let is_link = |value: &[u8]| value.strip_prefix(link.as_bytes()).is_some_and(|end| end.first() == Some(&0));
        !self.ours
            && matches!(expressions.next(), Some(Expr::Meta { key, .. }) if *key == way)
            && matches!(expressions.next(), Some(Expr::Compare { equal: true, value, .. }) if is_link(value))
            && matches!(expressions.next(), Some(Expr::Verdict(VERDICT_ACCEPT)))
    }
}

impl super::Nft {
    /// Looks through the forward chains of the host.
    pub fn forward(&mut self, bridge: &str) -> Result<Forward, Error> {
        let mut found = Forward::default();
        for (family, number) in FAMILIES {
            let chains =
                self.socket.dump(&request(GETCHAIN, 0, header(number)), |_, message| read_chain(body(message)))?;
            let mut read = BTreeMap::new();
            for chain in chains.iter().filter(|chain| chain.table != TABLE && (chain.forwards || chain.is_operators()))
            {
                let rules = rules(&mut self.socket, number, &chain.table, &chain.name)?;
                read.insert((&*chain.table, &*chain.name), rules);
            }
            let opening =
                |table: &str, chain: &str| Opening { family, table: table.to_owned(), chain: chain.to_owned() };
            for chain in chains.iter().filter(|chain| chain.forwards) {
                let Some(rules) = read.get(&(&*chain.table, &*chain.name)) else { continue };
                // What is to be opened is the operator's, where there is one.
                let operators = read.get_key_value(&(&*chain.table, OPERATORS_CHAIN));
                let (&(table, name), before) = operators.unwrap_or((&(&*chain.table, &*chain.name), rules));
                let drops = chain.drops || rules.last().is_some_and(ends_in_drop);
                // Someone else may have opened it, before whatever ends it.
                let heard = || before.iter().take_while(|rule| !ends_in_drop(rule));
                let is_open = [META_IIFNAME, META_OIFNAME].map(|way| heard().any(|rule| rule.lets_pass(way, bridge)));
                if drops && is_open != [true; 2] {
                    found.drops.insert(opening(table, name));
                }
            }
            for ((table, name), rules) in &read {
                let ours: Vec<&Vec<Expr>> =
                    rules.iter().filter(|rule| rule.ours).map(|rule| &rule.expressions).collect();
                if ours.len() == RULES && accept_rules(bridge).iter().all(|rule| ours.contains(&rule)) {
                    found.open.insert(opening(table, name));
                } else if !ours.is_empty() {
                    found.stale.insert(opening(table, name));
                }
            }
        }
        Ok(found)
    }

    /// Puts our two rules at the top of the chain, in place of whatever of ours is there.
    pub fn open_forward(&mut self, opening: &Opening, bridge: &str) -> Result<(), Error> {
        let number = family_number(opening);
        let mut requests = self.deletions(opening)?;
        for expressions in accept_rules(bridge) {
            let mut message = header(number);
            message.string(RULE_TABLE, &opening.table);
            message.string(RULE_CHAIN, &opening.chain);
            message.nested(RULE_EXPRESSIONS, |list| expressions.iter().for_each(|expression| expression.write(list)));
            message.bytes(RULE_USERDATA, &comment());
            // Without NLM_F_APPEND a rule goes to the top.
            requests.push(request(NEWRULE, NLM_F_CREATE, message));
        }
        finish(&mut self.socket, &requests)
    }

    /// Takes our rules out of the chain.
    pub fn close_forward(&mut self, opening: &Opening) -> Result<(), Error> {
        let requests = self.deletions(opening)?;
        finish(&mut self.socket, &requests)
    }

    fn deletions(&mut self, opening: &Opening) -> Result<Vec<Request>, Error> {
        let number = family_number(opening);
        let rules = rules(&mut self.socket, number, &opening.table, &opening.chain)?;
        let ours = rules.into_iter().filter(|rule| rule.ours).map(|rule| {
            let mut message = header(number);
            message.string(RULE_TABLE, &opening.table);
            message.string(RULE_CHAIN, &opening.chain);
            message.be64(RULE_HANDLE, rule.handle);
            request(DELRULE, 0, message)
        });
        Ok(ours.collect())
    }
}

fn finish(socket: &mut Socket, requests: &[Request]) -> Result<(), Error> {
    let first = |failures: Vec<(usize, Error)>| failures.into_iter().map(|(_, error)| error).next();
    transact(socket, requests)
        .map_err(|failures| first(failures).unwrap_or(Error::Malformed("a transaction failed without a reason")))
}

fn family_number(opening: &Opening) -> u8 {
    FAMILIES.iter().find(|(name, _)| *name == opening.family).map_or(0, |(_, number)| *number)
}

/// `iifname <bridge> accept` and `oifname <bridge> accept`.
fn accept_rules(bridge: &str) -> [Vec<Expr>; RULES] {
    let mut name = bridge.as_bytes().to_vec();
    name.resize(16, 0);
    [META_IIFNAME, META_OIFNAME].map(|key| {
        vec![
            Expr::Meta { key, to: REG_1 },
            Expr::Compare { register: REG_1, equal: true, value: name.clone() },
            Expr::Verdict(VERDICT_ACCEPT),
        ]
    })
}

fn comment() -> Vec<u8> {
    let mut bytes = vec![USERDATA_COMMENT, COMMENT.len() as u8 + 1];
    bytes.extend_from_slice(COMMENT.as_bytes());
    bytes.push(0);
    bytes
}

/// A rule without a condition that lets nothing past it.
fn ends_in_drop(rule: &FoundRule) -> bool {
    let mut bare = rule.expressions.iter().filter(|expression| {
        **expression != Expr::Counter && !matches!(expression, Expr::Other(name) if name == "log")
    });
    match (bare.next(), bare.next()) {
        (Some(Expr::Verdict(VERDICT_DROP)), None) => true,
        (Some(Expr::Other(name)), None) => name == "reject",
        _ => false,
    }
}

struct FoundChain {
    table: String,
    name: String,
    forwards: bool,
    drops: bool,
}

impl FoundChain {
    fn is_operators(&self) -> bool {
        self.name == OPERATORS_CHAIN
    }
}

fn read_chain(attributes: &[u8]) -> Option<FoundChain> {
    let hook = find(attributes, CHAIN_HOOK);
    let number = hook.and_then(|hook| find(hook, HOOK_NUMBER)).and_then(be32_of);
    Some(FoundChain {
        table: find(attributes, CHAIN_TABLE).and_then(string_of)?,
        name: find(attributes, CHAIN_NAME).and_then(string_of)?,
        forwards: number == Some(hook_number(Hook::Forward)),
        drops: find(attributes, CHAIN_POLICY).and_then(be32_of) == Some(POLICY_DROP),
    })
}

fn rules(socket: &mut Socket, family: u8, table: &str, chain: &str) -> Result<Vec<FoundRule>, Error> {
    let mut list = header(family);
    list.string(RULE_TABLE, table);
    list.string(RULE_CHAIN, chain);
    let dumped = socket.dump(&request(GETRULE, 0, list), |_, message| {
        let attributes = body(message);
        let of = |kind| find(attributes, kind).and_then(string_of);
        // Kernels differ in how much of the filter they heed.
        let asked = of(RULE_TABLE)? == table && of(RULE_CHAIN)? == chain;
        asked.then(|| read_rule(attributes))?
    });
    match dumped {
        Err(error) if error.is(nix::errno::Errno::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

fn read_rule(attributes: &[u8]) -> Option<FoundRule> {
    Some(FoundRule {
        handle: find(attributes, RULE_HANDLE).and_then(be64_of)?,
        ours: find(attributes, RULE_USERDATA) == Some(&comment()[..]),
        expressions: Expr::read_list(find(attributes, RULE_EXPRESSIONS).unwrap_or_default()),
    })
}

/// For `replies`.
pub(super) fn read_any(message: &[u8]) {
    let _ = (read_chain(body(message)), read_rule(body(message)).map(|rule| ends_in_drop(&rule)));
}
