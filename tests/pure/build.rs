//! Meshes by hand, for examples: short words for what a test is about, usual values for the rest.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use meshd::mesh::{
    Access, Backend, BackendState, ClientAddress, Dataplane, Encryption, Endpoint4, Endpoint6, Gateway, Ingress, Mesh,
    Mode, Port, Scheduling, Service, Spread, Thresholds, Timeouts,
};
use meshd::objects::{NetnsRef, PortRange, Protocol, PublicKey, Scheduler, SchedulerFlags};

pub const V4_SUBNET: &str = "10.255.0.0/16";
pub const V6_SUBNET: &str = "fd00:255::/64";

/// DESIGN.md's example node, without services.
pub fn node() -> Mesh {
    Mesh {
        node: "node-1".into(),
        address: Some("192.168.50.1".parse().unwrap()),
        key: None,
        ingress: Ingress {
            v4: Some(Endpoint4 { subnet: V4_SUBNET.parse().unwrap(), address: Ipv4Addr::new(10, 255, 0, 3) }),
            v6: None,
            namespace: "ingress_sbox".into(),
            vni: 4077,
            port: 4789,
            encryption: None,
            mtu: None,
        },
        gateway: Gateway {
            bridge: None,
            subnet: "169.254.77.0/24".parse().unwrap(),
            subnet6: "fdce:77::/64".parse().unwrap(),
            open_forward: true,
            flow_table: true,
        },
        dataplane: Dataplane::Ipvs,
        timeouts: Timeouts::default(),
        peers: Vec::new(),
        services: Vec::new(),
        out: Default::default(),
        full: Default::default(),
        resting: Default::default(),
    }
}

pub fn endpoint6() -> Endpoint6 {
    Endpoint6 { subnet: V6_SUBNET.parse().unwrap(), address: Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 3) }
}

/// The same behind WireGuard.
pub fn encrypted(mut mesh: Mesh) -> Mesh {
    mesh.ingress.encryption = Some(Encryption { port: 51820 });
    mesh.key = Some(PublicKey([1; 32]));
    mesh
}

pub fn with_v6(mut mesh: Mesh) -> Mesh {
    mesh.ingress.v6 = Some(endpoint6());
    mesh
}

/// The mesh with one more service.
pub fn serving(mut mesh: Mesh, name: &str, ports: impl Into<Vec<Port>>) -> Mesh {
    mesh.services.push(Arc::new(Service { name: name.into(), ports: ports.into() }));
    mesh
}

pub fn tcp(first: u16, last: u16) -> PortRange {
    PortRange { protocol: Protocol::Tcp, first, last }
}

pub fn udp(first: u16, last: u16) -> PortRange {
    PortRange { protocol: Protocol::Udp, first, last }
}

pub fn port(published: PortRange, target: impl Into<Option<u16>>, backends: impl Into<Vec<Backend>>) -> Port {
    Port {
        published,
        target: target.into(),
        scheduling: round_robin(),
        client_address: ClientAddress::Snat,
        mode: Mode::Ingress,
        access: Access::default(),
        check: None,
        spread: Spread::default(),
        backends: backends.into(),
    }
}

/// The same port, where backends see the client.
pub fn preserving(port: Port) -> Port {
    Port { client_address: ClientAddress::Preserve, ..port }
}

pub fn round_robin() -> Scheduling {
    Scheduling {
        scheduler: Scheduler::RoundRobin,
        flags: SchedulerFlags::default(),
        persistence: 0,
        persistence_mask: 32,
        persistence_mask6: 128,
        one_packet: false,
    }
}

pub fn backend(address: &str) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        weight: 1,
        thresholds: Thresholds::default(),
        state: BackendState::Enabled,
        backup: false,
        node: None,
        netns: None,
    }
}

/// A backend that meshd attaches.
pub fn attached(address: &str, netns: &str) -> Backend {
    Backend { netns: Some(NetnsRef::Name(netns.into())), ..backend(address) }
}
