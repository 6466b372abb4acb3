//! The clock, and what a process may have.

use super::chart::{Chart, is_full};
use crate::control::protocol::{Area, Grade};
use crate::mesh::{Check, Probe};

/// 2026-01-01: meshd is younger than any clock before that says.
const TOO_EARLY: u64 = 1_767_225_600;
/// Reading these takes a microsecond or more, where a processor's own counter takes some nanoseconds.
const SLOW: [&str; 5] = ["acpi_pm", "hpet", "jiffies", "pit", "refined-jiffies"];
/// Checks that run at a time, at the most; each has a connection and what it was made of.
const CHECKS: u64 = 1000;
const FILES_OF_A_CHECK: u64 = 3;
/// The control socket's 128 connections, metrics, netlink sockets, namespaces.
const FILES: u64 = 256;
const CROWDED: u64 = 80;
/// Percent of memory that should be free for new uses.
const FREE: u64 = 5;

pub fn look(chart: &mut Chart<'_>) {
    time(chart);
    clock_source(chart);
    files(chart);
    memory(chart);
}

fn time(chart: &mut Chart<'_>) {
    let encrypts = chart.mesh.ingress.encryption.is_some();
    let clock = &chart.condition.clock;
    let what = "time";
    if clock.now < TOO_EARLY {
        let grade = if encrypts { Grade::Fault } else { Grade::Warning };
        let found = format!("{} s since 1970, which is before this meshd was made", clock.now);
        let why = "other nodes' WireGuard refuses who comes from the past, certificates seem not to be valid yet, and logs mislead";
        return chart.bad((Area::Clock, grade), what, found, why, "timedatectl set-ntp true");
    }
    if clock.kept {
        return chart.good(Area::Clock, what, "kept by systemd-timesyncd", "it is set by a server");
    }
    let found = "not known to be kept";
    if !encrypts {
        return chart.good(Area::Clock, what, found, "nothing of this mesh depends on it; systemd-timesyncd would say so in a file, `timedatectl` and `chronyc tracking` know of others");
    }
    let why = "WireGuard refuses a node whose clock went back, until it is again where it was";
    chart.bad(
        (Area::Clock, Grade::Notice),
        what,
        found,
        why,
        "timedatectl, or chronyc tracking, tells; timedatectl set-ntp true",
    );
}

fn clock_source(chart: &mut Chart<'_>) {
    let Some(source) = chart.condition.clock.source.clone() else { return };
    let what = "clock source";
    if !SLOW.contains(&source.as_str()) {
        return chart.good(Area::Clock, what, source, "reading the time costs little");
    }
    let why =
        "the kernel does not trust the processor's counter: whoever reads the time, as for each packet, pays for it";
    let mend = "dmesg | grep -i clocksource tells why; another one of /sys/devices/system/clocksource/clocksource0/available_clocksource";
    chart.bad((Area::Clock, Grade::Notice), what, source, why, mend);
}

/// Of the daemon.
fn files(chart: &mut Chart<'_>) {
    let Some(files) = chart.condition.files else { return };
    let executes = |check: &Check| matches!(check.probe, Probe::Exec(_));
    let checked = chart.mesh.ports().filter(|port| port.check.is_some());
    let (backends, programs): (Vec<_>, Vec<_>) =
        checked.map(|port| (port.backends.len() as u64, port.check.as_ref().is_some_and(executes))).unzip();
    let each = if programs.contains(&true) { FILES_OF_A_CHECK } else { 1 };
    let wanted = FILES + backends.iter().sum::<u64>().min(CHECKS) * each;
    let found = format!("{} open, {} allowed; this mesh may need {wanted}", files.open, files.limit);
    let (what, why) = ("open files", "at the limit checks fail, and backends that are well count as down");
    if wanted <= files.limit && !is_full(files.open, files.limit, CROWDED) {
        return chart.good(Area::Limits, what, found, why);
    }
    let mend = format!("systemctl edit meshd, and below [Service] LimitNOFILE={}", wanted.max(65536));
    chart.bad((Area::Limits, Grade::Warning), what, found, why, mend);
}

fn memory(chart: &mut Chart<'_>) {
    let Some((all, free)) = chart.condition.memory else { return };
    let (what, found) = ("memory", format!("{} of {} MiB are free for new uses", free / 1024, all / 1024));
    let why = "without it the kernel turns connections away and ends processes";
    if is_full(free, all, FREE) {
        return chart.good(Area::Limits, what, found, why);
    }
    chart.bad((Area::Limits, Grade::Warning), what, found, why, "ps aux --sort -rss | head shows who has it");
}
