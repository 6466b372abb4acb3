//! Backends that get no new clients any more, and keep those that they have for a while: the operator drains them, or
//! has taken them away.
//!
//! The rule, without clock or kernel. Who begins to leave gets weight 0. It is *done* when none of its connections is
//! open, or when its time is over: then it is deleted from IPVS. One that was taken away is *gone* when nothing is left of
//! it here: the node that houses it sees its own connections only, and keeps its place on the overlay until other nodes must be
//! done, too.

mod line;
mod places;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use line::{read, write};

use crate::mesh::{Backend, BackendState, Key, Mark, Mesh, NetnsRef, Port, PortRange, Service};
use places::Places;

/// Other nodes hear of a change a moment later.
const MARGIN: Duration = Duration::from_secs(5);

/// One that leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaver {
    /// As it was.
    pub backend: Backend,
    /// The configuration has it no more; else the operator drains it.
    pub taken: bool,
    /// Until then it may keep its connections: time since the boot.
    pub until: Duration,
    /// It has been deleted from IPVS, or is to be.
    pub done: bool,
    /// The number of its namespace, if that is attached here: another one by that name is not its.
    pub namespace: Option<u64>,
    /// Its open connections, when last seen.
    pub open: Option<u32>,
}

pub type Leavers = BTreeMap<Key, Leaver>;

/// What is seen of the world.
pub trait World {
    /// Time since the boot.
    fn now(&self) -> Duration;
    /// Whether that backend has had clients.
    fn served(&self, key: &Key) -> bool;
    /// The number of that namespace; `None`: there is none.
    fn namespace(&self, netns: &NetnsRef) -> Option<u64>;
}

/// Who leaves after another mesh is wanted. `old`: the one before; at the start there is none.
pub fn next(before: &Leavers, old: Option<&Mesh>, mesh: &Mesh, world: &impl World) -> Leavers {
    // Most calls are about one service of many.
    let differing = old.and_then(|old| mesh.differing(old));
    let (were, are): (Vec<&Arc<Service>>, Vec<&Arc<Service>>) = match (&differing, old) {
        (Some(differing), _) => (differing.old.clone(), differing.new.clone()),
        (None, old) => (old.iter().flat_map(|old| &old.services).collect(), mesh.services.iter().collect()),
    };
    let places = LazyCell::new(|| Places::of(mesh));
    let mut past: BTreeMap<PortRange, &Port> =
        were.iter().flat_map(|service| &service.ports).map(|port| (port.published, port)).collect();
    let mut ports: Vec<&Port> = are.iter().flat_map(|service| &service.ports).collect();
    if differing.is_some() && !before.is_empty() {
        // Of those that are the same, only where someone leaves.
        let known: BTreeSet<Mark> = ports.iter().map(|port| port.mark()).collect();
        let left = |port: &&Port| !known.contains(&port.mark()) && before_of(before, port).next().is_some();
        let same: Vec<&Port> = mesh.ports().filter(left).collect();
        past.extend(same.iter().map(|port| (port.published, *port)));
        ports.extend(same);
    }
    let mut leavers = Leavers::new();
    for port in ports {
        leavers.extend(drained(before, mesh, port, world));
        // Behind another port of theirs they are others to IPVS, which has connections with those before no more.
        let same = past.get(&port.published).filter(|past| past.target == port.target);
        let had: Vec<&Backend> = match (old, same) {
            (Some(old), Some(past)) => old.serving_from_here(past).collect(),
            _ => Vec::new(),
        };
        if old.is_some() && same.is_none() {
            continue;
        }
        let taken = before_of(before, port).filter(|(_, leaver)| leaver.taken).map(|(_, leaver)| &leaver.backend);
        for backend in had.into_iter().chain(taken) {
            let key = (port.mark(), backend.address);
            if port.backends.iter().any(|other| other.address == backend.address) || !places.have_room_for(backend) {
                continue;
            }
            if let Some(leaver) = take(before.get(&key), mesh, port, backend, world) {
                leavers.insert(key, leaver);
            }
        }
    }
    leavers
}

/// Those that the operator drains.
fn drained<'a>(
    before: &'a Leavers,
    mesh: &'a Mesh,
    port: &'a Port,
    world: &'a impl World,
) -> impl Iterator<Item = (Key, Leaver)> + 'a {
    let drained = mesh.serving_from_here(port).filter(|backend| backend.state == BackendState::Drain);
    drained.map(move |backend| {
        let key = (port.mark(), backend.address);
        let known = before.get(&key).cloned();
        let leaver = known.unwrap_or_else(|| begin(port, backend, world, !world.served(&key)));
        let leaver = bounded(leaver, port, world);
        (key, Leaver { backend: backend.clone(), taken: false, namespace: None, ..leaver })
    })
}

/// One that the port has no more; `None`: it goes at once.
fn take(before: Option<&Leaver>, mesh: &Mesh, port: &Port, backend: &Backend, world: &impl World) -> Option<Leaver> {
    if let Some(before) = before.filter(|before| before.taken) {
        let same = before.namespace.is_none() || namespace_of(before, world) == before.namespace;
        return same.then(|| bounded(before.clone(), port, world));
    }
    let attached = backend.netns.as_ref().filter(|_| !mesh.is_elsewhere(backend));
    let namespace = attached.map(|netns| world.namespace(netns));
    // Without its namespace there is nothing that it could say.
    let namespace = match namespace {
        Some(None) => return None,
        other => other.flatten(),
    };
    let leaver = match before {
        Some(before) => before.clone(),
        None if world.served(&(port.mark(), backend.address)) => begin(port, backend, world, false),
        None => return None,
    };
    let of_this = Leaver { backend: backend.clone(), taken: true, namespace, ..leaver };
    (of_this.until > world.now()).then_some(of_this)
}

fn begin(port: &Port, backend: &Backend, world: &impl World, done: bool) -> Leaver {
    let until = world.now() + port.grace();
    let done = done || port.grace().is_zero();
    Leaver { backend: backend.clone(), taken: false, until, done, namespace: None, open: None }
}

/// No one has more time than whoever begins now: the operator may have shortened it, or the record may say anything.
fn bounded(leaver: Leaver, port: &Port, world: &impl World) -> Leaver {
    Leaver { until: leaver.until.min(world.now() + port.grace()), ..leaver }
}

fn before_of<'a>(leavers: &'a Leavers, port: &Port) -> impl Iterator<Item = (&'a Key, &'a Leaver)> + use<'a> {
    let mark = port.mark();
    // IPv4 sorts before IPv6.
    leavers.range((mark, [0; 4].into())..).take_while(move |((of, _), _)| *of == mark)
}

/// What the kernel is to hold: the mesh, and those who leave it. Who is done is out, as one is who cannot serve: so a port
/// that has only such ones stays published, and nobody else answers there.
pub fn merged(mesh: &Arc<Mesh>, leavers: &Leavers) -> Arc<Mesh> {
    if leavers.is_empty() {
        return mesh.clone();
    }
    let mut mesh = mesh.as_ref().clone();
    fn taken<'l>(leavers: &'l Leavers, port: &Port) -> impl Iterator<Item = &'l Leaver> + use<'l> {
        before_of(leavers, port).map(|(_, leaver)| leaver).filter(|leaver| leaver.taken)
    }
    for service in &mut mesh.services {
        if service.ports.iter().all(|port| taken(leavers, port).next().is_none()) {
            continue;
        }
        for port in &mut Arc::make_mut(service).ports {
            let left = |leaver: &Leaver| Backend { state: BackendState::Drain, ..leaver.backend.clone() };
            let left: Vec<Backend> = taken(leavers, port).map(left).collect();
            port.backends.extend(left);
        }
    }
    mesh.out.extend(leavers.iter().filter(|(_, leaver)| leaver.done).map(|(key, _)| *key));
    Arc::new(mesh)
}

/// Who has ended since, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub key: Key,
    pub reason: &'static str,
}

/// Moves on those who are done, and lets go of those who are gone; `open`: how many connections one has, if that can be told.
/// Whether anything is different now, and whose connections ended.
pub fn settle(
    leavers: &mut Leavers,
    mesh: &Mesh,
    world: &impl World,
    open: impl Fn(&Key) -> Option<u32>,
) -> (bool, Vec<Ended>) {
    let now = world.now();
    let mut ended = Vec::new();
    for (key, leaver) in leavers.iter_mut().filter(|(_, leaver)| !leaver.done) {
        leaver.open = open(key);
        let lost = leaver.namespace.is_some() && namespace_of(leaver, world) != leaver.namespace;
        let reason = match leaver.open {
            _ if lost => "its namespace is gone",
            Some(0) => "it has no open connection",
            _ if now >= leaver.until => "its time is over, and its connections end",
            _ => continue,
        };
        leaver.done = true;
        ended.push(Ended { key: *key, reason });
    }
    let before = leavers.len();
    let staying = places::of_those(leavers, mesh, |leaver| stays(leaver, mesh, world));
    leavers.retain(|_, leaver| !leaver.taken || staying.contains(&places::place(mesh, &leaver.backend)));
    (leavers.len() < before || !ended.is_empty(), ended)
}

fn namespace_of(leaver: &Leaver, world: &impl World) -> Option<u64> {
    leaver.backend.netns.as_ref().and_then(|netns| world.namespace(netns))
}

/// Whether its place is needed still.
fn stays(leaver: &Leaver, mesh: &Mesh, world: &impl World) -> bool {
    if !leaver.done {
        return true;
    }
    let is_seen = mesh.other_nodes().next().is_some();
    let houses = leaver.namespace.is_some() && namespace_of(leaver, world) == leaver.namespace;
    houses && is_seen && world.now() < leaver.until + MARGIN
}
