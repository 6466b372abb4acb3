//! The listener on the Unix socket: who may connect, how many at a time, and for how long.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::protocol::Problem;
use crate::kernel::peer::{Peer, group_id};
use crate::metrics::Metrics;

/// For a request's head to arrive, from the connection's or the last answer's beginning.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a client to take the next piece of an answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Connections at a time, of everyone but root, of one user but root, and in all.
const OF_OTHERS: usize = 96;
const OF_ONE: usize = 32;
const OF_ALL: usize = 128;
/// Connections at a time that get an answer but no place; more are dropped without one.
const REFUSED: usize = 32;
/// After an error of accept(2), which may be that descriptors ran out.
const BREATH: Duration = Duration::from_millis(100);

/// A socket that listens, and its name, which goes with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Who may connect, beside root.
    group: Option<u32>,
}

impl Listener {
    /// Listens at a path, for root and for a group. The name appears when its mode and owner are right.
    ///
    /// # Errors
    /// Someone else listens there, or the file system refuses.
    pub fn bind(path: &Path, group: &str) -> io::Result<Listener> {
        if StdStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there"));
        }
        if fs::symlink_metadata(path).is_ok_and(|there| !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()))
        {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            fs::create_dir_all(directory)?;
            // Whatever the umask: the group has to get through.
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
        let new = directory.join(format!(".meshd-{}", std::process::id()));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // By way of the open directory: a socket's address has 107 bytes, of which the path may need all.
        let open = File::open(directory)?;
        let short = format!("/proc/self/fd/{}/.meshd-{}", open.as_raw_fd(), std::process::id());
        let listener = UnixListener::bind(short)?;
        let id = group_id(group);
        if id.is_none() {
            warn!("there is no group {group}: only root may use the control socket (`groupadd --system {group}`)");
        }
        let open = fs::set_permissions(&new, fs::Permissions::from_mode(0o660))
            .and_then(|()| id.map_or(Ok(()), |id| chown(&new, None, Some(id))))
            .and_then(|()| fs::rename(&new, path));
        if let Err(error) = open {
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        Ok(Listener { listener, path: path.to_owned(), group: id })
    }

    /// Answers until the process ends.
    pub async fn serve(self: Arc<Self>, router: Router, metrics: Metrics) {
        let slots = Arc::new(Slots { taken: Mutex::default(), metrics: metrics.clone() });
        let refusals = Arc::new(Semaphore::new(REFUSED));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_cred().map(|cred| Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() })
            else {
                continue;
            };
            let slot = slots.clone().take(peer.uid);
            let refusal = if !peer.may_connect(self.group) {
                warn!(uid = peer.uid, pid = peer.pid, "refused on the control socket");
                Some(Problem::new(
                    403,
                    "not allowed",
                    format!("uid {} is neither root nor of the group of [control]", peer.uid),
                ))
            } else if slot.is_none() {
                metrics.control_refused.inc();
                Some(Problem::new(503, "too many connections", "others have as many as there may be; try again"))
            } else {
                None
            };
            let place = match &refusal {
                Some(_) => refusals.clone().try_acquire_owned().map(Place::Refused).ok(),
                None => slot.map(Place::Taken),
            };
            let Some(place) = place else { continue };
            let router = router.clone();
            tokio::spawn(async move {
                connection(stream, peer, router, refusal).await;
                drop(place);
            });
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Someone may have taken it away already.
        let _ = fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, peer: Peer, router: Router, refusal: Option<Problem>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let refused = refusal.is_some();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, refusal) = (router.clone(), refusal.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let response: Response = match refusal {
                Some(problem) => problem.into_response(),
                None => match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    // Who is refused gets an answer, and no place.
    let head_time = if refused { Duration::from_secs(1) } else { HEAD_TIME };
    http.timer(TokioTimer::new()).header_read_timeout(head_time).keep_alive(!refused);
    if let Err(error) = http.serve_connection(TokioIo::new(Box::pin(stream)), service).await {
        debug!(uid = peer.uid, pid = peer.pid, "connection ended: {error}");
    }
}

/// What a connection holds for as long as it lasts.
#[allow(dead_code, reason = "they are only held")]
enum Place {
    Taken(Slot),
    Refused(OwnedSemaphorePermit),
}

/// The connections of each user.
struct Slots {
    taken: Mutex<HashMap<u32, usize>>,
    metrics: Metrics,
}

struct Slot {
    slots: Arc<Slots>,
    uid: u32,
}

impl Slots {
    fn take(self: Arc<Self>, uid: u32) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let of = |uid: u32| taken.get(&uid).copied().unwrap_or(0);
        if all >= OF_ALL || uid != 0 && (of(uid) >= OF_ONE || all - of(0) >= OF_OTHERS) {
            return None;
        }
        *taken.entry(uid).or_default() += 1;
        drop(taken);
        self.metrics.control_connections.inc();
        Some(Slot { slots: self, uid })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
        self.slots.metrics.control_connections.dec();
    }
}
