//! Connection tracking that is nearly full: said before clients are turned away.

use std::collections::BTreeMap;

use tracing::{info, warn};

use crate::kernel::occupancy::{Conntrack, Occupancy};
use crate::objects::Netns;

/// Percent of the limit from which on it is said, and below which it is over.
const CROWDED: u64 = 80;
const RELIEVED: u64 = 70;

/// Where it is nearly full, and how full.
#[derive(Debug, Default)]
pub struct Crowded {
    known: BTreeMap<Netns, (u64, u64)>,
}

impl Crowded {
    /// Says what is new.
    pub fn look(&mut self, occupancy: &Occupancy) {
        for (netns, Conntrack { entries, limit }) in &occupancy.conntrack {
            // 0 is no limit.
            let (Some(entries), Some(limit)) = (*entries, limit.filter(|limit| *limit > 0)) else { continue };
            let was = self.known.contains_key(netns);
            let is = entries.saturating_mul(100) >= limit.saturating_mul(if was { RELIEVED } else { CROWDED });
            if is {
                self.known.insert(*netns, (entries, limit));
            } else {
                self.known.remove(netns);
            }
            match (was, is) {
                (false, true) => warn!("{}", line(*netns, entries, limit)),
                (true, false) => info!("connection tracking of the {netns} has room again: {entries} of {limit}"),
                _ => {}
            }
        }
    }

    /// Of each table that is nearly full.
    pub fn lines(&self) -> Vec<String> {
        self.known.iter().map(|(netns, (entries, limit))| line(*netns, *entries, *limit)).collect()
    }
}

fn line(netns: Netns, entries: u64, limit: u64) -> String {
    format!(
        "connection tracking of the {netns} is nearly full, {entries} of {limit}: at the limit new connections are dropped, those that are \
         open go on; raise net.netfilter.nf_conntrack_max"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_crowded_from_80_percent_on_until_there_are_less_than_70() {
        let mut crowded = Crowded::default();
        let mut full = |entries, limit| {
            let conntrack = BTreeMap::from([(Netns::Host, Conntrack { entries, limit })]);
            crowded.look(&Occupancy { conntrack, ..Occupancy::default() });
            crowded.lines().len()
        };
        let told = [0, 79, 80, 100, 79, 70, 69, 79, 80].map(|entries| full(Some(entries), Some(100)));
        assert_eq!(told, [0, 0, 1, 1, 1, 1, 0, 0, 1]);
        // What cannot be read is as it was.
        assert_eq!((full(None, Some(100)), full(Some(1), None), full(Some(1), Some(0))), (1, 1, 1));
        assert_eq!(full(Some(u64::MAX), Some(u64::MAX)), 1);
        assert_eq!(
            crowded.lines()[0].split(':').next(),
            Some(format!("connection tracking of the host is nearly full, {0} of {0}", u64::MAX).as_str())
        );
    }
}
