//! How IPVS chooses a backend: the options that services and ports have in common.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use meshd::control::protocol::{Mask, Scheduling};
use meshd::mesh::Scheduler;
use serde_json::{Map, Value, json};

use crate::meshctl::specs;

const FLAGS: [&str; 4] = ["sh-port", "sh-fallback", "mh-port", "mh-fallback"];

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Scheduling, see ipvsadm(8)")]
pub struct SchedulingArguments {
    /// How a connection's backend is chosen; default rr
    #[arg(short, long, value_name = "NAME", value_parser = schedulers(), hide_possible_values = true)]
    scheduler: Option<String>,

    /// sh-port, sh-fallback, mh-port or mh-fallback; may be repeated
    #[arg(long, value_name = "FLAG", value_parser = FLAGS, hide_possible_values = true)]
    scheduler_flag: Vec<String>,

    /// Seconds that a client stays with its backend; 0: not at all
    #[arg(long, value_name = "SECONDS")]
    persistence: Option<u32>,

    /// Clients alike under it are one client: 24 or 255.255.255.0
    #[arg(long, value_name = "MASK", value_parser = specs::mask)]
    persistence_mask: Option<Mask>,

    /// The same for IPv6: a prefix's length
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u8).range(1..=128))]
    persistence_mask6: Option<u8>,

    /// Schedule every datagram by itself (UDP, one way)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    one_packet: Option<bool>,
}

fn schedulers() -> PossibleValuesParser {
    PossibleValuesParser::new(Scheduler::ALL.iter().map(|scheduler| scheduler.name()))
}

impl SchedulingArguments {
    pub fn scheduling(&self) -> Scheduling {
        let flags = &self.scheduler_flag;
        Scheduling {
            scheduler: self.scheduler.clone(),
            scheduler_flags: (!flags.is_empty()).then(|| flags.clone()),
            persistence: self.persistence,
            persistence_mask: self.persistence_mask.clone(),
            persistence_mask6: self.persistence_mask6,
            one_packet: self.one_packet,
        }
    }
}

/// Back to what it is by default, or to the service's.
#[derive(Args, Clone, Debug, Default)]
pub struct UnsetArguments {
    /// Back to the default, for a port to the service's; may be repeated
    #[arg(long, value_name = "KEY", value_enum)]
    unset: Vec<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Key {
    Scheduler,
    SchedulerFlags,
    Persistence,
    PersistenceMask,
    PersistenceMask6,
    OnePacket,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Key::Scheduler => "scheduler",
            Key::SchedulerFlags => "scheduler_flags",
            Key::Persistence => "persistence",
            Key::PersistenceMask => "persistence_mask",
            Key::PersistenceMask6 => "persistence_mask6",
            Key::OnePacket => "one_packet",
        }
    }
}

/// What is to change, as a merge patch (RFC 7396): what is not named stays.
pub fn patch(scheduling: &SchedulingArguments, unset: &UnsetArguments) -> Map<String, Value> {
    let mut patch = match json!(scheduling.scheduling()) {
        Value::Object(patch) => patch,
        _ => Map::new(),
    };
    for key in &unset.unset {
        patch.insert(key.name().to_owned(), Value::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::{SchedulingArguments, UnsetArguments, patch};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        scheduling: SchedulingArguments,
        #[command(flatten)]
        unset: UnsetArguments,
    }

    #[track_caller]
    fn check(line: &str, expected: Value) {
        let line = Line::try_parse_from(format!("set {line}").split_whitespace()).expect("a good line");
        assert_eq!(Value::Object(patch(&line.scheduling, &line.unset)), expected);
    }

    #[test]
    fn only_what_is_named_changes() {
        check("", json!({}));
        check("--scheduler wrr", json!({ "scheduler": "wrr" }));
        check(
            "-s sh --scheduler-flag sh-port --scheduler-flag sh-fallback --one-packet",
            json!({ "scheduler": "sh", "scheduler_flags": ["sh-port", "sh-fallback"], "one_packet": true }),
        );
        check(
            "--persistence 60 --persistence-mask 24 --persistence-mask6 64 --one-packet=false",
            json!({ "persistence": 60, "persistence_mask": 24, "persistence_mask6": 64, "one_packet": false }),
        );
        check("--unset scheduler-flags --unset persistence-mask6", {
            json!({ "scheduler_flags": null, "persistence_mask6": null })
        });
    }
}
