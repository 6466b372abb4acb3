//! What the control plane costs: `make bench` (bench/README.md says how to read it). CPU time, the kernel's part for whoever asked
//! it included, of a cgroup's `cpu.stat`; beside it what ipvsadm and nft take for the same state, and Docker's way.
//!
//! MESHD_DATAPLANE=nftables: the same where that balances.
//!
//! One JSON object a line is printed. To run where the clock counts instructions: elapsed time means nothing there.

#[path = "../../tests/kernel"]
mod kernel {
    #[allow(dead_code, unused_imports)]
    pub mod lab;
}
mod cgroup;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use cgroup::Cgroup;
use kernel::lab::{self, Lab, Meshd, Place, value_of};

const BACKENDS: usize = 10;
/// Ports are published from here on.
const FIRST: usize = 20000;
/// How often what is small is done again.
const TIMES: usize = 5;

fn main() {
    let asked_for = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect::<Vec<usize>>();
    let ours = Cgroup::new("meshd");
    if std::env::var_os("MESHD_BENCH_AGAIN").is_none() {
        return again(&ours);
    }
    let sizes = if asked_for.is_empty() { vec![1000, 10_000] } else { asked_for };
    for ports in sizes {
        measure(ports, &ours);
    }
}

fn tell(ports: usize, what: &str, unit: &str, value: f64) {
    println!("{}", json!({ "ports": ports, "backends": BACKENDS, "what": what, "unit": unit, "value": value }));
}

fn measure(ports: usize, ours: &Cgroup) {
    let Some(lab) = Lab::new() else { std::process::exit(1) };
    lab.write(&services(lab.config().without_ipv6(), ports));
    let tell = |what: &str, unit: &str, value: f64| tell(ports, what, unit, value);

    let start = || {
        let mut meshd = lab.spawn();
        meshd.wait_until_ready();
        meshd
    };
    let (seconds, meshd) = ours.during(start);
    tell("start, until all is programmed", "s", seconds);
    let state = (!lab::by_nftables()).then(|| dump(&lab));
    match &state {
        Some(state) => assert_eq!(state.services.lines().count(), ports * (1 + BACKENDS)),
        None => assert_eq!(lab.sandbox().weights().len(), ports * BACKENDS),
    }

    let pid = meshd.pid();
    small(&lab, ours, &tell);
    looks(&lab, ports, ours, &tell);
    tell("memory, steady", "MiB", memory(pid, "VmRSS:"));
    tell("memory, at most", "MiB", memory(pid, "VmHWM:"));
    meshd.kill9();
    let (seconds, meshd) = ours.during(start);
    tell("start that finds all there", "s", seconds);
    stop(meshd, &lab);

    // nft cannot read what it lists of such maps, so there is nothing to compare with; and Docker's way is no other.
    if let Some(state) = state {
        by_hand(&lab, &state, &tell);
        docker(&lab, &tell);
    }
}

/// Runs this program with another directory of programs: its meshd enters the cgroup first. (The lab has it write down every step,
/// which nobody does who has so many ports.)
fn again(cgroup: &Cgroup) {
    let real = lab::program().parent().expect("a directory").to_owned();
    let directory = std::env::temp_dir().join("meshd-bench-programs");
    fs::create_dir_all(&directory).expect("a directory");
    let script = format!(
        "#!/bin/sh\necho $$ >{}/cgroup.procs\nRUST_LOG=warn exec {}/meshd \"$@\"\n",
        cgroup.path().display(),
        real.display()
    );
    fs::write(directory.join("meshd"), script).expect("a script");
    fs::set_permissions(directory.join("meshd"), fs::Permissions::from_mode(0o755)).expect("it can be run");
    // It may be there from the last time.
    let _ = std::os::unix::fs::symlink(real.join("meshctl"), directory.join("meshctl"));
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(std::env::args().skip(1)).env("MESHD_BIN_DIR", &directory).env("MESHD_BENCH_AGAIN", "1");
    let status = command.status().expect("it starts");
    fs::remove_dir_all(&directory).expect("it goes");
    std::process::exit(status.code().unwrap_or(1));
}

/// So many services with a port each, and the same backends on the overlay.
fn services(config: lab::Config, ports: usize) -> lab::Config {
    let backends: Vec<String> =
        (0..BACKENDS).map(|number| format!("{{ address = '10.255.1.{}' }}", number + 1)).collect();
    let backends = backends.join(", ");
    (FIRST..FIRST + ports).fold(config, |config, port| {
        config.service(&format!(
            "name = 'service-{port}'\nport = [{{ published = {port}, target = 9092 }}]\nbackend = [{backends}]"
        ))
    })
}

/// One thing changes among many.
fn small(lab: &Lab, ours: &Cgroup, tell: &dyn Fn(&str, &str, f64)) {
    let one = |what: &str, lines: &dyn Fn(usize) -> String| {
        let mut times: Vec<f64> = (0..TIMES).map(|time| ours.during(|| lab.meshctl(&lines(time))).0).collect();
        times.sort_by(f64::total_cmp);
        tell(what, "ms", times[TIMES / 2] * 1000.0);
    };
    let address = |number: usize| format!("10.255.2.{}", number + 1);
    one("a service is added", &|time| format!("service add new-{time} -p {}:9092 -b {}", 10_000 + time, address(time)));
    one("a port is added", &|time| format!("service set new-0 --publish-add {}:9092", 11_000 + time));
    one("a backend is added", &|time| format!("backend add new-0 {}", address(10 + time)));
    one("a weight is changed", &|time| format!("backend set new-0 {} --weight {}", address(0), 2 + time));
    one("a service is removed", &|time| format!("service rm new-{time}"));
}

/// Looks at the kernel that find nothing to do, and who asks meanwhile.
fn looks(lab: &Lab, ports: usize, ours: &Cgroup, tell: &dyn Fn(&str, &str, f64)) {
    let clean = || value_of(&lab.metrics(), "meshd_reconciles_total{result=\"clean\"}");
    let before = clean();
    // Word of a change is followed by a look at once, or four times as long as the last took after that; the one after that is 5 s off,
    // or 50 times as long. So one falls into each of these times, now and then one more, and of four in a row one is close.
    // (With nftables every look is close, and takes as much longer.)
    let each = if lab::by_nftables() { 2000 } else { 560 };
    let time = Duration::from_micros(4_200_000 + each * ports as u64);
    let look = |what: &str| {
        let told = || {
            lab.node.run(&format!("nft {what} table ip touched"));
            thread::sleep(time);
        };
        ours.during(told).0
    };
    let mut looks = ["add", "delete", "add", "delete"].map(look);
    let found_nothing = (clean() - before) as usize;
    assert!((looks.len()..=looks.len() + 2).contains(&found_nothing), "{found_nothing} looks that found nothing");
    looks.sort_by(f64::total_cmp);
    tell("a look that finds nothing: three of four", "s", looks[1]);
    tell("a look that finds nothing: the fourth", "s", looks[3]);
    let (mut longest, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(40));
    let (mut all, mut count) = (Duration::ZERO, 0);
    let request = format!("/v1/services/service-{FIRST}");
    while Instant::now() < until {
        let began = Instant::now();
        lab.api().get(&request);
        let took = began.elapsed();
        (all, count, longest) = (all + took, count + 1, longest.max(took));
        thread::sleep(Duration::from_millis(5));
    }
    tell("a control request, mean", "ms", all.as_secs_f64() * 1000.0 / f64::from(count.max(1)));
    tell("a control request, longest", "ms", longest.as_secs_f64() * 1000.0);
}

/// MiB.
fn memory(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value =
        status.lines().find_map(|text| text.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    value.expect("a number") / 1024.0
}

/// It and all that it made.
fn stop(meshd: Meshd, lab: &Lab) {
    meshd.stop();
    let cleanup = lab.meshd(&["--cleanup"]);
    assert!(cleanup.status.success());
}

/// What the kernel holds, in the words of those who would put it there.
struct State {
    services: String,
    host: String,
    sandbox: String,
}

fn dump(lab: &Lab) -> State {
    let table = "nft list table inet meshd";
    let host = without_flows(&lab.node.run(table));
    State { services: lab.sandbox().ipvs(), host, sandbox: lab.sandbox().run(table) }
}

/// nft cannot read what it lists of the flow table's links and of the rule that fills it.
fn without_flows(listed: &str) -> String {
    let mut in_flows = false;
    let is_other = |line: &&str| {
        let was_in = in_flows;
        in_flows = line.trim_start().starts_with("flowtable ") || was_in && line.trim() != "}";
        !was_in && !in_flows && !line.contains("flow add @")
    };
    listed.lines().filter(is_other).map(|line| format!("{line}\n")).collect()
}

/// The same state by ipvsadm and nft, in two namespaces of their own.
fn by_hand(lab: &Lab, state: &State, tell: &dyn Fn(&str, &str, f64)) {
    let [host, sandbox] = ["host", "sandbox"].map(|name| Place::new(format!("{}-{name}", lab.node.name)));
    lab::batch(None, &format!("netns add {}\nnetns add {}\n", host.name, sandbox.name));
    // ip_vs refuses a destination that it cannot route.
    lab::batch(
        Some(&sandbox),
        "link add eth0 type dummy\naddr add 10.255.0.3/16 dev eth0\nlink set eth0 up\nlink set lo up\n",
    );
    let theirs = Cgroup::new("by-hand");
    let feed = |place: &Place, line: &str, text: &str| {
        let file = lab.file("dump", 0);
        fs::write(&file, text).expect("a file");
        theirs.during(|| run(place, &theirs, &format!("{line} <{}", file.display()))).0
    };
    let services = feed(&sandbox, "ipvsadm -R", &state.services);
    tell("ipvsadm -R of the same", "s", services);
    let rules = feed(&host, "nft -f -", &state.host) + feed(&sandbox, "nft -f -", &state.sandbox);
    tell("nft -f of the same", "s", rules);
    let element = "add element inet meshd published4 { tcp . 10000 : 169.254.77.2 }";
    tell("nft adds one port", "ms", feed(&host, "nft -f -", element) * 1000.0);
    lab::batch(None, &format!("netns del {}\nnetns del {}\n", host.name, sandbox.name));
}

/// dockerd's way to publish a port: four runs of iptables one after the other, among those that are there.
fn docker(lab: &Lab, tell: &dyn Fn(&str, &str, f64)) {
    const PORTS: usize = 20;
    let host = Place::new(format!("{}-docker", lab.node.name));
    lab::batch(None, &format!("netns add {}\n", host.name));
    let theirs = Cgroup::new("docker");
    run(&host, &theirs, "iptables -t nat -N DOCKER-INGRESS; iptables -N DOCKER-INGRESS");
    let mut lines = String::from("set -e; ");
    for port in FIRST..FIRST + PORTS {
        let _ = write!(
            lines,
            "iptables -t nat -I DOCKER-INGRESS -p tcp --dport {port} -j DNAT --to-destination 172.18.0.2:{port}; \
             iptables -I DOCKER-INGRESS -m state -p tcp --sport {port} --state ESTABLISHED,RELATED -j ACCEPT; \
             iptables -I DOCKER-INGRESS -p tcp --dport {port} -j ACCEPT; \
             iptables -t mangle -A PREROUTING -p tcp --dport {port} -j MARK --set-mark 256; "
        );
    }
    let (seconds, ()) = theirs.during(|| run(&host, &theirs, &lines));
    tell("Docker's four runs of iptables, of a port", "ms", seconds / PORTS as f64 * 1000.0);
    lab::batch(None, &format!("netns del {}\n", host.name));
}

/// A line of shell in that place and that cgroup.
fn run(place: &Place, cgroup: &Cgroup, line: &str) {
    let line = format!("echo $$ >{}/cgroup.procs; {line}", cgroup.path().display());
    let mut command = Command::new("sh");
    command.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = place.within(|| command.status()).expect("sh(1) runs");
    assert!(status.success(), "{}: {status}", &line[..line.len().min(200)]);
}
