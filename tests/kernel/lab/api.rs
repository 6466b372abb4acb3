//! The control socket, as a program uses it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Lab;

/// For an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Lab {
    /// Where meshd's control socket is.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// Where meshd keeps the socket's services.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn api(&self) -> Api {
        Api::new(&self.socket())
    }
}

/// A client: one connection, made anew when it is lost.
pub struct Api {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Api {
    pub fn new(path: &Path) -> Api {
        Api { path: path.to_owned(), stream: None }
    }

    /// Status and body of one request; no answer is an error.
    pub fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let kept = self.stream.is_some();
        let outcome = self.exchange(method, path, body);
        if outcome.is_err() {
            self.stream = None;
        }
        // A connection that nobody used for long is ended by the server; what only looks may look again.
        let again = kept && method == "GET" && outcome.is_err();
        if again { self.exchange(method, path, body) } else { outcome }
    }

    /// A request that must be answered.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.request(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A request that must succeed.
    pub fn good(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {answer:#}");
        answer
    }

    pub fn get(&mut self, path: &str) -> Value {
        self.good("GET", path, None)
    }

    /// Asks, and does not wait for the answer.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = UnixStream::connect(&self.path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                none.insert(BufReader::new(stream))
            }
        };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: meshd\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(format!("{head}{body}").as_bytes())
    }

    fn exchange(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        self.send(method, path, body)?;
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("answered {line:?}")))?;
        let mut length = 0;
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(text) = header.strip_prefix("content-length:") {
                length = text.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        serde_json::from_slice(&body).map(|body| (status, body)).map_err(io::Error::other)
    }
}
