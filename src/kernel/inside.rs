//! A thread that works in the sandbox, for as long as that is there.
//!
//! A namespace with a thread or a socket in it lives on unseen after it is deleted, and keeps what it has. So before we
//! leave one, whoever works there ends.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// Ends its work when it is dropped, and waits for that.
pub struct Inside {
    stop: Option<Box<dyn FnOnce() + Send>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Has `work` done in that namespace, until `stop` is called, which `work` must heed at once.
    pub(super) fn start(
        netns: &OwnedFd,
        work: impl FnOnce() + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<Inside> {
        let netns = netns.try_clone()?;
        let thread = thread::Builder::new().name("inside".to_owned()).spawn(move || {
            let entered = setns(&netns, CloneFlags::CLONE_NEWNET);
            drop(netns);
            if entered.is_ok() {
                work();
            }
        })?;
        Ok(Inside { stop: Some(Box::new(stop)), thread: Some(thread) })
    }

    /// Whether it works still.
    pub(super) fn is_there(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        // One that panicked has ended, too.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
