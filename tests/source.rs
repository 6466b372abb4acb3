//! What the control socket was told, kept on disk: whatever is cut off in the middle, the next start has all that
//! was acknowledged, and services that go together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use meshd::config::Config;
use meshd::control::protocol::{PortName, Problem};
use meshd::source::{Action, Edit, OpenError, Sources, Staged, peek};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A directory that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("meshd-source-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn services(&self) -> PathBuf {
        self.0.join("state/services")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file with that state directory, and these services.
fn config(state: &Path, services: &str) -> Config {
    let text = format!(
        "[node]\nstate_dir = '{}'\n[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n{services}",
        state.display()
    );
    Config::parse(&text, "services.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn open(scratch: &Scratch, services: &str) -> Sources {
    try_open(scratch, services).unwrap_or_else(|error| panic!("{error}"))
}

fn try_open(scratch: &Scratch, services: &str) -> Result<Sources, OpenError> {
    let state = scratch.0.join("state");
    Sources::open("services.toml".into(), config(&state, services), "node-1")
}

fn edit(service: &str, action: Action) -> Edit {
    Edit { service: service.to_owned(), action }
}

fn service(ports: &[u16], backend: &str) -> Value {
    let ports: Vec<Value> = ports.iter().map(|port| json!({ "published": port })).collect();
    json!({ "port": ports, "backend": [{ "address": backend }] })
}

fn put(sources: &mut Sources, name: &str, ports: &[u16]) -> u64 {
    let edit = edit(name, Action::Put(service(ports, "10.255.0.33")));
    match sources.change(&edit, None).unwrap_or_else(|problem| panic!("{problem:?}")) {
        Staged::Done { generation, .. } => generation,
        Staged::CommitFirst => panic!("nothing is in the way"),
    }
}

fn names(sources: &Sources) -> Vec<String> {
    sources.list().services.into_iter().map(|entry| entry.service.name).collect()
}

fn refusal(outcome: Result<Staged, Problem>) -> (u16, String) {
    let problem = outcome.expect_err("it is refused");
    (problem.status, problem.detail)
}

#[test]
fn what_is_committed_is_there_and_numbers_only_grow() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    let first = sources.generation();
    assert_eq!(put(&mut sources, "a", &[1]), first + 1);
    sources.commit().unwrap();
    // Not committed: it never was.
    put(&mut sources, "b", &[2]);
    drop(sources);
    let mut sources = open(&scratch, "");
    assert_eq!(names(&sources), ["a"]);
    assert_eq!(sources.get("a").unwrap().generation, first + 1);
    // The number that was given to `b` is not given again; nor are those of starts that changed nothing.
    assert!(sources.generation() > first + 2);
    let second = sources.generation();
    drop(sources);
    assert!(open(&scratch, "").generation() > second);

    // Once more with everything: the generation says which of two it was.
    sources = open(&scratch, "");
    let renewed = put(&mut sources, "a", &[3]);
    sources.commit().unwrap();
    drop(sources);
    assert_eq!(open(&scratch, "").get("a").unwrap().generation, renewed);
}

#[test]
fn only_one_has_the_directory() {
    let scratch = Scratch::new();
    let sources = open(&scratch, "");
    let error = try_open(&scratch, "").map(drop).unwrap_err().to_string();
    assert!(error.contains("state/services belongs to another meshd"), "{error}");
    // To look is allowed.
    peek(&config(&scratch.0.join("state"), ""), "node-1", None).unwrap();
    drop(sources);
    open(&scratch, "");
}

#[test]
fn files_are_for_roots_eyes_only() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "a", &[1]);
    sources.commit().unwrap();
    let mode = |path: &str| fs::metadata(scratch.0.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/services"), mode("state/services/a.json")), (0o700, 0o700, 0o600));
}

/// Not to know of services would be to remove them from the kernel.
#[test]
fn what_may_be_good_and_cannot_be_read_stops_the_start() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "a", &[1]);
    sources.commit().unwrap();
    drop(sources);
    let file = scratch.services().join("a.json");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("meshd service 1", "meshd service 2")).unwrap();
    let error = try_open(&scratch, "").map(drop).unwrap_err().to_string();
    assert!(error.contains("a.json: it is of a later meshd"), "{error}");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = try_open(&scratch, "").map(drop).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("a.json"), "{error}");
    assert!(peek(&config(&scratch.0.join("state"), ""), "node-1", None).is_err());
    fs::remove_dir(&file).unwrap();
    fs::write(&file, good).unwrap();
    assert_eq!(names(&open(&scratch, "")), ["a"]);
    // A number that no one ever counted to is not counted on from.
    fs::write(scratch.0.join("state/generation"), u64::MAX.to_string()).unwrap();
    let sources = open(&scratch, "");
    assert!(sources.generation() < 10_000 && sources.troubles()[0].contains("generation is no such number"));
}

#[test]
fn a_dry_run_sees_what_a_start_would_use() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "a", &[1]);
    sources.commit().unwrap();
    put(&mut sources, "a", &[2]);
    sources.commit().unwrap();
    drop(sources);
    let file = scratch.services().join("a.json");
    fs::write(&file, "torn").unwrap();
    let mesh = peek(&config(&scratch.0.join("state"), ""), "node-1", None).unwrap();
    assert_eq!(mesh.services[0].ports[0].published.first, 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "torn", "a dry run touches nothing");
    assert_eq!(*open(&scratch, "").wanted().mesh, mesh);
}

#[test]
fn the_file_comes_first_and_the_rest_is_put_aside_until_it_fits() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "a", &[1]);
    put(&mut sources, "b", &[2]);
    sources.commit().unwrap();
    drop(sources);
    let web = "[[service]]\nname = 'web'\nport = [{ published = 1 }]\nbackend = [{ address = '10.255.0.41' }]";
    let mut sources = open(&scratch, web);
    assert_eq!(names(&sources), ["b", "web"]);
    let troubles = sources.troubles().join("\n");
    assert!(
        troubles.contains("service a is kept but not in force") && troubles.contains("port[0].published"),
        "{troubles}"
    );
    assert!(sources.get("a").unwrap_err().detail.contains("kept but not in force"));
    // It can be mended, or taken away, by who knows of it.
    let patch = edit("a", Action::MergePort("tcp/1".parse().unwrap(), json!({ "published": 3 })));
    assert!(matches!(sources.change(&patch, None), Ok(Staged::Done { changed: true, .. })));
    sources.commit().unwrap();
    assert_eq!((names(&sources).len(), sources.troubles().len()), (3, 0));
    drop(sources);
    assert_eq!(open(&scratch, web).troubles(), [""; 0]);

    // Or the file changes.
    let clash = web.replace("published = 1", "published = 3");
    let mut sources = open(&scratch, &clash);
    assert_eq!(names(&sources), ["b", "web"]);
    let better = config(&scratch.0.join("state"), web);
    let candidate = sources.candidate(better).unwrap();
    assert!(sources.reload(candidate).1);
    assert_eq!(names(&sources), ["a", "b", "web"]);
    // While it is in force, a file that clashes is refused.
    let error = sources.candidate(config(&scratch.0.join("state"), &clash)).unwrap_err();
    assert!(error.contains("service a of the control socket does not go with this file"), "{error}");
}

/// A start that fails after all must leave what was kept.
#[test]
fn what_the_file_takes_over_is_forgotten_only_when_that_is_certain() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "web", &[1]);
    sources.commit().unwrap();
    drop(sources);
    let web = "[[service]]\nname = 'web'\nport = [{ published = 7 }]\nbackend = [{ address = '10.255.0.41' }]";
    drop(open(&scratch, web));
    assert_eq!(open(&scratch, "").wanted().mesh.services[0].ports[0].published.first, 1);
    let mut sources = open(&scratch, web);
    sources.hand_over();
    drop(sources);
    assert_eq!(names(&open(&scratch, "")), [""; 0]);
}

#[test]
fn services_are_edited_in_part() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "a", &[1, 2]);
    let port = |text: &str| text.parse::<PortName>().unwrap();
    let mut change =
        |action: Action| sources.change(&edit("a", action), None).map(|_| sources.get("a").unwrap().service);
    let now = change(Action::Merge(json!({ "scheduler": "wrr", "backend": null }))).unwrap();
    assert_eq!((now.scheduling.scheduler.as_deref(), now.backend.len()), (Some("wrr"), 0));
    let now = change(Action::AddPort(json!({ "published": "10 - 12", "protocol": "udp", "backend": null }))).unwrap();
    assert_eq!((now.port.len(), now.port[2].name()), (3, Some(port("udp/10-12"))));
    let own = json!({ "backend": [{ "address": "10.255.0.34" }] });
    let now = change(Action::MergePort(port("udp/10-12"), own)).unwrap();
    assert_eq!(now.port[2].backend.as_ref().map(Vec::len), Some(1));
    let now = change(Action::AddBackend(Some(port("udp/10-12")), json!({ "address": "fd00::1" }))).unwrap();
    assert_eq!(now.port[2].backend.as_ref().map(Vec::len), Some(2));
    let now = change(Action::DeleteBackend(Some(port("udp/10-12")), "FD00:0::1".parse().unwrap())).unwrap();
    assert_eq!(now.port[2].backend.as_ref().map(Vec::len), Some(1));
    let twin = change(Action::AddBackend(Some(port("udp/10-12")), json!({ "address": "10.255.0.34" }))).unwrap_err();
    assert_eq!((twin.status, twin.detail.as_str()), (409, "service a has a backend 10.255.0.34 there already"));
}

#[test]
fn a_null_is_no_value_wherever_it_stands() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    let nulls = json!({
        "name": null, "scheduler": null, "backend": null,
        "port": [{ "published": 1, "target": null, "backend": [{ "address": "10.255.0.33", "weight": null, "netns": null }] }],
    });
    let outcome = sources.change(&edit("a", Action::Put(nulls)), None);
    assert!(matches!(outcome, Ok(Staged::Done { changed: true, .. })), "{outcome:?}");
    let (status, detail) = refusal(sources.change(&edit("a", Action::AddPort(Value::Null)), None));
    assert!(status == 422 && detail.contains("port[1]"), "{status} {detail}");
}

/// In a batch, who takes what another has just left waits until that is on disk.
#[test]
fn a_change_that_needs_another_one_waits_for_the_disk() {
    let scratch = Scratch::new();
    let mut sources = open(&scratch, "");
    put(&mut sources, "z", &[80]);
    sources.commit().unwrap();
    assert!(matches!(sources.change(&edit("z", Action::Delete), None), Ok(Staged::Done { .. })));
    let take = edit("a", Action::Put(service(&[80], "10.255.0.33")));
    assert_eq!(sources.change(&take, None), Ok(Staged::CommitFirst));
    sources.commit().unwrap();
    assert!(matches!(sources.change(&take, None), Ok(Staged::Done { .. })));
    // Who asks for what another still has is refused, be it new or not.
    assert_eq!(refusal(sources.change(&edit("b", Action::Put(service(&[80], "10.255.0.33"))), None)).0, 422);
}

type Files = BTreeMap<String, Vec<u8>>;

fn read(directory: &Path) -> Files {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// The files of some services as they were, of the others as they are.
fn mixed(before: &Files, after: &Files, old: impl Fn(&str) -> bool) -> Files {
    let of = |files: &Files, wanted: bool| {
        let chosen = files.iter().filter(|(file, _)| old(file.split('.').next().unwrap()) == wanted);
        chosen.map(|(file, bytes)| (file.clone(), bytes.clone())).collect::<Files>()
    };
    let mut files = of(before, true);
    files.extend(of(after, false));
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a power cut divides a batch, what is left on disk goes together.
    #[test]
    fn every_part_of_a_batch_is_a_good_start(
        batches in prop::collection::vec(
            prop::collection::vec((0..4usize, prop::collection::btree_set(1..6u16, 0..3)), 1..8),
            1..5,
        )
    ) {
        let scratch = Scratch::new();
        let mut sources = open(&scratch, "");
        let mut before = read(&scratch.services());
        for batch in batches {
            for (number, ports) in batch {
                let name = ["a", "b", "c", "d"][number];
                let ports: Vec<u16> = ports.into_iter().collect();
                let action = if ports.is_empty() { Action::Delete } else { Action::Put(service(&ports, "10.255.0.33")) };
                let edit = edit(name, action);
                if sources.change(&edit, None) == Ok(Staged::CommitFirst) {
                    sources.commit().unwrap();
                    before = read(&scratch.services());
                    let again = sources.change(&edit, None);
                    prop_assert!(again.is_ok() && again != Ok(Staged::CommitFirst));
                }
            }
            sources.commit().unwrap();
            let after = read(&scratch.services());
            for old in 0..16u32 {
                let crashed = Scratch::new();
                fs::create_dir_all(crashed.services()).unwrap();
                let is_old = |name: &str| old & (1 << (name.as_bytes()[0] - b'a')) != 0;
                for (file, bytes) in mixed(&before, &after, is_old) {
                    fs::write(crashed.services().join(file), bytes).unwrap();
                }
                let next = open(&crashed, "");
                prop_assert_eq!(next.troubles(), Vec::<String>::new());
            }
            before = after;
        }
    }
}

/// What a service is shown as is what would make it so.
#[test]
fn checks_are_shown_as_they_could_be_written() {
    let scratch = Scratch::new();
    for check in [
        "{ type = 'tcp', port = 81, interval = '500ms', timeout = '100ms', rise = 1, fall = 9, start = 'up' }",
        "{ type = 'http', path = '/healthz', host = 'a.example', status = 204, body = 'ok', interval = '1m' }",
        "{ type = 'https', verify = false }",
        "{ type = 'udp', send = 'ping', expect = 'pong' }",
        "{ type = 'dns', name = 'example.net', record = 'AAAA' }",
        "{ type = 'exec', command = ['/bin/check', '-x'], user = 'daemon' }",
        "{ type = 'none' }",
    ] {
        for ports in [
            "{ published = 80 }, { published = 82 }",
            "{ published = 80 }, { published = 82, check = { type = 'none' } }",
            "{ published = 80, check = { type = 'tcp' } }, { published = 82 }",
        ] {
            let file = |name: &str| {
                format!(
                    "[[service]]\nname = '{name}'\ncheck = {check}\nport = [{ports}]\nbackend = [{{ address = '10.255.0.33' }}]\n"
                )
            };
            let mut sources = open(&scratch, &file("a"));
            let ports = sources.wanted().mesh.services[0].ports.clone();
            let mut shown = serde_json::to_value(sources.get("a").unwrap().service).unwrap();
            shown["name"] = "b".into();
            for port in shown["port"].as_array_mut().unwrap() {
                port["published"] = (port["published"].as_u64().unwrap() + 1).into();
            }
            sources
                .change(&edit("b", Action::Put(shown.clone())), None)
                .unwrap_or_else(|problem| panic!("{problem:?}"));
            let again = &sources.wanted().mesh.services[1].ports.clone();
            let checks = |ports: &[meshd::mesh::Port]| ports.iter().map(|port| port.check.clone()).collect::<Vec<_>>();
            assert_eq!(checks(again), checks(&ports), "{shown}");
        }
    }
}
