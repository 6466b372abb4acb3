//! Matches and targets of iptables that nftables carries as they are (`iptables-nft`; linux/netfilter/x_tables.h): those that most
//! rules are made of. What is not known here may hold or not.

use super::bits::{Truth, within};
use super::seen::{self, header};
use crate::objects::{Packet, Phase, Protocol};

/// Where things stand in `struct xt_conntrack_mtinfo3`, behind eight addresses, a time and the ports.
const FLAGS: usize = 146;
const INVERTED: usize = 148;
const STATES: usize = 150;
/// XT_CONNTRACK_STATE: the state alone is asked for; and that it was by the name of `-m state`.
const STATE: u16 = 1;
const ALIAS: u16 = 1 << 13;
/// XT_CONNTRACK_STATE_SNAT, _DNAT and _UNTRACKED.
const SOURCE: u32 = 1 << 6;
const TRANSLATED: u32 = 1 << 7;
const UNTRACKED: u32 = 1 << 8;

/// What the match of that name and revision, with that data, says to a packet.
pub fn holds(name: &str, revision: u32, info: &[u8], packet: &Packet) -> Truth {
    match name {
        "comment" => Truth::Yes,
        "tcp" => Truth::of(packet.protocol == Protocol::Tcp).and(ports(info, 11, packet)),
        "udp" => Truth::of(packet.protocol == Protocol::Udp).and(ports(info, 8, packet)),
        "conntrack" => state(revision, info, packet),
        "addrtype" if revision == 1 => address_type(info, packet),
        // A routing header, which no packet has that somebody means.
        "rt" => Truth::No,
        _ => Truth::Maybe,
    }
}

fn number(info: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(place..place + 2)?.try_into().ok()?))
}

/// `struct xt_tcp` and `struct xt_udp` begin alike: the least and the greatest source port, and destination port; then TCP has more.
/// `inverted`: where it says which of them are meant the other way round.
fn ports(info: &[u8], inverted: usize, packet: &Packet) -> Truth {
    let (Some(turned), Some(transport)) = (info.get(inverted), header(packet, 2)) else { return Truth::Maybe };
    let port = |place: usize, bit: u8| {
        let limits = number(info, 4 * (place / 2)).zip(number(info, 4 * (place / 2) + 2));
        let limits = limits.map(|(least, greatest)| (least.to_be_bytes(), greatest.to_be_bytes()));
        limits.map_or(Truth::Maybe, |(least, greatest)| {
            within(&transport[place..place + 2], &least, &greatest).inverted(turned & bit != 0)
        })
    };
    // An option or flags of TCP may be asked for, too.
    let more = if packet.protocol == Protocol::Tcp && info.get(8..10).is_some_and(|more| more != [0, 0]) {
        Truth::Maybe
    } else {
        Truth::Yes
    };
    port(0, 1).and(port(2, 2)).and(more)
}

/// Of revision 1 the states have a byte.
fn state(revision: u32, info: &[u8], packet: &Packet) -> Truth {
    let states = if revision == 1 { info.get(STATES).copied().map(u16::from) } else { number(info, STATES) };
    match (number(info, FLAGS).map(|flags| flags & !ALIAS), number(info, INVERTED), states) {
        (Some(STATE), Some(inverted), Some(states)) => {
            // Its bits are those of nft's `ct state`, and two more.
            let translated = if packet.translated { TRANSLATED } else { 0 };
            let untracked = if packet.phase == Phase::Untracked { UNTRACKED } else { 0 };
            let known = Truth::of(u32::from(states) & (seen::state(packet) | translated | untracked) != 0);
            let may_be =
                u32::from(states) & SOURCE != 0 || u32::from(states) & TRANSLATED != 0 && packet.phase != Phase::First;
            let holds = if known == Truth::No && may_be { Truth::Maybe } else { known };
            holds.inverted(inverted & STATE != 0)
        }
        _ => Truth::Maybe,
    }
}

/// `struct xt_addrtype_info_v1`: the types of the source and of the destination, as bits, and flags.
fn address_type(info: &[u8], packet: &Packet) -> Truth {
    const INVERT_DESTINATION: u32 = 2;
    // linux/rtnetlink.h: RTN_UNICAST, RTN_LOCAL.
    let own: u16 = if packet.is_local { 1 << 2 } else { 1 << 1 };
    let flags = info.get(4..8).and_then(|flags| Some(u32::from_ne_bytes(flags.try_into().ok()?)));
    match (number(info, 0), number(info, 2), flags) {
        // Only the destination is asked for, and on no link of its own.
        (Some(0), Some(types), Some(flags)) if flags & !INVERT_DESTINATION == 0 => {
            Truth::of(types & own != 0).inverted(flags & INVERT_DESTINATION != 0)
        }
        _ => Truth::Maybe,
    }
}
