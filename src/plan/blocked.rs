//! What must not be done because a step before it failed.
//!
//! Steps are independent of one another, but for two things. A published port must lead to a service that has
//! a destination: so a port whose service could not be made stays unpublished, and a port that could not be
//! unpublished keeps its mark and its service, until the next pass. And a port that not everyone may come to is not
//! published before those are kept out.

use std::collections::BTreeSet;

use super::Step;
use crate::objects::{FLOWS, Family, MapValue, Mark, Netns, PortRange, SetElement, VirtualKey};

#[derive(Clone, Debug, Default)]
pub struct Blocked {
    /// Services that were made and have no destination yet, and those that were not made.
    barren: BTreeSet<VirtualKey>,
    /// Ports that are still mapped where they should not be.
    mapped: BTreeSet<Mark>,
    /// Ports that could not be restricted.
    unguarded: Vec<PortRange>,
    /// The host's chains or sets are not what they should be: nothing more is published.
    defenceless: bool,
    /// Connections of someone who is to have none could not be ended.
    undropped: bool,
    /// Whose clients may still be led as they were.
    unbalanced: BTreeSet<VirtualKey>,
}

impl Blocked {
    /// Tells how a step went.
    pub fn note(&mut self, step: &Step, done: bool) {
        match step {
            Step::AddService { key, .. } => {
                self.barren.insert(*key);
            }
            Step::AddDestination { service, .. } if done => {
                self.barren.remove(service);
            }
            Step::EditBalance { key, edit } => {
                if !done {
                    self.unbalanced.insert(*key);
                }
                if edit.leads() && done {
                    self.barren.remove(key);
                } else if edit.leads() {
                    self.barren.insert(*key);
                }
            }
            Step::EditSets { netns: Netns::Host, edits } if !done => {
                self.unguarded.extend(edits.iter().flat_map(|edit| &edit.add).filter_map(SetElement::ports));
            }
            // Without a flow table all is as well guarded.
            Step::SetChain { name, .. } if name == FLOWS => {}
            Step::AddSet { netns: Netns::Host, .. } | Step::SetChain { netns: Netns::Host, .. } if !done => {
                self.defenceless = true;
            }
            Step::DropBackend { .. } if !done => self.undropped = true,
            Step::EditMap { remove, .. } if !done => self.mapped.extend(remove.iter().map(|(port, _)| port.mark())),
            _ => {}
        }
    }

    /// Whether that step has to wait for the next pass.
    pub fn blocks(&self, step: &Step) -> bool {
        match step {
            Step::EditMap { netns: Netns::Host, add, .. } if add.iter().any(|(port, _)| self.is_open(port)) => true,
            Step::EditMap { remove, add, .. } => {
                add.iter().any(|(port, value)| self.leads_nowhere(port, value))
                    || remove.iter().any(|(port, _)| self.mapped.contains(&port.mark()))
            }
            // What keeps others out of a port stays as long as the port does.
            Step::EditSets { netns: Netns::Host, edits } => {
                let mut freed = edits.iter().flat_map(|edit| &edit.remove).filter_map(SetElement::ports);
                freed.any(|port| self.mapped.contains(&port.mark()))
            }
            // That they may have connections is known by their set.
            Step::DeleteSet { netns: Netns::Sandbox, .. } => self.undropped,
            Step::DeleteService(key) => self.mapped.contains(&key.mark),
            Step::EditBalance { key, edit } => {
                edit.closes() && self.mapped.contains(&key.mark) || edit.trims() && self.unbalanced.contains(key)
            }
            Step::DropBackend { key, .. } => self.unbalanced.contains(key),
            _ => false,
        }
    }
}

impl Blocked {
    /// Whether those would come to it whom it should keep out.
    fn is_open(&self, port: &PortRange) -> bool {
        self.defenceless || self.unguarded.iter().any(|open| open.overlaps(port))
    }

    /// Only on the host is a port published; a mark that nothing leads to does no harm.
    fn leads_nowhere(&self, port: &PortRange, value: &MapValue) -> bool {
        match value {
            MapValue::Address(ip) => self.barren.contains(&VirtualKey { mark: port.mark(), family: Family::of(ip) }),
            MapValue::Mark(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{
        Destination, DestinationKey, Family, MapValue, Netns, PortRange, Protocol, Scheduler, SchedulerFlags,
        SetElement, SetKind, VirtualKey, VirtualService,
    };
    use crate::plan::{BalanceEdit, SetEdit};

    const PORT: PortRange = PortRange { protocol: Protocol::Tcp, first: 80, last: 80 };

    fn key() -> VirtualKey {
        VirtualKey { mark: PORT.mark(), family: Family::V4 }
    }

    fn add_service() -> Step {
        let service = VirtualService {
            scheduler: Scheduler::RoundRobin,
            flags: SchedulerFlags::default(),
            persistence: None,
            one_packet: false,
            destinations: Default::default(),
        };
        Step::AddService { key: key(), service }
    }

    fn add_destination(last: u8) -> Step {
        let key = DestinationKey { address: [10, 0, 0, last].into(), port: 80 };
        Step::AddDestination {
            service: self::key(),
            key,
            destination: Destination { weight: 1, thresholds: Default::default() },
        }
    }

    fn edit(remove: &[PortRange], add: &[PortRange]) -> Step {
        let sandbox = MapValue::Address([169, 254, 77, 2].into());
        let with = |ports: &[PortRange]| ports.iter().map(|port| (*port, sandbox)).collect();
        Step::EditMap { netns: Netns::Host, name: "m".into(), ranges: false, remove: with(remove), add: with(add) }
    }

    #[test]
    fn a_port_is_published_once_its_service_has_one_destination() {
        let mut blocked = Blocked::default();
        assert!(!blocked.blocks(&edit(&[], &[PORT])));
        blocked.note(&add_service(), true);
        assert!(blocked.blocks(&edit(&[], &[PORT])));
        blocked.note(&add_destination(1), false);
        assert!(blocked.blocks(&edit(&[], &[PORT])));
        blocked.note(&add_destination(2), true);
        assert!(!blocked.blocks(&edit(&[], &[PORT])));
    }

    #[test]
    fn a_port_whose_service_was_refused_stays_unpublished_and_others_do_not() {
        let mut blocked = Blocked::default();
        blocked.note(&add_service(), false);
        assert!(blocked.blocks(&edit(&[], &[PORT])));
        assert!(!blocked.blocks(&edit(&[], &[PortRange::single(Protocol::Udp, 80)])));
        let v6 = vec![(PORT, MapValue::Address("fd00::2".parse().unwrap()))];
        let v6 = Step::EditMap { netns: Netns::Host, name: "m".into(), ranges: false, remove: Vec::new(), add: v6 };
        assert!(!blocked.blocks(&v6), "one family's trouble is not the other's");
    }

    #[test]
    fn a_port_that_could_not_be_restricted_stays_unpublished_and_others_do_not() {
        let guard = SetEdit { name: "guarded".into(), remove: Vec::new(), add: vec![SetElement::Ports(PORT)] };
        let restrict = Step::EditSets { netns: Netns::Host, edits: vec![guard] };
        let mut blocked = Blocked::default();
        blocked.note(&restrict, true);
        assert!(!blocked.blocks(&edit(&[], &[PORT])));
        blocked.note(&restrict, false);
        assert!(blocked.blocks(&edit(&[], &[PORT])));
        assert!(!blocked.blocks(&edit(&[], &[PortRange::single(Protocol::Tcp, 81)])));
        assert!(!blocked.blocks(&edit(&[PORT], &[])), "to close it is always right");
        let free = SetEdit { name: "guarded".into(), remove: vec![SetElement::Ports(PORT)], add: Vec::new() };
        let free = Step::EditSets { netns: Netns::Host, edits: vec![free] };
        assert!(!blocked.blocks(&free));
        blocked.note(&edit(&[PORT], &[]), false);
        assert!(blocked.blocks(&free), "it is still published");
        blocked.note(&Step::AddSet { netns: Netns::Host, name: "guarded".into(), kind: SetKind::Ports }, false);
        assert!(blocked.blocks(&edit(&[], &[PortRange::single(Protocol::Tcp, 81)])));
    }

    #[test]
    fn who_may_still_be_led_to_a_backend_keeps_it() {
        let slot = (2, DestinationKey { address: [10, 0, 0, 1].into(), port: 80 });
        let change = BalanceEdit { add: vec![slot], ..BalanceEdit::default() };
        let trim = BalanceEdit { remove: vec![slot], ..BalanceEdit::default() };
        let close = BalanceEdit { way: Some((None, None)), ..BalanceEdit::default() };
        let edit_of = |edit: &BalanceEdit| Step::EditBalance { key: key(), edit: edit.clone() };
        let dropped = Step::DropBackend { key: key(), backend: slot.1 };
        let mut blocked = Blocked::default();
        blocked.note(&edit_of(&change), true);
        assert!(!blocked.blocks(&edit_of(&trim)) && !blocked.blocks(&dropped));
        blocked.note(&edit_of(&change), false);
        assert!(blocked.blocks(&edit_of(&trim)) && blocked.blocks(&dropped));
        let mut blocked = Blocked::default();
        blocked.note(&edit(&[PORT], &[]), false);
        assert!(blocked.blocks(&edit_of(&close)));
        blocked.note(&edit_of(&close), false);
        assert!(blocked.blocks(&dropped));
    }

    #[test]
    fn a_port_that_could_not_be_unpublished_keeps_its_service() {
        let mut blocked = Blocked::default();
        blocked.note(&edit(&[PORT], &[]), true);
        assert!(!blocked.blocks(&Step::DeleteService(key())));
        blocked.note(&edit(&[PORT], &[]), false);
        assert!(blocked.blocks(&Step::DeleteService(key())));
        assert!(blocked.blocks(&edit(&[PORT], &[])));
    }
}
