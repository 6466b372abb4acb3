//! `[[service]]`, its ports and backends.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use toml::de::DeValue;

use crate::mesh::{Access, Backend, BackendState, Dataplane, Port, Scheduling, Service, Thresholds};
use crate::objects::{Family, NetnsRef, PortRange, Protocol, Scheduler, SchedulerFlags};

use super::access;
use super::check::{self, CheckRead};
use super::error::At;
use super::network::{is_file_name, unreachable};
use super::peers::Nodes;
use super::reader::{Section, choice, integer, literal, quoted};
use super::spread::{self, SpreadRead};
use super::way::{self, Way};

/// What a port has of its service unless it says something of its own.
const SHARED: &[&str] = &[
    "scheduler",
    "scheduler_flags",
    "persistence",
    "persistence_mask",
    "persistence_mask6",
    "one_packet",
    "client_address",
    "mode",
    "bind",
    "allow",
    "deny",
    "check",
    "prefer",
    "slow_start",
    "drain",
    "quorum",
    "hysteresis",
    "on_empty",
];
const BACKEND: &[&str] =
    &["address", "weight", "upper_threshold", "lower_threshold", "state", "backup", "node", "netns"];

/// The kernel multiplies seconds by its ticks, up to 1000 of them, in 32 bits.
pub(super) const LONGEST_TIMEOUT: i64 = 2_147_483;
/// ipvsadm's limit.
const GREATEST_WEIGHT: i64 = 65535;
/// The kernel multiplies by three, in 32 bits.
const GREATEST_THRESHOLD: i64 = u32::MAX as i64 / 3;
/// The kernel's `PID_MAX_LIMIT` on 64-bit machines.
const GREATEST_PID: i64 = 1 << 22;

/// Where the file says what can clash with something elsewhere in it.
#[derive(Default)]
pub(super) struct Sites {
    pub names: Vec<At<String>>,
    pub ports: Vec<PortSite>,
    pub backends: Vec<BackendSite>,
    /// What a backend's `node` may be.
    pub nodes: Nodes,
    /// Who balances, if that is known.
    pub dataplane: Option<Dataplane>,
}

pub(super) struct PortSite {
    pub published: At<PortRange>,
    pub service: String,
}

impl fmt::Display for PortSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortSite { published: At { value: published, .. }, service } = self;
        let ports = if published.is_single() { "port" } else { "ports" };
        write!(f, "published {ports} {published} of service \"{service}\"")
    }
}

pub(super) struct BackendSite {
    pub address: At<IpAddr>,
    /// `None`: this one, or none of the overlay's.
    pub node: Option<At<String>>,
    pub netns: Option<At<NetnsRef>>,
}

fn service_keys() -> Vec<&'static str> {
    [&["name"], SHARED, &["port", "backend"]].concat()
}

fn port_keys() -> Vec<&'static str> {
    [&["published", "target", "protocol"], SHARED, &["backend"]].concat()
}

pub(super) fn read(root: &Section<'_>, sites: &mut Sites) -> Vec<Service> {
    let sections = root.sections("service", "[[service]]", &service_keys()).unwrap_or_default();
    sections.iter().map(|section| service(section, sites)).collect()
}

fn service(section: &Section<'_>, sites: &mut Sites) -> Service {
    if !section.has("name") {
        section.lacks("name", "one such as name = \"web\"");
    }
    let name = name(section);
    let scheduling = scheduling(section, None);
    let way = way::read(section, None);
    let access = access::read(section, None);
    let check = check::read(section, None);
    let spread = spread::read(section, SpreadRead::default());
    let backends = backends(section, sites).unwrap_or_default();

    if section.is_empty("port") {
        section.lacks("port", "a [[service.port]] with `published`");
    }
    let label = name.as_ref().map_or(String::new(), |name| name.value.clone());
    let ports = section.sections("port", "[[service.port]]", &port_keys()).unwrap_or_default();
    let inherited = Inherited {
        service: section,
        scheduling: &scheduling,
        way: &way,
        access: &access,
        check: &check,
        spread,
        backends: &backends,
    };
    let ports = ports.iter().filter_map(|section| port(section, &label, &inherited, sites)).collect();
    sites.names.extend(name);
    Service { name: label, ports }
}

/// Reads what a node, a peer or a service is called.
pub(super) fn name(section: &Section<'_>) -> Option<At<String>> {
    let wanted = "a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-`";
    section.text("name", wanted, |text| is_name(text).then(|| text.to_owned()))
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What a port has of its service unless it says something of its own.
struct Inherited<'a> {
    service: &'a Section<'a>,
    scheduling: &'a SchedulingRead,
    way: &'a Way,
    access: &'a Access,
    check: &'a CheckRead,
    spread: SpreadRead,
    backends: &'a [Backend],
}

fn port(section: &Section<'_>, service: &str, inherited: &Inherited<'_>, sites: &mut Sites) -> Option<Port> {
    let protocols = choice(Protocol::ALL.map(|protocol| quoted(&protocol.to_string())));
    let protocol = match section.text("protocol", protocols, |text| text.parse().ok()) {
        Some(protocol) => Some(protocol.value),
        None => (!section.has("protocol")).then_some(Protocol::Tcp),
    };
    let published = published(section);
    let target = section.number::<u16>("target", "a port", 1..=65535);
    let scheduling = scheduling(section, Some(inherited.scheduling));
    let way = way::read(section, Some(inherited.way));
    let access = access::read(section, Some(inherited.access));
    let check = check::read(section, Some(inherited.check));
    let spread = spread::read(section, inherited.spread);
    let backends = backends(section, sites);

    let At { value: (first, last), at } = published?;
    let published = PortRange { protocol: protocol?, first, last };
    one_packet_is_udp(section, &scheduling, published);
    sites.ports.push(PortSite { published: At { value: published, at }, service: service.to_owned() });
    if let (Some(At { value, at }), false) = (target, published.is_single()) {
        section.report(at, format!("`target` is {value}, but a range keeps its ports; to leave it out would do"));
    }
    let moved = target.filter(|target| published.is_single() && target.value != first);
    if let (Some(At { value, at }), true) = (moved, sites.dataplane != Some(Dataplane::Nftables)) {
        persistent_port_is_kept(section, &scheduling.values, first, value, at);
    }
    let backends = backends.unwrap_or_else(|| inherited.backends.to_vec());
    way.goes_together(section, published, &backends);
    let check = check.of(section, !published.is_single());
    spread.goes_together(section, scheduling.values.scheduler, check.as_ref(), &backends);
    let port = Port {
        published,
        target: published.is_single().then(|| target.map_or(first, |target| target.value)),
        scheduling: scheduling.values,
        client_address: way.client_address(),
        mode: way.mode(),
        access,
        check,
        spread: spread.value(),
        backends,
    };
    if let Some(dataplane) = sites.dataplane
        && let Some((key, what, remedy)) = dataplane.cannot(&port)
    {
        let trouble = format!("{what} of port {published} is nothing that [node] dataplane \"{dataplane}\" can do");
        // Where it was said: once, for however many ports.
        let at = section.place(key).or_else(|| inherited.service.place(key)).unwrap_or(section.at);
        section
            .findings
            .report_once(at, format!("{trouble}; {remedy}, or dataplane = \"{}\", would do", dataplane.other()));
    }
    Some(port)
}

/// A persistent service behind a mark keeps the packet's port, whatever port its destinations have: so IPVS's
/// templates are made (Linux, ip_vs_sched_persist; seen on 6.1 and 6.12).
fn persistent_port_is_kept(section: &Section<'_>, scheduling: &Scheduling, published: u16, target: u16, at: usize) {
    if scheduling.persistence > 0 {
        section.report(
            at,
            format!(
                "`target` is {target}, but with `persistence` IPVS keeps the published port {published}; {published}, \
                 or `scheduler` \"sh\" or \"mh\" in place of `persistence`, or [node] dataplane = \"nftables\", would do"
            ),
        );
    }
}

/// Reads `published`: the first port and the last.
fn published(section: &Section<'_>) -> Option<At<(u16, u16)>> {
    let wanted = "a port from 1 to 65535 or a range such as \"30000-30099\"";
    if !section.has("published") {
        section.lacks("published", wanted);
    }
    let At { value: (first, last), at } = section.read("published", wanted, |value| match value {
        DeValue::String(text) => match text.split_once('-') {
            Some((first, last)) => Some((port_number(first)?, port_number(last)?)),
            None => port_number(text).map(|port| (port, port)),
        },
        _ => integer(value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).map(|port| (port, port)),
    })?;
    if first > last {
        section.report(
            at,
            format!("`published` is \"{first}-{last}\", which runs backwards; \"{last}-{first}\" would do"),
        );
        return None;
    }
    Some(At { value: (first, last), at })
}

fn port_number(text: &str) -> Option<u16> {
    let text = text.trim();
    // A plus sign is a number's to `parse`, not a port's.
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)?.parse().ok().filter(|port| *port > 0)
}

/// A scheduling, and where the parts of it stand that not every port can have.
#[derive(Clone)]
struct SchedulingRead {
    values: Scheduling,
    /// False when the scheduler cannot be used: then nothing is known of its flags.
    scheduler_known: bool,
    /// The byte where `one_packet` was last said.
    one_packet: Option<usize>,
}

/// What a service or a port says of its scheduling, over what it inherits.
fn scheduling(section: &Section<'_>, inherited: Option<&SchedulingRead>) -> SchedulingRead {
    let mut read = inherited.cloned().unwrap_or(SchedulingRead {
        values: Scheduling {
            scheduler: Scheduler::RoundRobin,
            flags: SchedulerFlags::default(),
            persistence: 0,
            persistence_mask: 32,
            persistence_mask6: 128,
            one_packet: false,
        },
        scheduler_known: true,
        one_packet: None,
    });
    let values = &mut read.values;
    if section.has("scheduler") {
        let schedulers = format!("one of {}", choice(Scheduler::ALL));
        let scheduler = section.text("scheduler", schedulers, |text| text.parse().ok());
        read.scheduler_known = scheduler.is_some();
        values.scheduler = scheduler.map_or(values.scheduler, |scheduler| scheduler.value);
        // Flags are a scheduler's: they do not follow to another.
        values.flags = SchedulerFlags::default();
    }
    if section.has("scheduler_flags") {
        values.flags = scheduler_flags(section, values.scheduler, read.scheduler_known);
    }
    let persistence = section.number("persistence", "a number of seconds", 0..=LONGEST_TIMEOUT);
    values.persistence = persistence.map_or(values.persistence, |persistence| persistence.value);
    let mask = "a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32";
    let mask = section.read("persistence_mask", mask, prefix_length);
    values.persistence_mask = mask.map_or(values.persistence_mask, |mask| mask.value);
    let mask6 = section.number("persistence_mask6", "the length of a prefix", 1..=128);
    values.persistence_mask6 = mask6.map_or(values.persistence_mask6, |mask6| mask6.value);
    if let Some(At { value, at }) = section.boolean("one_packet") {
        values.one_packet = value;
        read.one_packet = Some(at);
    }
    one_packet_or_persistence(section, &read);
    read
}

fn one_packet_or_persistence(section: &Section<'_>, read: &SchedulingRead) {
    let persistence = read.values.persistence;
    if let (true, Some(at)) = (read.values.one_packet && persistence != 0, read.one_packet) {
        let trouble = format!("`one_packet` schedules every datagram anew, and `persistence` is {persistence}");
        section.findings.report_once(at, format!("{trouble}; one of them would do"));
    }
}

fn one_packet_is_udp(section: &Section<'_>, read: &SchedulingRead, published: PortRange) {
    if let (true, Some(at)) = (read.values.one_packet && published.protocol != Protocol::Udp, read.one_packet) {
        let trouble = format!("`one_packet` is true for port {published}");
        section.findings.report_once(at, format!("{trouble}; true for udp ports only would do"));
    }
}

/// A mask's length: `24`, or `"255.255.255.0"`.
fn prefix_length(value: &DeValue<'_>) -> Option<u8> {
    let length = match value {
        DeValue::String(text) => {
            let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
            (mask.leading_ones() + mask.trailing_zeros() >= 32).then_some(mask.leading_ones())?.into()
        }
        _ => integer(value)?,
    };
    u8::try_from(length).ok().filter(|length| (1..=32).contains(length))
}

/// Only `sh` and `mh` have flags, the same two with a prefix of their own.
fn scheduler_flags(section: &Section<'_>, scheduler: Scheduler, known: bool) -> SchedulerFlags {
    let mut flags = SchedulerFlags::default();
    let wanted = "a list such as [\"sh-port\", \"sh-fallback\"]";
    for element in section.array("scheduler_flags", wanted).into_iter().flat_map(|array| array.value.iter()) {
        let found = element.get_ref();
        let flag =
            found.as_str().and_then(|text| text.split_once('-')).filter(|(owner, _)| ["sh", "mh"].contains(owner));
        match flag {
            Some((owner, "port")) if owner == scheduler.name() => flags.port = true,
            Some((owner, "fallback")) if owner == scheduler.name() => flags.fallback = true,
            Some((_, "port" | "fallback")) if !known => {}
            _ => {
                let remedy = match scheduler {
                    _ if !known => "\"sh-port\", \"sh-fallback\", \"mh-port\" or \"mh-fallback\"".to_owned(),
                    Scheduler::SourceHash | Scheduler::Maglev => {
                        format!("\"{scheduler}-port\" or \"{scheduler}-fallback\"")
                    }
                    _ => "scheduler \"sh\" or \"mh\", or no flags".to_owned(),
                };
                let owner = if known { format!("scheduler \"{scheduler}\"") } else { "any scheduler".to_owned() };
                let found = literal(found);
                section.report(element.span().start, format!("{found} is no flag of {owner}; {remedy} would do"));
            }
        }
    }
    flags
}

/// The backends listed in a service or in a port of its own; `None`: no list.
fn backends(section: &Section<'_>, sites: &mut Sites) -> Option<Vec<Backend>> {
    let title = if section.title == "[[service]]" { "[[service.backend]]" } else { "[[service.port.backend]]" };
    let mut listed: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut backends = Vec::new();
    for section in section.sections("backend", title, BACKEND)? {
        let Some((backend, site)) = backend(&section, &sites.nodes) else { continue };
        let At { value: address, at } = site.address;
        if let Some(first) = listed.get(&address) {
            let place = section.findings.place(*first);
            section.report(at, format!("backend {address} is already listed{place}; to list it once would do"));
            continue;
        }
        listed.insert(address, at);
        sites.backends.push(site);
        backends.push(backend);
    }
    Some(backends)
}

fn backend(section: &Section<'_>, nodes: &Nodes) -> Option<(Backend, BackendSite)> {
    if !section.has("address") {
        section.lacks("address", "an IPv4 or IPv6 address");
    }
    let weight = section.number("weight", "a whole number", 0..=GREATEST_WEIGHT);
    let thresholds = thresholds(section);
    let state = section.text("state", choice(BackendState::ALL.map(|state| quoted(state.name()))), |text| {
        BackendState::ALL.into_iter().find(|state| state.name() == text)
    });
    let backup = section.boolean("backup");
    let node = node(section, nodes);
    let netns = netns(section);
    let address = section.text("address", "an IPv4 or IPv6 address", |text| text.parse::<IpAddr>().ok())?;
    if let Some(kind) = unreachable(address.value) {
        let example = if Family::of(&address.value) == Family::V4 { "10.255.0.33" } else { "fd00:255::33" };
        let found = address.value;
        section.report(
            address.at,
            format!("`address` is \"{found}\", {kind}; a host's own such as \"{example}\" would do"),
        );
        return None;
    }
    let backend = Backend {
        address: address.value,
        weight: weight.map_or(1, |weight| weight.value),
        thresholds,
        state: state.map(|state| state.value).unwrap_or_default(),
        backup: backup.is_some_and(|backup| backup.value),
        node: node.as_ref().map(|node| node.value.clone()),
        netns: netns.as_ref().map(|netns| netns.value.clone()),
    };
    Some((backend, BackendSite { address, node, netns }))
}

/// How many connections a backend may have; what the kernel would refuse is refused here, with its place.
fn thresholds(section: &Section<'_>) -> Thresholds {
    let read = |key| section.number::<u32>(key, "a whole number of connections", 0..=GREATEST_THRESHOLD);
    let (upper, lower) = (read("upper_threshold"), read("lower_threshold"));
    // Of one that is wrong nothing more is said.
    let upper = upper.map_or((!section.has("upper_threshold")).then_some(0), |upper| Some(upper.value));
    if let (Some(upper), Some(At { value: lower, at })) = (upper, lower.as_ref().filter(|lower| lower.value > 0)) {
        let trouble = format!("`lower_threshold` is {lower}");
        if upper == 0 {
            section
                .report(*at, format!("{trouble}, and there is no `upper_threshold`; one of {lower} or more would do"));
        } else if *lower > upper {
            section.report(*at, format!("{trouble}, and `upper_threshold` {upper}; at most that would do"));
        }
    }
    Thresholds { upper: upper.unwrap_or_default(), lower: lower.map_or(0, |lower| lower.value) }
}

/// Another node's name; `None`: this one.
fn node(section: &Section<'_>, nodes: &Nodes) -> Option<At<String>> {
    let known = nodes.own.iter().chain(&nodes.peers).map(|name| quoted(name));
    let unnamed = nodes.own.is_none().then(|| "this node's own, if [node] `name` says it".to_owned());
    let wanted = choice(known.chain(unnamed));
    let node = section.text("node", wanted, |text| {
        let is_known = nodes.own.as_deref() == Some(text) || nodes.peers.iter().any(|peer| peer == text);
        is_known.then(|| text.to_owned())
    })?;
    (nodes.own.as_ref() != Some(&node.value)).then_some(node)
}

fn netns(section: &Section<'_>) -> Option<At<NetnsRef>> {
    let wanted = "a name under /run/netns, an absolute path or the number of a process";
    let pid =
        |pid: i64| (1..=GREATEST_PID).contains(&pid).then(|| u32::try_from(pid).ok().map(NetnsRef::Pid)).flatten();
    section.read("netns", wanted, |value| match value {
        DeValue::String(text) if text.starts_with('/') => {
            let fits = text.len() < 4096 && !text.contains(char::is_control);
            fits.then(|| NetnsRef::Path(text.to_string()))
        }
        DeValue::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().and_then(pid)
        }
        DeValue::String(text) => is_file_name(text, 255).then(|| NetnsRef::Name(text.to_string())),
        _ => integer(value).and_then(pid),
    })
}
