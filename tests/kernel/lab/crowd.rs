//! A crowd: clients that come and go as fast as they are served, and others that stay for a while.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Lab, eventually};

/// A client of flesh and blood would have left.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions of one who stays, and the time between them.
const STAYS_FOR: usize = 40;
const BREATH: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub struct Crowd {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Lab {
    /// So many clients that ask once on a connection, and so many that stay on theirs, until it is finished.
    pub fn crowd(&self, to: &str, fresh: usize, staying: usize) -> Crowd {
        // A port of the client's is soon used again.
        self.client.run("sysctl -q net.ipv4.tcp_tw_reuse=1");
        let to: SocketAddr = to.parse().expect("an address and a port");
        let crowd =
            Crowd { over: Arc::default(), answered: Arc::default(), failures: Arc::default(), clients: Vec::new() };
        let client = |number: usize| {
            let (place, over) = (self.client.clone(), crowd.over.clone());
            let (answered, failures) = (crowd.answered.clone(), crowd.failures.clone());
            let stays = number >= fresh;
            thread::spawn(move || {
                place.within(|| {
                    while !over.load(Ordering::Relaxed) {
                        if let Err(error) = visit(to, if stays { STAYS_FOR } else { 1 }, &answered) {
                            let who = if stays { "one who stayed" } else { "one who came" };
                            failures.lock().expect("no client panics").push(format!("{who}: {error}"));
                            thread::sleep(BREATH);
                        }
                    }
                });
            })
        };
        let clients = (0..fresh + staying).map(client).collect();
        Crowd { clients, ..crowd }
    }
}

fn visit(to: SocketAddr, questions: usize, answered: &AtomicUsize) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    for question in 0..questions {
        if question > 0 {
            thread::sleep(BREATH);
        }
        stream.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

impl Crowd {
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> usize {
        self.failures.lock().expect("no client panics").len()
    }

    /// Whether nobody fails until so many more are answered.
    pub fn goes_well_for(&self, questions: usize) -> bool {
        let (failed, enough) = (self.failed(), self.answered() + questions);
        eventually("they are answered", || self.answered() >= enough);
        self.failed() == failed
    }

    /// So many more are answered, and nobody fails.
    pub fn all_goes_well_for(&self, questions: usize) {
        let (failed, enough) = (self.failed(), self.answered() + questions);
        eventually("they are answered", || self.answered() >= enough);
        let failures = self.failures.lock().expect("no client panics");
        assert!(failures.len() == failed, "{:?}", &failures[failed..]);
    }

    /// Sends all away; the failures, and how many were answered.
    pub fn finish(self) -> (Vec<String>, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
        let failures = std::mem::take(&mut *self.failures.lock().expect("no client panics"));
        (failures, self.answered.load(Ordering::Relaxed))
    }
}
