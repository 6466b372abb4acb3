//! Subnets, names and ports that somebody else has, too.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::chart::{Chart, several};
use crate::control::protocol::{Area, Grade};
use crate::mesh::{Encryption, PortRange, Protocol};
use crate::objects::{LinkId, Netns, TUNNEL};

pub fn look(chart: &mut Chart<'_>) {
    subnets(chart);
    names(chart);
    tunnel_ports(chart);
    published(chart);
}

fn subnets(chart: &mut Chart<'_>) {
    let mesh = chart.mesh;
    let mut ours: Vec<(&str, IpNetwork)> = vec![("[gateway] subnet", mesh.gateway.subnet.into())];
    if chart.v6() {
        ours.push(("[gateway] subnet6", mesh.gateway.subnet6.into()));
    }
    ours.extend(mesh.ingress.v4.map(|endpoint| ("[ingress] subnet", endpoint.subnet.into())));
    ours.extend(mesh.ingress.v6.map(|endpoint| ("[ingress] subnet6", endpoint.subnet.into())));
    let mut free = Vec::new();
    for (name, subnet) in ours {
        let others = chart.condition.routes.iter().filter(|(route, _)| overlap(&subnet, route));
        let others: Vec<String> = others.map(|(route, link)| format!("{route} on {link}")).collect();
        if others.is_empty() {
            free.push(subnet.to_string());
            continue;
        }
        let found = format!("{subnet}, and this host has a route to {}", several(&others));
        let why = "packets for the one go to the other; meshd does not start with it";
        let mend = format!("{name} = another that is free on all nodes, or ip route del the other");
        chart.bad((Area::Clash, Grade::Fault), name, found, why, mend);
    }
    if !free.is_empty() {
        chart.good(Area::Clash, "subnets", free.join(", "), "no route of the host is in them");
    }
}

fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

fn names(chart: &mut Chart<'_>) {
    for name in &chart.condition.foreign {
        let why = "meshd needs a link of that name, and does not take another's; it does not start";
        let mend = format!("ip link delete {name}, or another [gateway] bridge");
        chart.bad((Area::Clash, Grade::Fault), format!("link {name}"), "it is not meshd's", why, mend);
    }
}

/// Where the tunnel's packets arrive no process may listen.
fn tunnel_ports(chart: &mut Chart<'_>) {
    let ingress = &chart.mesh.ingress;
    // A kernel's socket is listed as a process's is. VXLAN's is one for all devices of that port, and no process's beside it.
    let has_vxlan = chart.condition.links.contains_key(&LinkId::new(Netns::Overlay, TUNNEL));
    let mut ports = vec![("[ingress] port", ingress.port, has_vxlan, Grade::Warning)];
    ports.extend(ingress.encryption.map(|Encryption { port }| {
        ("[ingress] wireguard_port", port, chart.condition.wireguard_port == Some(port), Grade::Fault)
    }));
    for (name, port, is_own, grade) in ports {
        let mut listeners = chart.condition.listeners.iter();
        let taken = !is_own && listeners.any(|(protocol, at)| *protocol == Protocol::Udp && at.port() == port);
        let what = format!("UDP port {port}");
        if !taken {
            chart.good(Area::Clash, what, "nobody else's", format!("{name}: the tunnel's packets arrive there"));
            continue;
        }
        let (found, why) = match grade {
            Grade::Fault => ("somebody has it", "WireGuard cannot share it: meshd does not start"),
            _ => (
                "somebody has it",
                "other VXLAN devices, as Swarm's, may share it, a process may not: then there is no overlay",
            ),
        };
        let mend = format!("ss -ulpn 'sport = {port}' shows a process that has it; or another {name} on all nodes");
        chart.bad((Area::Clash, grade), what, found, why, mend);
    }
}

fn published(chart: &mut Chart<'_>) {
    let ports: BTreeSet<PortRange> = chart.mesh.ports().map(|port| port.published).collect();
    let meets = |protocol: Protocol, port: u16| {
        let up_to = PortRange { protocol, first: port, last: u16::MAX };
        ports.range(..=up_to).next_back().is_some_and(|range| range.contains(protocol, port))
    };
    let met = chart.condition.listeners.iter().filter(|(protocol, at)| meets(*protocol, at.port()));
    let met: Vec<String> = met.map(|(protocol, at)| format!("{protocol} {at}")).collect();
    let what = "processes on published ports";
    if met.is_empty() {
        let found = format!("none on {}", ports.len());
        return chart.good(Area::Clash, what, found, "published ports are the mesh's alone");
    }
    let why = "what is sent to a published port goes to the mesh: that process gets no clients";
    let mend =
        "have the process listen elsewhere (`ss -lntup`), or publish another port, or at some addresses only (`bind`)";
    chart.bad((Area::Clash, Grade::Warning), what, several(&met), why, mend);
}
