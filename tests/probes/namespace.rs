//! Probes run in the network namespace of the thread that asks, and nowhere else.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

use meshd::mesh::{ExecProbe, Probe, UdpProbe};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use crate::{ask, failed, http, is_root, servers};

const PORT: u16 = 40_000;

/// In a thread that is in a namespace of its own, where every socket that names no port gets the same.
fn elsewhere(test: impl FnOnce() + Send + 'static) {
    if !is_root() {
        return;
    }
    let within = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
        test();
    };
    thread::spawn(within).join().unwrap();
}

fn udp(send: &[u8], expect: Option<&[u8]>) -> Probe {
    Probe::Udp(UdpProbe { send: send.to_vec(), expect: expect.map(<[u8]>::to_vec) })
}

/// Again while the one port is taken: a program that another test starts has all sockets until it is loaded.
fn alone(what: &Probe, to: SocketAddr) -> Result<(), String> {
    let taken = [failed("no socket: address already in use"), failed("cannot assign requested address")];
    let mut answers = std::iter::repeat_with(|| ask(what, to)).take(100);
    answers.find(|answer| !taken.contains(answer)).unwrap()
}

#[test]
fn a_socket_that_asks_itself_is_no_answer() {
    elsewhere(|| {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let itself = TcpStream::connect(to).expect("a socket can connect to itself");
        // Or the port would stay in TIME_WAIT.
        setsockopt(&itself, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(itself);
        assert_eq!(alone(&Probe::Tcp, to), failed("connection refused"));
        assert_eq!(alone(&http::plain(), to), failed("connection refused"));
        assert_eq!(alone(&udp(b"PING", None), to), failed("port unreachable"));
        assert_eq!(alone(&udp(b"PING", Some(b"PING")), to), failed("port unreachable"));
    });
}

#[test]
fn each_probe_is_in_its_threads_namespace() {
    let outside = servers::silent();
    let outside_udp = servers::udp(|question| vec![question.to_vec()]);
    elsewhere(move || {
        assert_eq!(ask(&Probe::Tcp, outside), failed("connection refused"));
        assert_eq!(ask(&http::plain(), outside), failed("connection refused"));
        assert_eq!(ask(&udp(b"PING", Some(b"PING")), outside_udp), failed("port unreachable"));
        let inside = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
        assert_eq!(ask(&Probe::Tcp, inside.local_addr().unwrap()), Ok(()));
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
        assert_eq!(ask(&udp(b"PING", None), inside.local_addr().unwrap()), Ok(()));
        // What it runs, too: no other interface is there.
        let count = "[ $(wc -l </proc/self/net/dev) = 3 ] && grep -q ' lo:' /proc/self/net/dev";
        let command = ["/bin/sh", "-c", count].map(str::to_owned).to_vec();
        let own = Probe::Exec(ExecProbe { command, user: "root".to_owned() });
        assert_eq!(ask(&own, outside), Ok(()));
    });
}
