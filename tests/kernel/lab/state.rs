//! What a place holds, as the usual programs tell it, but for what changes by itself or by chance.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::time::Instant;

use serde_json::Value;

use super::tools::DEADLINE;
use super::{Lab, Place, SECOND};

/// Parameters that others' modules bring, or that count.
const VOLATILE: [&str; 4] =
    ["net.netfilter.nf_conntrack_count", "net.sctp.", "net.ipv4.vs.lblc", "net.netfilter.nf_conntrack_sctp"];

impl Place {
    /// Links, addresses, routes, IPVS and nftables. Line by line, for [`assert_same`].
    pub fn state(&self) -> String {
        let mut lines = Vec::new();
        for link in self.json("ip -j -d addr show").as_array().into_iter().flatten() {
            lines.push(describe(link));
        }
        // Under emulation a program takes 0.2 s to start, a file nothing.
        lines.extend(self.net("route").lines().map(|route| format!("route {route}")));
        lines.extend(self.net("ipv6_route").lines().filter_map(route6));
        // Where the kernel has no IPVS there is no such file.
        lines.extend(self.there("ip_vs").iter().flat_map(|listed| services(listed)));
        // All of that is listed in the order in which it was made, or by hash.
        lines.sort();
        lines.push(with_chains_in_order(&with_elements_in_order(&without_counts(&self.run("nft list ruleset")))));
        lines.join("\n")
    }

    /// A file under /proc/net.
    fn net(&self, name: &str) -> String {
        self.there(name).unwrap_or_else(|| panic!("no /proc/net/{name}"))
    }

    /// As much at a time as the kernel gives: of ip_vs it loses lines between two pieces where other namespaces have services, too (it
    /// counts those as it goes on, and not as it begins again: ip_vs_info_seq_next, ip_vs_info_array, Linux 6.1).
    fn there(&self, name: &str) -> Option<String> {
        self.within(|| {
            let mut file = fs::File::open(format!("/proc/thread-self/net/{name}")).ok()?;
            let (mut text, mut piece) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                match file.read(&mut piece).ok()? {
                    0 => return String::from_utf8(text).ok(),
                    length => text.extend_from_slice(&piece[..length]),
                }
            }
        })
    }

    /// The kernel parameters of the network.
    pub fn sysctls(&self) -> String {
        // Some cannot be read, which sysctl(8) complains about.
        let output = self.try_run("sysctl -a --pattern ^net\\.");
        let text = String::from_utf8_lossy(&output.stdout);
        let lasting = |line: &&str| !VOLATILE.iter().any(|name| line.starts_with(name));
        text.lines().filter(lasting).map(|line| format!("{line}\n")).collect()
    }
}

impl Lab {
    /// The state of the node and of what meshd makes; a namespace that is not there has an empty one.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for (name, place) in [("node", self.node.clone()), ("sandbox", self.sandbox()), ("overlay", self.overlay())] {
            let state = if place.exists() { place.state() } else { String::new() };
            text.extend(state.lines().map(|line| format!("{name}: {line}\n")));
        }
        text
    }

    /// Waits until the state is as it was.
    pub fn becomes(&self, wanted: &str, when: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state();
        while state != wanted && Instant::now() < deadline {
            std::thread::sleep(SECOND);
            state = self.state();
        }
        assert_same(wanted, &state, when);
    }
}

/// How much was counted is no part of a state.
fn without_counts(text: &str) -> String {
    let mut words = text.split(' ');
    let mut out: Vec<&str> = Vec::new();
    while let Some(word) = words.next() {
        out.push(word);
        if word == "counter" {
            // `packets N bytes N`
            words.by_ref().take(4).for_each(drop);
        }
    }
    out.join(" ")
}

/// Elements are listed as they are hashed, with a seed that each map has of its own.
fn with_elements_in_order(text: &str) -> String {
    let mut parts = text.split("elements = { ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (elements, rest) = part.split_once(" }").unwrap_or((part, ""));
        let mut elements: Vec<&str> = elements.split(',').map(str::trim).collect();
        elements.sort_unstable();
        out += &format!("elements = {{ {} }}{rest}", elements.join(", "));
    }
    out
}

/// Asserts that two states are the same; says which lines differ.
pub fn assert_same(before: &str, after: &str, when: &str) {
    if before == after {
        return;
    }
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), after.lines().collect());
    let gone: Vec<_> = old.difference(&new).map(|line| format!("- {line}")).collect();
    let come: Vec<_> = new.difference(&old).map(|line| format!("+ {line}")).collect();
    // The same lines in another order, or more than once.
    let moved =
        before.lines().zip(after.lines()).find(|(old, new)| old != new).filter(|_| gone.is_empty() && come.is_empty());
    let moved = moved.map(|(old, new)| format!("first {new:?} where {old:?} was\n")).unwrap_or_default();
    panic!("{when}, something is not as it was:\n{moved}{}\n{}", gone.join("\n"), come.join("\n"));
}

/// The chains of a table by name: nft lists them in the order in which they were made, which says nothing.
fn with_chains_in_order(ruleset: &str) -> String {
    let (mut out, mut chains): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut open = false;
    for line in ruleset.lines() {
        match (open, line.starts_with("\tchain "), line) {
            (false, true, _) => chains.push(line.to_owned()),
            (true, ..) => chains.iter_mut().last().into_iter().for_each(|chain| *chain += &format!("\n{line}")),
            (false, false, "}") => {
                chains.sort();
                out.append(&mut chains);
                out.push(line.to_owned());
            }
            (false, false, _) => out.push(line.to_owned()),
        }
        open = (open || line.starts_with("\tchain ")) && line != "\t}";
    }
    out.join("\n")
}

/// One link on one line.
fn describe(link: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let name = text(&link["ifname"]);
    let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    // The overlay's end of a leg has the MAC that the kernel gave it.
    let is_port = name.len() == 13 && name.starts_with('p');
    let mac = if is_port { "-".to_owned() } else { text(&link["address"]) };
    let info = &link["linkinfo"];
    let tunnel = &info["info_data"];
    let mut line = format!(
        "link {name} {} mac {mac} mtu {} master {} alias {} up {up} isolated {} tunnel {} {} {} {}",
        text(&info["info_kind"]),
        link["mtu"],
        text(&link["master"]),
        text(&link["ifalias"]),
        info["info_slave_data"]["isolated"],
        tunnel["id"],
        tunnel["port"],
        tunnel["local"],
        tunnel["learning"],
    );
    let mut addresses: Vec<String> = link["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|address| address["scope"] != "link")
        .map(|address| format!(" {}/{}", text(&address["local"]), address["prefixlen"]))
        .collect();
    addresses.sort();
    line.extend(addresses);
    line
}

/// A line of /proc/net/ipv6_route, without how often it was used.
fn route6(line: &str) -> Option<String> {
    // Link-local ones come with a link's MAC, and of a leg's port that is random.
    let lasting = !line.starts_with("fe80") && !line.starts_with("ff00");
    let fields: Vec<&str> = line.split_whitespace().collect();
    lasting.then(|| format!("route {} {}", fields[..6].join(" "), fields[8..].join(" ")))
}

/// The lines of /proc/net/ip_vs, each destination with its service, and without connections.
fn services(table: &str) -> Vec<String> {
    let (mut lines, mut service) = (Vec::new(), "");
    for line in table.lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["->", place, how, weight, ..] => lines.push(format!("ipvs {service} -> {place} {how} weight {weight}")),
            _ => {
                service = line.trim();
                lines.push(format!("ipvs {service}"));
            }
        }
    }
    lines
}
