//! How nftables spreads a port's clients over its backends: by slots, in maps that all ports share.
//!
//! Each port has slots, numbered from 0, with a backend in each. What chooses one is a chain that all ports have in common which choose
//! alike, so there are no more chains with 10,000 ports than with a hundred.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{DestinationKey, Family};

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
}

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
        let turn = words.next().map(|turn| turn.parse().ok());
        let pick = match (pick, turn) {
            ("turn", Some(Some(turn))) => Pick::Turn(turn),
            ("random", None) => Pick::Random,
            ("source", None) => Pick::Source,
            ("sourceport", None) => Pick::SourceAndPort,
            _ => return None,
        };
        let way = Way { family, pick, slots, keeps_port };
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

    /// The map of its slots.
    pub fn map(&self) -> &'static str {
        slots_map(self.family, self.keeps_port)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { family, pick, slots, keeps_port } = self;
        let kept = if *keeps_port { "any" } else { "to" };
        match pick {
            Pick::Turn(turn) => write!(f, "turn_{family}_{kept}_{slots}_{turn}"),
            Pick::Random => write!(f, "random_{family}_{kept}_{slots}"),
            Pick::Source => write!(f, "source_{family}_{kept}_{slots}"),
            Pick::SourceAndPort => write!(f, "sourceport_{family}_{kept}_{slots}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_known_by_the_name_of_its_chain() {
        for family in Family::ALL {
            for pick in [Pick::Turn(0), Pick::Turn(63), Pick::Random, Pick::Source, Pick::SourceAndPort] {
                for (slots, keeps_port) in [(1, false), (256, true)] {
                    let way = Way { family, pick, slots, keeps_port };
                    assert_eq!(Way::of_chain(&way.chain()), Some(way));
                }
            }
        }
        for other in
            ["", "turn", "turn_ipv4_to_3", "turn_ipv4_to_03_1", "turn_ipv4_to_0_1", "source_ipv4_to_3_1", "prerouting"]
        {
            assert_eq!(Way::of_chain(other), None, "{other}");
        }
    }
}
