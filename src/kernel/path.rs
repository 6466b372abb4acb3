//! What the paths to the other nodes carry in one piece: tried with datagrams that may not be fragmented.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::{Kernel, Result};

/// A router in whose way a datagram is too large says so within that time, or is not heard.
const PATIENCE: Duration = Duration::from_millis(300);

impl Kernel {
    /// For each peer that a route leads to, the bytes of the largest packet that the path carries, as far as that can be
    /// learned: what is told is the truth, what is not told need not be (a router or a firewall may keep silent).
    ///
    /// Each is sent one packet of `bytes` to `port`, the tunnel's: the kernel sends a datagram that fits the link with
    /// the flag not to fragment it (ip(7), `IP_PMTUDISC_WANT`), and remembers what a router answers. All of it zeros, it is
    /// no VXLAN packet, and is dropped by who gets it.
    pub fn path_mtus(&mut self, peers: &[IpAddr], port: u16, bytes: u32) -> Result<BTreeMap<IpAddr, u32>> {
        let sent = peers.iter().filter(|peer| send(**peer, port, bytes).is_ok()).count();
        if sent > 0 {
            thread::sleep(PATIENCE);
        }
        let mut known = BTreeMap::new();
        for peer in peers {
            known.extend(self.links.path_mtu(*peer)?.map(|mtu| (*peer, mtu)));
        }
        Ok(known)
    }
}

fn send(peer: IpAddr, port: u16, bytes: u32) -> std::io::Result<usize> {
    let (any, headers): (IpAddr, u32) = match peer {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 20 + 8),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 40 + 8),
    };
    UdpSocket::bind((any, 0))?.send_to(&vec![0; bytes.saturating_sub(headers) as usize], (peer, port))
}
