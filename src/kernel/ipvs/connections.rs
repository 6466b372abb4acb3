//! IPVS's table of connections, as /proc/net/ip_vs_conn shows it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};

use crate::objects::{PortRange, Protocol};

/// Of a longer table nothing is said. To read it costs the square of its length before Linux 6.16: each page of the file
/// is searched for from the table's beginning.
const LONGEST: usize = 10_000;

/// A backend of a published port; its own port, `None`: whichever was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub published: PortRange,
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// How many connections each of them has that are open: by which something may still be said. The table is that of the
/// calling thread's namespace. `None`: it is too long.
///
/// # Errors
/// The file cannot be read.
pub fn open(places: &[Place]) -> io::Result<Option<BTreeMap<Place, u32>>> {
    let file = match File::open("/proc/thread-self/net/ip_vs_conn") {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(BTreeMap::new())),
        other => other?,
    };
    count(BufReader::with_capacity(1 << 16, file), places)
}

fn count(table: impl BufRead, places: &[Place]) -> io::Result<Option<BTreeMap<Place, u32>>> {
    let mut by_address: BTreeMap<IpAddr, Vec<Place>> = BTreeMap::new();
    for place in places {
        by_address.entry(place.address).or_default().push(*place);
    }
    let mut found = BTreeMap::new();
    // The first line has the names of the columns.
    for (number, line) in table.lines().skip(1).enumerate() {
        if number >= LONGEST {
            return Ok(None);
        }
        let line = line?;
        let Some(connection) = Connection::parse(&line).filter(Connection::is_open) else { continue };
        let of = by_address.get(&connection.backend).into_iter().flatten().filter(|place| connection.is_of(place));
        of.for_each(|place| *found.entry(*place).or_default() += 1);
    }
    Ok(Some(found))
}

/// Reads a table beside a place that it may well tell of (see `replies`).
pub(super) fn read(table: &[u8]) {
    let published = PortRange { protocol: Protocol::Tcp, first: 20229, last: 20230 };
    let _ = count(table, &[Place { published, address: [10, 255, 0, 33].into(), port: None }]);
}

struct Connection<'l> {
    protocol: Protocol,
    published: u16,
    backend: IpAddr,
    port: u16,
    state: &'l str,
}

impl<'l> Connection<'l> {
    /// `TCP C0A83202 D4A2 A9FE4D02 4F05 0AFF0021 2384 ESTABLISHED 899`: who asked, what was asked, who answers.
    fn parse(line: &'l str) -> Option<Connection<'l>> {
        let mut words = line.split_whitespace();
        let protocol = words.next()?.to_ascii_lowercase().parse().ok()?;
        let published = u16::from_str_radix(words.nth(3)?, 16).ok()?;
        let backend = address(words.next()?)?;
        let port = u16::from_str_radix(words.next()?, 16).ok()?;
        Some(Connection { protocol, published, backend, port, state: words.next()? })
    }

    /// Not so when both sides have said that they are done: such an entry is there for two minutes more.
    fn is_open(&self) -> bool {
        !["TIME_WAIT", "CLOSE", "CLOSED", "NONE", "LISTEN"].contains(&self.state)
    }

    fn is_of(&self, Place { published, address, port }: &Place) -> bool {
        published.contains(self.protocol, self.published)
            && self.backend == *address
            && self.port == port.unwrap_or(self.published)
    }
}

/// As the files below /proc/net have it: eight digits, or eight groups of digits.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten().map(|number| Ipv4Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(first: u16, last: u16, backend: &str, port: Option<u16>) -> Place {
        let published = PortRange { protocol: Protocol::Tcp, first, last };
        Place { published, address: backend.parse().unwrap(), port }
    }

    #[test]
    fn lines_of_both_families_are_read() {
        let v4 = "TCP C0A83202 D4A2 A9FE4D02 4F05 0AFF0021 2384 ESTABLISHED     899";
        let v6 = "TCP fd50:0000:0000:0000:0000:0000:0000:0002 D4A2 fd6d:6573:6864:0000:0000:0000:0000:0002 4F05 \
                  fd00:0255:0000:0000:0000:0000:0000:0033 2384 FIN_WAIT        119";
        for (line, backend) in [(v4, "10.255.0.33"), (v6, "fd00:255::33")] {
            let connection = Connection::parse(line).unwrap();
            assert!(connection.is_open() && connection.is_of(&place(20229, 20229, backend, Some(9092))));
            assert!(!connection.is_of(&place(20229, 20229, backend, None)));
            assert!(!connection.is_of(&place(20230, 20240, backend, Some(9092))));
            assert!(!connection.is_of(&place(20229, 20229, "10.255.0.34", Some(9092))));
            (0..line.len())
                .for_each(|length| assert!(Connection::parse(&line[..length]).is_none_or(|torn| torn.port <= 9092)));
        }
        let ended = v4.replace("ESTABLISHED", "TIME_WAIT");
        assert!(!Connection::parse(&ended).unwrap().is_open());
        let range = v4.replace("2384", "4F05");
        assert!(Connection::parse(&range).unwrap().is_of(&place(20200, 20300, "10.255.0.33", None)));
        // A template of persistence is no connection.
        assert!(Connection::parse(&v4.replace("TCP", "IP ")).is_none());
        assert!(
            Connection::parse("").is_none()
                && Connection::parse("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State").is_none()
        );
    }
}
