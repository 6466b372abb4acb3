//! One question to one backend.
//!
//! A question's socket is made by the task that asks, in its own thread: so it is in the network namespace that the
//! thread has entered. Nothing outlives the future, whether it ended or was dropped.

mod dns;
mod exec;
mod http;
mod tcp;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time;

use crate::kernel::process::{UserIds, is_shortage};
use crate::mesh::Probe;

/// What a backend says of itself is told in so many characters.
const LONGEST_LINE: usize = 200;

/// Why a question was not answered well, in a few words for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The backend cannot serve, or did not say in time that it can.
    #[error("{0}")]
    Unwell(String),
    /// It was not asked: this host has not what that takes. Of the backend that says nothing.
    #[error("{0}")]
    Unasked(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Unwell(reason)
    }
}

/// What is known from one question to the next of the same backend.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Whom its program runs as: to look that up may take a question to a directory elsewhere.
    user: Option<UserIds>,
}

/// Asks `to` once.
///
/// # Errors
/// It cannot serve, or did not say in time that it can, or could not be asked.
pub async fn probe(probe: &Probe, to: SocketAddr, timeout: Duration, memory: &mut Memory) -> Result<(), Failure> {
    let answer = async {
        match probe {
            Probe::Tcp => tcp::probe(to).await,
            Probe::Http(probe) => http::probe(probe, to).await,
            Probe::Udp(probe) => udp::probe(probe, to, timeout).await,
            Probe::Dns(probe) => dns::probe(probe, to).await,
            Probe::Exec(probe) => exec::probe(probe, to, memory).await,
        }
    };
    time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(format!("no answer in {timeout:?}").into()))
}

/// The system's words, as they stand within a sentence: "connection refused".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Of what was done to ask it.
fn failure(error: &io::Error) -> Failure {
    if is_shortage(error) { Failure::Unasked(reason(error)) } else { Failure::Unwell(reason(error)) }
}

/// Without one nobody is asked, whatever the reason is.
fn no_socket(error: io::Error) -> Failure {
    Failure::Unasked(format!("no socket: {}", reason(&error)))
}

/// Whether a socket without a port of its own was given the one that it asks, of the same address: then it hears itself,
/// and nobody else is there.
fn asks_itself(own: io::Result<SocketAddr>, to: SocketAddr) -> bool {
    own.is_ok_and(|own| own.ip() == to.ip() && own.port() == to.port())
}

/// The first line that says something, fit for a log.
fn line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).replace(|letter: char| letter.is_control() && letter != '\n', " ");
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut letters = line.chars();
    let mut out: String = letters.by_ref().take(LONGEST_LINE).collect();
    if letters.next().is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_lower_case_and_without_their_number() {
        assert_eq!(reason(&io::Error::from_raw_os_error(111)), "connection refused");
        assert_eq!(reason(&io::Error::from_raw_os_error(113)), "no route to host");
        assert_eq!(reason(&io::Error::other("")), "");
    }

    #[test]
    fn a_line_is_fit_for_a_log() {
        assert_eq!(line(b"\n \t\r\n  disk full \nmore"), "disk full");
        assert_eq!(line(b"\x1b[31mred\x07\0\xff"), "[31mred  \u{fffd}");
        assert_eq!(line(b""), "");
        assert_eq!(line(b"\0\0\x7f\n\x1bgone"), "gone");
        assert_eq!(line(&[b'a'; 300]), format!("{}…", "a".repeat(LONGEST_LINE)));
        assert_eq!(line("ä".repeat(LONGEST_LINE).as_bytes()), "ä".repeat(LONGEST_LINE));
    }
}
