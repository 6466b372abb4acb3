//! The ways back of preserved client addresses, in backends' namespaces.

use super::{Difference, Step};
use crate::objects::Returns;

impl Difference<'_> {
    /// What is wanted, beside what is there: clients may still come by it.
    pub(super) fn make_returns(&self, steps: &mut Vec<Step>) {
        for (netns, wanted) in &self.wanted.returns {
            let seen = self.seen.returns.get(netns);
            let both = seen.map_or_else(|| wanted.clone(), |seen| seen.union(wanted));
            if seen != Some(&both) {
                steps.push(Step::SetReturns { netns: netns.clone(), returns: both });
            }
        }
    }

    pub(super) fn break_returns(&self, steps: &mut Vec<Step>) {
        for (netns, seen) in &self.seen.returns {
            match self.wanted.returns.get(netns) {
                None => steps.push(Step::DeleteReturns { netns: netns.clone() }),
                Some(wanted) if seen.union(wanted) != *wanted => {
                    let returns: Returns = wanted.clone();
                    steps.push(Step::SetReturns { netns: netns.clone(), returns });
                }
                Some(_) => {}
            }
        }
    }
}
