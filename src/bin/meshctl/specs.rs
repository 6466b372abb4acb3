//! Things that the command line writes as one word: ports, backends, seconds.

use std::net::IpAddr;
use std::time::Duration;

use meshd::control::protocol::{Backend, Mask, Netns, Port, PortName, Published, Scheduling, Span, Spread, Way};

pub const STATES: [&str; 3] = ["enabled", "drain", "disabled"];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// As `docker service create --publish` has it: `20229:9092`, `53/udp`, `30000-30099/udp`.
pub fn port(text: &str) -> Result<Port, String> {
    let wrong = || "one such as 20229:9092, 53/udp or 30000-30099/udp would do".to_owned();
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) if PROTOCOLS.contains(&protocol) => (ports, Some(protocol.to_owned())),
        Some((_, protocol)) => return Err(format!("\"{protocol}\" is no protocol; tcp, udp or sctp would do")),
        None => (text, None),
    };
    let (published, target) = match ports.split_once(':') {
        Some((published, target)) => (published, Some(number(target).ok_or_else(wrong)?)),
        None => (ports, None),
    };
    let published = match published.split_once('-') {
        Some((first, last)) => {
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            Published::Text(format!("{first}-{last}"))
        }
        None => Published::Port(number(published).ok_or_else(wrong)?),
    };
    Ok(Port {
        published,
        target,
        protocol,
        scheduling: Scheduling::default(),
        way: Way::default(),
        check: None,
        spread: Spread::default(),
        backend: None,
    })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// A port that is there: `tcp/20229` as `service ls` prints it, or `20229/tcp`, or 20229 for TCP.
pub fn port_name(text: &str) -> Result<PortName, String> {
    let turned = match text.split_once('/') {
        Some((ports, protocol)) if PROTOCOLS.contains(&protocol) => format!("{protocol}/{ports}"),
        Some(_) => text.to_owned(),
        None => format!("tcp/{text}"),
    };
    turned.parse().map_err(|_| "one such as tcp/20229 or udp/30000-30099 would do".to_owned())
}

/// One that a client asks for: 20229, with its protocol or without.
pub fn published_port(text: &str) -> Result<(u16, Option<&'static str>), String> {
    let wrong = || "one such as 20229 or udp/53 would do".to_owned();
    let is_protocol = |word: &str| PROTOCOLS.into_iter().find(|protocol| *protocol == word);
    let (protocol, port) = match text.split_once('/') {
        None => (None, text),
        Some((one, other)) => match (is_protocol(one), is_protocol(other)) {
            (Some(protocol), _) => (Some(protocol), other),
            (None, Some(protocol)) => (Some(protocol), one),
            (None, None) => return Err(wrong()),
        },
    };
    Ok((number(port).ok_or_else(wrong)?, protocol))
}

/// `ADDRESS[,weight=N][,upper_threshold=N][,lower_threshold=N][,node=NAME][,netns=NAME][,state=STATE]`
pub fn backend(text: &str) -> Result<Backend, String> {
    let mut words = text.split(',');
    let address: IpAddr = words.next().unwrap_or_default().parse().map_err(|_| {
        "it begins with an IPv4 or IPv6 address, such as in 10.255.0.33,weight=2,netns=kafka-1".to_owned()
    })?;
    let mut backend = Backend {
        address: address.to_string(),
        weight: None,
        upper_threshold: None,
        lower_threshold: None,
        state: None,
        backup: None,
        node: None,
        netns: None,
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "weight" => backend.weight = Some(weight(value)?),
            "upper_threshold" => backend.upper_threshold = Some(threshold(value)?),
            "lower_threshold" => backend.lower_threshold = Some(threshold(value)?),
            "netns" => backend.netns = Some(netns(value)?),
            "node" if !value.is_empty() => backend.node = Some(value.to_owned()),
            "state" if STATES.contains(&value) => backend.state = Some(value.to_owned()),
            "backup" if value.is_empty() => backend.backup = Some(true),
            "state" => return Err(format!("\"{value}\" is no state; {} would do", STATES.join(", "))),
            _ => {
                return Err(format!(
                    "\"{key}\" is nothing that a backend has; \
                     weight, upper_threshold, lower_threshold, node, netns and state are"
                ));
            }
        }
    }
    Ok(backend)
}

pub fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= 65535);
    weight.ok_or_else(|| format!("\"{text}\" is no weight; a number from 0 to 65535 would do"))
}

/// As far as the kernel can count; the daemon says what goes together.
pub fn threshold(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no threshold; a number of connections would do"))
}

/// A name under /run/netns, a path, or a process's number.
pub fn netns(text: &str) -> Result<Netns, String> {
    match text.parse() {
        Ok(pid) => Ok(Netns::Pid(pid)),
        Err(_) if text.is_empty() => Err("a namespace's name, its path or a process's number would do".to_owned()),
        Err(_) => Ok(Netns::Name(text.to_owned())),
    }
}

/// 24 or 255.255.255.0
pub fn mask(text: &str) -> Result<Mask, String> {
    match text.parse::<u8>() {
        Ok(length @ 1..=32) => Ok(Mask::Length(length)),
        _ if text.parse::<std::net::Ipv4Addr>().is_ok() => Ok(Mask::Netmask(text.to_owned())),
        _ => Err("a prefix's length or a netmask would do, such as 24 or 255.255.255.0".to_owned()),
    }
}

/// 30, 30s, 500ms, 2m; 300 seconds are the longest that the daemon waits.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        _ => f64::NAN,
    };
    let seconds = digits.parse::<f64>().map_or(f64::NAN, |number| number * factor);
    if (0.0..=300.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("seconds from 0 to 300 would do, such as 30, 30s, 500ms or 2m".to_owned())
    }
}

/// 5, 5s, 500ms, 1m; the daemon says how long it may be.
pub fn span(text: &str) -> Result<Span, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match (number, &text[digits.len()..]) {
        (Some(seconds), "") => Ok(Span::Seconds(seconds)),
        (Some(_), "ms" | "s" | "m" | "h") => Ok(Span::Text(text.to_owned())),
        _ => Err("one such as 5s, 500ms or 1m would do".to_owned()),
    }
}

/// 200, or 200-299.
pub fn status(text: &str) -> Result<Published, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse().ok().filter(|code| (100..600).contains(code));
    match (code(first), code(last)) {
        (Some(code), Some(_)) if !text.contains('-') => Ok(Published::Port(code)),
        (Some(first), Some(last)) if first <= last => Ok(Published::Text(text.to_owned())),
        _ => Err("a code from 100 to 599 or a range such as 200-299 would do".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn says<T: meshd::control::protocol::Message>(parsed: Result<T, String>, expected: Value) {
        assert_eq!(parsed.map(|spec| json!(spec)), Ok(expected));
    }

    #[track_caller]
    fn refused<T: Debug>(parsed: Result<T, String>, word: &str) {
        let error = parsed.expect_err("is refused");
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn ports_are_written_as_for_docker() {
        says(port("20229:9092"), json!({ "published": 20229, "target": 9092 }));
        says(port("20229:9092/tcp"), json!({ "published": 20229, "target": 9092, "protocol": "tcp" }));
        says(port("53/udp"), json!({ "published": 53, "protocol": "udp" }));
        says(port("30000-30099/udp"), json!({ "published": "30000-30099", "protocol": "udp" }));
        for text in ["", "0", "65536", "x:1", "1:", "1:0", "1-", "-1", "1:2:3"] {
            refused(port(text), "20229:9092");
        }
        refused(port("1/icmp"), "\"icmp\" is no protocol");
    }

    #[test]
    fn a_port_is_named_in_either_order() {
        for text in ["tcp/20229", "20229/tcp", "20229"] {
            assert_eq!(port_name(text).map(|name| name.to_string()), Ok("tcp/20229".to_owned()));
        }
        assert_eq!(port_name("30000-30099/udp").map(|name| name.to_string()), Ok("udp/30000-30099".to_owned()));
        for text in ["", "tcp", "tcp/0", "tcp/2-1", "icmp/1", "tcp/1/2", "../../x"] {
            refused(port_name(text), "tcp/20229");
        }
    }

    #[test]
    fn a_backend_is_one_word() {
        says(backend("10.255.0.33"), json!({ "address": "10.255.0.33" }));
        says(
            backend("fd00:255::33,weight=2,netns=kafka-1,state=drain"),
            json!({ "address": "fd00:255::33", "weight": 2, "netns": "kafka-1", "state": "drain" }),
        );
        says(
            backend("10.255.0.33,upper_threshold=100,lower_threshold=80"),
            json!({ "address": "10.255.0.33", "upper_threshold": 100, "lower_threshold": 80 }),
        );
        refused(backend("10.255.0.33,upper_threshold=many"), "number of connections");
        says(backend("10.255.0.33,netns=4711"), json!({ "address": "10.255.0.33", "netns": 4711 }));
        refused(backend("kafka-1"), "IPv4 or IPv6");
        refused(backend("10.255.0.33,weight=65536"), "65535");
        refused(backend("10.255.0.33,state=off"), "enabled, drain, disabled");
        refused(backend("10.255.0.33,netns="), "namespace");
        refused(backend("10.255.0.33,wieght=1"), "\"wieght\"");
        refused(backend("10.255.0.33,"), "\"\"");
    }

    #[test]
    fn masks_are_lengths_or_netmasks() {
        says(mask("24"), json!(24));
        says(mask("255.255.255.0"), json!("255.255.255.0"));
        for text in ["0", "33", "x", ""] {
            refused(mask(text), "24");
        }
    }

    #[test]
    fn spans_are_seconds_or_have_units() {
        says(span("5"), json!(5));
        for text in ["5s", "500ms", "1m", "1h"] {
            says(span(text), json!(text));
        }
        for text in ["", "s", "-1s", "+1s", "1.5s", "1d", "5 s"] {
            refused(span(text), "500ms");
        }
    }

    #[test]
    fn statuses_are_codes_or_ranges() {
        says(status("204"), json!(204));
        says(status("200-299"), json!("200-299"));
        for text in ["", "99", "600", "299-200", "200-", "2xx"] {
            refused(status(text), "200-299");
        }
    }

    #[test]
    fn seconds_have_units() {
        for (text, milliseconds) in [("30", 30_000), ("1.5s", 1_500), ("500ms", 500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "301", "1h", "inf", "NaN", "1e9", "6m"] {
            refused(seconds(text), "30s");
        }
    }
}
