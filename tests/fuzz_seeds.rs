//! What libFuzzer is fed (scripts/fuzz), fed here for a moment: every seed, and what becomes of it when it is torn,
//! bent, and mixed with others. So a build breaks on what once made a parser panic, with no fuzzer at hand.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../fuzz/inputs/config.rs"]
mod config;
#[path = "../fuzz/inputs/replies.rs"]
mod replies;
#[path = "../fuzz/inputs/request.rs"]
mod request;
#[path = "../fuzz/inputs/state_file.rs"]
mod state_file;

/// Mutations of all seeds of a target together.
const MUTATIONS: u64 = 4000;
/// A machine that is slow has done enough by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that mean something to one reader or another: lengths, nothing, all, a sign, the ends of words.
const TELLING: [u8; 12] = [0, 1, 4, 0x7f, 0x80, 0xff, b'"', b'[', b'=', b'\n', b'-', b'9'];

/// Numbers that look random and are the same every time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        // Zeros would stay zeros.
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// Two places in that many bytes, in order.
    fn span(&mut self, length: usize) -> (usize, usize) {
        let (one, other) = (self.below(length + 1), self.below(length + 1));
        (one.min(other), one.max(other))
    }
}

/// Up to four changes to a seed; `others` are what it is spliced with.
fn mutated(seed: &[u8], others: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let place = numbers.below(input.len());
        match numbers.below(6) {
            0 => input.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << numbers.below(8)),
            1 => input.iter_mut().skip(place).take(1).for_each(|byte| *byte = TELLING[numbers.below(TELLING.len())]),
            2 => input.truncate(place),
            3 => {
                let (start, end) = numbers.span(input.len());
                input.drain(start..end);
            }
            4 => {
                let (start, end) = numbers.span(input.len());
                let again = input[start..end.min(start + 256)].to_vec();
                input.splice(place..place, again);
            }
            _ => {
                let other = &others[numbers.below(others.len())];
                let (start, end) = numbers.span(other.len());
                input.splice(place..place, other[start..end.min(start + 256)].iter().copied());
            }
        }
    }
    input
}

/// Tells the input that made `feed` panic, so that it can become a seed.
fn feed_one(feed: fn(&[u8]), from: &str, input: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| feed(input)) {
        eprintln!("made of {from}: \"{}\"", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn check(target: &str, feed: fn(&[u8])) {
    let directory = Path::new("fuzz/seeds").join(target);
    let mut names: Vec<_> =
        fs::read_dir(&directory).expect("there are seeds").map(|entry| entry.expect("a seed").path()).collect();
    names.sort();
    let seeds: Vec<Vec<u8>> = names.iter().map(|name| fs::read(name).expect("a seed is a file")).collect();
    assert!(!seeds.is_empty());
    for (name, seed) in names.iter().zip(&seeds) {
        feed_one(feed, &name.display().to_string(), seed);
    }
    let began = Instant::now();
    for turn in (0..MUTATIONS).take_while(|_| began.elapsed() < PATIENCE) {
        let mut numbers = Numbers::new(turn + 1);
        let place = turn as usize % seeds.len();
        let input = mutated(&seeds[place], &seeds, &mut numbers);
        feed_one(feed, &names[place].display().to_string(), &input);
    }
}

#[test]
fn configurations() {
    check("config", config::feed);
}

#[test]
fn requests() {
    check("request", request::feed);
}

#[test]
fn state_files() {
    check("state_file", state_file::feed);
}

#[test]
fn replies() {
    check("replies", replies::feed);
}
