//! Backends come and go under load: a user notices nothing.

use crate::lab::{Config, Lab, Tcp, eventually};

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

/// Who gets clients, by number.
fn working(lab: &Lab) -> Vec<usize> {
    let listed = lab.sandbox().run("ipvsadm -Sn");
    let number = |line: &str| {
        let address = line.split_once("-r 10.255.0.")?.1.split_once(':')?.0.parse::<usize>().ok()?;
        (!line.trim_end().ends_with("-w 0")).then_some(address - 32)
    };
    let mut numbers: Vec<usize> = listed.lines().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// One after the other, again and again, with a new daemon now and then: clients that come, and clients that stay for a second.
#[test]
fn all_backends_are_replaced_one_by_one_and_no_request_fails() {
    let Some(lab) = Lab::new() else { return };
    let _first = lab.kafka(&[Tcp]);
    let _next = lab.backends(["kafka-4", "kafka-5", "kafka-6"]).map(|backend| backend.tcp(9092));
    let mut serving = vec![1, 2, 3];
    let mut meshd = lab.start(&kafka(&lab, &serving));
    eventually("they have proved themselves", || working(&lab) == serving);
    let crowd = lab.crowd(TO, 4, 4);
    let mut replaced = 0;
    while crowd.answered() < requests() || replaced < 6 {
        let old = serving[0];
        let new = if old > 3 { old - 3 } else { old + 3 };
        serving.push(new);
        meshd.reload(&kafka(&lab, &serving));
        let mut now = serving.clone();
        now.sort_unstable();
        eventually("the new one has proved itself", || working(&lab) == now);
        serving.remove(0);
        meshd.reload(&kafka(&lab, &serving));
        // Whoever is meshd: those who are with the old one stay.
        if replaced % 3 == 1 {
            meshd.kill9();
            meshd = lab.spawn();
            meshd.wait_until_ready();
        }
        let place = format!("-r 10.255.0.{}:", 32 + old);
        eventually("the old one has left", || !lab.sandbox().run("ipvsadm -Sn").contains(&place));
        replaced += 1;
    }
    let (failures, answered) = crowd.finish();
    println!("{replaced} replaced, {answered} requests, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {answered} failed: {:?}", failures.len(), &failures[..failures.len().min(10)]);
}
