//! The rule: from answers to whether a backend serves. It knows no clock; it is told how late it is.

use std::time::Duration;

use crate::mesh::Check;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It has not answered well often enough since it came.
    Starting,
    Up,
    /// It is up, and does not answer well now.
    Failing,
    Down,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Standing::Starting => "starting",
            Standing::Up => "up",
            Standing::Failing => "failing",
            Standing::Down => "down",
        }
    }

    /// Whether it gets clients.
    pub fn serves(self) -> bool {
        matches!(self, Standing::Up | Standing::Failing)
    }
}

/// One that comes back sooner finds connections of its past: of a destination that is deleted the kernel forgets them
/// within 1.3 s (seen on 6.1), and one that is added again meanwhile has them back.
pub const QUIET: Duration = Duration::from_secs(2);

/// From one standing to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: Standing,
    pub to: Standing,
    /// What it answered last.
    pub reason: String,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vital {
    standing: Standing,
    /// Answers in a row that speak for another standing.
    streak: u32,
    /// When it last ceased to serve.
    ceased: Option<Duration>,
}

impl Vital {
    /// What it is taken to be until it is asked. One that is down may have ceased a moment ago, at zero at the latest.
    pub fn new(standing: Standing) -> Vital {
        let ceased = (standing == Standing::Down).then_some(Duration::ZERO);
        Vital { standing, streak: 0, ceased }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes one answer, at that time since whenever.
    pub fn observe(&mut self, check: &Check, answer: &Result<(), String>, now: Duration) -> Option<Change> {
        let from = self.standing;
        let against = answer.is_ok() != from.serves();
        self.streak = if against { self.streak.saturating_add(1) } else { 0 };
        self.standing = match (from, answer) {
            (Standing::Starting | Standing::Down, Ok(())) if self.streak >= check.rise && self.is_quiet(now) => {
                Standing::Up
            }
            (Standing::Starting | Standing::Down, Ok(())) => from,
            (Standing::Up | Standing::Failing, Ok(())) => Standing::Up,
            (Standing::Up | Standing::Failing, Err(_)) if self.streak >= check.fall => Standing::Down,
            (Standing::Up | Standing::Failing, Err(_)) => Standing::Failing,
            // That it does not come up is news once.
            (Standing::Starting | Standing::Down, Err(_)) => Standing::Down,
        };
        if from.serves() != self.standing.serves() {
            self.streak = 0;
        }
        if from.serves() && !self.standing.serves() {
            self.ceased = Some(now);
        }
        let reason = || answer.as_ref().err().cloned().unwrap_or_else(|| "answers".to_owned());
        (from != self.standing).then(|| Change { from, to: self.standing, reason: reason() })
    }

    fn is_quiet(&self, now: Duration) -> bool {
        self.ceased.is_none_or(|ceased| now.saturating_sub(ceased) >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::{OnDown, Probe};

    fn check(rise: u32, fall: u32) -> Check {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
        Check { probe: Probe::Tcp, port: None, interval, timeout, rise, fall, start_up: false, on_down: OnDown::Reset }
    }

    /// What comes of answers, one a second: `+` is good, `-` is not; each standing by its first letter.
    fn story(start_up: bool, check: &Check, answers: &str) -> String {
        tale(if start_up { Standing::Up } else { Standing::Starting }, check, answers)
    }

    fn tale(standing: Standing, check: &Check, answers: &str) -> String {
        let mut vital = Vital::new(standing);
        let mut told = String::new();
        for (second, letter) in (0..).zip(answers.chars()) {
            let answer = if letter == '+' { Ok(()) } else { Err("no".to_owned()) };
            let before = vital.standing();
            let change = vital.observe(check, &answer, Duration::from_secs(second));
            assert_eq!(
                change.map(|change| (change.from, change.to)),
                (before != vital.standing()).then(|| (before, vital.standing()))
            );
            told.extend(vital.standing().name().chars().next());
        }
        told
    }

    #[test]
    fn rise_and_fall() {
        for (start_up, rise, fall, answers, expected) in [
            (false, 1, 1, "+-", "ud"),
            (false, 2, 3, "+++", "suu"),
            (false, 2, 3, "-++", "ddu"),
            (false, 3, 1, "++-+++", "ssdddu"),
            (true, 2, 3, "---", "ffd"),
            (true, 2, 3, "--+--+---", "ffuffuffd"),
            (true, 2, 3, "---+-++", "ffddddu"),
            // Two seconds have to pass, however it answers.
            (true, 1, 1, "-+++", "dduu"),
            (true, 1, 2, "--+++", "fdduu"),
        ] {
            assert_eq!(story(start_up, &check(rise, fall), answers), expected, "{rise} {fall} {answers}");
        }
    }

    /// It is news only that it is something else now.
    #[test]
    fn what_is_known_is_where_it_begins() {
        assert_eq!(tale(Standing::Down, &check(1, 1), "--+"), "ddu");
        assert_eq!(tale(Standing::Down, &check(1, 1), "++++"), "dduu");
        assert_eq!(tale(Standing::Failing, &check(2, 3), "---"), "ffd");
        assert_eq!(tale(Standing::Failing, &check(2, 3), "+"), "u");
    }

    proptest! {
        /// However it answers: one serves again only after `rise` good answers in a row and the quiet time, and ceases
        /// only after `fall` bad ones.
        #[test]
        fn nothing_changes_sooner_than_it_may(rise in 1..5u32, fall in 1..5u32, answers in "[+-]{0,60}", up: bool) {
            let told = story(up, &check(rise, fall), &answers);
            let serves = |letter: char| "uf".contains(letter);
            let (mut before, mut ceased) = (up, None::<usize>);
            for (place, letter) in told.chars().enumerate() {
                let row = |of: char, count: u32| answers[..=place].chars().rev().take_while(|one| *one == of).count() >= count as usize;
                if serves(letter) && !before {
                    prop_assert!(row('+', rise) && ceased.is_none_or(|ceased| place - ceased >= 2));
                }
                if !serves(letter) && before {
                    prop_assert!(row('-', fall));
                    ceased = Some(place);
                }
                // Nor later: bad answers in a row always end it.
                prop_assert!(!(serves(letter) && row('-', fall)));
                before = serves(letter);
            }
        }
    }
}
