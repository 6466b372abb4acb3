//! What this host is short of is no backend's fault.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshd::health::probe::Failure;
use meshd::health::runner::{self, Asked, News};
use meshd::health::state::Standing;
use meshd::health::{Key, Target};
use meshd::mesh::{Check, Mark, OnDown, Probe, Protocol, UdpProbe};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time;

use crate::{TIME, exec, http, try_probe};

/// Sets how many descriptors this process may have: of it alone, so these tests rely on nextest, which gives each a process.
struct Descriptors {
    shell: Child,
    says: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Descriptors {
    fn new() -> Descriptors {
        let mut shell = Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (says, hears) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        Descriptors { shell, says, hears }
    }

    fn limit(&mut self, most: u32) {
        writeln!(self.says, "prlimit --pid {} --nofile={most}: && echo done", std::process::id()).unwrap();
        let mut line = String::new();
        self.hears.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn nowhere() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

#[test]
fn without_descriptors_nobody_is_asked() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut descriptors = Descriptors::new();
    let udp = Probe::Udp(UdpProbe { send: b"ping".to_vec(), expect: None });
    let all = [Probe::Tcp, http::plain(), udp, exec::shell("exit 1")];
    runtime.block_on(async {
        descriptors.limit(0);
        let mut answers = Vec::new();
        for what in &all {
            answers.push(try_probe(what, nowhere(), TIME).await);
        }
        descriptors.limit(1024);
        for (what, answer) in all.iter().zip(answers) {
            let Err(Failure::Unasked(reason)) = &answer else { panic!("{what:?}: {answer:?}") };
            assert!(reason.ends_with("too many open files"), "{what:?}: {reason}");
            let answer = try_probe(what, nowhere(), TIME).await;
            assert!(matches!(answer, Err(Failure::Unwell(_))), "{what:?}: {answer:?}");
        }
    });
}

/// One backend, asked every tenth of a second, and what is told of it.
fn asked(
    probe: Probe,
    to: SocketAddr,
    standing: Standing,
) -> (impl Future<Output = ()>, mpsc::UnboundedReceiver<News>) {
    let second = Duration::from_secs(1);
    let check = Check {
        probe,
        port: None,
        interval: second / 10,
        timeout: second,
        rise: 1,
        fall: 1,
        start_up: false,
        on_down: OnDown::Reset,
    };
    let key: Key = (Mark::new(Protocol::Tcp, 80), to.ip());
    let asked = Asked { target: Target { check: Arc::new(check), to }, incarnation: 1, standing };
    let (wanted, targets) = watch::channel(Arc::new(BTreeMap::from([(key, asked)])));
    let (tell, news) = mpsc::unbounded_channel();
    let run = async move {
        runner::run(targets, tell).await;
        drop(wanted);
    };
    (run, news)
}

/// What is told of it in that time.
async fn told(news: &mut mpsc::UnboundedReceiver<News>, within: Duration) -> Option<(Standing, Standing)> {
    let news = time::timeout(within, news.recv()).await.ok()?.expect("it works still");
    Some((news.change.from, news.change.to))
}

/// In a thread of one runtime, as in the sandbox.
fn beside<T>(run: impl Future<Output = ()>, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            () = run => panic!("it ended"),
            result = test => result,
        }
    })
}

#[test]
fn a_shortage_changes_no_standing() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    for probe in [Probe::Tcp, exec::shell("exit 0")] {
        let (run, mut news) = asked(probe, server.local_addr().unwrap(), Standing::Starting);
        let mut descriptors = Descriptors::new();
        beside(run, async {
            descriptors.limit(0);
            assert_eq!(told(&mut news, Duration::from_secs(1)).await, None);
            descriptors.limit(1024);
            assert_eq!(told(&mut news, TIME).await, Some((Standing::Starting, Standing::Up)));
        });
    }
}

#[test]
fn what_is_known_of_a_backend_is_no_news() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (known, news_of_it) in [
        (Standing::Starting, Some((Standing::Starting, Standing::Down))),
        (Standing::Down, None),
        (Standing::Up, Some((Standing::Up, Standing::Down))),
    ] {
        let (run, mut news) = asked(Probe::Tcp, closed, known);
        let within = if news_of_it.is_some() { TIME } else { Duration::from_secs(1) };
        beside(run, async { assert_eq!(told(&mut news, within).await, news_of_it) });
    }
}
