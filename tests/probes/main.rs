//! Probes, each against servers of every kind on loopback.

mod dns;
mod exec;
mod http;
mod https;
mod namespace;
mod servers;
mod shortage;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use meshd::health::probe::{self, Failure, Memory};
use meshd::mesh::Probe;

/// Long enough for a machine that does much else.
const TIME: Duration = Duration::from_secs(10);
/// For what never comes.
const SHORT: Duration = Duration::from_millis(400);

/// As the daemon asks a backend for the first time.
async fn try_probe(what: &Probe, to: SocketAddr, timeout: Duration) -> Result<(), Failure> {
    probe::probe(what, to, timeout, &mut Memory::default()).await
}

async fn probe(what: &Probe, to: SocketAddr, timeout: Duration) -> Result<(), String> {
    try_probe(what, to, timeout).await.map_err(|failure| failure.to_string())
}

/// Asks as the daemon does: in a thread of one runtime.
fn ask_for(timeout: Duration, what: &Probe, to: SocketAddr) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(probe(what, to, timeout))
}

fn ask(what: &Probe, to: SocketAddr) -> Result<(), String> {
    ask_for(TIME, what, to)
}

fn failed(why: &str) -> Result<(), String> {
    Err(why.to_owned())
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs root");
    }
    root
}
