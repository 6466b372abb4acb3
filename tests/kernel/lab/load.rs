//! Load: clients that keep asking while something else happens.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::stream::Answer;
use super::{Lab, Protocol, eventually};

/// Between two questions of a client: the machine has other things to do, too.
const BREATH: Duration = Duration::from_millis(20);

/// Clients outside, each asking one question after the other, each on a connection of its own.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<io::Result<Answer>>>>,
}

impl Lab {
    /// One client for each of these addresses asks it by TCP until the load is finished.
    pub fn load(&self, targets: &[&str]) -> Load {
        let (over, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |target: &&str| {
            let (place, target, over, asked) = (self.client.clone(), (*target).to_owned(), over.clone(), asked.clone());
            thread::spawn(move || {
                let mut answers = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    answers.push(place.try_ask(Protocol::Tcp, &target));
                    asked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(BREATH);
                }
                answers
            })
        };
        Load { clients: targets.iter().map(client).collect(), over, asked }
    }
}

impl Load {
    /// Waits until so many more questions came to an end.
    pub fn goes_on_for(&self, questions: usize) {
        let asked = || self.asked.load(Ordering::Relaxed);
        let enough = asked() + questions;
        eventually("the load goes on", || asked() >= enough);
    }

    /// Stops asking. Every question must have been answered.
    pub fn finish(mut self) -> Vec<Answer> {
        self.over.store(true, Ordering::Relaxed);
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for client in self.clients.drain(..) {
            for (number, outcome) in client.join().expect("a client does not panic").into_iter().enumerate() {
                match outcome {
                    Ok(answer) => answers.push(answer),
                    Err(error) => failures.push(format!("question {number}: {error}")),
                }
            }
        }
        assert!(failures.is_empty(), "{} of {} failed: {failures:#?}", failures.len(), answers.len() + failures.len());
        answers
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
