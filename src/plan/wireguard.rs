//! What the WireGuard link is told: its key, and whom it speaks with.

use super::links::Remade;
use super::{Difference, Step};
use crate::objects::{LinkId, Netns, WIREGUARD, Wireguard};

impl Difference<'_> {
    pub(super) fn make_wireguard(&self, remade: &Remade, steps: &mut Vec<Step>) {
        let Some(wanted) = &self.wanted.wireguard else { return };
        let nothing = Wireguard::default();
        let seen = self.seen.wireguard.as_ref().filter(|_| !remade.contains(&link())).unwrap_or(&nothing);
        if (seen.key, seen.port) != (wanted.key, wanted.port) {
            steps.push(Step::SetWireguard { key: wanted.key, port: wanted.port });
        }
        let changed = wanted.peers.iter().filter(|(key, peer)| seen.peers.get(*key) != Some(*peer));
        steps.extend(changed.map(|(key, peer)| Step::SetWireguardPeer { key: *key, peer: peer.clone() }));
    }

    pub(super) fn break_wireguard(&self, remade: &Remade, steps: &mut Vec<Step>) {
        // With the link they go by themselves.
        let (Some(seen), Some(wanted)) = (&self.seen.wireguard, &self.wanted.wireguard) else { return };
        if !remade.contains(&link()) {
            let extra = seen.peers.keys().filter(|key| !wanted.peers.contains_key(key));
            steps.extend(extra.map(|key| Step::DeleteWireguardPeer { key: *key }));
        }
    }
}

fn link() -> LinkId {
    LinkId::new(Netns::Overlay, WIREGUARD)
}
