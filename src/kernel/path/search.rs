//! The search for the largest packet that is answered, for many peers side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What becomes of echo requests of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answered,
    /// Small ones that were sent behind them are answered, and they are not.
    Lost,
    /// Nothing is answered, or hardly anything.
    Unknown,
}

/// For each peer the largest size that is answered, from `answered`, of which that is known, to below `lost`. Who is
/// not told of has answered that one after all, or nothing any more.
///
/// Each round asks all of them, and halves what is left: of packets that a network can have, in 17 rounds.
pub fn largest(
    peers: BTreeSet<IpAddr>,
    answered: u32,
    lost: u32,
    mut ask: impl FnMut(&BTreeMap<IpAddr, u32>) -> BTreeMap<IpAddr, Verdict>,
) -> BTreeMap<IpAddr, u32> {
    let mut ranges: BTreeMap<IpAddr, (u32, u32)> = BTreeMap::new();
    if !peers.is_empty() && answered < lost {
        // Once more: it is an error that is to be told.
        let again = ask(&peers.into_iter().map(|peer| (peer, lost)).collect());
        let still = again.into_iter().filter(|(_, verdict)| *verdict == Verdict::Lost);
        ranges.extend(still.map(|(peer, _)| (peer, (answered, lost))));
    }
    loop {
        let between = |(answered, lost): (u32, u32)| (lost - answered > 1).then(|| answered + (lost - answered) / 2);
        let sizes: BTreeMap<IpAddr, u32> =
            ranges.iter().filter_map(|(peer, range)| Some((*peer, between(*range)?))).collect();
        if sizes.is_empty() {
            return ranges.into_iter().map(|(peer, (answered, _))| (peer, answered)).collect();
        }
        let verdicts = ask(&sizes);
        for (peer, size) in sizes {
            match (verdicts.get(&peer), ranges.get_mut(&peer)) {
                (Some(Verdict::Answered), Some((answered, _))) => *answered = size,
                (Some(Verdict::Lost), Some((_, lost))) => *lost = size,
                _ => {
                    ranges.remove(&peer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: u32 = 64;

    fn peer(number: usize) -> IpAddr {
        IpAddr::from([192, 168, 50, number as u8])
    }

    /// What is found on paths that carry so much, and in how many rounds; `None`: that peer has stopped answering.
    fn found(paths: &[Option<u32>], lost: u32) -> (BTreeMap<IpAddr, u32>, usize) {
        let carries: BTreeMap<IpAddr, Option<u32>> =
            paths.iter().enumerate().map(|(number, path)| (peer(number), *path)).collect();
        let mut rounds = 0;
        let found = largest(carries.keys().copied().collect(), SMALL, lost, |sizes| {
            rounds += 1;
            let verdict = |peer: &IpAddr, size: u32| match carries[peer] {
                Some(path) if size <= path => Verdict::Answered,
                Some(_) => Verdict::Lost,
                None => Verdict::Unknown,
            };
            sizes.iter().map(|(peer, size)| (*peer, verdict(peer, *size))).collect()
        });
        (found, rounds)
    }

    proptest! {
        #[test]
        fn each_path_is_found_to_the_byte(
            paths in prop::collection::vec(prop::option::weighted(0.9, SMALL..70_000), 0..20),
            lost in SMALL..=65_535,
        ) {
            let (found, rounds) = found(&paths, lost);
            let expected: BTreeMap<IpAddr, u32> = paths
                .iter()
                .enumerate()
                .filter_map(|(number, path)| Some((peer(number), (*path)?)))
                .filter(|(_, path)| *path < lost)
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert!(rounds <= 17, "{} rounds", rounds);
        }
    }

    #[test]
    fn a_path_is_known_after_a_dozen_rounds() {
        assert_eq!(found(&[Some(1400)], 1500), ([(peer(0), 1400)].into(), 12));
        assert_eq!(found(&[Some(1500)], 1500), (BTreeMap::new(), 1));
        assert_eq!(found(&[], 1500), (BTreeMap::new(), 0));
    }

    #[test]
    fn who_stops_answering_tells_nothing() {
        let mut rounds = 0;
        let found = largest([peer(1), peer(2)].into(), SMALL, 1500, |sizes| {
            rounds += 1;
            // The first falls silent in the middle of it.
            let verdict = |at: IpAddr| if at == peer(1) && rounds > 3 { Verdict::Unknown } else { Verdict::Lost };
            sizes.keys().map(|peer| (*peer, verdict(*peer))).collect()
        });
        assert_eq!(found, [(peer(2), SMALL)].into());
    }
}
