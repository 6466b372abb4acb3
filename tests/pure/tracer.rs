//! What a packet meets on its way through [`Objects`], told as a story.
//!
//! This is a second reading of the objects, independent of how they were made: rules are walked in the order
//! in which the kernel would walk them, and every hop needs its links, addresses, routes and sysctls.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use meshd::objects::{
    Action, Chain, ChainKind, Family, Hook, IN_ORDER, Key, LASTING, Link, LinkId, LinkKind, MapValue, Mark, Match,
    Netns, Objects, Opening, PortRange, Protocol, SetElement, VirtualKey,
};

/// The node's own link and addresses, which are not ours.
pub const UPLINK: &str = "uplink0";
pub const NODE: [&str; 2] = ["192.168.50.1", "2001:db8:50::1"];
pub const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];

/// Where a packet starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It comes in by the node's uplink.
    Outside,
    /// A process of the node sends it.
    Node,
    /// It comes out of the sandbox by the bridge.
    Sandbox,
}

#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub origin: Origin,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Story {
    /// meshd has nothing to do with it.
    Untouched { source: IpAddr },
    /// meshd keeps who sent it out.
    Dropped,
    /// One of these answers.
    Reaches(Vec<Arrival>),
    /// It was led away from where it was going, and does not arrive.
    Lost(String),
}

/// A packet at a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at: SocketAddr,
    pub source: IpAddr,
    pub weight: u32,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Story::Untouched { source } => write!(f, "is left alone, with source {source}"),
            Story::Dropped => write!(f, "is dropped"),
            Story::Lost(why) => write!(f, "is lost: {why}"),
            Story::Reaches(arrivals) => {
                let arrivals = arrivals.iter().map(|arrival| format!("{} with source {}", arrival.at, arrival.source));
                write!(f, "reaches {}", arrivals.collect::<Vec<_>>().join(" or "))
            }
        }
    }
}

/// `client → node:20229`: what a packet is in such a sentence.
pub fn packet(origin: Origin, destination: &str, protocol: Protocol, port: u16) -> Packet {
    let destination: IpAddr = destination.parse().unwrap();
    let side = if destination.is_ipv4() { 0 } else { 1 };
    let source = match origin {
        Origin::Outside => CLIENT[side].parse().unwrap(),
        // The kernel takes an address of the same reach.
        Origin::Node if destination.is_loopback() => destination,
        Origin::Node => NODE[side].parse().unwrap(),
        Origin::Sandbox => ["169.254.77.2", "fdce:77::2"][side].parse().unwrap(),
    };
    Packet { origin, source, destination, protocol, port }
}

/// The world that packets meet.
pub struct Tracer<'a> {
    pub objects: &'a Objects,
    /// Other people's chains that drop what nobody accepts.
    pub drops: &'a BTreeSet<Opening>,
}

/// The packet as the rules of one hook see it.
#[derive(Clone, Copy)]
struct View<'a> {
    netns: Netns,
    interface_in: Option<&'a str>,
    interface_out: Option<&'a str>,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    port: u16,
    mark: Option<Mark>,
    tracked: bool,
}

impl<'a> View<'a> {
    /// As it comes into a namespace, or begins there.
    fn entering(packet: Packet, netns: Netns, interface_in: Option<&'a str>) -> View<'a> {
        let Packet { source, destination, protocol, port, .. } = packet;
        let (interface_out, mark, tracked) = (None, None, true);
        View { netns, interface_in, interface_out, source, destination, protocol, port, mark, tracked }
    }
}

/// What a hook's rules come to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Pass,
    Drop,
    Untracked,
    Mark(Mark),
    /// To the slots of that mark.
    Spread(Mark),
    /// As [`Outcome::Mark`], and connection tracking does not see it: no more is translated.
    UntrackedMark(Mark),
    Destination(IpAddr),
    Source(IpAddr),
    Masquerade,
}

type Told<T> = Result<T, String>;

pub fn trace(objects: &Objects, packet: Packet) -> Story {
    Tracer { objects, drops: &BTreeSet::new() }.trace(packet)
}

impl<'a> Tracer<'a> {
    pub fn trace(&self, packet: Packet) -> Story {
        let (hook, interface_in) = match packet.origin {
            Origin::Outside => (Hook::Prerouting, Some(UPLINK)),
            Origin::Sandbox => (Hook::Prerouting, self.gateway_link()),
            Origin::Node => (Hook::Output, None),
        };
        let view = View::entering(packet, Netns::Host, interface_in);
        match self.rules(hook, &view) {
            Outcome::Destination(sandbox) => match self.publish(packet, View { destination: sandbox, ..view }) {
                Ok(arrivals) => Story::Reaches(arrivals),
                Err(why) => Story::Lost(why),
            },
            Outcome::Drop => Story::Dropped,
            _ => Story::Untouched { source: self.leave(&view) },
        }
    }

    /// The mark of an answer that comes into the sandbox from the overlay.
    pub fn mark_of_answer(&self, protocol: Protocol, port: u16) -> Option<Mark> {
        let answer = packet(Origin::Outside, "10.255.0.3", protocol, port);
        let view = View::entering(answer, Netns::Sandbox, Some("eth0"));
        match self.rules(Hook::Prerouting, &view) {
            Outcome::Mark(mark) => Some(mark),
            _ => None,
        }
    }

    /// From the host's NAT to the backends.
    fn publish(&self, packet: Packet, mut view: View<'a>) -> Told<Vec<Arrival>> {
        let family = Family::of(&view.destination);
        if packet.origin == Origin::Outside {
            self.forwards(Netns::Host, family)?;
        }
        let (link, address) =
            self.neighbour(Netns::Host, view.destination).ok_or("the host has no way to the sandbox")?;
        if packet.destination.is_loopback() {
            let name = format!("net/ipv4/conf/{}/route_localnet", link.name);
            self.sysctl(Netns::Host, &name, "1")?;
        }
        view.interface_out = Some(&link.name);
        view.source = match self.rules(Hook::Postrouting, &view) {
            Outcome::Masquerade => address,
            _ => view.source,
        };
        if view.source.is_loopback() {
            return Err("to 127.0.0.1 there is no way back".into());
        }
        // By a bridge, or straight to the other end.
        let alone = self.up(link).is_some_and(|link| link.master.is_none());
        let straight = alone.then(|| self.peer(link)).flatten();
        let gate = self.ports_of(link).chain(straight).find(|peer| self.holds(peer, view.destination));
        let gate = gate.ok_or_else(|| format!("nobody at {link} has {}", view.destination))?;
        view = View { netns: Netns::Sandbox, interface_in: Some(&gate.name), interface_out: None, ..view };
        self.balance(view)
    }

    /// Through the sandbox: mark, IPVS or slots, SNAT.
    fn balance(&self, mut view: View<'a>) -> Told<Vec<Arrival>> {
        let family = Family::of(&view.destination);
        let mark = match self.rules(Hook::Prerouting, &view) {
            Outcome::Mark(mark) => mark,
            Outcome::Spread(mark) => {
                self.forwards(Netns::Sandbox, family)?;
                return self.spread(View { mark: Some(mark), ..view });
            }
            Outcome::UntrackedMark(mark) => {
                view.tracked = false;
                mark
            }
            _ => return Err(format!("{} {} is closed in the sandbox", view.protocol, view.port)),
        };
        view.mark = Some(mark);
        self.forwards(Netns::Sandbox, family)?;
        self.sysctl(Netns::Sandbox, "net/ipv4/vs/conntrack", "1")?;
        let key = VirtualKey { mark, family };
        let service = self.objects.services.get(&key).ok_or_else(|| format!("there is no service {key}"))?;
        let arrivals = service.destinations.iter().map(|(place, destination)| {
            let port = if place.port == 0 { view.port } else { place.port };
            let source = self.onward(View { destination: place.address, port, ..view })?;
            Ok(Arrival { at: SocketAddr::new(place.address, port), source, weight: destination.weight })
        });
        arrivals.collect()
    }

    /// To whoever has one of the mark's slots; each by as many as it has.
    fn spread(&self, view: View<'a>) -> Told<Vec<Arrival>> {
        let family = Family::of(&view.destination);
        let balance = view.mark.and_then(|mark| self.objects.balances.get(&VirtualKey { mark, family }));
        let balance = balance.ok_or("there is no balance")?;
        let way = balance.way.ok_or("there is no way")?;
        let mut arrivals: Vec<Arrival> = Vec::new();
        let turns = (0..u32::from(way.slots)).map(|turn| match way.persistence {
            None if way.tries == 0 => Ok(turn),
            _ => balance.turns.get(&turn).copied().ok_or(format!("turn {turn} leads nowhere")),
        });
        // Whom its own turn turns away because it is full finds who has room in order.
        let in_order = (0..u32::from(way.tries)).map(|order| {
            balance.turns.get(&(IN_ORDER + order)).ok_or(format!("the turn in order {order} leads nowhere"))
        });
        for slot in in_order {
            let slot = slot?;
            balance.room.get(slot).ok_or(format!("slot {slot} has no room"))?;
            balance.slots.get(slot).ok_or(format!("slot {slot} in order is empty"))?;
        }
        // Who was here before comes again to whoever takes clients.
        let again = balance.turns.iter().filter(|(turn, slot)| turn == slot && **slot & LASTING != 0);
        let again = again.map(|(_, slot)| Ok(*slot)).filter(|_| way.persistence.is_some());
        for slot in turns.chain(again) {
            let slot = slot?;
            let place = balance.slots.get(&slot).ok_or(format!("slot {slot} is empty"))?;
            let known = balance.backends.contains(place);
            assert!(known && way.family == family && way.keeps_port == (place.port == 0), "{way}: {place}");
            let port = if place.port == 0 { view.port } else { place.port };
            let at = SocketAddr::new(place.address, port);
            if let Some(arrival) = arrivals.iter_mut().find(|arrival| arrival.at == at) {
                arrival.weight += 1;
                continue;
            }
            let source = self.onward(View { destination: place.address, port, ..view })?;
            arrivals.push(Arrival { at, source, weight: 1 });
        }
        Ok(arrivals)
    }

    /// From IPVS, or from its slot, to one backend: the source that the backend sees.
    fn onward(&self, mut view: View<'a>) -> Told<IpAddr> {
        let (leg, address) =
            self.way(view.destination).ok_or_else(|| format!("there is no route to {}", view.destination))?;
        view.interface_out = Some(&leg.name);
        match self.rules(Hook::Postrouting, &view) {
            _ if !view.tracked => {}
            Outcome::Source(source) => view.source = source,
            Outcome::Masquerade => view.source = address,
            _ => {}
        }
        let other_end = self.peer(leg).ok_or_else(|| format!("{leg} leads nowhere"))?;
        let alone = || {
            self.up(other_end).filter(|link| link.master.is_none() && other_end.netns == Netns::Host).map(|_| other_end)
        };
        let bridge = self.bridge_of(other_end).or_else(alone).ok_or_else(|| format!("{other_end} has no bridge"))?;
        if bridge.netns == Netns::Overlay {
            return Ok(view.source);
        }
        self.forwards(Netns::Host, Family::of(&view.destination))?;
        let back = View {
            netns: Netns::Host,
            interface_in: Some(&bridge.name),
            interface_out: None,
            mark: None,
            tracked: true,
            ..view
        };
        match self.rules(Hook::Prerouting, &back) {
            Outcome::Pass => Ok(self.leave(&back)),
            _ => Err("it is led back into the sandbox".into()),
        }
    }

    /// Out of the host, or to one of its own addresses: the source in the end.
    fn leave(&self, view: &View) -> IpAddr {
        if self.is_local(view.destination) {
            return view.source;
        }
        match self.rules(Hook::Postrouting, &View { interface_out: Some(UPLINK), ..*view }) {
            Outcome::Masquerade => {
                NODE.map(|address| address.parse::<IpAddr>().unwrap())[usize::from(view.destination.is_ipv6())]
            }
            _ => view.source,
        }
    }

    /// The first rule of a hook that does something with the packet.
    fn rules(&self, hook: Hook, view: &View) -> Outcome {
        let Some(table) = self.objects.tables.get(&view.netns) else { return Outcome::Pass };
        let based =
            table.chains.values().filter_map(|chain| Some((chain.base.filter(|base| base.hook == hook)?, chain)));
        let mut chains: Vec<_> = based.collect();
        chains.sort_by_key(|(base, _)| base.priority);
        // What is marked comes to IPVS, unless it is sent elsewhere before.
        let (mut view, mut marked) = (*view, None);
        let (protocol, port) = (view.protocol, view.port);
        let look_up = |map: &String| {
            let found = table.maps[map].elements.iter().find(|(ports, _)| ports.contains(protocol, port));
            found.map(|(_, value)| *value)
        };
        for (base, chain) in chains {
            for rule in &chain.rules {
                if !rule.matches.iter().all(|matched| self.matches(matched, &view)) {
                    continue;
                }
                let nat = base.kind == ChainKind::Nat;
                match &rule.action {
                    Action::LearnMark { map } => match look_up(map) {
                        Some(MapValue::Mark(mark)) => view.mark = Some(mark),
                        Some(MapValue::Address(_)) => panic!("map {map} has an address for a mark"),
                        None => {}
                    },
                    Action::MarkConnection => {}
                    Action::GoByMark(family) if nat => {
                        let key = view.mark.map(|mark| VirtualKey { mark, family: *family });
                        let balance = key.and_then(|key| self.objects.balances.get(&key));
                        if let (Some(way), Some(mark)) = (balance.and_then(|balance| balance.way), view.mark) {
                            assert_eq!(table.chains[&way.chain()], Chain::of_way(way));
                            return Outcome::Spread(mark);
                        }
                    }
                    // Only this chain has done with it.
                    Action::Accept | Action::Return => break,
                    Action::MarkFrom { map } => match look_up(map) {
                        Some(MapValue::Mark(mark)) => {
                            (view.mark, marked) = (Some(mark), Some(mark));
                            break;
                        }
                        Some(MapValue::Address(_)) => panic!("map {map} has an address for a mark"),
                        None => {}
                    },
                    Action::UntrackedMarkFrom { map } => match look_up(map) {
                        Some(MapValue::Mark(mark)) => return Outcome::UntrackedMark(mark),
                        Some(MapValue::Address(_)) => panic!("map {map} has an address for a mark"),
                        None => {}
                    },
                    Action::Drop => return Outcome::Drop,
                    // It goes the same way.
                    Action::SegmentSize(_) => {}
                    Action::Untracked => return Outcome::Untracked,
                    Action::DnatFrom { map, family } if nat => match look_up(map) {
                        Some(MapValue::Address(to)) if Family::of(&to) == *family => return Outcome::Destination(to),
                        Some(value) => panic!("map {map} has {value} for {family}"),
                        None => {}
                    },
                    Action::Snat(to) if nat => return Outcome::Source(*to),
                    Action::Masquerade if nat => return Outcome::Masquerade,
                    action => panic!("`{action}` in a {} chain", base.kind),
                }
            }
        }
        marked.map_or(Outcome::Pass, Outcome::Mark)
    }

    fn matches(&self, matched: &Match, view: &View) -> bool {
        match matched {
            Match::Family(family) => Family::of(&view.destination) == *family,
            Match::InterfaceIn(name) => view.interface_in == Some(name),
            Match::InterfaceOut(name) => view.interface_out == Some(name),
            Match::NotInterfaceOut(name) => view.interface_out != Some(name),
            Match::DestinationLocal => self.is_local(view.destination),
            Match::SourceLocal => self.is_local(view.source),
            Match::DestinationIn(network) => network.contains(view.destination),
            Match::SourceIn(network) => network.contains(view.source),
            // Only questions are traced.
            Match::Vxlan { .. }
            | Match::Answer
            | Match::Established
            | Match::Translated
            | Match::ReversePath
            | Match::Ethernet => false,
            Match::Syn => view.protocol == Protocol::Tcp,
            Match::Among { key, set } => self.is_among(*key, set, view),
            Match::NotAmong { key, set } => self.has(*key, view) && !self.is_among(*key, set, view),
            Match::Marked => view.mark.is_some(),
        }
    }

    /// Whether the packet is of the family that the key is of.
    fn has(&self, key: Key, view: &View) -> bool {
        match key {
            Key::Source(family) | Key::SourceAndPort(family) | Key::DestinationAndPort(family) => {
                Family::of(&view.destination) == family
            }
            Key::Port | Key::LinkAndPort | Key::Mark => true,
        }
    }

    fn is_among(&self, key: Key, set: &str, view: &View) -> bool {
        let set = &self.objects.tables[&view.netns].sets[set];
        assert_eq!(set.kind, key.set());
        let ports = |ports: &PortRange| ports.contains(view.protocol, view.port);
        let address = if matches!(key, Key::DestinationAndPort(_)) { view.destination } else { view.source };
        self.has(key, view)
            && set.elements.iter().any(|element| match element {
                SetElement::Address(one) => *one == address,
                SetElement::Ports(range) => ports(range),
                SetElement::Network(network, range) => network.0.contains(address) && ports(range),
                SetElement::Link(name, range) => view.interface_in == Some(name) && ports(range),
                SetElement::Mark(mark) => view.mark == Some(*mark),
            })
    }

    /// Whether it is one of the host's own addresses.
    fn is_local(&self, address: IpAddr) -> bool {
        let ours = self.objects.addresses.iter().filter(|held| held.link.netns == Netns::Host);
        address.is_loopback()
            || NODE.iter().any(|node| *node == address.to_string())
            || ours.into_iter().any(|held| held.ip.ip() == address)
    }

    fn forwards(&self, netns: Netns, family: Family) -> Told<()> {
        let (name, word) = match family {
            Family::V4 => ("net/ipv4/ip_forward", "ip"),
            Family::V6 => ("net/ipv6/conf/all/forwarding", "ip6"),
        };
        self.sysctl(netns, name, "1")?;
        let closed = |chain: &&Opening| {
            (chain.family == word || chain.family == "inet") && !self.objects.openings.contains(chain)
        };
        match self.drops.iter().find(closed) {
            Some(chain) if netns == Netns::Host => Err(format!("chain {chain} drops it")),
            _ => Ok(()),
        }
    }

    fn sysctl(&self, netns: Netns, name: &str, wanted: &str) -> Told<()> {
        match self.objects.sysctls.get(&(netns, name.to_owned())) {
            Some(value) if value == wanted => Ok(()),
            other => Err(format!("{name} is {other:?} in {netns}, not {wanted}")),
        }
    }

    fn up(&self, id: &LinkId) -> Option<&'a Link> {
        self.objects.links.get(id).filter(|link| link.up)
    }

    fn holds(&self, link: &LinkId, address: IpAddr) -> bool {
        self.objects.addresses.iter().any(|held| held.link == *link && held.ip.ip() == address)
    }

    /// The link to whose subnet an address belongs, and our own address there.
    fn neighbour(&self, netns: Netns, address: IpAddr) -> Option<(&'a LinkId, IpAddr)> {
        let mut near =
            self.objects.addresses.iter().filter(|held| held.link.netns == netns && held.ip.contains(address));
        near.find(|held| self.up(&held.link).is_some()).map(|held| (&held.link, held.ip.ip()))
    }

    /// The sandbox's way to an address: directly, or by the gateway of the longest prefix.
    fn way(&self, address: IpAddr) -> Option<(&'a LinkId, IpAddr)> {
        let routes = self.objects.routes.iter().filter(|route| route.link.netns == Netns::Sandbox);
        let gateway = || {
            let best = routes
                .filter(|route| route.destination.contains(address))
                .max_by_key(|route| route.destination.prefix())?;
            self.neighbour(Netns::Sandbox, best.gateway?).filter(|(link, _)| **link == best.link)
        };
        self.neighbour(Netns::Sandbox, address).or_else(gateway)
    }

    fn peer(&self, id: &LinkId) -> Option<&'a LinkId> {
        match &self.up(id)?.kind {
            LinkKind::Veth { peer } => {
                self.objects.links.get_key_value(peer).filter(|(_, link)| link.up).map(|(peer, _)| peer)
            }
            _ => None,
        }
    }

    fn bridge_of(&self, port: &LinkId) -> Option<&'a LinkId> {
        let bridge = LinkId::new(port.netns, self.up(port)?.master.as_deref()?);
        self.objects
            .links
            .get_key_value(&bridge)
            .filter(|(_, link)| link.up && link.kind == LinkKind::Bridge)
            .map(|(id, _)| id)
    }

    /// What is at the other ends of a bridge's ports.
    fn ports_of(&self, bridge: &LinkId) -> impl Iterator<Item = &'a LinkId> {
        self.objects
            .links
            .keys()
            .filter(move |port| self.bridge_of(port) == Some(bridge))
            .filter_map(|port| self.peer(port))
    }

    /// The link by which the sandbox's packets come to the host.
    fn gateway_link(&self) -> Option<&'a str> {
        let mut ends = self.objects.links.keys().filter(|id| id.netns == Netns::Host && self.peer(id).is_some());
        let end = ends.next()?;
        let alone = || self.up(end).filter(|link| link.master.is_none()).map(|_| end);
        self.bridge_of(end).or_else(alone).map(|link| link.name.as_str())
    }
}
