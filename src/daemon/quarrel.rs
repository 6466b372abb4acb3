//! Someone who undoes what is mended, every time: without a storm, and not unseen.

use std::time::{Duration, Instant};

use crate::plan::{Plan, Step};

/// Mended so often, it is a quarrel.
const ROUNDS: u32 = 3;
/// What was left alone for so long is no quarrel any more.
const CALM: Duration = Duration::from_secs(60);
/// Of what was mended so much is looked at: who undoes thousands of things undoes the first of them too.
const COMPARED: usize = 50;

/// What was mended, how often, and when for the last time.
#[derive(Debug, Default)]
pub struct Quarrel {
    mended: Vec<(Step, u32, Instant)>,
}

/// What a look made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Begun,
    Over,
}

impl Quarrel {
    /// A look has mended that, or nothing; `pause`: the next one comes after that at the latest.
    pub fn note<'s>(
        &mut self,
        mended: impl IntoIterator<Item = &'s Step>,
        pause: Duration,
        now: Instant,
    ) -> Option<News> {
        let was_on = self.is_on();
        let calm = CALM.max(pause * 2);
        self.mended.retain(|(_, _, last)| now.duration_since(*last) < calm);
        for step in mended.into_iter().filter(|step| !comes_and_goes(step)).take(COMPARED) {
            if let Some((_, rounds, last)) = self.mended.iter_mut().find(|(known, ..)| known == step) {
                (*rounds, *last) = (*rounds + 1, now);
            } else if self.mended.len() < COMPARED {
                self.mended.push((step.clone(), 1, now));
            }
        }
        match (was_on, self.is_on()) {
            (false, true) => Some(News::Begun),
            (true, false) => Some(News::Over),
            _ => None,
        }
    }

    fn is_on(&self) -> bool {
        self.rounds() >= ROUNDS
    }

    /// What is quarrelled about.
    pub fn steps(&self) -> Vec<Step> {
        let contested = self.mended.iter().filter(|(_, rounds, _)| *rounds >= ROUNDS);
        contested.map(|(step, ..)| step.clone()).collect()
    }

    /// How often the most contested was mended.
    pub fn rounds(&self) -> u32 {
        self.mended.iter().map(|(_, rounds, _)| *rounds).max().unwrap_or(0)
    }

    /// When it is to be mended again, if that is all that is to be done: each time after twice as long, `first` after the first
    /// time, and after `last` at the most.
    pub fn waits(&self, plan: &Plan, first: Duration, last: Duration) -> Option<Instant> {
        let until = |step: &Step| {
            let (_, rounds, mended) = self.mended.iter().find(|(known, ..)| known == step)?;
            Some(*mended + (first * 2u32.saturating_pow(rounds.saturating_sub(1).min(10))).min(last))
        };
        if plan.steps.iter().any(comes_and_goes) {
            return None;
        }
        // Of thousands the first are known, and all others are taken for theirs. The first whose turn it is takes all along.
        let is_full = self.mended.len() >= COMPARED;
        let known = plan.steps.iter().map(until).filter(|turn| turn.is_some() || !is_full);
        known.collect::<Option<Vec<Instant>>>()?.into_iter().min()
    }
}

/// A container that starts again and again takes its leg with it every time: nobody undoes anything.
fn comes_and_goes(step: &Step) -> bool {
    matches!(step.kind(), "leg" | "return")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Netns;

    const PAUSE: Duration = Duration::from_secs(5);

    fn table(netns: Netns) -> Step {
        Step::AddTable(netns)
    }

    #[test]
    fn who_undoes_it_again_and_again_quarrels_until_it_is_calm() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let about = [table(Netns::Host)];
        let mut note = |mended: &[Step], seconds| {
            let news = quarrel.note(mended, PAUSE, at(seconds));
            let about = Plan { steps: about.to_vec() };
            let waits = quarrel.waits(&about, Duration::from_secs(1), Duration::from_secs(20));
            (news, quarrel.steps().len(), waits.map(|until| until - start).map(|until| until.as_secs()))
        };
        assert_eq!(note(&[], 0), (None, 0, None));
        assert_eq!(note(&about, 1), (None, 0, Some(1 + 1)));
        assert_eq!(note(&about, 2), (None, 0, Some(2 + 2)));
        assert_eq!(note(&about, 3), (Some(News::Begun), 1, Some(3 + 4)));
        // Looks that find nothing, and what is broken beside it.
        assert_eq!(note(&[], 4), (None, 1, Some(3 + 4)));
        assert_eq!(note(&[table(Netns::Sandbox)], 5), (None, 1, Some(3 + 4)));
        assert_eq!(note(&about, 6), (None, 1, Some(6 + 8)));
        assert!((0..100).all(|second| note(&about, 7 + second).0.is_none()));
        assert_eq!(note(&[], 165), (None, 1, Some(106 + 20)));
        assert_eq!(note(&[], 166), (Some(News::Over), 0, None));
    }

    #[test]
    fn what_nobody_quarrels_about_does_not_wait_and_takes_the_rest_along() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let waits = |quarrel: &Quarrel, steps: &[Step]| {
            quarrel.waits(&Plan { steps: steps.to_vec() }, Duration::from_secs(1), PAUSE).map(|until| until - start)
        };
        quarrel.note(&[table(Netns::Host)], PAUSE, start);
        assert_eq!(waits(&quarrel, &[]), None);
        assert_eq!(waits(&quarrel, &[table(Netns::Host)]), Some(Duration::from_secs(1)));
        assert_eq!(waits(&quarrel, &[table(Netns::Host), table(Netns::Sandbox)]), None);
        let leg = Step::DeleteLeg { mac: crate::objects::Mac([2, 0, 0, 0, 0, 1]) };
        assert_eq!(waits(&quarrel, std::slice::from_ref(&leg)), None);
        assert_eq!(waits(&quarrel, &[table(Netns::Host), leg]), None);
    }

    #[test]
    fn with_many_ports_looks_are_rare_and_it_is_a_quarrel_all_the_same() {
        let (mut quarrel, start, pause) = (Quarrel::default(), Instant::now(), Duration::from_secs(92));
        let looks = (0..10).map(|number| start + pause * number);
        let news: Vec<News> = looks.filter_map(|now| quarrel.note(&[table(Netns::Host)], pause, now)).collect();
        assert_eq!(news, [News::Begun]);
    }

    #[test]
    fn two_things_in_turn_are_both_contested() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let both = [table(Netns::Host), table(Netns::Sandbox)];
        for (second, step) in both.iter().cycle().take(6).enumerate() {
            quarrel.note(std::slice::from_ref(step), PAUSE, start + Duration::from_secs(second as u64));
        }
        assert_eq!(quarrel.steps(), both);
    }

    #[test]
    fn what_is_broken_now_and_then_or_comes_and_goes_is_no_quarrel() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let looks = (0..20).map(|number| start + CALM * number);
        assert_eq!(looks.filter_map(|now| quarrel.note(&[table(Netns::Host)], PAUSE, now)).next(), None);
        let leg = [Step::DeleteLeg { mac: crate::objects::Mac([2, 0, 0, 0, 0, 1]) }];
        let looks = (0..20).map(|number| start + CALM * 30 + Duration::from_secs(number));
        assert_eq!(looks.filter_map(|now| quarrel.note(&leg, PAUSE, now)).next(), None);
    }
}
