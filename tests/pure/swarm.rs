//! What a real Docker Swarm programs and what meshd makes of the same services mean the same.
//!
//! Not the text is compared, whose shapes differ on purpose, but whom a published port reaches and how: led to
//! the sandbox, marked, balanced by that scheduler over those backends, with that source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshd::config::Config;
use meshd::dataplane;
use meshd::objects::{Family, LinkId, Mark, Netns, Objects, Protocol, Surroundings, VirtualKey};

use super::tracer::{Arrival, NODE, Origin, Story, packet, trace};

const HOST: &str = include_str!("../golden/swarm/host.txt");
const SANDBOX: &str = include_str!("../golden/swarm/ingress_sbox.txt");
const TASKS: [&str; 3] = [
    include_str!("../golden/swarm/task_588d55da4bef.txt"),
    include_str!("../golden/swarm/task_7bf0c84cc009.txt"),
    include_str!("../golden/swarm/task_f03cd68a118b.txt"),
];
const CONFIGURATION: &str = include_str!("../golden/swarm.toml");

type Published = (Protocol, u16);

/// What a published port means.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    scheduler: String,
    /// With their weights.
    backends: BTreeMap<IpAddr, u32>,
    target: u16,
    /// What the backends see.
    source: IpAddr,
}

/// One rule of iptables-save, or one line of ipvsadm-save, by its options.
struct Line<'a>(Vec<&'a str>);

impl<'a> Line<'a> {
    /// The word after an option.
    fn after(&self, option: &str) -> Option<&'a str> {
        self.0.iter().position(|word| *word == option).and_then(|place| self.0.get(place + 1)).copied()
    }

    fn published(&self) -> Published {
        (self.after("-p").unwrap().parse().unwrap(), self.after("--dport").unwrap().parse().unwrap())
    }

    fn number<T: std::str::FromStr>(&self, option: &str) -> T {
        self.after(option)
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{option} of {}", self.0.join(" ")))
    }
}

/// The lines that contain all of that. iptables-save puts its counters first.
fn lines<'a>(capture: &'a str, parts: &'a [&'a str]) -> impl Iterator<Item = Line<'a>> {
    let wanted = |line: &&str| parts.iter().all(|part| line.contains(part));
    capture.lines().filter(wanted).map(|line| Line(line.split_whitespace().collect()))
}

/// The captures, read.
fn swarm() -> BTreeMap<Published, Meaning> {
    let led: BTreeMap<Published, &str> = lines(HOST, &["-A DOCKER-INGRESS", "-j DNAT"])
        .map(|line| (line.published(), line.after("--to-destination").unwrap()))
        .collect();
    let marks: BTreeMap<Published, u32> = lines(SANDBOX, &["-A PREROUTING", "-j MARK"])
        .map(|line| {
            let mark = line.after("--set-xmark").unwrap();
            let digits = mark.strip_prefix("0x").and_then(|mark| mark.strip_suffix("/0xffffffff")).unwrap();
            (line.published(), u32::from_str_radix(digits, 16).unwrap())
        })
        .collect();
    let snat: Vec<&str> = lines(SANDBOX, &["-d 10.0.0.0/24 -m ipvs --ipvs -j SNAT"])
        .filter_map(|line| line.after("--to-source"))
        .collect();
    assert_eq!(snat, ["10.0.0.2"], "Swarm has one rule for all that IPVS sends to the ingress network");
    let targets: BTreeMap<Published, u16> = TASKS
        .iter()
        .flat_map(|task| lines(task, &["-A PREROUTING", "-j REDIRECT"]))
        .map(|line| (line.published(), line.number("--to-ports")))
        .collect();

    let meaning = |(published, to): (&Published, &&str)| {
        assert_eq!(**to, format!("172.18.0.2:{}", published.1), "the sandbox, at the published port");
        let service = format!("-f {} ", marks[published]);
        let scheduler =
            lines(SANDBOX, &["-A ", &service, "-s "]).next().and_then(|line| line.after("-s").map(str::to_owned));
        let destination = ["-a ", &service, " -m "];
        let backends = lines(SANDBOX, &destination).map(|line| {
            // Port 0: it is the task that translates the port.
            let address = line.after("-r").and_then(|place| place.strip_suffix(":0")).unwrap();
            (address.parse().unwrap(), line.number("-w"))
        });
        let meaning = Meaning {
            scheduler: scheduler.expect("a service behind the mark"),
            backends: backends.collect(),
            target: targets[published],
            source: snat[0].parse().unwrap(),
        };
        (*published, meaning)
    };
    led.iter().map(meaning).collect()
}

fn ours() -> Objects {
    let config = Config::parse(CONFIGURATION, "swarm.toml").unwrap_or_else(|errors| panic!("{errors}"));
    dataplane::objects(&config.mesh("host"), &Surroundings::default())
}

/// What a packet to a published port meets here.
fn meaning(objects: &Objects, origin: Origin, at: &str, (protocol, number): Published) -> Meaning {
    let Story::Reaches(arrivals) = trace(objects, packet(origin, at, protocol, number)) else {
        panic!("{protocol} {number} is not served");
    };
    let only = |values: BTreeSet<String>| {
        assert_eq!(values.len(), 1, "{values:?}");
        values.into_iter().next().unwrap()
    };
    let key = VirtualKey { mark: Mark::new(protocol, number), family: Family::V4 };
    Meaning {
        scheduler: objects.services[&key].scheduler.to_string(),
        backends: arrivals.iter().map(|Arrival { at, weight, .. }| (at.ip(), *weight)).collect(),
        target: only(arrivals.iter().map(|arrival| arrival.at.port().to_string()).collect()).parse().unwrap(),
        source: only(arrivals.iter().map(|arrival| arrival.source.to_string()).collect()).parse().unwrap(),
    }
}

#[test]
fn the_captures_are_read_in_full() {
    let swarm = swarm();
    let ports: Vec<Published> = swarm.keys().copied().collect();
    assert_eq!(ports, [(Protocol::Tcp, 20229), (Protocol::Tcp, 20230), (Protocol::Tcp, 20233), (Protocol::Udp, 20231)]);
    assert_eq!(swarm.values().map(|meaning| meaning.backends.len()).collect::<Vec<_>>(), [3, 2, 2, 2]);
}

#[test]
fn every_published_port_means_the_same_to_a_client_outside() {
    let objects = ours();
    for (published, swarm) in swarm() {
        assert_eq!(meaning(&objects, Origin::Outside, NODE[0], published), swarm, "{published:?}");
    }
}

#[test]
fn every_published_port_means_the_same_to_the_node_itself() {
    // Swarm's way for these: nat OUTPUT, then a masquerade to the bridge's address.
    assert_eq!(lines(HOST, &["-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS"]).count(), 1);
    assert_eq!(
        lines(HOST, &["-A POSTROUTING -o docker_gwbridge -m addrtype --src-type LOCAL -j MASQUERADE"]).count(),
        1
    );
    let objects = ours();
    for (published, swarm) in swarm() {
        for at in [NODE[0], "127.0.0.1"] {
            assert_eq!(meaning(&objects, Origin::Node, at, published), swarm, "{published:?} at {at}");
        }
    }
}

#[test]
fn a_service_that_bypasses_swarms_mesh_is_not_in_ours() {
    assert_eq!(lines(HOST, &["-A DOCKER ", "--dport 20232 -j DNAT --to-destination 172.17.0.2:8080"]).count(), 1);
    let story = trace(&ours(), packet(Origin::Outside, NODE[0], Protocol::Tcp, 20232));
    assert!(matches!(story, Story::Untouched { .. }), "{story}");
}

#[test]
fn the_sandbox_has_swarms_places_in_both_networks() {
    let objects = ours();
    let held: Vec<String> = objects
        .addresses
        .iter()
        .filter(|held| held.link.netns == Netns::Sandbox)
        .map(|held| held.ip.to_string())
        .collect();
    assert_eq!(held, ["10.0.0.2/24", "172.18.0.2/16"]);
    for (address, link) in [("inet 10.0.0.2/24 ", " eth0"), ("inet 172.18.0.2/16 ", " eth1")] {
        assert_eq!(lines(SANDBOX, &[address, link]).count(), 1, "{address}");
    }
    // Docker's hardware address, which nodes know without asking.
    let leg = LinkId::new(Netns::Sandbox, "eth0");
    assert!(lines(SANDBOX, &[&format!("link/ether {}", objects.links[&leg].mac)]).count() > 0);
}
