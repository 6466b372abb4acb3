//! A service as the file or the socket would write it, from what it came to mean.

use std::collections::BTreeSet;

use crate::config::written_duration;
use crate::control::protocol::{Backend, Check, Mask, Netns, Port, Published, Scheduling, Service, Span, Spread, Way};
use crate::mesh::{
    self, Access, BackendState, ClientAddress, DnsProbe, ExecProbe, HttpProbe, Mode, NetnsRef, Network, Probe,
    Protocol, Scheduler, UdpProbe,
};

/// Terse: what all ports have in common is the service's, and what is the default is left out.
pub fn write(service: &mesh::Service) -> Service {
    let first = service.ports.first();
    let scheduling =
        first.map(|port| &port.scheduling).filter(|one| service.ports.iter().all(|port| port.scheduling == **one));
    let backends =
        first.map(|port| &port.backends).filter(|one| service.ports.iter().all(|port| port.backends == **one));
    let way = first.map(way_of).filter(|one| service.ports.iter().all(|port| way_of(port) == *one));
    let check = first.map(|port| &port.check).filter(|one| service.ports.iter().all(|port| port.check == **one));
    let spread = first.map(|port| port.spread).filter(|one| service.ports.iter().all(|port| port.spread == *one));
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
        check: if check.is_some() { None } else { Some(Box::new(write_check(port.check.as_ref()))) },
        spread: if spread.is_some() { Spread::default() } else { write_spread(port.spread) },
        backend: backends.is_none().then(|| port.backends.iter().map(write_backend).collect()),
    });
    Service {
        name: service.name.clone(),
        scheduling: scheduling.map(write_scheduling).unwrap_or_default(),
        way: way.map(write_way).unwrap_or_default(),
        check: check.into_iter().flatten().next().map(|check| Box::new(write_check(Some(check)))),
        spread: spread.map(write_spread).unwrap_or_default(),
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

fn write_spread(spread: mesh::Spread) -> Spread {
    let mesh::Spread { prefer, slow_start, drain, quorum, on_empty } = spread;
    let span = |duration| Span::Text(written_duration(duration));
    let default = mesh::Quorum::default();
    Spread {
        prefer: (prefer != mesh::Prefer::default()).then(|| prefer.name().to_owned()),
        slow_start: (!slow_start.is_zero()).then(|| span(slow_start)),
        drain: drain.map(span),
        quorum: (quorum.percent != default.percent).then_some(quorum.percent),
        hysteresis: (quorum.hysteresis != default.hysteresis).then_some(quorum.hysteresis),
        on_empty: on_empty.map(|on_empty| on_empty.name().to_owned()),
    }
}

/// Only what is not the default, but for the type.
fn write_check(check: Option<&mesh::Check>) -> Check {
    let Some(check) = check else { return Check { kind: Some("none".to_owned()), ..Check::default() } };
    let span = |duration| Some(Span::Text(written_duration(duration)));
    let mut words = Check {
        kind: Some(check.probe.name().to_owned()),
        interval: span(check.interval),
        timeout: span(check.timeout),
        rise: Some(check.rise),
        fall: Some(check.fall),
        start: check.start_up.then(|| "up".to_owned()),
        on_down: (check.on_down != mesh::OnDown::default()).then(|| check.on_down.name().to_owned()),
        port: check.port,
        ..Check::default()
    };
    match &check.probe {
        Probe::Tcp => {}
        Probe::Http(HttpProbe { tls, path, host, status, body }) => {
            words.path = Some(path.clone());
            words.host.clone_from(host);
            words.status = Some(Published::Text(format!("{}-{}", status.start(), status.end())));
            words.body.clone_from(body);
            words.verify = tls.filter(|tls| !tls.verify).map(|tls| tls.verify);
        }
        Probe::Udp(UdpProbe { send, expect }) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            words.send = (!send.is_empty()).then(|| text(send));
            words.expect = expect.as_deref().map(text);
        }
        Probe::Dns(DnsProbe { name, record }) => {
            words.name = Some(name.clone());
            words.record = Some(record.name().to_owned());
        }
        Probe::Exec(ExecProbe { command, user }) => {
            words.command = Some(command.clone());
            words.user = Some(user.clone());
        }
    }
    words
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
        upper_threshold: (backend.thresholds.upper != 0).then_some(backend.thresholds.upper),
        lower_threshold: (backend.thresholds.lower != 0).then_some(backend.thresholds.lower),
        state: (backend.state != BackendState::Enabled).then(|| backend.state.name().to_owned()),
        backup: backend.backup.then_some(true),
        node: backend.node.clone(),
        netns: backend.netns.as_ref().map(|netns| match netns {
            NetnsRef::Name(name) => Netns::Name(name.clone()),
            NetnsRef::Path(path) => Netns::Name(path.clone()),
            NetnsRef::Pid(pid) => Netns::Pid(*pid),
        }),
    }
}
