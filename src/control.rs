//! The control socket: HTTP and JSON on a Unix socket, for meshctl, for curl, for any program.
//!
//! ```text
//! connection ─► server (who is it? limits) ─► routes ─┬─ Request ─► the sources' thread: what is wanted
//!                                                     └─ Question ─► the daemon's loop: what the kernel has
//! ```
//!
//! [`protocol`] is what is said, shared with meshctl; `/v1/openapi.json` describes it.

mod answer;
pub mod protocol;
mod routes;
pub mod server;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::explain::Asked;
use crate::kernel::peer::Peer;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::source::Edit;
use protocol::{CheckEvent, CheckQuery, Diagnosis, Entry, Event, Explanation, Problem, Services, Traffic};

pub use routes::{document, router};

pub type Reply<T> = oneshot::Sender<T>;

/// Who wants a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Peer(Peer),
    Signal,
    /// The configuration file changed.
    Watch,
}

impl Who {
    /// uid and pid, for the log.
    pub fn credentials(self) -> (Option<u32>, Option<i32>) {
        match self {
            Who::Peer(peer) => (Some(peer.uid), peer.pid),
            Who::Signal | Who::Watch => (None, None),
        }
    }
}

/// What is asked of the sources. Changes are answered once they are kept.
#[derive(Debug)]
pub enum Request {
    List(Reply<Services>),
    Get(String, Reply<Result<Entry, Problem>>),
    Change {
        edit: Edit,
        expected: Option<u64>,
        who: Who,
        since: Instant,
        reply: Reply<Result<Change, Problem>>,
    },
    /// The mesh as it would be.
    TryChange {
        edit: Edit,
        expected: Option<u64>,
        reply: Reply<Result<Mesh, Problem>>,
    },
    Reload {
        who: Who,
        since: Instant,
        reply: Reply<Result<Change, Problem>>,
    },
    TryReload(Reply<Result<Mesh, Problem>>),
    Summary(Reply<Summary>),
}

/// What is asked of the daemon's loop.
#[derive(Debug)]
pub enum Question {
    /// What would be done for that mesh; for the one that is wanted now, if none is given.
    Plan(Option<Box<Mesh>>, Reply<Result<Vec<String>, String>>),
    Traffic(Reply<Result<Traffic, String>>),
    /// The way of clients to a port.
    Explain(Asked, Reply<Result<Explanation, Problem>>),
    /// Tries all that is published, and tells of it as it goes; that ends with the channel.
    Check(CheckQuery, mpsc::Sender<CheckEvent>, Reply<Result<(), Problem>>),
    /// What is wrong with this host, or may be.
    Doctor(Reply<Result<Diagnosis, Problem>>),
    /// Why that mesh cannot be on this host.
    Preflight(Box<Mesh>, Reply<Result<(), String>>),
}

/// A change that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub generation: u64,
    /// False: it was so already.
    pub changed: bool,
}

/// What the sources know, for the status.
#[derive(Clone, Debug)]
pub struct Summary {
    pub generation: u64,
    pub node: String,
    pub services: usize,
    pub ports: usize,
    pub backends: usize,
    pub dataplane: String,
    pub path: String,
    pub refused_reload: Option<String>,
    pub state_dir: String,
    /// This node's own, where the tunnel is encrypted.
    pub public_key: Option<String>,
    /// What is kept and not in force, and why nothing can be kept, if so.
    pub troubles: Vec<String>,
}

/// A step that fails, or a kernel that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub line: String,
    /// The changes that brought it: the generations behind the first number, up to the second. None, if it is the
    /// kernel that changed.
    pub after: u64,
    pub until: u64,
}

/// The daemon's last look at the kernel.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The generation that it was for.
    pub generation: u64,
    /// Until then it will have been done again, and done well; `None`: it was never done well.
    pub good_until: Option<Instant>,
    /// What failed and is tried again.
    pub failures: Arc<Vec<Failure>>,
    /// Seconds.
    pub took: f64,
    pub timeouts: Option<protocol::Timeouts>,
    /// Things mended since the start.
    pub repaired: u64,
    /// Tables of the kernel that are nearly full.
    pub crowded: Arc<Vec<String>>,
    pub firewalls: Arc<Vec<String>>,
    /// What someone undoes as often as it is mended.
    pub contested: Arc<Vec<String>>,
    /// Of each backend that is checked and not up, a line.
    pub unwell: Arc<Vec<String>>,
    /// Backends that get no new clients and have some still, each with what is known of it.
    pub leaving: Arc<Vec<String>>,
}

impl Looked {
    /// What is left to do of a change; one that others left to do is not its fault.
    pub fn failures_of(&self, generation: u64) -> Vec<&str> {
        let own = self.failures.iter().filter(|failure| failure.after < generation && generation <= failure.until);
        own.map(|failure| failure.line.as_str()).collect()
    }

    pub fn lines(&self) -> Vec<&str> {
        self.failures.iter().map(|failure| failure.line.as_str()).collect()
    }

    /// Whether the kernel is kept as wanted, or why not: nobody has seen to that for too long.
    ///
    /// # Errors
    /// What is wrong, in a line.
    pub fn health(&self) -> Result<(), String> {
        let left = match self.good_until {
            Some(until) if Instant::now() < until => return Ok(()),
            Some(_) => "the kernel has not been as wanted for three times the pause between looks",
            None => "the kernel was never seen to be as wanted",
        };
        Err(self.failures.first().map_or(left.to_owned(), |failure| format!("{left}: {}", failure.line)))
    }

    /// The newest generation up to which the kernel holds every change.
    pub fn programmed(&self) -> u64 {
        let open = self.failures.iter().filter(|failure| failure.after < failure.until).map(|failure| failure.after);
        open.min().unwrap_or(self.generation)
    }
}

/// So many lines of a list are told to clients, and how many more there are: ten thousand steps may fail at once.
pub fn in_short<T: AsRef<str>>(lines: &[T]) -> Vec<String> {
    const TOLD: usize = 50;
    let told = lines.iter().take(TOLD).map(|line| line.as_ref().to_owned());
    let more = lines.len().saturating_sub(TOLD);
    told.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

/// All that the routes need.
#[derive(Clone)]
pub struct Control {
    pub requests: mpsc::Sender<Request>,
    pub questions: mpsc::Sender<Question>,
    pub looked: watch::Receiver<Looked>,
    pub events: broadcast::Sender<Event>,
    pub metrics: Metrics,
    pub started: Instant,
}

impl Control {
    /// Asks the sources.
    ///
    /// # Errors
    /// meshd is stopping.
    pub async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Problem::stopping())?;
        answer.await.map_err(|_| Problem::stopping())
    }

    /// Asks the daemon's loop, which may be busy with the kernel.
    ///
    /// # Errors
    /// As [`request`](Control::request).
    pub async fn question<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(question(reply)).await.map_err(|_| Problem::stopping())?;
        answer.await.map_err(|_| Problem::stopping())
    }
}
