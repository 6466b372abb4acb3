//! A question to a name server (RFC 1035), by UDP.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use super::{Failure, udp};
use crate::mesh::{DnsProbe, DnsRecord};

/// Without EDNS an answer has 512 bytes; some servers do not keep to that.
const LONGEST: usize = 4096;
const HEADER: usize = 12;
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 255;
const INTERNET: u16 = 1;
/// Of the flags in a header: a response, truncated, and that recursion is desired.
const QR: u16 = 1 << 15;
const TC: u16 = 1 << 9;
const RD: u16 = 1 << 8;

pub(super) async fn probe(probe: &DnsProbe, to: SocketAddr) -> Result<(), Failure> {
    // The hasher's keys are random, and others each time.
    let id = RandomState::new().hash_one(()) as u16;
    let socket = udp::ask(to, &question(probe, id)?).await?;
    loop {
        let answer = udp::receive(&socket, LONGEST).await?;
        // Another may answer whom the port belonged to before.
        if let Some(verdict) = verdict(&answer, id) {
            return Ok(verdict?);
        }
    }
}

fn question(probe: &DnsProbe, id: u16) -> Result<Vec<u8>, String> {
    let name = encoded(&probe.name).map_err(|why| format!("name {:?}: {why}", probe.name))?;
    let record = match probe.record {
        DnsRecord::A => 1,
        DnsRecord::Ns => 2,
        DnsRecord::Soa => 6,
        DnsRecord::Txt => 16,
        DnsRecord::Aaaa => 28_u16,
    };
    let mut out = Vec::with_capacity(HEADER + name.len() + 4);
    // One question, and no records.
    [id, RD, 1, 0, 0, 0].iter().for_each(|word| out.extend(word.to_be_bytes()));
    out.extend(name);
    [record, INTERNET].iter().for_each(|word| out.extend(word.to_be_bytes()));
    Ok(out)
}

/// Labels with their lengths. The root's name is a dot; others may end with one.
fn encoded(name: &str) -> Result<Vec<u8>, String> {
    let labels = match name {
        "" => return Err("empty".to_owned()),
        "." => "",
        name => name.strip_suffix('.').unwrap_or(name),
    };
    let mut out = Vec::with_capacity(labels.len() + 2);
    for label in labels.split('.').filter(|_| !labels.is_empty()) {
        if !label.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a character that is no printable ASCII".to_owned());
        }
        match u8::try_from(label.len()) {
            Ok(0) => return Err("an empty label".to_owned()),
            Ok(length) if usize::from(length) <= LONGEST_LABEL => out.push(length),
            _ => return Err(format!("a label longer than {LONGEST_LABEL}")),
        }
        out.extend(label.bytes());
    }
    out.push(0);
    if out.len() > LONGEST_NAME { Err(format!("longer than {LONGEST_NAME}")) } else { Ok(out) }
}

/// What a datagram says; `None`: it is no answer to this question.
fn verdict(answer: &[u8], id: u16) -> Option<Result<(), String>> {
    let mut rest = answer;
    if word(&mut rest)? != id {
        return None;
    }
    let torn = || Some(Err("answer is torn".to_owned()));
    let (Some(flags), Some(questions), Some(records)) = (word(&mut rest), word(&mut rest), word(&mut rest)) else {
        return torn();
    };
    if flags & QR == 0 {
        return None;
    }
    let code = flags & 0xf;
    if code != 0 {
        return Some(Err(format!("answer {}", code_name(code))));
    }
    // Truncated: there are more than fit, even if none was sent.
    if flags & TC != 0 {
        return Some(Ok(()));
    }
    if records == 0 {
        return Some(Err("answer without records".to_owned()));
    }
    if first_record(&mut rest, questions).is_some() { Some(Ok(())) } else { torn() }
}

/// Passes the rest of the header, the questions and one record; `None`: the message ends before.
fn first_record(rest: &mut &[u8], questions: u16) -> Option<()> {
    bytes(rest, 4)?;
    for _ in 0..questions {
        name(rest)?;
        bytes(rest, 4)?;
    }
    name(rest)?;
    // Type, class, and time to live.
    bytes(rest, 8)?;
    let length = word(rest)?;
    bytes(rest, length.into()).map(drop)
}

/// Passes a name; a pointer is its end, wherever it leads.
fn name(rest: &mut &[u8]) -> Option<()> {
    loop {
        match *bytes(rest, 1)?.first()? {
            0 => return Some(()),
            length @ 1..64 => bytes(rest, length.into())?,
            0xc0.. => return bytes(rest, 1).map(drop),
            _ => return None,
        };
    }
}

fn word(rest: &mut &[u8]) -> Option<u16> {
    bytes(rest, 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)
}

fn bytes<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(first)
}

fn code_name(code: u16) -> String {
    let name = match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        9 => "NOTAUTH",
        _ => return format!("with error {code}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
