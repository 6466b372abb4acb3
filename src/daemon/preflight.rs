//! What stands in the way on this host, named before anything is changed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use tracing::warn;

use crate::dataplane::{encapsulation, overlay_mtu};
use crate::kernel::probe::may_run_as_others;
use crate::kernel::{Kernel, Result, listeners};
use crate::mesh::{Check, Encryption, Ingress, Mesh, PortRange, Probe, Protocol};
use crate::objects::HOST_END;

/// Why this mesh cannot be on this host, each with what to do.
pub fn problems(kernel: &mut Kernel, mesh: &Mesh) -> Result<Vec<String>> {
    let mut problems = mesh.misfits();
    if let Some(bridge) = &mesh.gateway.bridge
        && kernel.links().is_foreign(bridge)?
    {
        problems.push(format!(
            "a link {bridge} exists that is not meshd's: choose another [gateway] bridge, or remove it with `ip link delete {bridge}`"
        ));
    }
    if kernel.links().is_foreign(HOST_END)? {
        problems.push(format!(
            "a link {HOST_END} exists that is not meshd's: rename it, or remove it with `ip link delete {HOST_END}`"
        ));
    }
    let gateway =
        [("[gateway] subnet", mesh.gateway.subnet.into()), ("[gateway] subnet6", mesh.gateway.subnet6.into())];
    let ours: Vec<(&str, IpNetwork)> = subnets(&mesh.ingress).chain(gateway).collect();
    for (route, link) in kernel.links().host_routes()? {
        let clash = ours.iter().find(|(_, subnet)| overlap(subnet, &route));
        if let Some((name, subnet)) = clash {
            problems.push(format!(
                "{name} = \"{subnet}\" is taken: this host has a route to {route} on {link}; choose another subnet"
            ));
        }
    }
    problems.extend(taken_port(kernel, mesh)?);
    problems.extend(cannot_execute(mesh));
    problems.extend(narrow_paths(kernel, mesh)?);
    Ok(problems)
}

/// The unit gives meshd no more than most need.
fn cannot_execute(mesh: &Mesh) -> Option<String> {
    let executes = |check: &Check| matches!(check.probe, Probe::Exec(_));
    let wanted = mesh.ports().any(|port| port.check.as_ref().is_some_and(executes));
    (wanted && !may_run_as_others()).then(|| {
        "a check of type exec needs the capabilities SETUID, SETGID and KILL, which meshd.service does not have: `systemctl edit \
         meshd`, and below [Service] add `CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL` and `SystemCallFilter=@setuid`"
            .to_owned()
    })
}

/// WireGuard has a port of its own, and cannot share it.
fn taken_port(kernel: &mut Kernel, mesh: &Mesh) -> Result<Option<String>> {
    let Some(Encryption { port }) = mesh.ingress.encryption else { return Ok(None) };
    let mut sockets = listeners::listeners(Protocol::Udp).unwrap_or_default().into_iter();
    if kernel.wireguard_port()? == Some(port) || !sockets.any(|socket| socket.port() == port) {
        return Ok(None);
    }
    Ok(Some(format!(
        "UDP port {port} is taken on this host, and [ingress] encryption needs it for WireGuard (`wg show`, `ss -ulpn`): free it, \
         or set another [ingress] wireguard_port on all nodes"
    )))
}

/// Peers to whom the tunnel's packets do not fit in one piece. What is large would be lost on the way, while all that is
/// small, a handshake, a health check, gets through.
fn narrow_paths(kernel: &mut Kernel, mesh: &Mesh) -> Result<Vec<String>> {
    let surroundings = kernel.surroundings(mesh.address)?;
    let (mtu, overhead) = (overlay_mtu(mesh, &surroundings), encapsulation(mesh));
    let peers: Vec<IpAddr> = mesh.peers.iter().map(|peer| peer.address).collect();
    let port = mesh.ingress.underlay_port();
    let paths = kernel.path_mtus(&peers, port, mtu + overhead)?;
    let narrow = mesh.peers.iter().filter_map(|peer| Some((peer, *paths.get(&peer.address)?)));
    let narrow = narrow.filter(|(_, path)| path.bytes < mtu + overhead);
    // Whoever says how large packets are to be knows of a filter for echoes that keeps the larger ones back.
    let (doubtful, narrow): (Vec<_>, Vec<_>) = narrow.partition(|(_, path)| path.by_echo && mesh.ingress.mtu.is_some());
    for (peer, path) in doubtful {
        warn!(
            "{} ({}) answers no echo of more than {} bytes, and the tunnel's packets have up to {}: if large answers are lost, \
             set a smaller [ingress] mtu on all nodes",
            peer.name,
            peer.address,
            path.bytes,
            mtu + overhead
        );
    }
    let Some(narrowest) = narrow.iter().map(|(_, path)| path.bytes.saturating_sub(overhead)).min() else {
        return Ok(Vec::new());
    };
    let told = narrow.iter().map(|(peer, path)| {
        format!(
            "the path to {} ({}) carries packets of {} bytes, and the tunnel's have up to {}: set [ingress] mtu = \
             {narrowest} on all nodes",
            peer.name,
            peer.address,
            path.bytes,
            mtu + overhead
        )
    });
    Ok(told.collect())
}

/// What works, but may surprise.
pub fn warn(kernel: &mut Kernel, mesh: &Mesh) {
    // Each table is read once: there may be ten thousand ports.
    let ports = mesh.ports().map(|port| port.published);
    let published: BTreeMap<(Protocol, u16), PortRange> =
        ports.map(|range| ((range.protocol, range.first), range)).collect();
    for protocol in Protocol::ALL {
        for socket in listeners::listeners(protocol).unwrap_or_default() {
            let before = published.range(..=(protocol, socket.port())).next_back();
            if let Some((_, range)) = before.filter(|(_, range)| range.contains(protocol, socket.port())) {
                warn!(
                    "published port {range}: a local process listens on {socket} and gets no connections now, they go to the mesh"
                );
            }
        }
    }
    if let Some(address) = mesh.address {
        let there = kernel.links().host_addresses().is_ok_and(|all| all.iter().any(|network| network.ip() == address));
        if !there {
            warn!(
                "[node] address = \"{address}\" is not an address of this host: no other node will reach its overlay"
            );
        }
    }
}

fn subnets(ingress: &Ingress) -> impl Iterator<Item = (&'static str, IpNetwork)> {
    let v4 = ingress.v4.map(|endpoint| ("[ingress] subnet", endpoint.subnet.into()));
    let v6 = ingress.v6.map(|endpoint| ("[ingress] subnet6", endpoint.subnet.into()));
    v4.into_iter().chain(v6)
}

fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}
