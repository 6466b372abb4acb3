//! Backends come and go under load: a user notices nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::lab::{Config, Lab, MARK, Tcp, eventually};

const TO: &str = "192.168.50.1:20229";

/// In CI; `make soak` has more of them.
fn requests() -> usize {
    std::env::var("MESHD_REQUESTS").ok().and_then(|number| number.parse().ok()).unwrap_or(10_000)
}

fn kafka(lab: &Lab, numbers: &[usize]) -> Config {
    let backend = |number: &usize| format!("{{ address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number);
    let backends: Vec<String> = numbers.iter().map(backend).collect();
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\ndrain = '5m'\n\
         check = {{ type = 'tcp', interval = '1s', timeout = '1s', rise = 1 }}\nbackend = [{}]",
        backends.join(", ")
    ))
}

fn place(number: usize) -> SocketAddr {
    format!("10.255.0.{}:9092", 32 + number).parse().unwrap()
}

/// Whether those get clients, and no others.
fn work(lab: &Lab, numbers: &[usize]) -> bool {
    let weights = lab.sandbox().weights();
    let working: BTreeSet<SocketAddr> =
        weights.into_iter().filter(|(_, weight)| *weight > 0).map(|((_, place), _)| place).collect();
    working == numbers.iter().copied().map(place).collect()
}

/// One after the other, again and again, with a new daemon now and then: clients that come, and clients that stay for a second.
#[test]
fn all_backends_are_replaced_one_by_one_and_no_request_fails() {
    let Some(lab) = Lab::new() else { return };
    let _first = lab.kafka(&[Tcp]);
    let _next = lab.backends(["kafka-4", "kafka-5", "kafka-6"]).map(|backend| backend.tcp(9092));
    let mut serving = vec![1, 2, 3];
    let mut meshd = lab.start(&kafka(&lab, &serving));
    eventually("they have proved themselves", || work(&lab, &serving));
    let crowd = lab.crowd(TO, 4, 4);
    let mut replaced = 0;
    while crowd.answered() < requests() || replaced < 6 {
        let old = serving[0];
        let new = if old > 3 { old - 3 } else { old + 3 };
        serving.push(new);
        meshd.reload(&kafka(&lab, &serving));
        eventually("the new one has proved itself", || work(&lab, &serving));
        serving.remove(0);
        meshd.reload(&kafka(&lab, &serving));
        // Whoever is meshd: those who are with the old one stay.
        if replaced % 3 == 1 {
            meshd.kill9();
            meshd = lab.spawn();
            meshd.wait_until_ready();
        }
        let left = |lab: &Lab| !lab.sandbox().weights().contains_key(&(MARK, place(old)));
        eventually("the old one has left", || left(&lab));
        replaced += 1;
    }
    let (failures, answered) = crowd.finish();
    println!("{replaced} replaced, {answered} requests, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {answered} failed: {:?}", failures.len(), &failures[..failures.len().min(10)]);
}
