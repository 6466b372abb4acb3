//! IPVS services and their destinations.

use super::{Difference, Step};
use crate::objects::Netns;

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
