//! Who balances in the sandbox, and what each can.

use std::fmt;

use super::{Backend, Mesh, Port, Scheduler};

/// Who spreads clients over backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dataplane {
    /// IPVS, by all its schedulers.
    #[default]
    Ipvs,
    /// nftables, by maps.
    Nftables,
}

impl Dataplane {
    pub const ALL: [Dataplane; 2] = [Dataplane::Ipvs, Dataplane::Nftables];

    pub fn other(self) -> Dataplane {
        match self {
            Dataplane::Ipvs => Dataplane::Nftables,
            Dataplane::Nftables => Dataplane::Ipvs,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Dataplane::Ipvs => "ipvs",
            Dataplane::Nftables => "nftables",
        }
    }

    /// What of a port it cannot do: the key that says so, what it is, and what would do; `None`: it can do all.
    pub fn cannot(self, port: &Port) -> Option<(&'static str, String, &'static str)> {
        let scheduling = &port.scheduling;
        let scheduler = || format!("scheduler \"{}\"", scheduling.scheduler);
        match self {
            Dataplane::Ipvs => {
                (!scheduling.scheduler.is_of_ipvs()).then(|| ("scheduler", scheduler(), "\"rr\" or \"twos\""))
            }
            Dataplane::Nftables => {
                if !NFTABLES.contains(&scheduling.scheduler) {
                    return Some(("scheduler", scheduler(), "\"rr\", \"wrr\", \"random\", \"sh\" or \"mh\""));
                }
                scheduling.one_packet.then(|| ("one_packet", "`one_packet`".to_owned(), "to leave it out"))
            }
        }
    }
}

/// What nftables can do of the schedulers: they need to know no connection but the one that comes.
const NFTABLES: [Scheduler; 5] =
    [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin, Scheduler::Random, Scheduler::SourceHash, Scheduler::Maglev];

impl fmt::Display for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Mesh {
    /// Backends with a cap that their data plane has to be told of, when they reach it: IPVS sees that itself.
    pub fn watched(&self) -> impl Iterator<Item = (&Port, &Backend)> {
        let ports = self.ports().filter(|_| self.dataplane == Dataplane::Nftables);
        let backends = ports.flat_map(|port| self.serving_from_here(port).map(move |backend| (port, backend)));
        backends.filter(|(_, backend)| backend.thresholds.upper > 0)
    }

    /// What its data plane cannot do, a line for each port that wants it.
    pub fn misfits(&self) -> Vec<String> {
        let ports = self.services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports
            .filter_map(|(service, port)| {
                let (_, what, remedy) = self.dataplane.cannot(port)?;
                let Mesh { dataplane, .. } = self;
                let other = match dataplane.other() {
                    Dataplane::Ipvs => "[node] dataplane = \"ipvs\" and a kernel that has IPVS",
                    Dataplane::Nftables => "[node] dataplane = \"nftables\"",
                };
                Some(format!(
                    "{service}, port {}: {what} is nothing that {dataplane} can do; {remedy}, or {other}, would do",
                    port.published
                ))
            })
            .collect()
    }
}
