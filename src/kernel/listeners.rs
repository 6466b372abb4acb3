//! Who listens on a port in the calling thread's namespace: a local service on a published port would be
//! reached no more.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::objects::Protocol;

/// The own network of the thread that looks; /proc/net would be that of the process's first thread.
const DIRECTORY: &str = "/proc/thread-self/net";
/// TCP_LISTEN (net/tcp_states.h), in hexadecimal; SCTP's listening state has the same number, in decimal.
const LISTEN: &str = "0A";
const SCTP_LISTENING: &str = "10";

/// The addresses on which somebody waits for clients; unspecified: on all of the host's. What listens on
/// `::` mostly takes IPv4, too.
pub fn listeners(protocol: Protocol) -> io::Result<BTreeSet<SocketAddr>> {
    let mut all = BTreeSet::new();
    match protocol {
        Protocol::Tcp => {
            all.extend(table("tcp")?.lines().filter_map(|line| read_line(line, is_tcp_listener)));
            all.extend(table("tcp6")?.lines().filter_map(|line| read_line(line, is_tcp_listener)));
        }
        Protocol::Udp => {
            all.extend(table("udp")?.lines().filter_map(|line| read_line(line, is_udp_listener)));
            all.extend(table("udp6")?.lines().filter_map(|line| read_line(line, is_udp_listener)));
        }
        Protocol::Sctp => all.extend(table("sctp/eps")?.lines().flat_map(read_endpoint)),
    }
    Ok(all)
}

/// A kernel without that protocol has no such table, and nobody listens.
fn table(name: &str) -> io::Result<String> {
    match fs::read_to_string(format!("{DIRECTORY}/{name}")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn is_tcp_listener(_remote: SocketAddr, state: &str) -> bool {
    state == LISTEN
}

/// A connected socket hears its one peer only.
fn is_udp_listener(remote: SocketAddr, _state: &str) -> bool {
    remote.port() == 0
}

/// `0: 0100007F:0CEA 00000000:0000 0A …`: number, local address, remote address, state.
fn read_line(line: &str, listens: impl Fn(SocketAddr, &str) -> bool) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let local = read_address(fields.next()?)?;
    let remote = read_address(fields.next()?)?;
    listens(remote, fields.next()?).then_some(local)
}

/// Groups of 32 bits as numbers in the machine's byte order, then the port.
fn read_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut octets = [0; 16];
    let groups = address.len() / 8;
    if !address.is_ascii() || address.len() % 8 != 0 {
        return None;
    }
    for (place, group) in octets.chunks_exact_mut(4).take(groups).enumerate() {
        let number = u32::from_str_radix(&address[8 * place..8 * place + 8], 16).ok()?;
        group.copy_from_slice(&number.to_ne_bytes());
    }
    let ip = match groups {
        1 => IpAddr::from(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
        4 => Ipv6Addr::from(octets).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS`: the fourth is the state, the sixth the port, and the
/// local addresses are all from the ninth on.
fn read_endpoint(line: &str) -> Vec<SocketAddr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, SCTP_LISTENING, _, port, _, _, addresses @ ..] = &fields[..] else { return Vec::new() };
    let Ok(port) = port.parse() else { return Vec::new() };
    addresses.iter().filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn check(read: impl Fn(&str) -> Vec<SocketAddr>, line: &str, expected: &[&str]) {
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(read(line), expected, "{line}");
    }

    fn tcp(line: &str) -> Vec<SocketAddr> {
        read_line(line, is_tcp_listener).into_iter().collect()
    }

    fn udp(line: &str) -> Vec<SocketAddr> {
        read_line(line, is_udp_listener).into_iter().collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_are_read() {
        let rest = "00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0";
        check(
            tcp,
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            &[],
        );
        check(tcp, &format!("   0: 0100007F:0CEA 00000000:0000 0A {rest}"), &["127.0.0.1:3306"]);
        check(tcp, &format!("   1: 0100007F:0CEA 0100007F:C001 01 {rest}"), &[]);
        let any = "00000000000000000000000000000000";
        check(tcp, &format!("   2: {any}:0016 {any}:0000 0A {rest}"), &["[::]:22"]);
        check(tcp, &format!("   3: 0000000000000000FFFF00000100007F:0016 {any}:0000 0A {rest}"), &["127.0.0.1:22"]);
        check(udp, &format!(" 100: B80D0120000000000000000001000000:0035 {any}:0000 07 {rest}"), &["[2001:db8::1]:53"]);
        check(udp, &format!(" 101: 00000000:0044 0101A8C0:0043 01 {rest}"), &[]);
        for torn in [
            "",
            "0:",
            "0: 0100007F",
            "0: 0100007F:0CEA 0:0 0A",
            "0: 0100007:0CEA 00000000:0000 0A",
            "0: é:0CEA 00000000:0000 0A",
        ] {
            check(tcp, torn, &[]);
        }
    }

    #[test]
    fn sctp_endpoints_are_read() {
        check(read_endpoint, " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS", &[]);
        check(
            read_endpoint,
            "ffff8 ffff9 2   10  29   3868      0 12345 10.0.0.1 2001:db8::1 ",
            &["10.0.0.1:3868", "[2001:db8::1]:3868"],
        );
        check(read_endpoint, "ffff8 ffff9 2   7   29   3868      0 12345 10.0.0.1 ", &[]);
        check(read_endpoint, "ffff8 ffff9 2   10  29   x      0 12345 10.0.0.1 ", &[]);
    }

    #[test]
    fn our_own_sockets_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(listeners(Protocol::Tcp).unwrap().contains(&tcp.local_addr().unwrap()));
        assert!(listeners(Protocol::Udp).unwrap().contains(&udp.local_addr().unwrap()));
        udp.connect("127.0.0.1:9").unwrap();
        assert!(!listeners(Protocol::Udp).unwrap().contains(&udp.local_addr().unwrap()));
        assert!(listeners(Protocol::Sctp).is_ok());
    }
}
