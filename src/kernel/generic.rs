//! Generic netlink: families of messages whose numbers are asked for by name (linux/genetlink.h).

use netlink_packet_core::Emitable;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use nix::errno::Errno;

use super::attribute::{find, u16_of};
use super::replies::Readers;
use super::socket::{Error, Request, Result, Socket};

const NETLINK_GENERIC: isize = 16;
/// The number of the family that knows the other families' numbers (`GENL_ID_CTRL`).
const CONTROLLER: u16 = 16;
/// Bytes of the header of a generic netlink message.
const HEADER: usize = 4;
const CTRL_ATTR_FAMILY_ID: u16 = 1;

/// Opens a socket in the calling thread's network namespace, and asks for the number of the family of that name; the
/// kernel loads its module if need be. `None`: it has no such family.
pub fn open(name: &str) -> Result<Option<(Socket, u16)>> {
    let mut socket = Socket::open(NETLINK_GENERIC)?;
    let answer = match socket.get(Request { kind: CONTROLLER, flags: 0, body: family_question(name) }) {
        Err(error) if error.is(Errno::ENOENT) => return Ok(None),
        answer => answer?,
    };
    let family = family_number(&answer.body).ok_or(Error::Malformed("a family without a number"))?;
    Ok(Some((socket, family)))
}

fn family_question(name: &str) -> Vec<u8> {
    body(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())] })
}

/// A message without its netlink header.
pub fn body<F: GenlFamily + Emitable + std::fmt::Debug>(payload: F) -> Vec<u8> {
    let message = GenlMessage::from_payload(payload);
    let mut bytes = vec![0; Emitable::buffer_len(&message)];
    message.emit(&mut bytes);
    bytes
}

/// The attributes of an answer to that command.
pub fn attributes_of(command: u8, body: &[u8]) -> Option<&[u8]> {
    let header = GenlHeader::parse(body).ok()?;
    (header.cmd == command).then(|| body.get(HEADER..)).flatten()
}

/// (`GenlCtrl`'s own reader refuses attributes that it does not know.)
fn family_number(body: &[u8]) -> Option<u16> {
    find(body.get(HEADER..)?, CTRL_ATTR_FAMILY_ID).and_then(u16_of)
}

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[|body| _ = family_number(body)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_asked_for_as_ipvsadm_asks() {
        // But for the version of nlctrl's own protocol, of which ipvsadm writes 1.
        assert_eq!(family_question("IPVS"), b"\x03\x02\0\0\x09\0\x02\0IPVS\0\0\0\0");
        // After the name, which comes first: CTRL_ATTR_FAMILY_ID, and an attribute that does not exist yet.
        let answer = b"\x01\x02\0\0\x09\0\x02\0IPVS\0\0\0\0\x06\0\x01\0\x20\0\0\0\x08\0\xff\0\0\0\0\0";
        assert_eq!(family_number(answer), Some(0x20));
        (0..answer.len()).for_each(|length| _ = family_number(&answer[..length]));
        assert_eq!(attributes_of(1, answer).map(<[u8]>::len), Some(answer.len() - HEADER));
        assert_eq!((attributes_of(2, answer), attributes_of(1, &answer[..3])), (None, None));
    }
}
