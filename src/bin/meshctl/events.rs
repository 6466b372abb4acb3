//! Server-Sent Events: what of the HTML standard's stream a client of one daemon needs.

use std::fmt::Display;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};

use super::failure::Failure;

/// The data of each event, as it comes.
pub struct Stream<B> {
    body: B,
    parser: Parser,
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Stream<B> {
    pub fn new(body: B) -> Stream<B> {
        Stream { body, parser: Parser::default() }
    }

    /// `None`: the daemon has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, Failure> {
        let Some(frame) = self.body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|error| Failure::unavailable(format!("the stream broke off: {error}")))?;
        let events = frame.data_ref().map(|bytes| self.parser.feed(bytes)).transpose();
        Ok(Some(events.map_err(Failure::unavailable)?.unwrap_or_default()))
    }
}

/// No event is longer.
const LONGEST: usize = 16 << 20;

/// Bytes come in pieces of any size.
#[derive(Default)]
struct Parser {
    /// The beginning of a line.
    line: Vec<u8>,
    /// Of the event that is not yet whole.
    data: Option<String>,
}

impl Parser {
    /// The data of the events that this piece completes.
    fn feed(&mut self, piece: &[u8]) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.data.as_ref().map_or(0, String::len) > LONGEST {
                    return Err("an event is too long".to_owned());
                }
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                events.extend(self.data.take());
            } else if let Some(more) = line.strip_prefix("data:") {
                let more = more.strip_prefix(' ').unwrap_or(more);
                self.data = Some(self.data.take().map_or_else(|| more.to_owned(), |data| format!("{data}\n{more}")));
            }
            // Other fields say nothing that the data does not; a comment keeps the connection alive.
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, Parser};

    /// The same in pieces of every size.
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let events: Vec<String> =
                text.as_bytes().chunks(size).flat_map(|piece| parser.feed(piece).expect("short")).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn events_are_whole_however_they_come() {
        check("data: {\"a\":1}\n\ndata:{\"b\":\"ü\"}\n\n", &["{\"a\":1}", "{\"b\":\"ü\"}"]);
        check("data: one\r\n\r\n", &["one"]);
        check(": keep-alive\n\nevent: reload\nid: 7\ndata: one\ndata: two\nretry: 9\n\n", &["one\ntwo"]);
        check("data: unfinished\n", &[]);
        check("data\n\nnonsense\n\n", &[]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; LONGEST]).is_ok());
        assert!(parser.feed(b"x").is_err());
    }
}
