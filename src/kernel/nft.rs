//! nftables over netlink, without the nft program and without libnftnl: what is written and what is read
//! back share one vocabulary, and a batch goes to the kernel in one send (KERNEL.md, "Netlink").

mod expr;
mod flows;
mod forward;
mod map;
mod read;
pub mod returns;
mod rule;
mod set;

use nix::errno::Errno;

use expr::Expr;
pub use forward::Forward;

use super::attribute::Writer;
use super::replies::Readers;
use super::socket::{Error, NLM_F_APPEND, NLM_F_CREATE, Request, Socket};
use crate::objects::{Chain, ChainKind, Family, Hook, MapKind, Netns, SetKind, TABLE, Table};
use crate::plan::{SetEdit, Step};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const NEWFLOWTABLE: u16 = 22;
const GETFLOWTABLE: u16 = 23;
const DELFLOWTABLE: u16 = 24;

const INET: u8 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;

const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: [Readers; 3] =
    [read::READERS, ELEMENT_READERS, &[flows::read_any, forward::read_any, returns::read_any]];

/// What reads the elements of maps and sets, of each kind.
const ELEMENT_READERS: Readers = &[
    |message| drop(map::read_elements(read::body(message), MapKind::Mark)),
    |message| drop(map::read_elements(read::body(message), MapKind::Address(Family::V4))),
    |message| drop(set::read_elements(read::body(message), SetKind::Addresses(Family::V4))),
    |message| drop(set::read_elements(read::body(message), SetKind::Ports)),
    |message| drop(set::read_elements(read::body(message), SetKind::Networks(Family::V4))),
    |message| drop(set::read_elements(read::body(message), SetKind::Networks(Family::V6))),
    |message| drop(set::read_elements(read::body(message), SetKind::Links)),
];

/// A step and what the kernel said to it.
type Outcome = Result<(), Error>;

/// nftables of one namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

/// The header of every netfilter message (`struct nfgenmsg`).
fn header(family: u8) -> Writer {
    Writer::after(&[family, 0, 0, 0])
}

fn request(kind: u16, flags: u16, body: Writer) -> Request {
    Request { kind: SUBSYSTEM << 8 | kind, flags, body: body.finish() }
}

impl Nft {
    /// Opens nftables of the calling thread's network namespace.
    pub fn open() -> Result<Nft, Error> {
        Ok(Nft { socket: Socket::open(NETLINK_NETFILTER)? })
    }

    /// The connection-tracking subsystem speaks over the same kind of socket.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Our table, if it is there.
    pub fn table(&mut self) -> Result<Option<Table>, Error> {
        read::table(&mut self.socket)
    }

    /// Packets that the rules of one of our chains counted; 0 where there is no such chain.
    pub fn counted(&mut self, chain: &str) -> Result<u64, Error> {
        read::counted(&mut self.socket, chain)
    }

    /// Does the steps in one transaction. If the kernel objects, halves are tried by themselves, down to the
    /// step that is at fault: one bad step does not stop the others.
    pub fn apply(&mut self, steps: &[&Step]) -> Vec<Outcome> {
        let requests = requests(steps);
        let failures = match transact(&mut self.socket, &requests) {
            Ok(()) => return steps.iter().map(|_| Ok(())).collect(),
            Err(failures) => failures,
        };
        if let [step] = steps {
            let error = first_of(failures);
            return vec![if done_already(step, &error) { Ok(()) } else { Err(error) }];
        }
        let (first, second) = steps.split_at(steps.len() / 2);
        let mut outcomes = self.apply(first);
        outcomes.extend(self.apply(second));
        outcomes
    }
}

/// What is to be deleted and isn't there needs no deleting.
fn done_already(step: &Step, error: &Error) -> bool {
    let deletes = match step {
        Step::DeleteTable(_) | Step::DeleteMap { .. } | Step::DeleteSet { .. } => true,
        Step::DeleteChain { .. } | Step::DeleteFlows { .. } => true,
        Step::EditMap { add, .. } => add.is_empty(),
        _ => false,
    };
    deletes && error.is(Errno::ENOENT)
}

fn transact(socket: &mut Socket, requests: &[Request]) -> Result<(), Vec<(usize, Error)>> {
    // Both carry the subsystem in the header's resource id, in network byte order.
    let edge = |kind| Request { kind, flags: 0, body: vec![0, 0, 0, SUBSYSTEM as u8] };
    socket.transaction(edge(BATCH_BEGIN), requests, edge(BATCH_END))
}

/// Why a transaction failed.
fn first_of(failures: Vec<(usize, Error)>) -> Error {
    let error = failures.into_iter().map(|(_, error)| error).next();
    error.unwrap_or(Error::Malformed("a transaction failed without a reason"))
}

/// The messages of some steps. Elements that go to the same map one step after the other share a message.
fn requests(steps: &[&Step]) -> Vec<Request> {
    let mut out = Vec::new();
    let mut rest = steps;
    while let Some((step, after)) = rest.split_first() {
        if let Step::EditMap { name, remove, .. } = step {
            let adding = remove.is_empty();
            let same = |other: &&&Step| match other {
                Step::EditMap { name: other, remove, add, .. } => {
                    other == name && if adding { remove.is_empty() } else { add.is_empty() }
                }
                _ => false,
            };
            let alike = 1 + after.iter().take_while(same).count();
            edit_map(&rest[..alike], &mut out);
            rest = &rest[alike..];
        } else {
            single(step, out.len() as u32, &mut out);
            rest = after;
        }
    }
    out
}

fn edit_map(steps: &[&Step], out: &mut Vec<Request>) {
    let mut removed = Vec::new();
    let mut added = Vec::new();
    let mut map = ("", false);
    for step in steps {
        if let Step::EditMap { name, ranges, remove, add, .. } = step {
            map = (name, *ranges);
            removed.extend(remove.iter().copied());
            added.extend(add.iter().copied());
        }
    }
    for (kind, flags, elements) in [(DELSETELEM, 0, removed), (NEWSETELEM, NLM_F_CREATE, added)] {
        for chunk in elements.chunks(map::ELEMENTS_PER_MESSAGE) {
            let mut body = header(INET);
            map::write_elements(&mut body, map.0, map.1, chunk);
            out.push(request(kind, flags, body));
        }
    }
}

fn single(step: &Step, id: u32, out: &mut Vec<Request>) {
    let named = |kind, table, name_attribute, name: &str| {
        let mut body = header(INET);
        body.string(table, TABLE);
        body.string(name_attribute, name);
        request(kind, 0, body)
    };
    match step {
        Step::AddTable(_) => {
            let mut body = header(INET);
            body.string(TABLE_NAME, TABLE);
            // No flags: a table that someone put to sleep wakes.
            body.be32(TABLE_FLAGS, 0);
            out.push(request(NEWTABLE, NLM_F_CREATE, body));
        }
        Step::DeleteTable(_) => {
            let mut body = header(INET);
            body.string(TABLE_NAME, TABLE);
            out.push(request(DELTABLE, 0, body));
        }
        Step::AddMap { name, map, .. } => {
            let mut body = header(INET);
            map::write(&mut body, name, map, id);
            out.push(request(NEWSET, NLM_F_CREATE, body));
        }
        Step::AddSet { name, kind, .. } => {
            let mut body = header(INET);
            set::write(&mut body, name, *kind, id);
            out.push(request(NEWSET, NLM_F_CREATE, body));
        }
        Step::EditSets { edits, .. } => {
            for SetEdit { name, remove, add } in edits {
                for (kind, flags, elements) in [(DELSETELEM, 0, remove), (NEWSETELEM, NLM_F_CREATE, add)] {
                    for chunk in elements.chunks(set::ELEMENTS_PER_MESSAGE) {
                        let mut body = header(INET);
                        set::write_elements(&mut body, name, chunk);
                        out.push(request(kind, flags, body));
                    }
                }
            }
        }
        Step::DeleteSet { name, .. } | Step::DeleteMap { name, .. } => {
            out.push(named(DELSET, SET_TABLE, SET_NAME, name))
        }
        Step::AddFlows { links, .. } => out.push(request(NEWFLOWTABLE, NLM_F_CREATE, flows::write(links))),
        Step::DeleteFlows { .. } => out.push(request(DELFLOWTABLE, 0, flows::name())),
        Step::SetChain { name, chain, .. } => set_chain(name, chain, out),
        Step::DeleteChain { name, .. } => {
            out.push(named(DELRULE, RULE_TABLE, RULE_CHAIN, name));
            out.push(named(DELCHAIN, CHAIN_TABLE, CHAIN_NAME, name));
        }
        _ => {}
    }
}

/// Makes the chain if it is not there, empties it, fills it: at once, so no packet meets it half full.
fn set_chain(name: &str, chain: &Chain, out: &mut Vec<Request>) {
    out.push(new_chain(TABLE, name, chain_type(chain.kind), chain.hook, chain.priority));

    let mut body = header(INET);
    body.string(RULE_TABLE, TABLE);
    body.string(RULE_CHAIN, name);
    out.push(request(DELRULE, 0, body));

    out.extend(chain.rules.iter().map(|rule| new_rule(TABLE, name, &rule::compile(rule))));
}

fn new_chain(table: &str, name: &str, kind: &str, hook: Hook, priority: i32) -> Request {
    let mut body = header(INET);
    body.string(CHAIN_TABLE, table);
    body.string(CHAIN_NAME, name);
    body.nested(CHAIN_HOOK, |place| {
        place.be32(HOOK_NUMBER, hook_number(hook));
        place.be32(HOOK_PRIORITY, priority as u32);
    });
    body.be32(CHAIN_POLICY, POLICY_ACCEPT);
    body.string(CHAIN_TYPE, kind);
    request(NEWCHAIN, NLM_F_CREATE, body)
}

/// Behind the rules that the chain has.
fn new_rule(table: &str, chain: &str, expressions: &[Expr]) -> Request {
    let mut body = header(INET);
    body.string(RULE_TABLE, table);
    body.string(RULE_CHAIN, chain);
    body.nested(RULE_EXPRESSIONS, |list| expressions.iter().for_each(|expression| expression.write(list)));
    request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)
}

fn chain_type(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    }
}

const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

/// The kernel's NF_INET_… numbers.
fn hook_number(hook: Hook) -> u32 {
    HOOKS.iter().position(|known| *known == hook).unwrap_or_default() as u32
}

/// Whether this step is for nftables, and of which namespace.
pub fn namespace_of(step: &Step) -> Option<Netns> {
    match step {
        Step::AddTable(netns)
        | Step::DeleteTable(netns)
        | Step::AddMap { netns, .. }
        | Step::DeleteMap { netns, .. }
        | Step::AddSet { netns, .. }
        | Step::DeleteSet { netns, .. }
        | Step::EditSets { netns, .. }
        | Step::AddFlows { netns, .. }
        | Step::DeleteFlows { netns }
        | Step::SetChain { netns, .. }
        | Step::DeleteChain { netns, .. }
        | Step::EditMap { netns, .. } => Some(*netns),
        _ => None,
    }
}
