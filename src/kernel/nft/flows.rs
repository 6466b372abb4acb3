//! The flow table, as netlink carries it.

use std::collections::BTreeSet;

use super::read::body;
use super::{GETFLOWTABLE, HOOK_NUMBER, HOOK_PRIORITY, INET, header, request};
use crate::kernel::attribute::{Writer, attributes, be32_of, find, string_of};
use crate::kernel::socket::{Error, Socket};
use crate::objects::{FLOWS, TABLE};

const FLOWTABLE_TABLE: u16 = 1;
const FLOWTABLE_NAME: u16 = 2;
const FLOWTABLE_HOOK: u16 = 3;
const HOOK_LINKS: u16 = 3;
const LINK_NAME: u16 = 1;
/// NF_NETDEV_INGRESS, and nft(8)'s priority `filter` there.
const INGRESS: u32 = 0;
const FILTER: u32 = 0;

/// The message that names it.
pub fn name() -> Writer {
    let mut body = header(INET);
    body.string(FLOWTABLE_TABLE, TABLE);
    body.string(FLOWTABLE_NAME, FLOWS);
    body
}

/// The message that makes it.
pub fn write(links: &BTreeSet<String>) -> Writer {
    let mut body = name();
    body.nested(FLOWTABLE_HOOK, |hook| {
        hook.be32(HOOK_NUMBER, INGRESS);
        hook.be32(HOOK_PRIORITY, FILTER);
        hook.nested(HOOK_LINKS, |list| links.iter().for_each(|link| list.string(LINK_NAME, link)));
    });
    body
}

/// The links of ours, if it is there. One of another make has none.
pub fn read(socket: &mut Socket) -> Result<Option<BTreeSet<String>>, Error> {
    let found = socket.dump(&request(GETFLOWTABLE, 0, header(INET)), |_, message| read_links(body(message)))?;
    Ok(found.into_iter().next())
}

fn read_links(body: &[u8]) -> Option<BTreeSet<String>> {
    let text = |kind| find(body, kind).and_then(string_of);
    if text(FLOWTABLE_TABLE)? != TABLE || text(FLOWTABLE_NAME)? != FLOWS {
        return None;
    }
    let hook = find(body, FLOWTABLE_HOOK).unwrap_or_default();
    let number = |kind| find(hook, kind).and_then(be32_of);
    let same = (number(HOOK_NUMBER), number(HOOK_PRIORITY)) == (Some(INGRESS), Some(FILTER));
    let links = find(hook, HOOK_LINKS).filter(|_| same).unwrap_or_default();
    Some(attributes(links).filter_map(|(_, name)| string_of(name)).collect())
}

/// For `replies`.
pub(super) fn read_any(message: &[u8]) {
    let _ = read_links(body(message));
}
