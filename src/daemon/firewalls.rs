//! Other firewalls of the host that may keep clients out: named when they come, whoever was there first.

use tracing::{info, warn};

use crate::kernel::surroundings::legacy_filters;
use crate::mesh::Gateway;
use crate::objects::Opening;

/// What is in the way, each with what mends it.
#[derive(Debug, Default)]
pub struct Firewalls {
    known: Vec<String>,
}

impl Firewalls {
    /// Says what is new. `drops`: chains of others that drop what nobody accepts.
    pub fn look<'c>(&mut self, gateway: &Gateway, drops: impl IntoIterator<Item = &'c Opening>) {
        let now = in_the_way(gateway, drops);
        now.iter().filter(|line| !self.known.contains(line)).for_each(|line| warn!("{line}"));
        if now.is_empty() && !self.known.is_empty() {
            info!("no other firewall is in the way any more");
        }
        self.known = now;
    }

    pub fn lines(&self) -> Vec<String> {
        self.known.clone()
    }
}

fn in_the_way<'c>(gateway: &Gateway, drops: impl IntoIterator<Item = &'c Opening>) -> Vec<String> {
    let link = gateway.link();
    // The kernel tells nothing of these, and their rules cannot be read by nftables.
    let legacy = legacy_filters().into_iter().map(|command| {
        format!(
            "{command} has a filter table here, which meshd cannot see: if its FORWARD chain drops, run \
             `{command} -I FORWARD -i {link} -j ACCEPT` and `{command} -I FORWARD -o {link} -j ACCEPT`"
        )
    });
    let closed = drops.into_iter().filter(|_| !gateway.open_forward).map(|chain| {
        format!(
            "chain {chain} drops what nobody accepts, and [gateway] open_forward = false: unless it lets translated connections through \
             (firewalld does), published ports will not answer from outside until you run `nft insert rule {chain} iifname {link} \
             accept` and `nft insert rule {chain} oifname {link} accept`"
        )
    });
    legacy.chain(closed).collect()
}
