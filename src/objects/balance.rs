//! How nftables spreads a port's clients over its backends: by slots, in maps that all ports share.
//!
//! Each port has slots, numbered from 0, with a backend in each. What chooses one is a chain that all ports have in common which choose
//! alike, so there are no more chains with 10,000 ports than with a hundred.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{DestinationKey, Family, Persistence};

/// What the kernel has of one published port for one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// By which chain new clients are led to a slot; `None`: they are not.
    pub way: Option<Way>,
    /// Who gets the client that comes to that slot.
    pub slots: BTreeMap<u32, DestinationKey>,
    /// Who may have connections: those who are in slots, and who gets no new ones. Once one is not among them any more,
    /// its connections have ended.
    pub backends: BTreeSet<DestinationKey>,
    /// Where clients are remembered, slots are numbered otherwise: each backend has one, by a number that stays its own whoever else
    /// comes or goes ([`LASTING`]). Here is which of these a turn leads to, and, each to itself, which take clients again.
    pub turns: BTreeMap<u32, u32>,
    /// Where backends have caps, slots are numbered so, too; and this is how many connections each slot may have. Of what is in the
    /// kernel: no more than that ([`room_set`]).
    pub room: BTreeMap<u32, u32>,
}

/// Of a slot that may have any number.
pub const NO_LIMIT: u32 = u32::MAX;

/// From this turn on each slot has one, for a client that finds its own one full.
pub const IN_ORDER: u32 = 1 << 16;
/// So many backends a client is tried with, at the most, until it is known elsewhere who is full.
pub const MOST_TRIES: u8 = 8;

/// The bit of slots that a client is remembered by.
pub const LASTING: u32 = 1 << 31;

/// How a slot is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pick {
    /// One after the other. Whose `turn` is the same share a counter.
    Turn(u8),
    Random,
    /// By the client's address.
    Source,
    /// By the client's address and port.
    SourceAndPort,
}

/// A chain that chooses a slot, and sends the client there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub family: Family,
    pub pick: Pick,
    /// So many slots, at least one.
    pub slots: u16,
    /// The port stays as it is: that of a range.
    pub keeps_port: bool,
    /// Clients come to the same backend again for so long.
    pub persistence: Option<Persistence>,
    /// Backends have caps, and so many of them are tried; 0: none has.
    pub tries: u8,
}

impl Way {
    /// The chain's name.
    pub fn chain(&self) -> String {
        self.to_string()
    }

    /// The way of a chain of that name.
    pub fn of_chain(name: &str) -> Option<Way> {
        let mut words = name.split('_');
        let (pick, family, kept) = (words.next()?, words.next()?, words.next()?);
        let family = Family::ALL.into_iter().find(|known| known.to_string() == family)?;
        let keeps_port = match kept {
            "any" => true,
            "to" => false,
            _ => return None,
        };
        let slots = words.next()?.parse().ok()?;
        let pick = match pick {
            "turn" => Pick::Turn(words.next()?.parse().ok()?),
            "random" => Pick::Random,
            "source" => Pick::Source,
            "sourceport" => Pick::SourceAndPort,
            _ => return None,
        };
        let (mut persistence, mut tries) = (None, 0);
        while let Some(word) = words.next() {
            match word {
                "again" => {
                    let timeout = words.next()?.parse().ok()?;
                    persistence = Some(Persistence { timeout, prefix: words.next()?.parse().ok()? });
                }
                "room" => tries = words.next()?.parse().ok()?,
                _ => return None,
            }
        }
        let way = Way { family, pick, slots, keeps_port, persistence, tries };
        // Numbers can be written in several ways.
        (slots > 0 && way.chain() == name).then_some(way)
    }

    /// The same but for whose turn it is: what such chains do is the same.
    pub fn alike(self) -> Way {
        match self.pick {
            Pick::Turn(_) => Way { pick: Pick::Turn(0), ..self },
            _ => self,
        }
    }

    /// What of a client's address it is remembered by; `None`: all of it.
    pub fn client_mask(&self) -> Option<IpAddr> {
        let any = match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let prefix = self.persistence.map(|persistence| persistence.prefix);
        let prefix = prefix.filter(|prefix| *prefix < self.family.bits())?;
        Some(IpNetwork::new(any, prefix).ok()?.mask())
    }

    /// The map of its slots.
    pub fn map(&self) -> &'static str {
        slots_map(self.family, self.keeps_port)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { family, pick, slots, keeps_port, persistence, tries } = self;
        let kept = if *keeps_port { "any" } else { "to" };
        match pick {
            Pick::Turn(turn) => write!(f, "turn_{family}_{kept}_{slots}_{turn}"),
            Pick::Random => write!(f, "random_{family}_{kept}_{slots}"),
            Pick::Source => write!(f, "source_{family}_{kept}_{slots}"),
            Pick::SourceAndPort => write!(f, "sourceport_{family}_{kept}_{slots}"),
        }?;
        persistence.map_or(Ok(()), |Persistence { timeout, prefix }| write!(f, "_again_{timeout}_{prefix}"))?;
        if *tries > 0 { write!(f, "_room_{tries}") } else { Ok(()) }
    }
}

/// The map from a mark to the chain that chooses.
pub fn ways_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "ways4",
        Family::V6 => "ways6",
    }
}

/// The map from a mark and a slot to a backend.
pub fn slots_map(family: Family, keeps_port: bool) -> &'static str {
    match (family, keeps_port) {
        (Family::V4, false) => "slots4",
        (Family::V6, false) => "slots6",
        (Family::V4, true) => "hosts4",
        (Family::V6, true) => "hosts6",
    }
}

/// The set of those who may have connections.
pub fn backends_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "backends4",
        Family::V6 => "backends6",
    }
}

/// The map from a mark and a turn to a slot that lasts.
pub fn turns_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "turns4",
        Family::V6 => "turns6",
    }
}

/// The set of marks and slots, each with the connections that it may still get: the kernel counts them, and those that end no more. What
/// comes to one that has no room is turned away, and counted with it as long as it lives; so whoever sees to caps makes it anew then.
pub fn room_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "room4",
        Family::V6 => "room6",
    }
}

/// The set of marks and slots that had no room for someone, for some seconds. Its elements are the kernel's own.
pub fn full_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "full4",
        Family::V6 => "full6",
    }
}

/// The map from a mark and a client's network to the slot that it came to. Its elements are the kernel's own: it adds them as
/// clients come, and takes them away when their time is over.
pub fn clients_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "clients4",
        Family::V6 => "clients6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_known_by_the_name_of_its_chain() {
        for family in Family::ALL {
            for pick in [Pick::Turn(0), Pick::Turn(63), Pick::Random, Pick::Source, Pick::SourceAndPort] {
                for (slots, keeps_port) in [(1, false), (256, true)] {
                    for persistence in [None, Some(Persistence { timeout: 300, prefix: 24 })] {
                        for tries in [0, 3] {
                            let way = Way { family, pick, slots, keeps_port, persistence, tries };
                            assert_eq!(Way::of_chain(&way.chain()), Some(way));
                        }
                    }
                }
            }
        }
        for other in [
            "",
            "turn",
            "turn_ipv4_to_3",
            "turn_ipv4_to_03_1",
            "turn_ipv4_to_0_1",
            "source_ipv4_to_3_1",
            "source_ipv4_to_3_again_9",
            "source_ipv4_to_3_room_0",
            "source_ipv4_to_3_room_2_again_9_32",
            "prerouting",
        ] {
            assert_eq!(Way::of_chain(other), None, "{other}");
        }
    }
}
