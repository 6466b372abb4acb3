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

use crate::mesh::Probe;

/// What a backend says of itself is told in so many characters.
const LONGEST_LINE: usize = 200;

/// Asks `to` once.
///
/// # Errors
/// It cannot serve, or did not say in time that it can: why, in a few words for operators.
pub async fn probe(probe: &Probe, to: SocketAddr, timeout: Duration) -> Result<(), String> {
    let answer = async {
        match probe {
            Probe::Tcp => tcp::probe(to).await,
            Probe::Http(probe) => http::probe(probe, to).await,
            Probe::Udp(probe) => udp::probe(probe, to, timeout).await,
            Probe::Dns(probe) => dns::probe(probe, to).await,
            Probe::Exec(probe) => exec::probe(probe, to).await,
        }
    };
    time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(format!("no answer in {timeout:?}")))
}

/// The system's words, as they stand within a sentence: "connection refused".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

const NO_SOCKET: &str = "no socket";

/// That it was this host's fault.
fn no_socket(error: io::Error) -> String {
    format!("{NO_SOCKET}: {}", reason(&error))
}

/// Whether the backend was not even asked: for that this host has not what it takes.
pub fn is_local(reason: &str) -> bool {
    reason.starts_with(NO_SOCKET)
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
