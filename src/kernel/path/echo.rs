//! Echo requests of a given size, and who answers them (RFC 792, RFC 4443).
//!
//! By a socket that the kernel has for that, where it lets us (icmp(7), `ping_group_range`: on many hosts no one, not even
//! root), or else by a raw one (CAP_NET_RAW), which hears all ICMP that comes in.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket, sockopt,
};

use super::search::Verdict;
use crate::objects::Family;

/// Bytes of a packet that every path carries.
pub const SMALL: u32 = 64;

/// How often a size is tried, and how long an answer to each may take.
const TRIES: usize = 3;
const WINDOW: Duration = Duration::from_millis(100);
/// What comes this much later than what was sent behind it, or twice as late, does not come at all.
const GRACE: Duration = Duration::from_millis(10);
/// As many small ones have to be answered for the loss of large ones to mean something.
const ENOUGH: usize = 2;

/// Bytes of packets that may be on their way at once: what is sent to who is not there lies about until that is known.
const BUFFER: usize = 16 * 1024 * 1024;

/// Bytes of an ICMP header with identifier and sequence number.
const HEADER: usize = 8;
/// An IPv4 header with all the options that it can have, and that.
const LONGEST_HEAD: usize = 60 + HEADER;

pub struct Echo {
    /// What it sends and receives is ICMP, not UDP.
    socket: UdpSocket,
    family: Family,
    raw: bool,
    /// What its requests are told from all others by.
    identifier: u16,
    /// By sequence number, in the question at hand: who was asked, and whether by a large one.
    sent: BTreeMap<u16, (IpAddr, bool)>,
    next: u16,
}

/// What was heard of a peer.
#[derive(Default)]
struct Heard {
    /// Large ones that were sent.
    asked: usize,
    large: bool,
    small: usize,
    /// By when the large one of this try has come or will not.
    until: Option<Instant>,
}

impl Echo {
    pub fn open(family: Family) -> io::Result<Echo> {
        let (domain, protocol) = match family {
            Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let open = |kind| socket(domain, kind, SockFlag::SOCK_CLOEXEC, protocol);
        let (raw, opened) = match open(SockType::Datagram) {
            Ok(opened) => (false, opened),
            Err(_) => (true, open(SockType::Raw)?),
        };
        // As far as we may: with the usual one it is enough, where there are few peers.
        let _ = setsockopt(&opened, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(&opened, sockopt::RcvBufForce, &BUFFER);
        Ok(Echo { socket: opened.into(), family, raw, identifier: identifier(), sent: BTreeMap::new(), next: 0 })
    }

    /// What becomes of packets of so many bytes to each of these, asked side by side. Nothing is waited for once all have
    /// answered.
    pub fn ask(&mut self, sizes: &BTreeMap<IpAddr, u32>) -> BTreeMap<IpAddr, Verdict> {
        let mut heard: BTreeMap<IpAddr, Heard> = sizes.keys().map(|peer| (*peer, Heard::default())).collect();
        self.sent.clear();
        for _ in 0..TRIES {
            let began = Instant::now();
            for (peer, heard) in heard.iter_mut().filter(|(_, heard)| !heard.large) {
                heard.until = None;
                // The large one first: who counts what comes in before it is answered has no reason to prefer the other.
                let size = sizes.get(peer).copied().unwrap_or(SMALL);
                heard.asked += usize::from(self.send(*peer, size, true));
                self.send(*peer, SMALL, false);
            }
            self.listen(began, &mut heard);
        }
        let verdict = |heard: &Heard| match heard {
            Heard { large: true, .. } => Verdict::Answered,
            Heard { small: ENOUGH.., asked: ENOUGH.., .. } => Verdict::Lost,
            Heard { .. } => Verdict::Unknown,
        };
        heard.iter().map(|(peer, heard)| (*peer, verdict(heard))).collect()
    }

    /// Until all have answered, or will not.
    fn listen(&mut self, began: Instant, heard: &mut BTreeMap<IpAddr, Heard>) {
        loop {
            let waiting = heard.values().filter(|heard| !heard.large);
            let Some(until) = waiting.map(|heard| heard.until.unwrap_or(began + WINDOW)).max() else { return };
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            let Some((peer, large)) = self.receive(left) else { continue };
            let Some(heard) = heard.get_mut(&peer) else { continue };
            if large {
                heard.large = true;
            } else {
                let now = Instant::now();
                heard.small += 1;
                heard.until = Some((now + GRACE.max(now - began)).min(began + WINDOW));
            }
        }
    }

    fn send(&mut self, peer: IpAddr, bytes: u32, large: bool) -> bool {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        let request = request(self.family, self.identifier, sequence, bytes);
        let to = SockaddrStorage::from(SocketAddr::new(peer, 0));
        // Who cannot be sent anything does not answer.
        let sent = sendto(self.socket.as_raw_fd(), &request, &to, MsgFlags::MSG_DONTWAIT).is_ok();
        if sent {
            self.sent.insert(sequence, (peer, large));
        }
        sent
    }

    /// The next packet to come in, if it is an answer to what was sent. Each is answered once.
    fn receive(&mut self, patience: Duration) -> Option<(IpAddr, bool)> {
        let mut head = [0; LONGEST_HEAD];
        self.socket.set_read_timeout(Some(patience)).ok()?;
        let (length, from) = self.socket.recv_from(&mut head).ok()?;
        let (identified, sequence) = answer(self.family, self.raw, head.get(..length)?)?;
        // The other kind of socket has an identifier of the kernel's, and hears nothing else.
        let ours = !self.raw || identified == self.identifier;
        let (peer, _) = *self.sent.get(&sequence).filter(|(peer, _)| ours && *peer == from.ip())?;
        self.sent.remove(&sequence).map(|(_, large)| (peer, large))
    }
}

/// Another one each time: several may ask at once, and a raw socket hears them all.
fn identifier() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(251))
}

/// The ICMP part of a packet of so many bytes. The kernel puts the IP header before it, and computes IPv6's checksum.
fn request(family: Family, identifier: u16, sequence: u16, bytes: u32) -> Vec<u8> {
    let (kind, ip_header) = match family {
        Family::V4 => (8, 20),
        Family::V6 => (128, 40),
    };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(HEADER.max((bytes as usize).saturating_sub(ip_header)), 0);
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet.splice(2..4, sum.to_be_bytes());
    }
    packet
}

/// Identifier and sequence number of an echo reply; `raw`: behind an IPv4 header.
fn answer(family: Family, raw: bool, packet: &[u8]) -> Option<(u16, u16)> {
    let (kind, ip_header) = match family {
        Family::V4 if raw => (0, usize::from(packet.first()? & 0x0f) * 4),
        Family::V4 => (0, 0),
        Family::V6 => (129, 0),
    };
    match *packet.get(ip_header..)? {
        [found, 0, _, _, i, d, s, n, ..] if found == kind => {
            Some((u16::from_be_bytes([i, d]), u16::from_be_bytes([s, n])))
        }
        _ => None,
    }
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let word = |pair: &[u8]| pair.iter().zip([8, 0]).map(|(byte, shift)| u64::from(*byte) << shift).sum::<u64>();
    let mut sum: u64 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_is_as_long_as_it_should_be_and_its_checksum_is_right() {
        for bytes in [64, 65, 1500, 65_535] {
            let v4 = request(Family::V4, 0x1234, 0xfffe, bytes);
            assert_eq!((v4.len(), v4[0], checksum(&v4)), (bytes as usize - 20, 8, 0));
            let v6 = request(Family::V6, 0x1234, 7, bytes);
            assert_eq!((v6.len(), v6[0]), (bytes as usize - 40, 128));
        }
        // By hand: 0800 + 1234 + 0001, inverted.
        assert_eq!(request(Family::V4, 0x1234, 1, 28), [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1]);
    }

    /// By whichever socket this process may have.
    #[test]
    fn where_all_answer_nothing_is_waited_for() {
        for (family, address) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let peer: IpAddr = address.parse().unwrap();
            let mut echo = match Echo::open(family) {
                Ok(echo) => echo,
                Err(error) => return eprintln!("SKIPPED: no socket for echoes: {error}"),
            };
            let mut ask = || {
                let began = Instant::now();
                assert_eq!(echo.ask(&[(peer, 9000)].into()), [(peer, Verdict::Answered)].into());
                began.elapsed()
            };
            // The machine may be busy, but hardly three times in a row.
            assert!((0..3).any(|_| ask() < WINDOW), "{address} is waited for");
        }
    }

    #[test]
    fn only_echo_replies_are_answers() {
        let reply = [0, 0, 9, 9, 0x12, 0x34, 0, 7, 1, 2, 3];
        assert_eq!(answer(Family::V4, false, &reply), Some((0x1234, 7)));
        // Behind a header with options.
        let mut raw = vec![0x46; 24];
        raw.extend(reply);
        assert_eq!(answer(Family::V4, true, &raw), Some((0x1234, 7)));
        let mut v6 = reply;
        v6[0] = 129;
        assert_eq!(answer(Family::V6, true, &v6), Some((0x1234, 7)));
        for kind in [3, 8, 11, 128] {
            let mut other = reply;
            other[0] = kind;
            assert_eq!(answer(Family::V4, false, &other), None);
            assert_eq!(answer(Family::V6, false, &other), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_harm(packet in prop::collection::vec(any::<u8>(), 0..80), raw: bool) {
            for family in Family::ALL {
                let _ = answer(family, raw, &packet);
            }
        }
    }
}
