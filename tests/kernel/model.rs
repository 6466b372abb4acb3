//! Whatever is done to it, in whatever order, the kernel ends up as wanted: random sequences of changes by the file and by the socket, of
//! others' damage and of sudden death, against a model that knows only who wants what.
//!
//! MESHD_MODEL_SEQUENCES says how many (100), MESHD_MODEL_SEED where they begin; what fails is made smaller before it is told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use meshd::kernel::Kernel;
use meshd::objects::{Family, Netns, Objects, PortRange};
use proptest::prelude::*;
use proptest::test_runner::{Config as Settings, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::lab::{Api, Backend, Config, Lab, Meshd, Place, REFUSES, Tcp, afflict, by_nftables, eventually, number};

const STEADY: u16 = 20229;
/// Its backends are asked whether they are well.
const CHECKED: u16 = 30_120;
const SOCKETS: [&str; 3] = ["s0", "s1", "s2"];
const FILES: [&str; 2] = ["f0", "f1"];
/// On a busy machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(40);

/// A service, as the operator means it: a port, and backends with their weights; `None`: it is drained.
type Wanted = (u16, BTreeMap<u8, Option<u32>>);

/// Where IPVS sends the clients of each port, and with what weights.
type Serving = BTreeMap<u16, BTreeMap<IpAddr, u32>>;

#[derive(Clone, Debug)]
enum Operation {
    Put(usize, Wanted),
    Delete(usize),
    AddBackend(usize, u8, u32),
    RemoveBackend(usize, u8),
    Weigh(usize, u8, u32),
    Drain(usize, u8),
    /// A port that another service has.
    Clash(usize, usize),
    /// What the file defines from now on.
    Reload(Vec<Option<Wanted>>),
    BadReload,
    /// Killed, and started again.
    Die,
    /// A change is asked for, and then comes the end: nobody knows whether it was made.
    DieChanging(usize, Wanted),
    Damage(usize),
    /// A backend that is checked answers no more, or again.
    Fall(usize),
    Rise(usize),
}

type PlaceOf = fn(&Lab) -> Place;
const DAMAGES: [(PlaceOf, &str); 8] = [
    (Lab::sandbox, "ipvsadm -C"),
    (Lab::sandbox, "nft delete table inet meshd"),
    (Lab::sandbox, "ip link set eth1 down"),
    (Lab::sandbox, "ip addr flush dev eth0"),
    (|lab| lab.node.clone(), "nft flush ruleset"),
    (|lab| lab.node.clone(), "ip link set mesh_sbox down"),
    (|lab| lab.node.clone(), "ip netns del SANDBOX"),
    (Lab::overlay, "ip link del br0"),
];

/// Each service has ports of its own.
fn wanted(of: u16) -> impl Strategy<Value = Wanted> {
    let backends = proptest::collection::btree_map(1..5u8, proptest::option::weighted(0.85, 1..4u32), 1..4);
    (0..2u16, backends).prop_map(move |(port, backends)| (30_000 + of * 10 + port, backends))
}

fn operation() -> impl Strategy<Value = Operation> {
    let socket = 0..SOCKETS.len();
    let put = socket.clone().prop_flat_map(|service| (Just(service), wanted(service as u16)));
    let file = (proptest::option::of(wanted(10)), proptest::option::of(wanted(11)));
    prop_oneof![
        4 => put.clone().prop_map(|(service, wanted)| Operation::Put(service, wanted)),
        2 => socket.clone().prop_map(Operation::Delete),
        2 => (socket.clone(), 1..5u8, 1..4u32).prop_map(|(service, backend, weight)| Operation::AddBackend(service, backend, weight)),
        2 => (socket.clone(), 1..5u8).prop_map(|(service, backend)| Operation::RemoveBackend(service, backend)),
        2 => (socket.clone(), 1..5u8, 1..4u32).prop_map(|(service, backend, weight)| Operation::Weigh(service, backend, weight)),
        2 => (socket.clone(), 1..5u8).prop_map(|(service, backend)| Operation::Drain(service, backend)),
        1 => (socket.clone(), socket).prop_map(|(one, other)| Operation::Clash(one, other)),
        2 => file.prop_map(|(one, other)| Operation::Reload(vec![one, other])),
        1 => Just(Operation::BadReload),
        2 => Just(Operation::Die),
        1 => put.prop_map(|(service, wanted)| Operation::DieChanging(service, wanted)),
        3 => (0..DAMAGES.len()).prop_map(Operation::Damage),
        2 => (0..2usize).prop_map(Operation::Fall),
        1 => (0..2usize).prop_map(Operation::Rise),
    ]
}

fn address(backend: u8) -> IpAddr {
    Ipv4Addr::new(10, 255, 1, backend).into()
}

/// The address of a backend that is checked.
fn checked(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 255, 0, 34 + number as u8).into()
}

fn text((port, backends): &Wanted) -> Value {
    let backend = |(number, weight): (&u8, &Option<u32>)| match weight {
        Some(weight) => json!({ "address": address(*number), "weight": weight }),
        None => json!({ "address": address(*number), "state": "drain" }),
    };
    let backends: Vec<Value> = backends.iter().map(backend).collect();
    json!({ "port": [{ "published": port, "target": 9092 }], "backend": backends })
}

/// The model.
#[derive(Clone, Debug, Default)]
struct Model {
    socket: BTreeMap<usize, Wanted>,
    file: Vec<Option<Wanted>>,
    /// Of those that are checked, whoever is not well.
    down: [bool; 2],
}

impl Model {
    fn services(&self) -> impl Iterator<Item = &Wanted> {
        self.socket.values().chain(self.file.iter().flatten())
    }

    /// Where clients are sent. Nobody is connected, so who is drained has left.
    fn kernel(&self) -> Serving {
        let serving = |backends: &BTreeMap<u8, Option<u32>>| {
            let weight = |weight: u32| if by_nftables() { 1 } else { weight };
            backends.iter().filter_map(|(number, of)| Some((address(*number), weight((*of)?)))).collect()
        };
        let well = (0..2).filter(|number| !self.down[*number]).map(|number| (checked(number), 1)).collect();
        let all = self.services().map(|(port, backends)| (*port, serving(backends))).chain([(CHECKED, well)]);
        all.filter(|(_, serving): &(u16, BTreeMap<IpAddr, u32>)| !serving.is_empty()).collect()
    }

    /// The file's services, in the operator's words.
    fn written(&self, config: Config) -> Config {
        let named = FILES.iter().zip(&self.file).filter_map(|(name, wanted)| Some((name, wanted.as_ref()?)));
        named.fold(config, |config, (name, (port, backends))| {
            let backend = |(number, weight): (&u8, &Option<u32>)| match weight {
                Some(weight) => format!("{{ address = '{}', weight = {weight} }}", address(*number)),
                None => format!("{{ address = '{}', state = 'drain' }}", address(*number)),
            };
            let backends: Vec<String> = backends.iter().map(backend).collect();
            config.service(&format!(
                "name = '{name}'\nport = [{{ published = {port}, target = 9092 }}]\nbackend = [{}]",
                backends.join(", ")
            ))
        })
    }
}

/// A meshd at work, and what it should have done by now.
struct World<'l> {
    lab: &'l Lab,
    meshd: Option<Meshd>,
    api: Api,
    model: Model,
    damaged: bool,
    checked: [Backend; 2],
}

impl World<'_> {
    fn config(&self) -> Config {
        let steady = self.lab.config().without_ipv6().service(&format!(
            "name = 'steady'\nport = [{{ published = {STEADY}, target = 9092 }}]\nbackend = [{{ address = '10.255.0.33', netns = \"kafka-1\" }}]"
        ));
        let checked = format!(
            "name = 'checked'\nport = [{{ published = {CHECKED}, target = 9092 }}]\ncheck = {{ type = 'tcp', interval = '1s', fall = 1, rise = 1 }}\n\
             backend = [{{ address = '10.255.0.34', netns = \"kafka-2\" }}, {{ address = '10.255.0.35', netns = \"kafka-3\" }}]"
        );
        self.model.written(steady.service(&checked))
    }

    fn path(service: usize) -> String {
        format!("/v1/services/{}", SOCKETS[service])
    }

    /// Asks; what is refused must be refused by the model too.
    fn ask(&mut self, method: &str, path: &str, body: Option<Value>, good: bool) {
        let (status, answer) = self.api.call(method, path, body.as_ref());
        assert_eq!(status == 200, good, "{method} {path}: {status} {answer:#}");
    }

    fn backend(&mut self, service: usize, number: u8) -> (String, bool) {
        let is_there = self.model.socket.get(&service).is_some_and(|(_, backends)| backends.contains_key(&number));
        (format!("{}/backends/{}", Self::path(service), address(number)), is_there)
    }

    fn reload(&mut self) {
        let config = self.config();
        self.meshd.as_mut().expect("it runs").reload(&config);
    }

    fn die(&mut self) {
        self.meshd.take().expect("it runs").kill9();
        self.meshd = Some(self.lab.resume());
        self.api = self.lab.api();
    }

    fn does(&mut self, operation: &Operation) {
        // Who says nothing for ten seconds is sent away.
        self.api = self.lab.api();
        match operation {
            Operation::Put(service, wanted) => {
                self.ask("PUT", &Self::path(*service), Some(text(wanted)), true);
                self.model.socket.insert(*service, wanted.clone());
            }
            Operation::Delete(service) => {
                let is_there = self.model.socket.remove(service).is_some();
                self.ask("DELETE", &Self::path(*service), None, is_there);
            }
            Operation::AddBackend(service, number, weight) => {
                let new = self.model.socket.get_mut(service).filter(|(_, backends)| !backends.contains_key(number));
                let good = new.map(|(_, backends)| backends.insert(*number, Some(*weight))).is_some();
                let body = json!({ "address": address(*number), "weight": weight });
                self.ask("POST", &format!("{}/backends", Self::path(*service)), Some(body), good);
            }
            Operation::RemoveBackend(service, number) => {
                let (path, is_there) = self.backend(*service, *number);
                self.ask("DELETE", &path, None, is_there);
                self.model.socket.get_mut(service).map(|(_, backends)| backends.remove(number));
            }
            Operation::Weigh(service, number, weight) => {
                let (path, is_there) = self.backend(*service, *number);
                self.ask("PATCH", &path, Some(json!({ "weight": weight, "state": null })), is_there);
                if is_there {
                    self.model.socket.get_mut(service).map(|(_, backends)| backends.insert(*number, Some(*weight)));
                }
            }
            Operation::Drain(service, number) => {
                let (path, is_there) = self.backend(*service, *number);
                self.ask("PATCH", &path, Some(json!({ "state": "drain" })), is_there);
                if is_there {
                    self.model.socket.get_mut(service).map(|(_, backends)| backends.insert(*number, None));
                }
            }
            Operation::Clash(one, other) => {
                let taken = self.model.socket.get(other).filter(|_| one != other).cloned();
                if let Some(taken) = taken {
                    self.ask("PUT", &Self::path(*one), Some(text(&taken)), false);
                }
            }
            Operation::Reload(file) => {
                self.model.file = file.clone();
                self.reload();
            }
            Operation::BadReload => {
                let bad = self.config().service("name = 'bad'\nport = [{ published = 0 }]");
                self.meshd.as_mut().expect("it runs").reload(&bad);
                // The one before is in force. It has to be there for whoever starts again.
                self.lab.write(&self.config());
            }
            Operation::Die => self.die(),
            Operation::DieChanging(service, wanted) => {
                self.api.send("PUT", &Self::path(*service), Some(&text(wanted))).expect("it listens");
                self.die();
                // The old or the new, and nothing between.
                let (status, answer) = self.api.call("GET", &Self::path(*service), None);
                let before = self.model.socket.get(service).cloned();
                let is = |wanted: &Wanted| status == 200 && covers(&answer["service"], &text(wanted));
                if is(wanted) {
                    self.model.socket.insert(*service, wanted.clone());
                } else {
                    assert!(
                        before.as_ref().map_or(status == 404, is),
                        "{status} {answer:#}, not {wanted:?} nor {before:?}"
                    );
                }
            }
            Operation::Damage(number) => {
                let (place, line) = DAMAGES[*number];
                let line = if by_nftables() {
                    line.replace("ipvsadm -C", "nft flush map inet meshd slots4")
                } else {
                    line.to_owned()
                };
                // What it is done to, or where, may be gone by the damage before.
                let place = place(self.lab);
                if place.exists() {
                    place.try_run(&line.replace("SANDBOX", &self.lab.sandbox().name));
                }
                self.damaged = true;
            }
            Operation::Fall(number) | Operation::Rise(number) => {
                let falls = matches!(operation, Operation::Fall(_));
                afflict(&self.checked[*number], if falls { REFUSES } else { None });
                self.model.down[*number] = falls;
            }
        }
    }

    fn converges(&mut self) -> Result<(), TestCaseError> {
        if std::mem::take(&mut self.damaged) {
            self.lab.have_a_look();
            // All of it: a sandbox that was deleted by its name serves until it is found to be gone.
            eventually("the damage is mended", || self.lab.meshctl("plan") == "nothing to do\n");
        }
        let (wanted, deadline) = (self.model.kernel(), Instant::now() + PATIENCE);
        let gone: BTreeSet<u16> =
            ports().filter(|port| *port != CHECKED && !self.model.services().any(|(other, _)| other == port)).collect();
        loop {
            let seen = seen(self.lab);
            let good = seen.as_ref().is_ok_and(|(services, published)| {
                *services == wanted
                    && wanted.keys().all(|port| published.contains(port))
                    && gone.iter().all(|port| !published.contains(port))
            });
            if good {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.meshd.as_ref().map(Meshd::log).unwrap_or_default();
                return Err(TestCaseError::fail(format!("wanted {wanted:?}, seen {seen:?}\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As it was before the first.
    fn begin(&mut self) {
        self.api = self.lab.api();
        self.model.socket.clear();
        (0..2).for_each(|number| self.does(&Operation::Rise(number)));
        let all = self.api.get("/v1/services");
        let of_socket = all["services"].as_array().into_iter().flatten().filter(|entry| entry["owner"] == "socket");
        for entry in of_socket {
            let name = entry["service"]["name"].as_str().expect("a name");
            self.ask("DELETE", &format!("/v1/services/{name}"), None, true);
        }
        if std::mem::take(&mut self.model.file).iter().any(Option::is_some) {
            self.reload();
        }
    }
}

/// Whether one has all that the other has; numbers and names may have been added.
fn covers(all: &Value, part: &Value) -> bool {
    match (all, part) {
        (Value::Object(all), Value::Object(part)) => {
            part.iter().all(|(key, value)| all.get(key).is_some_and(|there| covers(there, value)))
        }
        (Value::Array(all), Value::Array(part)) => {
            all.len() == part.len() && all.iter().zip(part).all(|(all, part)| covers(all, part))
        }
        _ => all == part,
    }
}

fn ports() -> impl Iterator<Item = u16> {
    [0, 1, 2, 10, 11].into_iter().flat_map(|of: u16| [30_000 + of * 10, 30_001 + of * 10]).chain([CHECKED])
}

/// What the kernel has of the model's ports: where IPVS sends clients, and which are published.
fn seen(lab: &Lab) -> Result<(Serving, BTreeSet<u16>), String> {
    // Opened anew: who holds a namespace open keeps it.
    let names = lab.names();
    let look = || Kernel::open(names).and_then(|mut kernel| kernel.observe(&Objects::default(), true));
    let mut objects = lab.node.within(look).map_err(|error| error.to_string())?;
    let of = |port: u16| PortRange { protocol: Tcp, first: port, last: port };
    let services = objects.services.iter().filter(|(key, _)| key.family == Family::V4);
    let services = services.filter_map(|(key, service)| {
        let port = ports().find(|port| of(*port).mark() == key.mark)?;
        let backends = service.destinations.iter().map(|(key, destination)| (key.address, destination.weight));
        Some((port, backends.collect()))
    });
    // Who takes turns has a slot each, whatever the weights.
    let slots = objects.balances.iter().filter(|(key, balance)| key.family == Family::V4 && balance.way.is_some());
    let slots = slots.filter_map(|(key, balance)| {
        let port = ports().find(|port| of(*port).mark() == key.mark)?;
        Some((port, balance.slots.values().map(|place| (place.address, 1)).collect()))
    });
    let services = services.chain(slots).collect();
    let published = objects.tables.remove(&Netns::Host).and_then(|mut table| table.maps.remove("published4"));
    let published = published.map(|map| map.elements).unwrap_or_default();
    Ok((services, ports().filter(|port| published.contains_key(&of(*port))).collect()))
}

#[test]
fn whatever_is_done_the_kernel_ends_up_as_wanted() {
    let Some(lab) = Lab::new() else { return };
    let _backend = lab.backend("kafka-1").tcp(9092);
    let (sequences, seed) = (number("MESHD_MODEL_SEQUENCES", 100), number("MESHD_MODEL_SEED", 7));
    let checked = ["kafka-2", "kafka-3"].map(|name| lab.backend(name).tcp(9092));
    let mut world = World { lab: &lab, meshd: None, api: lab.api(), model: Model::default(), damaged: false, checked };
    lab.write(&world.config());
    world.meshd = Some(lab.resume());
    let steady = format!("192.168.50.1:{STEADY}");
    let (world, done) = (RefCell::new(world), RefCell::new((0usize, 0usize)));
    let settings = Settings {
        cases: u32::try_from(sequences).expect("not that many"),
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Settings::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(seed as u64).to_le_bytes());
    let mut runner = TestRunner::new_with_rng(settings, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&proptest::collection::vec(operation(), 1..8), |operations| {
        let mut world = world.borrow_mut();
        world.begin();
        world.converges()?;
        // Who says nothing for ten seconds is sent away.
        world.api = lab.api();
        let harmless = !operations.iter().any(|operation| matches!(operation, Operation::Damage(_)));
        eventually("the steady one answers", || lab.client.try_ask(Tcp, &steady).is_ok());
        let crowd = harmless.then(|| lab.crowd(&steady, 1, 1));
        operations.iter().for_each(|operation| world.does(operation));
        // Told at once: to make it smaller may take longer than anyone waits.
        world.converges().inspect_err(|failure| eprintln!("{operations:?}: {failure}"))?;
        let failures = crowd.map(|crowd| crowd.finish().0).unwrap_or_default();
        if !failures.is_empty() {
            return Err(TestCaseError::fail(format!("clients of a service that nobody touched failed: {failures:?}")));
        }
        let mut done = done.borrow_mut();
        *done = (done.0 + 1, done.1 + operations.len());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("seed {seed}: {failure}");
    }
    let (sequences, operations) = *done.borrow();
    println!("model: {sequences} sequences of {operations} operations, seed {seed}: the kernel ended up as wanted");
}
