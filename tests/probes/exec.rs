use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use meshd::mesh::{ExecProbe, Probe};

use crate::{SHORT, TIME, ask, ask_for, failed, is_root, probe};

fn exec(command: &[&str], user: &str) -> Probe {
    Probe::Exec(ExecProbe { command: command.iter().map(|word| (*word).to_owned()).collect(), user: user.to_owned() })
}

/// As whoever runs the tests.
pub fn shell(script: &str) -> Probe {
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    exec(&["/bin/sh", "-c", script], &own.name)
}

fn to() -> SocketAddr {
    "10.0.0.1:8080".parse().unwrap()
}

/// Whether a process is there and not a zombie.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn exists(pid: &str) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

#[track_caller]
fn eventually(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < TIME, "it did not come to be so");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where a program leaves the numbers of its processes.
struct Numbers(PathBuf);

impl Numbers {
    fn new(name: &str) -> Numbers {
        Numbers(std::env::temp_dir().join(format!("meshd-probes-{name}-{}", std::process::id())))
    }

    fn wait(&self, count: usize) -> Vec<String> {
        let read =
            || -> Vec<String> { fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect() };
        eventually(|| read().len() >= count);
        read()
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_exit_code_decides_and_the_first_line_tells_why() {
    assert_eq!(ask(&shell("exit 0"), to()), Ok(()));
    assert_eq!(ask(&shell("echo bad; echo bad >&2"), to()), Ok(()));
    assert_eq!(ask(&shell("exit 3"), to()), failed("exit code 3"));
    assert_eq!(ask(&shell("echo; echo ' disk full'; echo more; exit 1"), to()), failed("exit code 1: disk full"));
    assert_eq!(ask(&shell("echo no database >&2; exit 2"), to()), failed("exit code 2: no database"));
    assert_eq!(ask(&shell("printf '\\033[1mbold\\377'; exit 1"), to()), failed("exit code 1: [1mbold\u{fffd}"));
    assert_eq!(ask(&shell("echo so; kill -9 $$"), to()), failed("killed by signal 9: so"));
}

#[test]
fn the_environment_is_what_a_probe_needs_and_no_more() {
    let environment = "[ \"$(env | sed 's/=.*//' | grep -vx 'PWD\\|SHLVL\\|_' | sort | xargs)\" = 'MESHD_ADDRESS MESHD_PORT PATH' ] || { env | xargs; exit 1; }";
    assert_eq!(ask(&shell(environment), to()), Ok(()));
    assert_eq!(ask(&shell("echo $MESHD_ADDRESS $MESHD_PORT; exit 1"), to()), failed("exit code 1: 10.0.0.1 8080"));
    let v6 = "[fd00::1]:53".parse().unwrap();
    assert_eq!(ask(&shell("echo $MESHD_ADDRESS $MESHD_PORT; exit 1"), v6), failed("exit code 1: fd00::1 53"));
    assert_eq!(ask(&shell("pwd; exit 1"), to()), failed("exit code 1: /"));
    assert_eq!(ask(&shell("read line && exit 1; exit 0"), to()), Ok(()));
}

#[test]
fn arguments_are_not_read_by_a_shell() {
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let print = exec(&["/bin/sh", "-c", "echo \"$1\"; exit 1", "sh", "$HOME; a  b *"], &own);
    assert_eq!(ask(&print, to()), failed("exit code 1: $HOME; a  b *"));
}

#[test]
fn what_cannot_be_run_is_told() {
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let check = |command: &[&str], why: &str| assert_eq!(ask(&exec(command, &own), to()), failed(why));
    check(&["/nonexistent"], "cannot run /nonexistent: no such file or directory");
    check(&["/etc/passwd"], "cannot run /etc/passwd: permission denied");
    check(&["/"], "cannot run /: permission denied");
    check(&["/bin/true", "a\0b"], "cannot run /bin/true: nul byte found in provided data");
    check(&[], "no command");
}

#[test]
fn a_user_has_to_be_there() {
    assert_eq!(ask(&exec(&["/bin/true"], "no-such-user"), to()), failed("there is no user \"no-such-user\""));
}

#[test]
fn it_runs_as_that_user_with_its_group_alone() {
    if !is_root() {
        return;
    }
    let script = "id -u; exit 1";
    assert_eq!(ask(&exec(&["/bin/sh", "-c", script], "daemon"), to()), failed("exit code 1: 1"));
    let script = "echo $(id -u) $(id -g) $(id -G); exit 1";
    assert_eq!(ask(&exec(&["/bin/sh", "-c", script], "daemon"), to()), failed("exit code 1: 1 1 1"));
    assert_eq!(ask(&exec(&["/bin/sh", "-c", script], "root"), to()), failed("exit code 1: 0 0 0"));
    let capabilities = "grep -q 'CapEff:.0*$' /proc/self/status";
    assert_eq!(ask(&exec(&["/bin/sh", "-c", capabilities], "daemon"), to()), Ok(()));
}

#[test]
fn output_without_end_is_read_and_forgotten() {
    assert_eq!(ask(&shell("head -c 5000000 /dev/zero | tr '\\0' a; exit 0"), to()), Ok(()));
    let why = ask(&shell("head -c 5000000 /dev/zero | tr '\\0' a; exit 1"), to()).unwrap_err();
    assert_eq!(why, format!("exit code 1: {}…", "a".repeat(200)));
    assert_eq!(ask(&shell("head -c 5000000 /dev/zero >&2; exit 4"), to()), failed("exit code 4"));
    assert_eq!(ask_for(SHORT, &shell("yes"), to()), failed("no answer in 400ms"));
}

#[test]
fn a_program_that_hangs_ends_with_all_its_children() {
    let numbers = Numbers::new("hangs");
    let script = format!(
        "trap '' TERM INT; (trap '' TERM; sleep 1000 & echo $! >>{0}; wait) & echo $! >>{0}; echo $$ >>{0}; wait; sleep 1000",
        numbers.0.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_eq!(probe(&shell(&script), to(), Duration::from_secs(2)).await, failed("no answer in 2s"));
        let left = numbers.wait(3);
        eventually(|| !left.iter().any(|pid| lives(pid)));
        // The one that is ours is reaped as long as a runtime runs; others are the business of process 1.
        let began = Instant::now();
        while left.last().is_some_and(|pid| exists(pid)) {
            assert!(began.elapsed() < TIME, "a zombie");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_probe_that_is_dropped_ends_its_program() {
    let numbers = Numbers::new("dropped");
    let script = format!("sleep 1000 & echo $! >>{0}; echo $$ >>{0}; wait", numbers.0.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.spawn(async move { probe(&shell(&script), to(), TIME).await });
    // The program is started in here, and goes on outside.
    runtime.block_on(tokio::task::yield_now());
    let left = numbers.wait(2);
    assert!(left.iter().all(|pid| lives(pid)));
    drop(runtime);
    eventually(|| !left.iter().any(|pid| lives(pid)));
}

#[test]
fn what_a_program_leaves_behind_ends_with_it_and_is_not_waited_for() {
    let numbers = Numbers::new("behind");
    let script = format!("sleep 1000 & echo $! >>{}; echo bad; exit 1", numbers.0.display());
    let began = Instant::now();
    assert_eq!(ask(&shell(&script), to()), failed("exit code 1: bad"));
    let left = numbers.wait(1);
    eventually(|| !left.iter().any(|pid| lives(pid)));
    // One that left the group lives on, holds the output open, and is not waited for either.
    let numbers = Numbers::new("left");
    let script =
        format!("setsid sh -c 'echo $$ >>{}; exec sleep 1000' & sleep 0.2; echo bad; exit 1", numbers.0.display());
    assert_eq!(ask(&shell(&script), to()), failed("exit code 1: bad"));
    assert!(began.elapsed() < TIME);
    let left = numbers.wait(1);
    let pid = left.first().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}
