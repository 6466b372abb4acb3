//! What others' rules do to a packet: what we say of it beside what the kernel does to one.
//!
//! Needs root and nf_tables. Two namespaces with a link between them: rules stand in the one, connections come from the other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use meshd::kernel::netns;
use meshd::kernel::nft::{self, Nft};
use meshd::objects::{Family, Hook, Layer, Obstacle, Packet, Phase, Protocol};
use proptest::prelude::*;

const PORT: u16 = 20229;
const CLIENT: &str = "10.7.0.1";
const PATIENCE: Duration = Duration::from_millis(150);
const SERVER: &str = "10.7.0.2";

struct Pair {
    names: [String; 2],
    client: OwnedFd,
    server: OwnedFd,
    nft: Nft,
    /// Whoever gets through is answered.
    listener: TcpListener,
}

impl Pair {
    /// `None`, and a word about it, where this can't be done.
    fn new() -> Option<Pair> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = ["c", "s"].map(|end| format!("mrul{}{end}{number}", std::process::id()));
        let open = || -> Result<Pair, String> {
            names.iter().try_for_each(|name| netns::create(name).map_err(|error| error.to_string()))?;
            let [client, server] = names.each_ref().map(|name| netns::open(format!("/run/netns/{name}")));
            let (client, server) =
                (client.map_err(|error| error.to_string())?, server.map_err(|error| error.to_string())?);
            for line in [
                format!("link add v0 netns {} type veth peer name v1 netns {}", names[0], names[1]),
                format!("-n {} address add {CLIENT}/24 dev v0", names[0]),
                format!("-n {} address add {SERVER}/24 dev v1", names[1]),
                format!("-n {} link set v0 up", names[0]),
                format!("-n {} link set v1 up", names[1]),
            ] {
                let done = Command::new("ip").args(line.split(' ')).output().map_err(|error| error.to_string())?;
                done.status.success().then_some(()).ok_or(String::from_utf8_lossy(&done.stderr).into_owned())?;
            }
            let within = |work: &(dyn Fn() -> Result<(Nft, TcpListener), String> + Sync)| netns::within(&server, work);
            let opened = within(&|| {
                let listener = TcpListener::bind((SERVER, PORT)).map_err(|error| error.to_string())?;
                let mut nft = Nft::open().map_err(|error| error.to_string())?;
                nft.table().map_err(|error| error.to_string())?;
                Ok((nft, listener))
            });
            let (nft, listener) = opened.map_err(|error| error.to_string())??;
            Ok(Pair { names: names.clone(), client, server, nft, listener })
        };
        match open() {
            Ok(pair) => Some(pair),
            Err(error) => {
                names.iter().for_each(|name| drop(netns::delete(name)));
                assert!(std::env::var_os("MESHD_REQUIRE_KERNEL").is_none(), "cannot use nf_tables: {error}");
                eprintln!("SKIPPED: cannot use nf_tables: {error}");
                None
            }
        }
    }

    /// Has these rules, and no others; false, where nft(8) sees that they make no sense.
    fn rules(&self, text: &str) -> bool {
        self.feed(&["nft", "-f", "-"], &format!("flush ruleset\n{text}"))
    }

    fn feed(&self, command: &[&str], text: &str) -> bool {
        let all = ["netns", "exec", &self.names[1]].into_iter().chain(command.iter().copied());
        let mut program = Command::new("ip");
        program.args(all).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut running = program.spawn().unwrap();
        running.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        running.wait_with_output().unwrap().status.success()
    }

    /// What we say.
    fn obstacles(&mut self, hook: Hook, packet: &Packet) -> Vec<Obstacle> {
        let number = self.index();
        let index = |name: &str| match name {
            "v1" => Some(number),
            _ => None,
        };
        nft::obstacles(self.nft.socket(), Layer::Network, hook, packet, &index).unwrap()
    }

    /// For a connection and what comes behind its first packet.
    fn all_obstacles(&mut self) -> Vec<Obstacle> {
        let phases = [Phase::First, Phase::Later];
        phases.into_iter().flat_map(|phase| self.obstacles(Hook::Input, &Packet { phase, ..packet() })).collect()
    }

    fn index(&self) -> u32 {
        let text =
            netns::within(&self.server, || std::fs::read_to_string("/proc/thread-self/net/igmp")).unwrap().unwrap();
        let line = text.lines().find(|line| line.contains("v1")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What the kernel does.
    fn answers(&self) -> bool {
        let to = SocketAddr::new(SERVER.parse().unwrap(), PORT);
        // Nobody waits in line.
        self.listener.set_nonblocking(true).unwrap();
        while self.listener.accept().is_ok() {}
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let Ok(mut stream) = netns::within(&self.client, connect).unwrap() else { return false };
        // A word has to come behind it.
        if stream.write_all(b"x").is_err() {
            return false;
        }
        let until = Instant::now() + PATIENCE;
        self.listener.set_nonblocking(true).unwrap();
        while Instant::now() < until {
            if let Ok((mut accepted, _)) = self.listener.accept() {
                accepted.set_nonblocking(false).unwrap();
                accepted.set_read_timeout(Some(PATIENCE)).unwrap();
                return accepted.read_exact(&mut [0]).is_ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| drop(netns::delete(name)));
    }
}

/// The first of a connection from the client.
fn packet() -> Packet {
    Packet {
        family: Family::V4,
        protocol: Protocol::Tcp,
        source: Some(CLIENT.parse().unwrap()),
        source_port: None,
        destination: Some(SERVER.parse().unwrap()),
        destination_port: Some(PORT),
        link_in: Some("v1".to_owned()),
        link_out: None,
        mark: 0,
        phase: Phase::First,
        translated: false,
        is_local: true,
    }
}

const MATCHES: &[&str] = &[
    "",
    "tcp dport 20229",
    "tcp dport 80",
    "tcp dport != 80",
    "tcp dport { 80, 20229 }",
    "tcp dport != { 80, 443 }",
    "tcp dport 20000-21000",
    "tcp dport != 20000-21000",
    "tcp dport > 20228",
    "tcp dport <= 20228",
    "udp dport 20229",
    "th dport 20229",
    "tcp sport 1024-65535",
    "tcp sport 1",
    "ip saddr 10.7.0.1",
    "ip saddr 10.7.0.0/24",
    "ip saddr 10.7.0.128/25",
    "ip saddr != 10.7.0.0/24",
    "ip saddr { 10.6.0.0/16, 10.7.0.0/30, 192.168.0.0/16 }",
    "ip saddr { 10.6.0.0/16, 10.8.0.0/30 }",
    "ip saddr @networks",
    "ip saddr != @networks",
    "ip saddr @hosts",
    "ip daddr 10.7.0.2",
    "ip daddr & 255.255.0.0 == 10.7.0.0",
    "ip saddr . tcp dport { 10.7.0.1 . 20229, 10.7.0.9 . 80 }",
    "ip saddr . tcp dport { 10.7.0.0/24 . 1-30000 }",
    "ip saddr . tcp dport { 10.7.0.0/24 . 1-20000 }",
    "ip saddr . tcp dport @pairs",
    "iifname \"v1\"",
    "iifname \"v*\"",
    "iifname \"eth*\"",
    "iifname { \"v1\", \"v7\" }",
    "iif \"v1\"",
    "iif lo",
    "meta l4proto tcp",
    "meta l4proto { udp, sctp }",
    "ip protocol tcp",
    "meta nfproto ipv4",
    "meta nfproto ipv6",
    "meta protocol ip",
    "ip version 4",
    "ip frag-off & 0x1fff != 0",
    "meta mark 0",
    "meta mark 0x1-0xff",
    "meta mark & 0xff == 0",
    "ct state new",
    "ct state established,related",
    "ct state { new, established }",
    "ct state invalid",
    "ct direction original",
    "ct direction reply",
    "ct status dnat",
    "fib daddr type local",
    "fib daddr type broadcast",
    "tcp flags syn",
    "tcp flags & (syn|ack) == syn",
    "tcp flags & (fin|rst) != 0",
    "ip ttl < 5",
    "ip dscp 1",
    "limit rate 1/hour burst 1000 packets",
    "meta skuid 0",
    "meta length < 2000",
    "limit name \"seldom\"",
    "quota name \"much\"",
    "ct count over 1000",
    "ip saddr @limited",
    "fib saddr . iif oif exists",
    "fib saddr . iif oif missing",
];

const VERDICTS: &[&str] = &[
    "accept",
    "drop",
    "counter drop",
    "reject",
    "reject with tcp reset",
    "return",
    "jump more",
    "goto more",
    "counter",
    "meta mark set 7",
    "tcp dport vmap { 80 : accept, 20229 : jump more }",
    "ip saddr vmap { 10.7.0.0/24 : goto more, 10.8.0.0/16 : drop }",
    "tcp dport vmap { 1-1000 : accept, 20000-30000 : drop }",
    "ip saddr vmap { 10.7.0.0/24 : accept, * : drop }",
    "ip saddr vmap { 10.7.0.0/24 : drop, * : accept }",
    "tcp dport vmap { 80 : accept, * : jump more }",
    "tcp sport vmap { 1-1000 : accept, 1001-65535 : drop }",
    "add @flood { ip saddr } drop",
    "add @flood { ip saddr limit rate over 1000/second } drop",
    "update @flood { ip saddr limit rate 1000/second } accept",
];

fn rule() -> impl Strategy<Value = String> {
    let one = || prop::sample::select(MATCHES);
    // A port or a flag says its protocol by itself.
    (one(), one(), prop::sample::select(VERDICTS))
        .prop_map(|(first, second, verdict)| format!("{first} {second} {verdict}"))
}

fn ruleset(first: &[String], second: &[String], more: &[String], policy: &str, priority: i32) -> String {
    // No way leads back to where it came from.
    let more: Vec<String> =
        more.iter().map(|rule| rule.replace("jump more", "jump last").replace("goto more", "goto last")).collect();
    format!(
        "table inet one {{
            set networks {{ type ipv4_addr; flags interval; elements = {{ 10.7.0.0/29, 172.16.0.0/12 }}; }}
            set hosts {{ type ipv4_addr; elements = {{ 10.7.0.7, 10.7.0.1 }}; }}
            set flood {{ type ipv4_addr; size 100; flags dynamic; }}
            set limited {{ type ipv4_addr; limit rate over 1000/second; elements = {{ 10.7.0.1 }}; }}
            limit seldom {{ rate over 1000/second; }}
            quota much {{ over 100 mbytes; }}
            set pairs {{ type ipv4_addr . inet_service; elements = {{ 10.7.0.1 . 80 }}; }}
            chain last {{ ip saddr 10.7.0.1 counter; }}
            chain more {{ {more} }}
            chain input {{ type filter hook input priority {priority}; policy {policy}; {first} }}
            chain later {{ type filter hook input priority 10; {second} }}
        }}",
        more = lines(&more),
        first = lines(first),
        second = lines(second),
    )
}

fn lines(rules: &[String]) -> String {
    rules.iter().map(|rule| format!("{rule}\n")).collect()
}

/// Whether what is said agrees with what happens: where something is sure, and where nothing is in the way.
fn check(pair: &mut Pair, text: &str) -> Result<(), TestCaseError> {
    prop_assume!(pair.rules(text));
    let obstacles = pair.all_obstacles();
    let answers = pair.answers();
    if obstacles.iter().any(|obstacle| obstacle.is_sure) {
        prop_assert!(!answers, "it is answered, in spite of {obstacles:?}\n{text}");
    } else if obstacles.is_empty() {
        prop_assert!(answers, "it is not answered, and nothing is said\n{text}");
    }
    Ok(())
}

#[test]
fn what_is_said_of_rules_is_what_the_kernel_does() {
    let Some(pair) = Pair::new() else { return };
    let pair = std::cell::RefCell::new(pair);
    let rules = || prop::collection::vec(rule(), 0..5);
    let policy = prop::sample::select(&["accept", "drop"][..]);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(first in rules(), second in rules(), more in rules(), policy in policy, priority in -5i32..5)| {
        check(&mut pair.borrow_mut(), &ruleset(&first, &second, &more, policy, priority))?;
    });
}

/// Each match by itself, before a drop: what is known of the packet is enough for almost all.
#[test]
fn every_match_is_understood() {
    let Some(mut pair) = Pair::new() else { return };
    let mut unsure = Vec::new();
    for matched in MATCHES {
        let text = ruleset(&[format!("{matched} drop")], &[], &[], "accept", 0);
        check(&mut pair, &text).unwrap();
        let obstacles = pair.obstacles(Hook::Input, &packet());
        if obstacles.iter().any(|obstacle| !obstacle.is_sure) {
            unsure.push(*matched);
        }
    }
    let expected = [
        "tcp sport 1024-65535",
        "tcp sport 1",
        "ip ttl < 5",
        "ip dscp 1",
        "limit rate 1/hour burst 1000 packets",
        "meta skuid 0",
        "meta length < 2000",
        "limit name \"seldom\"",
        "quota name \"much\"",
        "ct count over 1000",
        "ip saddr @limited",
    ];
    assert_eq!(unsure, expected);
}

/// As `iptables` of today writes them, with matches of its own.
#[test]
fn iptables_rules_are_understood() {
    let Some(mut pair) = Pair::new() else { return };
    let cases: &[(&str, Option<bool>)] = &[
        ("-P INPUT ACCEPT", None),
        ("-P INPUT DROP", Some(true)),
        ("-A INPUT -p tcp --dport 20229 -j DROP", Some(true)),
        ("-A INPUT -p tcp -m tcp --dport 20000:30000 -j REJECT", Some(true)),
        ("-A INPUT -p tcp -m tcp ! --dport 20229 -j REJECT", None),
        ("-A INPUT -p udp --dport 20229 -j DROP", None),
        ("-A INPUT -m conntrack --ctstate NEW -j DROP", Some(true)),
        ("-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j DROP", Some(true)),
        ("-A INPUT -m conntrack --ctstate RELATED,INVALID -j DROP", None),
        ("-A INPUT -m conntrack ! --ctstate ESTABLISHED -j DROP", Some(true)),
        ("-A INPUT -m state --state NEW -j DROP", Some(true)),
        ("-A INPUT -s 10.7.0.0/24 -i v1 -m comment --comment no -j DROP", Some(true)),
        ("-A INPUT ! -i v+ -j DROP", None),
        ("-A INPUT -m addrtype --dst-type LOCAL -j DROP", Some(true)),
        ("-A INPUT -m addrtype ! --dst-type LOCAL -j DROP", None),
        ("-A INPUT -m addrtype --src-type LOCAL -j DROP", Some(false)),
        ("-A INPUT -m conntrack --ctstate DNAT -j DROP", Some(false)),
        ("-A INPUT -m limit --limit 1/hour -j ACCEPT\n-A INPUT -j DROP", Some(false)),
        ("-A INPUT -p tcp -m multiport --dports 80,20229 -j DROP", Some(false)),
        ("-N OTHER\n-A OTHER -p tcp -j DROP\n-A INPUT -j OTHER", Some(true)),
        ("-N OTHER\n-A OTHER -p tcp -j RETURN\n-A OTHER -j DROP\n-A INPUT -j OTHER", None),
    ];
    for (rules, expected) in cases {
        assert!(pair.rules(""));
        for rule in rules.lines() {
            assert!(pair.feed(&[&["iptables-nft"], &rule.split(' ').collect::<Vec<_>>()[..]].concat(), ""));
        }
        let obstacles = pair.all_obstacles();
        let said = obstacles.first().map(|obstacle| obstacle.is_sure);
        assert_eq!(said, *expected, "{rules}: {obstacles:?}");
        if said != Some(false) {
            assert_eq!(pair.answers(), said.is_none(), "{rules}");
        }
    }
}
