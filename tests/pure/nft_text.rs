//! Our tables in nft's own syntax: what `Display` says is what nft understands by it.
//!
//! Needs root and nft; without them these tests say so and pass.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use meshd::dataplane;
use meshd::mesh::{Access, Bind, Mesh, Network, Port};
use meshd::objects::{
    Base, Family, MapKind, MapValue, Netns, PortRange, SetElement, SetKind, Surroundings, TABLE, Table,
};

use super::build::{attached, backend, node, port, preserving, serving, tcp, udp, with_v6};

/// The table as one would write it for `nft -f`.
fn text(table: &Table) -> String {
    let mut out = format!("table inet {TABLE} {{\n");
    for (name, map) in &table.maps {
        let of_ports = "inet_proto . inet_service";
        let (keys, values) = match map.kind {
            MapKind::Mark => (of_ports, "mark"),
            MapKind::Address(Family::V4) => (of_ports, "ipv4_addr"),
            MapKind::Address(Family::V6) => (of_ports, "ipv6_addr"),
            MapKind::Ways => ("mark", "verdict"),
            MapKind::Slots(Family::V4) => ("mark . mark", "ipv4_addr . inet_service"),
            MapKind::Slots(Family::V6) => ("mark . mark", "ipv6_addr . inet_service"),
            MapKind::Hosts(Family::V4) => ("mark . mark", "ipv4_addr"),
            MapKind::Hosts(Family::V6) => ("mark . mark", "ipv6_addr"),
            MapKind::Turns => ("mark . mark", "mark"),
            MapKind::Clients(Family::V4) => ("mark . ipv4_addr", "mark"),
            MapKind::Clients(Family::V6) => ("mark . ipv6_addr", "mark"),
        };
        writeln!(out, "\tmap {name} {{\n\t\ttype {keys} : {values}").unwrap();
        if map.ranges {
            writeln!(out, "\t\tflags interval").unwrap();
        }
        let element = |(ports, value): (&PortRange, &MapValue)| {
            let last = if ports.is_single() { String::new() } else { format!("-{}", ports.last) };
            // nft writes all of a mark's digits.
            let value = match value {
                MapValue::Mark(mark) => format!("{:#010x}", mark.0),
                MapValue::Address(address) => address.to_string(),
            };
            format!("{} . {}{last} : {value}", ports.protocol, ports.first)
        };
        if !map.elements.is_empty() {
            let elements: Vec<String> = map.elements.iter().map(element).collect();
            writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     ")).unwrap();
        }
        writeln!(out, "\t}}\n").unwrap();
    }
    for (name, set) in &table.sets {
        let ip = |family| if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
        let (kind, flags) = match set.kind {
            SetKind::Addresses(family) => (ip(family).to_owned(), ""),
            SetKind::Ports => ("inet_proto . inet_service".to_owned(), "\n\t\tflags interval"),
            SetKind::Networks(family) => {
                (format!("{} . inet_proto . inet_service", ip(family)), "\n\t\tflags interval")
            }
            SetKind::Links => ("ifname . inet_proto . inet_service".to_owned(), "\n\t\tflags interval"),
            SetKind::Marks => ("mark".to_owned(), ""),
            SetKind::Backends(family) => (format!("mark . {} . inet_service", ip(family)), ""),
            SetKind::Room => ("mark . mark".to_owned(), "\n\t\tflags interval"),
            SetKind::Full => ("mark . mark".to_owned(), "\n\t\tflags dynamic,timeout"),
        };
        writeln!(out, "\tset {name} {{\n\t\ttype {kind}{flags}").unwrap();
        let ports = |ports: &PortRange| {
            let last = if ports.is_single() { String::new() } else { format!("-{}", ports.last) };
            format!("{} . {}{last}", ports.protocol, ports.first)
        };
        let element = |element: &SetElement| match element {
            SetElement::Address(address) => address.to_string(),
            SetElement::Ports(range) => ports(range),
            SetElement::Network(network, range) => {
                let whole = if network.0.is_ipv4() { 32 } else { 128 };
                let net = if network.0.prefix() == whole { network.0.ip().to_string() } else { network.0.to_string() };
                format!("{net} . {}", ports(range))
            }
            SetElement::Link(name, range) => format!("\"{name}\" . {}", ports(range)),
            SetElement::Mark(mark) => format!("{:#010x}", mark.0),
        };
        if !set.elements.is_empty() {
            let elements: Vec<String> = set.elements.iter().map(element).collect();
            writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     ")).unwrap();
        }
        writeln!(out, "\t}}\n").unwrap();
    }
    for (name, chain) in &table.chains {
        writeln!(out, "\tchain {name} {{").unwrap();
        if let Some(Base { kind, hook, priority }) = chain.base {
            writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;").unwrap();
        }
        chain.rules.iter().for_each(|rule| writeln!(out, "\t\t{rule}").unwrap());
        writeln!(out, "\t}}\n").unwrap();
    }
    out + "}\n"
}

/// What nft makes of a table, in a network namespace of its own; `None` where that cannot be tried.
fn through_nft(table: &str) -> Option<Result<String, String>> {
    let script = "command -v nft >/dev/null || exit 77; unshare -n true 2>/dev/null || exit 77
        unshare -n sh -c 'nft -f - && nft -y list ruleset'";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().expect("a shell");
    // A shell that ends early does not read; its exit status says why.
    let _ = shell.stdin.take().expect("its input").write_all(table.as_bytes());
    let output = shell.wait_with_output().expect("the shell ends");
    let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match output.status.code() {
        Some(77) => None,
        Some(0) => Some(Ok(said(output.stdout))),
        _ => Some(Err(said(output.stderr))),
    }
}

/// Without what differs only in how nft likes to write it: spaces, and the order in a hash table.
fn normal(text: &str) -> Vec<String> {
    let joined = text.replace(",\n", ", ");
    let line = |line: &str| {
        // How much was counted is no part of a rule.
        let line =
            line.split_whitespace().collect::<Vec<_>>().join(" ").replace("counter packets 0 bytes 0", "counter");
        match line.strip_prefix("elements = { ").and_then(|line| line.strip_suffix(" }")) {
            Some(elements) => {
                let mut elements: Vec<&str> = elements.split(", ").collect();
                elements.sort_unstable();
                elements.join(", ")
            }
            None => line,
        }
    };
    joined.lines().map(line).filter(|line| !line.is_empty()).collect()
}

fn check(mesh: &Mesh) {
    let objects = dataplane::objects(mesh, &Surroundings::default());
    for netns in [Netns::Host, Netns::Sandbox] {
        let ours = text(&objects.tables[&netns]);
        match through_nft(&ours) {
            None => eprintln!("SKIPPED: nft is missing or may not make a network namespace"),
            Some(Err(complaint)) => panic!("nft does not understand\n{ours}\n{complaint}"),
            Some(Ok(theirs)) => assert_eq!(normal(&theirs), normal(&ours), "nft's words\n{theirs}\nour words\n{ours}"),
        }
    }
}

#[test]
fn the_tables_of_an_empty_mesh_are_nfts_own_words() {
    check(&node());
}

#[test]
fn the_tables_of_a_mesh_that_restricts_its_ports_are_nfts_own_words() {
    let access = Access {
        bind: [Bind::Address("192.168.50.1".parse().unwrap()), Bind::Link("eth0".to_owned())].into(),
        allow: Some(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32"].map(network).into()),
        deny: ["10.66.0.0/16", "::/0"].map(network).into(),
    };
    let guarded = |published| Port { access: access.clone(), ..port(published, None, [attached("10.255.0.33", "a")]) };
    check(&serving(node(), "web", [guarded(tcp(80, 80)), preserving(guarded(udp(3000, 3099)))]));
}

fn network(text: &str) -> Network {
    Network(text.parse().unwrap())
}

#[test]
fn the_tables_of_a_full_mesh_are_nfts_own_words() {
    let backends = [attached("10.255.0.34", "dns-1"), attached("fd00:255::34", "dns-1")];
    let dns = [port(udp(53, 53), 5353, backends.clone()), port(tcp(53, 53), 5353, backends)];
    let media = [
        port(udp(30000, 30099), None, [backend("10.255.0.40"), backend("fd00:255::40")]),
        port(tcp(80, 80), 80, [backend("192.0.2.10")]),
    ];
    check(&serving(serving(with_v6(node()), "dns", dns), "media", media));
}
