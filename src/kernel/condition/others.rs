//! Who else makes rules on the host, by what the kernel holds of theirs.

use std::collections::BTreeMap;

use crate::kernel::nft::chain_names;
use crate::kernel::socket::{Error, Socket};
use crate::objects::Beside;

/// Each, and a chain or table by which it is seen.
pub fn beside(socket: &mut Socket) -> Result<BTreeMap<Beside, String>, Error> {
    let mut found = BTreeMap::new();
    for (family, table, chain) in chain_names(socket)? {
        if let Some(who) = whose(&table, &chain) {
            found.entry(who).or_insert_with(|| format!("{family} {table} {chain}"));
        }
    }
    Ok(found)
}

fn whose(table: &str, chain: &str) -> Option<Beside> {
    if table == "firewalld" {
        return Some(Beside::Firewalld);
    }
    // Docker has tables of its own where it is told to use nftables.
    if table == "docker-bridges" || chain == "DOCKER-USER" || chain == "DOCKER" {
        return Some(Beside::Docker);
    }
    if chain.starts_with("ufw-") || chain.starts_with("ufw6-") {
        return Some(Beside::Ufw);
    }
    (table == "kube-proxy" || chain.starts_with("KUBE-")).then_some(Beside::Kubernetes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_known_by_their_chains() {
        let check = |table, chain, who| assert_eq!(whose(table, chain), who, "{table} {chain}");
        check("firewalld", "filter_FORWARD", Some(Beside::Firewalld));
        check("filter", "DOCKER-USER", Some(Beside::Docker));
        check("docker-bridges", "filter-forward", Some(Beside::Docker));
        check("filter", "ufw-before-forward", Some(Beside::Ufw));
        check("filter", "ufw6-before-forward", Some(Beside::Ufw));
        check("nat", "KUBE-SERVICES", Some(Beside::Kubernetes));
        check("kube-proxy", "services", Some(Beside::Kubernetes));
        check("filter", "FORWARD", None);
        check("meshd", "prerouting", None);
    }
}
