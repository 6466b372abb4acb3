//! A thread that works in the sandbox, for as long as that is there.
//!
//! A namespace with a thread or a socket in it lives on unseen after it is deleted, and keeps what it has. So before we
//! leave one, whoever works there ends.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// Ends its work when it is dropped, and waits for that.
pub struct Inside {
    stop: Option<Box<dyn FnOnce() + Send>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Has `work` done in that namespace, until `stop` is called, which `work` must heed at once.
    ///
    /// # Errors
    /// No thread can be started, or it cannot enter the namespace: then nothing is done.
    pub(super) fn start(
        netns: &OwnedFd,
        work: impl FnOnce() + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<Inside> {
        let netns = netns.try_clone()?;
        let (tell, told) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("inside".to_owned()).spawn(move || {
            let entered = setns(&netns, CloneFlags::CLONE_NEWNET);
            drop(netns);
            let is_in = entered.is_ok();
            if tell.send(entered).is_ok() && is_in {
                work();
            }
        })?;
        // It ends by itself, if not.
        told.recv().map_err(io::Error::other)??;
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_namespace_that_cannot_be_entered_is_an_error_and_nothing_is_done_elsewhere() {
        let no_netns = OwnedFd::from(File::open("/dev/null").expect("it is there"));
        let (worked, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (work, stop) = (worked.clone(), stopped.clone());
        let inside = Inside::start(
            &no_netns,
            move || work.store(true, Ordering::SeqCst),
            move || stop.store(true, Ordering::SeqCst),
        );
        let error = inside.err().expect("that is no namespace");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL), "{error}");
        assert!(!worked.load(Ordering::SeqCst) && !stopped.load(Ordering::SeqCst));
    }
}
