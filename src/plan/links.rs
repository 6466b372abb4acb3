//! Links, addresses, routes, legs, and the kernel parameters that hang on them.

use std::collections::BTreeSet;

use super::{Difference, Step};
use crate::objects::{LinkId, LinkKind, Netns};

/// Links that a plan makes: what hung on their predecessors is gone.
pub(super) type Remade = BTreeSet<LinkId>;

impl Difference<'_> {
    /// Makes links and what is on them.
    pub(super) fn make_links(&self, steps: &mut Vec<Step>) -> Remade {
        let remade = self.remade();
        // One delete takes both ends of a veth: the second would find nothing, which is no error either.
        let wrong = remade.iter().filter(|id| self.seen.links.contains_key(id));
        steps.extend(wrong.map(|id| Step::DeleteLink(id.clone())));
        for (id, link) in self.wanted.links.iter().filter(|(id, _)| remade.contains(id)) {
            let far_end = matches!(&link.kind, LinkKind::Veth { peer } if peer < id);
            if !far_end {
                steps.push(Step::AddLink { id: id.clone(), link: link.clone() });
            }
        }
        for (id, link) in &self.wanted.links {
            let lost_bridge =
                link.master.as_ref().is_some_and(|master| remade.contains(&LinkId::new(id.netns, master.as_str())));
            if lost_bridge || remade.contains(id) || self.seen.links.get(id) != Some(link) {
                steps.push(Step::SetLink { id: id.clone(), link: link.clone() });
            }
        }
        for address in &self.wanted.addresses {
            if remade.contains(&address.link) || !self.seen.addresses.contains(address) {
                steps.push(Step::AddAddress(address.clone()));
            }
        }
        for route in &self.wanted.routes {
            if remade.contains(&route.link) || !self.seen.routes.contains(route) {
                steps.push(Step::AddRoute(route.clone()));
            }
        }
        remade
    }

    /// Wanted links that are missing or of another kind; of a veth both ends, if one is.
    fn remade(&self) -> Remade {
        let same = |id: &LinkId, kind: &LinkKind| self.seen.links.get(id).is_some_and(|link| link.kind == *kind);
        let mut remade = Remade::new();
        for (id, link) in &self.wanted.links {
            if !same(id, &link.kind) {
                remade.insert(id.clone());
                if let LinkKind::Veth { peer } = &link.kind {
                    remade.insert(peer.clone());
                }
            }
        }
        remade
    }

    pub(super) fn make_legs(&self, remade: &Remade, steps: &mut Vec<Step>) {
        let lost_bridge = remade.iter().any(|id| id.netns == Netns::Overlay && self.is_bridge(id));
        for (mac, leg) in &self.wanted.legs {
            if lost_bridge || self.seen.legs.get(mac) != Some(leg) {
                steps.push(Step::AddLeg { mac: *mac, leg: leg.clone() });
            }
        }
    }

    fn is_bridge(&self, id: &LinkId) -> bool {
        self.wanted.links.get(id).is_some_and(|link| link.kind == LinkKind::Bridge)
    }

    /// Links go one by one even where their namespace goes too: the kernel takes its time over a namespace,
    /// and a name or a VXLAN identifier would be taken until then.
    pub(super) fn break_links(&self, steps: &mut Vec<Step>) {
        for route in self.seen.routes.difference(&self.wanted.routes) {
            if !self.is_doomed(route.link.netns) && self.wanted.links.contains_key(&route.link) {
                steps.push(Step::DeleteRoute(route.clone()));
            }
        }
        for address in self.seen.addresses.difference(&self.wanted.addresses) {
            if !self.is_doomed(address.link.netns) && self.wanted.links.contains_key(&address.link) {
                steps.push(Step::DeleteAddress(address.clone()));
            }
        }
        for mac in self.seen.legs.keys().filter(|mac| !self.wanted.legs.contains_key(mac)) {
            steps.push(Step::DeleteLeg { mac: *mac });
        }
        for id in self.seen.links.keys().filter(|id| !self.wanted.links.contains_key(id)) {
            steps.push(Step::DeleteLink(id.clone()));
        }
    }

    pub(super) fn set_sysctls(&self, remade: &Remade, steps: &mut Vec<Step>) {
        let fresh = |netns: Netns, name: &str| {
            remade.iter().any(|id| id.netns == netns && name.split('/').any(|part| part == id.name))
        };
        let wrong = self.wanted.sysctls.iter().filter(|((netns, name), value)| {
            self.seen.sysctls.get(&(*netns, name.clone())) != Some(value) || fresh(*netns, name)
        });
        let mut set: Vec<Step> = wrong
            .map(|((netns, name), value)| Step::SetSysctl { netns: *netns, name: name.clone(), value: value.clone() })
            .collect();
        // A host that begins to forward drops the default route it learned, unless accept_ra is 2 by then.
        set.sort_by_key(|step| !matches!(step, Step::SetSysctl { name, .. } if name.ends_with("/accept_ra")));
        steps.extend(set);
    }

    pub(super) fn restore_sysctls(&self, steps: &mut Vec<Step>) {
        let extra = self.seen.sysctls.keys().filter(|key| !self.wanted.sysctls.contains_key(key));
        let host = extra.filter(|(netns, _)| *netns == Netns::Host);
        let mut restore: Vec<Step> = host.map(|(_, name)| Step::RestoreSysctl { name: name.clone() }).collect();
        // The other way round than they were set.
        restore.sort_by_key(|step| matches!(step, Step::RestoreSysctl { name } if name.ends_with("/accept_ra")));
        steps.extend(restore);
    }
}
