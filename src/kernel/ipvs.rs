//! IPVS of one network namespace, over generic netlink.
//!
//! Only services of ours are seen: those known by a mark that [`Mark::meaning`] understands. Services known by
//! an address, and other people's marks, are neither read nor touched.
//!
//! [`Mark::meaning`]: crate::objects::Mark::meaning

pub mod connections;
pub mod listing;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::generic;
use super::replies::Readers;
use super::socket::{Error, Request, Result, Socket};
use crate::objects::{DestinationKey, Family, Mark, Scheduler, SchedulerFlags, Timeouts, VirtualKey, VirtualService};
use crate::plan::Step;
use wire::{Command, Message, SeenDestination, SeenService};

/// Public for bench/micro.rs, which measures what it takes to read a dump without asking for one.
pub use wire::{read_destination, read_service};

/// What reads the kernel's answers here (see `replies`).
pub(super) const READERS: Readers = &[
    |body| drop(read_service(body)),
    |body| _ = read_destination(body, Family::V4).map(|seen| seen.destination()),
    |body| _ = read_destination(body, Family::V6),
    |body| _ = wire::read_timeouts(body),
    listing::read,
    connections::read,
];

/// Of a service that only asks whether the kernel has a scheduler: no mark of ours. ("mesh")
const SCRATCH_MARK: Mark = Mark(0x6d65_7368);

/// Why IPVS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the kernel has no IPVS (module ip_vs): `modprobe ip_vs`, or use a kernel built with CONFIG_IP_VS")]
    Missing,
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// What has gone through a service or a destination since it was made. The kernel adds it up every 2 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Traffic {
    /// Adds another's: a port of two families is two services to the kernel.
    pub fn add(&mut self, more: &Traffic) {
        let Traffic { connections, packets_in, packets_out, bytes_in, bytes_out } = more;
        for (total, more) in [
            (&mut self.connections, connections),
            (&mut self.packets_in, packets_in),
            (&mut self.packets_out, packets_out),
            (&mut self.bytes_in, bytes_in),
            (&mut self.bytes_out, bytes_out),
        ] {
            *total = total.saturating_add(*more);
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    pub traffic: Traffic,
    pub destinations: BTreeMap<DestinationKey, DestinationCounters>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounters {
    pub weight: u32,
    /// Connections now. Those of UDP all count as inactive.
    pub active: u32,
    pub inactive: u32,
    /// Persistence templates now.
    pub persistent: u32,
    pub traffic: Traffic,
}

/// IPVS of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    /// The number that this kernel gave the family IPVS.
    family: u16,
}

impl Ipvs {
    /// Opens IPVS of the calling thread's network namespace; the kernel loads ip_vs if need be.
    pub fn open() -> std::result::Result<Ipvs, OpenError> {
        let (socket, family) = generic::open(wire::FAMILY)?.ok_or(OpenError::Missing)?;
        Ok(Ipvs { socket, family })
    }

    /// Our services with their destinations.
    ///
    /// What the vocabulary has no word for (an unknown scheduler, a destination that is tunnelled) is reported
    /// as a value that differs from all that can be wanted, never left out.
    pub fn services(&mut self) -> Result<BTreeMap<VirtualKey, VirtualService>> {
        self.read(|SeenService { mut service, .. }, destinations| {
            service.destinations = destinations.iter().map(|seen| (seen.key, seen.destination())).collect();
            service
        })
    }

    /// The counters of our services and of their destinations.
    pub fn counters(&mut self) -> Result<BTreeMap<VirtualKey, ServiceCounters>> {
        let counters = |seen: SeenDestination| {
            let SeenDestination { key, weight, active, inactive, persistent, traffic, .. } = seen;
            (key, DestinationCounters { weight, active, inactive, persistent, traffic })
        };
        self.read(|SeenService { traffic, .. }, destinations| ServiceCounters {
            traffic,
            destinations: destinations.into_iter().map(counters).collect(),
        })
    }

    /// The connections of one service's destinations: active and inactive. Nothing where there is no such service.
    pub fn connections(&mut self, key: VirtualKey) -> Result<BTreeMap<DestinationKey, (u32, u32)>> {
        let question = self.request(Message::get_destinations(key));
        let destinations = self.socket.dump(&question, |_, body| wire::read_destination(body, key.family))?;
        Ok(destinations.into_iter().map(|seen| (seen.key, (seen.active, seen.inactive))).collect())
    }

    pub fn timeouts(&mut self) -> Result<Timeouts> {
        let question = self.request(Message::get_timeouts());
        let answer = self.socket.get(question)?;
        wire::read_timeouts(&answer.body).ok_or(Error::Malformed("IPVS without timeouts"))
    }

    /// Carries out steps, in order, with as few system calls as there are hundreds of them; one result for each.
    ///
    /// What is to be added and is there already is changed instead, after all other steps; what is to be
    /// deleted and is not there is deleted.
    pub fn apply(&mut self, steps: &[&Step]) -> Vec<Result<()>> {
        steps.iter().filter_map(|step| scheduler_of(step)).collect::<BTreeSet<_>>().into_iter().for_each(load);
        let mut results: Vec<Result<()>> = steps.iter().map(|_| Err(not_ours())).collect();
        let all = steps.iter().enumerate();
        self.carry_out(
            all.clone().filter_map(|(place, step)| Some((place, Message::of(step)?))).collect(),
            &mut results,
        );

        let existing = all.filter(|(place, _)| results[*place].as_ref().is_err_and(|error| error.is(Errno::EEXIST)));
        self.carry_out(
            existing.filter_map(|(place, step)| Some((place, Message::of_change(step)?))).collect(),
            &mut results,
        );

        results.into_iter().zip(steps).map(|(result, step)| result.or_else(|error| excuse(step, error))).collect()
    }

    /// The schedulers that the kernel has, found by making a service with each. Only for a scratch namespace:
    /// it leaves nothing behind but loaded modules, yet packets with that mark would meet the service.
    pub fn schedulers(&mut self) -> Result<BTreeSet<Scheduler>> {
        let key = VirtualKey { mark: SCRATCH_MARK, family: Family::V4 };
        let mut found = BTreeSet::new();
        for scheduler in Scheduler::of_ipvs() {
            load(scheduler);
            let service = VirtualService {
                scheduler,
                flags: SchedulerFlags::default(),
                persistence: None,
                one_packet: false,
                destinations: BTreeMap::new(),
            };
            let make = self.request(Message::about_service(Command::NewService, key, Some(&service)));
            match self.socket.request(make) {
                Ok(()) => {
                    let delete = self.request(Message::about_service(Command::DeleteService, key, None));
                    self.socket.request(delete)?;
                    found.insert(scheduler);
                }
                Err(error) if error.is(Errno::ENOENT) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// All that the kernel says of our services; of each what is wanted is kept. It lists the destinations of
    /// one service at a time only, and a socket has one listing at a time: so this costs three system calls for
    /// each service.
    fn read<T>(&mut self, keep: impl Fn(SeenService, Vec<SeenDestination>) -> T) -> Result<BTreeMap<VirtualKey, T>> {
        let question = self.request(Message::get_services());
        let services = self.socket.dump(&question, |_, body| wire::read_service(body))?;
        let mut all = BTreeMap::new();
        for service in services {
            let question = self.request(Message::get_destinations(service.key));
            let destinations =
                self.socket.dump(&question, |_, body| wire::read_destination(body, service.key.family))?;
            all.insert(service.key, keep(service, destinations));
        }
        Ok(all)
    }

    /// Sends messages, and puts the kernel's answer to each in its place.
    fn carry_out(&mut self, messages: Vec<(usize, Message)>, results: &mut [Result<()>]) {
        let (places, requests): (Vec<_>, Vec<_>) =
            messages.into_iter().map(|(place, message)| (place, self.request(message))).unzip();
        for (place, result) in places.into_iter().zip(self.socket.requests(&requests)) {
            results[place] = result;
        }
    }

    fn request(&self, message: Message) -> Request {
        Request { kind: self.family, flags: 0, body: message.body() }
    }
}

fn scheduler_of(step: &Step) -> Option<Scheduler> {
    match step {
        Step::AddService { service, .. } | Step::SetService { service, .. } => Some(service.scheduler),
        _ => None,
    }
}

/// Loads the modules that ip_vs must not load itself. It does so with its mutex held. These two then wait until
/// namespaces that are being deleted are gone, and those wait for the mutex: all of generic netlink hangs, until
/// whoever asked is killed (seen on 6.1 and 6.12). Asked for a link that it has not, the kernel loads a module of
/// that name, and holds nothing meanwhile.
fn load(scheduler: Scheduler) {
    if matches!(scheduler, Scheduler::LocalityLeastConnection | Scheduler::LocalityLeastConnectionReplicated) {
        // Of course there is no such link.
        let _ = if_nametoindex(format!("ip_vs_{scheduler}").as_str());
    }
}

/// Whether an error is none, as the step's end is reached; or what it means.
///
/// ip_vs says ESRCH where there is no such service, ENOENT where the service has no such destination, and
/// ENOENT, too, where a service is to have a scheduler that the kernel has not.
fn excuse(step: &Step, error: Error) -> Result<()> {
    match (step, error) {
        (Step::DeleteService(_) | Step::DeleteDestination { .. }, error)
            if error.is(Errno::ESRCH) || error.is(Errno::ENOENT) =>
        {
            Ok(())
        }
        (
            Step::AddService { service, .. } | Step::SetService { service, .. },
            Error::Refused { errno: errno @ Errno::ENOENT, reason: None },
        ) => Err(Error::Refused { errno, reason: Some(format!("the kernel has no scheduler {}", service.scheduler)) }),
        (_, error) => Err(error),
    }
}

fn not_ours() -> Error {
    Error::Refused { errno: Errno::EOPNOTSUPP, reason: Some("not a step of IPVS".to_owned()) }
}
