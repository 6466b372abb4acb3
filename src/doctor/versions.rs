//! Versions of the kernel with faults that are known, and where one can read of each. What distributions have mended themselves cannot
//! be seen by a number: that is said.

use super::chart::Chart;
use crate::control::protocol::{Area, Grade};
use crate::mesh::Dataplane;

/// Major, minor and, as far as it tells, the stable number.
type Version = (u32, u32, Option<u32>);

struct Known {
    what: &'static str,
    /// The first that is well, and stable ones before it that are.
    well: (u32, u32),
    mended: &'static [(u32, u32, u32)],
    grade: Grade,
    why: &'static str,
    mend: &'static str,
    /// Whether it matters here.
    matters: fn(&Chart<'_>) -> bool,
}

const KNOWN: [Known; 4] = [
    Known {
        what: "checksums of VXLAN packets (before Linux 5.7)",
        well: (5, 7),
        // kubernetes#88986; ea64d8d6c675, "netfilter: nat: never update the UDP checksum when it's 0".
        mended: &[(5, 6, 13), (5, 4, 41), (4, 19, 123), (4, 14, 181)],
        grade: Grade::Warning,
        why: "a masquerade rule of the host that the tunnel's packets meet spoils their checksum where hardware computes it: connections to \
              other nodes hang for seconds (kernel commit ea64d8d6c675, kubernetes#88986)",
        mend: "a newer kernel; until then: ethtool -K LINK tx-checksum-ip-generic off, on the link of the underlay",
        matters: |chart| chart.has_peers() && chart.mesh.ingress.encryption.is_none(),
    },
    Known {
        what: "source ports that are used again (before Linux 5.9)",
        well: (5, 9),
        mended: &[],
        grade: Grade::Warning,
        why: "net.ipv4.vs.conn_reuse_mode is 0 there, since 1 delays such a connection by a second: a client that uses a source port \
              again stays with its backend, even with one that is drained (kubernetes#93297, #81775)",
        mend: "a newer kernel",
        matters: |chart| chart.mesh.dataplane == Dataplane::Ipvs,
    },
    Known {
        what: "flow tables that do not forget (before Linux 6.4)",
        well: (6, 4),
        mended: &[],
        grade: Grade::Notice,
        why: "the kernel does not end a connection that is in a flow table (EBUSY): when a backend goes, meshd empties the flow table, and \
              connections of others go the long way for a moment",
        mend: "a newer kernel, or [gateway] flow_table = false",
        matters: |chart| chart.mesh.gateway.flow_table && !chart.condition.surroundings.uplinks.is_empty(),
    },
    Known {
        what: "reading IPVS's connections (before Linux 6.16)",
        well: (6, 16),
        mended: &[],
        grade: Grade::Notice,
        why: "to read them costs the square of their number: of more than 10,000 it is not told who of a drained backend's clients are \
              still there",
        mend: "a newer kernel, or [node] dataplane = \"nftables\"",
        matters: |chart| chart.mesh.dataplane == Dataplane::Ipvs,
    },
];

pub fn look(chart: &mut Chart<'_>) {
    let release = chart.condition.release.clone();
    let Some(version) = version(&release) else {
        let why = "faults that versions are known for are not looked up";
        return chart.bad((Area::Kernel, Grade::Notice), "version", format!("\"{release}\""), why, "uname -r");
    };
    let hit: Vec<&Known> = KNOWN.iter().filter(|known| known.affects(version) && (known.matters)(chart)).collect();
    if hit.is_empty() {
        return chart.good(Area::Kernel, "version", release, "no fault that matters here is known of it");
    }
    for known in hit {
        // Who counts by his own numbers may have mended it.
        let sure = version.2.is_some()
            || known.mended.iter().all(|(major, minor, _)| (*major, *minor) != (version.0, version.1));
        let found = if sure { release.clone() } else { format!("{release}, in which it may be mended") };
        let grade = if sure { known.grade } else { Grade::Notice };
        chart.bad((Area::Kernel, grade), known.what, found, known.why, known.mend);
    }
}

impl Known {
    fn affects(&self, (major, minor, stable): Version) -> bool {
        let is_mended = |(of, at, from): &(u32, u32, u32)| {
            (*of, *at) == (major, minor) && stable.is_some_and(|stable| stable >= *from)
        };
        (major, minor) < self.well && !self.mended.iter().any(is_mended)
    }
}

/// From `6.1.115`, `6.12.9-amd64`; Debian's and Ubuntu's `6.1.0-13-amd64` does not say which stable one it is.
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    let named = release.splitn(3, '.').nth(2).is_some_and(|rest| rest.starts_with("0-"));
    Some((major, minor, numbers.next().flatten().filter(|_| !named)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.1.115"), Some((6, 1, Some(115))));
        assert_eq!(version("6.12.9-amd64"), Some((6, 12, Some(9))));
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1, None)));
        assert_eq!(version("6.18-rc1"), Some((6, 18, None)));
        assert_eq!(version("5.4.0"), Some((5, 4, Some(0))));
        assert_eq!((version(""), version("six"), version("6"), version("99999999999.1")), (None, None, None, None));
    }

    #[test]
    fn stable_ones_are_mended_from_some_number_on() {
        let affects = |release: &str| KNOWN[0].affects(version(release).unwrap());
        let expected = [
            ("5.7.0", false),
            ("5.6.13", false),
            ("5.6.12", true),
            ("5.4.0-42-generic", true),
            ("5.5.99", true),
            ("5.4.200", false),
        ];
        for (release, is) in expected {
            assert_eq!(affects(release), is, "{release}");
        }
    }
}
