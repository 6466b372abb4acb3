//! What the kernel has, as it was tried.

use super::chart::Chart;
use crate::control::protocol::{Area, Grade};
use crate::mesh::Dataplane;
use crate::objects::{Feature, Scheduler};

pub fn look(chart: &mut Chart<'_>) {
    let mut there: Vec<&str> = Vec::new();
    for feature in &chart.condition.features {
        match &feature.outcome {
            // The list has its own finding.
            Ok(_) if matches!(feature.what.as_str(), "schedulers" | "dataplane auto") => {}
            Ok(_) => there.push(&feature.what),
            Err(_) if feature.what == "other schedulers" => {}
            Err(text) => missing(chart, feature, text),
        }
    }
    if !there.is_empty() {
        let found = there.join(", ");
        chart.good(Area::Kernel, "features", found, "each was tried in a namespace of its own");
    }
    schedulers(chart);
    misfits(chart);
}

fn missing(chart: &mut Chart<'_>, feature: &Feature, text: &str) {
    let what = feature.what.as_str();
    let encrypts = chart.mesh.ingress.encryption.is_some();
    let grade = match what {
        "ip_vs" if chart.mesh.dataplane == Dataplane::Ipvs => Grade::Fault,
        "wireguard" if encrypts => Grade::Fault,
        "ipv6" if chart.v6() => Grade::Warning,
        _ if feature.needed => Grade::Fault,
        _ => Grade::Notice,
    };
    let why = match what {
        "nft flow tables" => "established connections go the long way: it works, and costs more for each packet",
        "ipv6" => "published ports are closed to IPv6",
        "ip_vs" => "IPVS balances here",
        "wireguard" => "[ingress] encryption needs it",
        _ => "no mesh works without it",
    };
    chart.bad((Area::Kernel, grade), what, text, why, mend(what));
}

/// What brings it there, if anything does.
fn mend(what: &str) -> String {
    match what {
        "capabilities" => "run it as root, or by config/meshd.service".to_owned(),
        "network namespaces" => "use a kernel built with CONFIG_NET_NS".to_owned(),
        "ip_vs" => "modprobe ip_vs, or [node] dataplane = \"nftables\"".to_owned(),
        "ipv6" => "boot without ipv6.disable=1".to_owned(),
        "nft flow tables" => "modprobe -a nf_flow_table_inet nft_flow_offload".to_owned(),
        "nft balancing" => "modprobe -a nft_numgen nft_hash nft_ct nft_nat".to_owned(),
        "dataplane auto" => "modprobe ip_vs".to_owned(),
        "schedulers" => "modprobe -a ip_vs ip_vs_rr".to_owned(),
        "nf_tables" | "wireguard" | "bridge" | "veth" | "vxlan" => format!("modprobe {what}"),
        _ => "modprobe -a nf_tables nft_nat nft_fib_inet nft_masq nft_chain_nat".to_owned(),
    }
}

/// Those that ports want, among those that IPVS has.
fn schedulers(chart: &mut Chart<'_>) {
    let list = chart.condition.features.iter().find(|feature| feature.what == "schedulers");
    let Some(Ok(list)) = list.map(|feature| &feature.outcome) else { return };
    let has = |scheduler: &Scheduler| list.split(' ').any(|name| name == scheduler.name());
    let mut wanted: Vec<Scheduler> = chart.mesh.ports().map(|port| port.scheduling.scheduler).collect();
    wanted.sort();
    wanted.dedup();
    let lacking: Vec<Scheduler> = wanted.into_iter().filter(|scheduler| !has(scheduler)).collect();
    let (what, why) = ("schedulers", "a port whose scheduler is not there gets no clients");
    if lacking.is_empty() {
        let found = list.clone();
        return chart.good(Area::Kernel, what, found, why);
    }
    let names: Vec<String> = lacking.iter().map(|scheduler| format!("ip_vs_{scheduler}")).collect();
    let found = format!("not there: {}", names.join(", "));
    let mend = format!("modprobe -a {}, or another scheduler", names.join(" "));
    chart.bad((Area::Kernel, Grade::Fault), what, found, why, mend);
}

/// What who balances here cannot do.
fn misfits(chart: &mut Chart<'_>) {
    for misfit in chart.mesh.misfits() {
        let why = "a mesh that wants it is refused at the start";
        let mend = "[node] dataplane = \"auto\", or what is named";
        chart.bad((Area::Kernel, Grade::Fault), "data plane", misfit, why, mend);
    }
}
