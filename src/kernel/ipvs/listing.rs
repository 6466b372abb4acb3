//! IPVS's services, as /proc/net/ip_vs shows them: a fifth of what it costs to ask for them by netlink, and not all that there is.
//! Thresholds and the schedulers' flags are not shown, and how long clients persist only in the kernel's own ticks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::connections::address;
use crate::objects::{
    DestinationKey, Family, Mark, Persistence, Scheduler, SchedulerFlags, VirtualKey, VirtualService,
};

type Services = BTreeMap<VirtualKey, VirtualService>;

/// The names of the columns, in two lines, and the version.
const HEADER: usize = 3;

const LISTING: &str = "/proc/thread-self/net/ip_vs";

/// Whether the kernel has IPVS loaded; asking so does not load it.
pub fn is_there() -> bool {
    Path::new(LISTING).exists()
}

/// Whether the calling thread's namespace shows those services and no others, as far as it can be seen.
///
/// # Errors
/// The file cannot be read.
pub fn shows(services: &Services) -> io::Result<bool> {
    let file = File::open(LISTING)?;
    is_of(BufReader::with_capacity(1 << 16, file), services)
}

/// Reads a listing beside services that it may well be of (see `replies`).
pub(super) fn read(listing: &[u8]) {
    let service = |family, prefix| {
        let service = VirtualService {
            scheduler: Scheduler::RoundRobin,
            flags: SchedulerFlags::default(),
            persistence: Some(Persistence { timeout: 60, prefix }),
            one_packet: false,
            destinations: BTreeMap::new(),
        };
        (VirtualKey { mark: Mark(0x14f05), family }, service)
    };
    let _ = is_of(listing, &BTreeMap::from([service(Family::V4, 24), service(Family::V6, 64)]));
}

fn is_of(mut listing: impl BufRead, services: &Services) -> io::Result<bool> {
    let (mut line, mut number, mut shown) = (String::new(), 0, 0);
    let mut last: Option<Shown> = None;
    loop {
        line.clear();
        let ends = listing.read_line(&mut line)? == 0;
        number += 1;
        if number <= HEADER && !ends {
            continue;
        }
        match line.trim_start().strip_prefix("-> ") {
            Some(destination) => {
                let known = last.as_mut().zip(destination_of(destination));
                let Some((service, (key, weight))) = known else { return Ok(false) };
                service.destinations.push((key, weight));
                continue;
            }
            None if !last.take().is_none_or(|service| service.is_one_of(services)) => return Ok(false),
            None if ends => return Ok(shown == services.len()),
            None => {}
        }
        last = Shown::parse(&line);
        if last.is_none() {
            return Ok(false);
        }
        shown += 1;
    }
}

struct Shown {
    mark: Mark,
    scheduler: String,
    one_packet: bool,
    /// A mask of the client's address.
    persistence: Option<u32>,
    destinations: Vec<(DestinationKey, u32)>,
}

impl Shown {
    /// `FWM  00014F05 rr ops persistent 15000 FFFFFFFF`
    fn parse(line: &str) -> Option<Shown> {
        let mut words = line.split_ascii_whitespace().peekable();
        (words.next()? == "FWM").then_some(())?;
        let mark = Mark(u32::from_str_radix(words.next()?, 16).ok()?);
        let scheduler = words.next()?.to_owned();
        let one_packet = words.next_if_eq(&"ops").is_some();
        let persistence = match words.next() {
            Some("persistent") => Some(u32::from_str_radix(words.nth(1)?, 16).ok()?),
            Some(_) => return None,
            None => None,
        };
        Some(Shown { mark, scheduler, one_packet, persistence, destinations: Vec::new() })
    }

    fn is_one_of(&self, services: &Services) -> bool {
        // Its family is that of its destinations.
        let Some((first, _)) = self.destinations.first() else { return false };
        let family = Family::of(&first.address);
        let Some(service) = services.get(&VirtualKey { mark: self.mark, family }) else { return false };
        let persistence = service.persistence.map(|persistence| mask(family, persistence));
        let has = |(key, weight): &(DestinationKey, u32)| {
            service.destinations.get(key).is_some_and(|destination| destination.weight == *weight)
        };
        service.scheduler.name() == self.scheduler
            && service.one_packet == self.one_packet
            && persistence == self.persistence
            && service.destinations.len() == self.destinations.len()
            && self.destinations.iter().all(has)
    }
}

/// For IPv6 the kernel has the prefix's length there, and takes it for a number in network byte order.
fn mask(family: Family, Persistence { prefix, .. }: Persistence) -> u32 {
    match family {
        Family::V4 => u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0),
        Family::V6 => u32::from_be(prefix.into()),
    }
}

/// `0AFF0021:2384      Masq    1      0          0`, or `[fd00:0255:…:0033]:2384 …`; only what is masqueraded is ours.
fn destination_of(line: &str) -> Option<(DestinationKey, u32)> {
    let mut words = line.split_ascii_whitespace();
    let (place, port) = words.next()?.rsplit_once(':')?;
    let v6 = place.strip_prefix('[').and_then(|place| place.strip_suffix(']'));
    let address = address(v6.unwrap_or(place)).filter(|address| address.is_ipv6() == v6.is_some())?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (words.next()? == "Masq").then_some(())?;
    Some((DestinationKey { address, port }, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Destination, Thresholds};

    /// As Linux 6.1 has it.
    const LISTING: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00014F05 rr persistent 15000 FFFFFF00
  -> 0AFF0022:2384      Masq    5      1          0
  -> 0AFF0021:2384      Masq    0      0          12
FWM  00020035 wrr ops
  -> [fd00:0255:0000:0000:0000:0000:0000:0033]:0000      Masq    1      0          0
FWM  00014F05 sh persistent 15000 40000000
  -> [fd00:0255:0000:0000:0000:0000:0000:0033]:2384      Masq    1      0          0
";

    fn service(scheduler: Scheduler, destinations: &[(&str, u16, u32)]) -> VirtualService {
        let one = |(address, port, weight): &(&str, u16, u32)| {
            let key = DestinationKey { address: address.parse().expect("an address"), port: *port };
            (key, Destination { weight: *weight, thresholds: Thresholds { upper: 7, lower: 0 } })
        };
        let flags = SchedulerFlags::default();
        let destinations = destinations.iter().map(one).collect();
        VirtualService { scheduler, flags, persistence: None, one_packet: false, destinations }
    }

    fn services() -> Services {
        let key = |mark, family| VirtualKey { mark: Mark(mark), family };
        let persistence = |prefix| Some(Persistence { timeout: 60, prefix });
        let kafka = service(Scheduler::RoundRobin, &[("10.255.0.33", 9092, 0), ("10.255.0.34", 9092, 5)]);
        let dns = service(Scheduler::WeightedRoundRobin, &[("fd00:255::33", 0, 1)]);
        let kafka6 = service(Scheduler::SourceHash, &[("fd00:255::33", 9092, 1)]);
        BTreeMap::from([
            (key(0x14f05, Family::V4), VirtualService { persistence: persistence(24), ..kafka }),
            (key(0x20035, Family::V6), VirtualService { one_packet: true, ..dns }),
            (key(0x14f05, Family::V6), VirtualService { persistence: persistence(64), ..kafka6 }),
        ])
    }

    fn is_of_text(listing: &str, services: &Services) -> bool {
        is_of(listing.as_bytes(), services).expect("it is read from memory")
    }

    #[test]
    fn what_is_shown_is_compared() {
        let services = services();
        assert!(is_of_text(LISTING, &services));
        let header: String = LISTING.lines().take(HEADER).map(|line| format!("{line}\n")).collect();
        assert!(is_of_text(&header, &Services::new()) && !is_of_text(&header, &services));
        for (from, to) in [
            ("0AFF0022", "0AFF0023"),
            ("Masq    5", "Masq    6"),
            ("0022:2384      Masq", "0022:2384      Route"),
            ("rr persistent", "lc persistent"),
            ("persistent 15000 FFFFFF00", "persistent 15000 FFFFFFFF"),
            ("persistent 15000 40000000", "persistent 15000 80000000"),
            ("wrr ops", "wrr"),
            ("FWM  00020035", "FWM  00020036"),
            ("FWM  00020035 wrr ops", "UDP  0A000001:0035 wrr ops"),
            ("  -> 0AFF0022:2384      Masq    5      1          0\n", ""),
            ("  -> 0AFF0022:2384", "  -> 0AFF0077:2384      Masq    1      0          0\n  -> 0AFF0022:2384"),
            ("FWM  00020035", "FWM  00010001 rr\n  -> 0AFF0022:2384      Masq    5      1          0\nFWM  00020035"),
            ("FWM  00020035", "FWM  00010001 rr\nFWM  00020035"),
        ] {
            assert!(LISTING.contains(from) && !is_of_text(&LISTING.replacen(from, to, 1), &services), "{from} {to}");
        }
        for service in services.keys() {
            let mut fewer = services.clone();
            fewer.remove(service);
            assert!(!is_of_text(LISTING, &fewer));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_listing_that_is_torn_is_not_what_is_wanted(end in 0..LISTING.len() - 1) {
            // But for numbers of connections, in the last line, which are not compared.
            let torn = &LISTING[..end];
            let tail = LISTING.len() - end;
            proptest::prop_assert!(tail < 30 || !is_of_text(torn, &services()));
        }

        #[test]
        fn garbage_is_read_without_harm(text in "(FWM|UDP|  ->|[0-9A-F:\\[\\]]{1,9}|Masq|persistent|ops|\n| ){0,40}") {
            let _ = is_of_text(&text, &services());
        }
    }
}
