//! Which backends get clients when: backups, those of this node, those that have just come up; and what clients meet where
//! there is nobody.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::lab::{Config, Lab, Nodes, Place, REFUSES, Tcp, Udp, Underlay, afflict, eventually, tally, value_of};

const TO: &str = "192.168.50.1:20229";

/// kafka-1, kafka-2 and, as a backup, kafka-3.
fn kafka(lab: &Lab, more: &str) -> Config {
    let backend = |number: usize| {
        let backup = if number == 3 { "backup = true, " } else { "" };
        format!("{{ {backup}address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number)
    };
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\n{more}\nbackend = [{}, {}, {}]\n\
         check = {{ type = 'tcp', interval = '1s', timeout = '1s', rise = 2, fall = 2 }}",
        backend(1),
        backend(2),
        backend(3)
    ))
}

/// The weight of each backend that is in the kernel, by the last number of its address.
fn weights(lab: &Lab) -> Vec<(u32, u32)> {
    let number = |address: IpAddr| address.to_string().rsplit('.').next().and_then(|last| last.parse().ok());
    let number = |address| number(address).expect("an IPv4 address");
    lab.sandbox().weights().into_iter().map(|((_, place), weight)| (number(place.ip()), weight)).collect()
}

fn answered_by(from: &Place, to: &str) -> Vec<String> {
    tally(&from.ask_times(8, Tcp, to)).into_keys().map(str::to_owned).collect()
}

#[test]
fn smoke_a_backup_helps_when_nobody_else_is_left_and_no_longer() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let mut meshd = lab.start(&kafka(&lab, ""));
    eventually("all are known", || weights(&lab) == [(33, 1), (34, 1), (35, 0)]);
    assert_eq!(answered_by(&lab.client, TO), ["kafka-1", "kafka-2"]);
    afflict(&backends[0], REFUSES);
    eventually("one is down", || weights(&lab) == [(34, 1), (35, 0)]);
    afflict(&backends[1], REFUSES);
    eventually("the backup helps", || weights(&lab) == [(35, 1)]);
    let mut held = lab.client.connect(Tcp, TO).unwrap();
    assert_eq!(held.ask("who").unwrap().backend, "kafka-3");
    afflict(&backends[1], None);
    eventually("one is back", || weights(&lab) == [(34, 1), (35, 0)]);
    assert_eq!(answered_by(&lab.client, TO), ["kafka-2"]);
    assert_eq!(held.ask("still there").unwrap().backend, "kafka-3", "nobody is cut");
    // With a quorum one of two is too few.
    meshd.reload(&kafka(&lab, "quorum = 60"));
    assert_eq!(weights(&lab), [(34, 1), (35, 1)]);
    afflict(&backends[0], None);
    eventually("both are there", || weights(&lab) == [(33, 1), (34, 1), (35, 0)]);
    // None of that was done twice, or by someone else.
    assert_eq!(value_of(&lab.metrics(), "meshd_drift_found_total{kind=\"backend\"}"), 0.0);
    // A restart starts from there.
    meshd.kill9();
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    assert_eq!(weights(&lab), [(33, 1), (34, 1), (35, 0)]);
    held.ask("and still").unwrap();
}

#[test]
fn those_of_the_node_come_first() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let backends = nodes.kafka(&[Tcp]);
    let with = |config: Config| {
        let backend = |number: usize| {
            format!("{{ address = '10.255.0.{}', node = 'node-{number}', netns = \"kafka-{number}\" }}", 32 + number)
        };
        config.service(&format!(
            "name = 'kafka'\nprefer = 'local'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}, {}]\n\
             check = {{ type = 'tcp', interval = '1s', timeout = '1s', rise = 2, fall = 2 }}",
            backend(1),
            backend(2)
        ))
    };
    let _daemons = nodes.start(with);
    let at: Vec<String> = nodes.all.iter().map(|node| format!("{}:20229", node.address())).collect();
    let both = |first: &str, second: &str| {
        answered_by(&nodes.client, &at[0]) == [first] && answered_by(&nodes.client, &at[1]) == [second]
    };
    eventually("each has its own", || both("kafka-1", "kafka-2"));
    afflict(&backends[0], REFUSES);
    eventually("it spills over", || {
        let one = nodes.client.try_ask(Tcp, &at[0]);
        one.is_ok_and(|answer| answer.backend == "kafka-2")
    });
    assert!(both("kafka-2", "kafka-2"));
    afflict(&backends[0], None);
    eventually("each has its own again", || both("kafka-1", "kafka-2"));
}

/// Where that is wanted, there is no answer at all, and who is with someone is not cut.
#[test]
fn where_nobody_is_left_there_may_be_silence() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let service = |state: &str| {
        lab.config().service(&format!(
            "name = 'kafka'\non_empty = 'drop'\n\
             port = [{{ published = 20229, target = 9092 }}, {{ published = 20229, target = 9092, protocol = 'udp' }},\n\
             {{ published = '20300-20310', backend = [{{ address = '10.255.0.33', state = 'drain' }}] }}]\n\
             backend = [{{ address = '10.255.0.33', netns = \"kafka-1\", state = '{state}' }}]"
        ))
    };
    let mut meshd = lab.start(&service("enabled"));
    let mut held = lab.client.connect(Tcp, TO).unwrap();
    held.ask("before").unwrap();
    assert!(lab.client.datagrams(0, TO).ask("hello", Duration::from_secs(5)).is_ok());
    meshd.reload(&service("drain"));
    let began = Instant::now();
    let silent =
        |error: std::io::Error| matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock);
    assert!(lab.client.connect(Tcp, TO).is_err_and(silent) && began.elapsed() > Duration::from_secs(2));
    let asked = lab.client.datagrams(0, TO).ask("hello", Duration::from_secs(2));
    assert!(asked.is_err_and(silent));
    held.ask("still there").unwrap();
    let silent = || lab.sandbox().run("nft list set inet meshd silent");
    assert!(silent().contains("tcp . 20229"), "{}", silent());
    drop(held);
    meshd.reload(&service("enabled"));
    assert!(lab.client.ask_times(4, Tcp, TO).len() == 4);
    // As it was, without the key.
    meshd.reload(&kafka(&lab, ""));
    assert!(!silent().contains("elements"), "{}", silent());
}

/// A backup has weight 0 since it rests, and not since it is down: a restart does not take it for that.
#[test]
fn a_backup_helps_after_a_restart_whatever_becomes_of_those_who_are_down() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let config = kafka(&lab, "").replacing("fall = 2 }", "fall = 2, on_down = 'keep' }");
    let mut meshd = lab.start(&config);
    eventually("all are known", || weights(&lab) == [(33, 1), (34, 1), (35, 0)]);
    afflict(&backends[0], REFUSES);
    eventually("one is down", || weights(&lab) == [(33, 0), (34, 1), (35, 0)]);
    meshd.kill9();
    afflict(&backends[1], REFUSES);
    meshd = lab.spawn();
    meshd.wait_until_ready();
    eventually("the backup helps", || weights(&lab) == [(33, 0), (34, 0), (35, 1)]);
    let log = meshd.log();
    assert!(!log.lines().any(|line| line.contains("10.255.0.35") && line.contains("backend is")), "{log}");
    // One that is down, is drained meanwhile and enabled again, is no better for that.
    for state in ["drain", "enabled"] {
        meshd.reload(
            &config
                .clone()
                .replacing("address = '10.255.0.33'", &format!("state = '{state}', address = '10.255.0.33'")),
        );
    }
    assert_eq!(weights(&lab), [(34, 0), (35, 1)]);
}

#[test]
fn the_weight_of_one_that_comes_up_rises() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&kafka(&lab, "scheduler = 'wrr'\nslow_start = '20s'"));
    eventually("all have their share", || weights(&lab) == [(33, 1), (34, 1), (35, 0)]);
    afflict(&backends[0], REFUSES);
    eventually("it is down", || weights(&lab) == [(34, 1), (35, 0)]);
    afflict(&backends[0], None);
    let (began, mut seen) = (Instant::now(), Vec::new());
    eventually("it has its share", || {
        let now = weights(&lab);
        if let [(33, first), (34, 10), (35, 0)] = now[..] {
            seen.push((began.elapsed().as_millis(), first));
        }
        !seen.is_empty() && now == [(33, 1), (34, 1), (35, 0)]
    });
    // However slow the machine: never more than its time allows, a tenth for each two seconds since it was well.
    let early = |(after, weight): &(u128, u32)| u128::from(*weight) > after / 2000 + 1;
    assert!(seen.is_sorted_by_key(|(_, weight)| *weight) && !seen.iter().any(early), "{seen:?}");
    assert_eq!(answered_by(&lab.client, TO), ["kafka-1", "kafka-2"]);
}
