//! `[node] watch`: the file takes effect when it changes.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::control::{Request, Who};
use crate::source::{Wanted, file};

/// Between two looks at the file, and so the time for which it must stay as it is. A file that is written slowly in
/// place may still be read half: it is better replaced (rename(2)).
const TICK: Duration = Duration::from_millis(500);

/// Asks for a reload whenever the file has changed and come to rest, for as long as the configuration wants that. On a
/// thread of its own: on a network file system a look may take long.
pub fn start(path: PathBuf, wanted: watch::Receiver<Wanted>, requests: mpsc::Sender<Request>) -> io::Result<()> {
    thread::Builder::new().name("watch-file".to_owned()).spawn(move || run(&path, &wanted, &requests))?;
    Ok(())
}

fn run(path: &Path, wanted: &watch::Receiver<Wanted>, requests: &mpsc::Sender<Request>) {
    let (mut last, mut told) = (None, None);
    loop {
        thread::sleep(TICK);
        if !wanted.borrow().config.node.watch {
            (last, told) = (None, None);
            continue;
        }
        let now = file::signature(path);
        let at_rest = now.is_some() && now == last;
        last = now;
        if at_rest && now != told {
            told = now;
            let (reply, answer) = oneshot::channel();
            // Who reads the file knows whether it has read just this one already.
            if requests.blocking_send(Request::Reload { who: Who::Watch, since: Instant::now(), reply }).is_err() {
                return;
            }
            let _ = answer.blocking_recv();
        }
    }
}
