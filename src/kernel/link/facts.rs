//! Facts about the host that the checks at start need.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::link::InfoKind;

use super::{Links, Result, address, because, is_ours, message};
use crate::objects::{LinkId, Netns};

impl Links {
    /// The names of all links of a namespace.
    pub fn names(&mut self, netns: Netns) -> Result<BTreeSet<String>> {
        let all = message::all(self.socket(netns)?).map_err(because("list links of", netns))?;
        Ok(all.into_iter().map(|found| found.name).collect())
    }

    /// Whether there is such a link of WireGuard's, in a namespace that is entered.
    pub fn is_wireguard(&mut self, id: &LinkId) -> Result<bool> {
        let found = if self.spaces.contains_key(&id.netns) { self.find(id)? } else { None };
        Ok(found.is_some_and(|found| found.kind == Some(InfoKind::Wireguard)))
    }

    /// Whether the host has a link of that name that is not ours: we could neither use nor replace it.
    pub fn is_foreign(&mut self, name: &str) -> Result<bool> {
        let found = message::find(self.socket(Netns::Host)?, name).map_err(because("look up link", name))?;
        Ok(found.is_some_and(|found| !is_ours(Netns::Host, &found)))
    }

    /// The destinations of the host's main table and the link of each (empty: several), but for links of ours. Not the
    /// default routes, which lead everywhere, and not IPv6's link-local ones, which every link has.
    pub fn host_routes(&mut self) -> Result<Vec<(IpNetwork, String)>> {
        let socket = self.socket(Netns::Host)?;
        let routes = address::routes(socket).map_err(because("list routes of", Netns::Host))?;
        let links = message::all(socket).map_err(because("list links of", Netns::Host))?;
        let name =
            |index: Option<u32>| links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone());
        let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let telling =
            routes.into_iter().filter(|way| way.destination.prefix() > 0 && !link_local(way.destination.ip()));
        let ours = |index: Option<u32>| links.iter().any(|link| Some(link.index) == index && link.is_tagged());
        let theirs = telling.filter(|way| !ours(way.index));
        Ok(theirs.map(|way| (way.destination, name(way.index).unwrap_or_default())).collect())
    }

    /// The host's addresses, with their prefix lengths.
    pub fn host_addresses(&mut self) -> Result<BTreeSet<IpNetwork>> {
        let all = address::all(self.socket(Netns::Host)?).map_err(because("list addresses of", Netns::Host))?;
        Ok(all.into_iter().map(|held| held.ip).collect())
    }

    /// The host's links that are up and have addresses that are good beyond them, but for the loopback, ours, and those that carry no
    /// frames: clients come in by them. Not a bridge's ports: it is the bridge that has the address.
    pub fn uplinks(&mut self) -> Result<BTreeSet<String>> {
        let socket = self.socket(Netns::Host)?;
        let links = message::all(socket).map_err(because("list links of", Netns::Host))?;
        let held = address::all(socket).map_err(because("list addresses of", Netns::Host))?;
        let local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let held: BTreeSet<u32> = held.iter().filter(|held| !local(held.ip.ip())).map(|held| held.index).collect();
        let good = |link: &message::Found| link.ethernet && link.up && link.master.is_none() && !link.is_tagged();
        let theirs = links.into_iter().filter(good);
        Ok(theirs.filter(|link| held.contains(&link.index)).map(|link| link.name).collect())
    }

    /// Bytes that the path to that address carries, as far as the host knows; `None` where no route leads there.
    pub fn path_mtu(&mut self, address: IpAddr) -> Result<Option<u32>> {
        let verb = "tell the path MTU towards";
        let socket = self.socket(Netns::Host)?;
        let Some((index, known)) = address::way_to(socket, address).map_err(because(verb, address))? else {
            return Ok(None);
        };
        let link = message::find_index(socket, index).map_err(because(verb, address))?;
        Ok(link.map(|link| known.map_or(link.mtu, |known| known.min(link.mtu))))
    }

    /// The MTU of the host's link that holds that address, or else leads to it; `None` if none does.
    pub fn underlay_mtu(&mut self, address: IpAddr) -> Result<Option<u32>> {
        Ok(self.underlay(address)?.map(|(_, mtu)| mtu))
    }

    /// That link's name and MTU.
    pub fn underlay(&mut self, address: IpAddr) -> Result<Option<(String, u32)>> {
        let verb = "tell the MTU towards";
        let socket = self.socket(Netns::Host)?;
        let held =
            address::all(socket).map_err(because(verb, address))?.into_iter().find(|held| held.ip.ip() == address);
        let index = match held {
            Some(held) => Some(held.index),
            None => address::way_to(socket, address).map_err(because(verb, address))?.map(|(index, _)| index),
        };
        let Some(index) = index else { return Ok(None) };
        Ok(message::find_index(socket, index).map_err(because(verb, address))?.map(|found| (found.name, found.mtu)))
    }

    /// The MTU of a link; `None` where there is none, or no such namespace.
    pub fn mtu(&mut self, id: &LinkId) -> Result<Option<u32>> {
        let found = if self.spaces.contains_key(&id.netns) { self.find(id)? } else { None };
        Ok(found.map(|found| found.mtu))
    }
}
