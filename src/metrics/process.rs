//! meshd's own process, in the names that every Prometheus client library uses.
//!
//! The library's own collector would bring five crates, and counts the processor's time in whole seconds.

use std::fs;
use std::sync::OnceLock;

use super::text::{self, Kind};

/// Of proc(5), a second: USER_HZ, the same on every architecture that Rust runs Linux on.
const TICKS: f64 = 100.0;

pub(super) fn write(out: &mut Vec<u8>) {
    let stat = read("stat").and_then(|text| Stat::parse(&text));
    let status = read("status").unwrap_or_default();
    let limits = read("limits").unwrap_or_default();
    static START: OnceLock<Option<f64>> = OnceLock::new();
    let start = START.get_or_init(|| {
        let booted = fs::read_to_string("/proc/stat").ok().and_then(|text| number(&text, "btime"))?;
        Some(booted as f64 + stat.as_ref()?.start)
    });
    text::single(
        out,
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        stat.as_ref().map(|stat| stat.cpu),
    );
    let mut gauge = |name, help, value: Option<u64>| text::single(out, name, Kind::Gauge, help, value);
    let kibibytes = |key| Some(number(&status, key)?.saturating_mul(1024));
    gauge("process_open_fds", "Number of open file descriptors.", open_files());
    gauge("process_max_fds", "Maximum number of open file descriptors.", number(&limits, "Max open files"));
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", kibibytes("VmSize:"));
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", kibibytes("VmRSS:"));
    gauge("process_threads", "Number of OS threads in the process.", number(&status, "Threads:"));
    text::single(
        out,
        "process_start_time_seconds",
        Kind::Gauge,
        "Start time of the process since unix epoch in seconds.",
        *start,
    );
}

/// Of /proc/self/stat, in seconds.
#[derive(Debug, PartialEq)]
struct Stat {
    /// User and system time.
    cpu: f64,
    /// Since the machine's start.
    start: f64,
}

impl Stat {
    /// The second field is the program's name in brackets, which may have spaces and brackets of its own.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |place: usize| Some(fields.get(place - 3)?.parse::<u64>().ok()? as f64 / TICKS);
        Some(Stat { cpu: seconds(14)? + seconds(15)?, start: seconds(22)? })
    }
}

fn read(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// The number behind `key`, at the beginning of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Without the one that counts them.
fn open_files() -> Option<u64> {
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_program_s_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 3 0 12345 1000 200 18446744073709551615";
        assert_eq!(Stat::parse(stat), Some(Stat { cpu: 2.0, start: 123.45 }));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_told_of() {
        let mut out = Vec::new();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value("process_resident_memory_bytes").unwrap() > 100_000.0);
        assert!(value("process_threads").unwrap() >= 1.0);
        assert!(value("process_open_fds").unwrap() >= 3.0);
        assert!(value("process_start_time_seconds").unwrap() > 1.5e9);
        assert!(value("process_cpu_seconds_total").is_some());
    }
}
