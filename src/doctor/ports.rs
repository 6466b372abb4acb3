//! Ports that the host gives to its own programs.

use std::collections::BTreeSet;

use super::chart::{Chart, several};
use crate::control::protocol::{Area, Grade};
use crate::mesh::PortRange;
use crate::objects::Netns;

const PORTS: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

pub fn looked_at() -> [(Netns, String); 2] {
    [PORTS, RESERVED].map(|name| (Netns::Host, name.to_owned()))
}

/// Published ports that the host gives to its own programs, too.
pub fn look(chart: &mut Chart<'_>) {
    let Some((first, last)) = chart.parameter(Netns::Host, PORTS).and_then(range) else { return };
    let reserved = chart.parameter(Netns::Host, RESERVED).unwrap_or_default();
    let taken: Vec<(u16, u16)> = reserved.split(',').filter_map(span).collect();
    let is_reserved = |port: &PortRange| taken.iter().any(|(from, to)| *from <= port.first && port.last <= *to);
    let inside = |port: &&PortRange| port.first <= last && first <= port.last && !is_reserved(port);
    let ports: BTreeSet<PortRange> = chart.mesh.ports().map(|port| port.published).collect();
    let ports: Vec<&PortRange> = ports.iter().filter(inside).collect();
    let what = "published ports in ip_local_port_range";
    if ports.is_empty() {
        let found = format!("none in {first} to {last}");
        return chart.good(Area::Sysctl, what, found, "no program of the host is given one of them");
    }
    let why = "a program of the host that asks for any port may be given that one: who connects to it there comes to the mesh instead";
    let spans: BTreeSet<String> = ports.iter().map(|port| written(port)).collect();
    let all: Vec<String> = Some(reserved.to_owned()).filter(|list| !list.is_empty()).into_iter().chain(spans).collect();
    let mend = chart.set(Netns::Host, RESERVED, all.join(","));
    let found = format!("{} in {first} to {last}", several(&ports));
    chart.bad((Area::Sysctl, Grade::Notice), what, found, why, mend);
}

/// As the list of reserved ports has it.
fn written(port: &PortRange) -> String {
    if port.is_single() { port.first.to_string() } else { format!("{}-{}", port.first, port.last) }
}

/// `32768 60999`
fn range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `8080` or `9000-9010`
fn span(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}
