//! `prefer`, `slow_start`, `quorum`, `hysteresis`, `on_empty` and `backup`: what is taken, and what would have no effect.

use std::time::Duration;

use meshd::mesh::{OnEmpty, Prefer, Quorum, Spread};

use super::{check, good, service};

/// A service with two ports, one backend and a backup; `keys` from line 3, the first port's in line 5.
fn two_ports(keys: &str, own: &str) -> String {
    service(&format!(
        "{keys}\nport = [\n{{ published = 80{own} }},\n{{ published = 53, protocol = 'udp' }}]\n\
         backend = [{{ address = '10.255.0.33' }}, {{ address = '10.255.0.34', backup = true }}]"
    ))
}

#[test]
fn a_port_has_what_its_service_says_or_its_own() {
    let default = Spread::default();
    let quorum = |percent, hysteresis| Spread { quorum: Quorum { percent, hysteresis }, ..default };
    let slow = "scheduler = 'wrr'\ncheck = { type = 'tcp' }\nslow_start = '20s'";
    for (keys, own, first, second) in [
        ("", "", default, default),
        ("prefer = 'local'", ", prefer = 'any'", default, Spread { prefer: Prefer::Local, ..default }),
        ("quorum = 50", ", hysteresis = 0", quorum(50, 0), quorum(50, 10)),
        ("quorum = 100\nhysteresis = 5", ", quorum = 30", quorum(30, 5), quorum(100, 5)),
        (
            "on_empty = 'fallback'",
            ", on_empty = 'drop', quorum = 1",
            Spread { on_empty: Some(OnEmpty::Drop), ..quorum(1, 10) },
            Spread { on_empty: Some(OnEmpty::Fallback), ..default },
        ),
        (slow, ", slow_start = 0", default, Spread { slow_start: Duration::from_secs(20), ..default }),
    ] {
        let ports = good(&two_ports(keys, own)).services[0].ports.clone();
        assert_eq!([ports[0].spread, ports[1].spread], [first, second], "{keys}{own}");
        assert!(!ports[0].backends[0].backup && ports[0].backends[1].backup);
    }
    // What the service says is nothing to a port whose own backends have no backup, and a port takes it back.
    good(&two_ports("quorum = 50\nhysteresis = 20", ", backend = [{ address = '10.255.0.35' }]"));
    good(&two_ports("quorum = 50\nhysteresis = 20", ", quorum = 0"));
}

#[test]
fn what_would_have_no_effect() {
    let alone = |keys: &str| {
        service(&format!("{keys}\nport = [{{ published = 80 }}]\nbackend = [{{ address = '10.255.0.33' }}]"))
    };
    for (case, expected) in [
        (two_ports("prefer = 'near'", ""), "3:10: `prefer` is \"near\"; \"any\" or \"local\" would do"),
        (two_ports("quorum = 101", ""), "3:10: `quorum` is 101; hundredths of the weight from 0 to 100 would do"),
        (
            two_ports("on_empty = 'hang'", ""),
            "3:12: `on_empty` is \"hang\"; \"reset\", \"drop\" or \"fallback\" would do",
        ),
        (
            two_ports("slow_start = '2h'", ""),
            "3:14: `slow_start` is \"2h\"; a duration such as \"5s\", from \"0s\" to \"1h\" would do",
        ),
        (
            two_ports("check = { type = 'tcp' }\nslow_start = '20s'", ""),
            "4:14: `slow_start` raises weights, which scheduler \"rr\" does not go by; \"wrr\", \"wlc\", \"sed\" or \"nq\" would do",
        ),
        (
            two_ports("scheduler = 'wlc'\nslow_start = '20s'", ""),
            "4:14: `slow_start` begins when a check finds a backend well, and there is no `check`; one would do",
        ),
        (
            alone("quorum = 50"),
            "3:10: `quorum` is when backups help, and no backend is one; `backup = true` for one would do",
        ),
        (alone("hysteresis = 5"), "3:14: `hysteresis` is beyond a `quorum`, and there is none; one would do"),
        (
            alone("on_empty = 'fallback'"),
            "3:12: `on_empty` is \"fallback\", and no backend is one; `backup = true` for one would do",
        ),
        (
            two_ports("on_empty = 'reset'", ""),
            "3:12: `on_empty` is \"reset\" and there is no `quorum`, so backups would never help; \"fallback\", or a `quorum`, would do",
        ),
    ] {
        check(&case, expected);
    }
}
