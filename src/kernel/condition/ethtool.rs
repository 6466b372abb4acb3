//! What a link does in its hardware, over generic netlink (linux/ethtool_netlink.h): no ioctl.

use std::collections::BTreeSet;

use crate::kernel::attribute::{Writer, attributes, find, string_of};
use crate::kernel::generic;
use crate::kernel::socket::{Request, Result};
use crate::objects::Offloads;

const FAMILY: &str = "ethtool";
const VERSION: u8 = 1;
/// The same number asks and answers.
const FEATURES_GET: u8 = 11;

const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;
/// Those that can be switched.
const FEATURES_HW: u16 = 2;
const FEATURES_ACTIVE: u16 = 4;

// Attributes of a set of bits, and of one bit.
const SET_NO_MASK: u16 = 1;
const SET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// The offloads of a link of the calling thread's namespace; `None`: this kernel does not say (before Linux 5.6).
pub fn offloads(link: &str) -> Result<Option<Offloads>> {
    let Some((mut socket, family)) = generic::open(FAMILY)? else { return Ok(None) };
    let mut question = Writer::after(&[FEATURES_GET, VERSION, 0, 0]);
    question.nested(HEADER, |header| header.string(HEADER_NAME, link));
    let answer = socket.get(Request { kind: family, flags: 0, body: question.finish() })?;
    Ok(read(&answer.body))
}

pub(super) fn read(body: &[u8]) -> Option<Offloads> {
    let attributes = generic::attributes_of(FEATURES_GET, body)?;
    let set = |kind| find(attributes, kind).map(bits).unwrap_or_default();
    Some(Offloads { can: set(FEATURES_HW), on: set(FEATURES_ACTIVE) })
}

/// The names of the bits that are set: all that are listed where there is no mask, else those with a value.
fn bits(set: &[u8]) -> BTreeSet<String> {
    let all = find(set, SET_NO_MASK).is_some();
    let listed = attributes(find(set, SET_BITS).unwrap_or_default());
    let is_set = |bit: &&[u8]| all || find(bit, BIT_VALUE).is_some();
    listed.map(|(_, bit)| bit).filter(is_set).filter_map(|bit| find(bit, BIT_NAME).and_then(string_of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(bits: &mut Writer, name: &str, is_set: bool) {
        bits.nested(1, |bit| {
            bit.string(BIT_NAME, name);
            if is_set {
                bit.bytes(BIT_VALUE, &[]);
            }
        });
    }

    #[test]
    fn sets_with_and_without_a_mask_are_read() {
        let mut answer = Writer::after(&[FEATURES_GET, VERSION, 0, 0]);
        answer.nested(FEATURES_HW, |set| {
            set.nested(SET_BITS, |bits| {
                bit(bits, "tx-udp_tnl-segmentation", true);
                bit(bits, "tx-gso-robust", false);
            });
        });
        answer.nested(FEATURES_ACTIVE, |set| {
            set.bytes(SET_NO_MASK, &[]);
            set.nested(SET_BITS, |bits| bit(bits, "tx-checksum-ip-generic", false));
        });
        let answer = answer.finish();
        let names = |name: &str| BTreeSet::from([name.to_owned()]);
        let expected = Offloads { can: names("tx-udp_tnl-segmentation"), on: names("tx-checksum-ip-generic") };
        assert_eq!(read(&answer), Some(expected));
        (0..answer.len()).for_each(|length| _ = read(&answer[..length]));
        assert_eq!(read(b"\x0c\x01\0\0"), None);
    }

    #[test]
    fn the_loopback_says_what_it_does() {
        // It has the kernel's own namespace or the test's: there is one in each.
        if let Some(offloads) = offloads("lo").expect("the kernel answers") {
            assert!(offloads.on.contains("tx-checksum-ip-generic"), "{offloads:?}");
        }
        assert!(!matches!(offloads("no-such-link"), Ok(Some(_))));
    }
}
