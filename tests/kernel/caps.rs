//! Backends with a cap on their connections.

use std::collections::BTreeMap;
use std::io::ErrorKind::ConnectionRefused;

use crate::lab::{Config, Lab, Meshd, Place, Stream, Tcp, Udp, by_nftables, eventually};

const TO: &str = "192.168.50.1:20229";

/// The two that serve, each with these keys.
fn capped(lab: &Lab, first: &str, second: &str) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [\
         {{ address = '10.255.0.33', netns = \"kafka-1\", {first} }},\
         {{ address = '10.255.0.34', netns = \"kafka-2\", {second} }}]"
    ))
}

/// Held connections, by the backend that has them.
fn hold(client: &Place, count: usize, to: &str) -> BTreeMap<String, Vec<Stream>> {
    let mut held: BTreeMap<String, Vec<Stream>> = BTreeMap::new();
    for _ in 0..count {
        let mut stream = client.connect(Tcp, to).expect("there is room");
        let backend = stream.ask("hello").expect("it answers").backend;
        held.entry(backend).or_default().push(stream);
    }
    held
}

/// `ipvsadm -Ln --thresholds`: upper, lower, active and inactive of that destination.
fn listed(lab: &Lab, destination: &str) -> [u32; 4] {
    let text = lab.sandbox().run("ipvsadm -Ln --thresholds");
    let numbers = text.lines().find_map(|line| line.trim().strip_prefix("-> ")?.strip_prefix(destination));
    let numbers = numbers.unwrap_or_else(|| panic!("no {destination} in\n{text}"));
    let numbers: Vec<u32> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{text}"))
}

fn connections(lab: &Lab, destination: &str) -> u32 {
    let [_, _, active, inactive] = listed(lab, destination);
    active + inactive
}

/// How many clients each slot lets in beside those that it does not count, as nft(8) has it.
fn limits(lab: &Lab, family: &str) -> Vec<u32> {
    let text = lab.sandbox().run(&format!("nft list set inet meshd room{family}"));
    let words: Vec<&str> = text.split_whitespace().skip_while(|word| *word != "elements").collect();
    let after = words.windows(3).filter(|three| three[..2] == ["ct", "count"]);
    after.map(|three| three[2].trim_end_matches(',').parse().unwrap_or_else(|_| panic!("{text}"))).collect()
}

/// By ICMP (IPVS), or by a reset. On the lab's links that is back before the client is done with sending its SYN, and then TCP only notes it: the
/// answer to the next SYN, a second later, is the one that counts.
fn turned_away(client: &Place, to: &str) {
    match client.try_ask(Tcp, to) {
        Err(error) if error.kind() == ConnectionRefused => {}
        other => panic!("{to} from {} is not refused: {other:?}", client.name),
    }
}

#[test]
fn smoke_a_backend_gets_no_more_than_its_cap_and_the_other_gets_the_rest() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config = capped(&lab, "upper_threshold = 3", "weight = 1");
    let mut meshd = lab.start(&config);
    let mut held = hold(&lab.client, 10, TO);
    assert_eq!((held["kafka-1"].len(), held["kafka-2"].len()), (3, 7));
    if by_nftables() {
        return counted_anew(&lab, &mut meshd, held);
    }
    assert_eq!(listed(&lab, "10.255.0.33:9092"), [3, 0, 3, 0]);
    assert_eq!(listed(&lab, "10.255.0.34:9092"), [0, 0, 7, 0]);

    // A higher cap is in force at once where there is less than the lower one, and those who are there stay.
    let mark = meshd.mark();
    meshd.reload(&capped(&lab, "upper_threshold = 4, lower_threshold = 4", "weight = 1"));
    let step = "set backend 10.255.0.33:9092 weight 1 upper threshold 4 lower threshold 4 of tcp 20229 ipv4";
    let steps = meshd.steps_since(mark);
    assert!(steps.len() == 1 && steps[0].starts_with(step), "{steps:#?}");
    let more = hold(&lab.client, 4, TO);
    assert_eq!((more["kafka-1"].len(), more["kafka-2"].len()), (1, 3));
    assert_eq!(listed(&lab, "10.255.0.33:9092"), [4, 4, 4, 0]);
    held.values_mut().flatten().for_each(|stream| drop(stream.ask("still").expect("it is there")));

    // Someone else's are not left as they are.
    for theirs in ["-x 50 -y 40", "-x 4", ""] {
        lab.sandbox().run(&format!("ipvsadm -e -f 85765 -r 10.255.0.33:9092 -m -w 1 {theirs}"));
        eventually("it is mended", || listed(&lab, "10.255.0.33:9092")[..2] == [4, 4]);
    }
    let mark = meshd.mark();
    meshd.reload(&capped(&lab, "weight = 1", "weight = 1"));
    let steps = meshd.steps_since(mark);
    assert!(steps.len() == 1 && steps[0].starts_with("set backend 10.255.0.33:9092 weight 1 of"), "{steps:#?}");
    assert_eq!(listed(&lab, "10.255.0.33:9092")[..2], [0, 0]);
}

/// The rest of it by nftables, where meshd counts what the kernel does not.
fn counted_anew(lab: &Lab, meshd: &mut Meshd, mut held: BTreeMap<String, Vec<Stream>>) {
    // Once it is known to be full, it has no turns, until it has less than its lower threshold: of three, two.
    let known = || lab.sandbox().run("nft list map inet meshd ways4").contains("goto turn_ipv4_to_1_");
    eventually("it is known", known);
    eventually("all is as wanted", || lab.meshctl("plan") == "nothing to do\n");
    let two = hold(&lab.client, 2, TO);
    assert_eq!(two["kafka-2"].len(), 2);
    let mut end = || held.get_mut("kafka-1").and_then(Vec::pop).expect("one that is held").reset();
    end();
    eventually("it has room", || limits(lab, "4").contains(&1));
    eventually("and turns", || lab.client.ask(Tcp, TO).backend == "kafka-1");

    // A higher cap is in force at once, those who are there count, and stay.
    meshd.reload(&capped(lab, "upper_threshold = 4, lower_threshold = 4", "weight = 1"));
    let more = hold(&lab.client, 6, TO);
    assert_eq!((more["kafka-1"].len(), more["kafka-2"].len()), (2, 4));
    held.values_mut().flatten().for_each(|stream| drop(stream.ask("still").expect("it is there")));

    // A crash forgets nothing, and what others take away comes again, with those in mind who are there.
    for damage in ["", "flush set inet meshd room4", "flush ruleset"] {
        match damage {
            "" => {
                meshd.signal(nix::sys::signal::Signal::SIGKILL);
                meshd.wait();
                *meshd = lab.resume();
            }
            damage => drop(lab.sandbox().run(&format!("nft {damage}"))),
        }
        eventually("it is mended", || lab.meshctl("plan") == "nothing to do\n" && known());
        let more = hold(&lab.client, 5, TO);
        assert_eq!(more.keys().collect::<Vec<_>>(), ["kafka-2"], "{damage}");
    }
    // Who has no cap any more is open, though another has, and though that was said while meshd was away.
    meshd.signal(nix::sys::signal::Signal::SIGKILL);
    meshd.wait();
    lab.write(&capped(lab, "weight = 1", "upper_threshold = 100"));
    *meshd = lab.resume();
    let open = hold(&lab.client, 8, TO);
    assert_eq!((open["kafka-1"].len(), open["kafka-2"].len()), (4, 4));
    meshd.reload(&capped(lab, "weight = 1", "weight = 1"));
    let free = hold(&lab.client, 4, TO);
    assert_eq!((free["kafka-1"].len(), free["kafka-2"].len()), (2, 2));
    eventually("nothing is left of caps", || !lab.sandbox().run("nft list ruleset").contains("set room4"));
}

/// One with a cap beside one that takes all: however fast clients come, and go, it never has more.
#[test]
fn no_crowd_gets_a_backend_beyond_its_cap() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&capped(&lab, "upper_threshold = 5", "weight = 1"));
    let client = |seed: u64| {
        let place = lab.client.clone();
        std::thread::spawn(move || {
            let (mut held, mut most) = (Vec::new(), 0);
            for round in 0..40 {
                let mut stream = place.connect(Tcp, TO).expect("there is room");
                if stream.ask("hello").expect("it answers").backend == "kafka-1" {
                    held.push(stream);
                }
                most = most.max(held.len());
                if (round + seed) % 3 == 0 {
                    held.pop().into_iter().for_each(Stream::reset);
                }
            }
            (most, held)
        })
    };
    let clients: Vec<_> = (0..3).map(client).collect();
    // What is open at one moment, as connection tracking has it: where IPVS balances it has no more than that in either.
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        let tracked = lab.sandbox().run("cat /proc/net/nf_conntrack");
        let open = tracked.lines().filter(|line| line.contains("src=10.255.0.33 ") && line.contains("ESTABLISHED"));
        most = most.max(open.count());
    }
    let held: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
    assert!(held.iter().any(|(most, _)| *most > 0), "nobody came to it");
    assert!(most <= 5, "{most}");
}

/// By nftables: whoever was there before comes again, whether or not there is room, as with IPVS.
#[test]
fn who_has_a_backend_comes_to_it_again_though_it_is_full() {
    let Some(lab) = Lab::new().filter(|_| by_nftables()) else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config = capped(&lab, "upper_threshold = 1", "upper_threshold = 1").to_string();
    let config = config.replace("name = 'kafka'", "name = 'kafka'\npersistence = 300");
    std::fs::write(lab.config_file(), config).expect("a file");
    let _meshd = lab.resume();
    let held = hold(&lab.client, 3, TO);
    assert_eq!(held.values().map(Vec::len).collect::<Vec<_>>(), [3]);
    // Others go to the other one, and then nowhere.
    let mut other = lab.node.connect(Tcp, TO).expect("there is room");
    assert!(!held.contains_key(&other.ask("hello").expect("it answers").backend));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(hold(&lab.client, 2, TO).into_keys().collect::<Vec<_>>(), held.into_keys().collect::<Vec<_>>());
}

/// By nftables nobody is remembered who has gone.
#[test]
fn where_all_are_at_their_cap_clients_are_refused_until_one_has_gone() {
    let Some(lab) = Lab::new().filter(|_| by_nftables()) else { return };
    let _backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&capped(&lab, "upper_threshold = 2", "upper_threshold = 2, lower_threshold = 1"));
    let mut held = hold(&lab.client, 4, TO);
    assert_eq!((held["kafka-1"].len(), held["kafka-2"].len()), (2, 2));
    for _ in 0..3 {
        for (from, to) in [(&lab.client, TO), (&lab.node, TO), (&lab.node, "127.0.0.1:20229")] {
            turned_away(from, to);
        }
        std::thread::sleep(std::time::Duration::from_millis(700));
    }
    // Where all are full, who has one less takes one more, whatever its lower threshold; also while nobody counts. (Whoever was turned
    // away there, and lives elsewhere, counts as long.)
    let mut meshd = Some(meshd);
    for backend in ["kafka-2", "kafka-1"] {
        match meshd.take() {
            Some(meshd) => meshd.kill9(),
            None => meshd = Some(lab.resume()),
        }
        held.get_mut(backend).and_then(Vec::pop).expect("one that is held").reset();
        let mut one = None;
        eventually("there is room", || {
            one = lab.client.connect(Tcp, TO).ok();
            one.is_some()
        });
        let mut one = one.expect("there is room");
        assert_eq!(one.ask("hello").expect("it answers").backend, backend);
        held.entry(backend.to_owned()).or_default().push(one);
        turned_away(&lab.client, TO);
    }
    held.values_mut().flatten().for_each(|stream| drop(stream.ask("still").expect("it is there")));
}

#[test]
fn where_all_are_at_their_cap_clients_are_refused_until_connections_are_forgotten() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&capped(&lab, "upper_threshold = 2", "upper_threshold = 2, lower_threshold = 1"));
    let mut held = hold(&lab.client, 4, TO);
    assert_eq!((held["kafka-1"].len(), held["kafka-2"].len()), (2, 2));
    for (from, to) in [(&lab.client, TO), (&lab.node, TO), (&lab.node, "127.0.0.1:20229")] {
        turned_away(from, to);
    }
    // More often than the kernel answers one client by ICMP: later then, and refused all the same.
    (0..10).for_each(|_| turned_away(&lab.client, TO));

    // One less than its cap is not less than its lower threshold.
    let mut end = |backend: &str, destination: &str| {
        held.get_mut(backend).and_then(Vec::pop).expect("one that is held").reset();
        eventually("it is seen", || listed(&lab, destination)[2..] == [1, 1]);
        // What has ended counts as long as it is remembered.
        turned_away(&lab.client, TO);
        eventually("it is forgotten", || connections(&lab, destination) == 1);
    };
    end("kafka-2", "10.255.0.34:9092");
    turned_away(&lab.client, TO);
    // Of two one is less than three quarters.
    end("kafka-1", "10.255.0.33:9092");
    assert_eq!(lab.client.ask(Tcp, TO).backend, "kafka-1");
    held.values_mut().flatten().for_each(|stream| drop(stream.ask("still").expect("it is there")));
}

/// The same for IPv6 and for UDP, whose flows are all inactive.
#[test]
fn every_protocol_and_family_has_caps() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let _meshd = lab.start(&lab.config().service(
        "name = 'kafka'\nport = [{ published = 20229, target = 9092 }, { published = 53, target = 9092, protocol = 'udp' }]\n\
         backend = [{ address = '10.255.0.33', netns = \"kafka-1\", upper_threshold = 1 },\
                    { address = 'fd00:255::33', netns = \"kafka-1\", upper_threshold = 1 }]",
    ));
    let _held = hold(&lab.client, 1, "[fd50::1]:20229");
    turned_away(&lab.client, "[fd50::1]:20229");
    for (to, destination) in [("192.168.50.1:53", "10.255.0.33:9092"), ("[fd50::1]:53", "[fd00:255::33]:9092")] {
        let flow = lab.client.datagrams(40000, to);
        assert_eq!(flow.ask("hello", std::time::Duration::from_secs(20)).expect("there is room").backend, "kafka-1");
        lab.client.is_refused(Udp, to);
        assert!(by_nftables() || lab.sandbox().run("ipvsadm -Ln --thresholds").contains(destination));
    }
}
