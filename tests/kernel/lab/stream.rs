//! What a client holds, and what it is told.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Who answered, whom it saw as its client, and what it heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub backend: String,
    pub peer: SocketAddr,
    /// The backend's own port.
    pub port: u16,
    pub heard: String,
}

impl Answer {
    pub(super) fn parse(line: &str) -> io::Result<Answer> {
        let malformed = || io::Error::other(format!("not an answer: {line:?}"));
        let mut words = line.trim_end().splitn(4, ' ');
        let mut next = || words.next().ok_or_else(malformed);
        Ok(Answer {
            backend: next()?.to_owned(),
            peer: next()?.parse().map_err(|_| malformed())?,
            port: next()?.parse().map_err(|_| malformed())?,
            heard: next()?.to_owned(),
        })
    }
}

/// How often each backend answered.
pub fn tally(answers: &[Answer]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(answer.backend.as_str()).or_default() += 1;
    }
    tally
}

/// A TCP or SCTP connection on which one line is answered by one line.
#[derive(Debug)]
pub struct Stream {
    stream: BufReader<TcpStream>,
}

impl Stream {
    pub(super) fn new(stream: TcpStream) -> Stream {
        Stream { stream: BufReader::new(stream) }
    }

    /// Ends it by a reset: IPVS forgets such a connection in ten seconds, one that is closed in two minutes.
    pub fn reset(self) {
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self.stream.get_ref(), sockopt::Linger, &at_once).expect("a socket");
    }

    pub fn ask(&mut self, text: &str) -> io::Result<Answer> {
        // In one piece: to SCTP that is one message.
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes())?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Answer::parse(&line)
    }
}

/// A UDP socket with one peer.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> Datagrams {
        Datagrams { socket }
    }

    pub fn send(&self, content: impl AsRef<[u8]>) {
        self.socket.send(content.as_ref()).expect("a datagram can be sent");
    }

    /// Sends a datagram and waits for one to come back.
    pub fn ask(&self, text: &str, patience: Duration) -> io::Result<Answer> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send(text.as_bytes())?;
        let mut datagram = [0; 2048];
        let length = self.socket.recv(&mut datagram)?;
        Answer::parse(&String::from_utf8_lossy(&datagram[..length]))
    }
}
