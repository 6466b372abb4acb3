//! The thread that owns what is wanted: it takes changes one by one, keeps them, and only then answers.
//!
//! Changes that come while others are written are kept together, with one sync for all of them. The kernel is the
//! daemon's: a look at it, however long, delays no change.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::{names, settled};
use crate::config::Config;
use crate::control::protocol::{Event, Problem};
use crate::control::{Change, Question, Reply, Request, Summary, Who};
use crate::metrics::Metrics;
use crate::source::file::{self, Signature};
use crate::source::{Candidate, Edit, Sources, Staged, Wanted, WriteError};

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
    /// The configuration at the start: some of it holds until the end.
    pub started: Arc<Config>,
}

/// A change that is made in memory, or refused, and answered once those before it are kept.
struct Unanswered {
    outcome: Result<Change, Problem>,
    since: Instant,
    who: Who,
    what: String,
    reply: Reply<Result<Change, Problem>>,
}

impl Intent {
    /// Works until no one can ask any more.
    pub fn run(mut self) {
        let mut waiting = Vec::new();
        while let Some(first) = self.requests.blocking_recv() {
            waiting.push(first);
            while waiting.len() < BATCH
                && let Ok(next) = self.requests.try_recv()
            {
                waiting.push(next);
            }
            let mut unanswered = Vec::new();
            for request in waiting.drain(..) {
                if let Request::Change { edit, expected, who, since, reply } = request {
                    let outcome = self.stage(&edit, expected, &mut unanswered);
                    unanswered.push(Unanswered { outcome, since, who, what: edit.summary(), reply });
                } else {
                    // Whoever looks sees nothing that may still be taken back.
                    self.keep(std::mem::take(&mut unanswered));
                    self.answer(request);
                }
            }
            self.keep(unanswered);
        }
    }

    fn stage(
        &mut self,
        edit: &Edit,
        expected: Option<u64>,
        unanswered: &mut Vec<Unanswered>,
    ) -> Result<Change, Problem> {
        let mut staged = self.sources.change(edit, expected)?;
        if staged == Staged::CommitFirst {
            self.keep(std::mem::take(unanswered));
            staged = self.sources.change(edit, expected)?;
        }
        match staged {
            Staged::Done { generation, changed } => Ok(Change { generation, changed }),
            // Nothing is left that it could wait for.
            Staged::CommitFirst => Err(Problem::new(503, "busy", "try again")),
        }
    }

    /// Makes changes last, tells the daemon, and answers.
    fn keep(&mut self, unanswered: Vec<Unanswered>) {
        if unanswered.is_empty() {
            return;
        }
        if let Err(error) = self.sources.commit() {
            let problem = match &error {
                WriteError::Nothing(_) => Problem::new(507, "cannot be kept", format!("nothing was changed: {error}")),
                WriteError::Doubt(_) => Problem::new(
                    507,
                    "cannot be kept",
                    format!("nothing was changed, but it may be there after a restart of meshd: {error}"),
                ),
            };
            error!(changes = unanswered.len(), "changes refused, they cannot be kept: {error}");
            // What was refused may have been so because of what is taken back now.
            unanswered.into_iter().for_each(|one| send(one.reply, Err(problem.clone())));
            return;
        }
        let mut any = false;
        for one in &unanswered {
            if let Ok(Change { generation, changed: true }) = one.outcome {
                self.accepted(Pending { generation, since: one.since, reload: false }, one.who, &one.what);
                any = true;
            }
        }
        if any {
            self.wanted.send_replace(self.sources.wanted());
        }
        unanswered.into_iter().for_each(|one| send(one.reply, one.outcome));
    }

    fn accepted(&self, pending: Pending, who: Who, what: &str) {
        let generation = pending.generation;
        let (uid, pid) = who.credentials();
        info!(generation, uid, pid, "{what}");
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
                let outcome = self.load().map(|candidate| candidate.mesh);
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
        let outcome = self.load().map(|candidate| self.sources.reload(candidate));
        self.metrics.last_reload_success.set(i64::from(outcome.is_ok()));
        self.metrics.last_reload_time.set(super::unix_time());
        let result = if outcome.is_ok() { "accepted" } else { "refused" };
        self.metrics.reloads.with_label_values(&[result]).inc();
        self.sources.refused_reload = outcome.as_ref().err().cloned();
        let _ =
            self.events.send(Event::Reload { accepted: outcome.is_ok(), reason: self.sources.refused_reload.clone() });
        match outcome {
            Ok((generation, changed)) => {
                self.warn_of_what_waits();
                let what = format!("reloaded {}", self.sources.path.display());
                self.accepted(Pending { generation, since, reload: true }, who, &what);
                self.wanted.send_replace(self.sources.wanted());
                Ok(Change { generation, changed })
            }
            Err(reason) => {
                let (uid, pid) = who.credentials();
                error!(uid, pid, "reload refused, nothing was changed: {reason}");
                Err(reason)
            }
        }
    }

    /// Reads the file, and looks for what is against it: here, in what the socket has, and on this host.
    fn load(&self) -> Result<Candidate, String> {
        let config = file::load(&self.sources.path).map_err(|error| error.to_string())?;
        let config = settled(config, self.sources.config().node.dataplane).map_err(|error| format!("{error:#}"))?;
        let (old, new) = (&self.started, &config);
        if names(Some(new)) != names(Some(old)) {
            let old = names(Some(old));
            return Err(format!(
                "[ingress] namespace and [gateway] bridge cannot change while meshd runs (now they are {} and {}): stop it, \
                 run --cleanup with the old file, and start it with the new one",
                old.sandbox,
                self.started.gateway.bridge.as_deref().unwrap_or("none")
            ));
        }
        if new.node.state_dir != old.node.state_dir {
            return Err(format!(
                "[node] state_dir cannot change while meshd runs (now {}): stop it, move what is there, and start it",
                old.node.state_dir.display()
            ));
        }
        if new.ingress.encryption.is_some() != old.ingress.encryption.is_some() {
            return Err("[ingress] encryption cannot change while meshd runs: restart it".to_owned());
        }
        let candidate = self.sources.candidate(config)?;
        let (reply, answer) = oneshot::channel();
        let asked = self.questions.blocking_send(Question::Preflight(Box::new(candidate.mesh.clone()), reply));
        let stopping = || "meshd is stopping".to_owned();
        asked.map_err(|_| stopping())?;
        answer.blocking_recv().map_err(|_| stopping())??;
        Ok(candidate)
    }

    /// What the daemon does not change while it runs.
    fn warn_of_what_waits(&self) {
        let (config, started) = (self.sources.config(), &self.started);
        for (key, same) in [
            ("[metrics] listen", config.metrics.listen == started.metrics.listen),
            ("[control] socket and group", config.control == started.control),
        ] {
            if !same {
                warn!("{key} takes effect at the next start");
            }
        }
    }

    fn summary(&self) -> Summary {
        let wanted = self.wanted.borrow();
        Summary {
            generation: self.sources.generation(),
            node: wanted.mesh.node.clone(),
            services: wanted.mesh.services.len(),
            ports: wanted.mesh.ports().count(),
            backends: wanted.mesh.count_backends(),
            dataplane: wanted.mesh.dataplane.to_string(),
            path: self.sources.path.display().to_string(),
            refused_reload: self.sources.refused_reload.clone(),
            state_dir: self.sources.state_dir().display().to_string(),
            public_key: wanted.mesh.key.map(|key| key.to_string()),
            troubles: self.sources.troubles(),
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
