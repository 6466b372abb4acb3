//! Who leaves, how long it stays, and what is left of it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use std::sync::Arc;
use std::time::Duration;

use meshd::config::Config;
use meshd::drain::{Leaver, Leavers, World, merged, next, read, settle, write};
use meshd::mesh::{Backend, BackendState, Key, Mark, Mesh, NetnsRef, Port, Thresholds};

struct Fake {
    now: Cell<u64>,
    /// Who never served.
    idle: BTreeSet<IpAddr>,
    /// Namespaces are there, with the length of their name as number, but for those.
    gone: BTreeSet<String>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake { now: Cell::new(1000), idle: BTreeSet::new(), gone: BTreeSet::new() }
    }
}

impl World for Fake {
    fn now(&self) -> Duration {
        Duration::from_secs(self.now.get())
    }

    fn served(&self, (_, address): &Key) -> bool {
        !self.idle.contains(address)
    }

    fn namespace(&self, netns: &NetnsRef) -> Option<u64> {
        let name = netns.to_string();
        (!self.gone.contains(&name)).then_some(name.len() as u64)
    }
}

fn mesh_with(more: &str, backends: &str) -> Arc<Mesh> {
    let text = format!(
        "[node]\nname = 'node-1'\naddress = '192.168.50.1'\n{more}\n\
         [ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n[[service]]\nname = 'kafka'\n\
         port = [{{ published = 20229, target = 9092 }}, {{ published = 20230, drain = '0s' }}, {{ published = 53, protocol = 'udp', drain = '1m' }}]\n\
         backend = [{backends}]\n"
    );
    Arc::new(Config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}")).mesh("node-1"))
}

fn mesh(backends: &str) -> Arc<Mesh> {
    mesh_with("", backends)
}

const PEER: &str = "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n";

/// Who is drained, of all ports, and who of them is out already.
fn leaving(mesh: &Arc<Mesh>, leavers: &Leavers) -> Vec<String> {
    let merged = merged(mesh, leavers);
    let of = |port: &Port| -> Vec<String> {
        let drained = port.backends.iter().filter(|backend| backend.state == BackendState::Drain);
        let how = |one: &Backend| if merged.out.contains(&(port.mark(), one.address)) { "out" } else { "drain" };
        drained.map(|one| format!("{} {} {}", port.published, one.address, how(one))).collect()
    };
    merged.ports().flat_map(of).collect()
}

const ONE: &str = "{ address = '10.255.0.33', netns = 'a' }";
const TWO: &str = "{ address = '10.255.0.33', netns = 'a' }, { address = '10.255.0.34', netns = 'b c' }";
const DRAINED: &str =
    "{ address = '10.255.0.33', netns = 'a' }, { address = '10.255.0.34', netns = 'b c', state = 'drain' }";

fn from(old: &str, new: &str, world: &Fake) -> Vec<String> {
    let (old, new) = (mesh(old), mesh(new));
    leaving(&new, &next(&Leavers::new(), Some(&old), &new, world))
}

#[test]
fn who_is_taken_away_leaves_where_there_is_time_for_it() {
    let world = Fake::default();
    assert_eq!(from(TWO, TWO, &world), [""; 0]);
    assert_eq!(
        from(TWO, ONE, &world),
        ["udp 53 10.255.0.34 drain", "tcp 20229 10.255.0.34 drain"]
            .map(str::to_owned)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    assert_eq!(from(DRAINED, ONE, &world).len(), 2);
    let idle = Fake { idle: ["10.255.0.34".parse().unwrap()].into(), ..Fake::default() };
    assert_eq!(from(TWO, ONE, &idle), [""; 0], "who had nobody goes at once");
    let gone = Fake { gone: ["b c".to_owned()].into(), ..Fake::default() };
    assert_eq!(from(TWO, ONE, &gone), [""; 0], "and who has no namespace");
}

#[test]
fn who_comes_back_is_as_before_and_who_is_cut_has_no_time() {
    let world = Fake::default();
    let (one, two) = (mesh(ONE), mesh(TWO));
    let leavers = next(&Leavers::new(), Some(&two), &one, &world);
    assert_eq!(leaving(&two, &next(&leavers, Some(&one), &two, &world)), [""; 0]);
    // Taken away, and back to be drained: its time goes on.
    world.now.set(1010);
    let drained = mesh(DRAINED);
    let back = next(&leavers, Some(&one), &drained, &world);
    assert_eq!(
        back.values().map(|one| (one.taken, one.until.as_secs())).collect::<Vec<_>>(),
        [(false, 1030), (false, 1010), (false, 1060)]
    );
    // A restart, with less time than before: the record's is the most that it has.
    let again = next(&leavers, None, &one, &world);
    assert_eq!(leaving(&one, &again), leaving(&one, &leavers));
    world.now.set(10);
    let early = next(&leavers, None, &one, &world);
    assert!(early.values().all(|one| one.until.as_secs() <= 70), "a record of another boot: {early:?}");
    let other = mesh(
        "{ address = '10.255.0.33', netns = 'a' }, { address = '10.255.0.34', netns = 'b c', state = 'disabled' }",
    );
    assert_eq!(next(&leavers, Some(&one), &other, &world), Leavers::new());
}

#[test]
fn whose_place_is_taken_goes_at_once() {
    let world = Fake::default();
    let alone = |address: &str, netns: &str| format!("{{ address = '10.255.0.{address}', netns = '{netns}' }}");
    let both = |one: &str, other: &str| format!("{one}, {other}");
    let pair = both(&alone("33", "a"), &alone("34", "a"));
    for (old, new, stays) in [
        // The same namespace under another address: another leg.
        (TWO.to_owned(), both(ONE, &alone("44", "b c")), false),
        (TWO.to_owned(), both(ONE, &alone("34", "d")), false),
        // Of two addresses of one leg the first gives the MAC.
        (pair.clone(), alone("33", "a"), true),
        (pair.clone(), alone("34", "a"), false),
        (pair, alone("50", "e"), true),
    ] {
        assert_eq!(!from(&old, &new, &world).is_empty(), stays, "{old} -> {new}");
    }
}

fn settled(leavers: &mut Leavers, mesh: &Mesh, world: &Fake, open: Option<u32>) -> Vec<&'static str> {
    let (changed, ended) = settle(leavers, mesh, world, |_| open);
    assert!(changed || ended.is_empty());
    ended.into_iter().map(|ended| ended.reason).collect()
}

#[test]
fn it_is_done_when_none_is_with_it_or_when_its_time_is_over() {
    let world = Fake::default();
    let (one, two) = (mesh(ONE), mesh(TWO));
    let begin = || next(&Leavers::new(), Some(&two), &one, &world);
    let mut leavers = begin();
    assert_eq!(settled(&mut leavers, &one, &world, Some(3)), [""; 0]);
    assert_eq!(settled(&mut leavers, &one, &world, None), [""; 0], "nothing is known");
    assert_eq!(settled(&mut leavers, &one, &world, Some(0)), ["it has no open connection"; 2]);
    assert_eq!(leavers, Leavers::new(), "no other node could speak to it");
    let mut leavers = begin();
    world.now.set(1030);
    assert_eq!(settled(&mut leavers, &one, &world, Some(3)), ["its time is over, and its connections end"]);
    assert_eq!(
        leaving(&one, &leavers),
        ["tcp 20229 10.255.0.34 out", "udp 53 10.255.0.34 drain"],
        "of one place all together"
    );
    world.now.set(1060);
    assert_eq!(settled(&mut leavers, &one, &world, None).len(), 1);
    assert_eq!(leavers, Leavers::new());
}

#[test]
fn its_leg_stays_for_other_nodes_until_their_time_is_over_too() {
    let world = Fake::default();
    let (one, two) = (mesh_with(PEER, ONE), mesh_with(PEER, TWO));
    let mut leavers = next(&Leavers::new(), Some(&two), &one, &world);
    assert_eq!(settled(&mut leavers, &one, &world, Some(0)).len(), 2);
    assert_eq!(leaving(&one, &leavers), ["tcp 20229 10.255.0.34 out", "udp 53 10.255.0.34 out"]);
    world.now.set(1064);
    assert!(!settle(&mut leavers, &one, &world, |_| None).0);
    world.now.set(1065);
    assert!(settle(&mut leavers, &one, &world, |_| None).0);
    assert_eq!(leavers, Leavers::new());

    // Its namespace is another's now.
    world.now.set(2000);
    let mut leavers = next(&Leavers::new(), Some(&two), &one, &world);
    let gone = Fake { gone: ["b c".to_owned()].into(), now: Cell::new(2001), ..Fake::default() };
    assert_eq!(settled(&mut leavers, &one, &gone, Some(2)), ["its namespace is gone"; 2]);
    assert_eq!(leavers, Leavers::new());
    // One on another node has no place here.
    let there = mesh_with(PEER, &format!("{ONE}, {{ address = '10.255.0.34', node = 'node-2' }}"));
    let mut leavers = next(&Leavers::new(), Some(&there), &one, &world);
    assert_eq!(leavers.len(), 2);
    assert_eq!(settled(&mut leavers, &one, &world, Some(0)).len(), 2);
    assert_eq!(leavers, Leavers::new());
}

#[test]
fn one_that_the_operator_drains_has_its_time_too_and_stays_out_until_it_is_enabled() {
    let world = Fake::default();
    let (two, drained) = (mesh(TWO), mesh(DRAINED));
    let mut leavers = next(&Leavers::new(), Some(&two), &drained, &world);
    assert_eq!(
        leaving(&drained, &leavers),
        ["tcp 20229 10.255.0.34 drain", "tcp 20230 10.255.0.34 out", "udp 53 10.255.0.34 drain"]
    );
    assert_eq!(settled(&mut leavers, &drained, &world, Some(0)).len(), 2);
    assert_eq!(leavers.len(), 3, "it is drained still");
    let later = next(&leavers, Some(&drained), &drained, &world);
    assert_eq!(later, leavers);
    assert_eq!(merged(&drained, &later).out.len(), 3);
    assert_eq!(next(&later, Some(&drained), &two, &world), Leavers::new());
    // At the start: whom the kernel has not, nobody is with.
    let idle = Fake { idle: ["10.255.0.34".parse().unwrap()].into(), ..Fake::default() };
    assert!(next(&Leavers::new(), None, &drained, &idle).values().all(|leaver| leaver.done));
    assert!(!next(&Leavers::new(), None, &drained, &world).values().all(|leaver| leaver.done));
}

#[test]
fn lines_are_read_as_they_are_written_and_others_are_not() {
    let name = |name: &str| Some(NetnsRef::Name(name.into()));
    for netns in [None, name("a b"), Some(NetnsRef::Path("/x y".into())), Some(NetnsRef::Pid(7))] {
        for (node, taken, done, namespace) in
            [(None, true, false, Some(4_026_531_840)), (Some("node-2".to_owned()), false, true, None)]
        {
            let address = "fd00:255::34".parse().unwrap();
            let backend = Backend {
                address,
                weight: 1,
                thresholds: Thresholds::default(),
                state: BackendState::Drain,
                backup: false,
                node,
                netns: netns.clone(),
            };
            let until = Duration::from_millis(1_700_250);
            let key = (Mark(0x14f05), address);
            let leaver = Leaver { backend, taken, until, done, namespace, open: None };
            let line = write(&key, &leaver);
            assert_eq!(read(line.trim_end_matches('\n')), Some((key, leaver)));
            (0..line.len()).for_each(|length| drop(read(&line[..length])));
        }
    }
    let bad =
        ["", "\t\t\t\t\t\t\t", "0x1\t10.0.0.1\t\t\t\tNaN\ttaken\topen", "0x1\t10.0.0.1\t\tnowhere x\t\t1\ttaken\topen"];
    for bad in bad.into_iter().chain(["1\t10.0.0.1\t\t\t\t1\ttaken\topen", "0x1\t10.0.0.1\t\t\t\t1\ttaken\tmaybe"]) {
        assert_eq!(read(bad), None, "{bad}");
    }
}
