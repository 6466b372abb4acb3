//! IPVS services and their destinations.

use std::collections::BTreeSet;

use super::{Difference, Plan, SetEdit, Step};
use crate::objects::{MapValue, Mark, Netns, PortRange, SILENT, SetElement, VirtualKey, VirtualService};

/// Schedulers that are changed while their ports are held: each takes the kernel some milliseconds, and clients that were not
/// heard ask again after a second.
const TOGETHER: usize = 16;

/// A port whose clients are held.
struct Held<'a> {
    /// Map, whether that is one of ranges, and the port in it.
    led: (&'a str, bool, PortRange),
    /// What is silent only meanwhile.
    silent: Option<SetElement>,
}

impl Plan {
    /// Where a scheduler could not be set last time, the kernel may not have it: nobody is held again for that.
    pub fn hold_no_more(&mut self, unfinished: &[Step]) {
        let failed = self.steps.iter().filter(|step| unfinished.contains(step)).filter_map(|step| match step {
            Step::SetService { key, .. } => Some(key.mark),
            _ => None,
        });
        let marks: BTreeSet<Mark> = failed.collect();
        if marks.is_empty() {
            return;
        }
        let theirs = |port: &PortRange| marks.contains(&port.mark());
        // Only who is held is taken away and put back by one plan.
        let (mut goes, mut comes) = (BTreeSet::new(), BTreeSet::new());
        for step in &self.steps {
            if let Step::EditMap { netns: Netns::Sandbox, remove, add, .. } = step {
                let of = |edits: &[(PortRange, MapValue)]| edits.iter().map(|(port, _)| *port).collect::<Vec<_>>();
                if add.is_empty() { goes.extend(of(remove)) } else { comes.extend(of(add)) }
            }
        }
        self.steps.retain(|step| match step {
            Step::EditMap { netns: Netns::Sandbox, remove, add, .. } => {
                let all = |port: &PortRange| theirs(port) && goes.contains(port) && comes.contains(port);
                !remove.iter().chain(add).all(|(port, _)| all(port))
            }
            Step::EditSets { netns: Netns::Sandbox, edits } => !edits.iter().all(|edit| {
                let mut elements = edit.add.iter().chain(&edit.remove).filter_map(SetElement::ports);
                edit.name == SILENT && elements.all(|port| theirs(&port))
            }),
            _ => true,
        });
    }
}

impl Difference<'_> {
    pub(super) fn make_services(&self, steps: &mut Vec<Step>) {
        if let Some(timeouts) = self.wanted.timeouts.filter(|wanted| self.seen.timeouts != Some(*wanted)) {
            steps.push(Step::SetTimeouts(timeouts));
        }
        self.set_schedulers(steps);
        for (key, wanted) in &self.wanted.services {
            let seen = self.seen.services.get(key);
            match seen {
                None => steps.push(Step::AddService { key: *key, service: wanted.clone() }),
                Some(seen) if seen.scheduler == wanted.scheduler && !seen.same_attributes(wanted) => {
                    steps.push(Step::SetService { key: *key, service: wanted.clone() });
                }
                Some(_) => {}
            }
            // What takes connections comes before what no longer does.
            let (resting, working): (Vec<_>, Vec<_>) =
                wanted.destinations.iter().partition(|(_, destination)| destination.weight == 0);
            for (place, destination) in working.into_iter().chain(resting) {
                let (service, key, destination) = (*key, *place, *destination);
                match seen.and_then(|seen| seen.destinations.get(&key)) {
                    None => steps.push(Step::AddDestination { service, key, destination }),
                    Some(seen) if *seen != destination && destination.weight > 0 => {
                        steps.push(Step::SetDestination { service, key, destination })
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// While IPVS changes a service's scheduler it has none for some milliseconds, and refuses new clients
    /// (ip_vs_edit_service, ip_vs_schedule). Who comes meanwhile gets no answer instead, and asks again; open connections need no
    /// mark and go on.
    fn set_schedulers(&self, steps: &mut Vec<Step>) {
        let changes = |(key, wanted): &(&VirtualKey, &VirtualService)| {
            self.seen.services.get(key).is_some_and(|seen| seen.scheduler != wanted.scheduler)
        };
        let changing: Vec<_> = self.wanted.services.iter().filter(changes).collect();
        for some in changing.chunks(TOGETHER) {
            let held: Vec<Held<'_>> = some.iter().filter_map(|(key, _)| self.held(key.mark)).collect();
            let silent: BTreeSet<SetElement> = held.iter().filter_map(|held| held.silent.clone()).collect();
            let silent: Vec<SetElement> = silent.into_iter().collect();
            let hush = |remove, add| {
                let edits = vec![SetEdit { name: SILENT.to_owned(), remove, add }];
                (!silent.is_empty()).then_some(Step::EditSets { netns: Netns::Sandbox, edits })
            };
            let mut led: Vec<(&str, bool, PortRange)> = held.iter().map(|held| held.led).collect();
            // Both families of a port have one mark.
            led.dedup();
            let edit = |(name, ranges, port): &(&str, bool, PortRange), goes: bool| {
                let element = vec![(*port, MapValue::Mark(port.mark()))];
                let (remove, add) = if goes { (element, Vec::new()) } else { (Vec::new(), element) };
                Step::EditMap { netns: Netns::Sandbox, name: (*name).to_owned(), ranges: *ranges, remove, add }
            };
            steps.extend(hush(Vec::new(), silent.clone()));
            steps.extend(led.iter().map(|led| edit(led, true)));
            steps.extend(some.iter().map(|(key, wanted)| Step::SetService { key: **key, service: (*wanted).clone() }));
            steps.extend(led.iter().map(|led| edit(led, false)));
            steps.extend(hush(silent.clone(), Vec::new()));
        }
    }

    /// How clients are held who come to that mark; `None`: none are led there, or not by the same port as will be.
    fn held(&self, mark: Mark) -> Option<Held<'_>> {
        let (seen, wanted) = (self.seen.tables.get(&Netns::Sandbox)?, self.wanted.tables.get(&Netns::Sandbox)?);
        let led = seen.maps.iter().find_map(|(name, map)| {
            let port = map.port_of(mark)?;
            let stays = wanted.maps.get(name)?.elements.get(&port) == Some(&MapValue::Mark(mark));
            stays.then_some((name.as_str(), map.ranges, port))
        })?;
        let element = SetElement::Ports(led.2);
        let is_silent = [seen, wanted]
            .iter()
            .any(|table| table.sets.get(SILENT).is_some_and(|set| set.elements.contains(&element)));
        Some(Held { led, silent: (!is_silent).then_some(element) })
    }

    pub(super) fn break_services(&self, steps: &mut Vec<Step>) {
        if self.is_doomed(Netns::Sandbox) {
            return;
        }
        for (key, seen) in &self.seen.services {
            match self.wanted.services.get(key) {
                // Its destinations go with it.
                None => steps.push(Step::DeleteService(*key)),
                Some(wanted) => {
                    // Only now: until the maps were changed, ports may have been led here that go elsewhere now.
                    let resting = wanted.destinations.iter().filter(|(place, destination)| {
                        destination.weight == 0 && seen.destinations.get(place).is_some_and(|seen| seen != *destination)
                    });
                    steps.extend(resting.map(|(place, destination)| Step::SetDestination {
                        service: *key,
                        key: *place,
                        destination: *destination,
                    }));
                    let extra = seen.destinations.keys().filter(|place| !wanted.destinations.contains_key(place));
                    steps.extend(extra.map(|place| Step::DeleteDestination { service: *key, key: *place }));
                }
            }
        }
    }
}
