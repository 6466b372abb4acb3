//! What the paths to the other nodes carry in one piece: tried with packets that may not be fragmented.

mod echo;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::link::Links;
use super::{Kernel, Result};
use crate::objects::Family;
use echo::{Echo, SMALL};
use search::{Verdict, largest};

/// A router in whose way a datagram is too large says so within that time, or is not heard.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Of the largest packet.
    pub bytes: u32,
    /// Larger echoes are not answered, and no one says why: it may also be a filter for those.
    pub by_echo: bool,
}

impl Kernel {
    /// See [`path_mtus`].
    pub fn path_mtus(&mut self, peers: &[IpAddr], port: u16, bytes: u32) -> Result<BTreeMap<IpAddr, PathMtu>> {
        path_mtus(&mut self.links, peers, port, bytes)
    }
}

/// For each peer that a route leads to, the bytes of the largest packet that the path carries, as far as that can be
/// learned: what is told is the truth, what is not told need not be (who answers no echo tells nothing).
///
/// Each is sent one packet of `bytes` to `port`, the tunnel's, and echo requests of that size. None is larger than
/// the path is known to carry: such a one the kernel sends with the flag not to fragment it (ip(7),
/// `IP_PMTUDISC_WANT`), and it remembers what a router answers. Where large echoes get lost and small ones do not, the
/// largest that is answered is searched for: a switch says nothing, nor does a router whose words are filtered. Where
/// all is well nothing is waited for.
pub(super) fn path_mtus(
    links: &mut Links,
    peers: &[IpAddr],
    port: u16,
    bytes: u32,
) -> Result<BTreeMap<IpAddr, PathMtu>> {
    let wide_ones = wide(links, peers.iter().copied(), bytes)?;
    for peer in &wide_ones {
        // What cannot be sent tells nothing.
        let _ = send(*peer, port, bytes);
    }
    let mut answered = BTreeMap::new();
    for family in Family::ALL {
        let there: BTreeSet<IpAddr> = wide_ones.iter().copied().filter(|peer| Family::of(peer) == family).collect();
        if there.is_empty() {
            continue;
        }
        let Ok(mut echo) = Echo::open(family) else {
            thread::sleep(PATIENCE);
            continue;
        };
        let verdicts = echo.ask(&there.into_iter().map(|peer| (peer, bytes)).collect());
        let silent = verdicts.into_iter().filter(|(_, verdict)| *verdict == Verdict::Lost).map(|(peer, _)| peer);
        // Of the others a router has told.
        let silent = wide(links, silent, bytes)?;
        answered.extend(largest(silent, SMALL, bytes, |sizes| echo.ask(sizes)));
    }
    let known = known(links, peers.iter().copied())?.into_iter();
    let path = |(peer, told): (IpAddr, u32)| {
        let answered = answered.get(&peer).copied().filter(|answered| *answered < told);
        (peer, PathMtu { bytes: answered.unwrap_or(told), by_echo: answered.is_some() })
    };
    Ok(known.map(path).collect())
}

/// Whether it answers a small echo request. Who does not may only be silent.
pub(super) fn answers(peer: IpAddr) -> bool {
    let Ok(mut echo) = Echo::open(Family::of(&peer)) else { return false };
    echo.ask(&[(peer, SMALL)].into()).get(&peer) == Some(&Verdict::Answered)
}

/// Those to whom packets of that size fit, as far as the kernel knows.
fn wide(links: &mut Links, peers: impl Iterator<Item = IpAddr>, bytes: u32) -> Result<BTreeSet<IpAddr>> {
    Ok(known(links, peers)?.into_iter().filter(|(_, mtu)| *mtu >= bytes).map(|(peer, _)| peer).collect())
}

/// What the kernel knows: the link's size, or what a router answered.
fn known(links: &mut Links, peers: impl Iterator<Item = IpAddr>) -> Result<BTreeMap<IpAddr, u32>> {
    let mut known = BTreeMap::new();
    for peer in peers {
        known.extend(links.path_mtu(peer)?.map(|mtu| (peer, mtu)));
    }
    Ok(known)
}

/// All of it zeros, it is no VXLAN packet, and is dropped by who gets it.
fn send(peer: IpAddr, port: u16, bytes: u32) -> std::io::Result<usize> {
    let (any, headers): (IpAddr, u32) = match peer {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 20 + 8),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 40 + 8),
    };
    UdpSocket::bind((any, 0))?.send_to(&vec![0; bytes.saturating_sub(headers) as usize], (peer, port))
}
