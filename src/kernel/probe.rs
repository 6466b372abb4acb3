//! What this kernel can do, found by trying it in a namespace made for that, never guessed from a version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::thread;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};

use super::ipvs::Ipvs;
use super::link::Links;
use super::netns;
use super::nft::Nft;
use super::wireguard::WireguardSocket;
use crate::objects::{
    Action, Chain, ChainKind, FLOWS, Family, Hook, Link, LinkId, LinkKind, Mac, Map, MapKind, Match, Netns, Pick, Rule,
    Scheduler, Table, Way, slots_map, ways_map,
};
use crate::plan::Step;

/// Without these nothing works (capabilities(7)).
const CAPABILITIES: [(Capability, &str); 2] = [
    (Capability::CAP_NET_ADMIN, "to change links, addresses, nftables and IPVS"),
    (Capability::CAP_SYS_ADMIN, "to make and enter network namespaces"),
];

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: String,
    /// What is there; or else what is missing and what to do.
    pub outcome: Result<String, String>,
    /// Without it no mesh works.
    pub needed: bool,
}

/// All that was tried.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether all that a mesh needs is there.
    pub fn complete(&self) -> bool {
        self.findings.iter().all(|finding| !finding.needed || finding.outcome.is_ok())
    }

    fn add(&mut self, what: &str, needed: bool, outcome: Result<String, String>) {
        self.findings.push(Finding { what: what.to_owned(), outcome, needed });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { what, outcome, needed } in &self.findings {
            match outcome {
                Ok(text) => writeln!(f, "{what:<22} yes  {text}")?,
                Err(text) if *needed => writeln!(f, "{what:<22} NO   {text}")?,
                Err(text) => writeln!(f, "{what:<22} no   {text}")?,
            }
        }
        Ok(())
    }
}

/// What it takes to run a program as somebody else, and to end it.
const RUN_AS_OTHERS: [Capability; 3] = [Capability::CAP_KILL, Capability::CAP_SETGID, Capability::CAP_SETUID];

/// Whether this process can run programs as somebody else, and end them.
pub fn may_run_as_others() -> bool {
    let held = held();
    RUN_AS_OTHERS.iter().all(|needed| held.contains(needed))
}

/// What cannot be read is not held.
fn held() -> CapsHashSet {
    caps::read(None, CapSet::Effective).unwrap_or_default()
}

/// Capabilities that this process lacks, each with what it is for.
pub fn missing_capabilities() -> Vec<String> {
    let held = held();
    let lacking = CAPABILITIES.iter().filter(|(needed, _)| !held.contains(needed));
    lacking.map(|(needed, purpose)| format!("{needed} is missing, needed {purpose}: run as root")).collect()
}

/// Tries everything. The host's own namespace is not touched; what is tried goes with the thread that tried it.
pub fn run() -> Report {
    of(true, true)
}

/// The same, with IPVS and WireGuard only if they are wanted: to try them loads them.
pub fn of(with_ipvs: bool, with_wireguard: bool) -> Report {
    let mut report = Report::default();
    let missing = missing_capabilities();
    report.add(
        "capabilities",
        true,
        if missing.is_empty() { Ok("CAP_NET_ADMIN CAP_SYS_ADMIN".into()) } else { Err(missing.join("; ")) },
    );
    if !missing.is_empty() {
        return report;
    }
    let tried = thread::spawn(move || {
        let made = unshare(CloneFlags::CLONE_NEWNET);
        report.add("network namespaces", true, made.map(|()| String::new()).map_err(|errno| errno.to_string()));
        if made.is_ok() {
            let has_ipvs = with_ipvs.then(|| ipvs(&mut report));
            ipv6(&mut report);
            if with_wireguard {
                wireguard(&mut report);
            }
            nftables(&mut report, has_ipvs);
            links(&mut report);
        }
        report
    });
    tried.join().unwrap_or_default()
}

/// Whether there is IPVS.
fn ipvs(report: &mut Report) -> bool {
    let mut ipvs = match Ipvs::open() {
        Ok(ipvs) => ipvs,
        // nftables can balance in its place.
        Err(error) => {
            report.add("ip_vs", false, Err(error.to_string()));
            return false;
        }
    };
    report.add("ip_vs", false, Ok(String::new()));
    let found = ipvs.schedulers();
    let names =
        |list: &BTreeSet<Scheduler>| list.iter().map(|scheduler| scheduler.name()).collect::<Vec<_>>().join(" ");
    match found {
        Ok(found) => {
            let missing: BTreeSet<Scheduler> = Scheduler::of_ipvs().filter(|known| !found.contains(known)).collect();
            report.add("schedulers", false, Ok(names(&found)));
            if !missing.is_empty() {
                report.add(
                    "other schedulers",
                    false,
                    Err(format!("{}: modules ip_vs_<name> are not there", names(&missing))),
                );
            }
        }
        Err(error) => report.add("schedulers", false, Err(error.to_string())),
    }
    true
}

fn ipv6(report: &mut Report) {
    let v6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let closed = "IPv6 is off in this kernel; published ports are closed to it".to_owned();
    report.add("ipv6", false, if v6 { Ok(String::new()) } else { Err(closed) });
}

fn wireguard(report: &mut Report) {
    let outcome = WireguardSocket::open().map(|_| String::new()).map_err(|error| error.to_string());
    report.add("wireguard", false, outcome);
}

/// A table with one of everything that ours have.
fn sample() -> Table {
    let mut maps = BTreeMap::new();
    for (name, kind, ranges) in [("marks", MapKind::Mark, false), ("ranges", MapKind::Address(Family::V4), true)] {
        maps.insert(name.to_owned(), Map { kind, ranges, elements: BTreeMap::new() });
    }
    let to_sandbox = Action::DnatFrom { map: "ranges".into(), family: Family::V4 };
    let published = Rule::new([Match::Family(Family::V4), Match::DestinationLocal], to_sandbox);
    let nat = Chain::base(ChainKind::Nat, Hook::Prerouting, -100, vec![published]);
    let rules = vec![Rule::new([Match::Marked], Action::Masquerade)];
    let out = Chain::base(ChainKind::Nat, Hook::Postrouting, 100, rules);
    let rules = vec![Rule::new([], Action::MarkFrom { map: "marks".into() })];
    let mark = Chain::base(ChainKind::Filter, Hook::Prerouting, -150, rules);
    let chains = [("nat", nat), ("out", out), ("mark", mark)];
    Table { maps, chains: chains.map(|(name, chain)| (name.to_owned(), chain)).into(), ..Table::default() }
}

/// How nftables balances: a chain of each kind, and the maps that it looks up.
fn balancing() -> Vec<Step> {
    let netns = Netns::Sandbox;
    let mut steps = vec![Step::AddTable(netns)];
    let family = Family::V4;
    for (name, kind) in [
        (ways_map(family), MapKind::Ways),
        (slots_map(family, false), MapKind::Slots(family)),
        (slots_map(family, true), MapKind::Hosts(family)),
    ] {
        let map = Map { kind, ranges: false, elements: BTreeMap::new() };
        steps.push(Step::AddMap { netns, name: name.to_owned(), map });
    }
    for (pick, keeps_port) in [(Pick::Turn(0), false), (Pick::Source, true)] {
        let way = Way { family, pick, slots: 2, keeps_port, persistence: None, tries: 0 };
        steps.push(Step::SetChain { netns, name: way.chain(), chain: Chain::of_way(way) });
    }
    let rules = vec![
        Rule::new([Match::Marked], Action::MarkConnection),
        Rule::new([Match::Family(family)], Action::GoByMark(family)),
    ];
    let chain = Chain::base(ChainKind::Nat, Hook::Prerouting, -100, rules);
    steps.push(Step::SetChain { netns, name: "balance".to_owned(), chain });
    steps
}

/// `has_ipvs`: `None`, it was not tried.
fn nftables(report: &mut Report, has_ipvs: Option<bool>) {
    let mut nft = match Nft::open().and_then(|mut nft| nft.table().map(|_| nft)) {
        Ok(nft) => nft,
        Err(error) => {
            let hint = format!("{error}: `modprobe nf_tables`, or use a kernel built with CONFIG_NF_TABLES");
            return report.add("nf_tables", true, Err(hint));
        }
    };
    report.add("nf_tables", true, Ok(String::new()));
    let hint = "modules nf_flow_table_inet and nft_flow_offload; without them every packet goes the long way";
    let flows = flow_tables().map(|()| String::new()).map_err(|error| format!("{error}: {hint}"));
    report.add("nft flow tables", false, flows);
    let balances = nft.apply(&balancing().iter().collect::<Vec<_>>()).into_iter().collect::<Result<(), _>>();
    let hint = "nft_numgen, nft_hash, nft_ct and nft_nat are needed (Linux 5.6 or later)";
    let outcome = balances.map(|()| String::new()).map_err(|error| format!("{error}: {hint}"));
    report.add("nft balancing", has_ipvs != Some(true), outcome.clone());
    let auto = has_ipvs.map(|has_ipvs| match (has_ipvs, outcome) {
        (true, _) => Ok("ipvs".to_owned()),
        (false, Ok(_)) => Ok("nftables, since this kernel has no IPVS".to_owned()),
        (false, Err(_)) => Err("neither IPVS nor nftables can balance here".to_owned()),
    });
    auto.into_iter().for_each(|auto| report.add("dataplane auto", true, auto));
    let netns = Netns::Host;
    let table = sample();
    let mut steps = vec![Step::AddTable(netns)];
    steps.extend(table.maps.iter().map(|(name, map)| Step::AddMap { netns, name: name.clone(), map: map.clone() }));
    steps.extend(table.chains.iter().map(|(name, chain)| Step::SetChain {
        netns,
        name: name.clone(),
        chain: chain.clone(),
    }));
    let outcomes = nft.apply(&steps.iter().collect::<Vec<_>>());
    for (step, outcome) in steps.iter().zip(outcomes) {
        let what = match step {
            Step::AddMap { name, .. } if name == "ranges" => "nft maps of ranges",
            Step::AddMap { .. } => "nft maps",
            Step::SetChain { name, .. } if name == "nat" => "nft nat, fib",
            Step::SetChain { name, .. } if name == "out" => "nft masquerade",
            Step::SetChain { .. } => "nft marks",
            _ => continue,
        };
        let hint = |error| {
            format!(
                "{error}: nft_nat, nft_fib_inet, nft_masq, nft_chain_nat and nft_lookup are needed (Linux 5.6 or later)"
            )
        };
        report.add(what, true, outcome.map(|()| String::new()).map_err(hint));
    }
}

/// Whether the kernel has flow tables.
pub fn has_flow_tables() -> bool {
    let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok() && flow_tables().is_ok());
    tried.join().unwrap_or_default()
}

/// Makes one, and the chain that fills it.
fn flow_tables() -> Result<(), super::socket::Error> {
    let netns = Netns::Host;
    let rule = Rule::new([Match::Established], Action::Offload);
    let chain = Chain::base(ChainKind::Filter, Hook::Forward, 0, vec![rule]);
    let steps = [
        Step::AddTable(netns),
        Step::AddFlows { netns, links: BTreeSet::new() },
        Step::SetChain { netns, name: FLOWS.to_owned(), chain },
    ];
    Nft::open()?.apply(&steps.iter().collect::<Vec<_>>()).into_iter().collect()
}

fn links(report: &mut Report) {
    let mut links = Links::default();
    for netns in [Netns::Host, Netns::Overlay] {
        let entered = netns::open("/proc/thread-self/ns/net").map_err(|error| error.to_string());
        if let Err(error) = entered.and_then(|file| links.enter(netns, file).map_err(|error| error.to_string())) {
            return report.add("links", true, Err(error));
        }
    }
    let kinds = [
        ("bridge", Netns::Host, LinkKind::Bridge),
        ("veth", Netns::Host, LinkKind::Veth { peer: LinkId::new(Netns::Host, "mesh_probe_b") }),
        ("vxlan", Netns::Overlay, LinkKind::Vxlan { vni: 1, port: 4789, local: None, underlay: Netns::Host }),
    ];
    for (index, (name, netns, kind)) in kinds.into_iter().enumerate() {
        let link = Link {
            kind,
            mac: Mac([2, 0x42, 0, 0, 0, index as u8]),
            mtu: 1450,
            master: None,
            isolated: false,
            up: false,
        };
        let outcome = links.add_link(&LinkId::new(netns, format!("mesh_probe_{index}")), &link);
        report.add(name, true, outcome.map(|()| String::new()).map_err(|error| format!("{error}: `modprobe {name}`")));
    }
}
