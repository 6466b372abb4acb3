//! How full the kernel's tables are: connection tracking, and IPVS's connections; and what was dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;

use super::{netns, sysctl};
use crate::objects::Netns;

/// What could not be read is not there: 0 would say that a table is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub conntrack: BTreeMap<Netns, Conntrack>,
    /// Buckets of the table of IPVS connections. It can hold more than that, only slower.
    pub ipvs_table: Option<u64>,
    /// Packets of our VXLAN network that came from no peer, and were dropped.
    pub strangers: Option<u64>,
}

/// Connection tracking of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Flows that are tracked now.
    pub entries: Option<u64>,
    /// Where new flows are dropped.
    pub limit: Option<u64>,
}

/// Reads the tables of those namespaces, as far as they are there; IPVS's of the sandbox.
pub(super) fn read<const N: usize>(spaces: [(Netns, Option<&OwnedFd>); N]) -> Occupancy {
    let mut occupancy = Occupancy::default();
    for (netns, file) in spaces {
        let look = || (conntrack(), (netns == Netns::Sandbox).then(ipvs_table).flatten());
        let Some(Ok((conntrack, table))) = file.map(|file| netns::within(file, look)) else { continue };
        occupancy.conntrack.insert(netns, conntrack);
        occupancy.ipvs_table = occupancy.ipvs_table.or(table);
    }
    occupancy
}

fn conntrack() -> Conntrack {
    let number = |name| sysctl::get(name).ok().flatten()?.parse().ok();
    Conntrack { entries: number("net.netfilter.nf_conntrack_count"), limit: number("net.netfilter.nf_conntrack_max") }
}

/// Only the first line is read: behind it is every service.
fn ipvs_table() -> Option<u64> {
    let file = BufReader::with_capacity(128, File::open("/proc/thread-self/net/ip_vs").ok()?);
    table_size(&file.lines().next()?.ok()?)
}

/// From `IP Virtual Server version 1.2.1 (size=4096)`.
fn table_size(line: &str) -> Option<u64> {
    line.split_once("(size=")?.1.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_size_that_the_first_line_says() {
        assert_eq!(table_size("IP Virtual Server version 1.2.1 (size=4096)"), Some(4096));
        for other in ["", "IP Virtual Server version 1.2.1", "(size=)", "(size=1e3)", "(size=4096"] {
            assert_eq!(table_size(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        assert_eq!(read([(Netns::Host, None), (Netns::Sandbox, None)]), Occupancy::default());
    }
}
