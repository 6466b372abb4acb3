//! rtnetlink's messages about links: what is asked of one namespace, and what is read of its answers.

use std::os::fd::RawFd;

use netlink_packet_core::{Emitable, NlasIterator, Parseable, ParseableParametrized};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVxlan, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;

use super::super::socket::{Error, Request, Result, Socket};
use super::TAG;
use crate::objects::Mac;

// linux/rtnetlink.h
pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_GETNSID: u16 = 90;

/// `struct ifinfomsg`, before a link's attributes.
const LINK_HEADER: usize = 16;

/// A link as the kernel tells it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    /// Carries Ethernet's frames.
    pub ethernet: bool,
    /// `None` for hardware and the loopback.
    pub kind: Option<InfoKind>,
    pub vxlan: Vec<InfoVxlan>,
    /// Of a veth: its other end's index in that end's namespace.
    pub other_end: Option<u32>,
    /// The namespace of the other end, or of a tunnel's socket, by the number it has here; `None`: here.
    pub other_netns: Option<i32>,
    pub master: Option<u32>,
    pub isolated: bool,
    pub alias: Option<String>,
}

impl Found {
    pub fn is_tagged(&self) -> bool {
        self.alias.as_deref() == Some(TAG)
    }

    /// Reads attribute by attribute: one that is not understood, on whatever link of whoever, hides no other.
    fn parse(body: &[u8]) -> Option<Found> {
        let header = LinkHeader::parse(body).ok()?;
        let mut found = Found {
            index: header.index,
            name: String::new(),
            mac: Mac([0; 6]),
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            ethernet: header.link_layer_type == LinkLayerType::Ether,
            kind: None,
            vxlan: Vec::new(),
            other_end: None,
            other_netns: None,
            master: None,
            isolated: false,
            alias: None,
        };
        for attribute in NlasIterator::new(body.get(LINK_HEADER..)?).map_while(std::result::Result::ok) {
            match LinkAttribute::parse_with_param(&attribute, header.interface_family) {
                Ok(LinkAttribute::IfName(name)) => found.name = name,
                Ok(LinkAttribute::Address(bytes)) => found.mac = Mac(bytes.try_into().unwrap_or_default()),
                Ok(LinkAttribute::Mtu(mtu)) => found.mtu = mtu,
                Ok(LinkAttribute::Link(index)) => found.other_end = Some(index),
                Ok(LinkAttribute::LinkNetNsId(id)) => found.other_netns = Some(id),
                Ok(LinkAttribute::Controller(index)) => found.master = Some(index),
                Ok(LinkAttribute::IfAlias(alias)) => found.alias = Some(alias),
                Ok(LinkAttribute::LinkInfo(info)) => found.read_info(info),
                _ => {}
            }
        }
        (!found.name.is_empty()).then_some(found)
    }

    fn read_info(&mut self, info: Vec<LinkInfo>) {
        for part in info {
            match part {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::Data(InfoData::Vxlan(vxlan)) => self.vxlan = vxlan,
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                    self.isolated = port.contains(&InfoBridgePort::Isolated(true));
                }
                _ => {}
            }
        }
    }
}

/// A request with that message as its body.
pub(super) fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut body);
    Request { kind, flags, body }
}

/// A message about the link with that index, or, by a name among the attributes, with index 0.
pub(super) fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

pub(super) fn named(name: &str) -> LinkAttribute {
    LinkAttribute::IfName(name.to_owned())
}

/// Marks the link of that name as ours.
///
/// The kernel takes no alias when it makes a link. Sent together with the request that makes it, this one
/// is carried out in the same system call, so no crash comes between them.
pub(super) fn tag(name: &str) -> Request {
    request(RTM_SETLINK, 0, &message(0, vec![named(name), LinkAttribute::IfAlias(TAG.to_owned())]))
}

/// What a link is to be like. `None`: let it be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// The bridge's index; 0: none.
    pub master: Option<u32>,
    pub isolated: bool,
    pub up: bool,
}

/// The requests that lead from what is found to what is wanted; none if they are the same.
pub(super) fn changes(found: &Found, wanted: &Settings) -> Vec<Request> {
    let differs = |wanted: Option<u32>, found: u32| wanted.filter(|wanted| *wanted != found);
    let master = differs(wanted.master, found.master.unwrap_or(0));
    let mut attributes = Vec::new();
    attributes.extend(wanted.mac.filter(|mac| *mac != found.mac).map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(differs(wanted.mtu, found.mtu).map(LinkAttribute::Mtu));
    attributes.extend(master.map(LinkAttribute::Controller));

    let mut requests = Vec::new();
    if !attributes.is_empty() || wanted.up != found.up {
        let mut message = message(found.index, attributes);
        message.header.change_mask = LinkFlags::Up;
        message.header.flags.set(LinkFlags::Up, wanted.up);
        requests.push(request(RTM_NEWLINK, 0, &message));
    }
    // A port begins not isolated on each bridge that it comes to; what is no port has no such setting.
    let isolated = found.isolated && master.is_none();
    if wanted.master.is_some_and(|index| index != 0) && wanted.isolated != isolated {
        let port = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(wanted.isolated)]);
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(port)]);
        requests.push(request(RTM_NEWLINK, 0, &message(found.index, vec![info])));
    }
    requests
}

/// Sends all of them, and tells the first that failed.
pub(super) fn send(socket: &mut Socket, requests: &[Request]) -> Result<()> {
    socket.requests(requests).into_iter().collect()
}

/// The link of that name, or with that as its other name (ip-link(8), `altname`).
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Found>> {
    get(socket, message(0, vec![named(name)]))
}

pub(super) fn find_index(socket: &mut Socket, index: u32) -> Result<Option<Found>> {
    get(socket, message(index, Vec::new()))
}

fn get(socket: &mut Socket, mut message: LinkMessage) -> Result<Option<Found>> {
    message.attributes.push(without_statistics());
    match socket.get(request(RTM_GETLINK, 0, &message)) {
        Ok(reply) => Found::parse(&reply.body).map(Some).ok_or(Error::Malformed("a link without a name")),
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn all(socket: &mut Socket) -> Result<Vec<Found>> {
    let question = request(RTM_GETLINK, 0, &message(0, vec![without_statistics()]));
    socket.dump(&question, |kind, body| if kind == RTM_NEWLINK { Found::parse(body) } else { None })
}

/// Counters are most of an answer's bytes.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// A link that is gone already is deleted.
pub(super) fn delete(socket: &mut Socket, index: u32) -> Result<()> {
    match socket.request(request(RTM_DELLINK, 0, &message(index, Vec::new()))) {
        Err(error) if error.is(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// The number that the socket's namespace has for another one; none before a link leads there.
pub(super) fn number_of(socket: &mut Socket, netns: RawFd) -> Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.header.family = AddressFamily::Unspec;
    question.attributes.push(NsidAttribute::Fd(netns as u32));
    let reply = socket.get(request(RTM_GETNSID, 0, &question))?;
    read_number(&reply.body)
}

fn read_number(body: &[u8]) -> Result<Option<i32>> {
    let answer = NsidMessage::parse(body).map_err(|_| Error::Malformed("a namespace's number"))?;
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    }))
}

/// For `replies`.
pub(super) fn read_any(body: &[u8]) {
    let _ = (Found::parse(body), read_number(body));
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::DefaultNla;

    use super::*;

    #[test]
    fn a_link_is_read_whatever_stands_beside_what_we_know() {
        // IFLA_MTU and IFLA_LINKINFO, which cannot be that short.
        let torn = [4, 18].map(|kind| LinkAttribute::Other(DefaultNla::new(kind, vec![1])));
        let later = LinkAttribute::Other(DefaultNla::new(999, vec![1, 2, 3]));
        let known =
            [named("eth0"), LinkAttribute::Address(vec![2, 1, 0, 0, 0, 9]), LinkAttribute::IfAlias("meshd".to_owned())];
        let body = request(RTM_NEWLINK, 0, &message(7, torn.into_iter().chain([later]).chain(known).collect())).body;
        let found = Found::parse(&body).unwrap();
        assert_eq!((found.index, found.name.as_str(), found.mac), (7, "eth0", Mac([2, 1, 0, 0, 0, 9])));
        assert!(found.is_tagged() && found.kind.is_none() && found.mtu == 0);
        for length in 0..body.len() {
            let _ = Found::parse(&body[..length]);
        }
    }

    #[test]
    fn only_differences_are_asked_for() {
        let body = request(RTM_NEWLINK, 0, &message(7, vec![named("eth0"), LinkAttribute::Mtu(1450)])).body;
        let found = Found::parse(&body).unwrap();
        let count = |wanted| changes(&found, &wanted).len();
        let same = Settings { mac: Some(Mac([0; 6])), mtu: Some(1450), master: Some(0), isolated: false, up: false };
        assert_eq!(count(same), 0);
        assert_eq!(count(Settings::default()), 0);
        assert_eq!(count(Settings { up: true, ..same }), 1);
        assert_eq!(count(Settings { master: Some(3), ..same }), 1);
        assert_eq!(count(Settings { master: Some(3), isolated: true, ..same }), 2);
    }
}
