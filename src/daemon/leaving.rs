//! Who leaves, from one look to the next: the rule of [`drain`] with a clock, a record and a kernel.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tracing::warn;

use super::turns::Turn;
use crate::control::protocol::{Event, PortName};
use crate::drain::{self, Ended, Leavers, World};
use crate::kernel::ipvs::connections::Place;
use crate::kernel::{Kernel, netns, process, record};
use crate::mesh::{BackendState, Key, Mark, Mesh, NetnsRef, Order, Port};
use crate::metrics::Metrics;

/// How often it is looked whether they are done.
const EVERY: Duration = Duration::from_secs(1);
/// That takes no more than this share of the time.
const SHARE: u32 = 50;

pub(super) struct Leaving {
    /// Gone with the next boot, as connections are.
    file: PathBuf,
    of: Option<Arc<Mesh>>,
    leavers: Leavers,
    /// The last mesh with them, and without, as long as they do not change.
    merged: Option<(Arc<Mesh>, Arc<Mesh>)>,
    due: Instant,
}

/// The world as it is.
struct Real<S>(S);

impl<S: Fn(&Key) -> bool> World for Real<S> {
    fn now(&self) -> Duration {
        process::since_boot()
    }

    fn served(&self, key: &Key) -> bool {
        self.0(key)
    }

    fn namespace(&self, netns: &NetnsRef) -> Option<u64> {
        netns::number(netns)
    }
}

impl Leaving {
    pub fn new(file: PathBuf) -> Leaving {
        Leaving { file, of: None, leavers: Leavers::new(), merged: None, due: Instant::now() }
    }

    /// Whether a mesh was followed already; else whoever was meshd before may have left a record.
    pub fn has_begun(&self) -> bool {
        self.of.is_some()
    }

    /// From now on those who are leaving are those of that mesh. `served`: whether one has had clients.
    pub fn follow(
        &mut self,
        mesh: &Arc<Mesh>,
        served: impl Fn(&Key) -> bool,
        events: &broadcast::Sender<Event>,
        metrics: &Metrics,
    ) {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh)) {
            let before = if self.has_begun() { self.leavers.clone() } else { self.load() };
            self.leavers = drain::next(&before, self.of.as_deref(), mesh, &Real(served));
            if let Some(differing) = self.of.as_ref().and_then(|of| mesh.differing(of)) {
                differing.orders().iter().for_each(|order| obey(order, events, metrics));
            }
            let ports = LazyCell::new(|| ports(mesh));
            for (key, leaver) in self.leavers.iter().filter(|(key, _)| !before.contains_key(key)) {
                let reason = if leaver.taken { "it was taken away" } else { "the operator drains it" };
                let to = if leaver.done { "drained" } else { "draining" };
                tell(&ports, key, ["up", to], reason, events, metrics);
                // They may be done as soon as they get no new clients.
                self.due = Instant::now();
            }
            if self.leavers != before {
                self.store();
            }
            self.of = Some(mesh.clone());
            self.merged = None;
        }
    }

    /// That mesh, with the shares that backends have now, and with those who are leaving it.
    pub fn merge(&mut self, shared: &Arc<Mesh>) -> Arc<Mesh> {
        match &self.merged {
            Some((of, merged)) if Arc::ptr_eq(of, shared) => merged.clone(),
            _ => self.merged.insert((shared.clone(), drain::merged(shared, &self.leavers))).1.clone(),
        }
    }

    /// What would be merged if that mesh were followed; nothing follows from it.
    pub fn preview(&self, mesh: &Mesh, shared: &Arc<Mesh>, served: impl Fn(&Key) -> bool) -> Arc<Mesh> {
        let before = if self.has_begun() { self.leavers.clone() } else { self.load() };
        drain::merged(shared, &drain::next(&before, self.of.as_deref(), mesh, &Real(served)))
    }

    /// Moves on those that are done; whether there were any.
    pub fn settle(&mut self, kernel: &mut Kernel, events: &broadcast::Sender<Event>, metrics: &Metrics) -> bool {
        let Some(mesh) = self.of.clone().filter(|_| !self.leavers.is_empty()) else { return false };
        let start = Instant::now();
        let ports = ports(&mesh);
        let place = |(mark, address): &Key| {
            ports.get(mark).map(|(_, port)| Place { published: port.published, address: *address, port: port.target })
        };
        let waiting = self.leavers.iter().filter(|(_, leaver)| !leaver.done);
        let places: BTreeSet<Place> = waiting.filter_map(|(key, _)| place(key)).collect();
        let open = kernel.open_connections(&places).unwrap_or_else(|error| {
            warn!("cannot tell which connections are open: {error}");
            BTreeMap::new()
        });
        let open = |key: &Key| place(key).and_then(|place| open.get(&place).copied().flatten());
        let (changed, ended) = drain::settle(&mut self.leavers, &mesh, &Real(|_: &Key| false), open);
        for Ended { key, reason } in ended {
            tell(&ports, &key, ["draining", "drained"], reason, events, metrics);
        }
        if changed {
            self.merged = None;
            self.store();
        }
        let now = Instant::now();
        let next = now + EVERY.max(start.elapsed() * SHARE);
        // Their time is over when it is over, however long a look takes.
        let waiting = self.leavers.values().filter(|leaver| !leaver.done).map(|leaver| leaver.until);
        let over = waiting.min().map(|until| now + until.saturating_sub(process::since_boot()));
        self.due = over.map_or(next, |over| over.clamp(now + EVERY, next));
        changed
    }

    /// When to look again, if there is anyone to look for.
    pub fn due(&self) -> Option<Instant> {
        // Who is drained by the operator stays so.
        self.leavers.values().any(|leaver| leaver.taken || !leaver.done).then_some(self.due)
    }

    /// Of each a line.
    pub fn lines(&self) -> Vec<String> {
        let Some(mesh) = self.of.as_ref().filter(|_| !self.leavers.is_empty()) else { return Vec::new() };
        let ports = ports(mesh);
        let now = process::since_boot();
        let line = |(key, leaver): (&Key, &drain::Leaver)| {
            let (service, port) = ports.get(&key.0)?;
            let left = leaver.until.saturating_sub(now).as_secs();
            let what = match (leaver.done, leaver.taken, leaver.open) {
                (false, _, Some(1)) => format!("draining: 1 open connection, {left} s left"),
                (false, _, Some(open)) => format!("draining: {open} open connections, {left} s left"),
                (false, _, None) => format!("draining: {left} s left"),
                (true, true, _) => "drained; its leg stays until other nodes are done, too".to_owned(),
                (true, false, _) => "drained".to_owned(),
            };
            Some(format!("{service} {}: backend {} is {what}", PortName(port.published), key.1))
        };
        self.leavers.iter().filter_map(line).collect()
    }

    /// There is nothing any more that they could leave.
    pub fn forget(&mut self) {
        self.leavers.clear();
        self.store();
    }

    fn load(&self) -> Leavers {
        let text = record::load(&self.file).unwrap_or_else(|error| {
            warn!("backends that were leaving are gone: {error:#}");
            String::new()
        });
        text.lines().filter_map(drain::read).collect()
    }

    fn store(&self) {
        let text: String = self.leavers.iter().map(|(key, leaver)| drain::write(key, leaver)).collect();
        if let Err(error) = record::store(&self.file, &text) {
            warn!("backends that are leaving would be gone after a restart: {error:#}");
        }
    }
}

/// Each port by its mark, with its service's name.
fn ports(mesh: &Mesh) -> BTreeMap<Mark, (&str, &Port)> {
    let all = mesh.services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    all.map(|(service, port)| (port.mark(), (service.name.as_str(), port))).collect()
}

/// Tells of what begins or ends with the operator's word; who is drained is told of as it leaves.
fn obey(order: &Order<'_>, events: &broadcast::Sender<Event>, metrics: &Metrics) {
    let Order { service, port, backend, before } = *order;
    let asked = port.check.as_ref().is_some_and(|check| !check.start_up);
    let (to, reason) = match (before, backend.state) {
        (_, BackendState::Drain) => return,
        (_, BackendState::Disabled) => ("disabled", "the operator disabled it"),
        (BackendState::Disabled, BackendState::Enabled) if asked => ("starting", "the operator enabled it"),
        (_, BackendState::Enabled) => ("up", "the operator enabled it"),
    };
    let from = match before {
        BackendState::Enabled => "enabled",
        BackendState::Drain => "draining",
        BackendState::Disabled => "disabled",
    };
    let (port, backend) = (port.published, backend.address);
    Turn { service, port, backend, from, to, reason, bad: false }.tell(events, metrics);
}

fn tell(
    ports: &BTreeMap<Mark, (&str, &Port)>,
    (mark, backend): &Key,
    [from, to]: [&str; 2],
    reason: &str,
    events: &broadcast::Sender<Event>,
    metrics: &Metrics,
) {
    if let Some((service, port)) = ports.get(mark) {
        let port = port.published;
        Turn { service, port, backend: *backend, from, to, reason, bad: false }.tell(events, metrics);
    }
}
