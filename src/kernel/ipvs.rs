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
use std::fs;

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

/// Whether this kernel has IPVS: asking loads it.
///
/// # Errors
/// It has not, or cannot say.
pub fn is_there() -> std::result::Result<(), OpenError> {
    Ipvs::open().map(|_| ())
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
        let schedulers: BTreeSet<Scheduler> = steps.iter().filter_map(|step| scheduler_of(step)).collect();
        let unloaded: Vec<Scheduler> = schedulers.into_iter().filter(|scheduler| !load(*scheduler)).collect();
        let waits = |step: &Step| scheduler_of(step).filter(|scheduler| unloaded.contains(scheduler));
        let outcome = |step: &&Step| Err(waits(step).map_or_else(not_ours, not_loaded));
        let mut results: Vec<Result<()>> = steps.iter().map(outcome).collect();
        let all = steps.iter().enumerate().filter(|(_, step)| waits(step).is_none());
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
            if !load(scheduler) {
                continue;
            }
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

/// Schedulers whose modules ip_vs must not load itself. It does so with its mutex held. These two then wait until
/// namespaces that are being deleted are gone, and those wait for the mutex: all of generic netlink hangs, until
/// whoever asked is killed (seen on 6.1 and 6.12).
const APART: [Scheduler; 2] = [Scheduler::LocalityLeastConnection, Scheduler::LocalityLeastConnectionReplicated];

/// Loads them. Only as long as this process has CAP_SYS_MODULE; then whoever needs them finds them.
pub fn load_ahead() {
    // Asking loads IPVS itself, and where there is none there is nothing to be loaded.
    if is_there().is_err() {
        return;
    }
    APART.into_iter().for_each(|scheduler| _ = load(scheduler));
}

/// Has such a scheduler's module loaded, if it is not there; whether it is now, or never need be. Asked for a link that it has not,
/// the kernel loads a module of that name for those who may (dev_load), and holds nothing meanwhile.
fn load(scheduler: Scheduler) -> bool {
    if !APART.contains(&scheduler) || is_loaded(scheduler) {
        return true;
    }
    // Of course there is no such link.
    let _ = if_nametoindex(module(scheduler).as_str());
    is_loaded(scheduler)
}

fn module(scheduler: Scheduler) -> String {
    format!("ip_vs_{scheduler}")
}

/// What is built into the kernel is no module that could be asked for. (Where ip_vs is, its schedulers are as a rule.)
fn is_loaded(scheduler: Scheduler) -> bool {
    let Ok(modules) = fs::read_to_string("/proc/modules") else { return true };
    let has = |name: &str| modules.lines().any(|line| line.split(' ').next() == Some(name));
    !has("ip_vs") || has(&module(scheduler))
}

fn not_loaded(scheduler: Scheduler) -> Error {
    let module = module(scheduler);
    let reason = format!(
        "{module} is not loaded, and meshd may not load it: `modprobe {module}` (IPVS would, but the kernel can hang then until it is \
         killed)"
    );
    Error::Refused { errno: Errno::EPERM, reason: Some(reason) }
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
