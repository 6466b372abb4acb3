//! What files say of the host: its release, its clock, its memory and its tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nix::net::if_::if_nametoindex;

use crate::objects::{Clock, Family, Files, Neighbours};

/// What systemd-timesyncd makes once a server has set the clock (systemd-timesyncd.service(8)). The kernel's own word would take
/// adjtimex(2), which also sets the clock, and which meshd has forbidden itself.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

pub fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Of hardware. /sys shows the links of the namespace that it was mounted in: another's link of that name has another number.
pub fn driver(link: &str) -> Option<String> {
    let directory = Path::new("/sys/class/net").join(link);
    let index: u32 = fs::read_to_string(directory.join("ifindex")).ok()?.trim().parse().ok()?;
    if if_nametoindex(link).ok()? != index {
        return None;
    }
    let driver = fs::read_link(directory.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// Of all namespaces together; only the first one has these files.
pub fn neighbours() -> BTreeMap<Family, Neighbours> {
    let tables = [(Family::V4, "arp_cache"), (Family::V6, "ndisc_cache")];
    let table = |(family, name): (Family, &str)| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/stat/{name}")).ok()?;
        Some((family, read_neighbours(&text)?))
    };
    tables.into_iter().filter_map(table).collect()
}

/// A line of hexadecimal numbers for each processor, below their names: the entries are those of all, in each; overflows add up.
fn read_neighbours(text: &str) -> Option<Neighbours> {
    let mut lines = text.lines();
    let heads: Vec<&str> = lines.next()?.split_whitespace().collect();
    let place = |name: &str| heads.iter().position(|head| *head == name);
    let (entries, overflows) = (place("entries")?, place("table_fulls"));
    let mut found = Neighbours::default();
    for line in lines {
        let numbers: Vec<u64> =
            line.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap_or(0)).collect();
        found.entries = numbers.get(entries).copied()?;
        let more = overflows.and_then(|place| numbers.get(place)).copied().unwrap_or(0);
        found.overflows = found.overflows.saturating_add(more);
    }
    Some(found)
}

/// Of this process.
pub fn files() -> Option<Files> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // The one that the directory is read by.
    Some(Files { open: open.saturating_sub(1) as u64, limit: read_limit(&limits)? })
}

/// `Max open files            1024                 4096                 files`: the first is the one that holds.
fn read_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

pub fn memory() -> Option<(u64, u64)> {
    read_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn read_memory(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((of("MemTotal:")?, of("MemAvailable:")?))
}

pub fn clock() -> Clock {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|now| now.as_secs()).unwrap_or(0);
    let source = fs::read_to_string(CLOCK_SOURCE).ok().map(|text| text.trim().to_owned());
    Clock { now, kept: Path::new(SYNCHRONIZED).exists(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text =
            "entries  allocs   destroys table_fulls\n0000001f 000044dc 000038b4 00000002\n0000001f 0 0 00000001\n";
        assert_eq!(read_neighbours(text), Some(Neighbours { entries: 31, overflows: 3 }));
        // Kernels before 4.2 have no count of overflows.
        assert_eq!(read_neighbours("entries\n01\n"), Some(Neighbours { entries: 1, overflows: 0 }));
        for torn in ["", "allocs\n1\n", "allocs entries\n1\n"] {
            assert_eq!(read_neighbours(torn), None, "{torn:?}");
        }
        let limits = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(read_limit(limits), Some(1024));
        assert_eq!(read_limit("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!((read_limit(""), read_limit("Max open files")), (None, None));
        assert_eq!(read_memory("MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:  9 kB\n"), Some((16, 9)));
        assert_eq!(read_memory("MemTotal: 16 kB\n"), None);
    }

    #[test]
    fn this_host_has_all_of_it() {
        assert!(release().starts_with(|first: char| first.is_ascii_digit()));
        let files = files().unwrap();
        assert!(files.open >= 3 && files.limit > files.open, "{files:?}");
        assert!(memory().is_some_and(|(all, free)| all >= free && free > 0));
        assert!(clock().now > 1_700_000_000);
    }
}
