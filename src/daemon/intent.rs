//! The thread that owns what is wanted: it takes changes one by one, keeps them, and only then answers.
//!
//! Changes that come while others are written are kept together, with one sync for all of them. The kernel is the
//! daemon's: a look at it, however long, delays no change.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::names;
use crate::config::Config;
use crate::control::protocol::{Event, Problem};
use crate::control::{Change, Question, Reply, Request, Summary, Who};
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::source::file::{self, Signature};
use crate::source::{Sources, Wanted};

/// Changes that are kept together, at the most.
const BATCH: usize = 256;

/// A change that the kernel does not hold yet.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub generation: u64,
    pub since: Instant,
    pub reload: bool,
}

pub struct Intent {
    pub sources: Sources,
    pub requests: mpsc::Receiver<Request>,
    pub wanted: watch::Sender<Wanted>,
    pub pending: mpsc::UnboundedSender<Pending>,
    pub questions: mpsc::Sender<Question>,
    pub events: broadcast::Sender<Event>,
    pub metrics: Metrics,
    /// The file as it was last read.
    pub read: Option<Signature>,
}

/// A change that is made in memory, and answered once it is kept.
struct Unanswered {
    change: Change,
    pending: Pending,
    who: Who,
    what: String,
    reply: Reply<Result<Change, Problem>>,
}

impl Intent {
    /// Works until no one can ask any more.
    pub fn run(mut self) {
        let mut waiting = VecDeque::new();
        while let Some(first) = self.requests.blocking_recv() {
            waiting.push_back(first);
            while waiting.len() < BATCH
                && let Ok(next) = self.requests.try_recv()
            {
                waiting.push_back(next);
            }
            let mut unanswered = Vec::new();
            for request in waiting.drain(..) {
                if let Request::Change { edit, expected, who, since, reply } = request {
                    match self.sources.change(&edit, expected) {
                        Ok((generation, changed)) => unanswered.push(Unanswered {
                            change: Change { generation, changed },
                            pending: Pending { generation, since, reload: false },
                            who,
                            what: edit.summary(),
                            reply,
                        }),
                        Err(problem) => send(reply, Err(problem)),
                    }
                } else {
                    // Whoever looks sees nothing that may still be taken back.
                    self.keep(std::mem::take(&mut unanswered));
                    self.answer(request);
                }
            }
            self.keep(unanswered);
        }
    }

    /// Makes changes last, tells the daemon, and answers.
    fn keep(&mut self, unanswered: Vec<Unanswered>) {
        if unanswered.is_empty() {
            return;
        }
        if let Err(error) = self.sources.commit() {
            error!("changes refused, they cannot be kept: {error}");
            let problem = Problem::new(507, "cannot be kept", format!("nothing was changed: {error}"));
            unanswered.into_iter().for_each(|one| send(one.reply, Err(problem.clone())));
            return;
        }
        let changed: Vec<&Unanswered> = unanswered.iter().filter(|one| one.change.changed).collect();
        for Unanswered { pending, who, what, .. } in &changed {
            self.accepted(*pending, *who, what);
        }
        if !changed.is_empty() {
            self.wanted.send_replace(self.sources.wanted());
        }
        unanswered.into_iter().for_each(|one| send(one.reply, Ok(one.change)));
    }

    fn accepted(&self, pending: Pending, who: Who, what: &str) {
        let generation = pending.generation;
        let uid = match who {
            Who::Peer(peer) => {
                info!(generation, uid = peer.uid, pid = peer.pid, "{what}");
                Some(peer.uid)
            }
            Who::Signal | Who::Watch => {
                info!(generation, "{what}");
                None
            }
        };
        self.metrics.generation_wanted.set(i64::try_from(generation).unwrap_or(i64::MAX));
        // The loop may have ended, and listeners may be none.
        let _ = self.pending.send(pending);
        let _ = self.events.send(Event::Accepted { generation, what: what.to_owned(), uid });
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::List(reply) => send(reply, self.sources.list()),
            Request::Get(name, reply) => send(reply, self.sources.get(&name)),
            Request::TryChange { edit, expected, reply } => send(reply, self.sources.try_change(&edit, expected)),
            Request::Reload { who: Who::Watch, reply, .. } if file::signature(&self.sources.path) == self.read => {
                send(reply, Ok(Change { generation: self.sources.generation(), changed: false }));
            }
            Request::Reload { who, since, reply } => {
                let outcome = self.reload(who, since).map_err(|reason| refused(&self.sources.path, &reason));
                send(reply, outcome);
            }
            Request::TryReload(reply) => {
                let outcome = self.load().map(|(_, mesh)| mesh);
                send(reply, outcome.map_err(|reason| refused(&self.sources.path, &reason)));
            }
            Request::Summary(reply) => send(reply, self.summary()),
            // Taken by `run`.
            Request::Change { reply, .. } => send(reply, Err(Problem::stopping())),
        }
    }

    /// A good file takes effect as the smallest plan; a bad one is reported, and nothing changes.
    fn reload(&mut self, who: Who, since: Instant) -> Result<Change, String> {
        self.read = file::signature(&self.sources.path);
        let outcome = self.load().and_then(|(config, _)| self.sources.reload(config));
        self.metrics.last_reload_success.set(i64::from(outcome.is_ok()));
        self.metrics.last_reload_time.set(super::unix_time());
        let result = if outcome.is_ok() { "accepted" } else { "refused" };
        self.metrics.reloads.with_label_values(&[result]).inc();
        self.sources.refused_reload = outcome.as_ref().err().cloned();
        let _ =
            self.events.send(Event::Reload { accepted: outcome.is_ok(), reason: self.sources.refused_reload.clone() });
        match outcome {
            Ok(generation) => {
                let what = format!("reloaded {}", self.sources.path.display());
                self.accepted(Pending { generation, since, reload: true }, who, &what);
                self.wanted.send_replace(self.sources.wanted());
                Ok(Change { generation, changed: true })
            }
            Err(reason) => {
                error!("reload refused, nothing was changed: {reason}");
                Err(reason)
            }
        }
    }

    /// Reads the file, and looks for what is against it: here, in what the socket has, and on this host.
    fn load(&self) -> Result<(Config, Mesh), String> {
        let config = file::load(&self.sources.path).map_err(|error| error.to_string())?;
        let wanted = self.wanted.borrow();
        let before = wanted.config.clone();
        drop(wanted);
        let old = names(Some(&before));
        if names(Some(&config)) != old {
            return Err(format!(
                "[ingress] namespace and [gateway] bridge cannot change while meshd runs (now {} and {}): stop it, \
                 run --cleanup with the old file, and start it with the new one",
                old.sandbox, old.bridge
            ));
        }
        for (key, same) in [
            ("[metrics] listen", config.metrics.listen == before.metrics.listen),
            ("[control] socket and group", config.control == before.control),
            ("[node] state_dir", config.node.state_dir == before.node.state_dir),
        ] {
            if !same {
                warn!("{key} takes effect at the next start");
            }
        }
        let mesh = self.sources.try_config(&config)?;
        let (reply, answer) = oneshot::channel();
        let asked = self.questions.blocking_send(Question::Preflight(Box::new(mesh.clone()), reply));
        let stopping = || "meshd is stopping".to_owned();
        asked.map_err(|_| stopping())?;
        answer.blocking_recv().map_err(|_| stopping())??;
        Ok((config, mesh))
    }

    fn summary(&self) -> Summary {
        let wanted = self.wanted.borrow();
        let ports = || wanted.mesh.services.iter().flat_map(|service| &service.ports);
        Summary {
            generation: self.sources.generation(),
            node: wanted.mesh.node.clone(),
            services: wanted.mesh.services.len(),
            ports: ports().count(),
            backends: ports().map(|port| port.backends.len()).sum(),
            path: self.sources.path.display().to_string(),
            refused_reload: self.sources.refused_reload.clone(),
            state_dir: wanted.config.node.state_dir.display().to_string(),
            refused_files: self.sources.refused_files.clone(),
        }
    }
}

fn refused(path: &Path, reason: &str) -> Problem {
    Problem::new(422, "the file is refused", format!("{} is refused, nothing was changed: {reason}", path.display()))
}

/// Who asked may have gone.
fn send<T>(reply: Reply<T>, answer: T) {
    let _ = reply.send(answer);
}
