//! The loop itself: events in, looks at the kernel out.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use sd_notify::NotifyState;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{info, warn};

use super::intent::Pending;
use super::reconcile::{self, Pace, Reconciler};
use super::{Event, Signals, notify, preflight, traffic};
use crate::config::{Config, OnStop};
use crate::control::protocol::{self, Timeouts};
use crate::control::{Looked, Question, Request, Who};
use crate::kernel::Kernel;
use crate::metrics::{Exposition, Metrics, Traffic};
use crate::source::Wanted;

/// Changes that wait for the kernel and are measured, at the most: more only come where nothing works any more.
const MEASURED: usize = 10_000;

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
}

impl Loop {
    /// Works until it is told to stop.
    pub async fn run(&mut self, mut watched: Watched, sender: mpsc::Sender<Event>) -> anyhow::Result<ExitCode> {
        preflight::warn(&mut self.kernel, &watched.wanted.borrow().mesh);
        self.look(&watched.wanted.borrow_and_update().clone());
        notify(&[NotifyState::Ready]);
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
                event = watched.signals.next() => event,
                Some(event) = watched.events.recv() => event,
                Some(question) = watched.questions.recv() => Event::Asked(question),
                Ok(()) = watched.wanted.changed() => Event::Wanted,
                () = tick(&mut alive) => Event::Alive,
                () = tokio::time::sleep_until(wake.into()) => Event::Check,
            };
            match event {
                Event::Check | Event::Wanted => {
                    let wanted = watched.wanted.borrow_and_update().clone();
                    if !Arc::ptr_eq(&self.config, &wanted.config) {
                        preflight::warn(&mut self.kernel, &wanted.mesh);
                    }
                    self.look(&wanted);
                    pace.looked(Instant::now());
                }
                Event::Changed => {
                    pace.hurry(Instant::now());
                    self.reconciler.try_again_soon();
                }
                Event::Scrape(answer) => {
                    // Who asked may have gone.
                    if !answer.is_closed() {
                        let _ = answer.send(self.scrape(&watched.wanted.borrow()));
                    }
                }
                Event::Asked(question) => self.answer(question, &watched.wanted.borrow()),
                Event::Hangup => {
                    tokio::spawn(reload(watched.requests.clone(), watched.seen.clone()));
                }
                Event::Alive => notify(&[NotifyState::Watchdog]),
                Event::Stop => break,
            }
        }
        self.stop()
    }

    /// Makes the kernel what is wanted, and tells whoever waits for that.
    fn look(&mut self, wanted: &Wanted) {
        let Wanted { generation, config, mesh } = wanted;
        self.config = config.clone();
        let before = self.looked.borrow().clone();
        let asked = before.generation != *generation;
        let report = self.reconciler.reconcile(&mut self.kernel, mesh, &self.metrics, asked);
        let failed = !report.failures.is_empty();
        let programmed = if failed { before.programmed } else { *generation };
        let timeouts = self.kernel.timeouts().ok().flatten();
        self.looked.send_replace(Looked {
            generation: *generation,
            programmed,
            took: report.took.as_secs_f64(),
            timeouts: timeouts.map(|of| Timeouts { tcp: of.tcp, tcp_fin: of.tcp_fin, udp: of.udp }),
            repaired: before.repaired + report.mended.len() as u64,
            failures: Arc::new(report.failures.clone()),
        });
        self.measure(programmed);
        self.tell(&before, *generation, report);

        self.metrics.services.set(mesh.services.len() as i64);
        let ports = mesh.services.iter().flat_map(|service| &service.ports);
        self.metrics.ports.set(ports.clone().count() as i64);
        self.metrics.backends.set(ports.map(|port| port.backends.len() as i64).sum());
    }

    /// How long the changes took that the kernel holds now.
    fn measure(&mut self, programmed: u64) {
        while let Ok(pending) = self.accepted.try_recv() {
            if self.waiting.len() < MEASURED {
                self.waiting.push(pending);
            }
        }
        let metrics = &self.metrics;
        metrics.generation_programmed.set(i64::try_from(programmed).unwrap_or(i64::MAX));
        self.waiting.retain(|pending| {
            if pending.generation > programmed {
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
    fn tell(&self, before: &Looked, generation: u64, report: reconcile::Report) {
        let reconcile::Report { failures, steps, mended, took } = report;
        // There may be no one.
        let tell = |event| drop(self.told.send(event));
        if !mended.is_empty() {
            tell(protocol::Event::Repaired { steps: mended });
        }
        if !failures.is_empty() {
            if failures != *before.failures || generation != before.generation {
                tell(protocol::Event::Failed { generation, failures });
            }
        } else if generation != before.programmed {
            tell(protocol::Event::Programmed { generation, steps, seconds: took.as_secs_f64() });
        }
    }

    fn answer(&mut self, question: Question, wanted: &Wanted) {
        // Who asked may have gone.
        match question {
            Question::Plan(mesh, reply) => {
                let mesh = mesh.as_deref().unwrap_or(&wanted.mesh);
                let plan = reconcile::plan(&mut self.kernel, mesh);
                let steps = |plan: crate::plan::Plan| plan.steps.iter().map(ToString::to_string).collect();
                let _ = reply.send(plan.map(steps).map_err(|error| format!("{error:#}")));
            }
            Question::Traffic(reply) => {
                let traffic = self.kernel.counters().map(|counters| traffic::traffic(&wanted.mesh, &counters));
                let _ = reply.send(traffic.map_err(|error| error.to_string()));
            }
            Question::Preflight(mesh, reply) => {
                let problems = preflight::problems(&mut self.kernel, &mesh).map_err(|error| error.to_string());
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
        let traffic = Traffic::new(&wanted.mesh, counters, wanted.config.metrics.backends);
        self.metrics.exposition(traffic, &self.kernel.occupancy()).map_err(|error| error.to_string())
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
                info!(failed, "stopped; the data plane is removed");
                Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
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
