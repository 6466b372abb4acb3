//! `check`: every type, what is refused, and what a port has of its service's.

use std::time::Duration;

use meshd::config::Config;
use meshd::mesh::{Check, DnsProbe, DnsRecord, ExecProbe, HttpProbe, OnDown, Probe, Tls, UdpProbe};

use super::{INGRESS, check, good};

/// A service of one port with that check, which stands in line 6; INGRESS has three lines.
fn with(checked: &str) -> String {
    format!(
        "{INGRESS}[[service]]\nname = 'a'\ncheck = {checked}\nport = [{{ published = 80 }}]\nbackend = [{{ address = '10.255.0.33' }}]\n"
    )
}

fn read(checked: &str) -> Option<Check> {
    good(&with(checked)).services[0].ports[0].check.clone()
}

fn usual(probe: Probe) -> Check {
    let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
    Check { probe, port: None, interval, timeout, rise: 2, fall: 3, start_up: false, on_down: OnDown::Reset }
}

fn http() -> HttpProbe {
    HttpProbe { tls: None, path: "/".into(), host: None, status: 200..=399, body: None }
}

#[test]
fn every_type_with_its_defaults_and_with_all_its_keys() {
    let https = |verify| HttpProbe { tls: Some(Tls { verify }), ..http() };
    let text = |text: &str| text.as_bytes().to_vec();
    for (checked, expected) in [
        ("{ type = 'tcp' }", usual(Probe::Tcp)),
        ("{ type = 'http' }", usual(Probe::Http(http()))),
        ("{ type = 'https' }", usual(Probe::Http(https(true)))),
        ("{ type = 'https', verify = false }", usual(Probe::Http(https(false)))),
        (
            "{ type = 'http', path = '/healthz?full', host = 'a.example', status = 204, body = 'ok' }",
            usual(Probe::Http(HttpProbe {
                path: "/healthz?full".into(),
                host: Some("a.example".into()),
                status: 204..=204,
                body: Some("ok".into()),
                ..http()
            })),
        ),
        ("{ type = 'http', status = '200-204' }", usual(Probe::Http(HttpProbe { status: 200..=204, ..http() }))),
        ("{ type = 'udp' }", usual(Probe::Udp(UdpProbe { send: vec![], expect: None }))),
        (
            "{ type = 'udp', send = \"ping\\r\\n\", expect = 'pong' }",
            usual(Probe::Udp(UdpProbe { send: text("ping\r\n"), expect: Some(text("pong")) })),
        ),
        (
            "{ type = 'dns', name = 'example.net' }",
            usual(Probe::Dns(DnsProbe { name: "example.net".into(), record: DnsRecord::A })),
        ),
        (
            "{ type = 'dns', name = '.', record = 'soa' }",
            usual(Probe::Dns(DnsProbe { name: ".".into(), record: DnsRecord::Soa })),
        ),
        (
            "{ type = 'exec', command = ['/bin/check', '-x'], user = 'daemon' }",
            usual(Probe::Exec(ExecProbe { command: vec!["/bin/check".into(), "-x".into()], user: "daemon".into() })),
        ),
        (
            "{ type = 'tcp', port = 81, interval = '500ms', timeout = '100ms', rise = 1, fall = 9, start = 'up', on_down = 'keep' }",
            Check {
                probe: Probe::Tcp,
                port: Some(81),
                interval: Duration::from_millis(500),
                timeout: Duration::from_millis(100),
                rise: 1,
                fall: 9,
                start_up: true,
                on_down: OnDown::Keep,
            },
        ),
        // A timeout that nobody gave is no longer than the interval.
        (
            "{ type = 'tcp', interval = 1 }",
            Check { interval: Duration::from_secs(1), timeout: Duration::from_secs(1), ..usual(Probe::Tcp) },
        ),
        ("{ type = 'tcp', interval = '2m' }", Check { interval: Duration::from_secs(120), ..usual(Probe::Tcp) }),
    ] {
        assert_eq!(read(checked), Some(expected), "{checked}");
    }
    assert_eq!(read("{ type = 'none' }"), None);
}

#[test]
fn what_is_refused() {
    for (checked, expected) in [
        ("'tcp'", "6:9: `check` is \"tcp\"; a table [service.check] would do"),
        (
            "{}",
            "6:9: [service.check] has no `type`; \"tcp\", \"http\", \"https\", \"udp\", \"dns\", \"exec\" or \"none\" would do",
        ),
        (
            "{ type = 'ping' }",
            "6:18: `type` is \"ping\"; \"tcp\", \"http\", \"https\", \"udp\", \"dns\", \"exec\" or \"none\" would do",
        ),
        (
            "{ type = 'tcp', path = '/' }",
            "6:32: `path` is no key of a check of type \"tcp\"; its keys: type, interval, timeout, rise, fall, start, on_down, port",
        ),
        (
            "{ type = 'http', verify = false }",
            "6:35: `verify` is no key of a check of type \"http\"; its keys: type, interval, timeout, rise, fall, start, on_down, port, path, host, status, body",
        ),
        (
            "{ type = 'tcp', interval = '5' }",
            "6:36: `interval` is \"5\"; a duration such as \"5s\", from \"100ms\" to \"1h\" would do",
        ),
        (
            "{ type = 'tcp', interval = '10ms' }",
            "6:36: `interval` is \"10ms\"; a duration such as \"5s\", from \"100ms\" to \"1h\" would do",
        ),
        (
            "{ type = 'tcp', interval = '99999999999999999999h' }",
            "6:36: `interval` is \"99999999999999999999h\"; a duration such as \"5s\", from \"100ms\" to \"1h\" would do",
        ),
        (
            "{ type = 'tcp', interval = -1 }",
            "6:36: `interval` is -1; a duration such as \"5s\", from \"100ms\" to \"1h\" would do",
        ),
        ("{ type = 'tcp', timeout = '6s' }", "6:35: `timeout` is \"6s\", and `interval` 5s; at most that would do"),
        ("{ type = 'tcp', rise = 0 }", "6:32: `rise` is 0; a number from 1 to 1000 would do"),
        ("{ type = 'tcp', on_down = 'cut' }", "6:35: `on_down` is \"cut\"; \"reset\" or \"keep\" would do"),
        ("{ type = 'tcp', start = 'maybe' }", "6:33: `start` is \"maybe\"; \"down\" or \"up\" would do"),
        ("{ type = 'http', path = 'healthz' }", "6:33: `path` is \"healthz\"; a path such as \"/healthz\" would do"),
        (
            "{ type = 'http', path = \"/a\\r\\nX: y\" }",
            "6:33: `path` is \"/a\\r\\nX: y\"; a path such as \"/healthz\" would do",
        ),
        (
            "{ type = 'http', status = 99 }",
            "6:35: `status` is 99; a code from 100 to 599 or a range such as \"200-399\" would do",
        ),
        (
            "{ type = 'http', status = '399-200' }",
            "6:35: `status` is \"399-200\"; a code from 100 to 599 or a range such as \"200-399\" would do",
        ),
        ("{ type = 'dns' }", "6:9: [service.check] has no `name`; the name to ask for would do"),
        (
            "{ type = 'dns', name = 'a..b' }",
            "6:32: `name` is \"a..b\"; a domain name such as \"example.net\", or \".\" would do",
        ),
        (
            "{ type = 'dns', name = 'a', record = 'MX' }",
            "6:46: `record` is \"MX\"; \"A\", \"AAAA\", \"NS\", \"SOA\" or \"TXT\" would do",
        ),
        (
            "{ type = 'exec' }",
            "6:9: [service.check] has no `command`; a list such as [\"/usr/local/bin/check\", \"--fast\"]: an absolute path and its arguments would do",
        ),
        (
            "{ type = 'exec', command = ['check'] }",
            "6:36: `command` is [\"check\"]; a list such as [\"/usr/local/bin/check\", \"--fast\"]: an absolute path and its arguments would do",
        ),
        ("{ type = 'exec', command = ['/bin/true'], user = '' }", "6:58: `user` is \"\"; a user's name would do"),
    ] {
        check(&with(checked), expected);
    }
    let range = with("{ type = 'tcp' }").replace("80", "'80-89'");
    check(&range, "6:9: `check` has no `port`, and is of a range of ports; the one to ask would do");
    assert!(Config::parse(&range.replace("'tcp'", "'tcp', port = 80"), "f").is_ok());
}

#[test]
fn a_port_has_its_services_check_unless_it_has_its_own() {
    let ports = "port = [{ published = 80 }, { published = 81, check = { type = 'none' } }, { published = 82, check = { type = 'udp' } }]";
    let config = good(&with("{ type = 'tcp', rise = 7 }").replace("port = [{ published = 80 }]", ports));
    let checks: Vec<Option<(&str, u32)>> = config.services[0]
        .ports
        .iter()
        .map(|port| port.check.as_ref().map(|check| (check.probe.name(), check.rise)))
        .collect();
    assert_eq!(checks, [Some(("tcp", 7)), None, Some(("udp", 2))], "of its own it has all or nothing");
}
