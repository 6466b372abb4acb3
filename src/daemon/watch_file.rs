//! `[node] watch`: the file takes effect when it changes.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::control::{Request, Who};
use crate::source::{Wanted, file};

/// Between two looks at the file, and so the time for which it must stay as it is: half-written ones are not read.
const TICK: Duration = Duration::from_millis(500);

/// Asks for a reload whenever the file has changed and come to rest, for as long as the configuration wants that.
pub async fn run(path: std::path::PathBuf, wanted: watch::Receiver<Wanted>, requests: mpsc::Sender<Request>) {
    let (mut last, mut told) = (None, None);
    loop {
        tokio::time::sleep(TICK).await;
        if !wanted.borrow().config.node.watch {
            (last, told) = (None, None);
            continue;
        }
        let now = file::signature(&path);
        let at_rest = now.is_some() && now == last;
        last = now;
        if at_rest && now != told {
            told = now;
            let (reply, answer) = oneshot::channel();
            // Who reads the file knows whether it has read just this one already.
            if requests.send(Request::Reload { who: Who::Watch, since: Instant::now(), reply }).await.is_err() {
                return;
            }
            let _ = answer.await;
        }
    }
}
