//! Services, their ports and backends.

use std::collections::BTreeSet;

use meshd::control::protocol::{
    Backend, Check, Entry, Mask, Netns, Owner, Port, Published, Scheduling, Service, Services, Span, Spread, Way,
};
use serde_json::{Value, json};

use crate::meshctl::table::Align::{Left, Right};
use crate::meshctl::table::{Cell, Paint, Table, Tone, facts};

/// `service ls`
pub fn list(services: &Services, paint: Paint) -> String {
    let columns = [("NAME", Left), ("OWNER", Left), ("PORTS", Left), ("BACKENDS", Right), ("GENERATION", Right)];
    let mut table = Table::new(&columns);
    for Entry { owner, generation, service } in &services.services {
        table.row([
            (&service.name).into(),
            word(*owner).into(),
            ports(service).into(),
            addresses(service).len().into(),
            generation.into(),
        ]);
    }
    table.render(paint)
}

/// `service get`
pub fn one(entry: &Entry, paint: Paint) -> String {
    let Entry { owner, generation, service } = entry;
    let mut known = vec![
        ("Name", Cell::new(&service.name, Tone::Head)),
        ("Owner", word(*owner).into()),
        ("Generation", generation.into()),
        (
            "Scheduling",
            scheduling(&service.scheduling, &service.way, &service.spread).unwrap_or_else(|| "rr".to_owned()).into(),
        ),
    ];
    known.extend(service.check.as_deref().map(|one| ("Check", check(one).into())));
    if service.port.is_empty() {
        known.push(("Ports", "none".into()));
    }
    let mut text = facts(&known, paint);
    let mut ports = Table::new(&[("PORT", Left), ("SCHEDULING", Left), ("BACKENDS", Left)]);
    for published in &service.port {
        let own = scheduling(&published.scheduling, &published.way, &published.spread);
        let check = published.check.as_deref().map(|one| format!("check {}", check(one)));
        let own = [own, check].into_iter().flatten().reduce(|one, other| format!("{one}, {other}"));
        let own = own.unwrap_or_else(|| "the service's".to_owned());
        let backends = published.backend.as_ref().map_or("the service's", |_| "its own");
        ports.row([port(published).into(), own.into(), backends.into()]);
    }
    if !service.port.is_empty() {
        text += &format!("\n{}", ports.render(paint));
    }
    format!("{text}\n{}", backends(service, paint))
}

fn backends(service: &Service, paint: Paint) -> String {
    let columns =
        [("BACKEND", Left), ("WEIGHT", Right), ("CAP", Right), ("STATE", Left), ("NETNS", Left), ("OF", Left)];
    let mut table = Table::new(&columns);
    for backend in &service.backend {
        table.row(row(backend, "the service".to_owned()));
    }
    for port in &service.port {
        for backend in port.backend.iter().flatten() {
            table.row(row(backend, name(port)));
        }
    }
    table.render(paint)
}

fn row(backend: &Backend, of: String) -> [Cell; 6] {
    let state = match backend.backup {
        Some(true) if backend.state.is_none() => "backup",
        _ => backend.state.as_deref().unwrap_or("enabled"),
    };
    let tone = if ["enabled", "backup"].contains(&state) { Tone::Plain } else { Tone::Warning };
    let netns = match &backend.netns {
        Some(Netns::Name(name)) => name.clone(),
        Some(Netns::Pid(pid)) => format!("pid {pid}"),
        None => "-".to_owned(),
    };
    let weight = backend.weight.unwrap_or(1);
    [(&backend.address).into(), weight.into(), cap(backend).into(), Cell::new(state, tone), netns.into(), of.into()]
}

/// `100`, or `100/80` where it gets connections again below 80.
fn cap(backend: &Backend) -> String {
    let said = |threshold: Option<u32>| threshold.filter(|threshold| *threshold > 0);
    match (said(backend.upper_threshold), said(backend.lower_threshold)) {
        (Some(upper), Some(lower)) => format!("{upper}/{lower}"),
        (Some(upper), None) => upper.to_string(),
        (None, _) => "-".to_owned(),
    }
}

/// Its type, and what else it says: `http, path /healthz`.
fn check(check: &Check) -> String {
    let keys = json!(check);
    let said = keys.as_object().into_iter().flatten().filter(|(key, _)| *key != "type");
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let kind = check.kind.clone().unwrap_or_else(|| "no type".to_owned());
    said.fold(kind, |text, (key, value)| format!("{text}, {key} {}", plain(value)))
}

fn word(owner: Owner) -> &'static str {
    match owner {
        Owner::File => "file",
        Owner::Socket => "socket",
    }
}

/// Each once, be it of the service or of one port.
fn addresses(service: &Service) -> BTreeSet<&str> {
    let own = service.port.iter().flat_map(|port| port.backend.iter().flatten());
    service.backend.iter().chain(own).map(|backend| backend.address.as_str()).collect()
}

/// The first few: a service may have thousands.
fn ports(service: &Service) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = service.port.iter().take(SHOWN).map(port).collect();
    let more = match service.port.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    shown.join(", ") + &more
}

/// `tcp/20229->9092`, or `tcp/443` where the target is the same.
fn port(port: &Port) -> String {
    let same =
        matches!((&port.published, port.target), (Published::Port(published), Some(target)) if *published == target);
    match port.target {
        Some(target) if !same => format!("{}->{target}", name(port)),
        _ => name(port),
    }
}

/// As the daemon has it, even if it is not good.
pub fn name(port: &Port) -> String {
    let published = match &port.published {
        Published::Port(port) => port.to_string(),
        Published::Text(text) => text.clone(),
    };
    port.name()
        .map_or_else(|| format!("{}/{published}", port.protocol.as_deref().unwrap_or("tcp")), |name| name.to_string())
}

fn spread_words(spread: &Spread) -> impl Iterator<Item = String> {
    let Spread { prefer, slow_start, drain, quorum, hysteresis, on_empty } = spread;
    let span = |span: &Span| match span {
        Span::Seconds(seconds) => format!("{seconds}s"),
        Span::Text(text) => text.clone(),
    };
    let words = [
        prefer.as_ref().map(|whom| format!("prefer {whom}")),
        slow_start.as_ref().map(|time| format!("slow start {}", span(time))),
        drain.as_ref().map(|time| format!("drain {}", span(time))),
        quorum.map(|percent| format!("quorum {percent} %")),
        hysteresis.map(|percent| format!("hysteresis {percent} %")),
        on_empty.as_ref().map(|what| format!("on empty {what}")),
    ];
    words.into_iter().flatten()
}

/// As ipvsadm -Ln prints it; `None`: it says nothing.
fn scheduling(scheduling: &Scheduling, way: &Way, spread: &Spread) -> Option<String> {
    let mut words = Vec::new();
    words.extend(scheduling.scheduler.clone());
    words.extend(scheduling.scheduler_flags.iter().flatten().cloned());
    if let Some(seconds) = scheduling.persistence {
        words.push(if seconds == 0 { "not persistent".to_owned() } else { format!("persistent {seconds}s") });
    }
    words.extend(scheduling.persistence_mask.as_ref().map(|mask| match mask {
        Mask::Length(length) => format!("mask {length}"),
        Mask::Netmask(netmask) => format!("mask {netmask}"),
    }));
    words.extend(scheduling.persistence_mask6.map(|length| format!("mask6 {length}")));
    words.extend(scheduling.one_packet.map(|one| if one { "one packet" } else { "not one packet" }.to_owned()));
    words.extend(spread_words(spread));
    words.extend(way.client_address.as_ref().map(|whom| format!("client address {whom}")));
    words.extend(way.mode.as_ref().map(|mode| format!("mode {mode}")));
    for (key, list) in [("bind", &way.bind), ("allow", &way.allow), ("deny", &way.deny)] {
        words.extend(list.as_ref().map(|list| format!("{key} {}", list.join(" "))));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::{Entry, Services};
    use serde_json::json;

    use super::{list, one};
    use crate::meshctl::table::Paint;

    fn kafka() -> Entry {
        let entry = json!({ "owner": "socket", "generation": 12, "service": {
            "name": "kafka", "scheduler": "wrr", "persistence": 60, "persistence_mask": 24,
            "check": { "type": "http", "path": "/healthz", "rise": 2 },
            "port": [
                { "published": 20229, "target": 9092 },
                { "published": "30000-30099", "protocol": "udp", "one_packet": true,
                  "check": { "type": "none" },
                  "backend": [{ "address": "10.255.0.33" }, { "address": "fd00::40", "netns": 4711 }] },
            ],
            "backend": [
                { "address": "10.255.0.33", "weight": 2, "netns": "kafka-1", "upper_threshold": 100, "lower_threshold": 80 },
                { "address": "10.255.0.34", "state": "drain", "upper_threshold": 50 },
            ],
        }});
        serde_json::from_value(entry).expect("a good entry")
    }

    #[test]
    fn services_are_listed() {
        let web = json!({ "owner": "file", "generation": 1, "service": {
            "name": "web\u{1b}]0;", "port": [{ "published": 443, "target": 443 }] }});
        let web = serde_json::from_value(web).expect("a good entry");
        let services = Services { generation: 12, services: vec![kafka(), web] };
        let expected = r"
NAME           OWNER    PORTS                              BACKENDS   GENERATION
kafka          socket   tcp/20229->9092, udp/30000-30099          3           12
web\u{1b}]0;   file     tcp/443                                   0            1
";
        assert_eq!(list(&services, Paint(false)), expected.trim_start());
    }

    #[test]
    fn a_list_stays_readable() {
        let ports: Vec<_> = (1..=7).map(|port| json!({ "published": port })).collect();
        let many = serde_json::from_value(json!({ "port": ports })).expect("a good service");
        assert_eq!(super::ports(&many), "tcp/1, tcp/2, tcp/3, tcp/4, tcp/5, and 2 more");
    }

    #[test]
    fn one_service_is_shown_with_all_it_has() {
        let expected = "\
Name:        kafka
Owner:       socket
Generation:  12
Scheduling:  wrr, persistent 60s, mask 24
Check:       http, path /healthz, rise 2

PORT              SCHEDULING               BACKENDS
tcp/20229->9092   the service's            the service's
udp/30000-30099   one packet, check none   its own

BACKEND       WEIGHT      CAP   STATE     NETNS      OF
10.255.0.33        2   100/80   enabled   kafka-1    the service
10.255.0.34        1       50   drain     -          the service
10.255.0.33        1        -   enabled   -          udp/30000-30099
fd00::40           1        -   enabled   pid 4711   udp/30000-30099
";
        assert_eq!(one(&kafka(), Paint(false)), expected);
    }
}
