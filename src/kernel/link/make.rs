//! The requests that make links.

use std::net::IpAddr;
use std::os::fd::RawFd;

use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo,
};

use super::super::socket::{NLM_F_CREATE, NLM_F_EXCL, Request};
use super::message::{RTM_NEWLINK, message, named, request, tag};
use crate::objects::{Link, LinkId, Mac};

/// A bridge that forwards at once, speaks no spanning tree, and floods multicast like any switch: snooping
/// would hold back the neighbour discovery of a port that it has not heard yet.
pub(super) fn bridge(id: &LinkId, link: &Link) -> [Request; 3] {
    let settings = vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(false),
    ];
    // A bridge's MTU follows its ports' until one is set, and to set the one that it has does not count.
    let attributes = first(&id.name, Some(link.mac), link.mtu.saturating_sub(1));
    let mtu = message(0, vec![named(&id.name), LinkAttribute::Mtu(link.mtu)]);
    [create(attributes, InfoKind::Bridge, InfoData::Bridge(settings)), tag(&id.name), request(RTM_NEWLINK, 0, &mtu)]
}

/// Both ends of a veth, each with what it has from the start; the far one's namespace is another.
pub(super) fn veth(near: Vec<LinkAttribute>, mut far: Vec<LinkAttribute>, netns: RawFd) -> Request {
    far.push(LinkAttribute::NetNsFd(netns));
    create(near, InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(message(0, far))))
}

/// A tunnel without a remote end and without learning: it sends where its forwarding entries say, and answers for those
/// whom its neighbour entries know.
pub(super) fn vxlan(id: &LinkId, link: &Link, (vni, port, local): (u32, u16, Option<IpAddr>), netns: RawFd) -> Request {
    let mut settings =
        vec![InfoVxlan::Id(vni), InfoVxlan::Port(port), InfoVxlan::Learning(false), InfoVxlan::Proxy(true)];
    settings.extend(local.map(|local| match local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    }));
    let mut attributes = first(&id.name, Some(link.mac), link.mtu);
    attributes.push(LinkAttribute::NetNsFd(netns));
    create(attributes, InfoKind::Vxlan, InfoData::Vxlan(settings))
}

/// Has no address of its own: it carries packets, not frames.
pub(super) fn wireguard(id: &LinkId, link: &Link, netns: RawFd) -> Request {
    let mut attributes = first(&id.name, None, link.mtu);
    attributes
        .extend([LinkAttribute::NetNsFd(netns), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)])]);
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message(0, attributes))
}

/// What a link has from the start.
pub(super) fn first(name: &str, mac: Option<Mac>, mtu: u32) -> Vec<LinkAttribute> {
    let mut attributes = vec![named(name), LinkAttribute::Mtu(mtu)];
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes
}

fn create(mut attributes: Vec<LinkAttribute>, kind: InfoKind, data: InfoData) -> Request {
    attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message(0, attributes))
}
