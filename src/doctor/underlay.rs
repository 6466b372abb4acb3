//! What is between the nodes: whether the tunnel's packets fit.

use super::chart::{Chart, several};
use crate::control::protocol::{Area, Grade};
use crate::dataplane::{encapsulation, overlay_mtu};
use crate::mesh::Peer;

pub fn look(chart: &mut Chart<'_>) {
    address(chart);
    fits(chart);
    links(chart);
    paths(chart);
}

fn address(chart: &mut Chart<'_>) {
    let Some(address) = chart.mesh.address else { return };
    let what = "[node] address";
    if chart.condition.addresses.iter().any(|network| network.ip() == address) {
        return chart.good(Area::Underlay, what, address.to_string(), "other nodes reach the overlay here");
    }
    let found = format!("{address} is not an address of this host");
    let why = "no other node reaches the overlay of this one";
    let mend = "[node] address = one that `ip -br address` shows";
    chart.bad((Area::Underlay, chart.between(Grade::Fault)), what, found, why, mend);
}

/// What is wanted of the overlay, against the link that carries it.
fn fits(chart: &mut Chart<'_>) {
    let Some(underlay) = &chart.condition.underlay else { return };
    let (overlay, around) = (overlay_mtu(chart.mesh, &chart.condition.surroundings), encapsulation(chart.mesh));
    let what = "MTU of the overlay";
    let found = format!("{overlay} bytes, and {around} around them; {} carries {}", underlay.name, underlay.mtu);
    if overlay + around <= underlay.mtu {
        return chart.good(Area::Underlay, what, found, "large packets pass in one piece");
    }
    let why = "large packets between nodes are lost or cut in pieces, while handshakes and checks pass: downloads hang";
    let mend = format!(
        "[ingress] mtu = {} on all nodes, or ip link set {} mtu {}",
        underlay.mtu.saturating_sub(around),
        underlay.name,
        overlay + around
    );
    chart.bad((Area::Underlay, chart.between(Grade::Fault)), what, found, why, mend);
}

/// What the overlay's links have: nobody mends them while no daemon runs.
fn links(chart: &mut Chart<'_>) {
    let wanted = overlay_mtu(chart.mesh, &chart.condition.surroundings);
    let other: Vec<String> = chart
        .condition
        .links
        .iter()
        .filter(|(_, mtu)| **mtu != wanted)
        .map(|(id, mtu)| format!("{id} {mtu}"))
        .collect();
    if chart.condition.links.is_empty() {
        return;
    }
    let what = "MTU of the overlay's links";
    if other.is_empty() {
        let found = format!("{wanted} bytes on all {}", chart.condition.links.len());
        return chart.good(Area::Underlay, what, found, "all links of the overlay carry the same");
    }
    let wide = chart.condition.links.values().any(|mtu| *mtu > wanted);
    let grade = if wide { chart.between(Grade::Fault) } else { Grade::Notice };
    let found = format!("{}, where {wanted} is wanted", several(&other));
    let why = "what the links take and the underlay does not carry is lost";
    let mend = "systemctl restart meshd, which sets them";
    chart.bad((Area::Underlay, grade), what, found, why, mend);
}

/// What the paths carry, as far as they could be tried.
fn paths(chart: &mut Chart<'_>) {
    let around = encapsulation(chart.mesh);
    let bytes = overlay_mtu(chart.mesh, &chart.condition.surroundings) + around;
    let (mut narrow, mut unknown): (Vec<(&Peer, u32, bool)>, Vec<&str>) = (Vec::new(), Vec::new());
    for peer in chart.mesh.other_nodes() {
        match chart.condition.paths.get(&peer.address) {
            Some((carries, by_echo)) if *carries < bytes => narrow.push((peer, *carries, *by_echo)),
            Some(_) => {}
            None => unknown.push(&peer.name),
        }
    }
    if !unknown.is_empty() {
        let found = format!("no route to {}", several(&unknown));
        let why = "backends there get no clients from here";
        chart.bad(
            (Area::Underlay, Grade::Fault),
            "routes to other nodes",
            found,
            why,
            "ip route get ADDRESS, of that node's [[peer]]",
        );
    }
    let good = chart.mesh.other_nodes().count().saturating_sub(narrow.len() + unknown.len());
    if good > 0 {
        let found = format!("{bytes} bytes in one piece, to {good}");
        chart.good(
            Area::Underlay,
            "paths to other nodes",
            found,
            "tried with packets that may not be cut; who answers no echo tells nothing",
        );
    }
    for (peer, carries, by_echo) in narrow {
        // Whoever says how large packets are to be may know of a filter for large echoes.
        let grade = if by_echo && chart.mesh.ingress.mtu.is_some() { Grade::Warning } else { Grade::Fault };
        let what = format!("path to {}", peer.name);
        let found = format!("{carries} bytes in one piece, and the tunnel's packets have up to {bytes}");
        let why = "large packets to that node are lost, while handshakes and checks pass: downloads hang";
        let mend = format!("[ingress] mtu = {} on all nodes", carries.saturating_sub(around));
        chart.bad((Area::Underlay, grade), what, found, why, mend);
    }
}
