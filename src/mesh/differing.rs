//! Which services of two meshes differ, at the cost of those that do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Backend, BackendState, Key, Mark, Mesh, Port, Service};

/// So many services are compared at a time.
const CHUNK: usize = 32;

/// Services that are not the same in both, in their order.
#[derive(Debug, Default)]
pub struct Differing<'m> {
    pub old: Vec<&'m Arc<Service>>,
    pub new: Vec<&'m Arc<Service>>,
}

/// What the operator lets a backend do now, which is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<'m> {
    pub service: &'m str,
    pub port: &'m Port,
    pub backend: &'m Backend,
    pub before: BackendState,
}

impl<'m> Differing<'m> {
    /// Of the backends that a port had and has.
    pub fn orders(&self) -> Vec<Order<'m>> {
        let ports = |services: &[&'m Arc<Service>]| -> Vec<(&'m str, &'m Port)> {
            services.iter().flat_map(|service| service.ports.iter().map(|port| (service.name.as_str(), port))).collect()
        };
        let past: BTreeMap<Mark, &Port> = ports(&self.old).into_iter().map(|(_, port)| (port.mark(), port)).collect();
        let mut orders = Vec::new();
        for (service, port) in ports(&self.new) {
            let Some(past) = past.get(&port.mark()).filter(|past| past.backends != port.backends) else { continue };
            let before: BTreeMap<IpAddr, BackendState> =
                past.backends.iter().map(|backend| (backend.address, backend.state)).collect();
            orders.extend(port.backends.iter().filter_map(|backend| {
                let before = *before.get(&backend.address)?;
                (before != backend.state).then_some(Order { service, port, backend, before })
            }));
        }
        orders
    }
}

impl Mesh {
    /// The services that are others than `old` had, and those that it had for them; those whose backends went out or came back
    /// are among them. `None` where more than services differs.
    pub fn differing<'m>(&'m self, old: &'m Mesh) -> Option<Differing<'m>> {
        let same = self.node == old.node
            && self.address == old.address
            && self.key == old.key
            && self.ingress == old.ingress
            && self.gateway == old.gateway
            && self.dataplane == old.dataplane
            && self.timeouts == old.timeouts
            && self.peers == old.peers;
        if !same {
            return None;
        }
        let mut differing = services(&old.services, &self.services);
        let turned = self.out.symmetric_difference(&old.out).chain(self.resting.symmetric_difference(&old.resting));
        let turned = turned.chain(self.full.symmetric_difference(&old.full));
        let turned: BTreeSet<Mark> = turned.map(|(mark, _): &Key| *mark).collect();
        if !turned.is_empty() {
            let concerned = |service: &&Arc<Service>| service.ports.iter().any(|port| turned.contains(&port.mark()));
            let known: BTreeSet<*const Service> = differing.new.iter().map(|service| Arc::as_ptr(service)).collect();
            // Those that are the same in both: what differs is there already.
            let same = self.services.iter().filter(concerned).filter(|service| !known.contains(&Arc::as_ptr(service)));
            for service in same {
                differing.old.push(service);
                differing.new.push(service);
            }
        }
        Some(differing)
    }

    /// The same mesh with those services alone.
    pub fn with_only(&self, services: &[&Arc<Service>]) -> Mesh {
        let services: Vec<Arc<Service>> = services.iter().map(|service| Arc::clone(service)).collect();
        let marks: BTreeSet<Mark> =
            services.iter().flat_map(|service| service.ports.iter().map(|port| port.mark())).collect();
        let theirs = |keys: &BTreeSet<Key>| keys.iter().filter(|(mark, _)| marks.contains(mark)).copied().collect();
        Mesh {
            node: self.node.clone(),
            address: self.address,
            key: self.key,
            ingress: self.ingress.clone(),
            gateway: self.gateway.clone(),
            dataplane: self.dataplane,
            timeouts: self.timeouts,
            peers: self.peers.clone(),
            services,
            out: theirs(&self.out),
            resting: theirs(&self.resting),
            full: theirs(&self.full),
        }
    }
}

/// Those that are one and the same are most; what lies between the first and the last that are not is compared.
fn services<'m>(old: &'m [Arc<Service>], new: &'m [Arc<Service>]) -> Differing<'m> {
    let before = same(old.iter(), new.iter(), old.chunks_exact(CHUNK), new.chunks_exact(CHUNK));
    let (old, new) = (&old[before..], &new[before..]);
    let after = same(old.iter().rev(), new.iter().rev(), old.rchunks_exact(CHUNK), new.rchunks_exact(CHUNK));
    let (old, new) = (&old[..old.len() - after], &new[..new.len() - after]);
    let by_name: BTreeMap<&str, &Arc<Service>> = old.iter().map(|service| (service.name.as_str(), service)).collect();
    let is_same = |service: &&Arc<Service>| {
        by_name.get(service.name.as_str()).is_some_and(|old| Arc::ptr_eq(old, service) || old == service)
    };
    let (same, new): (Vec<_>, Vec<_>) = new.iter().partition(is_same);
    let mut kept: Vec<&str> = same.iter().map(|service| service.name.as_str()).collect();
    kept.sort_unstable();
    let old = old.iter().filter(|service| kept.binary_search(&service.name.as_str()).is_err()).collect();
    Differing { old, new }
}

/// How many of the first are one and the same, one by one, or by chunks where that is faster.
fn same<'m>(
    old: impl Iterator<Item = &'m Arc<Service>>,
    new: impl Iterator<Item = &'m Arc<Service>>,
    old_chunks: impl Iterator<Item = &'m [Arc<Service>]>,
    new_chunks: impl Iterator<Item = &'m [Arc<Service>]>,
) -> usize {
    // Without a branch for each: there may be thousands, and several ask at each change.
    let differ = |all: usize, (one, other): (&Arc<Service>, &Arc<Service>)| {
        all | (Arc::as_ptr(one).addr() ^ Arc::as_ptr(other).addr())
    };
    let are_same = |(some, others): &(&[Arc<Service>], &[Arc<Service>])| some.iter().zip(*others).fold(0, differ) == 0;
    let chunked = CHUNK * old_chunks.zip(new_chunks).take_while(are_same).count();
    let is_same = |(one, other): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, other);
    chunked + old.skip(chunked).zip(new.skip(chunked)).take_while(is_same).count()
}
