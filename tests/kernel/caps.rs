//! Backends with a cap on their connections.

use std::collections::BTreeMap;
use std::io::ErrorKind::ConnectionRefused;

use crate::lab::{Config, Lab, Place, Stream, Tcp, Udp, eventually};

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

/// By ICMP. On the lab's links that is back before the client is done with sending its SYN, and then TCP only notes it: the
/// answer to the next SYN, a second later, is the one that counts.
fn turned_away(client: &Place, to: &str) {
    match client.try_ask(Tcp, to) {
        Err(error) if error.kind() == ConnectionRefused => {}
        other => panic!("{to} from {} is not refused: {other:?}", client.name),
    }
}

#[test]
fn smoke_a_backend_gets_no_more_than_its_cap_and_the_other_gets_the_rest() {
    let Some(lab) = Lab::of_ipvs() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config = capped(&lab, "upper_threshold = 3", "weight = 1");
    let mut meshd = lab.start(&config);
    let mut held = hold(&lab.client, 10, TO);
    assert_eq!((held["kafka-1"].len(), held["kafka-2"].len()), (3, 7));
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
    let Some(lab) = Lab::of_ipvs() else { return };
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
        assert!(lab.sandbox().run("ipvsadm -Ln --thresholds").contains(destination));
    }
}
