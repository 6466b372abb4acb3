//! Links and what hangs on them.

use std::net::IpAddr;

use super::{Outcome, exists, require};
use crate::objects::{Address, Leg, Link, LinkId, LinkKind, Mac, Netns, Objects, Route, TUNNEL, WIREGUARD, Wireguard};
use crate::plan::Step;

/// What the kernel gives a link that is told none, until a step says better.
const RANDOM: Mac = Mac([0xee; 6]);
/// The name of the bridge that legs are ports of.
const OVERLAY_BRIDGE: &str = "br0";

pub(super) fn named(objects: &Objects, netns: Netns, name: &str) -> Outcome {
    let there = objects.links.contains_key(&LinkId::new(netns, name));
    require(there, || format!("there is no link {name} in {netns}"))
}

pub(super) fn add(objects: &mut Objects, id: LinkId, link: Link) -> Outcome {
    exists(objects, id.netns)?;
    if let Some(seen) = objects.links.get(&id) {
        return require(seen.kind == link.kind, || format!("link {id} exists, as {}", seen.kind));
    }
    let made = Link { master: None, isolated: false, up: false, ..link };
    match &made.kind {
        LinkKind::Bridge => {}
        LinkKind::Wireguard => objects.wireguard = Some(Wireguard::default()),
        LinkKind::Veth { peer } => {
            exists(objects, peer.netns)?;
            require(!objects.links.contains_key(peer), || format!("the other end, {peer}, exists already"))?;
            let far = Link { kind: LinkKind::Veth { peer: id.clone() }, mac: RANDOM, ..made.clone() };
            objects.links.insert(peer.clone(), far);
        }
        LinkKind::Vxlan { vni, port, underlay, .. } => {
            let wanted = (vni, port, underlay);
            let same = |kind: &LinkKind| matches!(kind, LinkKind::Vxlan { vni, port, underlay, .. } if (vni, port, underlay) == wanted);
            let taken = objects.links.values().any(|other| same(&other.kind));
            require(!taken, || format!("the VXLAN identifier {vni} is in use"))?;
        }
    }
    objects.links.insert(id, made);
    Ok(())
}

/// Sets what can be set; the kind is what the link was made as.
pub(super) fn set(objects: &mut Objects, id: LinkId, link: Link) -> Outcome {
    named(objects, id.netns, &id.name)?;
    if let Some(name) = &link.master {
        let bridge = objects.links.get(&LinkId::new(id.netns, name.as_str()));
        let there = bridge.is_some_and(|bridge| bridge.kind == LinkKind::Bridge);
        require(there, || format!("there is no bridge {name} in {}", id.netns))?;
    }
    if let Some(seen) = objects.links.get_mut(&id) {
        *seen = Link { kind: seen.kind.clone(), ..link };
    }
    Ok(())
}

/// Of a veth both ends; with a bridge its ports lose it.
pub(super) fn delete(objects: &mut Objects, id: &LinkId) {
    let Some(link) = objects.links.remove(id) else { return };
    objects.addresses.retain(|address| address.link != *id);
    objects.routes.retain(|route| route.link != *id);
    objects.sysctls.retain(|(netns, name), _| *netns != id.netns || !name.split('/').any(|part| part == id.name));
    for (_, port) in objects.links.iter_mut().filter(|(port, _)| port.netns == id.netns) {
        if port.master.as_ref() == Some(&id.name) {
            (port.master, port.isolated) = (None, false);
        }
    }
    if let Some(flows) = objects.tables.get_mut(&id.netns).and_then(|table| table.flows.as_mut()) {
        flows.remove(&id.name);
    }
    if *id == LinkId::new(Netns::Overlay, OVERLAY_BRIDGE) {
        // As observing shows a leg that is half broken.
        objects.legs.values_mut().for_each(|leg| leg.mtu = 0);
    }
    if *id == LinkId::new(Netns::Overlay, TUNNEL) {
        objects.forwarding.clear();
        objects.neighbours.clear();
    }
    if link.kind == LinkKind::Wireguard {
        objects.wireguard = None;
    }
    if let LinkKind::Veth { peer } = link.kind {
        delete(objects, &peer);
    }
}

fn tunnel(objects: &Objects) -> Outcome {
    named(objects, Netns::Overlay, TUNNEL)
}

/// A step about the WireGuard link. An address is behind one peer: who is told it last has it.
pub(super) fn wireguard(objects: &mut Objects, step: &Step) -> Outcome {
    named(objects, Netns::Overlay, WIREGUARD)?;
    let told = objects.wireguard.get_or_insert_default();
    match step {
        Step::SetWireguard { key, port } => (told.key, told.port) = (*key, *port),
        Step::SetWireguardPeer { key, peer } => {
            told.peers.values_mut().for_each(|other| other.allowed.retain(|network| !peer.allowed.contains(network)));
            told.peers.insert(*key, peer.clone());
        }
        Step::DeleteWireguardPeer { key } => drop(told.peers.remove(key)),
        _ => {}
    }
    Ok(())
}

pub(super) fn set_forwarding(objects: &mut Objects, mac: Mac, node: IpAddr) -> Outcome {
    tunnel(objects)?;
    objects.forwarding.insert(mac, node);
    Ok(())
}

pub(super) fn set_neighbour(objects: &mut Objects, ip: IpAddr, mac: Mac) -> Outcome {
    tunnel(objects)?;
    objects.neighbours.insert(ip, mac);
    Ok(())
}

pub(super) fn add_address(objects: &mut Objects, address: Address) -> Outcome {
    named(objects, address.link.netns, &address.link.name)?;
    objects.addresses.insert(address);
    Ok(())
}

/// With an IPv4 address the others of its subnet go, unless the namespace promotes them (ip-sysctl,
/// `promote_secondaries`). Which came first is not remembered here, so they always go.
pub(super) fn delete_address(objects: &mut Objects, address: &Address) {
    if !objects.addresses.remove(address) {
        return;
    }
    let promote = (address.link.netns, "net/ipv4/conf/all/promote_secondaries".to_owned());
    if address.ip.is_ipv4() && objects.sysctls.get(&promote).map(String::as_str) != Some("1") {
        let same =
            |ip: ipnetwork::IpNetwork| ip.prefix() == address.ip.prefix() && ip.network() == address.ip.network();
        objects.addresses.retain(|other| other.link != address.link || !same(other.ip));
    }
}

/// One to the same destination gives way.
pub(super) fn add_route(objects: &mut Objects, route: Route) -> Outcome {
    named(objects, route.link.netns, &route.link.name)?;
    if let Some(gateway) = route.gateway {
        let mut near = objects.addresses.iter().filter(|address| address.link == route.link);
        require(near.any(|address| address.ip.contains(gateway)), || format!("gateway {gateway} is unreachable"))?;
    }
    let rival = |other: &Route| other.link.netns == route.link.netns && other.destination == route.destination;
    objects.routes.retain(|other| !rival(other));
    objects.routes.insert(route);
    Ok(())
}

pub(super) fn add_leg(objects: &mut Objects, mac: Mac, leg: Leg) -> Outcome {
    named(objects, Netns::Overlay, OVERLAY_BRIDGE)?;
    require(leg.netns.is_some(), || format!("the namespace of leg {mac} is not known"))?;
    objects.legs.insert(mac, leg);
    Ok(())
}
