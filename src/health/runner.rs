//! Asks all backends, each in its own time.
//!
//! All of it works on one thread, which is in the sandbox's network namespace: whatever socket is made there is there. A
//! backend that is asked costs a timer and, while it is asked, a socket.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::probe::{Failure, Memory, probe};
use super::state::{Change, Standing, Vital};
use super::{Key, Target};

/// Questions at a time, at the most; others wait for their turn.
const SIDE_BY_SIDE: usize = 1000;
/// One that has just come and does not serve yet is asked so often, if not more often, for so long.
const AT_FIRST: Duration = Duration::from_secs(1);
const NEW_FOR: Duration = Duration::from_secs(30);

/// What is to be asked.
pub type Targets = Arc<BTreeMap<Key, Asked>>;

/// One backend, as whoever wants it asked knows it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub target: Target,
    /// Each has a number of its own: one that went and came back is another one, however fast that was.
    pub incarnation: u64,
    /// What it is taken to be when it comes, or is known to be.
    pub standing: Standing,
}

/// A backend's standing has changed.
#[derive(Debug)]
pub struct News {
    pub key: Key,
    pub incarnation: u64,
    pub change: Change,
}

/// One backend, as it is being asked.
struct Watched {
    target: Target,
    incarnation: u64,
    vital: Rc<RefCell<Vital>>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What all of them share.
#[derive(Clone)]
struct Common {
    turns: Arc<Semaphore>,
    news: mpsc::UnboundedSender<News>,
    began: Instant,
    random: Rc<RandomState>,
    /// Types of checks of which the last question could not be asked, for a reason that is this host's.
    speechless: Rc<RefCell<BTreeSet<&'static str>>>,
}

/// Works until no one says any more what is to be asked, on a [`LocalSet`](tokio::task::LocalSet).
pub async fn run(mut wanted: watch::Receiver<Targets>, news: mpsc::UnboundedSender<News>) {
    let turns = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let common =
        Common { turns, news, began: Instant::now(), random: Rc::new(RandomState::new()), speechless: Rc::default() };
    let mut watched: BTreeMap<Key, Watched> = BTreeMap::new();
    loop {
        let targets = wanted.borrow_and_update().clone();
        watched.retain(|key, _| targets.contains_key(key));
        for (key, Asked { target, incarnation, standing }) in targets.iter() {
            let known = watched.get(key).filter(|known| known.incarnation == *incarnation);
            if known.is_some_and(|known| known.target == *target) {
                continue;
            }
            // Asked otherwise, it is still what it was.
            let vital = known.map_or_else(|| Rc::new(RefCell::new(Vital::new(*standing))), |known| known.vital.clone());
            let asking = ask_on((*key, *incarnation), target.clone(), vital.clone(), common.clone());
            let task = spawn_local(asking).abort_handle();
            watched.insert(*key, Watched { target: target.clone(), incarnation: *incarnation, vital, task });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn ask_on((key, incarnation): (Key, u64), target: Target, vital: Rc<RefCell<Vital>>, common: Common) {
    let Target { check, to } = target;
    let came = Instant::now();
    let (mut round, mut next) = (0u64, came);
    let mut memory = Memory::default();
    loop {
        // Each has a rhythm of its own: at first anywhere in it, and then a tenth earlier or later.
        let dice = (common.random.hash_one((key, round)) % 1000) as u32;
        let is_new = came.elapsed() < NEW_FOR && !vital.borrow().standing().serves();
        let pace = if is_new { check.interval.min(AT_FIRST) } else { check.interval };
        let thousandths = if round == 0 { dice } else { 900 + dice / 5 };
        next += pace / 1000 * thousandths;
        round += 1;
        sleep_until(next).await;
        let Ok(_turn) = common.turns.acquire().await else { return };
        next = Instant::now();
        let kind = check.probe.name();
        let answer = match probe(&check.probe, to, check.timeout, &mut memory).await {
            Ok(()) => Ok(()),
            Err(Failure::Unwell(reason)) => Err(reason),
            Err(Failure::Unasked(reason)) => {
                // That is said of no backend, and once.
                if common.speechless.borrow_mut().insert(kind) {
                    warn!("backends cannot be asked by {kind}: {reason}");
                }
                continue;
            }
        };
        common.speechless.borrow_mut().remove(kind);
        let change = vital.borrow_mut().observe(&check, &answer, common.began.elapsed());
        if let Some(change) = change
            && common.news.send(News { key, incarnation, change }).is_err()
        {
            return;
        }
    }
}
