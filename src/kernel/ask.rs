//! Answers questions about single packets (see [`Question`]), beside the daemon's loop: each in its namespace, all that wait for somebody
//! else side by side. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::link::{Links, onward};
use super::socket::Socket;
use super::{Kernel, Result, listeners, netns, nft, path};
use crate::objects::{Connects, Netns, Protocol, Question, Reply, Space};

/// For a backend, or for another node.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who has no UDP socket says so sooner.
const DATAGRAM_PATIENCE: Duration = Duration::from_millis(500);
/// Questions that wait for others, at a time.
const SIDE_BY_SIDE: usize = 64;
const NETLINK_NETFILTER: isize = 12;

/// Our namespaces, held open.
pub struct Asker {
    spaces: BTreeMap<Netns, OwnedFd>,
}

impl Kernel {
    /// One who answers questions on whatever thread.
    ///
    /// # Errors
    /// No more files can be opened.
    pub fn asker(&self) -> io::Result<Asker> {
        let all = [Netns::Host, Netns::Sandbox, Netns::Overlay];
        let open = all.into_iter().filter_map(|netns| Some((netns, self.links.netns(netns)?)));
        let spaces = open.map(|(netns, file)| Ok((netns, file.try_clone()?))).collect::<io::Result<_>>()?;
        Ok(Asker { spaces })
    }
}

impl Asker {
    /// All answers.
    pub fn ask(&self, questions: &BTreeSet<Question>) -> BTreeMap<Question, Reply> {
        let mut replies = BTreeMap::new();
        let waits = |question: &&Question| matches!(question, Question::Connects { .. } | Question::Underlay { .. });
        let (slow, quick): (Vec<&Question>, Vec<&Question>) = questions.iter().partition(waits);
        for some in slow.chunks(SIDE_BY_SIDE) {
            let answers: Vec<Reply> = thread::scope(|scope| {
                let asked: Vec<_> = some.iter().map(|question| scope.spawn(|| self.answer(question))).collect();
                asked.into_iter().map(|one| one.join().unwrap_or(Reply::Unknown("it failed".to_owned()))).collect()
            });
            replies.extend(some.iter().map(|question| (*question).clone()).zip(answers));
        }
        replies.extend(quick.into_iter().map(|question| (question.clone(), self.answer(question))));
        replies
    }

    /// Connects to all of them from that namespace, and tells of each by its place, until it is told to stop; `None`: that protocol is not
    /// tried.
    ///
    /// # Errors
    /// There is no such namespace, or it cannot be entered.
    pub fn connect_to_all(
        &self,
        from: Netns,
        targets: &[(Protocol, SocketAddr)],
        tell: &(dyn Fn(usize, Option<Connects>) -> bool + Sync),
    ) -> io::Result<()> {
        let missing = || io::Error::new(ErrorKind::NotFound, "it is not there");
        let (next, goes_on) = (AtomicUsize::new(0), AtomicBool::new(true));
        let work = || {
            while goes_on.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((protocol, to)) = targets.get(number) else { return };
                if !tell(number, connects(*protocol, *to)) {
                    goes_on.store(false, Ordering::Relaxed);
                }
            }
        };
        // Threads begin in the namespace of the one that starts them.
        netns::within(self.spaces.get(&from).ok_or_else(missing)?, || {
            thread::scope(|scope| (0..targets.len().min(SIDE_BY_SIDE)).for_each(|_| drop(scope.spawn(work))));
        })
    }

    fn answer(&self, question: &Question) -> Reply {
        let space = match question {
            Question::Route { space, .. } | Question::Rules { space, .. } => space.clone(),
            Question::Listens { netns, .. } => Space::Backend(netns.clone()),
            Question::Connects { .. } => Space::Ours(Netns::Sandbox),
            Question::Underlay { .. } => Space::Ours(Netns::Host),
        };
        let opened;
        let file = match &space {
            Space::Ours(netns) => match self.spaces.get(netns) {
                Some(file) => file,
                None => return Reply::Unknown(format!("there is no namespace of the {netns}")),
            },
            Space::Backend(netns) => match netns::open(netns.path()) {
                Ok(file) => {
                    opened = file;
                    &opened
                }
                Err(_) => return Reply::Unknown(format!("there is no namespace {netns}")),
            },
        };
        let answer = netns::within(file, || answer(question, file));
        let unknown = |error: &dyn std::error::Error| Reply::Unknown(error.to_string());
        match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => unknown(&error),
            Err(error) => unknown(&error),
        }
    }
}

/// In the calling thread's namespace, which is that of the file.
fn answer(question: &Question, file: &OwnedFd) -> Result<Reply> {
    Ok(match question {
        Question::Route { to, from, link_in, mark, .. } => {
            let mut socket = Socket::open(NETLINK_ROUTE)?;
            Reply::Route(onward::onward(&mut socket, *to, *from, link_in.as_deref(), *mark)?)
        }
        Question::Rules { layer, hook, packet, .. } => {
            let mut socket = Socket::open(NETLINK_NETFILTER)?;
            let index = |name: &str| if_nametoindex(name).ok();
            Reply::Rules(nft::obstacles(&mut socket, *layer, *hook, packet, &index)?)
        }
        Question::Listens { protocol, at, .. } => match listeners::listeners(*protocol) {
            Ok(all) => Reply::Listens(all.into_iter().filter(|socket| hears(socket, at)).collect()),
            Err(error) => Reply::Unknown(error.to_string()),
        },
        Question::Connects { protocol, to } => match connects(*protocol, *to) {
            Some(connects) => Reply::Connects(connects),
            None => Reply::Unknown(format!("{protocol} is not tried")),
        },
        Question::Underlay { peer, port, bytes } => {
            let mut links = Links::default();
            links.enter(Netns::Host, file.try_clone().map_err(super::Error::Enter)?)?;
            let found = path::path_mtus(&mut links, &[*peer], *port, *bytes)?;
            let mtu = found.get(peer).map(|path| path.bytes);
            Reply::Underlay { mtu, answers: path::answers(*peer) }
        }
    })
}

/// Whether a socket bound there gets what comes to that address: one of `::` gets IPv4, too, unless it was told not to.
fn hears(socket: &SocketAddr, at: &SocketAddr) -> bool {
    let any = match socket.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && at.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    socket.port() == at.port() && (any || socket.ip() == at.ip())
}

/// `None`: of that protocol nothing is tried.
fn connects(protocol: Protocol, to: SocketAddr) -> Option<Connects> {
    let began = Instant::now();
    let outcome = match protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&to, PATIENCE).map(|_| ()),
        Protocol::Udp => datagram(to),
        Protocol::Sctp => return None,
    };
    let refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    let silent = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
            || error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32) && began.elapsed() > DATAGRAM_PATIENCE
    };
    Some(match outcome {
        Ok(()) => Connects::Answered(began.elapsed()),
        Err(error) if refused(&error) => Connects::Refused,
        Err(error) if silent(&error) => Connects::Silent(began.elapsed()),
        Err(error) => Connects::Unsent(error.to_string()),
    })
}

/// Sends nothing, in a datagram, and hears what comes back.
fn datagram(to: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(DATAGRAM_PATIENCE))?;
    socket.send(&[])?;
    socket.recv(&mut [0; 1]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_answers_who_refuses_and_who_cannot_be_sent_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert!(matches!(connects(Protocol::Tcp, at), Some(Connects::Answered(_))));
        drop(listener);
        assert_eq!(connects(Protocol::Tcp, at), Some(Connects::Refused));
        assert_eq!(connects(Protocol::Udp, at), Some(Connects::Refused));
        assert_eq!(connects(Protocol::Sctp, at), None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = connects(Protocol::Udp, socket.local_addr().unwrap());
        assert!(matches!(silent, Some(Connects::Silent(_))), "{silent:?}");
        let nowhere = connects(Protocol::Tcp, "255.255.255.255:9".parse().unwrap());
        assert!(matches!(nowhere, Some(Connects::Unsent(_))), "{nowhere:?}");
    }

    #[test]
    fn a_socket_hears_what_comes_to_its_address() {
        let check = |socket: &str, at: &str, hears_it: bool| {
            assert_eq!(hears(&socket.parse().unwrap(), &at.parse().unwrap()), hears_it, "{socket} {at}");
        };
        check("0.0.0.0:80", "10.0.0.1:80", true);
        check("[::]:80", "10.0.0.1:80", true);
        check("0.0.0.0:80", "[fd00::1]:80", false);
        check("10.0.0.1:80", "10.0.0.1:80", true);
        check("127.0.0.1:80", "10.0.0.1:80", false);
        check("0.0.0.0:81", "10.0.0.1:80", false);
    }
}
