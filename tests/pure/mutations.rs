//! A mesh and what may become of it: what an operator changes, what a crash leaves, what someone tampers with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use meshd::dataplane;
use meshd::kernel::fake;
use meshd::mesh::{
    Access, Backend, ClientAddress, Dataplane, Mark, Mesh, Mode, NetnsRef, Peer, Port, Scheduling, Thresholds,
};
use meshd::objects::{
    Balance, DestinationKey, Family, Link, LinkId, LinkKind, Mac, MapKind, Netns, Objects, PortRange, Protocol,
    PublicKey, Returns, Scheduler, SchedulerFlags, SetElement, SetKind, Surroundings,
};
use meshd::plan::{SetEdit, Step, diff};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::build::{encrypted, endpoint6, port, round_robin};
use super::meshes::{self, access, backends, mesh, peers, scheduling, services, surroundings, way};

/// What an operator does to a mesh in one edit. An index that points at nothing changes nothing.
#[derive(Clone, Debug)]
enum Edit {
    Remove(Index),
    Publish(PortRange, Vec<Backend>),
    /// A range into two, at the index; or a single port and the rest.
    Split(Index, Index),
    /// With the port before it, if they touch.
    Merge(Index),
    Backends(Index, Vec<Backend>),
    Weight(Index, u32),
    Cap(Index, Thresholds),
    Retarget(Index, u16),
    Reschedule(Index, Scheduling),
    /// The backends move to other namespaces, with their addresses.
    Rehouse,
    SwitchV6,
    IngressAddress(u8),
    GatewaySubnet(u8),
    Bridge(bool),
    Tunnel(u32),
    Mtu(Option<u32>),
    UdpTimeout(u32),
    Peers(Vec<Peer>),
    Way(Index, (ClientAddress, Mode)),
    Access(Index, Access),
    OpenForward(bool),
    Encrypt(bool),
    Dataplane(Dataplane),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let range = (select(Protocol::ALL.to_vec()), meshes::PORTS, 0..3u16)
        .prop_map(|(protocol, first, more)| PortRange { protocol, first, last: first + more });
    prop_oneof![
        3 => index().prop_map(Edit::Remove),
        1 => select(Dataplane::ALL.to_vec()).prop_map(Edit::Dataplane),
        3 => (range, backends()).prop_map(|(range, backends)| Edit::Publish(range, backends)),
        2 => (index(), index()).prop_map(|(port, at)| Edit::Split(port, at)),
        2 => index().prop_map(Edit::Merge),
        4 => (index(), backends()).prop_map(|(port, backends)| Edit::Backends(port, backends)),
        1 => (index(), 0..5u32).prop_map(|(port, weight)| Edit::Weight(port, weight)),
        1 => (index(), meshes::thresholds()).prop_map(|(port, thresholds)| Edit::Cap(port, thresholds)),
        1 => (index(), 9000..9003u16).prop_map(|(port, target)| Edit::Retarget(port, target)),
        1 => (index(), scheduling(Protocol::Tcp)).prop_map(|(port, scheduling)| Edit::Reschedule(port, scheduling)),
        1 => Just(Edit::Rehouse),
        1 => Just(Edit::SwitchV6),
        1 => (3..6u8).prop_map(Edit::IngressAddress),
        2 => peers().prop_map(Edit::Peers),
        2 => (any::<Index>(), way()).prop_map(|(index, way)| Edit::Way(index, way)),
        2 => (any::<Index>(), access()).prop_map(|(index, access)| Edit::Access(index, access)),
        1 => (77..79u8).prop_map(Edit::GatewaySubnet),
        1 => any::<bool>().prop_map(Edit::Bridge),
        1 => (4077..4079u32).prop_map(Edit::Tunnel),
        1 => select(vec![None, Some(1400)]).prop_map(Edit::Mtu),
        1 => (300..302u32).prop_map(Edit::UdpTimeout),
        1 => any::<bool>().prop_map(Edit::OpenForward),
        1 => any::<bool>().prop_map(Edit::Encrypt),
    ]
}

fn edited(mut mesh: Mesh, edit: Edit) -> Mesh {
    let mut ports: Vec<Port> = mesh.services.into_iter().flat_map(|service| service.ports.clone()).collect();
    let find = |index: Index, ports: &[Port]| (!ports.is_empty()).then(|| index.index(ports.len()));
    match edit {
        Edit::Remove(index) => ports.retain({
            let gone = find(index, &ports).map(|place| ports[place].published);
            move |port| Some(port.published) != gone
        }),
        Edit::Publish(published, backends) => {
            if !ports.iter().any(|port| port.published.overlaps(&published)) {
                ports.push(port_of(published, round_robin(), backends));
            }
        }
        Edit::Split(index, at) => {
            if let Some(place) = find(index, &ports).filter(|place| !ports[*place].published.is_single()) {
                let Port { published, scheduling, backends, .. } = ports.remove(place);
                let cut = published.first + at.index(usize::from(published.last - published.first)) as u16;
                let halves = [PortRange { last: cut, ..published }, PortRange { first: cut + 1, ..published }];
                ports.extend(halves.map(|half| port_of(half, scheduling.clone(), backends.clone())));
            }
        }
        Edit::Encrypt(true) => {
            mesh = encrypted(Mesh { services: Vec::new(), ..mesh });
        }
        Edit::Encrypt(false) => (mesh.ingress.encryption, mesh.key) = (None, None),
        Edit::Merge(index) => merge(&mut ports, index),
        Edit::Backends(index, backends) => {
            if let Some(place) = find(index, &ports) {
                ports[place].backends = backends;
            }
        }
        Edit::Weight(index, weight) => {
            let backend = find(index, &ports).and_then(|place| ports[place].backends.first_mut());
            if let Some(backend) = backend {
                backend.weight = weight;
            }
        }
        Edit::Cap(index, thresholds) => {
            let backend = find(index, &ports).and_then(|place| ports[place].backends.first_mut());
            if let Some(backend) = backend {
                backend.thresholds = thresholds;
            }
        }
        Edit::Retarget(index, target) => {
            if let Some(place) = find(index, &ports).filter(|place| ports[*place].published.is_single()) {
                ports[place].target = Some(target);
            }
        }
        Edit::Reschedule(index, scheduling) => {
            if let Some(place) = find(index, &ports) {
                ports[place].scheduling = scheduling;
            }
        }
        Edit::Way(index, way) => {
            if let Some(place) = find(index, &ports) {
                (ports[place].client_address, ports[place].mode) = way;
            }
        }
        Edit::Access(index, access) => {
            if let Some(place) = find(index, &ports) {
                ports[place].access = access;
            }
        }
        Edit::Rehouse => {
            for backend in ports.iter_mut().flat_map(|port| &mut port.backends) {
                backend.netns =
                    backend.netns.as_ref().map(|netns| NetnsRef::Name(format!("new-{}", netns.path().len())));
            }
            // Two namespaces may have become one by that; never one address in two.
        }
        Edit::SwitchV6 => mesh.ingress.v6 = if mesh.ingress.v6.is_some() { None } else { Some(endpoint6()) },
        Edit::IngressAddress(last) => {
            if let Some(v4) = &mut mesh.ingress.v4 {
                v4.address = Ipv4Addr::new(10, 255, 0, last);
            }
        }
        Edit::GatewaySubnet(third) => mesh.gateway.subnet = format!("169.254.{third}.0/24").parse().unwrap(),
        Edit::Bridge(other) => mesh.gateway.bridge = other.then(|| "br-other".to_owned()),
        Edit::Tunnel(vni) => mesh.ingress.vni = vni,
        Edit::Mtu(mtu) => mesh.ingress.mtu = mtu,
        Edit::Peers(peers) => mesh.peers = peers,
        Edit::Dataplane(dataplane) => mesh.dataplane = dataplane,
        Edit::UdpTimeout(seconds) => mesh.timeouts.udp = seconds,
        Edit::OpenForward(open) => mesh.gateway.open_forward = open,
    }
    mesh.services = services(ports).into_iter().map(Arc::new).collect();
    mesh
}

fn port_of(published: PortRange, scheduling: Scheduling, backends: Vec<Backend>) -> Port {
    Port { scheduling, ..port(published, published.is_single().then_some(9092), backends) }
}

fn merge(ports: &mut Vec<Port>, index: Index) {
    let touching = |a: &PortRange, b: &PortRange| a.protocol == b.protocol && a.last + 1 == b.first;
    let pairs: Vec<(PortRange, PortRange)> = ports
        .iter()
        .flat_map(|a| ports.iter().map(move |b| (a.published, b.published)))
        .filter(|(a, b)| touching(a, b))
        .collect();
    if pairs.is_empty() {
        return;
    }
    let (left, right) = pairs[index.index(pairs.len())];
    let first = ports.iter().position(|port| port.published == left).unwrap();
    let Port { scheduling, backends, .. } = ports.remove(first);
    ports.retain(|port| port.published != right);
    ports.push(port_of(PortRange { last: right.last, ..left }, scheduling, backends));
}

/// Two meshes with something in common, and the host they are on.
#[derive(Clone)]
pub struct Related {
    pub a: Option<Mesh>,
    pub b: Option<Mesh>,
    pub surroundings: Surroundings,
}

/// Short: only what leads from one to the other.
impl fmt::Debug for Related {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.objects();
        write!(f, "the plan\n{}on {:?}", diff(&a, &b), self.surroundings)
    }
}

impl Related {
    pub fn objects(&self) -> (Objects, Objects) {
        let lower = |mesh: &Option<Mesh>| {
            mesh.as_ref().map_or_else(Objects::default, |mesh| dataplane::objects(mesh, &self.surroundings))
        };
        let (a, mut b) = (lower(&self.a), lower(&self.b));
        if let Some(mesh) = &self.b {
            let staying = dataplane::outgoing(mesh, &a, &b);
            dataplane::keep(mesh, &a, &staying, &mut b);
        }
        (a, b)
    }
}

/// From a mesh to an edited one, mostly; also to an unrelated one, from nothing, and to nothing.
pub fn related() -> impl Strategy<Value = Related> {
    let edits = prop::collection::vec(edit(), 1..=4);
    let changed = |(a, edits): (Mesh, Vec<Edit>)| (Some(a.clone()), Some(edits.into_iter().fold(a, edited)));
    let pair = prop_oneof![
        6 => (mesh(), edits).prop_map(changed),
        2 => (mesh(), mesh()).prop_map(|(a, b)| (Some(a), Some(b))),
        1 => mesh().prop_map(|b| (None, Some(b))),
        1 => mesh().prop_map(|a| (Some(a), None)),
    ];
    let outs = prop_oneof![2 => Just(0), 1 => 1..250u8];
    (pair, surroundings(), outs.clone(), outs).prop_map(|((a, b), surroundings, first, second)| Related {
        a: a.map(|mesh| unwell(mesh, first)),
        b: b.map(|mesh| unwell(mesh, second)),
        surroundings,
    })
}

/// The same mesh, of whose backends some cannot serve now, or rest: about half of them, or none.
pub fn unwell(mut mesh: Mesh, dice: u8) -> Mesh {
    let all = mesh.ports().flat_map(|port| port.backends.iter().map(|backend| (port.mark(), backend.address)));
    let last = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    let thrown = |(mark, address): &(Mark, IpAddr)| (mark.0 as u8 ^ last(address)).wrapping_mul(dice | 1).count_ones();
    let unwell = all.filter(|key| dice > 0 && thrown(key) % 2 == 0);
    (mesh.out, mesh.resting) = unwell.partition(|key| thrown(key) % 4 == 0);
    mesh
}

/// How a state comes to be that nobody asked for.
#[derive(Clone, Debug)]
pub enum Damage {
    /// meshd died on its way to the state.
    Crash(Index),
    /// Someone removes one of our objects, with what hangs on it.
    Remove(Index),
    /// Someone alters things.
    Alter(Index, u8),
}

pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let damage = prop_oneof![
        1 => any::<Index>().prop_map(Damage::Crash),
        3 => any::<Index>().prop_map(Damage::Remove),
        3 => (any::<Index>(), 0..=17u8).prop_map(|(index, how)| Damage::Alter(index, how)),
    ];
    prop::collection::vec(damage, 1..=4)
}

pub fn damaged(mut objects: Objects, damages: &[Damage]) -> Objects {
    for damage in damages {
        match damage {
            Damage::Crash(index) => {
                let steps = diff(&Objects::default(), &objects).steps;
                objects = Objects::default();
                let done = index.index(steps.len() + 1);
                for step in &steps[..done] {
                    // To a state that was damaged before, not every step leads.
                    let _ = fake::apply(&mut objects, step);
                }
            }
            Damage::Remove(index) => {
                let removals = removals(&objects);
                if !removals.is_empty() {
                    // What the kernel refuses to remove stays.
                    let _ = fake::apply(&mut objects, &removals[index.index(removals.len())]);
                }
            }
            Damage::Alter(index, how) => alter(&mut objects, *index, *how),
        }
        // One of which nothing is left is none.
        objects.balances.retain(|_, balance| *balance != Balance::default());
    }
    objects
}

/// Every step that removes one thing.
fn removals(objects: &Objects) -> Vec<Step> {
    let mut steps: Vec<Step> = objects.namespaces.iter().copied().map(Step::DeleteNamespace).collect();
    steps.extend(objects.links.keys().cloned().map(Step::DeleteLink));
    steps.extend(objects.addresses.iter().cloned().map(Step::DeleteAddress));
    steps.extend(objects.routes.iter().cloned().map(Step::DeleteRoute));
    steps.extend(objects.legs.keys().map(|mac| Step::DeleteLeg { mac: *mac }));
    steps.extend(objects.forwarding.iter().map(|(mac, node)| Step::DeleteForwarding { mac: *mac, node: *node }));
    steps.extend(objects.neighbours.keys().map(|ip| Step::DeleteNeighbour { ip: *ip }));
    let peers = objects.wireguard.iter().flat_map(|link| link.peers.keys());
    steps.extend(peers.map(|key| Step::DeleteWireguardPeer { key: *key }));
    steps.extend(objects.returns.keys().map(|netns| Step::DeleteReturns { netns: netns.clone() }));
    steps.extend(objects.openings.iter().cloned().map(Step::CloseForward));
    for (netns, table) in &objects.tables {
        let netns = *netns;
        steps.push(Step::DeleteTable(netns));
        steps.extend(table.chains.keys().map(|name| Step::DeleteChain { netns, name: name.clone() }));
        for (name, set) in &table.sets {
            steps.push(Step::DeleteSet { netns, name: name.clone() });
            let one = |element: &SetElement| {
                let edit = SetEdit { name: name.clone(), remove: vec![element.clone()], add: Vec::new() };
                Step::EditSets { netns, edits: vec![edit] }
            };
            steps.extend(set.elements.iter().map(one));
        }
        for (name, map) in &table.maps {
            steps.push(Step::DeleteMap { netns, name: name.clone() });
            steps.extend(map.elements.iter().map(|(port, value)| Step::EditMap {
                netns,
                name: name.clone(),
                ranges: map.ranges,
                remove: vec![(*port, *value)],
                add: Vec::new(),
            }));
        }
    }
    for (key, service) in &objects.services {
        steps.push(Step::DeleteService(*key));
        steps.extend(service.destinations.keys().map(|place| Step::DeleteDestination { service: *key, key: *place }));
    }
    let host = objects.sysctls.keys().filter(|(netns, _)| *netns == Netns::Host);
    steps.extend(host.map(|(_, name)| Step::RestoreSysctl { name: name.clone() }));
    steps
}

/// Changes one thing, of the kind that `how` says, into what nobody wants.
fn alter(objects: &mut Objects, index: Index, how: u8) {
    fn one<T>(index: Index, items: impl Iterator<Item = T>, change: impl FnOnce(T)) {
        let mut items: Vec<T> = items.collect();
        if !items.is_empty() {
            change(items.swap_remove(index.index(items.len())));
        }
    }
    let tables = objects.tables.values_mut();
    match how {
        0 => one(index, objects.links.values_mut(), |link| link.up = false),
        1 => one(index, objects.links.values_mut(), |link| link.mtu = 1280),
        2 => one(index, objects.links.values_mut(), |link| link.master = None),
        3 => one(index, objects.legs.values_mut(), |leg| leg.netns = None),
        4 => one(index, objects.sysctls.values_mut(), |value| *value = "7".into()),
        5 => one(index, objects.services.values_mut(), |service| {
            service.scheduler = Scheduler::DestinationHash;
            service.flags = SchedulerFlags::default();
        }),
        6 => {
            let all = objects.services.values_mut().flat_map(|service| service.destinations.values_mut());
            one(index, all, |destination| match index.index(2) {
                0 => destination.weight = 17,
                _ => destination.thresholds.upper = 17,
            });
        }
        7 => one(index, tables.flat_map(|table| table.chains.values_mut()), |chain| drop(chain.rules.pop())),
        8 => one(index, tables.flat_map(|table| table.chains.values_mut()), |chain| {
            chain.base.iter_mut().for_each(|base| base.priority += 1);
        }),
        16 => one(index, objects.balances.values_mut(), |balance| match index.index(7) {
            0 => drop(balance.slots.pop_first()),
            6 => drop(balance.room.pop_first()),
            1 => drop(balance.backends.pop_first()),
            2 => balance.way = None,
            3 => drop(balance.turns.pop_first()),
            4 => drop(balance.turns.insert(200, 0x8000_0000)),
            _ => drop(balance.slots.insert(200, DestinationKey { address: [203, 0, 113, 1].into(), port: 1 })),
        }),
        // A map of another type: an older meshd's, say.
        9 => one(index, tables.flat_map(|table| table.maps.values_mut()), |map| {
            map.elements.clear();
            map.kind = if map.kind == MapKind::Mark { MapKind::Address(Family::V4) } else { MapKind::Mark };
        }),
        12 => one(index, tables.flat_map(|table| table.sets.values_mut()), |set| {
            if set.kind == SetKind::Addresses(Family::V4) {
                set.elements.insert(SetElement::Address([203, 0, 113, 1].into()));
            } else {
                set.elements.pop_first();
            }
        }),
        13 => one(index, tables.flat_map(|table| table.sets.values_mut()), |set| {
            set.elements.clear();
            set.kind = if set.kind == SetKind::Ports { SetKind::Links } else { SetKind::Ports };
        }),
        15 => one(index, objects.wireguard.iter_mut(), |link| match index.index(3) {
            0 => link.key = PublicKey([9; 32]),
            1 => drop(link.peers.pop_first()),
            _ => link.peers.values_mut().for_each(|peer| peer.allowed.clear()),
        }),
        14 => one(index, objects.returns.values_mut(), |returns| *returns = Returns::default()),
        10 => one(index, objects.forwarding.values_mut(), |node| *node = [203, 0, 113, 1].into()),
        11 => one(index, objects.neighbours.values_mut(), |mac| *mac = Mac([2, 9, 9, 9, 9, 9])),
        _ => one(index, objects.links.clone().into_keys(), |id| replace(objects, &id)),
    }
}

/// Someone makes a link anew, as something else, and gives it the addresses and routes that it had.
fn replace(objects: &mut Objects, id: &LinkId) {
    let before = objects.clone();
    fake::apply(objects, &Step::DeleteLink(id.clone())).unwrap();
    let strange = LinkKind::Vxlan { vni: 0, port: 0, local: None, underlay: Netns::Host };
    objects.links.insert(id.clone(), Link { kind: strange, ..before.links[id].clone() });
    objects.addresses.extend(before.addresses.into_iter().filter(|address| address.link == *id));
    objects.routes.extend(before.routes.into_iter().filter(|route| route.link == *id));
    objects.sysctls.extend(before.sysctls);
}
