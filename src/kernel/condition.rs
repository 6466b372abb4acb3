//! What this host is like, as far as it matters to a mesh: read as plain facts, beside the daemon's loop. Nothing is changed, but that modules
//! which are tried may be loaded.

mod ethtool;
mod host;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::net::if_::if_nametoindex;

use super::replies::Readers;
use super::surroundings::legacy_filters;
use super::wireguard::WireguardSocket;
use super::{Kernel, Result, listeners, netns, nft, path, probe, sysctl};
use crate::objects::{
    Condition, Device, Family, Feature, Hook, Inquiry, Layer, LinkId, Netns, Obstacle, Packet, Phase, Protocol,
    Surroundings, WIREGUARD,
};

/// Peers of whom it is looked up what others' rules do to them; their rules seldom differ.
const MOST_PEERS: usize = 16;

impl Kernel {
    /// All that is to be known of the host, from a thread in its namespace. It takes some seconds where a node does not answer.
    ///
    /// # Errors
    /// The kernel cannot be asked for what it has on any host.
    pub fn condition(&mut self, inquiry: &Inquiry, surroundings: Surroundings) -> Result<Condition> {
        let forward = self.host.forward(&self.names.gateway)?;
        let spaces = [Netns::Host, Netns::Sandbox, Netns::Overlay].into_iter();
        let mut condition = Condition {
            release: host::release(),
            surroundings,
            features: features(inquiry),
            namespaces: spaces.filter(|netns| self.links.netns(*netns).is_some()).collect(),
            parameters: self.parameters(&inquiry.parameters),
            uplinks: self.uplink_filters()?,
            underlay: self.underlay(inquiry.address)?,
            links: self.widths(&inquiry.links)?,
            addresses: self.links.host_addresses()?,
            routes: self.links.host_routes()?,
            listeners: waiting(),
            wireguard_port: self.own_wireguard_port(),
            paths: BTreeMap::new(),
            obstacles: self.obstacles(inquiry)?,
            openings: forward.open,
            legacy: legacy_filters(),
            beside: others::beside(self.host.socket())?,
            neighbours: host::neighbours(),
            files: inquiry.is_daemon.then(host::files).flatten(),
            memory: host::memory(),
            clock: host::clock(),
            ..Condition::default()
        };
        for name in &inquiry.names {
            if self.links.is_foreign(name)? {
                condition.foreign.insert(name.clone());
            }
        }
        if inquiry.bytes > 0 {
            let peers: Vec<IpAddr> = inquiry.peers.iter().copied().collect();
            let paths = path::path_mtus(&mut self.links, &peers, inquiry.port, inquiry.bytes)?;
            condition.paths = paths.into_iter().map(|(peer, path)| (peer, (path.bytes, path.by_echo))).collect();
        }
        Ok(condition)
    }

    /// What cannot be read is left out, as what is not there.
    fn parameters(&self, names: &BTreeSet<(Netns, String)>) -> BTreeMap<(Netns, String), String> {
        let mut found = BTreeMap::new();
        for netns in [Netns::Host, Netns::Sandbox, Netns::Overlay] {
            let Some(file) = self.links.netns(netns) else { continue };
            let names = || names.iter().filter(|(of, _)| *of == netns);
            // All of a namespace on one visit.
            let read = netns::within(file, || {
                let value = |key: &(Netns, String)| Some((key.clone(), sysctl::get(&key.1).ok().flatten()?));
                names().filter_map(value).collect::<Vec<_>>()
            });
            found.extend(read.unwrap_or_default());
        }
        found
    }

    fn uplink_filters(&mut self) -> Result<BTreeMap<String, u64>> {
        let links = self.links.uplinks()?;
        let name = |link: &String| (Netns::Host, format!("net/ipv4/conf/{link}/rp_filter"));
        let found = self.parameters(&links.iter().map(name).collect());
        let filter = |link: String| Some((link.clone(), found.get(&name(&link))?.parse().ok()?));
        Ok(links.into_iter().filter_map(filter).collect())
    }

    /// The link that has this node's end of the tunnel, or leads there.
    fn underlay(&mut self, address: Option<IpAddr>) -> Result<Option<Device>> {
        let Some(address) = address else { return Ok(None) };
        let Some((name, mtu)) = self.links.underlay(address)? else { return Ok(None) };
        let Some(file) = self.links.netns(Netns::Host) else { return Ok(None) };
        let look = || (host::driver(&name), ethtool::offloads(&name).ok().flatten());
        let (driver, offloads) = netns::within(file, look).unwrap_or_default();
        Ok(Some(Device { name, driver, mtu, offloads }))
    }

    fn widths(&mut self, links: &BTreeSet<LinkId>) -> Result<BTreeMap<LinkId, u32>> {
        let mut found = BTreeMap::new();
        for id in links {
            found.extend(self.links.mtu(id)?.map(|mtu| (id.clone(), mtu)));
        }
        Ok(found)
    }

    /// Without the key, which only the daemon has.
    fn own_wireguard_port(&mut self) -> Option<u16> {
        if !self.links.is_wireguard(&LinkId::new(Netns::Overlay, WIREGUARD)).unwrap_or(false) {
            return None;
        }
        let overlay = self.links.netns(Netns::Overlay)?;
        let read = || WireguardSocket::open().ok()?.read(None).ok().map(|wireguard| wireguard.port);
        netns::within(overlay, read).ok()?
    }

    /// A datagram from each peer to the tunnel's port here.
    fn obstacles(&mut self, inquiry: &Inquiry) -> Result<BTreeMap<IpAddr, Vec<Obstacle>>> {
        let mut found = BTreeMap::new();
        let Some(address) = inquiry.address else { return Ok(found) };
        let index = |name: &str| if_nametoindex(name).ok();
        let link = self.links.underlay(address)?.map(|(name, _)| name);
        for peer in inquiry.peers.iter().take(MOST_PEERS) {
            let packet = Packet {
                source: Some(*peer),
                destination: Some(address),
                destination_port: Some(inquiry.port),
                link_in: link.clone(),
                // Nothing that is open is tracked; of WireGuard's both ends send, so each hears answers.
                phase: if inquiry.wireguard { Phase::Answer } else { Phase::Untracked },
                ..Packet::first(Family::of(peer), Protocol::Udp)
            };
            let mut all = Vec::new();
            for hook in [Hook::Prerouting, Hook::Input] {
                all.extend(nft::obstacles(self.host.socket(), Layer::Network, hook, &packet, &index)?);
            }
            found.insert(*peer, all);
        }
        Ok(found)
    }
}

fn features(inquiry: &Inquiry) -> Vec<Feature> {
    let tried = probe::of(inquiry.ipvs, inquiry.wireguard).findings.into_iter();
    tried.map(|probe::Finding { what, outcome, needed }| Feature { what, outcome, needed }).collect()
}

fn waiting() -> BTreeSet<(Protocol, std::net::SocketAddr)> {
    let of = |protocol| listeners::listeners(protocol).unwrap_or_default().into_iter().map(move |at| (protocol, at));
    Protocol::ALL.into_iter().flat_map(of).collect()
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[|body| _ = ethtool::read(body)];
