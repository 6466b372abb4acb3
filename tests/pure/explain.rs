//! Explaining a way: of a kernel that is as wanted nothing is said to be broken, and of one that is not, something is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meshd::control::protocol::{Explanation, Verdict};
use meshd::dataplane::{self, encapsulation, overlay_mtu};
use meshd::explain::{Asked, Known, explain, questions};
use meshd::mesh::{Backend, BackendState, Mesh};
use meshd::objects::{Netns, Objects, Question, Reply, Surroundings};
use proptest::prelude::*;

use super::build::{attached, backend, node, port, serving, tcp, udp};
use super::meshes::{mesh, surroundings};
use super::mutations::{damaged, damages};

fn known(mesh: &Mesh, surroundings: &Surroundings, seen: impl FnOnce(&Objects) -> Objects) -> Known {
    let wanted = dataplane::objects(mesh, surroundings);
    Known {
        mesh: mesh.clone(),
        seen: seen(&wanted),
        wanted,
        serves: BTreeMap::new(),
        standings: BTreeMap::new(),
        uplinks: surroundings.uplinks.clone(),
        overlay_mtu: overlay_mtu(mesh, surroundings),
        encapsulation: encapsulation(mesh),
    }
}

fn asked(number: u16, from: Option<&str>) -> Asked {
    Asked { number, protocol: None, from: from.map(|from| from.parse().unwrap()), node: None }
}

/// As if nothing could be asked, until there are no more questions.
fn unasked(known: &Known, asked: &Asked) -> (Explanation, BTreeMap<Question, Reply>) {
    let mut replies = BTreeMap::new();
    loop {
        let more = questions(known, asked, &replies);
        if more.is_empty() {
            return (explain(known, asked, &replies), replies);
        }
        replies.extend(more.into_iter().map(|question| (question, Reply::Unknown("no one".to_owned()))));
    }
}

fn numbers(mesh: &Mesh) -> Vec<u16> {
    mesh.ports().flat_map(|port| [port.published.first, port.published.last]).collect()
}

const CLIENTS: [Option<&str>; 4] = [None, Some("198.51.100.7"), Some("2001:db8::7"), Some("127.0.0.1")];

proptest! {
    #![proptest_config(super::cases(96))]

    #[test]
    fn where_all_is_as_wanted_nothing_is_broken(mesh in mesh(), surroundings in surroundings()) {
        let known = known(&mesh, &surroundings, Objects::clone);
        for number in numbers(&mesh) {
            for from in CLIENTS {
                let (explanation, _) = unasked(&known, &asked(number, from));
                // But who is kept out, and a port that nobody serves.
                let excused = |what: &str| ["who may come", "backends", "bind", "mark"].contains(&what);
                let broken = explanation.broken.filter(|hop| !excused(&hop.what));
                prop_assert!(broken.is_none(), "{number} from {from:?}: {broken:?}");
            }
        }
    }

    #[test]
    fn where_nothing_is_there_something_is_broken(mesh in mesh(), surroundings in surroundings()) {
        let known = known(&mesh, &surroundings, |_| Objects::default());
        for number in numbers(&mesh) {
            let (explanation, _) = unasked(&known, &asked(number, None));
            prop_assert!(!explanation.good && explanation.broken.is_some());
        }
    }

    /// Whatever is there.
    #[test]
    fn a_damaged_kernel_is_explained(mesh in mesh(), surroundings in surroundings(), damages in damages()) {
        let known = known(&mesh, &surroundings, |wanted| damaged(wanted.clone(), &damages));
        for number in numbers(&mesh) {
            let (explanation, _) = unasked(&known, &asked(number, Some("198.51.100.7")));
            prop_assert_eq!(explanation.good, explanation.broken.is_none());
            let mut hops = explanation.ports.iter().flat_map(|port| &port.parts).flat_map(|part| &part.hops);
            // What differs is broken, and nothing else is.
            let told = hops.find(|hop| (hop.verdict == Verdict::Good) && hop.wanted != hop.found && hop.wanted != "up"
                && !hop.wanted.contains(" may"));
            prop_assert!(told.is_none(), "{told:?}");
        }
    }
}

/// Who answers a question decides over one hop.
#[test]
fn an_answer_is_a_verdict() {
    let mesh = serving(node(), "kafka", [port(tcp(20229, 20229), 9092, [attached("10.255.0.33", "kafka-1")])]);
    let known = known(&mesh, &Surroundings::default(), Objects::clone);
    let asked = asked(20229, None);
    let (_, unknown) = unasked(&known, &asked);
    let broken = |replies: &BTreeMap<Question, Reply>| explain(&known, &asked, replies).broken.map(|hop| hop.what);
    assert_eq!(broken(&unknown), None);
    for question in unknown.keys() {
        use meshd::objects::{Connects, Obstacle, Onward};
        let (reply, what) = match question {
            Question::Route { .. } => (Reply::Route(Onward::None("no route".to_owned())), "way "),
            Question::Rules { .. } => {
                let obstacle = Obstacle { chain: "ip a b".to_owned(), handle: None, does: "drop", is_sure: true };
                (Reply::Rules(vec![obstacle]), "others' rules")
            }
            Question::Listens { .. } => (Reply::Listens(Vec::new()), "listener"),
            Question::Connects { .. } => (Reply::Connects(Connects::Refused), "answer"),
            Question::Underlay { .. } => continue,
        };
        let mut replies = unknown.clone();
        replies.insert(question.clone(), reply);
        let told = broken(&replies).unwrap_or_default();
        assert!(told.starts_with(what), "{question:?}: {told}");
    }
    assert!(unknown.keys().any(|question| matches!(question, Question::Listens { .. })), "{unknown:?}");
}

/// A port that takes nobody is closed, and a name that no backend is at is a mistake.
#[test]
fn a_port_that_takes_nobody_is_broken() {
    let drained = Backend { state: BackendState::Drain, ..attached("10.255.0.33", "kafka-1") };
    let mesh = serving(node(), "kafka", [port(tcp(20229, 20229), 9092, [drained])]);
    let known = known(&mesh, &Surroundings::default(), Objects::clone);
    let (explanation, _) = unasked(&known, &asked(20229, None));
    assert_eq!(explanation.broken.map(|hop| hop.what), Some("mark".to_owned()));
    let at = |node: &str| Asked { node: Some(node.to_owned()), ..asked(20229, None) }.refusal(&mesh);
    assert_eq!(at("node-1"), None);
    assert_eq!(at("node-7").unwrap(), "port 20229 has no backend on node node-7");
    assert_eq!(asked(1, None).refusal(&mesh).unwrap(), "port 1 is not published here");
}

/// A port is asked for by one of its numbers, of whatever protocol.
#[test]
fn a_number_names_its_ports() {
    let one = |published| port(published, None, [backend("10.255.0.33")]);
    let mesh = serving(node(), "dns", [one(tcp(53, 53)), one(udp(50, 60)), one(udp(61, 61))]);
    let named = |number, protocol: Option<&str>| {
        let asked = Asked { protocol: protocol.map(|name| name.parse().unwrap()), ..asked(number, None) };
        asked.ports(&mesh).into_iter().map(|(_, port)| port.published).collect::<Vec<_>>()
    };
    assert_eq!(named(53, None), [tcp(53, 53), udp(50, 60)]);
    assert_eq!(named(53, Some("tcp")), [tcp(53, 53)]);
    assert_eq!(named(60, None), [udp(50, 60)]);
    assert!(named(62, None).is_empty() && named(53, Some("sctp")).is_empty());
    let address: IpAddr = "10.255.0.33".parse().unwrap();
    assert!(
        mesh.ingress.contains(address)
            && known(&mesh, &Surroundings::default(), Objects::clone).wanted.tables.contains_key(&Netns::Host)
    );
}
