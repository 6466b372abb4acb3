//! Kernel parameters: those that meshd sets, each with its reason, and those of the host that it leaves alone and that bite.

use super::chart::{Chart, dotted, several};
use crate::control::protocol::{Area, Grade};
use crate::mesh::Mesh;
use crate::objects::Netns;

const BRIDGE_CALLS: &str = "net/bridge/bridge-nf-call-iptables";
/// Reverse paths are looked at strictly (ip-sysctl: rp_filter).
const STRICT: u64 = 1;

pub fn looked_at(mesh: &Mesh) -> [(Netns, String); 3] {
    [filter("all"), filter(mesh.gateway.link()), BRIDGE_CALLS.to_owned()].map(|name| (Netns::Host, name))
}

pub fn look(chart: &mut Chart<'_>) {
    if !chart.has_run() {
        let found = format!("there is no namespace {}", chart.mesh.ingress.namespace);
        let why = "meshd has not run here since the host started: what is only its own to set is not looked at";
        chart.bad((Area::Sysctl, Grade::Notice), "sandbox", found, why, "systemctl start meshd");
    }
    ours(chart);
    gateway_filter(chart);
    uplink_filters(chart);
    bridge_calls(chart);
}

fn filter(link: &str) -> String {
    format!("net/ipv4/conf/{link}/rp_filter")
}

/// What meshd sets.
fn ours(chart: &mut Chart<'_>) {
    for ((netns, name), wanted) in chart.wanted.sysctls.clone() {
        let is = chart.parameter(netns, &name);
        let what = format!("{} of the {netns}", dotted(&name));
        let why = why(netns, &name);
        match is {
            Some(is) if is == wanted => chart.good(Area::Sysctl, what, wanted, why),
            _ if !chart.has_run() => {}
            _ => {
                let found = is.map_or("not there".to_owned(), |is| format!("{is}, where {wanted} is wanted"));
                let mend = chart.set(netns, &name, &wanted);
                chart.bad((Area::Sysctl, Grade::Fault), what, found, why, mend);
            }
        }
    }
}

/// Why a parameter has to be what it is.
fn why(netns: Netns, name: &str) -> &'static str {
    let last = name.rsplit('/').next().unwrap_or_default();
    match (netns, last) {
        (Netns::Host, "ip_forward" | "forwarding") => "clients' packets are forwarded to the sandbox",
        (_, "ip_forward" | "forwarding") => "the sandbox forwards clients' packets to backends",
        (_, "route_localnet") => "published ports answer at 127.0.0.1, too; it is set on this one link",
        (_, "accept_ra") => "a host that forwards ignores router advertisements, and would lose its default route",
        (_, "promote_secondaries") => {
            "an ingress address that is replaced by another of its subnet does not take that along"
        }
        (_, "conntrack") => "the SNAT behind IPVS sees its connections",
        (_, "conn_reuse_mode") => {
            "1: a client that uses a source port again gets a new backend; 0 before Linux 5.9, where 1 delays it"
        }
        (_, "expire_nodest_conn") => "connections of a backend that is gone end with it",
        (_, "expire_quiescent_template") => "who persists does not stay with a drained backend",
        (
            _,
            "nf_conntrack_tcp_timeout_established"
            | "nf_conntrack_tcp_timeout_fin_wait"
            | "nf_conntrack_udp_timeout_stream",
        ) => "connections are remembered as long as [ipvs] says",
        (_, "bridge-nf-call-iptables" | "bridge-nf-call-ip6tables" | "bridge-nf-call-arptables") => {
            "to be asked for rules costs each packet of the overlay, and there are none"
        }
        (_, "disable_ipv6") => "a router's advertisement in the overlay must not lead packets past the encryption",
        _ => "the data plane needs it",
    }
}

/// What holds is the larger of a link's own and that for all.
fn held(chart: &Chart<'_>, own: u64) -> u64 {
    own.max(chart.number(Netns::Host, &filter("all")).unwrap_or(0))
}

fn gateway_filter(chart: &mut Chart<'_>) {
    let link = chart.mesh.gateway.link();
    let Some(is) = chart.number(Netns::Host, &filter(link)).map(|own| held(chart, own)) else { return };
    let what = format!("reverse path filter of {link}");
    if is != STRICT {
        return chart.good(Area::Sysctl, what, is.to_string(), "what comes from the sandbox is let in");
    }
    let why = "with routing by mark or by source (`ip rule`) answers of backends count as coming in the wrong way, and are dropped";
    let mend = chart.set(Netns::Host, &filter(link), 2);
    chart.bad((Area::Sysctl, Grade::Notice), what, "1, strict", why, mend);
}

/// With one way out there is no other that a client's packets could have come by.
fn uplink_filters(chart: &mut Chart<'_>) {
    let uplinks: Vec<&String> = chart.condition.uplinks.keys().collect();
    let strict = chart.condition.uplinks.iter().filter(|(_, own)| held(chart, **own) == STRICT);
    let strict: Vec<&String> = strict.map(|(link, _)| link).collect();
    if uplinks.is_empty() {
        return;
    }
    let what = "reverse path filter of uplinks";
    if uplinks.len() == 1 || strict.is_empty() {
        return chart.good(Area::Sysctl, what, several(&uplinks), "clients are let in by the link that they come by");
    }
    let why = "clients that come by another link than the one that leads back to them are dropped";
    let mend: Vec<String> = strict.iter().map(|link| chart.set(Netns::Host, &filter(link), 2)).collect();
    let found = format!("1, strict, on {}", several(&strict));
    chart.bad((Area::Sysctl, Grade::Notice), what, found, why, mend.join("; "));
}

/// Where the gateway is a bridge, what it carries is shown to iptables once more.
fn bridge_calls(chart: &mut Chart<'_>) {
    let Some(bridge) = chart.mesh.gateway.bridge.as_ref() else { return };
    let Some(is) = chart.parameter(Netns::Host, BRIDGE_CALLS) else { return };
    let what = "bridge-nf-call-iptables of the host";
    if is == "0" {
        return chart.good(Area::Sysctl, what, is, "what a bridge carries is not filtered as if it were routed");
    }
    let why = format!("what {bridge} carries passes iptables once more, which costs each connection about 28 µs");
    let mend = format!(
        "remove [gateway] bridge (a pair of devices does), or, if no one else needs it, {}",
        chart.set(Netns::Host, BRIDGE_CALLS, 0)
    );
    chart.bad((Area::Sysctl, Grade::Notice), what, is, why, mend);
}
