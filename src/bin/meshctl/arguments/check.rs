//! How backends are asked whether they can serve: the options that services and ports have in common.

use clap::Args;
use clap::builder::PossibleValuesParser;
use meshd::config::{CHECK_TYPES, check_keys};
use meshd::control::protocol::{Check, Published, Span};
use meshd::mesh::OnDown;
use serde_json::{Map, Value, json};

use crate::meshctl::failure::Failure;
use crate::meshctl::specs;

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Health check")]
pub struct CheckArguments {
    /// How backends are asked whether they can serve: tcp, http, https, udp, dns, exec, or none: they are not
    #[arg(long = "check", value_name = "TYPE", value_parser = CHECK_TYPES, hide_possible_values = true)]
    check_type: Option<String>,

    /// From one question to the next; default 5s
    #[arg(long, value_name = "TIME", value_parser = specs::span)]
    check_interval: Option<Span>,

    /// Without an answer in that time a question has failed; default 2s
    #[arg(long, value_name = "TIME", value_parser = specs::span)]
    check_timeout: Option<Span>,

    /// Good answers in a row that make a backend up; default 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    check_rise: Option<u32>,

    /// Failures in a row that make it down; default 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    check_fall: Option<u32>,

    /// What a backend is taken to be until it was asked: down (default) or up
    #[arg(long, value_name = "HOW", value_parser = ["down", "up"], hide_possible_values = true)]
    check_start: Option<String>,

    /// What becomes of the connections of one that is down: reset (default), or keep, they go on
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(OnDown::ALL.iter().map(|one| one.name())))]
    #[arg(hide_possible_values = true)]
    check_on_down: Option<String>,

    /// The port that is asked; default: the target
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    check_port: Option<u16>,

    /// http, https: what is asked for; default /
    #[arg(long, value_name = "PATH")]
    check_path: Option<String>,

    /// http, https: the Host header, and the name in the certificate; default: the backend's address
    #[arg(long, value_name = "HOST")]
    check_host: Option<String>,

    /// http, https: the codes that are good, one or a range; default 200-399
    #[arg(long, value_name = "CODES", value_parser = specs::status)]
    check_status: Option<Published>,

    /// http, https: what the body has somewhere
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    check_body: Option<String>,

    /// https: whether the certificate has to be good; default true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    check_verify: Option<bool>,

    /// udp: what is sent; default: an empty datagram
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    check_send: Option<String>,

    /// udp: what the answer begins with; default: none is needed
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    check_expect: Option<String>,

    /// dns: the name that is asked for
    #[arg(long, value_name = "NAME")]
    check_name: Option<String>,

    /// dns: A (default), AAAA, NS, SOA or TXT
    #[arg(long, value_name = "RECORD")]
    check_record: Option<String>,

    /// exec: the program's absolute path, and then each of its arguments; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    check_command: Vec<String>,

    /// exec: whom it runs as; default nobody
    #[arg(long, value_name = "USER")]
    check_user: Option<String>,
}

impl CheckArguments {
    /// A check that is made of nothing else; `None`: no option speaks of one.
    pub fn whole(&self) -> Result<Option<Check>, Failure> {
        let said = self.said()?;
        match (said.keys().next(), &self.check_type) {
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Ok(Some(self.check())),
            (Some(key), None) => {
                let wanted = format!("{} is of a check, and --check says of which type", option(key));
                Err(Failure::usage(format!("{wanted}: one of {} would do", CHECK_TYPES.join(", "))))
            }
        }
    }

    /// What is to change, as a merge patch (RFC 7396): what is not named stays, but for what another type had.
    pub fn patch(&self) -> Result<Map<String, Value>, Failure> {
        let mut check = self.said()?;
        if check.is_empty() {
            return Ok(Map::new());
        }
        if let Some(kind) = &self.check_type {
            let own = check_keys(kind);
            let others = CHECK_TYPES.into_iter().flat_map(check_keys).filter(|key| !own.contains(key));
            check.extend(others.map(|key| (key.to_owned(), Value::Null)));
        }
        Ok(Map::from_iter([("check".to_owned(), check.into())]))
    }

    /// The keys that are said, all of the type, if that is said.
    fn said(&self) -> Result<Map<String, Value>, Failure> {
        let check = json!(self.check());
        let said = check.as_object().cloned().unwrap_or_default();
        let Some(kind) = &self.check_type else { return Ok(said) };
        let own = check_keys(kind);
        let Some(strange) = said.keys().find(|key| !own.contains(&key.as_str())) else { return Ok(said) };
        let mut known: Vec<String> = own.iter().filter(|key| **key != "type").map(|key| option(key)).collect();
        let last = known.pop().map(|last| format!("{} and {last} are", known.join(", ")));
        let known = last.unwrap_or_else(|| "nothing is".to_owned());
        Err(Failure::usage(format!("{} is nothing for a check of type {kind}; {known}", option(strange))))
    }

    fn check(&self) -> Check {
        let words = self.clone();
        Check {
            kind: words.check_type,
            interval: words.check_interval,
            timeout: words.check_timeout,
            rise: words.check_rise,
            fall: words.check_fall,
            start: words.check_start,
            on_down: words.check_on_down,
            port: words.check_port,
            path: words.check_path,
            host: words.check_host,
            status: words.check_status,
            body: words.check_body,
            verify: words.check_verify,
            send: words.check_send,
            expect: words.check_expect,
            name: words.check_name,
            record: words.check_record,
            command: (!words.check_command.is_empty()).then_some(words.check_command),
            user: words.check_user,
        }
    }
}

fn option(key: &str) -> String {
    format!("--check-{}", key.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use serde_json::json;

    use super::{CHECK_TYPES, CheckArguments, check_keys};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckArguments,
    }

    fn parsed(line: &str) -> CheckArguments {
        Line::try_parse_from(format!("set {line}").split_whitespace()).expect("a good line").check
    }

    #[test]
    fn every_key_of_every_type_has_an_option() {
        let command = Line::command();
        for key in CHECK_TYPES.into_iter().flat_map(check_keys).filter(|key| *key != "type") {
            let long = super::option(key);
            let named = |name: &str| long.strip_prefix("--") == Some(name);
            assert!(command.get_arguments().any(|argument| argument.get_long().is_some_and(named)), "{long}");
        }
    }

    #[test]
    fn nothing_is_said_unless_it_is_named() {
        assert_eq!(parsed("").whole().expect("it is good"), None);
        assert!(parsed("").patch().expect("it is good").is_empty());
        let patch = parsed("--check-verify=false --check-body --ok").patch().expect("it is good");
        assert_eq!(json!(patch), json!({ "check": { "verify": false, "body": "--ok" } }));
        let whole = parsed("--check tcp").whole().expect("it is good");
        assert_eq!(json!(whole), json!({ "type": "tcp" }));
    }

    #[track_caller]
    fn refused(line: &str, expected: &str) {
        let arguments = parsed(line);
        let failure = arguments.whole().expect_err(line);
        assert_eq!((failure.code as u8, failure.detail.as_str()), (64, expected));
        assert_eq!(arguments.patch().is_err(), line.contains("--check "), "{line}");
    }

    #[test]
    fn what_a_type_does_not_take_is_named() {
        let common = "--check-interval, --check-timeout, --check-rise, --check-fall, --check-start, --check-on-down";
        refused(
            "--check tcp --check-path /",
            &format!("--check-path is nothing for a check of type tcp; {common} and --check-port are"),
        );
        refused(
            "--check http --check-verify",
            &format!(
                "--check-verify is nothing for a check of type http; {common}, --check-port, --check-path, --check-host, \
                 --check-status and --check-body are"
            ),
        );
        refused("--check none --check-rise 1", "--check-rise is nothing for a check of type none; nothing is");
        refused(
            "--check-rise 1",
            "--check-rise is of a check, and --check says of which type: one of tcp, http, https, udp, dns, exec, none would do",
        );
    }
}
