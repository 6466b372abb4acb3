//! Many clients at once, at random: what is acknowledged is what is, in the daemon, on disk and in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Api, Lab, by_nftables, eventually};

const CLIENTS: u64 = 16;
/// Requests of all clients.
const OPERATIONS: u64 = 10_000;

/// Small numbers by chance, the same ones in every run (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What a service is to the model: its ports with their targets, its backends with their weights.
#[derive(Clone, Debug, Default, PartialEq)]
struct Simple {
    ports: BTreeMap<u16, u16>,
    backends: BTreeMap<u8, u32>,
    drained: BTreeSet<u8>,
}

type Model = BTreeMap<String, Simple>;

#[derive(Clone, Debug)]
enum Operation {
    Put(Simple),
    Delete,
    AddPort(u16, u16),
    Retarget(u16, u16),
    DeletePort(u16),
    AddBackend(u8, u32),
    Weigh(u8, u32),
    Drain(u8, bool),
    DeleteBackend(u8),
}

/// An operation on a service of the client's own, or of one that all clients have. `first` is the first of 8 ports.
fn random(chance: &mut Chance, first: u16) -> Operation {
    let port = |chance: &mut Chance| first + chance.below(8) as u16;
    let target = |chance: &mut Chance| 9000 + chance.below(3) as u16;
    let backend = |chance: &mut Chance| 100 + chance.below(6) as u8;
    let weight = |chance: &mut Chance| chance.below(4) as u32;
    match chance.below(20) {
        0..=2 => {
            let ports = (0..=chance.below(3)).map(|_| (port(chance), target(chance))).collect();
            let backends = (0..=chance.below(3)).map(|_| (backend(chance), weight(chance))).collect();
            Operation::Put(Simple { ports, backends, drained: BTreeSet::new() })
        }
        3 => Operation::Delete,
        4..=6 => Operation::AddPort(port(chance), target(chance)),
        7..=8 => Operation::Retarget(port(chance), target(chance)),
        9..=10 => Operation::DeletePort(port(chance)),
        11..=13 => Operation::AddBackend(backend(chance), weight(chance)),
        14..=16 => Operation::Weigh(backend(chance), weight(chance)),
        17..=18 => Operation::Drain(backend(chance), chance.below(2) == 0),
        _ => Operation::DeleteBackend(backend(chance)),
    }
}

fn address(backend: u8) -> String {
    format!("10.255.1.{backend}")
}

impl Simple {
    fn body(&self) -> Value {
        let ports = self.ports.iter().map(|(published, target)| json!({ "published": published, "target": target }));
        let backends = self.backends.iter().map(|(backend, weight)| {
            let mut body = json!({ "address": address(*backend), "weight": weight });
            if self.drained.contains(backend) {
                body["state"] = "drain".into();
            }
            body
        });
        json!({ "port": ports.collect::<Vec<_>>(), "backend": backends.collect::<Vec<_>>() })
    }

    /// As `body`, whatever the order of its lists.
    fn read(service: &Value) -> Simple {
        let list = |key: &str| service[key].as_array().cloned().unwrap_or_default();
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{service:#}"));
        let backend = |value: &Value| value["address"].as_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
        Simple {
            ports: list("port")
                .iter()
                .map(|port| (number(&port["published"]) as u16, number(&port["target"]) as u16))
                .collect(),
            backends: list("backend").iter().map(|one| (backend(one), number(&one["weight"]) as u32)).collect(),
            drained: list("backend").iter().filter(|one| one["state"] == "drain").map(backend).collect(),
        }
    }
}

impl Operation {
    fn request(&self, service: &str) -> (&'static str, String, Option<Value>) {
        let path = |rest: &str| format!("/v1/services/{service}{rest}");
        let backend = |backend: &u8| path(&format!("/backends/{}", address(*backend)));
        let port = |port: &u16| path(&format!("/ports/tcp/{port}"));
        match self {
            Operation::Put(simple) => ("PUT", path(""), Some(simple.body())),
            Operation::Delete => ("DELETE", path(""), None),
            Operation::AddPort(published, target) => {
                ("POST", path("/ports"), Some(json!({ "published": published, "target": target })))
            }
            Operation::Retarget(published, target) => ("PATCH", port(published), Some(json!({ "target": target }))),
            Operation::DeletePort(published) => ("DELETE", port(published), None),
            Operation::AddBackend(one, weight) => {
                ("POST", path("/backends"), Some(json!({ "address": address(*one), "weight": weight })))
            }
            Operation::Weigh(one, weight) => ("PATCH", backend(one), Some(json!({ "weight": weight }))),
            Operation::Drain(one, true) => ("PATCH", backend(one), Some(json!({ "state": "drain" }))),
            Operation::Drain(one, false) => ("PATCH", backend(one), Some(json!({ "state": null }))),
            Operation::DeleteBackend(one) => ("DELETE", backend(one), None),
        }
    }

    /// What the model says of it: what is then, or with which status it is refused.
    fn apply(&self, model: &mut Model, service: &str) -> Result<(), u16> {
        let others: BTreeSet<u16> = model
            .iter()
            .filter(|(name, _)| *name != service)
            .flat_map(|(_, other)| other.ports.keys().copied())
            .collect();
        let mut simple = match (self, model.get(service)) {
            (Operation::Put(new), _) => new.clone(),
            (_, Some(there)) => there.clone(),
            (_, None) => return Err(404),
        };
        let known = |there: bool| if there { Ok(()) } else { Err(404u16) };
        let free = |there: bool| if there { Err(409u16) } else { Ok(()) };
        match self {
            Operation::Put(_) => {}
            Operation::Delete => {
                model.remove(service);
                return Ok(());
            }
            Operation::AddPort(published, target) => {
                free(simple.ports.insert(*published, *target).is_some())?;
            }
            Operation::Retarget(published, target) => {
                *simple.ports.get_mut(published).ok_or(404u16)? = *target;
            }
            Operation::DeletePort(published) => known(simple.ports.remove(published).is_some())?,
            Operation::AddBackend(one, weight) => free(simple.backends.insert(*one, *weight).is_some())?,
            Operation::Weigh(one, weight) => *simple.backends.get_mut(one).ok_or(404u16)? = *weight,
            Operation::Drain(one, drain) => {
                known(simple.backends.contains_key(one))?;
                if *drain {
                    simple.drained.insert(*one)
                } else {
                    simple.drained.remove(one)
                };
            }
            Operation::DeleteBackend(one) => {
                known(simple.backends.remove(one).is_some())?;
                simple.drained.remove(one);
            }
        }
        if simple.ports.is_empty() || simple.ports.keys().any(|port| others.contains(port)) {
            return Err(422);
        }
        model.insert(service.to_owned(), simple);
        Ok(())
    }
}

/// What the daemon says that there is.
fn told(api: &mut Api) -> Model {
    let services = api.get("/v1/services")["services"].as_array().cloned().unwrap_or_default();
    let named =
        |entry: &Value| (entry["service"]["name"].as_str().unwrap().to_owned(), Simple::read(&entry["service"]));
    services.iter().map(named).collect()
}

/// What nftables is to have: each backend's slots, by turns one for who takes new clients.
fn slots(model: &Model) -> BTreeMap<(u32, SocketAddr), u32> {
    let mut slots = BTreeMap::new();
    for simple in model.values() {
        for (published, target) in &simple.ports {
            for (backend, weight) in simple.backends.iter().filter(|(backend, _)| !simple.drained.contains(backend)) {
                let to = format!("{}:{target}", address(*backend)).parse().unwrap();
                slots.insert(((1 << 16) | u32::from(*published), to), u32::from(*weight > 0));
            }
        }
    }
    slots
}

/// What `ipvsadm -Sn` is to list.
fn listed(model: &Model) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for simple in model.values() {
        for (published, target) in &simple.ports {
            let mark = (1 << 16) | u32::from(*published);
            // One that is drained is deleted at once: nobody is with it. Without a backend there is no service.
            let mut there = simple.backends.iter().filter(|(backend, _)| !simple.drained.contains(backend)).peekable();
            if there.peek().is_some() {
                lines.insert(format!("-A -f {mark} -s rr"));
            }
            for (backend, weight) in there {
                lines.insert(format!("-a -f {mark} -r {}:{target} -m -w {weight}", address(*backend)));
            }
        }
    }
    lines
}

/// The daemon, and the kernel as others see it, have what the model has.
fn check(lab: &Lab, model: &Model) {
    let mut api = lab.api();
    let said = told(&mut api);
    for name in said.keys().chain(model.keys()) {
        assert_eq!(said.get(name), model.get(name), "service {name}");
    }
    let answer = api.get("/v1/wait?timeout=60");
    assert_eq!(answer["result"], "programmed", "{answer:#}");
    if by_nftables() {
        assert_eq!(lab.sandbox().weights(), slots(model));
    } else {
        let kernel: BTreeSet<String> = lab.sandbox().ipvs().lines().map(|line| line.trim().to_owned()).collect();
        assert_eq!(kernel, listed(model));
    }
    let marks = lab.sandbox().json("nft -j list map inet meshd marks").to_string();
    // Where nobody takes new clients there is no mark.
    let takes =
        |simple: &&Simple| simple.backends.iter().any(|(one, weight)| *weight > 0 && !simple.drained.contains(one));
    let published = model.values().filter(takes).flat_map(|simple| simple.ports.keys());
    assert_eq!(
        marks.matches("\"concat\"").count(),
        published.clone().count() + marks.matches("\"concat\":[\"inet_proto\"").count()
    );
    published.for_each(|port| assert!(marks.contains(&format!("[\"tcp\",{port}]")), "{port}: {marks}"));
}

#[test]
fn sixteen_clients_end_in_what_a_model_predicts() {
    let Some(lab) = Lab::new() else { return };
    let meshd = lab.start(&lab.config());
    let client = |number: u64| {
        let socket = lab.socket();
        move || {
            let (mut api, mut chance) = (Api::new(&socket), Chance(number));
            let mut done = Vec::new();
            for _ in 0..OPERATIONS / CLIENTS {
                // Half of it on services that all others change, too; their ports overlap.
                let shared = chance.below(2) == 0;
                let of = if shared { chance.below(6) } else { 100 + number };
                let first = 1000 + 8 * if shared { of / 2 } else { of } as u16;
                let (service, operation) = (format!("service-{of}"), random(&mut chance, first));
                let (method, path, body) = operation.request(&service);
                let (status, answer) = api.call(method, &path, body.as_ref());
                assert!([200, 404, 409, 422].contains(&status), "{method} {path}: {answer:#}");
                if status == 200 {
                    done.push((answer["generation"].as_u64().unwrap(), answer["changed"] == true, service, operation));
                }
            }
            done
        }
    };
    let threads: Vec<_> = (0..CLIENTS).map(|number| std::thread::spawn(client(number))).collect();
    let mut done: Vec<_> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect();

    // In the order of their generations, the model takes each of them.
    done.retain(|(_, changed, ..)| *changed);
    done.sort_by_key(|(generation, ..)| *generation);
    assert!(done.len() as u64 > OPERATIONS / 4, "{}", done.len());
    let (mut model, mut last) = (Model::new(), 0);
    for (generation, _, service, operation) in &done {
        assert!(*generation > last, "generation {generation} was given out twice");
        last = *generation;
        let outcome = operation.apply(&mut model, service);
        assert_eq!(outcome, Ok(()), "{generation}: {service} {operation:?}");
    }
    check(&lab, &model);
    drop(meshd);
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let Some(lab) = Lab::new() else { return };
    let mut meshd = lab.start(&lab.config());
    let client = |number: u64| {
        let socket = lab.socket();
        move || one_client(&socket, number)
    };
    let threads: Vec<_> = (0..CLIENTS).map(|number| std::thread::spawn(client(number))).collect();
    for round in 1..=3 {
        std::thread::sleep(Duration::from_millis(700 * round));
        meshd.kill9();
        meshd = lab.spawn();
    }
    meshd.wait_until_ready();
    let model: Model = threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect();
    check(&lab, &model);
}

/// Changes a service of its own, and knows after each answer what has to be there; after none, what may be.
fn one_client(socket: &Path, number: u64) -> Model {
    let (mut api, mut chance) = (Api::new(socket), Chance(1000 + number));
    let name = format!("service-{number}");
    let mut model = Model::new();
    let mut unanswered = 0;
    for _ in 0..60 {
        let operation = random(&mut chance, 1000 + 8 * number as u16);
        let mut then = model.clone();
        let expected = operation.apply(&mut then, &name);
        let (method, path, body) = operation.request(&name);
        match api.request(method, &path, body.as_ref()) {
            Ok((status, answer)) => {
                assert_eq!(expected, if status == 200 { Ok(()) } else { Err(status) }, "{method} {path}: {answer:#}");
                model = then;
            }
            Err(_) => {
                unanswered += 1;
                // It came to nothing, or it was done and not acknowledged: no third thing.
                let mut now = None;
                eventually("meshd is back", || {
                    now = api.request("GET", &format!("/v1/services/{name}"), None).ok();
                    now.is_some()
                });
                let (status, entry) = now.unwrap();
                let now = (status == 200).then(|| Simple::read(&entry["service"]));
                let before = model.get(&name).cloned();
                let after = if expected.is_ok() { then.get(&name).cloned() } else { before.clone() };
                assert!(now == before || now == after, "{now:?} is neither {before:?} nor {after:?}");
                model = now.map(|now| (name.clone(), now)).into_iter().collect();
            }
        }
        std::thread::sleep(Duration::from_millis(chance.below(100)));
    }
    println!("client {number}: {unanswered} unanswered");
    model
}
