//! What is known, and what was found so far.

use std::cmp::Reverse;
use std::fmt::Display;

use crate::control::protocol::{Area, Finding, Grade};
use crate::dataplane;
use crate::mesh::Mesh;
use crate::objects::{Condition, Netns, Objects};

/// Things of one finding that are named; of more the number is told.
const NAMED: usize = 5;

pub struct Chart<'a> {
    pub mesh: &'a Mesh,
    pub condition: &'a Condition,
    pub wanted: Objects,
    findings: Vec<Finding>,
}

impl<'a> Chart<'a> {
    pub fn new(mesh: &'a Mesh, condition: &'a Condition) -> Chart<'a> {
        Chart { mesh, condition, wanted: dataplane::objects(mesh, &condition.surroundings), findings: Vec::new() }
    }

    pub fn good(&mut self, area: Area, what: impl Into<String>, found: impl Into<String>, why: impl Into<String>) {
        let (what, found, why) = (what.into(), found.into(), why.into());
        self.findings.push(Finding { area, grade: Grade::Good, what, found, why, mend: None });
    }

    /// What is not good, with what mends it.
    pub fn bad(
        &mut self,
        (area, grade): (Area, Grade),
        what: impl Into<String>,
        found: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let (what, found, why, mend) = (what.into(), found.into(), why.into(), Some(mend.into()));
        self.findings.push(Finding { area, grade, what, found, why, mend });
    }

    /// By area, the worst first; otherwise as they were found.
    pub fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| (finding.area, Reverse(finding.grade)));
        self.findings
    }

    /// A kernel parameter as it is.
    pub fn parameter(&self, netns: Netns, name: &str) -> Option<&'a str> {
        self.condition.parameters.get(&(netns, name.to_owned())).map(String::as_str)
    }

    /// The same, if it is a number.
    pub fn number(&self, netns: Netns, name: &str) -> Option<u64> {
        self.parameter(netns, name)?.parse().ok()
    }

    /// Whether meshd has made its namespaces.
    pub fn has_run(&self) -> bool {
        self.condition.namespaces.contains(&Netns::Sandbox)
    }

    /// Whether anything of the mesh speaks IPv6.
    pub fn v6(&self) -> bool {
        self.wanted.sysctls.contains_key(&(Netns::Host, "net/ipv6/conf/all/forwarding".to_owned()))
    }

    /// Whether there are other nodes, so that what is wrong with the tunnel is felt.
    pub fn has_peers(&self) -> bool {
        self.mesh.other_nodes().next().is_some()
    }

    /// For what is wrong between nodes: how bad, as there are others, or may be some day.
    pub fn between(&self, grade: Grade) -> Grade {
        if self.has_peers() { grade } else { Grade::Notice }
    }

    /// The command that sets a parameter, where it is.
    pub fn set(&self, netns: Netns, name: &str, value: impl Display) -> String {
        let sandbox = &self.mesh.ingress.namespace;
        let place = match netns {
            Netns::Host => String::new(),
            Netns::Sandbox => format!("ip netns exec {sandbox} "),
            Netns::Overlay => format!("ip netns exec {sandbox}_overlay "),
        };
        format!("{place}sysctl -w {}={value}", dotted(name))
    }
}

/// As sysctl(8) shows it; one with a dot in it, as of a link, stays a path.
pub fn dotted(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { name.replace('/', ".") }
}

/// The first few of a list, and how many more there are.
pub fn several<T: Display>(items: &[T]) -> String {
    let named = items.iter().take(NAMED).map(T::to_string).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Whether that many of the limit are used, in percent.
pub fn is_full(used: u64, limit: u64, percent: u64) -> bool {
    used.saturating_mul(100) >= limit.saturating_mul(percent)
}
