//! What the pure parts cost, and reading what IPVS says: `cargo bench --bench micro` (bench/README.md says how to read it).
//!
//! Meshes are those of bench/control: each service has one port and ten backends, the same for all. Where the kernel's part
//! outweighs ours, as at a look, only this shows what became slower.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use divan::{AllocProfiler, Bencher, Divan};
use meshd::change;
use meshd::config::Config;
use meshd::dataplane;
use meshd::kernel::attribute::Writer;
use meshd::kernel::ipvs::{read_destination, read_service};
use meshd::mesh::Mesh;
use meshd::objects::{Destination, DestinationKey, Family, Objects, Surroundings, VirtualKey, VirtualService};
use meshd::plan;

/// The daemon's own, so that what is asked of it costs here what it costs there.
#[global_allocator]
static ALLOCATOR: AllocProfiler<mimalloc::MiMalloc> = AllocProfiler::new(mimalloc::MiMalloc);

const PORTS: [usize; 2] = [1000, 10_000];
const BACKENDS: usize = 10;
/// Ports are published from here on.
const FIRST: usize = 20_000;

fn main() {
    // Some take half a second each; more samples say nothing new.
    Divan::default().sample_count(20).config_with_args().main();
}

/// The same mesh as each part of meshd has it.
struct World {
    text: String,
    mesh: Mesh,
    surroundings: Surroundings,
    objects: Objects,
}

/// Made when first asked for, then shared: to make one takes longer than most of what is measured.
fn world(ports: usize) -> &'static World {
    static WORLDS: [LazyLock<World>; 2] =
        [LazyLock::new(|| World::new(PORTS[0])), LazyLock::new(|| World::new(PORTS[1]))];
    &WORLDS[PORTS.iter().position(|known| *known == ports).expect("one of those")]
}

impl World {
    fn new(ports: usize) -> World {
        let text = text(ports);
        let (mesh, surroundings) = (read(&text), Surroundings::default());
        let objects = dataplane::objects(&mesh, &surroundings);
        World { text, mesh, surroundings, objects }
    }
}

fn text(ports: usize) -> String {
    let mut text =
        "[node]\naddress = '192.168.50.1'\n\n[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n".to_owned();
    let backends: Vec<String> = (1..=BACKENDS).map(|number| format!("{{ address = '10.255.1.{number}' }}")).collect();
    let backends = backends.join(", ");
    for port in FIRST..FIRST + ports {
        let service = format!("name = 'service-{port}'\nport = [{{ published = {port}, target = 9092 }}]");
        write!(text, "\n[[service]]\n{service}\nbackend = [{backends}]\n").expect("memory");
    }
    text
}

fn read(text: &str) -> Mesh {
    Config::parse(text, "services.toml").unwrap_or_else(|errors| panic!("{errors}")).mesh("node-1")
}

#[divan::bench(args = PORTS)]
fn text_to_mesh(bencher: Bencher<'_, '_>, ports: usize) {
    let world = world(ports);
    bencher.bench(|| read(&world.text));
}

#[divan::bench(args = PORTS)]
fn mesh_to_objects(bencher: Bencher<'_, '_>, ports: usize) {
    let world = world(ports);
    bencher.bench(|| dataplane::objects(&world.mesh, &world.surroundings));
}

/// The pure part of a look that finds nothing to do.
#[divan::bench(args = PORTS)]
fn diff_of_equals(bencher: Bencher<'_, '_>, ports: usize) {
    let world = world(ports);
    let seen = dataplane::objects(&world.mesh, &world.surroundings);
    assert!(plan::diff(&seen, &world.objects).is_empty());
    bencher.bench(|| plan::diff(&seen, &world.objects));
}

/// That of a start.
#[divan::bench(args = PORTS)]
fn diff_from_nothing(bencher: Bencher<'_, '_>, ports: usize) {
    let (nothing, world) = (Objects::default(), world(ports));
    bencher.bench(|| plan::diff(&nothing, &world.objects));
}

/// That of a change without a look: one backend of one service, in the middle, has another weight.
#[divan::bench(args = PORTS)]
fn change_of_one_service(bencher: Bencher<'_, '_>, ports: usize) {
    let world = world(ports);
    let frame = change::frame(world.objects.clone());
    let mut new = world.mesh.clone();
    Arc::make_mut(&mut new.services[ports / 2]).ports[0].backends[0].weight = 2;
    let plan = || change::plan(&world.mesh, &new, &world.surroundings, &frame);
    assert_eq!(plan().map(|change| change.plan.steps.len()), Some(1));
    bencher.bench(plan);
}

/// What the kernel says of all services becomes ours again; the system calls that it takes to be told are left out.
#[divan::bench(args = PORTS)]
fn ipvs_dump_to_services(bencher: Bencher<'_, '_>, ports: usize) {
    let world = world(ports);
    let replies: Vec<Reply> = world.objects.services.iter().map(Reply::new).collect();
    let read = || replies.iter().filter_map(Reply::read).collect::<BTreeMap<_, _>>();
    assert_eq!(read(), world.objects.services);
    bencher.bench(read);
}

/// What the kernel answers of one service: a message of it, and one of each destination.
struct Reply {
    service: Vec<u8>,
    destinations: Vec<Vec<u8>>,
}

/// The header of generic netlink: the command that would make what is described, and the version.
const SERVICE: [u8; 4] = [1, 1, 0, 0];
const DESTINATION: [u8; 4] = [5, 1, 0, 0];
const AF_INET: u16 = 2;

impl Reply {
    /// All of IPv4 and without flags, in the kernel's order (ip_vs_genl_fill_service, Linux 6.1).
    fn new((key, service): (&VirtualKey, &VirtualService)) -> Reply {
        assert_eq!(key.family, Family::V4);
        let mut message = Writer::after(&SERVICE);
        message.nested(1, |of| {
            of.u16(1, AF_INET);
            of.u32(5, key.mark.0);
            of.string(6, service.scheduler.name());
            // Hashed; and the mask of those that are meant.
            of.bytes(7, &[2u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
            of.u32(8, 0);
            of.be32(9, u32::MAX);
            statistics(of, 10, 12);
        });
        Reply { service: message.finish(), destinations: service.destinations.iter().map(destination).collect() }
    }

    fn read(&self) -> Option<(VirtualKey, VirtualService)> {
        let mut seen = read_service(&self.service)?;
        let destinations = self.destinations.iter().filter_map(|body| read_destination(body, seen.key.family));
        seen.service.destinations = destinations.map(|seen| (seen.key, seen.destination())).collect();
        Some((seen.key, seen.service))
    }
}

/// In the kernel's order (ip_vs_genl_fill_dest, Linux 6.1).
fn destination((key, destination): (&DestinationKey, &Destination)) -> Vec<u8> {
    let IpAddr::V4(address) = key.address else { panic!("not IPv4: {}", key.address) };
    let mut message = Writer::after(&DESTINATION);
    message.nested(2, |of| {
        of.bytes(1, &[&address.octets()[..], &[0; 12]].concat());
        of.be16(2, key.port);
        of.u32(3, 0);
        of.u32(4, destination.weight);
        // How it would be tunnelled.
        of.u8(13, 0);
        of.be16(14, 0);
        of.u16(15, 0);
        of.u32(5, destination.thresholds.upper);
        of.u32(6, destination.thresholds.lower);
        // Connections: active, inactive, persistent.
        (7..=9).for_each(|kind| of.u32(kind, 1));
        of.u16(11, AF_INET);
        statistics(of, 10, 12);
    });
    message.finish()
}

/// Both kinds: connections, packets and bytes each way, and their rates; in the older one only bytes are 64 bits wide.
fn statistics(of: &mut Writer, narrow: u16, wide: u16) {
    let number = u64::from(u32::MAX).to_ne_bytes();
    of.nested(narrow, |of| {
        (1..=10).for_each(|kind| of.bytes(kind, if matches!(kind, 4 | 5) { &number } else { &number[..4] }))
    });
    of.nested(wide, |of| (1..=10).for_each(|kind| of.bytes(kind, &number)));
}
