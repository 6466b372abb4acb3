//! Clients: blocking, a thread each, with no more HTTP than they need.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Place;

/// Where the backends listen.
pub const TARGET: u16 = 9092;
const PATIENCE: Duration = Duration::from_secs(20);
const BUFFER: usize = 1 << 16;
/// Who asks, side by side.
const CLIENTS: usize = 4;

fn request(path: &str, close: bool) -> String {
    let connection = if close { "close" } else { "keep-alive" };
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n")
}

/// What clients met.
#[derive(Debug)]
pub struct Sample {
    /// Per second: connections, requests or MiB.
    pub rate: f64,
    /// Of each, in order of size.
    pub times: Vec<Duration>,
}

impl Sample {
    /// Microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let at = (self.times.len() * percent / 100).min(self.times.len() - 1);
        self.times[at].as_secs_f64() * 1e6
    }
}

/// The kinds of traffic.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Each request on a connection of its own.
    Fresh,
    /// Requests on connections that stay open.
    Kept,
    /// Bodies of 1 MiB on connections that stay open.
    Bulk,
}

/// Asks for so long. Several clients side by side give rates; one alone gives times.
pub fn ask(from: &Place, kind: Kind, targets: &[SocketAddr], alone: bool, time: Duration) -> Sample {
    let clients = if alone { 1 } else { CLIENTS };
    from.within(|| {
        let began = Instant::now();
        let until = began + time;
        let mut times: Vec<Duration> = thread::scope(|scope| {
            let clients: Vec<_> =
                (0..clients).map(|number| scope.spawn(move || client(kind, targets, number, until))).collect();
            clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
        });
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        times.sort_unstable();
        Sample { rate, times }
    })
}

fn client(kind: Kind, targets: &[SocketAddr], number: usize, until: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut buffer = vec![0; BUFFER];
    match kind {
        Kind::Fresh => {
            for target in targets.iter().cycle().skip(number) {
                let began = Instant::now();
                if began >= until {
                    break;
                }
                fresh(*target, &mut buffer).unwrap_or_else(|error| panic!("{target}: {error}"));
                times.push(began.elapsed());
            }
        }
        Kind::Kept | Kind::Bulk => {
            let target = targets[number % targets.len()];
            let request = request(if matches!(kind, Kind::Bulk) { "/1m" } else { "/" }, false);
            let mut stream = connect(target).unwrap_or_else(|error| panic!("{target}: {error}"));
            // A server's answers are all equally long.
            let mut expected = usize::MAX;
            while Instant::now() < until {
                let began = Instant::now();
                stream.write_all(request.as_bytes()).expect("a connection that takes requests");
                let mut received = 0;
                while received < expected {
                    let length = stream.read(&mut buffer[received % BUFFER..]).expect("a connection that answers");
                    assert_ne!(length, 0, "{target} closed");
                    received += length;
                    if expected == usize::MAX {
                        expected = length_of(&buffer[..received]).unwrap_or(expected);
                    }
                }
                times.push(began.elapsed());
            }
        }
    }
    times
}

/// Of an answer whose head is there, with its body.
fn length_of(answer: &[u8]) -> Option<usize> {
    let head =
        String::from_utf8_lossy(&answer[..answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4]).into_owned();
    let body = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok())?;
    Some(head.len() + body)
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection of its own; the answer's length.
fn fresh(target: SocketAddr, buffer: &mut [u8]) -> io::Result<usize> {
    let mut stream = connect(target)?;
    stream.write_all(request("/", true).as_bytes())?;
    let mut received = 0;
    loop {
        match stream.read(&mut buffer[received..])? {
            0 if received == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(received),
            length => received += length,
        }
    }
}

/// Proof that a variant works: who answers, and whom those see.
pub fn proof(from: &Place, targets: &[SocketAddr], times: usize) -> io::Result<(BTreeSet<String>, BTreeSet<IpAddr>)> {
    from.within(|| {
        let (mut names, mut peers) = (BTreeSet::new(), BTreeSet::new());
        let mut buffer = [0; 1024];
        for target in targets.iter().cycle().take(times) {
            let length = fresh(*target, &mut buffer)?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            let mut words = body.split_whitespace();
            let (Some(name), Some(Ok(peer))) = (words.next(), words.next().map(str::parse)) else {
                return Err(io::Error::other(format!("an answer that is none: {answer}")));
            };
            names.insert(name.to_owned());
            peers.insert(peer);
        }
        Ok((names, peers))
    })
}
