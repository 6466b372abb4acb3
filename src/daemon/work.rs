//! The loop itself: events in, looks at the kernel out.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use sd_notify::NotifyState;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{info, warn};

use super::caps::Caps;
use super::check;
use super::checks::Checks;
use super::crowded::Crowded;
use super::firewalls::Firewalls;
use super::intent::Pending;
use super::leaving::Leaving;
use super::reconcile::{self, Pace, Reconciler};
use super::sharing::Sharing;
use super::{Event, Signals, names, notify, preflight, traffic};
use super::{doctor, explain};
use crate::config::{Config, OnStop};
use crate::control::protocol::{self, Problem, Timeouts};
use crate::control::{Failure, Looked, Question, Request, Who, in_short};
use crate::health::Key;
use crate::kernel::Kernel;
use crate::kernel::ipvs::{DestinationCounters, ServiceCounters};
use crate::mesh::Mesh;
use crate::metrics::{Exposition, Metrics, Traffic};
use crate::objects::{DestinationKey, VirtualKey};
use crate::source::Wanted;

/// Changes that wait for the kernel and are measured, at the most. More only come where nothing works any more, and are
/// in no histogram.
const MEASURED: usize = 10_000;

/// So long the start waits for what backends answer.
const FIRST_ANSWERS: Duration = Duration::from_secs(8);

/// A look at what stands in the way is taken again where the kernel could not be asked.
const PREFLIGHT_TRIES: usize = 3;

/// After so many looks in a row that were none, or came to nothing, the node is not healthy.
const GOOD_FOR: u32 = 3;

/// Of many that change all the time it is told so often.
const STALE: Duration = Duration::from_millis(200);

/// What the loop listens to.
pub(super) struct Watched {
    pub events: mpsc::Receiver<Event>,
    pub questions: mpsc::Receiver<Question>,
    pub signals: Signals,
    pub wanted: watch::Receiver<Wanted>,
    /// For a reload by signal.
    pub requests: mpsc::Sender<Request>,
    pub seen: watch::Receiver<Looked>,
}

/// What the loop owns.
pub(super) struct Loop {
    pub kernel: Kernel,
    pub metrics: Metrics,
    pub reconciler: Reconciler,
    /// As it was at the last look.
    pub config: Arc<Config>,
    pub accepted: mpsc::UnboundedReceiver<Pending>,
    pub waiting: Vec<Pending>,
    pub looked: watch::Sender<Looked>,
    pub told: broadcast::Sender<protocol::Event>,
    pub checks: Checks,
    pub sharing: Sharing,
    pub leaving: Leaving,
    pub caps: Caps,
    pub crowded: Crowded,
    pub firewalls: Firewalls,
    /// A backend has come or gone by itself since the last look: what is to be done is no one's fault.
    pub turned: bool,
    /// When to tell what has changed of backends, if anything has.
    pub stale: Option<Instant>,
}

impl Loop {
    /// Works until it is told to stop.
    pub async fn run(&mut self, mut watched: Watched, sender: mpsc::Sender<Event>) -> anyhow::Result<ExitCode> {
        // A copy, here and below: who borrows what is wanted holds up its owner.
        let wanted = watched.wanted.borrow_and_update().clone();
        preflight::warn(&mut self.kernel, &wanted.mesh);
        self.work(&wanted, true);
        // Only now is there anyone who could answer: the kernel may have had modules to load.
        let started = Instant::now();
        let mut ready = self.tell_if_ready(started);
        // A full queue has news enough in it.
        let tell = move || !matches!(sender.try_send(Event::Changed), Err(TrySendError::Closed(_)));
        if let Err(error) = self.kernel.watch(tell) {
            warn!("changes by others are only seen from time to time: {error}");
        }
        let mut pace = Pace::new(Instant::now());
        // Told twice in the time that systemd allows, as sd_watchdog_enabled(3) advises.
        let mut alive = sd_notify::watchdog_enabled().map(|limit| tokio::time::interval(limit / 2));
        loop {
            let wake = pace.next(&self.reconciler);
            let event = tokio::select! {
                // What must not wait comes first: questions without end may not keep it from its turn.
                biased;
                event = watched.signals.next() => event,
                () = tick(&mut alive) => Event::Alive,
                // They come when it is time, and what they do takes its share of the time only.
                () = tokio::time::sleep_until(wake.into()) => Event::Check,
                () = until(self.due()) => Event::Settle,
                changed = watched.wanted.changed() => match changed {
                    Ok(()) => Event::Wanted,
                    Err(_) => return Err(anyhow!("the thread that keeps what is wanted has ended")),
                },
                Some(news) = self.checks.news.recv() => Event::Health(news),
                Some(event) = watched.events.recv() => event,
                Some(question) = watched.questions.recv() => Event::Asked(question),
                () = tokio::time::sleep_until((started + FIRST_ANSWERS).into()), if !ready => Event::Check,
            };
            if !self.handle(event, &mut watched, &mut pace) {
                return self.stop();
            }
            ready = ready || self.tell_if_ready(started);
            // And however often something else is wanted: one of each has its turn.
            for event in [watched.events.try_recv().ok(), watched.questions.try_recv().ok().map(Event::Asked)] {
                if event.is_some_and(|event| !self.handle(event, &mut watched, &mut pace)) {
                    return self.stop();
                }
            }
        }
    }

    /// Whether every port answers that will, as far as is known: then whoever waits is told. Who has just come is asked first,
    /// but not waited for without end.
    fn tell_if_ready(&self, started: Instant) -> bool {
        // What was answered has to be in the kernel.
        let known = !self.checks.are_open() && !self.turned;
        let ready = known || started.elapsed() >= FIRST_ANSWERS;
        if ready {
            notify(&[NotifyState::Ready]);
        }
        ready
    }

    /// Whether to go on.
    fn handle(&mut self, event: Event, watched: &mut Watched, pace: &mut Pace) -> bool {
        match event {
            Event::Check | Event::Wanted => {
                let wanted = watched.wanted.borrow_and_update().clone();
                // Who knows of something that others did looks at it.
                let now = Instant::now();
                let is_due = pace.may_see(&self.reconciler, now) || pace.is_due(&self.reconciler, now);
                match self.work(&wanted, is_due) {
                    true => pace.looked(Instant::now()),
                    false => pace.done(),
                }
            }
            Event::Health(news) => {
                if self.checks.take(Some(news), &self.told, &self.metrics) {
                    self.turned = true;
                    pace.at_once(Instant::now());
                }
                self.stale.get_or_insert_with(|| Instant::now() + STALE);
            }
            Event::Settle => {
                let now = Instant::now();
                if self.sharing.lapse(now) | self.settle() {
                    self.turned = true;
                    pace.at_once(Instant::now());
                }
                let mesh = watched.wanted.borrow().mesh.clone();
                self.tell_of_backends(&mesh);
            }
            Event::Changed => {
                pace.hurry(Instant::now());
                self.reconciler.try_again_soon();
            }
            Event::Scrape(answer) => {
                // Who asked may have gone.
                if !answer.is_closed() {
                    let wanted = watched.wanted.borrow().clone();
                    let _ = answer.send(self.scrape(&wanted));
                }
            }
            Event::Asked(question) => {
                let wanted = watched.wanted.borrow().clone();
                self.answer(question, &wanted);
            }
            Event::Hangup => {
                tokio::spawn(reload(watched.requests.clone(), watched.seen.clone()));
            }
            Event::Alive => notify(&[NotifyState::Watchdog]),
            Event::Stop => return false,
        }
        true
    }

    /// Makes the kernel what is wanted, and tells whoever waits for that. Whether it took a look at the kernel: where it
    /// does not have to, what has changed is enough.
    fn work(&mut self, wanted: &Wanted, look: bool) -> bool {
        let Wanted { generation, config, mesh } = wanted;
        if !Arc::ptr_eq(&self.config, config) {
            preflight::warn(&mut self.kernel, mesh);
            self.config = config.clone();
        }
        let began = Instant::now();
        // However often something else is wanted: who has died meanwhile gets no more clients.
        self.turned |= self.checks.take(None, &self.told, &self.metrics);
        let before = self.looked.borrow().clone();
        let asked = before.generation != *generation || std::mem::take(&mut self.turned);
        let effective = self.effective(mesh);
        let preparing = began.elapsed();
        let (mut looked, mut report) = self.converge(&effective, look, asked);
        // Who gets no new clients from now on may be done already.
        let settling = Instant::now();
        let settled = asked && self.settle();
        if looked {
            self.reconciler.also_took(preparing + settling.elapsed());
        }
        if settled {
            let effective = self.effective(mesh);
            let (again, more) = self.converge(&effective, false, asked);
            looked |= again;
            let (steps, took) = (report.steps + more.steps, report.took + more.took);
            report = reconcile::Report { steps, took, mended: [report.mended, more.mended].concat(), ..more };
        }
        self.checks.run(&mut self.kernel);
        if looked {
            self.crowded.look(&self.kernel.occupancy());
            self.firewalls.look(&mesh.gateway, self.reconciler.drops());
        }
        let timeouts = match &before.timeouts {
            Some(known) if !looked => Some(known.clone()),
            _ => self.kernel.timeouts().ok().flatten().map(|of| Timeouts {
                tcp: of.tcp,
                tcp_fin: of.tcp_fin,
                udp: of.udp,
            }),
        };
        let good = report.blind.is_none() && report.failures.is_empty();
        let good_until = good.then(|| Instant::now() + self.reconciler.pause() * GOOD_FOR);
        let now = Looked {
            generation: *generation,
            good_until: good_until.or(before.good_until),
            failures: Arc::new(failures(&before, *generation, &report)),
            took: report.took.as_secs_f64(),
            timeouts,
            repaired: before.repaired + report.mended.len() as u64,
            crowded: Arc::new(self.crowded.lines()),
            firewalls: Arc::new(self.firewalls.lines()),
            contested: Arc::new(self.reconciler.contested()),
            unwell: Arc::new(self.checks.unwell()),
            leaving: Arc::new(self.leaving_lines(mesh)),
        };
        self.stale = None;
        self.looked.send_replace(now.clone());
        self.measure(&now);
        self.tell(&before, &now, report);
        looked
    }

    /// Whether it took a look, and what it came to.
    fn converge(&mut self, mesh: &Arc<Mesh>, look: bool, asked: bool) -> (bool, reconcile::Report) {
        let changed = if look { None } else { self.reconciler.change(&mut self.kernel, mesh, &self.metrics) };
        match changed {
            // What failed may have been someone else's doing: then a look finds what is to be done instead.
            Some(report) if report.failures.is_empty() => (false, report),
            _ => (true, self.reconciler.reconcile(&mut self.kernel, mesh, &self.metrics, asked)),
        }
    }

    /// What the kernel is to hold: the mesh with the weights that its backends have now, with those that are leaving it, and
    /// without those that cannot serve.
    fn effective(&mut self, mesh: &Arc<Mesh>) -> Arc<Mesh> {
        let kernel = &mut self.kernel;
        let there = LazyCell::new(|| served(kernel));
        let begun = self.leaving.has_begun();
        // Who leaves comes first: the checks forget those that are not wanted any more.
        let served = |key: &Key| if begun { self.checks.has_clients(key) } else { there.contains_key(key) };
        self.leaving.follow(mesh, served, &self.told, &self.metrics);
        self.checks.follow(mesh, || there.clone());
        let shared = self.sharing.of(mesh, &self.checks);
        let merged = self.leaving.merge(&shared);
        self.caps.of(&self.checks.without_those_out(&merged))
    }

    /// What the kernel would hold for that mesh.
    fn preview(&self, mesh: &Arc<Mesh>) -> Mesh {
        let shared = self.sharing.preview(mesh, &self.checks);
        let merged = self.leaving.preview(mesh, &shared, |key| self.checks.has_clients(key));
        self.caps.preview(&self.checks.preview(mesh, &merged))
    }

    /// Whether someone has left, or is to be deleted, since it was last time to look.
    fn settle(&mut self) -> bool {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let left = is_due(self.leaving.due()) && self.leaving.settle(&mut self.kernel, &self.told, &self.metrics);
        let filled = is_due(self.caps.due()) && self.caps.settle(&mut self.kernel);
        left || filled
    }

    /// When there is something to do for those that leave or rise, or to tell of backends.
    fn due(&self) -> Option<Instant> {
        self.leaving.due().into_iter().chain(self.sharing.due()).chain(self.caps.due()).chain(self.stale).min()
    }

    fn leaving_lines(&self, mesh: &Mesh) -> Vec<String> {
        self.reconciler.outgoing(mesh).into_iter().chain(self.leaving.lines()).collect()
    }

    fn tell_of_backends(&mut self, mesh: &Mesh) {
        self.stale = None;
        let (unwell, leaving) = (Arc::new(self.checks.unwell()), Arc::new(self.leaving_lines(mesh)));
        self.looked.send_modify(|looked| (looked.unwell, looked.leaving) = (unwell, leaving));
    }

    /// How long the changes took that the kernel holds now.
    fn measure(&mut self, looked: &Looked) {
        while let Ok(pending) = self.accepted.try_recv() {
            if self.waiting.len() < MEASURED {
                self.waiting.push(pending);
            }
        }
        let metrics = &self.metrics;
        metrics.generation_programmed.set(i64::try_from(looked.programmed()).unwrap_or(i64::MAX));
        self.waiting.retain(|pending| {
            if pending.generation > looked.generation || !looked.failures_of(pending.generation).is_empty() {
                return true;
            }
            let took = pending.since.elapsed().as_secs_f64();
            metrics.programming.observe(took);
            if pending.reload {
                metrics.last_reload_duration.set(took);
            }
            false
        });
    }

    /// What listeners hear of a look. What failed as it failed before is no news.
    fn tell(&self, before: &Looked, now: &Looked, report: reconcile::Report) {
        let generation = now.generation;
        // There may be no one.
        let tell = |event| drop(self.told.send(event));
        if !report.mended.is_empty() {
            tell(protocol::Event::Repaired { steps: in_short(&report.mended) });
        }
        let asked = generation != before.generation;
        let healed = now.failures.is_empty() && !before.failures.is_empty();
        if !now.failures.is_empty() && now.lines() != before.lines() {
            tell(protocol::Event::Failed { generation, failures: in_short(&now.lines()) });
        } else if healed || asked && now.failures_of(generation).is_empty() {
            let seconds = report.took.as_secs_f64();
            tell(protocol::Event::Programmed { generation, steps: report.steps, seconds });
        }
    }

    fn answer(&mut self, question: Question, wanted: &Wanted) {
        // Who asked may have gone.
        match question {
            Question::Plan(mesh, reply) => {
                let mesh = mesh.map_or_else(|| wanted.mesh.clone(), |mesh| Arc::new(*mesh));
                let preview = self.preview(&mesh);
                let plan = self.reconciler.plan(&mut self.kernel, &preview);
                let steps = |plan: crate::plan::Plan| plan.steps.iter().map(ToString::to_string).collect();
                let _ = reply.send(plan.map(steps).map_err(|error| format!("{error:#}")));
            }
            Question::Traffic(reply) => {
                let traffic = self.kernel.counters().map(|counters| traffic::traffic(&wanted.mesh, &counters));
                let _ = reply.send(traffic.map_err(|error| error.to_string()));
            }
            Question::Explain(asked, reply) => {
                let mesh = self.preview(&wanted.mesh);
                if let Some(refusal) = asked.refusal(&mesh) {
                    let _ = reply.send(Err(Problem::not_found(refusal)));
                    return;
                }
                let Some(place) = explain::PLACES.take() else {
                    let _ = reply.send(Err(Problem::busy("explanations")));
                    return;
                };
                match explain::look(&mut self.reconciler, &mut self.kernel, &mesh, self.checks.heard()) {
                    Ok(looked) => explain::finish_beside(looked, asked, place, reply),
                    Err(error) => {
                        let reason = format!("{error:#}");
                        let _ = reply.send(Err(Problem::new(500, "the kernel cannot be read", reason)));
                    }
                }
            }
            Question::Check(asked, tell, reply) => {
                let Some(place) = check::PLACES.take() else {
                    let _ = reply.send(Err(Problem::busy("checks")));
                    return;
                };
                let mesh = self.preview(&wanted.mesh);
                let begun = check::look(&mut self.kernel, &mesh, &asked);
                let begun = begun.map(|(pairs, asker)| check::start(pairs, asker, place, tell));
                let unread = |error| Problem::new(500, "nothing can be tried", format!("{error:#}"));
                let _ = reply.send(begun.map_err(unread));
            }
            Question::Doctor(reply) => doctor::examine_beside(names(Some(&self.config)), wanted.mesh.clone(), reply),
            Question::Preflight(mesh, reply) => {
                // What the kernel is short of for a moment is no reason to refuse what is asked for.
                let mut problems = preflight::problems(&mut self.kernel, &mesh);
                for _ in 1..PREFLIGHT_TRIES {
                    problems = problems.or_else(|_| preflight::problems(&mut self.kernel, &mesh));
                }
                let problems = problems.map_err(|error| error.to_string());
                let outcome = problems.and_then(|list| if list.is_empty() { Ok(()) } else { Err(list.join("; ")) });
                let _ = reply.send(outcome);
            }
        }
    }

    fn scrape(&mut self, wanted: &Wanted) -> Result<Exposition, String> {
        let counters = self.kernel.counters().map_err(|error| {
            self.metrics.scrape_failures.inc();
            error.to_string()
        })?;
        self.metrics.services.set(wanted.mesh.services.len() as i64);
        self.metrics.ports.set(wanted.mesh.ports().count() as i64);
        self.metrics.backends.set(wanted.mesh.count_backends() as i64);
        let traffic = Traffic::new(&wanted.mesh, counters, wanted.config.metrics.backends);
        let handshakes = self.handshakes(&wanted.mesh);
        let standings = self.checks.standings();
        self.metrics
            .exposition(traffic, &self.kernel.occupancy(), &handshakes, &standings)
            .map_err(|error| error.to_string())
    }

    /// Of each other node, if the tunnel is encrypted. What cannot be read is left out.
    fn handshakes(&mut self, mesh: &Mesh) -> Vec<(String, u64)> {
        let known = self.kernel.handshakes().unwrap_or_default();
        mesh.other_nodes().filter_map(|peer| Some((peer.name.clone(), *known.get(&peer.key?)?))).collect()
    }

    fn stop(&mut self) -> anyhow::Result<ExitCode> {
        notify(&[NotifyState::Stopping]);
        match self.config.node.on_stop {
            OnStop::Keep => {
                info!("stopped; the data plane goes on serving");
                Ok(ExitCode::SUCCESS)
            }
            OnStop::Remove => {
                let failed = reconcile::remove_all(&mut self.kernel)?;
                self.leaving.forget();
                info!(failed, "stopped; the data plane is removed");
                Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

/// What fails now, and which changes brought it.
fn failures(before: &Looked, generation: u64, report: &reconcile::Report) -> Vec<Failure> {
    let new = |line: &String| Failure { line: line.clone(), after: before.generation, until: generation };
    if let Some(reason) = &report.blind {
        // Nothing is known of what failed before, nor of what is new: all of that is left to do.
        let mut left = before.failures.to_vec();
        match left.iter_mut().find(|failure| failure.line == *reason) {
            Some(blind) => blind.until = generation,
            None => left.push(new(reason)),
        }
        return left;
    }
    let known: HashMap<&str, &Failure> =
        before.failures.iter().map(|failure| (failure.line.as_str(), failure)).collect();
    let failure = |line: &String| known.get(line.as_str()).map_or_else(|| new(line), |failure| (*failure).clone());
    report.failures.iter().map(failure).collect()
}

/// The backends that the kernel sends clients to, with their weights. What cannot be read is not there: then they have to prove themselves.
fn served(kernel: &mut Kernel) -> BTreeMap<Key, u32> {
    let counters = kernel.counters().unwrap_or_default();
    let serving = |(key, service): (VirtualKey, ServiceCounters)| {
        let one =
            move |(place, there): (DestinationKey, DestinationCounters)| ((key.mark, place.address), there.weight);
        service.destinations.into_iter().map(one)
    };
    counters.into_iter().flat_map(serving).collect()
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// systemd hears when the reload is done: when the kernel holds it, or when it is refused.
async fn reload(requests: mpsc::Sender<Request>, mut seen: watch::Receiver<Looked>) {
    // systemd 253 wants to know that the reload began after it asked (sd_notify(3)).
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(&states);
    let (reply, answer) = oneshot::channel();
    let asked = requests.send(Request::Reload { who: Who::Signal, since: Instant::now(), reply }).await;
    if asked.is_ok()
        && let Ok(Ok(change)) = answer.await
    {
        // However long: it is the kernel's work.
        let _ = seen.wait_for(|looked| looked.generation >= change.generation).await;
    }
    notify(&[NotifyState::Ready]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::reconcile::Report;

    fn looked(generation: u64, failures: Vec<Failure>) -> Looked {
        Looked { generation, failures: Arc::new(failures), ..Looked::default() }
    }

    fn look(before: &Looked, generation: u64, failing: &[&str]) -> Looked {
        let report = Report { failures: failing.iter().map(ToString::to_string).collect(), ..Report::default() };
        looked(generation, failures(before, generation, &report))
    }

    #[test]
    fn a_failure_is_that_of_the_changes_that_brought_it() {
        let first = look(&looked(10, Vec::new()), 12, &["a"]);
        assert_eq!(
            (first.failures_of(10), first.failures_of(11), first.failures_of(12)),
            (vec![], vec!["a"], vec!["a"])
        );
        assert_eq!(first.programmed(), 10);
        // Who comes later and has no trouble of its own is done, though the older one is not.
        let second = look(&first, 13, &["a"]);
        assert_eq!((second.failures_of(12), second.failures_of(13)), (vec!["a"], vec![]));
        assert_eq!(second.programmed(), 10);
        // What comes of no change is no change's fault.
        let third = look(&second, 13, &["a", "b"]);
        assert_eq!((third.failures_of(13), third.lines()), (vec![], vec!["a", "b"]));
        let healed = look(&third, 13, &[]);
        assert_eq!((healed.failures_of(12), healed.programmed()), (vec![], 13));
    }

    #[test]
    fn of_a_kernel_that_cannot_be_read_nothing_is_said_to_be_done() {
        let blind = |before: &Looked, generation| {
            let report = Report { blind: Some("no kernel".to_owned()), ..Report::default() };
            looked(generation, failures(before, generation, &report))
        };
        let first = look(&looked(10, Vec::new()), 11, &["a"]);
        let second = blind(&first, 12);
        assert_eq!((second.failures_of(11), second.failures_of(12)), (vec!["a"], vec!["no kernel"]));
        let third = blind(&second, 13);
        assert_eq!((third.failures_of(12), third.failures_of(13)), (vec!["no kernel"], vec!["no kernel"]));
        assert_eq!(look(&third, 13, &[]).programmed(), 13);
    }
}
