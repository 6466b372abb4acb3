//! By which way the kernel sends one packet on (ip-route(8), `ip route get`): all rules and tables, whoever made them.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::super::attribute::{Writer, find, ip_of, u32_of};
use super::super::socket::{Request, Result, Socket};
use super::message;
use super::remote::family;
use crate::objects::Onward;

// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MARK: u16 = 16;
const RTA_VIA: u16 = 18;
const RTN_LOCAL: u8 = 2;
/// Of `struct rtmsg`, and the place of the route's type in it.
const HEADER: usize = 12;
const TYPE: usize = 7;

/// Asks in the socket's namespace; a link's name is looked up in the calling thread's, which has to be the same.
pub(in crate::kernel) fn onward(
    socket: &mut Socket,
    to: IpAddr,
    from: Option<IpAddr>,
    link_in: Option<&str>,
    mark: u32,
) -> Result<Onward> {
    let bits = |address: Option<IpAddr>| address.map_or(0, |ip| if ip.is_ipv4() { 32 } else { 128 });
    let mut body = Writer::after(&[family(to), bits(Some(to)), bits(from), 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body.ip(RTA_DST, to);
    from.into_iter().for_each(|from| body.ip(RTA_SRC, from));
    if let Some(name) = link_in {
        match if_nametoindex(name) {
            Ok(index) => body.u32(RTA_IIF, index),
            Err(_) => return Ok(Onward::None(format!("there is no link {name}"))),
        }
    }
    if mark != 0 {
        body.u32(RTA_MARK, mark);
    }
    let reply = match socket.get(Request { kind: RTM_GETROUTE, flags: 0, body: body.finish() }) {
        Ok(reply) => reply,
        Err(error) => {
            let reason = match error.errno() {
                Some(Errno::ENETUNREACH) => "no route",
                Some(Errno::EHOSTUNREACH) => "unreachable",
                Some(Errno::EINVAL) => "blackhole, or not from such a source",
                Some(Errno::EACCES) => "prohibited",
                Some(Errno::EXDEV) => "the way back is another one, and rp_filter minds",
                _ => return Err(error),
            };
            return Ok(Onward::None(reason.to_owned()));
        }
    };
    let (kind, index, gateway) = read(&reply.body);
    if kind == Some(RTN_LOCAL) {
        return Ok(Onward::Local);
    }
    let Some(index) = index else { return Ok(Onward::None("no link".to_owned())) };
    let link = message::find_index(socket, index)?.map_or_else(|| index.to_string(), |found| found.name);
    Ok(Onward::By { link, gateway })
}

/// The route's type, its link and its gateway, which may be of the other family.
fn read(body: &[u8]) -> (Option<u8>, Option<u32>, Option<IpAddr>) {
    let rest = body.get(HEADER..).unwrap_or_default();
    let via = find(rest, RTA_VIA).and_then(|via| ip_of(via.get(2..)?));
    let gateway = find(rest, RTA_GATEWAY).and_then(ip_of).or(via);
    (body.get(TYPE).copied(), find(rest, RTA_OIF).and_then(u32_of), gateway)
}

/// For `replies`.
pub(super) fn read_any(body: &[u8]) {
    let _ = read(body);
}
