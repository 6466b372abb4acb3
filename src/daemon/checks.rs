//! Who is asked whether it can serve, and what is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tracing::{error, warn};

use super::turns::Turn;
use crate::control::protocol::{Event, PortName};
use crate::health::runner::{self, Asked, News, Targets};
use crate::health::state::{Change, Standing};
use crate::health::{Checked, Key, Target, targets};
use crate::kernel::Kernel;
use crate::mesh::{Differing, Mark, Mesh, OnDown, Port, PortRange};
use crate::metrics::{self, Metrics};
use crate::share::Health;

pub(super) struct Checks {
    wanted: watch::Sender<Targets>,
    /// The last number that was given to a backend.
    incarnation: u64,
    /// The mesh that they are of.
    of: Option<Arc<Mesh>>,
    known: BTreeMap<Key, Known>,
    /// Who was down when it was asked last.
    distrusted: BTreeSet<Key>,
    pub news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
    /// Goes up when someone comes or goes.
    version: u64,
    /// What the kernel was to hold last.
    effective: Option<Effective>,
}

/// A mesh without those that cannot serve.
struct Effective {
    of: Arc<Mesh>,
    version: u64,
    mesh: Arc<Mesh>,
}

/// One backend of one port that is checked.
#[derive(Clone, Debug)]
struct Known {
    service: String,
    port: PortRange,
    target: Target,
    incarnation: u64,
    standing: Standing,
    /// When it came up, if it was not simply there.
    up_since: Option<Instant>,
    /// It has had clients, who may be with it still.
    served: bool,
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
            distrusted: BTreeSet::new(),
            news,
            tell,
            version: 0,
            effective: None,
        }
    }

    /// Without those that cannot serve.
    pub fn without_those_out(&mut self, mesh: &Arc<Mesh>) -> Arc<Mesh> {
        match &self.effective {
            Some(last) if Arc::ptr_eq(&last.of, mesh) && last.version == self.version => last.mesh.clone(),
            _ => {
                let effective = effective(mesh, &self.known);
                let last = Effective { of: mesh.clone(), version: self.version, mesh: effective };
                self.effective.insert(last).mesh.clone()
            }
        }
    }

    /// Who is in the kernel's tables and not asked: by the operator's will, or since it gets no new clients.
    fn unasked(&self) -> BTreeSet<Key> {
        let Some(Effective { mesh: last, .. }) = &self.effective else { return BTreeSet::new() };
        let of = |port| last.serving_from_here(port).map(move |backend| (Port::mark(port), backend.address));
        let all = last.ports().flat_map(of);
        all.filter(|key| !last.out.contains(key) && !self.known.contains_key(key)).collect()
    }

    /// What was merged of that mesh, without those who would get no clients, for all that is known now.
    pub fn preview(&self, mesh: &Mesh, merged: &Mesh) -> Mesh {
        let unasked = self.unasked();
        let (mut out, mut resting) = (BTreeSet::new(), BTreeSet::new());
        for (key, Checked { target, .. }) in targets(mesh) {
            let (serves, served) = match self.known.get(&key) {
                Some(known) => (known.standing.serves(), known.served),
                None => (unasked.contains(&key) || target.check.start_up, false),
            };
            match target.check.on_down {
                _ if serves => {}
                OnDown::Keep if served => _ = resting.insert(key),
                _ => _ = out.insert(key),
            }
        }
        merged.without(out, resting)
    }

    /// From now on those of that mesh are asked.
    ///
    /// `there`: whom the kernel has already, with their weights; asked once, at the start, if anyone is checked. They were well when
    /// whoever was here before us ended, and are until they prove otherwise; one that is kept though it is down has no weight.
    pub fn follow(&mut self, mesh: &Arc<Mesh>, there: impl FnOnce() -> BTreeMap<Key, u32>) {
        if self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh)) {
            return;
        }
        let unchecked =
            |of: &Differing<'_>| of.new.iter().flat_map(|service| &service.ports).all(|port| port.check.is_none());
        if self.known.is_empty()
            && self.effective.is_some()
            && self.of.as_ref().and_then(|of| mesh.differing(of)).is_some_and(|of| unchecked(&of))
        {
            self.of = Some(mesh.clone());
            return;
        }
        let targets = targets(mesh);
        // Who has clients without being asked has them until it proves unwell.
        let trusted = match &self.effective {
            _ if targets.is_empty() => BTreeMap::new(),
            Some(_) => self.unasked().into_iter().map(|key| (key, None)).collect(),
            None => there().into_iter().map(|(key, weight)| (key, Some(weight))).collect(),
        };
        let mut known = BTreeMap::new();
        if !self.distrusted.is_empty() {
            let marks: BTreeSet<Mark> = mesh.ports().map(Port::mark).collect();
            self.distrusted.retain(|(mark, _)| marks.contains(mark));
        }
        for (key, Checked { service, port, target, may_rest }) in targets {
            let service = service.to_owned();
            let one = match self.known.remove(&key) {
                Some(before) => Known { service, port, target, ..before },
                None => {
                    self.incarnation += 1;
                    let before = trusted.get(&key);
                    let standing = match before {
                        Some(Some(0)) if target.check.on_down == OnDown::Keep && !may_rest => Standing::Down,
                        Some(_) if self.distrusted.remove(&key) => Standing::Down,
                        None if !target.check.start_up => Standing::Starting,
                        _ => Standing::Up,
                    };
                    let served = before.is_some() || standing.serves();
                    let (incarnation, reason) = (self.incarnation, "not asked yet".to_owned());
                    Known { service, port, target, incarnation, standing, up_since: None, served, reason }
                }
            };
            known.insert(key, one);
        }
        // Who was down and is not asked now, since it is drained, is no better for that.
        let forgotten = std::mem::replace(&mut self.known, known);
        self.distrusted.extend(forgotten.into_iter().filter(|(_, one)| !one.standing.serves()).map(|(key, _)| key));
        self.of = Some(mesh.clone());
        self.version += 1;
        self.say();
    }

    /// Says who is to be asked.
    fn say(&self) {
        let asked = |known: &Known| Asked {
            target: known.target.clone(),
            incarnation: known.incarnation,
            standing: known.standing,
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
    pub fn take(&mut self, first: Option<News>, events: &broadcast::Sender<Event>, metrics: &Metrics) -> bool {
        let mut changed = first.is_some_and(|first| self.note(first, events, metrics));
        while let Ok(news) = self.news.try_recv() {
            changed |= self.note(news, events, metrics);
        }
        if changed {
            self.version += 1;
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
        let (service, port, backend) = (&known.service, known.port, key.1);
        let turn =
            Turn { service, port, backend, from: from.name(), to: to.name(), reason: &reason, bad: !to.serves() };
        turn.tell(events, metrics);
        let before = known.standing.serves();
        if before != to.serves() {
            known.up_since = to.serves().then(Instant::now);
        }
        known.served |= to.serves();
        (known.standing, known.reason) = (to, reason);
        before != to.serves()
    }

    /// Another one whenever someone else gets clients.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether someone may be with that backend.
    pub fn has_clients(&self, key: &Key) -> bool {
        self.known.get(key).is_none_or(|known| known.standing.serves() || known.keeps())
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

    /// Whether each serves, and what it last said.
    pub fn heard(&self) -> BTreeMap<Key, (bool, String)> {
        self.known.iter().map(|(key, known)| (*key, (known.standing.serves(), known.reason.clone()))).collect()
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

impl Health for Checks {
    fn serves(&self, key: &Key) -> bool {
        self.known.get(key).is_none_or(|known| known.standing.serves())
    }

    fn up_for(&self, key: &Key) -> Option<Duration> {
        Some(self.known.get(key)?.up_since?.elapsed())
    }
}

impl Known {
    /// Whether it keeps its connections, should it be down.
    fn keeps(&self) -> bool {
        self.served && self.target.check.on_down == OnDown::Keep
    }
}

fn effective(mesh: &Arc<Mesh>, known: &BTreeMap<Key, Known>) -> Arc<Mesh> {
    let unwell = known.iter().filter(|(_, known)| !known.standing.serves());
    let (resting, out): (Vec<_>, Vec<_>) = unwell.partition(|(_, known)| known.keeps());
    let keys = |of: Vec<(&Key, &Known)>| of.into_iter().map(|(key, _)| *key).collect::<BTreeSet<Key>>();
    let (out, resting) = (keys(out), keys(resting));
    if out.is_subset(&mesh.out) && resting.is_subset(&mesh.resting) {
        return mesh.clone();
    }
    Arc::new(mesh.without(out, resting))
}
