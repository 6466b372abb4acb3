//! `check`: how a service's or a port's backends are asked whether they can serve.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::mesh::{Check, DnsProbe, DnsRecord, ExecProbe, HttpProbe, OnDown, Probe, Tls, UdpProbe};

use super::error::At;
use super::reader::{Section, choice, integer, literal, quoted};

pub const TYPES: [&str; 7] = ["tcp", "http", "https", "udp", "dns", "exec", "none"];
/// Of every check.
const COMMON: [&str; 8] = ["type", "interval", "timeout", "rise", "fall", "start", "on_down", "port"];
const HTTP: [&str; 4] = ["path", "host", "status", "body"];
const HTTPS: [&str; 1] = ["verify"];
const UDP: [&str; 2] = ["send", "expect"];
const DNS: [&str; 2] = ["name", "record"];
const EXEC: [&str; 2] = ["command", "user"];

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
/// Bytes of a datagram that fits any link.
const LONGEST_PAYLOAD: usize = 1200;

/// What a service or a port says of it, over what it inherits; the place is that of the `check`.
#[derive(Clone)]
pub(super) struct CheckRead(Option<At<Check>>);

pub(super) fn read(section: &Section<'_>, inherited: Option<&CheckRead>) -> CheckRead {
    if !section.has("check") {
        return inherited.cloned().unwrap_or(CheckRead(None));
    }
    let all: Vec<&str> =
        [&COMMON[..], &HTTP, &HTTPS, &UDP, &DNS, &EXEC].iter().flat_map(|keys| keys.iter().copied()).collect();
    let check = section.section("check", "[service.check]", &all);
    if !check.exists() {
        return CheckRead(None);
    }
    let types = choice(TYPES.map(quoted));
    if !check.has("type") {
        check.lacks("type", &types);
    }
    let Some(At { value: kind, .. }) = check.text("type", types, |text| TYPES.into_iter().find(|one| *one == text))
    else {
        return CheckRead(None);
    };
    if kind == "none" {
        return CheckRead(None);
    }
    only_of_its_type(&check, kind, &all);
    let interval = check.duration("interval", INTERVAL);
    let timeout = check.duration("timeout", TIMEOUT);
    let port = check.number("port", "a port", 1..=65535).map(|port| port.value);
    let rise = check.number("rise", "a number", 1..=1000).map_or(DEFAULT_RISE, |rise| rise.value);
    let fall = check.number("fall", "a number", 1..=1000).map_or(DEFAULT_FALL, |fall| fall.value);
    let start = check.text("start", "\"down\" or \"up\"", |text| match text {
        "down" => Some(false),
        "up" => Some(true),
        _ => None,
    });
    let names = choice(OnDown::ALL.map(|one| quoted(one.name())));
    let on_down = check.text("on_down", names, |text| OnDown::ALL.into_iter().find(|one| one.name() == text));
    let on_down = on_down.map_or(OnDown::default(), |on_down| on_down.value);
    let every = interval.map_or(DEFAULT_INTERVAL, |interval| interval.value);
    // One question is over before the next: so a backend has one at a time.
    let patience = timeout.map_or(DEFAULT_TIMEOUT.min(every), |timeout| timeout.value);
    if let Some(At { at, .. }) = timeout.filter(|timeout| timeout.value > every) {
        let (found, every) = (written(patience), written(every));
        check.report(at, format!("`timeout` is \"{found}\", and `interval` {every}; at most that would do"));
    }
    let Some(probe) = probe(&check, kind) else { return CheckRead(None) };
    let start_up = start.is_some_and(|start| start.value);
    let value = Check { probe, port, interval: every, timeout: patience, rise, fall, start_up, on_down };
    CheckRead(Some(At { value, at: check.at }))
}

impl CheckRead {
    /// What a port of that kind has of it.
    pub fn of(&self, section: &Section<'_>, is_range: bool) -> Option<Check> {
        let At { value, at } = self.0.as_ref()?;
        if is_range && value.port.is_none() {
            let trouble = "`check` has no `port`, and is of a range of ports";
            section.findings.report_once(*at, format!("{trouble}; the one to ask would do"));
        }
        Some(value.clone())
    }
}

/// The keys of a check of that type.
pub fn keys_of(kind: &str) -> Vec<&'static str> {
    let own: Vec<&str> = match kind {
        // It says that there is no check.
        "none" => return vec!["type"],
        "http" => HTTP.to_vec(),
        "https" => [&HTTP[..], &HTTPS].concat(),
        "udp" => UDP.to_vec(),
        "dns" => DNS.to_vec(),
        "exec" => EXEC.to_vec(),
        _ => Vec::new(),
    };
    [&COMMON[..], &own].concat()
}

/// Reports the keys of other types.
fn only_of_its_type(check: &Section<'_>, kind: &str, all: &[&str]) {
    let known = keys_of(kind);
    for key in all.iter().filter(|key| !known.contains(key)) {
        if let Some(at) = check.place(key) {
            let known = known.join(", ");
            check.report(at, format!("`{key}` is no key of a check of type \"{kind}\"; its keys: {known}"));
        }
    }
}

fn probe(check: &Section<'_>, kind: &str) -> Option<Probe> {
    Some(match kind {
        "tcp" => Probe::Tcp,
        "http" | "https" => Probe::Http(http(check, kind == "https")),
        "udp" => Probe::Udp(udp(check)),
        "dns" => Probe::Dns(dns(check)?),
        _ => Probe::Exec(exec(check)?),
    })
}

fn http(check: &Section<'_>, tls: bool) -> HttpProbe {
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let path = check.text("path", "a path such as \"/healthz\"", |text| {
        (text.starts_with('/') && text.len() <= 2000 && visible(text)).then(|| text.to_owned())
    });
    let host = check.text("host", "a host's name", |text| {
        ((1..=255).contains(&text.len()) && visible(text) && !text.contains('/')).then(|| text.to_owned())
    });
    let status = check.read("status", "a code from 100 to 599 or a range such as \"200-399\"", |value| match value {
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some(code(first.trim().parse().ok()?)?..=code(last.trim().parse().ok()?)?).filter(|range| !range.is_empty())
        }
        _ => integer(value).and_then(code).map(|code| code..=code),
    });
    let body = check.text("body", "a text of 1 to 1000 bytes that the body has", |text| {
        (1..=1000).contains(&text.len()).then(|| text.to_owned())
    });
    let verify = check.boolean("verify").is_none_or(|verify| verify.value);
    HttpProbe {
        tls: tls.then_some(Tls { verify }),
        path: path.map_or("/".to_owned(), |path| path.value),
        host: host.map(|host| host.value),
        // What HAProxy takes to be good.
        status: status.map_or(200..=399, |status| status.value),
        body: body.map(|body| body.value),
    }
}

fn code(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|code| (100..600).contains(code))
}

fn udp(check: &Section<'_>) -> UdpProbe {
    let payload = |key| {
        let wanted = format!("a text of at most {LONGEST_PAYLOAD} bytes");
        let text = check.text(key, wanted, |text| (text.len() <= LONGEST_PAYLOAD).then(|| text.as_bytes().to_vec()));
        text.map(|text| text.value)
    };
    UdpProbe { send: payload("send").unwrap_or_default(), expect: payload("expect").filter(|text| !text.is_empty()) }
}

fn dns(check: &Section<'_>) -> Option<DnsProbe> {
    if !check.has("name") {
        check.lacks("name", "the name to ask for");
    }
    let record = check.text("record", choice(DnsRecord::ALL.map(|record| quoted(record.name()))), |text| {
        DnsRecord::ALL.into_iter().find(|record| record.name().eq_ignore_ascii_case(text))
    });
    let name = check.text("name", "a domain name such as \"example.net\", or \".\"", |text| {
        is_domain(text).then(|| text.to_owned())
    })?;
    Some(DnsProbe { name: name.value, record: record.map_or(DnsRecord::A, |record| record.value) })
}

/// RFC 1035, section 2.3.4.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
    text == "." || text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn exec(check: &Section<'_>) -> Option<ExecProbe> {
    let wanted = "a list such as [\"/usr/local/bin/check\", \"--fast\"]: an absolute path and its arguments";
    if !check.has("command") {
        check.lacks("command", wanted);
    }
    let user = check.text("user", "a user's name", |text| {
        let fits = (1..=32).contains(&text.len())
            && !text.contains(|letter: char| ":/".contains(letter) || letter.is_control());
        fits.then(|| text.to_owned())
    });
    let At { value: array, at } = check.array("command", wanted)?;
    let word = |value: &DeValue<'_>| value.as_str().filter(|word| !word.contains('\0')).map(str::to_owned);
    let words: Option<Vec<String>> = array.iter().map(|element| word(element.get_ref())).collect();
    let Some(command) = words.filter(|words| words.first().is_some_and(|program| program.starts_with('/'))) else {
        let found = array.iter().map(|element| literal(element.get_ref())).collect::<Vec<_>>().join(", ");
        check.report(at, format!("`command` is [{found}]; {wanted} would do"));
        return None;
    };
    Some(ExecProbe { command, user: user.map_or("nobody".to_owned(), |user| user.value) })
}

/// Units of time, by which a duration may be written.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// `"500ms"`, `"5s"`, `"1m"`, `"1h"`; a bare number is one of seconds.
pub(super) fn duration(value: &DeValue<'_>) -> Option<Duration> {
    let DeValue::String(text) = value else {
        return integer(value).and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, milliseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(*milliseconds)?))
}

/// In the largest unit that it is whole in.
pub fn written(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let whole = |(_, unit): &&(&str, u64)| milliseconds % unit == 0 && milliseconds >= *unit;
    let (name, unit) = UNITS.iter().rev().find(whole).unwrap_or(&UNITS[0]);
    format!("{}{name}", milliseconds / unit)
}
