//! How a port's clients are spread over its backends, beside what its scheduler does.

use std::time::Duration;

/// Who of the backends gets clients when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    pub prefer: Prefer,
    /// One that comes up has a tenth of its share at first, and all of it after so long; zero: at once.
    pub slow_start: Duration,
    /// How long one that is drained or taken away may keep the connections that it has; `None`: as long as is usual.
    pub drain: Option<Duration>,
    /// Backups help while less of the others' weight is up.
    pub quorum: Quorum,
    /// `None`: backups, if there are any, else a refusal.
    pub on_empty: Option<OnEmpty>,
}

/// Whom clients are sent to first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    #[default]
    Any,
    /// Those of this node, as long as one of them is well.
    Local,
}

impl Prefer {
    pub const ALL: [Prefer; 2] = [Prefer::Any, Prefer::Local];

    pub fn name(self) -> &'static str {
        match self {
            Prefer::Any => "any",
            Prefer::Local => "local",
        }
    }
}

/// Shares of the weight, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Backups begin below; 0: when nobody is left.
    pub percent: u8,
    /// They end when there is so much more, so that they do not come and go all the time.
    pub hysteresis: u8,
}

impl Default for Quorum {
    fn default() -> Quorum {
        Quorum { percent: 0, hysteresis: 10 }
    }
}

/// What a client meets where nobody takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEmpty {
    /// A refusal, at once: of TCP a reset, else ICMP's port unreachable.
    Reset,
    /// Silence.
    Drop,
    /// A backup; where all of those are down as well, a refusal.
    Fallback,
}

impl OnEmpty {
    pub const ALL: [OnEmpty; 3] = [OnEmpty::Reset, OnEmpty::Drop, OnEmpty::Fallback];

    pub fn name(self) -> &'static str {
        match self {
            OnEmpty::Reset => "reset",
            OnEmpty::Drop => "drop",
            OnEmpty::Fallback => "fallback",
        }
    }
}
