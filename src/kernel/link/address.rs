//! rtnetlink's messages about addresses and routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use nix::errno::Errno;

use super::super::socket::{Error, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Result, Socket};
use super::message::request;

// linux/rtnetlink.h
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// Adds the address, ready for use at once: nobody else has ours, so no duplicate is looked for (IPv6).
pub(super) fn add(socket: &mut Socket, index: u32, ip: IpNetwork) -> Result<()> {
    let adding = request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address(index, ip));
    match socket.request(adding.clone()) {
        // An IPv6 address has one prefix length, the one it came with; an IPv4 address may have several.
        Err(error) if error.is(Errno::EEXIST) => {
            match on(socket, index)?.into_iter().find(|other| other.ip() == ip.ip()) {
                Some(other) if other != ip && ip.is_ipv6() => {
                    delete(socket, index, other)?;
                    socket.request(adding)
                }
                Some(_) => Ok(()),
                None => Err(error),
            }
        }
        other => other,
    }
}

/// An address that is gone already is deleted.
pub(super) fn delete(socket: &mut Socket, index: u32, ip: IpNetwork) -> Result<()> {
    let others: Vec<IpNetwork> = match ip {
        IpNetwork::V4(_) => on(socket, index)?.into_iter().filter(|other| other.is_ipv4() && *other != ip).collect(),
        IpNetwork::V6(_) => Vec::new(),
    };
    match socket.request(request(RTM_DELADDR, 0, &address(index, ip))) {
        Err(error) if error.is(Errno::EADDRNOTAVAIL) || error.is(Errno::ENODEV) => return Ok(()),
        other => other?,
    }
    // With the first IPv4 address of a subnet the kernel takes the others of that subnet, unless told to
    // keep them (ip-sysctl, `promote_secondaries`).
    others.into_iter().try_for_each(|other| add(socket, index, other))
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub index: u32,
    pub ip: IpNetwork,
    /// Given by someone, for good. Not so what an interface gives itself, link-local or from a router's
    /// advertisement, or what DHCP lends.
    pub lasting: bool,
}

pub(super) fn all(socket: &mut Socket) -> Result<Vec<Held>> {
    let question = request(RTM_GETADDR, 0, &AddressMessage::default());
    socket.dump(&question, |kind, body| if kind == RTM_NEWADDR { read_address(body) } else { None })
}

/// The lasting addresses of one link.
pub(super) fn on(socket: &mut Socket, index: u32) -> Result<BTreeSet<IpNetwork>> {
    Ok(all(socket)?.into_iter().filter(|held| held.index == index && held.lasting).map(|held| held.ip).collect())
}

fn address(index: u32, ip: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(&ip.ip());
    message.header.prefix_len = ip.prefix();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(ip.ip()), AddressAttribute::Address(ip.ip())];
    if ip.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn read_address(body: &[u8]) -> Option<Held> {
    let message = AddressMessage::parse(body).ok()?;
    let (mut local, mut other, mut permanent) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            // The same as the local one but on a point-to-point link; alone for IPv6.
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Flags(flags) => permanent = flags.contains(AddressFlags::Permanent),
            _ => {}
        }
    }
    let ip = local.or(other)?;
    let lasting = permanent && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    Some(Held { index: message.header.index, ip: IpNetwork::new(ip, message.header.prefix_len).ok()?, lasting })
}

/// A unicast route of the main table.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// `None`: by several links.
    pub index: Option<u32>,
    pub destination: IpNetwork,
    pub gateway: Option<IpAddr>,
    pub protocol: RouteProtocol,
}

/// Adds the route; one to the same destination gives way.
pub(super) fn add_route(
    socket: &mut Socket,
    index: u32,
    destination: IpNetwork,
    gateway: Option<IpAddr>,
) -> Result<()> {
    let mut message = route(index, destination, gateway);
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    socket.request(request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message))
}

/// A route that is gone already is deleted.
pub(super) fn delete_route(
    socket: &mut Socket,
    index: u32,
    destination: IpNetwork,
    gateway: Option<IpAddr>,
) -> Result<()> {
    let mut message = route(index, destination, gateway);
    // Of whatever scope.
    message.header.scope = RouteScope::NoWhere;
    match socket.request(request(RTM_DELROUTE, 0, &message)) {
        Err(error) if error.is(Errno::ESRCH) || error.is(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

pub(super) fn routes(socket: &mut Socket) -> Result<Vec<Way>> {
    let question = request(RTM_GETROUTE, 0, &RouteMessage::default());
    socket.dump(&question, |kind, body| if kind == RTM_NEWROUTE { read_route(body) } else { None })
}

/// The index of the link by which packets to that address leave, and the size that the path is known to carry, if it is
/// less than the link does; `None` where no route leads there.
pub(super) fn way_to(socket: &mut Socket, address: IpAddr) -> Result<Option<(u32, Option<u32>)>> {
    let mut question = RouteMessage::default();
    question.header.address_family = family(&address);
    question.header.destination_prefix_length = IpNetwork::from(address).prefix();
    question.attributes.push(RouteAttribute::Destination(address.into()));
    let reply = match socket.get(request(RTM_GETROUTE, 0, &question)) {
        Ok(reply) => reply,
        Err(error) if error.is(Errno::ENETUNREACH) || error.is(Errno::EHOSTUNREACH) => return Ok(None),
        Err(error) => return Err(error),
    };
    read_way_to(&reply.body)
}

fn read_way_to(body: &[u8]) -> Result<Option<(u32, Option<u32>)>> {
    let answer = RouteMessage::parse(body).map_err(|_| Error::Malformed("a route"))?;
    let index = answer.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let metrics = answer.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    let mtu = metrics.flatten().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Ok(index.map(|index| (index, mtu)))
}

fn route(index: u32, destination: IpNetwork, gateway: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(&destination.ip());
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        // The kernel refuses a destination with bits beyond its prefix.
        RouteAttribute::Destination(destination.network().into()),
        RouteAttribute::Oif(index),
    ];
    message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message
}

fn read_route(body: &[u8]) -> Option<Way> {
    let message = RouteMessage::parse(body).ok()?;
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut table, mut destination, mut gateway, mut index) = (u32::from(header.table), any, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::Oif(number) => index = Some(*number),
            _ => {}
        }
    }
    // A cloned route is what IPv6 remembers of one destination.
    if table != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.kind != RouteType::Unicast
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
    Some(Way { index, destination, gateway, protocol: header.protocol })
}

/// For `replies`.
pub(super) fn read_any(body: &[u8]) {
    let _ = read_address(body);
}

pub(super) fn read_any_route(body: &[u8]) {
    let _ = (read_route(body), read_way_to(body));
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn family(address: &IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
