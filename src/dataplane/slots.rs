//! Who gets which slot of a port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::objects::{DestinationKey, LASTING};

/// At the most: of more shares each has one slot, and the rest is theirs by weight.
const MOST: usize = 256;
/// By so many slots a client's hash is taken, however many backends there are: so one that comes or goes moves its own share alone.
const HASHED: u32 = 256;

/// As many slots for each as its weight says, one after the other as evenly as that goes (nginx's smooth weighted round robin).
pub(super) fn weighted(shares: &[(DestinationKey, u32)]) -> Vec<DestinationKey> {
    let counts = counts(shares.iter().map(|(_, weight)| *weight).collect());
    let total: i64 = counts.iter().sum();
    let mut due = vec![0i64; shares.len()];
    let turn = |_| {
        due.iter_mut().zip(&counts).for_each(|(due, count)| *due += count);
        // The first of those to whom most is due.
        let next = (0..due.len()).rev().max_by_key(|index| due[*index])?;
        due[next] -= total;
        Some(shares[next].0)
    };
    (0..total).filter_map(turn).collect()
}

/// How many slots each gets.
fn counts(weights: Vec<u32>) -> Vec<i64> {
    let common = weights.iter().fold(0, |common, weight| greatest_common_divisor(common, *weight)).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(weight / common)).collect();
    let sum: u64 = reduced.iter().sum();
    let most = MOST.max(weights.len()) as u64;
    let scaled = |weight: u64| if sum <= most { weight } else { (weight * most / sum).max(1) };
    reduced.into_iter().map(|weight| scaled(weight) as i64).collect()
}

fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// Each slot is its whose hash with it is the greatest (rendezvous hashing), weighted.
pub(super) fn hashed(shares: &[(DestinationKey, u32)]) -> Vec<DestinationKey> {
    let of = |slot: u32| {
        let score = |(place, weight): &(DestinationKey, u32)| {
            // Between 0 and 1, neither of them.
            let unit = ((mixed(place, slot) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -f64::from(*weight) / unit.ln()
        };
        shares.iter().max_by(|one, other| score(one).total_cmp(&score(other))).map(|(place, _)| *place)
    };
    (0..HASHED).filter_map(of).collect()
}

/// For each a number that stays its own, whoever else comes or goes. (Were two to have the same, as two of a hundred do once in 400,000
/// times, the second would have the next one.)
pub(super) fn lasting(slots: &[DestinationKey]) -> BTreeMap<DestinationKey, u32> {
    let places: BTreeSet<&DestinationKey> = slots.iter().collect();
    let mut taken = BTreeSet::new();
    let free = |place: &DestinationKey| {
        let first = mixed(place, LASTING) as u32;
        let number = (0..).map(|more| first.wrapping_add(more) | LASTING).find(|number| taken.insert(*number));
        number.map(|number| (*place, number))
    };
    places.into_iter().filter_map(free).collect()
}

/// The same on every machine and in every version: else a client would change its backend with them. (FNV-1a, and the end of
/// MurmurHash3 for its bits.)
fn mixed(place: &DestinationKey, slot: u32) -> u64 {
    let octets = match place.address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let bytes = octets.into_iter().chain(place.port.to_be_bytes()).chain(slot.to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(last: u8) -> DestinationKey {
        DestinationKey { address: [10, 255, 0, last].into(), port: 80 }
    }

    fn shares(weights: &[u32]) -> Vec<(DestinationKey, u32)> {
        weights.iter().zip(1..).map(|(weight, last)| (place(last), *weight)).collect()
    }

    fn counted(slots: &[DestinationKey]) -> BTreeMap<DestinationKey, usize> {
        slots.iter().fold(BTreeMap::new(), |mut counts, place| {
            *counts.entry(*place).or_default() += 1;
            counts
        })
    }

    #[test]
    fn weights_are_shares_that_take_turns() {
        let order = |weights: &[u32]| {
            let number = |slot: DestinationKey| (1..).find(|last| place(*last) == slot).unwrap();
            weighted(&shares(weights)).into_iter().map(number).collect::<Vec<u8>>()
        };
        assert!(order(&[]).is_empty());
        assert_eq!(order(&[7]), [1]);
        assert_eq!(order(&[2, 2, 2]), [1, 2, 3]);
        assert_eq!(order(&[5, 1, 1]), [1, 1, 2, 1, 3, 1, 1]);
        assert_eq!(order(&[10, 20]), [2, 1, 2]);
    }

    proptest! {
        #[test]
        fn every_weight_has_its_share(weights in prop::collection::vec(1u32..=65535, 1..40)) {
            let slots = weighted(&shares(&weights));
            prop_assert!(slots.len() <= MOST + weights.len());
            let counts = counted(&slots);
            prop_assert_eq!(counts.len(), weights.len());
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (place, weight) in shares(&weights) {
                let expected = u64::from(weight) as f64 * slots.len() as f64 / sum as f64;
                prop_assert!((counts[&place] as f64 - expected).abs() <= 1.0 + weights.len() as f64 * expected / MOST as f64 + 1.0);
            }
        }

        #[test]
        fn who_comes_or_goes_moves_its_own_share_alone(weights in prop::collection::vec(1u32..=100, 2..20), gone in any::<prop::sample::Index>()) {
            let all = shares(&weights);
            let mut others = all.clone();
            let (gone, _) = others.remove(gone.index(all.len()));
            for (before, after) in hashed(&all).into_iter().zip(hashed(&others)) {
                prop_assert!(before == after || before == gone);
            }
        }
    }

    #[test]
    fn lasting_numbers_are_each_ones_own() {
        let places: Vec<DestinationKey> = (1..=200).map(place).collect();
        let all = lasting(&places);
        assert!(all.len() == 200 && all.values().collect::<BTreeSet<_>>().len() == 200);
        assert!(all.values().all(|number| number & LASTING != 0));
        let some = lasting(&places[50..60]);
        assert!(some.iter().all(|(place, number)| all[place] == *number));
    }

    #[test]
    fn hashed_shares_are_as_large_as_weights_say() {
        let counts = counted(&hashed(&shares(&[1, 1, 2])));
        let share = |last| counts[&place(last)];
        assert!(
            (40..90).contains(&share(1)) && (40..90).contains(&share(2)) && (100..160).contains(&share(3)),
            "{counts:?}"
        );
        // As other versions have it.
        assert_eq!(mixed(&place(1), 0), mixed(&place(1), 0));
    }
}
