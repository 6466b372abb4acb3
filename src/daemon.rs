//! The loop: events come in; the mesh, its difference to the kernel, and the steps go out.
//!
//! The daemon is the only owner of a [`Kernel`]. It works on the main thread, one event at a time; listeners
//! run beside it and send events.

mod preflight;
mod reconcile;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, OnStop};
use crate::kernel::lock::Lock;
use crate::kernel::surroundings::host_name;
use crate::kernel::{Kernel, Names, ipvs, probe};
use crate::mesh::Mesh;
use crate::metrics::{self, Metrics, Traffic};
use crate::plan::{self, Plan};
use crate::source::file;
use reconcile::{Pace, Reconciler};

/// All that can happen to the daemon.
enum Event {
    /// Read the configuration again.
    Reload,
    Stop,
    /// Compare the kernel with what is wanted.
    Check,
    /// The kernel told of a change that is not ours.
    Changed,
    /// Someone asks for the metrics.
    Scrape(oneshot::Sender<Result<String, String>>),
}

/// Events that wait, at the most; who sends more waits too.
const QUEUE: usize = 64;
/// Namespace and bridge where no configuration names them.
const DEFAULT_SANDBOX: &str = "ingress_sbox";
const DEFAULT_BRIDGE: &str = "mesh_gwbridge";

pub struct Daemon {
    path: PathBuf,
    config: Config,
    mesh: Mesh,
    kernel: Kernel,
    metrics: Metrics,
    reconciler: Reconciler,
    /// Held until the process ends.
    _lock: Lock,
}

/// Starts the log on standard error: RUST_LOG chooses what, `info` if it is not set.
pub fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    // systemd's journal adds the time itself.
    let outcome = if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.with_ansi(false).without_time().try_init()
    } else {
        log.with_ansi(terminal).try_init()
    };
    // Started twice, the first stays.
    drop(outcome);
}

/// What is ours is called by that configuration, or by the defaults.
pub fn names(config: Option<&Config>) -> Names {
    match config {
        Some(config) => Names { sandbox: config.ingress.namespace.clone(), bridge: config.gateway.bridge.clone() },
        None => Names { sandbox: DEFAULT_SANDBOX.to_owned(), bridge: DEFAULT_BRIDGE.to_owned() },
    }
}

/// The plan that would be carried out now.
pub fn dry_run(config: &Config) -> anyhow::Result<Plan> {
    let mut kernel = Kernel::open(names(Some(config)))?;
    let wanted = reconcile::wanted(&mut kernel, &config.mesh(&host_name()))?;
    Ok(plan::diff(&kernel.observe(&wanted)?, &wanted))
}

/// Removes all that is ours, from whatever state.
pub fn clean_up(config: Option<&Config>) -> anyhow::Result<ExitCode> {
    let names = names(config);
    let lock = Lock::take(&names, "cleaning up")?;
    let mut kernel = Kernel::open(names.clone())?;
    let failed = reconcile::remove_all(&mut kernel)?;
    kernel.remove_leftovers()?;
    drop(lock);
    if failed > 0 {
        error!(failed, "something of ours is left");
        return Ok(ExitCode::FAILURE);
    }
    // The lock's file is in it too, and with it the last trace of us.
    match std::fs::remove_dir_all(names.runtime_directory()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format!("cannot remove {}", names.runtime_directory().display()))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

impl Daemon {
    /// Builds all that can fail at start: what is missing is named, with what to do.
    pub fn start(path: PathBuf, config: Config) -> anyhow::Result<Daemon> {
        if let Some(missing) = probe::missing_capabilities().into_iter().next() {
            return Err(anyhow!(missing));
        }
        let names = names(Some(&config));
        let lock = Lock::take(&names, &path.display().to_string())?;
        let mut kernel = Kernel::open(names)?;
        kernel.has_ipvs().map_err(|error: ipvs::OpenError| anyhow!(error))?;
        let mesh = config.mesh(&host_name());
        let problems = preflight::problems(&mut kernel, &mesh)?;
        if !problems.is_empty() {
            return Err(anyhow!(problems.join("\nmeshd: ")));
        }
        let metrics = Metrics::new()?;
        Ok(Daemon { path, config, mesh, kernel, metrics, reconciler: Reconciler::default(), _lock: lock })
    }

    /// Works until it is told to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(mut self) -> anyhow::Result<ExitCode> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        let listen = self.config.metrics.listen;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on [metrics] listen = \"{listen}\": free that address or choose another")
        })?;
        let scrapes = sender.clone();
        tokio::spawn(metrics::serve(listener, move || scrape(scrapes.clone())));
        let mut signals = Signals::new()?;

        info!(node = self.mesh.node, metrics = %listen, "started");
        preflight::warn(&mut self.kernel, &self.mesh);
        self.reconcile();
        notify(&[NotifyState::Ready]);
        // A full queue has news enough in it.
        let tell = move || !matches!(sender.try_send(Event::Changed), Err(TrySendError::Closed(_)));
        if let Err(error) = self.kernel.watch(tell) {
            warn!("changes by others are only seen from time to time: {error}");
        }
        let mut pace = Pace::new(Instant::now());
        // Half of what systemd allows, so that one late ping does no harm.
        let patience = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
        let mut ping = Instant::now();
        loop {
            let wake = pace.next(&self.reconciler);
            let event = tokio::select! {
                event = signals.next() => event,
                Some(event) = events.recv() => event,
                () = tokio::time::sleep_until(wake.into()) => Event::Check,
                () = tokio::time::sleep_until(ping.into()) => {
                    notify(&[NotifyState::Watchdog]);
                    ping = Instant::now() + patience;
                    continue;
                }
            };
            match event {
                Event::Reload => self.reload(),
                Event::Check => self.reconcile(),
                Event::Changed => {
                    pace.hurry(Instant::now());
                    self.reconciler.try_again_soon();
                    continue;
                }
                Event::Scrape(answer) => {
                    // Who asked may have gone.
                    let _ = answer.send(self.scrape());
                    continue;
                }
                Event::Stop => break,
            }
            pace.looked(Instant::now());
        }
        self.stop()
    }

    fn reconcile(&mut self) {
        self.reconciler.reconcile(&mut self.kernel, &self.mesh, &self.metrics);
        self.metrics.services.set(self.mesh.services.len() as i64);
        let ports = self.mesh.services.iter().flat_map(|service| &service.ports);
        self.metrics.ports.set(ports.clone().count() as i64);
        self.metrics.backends.set(ports.map(|port| port.backends.len() as i64).sum());
    }

    /// A good file takes effect as the smallest plan; a bad one is reported, and nothing changes.
    fn reload(&mut self) {
        notify(&[NotifyState::Reloading]);
        let outcome = file::load(&self.path).map_err(anyhow::Error::from).and_then(|config| self.accept(config));
        self.metrics.last_reload_success.set(i64::from(outcome.is_ok()));
        match outcome {
            Ok(()) => {
                self.metrics.reloads.with_label_values(&["accepted"]).inc();
                info!(file = %self.path.display(), "reloaded");
                preflight::warn(&mut self.kernel, &self.mesh);
                self.reconcile();
            }
            Err(error) => {
                self.metrics.reloads.with_label_values(&["refused"]).inc();
                error!("reload refused, nothing was changed: {error:#}");
            }
        }
        notify(&[NotifyState::Ready]);
    }

    fn accept(&mut self, config: Config) -> anyhow::Result<()> {
        if names(Some(&config)) != names(Some(&self.config)) {
            let old = names(Some(&self.config));
            return Err(anyhow!(
                "[ingress] namespace and [gateway] bridge cannot change while meshd runs (now {} and {}): stop it, \
                 run --cleanup with the old file, and start it with the new one",
                old.sandbox,
                old.bridge
            ));
        }
        if config.metrics.listen != self.config.metrics.listen {
            warn!("[metrics] listen takes effect at the next start");
        }
        let mesh = config.mesh(&host_name());
        let problems = preflight::problems(&mut self.kernel, &mesh)?;
        if !problems.is_empty() {
            return Err(anyhow!(problems.join("; ")));
        }
        self.mesh = mesh;
        self.config = config;
        Ok(())
    }

    fn scrape(&mut self) -> Result<String, String> {
        let counters = self.kernel.counters().map_err(|error| {
            self.metrics.scrape_failures.inc();
            error.to_string()
        })?;
        let mut names = std::collections::BTreeMap::new();
        for service in &self.mesh.services {
            for port in &service.ports {
                let range = port.published;
                let label =
                    if range.is_single() { range.first.to_string() } else { format!("{}-{}", range.first, range.last) };
                names.insert(port.mark(), (service.name.clone(), label));
            }
        }
        self.metrics.render(&Traffic { counters, names }).map_err(|error| error.to_string())
    }

    fn stop(mut self) -> anyhow::Result<ExitCode> {
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

/// The signals that are events.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.hangup.recv() => Event::Reload,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
        }
    }
}

async fn scrape(events: mpsc::Sender<Event>) -> Result<String, String> {
    let (sender, answer) = oneshot::channel();
    let gone = || "meshd is stopping".to_owned();
    events.send(Event::Scrape(sender)).await.map_err(|_| gone())?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

fn notify(states: &[NotifyState]) {
    // Without systemd there is no one to tell.
    let _ = sd_notify::notify(states);
}
