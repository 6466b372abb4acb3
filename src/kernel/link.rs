//! Links, their addresses and routes, over rtnetlink, in all our namespaces at once.
//!
//! What is ours: on the host the links that carry our tag; in our own namespaces everything that was put there, but for the veths by which others attach
//! backends to the overlay.

mod address;
mod facts;
mod leg;
mod make;
mod message;
mod observe;
pub(super) mod onward;
mod remote;
pub(super) mod ways;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use netlink_packet_route::link::{InfoKind, InfoVxlan};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use tracing::warn;

use self::message::{Found, Settings, changes, tag};
use super::replies::Readers;
use super::socket::{self, Request, Socket};
use super::{netns, sysctl};
use crate::objects::{Address, Link, LinkId, LinkKind, Netns, Route, TUNNEL};
use crate::plan::Step;

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[
    message::read_any,
    address::read_any,
    address::read_any_route,
    remote::read_any,
    ways::read_any,
    onward::read_any,
];

pub use observe::Seen;

/// The alias of every link that we make: how ours are told from others', by us and by operators.
pub const TAG: &str = "meshd";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {object}")]
    Netlink {
        verb: &'static str,
        object: String,
        #[source]
        source: socket::Error,
    },
    /// Something is in the way that is not ours to remove, or not this step's.
    #[error("cannot {verb} {object}: {reason}")]
    Conflict { verb: &'static str, object: String, reason: String },
    #[error("the {0} namespace is not open")]
    Closed(Netns),
    #[error(transparent)]
    Namespace(#[from] netns::Error),
}

impl Error {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Netlink { source, .. } => source.errno(),
            _ => None,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

fn because(verb: &'static str, object: impl Display) -> impl FnOnce(socket::Error) -> Error {
    move |source| Error::Netlink { verb, object: object.to_string(), source }
}

fn conflict(verb: &'static str, object: impl Display, reason: impl Into<String>) -> Error {
    Error::Conflict { verb, object: object.to_string(), reason: reason.into() }
}

/// Our namespaces, each with a socket opened in it.
#[derive(Debug, Default)]
pub struct Links {
    spaces: BTreeMap<Netns, Space>,
}

#[derive(Debug)]
struct Space {
    file: OwnedFd,
    socket: Socket,
}

impl Links {
    /// From now on, that namespace is worked in.
    pub fn enter(&mut self, netns: Netns, file: OwnedFd) -> Result<()> {
        let opened = netns::within(&file, || Socket::open(NETLINK_ROUTE)).map_err(socket::Error::Io);
        let socket = opened.and_then(|socket| socket).map_err(because("open a netlink socket in", netns))?;
        self.spaces.insert(netns, Space { file, socket });
        Ok(())
    }

    /// Closes what is open in that namespace: with a socket open it would live on unseen.
    pub fn leave(&mut self, netns: Netns) {
        self.spaces.remove(&netns);
    }

    /// The namespace's descriptor, to open other sockets in it.
    pub fn netns(&self, netns: Netns) -> Option<&OwnedFd> {
        self.spaces.get(&netns).map(|space| &space.file)
    }

    /// The same, and the port of our socket there.
    pub fn opened(&self, netns: Netns) -> Option<(&OwnedFd, u32)> {
        self.spaces.get(&netns).map(|space| (&space.file, space.socket.port()))
    }

    /// The descriptors of all our namespaces, the host's among them.
    pub fn namespaces(&self) -> Vec<&OwnedFd> {
        self.spaces.values().map(|space| &space.file).collect()
    }

    /// Makes the device, of a veth both ends; one that is there as it should be is left alone.
    pub fn add_link(&mut self, id: &LinkId, link: &Link) -> Result<()> {
        let verb = "add link";
        if let Some(found) = self.find(id)? {
            return match self.kind_of(id.netns, &found)? {
                _ if !is_ours(id.netns, &found) => {
                    Err(conflict(verb, id, "a link of that name exists and is not meshd's"))
                }
                kind if kind == link.kind => {
                    self.trust_addresses(id);
                    Ok(())
                }
                kind => Err(conflict(verb, id, format!("it exists, as {kind}, not {}", link.kind))),
            };
        }
        match &link.kind {
            LinkKind::Bridge => {
                self.send(verb, id, id.netns, &make::bridge(id, link))?;
                self.trust_addresses(id);
                Ok(())
            }
            LinkKind::Veth { peer } => {
                if self.find(peer)?.is_some() {
                    return Err(conflict(verb, id, format!("its other end, {peer}, exists already")));
                }
                let pair = make::veth(
                    make::first(&id.name, Some(link.mac), link.mtu),
                    vec![message::named(&peer.name)],
                    self.file(peer.netns)?,
                );
                self.send(verb, id, id.netns, &[pair, tag(&id.name)])?;
                self.send(verb, peer, peer.netns, &[tag(&peer.name)])?;
                [id, peer].into_iter().for_each(|id| self.trust_addresses(id));
                Ok(())
            }
            LinkKind::Vxlan { vni, port, local, underlay } => {
                let tunnel = make::vxlan(id, link, (*vni, *port, *local), self.file(id.netns)?);
                self.add_tunnel(id, *underlay, tunnel)
            }
            LinkKind::Wireguard => {
                let tunnel = make::wireguard(id, link, self.file(id.netns)?);
                self.add_tunnel(id, Netns::Host, tunnel)
            }
        }
    }

    /// A link of ours has no neighbour whom we did not give another address. Were that looked for, its own (fe80::…) would be good only two
    /// seconds after it is up; and until then no neighbour can be asked for on behalf of a client (RFC 4862, 5.4; ndisc_solicit).
    fn trust_addresses(&mut self, id: &LinkId) {
        let Some(space) = self.spaces.get(&id.netns) else { return };
        let name = format!("net/ipv6/conf/{}/accept_dad", id.name);
        match sysctl::write(&space.file, &name, "0") {
            // A kernel without IPv6 has no such parameter.
            Err(error) if !error.is_missing() => {
                warn!("IPv6 connections wait until the new link {id} is two seconds old: {error}")
            }
            _ => {}
        }
    }

    /// It is the namespace of the socket that asks by which a tunnel's packets leave.
    fn add_tunnel(&mut self, id: &LinkId, underlay: Netns, tunnel: Request) -> Result<()> {
        self.send("add link", id, underlay, &[tunnel])?;
        self.send("add link", id, id.netns, &[tag(&id.name)])
    }

    /// Sets all that can be set on a device that exists.
    pub fn set_link(&mut self, id: &LinkId, link: &Link) -> Result<()> {
        let verb = "set link";
        let found = self.ours(verb, id)?;
        let master = match &link.master {
            None => 0,
            Some(name) => {
                let bridge = self.find(&LinkId::new(id.netns, name))?;
                bridge.ok_or_else(|| conflict(verb, id, format!("there is no bridge {name}")))?.index
            }
        };
        let wanted = Settings {
            mac: Some(link.mac),
            mtu: Some(link.mtu),
            master: Some(master),
            isolated: link.isolated,
            up: link.up,
        };
        let mut requests = changes(&found, &wanted);
        // The far end of a veth is made and tagged by two sockets: a kill may come between.
        requests.extend((!found.is_tagged()).then(|| tag(&id.name)));
        self.send(verb, id, id.netns, &requests)
    }

    /// A link that is gone already is deleted. Of a veth, both ends go.
    pub fn delete_link(&mut self, id: &LinkId) -> Result<()> {
        let verb = "delete link";
        match self.ours_if_there(verb, id)? {
            Some(found) => message::delete(self.socket(id.netns)?, found.index).map_err(because(verb, id)),
            None => Ok(()),
        }
    }

    pub fn add_address(&mut self, wanted: &Address) -> Result<()> {
        let found = self.ours("add address to", &wanted.link)?;
        let object = format!("{} to {}", wanted.ip, wanted.link);
        address::add(self.socket(wanted.link.netns)?, found.index, wanted.ip).map_err(because("add address", object))
    }

    pub fn delete_address(&mut self, unwanted: &Address) -> Result<()> {
        let Some(found) = self.ours_if_there("delete address from", &unwanted.link)? else { return Ok(()) };
        let object = format!("{} from {}", unwanted.ip, unwanted.link);
        address::delete(self.socket(unwanted.link.netns)?, found.index, unwanted.ip)
            .map_err(because("delete address", object))
    }

    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let (verb, Route { link, destination, gateway }) = ("add route", route);
        if gateway.is_some_and(|gateway| destination.is_ipv4() != gateway.is_ipv4()) {
            return Err(conflict(verb, route, "destination and gateway are of different families"));
        }
        let found = self.ours("add route on", link)?;
        address::add_route(self.socket(link.netns)?, found.index, *destination, *gateway).map_err(because(verb, route))
    }

    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let Route { link, destination, gateway } = route;
        let Some(found) = self.ours_if_there("delete route on", link)? else { return Ok(()) };
        address::delete_route(self.socket(link.netns)?, found.index, *destination, *gateway)
            .map_err(because("delete route", route))
    }

    /// Tells the tunnel, or has it forget, what is on other nodes; one outcome for each step.
    pub fn apply_remote(&mut self, steps: &[&Step]) -> Vec<Result<()>> {
        let verb = "tell the tunnel";
        let index = match self.tunnel() {
            Ok(Some(found)) => found.index,
            Ok(None) => return steps.iter().map(|step| Err(conflict(verb, step, "there is no tunnel"))).collect(),
            Err(error) => {
                let reason = error.to_string();
                return steps.iter().map(|step| Err(conflict(verb, step, reason.clone()))).collect();
            }
        };
        let request = |step: &&Step| match step {
            Step::SetForwarding { mac, node } => remote::set_forwarding(index, *mac, *node),
            Step::DeleteForwarding { mac, node } => remote::delete_forwarding(index, *mac, *node),
            Step::SetNeighbour { ip, mac } => remote::set_neighbour(index, *ip, *mac),
            Step::DeleteNeighbour { ip } => remote::delete_neighbour(index, *ip),
            _ => Request { kind: 0, flags: 0, body: Vec::new() },
        };
        let requests: Vec<Request> = steps.iter().map(request).collect();
        let socket = match self.socket(Netns::Overlay) {
            Ok(socket) => socket,
            Err(_) => return steps.iter().map(|_| Err(Error::Closed(Netns::Overlay))).collect(),
        };
        let outcomes = socket.requests(&requests).into_iter();
        outcomes.zip(steps).map(|(outcome, step)| remote::forgiven(outcome).map_err(because(verb, step))).collect()
    }

    fn tunnel(&mut self) -> Result<Option<Found>> {
        self.find(&LinkId::new(Netns::Overlay, TUNNEL))
    }

    fn space(&mut self, netns: Netns) -> Result<&mut Space> {
        self.spaces.get_mut(&netns).ok_or(Error::Closed(netns))
    }

    fn socket(&mut self, netns: Netns) -> Result<&mut Socket> {
        Ok(&mut self.space(netns)?.socket)
    }

    fn file(&mut self, netns: Netns) -> Result<RawFd> {
        Ok(self.space(netns)?.file.as_raw_fd())
    }

    fn send(&mut self, verb: &'static str, id: &LinkId, netns: Netns, requests: &[Request]) -> Result<()> {
        message::send(self.socket(netns)?, requests).map_err(because(verb, id))
    }

    fn find(&mut self, id: &LinkId) -> Result<Option<Found>> {
        message::find(self.socket(id.netns)?, &id.name).map_err(because("look up link", id))
    }

    fn ours_if_there(&mut self, verb: &'static str, id: &LinkId) -> Result<Option<Found>> {
        match self.find(id)? {
            Some(found) if !is_ours(id.netns, &found) => Err(conflict(verb, id, "the link is not meshd's")),
            other => Ok(other),
        }
    }

    fn ours(&mut self, verb: &'static str, id: &LinkId) -> Result<Found> {
        self.ours_if_there(verb, id)?.ok_or_else(|| conflict(verb, id, "there is no such link"))
    }

    /// What the link is, in our words. What we have no word for, a link of another type or a tunnel that
    /// learns, comes out as what nobody wants: see [`observe::STRANGE`].
    fn kind_of(&mut self, netns: Netns, found: &Found) -> Result<LinkKind> {
        match &found.kind {
            Some(InfoKind::Bridge) => Ok(LinkKind::Bridge),
            Some(InfoKind::Veth) => self.veth_kind(netns, found),
            // Its socket may be in another namespace than ours.
            Some(InfoKind::Vxlan) => {
                let underlay = self.other_netns(netns, found)?;
                Ok(underlay.map_or(observe::STRANGE, |underlay| vxlan_kind(&found.vxlan, underlay)))
            }
            Some(InfoKind::Wireguard) => Ok(LinkKind::Wireguard),
            _ => Ok(observe::STRANGE),
        }
    }

    fn veth_kind(&mut self, netns: Netns, found: &Found) -> Result<LinkKind> {
        let (Some(other), Some(index)) = (self.other_netns(netns, found)?, found.other_end) else {
            return Ok(observe::STRANGE);
        };
        let end = message::find_index(self.socket(other)?, index)
            .map_err(because("look up the other end of", &found.name))?;
        Ok(end.map_or(observe::STRANGE, |end| LinkKind::Veth { peer: LinkId::new(other, end.name) }))
    }

    /// Which of our namespaces the link leads to; `None`: another one.
    fn other_netns(&mut self, netns: Netns, found: &Found) -> Result<Option<Netns>> {
        let Some(number) = found.other_netns else { return Ok(Some(netns)) };
        let others: Vec<(Netns, RawFd)> =
            self.spaces.iter().map(|(netns, space)| (*netns, space.file.as_raw_fd())).collect();
        for (other, file) in others {
            let known = message::number_of(self.socket(netns)?, file)
                .map_err(because("tell the number of namespace", other))?;
            if known == Some(number) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }
}

/// Whether we may change the link. In our own namespaces everything is ours.
fn is_ours(netns: Netns, found: &Found) -> bool {
    netns != Netns::Host || found.is_tagged()
}

fn vxlan_kind(settings: &[InfoVxlan], underlay: Netns) -> LinkKind {
    let (mut vni, mut port, mut local) = (0, 0, None);
    for setting in settings {
        match setting {
            InfoVxlan::Id(number) => vni = *number,
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Local(address) => local = Some((*address).into()),
            InfoVxlan::Local6(address) => local = Some((*address).into()),
            // With either of these a packet may go where we did not send it, or a question stay without an answer.
            InfoVxlan::Learning(true) | InfoVxlan::Proxy(false) | InfoVxlan::Group(_) | InfoVxlan::Group6(_) => {
                return observe::STRANGE;
            }
            _ => {}
        }
    }
    LinkKind::Vxlan { vni, port, local, underlay }
}

/// Brings up the link of that name in the socket's namespace.
pub(super) fn bring_up(socket: &mut Socket, name: &str) -> socket::Result<()> {
    match message::find(socket, name)? {
        Some(found) if !found.up => {
            message::send(socket, &changes(&found, &Settings { up: true, ..Settings::default() }))
        }
        Some(_) => Ok(()),
        None => Err(Errno::ENODEV.into()),
    }
}
