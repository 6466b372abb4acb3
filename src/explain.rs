//! The way of one packet: every hop from a client to each backend and back, with what is wanted there and what the kernel has.
//!
//! Most hops are objects, compared as a plan compares them. What others decide, by rules, routes and by listening or not, is asked for
//! one packet at a time ([`Question`]): the walk is taken until it has no more questions, each time with the answers so far. So what is
//! asked and what is made of the answer stand side by side.

mod backend;
mod balancing;
mod compare;
mod gate;
mod host;
mod overlay;
mod sandbox;
mod underlay;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::control::protocol::{ExplainQuery, Explanation, Hop, Part, PortName, PortWay, Verdict};
use crate::mesh::{Key, Mesh, Port};
use crate::objects::{DestinationKey, Family, Netns, Objects, Protocol, Question, Reply, VirtualKey};
use walk::Walk;

/// What is to be explained.
#[derive(Clone, Debug)]
pub struct Asked {
    /// One that is published.
    pub number: u16,
    /// `None`: each that is published there.
    pub protocol: Option<Protocol>,
    /// The client; `None`: anyone.
    pub from: Option<IpAddr>,
    /// `None`: to all backends.
    pub node: Option<String>,
}

/// Connections that a backend has, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    pub active: u32,
    pub inactive: u32,
}

/// All that is known without asking for single packets.
#[derive(Clone, Debug)]
pub struct Known {
    /// With the backends' weights and states as they are now.
    pub mesh: Mesh,
    pub wanted: Objects,
    pub seen: Objects,
    pub serves: BTreeMap<VirtualKey, BTreeMap<DestinationKey, Serves>>,
    /// Of backends that are checked: whether each serves, and what it last said.
    pub standings: BTreeMap<Key, (bool, String)>,
    /// The host's links by which clients come in, as far as they are known.
    pub uplinks: BTreeSet<String>,
    /// Bytes that a packet of the overlay can have, and that it grows by until it leaves the node.
    pub overlay_mtu: u32,
    pub encapsulation: u32,
}

impl ExplainQuery {
    /// What is to be explained of that port.
    ///
    /// # Errors
    /// What is wrong, and what would do.
    pub fn asked(&self, number: u16) -> Result<Asked, String> {
        let protocol = self
            .protocol
            .as_ref()
            .map(|text| text.parse().map_err(|()| format!("\"{text}\" is no protocol; tcp, udp or sctp would do")));
        let from: Option<Result<IpAddr, String>> = self.from.as_ref().map(|text| {
            text.parse()
                .map_err(|_| format!("\"{text}\" is no address of a client; one such as 192.168.50.10 would do"))
        });
        let from = from.transpose()?;
        if matches!(from, Some(IpAddr::V6(ip)) if ip.is_unicast_link_local()) {
            return Err(
                "a link-local address means nothing without its link; another of that client would do".to_owned()
            );
        }
        Ok(Asked { number, protocol: protocol.transpose()?, from, node: self.node.clone() })
    }
}

impl Asked {
    /// Why there is nothing to be explained in that mesh.
    pub fn refusal(&self, mesh: &Mesh) -> Option<String> {
        let ports = self.ports(mesh);
        if ports.is_empty() {
            return Some(format!("port {} is not published here", self.number));
        }
        let node = self.node.as_deref()?;
        let mut backends = ports.iter().flat_map(|(_, port)| &port.backends);
        let there = backends.any(|backend| mesh.node_of(backend) == node);
        (!there).then(|| format!("port {} has no backend on node {node}", self.number))
    }

    /// The ports that are meant, with their services' names.
    pub fn ports<'m>(&self, mesh: &'m Mesh) -> Vec<(&'m str, &'m Port)> {
        let all = mesh.services.iter().flat_map(|service| service.ports.iter().map(|port| (&*service.name, port)));
        let meant = |port: &Port| {
            let protocol = port.published.protocol;
            self.protocol.is_none_or(|wanted| wanted == protocol) && port.published.contains(protocol, self.number)
        };
        all.filter(|(_, port)| meant(port)).collect()
    }
}

/// What is to be asked before more can be said.
pub fn questions(known: &Known, asked: &Asked, replies: &BTreeMap<Question, Reply>) -> BTreeSet<Question> {
    let all = asked.ports(&known.mesh).into_iter().flat_map(|(_, port)| walk(known, asked, port, replies).1);
    all.filter(|question| !replies.contains_key(question)).collect()
}

/// The ways, with what the answers say.
pub fn explain(known: &Known, asked: &Asked, replies: &BTreeMap<Question, Reply>) -> Explanation {
    let way = |(service, port): (&str, &Port)| {
        let mark = port.mark();
        PortWay {
            service: service.to_owned(),
            port: PortName(port.published).to_string(),
            mark: format!("{mark} = {}", mark.0),
            parts: walk(known, asked, port, replies).0,
        }
    };
    let ports: Vec<PortWay> = asked.ports(&known.mesh).into_iter().map(way).collect();
    let mut hops = ports.iter().flat_map(|port| &port.parts).flat_map(|part| &part.hops);
    let broken: Option<Hop> = hops.find(|hop| hop.verdict == Verdict::Broken).cloned();
    Explanation {
        node: known.mesh.node.clone(),
        dataplane: known.mesh.dataplane.to_string(),
        good: broken.is_none() && !ports.is_empty(),
        broken,
        ports,
    }
}

/// A port's way, and what was asked on it.
fn walk(
    known: &Known,
    asked: &Asked,
    port: &Port,
    replies: &BTreeMap<Question, Reply>,
) -> (Vec<Part>, BTreeSet<Question>) {
    let mut walk = Walk::new(known, asked, port, replies);
    let spoken = |family: &Family| asked.from.is_none_or(|from| Family::of(&from) == *family);
    for family in Family::ALL.into_iter().filter(spoken).filter(|family| is_published(known, port, *family)) {
        walk.begin(format!("{} in", name(family)));
        host::way_in(&mut walk, family);
        sandbox::way_in(&mut walk, family);
        balancing::choice(&mut walk, family);
        sandbox::way_out(&mut walk, family);
        for backend in port.backends.iter().filter(|backend| Family::of(&backend.address) == family) {
            if asked.node.as_deref().is_none_or(|node| known.mesh.node_of(backend) == node) {
                backend::way(&mut walk, backend);
            }
        }
        walk.begin(format!("{} back", name(family)));
        sandbox::way_back(&mut walk, family);
        host::way_back(&mut walk, family);
        walk.settle();
    }
    if walk.is_empty() {
        walk.begin("in".to_owned());
        walk.nobody();
    }
    walk.finish()
}

/// Whether a family is published, or was and is left over.
fn is_published(known: &Known, port: &Port, family: Family) -> bool {
    [&known.wanted, &known.seen].into_iter().any(|objects| {
        let maps = objects.tables.get(&Netns::Host).map(|table| &table.maps);
        let names = host::maps(family);
        maps.is_some_and(|maps| {
            names.iter().any(|name| maps.get(*name).is_some_and(|map| map.elements.contains_key(&port.published)))
        })
    })
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
