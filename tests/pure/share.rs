//! Who gets new clients, and how many: backups, those of this node, those that have just come up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshd::config::Config;
use meshd::mesh::{Backend, BackendState, Key, Mesh};
use meshd::share::{Health, Helped, shares};
use proptest::prelude::*;

#[derive(Default)]
struct Known {
    down: BTreeSet<IpAddr>,
    /// Seconds.
    up_for: BTreeMap<IpAddr, f64>,
}

impl Health for Known {
    fn serves(&self, (_, address): &Key) -> bool {
        !self.down.contains(address)
    }

    fn up_for(&self, (_, address): &Key) -> Option<Duration> {
        self.up_for.get(address).map(|seconds| Duration::from_secs_f64(*seconds))
    }
}

fn mesh(keys: &str, backends: &[&str]) -> Arc<Mesh> {
    let backends: Vec<String> = backends.iter().map(|backend| format!("{{ address = {backend} }}")).collect();
    let text = format!(
        "[node]\nname = 'node-1'\naddress = '192.168.50.1'\n[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\n\
         ingress = '10.255.0.4'\ningress6 = 'fd00:255::4'\n[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n\
         subnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n[[service]]\nname = 'kafka'\nscheduler = 'wrr'\n{keys}\n\
         port = [{{ published = 20229 }}]\nbackend = [{}]\n",
        backends.join(", ")
    );
    Arc::new(Config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}")).mesh("node-1"))
}

fn weights(mesh: &Mesh) -> Vec<u32> {
    mesh.ports().flat_map(|port| &port.backends).map(|backend| backend.weight).collect()
}

fn down(addresses: &[&str]) -> Known {
    Known { down: addresses.iter().map(|address| address.parse().unwrap()).collect(), ..Known::default() }
}

/// The weights, one after the other, as backends go down and come back.
fn story(mesh: &Arc<Mesh>, downs: &[&[&str]]) -> Vec<Vec<u32>> {
    let mut helped = Helped::new();
    downs.iter().map(|gone| weights(&shares(mesh, &down(gone), &mut helped).mesh)).collect()
}

const A: &str = "10.255.0.33";
const B: &str = "10.255.0.34";

#[test]
fn a_mesh_without_such_keys_is_left_alone() {
    let mesh = mesh("", &["'10.255.0.33'", "'10.255.0.34', weight = 7"]);
    let mut helped = Helped::new();
    assert!(Arc::ptr_eq(&shares(&mesh, &down(&[A]), &mut helped).mesh, &mesh));
}

#[test]
fn backups_help_when_nobody_else_is_left() {
    let mesh = mesh("", &["'10.255.0.33'", "'10.255.0.34', weight = 3", "'10.255.0.40', backup = true, weight = 5"]);
    let told = story(&mesh, &[&[], &[A], &[A, B], &[B]]);
    assert_eq!(told, [[1, 3, 0], [1, 3, 0], [1, 3, 5], [1, 3, 0]]);
    // Each family by itself.
    let mesh = self::mesh(
        "",
        &["'10.255.0.33'", "'fd00:255::33'", "'fd00:255::40', backup = true", "'10.255.0.40', backup = true"],
    );
    assert_eq!(story(&mesh, &[&[A], &["fd00:255::33"]]), [[1, 1, 0, 1], [1, 1, 1, 0]]);
}

#[test]
fn backups_help_below_the_quorum_and_until_there_is_more() {
    let backends =
        ["'10.255.0.33', weight = 4", "'10.255.0.34', weight = 5", "'10.255.0.35'", "'10.255.0.40', backup = true"];
    let mesh = mesh("quorum = 50", &backends);
    let backup = |downs: &[&[&str]]| story(&mesh, downs).into_iter().map(|weights| weights[3]).collect::<Vec<_>>();
    const C: &str = "10.255.0.35";
    // 10, 6, 5, 4, 5, 6 tenths: they stay at half, and begin below; and end at six tenths.
    assert_eq!(backup(&[&[], &[A], &[B], &[A, C], &[B, C], &[B], &[A], &[B]]), [0, 0, 0, 0, 1, 1, 0, 0]);
}

#[test]
fn those_of_this_node_come_first() {
    let backends =
        ["'10.255.0.33'", "'10.255.0.34', node = 'node-2'", "'192.0.2.7'", "'fd00:255::34', node = 'node-2'"];
    let mesh = mesh("prefer = 'local'", &backends);
    assert_eq!(story(&mesh, &[&[], &[A], &[]]), [[1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1]], "no local one of IPv6");
    // A local backup that helps is no reason either, as long as another one is well.
    let backends = ["'10.255.0.33', node = 'node-2'", "'10.255.0.34', node = 'node-2'", "'10.255.0.40', backup = true"];
    let mesh = self::mesh("prefer = 'local'\nquorum = 100", &backends);
    assert_eq!(story(&mesh, &[&[], &[A], &[A, B]]), [[1, 1, 0], [1, 1, 1], [0, 0, 1]]);
    let mesh = self::mesh("prefer = 'local'", &["'10.255.0.33', state = 'drain'", "'10.255.0.34', node = 'node-2'"]);
    assert_eq!(story(&mesh, &[&[]]), [[1, 1]], "who gets no new clients is no reason");
}

#[test]
fn one_that_comes_up_has_its_share_step_by_step() {
    let keys = "check = { type = 'tcp' }\nslow_start = '20s'";
    let at = |mesh: &Arc<Mesh>, seconds: f64| {
        let known = Known { up_for: [(B.parse().unwrap(), seconds)].into(), ..Known::default() };
        let shares = shares(mesh, &known, &mut Helped::new());
        (weights(&shares.mesh), shares.lasts.map(|lasts| lasts.as_secs_f64()))
    };
    let even = mesh(keys, &["'10.255.0.33'", "'10.255.0.34'"]);
    for (seconds, weight, lasts) in [(0., 1, 2.), (1.5, 1, 0.5), (2., 2, 2.), (9., 5, 1.), (17.5, 9, 0.5)] {
        assert_eq!(at(&even, seconds), (vec![10, weight], Some(lasts)), "after {seconds} s");
    }
    for seconds in [18., 20., 1e6] {
        assert_eq!(at(&even, seconds), (vec![1, 1], None));
    }
    let heavy = mesh(keys, &["'10.255.0.33', weight = 65535", "'10.255.0.34', weight = 3"]);
    assert_eq!(at(&heavy, 0.).0, [65535, 1]);
}

proptest! {
    /// Whatever is down: where anyone is well, someone who is well gets clients; nobody gets more than its share, and who is
    /// drained is not touched.
    #[test]
    fn nobody_is_left_without_a_backend(
        kinds in prop::collection::vec((0..3u8, any::<bool>(), any::<bool>(), 1..9u32), 1..8),
        local: bool, quorum in 0..=100u8, before: bool,
    ) {
        let backend = |(number, (place, backup, _, weight)): (usize, &(u8, bool, bool, u32))| {
            let state = if *place == 2 { "drain" } else { "enabled" };
            let place = if *place == 0 { ", node = 'node-2'" } else { "" };
            format!("'10.255.0.{}'{place}, backup = {backup}, weight = {weight}, state = '{state}'", 33 + number)
        };
        let listed: Vec<String> = kinds.iter().enumerate().map(backend).collect();
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        let has_backup = kinds.iter().any(|(_, backup, ..)| *backup);
        let keys = format!(
            "{}{}",
            if local { "prefer = 'local'\n" } else { "" },
            if has_backup && quorum > 0 { format!("quorum = {quorum}") } else { String::new() }
        );
        let mesh = mesh(&keys, &listed);
        let gone: Vec<String> = kinds.iter().enumerate().filter(|(_, (_, _, down, _))| *down).map(|(number, _)| format!("10.255.0.{}", 33 + number)).collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let port = mesh.ports().next().unwrap();
        let mut helped: Helped = before.then(|| (port.mark(), meshd::objects::Family::V4)).into_iter().collect();
        let shared = shares(&mesh, &down(&gone), &mut helped).mesh;
        let after = &shared.ports().next().unwrap().backends;
        let well = kinds.iter().any(|(place, _, down, _)| !down && *place != 2);
        let works = |(one, (place, _, down, _)): (&Backend, &(u8, bool, bool, u32))| !down && *place != 2 && one.weight > 0;
        let served = after.iter().zip(&kinds).any(works);
        prop_assert_eq!(well, served, "{:?} of {:?}", weights(&shared), kinds);
        for (one, was) in after.iter().zip(&port.backends) {
            prop_assert!(one.weight == was.weight || one.weight == 0 && one.state == BackendState::Enabled);
            prop_assert!(one.state == was.state);
        }
    }
}
