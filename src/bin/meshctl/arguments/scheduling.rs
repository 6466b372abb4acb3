//! How IPVS chooses a backend: the options that services and ports have in common.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use meshd::control::protocol::{Mask, Scheduling, Span, Spread, Way};
use meshd::mesh::{ClientAddress, Mode, OnEmpty, Prefer, Scheduler};
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

    /// Whom backends see: snat, the node that the client came by (default), or preserve, the client
    #[arg(long, value_name = "WHOM", value_parser = client_addresses(), hide_possible_values = true)]
    #[arg(help_heading = "Publishing")]
    client_address: Option<String>,

    /// Where ports are published: ingress, on every node (default), or host, where a backend runs, for those only
    #[arg(long, value_name = "WHERE", value_parser = modes(), hide_possible_values = true)]
    #[arg(help_heading = "Publishing")]
    mode: Option<String>,

    /// Publish at this address of the node, or for what comes in by this link; may be repeated
    #[arg(long, value_name = "WHERE")]
    #[arg(help_heading = "Publishing")]
    bind: Vec<String>,

    /// Let in the hosts of this network, and no others; may be repeated
    #[arg(long, value_name = "NETWORK")]
    #[arg(help_heading = "Publishing")]
    allow: Vec<String>,

    /// Let in no host of this network; may be repeated
    #[arg(long, value_name = "NETWORK")]
    #[arg(help_heading = "Publishing")]
    deny: Vec<String>,

    /// Whom clients are sent to first: any (default), or local, the backends of this node
    #[arg(long, value_name = "WHOM", value_parser = PossibleValuesParser::new(Prefer::ALL.iter().map(|one| one.name())))]
    #[arg(hide_possible_values = true, help_heading = SPREAD)]
    prefer: Option<String>,

    /// How long the weight of one that comes up rises, such as 20s
    #[arg(long, value_name = "TIME", help_heading = SPREAD)]
    slow_start: Option<String>,

    /// How long one that is drained or taken away may keep its connections; default 30s
    #[arg(long, value_name = "TIME", help_heading = SPREAD)]
    drain: Option<String>,

    /// Backups help while less of the others' weight is up, in hundredths; 0: when nobody is left
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = SPREAD)]
    quorum: Option<u8>,

    /// And until there is so much more; default 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = SPREAD)]
    hysteresis: Option<u8>,

    /// What clients meet where nobody takes them: reset, drop, or fallback, a backup
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(OnEmpty::ALL.iter().map(|one| one.name())))]
    #[arg(hide_possible_values = true, help_heading = SPREAD)]
    on_empty: Option<String>,
}

const SPREAD: &str = "Who gets clients when";

fn client_addresses() -> PossibleValuesParser {
    PossibleValuesParser::new(ClientAddress::ALL.iter().map(|one| one.name()))
}

fn modes() -> PossibleValuesParser {
    PossibleValuesParser::new(Mode::ALL.iter().map(|one| one.name()))
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

    pub fn way(&self) -> Way {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        Way {
            client_address: self.client_address.clone(),
            mode: self.mode.clone(),
            bind: list(&self.bind),
            allow: list(&self.allow),
            deny: list(&self.deny),
        }
    }
}

impl SchedulingArguments {
    pub fn spread(&self) -> Spread {
        let span = |text: &Option<String>| text.clone().map(Span::Text);
        Spread {
            prefer: self.prefer.clone(),
            slow_start: span(&self.slow_start),
            drain: span(&self.drain),
            quorum: self.quorum,
            hysteresis: self.hysteresis,
            on_empty: self.on_empty.clone(),
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
    ClientAddress,
    Mode,
    Bind,
    Allow,
    Deny,
    Check,
    Prefer,
    SlowStart,
    Drain,
    Quorum,
    Hysteresis,
    OnEmpty,
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
            Key::ClientAddress => "client_address",
            Key::Mode => "mode",
            Key::Bind => "bind",
            Key::Allow => "allow",
            Key::Deny => "deny",
            Key::Check => "check",
            Key::Prefer => "prefer",
            Key::SlowStart => "slow_start",
            Key::Drain => "drain",
            Key::Quorum => "quorum",
            Key::Hysteresis => "hysteresis",
            Key::OnEmpty => "on_empty",
        }
    }
}

/// What is to change, as a merge patch (RFC 7396): what is not named stays.
pub fn patch(scheduling: &SchedulingArguments, unset: &UnsetArguments) -> Map<String, Value> {
    let mut patch = Map::new();
    for said in [json!(scheduling.scheduling()), json!(scheduling.way()), json!(scheduling.spread())] {
        patch.extend(said.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    }
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
        check("--mode host --client-address preserve", json!({ "mode": "host", "client_address": "preserve" }));
        check(
            "--prefer local --slow-start 20s --drain 5m --quorum 50 --hysteresis 5 --on-empty fallback --unset deny",
            json!({ "prefer": "local", "slow_start": "20s", "drain": "5m", "quorum": 50, "hysteresis": 5,
                    "on_empty": "fallback", "deny": null }),
        );
        check("--unset slow-start --unset on-empty", json!({ "slow_start": null, "on_empty": null }));
        check("--allow 10.0.0.0/8 --allow ::/0 --unset bind", json!({ "allow": ["10.0.0.0/8", "::/0"], "bind": null }));
        check("--unset scheduler-flags --unset persistence-mask6", {
            json!({ "scheduler_flags": null, "persistence_mask6": null })
        });
    }
}
