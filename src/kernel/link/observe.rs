//! What is there: our links, addresses, routes and legs in all namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_route::link::InfoKind;
use netlink_packet_route::route::RouteProtocol;

use super::message::Found;
use super::{Links, Result, address, because, leg, message, remote};
use crate::objects::{Address, Leg, Link, LinkId, LinkKind, Mac, Netns, NetnsRef, Route, TUNNEL};

/// A kind that equals none that is wanted: such a link is to be made anew.
pub(super) const STRANGE: LinkKind = LinkKind::Vxlan { vni: 0, port: 0, local: None, underlay: Netns::Host };

/// The links that a namespace may be born with, once the module of such tunnels is loaded.
const FALLBACK: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// Our part of what is there (the fields are those of `Objects`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub links: BTreeMap<LinkId, Link>,
    pub addresses: BTreeSet<Address>,
    pub routes: BTreeSet<Route>,
    pub legs: BTreeMap<Mac, Leg>,
    pub forwarding: BTreeMap<Mac, IpAddr>,
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

impl Links {
    /// All that is ours in the namespaces entered. A leg is looked for in the namespace that `backends` has
    /// for its MAC.
    pub fn observe(&mut self, backends: &BTreeMap<Mac, NetnsRef>) -> Result<Seen> {
        let mut seen = Seen::default();
        for netns in self.spaces.keys().copied().collect::<Vec<_>>() {
            let all = message::all(self.socket(netns)?).map_err(because("list links of", netns))?;
            let ours: Vec<&Found> = all.iter().filter(|found| is_part(netns, found)).collect();
            let name = |index: u32| all.iter().find(|found| found.index == index).map(|found| found.name.clone());
            for found in &ours {
                let link = Link {
                    kind: self.kind_of(netns, found)?,
                    mac: found.mac,
                    mtu: found.mtu,
                    master: found.master.and_then(name),
                    isolated: found.isolated,
                    up: found.up,
                };
                seen.links.insert(LinkId::new(netns, &found.name), link);
            }
            self.observe_addresses(netns, &ours, &mut seen)?;
            if netns != Netns::Host {
                self.observe_routes(netns, &ours, &mut seen)?;
            }
            if netns == Netns::Overlay {
                seen.legs = self.observe_legs(&all, backends)?;
                let tunnel = all.iter().find(|found| found.name == TUNNEL).map(|found| found.index);
                if let Some(index) = tunnel {
                    let because = |error| because("list what is known of other nodes by", TUNNEL)(error);
                    let socket = self.socket(netns)?;
                    seen.forwarding = remote::forwarding(socket, index).map_err(because)?;
                    seen.neighbours = remote::neighbours(socket, index).map_err(because)?;
                }
            }
        }
        Ok(seen)
    }

    fn observe_addresses(&mut self, netns: Netns, ours: &[&Found], seen: &mut Seen) -> Result<()> {
        let all = address::all(self.socket(netns)?).map_err(because("list addresses of", netns))?;
        seen.addresses.extend(all.into_iter().filter(|held| held.lasting).filter_map(|held| {
            let found = ours.iter().find(|found| found.index == held.index)?;
            Some(Address { link: LinkId::new(netns, &found.name), ip: held.ip })
        }));
        Ok(())
    }

    fn observe_routes(&mut self, netns: Netns, ours: &[&Found], seen: &mut Seen) -> Result<()> {
        let all = address::routes(self.socket(netns)?).map_err(because("list routes of", netns))?;
        seen.routes.extend(all.into_iter().filter_map(|way| {
            // What the kernel, an ICMP redirect or a router's advertisement put there is not an operator's.
            if matches!(way.protocol, RouteProtocol::Kernel | RouteProtocol::IcmpRedirect | RouteProtocol::Ra) {
                return None;
            }
            let found = ours.iter().find(|found| Some(found.index) == way.index)?;
            Some(Route { link: LinkId::new(netns, &found.name), destination: way.destination, gateway: way.gateway })
        }));
        Ok(())
    }
}

/// Whether it is a leg of a backend that someone else attached to the overlay.
fn is_attached(found: &Found) -> bool {
    found.kind == Some(InfoKind::Veth) && !found.is_tagged()
}

/// Whether the link stands among `Objects::links` of that namespace.
fn is_part(netns: Netns, found: &Found) -> bool {
    match netns {
        // Whatever its name: an older configuration may have called its bridge otherwise.
        Netns::Host => found.is_tagged(),
        // Hardware that was put there, and the loopback, have no kind and cannot be deleted.
        Netns::Sandbox | Netns::Overlay => {
            let is_leg = netns == Netns::Overlay && (leg::mac_of_port(&found.name).is_some() || is_attached(found));
            found.kind.is_some() && !FALLBACK.contains(&found.name.as_str()) && !is_leg
        }
    }
}
