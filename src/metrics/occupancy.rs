//! How full the kernel's tables are.

use super::text::{self, Kind};
use crate::kernel::occupancy::{Conntrack, Occupancy};

pub(super) fn write(out: &mut Vec<u8>, occupancy: &Occupancy, ipvs_connections: u64) {
    let mut conntrack = |name: &str, help: &str, value: fn(&Conntrack) -> Option<u64>| {
        let known = occupancy.conntrack.iter().filter_map(|(netns, conntrack)| Some((netns, value(conntrack)?)));
        for (number, (netns, value)) in known.enumerate() {
            if number == 0 {
                text::head(out, name, Kind::Gauge, help);
            }
            text::sample(out, name, &[("netns", netns)], value);
        }
    };
    conntrack("meshd_conntrack_entries", "Flows in connection tracking.", |conntrack| conntrack.entries);
    conntrack("meshd_conntrack_entries_limit", "Flows at which connection tracking drops new ones.", |conntrack| {
        conntrack.limit
    });
    text::single(
        out,
        "meshd_ipvs_connections",
        Kind::Gauge,
        "Entries in the table of IPVS connections: active, inactive, and persistence templates.",
        Some(ipvs_connections),
    );
    text::single(
        out,
        "meshd_ipvs_connection_table_size",
        Kind::Gauge,
        "Buckets of that table; with many more entries it gets slow, never full.",
        occupancy.ipvs_table,
    );
    text::single(
        out,
        "meshd_tunnel_strangers_dropped_total",
        Kind::Counter,
        "Packets of the overlay's VXLAN identifier that came from no peer, and were dropped.",
        occupancy.strangers,
    );
}

/// Of each peer of the encrypted tunnel, by its name, in seconds since 1970.
pub(super) fn write_handshakes(out: &mut Vec<u8>, handshakes: &[(String, u64)]) {
    const NAME: &str = "meshd_peer_last_handshake_timestamp_seconds";
    if !handshakes.is_empty() {
        text::head(out, NAME, Kind::Gauge, "When a peer last proved who it is to WireGuard; 0: not yet.");
    }
    handshakes.iter().for_each(|(peer, at)| text::sample(out, NAME, &[("peer", peer)], at));
}
