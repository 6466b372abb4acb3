//! What the kernel tells by itself: namespaces that come and go, and changes of the host's nftables.
//!
//! Each watch is a thread that sleeps until there is something to tell. What it tells is only *that*
//! something changed; what, is seen by looking.

use std::io;
use std::thread;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Kernel, netns};

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;

impl Kernel {
    /// Calls `changed` from now on whenever a namespace is pinned or unpinned under /run/netns, and whenever
    /// someone else changes the nftables of the host. It ends when `changed` says that no one listens.
    ///
    /// # Errors
    /// A watch cannot be set up: then looking from time to time has to do.
    pub fn watch(&mut self, changed: impl Fn() -> bool + Clone + Send + 'static) -> io::Result<()> {
        self.watch_nftables(changed.clone())?;
        watch_namespaces(changed)
    }

    fn watch_nftables(&mut self, changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        // The calling thread is in the host's namespace, and so is the socket.
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP_NFTABLES)?;
        let own = self.host.socket().port();
        let mut message = [0; 512];
        thread::Builder::new().name("watch-nft".to_owned()).spawn(move || {
            loop {
                let news = match socket.recv(&mut &mut message[..], 0) {
                    Ok(_) => author(&message) != own,
                    // Told more than fits: something certainly changed.
                    Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::ENOBUFS) => true,
                        Some(Errno::EINTR) => false,
                        _ => return,
                    },
                };
                if news && !changed() {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

/// Whose change it was: the port in the header of the notification's first message. What comes after is cut off.
fn author(message: &[u8; 512]) -> u32 {
    u32::from_ne_bytes([message[12], message[13], message[14], message[15]])
}

fn watch_namespaces(changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let interest = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(netns::DIRECTORY, interest)?;
    thread::Builder::new().name("watch-netns".to_owned()).spawn(move || {
        loop {
            match inotify.read_events() {
                Ok(_) if changed() => {}
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    })?;
    Ok(())
}
