//! The expressions of nftables' little machine, as netlink carries them (linux/netfilter/nf_tables.h).
//!
//! Only what our rules are made of; all else reads as [`Expr::Other`]. Numbers in these attributes are in
//! network byte order, contents of registers as the packet or the kernel has them.

use crate::kernel::attribute::{Writer, attributes, be32_of, be64_of, find, string_of};

/// Where a verdict goes.
pub const REG_VERDICT: u32 = 0;
/// The first register of 16 bytes.
pub const REG_1: u32 = 1;
/// The second 4 bytes of that register: where the second part of a concatenated key goes.
pub const REG32_01: u32 = 9;
pub const REG32_02: u32 = 10;
/// The second register of 16 bytes, and the second 4 bytes of that: behind an IPv6 address, or the name of a link.
pub const REG_2: u32 = 2;
pub const REG32_05: u32 = 13;
pub const REG_3: u32 = 3;

pub const META_MARK: u32 = 3;
pub const META_IIFNAME: u32 = 6;
pub const META_OIFNAME: u32 = 7;
pub const META_NFPROTO: u32 = 15;
pub const META_L4PROTO: u32 = 16;

pub const META_IIFTYPE: u32 = 8;

pub const CT_STATE: u32 = 0;
pub const CT_DIRECTION: u32 = 1;
pub const CT_STATUS: u32 = 2;
pub const CT_MARK: u32 = 3;

pub const LINK_HEADER: u32 = 0;
pub const NETWORK_HEADER: u32 = 1;
pub const TRANSPORT_HEADER: u32 = 2;

pub const VERDICT_DROP: i32 = 0;
pub const VERDICT_ACCEPT: i32 = 1;
pub const VERDICT_GOTO: i32 = -4;
pub const VERDICT_RETURN: i32 = -5;

/// A TCP option, by its number, and the place and length of what it says (RFC 9293: the largest segment).
const TCP_OPTION: u32 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_PLACE: u32 = 2;
const SEGMENT_SIZE_LENGTH: u32 = 2;

// linux/netfilter/nf_nat.h
const NAT_ADDRESS: u32 = 1;
const NAT_PORT: u32 = 2;

const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const FIB_IIF: u32 = 8;
const FIB_PRESENT: u32 = 32;
const FIB_OIF: u32 = 1;
const FIB_ADDRTYPE: u32 = 3;

pub const EXPR_NAME: u16 = 1;
pub const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
pub const DATA_VALUE: u16 = 1;
pub const DATA_VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;

const DYNSET_ADD: u32 = 0;
const DYNSET_UPDATE: u32 = 1;

const NUMGEN_INCREMENTAL: u32 = 0;
const NUMGEN_RANDOM: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Meta {
        key: u32,
        to: u32,
    },
    SetMark {
        from: u32,
    },
    /// Of the connection: its mark, the packet's direction in it.
    Connection {
        key: u32,
        to: u32,
    },
    SetConnectionMark {
        from: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        to: u32,
    },
    /// Keeps the masked bits of a register.
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    Compare {
        register: u32,
        equal: bool,
        value: Vec<u8>,
    },
    /// The type of the source or the destination address, as the routing table knows it.
    AddressType {
        source: bool,
        to: u32,
    },
    /// Whether the source is reached by the link that the packet came in by.
    ReversePath {
        to: u32,
    },
    Lookup {
        map: String,
        from: u32,
        to: u32,
    },
    Nat {
        source: bool,
        family: u32,
        address: u32,
        /// Where the port is, if that is changed, too.
        port: Option<u32>,
    },
    /// A number below `modulus`: the next one, or any.
    Number {
        to: u32,
        modulus: u32,
        random: bool,
        /// The first of them.
        offset: u32,
    },
    /// Jenkins' hash of so many bytes, below `modulus`.
    Hash {
        from: u32,
        length: u32,
        to: u32,
        modulus: u32,
        seed: u32,
    },
    Masquerade,
    Notrack,
    /// Packets and bytes that came by; how many is not part of the rule.
    Counter,
    /// Whether a register is in a set; `inverted`: is not.
    Member {
        set: String,
        from: u32,
        inverted: bool,
    },
    Load {
        to: u32,
        value: Vec<u8>,
    },
    /// Puts into a map what a register has for another's key, for so many milliseconds. What is there already stays as it is, and as
    /// long; `longer`: from now on.
    Remember {
        map: String,
        key: u32,
        /// `None`: a set's.
        data: Option<u32>,
        milliseconds: u64,
        longer: bool,
    },
    /// Counts the connection with those that were here and are still there, and goes on if they are no more than that.
    ConnectionLimit {
        count: u32,
    },
    /// To two bytes in network byte order. The kernel lowers it and never raises it.
    SetSegmentSize {
        from: u32,
    },
    /// The packet's connection goes into that flow table.
    FlowAdd {
        table: String,
    },
    Verdict(i32),
    /// Something that our rules do not have, by its name.
    Other(String),
}

impl Expr {
    /// Appends the expression to a rule's list.
    pub fn write(&self, list: &mut Writer) {
        list.nested(LIST_ELEM, |element| self.write_alone(element));
    }

    /// Writes it where there is but one.
    pub fn write_alone(&self, element: &mut Writer) {
        element.string(EXPR_NAME, self.name());
        element.nested(EXPR_DATA, |data| self.write_data(data));
    }

    fn name(&self) -> &str {
        match self {
            Expr::Meta { .. } | Expr::SetMark { .. } => "meta",
            Expr::Connection { .. } | Expr::SetConnectionMark { .. } => "ct",
            Expr::Payload { .. } => "payload",
            Expr::Mask { .. } => "bitwise",
            Expr::Compare { .. } => "cmp",
            Expr::AddressType { .. } | Expr::ReversePath { .. } => "fib",
            Expr::Lookup { .. } | Expr::Member { .. } => "lookup",
            Expr::Nat { .. } => "nat",
            Expr::Number { .. } => "numgen",
            Expr::Hash { .. } => "hash",
            Expr::Masquerade => "masq",
            Expr::Notrack => "notrack",
            Expr::Counter => "counter",
            Expr::Load { .. } | Expr::Verdict(_) => "immediate",
            Expr::SetSegmentSize { .. } => "exthdr",
            Expr::FlowAdd { .. } => "flow_offload",
            Expr::Remember { .. } => "dynset",
            Expr::ConnectionLimit { .. } => "connlimit",
            Expr::Other(name) => name,
        }
    }

    fn write_data(&self, data: &mut Writer) {
        let value = |data: &mut Writer, kind, value: &[u8]| data.nested(kind, |inner| inner.bytes(DATA_VALUE, value));
        match self {
            Expr::Meta { key, to } => {
                data.be32(2, *key);
                data.be32(1, *to);
            }
            Expr::SetMark { from } => {
                data.be32(2, META_MARK);
                data.be32(3, *from);
            }
            Expr::Connection { key, to } => {
                data.be32(2, *key);
                data.be32(1, *to);
            }
            Expr::SetConnectionMark { from } => {
                data.be32(2, CT_MARK);
                data.be32(4, *from);
            }
            Expr::Payload { base, offset, length, to } => {
                data.be32(1, *to);
                data.be32(2, *base);
                data.be32(3, *offset);
                data.be32(4, *length);
            }
            Expr::Mask { register, mask } => {
                data.be32(1, *register);
                data.be32(2, *register);
                data.be32(3, mask.len() as u32);
                value(data, 4, mask);
                value(data, 5, &vec![0; mask.len()]);
            }
            Expr::Compare { register, equal, value: with } => {
                data.be32(1, *register);
                data.be32(2, u32::from(!equal));
                value(data, 3, with);
            }
            Expr::AddressType { source, to } => {
                data.be32(1, *to);
                data.be32(2, FIB_ADDRTYPE);
                data.be32(3, if *source { FIB_SADDR } else { FIB_DADDR });
            }
            Expr::ReversePath { to } => {
                data.be32(1, *to);
                data.be32(2, FIB_OIF);
                data.be32(3, FIB_SADDR | FIB_IIF | FIB_PRESENT);
            }
            Expr::Lookup { map, from, to } => {
                data.string(1, map);
                data.be32(2, *from);
                data.be32(3, *to);
            }
            Expr::Member { set, from, inverted } => {
                data.string(1, set);
                data.be32(2, *from);
                data.be32(5, u32::from(*inverted));
            }
            Expr::Nat { source, family, address, port } => {
                data.be32(1, u32::from(!source));
                data.be32(2, *family);
                data.be32(3, *address);
                port.iter().for_each(|port| data.be32(5, *port));
            }
            Expr::Number { to, modulus, random, offset } => {
                data.be32(1, *to);
                data.be32(2, *modulus);
                data.be32(3, if *random { NUMGEN_RANDOM } else { NUMGEN_INCREMENTAL });
                if *offset > 0 {
                    data.be32(4, *offset);
                }
            }
            Expr::Hash { from, length, to, modulus, seed } => {
                data.be32(1, *from);
                data.be32(2, *to);
                data.be32(3, *length);
                data.be32(4, *modulus);
                data.be32(5, *seed);
            }
            Expr::Load { to, value: what } => {
                data.be32(1, *to);
                value(data, 2, what);
            }
            Expr::Remember { map, key, data: what, milliseconds, longer } => {
                data.string(1, map);
                data.be32(3, if *longer { DYNSET_UPDATE } else { DYNSET_ADD });
                data.be32(4, *key);
                what.iter().for_each(|what| data.be32(5, *what));
                data.be64(6, *milliseconds);
            }
            Expr::ConnectionLimit { count } => {
                data.be32(1, *count);
                data.be32(2, 0);
            }
            Expr::SetSegmentSize { from } => {
                data.u8(2, SEGMENT_SIZE);
                data.be32(3, SEGMENT_SIZE_PLACE);
                data.be32(4, SEGMENT_SIZE_LENGTH);
                data.be32(6, TCP_OPTION);
                data.be32(7, *from);
            }
            Expr::FlowAdd { table } => data.string(1, table),
            Expr::Verdict(code) => {
                data.be32(1, REG_VERDICT);
                data.nested(2, |inner| inner.nested(DATA_VERDICT, |verdict| verdict.be32(VERDICT_CODE, *code as u32)));
            }
            Expr::Masquerade | Expr::Notrack | Expr::Counter | Expr::Other(_) => {}
        }
    }

    /// The expressions of a rule's list.
    pub fn read_list(list: &[u8]) -> Vec<Expr> {
        attributes(list).map(|(_, element)| Expr::read(element)).collect()
    }

    /// Packets that a rule's counters have.
    pub fn packets(list: &[u8]) -> u64 {
        let counts = attributes(list).filter_map(|(_, element)| Expr::packets_of(element));
        // Two counters may say together what no number can.
        counts.fold(0, u64::saturating_add)
    }

    /// How many connections an element's limit lets in; `None`: it has none.
    pub fn limit_of(element: &[u8]) -> Option<u32> {
        match Expr::read(element) {
            Expr::ConnectionLimit { count } => Some(count),
            _ => None,
        }
    }

    /// Packets that a counter has; `None`: it is something else.
    pub fn packets_of(element: &[u8]) -> Option<u64> {
        const PACKETS: u16 = 2;
        let name = find(element, EXPR_NAME).and_then(string_of)?;
        (name == "counter").then(|| find(find(element, EXPR_DATA)?, PACKETS).and_then(be64_of))?
    }

    fn read(element: &[u8]) -> Expr {
        let name = find(element, EXPR_NAME).and_then(string_of).unwrap_or_default();
        let data = find(element, EXPR_DATA).unwrap_or_default();
        Expr::read_data(&name, data).unwrap_or(Expr::Other(name))
    }

    fn read_data(name: &str, data: &[u8]) -> Option<Expr> {
        let number = |kind| find(data, kind).and_then(be32_of);
        let value = |kind| find(data, kind).and_then(|inner| find(inner, DATA_VALUE)).map(<[u8]>::to_vec);
        match name {
            "meta" => match (number(2)?, number(1), number(3)) {
                (key, Some(to), None) => Some(Expr::Meta { key, to }),
                (META_MARK, None, Some(from)) => Some(Expr::SetMark { from }),
                _ => None,
            },
            "ct" => match (number(2)?, number(1), number(4)) {
                (key, Some(to), None) => Some(Expr::Connection { key, to }),
                (CT_MARK, None, Some(from)) => Some(Expr::SetConnectionMark { from }),
                _ => None,
            },
            "payload" => {
                Some(Expr::Payload { to: number(1)?, base: number(2)?, offset: number(3)?, length: number(4)? })
            }
            "bitwise" => {
                let (register, mask) = (number(1)?, value(4)?);
                let plain =
                    number(2)? == register && value(5)?.iter().all(|byte| *byte == 0) && number(6).unwrap_or(0) == 0;
                plain.then_some(Expr::Mask { register, mask })
            }
            "cmp" => {
                let equal = match number(2)? {
                    0 => true,
                    1 => false,
                    _ => return None,
                };
                Some(Expr::Compare { register: number(1)?, equal, value: value(3)? })
            }
            "fib" if number(2)? == FIB_OIF => {
                (number(3)? == FIB_SADDR | FIB_IIF | FIB_PRESENT).then_some(Expr::ReversePath { to: number(1)? })
            }
            "fib" => {
                let source = match number(3)? {
                    FIB_SADDR => true,
                    FIB_DADDR => false,
                    _ => return None,
                };
                (number(2)? == FIB_ADDRTYPE).then_some(Expr::AddressType { source, to: number(1)? })
            }
            "lookup" => {
                let map = find(data, 1).and_then(string_of)?;
                match (number(3), number(5).unwrap_or(0)) {
                    (Some(to), 0) => Some(Expr::Lookup { map, from: number(2)?, to }),
                    (None, flags @ 0..=1) => Some(Expr::Member { set: map, from: number(2)?, inverted: flags == 1 }),
                    _ => None,
                }
            }
            "nat" => {
                let source = match number(1)? {
                    0 => true,
                    1 => false,
                    _ => return None,
                };
                let (address, port) = (number(3)?, number(5));
                // The kernel tells the upper ends, the same as the lower, and flags that say that there is an address, a port.
                let flags = if port.is_some() { NAT_ADDRESS | NAT_PORT } else { NAT_ADDRESS };
                let plain = number(4).unwrap_or(address) == address
                    && number(6).or(port) == port
                    && number(7).unwrap_or(0) & !flags == 0;
                plain.then_some(Expr::Nat { source, family: number(2)?, address, port })
            }
            "numgen" => {
                let random = match number(3)? {
                    NUMGEN_INCREMENTAL => false,
                    NUMGEN_RANDOM => true,
                    _ => return None,
                };
                Some(Expr::Number { to: number(1)?, modulus: number(2)?, random, offset: number(4).unwrap_or(0) })
            }
            "connlimit" => (number(2).unwrap_or(0) == 0).then_some(Expr::ConnectionLimit { count: number(1)? }),
            "hash" => {
                // No offset, and Jenkins'.
                let plain = number(6).unwrap_or(0) == 0 && number(7).unwrap_or(0) == 0;
                let (from, to, length) = (number(1)?, number(2)?, number(3)?);
                plain.then_some(Expr::Hash { from, length, to, modulus: number(4)?, seed: number(5)? })
            }
            "notrack" => Some(Expr::Notrack),
            "flow_offload" => Some(Expr::FlowAdd { table: find(data, 1).and_then(string_of)? }),
            "counter" => Some(Expr::Counter),
            "dynset" => {
                let longer = match number(3)? {
                    DYNSET_ADD => false,
                    DYNSET_UPDATE => true,
                    _ => return None,
                };
                let milliseconds = find(data, 6).and_then(be64_of)?;
                let map = find(data, 1).and_then(string_of)?;
                // Nothing counts in an element, and no flags.
                let plain = find(data, 7).is_none() && number(9).unwrap_or(0) == 0;
                plain.then_some(Expr::Remember { map, key: number(4)?, data: number(5), milliseconds, longer })
            }
            "exthdr" => {
                let option = (find(data, 2)?, number(3)?, number(4)?, number(6)?);
                let ours = ([SEGMENT_SIZE].as_slice(), SEGMENT_SIZE_PLACE, SEGMENT_SIZE_LENGTH, TCP_OPTION);
                // One that reads the option has a register to read it to.
                let plain = option == ours && number(1).is_none() && number(5).unwrap_or(0) == 0;
                plain.then_some(Expr::SetSegmentSize { from: number(7)? })
            }
            "masq" => attributes(data).next().is_none().then_some(Expr::Masquerade),
            "immediate" => {
                let content = find(data, 2)?;
                if let Some(verdict) = find(content, DATA_VERDICT) {
                    let code = find(verdict, VERDICT_CODE).and_then(be32_of)? as i32;
                    // A jump or goto names a chain; ours have none.
                    return attributes(verdict).all(|(kind, _)| kind == VERDICT_CODE).then_some(Expr::Verdict(code));
                }
                Some(Expr::Load { to: number(1)?, value: value(2)? })
            }
            _ => None,
        }
    }
}
