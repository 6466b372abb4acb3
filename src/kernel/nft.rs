//! nftables over netlink, without the nft program and without libnftnl: what is written and what is read
//! back share one vocabulary, and a batch goes to the kernel in one send (KERNEL.md, "Netlink").

mod balance;
mod expr;
mod flows;
mod foreign;
mod forward;
mod map;
mod read;
pub mod returns;
mod rule;
mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use expr::Expr;
pub use foreign::{chain_names, obstacles};
pub use forward::Forward;

use super::attribute::Writer;
use super::conntrack::balanced::{self, Served};
use super::ipvs::{DestinationCounters, ServiceCounters, Traffic};
use super::replies::Readers;
use super::socket::{Error, NLM_F_APPEND, NLM_F_CREATE, Request, Socket};
use crate::objects::{
    Balance, Base, Chain, ChainKind, Family, Hook, MapKind, Netns, SetKind, TABLE, Table, VirtualKey, backends_set,
    ways_map,
};
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

/// Connections that pass by a flow table are not forgotten before Linux 6.4 (EBUSY), nor for a while after the flow table is gone.
const FLOW_PATIENCE: Duration = Duration::from_secs(2);
/// How long a packet may be between two hooks.
const ON_THE_WAY: Duration = Duration::from_millis(20);
const FLOW_PAUSE: Duration = Duration::from_millis(5);

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: [Readers; 4] = [
    read::READERS,
    ELEMENT_READERS,
    balance::READERS,
    &[flows::read_any, forward::read_any, returns::read_any, foreign::read_any],
];

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

    /// Whether our table has maps to balance by, and a set of those who may have connections by that.
    pub fn balances_here(&mut self) -> Result<(bool, bool), Error> {
        Ok((self.has(ways_map(Family::V4))?, self.has(backends_set(Family::V4))?))
    }

    /// Whether our table has that map or set.
    fn has(&mut self, name: &str) -> Result<bool, Error> {
        let mut question = header(INET);
        question.string(SET_TABLE, TABLE);
        question.string(SET_NAME, name);
        match self.socket.get(request(GETSET, 0, question)) {
            Ok(_) => Ok(true),
            Err(error) if error.is(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How the ports of that table, which is ours here, are balanced.
    pub fn balances(&mut self, table: &Table) -> Result<BTreeMap<VirtualKey, Balance>, Error> {
        balance::read(&mut self.socket, table)
    }

    /// Slots that had no room for someone, since this was asked last.
    pub fn full(&mut self) -> Result<BTreeSet<(VirtualKey, u32)>, Error> {
        balance::full(&mut self.socket)
    }

    /// How many connections slots may get.
    pub fn rooms(&mut self) -> Result<BTreeMap<(VirtualKey, u32), u32>, Error> {
        balance::rooms(&mut self.socket)
    }

    /// How many connections came to each backend since its slots are its, and how many of those it has that can still say something.
    pub fn served(&mut self) -> Result<BTreeMap<VirtualKey, ServiceCounters>, Error> {
        let slotted = balance::counted(&mut self.socket)?;
        let backends = slotted.iter().flat_map(|(key, places)| places.keys().map(|place| (key.mark, *place)));
        let open = balanced::count(&mut self.socket, &backends.collect())?;
        let counters = |(key, places): (VirtualKey, BTreeMap<_, balance::Slotted>)| {
            let mut counters = ServiceCounters::default();
            for (place, slotted) in places {
                let traffic = Traffic { connections: slotted.connections, ..Traffic::default() };
                let active = open.get(&(key.mark, place)).copied().unwrap_or(0);
                let of =
                    DestinationCounters { weight: slotted.slots, active, traffic, ..DestinationCounters::default() };
                counters.destinations.insert(place, of);
                counters.traffic.add(&traffic);
            }
            (key, counters)
        };
        Ok(slotted.into_iter().map(counters).collect())
    }

    /// Has the kernel forget clients of slots that take no more. Whether none is left; it takes no longer than `most`.
    pub fn forget_strays(&mut self, most: Duration) -> Result<bool, Error> {
        balance::forget_strays(&mut self.socket, most)
    }

    /// Packets that the rules of one of our chains counted; 0 where there is no such chain.
    pub fn counted(&mut self, chain: &str) -> Result<u64, Error> {
        read::counted(&mut self.socket, chain)
    }

    /// Ends the connections of those backends, and forgets that they may have any.
    pub fn drop_backends(&mut self, steps: &[&Step]) -> Vec<Outcome> {
        let dropped = balance::dropped(steps);
        match self.end_connections(&dropped) {
            Ok(()) => self.apply(steps),
            Err(error) => {
                let mut first = Some(error);
                let again = || Error::Malformed("connections of another backend could not be ended");
                steps.iter().map(|_| Err(first.take().unwrap_or_else(again))).collect()
            }
        }
    }

    fn end_connections(&mut self, of: &BTreeSet<Served>) -> Result<(), Error> {
        self.end_known(of)?;
        // A first packet that was on its way when slots were looked up is only known once it leaves.
        thread::sleep(ON_THE_WAY);
        self.end_known(of)
    }

    fn end_known(&mut self, of: &BTreeSet<Served>) -> Result<(), Error> {
        let open = balanced::open_ones(&mut self.socket, of)?;
        let mut busy = balanced::forget(&mut self.socket, open)?;
        if busy.is_empty() {
            return Ok(());
        }
        let start = self.stop_flows()?;
        // The kernel takes its time to let them go.
        let deadline = Instant::now() + FLOW_PATIENCE;
        let mut outcome = Ok(());
        while !busy.is_empty() && outcome.is_ok() && Instant::now() < deadline {
            thread::sleep(FLOW_PAUSE);
            match balanced::forget(&mut self.socket, std::mem::take(&mut busy)) {
                Ok(left) => busy = left,
                Err(error) => outcome = Err(error),
            }
        }
        self.all(&start)?;
        outcome?;
        if busy.is_empty() { Ok(()) } else { Err(Errno::EBUSY.into()) }
    }

    /// Has all connections go the long way; what has them pass quickly again.
    fn stop_flows(&mut self) -> Result<Vec<Step>, Error> {
        let Some(Table { flows: Some(links), chains, .. }) = self.table()? else { return Ok(Vec::new()) };
        let netns = Netns::Sandbox;
        let mut start = vec![Step::AddFlows { netns, links }];
        let mut stop = Vec::new();
        for (name, chain) in chains.into_iter().filter(|(_, chain)| chain.offloads()) {
            stop.push(Step::DeleteChain { netns, name: name.clone() });
            start.push(Step::SetChain { netns, name, chain });
        }
        stop.push(Step::DeleteFlows { netns });
        // What of that is not done is found by whoever waits for its flows.
        let _ = self.all(&stop);
        Ok(start)
    }

    /// All of the steps, or the first error.
    fn all(&mut self, steps: &[Step]) -> Result<(), Error> {
        self.apply(&steps.iter().collect::<Vec<_>>()).into_iter().collect()
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
        Step::EditBalance { edit, .. } => edit.trims() || edit.closes(),
        Step::DropBackend { .. } => true,
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
        } else if balance::is_about(step) {
            let alike = 1 + after.iter().take_while(|step| balance::is_about(step)).count();
            balance::requests(&rest[..alike], &mut out);
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
    let base = chain.base.map(|Base { kind, hook, priority }| (chain_type(kind), hook, priority));
    out.push(new_chain(TABLE, name, base));

    let mut body = header(INET);
    body.string(RULE_TABLE, TABLE);
    body.string(RULE_CHAIN, name);
    out.push(request(DELRULE, 0, body));

    out.extend(chain.rules.iter().map(|rule| new_rule(TABLE, name, &rule::compile(rule))));
}

fn new_chain(table: &str, name: &str, base: Option<(&str, Hook, i32)>) -> Request {
    let mut body = header(INET);
    body.string(CHAIN_TABLE, table);
    body.string(CHAIN_NAME, name);
    if let Some((kind, hook, priority)) = base {
        body.nested(CHAIN_HOOK, |place| {
            place.be32(HOOK_NUMBER, hook_number(hook));
            place.be32(HOOK_PRIORITY, priority as u32);
        });
        body.be32(CHAIN_POLICY, POLICY_ACCEPT);
        body.string(CHAIN_TYPE, kind);
    }
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
        Step::EditBalance { .. } | Step::DropBackend { .. } => Some(Netns::Sandbox),
        _ => None,
    }
}
