//! Backends that are drained or taken away: whoever is with them notices nothing.

use std::time::{Duration, Instant};

use crate::lab::{Config, Lab, MARK, Nodes, SECOND, Stream, Tcp, Udp, Underlay, eventually};

/// kafka on TCP 20229 at those of its backends, and what else is said.
fn kafka(lab: &Lab, numbers: &[usize], more: &str) -> Config {
    let backend = |number: &usize| format!("{{ address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number);
    let backends: Vec<String> = numbers.iter().map(backend).collect();
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = 20229, target = 9092, protocol = 'udp' }}]\n\
         {more}\nbackend = [{}]",
        backends.join(", ")
    ))
}

const TO: &str = "192.168.50.1:20229";

/// So many connections, by the names of those who answer.
fn hold(lab: &Lab, count: usize) -> Vec<Stream> {
    let one = || {
        let mut stream = lab.client.connect(Tcp, TO).unwrap();
        (stream.ask("before").unwrap().backend, stream)
    };
    let mut held: Vec<(String, Stream)> = (0..count).map(|_| one()).collect();
    held.sort_by(|(one, _), (other, _)| one.cmp(other));
    held.into_iter().map(|(_, stream)| stream).collect()
}

/// The weight of a backend of the TCP port in the kernel; `None`: it is not there.
fn weight(lab: &Lab, number: usize) -> Option<u32> {
    let address = format!("10.255.0.{}:9092", 32 + number).parse().unwrap();
    lab.sandbox().weights().get(&(MARK, address)).copied()
}

#[test]
fn smoke_connections_of_who_is_taken_away_go_on_until_they_end() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab, &[1, 2, 3], ""));
    let mut held = hold(&lab, 3);
    meshd.reload(&kafka(&lab, &[1, 2], ""));
    assert_eq!((weight(&lab, 3), weight(&lab, 2)), (Some(0), Some(1)));
    assert!(lab.client.ask_times(8, Tcp, TO).iter().all(|answer| answer.backend != "kafka-3"));
    // Who sends its first datagram is a new one.
    assert!(lab.client.ask_times(8, Udp, TO).iter().all(|answer| answer.backend != "kafka-3"));
    assert_eq!(held[2].ask("meanwhile").unwrap().backend, "kafka-3");

    // Whoever is meshd then knows of it.
    meshd.kill9();
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    assert_eq!(weight(&lab, 3), Some(0));
    assert_eq!(held[2].ask("afterwards").unwrap().backend, "kafka-3");
    drop(held.pop());
    eventually("it is gone", || weight(&lab, 3).is_none());
    assert!(meshd.log().contains("backend is drained, after draining: it has no open connection"), "{}", meshd.log());
    for held in &mut held {
        held.ask("still").unwrap();
    }

    // One that nobody is with goes at once; one that comes back is as before.
    meshd.reload(&kafka(&lab, &[1], ""));
    assert_eq!(weight(&lab, 2), Some(0));
    meshd.reload(&kafka(&lab, &[1, 2], ""));
    assert_eq!(weight(&lab, 2), Some(1));
    assert_eq!(held[1].ask("and still").unwrap().backend, "kafka-2");
    drop(held.pop());
    eventually("its connection has ended", || {
        meshd.reload(&kafka(&lab, &[1, 2], ""));
        meshd.reload(&kafka(&lab, &[1], ""));
        weight(&lab, 2).is_none()
    });
}

#[test]
fn when_the_time_is_over_connections_end() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab, &[1, 2], "drain = '3s'"));
    let mut held = hold(&lab, 2);
    meshd.reload(&kafka(&lab, &[1], "drain = '3s'"));
    eventually("its time is over", || weight(&lab, 2).is_none());
    assert!(meshd.log().contains("its time is over, and its connections end"), "{}", meshd.log());
    assert!(held[1].ask("after").is_err());
    held[0].ask("after").unwrap();
    // No time at all.
    meshd.reload(&kafka(&lab, &[1, 2], "drain = 0"));
    let mut held = hold(&lab, 2);
    meshd.reload(&kafka(&lab, &[1], "drain = 0"));
    assert_eq!(weight(&lab, 2), None);
    assert!(held[1].ask("after").is_err());
}

/// All are exchanged, one by one, while clients come and go and others stay.
#[test]
fn a_rolling_replacement_loses_nobody() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let _next = lab.backends(["kafka-4", "kafka-5", "kafka-6"]).map(|backend| backend.tcp(9092).udp(9092));
    let check = "drain = '10m'\ncheck = { type = 'tcp', interval = '1s', timeout = '1s' }";
    let mut meshd = lab.start(&kafka(&lab, &[1, 2, 3], check));
    eventually("they have proved themselves", || (1..=3).all(|number| weight(&lab, number) == Some(1)));
    let load = lab.load(&[TO; 3]);
    let mut held: Vec<_> = (0..6).map(|_| lab.client.connect(Tcp, TO).unwrap()).collect();
    load.goes_on_for(30);
    for numbers in [[4, 2, 3], [4, 5, 3], [4, 5, 6]] {
        // The new one comes before the old one goes.
        let new = numbers.iter().copied().filter(|number| *number > 3).max().unwrap_or_default();
        let both: Vec<usize> = numbers.iter().copied().chain([new - 3]).collect();
        meshd.reload(&kafka(&lab, &both, check));
        eventually("it has proved itself", || weight(&lab, new) == Some(1));
        meshd.reload(&kafka(&lab, &numbers, check));
        load.goes_on_for(30);
        for held in &mut held {
            held.ask("still").unwrap();
        }
    }
    let answers = load.finish();
    let last: Vec<&str> = answers.iter().rev().take(6).map(|answer| answer.backend.as_str()).collect();
    assert!(last.iter().all(|name| ["kafka-4", "kafka-5", "kafka-6"].contains(name)), "{last:?}");
    drop(held);
    eventually("the old ones are gone", || (1..=3).all(|number| weight(&lab, number).is_none()));
}

/// It was not asked while it was away; whoever is with it is not cut for that.
#[test]
fn one_that_comes_back_keeps_its_connections_though_it_is_checked() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let check = "check = { type = 'tcp', interval = '1s', timeout = '1s' }";
    let mut meshd = lab.start(&kafka(&lab, &[1, 2, 3], check));
    eventually("they have proved themselves", || (1..=3).all(|number| weight(&lab, number) == Some(1)));
    let mut held = hold(&lab, 3);
    let drained = kafka(&lab, &[1, 2, 3], check).replacing("0.34', netns", "0.34', state = 'drain', netns");
    for away in [kafka(&lab, &[1, 3], check), drained] {
        meshd.reload(&away);
        assert_eq!(weight(&lab, 2), Some(0));
        meshd.reload(&kafka(&lab, &[1, 2, 3], check));
        assert_eq!(weight(&lab, 2), Some(1));
        assert_eq!(held[1].ask("still there").unwrap().backend, "kafka-2");
    }
}

/// To a scheduler that hashes one of weight 0 keeps its share: clients would be refused.
#[test]
fn who_hashes_sends_nobody_to_one_that_is_drained() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    for scheduler in ["sh", "mh"] {
        let with = format!("scheduler = '{scheduler}'\nscheduler_flags = ['{scheduler}-port']");
        let mut meshd = lab.start(&kafka(&lab, &[1, 2, 3], &with));
        let mut all: Vec<Stream> = (0..24).map(|_| lab.client.connect(Tcp, TO).unwrap()).collect();
        let third = all.iter_mut().position(|stream| stream.ask("who").unwrap().backend == "kafka-3").unwrap();
        let mut held = all.swap_remove(third);
        meshd.reload(&kafka(&lab, &[1, 2], &with));
        assert_eq!(weight(&lab, 3), Some(0));
        let answers = lab.client.ask_times(24, Tcp, TO);
        assert!(answers.iter().all(|answer| answer.backend != "kafka-3"), "{scheduler}");
        held.ask("still there").unwrap();
        drop(all);
        assert!(meshd.stop().success());
    }
}

/// By `meshctl`, with its progress; it is over when nobody is left, and stays over.
#[test]
fn who_the_operator_drains_is_deleted_when_nobody_is_left() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&lab.config());
    let backends: Vec<String> = (1..=3)
        .map(|number| format!("-b 10.255.0.{},netns={}", 32 + number, lab.place(&format!("kafka-{number}")).name))
        .collect();
    lab.meshctl(&format!("service add kafka -p 20229:9092 {}", backends.join(" ")));
    let mut held = hold(&lab, 3);
    lab.meshctl("backend drain kafka 10.255.0.35");
    assert_eq!(weight(&lab, 3), Some(0));
    eventually("it is counted", || {
        lab.meshctl("status").contains("backend 10.255.0.35 is draining: 1 open connection, ")
    });
    assert!(lab.client.ask_times(8, Tcp, TO).iter().all(|answer| answer.backend != "kafka-3"));
    assert_eq!(held[2].ask("meanwhile").unwrap().backend, "kafka-3");
    drop(held.pop());
    eventually("it is over", || weight(&lab, 3).is_none());
    assert!(lab.meshctl("status").contains("kafka tcp/20229: backend 10.255.0.35 is drained\n"));
    assert!(lab.meshctl("service get kafka").contains("10.255.0.35"));
    // Whoever is meshd.
    meshd.kill9();
    meshd = lab.spawn();
    meshd.wait_until_ready();
    assert_eq!(weight(&lab, 3), None);
    lab.meshctl("backend drain kafka 10.255.0.35 --undo");
    assert_eq!(weight(&lab, 3), Some(1));
    for held in &mut held {
        held.ask("still").unwrap();
    }
    lab.meshctl("backend drain kafka 10.255.0.34 --now");
    assert_eq!((weight(&lab, 2), held[1].ask("still").is_ok()), (None, false));
    assert_eq!(held[0].ask("still").unwrap().backend, "kafka-1");
    assert!(meshd.stop().success());
}

/// New clients are told at once, every time, while old ones go on; also where clients keep their address.
#[test]
fn where_only_drained_ones_are_left_nobody_new_comes_in() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    for more in ["", "client_address = 'preserve'"] {
        let mut meshd = lab.start(&kafka(&lab, &[1, 2], more));
        let mut held = hold(&lab, 2);
        let drained = kafka(&lab, &[1, 2], more).replacing("netns =", "state = 'drain', netns =");
        meshd.reload(&drained);
        assert_eq!((weight(&lab, 1), weight(&lab, 2)), (Some(0), Some(0)), "{more}");
        // More often than IPVS would say so (by ICMP, which is limited).
        for _ in 0..25 {
            lab.client.is_refused(Tcp, TO);
        }
        for held in &mut held {
            held.ask("still").unwrap_or_else(|error| panic!("{more}: {error}"));
        }
        drop(held);
        eventually("they are gone", || weight(&lab, 1).is_none() && weight(&lab, 2).is_none());
        // The port stays published: nobody else answers there.
        let _local = lab.local_backend(&format!("local-{}", more.len())).tcp(20229);
        lab.client.is_refused(Tcp, TO);
        meshd.reload(&kafka(&lab, &[1, 2], more));
        lab.client.ask_times(4, Tcp, TO);
        assert!(meshd.stop().success());
    }
}

/// It has no end that could be seen.
#[test]
fn a_steady_flow_of_datagrams_stays_until_the_time_is_over() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab, &[1, 2], "drain = '4s'"));
    let flow = lab.client.datagrams(5353, TO);
    let ask = || flow.ask("steady", SECOND);
    let first = ask().unwrap().backend;
    let (gone, kept) = if first == "kafka-1" { (1, 2) } else { (2, 1) };
    meshd.reload(&kafka(&lab, &[kept], "drain = '4s'"));
    let began = Instant::now();
    let mut moved = None;
    while moved.is_none() && began.elapsed() < Duration::from_secs(60) {
        match ask() {
            Ok(answer) if answer.backend == first => std::thread::sleep(Duration::from_millis(50)),
            Ok(_) => moved = Some(began.elapsed()),
            // For the moment between the deletion and the end of its entry.
            Err(_) => {}
        }
    }
    let moved = moved.expect("it moves");
    assert!(moved > Duration::from_millis(2500), "kafka-{gone} had it until {moved:?}");
}

/// The node that houses it sees nobody, and waits for those who do.
#[test]
fn the_leg_stays_for_clients_of_other_nodes() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _kafka = nodes.kafka(&[Tcp]);
    let with = |numbers: &'static [usize]| {
        move |config: Config| {
            let backend = |number: &usize| {
                format!(
                    "{{ address = '10.255.0.{}', node = 'node-{number}', netns = \"kafka-{number}\" }}",
                    32 + number
                )
            };
            let backends: Vec<String> = numbers.iter().map(backend).collect();
            config.service(&format!(
                "name = 'kafka'\ndrain = '15s'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}]",
                backends.join(", ")
            ))
        }
    };
    let mut daemons = nodes.start(with(&[1, 2]));
    let by_second = format!("{}:20229", nodes.all[1].address());
    let mut held: Vec<Stream> = (0..2).map(|_| nodes.client.connect(Tcp, &by_second).unwrap()).collect();
    let at_first = held.iter_mut().position(|held| held.ask("who").unwrap().backend == "kafka-1").unwrap();
    let leg = "p02420aff0021";
    for (node, daemon) in nodes.all.iter().zip(&mut daemons) {
        let config = with(&[2])(nodes.config(node));
        daemon.reload(&config);
    }
    assert!(nodes.client.ask_times(4, Tcp, &by_second).iter().all(|answer| answer.backend == "kafka-2"));
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(held[at_first].ask("still").unwrap().backend, "kafka-1");
        assert!(nodes.all[0].overlay().run("ip -br link").contains(leg));
    }
    eventually("its time is over", || !nodes.all[0].overlay().run("ip -br link").contains(leg));
    assert!(held[at_first].ask("after").is_err());
    held[1 - at_first].ask("after").unwrap();
}
