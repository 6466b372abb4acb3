//! How long connections are remembered, against how long they may be idle.

use super::chart::Chart;
use crate::control::protocol::{Area, Grade};
use crate::objects::Netns;

const KEEPALIVE: &str = "net/ipv4/tcp_keepalive_time";
const PAUSE: &str = "net/ipv4/tcp_keepalive_intvl";
const PROBES: &str = "net/ipv4/tcp_keepalive_probes";
const TRACKED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
/// Seconds that the timeout should be behind the first keepalive.
const AFTER: u64 = 240;

pub fn looked_at() -> Vec<(Netns, String)> {
    [KEEPALIVE, PAUSE, PROBES, TRACKED].map(|name| (Netns::Host, name.to_owned())).into()
}

pub fn look(chart: &mut Chart<'_>) {
    keepalive(chart);
    tracked(chart);
}

fn keepalive(chart: &mut Chart<'_>) {
    let Some(time) = chart.number(Netns::Host, KEEPALIVE) else { return };
    let timeout = u64::from(chart.mesh.timeouts.tcp);
    let number = |name| chart.number(Netns::Host, name).unwrap_or_default();
    let what = "idle TCP connections";
    let found = format!(
        "forgotten after {timeout} s ([ipvs] tcp); TCP's keepalive begins after {time} s here, {} probes, {} s apart",
        number(PROBES),
        number(PAUSE)
    );
    if timeout > time {
        return chart.good(Area::Timeouts, what, found, "a keepalive comes before a connection is forgotten");
    }
    let why = "a connection that is idle for longer is reset or hangs at its next packet, though both ends have keepalive on; clients and \
               backends elsewhere have values of their own";
    let mend = format!(
        "[ipvs] tcp = {}, or, where the connections begin, {}",
        time.saturating_add(AFTER),
        chart.set(Netns::Host, KEEPALIVE, timeout * 2 / 3)
    );
    chart.bad((Area::Timeouts, Grade::Notice), what, found, why, mend);
}

/// The host has translated each connection, and has to remember it for as long.
fn tracked(chart: &mut Chart<'_>) {
    let Some(host) = chart.number(Netns::Host, TRACKED) else { return };
    let timeout = u64::from(chart.mesh.timeouts.tcp);
    let what = "connection tracking of the host";
    let found = format!("idle TCP connections are forgotten after {host} s, by the sandbox after {timeout} s");
    if host >= timeout {
        return chart.good(Area::Timeouts, what, found, "the host remembers connections as long as the sandbox does");
    }
    let why = "the host forgets connections that the sandbox still has: they are as short-lived as the host says";
    let mend = format!("{}, or [ipvs] tcp = {host}", chart.set(Netns::Host, TRACKED, timeout));
    chart.bad((Area::Timeouts, Grade::Warning), what, found, why, mend);
}
