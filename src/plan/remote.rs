//! The way to what is on other nodes: forwarding entries and neighbours of the tunnel.

use std::collections::BTreeMap;

use super::links::Remade;
use super::{Difference, Step};
use crate::objects::{LinkId, Netns, TUNNEL};

impl Difference<'_> {
    pub(super) fn make_remote(&self, remade: &Remade, steps: &mut Vec<Step>) {
        let fresh = remade.contains(&tunnel());
        for (mac, node) in &self.wanted.forwarding {
            if fresh || self.seen.forwarding.get(mac) != Some(node) {
                steps.push(Step::SetForwarding { mac: *mac, node: *node });
            }
        }
        for (ip, mac) in &self.wanted.neighbours {
            if fresh || self.seen.neighbours.get(ip) != Some(mac) {
                steps.push(Step::SetNeighbour { ip: *ip, mac: *mac });
            }
        }
    }

    pub(super) fn break_remote(&self, remade: &Remade, steps: &mut Vec<Step>) {
        // With the tunnel they go by themselves.
        let tunnel = tunnel();
        if remade.contains(&tunnel) || !self.wanted.links.contains_key(&tunnel) {
            return;
        }
        for (mac, node) in extra(&self.seen.forwarding, &self.wanted.forwarding) {
            steps.push(Step::DeleteForwarding { mac: *mac, node: *node });
        }
        for (ip, _) in extra(&self.seen.neighbours, &self.wanted.neighbours) {
            steps.push(Step::DeleteNeighbour { ip: *ip });
        }
    }
}

fn tunnel() -> LinkId {
    LinkId::new(Netns::Overlay, TUNNEL)
}

/// What is in the first map under a key that the second has not.
fn extra<'a, K: Ord, V>(seen: &'a BTreeMap<K, V>, wanted: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    seen.iter().filter(|(key, _)| !wanted.contains_key(key))
}
