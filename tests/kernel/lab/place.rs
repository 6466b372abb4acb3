//! Places: network namespaces, to run programs in and open sockets from.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use meshd::kernel::netns;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use serde_json::Value;

use super::stream::{Answer, Datagrams, Stream};
use super::{Protocol, SECOND};

/// How long a connection may take on a busy machine with an emulated kernel.
const PATIENCE: Duration = Duration::from_secs(20);

/// What passes on a link, as it is listened to.
pub struct Wire {
    child: Child,
    file: PathBuf,
}

impl Wire {
    /// Listens no more; what was heard, in tcpdump's words.
    pub fn finish(&mut self) -> String {
        std::thread::sleep(SECOND);
        self.end();
        let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&self.file).output().expect("tcpdump reads");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end();
    }
}

/// A network namespace by its name under /run/netns. It is entered for each use and never held open.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
}

impl Place {
    pub fn new(name: String) -> Place {
        Place { name }
    }

    pub fn exists(&self) -> bool {
        netns::exists(&self.name)
    }

    /// Runs `work` on a thread in the namespace. Sockets opened and processes started there stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = netns::open(format!("/run/netns/{}", self.name));
        let file = file.unwrap_or_else(|error| panic!("{error}: {:?}", io::Error::last_os_error()));
        netns::within(&file, work).unwrap_or_else(|error| panic!("cannot enter {}: {error}", self.name))
    }

    /// Runs a program to its end, whatever that is.
    pub fn output(&self, command: &mut Command) -> Output {
        self.within(|| command.stdin(Stdio::null()).output())
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
    }

    /// Runs a program, its words divided by spaces, that must succeed; answers what it printed.
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{} in {}: {}\n{}{}",
            line,
            self.name,
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The same, and it may fail.
    pub fn try_run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        self.output(command.args(words))
    }

    /// The same for a program that prints JSON, such as `ip -j` and `nft -j`.
    pub fn json(&self, line: &str) -> Value {
        let text = self.run(line);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}\n{text}"))
    }

    /// Listens to a link of here from now on, with tcpdump(8).
    pub fn tcpdump(&self, link: &str, filter: &str, file: &Path) -> Wire {
        let mut command = Command::new("tcpdump");
        command.args(["-nn", "-U", "-i", link, "-w"]).arg(file).args(filter.split(' '));
        let child =
            self.within(|| command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()).expect("tcpdump starts");
        let mut wire = Wire { child, file: file.to_owned() };
        // It says when it listens.
        let mut said = [0; 1];
        let listens = wire.child.stderr.as_mut().map(|stderr| stderr.read(&mut said));
        assert!(matches!(listens, Some(Ok(1))), "tcpdump says nothing");
        wire
    }

    /// A TCP or SCTP connection from here.
    pub fn connect(&self, protocol: Protocol, to: &str) -> io::Result<Stream> {
        let to = address(to);
        let socket = self.socket(protocol, &to)?;
        // Linux takes the time to send for the time to connect as well.
        setsockopt(&socket, sockopt::SendTimeout, &time_value(PATIENCE))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &time_value(PATIENCE))?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) => Ok(Stream::new(socket.into())),
            Err(nix::errno::Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A connection to each of these backends, kept open. Where others ask at the same time, the turn that is met may be
    /// never the same one's: so it asks until it has each.
    pub fn connect_to_each(&self, protocol: Protocol, to: &str, names: &[&str]) -> BTreeMap<String, Stream> {
        let mut held = BTreeMap::new();
        for _ in 0..200 {
            let mut stream = self.connect(protocol, to).expect("a connection");
            held.entry(stream.ask("who").expect("an answer").backend).or_insert(stream);
            if names.iter().all(|name| held.contains_key(*name)) {
                return held;
            }
        }
        panic!("of {names:?} only {:?} answer", held.keys());
    }

    /// A UDP socket of here that talks to one peer. Port 0: any.
    pub fn datagrams(&self, from_port: u16, to: &str) -> Datagrams {
        let to = address(to);
        let socket = self.socket(Protocol::Udp, &to).expect("a UDP socket");
        if to.is_ipv6() {
            // The same port of the other family is another's.
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).expect("an IPv6 socket");
        }
        let any = if to.is_ipv4() { format!("0.0.0.0:{from_port}") } else { format!("[::]:{from_port}") };
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address(&any))).expect("the port is free");
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap_or_else(|error| panic!("to {to}: {error}"));
        Datagrams::new(socket.into())
    }

    /// One question on a connection (or a socket) of its own.
    pub fn try_ask(&self, protocol: Protocol, to: &str) -> io::Result<Answer> {
        match protocol {
            Protocol::Udp => self.datagrams(0, to).ask("hello", PATIENCE),
            _ => self.connect(protocol, to)?.ask("hello"),
        }
    }

    /// The same, and it must be answered.
    pub fn ask(&self, protocol: Protocol, to: &str) -> Answer {
        self.try_ask(protocol, to)
            .unwrap_or_else(|error| panic!("{protocol} {to} does not answer {}: {error}", self.name))
    }

    /// So many questions, each on a connection of its own.
    pub fn ask_times(&self, times: usize, protocol: Protocol, to: &str) -> Vec<Answer> {
        if protocol != Protocol::Udp {
            return (0..times).map(|_| self.ask(protocol, to)).collect();
        }
        // All open at once: a port that is free again may be the next one's, and then it is the same flow.
        let mut sockets: Vec<Datagrams> = (0..times).map(|_| self.datagrams(0, to)).collect();
        let ask = |socket: &mut Datagrams| socket.ask("hello", PATIENCE);
        let answers = sockets.iter_mut().map(ask).collect::<io::Result<_>>();
        answers.unwrap_or_else(|error| panic!("{protocol} {to} does not answer {}: {error}", self.name))
    }

    /// Asserts that a connection is refused, at once: a closed port, not one that hangs.
    pub fn is_refused(&self, protocol: Protocol, to: &str) {
        let attempt = || {
            let began = std::time::Instant::now();
            match self.try_ask(protocol, to) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => began.elapsed(),
                other => panic!("{protocol} {to} from {} is not refused: {other:?}", self.name),
            }
        };
        // The machine may be busy, but hardly three times in a row.
        assert!((0..3).any(|_| attempt() < SECOND), "{protocol} {to} from {} is refused late", self.name);
    }

    /// A socket of this namespace, for `to`'s family.
    fn socket(&self, protocol: Protocol, to: &SocketAddr) -> nix::Result<OwnedFd> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        self.within(|| open(family, protocol))
    }

    /// A TCP or SCTP socket that listens on all addresses of both families, or a UDP socket that is bound there.
    pub(super) fn server(&self, protocol: Protocol, port: u16) -> OwnedFd {
        let there = SockaddrStorage::from(SocketAddr::from(([0u16; 8], port)));
        let make = || {
            let socket = open(AddressFamily::Inet6, protocol)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &there)?;
            if protocol != Protocol::Udp {
                listen(&socket, Backlog::new(512)?)?;
            }
            nix::Result::Ok(socket)
        };
        self.within(make).unwrap_or_else(|error| panic!("cannot serve {protocol} {port} in {}: {error}", self.name))
    }
}

fn open(family: AddressFamily, protocol: Protocol) -> nix::Result<OwnedFd> {
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        // One-to-one style: a connection like TCP's.
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

pub(super) fn time_value(time: Duration) -> TimeVal {
    TimeVal::new(time.as_secs() as i64, time.subsec_micros().into())
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address and a port"))
}

/// Runs lines of `ip -batch`, in a place or outside all of them.
pub fn batch(place: Option<&Place>, lines: &str) {
    let mut command = Command::new("ip");
    if let Some(place) = place {
        command.args(["-n", &place.name]);
    }
    let mut ip = command.args(["-force", "-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip(8) runs");
    ip.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("ip(8) reads");
    let status = ip.wait().expect("ip(8) ends");
    // In a test that failed already, the next failures are of no interest.
    assert!(status.success() || std::thread::panicking(), "ip(8) failed: {lines}");
}
