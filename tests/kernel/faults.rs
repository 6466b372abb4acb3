//! Faults at chosen points: the daemon dies there, or is refused something there. Whatever happens, the kernel ends up as wanted,
//! and who is served before and after is served all the while.
//!
//! Every point that is passed can be chosen. CI takes some of them, others each time it is told so (MESHD_FAULT_SEED); `make soak` takes all.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::crash::{first, second};
use crate::lab::{Config, Lab, Load, Meshd, Tcp, assert_same, faulty, number};

const ADDRESSES: [&str; 2] = ["192.168.50.1:20229", "[fd50::1]:20229"];
const ERRORS: [&str; 8] = ["ENOBUFS", "EINTR", "EBUSY", "ENOMEM", "EEXIST", "ENOENT", "ENOSPC", "EIO"];

/// So many of them, or all, evenly.
fn chosen(points: &[String]) -> Vec<usize> {
    let most = number("MESHD_FAULT_POINTS_EACH", 12).clamp(1, points.len());
    let seed = number("MESHD_FAULT_SEED", 0);
    (0..most).map(|turn| 1 + (turn * points.len() / most + seed) % points.len()).collect()
}

fn points_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let points: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(points.len() > 20, "only {points:?}");
    points
}

/// It has died at its point; or it has passed fewer this time, and is killed.
fn dies(meshd: &mut Meshd) -> bool {
    dies_within(meshd, 20)
}

fn dies_within(meshd: &mut Meshd, seconds: u64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        if let Some(status) = meshd.ended() {
            assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{}", meshd.log());
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Numbers for the README.
fn report(what: &str, tried: usize, survived: usize, points: usize) {
    println!("faults: {what}: {tried} of {points} points tried, {survived} survived, {} lost", tried - survived);
}

#[test]
fn a_start_may_die_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.write(&first(&lab));
    let file = lab.path("points");
    let mut meshd = lab.spawn_faulty("", None, Some(&file));
    meshd.wait_until_ready();
    let points = points_of(&file);
    let wanted = lab.state();
    meshd.kill9();
    let chosen = chosen(&points);
    for point in &chosen {
        assert!(lab.meshd(&["--cleanup"]).status.success());
        let mut meshd = lab.spawn_faulty(&format!("crash@{point}"), None, None);
        assert!(dies(&mut meshd), "{point}: {}", points[point - 1]);
        let meshd = lab.resume();
        assert_same(&wanted, &lab.state(), &format!("after it died at {}", points[point - 1]));
        ADDRESSES.iter().for_each(|to| drop(lab.client.ask(Tcp, to)));
        meshd.kill9();
    }
    report("a start dies", chosen.len(), chosen.len(), points.len());
}

/// Between two configurations, under load.
struct Ways<'l> {
    lab: &'l Lab,
    configs: [Config; 2],
    states: [String; 2],
    after: PathBuf,
    load: Load,
}

impl<'l> Ways<'l> {
    fn new(lab: &'l Lab, configs: [Config; 2]) -> Ways<'l> {
        let mut meshd = lab.start(&configs[1]);
        let state = lab.state();
        meshd.reload(&configs[0]);
        let states = [lab.state(), state];
        meshd.kill9();
        let load = lab.load(&["192.168.50.1:20229"]);
        Ways { lab, configs, states, after: lab.path("after"), load }
    }

    /// A daemon that goes the way to that configuration, with a fault on it.
    fn go(&self, to: usize, fault: &str, points: Option<&Path>) -> Meshd {
        let _ = fs::remove_file(&self.after);
        let mut meshd = self.lab.spawn_faulty(fault, Some(&self.after), points);
        meshd.wait_until_ready();
        self.lab.write(&self.configs[to]);
        fs::write(&self.after, "").unwrap();
        meshd.signal(Signal::SIGHUP);
        meshd
    }

    /// The points of both ways, there and back.
    fn points(&self) -> Vec<String> {
        let file = self.lab.path("points");
        for to in [1, 0] {
            let meshd = self.go(to, "", Some(&file));
            self.settles(to, "nothing");
            meshd.kill9();
            if to == 1 {
                let _ = fs::remove_file(&file);
            }
        }
        points_of(&file)
    }

    fn settles(&self, to: usize, what: &str) {
        self.lab.becomes(&self.states[to], &format!("a minute after {what}"));
    }
}

#[test]
fn a_change_may_die_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let ways = Ways::new(&lab, [first(&lab), second(&lab)]);
    let points = ways.points();
    let (mut tried, mut to) = (0, 1);
    for point in chosen(&points) {
        let mut meshd = ways.go(to, &format!("crash@{point}"), None);
        if dies(&mut meshd) {
            tried += 1;
        } else {
            meshd.kill9();
        }
        let meshd = lab.resume();
        assert_same(&ways.states[to], &lab.state(), &format!("after it died at {}", points[point - 1]));
        meshd.kill9();
        to = 1 - to;
    }
    assert!(tried * 2 > chosen(&points).len(), "only {tried} died");
    // Nobody was refused, and nobody answered who should not.
    let answers = ways.load.finish();
    assert!(answers.iter().all(|answer| answer.backend.starts_with("kafka-")));
    report("a change dies", tried, tried, points.len());
}

#[test]
fn a_change_may_be_refused_anything() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let ways = Ways::new(&lab, [first(&lab), second(&lab)]);
    let points = ways.points();
    let chosen = chosen(&points);
    let mut to = 1;
    for (turn, point) in chosen.iter().enumerate() {
        let fault = format!("{}@{point}", ERRORS[turn % ERRORS.len()]);
        let meshd = ways.go(to, &fault, None);
        ways.settles(to, &format!("{fault}, {}\n{}", points[point - 1], meshd.log()));
        meshd.kill9();
        to = 1 - to;
    }
    let answers = ways.load.finish();
    assert!(answers.iter().all(|answer| answer.backend.starts_with("kafka-")));
    report("a change is refused something", chosen.len(), chosen.len(), points.len());
}

/// Someone is connected to the backend that leaves: it is waited for, and then its connections end. Whoever is meshd meanwhile.
#[test]
fn a_drain_may_die_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config = |count: usize| {
        let names = ["kafka-1", "kafka-2", "kafka-3"];
        let backend = |(name, number)| format!("{{ address = '10.255.0.{number}', netns = \"{name}\" }}");
        let backends: Vec<String> = names.into_iter().zip(33..).take(count).map(backend).collect();
        lab.config().service(&format!(
            "name = 'kafka'\ndrain = '1s'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}]",
            backends.join(", ")
        ))
    };
    let ways = Ways::new(&lab, [config(3), config(2)]);
    let hold = || lab.client.connect_to_each(Tcp, ADDRESSES[0], &["kafka-1", "kafka-3"]);
    let file = lab.path("points");
    let held = hold();
    let meshd = ways.go(1, "", Some(&file));
    ways.settles(1, "nothing");
    meshd.kill9();
    let points = points_of(&file);
    drop(held);
    let mut died = 0;
    for point in chosen(&points) {
        lab.write(&config(3));
        lab.resume().kill9();
        let mut held = hold();
        let mut meshd = ways.go(1, &format!("crash@{point}"), None);
        // (Looks that find nothing pass points, too: how many is another number each time.)
        if dies_within(&mut meshd, 8) {
            died += 1;
        } else {
            meshd.kill9();
        }
        let meshd = lab.resume();
        ways.settles(1, &format!("it died at {}\n{}", points[point - 1], meshd.log()));
        let mut ask = |name: &str| held.get_mut(name).unwrap().ask("still there");
        assert!(ask("kafka-3").is_err(), "a connection outlives its backend, {}", points[point - 1]);
        assert_eq!(ask("kafka-1").unwrap().backend, "kafka-1", "{}", points[point - 1]);
        meshd.kill9();
    }
    assert!(died * 2 > chosen(&points).len(), "only {died} died");
    ways.load.finish();
    report("a drain dies", died, died, points.len());
}

#[test]
fn a_cleanup_may_die_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.write(&first(&lab));
    let before = lab.state();
    let cleanup = |fault: &str, points: Option<&Path>| {
        let mut command = faulty();
        command.arg("--config").arg(lab.config_file()).arg("--cleanup").env("MESHD_FAULT", fault);
        points.map(|file| command.env("MESHD_FAULT_POINTS", file));
        lab.node.output(&mut command)
    };
    let start = || {
        lab.resume().kill9();
    };
    start();
    let file = lab.path("points");
    assert!(cleanup("", Some(&file)).status.success());
    let points = points_of(&file);
    let chosen = chosen(&points);
    for point in &chosen {
        start();
        let died = cleanup(&format!("crash@{point}"), None);
        assert_eq!(died.status.signal(), Some(Signal::SIGABRT as i32), "{point}: {}", points[point - 1]);
        let again = lab.meshd(&["--cleanup"]);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert_same(&before, &lab.state(), &format!("after it died at {}", points[point - 1]));
    }
    report("a cleanup dies", chosen.len(), chosen.len(), points.len());
}

/// What the control socket said is kept is there after any death; what it did not say is there or not, and nothing else is.
#[test]
fn what_was_acknowledged_outlives_any_death() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.write(&first(&lab));
    let (after, file) = (lab.path("after"), lab.path("points"));
    let web = |port: usize| json!({ "port": [{ "published": port, "target": 80 }], "backend": [{ "address": "10.255.0.9" }, { "address": "10.255.0.10" }] });
    // One backend of the service drained and taken away, and another port: with what leaves, too.
    let change = |meshd: &mut Meshd, port: usize| {
        fs::write(&after, "").unwrap();
        let answer = lab.api().request("PUT", "/v1/services/web?wait=60", Some(&web(port)));
        let acknowledged = matches!(answer, Ok((200, _)));
        let _ = fs::remove_file(&after);
        let died = meshd.ended().is_some() || !acknowledged && dies(meshd);
        (acknowledged, died)
    };
    let mut meshd = lab.spawn_faulty("", Some(&after), Some(&file));
    meshd.wait_until_ready();
    assert_eq!(change(&mut meshd, 300), (true, false));
    let points = points_of(&file);
    meshd.kill9();
    let (mut before, mut died) = (300, 0);
    for (turn, point) in chosen(&points).into_iter().enumerate() {
        let (port, what) = (301 + turn, &points[point - 1]);
        let mut meshd = lab.spawn_faulty(&format!("crash@{point}"), Some(&after), None);
        meshd.wait_until_ready();
        let (acknowledged, ended) = change(&mut meshd, port);
        died += usize::from(ended);
        drop(meshd);
        let mut meshd = lab.spawn();
        meshd.wait_until_ready();
        let kept = lab.api().get("/v1/services/web")["service"]["port"][0]["published"].as_u64().unwrap() as usize;
        let fits = if acknowledged { kept == port } else { kept == port || kept == before };
        assert!(fits, "{kept} after {port} was {acknowledged} at {what}");
        assert_eq!(lab.dry_run(), "", "after it died at {what}");
        lab.client.ask(Tcp, ADDRESSES[0]);
        meshd.kill9();
        before = kept;
    }
    assert!(died > 0);
    report("a change by the socket dies", died, died, points.len());
}
