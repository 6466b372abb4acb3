//! A service as the file or the socket would write it, from what it came to mean.

use std::collections::BTreeSet;

use crate::control::protocol::{Backend, Mask, Netns, Port, Published, Scheduling, Service, Way};
use crate::mesh::{self, Access, BackendState, ClientAddress, Mode, NetnsRef, Network, Protocol, Scheduler};

/// Terse: what all ports have in common is the service's, and what is the default is left out.
pub fn write(service: &mesh::Service) -> Service {
    let first = service.ports.first();
    let scheduling =
        first.map(|port| &port.scheduling).filter(|one| service.ports.iter().all(|port| port.scheduling == **one));
    let backends =
        first.map(|port| &port.backends).filter(|one| service.ports.iter().all(|port| port.backends == **one));
    let way = first.map(way_of).filter(|one| service.ports.iter().all(|port| way_of(port) == *one));
    let ports = service.ports.iter().map(|port| Port {
        published: if port.published.is_single() {
            Published::Port(port.published.first)
        } else {
            Published::Text(format!("{}-{}", port.published.first, port.published.last))
        },
        target: port.target.filter(|target| *target != port.published.first),
        protocol: (port.published.protocol != Protocol::Tcp).then(|| port.published.protocol.to_string()),
        scheduling: if scheduling.is_some() { Scheduling::default() } else { write_scheduling(&port.scheduling) },
        way: if way.is_some() { Way::default() } else { write_way(way_of(port)) },
        backend: backends.is_none().then(|| port.backends.iter().map(write_backend).collect()),
    });
    Service {
        name: service.name.clone(),
        scheduling: scheduling.map(write_scheduling).unwrap_or_default(),
        way: way.map(write_way).unwrap_or_default(),
        port: ports.collect(),
        backend: backends.into_iter().flatten().map(write_backend).collect(),
    }
}

type WayOf<'p> = (ClientAddress, Mode, &'p Access);

fn way_of(port: &mesh::Port) -> WayOf<'_> {
    (port.client_address, port.mode, &port.access)
}

fn write_way((client_address, mode, access): WayOf<'_>) -> Way {
    let networks = |networks: &BTreeSet<Network>| networks.iter().map(|network| network.0.to_string()).collect();
    let preserve = client_address == ClientAddress::Preserve && mode == Mode::Ingress;
    Way {
        client_address: preserve.then(|| client_address.name().to_owned()),
        mode: (mode == Mode::Host).then(|| mode.name().to_owned()),
        bind: (!access.bind.is_empty()).then(|| access.bind.iter().map(ToString::to_string).collect()),
        allow: access.allow.as_ref().map(networks),
        deny: (!access.deny.is_empty()).then(|| networks(&access.deny)),
    }
}

fn write_scheduling(scheduling: &mesh::Scheduling) -> Scheduling {
    let flags: Vec<String> = scheduling.flags.names(scheduling.scheduler).collect();
    Scheduling {
        scheduler: (scheduling.scheduler != Scheduler::RoundRobin).then(|| scheduling.scheduler.to_string()),
        scheduler_flags: (!flags.is_empty()).then_some(flags),
        persistence: (scheduling.persistence != 0).then_some(scheduling.persistence),
        persistence_mask: (scheduling.persistence_mask != 32).then_some(Mask::Length(scheduling.persistence_mask)),
        persistence_mask6: (scheduling.persistence_mask6 != 128).then_some(scheduling.persistence_mask6),
        one_packet: scheduling.one_packet.then_some(true),
    }
}

fn write_backend(backend: &mesh::Backend) -> Backend {
    Backend {
        address: backend.address.to_string(),
        weight: (backend.weight != 1).then_some(backend.weight),
        state: (backend.state != BackendState::Enabled).then(|| backend.state.name().to_owned()),
        node: backend.node.clone(),
        netns: backend.netns.as_ref().map(|netns| match netns {
            NetnsRef::Name(name) => Netns::Name(name.clone()),
            NetnsRef::Path(path) => Netns::Name(path.clone()),
            NetnsRef::Pid(pid) => Netns::Pid(*pid),
        }),
    }
}
