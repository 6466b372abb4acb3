//! WireGuard of the overlay's namespace, over generic netlink (linux/wireguard.h).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;

use super::attribute::{Writer, attributes, find, ip_of, octets, u16_of};
use super::generic;
use super::replies::Readers;
use super::socket::{Error, Request, Result, Socket};
use crate::objects::{PrivateKey, PublicKey, WIREGUARD, Wireguard, WireguardPeer};
use crate::plan::Step;

const FAMILY: &str = "wireguard";
const VERSION: u8 = 1;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;

// Attributes of a device.
const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_FWMARK: u16 = 7;
const DEVICE_PEERS: u16 = 8;

// Attributes of a peer.
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_PRESHARED_KEY: u16 = 2;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_ALLOWED: u16 = 9;
const REMOVE_ME: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;

// Attributes of an address behind a peer.
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_PREFIX: u16 = 3;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Bytes of `struct sockaddr_in` and `struct sockaddr_in6`.
const SOCKADDR_IN: usize = 16;
const SOCKADDR_IN6: usize = 28;

/// For how long after a handshake its keys are good (the WireGuard paper, section 6.1, Reject-After-Time).
const GOOD_FOR: Duration = Duration::from_secs(180);

/// Why there is no WireGuard here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the kernel has no WireGuard (module wireguard), which [ingress] encryption needs: `modprobe wireguard`, or use a \
         kernel built with CONFIG_WIREGUARD"
    )]
    Missing,
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// WireGuard of the network namespace in which it was opened.
#[derive(Debug)]
pub struct WireguardSocket {
    socket: Socket,
    family: u16,
    /// Where each peer was said to be.
    told: BTreeMap<PublicKey, SocketAddr>,
}

impl WireguardSocket {
    /// Opens WireGuard of the calling thread's network namespace; the kernel loads its module if need be.
    pub fn open() -> std::result::Result<WireguardSocket, OpenError> {
        let (socket, family) = generic::open(FAMILY)?.ok_or(OpenError::Missing)?;
        Ok(WireguardSocket { socket, family, told: BTreeMap::new() })
    }

    /// What the link has been told.
    ///
    /// A peer that speaks from somewhere else than was said is answered there (the paper, section 2.1): whoever has its
    /// key is that peer. As long as that goes well it counts as being where it was said to be; by whoever was here before
    /// us that was where it is wanted.
    pub fn read(&mut self, wanted: Option<&Wireguard>) -> Result<Wireguard> {
        for (key, peer) in wanted.iter().flat_map(|wanted| &wanted.peers) {
            if let Some(endpoint) = peer.endpoint {
                self.told.entry(*key).or_insert(endpoint);
            }
        }
        Ok(join(self.devices()?, &self.told))
    }

    /// When each peer last proved who it is, in seconds since 1970; 0: never.
    pub fn handshakes(&mut self) -> Result<BTreeMap<PublicKey, u64>> {
        Ok(handshakes(self.devices()?))
    }

    fn devices(&mut self) -> Result<Vec<SeenDevice>> {
        let question = self.request(GET_DEVICE, |_| ());
        self.socket.dump(&question, |_, body| read_device(generic::attributes_of(GET_DEVICE, body)?))
    }

    /// Carries out steps, in order; one result for each. Of its own key the link is told the private one.
    pub fn apply(&mut self, steps: &[&Step], own: &PrivateKey) -> Vec<Result<()>> {
        let requests: Vec<Request> = steps.iter().map(|step| self.request_of(step, own)).collect();
        let outcomes = self.socket.requests(&requests);
        for (step, outcome) in steps.iter().zip(&outcomes) {
            match step {
                Step::SetWireguardPeer { key, peer } if outcome.is_ok() => {
                    self.told.remove(key);
                    self.told.extend(peer.endpoint.map(|endpoint| (*key, endpoint)));
                }
                Step::DeleteWireguardPeer { key } => drop(self.told.remove(key)),
                _ => {}
            }
        }
        outcomes
    }

    fn request_of(&self, step: &Step, own: &PrivateKey) -> Request {
        self.request(SET_DEVICE, |writer| match step {
            Step::SetWireguard { port, .. } => {
                writer.bytes(DEVICE_PRIVATE_KEY, own.bytes());
                writer.u16(DEVICE_LISTEN_PORT, *port);
                writer.u32(DEVICE_FWMARK, 0);
            }
            Step::SetWireguardPeer { key, peer } => writer.nested(DEVICE_PEERS, |writer| {
                writer.nested(0, |writer| write_peer(writer, *key, peer));
            }),
            // One that is not there is passed over.
            Step::DeleteWireguardPeer { key } => writer.nested(DEVICE_PEERS, |writer| {
                writer.nested(0, |writer| {
                    writer.bytes(PEER_PUBLIC_KEY, &key.0);
                    writer.u32(PEER_FLAGS, REMOVE_ME);
                });
            }),
            _ => {}
        })
    }

    fn request(&self, command: u8, write: impl FnOnce(&mut Writer)) -> Request {
        let mut writer = Writer::after(&[command, VERSION, 0, 0]);
        writer.string(DEVICE_IFNAME, WIREGUARD);
        write(&mut writer);
        Request { kind: self.family, flags: 0, body: writer.finish() }
    }
}

/// What the parts of one answer say together. `told`: where peers were said to be.
fn join(parts: Vec<SeenDevice>, told: &BTreeMap<PublicKey, SocketAddr>) -> Wireguard {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut link = Wireguard::default();
    for seen in parts {
        // All but the first part of a long answer have peers only.
        link.key = seen.key.unwrap_or(link.key);
        link.port = seen.port.unwrap_or(link.port);
        for SeenPeer { key, mut peer, handshake } in seen.peers {
            let works = handshake.is_some_and(|at| now.saturating_sub(at) < GOOD_FOR);
            if let Some(told) = told.get(&key).filter(|_| works) {
                peer.endpoint = Some(*told);
            }
            // A peer with many addresses comes in several parts.
            link.peers.entry(key).and_modify(|known| known.allowed.extend(&peer.allowed)).or_insert(peer);
        }
    }
    link
}

fn handshakes(parts: Vec<SeenDevice>) -> BTreeMap<PublicKey, u64> {
    let mut all: BTreeMap<PublicKey, u64> = BTreeMap::new();
    for seen in parts.into_iter().flat_map(|device| device.peers) {
        let at = all.entry(seen.key).or_default();
        *at = seen.handshake.unwrap_or_default().as_secs().max(*at);
    }
    all
}

fn write_peer(writer: &mut Writer, key: PublicKey, peer: &WireguardPeer) {
    writer.bytes(PEER_PUBLIC_KEY, &key.0);
    writer.bytes(PEER_PRESHARED_KEY, &[0; 32]);
    writer.u32(PEER_FLAGS, REPLACE_ALLOWED);
    if let Some(endpoint) = peer.endpoint {
        writer.bytes(PEER_ENDPOINT, &sockaddr(endpoint));
    }
    writer.u16(PEER_KEEPALIVE, peer.keepalive);
    writer.nested(PEER_ALLOWED, |writer| {
        for network in &peer.allowed {
            writer.nested(0, |writer| {
                writer.u16(ALLOWED_FAMILY, if network.is_ipv4() { AF_INET } else { AF_INET6 });
                writer.ip(ALLOWED_ADDRESS, network.ip());
                writer.u8(ALLOWED_PREFIX, network.prefix());
            });
        }
    });
}

/// As the C library has it: the family in host order, the port and the address in network order.
fn sockaddr(endpoint: SocketAddr) -> Vec<u8> {
    let (family, length): (u16, usize) = match endpoint {
        SocketAddr::V4(_) => (AF_INET, SOCKADDR_IN),
        SocketAddr::V6(_) => (AF_INET6, SOCKADDR_IN6),
    };
    let mut bytes = family.to_ne_bytes().to_vec();
    bytes.extend(endpoint.port().to_be_bytes());
    if endpoint.is_ipv6() {
        bytes.extend([0; 4]);
    }
    bytes.extend(octets(endpoint.ip()));
    bytes.resize(length, 0);
    bytes
}

fn endpoint_of(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address = match u16_of(bytes.get(..2)?)? {
        AF_INET => bytes.get(4..8)?,
        AF_INET6 => bytes.get(8..24)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip_of(address)?, port))
}

#[derive(Debug, Default)]
struct SeenDevice {
    key: Option<PublicKey>,
    port: Option<u16>,
    peers: Vec<SeenPeer>,
}

#[derive(Debug)]
struct SeenPeer {
    key: PublicKey,
    peer: WireguardPeer,
    /// Since 1970.
    handshake: Option<Duration>,
}

fn read_device(body: &[u8]) -> Option<SeenDevice> {
    let key = find(body, DEVICE_PUBLIC_KEY).and_then(|bytes| bytes.try_into().ok());
    let peers = find(body, DEVICE_PEERS).unwrap_or_default();
    Some(SeenDevice {
        // One with a mark of others' is as good as one with a key of others'.
        key: if is_zero(find(body, DEVICE_FWMARK)) { key.map(PublicKey) } else { Some(PublicKey::default()) },
        port: find(body, DEVICE_LISTEN_PORT).and_then(u16_of),
        peers: attributes(peers).filter_map(|(_, peer)| read_peer(peer)).collect(),
    })
}

fn is_zero(value: Option<&[u8]>) -> bool {
    value.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0))
}

fn read_peer(body: &[u8]) -> Option<SeenPeer> {
    // One that has a preshared key, which we give to none, is heard by no one: as if it had no addresses.
    let allowed = find(body, PEER_ALLOWED).filter(|_| is_zero(find(body, PEER_PRESHARED_KEY))).unwrap_or_default();
    let peer = WireguardPeer {
        endpoint: find(body, PEER_ENDPOINT).and_then(endpoint_of),
        allowed: attributes(allowed).filter_map(|(_, one)| read_allowed(one)).collect::<BTreeSet<_>>(),
        keepalive: find(body, PEER_KEEPALIVE).and_then(u16_of).unwrap_or_default(),
    };
    // `struct __kernel_timespec`: seconds and nanoseconds, 64 bits each; zeros before the first.
    let seconds =
        find(body, PEER_LAST_HANDSHAKE).and_then(|time| time.get(..8)?.try_into().ok()).map(u64::from_ne_bytes);
    Some(SeenPeer {
        key: PublicKey(find(body, PEER_PUBLIC_KEY)?.try_into().ok()?),
        peer,
        handshake: seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
    })
}

fn read_allowed(body: &[u8]) -> Option<IpNetwork> {
    let address: IpAddr = ip_of(find(body, ALLOWED_ADDRESS)?)?;
    IpNetwork::new(address, *find(body, ALLOWED_PREFIX)?.first()?).ok()
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[|body| drop(generic::attributes_of(GET_DEVICE, body).and_then(read_device))];

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(endpoint: &str, allowed: &[&str]) -> WireguardPeer {
        let allowed = allowed.iter().map(|network| network.parse().unwrap()).collect();
        WireguardPeer { endpoint: Some(endpoint.parse().unwrap()), allowed, keepalive: 25 }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for wanted in [
            peer("192.0.2.1:51820", &["192.0.2.1/32"]),
            peer("[2001:db8::1]:1", &["2001:db8::1/128", "10.0.0.0/8"]),
            WireguardPeer { endpoint: None, allowed: BTreeSet::new(), keepalive: 0 },
        ] {
            let mut writer = Writer::default();
            write_peer(&mut writer, PublicKey([7; 32]), &wanted);
            let body = writer.finish();
            let seen = read_peer(&body).unwrap();
            assert_eq!((seen.key, seen.peer, seen.handshake), (PublicKey([7; 32]), wanted, None));
            // Torn anywhere, it is less, and no panic.
            (0..body.len()).for_each(|length| drop(read_peer(&body[..length])));
        }
    }

    #[test]
    fn a_device_is_read_with_and_without_a_key() {
        let empty = read_device(&[]).unwrap();
        assert_eq!((empty.key, empty.port, empty.peers.len()), (None, None, 0));
        let mut writer = Writer::default();
        writer.bytes(DEVICE_PUBLIC_KEY, &[9; 32]);
        writer.u16(DEVICE_LISTEN_PORT, 51820);
        writer.nested(DEVICE_PEERS, |writer| {
            for number in [1u8, 2] {
                writer.nested(0, |writer| {
                    write_peer(writer, PublicKey([number; 32]), &peer("192.0.2.1:1", &[]));
                    writer.bytes(PEER_LAST_HANDSHAKE, &[[number; 8], [0; 8]].concat());
                });
            }
        });
        let body = writer.finish();
        let seen = read_device(&body).unwrap();
        assert_eq!((seen.key, seen.port, seen.peers.len()), (Some(PublicKey([9; 32])), Some(51820), 2));
        assert_eq!(seen.peers[1].handshake, Some(Duration::from_secs(0x0202_0202_0202_0202)));
        (0..body.len()).for_each(|length| drop(read_device(&body[..length])));
    }

    /// What is too long for one part goes on in the next: there is no key there, and a peer may be there again, without all
    /// but its other addresses.
    #[test]
    fn an_answer_in_parts_is_one_answer() {
        let part = |head: bool, peers: &[(u8, &[&str], bool)]| {
            let mut writer = Writer::default();
            if head {
                writer.bytes(DEVICE_PUBLIC_KEY, &[9; 32]);
                writer.u16(DEVICE_LISTEN_PORT, 51820);
            }
            writer.nested(DEVICE_PEERS, |writer| {
                for (number, allowed, whole) in peers {
                    writer.nested(0, |writer| {
                        write_peer(writer, PublicKey([*number; 32]), &peer("192.0.2.1:1", allowed));
                        let handshake = if *whole { [0, 0, 0, 1, 0, 0, 0, 0] } else { [0; 8] };
                        writer.bytes(PEER_LAST_HANDSHAKE, &[handshake, [0; 8]].concat());
                    });
                }
            });
            read_device(&writer.finish()).unwrap()
        };
        let (one, two, three) = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32");
        let parts = || {
            vec![
                part(true, &[(1, &[one], true), (2, &[], true)]),
                part(false, &[(2, &[two], false), (3, &[three], true)]),
            ]
        };
        let seen = join(parts(), &BTreeMap::new());
        assert_eq!((seen.key, seen.port, seen.peers.len()), (PublicKey([9; 32]), 51820, 3));
        let second = &seen.peers[&PublicKey([2; 32])];
        assert_eq!(second.allowed.iter().map(ToString::to_string).collect::<Vec<_>>(), [two]);
        assert_eq!(handshakes(parts())[&PublicKey([2; 32])], 1 << 24);
    }

    /// Whatever others put there that we never do makes it one that nobody wants.
    #[test]
    fn marks_and_preshared_keys_are_not_ours() {
        let mut writer = Writer::default();
        writer.bytes(DEVICE_PUBLIC_KEY, &[9; 32]);
        writer.u32(DEVICE_FWMARK, 7);
        assert_eq!(read_device(&writer.finish()).unwrap().key, Some(PublicKey::default()));
        let mut writer = Writer::default();
        writer.bytes(PEER_PRESHARED_KEY, &[1; 32]);
        write_peer(&mut writer, PublicKey([7; 32]), &peer("192.0.2.1:1", &["192.0.2.1/32"]));
        assert!(read_peer(&writer.finish()).unwrap().peer.allowed.is_empty());
    }

    #[test]
    fn endpoints_of_other_kinds_are_none() {
        for bytes in [&[][..], &[2], &[1, 0, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 1, 1, 2, 3], &[10, 0, 0, 1, 0, 0, 0, 0, 9]] {
            assert_eq!(endpoint_of(bytes), None);
        }
    }
}
