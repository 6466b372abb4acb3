//! IPVS services and their destinations.

use super::{Difference, SetEdit, Step};
use crate::objects::{MapValue, Mark, Netns, SILENT, SetElement};

impl Difference<'_> {
    pub(super) fn make_services(&self, steps: &mut Vec<Step>) {
        if let Some(timeouts) = self.wanted.timeouts.filter(|wanted| self.seen.timeouts != Some(*wanted)) {
            steps.push(Step::SetTimeouts(timeouts));
        }
        for (key, wanted) in &self.wanted.services {
            let seen = self.seen.services.get(key);
            match seen {
                None => steps.push(Step::AddService { key: *key, service: wanted.clone() }),
                Some(seen) if !seen.same_attributes(wanted) => {
                    let step = Step::SetService { key: *key, service: wanted.clone() };
                    if seen.scheduler == wanted.scheduler {
                        steps.push(step);
                    } else {
                        self.hold(key.mark, step, steps);
                    }
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
    fn hold(&self, mark: Mark, step: Step, steps: &mut Vec<Step>) {
        let netns = Netns::Sandbox;
        let (Some(seen), Some(wanted)) = (self.seen.tables.get(&netns), self.wanted.tables.get(&netns)) else {
            return steps.push(step);
        };
        // Where the port is led elsewhere in this plan, or nowhere, nobody is to be led here again.
        let led = seen.maps.iter().find_map(|(name, map)| {
            let port = map.port_of(mark)?;
            let stays = wanted.maps.get(name).is_some_and(|map| map.elements.get(&port) == Some(&MapValue::Mark(mark)));
            stays.then_some((name, map.ranges, port))
        });
        let Some((name, ranges, port)) = led else { return steps.push(step) };
        let edit = |remove, add| Step::EditMap { netns, name: name.clone(), ranges, remove, add };
        let led = || vec![(port, MapValue::Mark(mark))];
        let silent = SetElement::Ports(port);
        let is_silent =
            [seen, wanted].iter().any(|table| table.sets.get(SILENT).is_some_and(|set| set.elements.contains(&silent)));
        let hush =
            |remove, add| Step::EditSets { netns, edits: vec![SetEdit { name: SILENT.to_owned(), remove, add }] };
        if !is_silent {
            steps.push(hush(Vec::new(), vec![silent.clone()]));
        }
        steps.extend([edit(led(), Vec::new()), step, edit(Vec::new(), led())]);
        if !is_silent {
            steps.push(hush(vec![silent], Vec::new()));
        }
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
