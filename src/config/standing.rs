//! What services that are there already take up: ports, and places on the overlay. Kept up to date one service at a time, so a
//! newcomer is judged beside those alone that it could clash with, and that costs the same beside 10,000.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::mesh::Service;
use crate::objects::{Mac, NetnsRef, PortRange, Protocol};

use super::clash::file;
use super::error::{At, ELSEWHERE};
use super::services::{BackendSite, PortSite};

/// Services that go with one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// With the service's name, by protocol and first port: none overlaps another.
    ports: BTreeMap<(Protocol, u16), (PortRange, String)>,
    /// How often each place is named.
    places: BTreeMap<Place, usize>,
    /// By the MAC that the address makes: those of one address are among them.
    by_mac: BTreeMap<Mac, BTreeSet<Place>>,
    by_netns: BTreeMap<Namespace, BTreeSet<Place>>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    address: IpAddr,
    node: Option<String>,
    netns: Option<NetnsRef>,
}

/// A node, and the namespace's file there.
type Namespace = (Option<String>, String);

impl Place {
    fn mac(&self) -> Mac {
        Mac::of(&self.address)
    }

    fn namespace(&self) -> Option<Namespace> {
        Some((self.node.clone(), file(self.netns.as_ref()?)))
    }

    fn of(site: &BackendSite) -> Place {
        Place {
            address: site.address.value,
            node: site.node.as_ref().map(|node| node.value.clone()),
            netns: site.netns.as_ref().map(|netns| netns.value.clone()),
        }
    }

    pub(super) fn site(&self) -> BackendSite {
        BackendSite {
            address: elsewhere(self.address),
            node: self.node.clone().map(elsewhere),
            netns: self.netns.clone().map(elsewhere),
        }
    }
}

pub(super) fn elsewhere<T>(value: T) -> At<T> {
    At { value, at: ELSEWHERE }
}

/// The places that a service names, as often as it does.
pub(super) fn places(service: &Service) -> impl Iterator<Item = Place> {
    let backends = service.ports.iter().flat_map(|port| &port.backends);
    backends.map(|backend| Place { address: backend.address, node: backend.node.clone(), netns: backend.netns.clone() })
}

impl Standing {
    pub fn add(&mut self, service: &Service) {
        for port in &service.ports {
            let published = port.published;
            self.ports.insert((published.protocol, published.first), (published, service.name.clone()));
        }
        for place in places(service) {
            if let Some(count) = self.places.get_mut(&place) {
                *count += 1;
                continue;
            }
            self.by_mac.entry(place.mac()).or_default().insert(place.clone());
            if let Some(namespace) = place.namespace() {
                self.by_netns.entry(namespace).or_default().insert(place.clone());
            }
            self.places.insert(place, 1);
        }
    }

    pub fn remove(&mut self, service: &Service) {
        for port in &service.ports {
            let key = (port.published.protocol, port.published.first);
            if self.ports.get(&key).is_some_and(|(_, owner)| *owner == service.name) {
                self.ports.remove(&key);
            }
        }
        for place in places(service) {
            match self.places.get_mut(&place) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => self.forget(&place),
                None => {}
            }
        }
    }

    fn forget(&mut self, place: &Place) {
        fn take<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Place>>, key: &K, place: &Place) {
            if let Some(places) = index.get_mut(key) {
                places.remove(place);
                if places.is_empty() {
                    index.remove(key);
                }
            }
        }
        self.places.remove(place);
        take(&mut self.by_mac, &place.mac(), place);
        if let Some(namespace) = place.namespace() {
            take(&mut self.by_netns, &namespace, place);
        }
    }

    /// The ports that those overlap, but for `without`'s.
    pub(super) fn ports_near(&self, ports: &[PortSite], without: Option<&Service>) -> Vec<PortSite> {
        let mut near: BTreeMap<(Protocol, u16), PortSite> = BTreeMap::new();
        for PortRange { protocol, first, last } in ports.iter().map(|site| site.published.value) {
            let before = self.ports.range((protocol, 0)..=(protocol, last)).rev();
            for (key, (published, owner)) in before.take_while(|(_, (published, _))| published.last >= first) {
                if without.is_none_or(|without| without.name != *owner) {
                    near.insert(*key, PortSite { published: elsewhere(*published), service: owner.clone() });
                }
            }
        }
        near.into_values().collect()
    }

    /// The places that have to do with those: at one address, in one namespace, of one MAC, and whatever has to do with these
    /// in turn. But for those that `without` alone names.
    pub(super) fn places_near(&self, sites: &[BackendSite], without: Option<&Service>) -> Vec<BackendSite> {
        let mut own: BTreeMap<Place, usize> = BTreeMap::new();
        without.into_iter().flat_map(places).for_each(|place| *own.entry(place).or_default() += 1);
        let counts =
            |place: &&Place| self.places.get(place).copied().unwrap_or(0) > own.get(place).copied().unwrap_or(0);
        let mut near: BTreeSet<Place> = BTreeSet::new();
        let mut fresh: Vec<Place> = sites.iter().map(Place::of).collect();
        while let Some(place) = fresh.pop() {
            let alike = self.by_mac.get(&place.mac());
            let namespaces = place.namespace().and_then(|namespace| self.by_netns.get(&namespace));
            for place in alike.into_iter().chain(namespaces).flatten().filter(counts) {
                if near.insert(place.clone()) {
                    fresh.push(place.clone());
                }
            }
        }
        near.iter().map(Place::site).collect()
    }
}

impl<'s> FromIterator<&'s Service> for Standing {
    fn from_iter<I: IntoIterator<Item = &'s Service>>(services: I) -> Standing {
        let mut standing = Standing::default();
        services.into_iter().for_each(|service| standing.add(service));
        standing
    }
}
