//! The loop: events come in; the mesh, its difference to the kernel, and the steps go out.
//!
//! The loop is the only owner of a [`Kernel`], and works on the main thread, one event at a time. What is wanted has
//! an owner of its own, a thread beside it ([`intent`]). Listeners run beside both and ask them.

mod caps;
mod check;
mod checks;
mod crowded;
mod doctor;
mod explain;
mod firewalls;
mod intent;
mod leaving;
mod places;
mod preflight;
mod quarrel;
mod reconcile;
mod sharing;
mod traffic;
mod turns;
mod watch_file;
mod work;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::control::protocol::{Diagnosis, Explanation};
use crate::control::server::Listener;
use crate::control::{self, Control, Looked, Question};
use crate::explain::Asked;
use crate::health::runner::News;
use crate::kernel::ipvs::OpenError;
use crate::kernel::lock::Lock;
use crate::kernel::surroundings::host_name;
use crate::kernel::{Kernel, Names, ipvs, privileges, probe, seccomp};
use crate::mesh::{Dataplane, Key, Mesh};
use crate::metrics::{self, Exposition, Metrics};
use crate::objects::{HOST_END, PrivateKey, PublicKey};
use crate::plan::Plan;
use crate::share::{self, Health, Helped};
use crate::source::file::Signature;
use crate::source::{self, Sources, Wanted, key};
use caps::Caps;
use checks::Checks;
use crowded::Crowded;
use firewalls::Firewalls;
use intent::Intent;
use leaving::Leaving;
use reconcile::{Reconciler, unix_time};
use sharing::Sharing;
use work::{Loop, Watched};

/// All that can happen to the daemon.
enum Event {
    Stop,
    /// Compare the kernel with what is wanted.
    Check,
    /// Something else is wanted.
    Wanted,
    /// A backend's checks say something else of it.
    Health(News),
    /// It is time to see whether backends that leave are done.
    Settle,
    /// The kernel told of a change that is not ours.
    Changed,
    /// Someone asks for the metrics.
    Scrape(oneshot::Sender<Result<Exposition, String>>),
    /// Someone asks on the control socket.
    Asked(Question),
    /// SIGHUP: the file is to be read again.
    Hangup,
    /// systemd's watchdog is to hear that we are alive.
    Alive,
}

/// Events that wait, at the most; who sends more waits too.
const QUEUE: usize = 64;
const REQUESTS: usize = 1024;
/// What listeners may be behind.
const EVENTS: usize = 1024;
/// The namespace where no configuration names it.
const DEFAULT_SANDBOX: &str = "ingress_sbox";
/// Below the runtime directory: who is leaving.
const LEAVING: &str = "leaving";

/// Ready to run.
pub struct Daemon {
    sources: Sources,
    wanted: Wanted,
    read: Option<Signature>,
    kernel: Kernel,
    metrics: Metrics,
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
        Some(config) => Names { sandbox: config.ingress.namespace.clone(), gateway: config.gateway.link().to_owned() },
        None => Names { sandbox: DEFAULT_SANDBOX.to_owned(), gateway: HOST_END.to_owned() },
    }
}

/// This node's own public key; one is made if there is none.
///
/// # Errors
/// See [`key::load_or_make`].
pub fn public_key(state_dir: &Path) -> anyhow::Result<PublicKey> {
    Ok(key::load_or_make(state_dir)?.0.public())
}

/// The plan that would be carried out now.
pub fn dry_run(config: &Config) -> anyhow::Result<Plan> {
    let (mut kernel, mesh) = alone(config)?;
    Reconciler::default().plan(&mut kernel, &mesh)
}

/// The way of clients to a port, as the kernel has it now, without a daemon to ask.
pub fn explain(config: &Config, asked: &Asked) -> anyhow::Result<Explanation> {
    let (mut kernel, mesh) = alone(config)?;
    if let Some(refusal) = asked.refusal(&mesh) {
        return Err(anyhow!(refusal));
    }
    let (known, asker) = explain::look(&mut Reconciler::default(), &mut kernel, &mesh, BTreeMap::new())?;
    Ok(explain::finish(&known, &asker, asked, || true))
}

/// What is wrong with this host, or may be, without a daemon to ask.
pub fn doctor(config: &Config) -> anyhow::Result<Diagnosis> {
    let (mut kernel, mesh) = alone(config)?;
    doctor::examine(&mut kernel, &mesh, false)
}

/// A kernel, and what is wanted of it, where no daemon is asked. Nothing is changed.
fn alone(config: &Config) -> anyhow::Result<(Kernel, Arc<Mesh>)> {
    let mut kernel = Kernel::open(names(Some(config)))?;
    let config = &settled(config.clone(), None)?;
    let key = match &config.ingress.encryption {
        // Nothing is changed: a key that is to be made is not made now.
        Some(_) => Some(key::load_from(&config.node.state_dir)?.unwrap_or_else(key::random)),
        None => None,
    };
    let mesh = source::peek(config, &host_name(), key.as_ref().map(PrivateKey::public))?;
    if let Some(key) = key {
        kernel.encrypt(key)?;
    }
    // As if all were well: nobody is asked.
    let mesh = Arc::new(mesh);
    let shared = share::shares(&mesh, &Everyone, &mut Helped::new()).mesh;
    let leaving = Leaving::new(names(Some(config)).runtime_directory().join(LEAVING));
    let mesh = leaving.preview(&mesh, &shared, |_| true);
    Ok((kernel, mesh))
}

/// The configuration, with who balances: where it leaves that open, IPVS if there is one. `now`: who has balanced so far.
fn settled(mut config: Config, now: Option<Dataplane>) -> anyhow::Result<Config> {
    let dataplane = match config.node.dataplane {
        Some(Dataplane::Nftables) => Dataplane::Nftables,
        // It is there, whatever the kernel would say just now.
        _ if now == Some(Dataplane::Ipvs) => Dataplane::Ipvs,
        wanted => match ipvs::is_there() {
            Ok(()) => Dataplane::Ipvs,
            Err(_) if wanted.is_none() && now == Some(Dataplane::Nftables) => Dataplane::Nftables,
            Err(error @ OpenError::Missing) if wanted.is_none() => {
                info!("nftables balances here ([node] dataplane = \"auto\"): {error}");
                Dataplane::Nftables
            }
            // What is there and cannot be opened just now is no reason to do without.
            Err(error) => return Err(anyhow!(error)),
        },
    };
    config.node.dataplane = Some(dataplane);
    Ok(config)
}

/// All are well.
struct Everyone;

impl Health for Everyone {
    fn serves(&self, _: &Key) -> bool {
        true
    }

    fn up_for(&self, _: &Key) -> Option<Duration> {
        None
    }
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
    pub fn start(path: PathBuf, config: Config, read: Option<Signature>) -> anyhow::Result<Daemon> {
        if let Some(missing) = probe::missing_capabilities().into_iter().next() {
            return Err(anyhow!(missing));
        }
        // For whoever wants no IPVS none is loaded.
        if config.node.dataplane != Some(Dataplane::Nftables) {
            ipvs::load_ahead();
        }
        if let Err(error) = privileges::give_up() {
            warn!("privileges that are not needed cannot be given up: {error}");
        }
        if let Err(error) = seccomp::forbid() {
            warn!("system calls that are not needed cannot be forbidden: {error}");
        }
        let names = names(Some(&config));
        let about = path.display().to_string();
        let lock = Lock::take(&names, &about)?;
        let mut kernel = Kernel::open(names)?;
        let config = settled(config, None)?;
        let key = config.ingress.encryption.map(|_| key::load_or_make(&config.node.state_dir)).transpose()?;
        let mut sources = Sources::open(path, config, &host_name()).context("[node] state_dir")?;
        if let Some((key, new)) = key {
            if new {
                let public = key.public();
                warn!("made a new WireGuard key: other nodes have to be told its public key, {public}");
            }
            sources.encrypt(key.public()).map_err(|reason| anyhow!(reason))?;
            kernel.encrypt(key)?;
        }
        let wanted = sources.wanted();
        let problems = preflight::problems(&mut kernel, &wanted.mesh)?;
        if !problems.is_empty() {
            return Err(anyhow!(problems.join("\nmeshd: ")));
        }
        let metrics = Metrics::new()?;
        Ok(Daemon { sources, wanted, read, kernel, metrics, _lock: lock })
    }

    /// Works until it is told to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let Daemon { mut sources, wanted, read, kernel, metrics, _lock } = self;
        let path = sources.path.clone();
        let config = wanted.config.clone();
        let (sender, events) = mpsc::channel(QUEUE);
        let (questions, asked) = mpsc::channel(QUEUE);
        let (requests, intents) = mpsc::channel(REQUESTS);
        let (wanted, current) = watch::channel(wanted);
        let (pending, accepted) = mpsc::unbounded_channel();
        let (looked, seen) = watch::channel(Looked::default());
        let (told, _) = broadcast::channel(EVENTS);

        let listen = config.metrics.listen;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on [metrics] listen = \"{listen}\": free that address or choose another")
        })?;
        let socket = &config.control.socket;
        let control = Listener::bind(socket, &config.control.group).with_context(|| {
            format!("cannot listen on [control] socket = \"{}\": free that path or choose another", socket.display())
        })?;
        let control = Arc::new(control);
        let scrapes = sender.clone();
        let health = seen.clone();
        let health = move || health.borrow().health();
        tokio::spawn(metrics::serve(listener, metrics::Limits::default(), move || scrape(scrapes.clone()), health));
        let router = control::router(Control {
            requests: requests.clone(),
            questions: questions.clone(),
            looked: seen.clone(),
            events: told.clone(),
            metrics: metrics.clone(),
            started: Instant::now(),
        });
        tokio::spawn(control.clone().serve(router, metrics.clone()));
        // From here on nothing more can stand in the way.
        sources.hand_over();
        watch_file::start(path, current.clone(), requests.clone())?;
        metrics.generation_wanted.set(i64::try_from(current.borrow().generation).unwrap_or(i64::MAX));
        let intent = Intent {
            sources,
            requests: intents,
            wanted,
            pending,
            questions,
            events: told.clone(),
            metrics: metrics.clone(),
            read,
            started: config.clone(),
        };
        std::thread::Builder::new().name("intent".to_owned()).spawn(move || intent.run())?;
        info!(node = current.borrow().mesh.node, metrics = %listen, control = %socket.display(), "started");

        let watched = Watched { events, questions: asked, signals: Signals::new()?, wanted: current, requests, seen };
        let mut work = Loop {
            kernel,
            metrics,
            reconciler: Reconciler::default(),
            config: config.clone(),
            accepted,
            waiting: Vec::new(),
            looked,
            told,
            checks: Checks::new(),
            sharing: Sharing::default(),
            leaving: Leaving::new(names(Some(&config)).runtime_directory().join(LEAVING)),
            caps: Caps::default(),
            crowded: Crowded::default(),
            firewalls: Firewalls::default(),
            turned: false,
            stale: None,
        };
        work.run(watched, sender).await
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
            _ = self.hangup.recv() => Event::Hangup,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
        }
    }
}

async fn scrape(events: mpsc::Sender<Event>) -> Result<Exposition, String> {
    let (sender, answer) = oneshot::channel();
    let gone = || "meshd is stopping".to_owned();
    events.send(Event::Scrape(sender)).await.map_err(|_| gone())?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

fn notify(states: &[NotifyState]) {
    // Without systemd there is no one to tell.
    let _ = sd_notify::notify(states);
}
