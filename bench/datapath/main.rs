//! Ways from a client to a backend, side by side: `make bench` (bench/README.md says how to read it).
//!
//! Each variant has a world of its own, in a process of its own; it must first prove that it works. One JSON object a line is printed.

#[path = "../../tests/kernel"]
mod kernel {
    #[allow(dead_code, unused_imports)]
    pub mod lab;
}
mod byhand;
mod meshd;
mod programs;
mod traffic;
mod world;

use std::any::Any;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use kernel::lab;
use traffic::Kind;
use world::World;

/// One way, by name; on so many nodes, with so many published ports.
struct Variant {
    name: &'static str,
    nodes: usize,
    ports: u16,
}

/// Side by side in one run.
const VARIANTS: &[(&str, usize, &[u16])] = &[
    ("direct", 1, &[1]),
    ("meshd", 1, &[1, 1000, 10_000]),
    ("meshd preserve", 1, &[1]),
    ("meshd host", 1, &[1]),
    ("meshd nftables", 1, &[1, 1000, 10_000]),
    ("by hand", 1, &[1, 1000]),
    ("swarm", 1, &[1, 10, 100, 1000, 10_000]),
    ("haproxy", 1, &[1]),
    ("nginx", 1, &[1]),
    ("direct", 2, &[1]),
    ("meshd", 2, &[1]),
    ("meshd preserve", 2, &[1]),
    ("meshd encrypted", 2, &[1]),
    ("meshd nftables", 2, &[1]),
    ("by hand", 2, &[1]),
];

fn variants() -> impl Iterator<Item = Variant> {
    VARIANTS
        .iter()
        .flat_map(|(name, nodes, ports)| ports.iter().map(move |ports| Variant { name, nodes: *nodes, ports: *ports }))
}

impl Variant {
    /// As it is asked for: `meshd preserve/2/1`.
    fn key(&self) -> String {
        format!("{}/{}/{}", self.name, self.nodes, self.ports)
    }
}

fn main() {
    // cargo says `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [one, key] = &arguments[..]
        && one == "--one"
    {
        let variant = variants().find(|variant| variant.key() == *key).expect("a variant");
        println!("{}", measure(&variant));
        return;
    }
    let asked_for = |variant: &Variant| {
        arguments.is_empty() || arguments.iter().any(|filter| variant.key().starts_with(filter.as_str()))
    };
    let mut failed = false;
    for variant in variants().filter(asked_for) {
        // What belongs to a namespace ends with the process.
        let program = std::env::current_exe().expect("this program");
        let status = Command::new(program).args(["--one", &variant.key()]).status().expect("it starts");
        if !status.success() {
            eprintln!("bench: {}: {status}", variant.key());
            failed = true;
        }
    }
    std::process::exit(i32::from(failed));
}

/// Sets the variant up, has it prove that it works, and measures.
fn measure(variant: &Variant) -> Value {
    let Some(mut world) = World::new(variant.nodes, variant.ports) else { std::process::exit(1) };
    let mut targets = vec![world.target()];
    // What runs is held until the end.
    let mut running: Vec<Box<dyn Any>> = Vec::new();
    match variant.name {
        "direct" => {
            byhand::direct(&world);
            targets = world.direct();
        }
        "meshd" => running.push(Box::new(meshd::start(&world, "ipvs", ""))),
        "meshd preserve" => running.push(Box::new(meshd::start(&world, "ipvs", "client_address = 'preserve'"))),
        "meshd host" => running.push(Box::new(meshd::start(&world, "ipvs", "mode = 'host'"))),
        "meshd nftables" => running.push(Box::new(meshd::start(&world, "nftables", ""))),
        "meshd encrypted" => {
            world.encrypt();
            running.push(Box::new(meshd::start(&world, "ipvs", "")));
        }
        "by hand" => byhand::mesh(&world),
        "swarm" => byhand::swarm(&world),
        "haproxy" => running.push(Box::new(programs::haproxy(&world))),
        "nginx" => running.push(Box::new(programs::nginx(&world))),
        name => unreachable!("{name}"),
    }
    let result = sample(&world, &targets, variant);
    drop(running);
    result
}

fn sample(world: &World, targets: &[SocketAddr], variant: &Variant) -> Value {
    let client = world.client();
    let (names, peers) =
        traffic::proof(client, targets, 9).unwrap_or_else(|error| panic!("{}: {error}", variant.key()));
    assert_eq!(names.len(), 3, "{} reaches {names:?}", variant.key());
    // What the kernel tells of right after a start makes meshd look once more, which takes its time with many ports.
    std::thread::sleep(Duration::from_secs(20));
    let ask =
        |kind, alone, milliseconds| traffic::ask(client, kind, targets, alone, Duration::from_millis(milliseconds));
    ask(Kind::Fresh, false, 200);
    let (fresh, kept, bulk) =
        (ask(Kind::Fresh, false, 1500), ask(Kind::Kept, false, 1000), ask(Kind::Bulk, false, 1000));
    let (first, next) = (ask(Kind::Fresh, true, 400), ask(Kind::Kept, true, 200));
    let seen: Vec<String> = peers.iter().map(ToString::to_string).collect();
    json!({
        "variant": variant.name, "nodes": variant.nodes, "ports": variant.ports, "seen": seen.join(" "),
        "connections_per_second": fresh.rate, "requests_per_second": kept.rate, "mib_per_second": bulk.rate,
        "connection_us": { "p50": first.percentile(50), "p99": first.percentile(99) },
        "request_us": { "p50": next.percentile(50), "p99": next.percentile(99) },
    })
}
