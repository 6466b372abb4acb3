//! `prefer`, `slow_start`, `drain`, `quorum`, `hysteresis` and `on_empty`: which of a port's backends gets clients when.

use std::time::Duration;

use crate::mesh::{Backend, Check, OnEmpty, Prefer, Quorum, Scheduler, Spread};

use super::error::At;
use super::reader::{Section, choice, quoted};

const LONGEST_START: Duration = Duration::from_secs(3600);
/// The longest that a connection may be waited for.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);
/// Those that ask for weights when they choose. To sh and mh a weight is a share of the clients that there may ever be, and they would
/// all be sent elsewhere with every step.
const WEIGHTED: [Scheduler; 4] = [
    Scheduler::WeightedRoundRobin,
    Scheduler::WeightedLeastConnection,
    Scheduler::ShortestExpectedDelay,
    Scheduler::NeverQueue,
];

/// What a service or a port says of it, over what it inherits.
#[derive(Clone, Copy, Default)]
pub(super) struct SpreadRead {
    prefer: Option<Prefer>,
    slow_start: Option<At<Duration>>,
    drain: Option<At<Duration>>,
    quorum: Option<At<u8>>,
    hysteresis: Option<At<u8>>,
    on_empty: Option<At<OnEmpty>>,
}

pub(super) fn read(section: &Section<'_>, inherited: SpreadRead) -> SpreadRead {
    let names = choice(Prefer::ALL.map(|one| quoted(one.name())));
    let prefer = section.text("prefer", names, |text| Prefer::ALL.into_iter().find(|one| one.name() == text));
    let names = choice(OnEmpty::ALL.map(|one| quoted(one.name())));
    let on_empty = section.text("on_empty", names, |text| OnEmpty::ALL.into_iter().find(|one| one.name() == text));
    let percent = |key| section.number::<u8>(key, "hundredths of the weight", 0..=100);
    SpreadRead {
        prefer: prefer.map(|prefer| prefer.value).or(inherited.prefer),
        slow_start: section.duration("slow_start", Duration::ZERO..=LONGEST_START).or(inherited.slow_start),
        drain: section.duration("drain", Duration::ZERO..=LONGEST_DRAIN).or(inherited.drain),
        quorum: percent("quorum").or(inherited.quorum),
        hysteresis: percent("hysteresis").or(inherited.hysteresis),
        on_empty: on_empty.or(inherited.on_empty),
    }
}

impl SpreadRead {
    pub fn value(&self) -> Spread {
        let default = Quorum::default();
        Spread {
            prefer: self.prefer.unwrap_or_default(),
            slow_start: self.slow_start.map(|slow| slow.value).unwrap_or_default(),
            drain: self.drain.map(|drain| drain.value),
            quorum: Quorum {
                percent: self.quorum.map_or(default.percent, |quorum| quorum.value),
                hysteresis: self.hysteresis.map_or(default.hysteresis, |hysteresis| hysteresis.value),
            },
            on_empty: self.on_empty.map(|on_empty| on_empty.value),
        }
    }

    /// Reports what would have no effect.
    pub fn goes_together(
        &self,
        section: &Section<'_>,
        scheduler: Scheduler,
        check: Option<&Check>,
        backends: &[Backend],
    ) {
        let report = |at, message: String| section.findings.report_once(at, message);
        let has_backup = backends.iter().any(|backend| backend.backup);
        // What a service says of all its ports is no mistake of one that has backends of its own.
        let says = |key| section.has(key) || !section.has("backend");
        let quorum = self.quorum.filter(|quorum| quorum.value > 0);
        if let Some(At { value: slow, at }) = self.slow_start
            && !slow.is_zero()
        {
            if !WEIGHTED.contains(&scheduler) {
                let names = choice(WEIGHTED.map(|one| quoted(&one.to_string())));
                let trouble = format!("`slow_start` raises weights, which scheduler \"{scheduler}\" does not go by");
                report(at, format!("{trouble}; {names} would do"));
            }
            if check.is_none() {
                report(
                    at,
                    "`slow_start` begins when a check finds a backend well, and there is no `check`; one would do"
                        .to_owned(),
                );
            }
        }
        if let Some(At { at, .. }) = quorum
            && !has_backup
            && says("quorum")
        {
            report(
                at,
                "`quorum` is when backups help, and no backend is one; `backup = true` for one would do".to_owned(),
            );
        }
        if let Some(At { at, .. }) = self.hysteresis
            && quorum.is_none()
            && (section.has("hysteresis") || !section.has("quorum"))
        {
            report(at, "`hysteresis` is beyond a `quorum`, and there is none; one would do".to_owned());
        }
        match self.on_empty {
            Some(At { value: OnEmpty::Fallback, at }) if !has_backup && says("on_empty") => {
                report(
                    at,
                    "`on_empty` is \"fallback\", and no backend is one; `backup = true` for one would do".to_owned(),
                );
            }
            Some(At { value: value @ (OnEmpty::Reset | OnEmpty::Drop), at }) if has_backup && quorum.is_none() => {
                let trouble =
                    format!("`on_empty` is \"{}\" and there is no `quorum`, so backups would never help", value.name());
                report(at, format!("{trouble}; \"fallback\", or a `quorum`, would do"));
            }
            _ => {}
        }
    }
}
