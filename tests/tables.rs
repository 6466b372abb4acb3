//! Our nftables tables on a real kernel: written by us, read back by us, and listed by nft(8).
//!
//! Needs root and nf_tables, not IPVS. Each test's host is a namespace of its own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use meshd::config::Config;
use meshd::dataplane;
use meshd::kernel::netns;
use meshd::kernel::nft::Nft;
use meshd::objects::{Netns, Objects, Surroundings, Table};
use meshd::plan::{Step, diff};

/// A namespace with nothing in it; deleted at the end.
struct Space {
    name: String,
    nft: Nft,
}

impl Space {
    /// `None`, and a word about it, where this can't be done.
    fn new() -> Option<Space> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mtab{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let opened = netns::create(&name).map_err(|error| format!("{error}")).and_then(|()| {
            let file = netns::open(format!("/run/netns/{name}")).map_err(|error| error.to_string())?;
            let opened = netns::within(&file, || Nft::open().and_then(|mut nft| nft.table().map(|_| nft)));
            opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        });
        match opened {
            Ok(nft) => Some(Space { name, nft }),
            Err(error) => {
                let _ = netns::delete(&name);
                assert!(std::env::var_os("MESHD_REQUIRE_KERNEL").is_none(), "cannot use nf_tables: {error}");
                eprintln!("SKIPPED: cannot use nf_tables: {error}");
                None
            }
        }
    }

    /// Runs a shell command in the namespace.
    fn run(&self, command: &str) -> String {
        let out = Command::new("ip").args(["netns", "exec", &self.name, "sh", "-ec", command]).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn seen(&mut self, netns: Netns) -> Objects {
        let table = self.nft.table().unwrap();
        Objects { tables: table.into_iter().map(|table| (netns, table)).collect(), ..Objects::default() }
    }

    /// Makes the namespace's table that of `netns` in `wanted`, and sees that it is.
    fn converge(&mut self, netns: Netns, wanted: &Objects) {
        let tables = wanted.tables.iter().filter(|(of, _)| **of == netns);
        let wanted = Objects { tables: tables.map(|(of, table)| (*of, table.clone())).collect(), ..Objects::default() };
        let plan = diff(&self.seen(netns), &wanted);
        let steps: Vec<&Step> = plan.steps.iter().filter(|step| !matches!(step, Step::TakeOver { .. })).collect();
        for (step, outcome) in steps.iter().zip(self.nft.apply(&steps)) {
            outcome.unwrap_or_else(|error| panic!("{step}: {error}"));
        }
        assert_eq!(self.seen(netns), wanted);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
    }
}

/// The objects of a mesh that publishes these ports, each to one IPv4 and one IPv6 backend.
fn publishing(ports: &[&str]) -> Objects {
    let mut text = r#"
        ingress = { subnet = "10.255.0.0/16", address = "10.255.0.3", subnet6 = "fd00:255::/64", address6 = "fd00:255::3" }
        [[service]]
        name = "kafka"
        backend = [{ address = "10.255.0.33" }, { address = "fd00:255::33" }]
        port = ["#
        .to_owned();
    for port in ports {
        text.push_str(&format!("{{ {port} }}, "));
    }
    text.push(']');
    let config = Config::parse(&text, "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
    dataplane::objects(&config.mesh("node"), &Surroundings::default())
}

const TCP: &str = "published = 20229, target = 9092";
const UDP_RANGE: &str = r#"published = "30000-30099", protocol = "udp""#;

#[test]
fn tables_are_read_back_as_they_were_written() {
    for netns in [Netns::Host, Netns::Sandbox] {
        let Some(mut space) = Space::new() else { return };
        space.converge(netns, &publishing(&[TCP]));
        space.converge(netns, &publishing(&[TCP, UDP_RANGE, "published = 20230"]));
        // A range that is split overlaps what was there: it changes in one transaction.
        let split =
            [r#"published = "30000-30049", protocol = "udp""#, r#"published = "30050-30099", protocol = "udp""#];
        space.converge(netns, &publishing(&split));
        space.converge(netns, &publishing(&["published = 1, backend = []"]));
        space.converge(netns, &Objects::default());
        assert_eq!(space.run("nft list ruleset"), "");
    }
}

#[test]
fn nft_lists_our_rules_in_the_words_of_our_plans() {
    for netns in [Netns::Host, Netns::Sandbox] {
        let Some(mut space) = Space::new() else { return };
        let wanted = publishing(&[TCP, UDP_RANGE]);
        space.converge(netns, &wanted);
        // How much was counted is no part of a rule.
        let listed = space.run("nft -s list table inet meshd");
        let table: &Table = &wanted.tables[&netns];
        for rule in table.chains.values().flat_map(|chain| &chain.rules) {
            assert!(listed.contains(&format!("\t\t{rule}\n")), "{rule}\nis not in\n{listed}");
        }
        let elements = match netns {
            Netns::Sandbox => ["tcp . 20229 : 0x00014f05", "udp . 30000-30099 : 0x00027530"],
            _ => ["tcp . 20229 : 169.254.77.2", "udp . 30000-30099 : fd6d:6573:6864::2"],
        };
        for element in elements {
            assert!(listed.contains(element), "{element}\nis not in\n{listed}");
        }
    }
}

#[test]
fn what_others_did_to_our_table_is_mended() {
    let damages = [
        "nft flush ruleset",
        "nft flush chain inet meshd prerouting",
        "nft flush map inet meshd published4",
        "nft delete element inet meshd ranges4 '{ udp . 30000-30099 }'",
        "nft add rule inet meshd prerouting drop",
        "nft insert rule inet meshd postrouting tcp dport 22 accept",
        "nft add chain inet meshd prerouting '{ policy drop; }'",
        "nft add table inet meshd '{ flags dormant; }'",
        "nft add chain inet meshd stranger '{ type filter hook input priority 0; }'",
        "nft add map inet meshd stranger '{ type inet_proto . inet_service : mark; }'",
    ];
    let wanted = publishing(&[TCP, UDP_RANGE]);
    let Some(mut space) = Space::new() else { return };
    for damage in damages {
        space.converge(Netns::Host, &wanted);
        let before = space.run("nft list ruleset");
        space.run(damage);
        assert_ne!(space.seen(Netns::Host), wanted, "{damage} was not seen");
        space.converge(Netns::Host, &wanted);
        assert_eq!(space.run("nft list ruleset"), before, "after {damage}");
    }
}

#[test]
fn what_others_did_to_the_size_of_segments_is_mended() {
    let wanted = publishing(&[TCP]);
    let Some(mut space) = Space::new() else { return };
    let size = "inet meshd segments tcp flags syn tcp option maxseg size set";
    for damage in [
        "nft flush chain inet meshd segments".to_owned(),
        format!("nft add rule {size} 1200"),
        format!("nft add rule {size} rt mtu"),
        "nft flush chain inet meshd segments; nft add rule inet meshd segments meta nfproto ipv4 tcp option maxseg size set 1410".to_owned(),
    ] {
        space.converge(Netns::Sandbox, &wanted);
        let before = space.run("nft list ruleset");
        space.run(&damage);
        assert_ne!(space.seen(Netns::Sandbox), wanted, "{damage} was not seen");
        space.converge(Netns::Sandbox, &wanted);
        assert_eq!(space.run("nft list ruleset"), before, "after {damage}");
    }
    space.converge(Netns::Sandbox, &publishing(&[UDP_RANGE]));
    assert!(!space.run("nft list ruleset").contains("maxseg"), "no TCP port needs it");
}

#[test]
fn other_tables_stay_byte_for_byte() {
    let Some(mut space) = Space::new() else { return };
    space.run(
        "nft add table inet other; nft add chain inet other c '{ type nat hook prerouting priority -100; }'; \
         nft add rule inet other c tcp dport 80 redirect to :8080; nft add table ip meshd; nft add set ip meshd s '{ type ipv4_addr; }'",
    );
    let before = space.run("nft list ruleset");
    space.converge(Netns::Host, &publishing(&[TCP, UDP_RANGE]));
    space.converge(Netns::Host, &Objects::default());
    assert_eq!(space.run("nft list ruleset"), before);
}

#[test]
fn a_step_that_fails_does_not_stop_the_others() {
    let Some(mut space) = Space::new() else { return };
    let netns = Netns::Host;
    let wanted = publishing(&[TCP, "published = 20230"]);
    space.converge(netns, &wanted);
    let edit = |name: &str, port: u16| {
        let port = meshd::objects::PortRange::single(meshd::objects::Protocol::Tcp, port);
        let add = vec![(port, meshd::objects::MapValue::Address("169.254.77.2".parse().unwrap()))];
        Step::EditMap { netns, name: name.to_owned(), ranges: false, remove: Vec::new(), add }
    };
    let steps = [
        edit("published4", 1),
        edit("nowhere", 2),
        edit("published4", 3),
        Step::DeleteMap { netns, name: "gone".into() },
    ];
    let outcomes = space.nft.apply(&steps.iter().collect::<Vec<_>>());
    let done: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, true, true], "{outcomes:?}");
    let listed = space.run("nft list map inet meshd published4");
    assert!(listed.contains("tcp . 1 :") && listed.contains("tcp . 3 :"), "{listed}");
}

#[test]
fn ten_thousand_ports_are_one_transaction() {
    let Some(mut space) = Space::new() else { return };
    let ports: Vec<String> = (10_000..20_000).map(|port| format!("published = {port}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    space.converge(Netns::Sandbox, &publishing(&ports));
    space.converge(Netns::Sandbox, &publishing(&ports[5_000..]));
    assert_eq!(space.run("nft list map inet meshd marks").matches(" : 0x").count(), 5_000);
}

#[test]
fn forward_chains_that_drop_are_opened_and_closed_again() {
    let Some(mut space) = Space::new() else { return };
    space.run(
        "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; ip6tables-nft -P FORWARD DROP; nft add table inet firewalld; \
         nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; }'; \
         nft add rule inet firewalld filter_FORWARD counter reject with icmpx admin-prohibited; \
         nft add table inet harmless; nft add chain inet harmless f '{ type filter hook forward priority 0; }'",
    );
    let before = space.run("nft list ruleset");
    let forward = space.nft.forward("mesh_gwbridge").unwrap();
    let named: Vec<String> = forward.drops.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["inet firewalld filter_FORWARD", "ip filter DOCKER-USER", "ip6 filter FORWARD"]);
    assert!(forward.open.is_empty());

    for chain in &forward.drops {
        space.nft.open_forward(chain, "mesh_gwbridge").unwrap();
        space.nft.open_forward(chain, "mesh_gwbridge").unwrap();
    }
    let opened = space.run("nft list ruleset");
    assert_eq!(opened.matches("iifname \"mesh_gwbridge\" accept comment \"meshd\"").count(), 3);
    assert_eq!(opened.matches("oifname \"mesh_gwbridge\" accept comment \"meshd\"").count(), 3);
    // iptables shows them as its own would be shown.
    assert!(space.run("iptables-nft -S DOCKER-USER").contains("-i mesh_gwbridge"));
    assert_eq!(space.nft.forward("mesh_gwbridge").unwrap().open, forward.drops);

    // One of the two goes: that is no opening, and seen as stale.
    space.run("nft -a list chain ip6 filter FORWARD | awk '/iifname/ { print $NF }' | xargs nft delete rule ip6 filter FORWARD handle");
    let half = space.nft.forward("mesh_gwbridge").unwrap();
    assert_eq!((half.open.len(), half.stale.len()), (2, 1));

    for chain in &forward.drops {
        space.nft.close_forward(chain).unwrap();
        space.nft.close_forward(chain).unwrap();
    }
    assert_eq!(space.run("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*/packets 0 bytes 0/'"), before);
}
