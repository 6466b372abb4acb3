//! The host's part: published ports lead into the sandbox, whatever their number, by one look-up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::mesh::Mesh;
use crate::objects::{
    Action, Chain, ChainKind, Family, Hook, Map, MapKind, MapValue, Match, Netns, Objects, Rule, Surroundings, Table,
};

use super::topology::gateway_addresses;
use super::{access, flows, serves, speaks_v6, tunnel};

/// The kernel's NF_IP_PRI_NAT_DST. nft knows it by the name dstnat, but not in the output hook.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// The node's own sources that mean nothing in the sandbox.
const LOOPBACK: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LINK_LOCAL: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10);

pub(super) fn lower(mesh: &Mesh, surroundings: &Surroundings, objects: &mut Objects) {
    let v6 = speaks_v6(mesh);
    let mut table = Table { maps: maps(mesh, v6), chains: chains(mesh, v6), ..Table::default() };
    tunnel::lower(mesh, &mut table);
    access::lower(mesh, &mut table);
    flows::lower(mesh, surroundings, &mut table);
    objects.tables.insert(Netns::Host, table);
    if mesh.gateway.open_forward {
        let met = surroundings.forward_drops.iter().filter(|chain| v6 || chain.family != "ip6");
        objects.openings.extend(met.cloned());
    }

    let mut set = |name: String, value: &str| objects.sysctls.insert((Netns::Host, name), value.to_owned());
    set("net/ipv4/ip_forward".to_owned(), "1");
    // 127.0.0.1 may leave by this one link, so that published ports answer there too.
    set(format!("net/ipv4/conf/{}/route_localnet", mesh.gateway.link()), "1");
    if v6 {
        set("net/ipv6/conf/all/forwarding".to_owned(), "1");
        // A host that forwards ignores router advertisements, and would lose its default route, unless told 2.
        for link in &surroundings.accept_ra {
            set(format!("net/ipv6/conf/{link}/accept_ra"), "2");
        }
    }
}

/// The map of single ports of a family, and that of ranges.
pub fn map_names(family: Family) -> [(&'static str, bool); 2] {
    match family {
        Family::V4 => [("published4", false), ("ranges4", true)],
        Family::V6 => [("published6", false), ("ranges6", true)],
    }
}

fn maps(mesh: &Mesh, v6: bool) -> BTreeMap<String, Map> {
    let sandbox: Vec<IpAddr> = gateway_addresses(&mesh.gateway, v6).iter().map(|(_, sandbox)| sandbox.ip()).collect();
    let mut maps = BTreeMap::new();
    for family in Family::ALL {
        for (name, ranges) in map_names(family) {
            let mut map = Map { kind: MapKind::Address(family), ranges, elements: BTreeMap::new() };
            if let Some(sandbox) = sandbox.iter().find(|address| Family::of(address) == family) {
                let published =
                    mesh.ports().filter(|port| serves(mesh, port, family) && port.published.is_single() != ranges);
                map.elements.extend(published.map(|port| (port.published, MapValue::Address(*sandbox))));
            }
            maps.insert(name.to_owned(), map);
        }
    }
    maps
}

/// `fib daddr type local dnat to <the sandbox> if the port is published`, for both families.
fn publish() -> impl Iterator<Item = Rule> {
    Family::ALL.into_iter().flat_map(|family| {
        map_names(family).map(|(map, _)| {
            let to = Action::DnatFrom { map: map.to_owned(), family };
            Rule::new([Match::Family(family), Match::DestinationLocal], to)
        })
    })
}

fn chains(mesh: &Mesh, v6: bool) -> BTreeMap<String, Chain> {
    let link = mesh.gateway.link();
    let nat = |hook, priority, rules| Chain::base(ChainKind::Nat, hook, priority, rules);

    // What comes out of the sandbox goes where it says: a backend on this host whose own port is published
    // as well would otherwise be led back in.
    let from_sandbox = Rule::new([Match::InterfaceIn(link.to_owned())], Action::Return);
    let prerouting = std::iter::once(from_sandbox).chain(access::bound(true)).chain(publish()).collect();

    // The node's own connections. IPv6 has no route_localnet: to [::1] a published port is simply closed.
    let loopback6 = Rule::new([Match::DestinationIn(IpNetwork::from(IpAddr::V6(Ipv6Addr::LOCALHOST)))], Action::Return);
    let output = std::iter::once(loopback6).chain(access::bound(false)).chain(publish()).collect();

    // What comes from addresses that are good on one link or on none enters the sandbox from the link's address, since
    // else there would be no way back; what the sandbox sends to the world leaves from the host's address.
    let own = [LOOPBACK, LINK_LOCAL].map(|(ip, prefix)| {
        let network = IpNetwork::new(ip, prefix).unwrap_or(IpNetwork::from(ip));
        Rule::new([Match::InterfaceOut(link.to_owned()), Match::SourceIn(network)], Action::Masquerade)
    });
    let leaving = gateway_addresses(&mesh.gateway, v6).into_iter().map(|(host_ip, _)| {
        let subnet = IpNetwork::new(host_ip.network(), host_ip.prefix()).unwrap_or(host_ip);
        Rule::new([Match::SourceIn(subnet), Match::NotInterfaceOut(link.to_owned())], Action::Masquerade)
    });
    let postrouting = own.into_iter().chain(leaving).collect();

    BTreeMap::from([
        ("prerouting".to_owned(), nat(Hook::Prerouting, DSTNAT, prerouting)),
        ("output".to_owned(), nat(Hook::Output, DSTNAT, output)),
        ("postrouting".to_owned(), nat(Hook::Postrouting, SRCNAT, postrouting)),
    ])
}
