//! Marks: computed, unique, the same on every node.

use std::collections::BTreeMap;

use meshd::mesh::{Mark, Mesh, Port};
use meshd::objects::{PortRange, Protocol};
use proptest::prelude::*;

use super::build::{tcp, udp};
use super::meshes::mesh;

fn check(published: PortRange, expected: u32) {
    assert_eq!(published.mark(), Mark(expected), "{published}");
    assert_eq!(published.mark().meaning(), Some((published.protocol, published.first)));
}

#[test]
fn a_mark_is_the_protocol_and_the_first_port() {
    check(tcp(20229, 20229), 0x14f05);
    check(udp(20229, 20229), 0x24f05);
    check(PortRange::single(Protocol::Sctp, 1), 0x30001);
    check(tcp(65535, 65535), 0x1ffff);
    check(tcp(30000, 30099), 0x17530);
}

#[test]
fn marks_of_others_have_no_meaning() {
    // Swarm's own, those of a Kubernetes node, none at all, a port that cannot be published.
    for mark in [0x100, 0x103, 0x4000, 0x8000, 0, 0x10000, 0x40001, 0xd0c4_e314] {
        assert_eq!(Mark(mark).meaning(), None, "{mark:#x}");
    }
}

fn ports(mesh: &Mesh) -> impl Iterator<Item = &Port> {
    mesh.services.iter().flat_map(|service| &service.ports)
}

proptest! {
    #![proptest_config(super::cases(64))]

    #[test]
    fn every_published_port_has_a_mark_of_its_own(mesh in mesh()) {
        let marks: BTreeMap<Mark, PortRange> = ports(&mesh).map(|port| (port.mark(), port.published)).collect();
        prop_assert_eq!(marks.len(), ports(&mesh).count());
        for (mark, published) in marks {
            prop_assert_eq!(mark.meaning(), Some((published.protocol, published.first)));
        }
    }
}
