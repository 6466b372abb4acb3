//! Who is asked whether it can serve, and what is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::runtime;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use crate::control::protocol::{Event, PortName};
use crate::health::runner::{self, Asked, News, Targets};
use crate::health::state::{Change, Standing};
use crate::health::{Checked, Key, Target, targets};
use crate::kernel::Kernel;
use crate::mesh::{Mesh, PortRange};
use crate::metrics::{self, Metrics};

pub(super) struct Checks {
    wanted: watch::Sender<Targets>,
    /// The last number that was given to a backend.
    incarnation: u64,
    /// The mesh that they are of.
    of: Option<Arc<Mesh>>,
    known: BTreeMap<Key, Known>,
    pub news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
    /// The mesh with those that are out, as long as neither changes.
    effective: Option<Arc<Mesh>>,
}

/// One backend of one port that is checked.
#[derive(Clone, Debug)]
struct Known {
    service: String,
    port: PortRange,
    target: Target,
    incarnation: u64,
    standing: Standing,
    /// What it last answered, when that changed something.
    reason: String,
}

impl Checks {
    pub fn new() -> Checks {
        let (tell, news) = mpsc::unbounded_channel();
        Checks {
            wanted: watch::Sender::new(Targets::default()),
            incarnation: 0,
            of: None,
            known: BTreeMap::new(),
            news,
            tell,
            effective: None,
        }
    }

    /// What the kernel is to hold: the mesh, without those that cannot serve.
    ///
    /// `there`: whom the kernel has already; asked once, at the start, if anyone is checked. They were well when whoever was
    /// here before us ended, and are until they prove otherwise.
    pub fn effective(&mut self, mesh: &Arc<Mesh>, there: impl FnOnce() -> BTreeSet<Key>) -> Arc<Mesh> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh)) {
            self.follow(mesh, there);
        }
        self.effective.get_or_insert_with(|| effective(mesh, &self.known)).clone()
    }

    fn follow(&mut self, mesh: &Arc<Mesh>, there: impl FnOnce() -> BTreeSet<Key>) {
        let targets = targets(mesh);
        // Who had clients without being asked has them until it proves unwell.
        let trusted = match &self.of {
            _ if targets.is_empty() => BTreeSet::new(),
            Some(before) => unchecked(before),
            None => there(),
        };
        let mut known = BTreeMap::new();
        for (key, Checked { service, port, target }) in targets {
            let before = self.known.remove(&key).map(|known| (known.incarnation, known.standing, known.reason));
            let (incarnation, standing, reason) = before.unwrap_or_else(|| {
                self.incarnation += 1;
                let up = trusted.contains(&key) || target.check.start_up;
                let standing = if up { Standing::Up } else { Standing::Starting };
                (self.incarnation, standing, "not asked yet".to_owned())
            });
            let service = service.to_owned();
            known.insert(key, Known { service, port, target, incarnation, standing, reason });
        }
        self.known = known;
        self.of = Some(mesh.clone());
        self.effective = None;
        self.say();
    }

    /// Says who is to be asked.
    fn say(&self) {
        let asked = |known: &Known| Asked {
            target: known.target.clone(),
            incarnation: known.incarnation,
            up: known.standing.serves(),
        };
        let all = self.known.iter().map(|(key, known)| (*key, asked(known))).collect();
        self.wanted.send_replace(Arc::new(all));
    }

    /// Has them asked, if there is anyone to ask and a place to ask from.
    pub fn run(&mut self, kernel: &mut Kernel) {
        if self.known.is_empty() || kernel.has_inside() {
            return;
        }
        let (stop, stopped) = oneshot::channel::<()>();
        // Whoever asks now begins with what is known: what was heard of the one before counts no more.
        for known in self.known.values_mut() {
            self.incarnation += 1;
            known.incarnation = self.incarnation;
        }
        self.say();
        let (wanted, tell) = (self.wanted.subscribe(), self.tell.clone());
        let work = move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return error!("no backend is checked: {error}"),
            };
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    _ = stopped => {}
                    () = runner::run(wanted, tell) => {}
                }
            });
        };
        if let Err(error) = kernel.inside(work, move || drop(stop)) {
            warn!("backends are not checked until there is a sandbox: {error}");
        }
    }

    /// Takes what has changed; whether anyone serves now who did not, or the other way round.
    pub fn take(&mut self, first: News, events: &broadcast::Sender<Event>, metrics: &Metrics) -> bool {
        let mut changed = self.note(first, events, metrics);
        while let Ok(news) = self.news.try_recv() {
            changed |= self.note(news, events, metrics);
        }
        if changed {
            self.effective = None;
        }
        changed
    }

    fn note(
        &mut self,
        News { key, incarnation, change }: News,
        events: &broadcast::Sender<Event>,
        metrics: &Metrics,
    ) -> bool {
        let Change { from, to, reason } = change;
        // It may have been taken out of the mesh meanwhile.
        let Some(known) = self.known.get_mut(&key).filter(|known| known.incarnation == incarnation) else {
            return false;
        };
        let (service, port, backend) = (known.service.clone(), PortName(known.port).to_string(), key.1.to_string());
        if to.serves() {
            info!(service, port, backend, "backend is {}, after {}: {reason}", to.name(), from.name());
        } else {
            warn!(service, port, backend, "backend is {}, after {}: {reason}", to.name(), from.name());
        }
        metrics.health_changes.with_label_values(&[to.name()]).inc();
        // There may be no one.
        let told = Event::Health {
            service,
            port,
            backend,
            from: from.name().into(),
            to: to.name().into(),
            reason: reason.clone(),
        };
        drop(events.send(told));
        let before = known.standing.serves();
        (known.standing, known.reason) = (to, reason);
        before != to.serves()
    }

    /// Whether some have not been heard of yet.
    pub fn are_open(&self) -> bool {
        self.known.values().any(|known| known.standing == Standing::Starting)
    }

    /// Of each that is not simply up, a line.
    pub fn unwell(&self) -> Vec<String> {
        let unwell = self.known.iter().filter(|(_, known)| known.standing != Standing::Up);
        let line = |(key, known): (&Key, &Known)| {
            let Known { service, port, standing, reason, .. } = known;
            format!("{service} {}: backend {} is {}: {reason}", PortName(*port), key.1, standing.name())
        };
        unwell.map(line).collect()
    }

    /// Whether each serves, by service, port and backend.
    pub fn standings(&self) -> Vec<metrics::Standing> {
        let one = |(key, known): (&Key, &Known)| metrics::Standing {
            service: known.service.clone(),
            port: known.port,
            backend: key.1.to_string(),
            serves: known.standing.serves(),
        };
        self.known.iter().map(one).collect()
    }
}

/// Backends that serve without being asked.
fn unchecked(mesh: &Mesh) -> BTreeSet<Key> {
    let ports = mesh.ports().filter(|port| port.check.is_none());
    ports.flat_map(|port| mesh.serving_from_here(port).map(|backend| (port.mark(), backend.address))).collect()
}

fn effective(mesh: &Arc<Mesh>, known: &BTreeMap<Key, Known>) -> Arc<Mesh> {
    let out: BTreeSet<Key> = known.iter().filter(|(_, known)| !known.standing.serves()).map(|(key, _)| *key).collect();
    if out == mesh.out {
        return mesh.clone();
    }
    Arc::new(Mesh { out, ..mesh.as_ref().clone() })
}
