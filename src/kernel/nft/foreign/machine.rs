//! Runs others' rules over one packet, as the kernel would (nf_tables_core.c), where what is not known may be so or not.

use std::rc::Rc;

use super::bits::{Byte, Truth, equal, known, settled, within};
use super::matches;
use super::seen;
use crate::kernel::attribute::{be32_of, find, string_of};
use crate::kernel::nft::expr::{
    DATA_VALUE, DATA_VERDICT, META_MARK, REG_VERDICT, VERDICT_ACCEPT, VERDICT_CHAIN, VERDICT_CODE, VERDICT_DROP,
    VERDICT_GOTO, VERDICT_RETURN,
};
use crate::objects::{Packet, Phase};

const VERDICT_CONTINUE: i32 = -1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_QUEUE: i32 = 3;

/// Named objects that may end a rule: quota, limit, connlimit (NFT_OBJECT_…).
const LIMITS: [u32; 3] = [2, 4, 5];

/// Bytes of all registers: four of 16, or sixteen of four, numbered from 8 on.
const REGISTERS: usize = 64;
const FIRST_OF_16: u32 = 1;
const FIRST_OF_4: u32 = 8;

/// What a rule does with a packet that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Return,
    Continue,
    /// To that chain, and back; or not back.
    To {
        chain: String,
        back: bool,
    },
    /// It goes no further on its way, by that word.
    Gone(&'static str),
}

/// An element of a set or a map, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    /// The last key that is meant, too, of a concatenation of ranges.
    pub last: Option<Vec<u8>>,
    /// An interval ends before it.
    pub ends: bool,
    /// The key is for whatever others have not.
    pub is_default: bool,
    /// NFTA_SET_ELEM_DATA.
    pub data: Vec<u8>,
}

/// Of a set: whether it has intervals, and its elements.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    /// Then they are in order: where one ends and another begins, the end comes first.
    pub intervals: bool,
    /// An element counts or limits: whether it is met may depend on that.
    pub limits: bool,
    /// Bytes of each part of a key that is a concatenation.
    pub fields: Vec<usize>,
    pub all: Vec<Element>,
}

/// What a rule asks for beside the packet.
pub struct World<'a> {
    pub packet: &'a Packet,
    /// Of the packet, as others have set it.
    pub mark: &'a mut Vec<Byte>,
    /// Whether the packet comes to the rule at all.
    pub is_sure: bool,
    /// The number of a link here.
    pub index: &'a dyn Fn(&str) -> Option<u32>,
    /// A set of the rule's own table, by name.
    pub set: &'a mut dyn FnMut(&str) -> Rc<Elements>,
}

struct Registers([Byte; REGISTERS]);

impl Registers {
    fn place(register: u32) -> Option<usize> {
        let place = match register {
            FIRST_OF_16..=4 => (register - FIRST_OF_16) * 16,
            FIRST_OF_4..=23 => (register - FIRST_OF_4) * 4,
            _ => return None,
        };
        Some(place as usize)
    }

    /// What begins there.
    fn from(&self, register: u32) -> &[Byte] {
        Registers::place(register).and_then(|place| self.0.get(place..)).unwrap_or_default()
    }

    /// The rest of a register of four bytes is zeros.
    fn set(&mut self, register: u32, bytes: &[Byte]) {
        let Some(place) = Registers::place(register) else { return };
        let whole = bytes.len().next_multiple_of(4);
        let padded = bytes.iter().copied().chain(std::iter::repeat(Byte::known(0))).take(whole);
        self.0.iter_mut().skip(place).zip(padded).for_each(|(register, byte)| *register = byte);
    }
}

/// What a rule says: whether the packet is meant, and what is done with it; of several verdicts it may be each. Expressions are
/// attributes, name and data.
pub fn run<'e>(expressions: impl Iterator<Item = (String, &'e [u8])>, world: &mut World<'_>) -> (Truth, Vec<Verdict>) {
    let mut registers = Registers([Byte::ANY; REGISTERS]);
    let mut truth = Truth::Yes;
    for (name, data) in expressions {
        set_mark(&name, data, truth, &registers, world);
        match step(&name, data, &mut registers, world) {
            Step::Holds(holds) => truth = truth.and(holds),
            Step::Ends(verdict) => return (truth, vec![verdict]),
            Step::May(verdicts) => return (truth.and(Truth::Maybe), verdicts),
        }
        if truth == Truth::No {
            return (Truth::No, Vec::new());
        }
    }
    (truth, Vec::new())
}

/// A rule may set the mark that another one looks at.
fn set_mark(name: &str, data: &[u8], truth: Truth, registers: &Registers, world: &mut World<'_>) {
    let number = |kind| find(data, kind).and_then(be32_of);
    let mark = match name {
        "meta" if number(2) == Some(META_MARK) => match number(3) {
            Some(from) => registers.from(from).get(..4).map(<[Byte]>::to_vec),
            None => return,
        },
        // Of iptables: what it is set to is not read here.
        "target" if find(data, 1).and_then(string_of).is_some_and(|name| name.ends_with("MARK")) => None,
        _ => return,
    };
    let is_set = world.is_sure && truth == Truth::Yes;
    *world.mark = mark.filter(|_| is_set).unwrap_or(vec![Byte::ANY; 4]);
}

enum Step {
    Holds(Truth),
    Ends(Verdict),
    /// It may, by one of these.
    May(Vec<Verdict>),
}

fn step(name: &str, data: &[u8], registers: &mut Registers, world: &mut World<'_>) -> Step {
    let go = Step::Holds(Truth::Yes);
    match name {
        "immediate" => immediate(data, registers),
        "lookup" => lookup(data, registers, world),
        "meta" | "ct" | "payload" | "fib" | "bitwise" | "byteorder" => {
            // What is not understood leaves something unknown behind.
            let _ = load(name, data, registers, world);
            go
        }
        "cmp" => Step::Holds(compare(data, registers).unwrap_or(Truth::Maybe)),
        "range" => Step::Holds(range(data, registers).unwrap_or(Truth::Maybe)),
        "match" => {
            let name = find(data, 1).and_then(string_of).unwrap_or_default();
            let revision = find(data, 2).and_then(be32_of).unwrap_or(0);
            Step::Holds(matches::holds(&name, revision, find(data, 3).unwrap_or_default(), world.packet))
        }
        "target" => target(&find(data, 1).and_then(string_of).unwrap_or_default(), world.packet),
        "notrack" => untracked(world.packet),
        "reject" => Step::Ends(Verdict::Gone("reject")),
        "nat" => match find(data, 1).and_then(be32_of) {
            Some(1) => Step::Ends(Verdict::Gone("dnat")),
            _ => Step::Ends(Verdict::Accept),
        },
        "redir" => Step::Ends(Verdict::Gone("redirect")),
        "masq" => Step::Ends(Verdict::Accept),
        "tproxy" => Step::Ends(Verdict::Gone("tproxy")),
        "fwd" => Step::Ends(Verdict::Gone("fwd")),
        "synproxy" => Step::May(vec![Verdict::Gone("synproxy")]),
        "queue" => Step::May(vec![Verdict::Gone("queue")]),
        "counter" | "log" | "flow_offload" | "dup" | "last" => go,
        // What is put into a set may be counted or limited there.
        "dynset" if find(data, 7).is_none() && find(data, 10).is_none() => go,
        "objref" if find(data, 1).and_then(be32_of).is_some_and(|kind| !LIMITS.contains(&kind)) => go,
        "exthdr" | "hash" | "numgen" => {
            forget(registers);
            go
        }
        // Whether there is room for one more nobody knows before it comes (limit, quota, connlimit, …); nor what is not known here.
        _ => {
            forget(registers);
            Step::Holds(Truth::Maybe)
        }
    }
}

/// Something unknown was written, to whichever.
fn forget(registers: &mut Registers) {
    registers.0 = [Byte::ANY; REGISTERS];
}

/// A connection that is not tracked is not translated, so a packet that has to be is lost to us.
fn untracked(packet: &Packet) -> Step {
    match packet.phase == Phase::First && packet.is_local && !packet.translated {
        true => Step::May(vec![Verdict::Gone("notrack"), Verdict::Continue]),
        false => Step::Holds(Truth::Yes),
    }
}

fn target(name: &str, packet: &Packet) -> Step {
    match name {
        "REJECT" => Step::Ends(Verdict::Gone("reject")),
        "DROP" => Step::Ends(Verdict::Gone("drop")),
        "DNAT" => Step::Ends(Verdict::Gone("dnat")),
        "REDIRECT" => Step::Ends(Verdict::Gone("redirect")),
        "TPROXY" => Step::Ends(Verdict::Gone("tproxy")),
        "NFQUEUE" => Step::May(vec![Verdict::Gone("queue")]),
        "SYNPROXY" => Step::May(vec![Verdict::Gone("synproxy")]),
        // It may be there for something else.
        "CT" | "NOTRACK" => untracked(packet),
        "ACCEPT" | "SNAT" | "MASQUERADE" => Step::Ends(Verdict::Accept),
        "RETURN" => Step::Ends(Verdict::Return),
        _ => Step::Holds(Truth::Yes),
    }
}

fn load(name: &str, data: &[u8], registers: &mut Registers, world: &World<'_>) -> Option<()> {
    let number = |kind| find(data, kind).and_then(be32_of);
    let packet = world.packet;
    let unknown = || vec![Byte::ANY; 16];
    let (to, bytes) = match name {
        // Without a register to write to it sets something of the packet's.
        "meta" if number(2)? == META_MARK => (number(1)?, world.mark.clone()),
        "meta" => (number(1)?, seen::meta(packet, number(2)?, world.index).unwrap_or_else(unknown)),
        "ct" => (number(1)?, seen::connection(packet, number(2)?).unwrap_or_else(unknown)),
        "payload" => {
            let (place, length) = (number(3)? as usize, number(4)? as usize);
            let header = seen::header(packet, number(2)?).unwrap_or_default();
            let all = header.into_iter().chain(std::iter::repeat(Byte::ANY));
            (number(1)?, all.skip(place.min(256)).take(length.min(16)).collect())
        }
        "fib" => {
            let (result, flags) = (number(2)?, number(3)?);
            let bytes = match (result, flags) {
                // Its result is the type (3), and of the flags only the destination's address (2).
                (3, flags) if flags & !(8 | 16) == 2 => seen::destination_type(packet),
                // Whether there is a way back by the link that it came in by: else it would not be looked at here.
                (1 | 2, flags) if flags & (1 | 8 | 32) == 1 | 8 | 32 => known(&[1]),
                _ => unknown(),
            };
            (number(1)?, bytes)
        }
        "bitwise" => {
            let (from, to, length) = (number(1)?, number(2)?, number(3)? as usize);
            let value = |kind| find(data, kind).and_then(|inner| find(inner, DATA_VALUE));
            let bytes = registers.from(from).iter().take(length);
            let bytes = match (number(6).unwrap_or(0), value(4), value(5)) {
                (0, Some(mask), Some(turned)) => {
                    let masks = mask.iter().zip(turned);
                    bytes.zip(masks).map(|(byte, (mask, turned))| byte.masked(*mask, *turned)).collect()
                }
                _ => vec![Byte::ANY; length.min(16)],
            };
            (to, bytes)
        }
        "byteorder" => {
            let (from, to, length, size) = (number(1)?, number(2)?, number(4)? as usize, number(5)? as usize);
            let swapped = |chunk: &[Byte]| match cfg!(target_endian = "little") {
                true => chunk.iter().rev().copied().collect::<Vec<Byte>>(),
                false => chunk.to_vec(),
            };
            let bytes = registers.from(from);
            let bytes = bytes.get(..length)?.chunks(size.max(1)).flat_map(swapped).collect();
            (to, bytes)
        }
        _ => return None,
    };
    registers.set(to, &bytes);
    Some(())
}

fn compare(data: &[u8], registers: &Registers) -> Option<Truth> {
    let number = |kind| find(data, kind).and_then(be32_of);
    let value = find(find(data, 3)?, DATA_VALUE)?;
    let bytes = registers.from(number(1)?).get(..value.len())?;
    let all = vec![0xff; value.len()];
    let none = vec![0; value.len()];
    Some(match number(2)? {
        0 => equal(bytes, value),
        1 => equal(bytes, value).inverted(true),
        // Less, less or equal, greater, greater or equal.
        2 => within(bytes, value, &all).inverted(true),
        3 => within(bytes, &none, value),
        4 => within(bytes, &none, value).inverted(true),
        5 => within(bytes, value, &all),
        _ => return None,
    })
}

fn range(data: &[u8], registers: &Registers) -> Option<Truth> {
    let number = |kind| find(data, kind).and_then(be32_of);
    let value = |kind| find(data, kind).and_then(|inner| find(inner, DATA_VALUE));
    let inside = within(registers.from(number(1)?), value(3)?, value(4)?);
    Some(inside.inverted(number(2)? == 1))
}

fn immediate(data: &[u8], registers: &mut Registers) -> Step {
    let content = find(data, 2).unwrap_or_default();
    match (find(data, 1).and_then(be32_of), find(content, DATA_VALUE)) {
        (Some(REG_VERDICT), _) => verdict(content),
        (Some(register), Some(value)) => {
            registers.set(register, &known(value));
            Step::Holds(Truth::Yes)
        }
        _ => Step::Holds(Truth::Yes),
    }
}

fn verdict(content: &[u8]) -> Step {
    let attributes = find(content, DATA_VERDICT).unwrap_or_default();
    let chain = || find(attributes, VERDICT_CHAIN).and_then(string_of).unwrap_or_default();
    match find(attributes, VERDICT_CODE).and_then(be32_of).map(|code| code as i32) {
        Some(VERDICT_DROP) => Step::Ends(Verdict::Gone("drop")),
        Some(VERDICT_ACCEPT) => Step::Ends(Verdict::Accept),
        Some(VERDICT_RETURN) => Step::Ends(Verdict::Return),
        Some(VERDICT_JUMP) => Step::Ends(Verdict::To { chain: chain(), back: true }),
        Some(VERDICT_GOTO) => Step::Ends(Verdict::To { chain: chain(), back: false }),
        Some(VERDICT_QUEUE) => Step::May(vec![Verdict::Gone("queue")]),
        Some(VERDICT_CONTINUE) | Some(_) | None => Step::Ends(Verdict::Continue),
    }
}

fn lookup(data: &[u8], registers: &mut Registers, world: &mut World<'_>) -> Step {
    let number = |kind| find(data, kind).and_then(be32_of);
    let (Some(name), Some(from)) = (find(data, 1).and_then(string_of), number(2)) else {
        return Step::Holds(Truth::Maybe);
    };
    let set = (world.set)(&name);
    let (found, elements) = look_up(&set, registers.from(from));
    let found = if set.limits { found.and(Truth::Maybe) } else { found };
    let Some(to) = number(3) else {
        return Step::Holds(found.inverted(number(5).unwrap_or(0) & 1 == 1));
    };
    if found == Truth::No {
        return Step::Holds(Truth::No);
    }
    if to == REG_VERDICT {
        let verdicts = elements.iter().flat_map(|element| match verdict(&element.data) {
            Step::Ends(verdict) => vec![verdict],
            Step::May(verdicts) => verdicts,
            Step::Holds(_) => Vec::new(),
        });
        let mut verdicts: Vec<Verdict> = verdicts.collect();
        return match (found, verdicts.len()) {
            (Truth::Yes, 1) => Step::Ends(verdicts.remove(0)),
            _ => Step::May(verdicts),
        };
    }
    let value = match elements[..] {
        [element] if found == Truth::Yes => find(&element.data, DATA_VALUE).map(known),
        _ => None,
    };
    registers.set(to, &value.unwrap_or_else(|| vec![Byte::ANY; 16]));
    Step::Holds(found)
}

/// Whether the set has the key, and the elements by which it has, or may have.
fn look_up<'s>(set: &'s Elements, key: &[Byte]) -> (Truth, Vec<&'s Element>) {
    let default = || set.all.iter().find(|element| element.is_default);
    let (found, mut elements) = if set.intervals && set.all.iter().all(|element| element.last.is_none()) {
        look_up_interval(set, key)
    } else {
        look_up_each(set, key)
    };
    match (found, default()) {
        (Truth::Yes, _) | (_, None) => (found, elements),
        (Truth::No, Some(default)) => (Truth::Yes, vec![default]),
        (Truth::Maybe, Some(default)) => {
            elements.push(default);
            (Truth::Yes, elements)
        }
    }
}

fn look_up_each<'s>(set: &'s Elements, key: &[Byte]) -> (Truth, Vec<&'s Element>) {
    let matches = |element: &&Element| match &element.last {
        None => equal(key, &element.key),
        // Each part of the key has a range of its own.
        Some(last) => {
            if set.fields.is_empty() {
                return Truth::Maybe;
            }
            let (mut truth, mut place) = (Truth::Yes, 0);
            for field in &set.fields {
                let part = |bytes: &[u8]| bytes.get(place..place + field).map(<[u8]>::to_vec);
                let (Some(first), Some(last)) = (part(&element.key), part(last)) else { return Truth::Maybe };
                truth = truth.and(within(key.get(place..).unwrap_or_default(), &first, &last));
                place += field.next_multiple_of(4);
            }
            truth
        }
    };
    let proper = || set.all.iter().filter(|element| !element.is_default);
    if let Some(element) = proper().find(|element| matches(element) == Truth::Yes) {
        return (Truth::Yes, vec![element]);
    }
    let may: Vec<&Element> = proper().filter(|element| matches(element) == Truth::Maybe).collect();
    (if may.is_empty() { Truth::No } else { Truth::Maybe }, may)
}

/// A tree of intervals: each begins with an element and ends before the next one that ends one.
fn look_up_interval<'s>(set: &'s Elements, key: &[Byte]) -> (Truth, Vec<&'s Element>) {
    let proper = || set.all.iter().filter(|element| !element.is_default);
    let begins = || proper().filter(|element| !element.ends);
    let Some(length) = begins().map(|element| element.key.len()).max() else { return (Truth::No, Vec::new()) };
    let Some(key) = key.get(..length).and_then(settled) else { return (Truth::Maybe, begins().collect()) };
    match proper().take_while(|element| element.key <= key).last() {
        Some(element) if !element.ends => (Truth::Yes, vec![element]),
        _ => (Truth::No, Vec::new()),
    }
}
