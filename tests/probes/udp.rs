use std::time::Instant;

use meshd::mesh::{Probe, UdpProbe};

use crate::{SHORT, TIME, ask, ask_for, failed, servers};

fn udp(expect: Option<&[u8]>) -> Probe {
    Probe::Udp(UdpProbe { send: b"PING".to_vec(), expect: expect.map(<[u8]>::to_vec) })
}

#[test]
fn an_answer_that_begins_as_expected_is_good() {
    let echo = servers::udp(|question| vec![[question, b" PONG"].concat()]);
    assert_eq!(ask(&udp(Some(b"PING P")), echo), Ok(()));
    assert_eq!(ask(&udp(Some(b"PING PONG")), echo), Ok(()));
    assert_eq!(ask(&udp(Some(b"")), echo), Ok(()));
    assert_eq!(ask(&udp(None), echo), Ok(()));
    assert_eq!(ask(&udp(Some(b"PONG\0")), echo), failed("answer does not begin with \"PONG\\x00\""));
    assert_eq!(ask(&udp(Some(b"PING PONG!")), echo), failed("answer does not begin with \"PING PONG!\""));
    let expected = format!("answer does not begin with \"{}…\"", "x".repeat(64));
    assert_eq!(ask(&udp(Some(&[b'x'; 100])), echo), failed(&expected));
}

#[test]
fn an_empty_answer_is_one() {
    let empty = servers::udp(|_| vec![Vec::new()]);
    assert_eq!(ask(&udp(Some(b"")), empty), Ok(()));
    assert_eq!(ask(&udp(None), empty), Ok(()));
    assert_eq!(ask(&udp(Some(b"a")), empty), failed("answer does not begin with \"a\""));
}

#[test]
fn a_port_where_nobody_listens_is_unreachable_whatever_is_expected() {
    let (_reserved, address) = servers::unreachable();
    assert_eq!(ask(&udp(None), address), failed("port unreachable"));
    assert_eq!(ask(&udp(Some(b"")), address), failed("port unreachable"));
    assert_eq!(ask(&udp(Some(b"PONG")), address), failed("port unreachable"));
}

#[test]
fn silence_is_good_only_where_no_answer_is_expected() {
    let silent = servers::udp(|_| Vec::new());
    let began = Instant::now();
    assert_eq!(ask(&udp(None), silent), Ok(()));
    assert!(began.elapsed() < TIME / 2);
    assert_eq!(ask_for(SHORT / 2, &udp(None), silent), Ok(()));
    assert_eq!(ask_for(SHORT, &udp(Some(b"PONG")), silent), failed("no answer in 400ms"));
}

#[test]
fn a_datagram_that_is_too_long_is_told() {
    let what = Probe::Udp(UdpProbe { send: vec![0; 70_000], expect: None });
    assert_eq!(ask(&what, servers::udp(|_| Vec::new())), failed("message too long"));
}
