//! What the kernel tells by itself: changes of nftables, links, addresses, routes, neighbours and network parameters in our
//! namespaces, and namespaces that come and go. Of IPVS it tells nothing.
//!
//! Threads sleep until there is something to tell. What they tell is only *that* something changed; what, is seen by looking.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::warn;

use super::netns;
use super::socket::RECEIVE_BUFFER;
use crate::objects::Netns;

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;
/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF (linux/rtnetlink.h).
const GROUPS_OF_LINKS: [u32; 5] = [1, 5, 9, 24, 25];
/// RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE: of namespaces that are ours alone. A host may have thousands.
const GROUPS_OF_WAYS: [u32; 3] = [3, 7, 11];

/// RTM_NEWNEIGH and RTM_DELNEIGH.
const NEIGHBOURS: [u16; 2] = [28, 29];
/// NUD_PERMANENT (linux/neighbour.h), and of a bridge NUD_NOARP: entries that someone made. Others come and go by themselves, all the
/// time; who takes one of ours away is the author of what is told first (neigh_delete, Linux 6.1).
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const AF_BRIDGE: u8 = 7;

/// From the name of a namespace to its being there.
const UNTIL_MOUNTED: Duration = Duration::from_millis(100);
/// Some names never are, which someone's crash left.
const MOUNTED_TRIES: usize = 10;

/// What one socket hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Rules,
    Links,
}

struct Ear {
    about: About,
    socket: Socket,
    /// The port of the socket by which we make changes of that kind there.
    own: u32,
}

/// Sockets that listen, each in one of our namespaces: with one open a namespace would live on unseen, so they are closed
/// from outside.
struct Ears {
    epoll: Epoll,
    open: Mutex<BTreeMap<u64, Ear>>,
    /// Whether what is nobody's is ours: of links the kernel does not say who changed them (rtmsg_ifinfo, Linux 6.1).
    hushed: AtomicBool,
    changed: Box<dyn Fn() -> bool + Send + Sync>,
}

#[derive(Clone)]
pub(super) struct Watch {
    ears: Arc<Ears>,
}

impl Watch {
    /// Calls `changed` from now on whenever someone else changed something where it [listens](Watch::listen), or a namespace is
    /// pinned or unpinned under /run/netns. It ends when `changed` says that no one listens.
    pub fn start(changed: impl Fn() -> bool + Clone + Send + Sync + 'static) -> io::Result<Watch> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let changed_too = Box::new(changed.clone());
        let ears = Arc::new(Ears { epoll, open: Mutex::default(), hushed: false.into(), changed: changed_too });
        let watch = Watch { ears: ears.clone() };
        thread::Builder::new().name("watch-kernel".to_owned()).spawn(move || while ears.wait() {})?;
        watch_namespaces(changed)?;
        Ok(watch)
    }

    /// Listens in that namespace too, to all but `own` changes: the ports of our sockets for rules, where we have one, and for links.
    pub fn listen(&self, netns: Netns, file: &OwnedFd, rules: Option<u32>, links: u32) -> io::Result<()> {
        if let Some(own) = rules {
            self.ears.add(netns, file, About::Rules, own)?;
        }
        self.ears.add(netns, file, About::Links, links)
    }

    /// Listens there no more.
    pub fn forget(&self, netns: Netns) {
        let mut open = self.ears.open();
        [About::Rules, About::Links].iter().for_each(|about| drop(open.remove(&number(netns, *about))));
    }

    /// Does what changes links, and does not hear of it.
    pub fn hushed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.ears.hushed.store(true, Ordering::SeqCst);
        let done = work();
        // The kernel has told of it by now, but for what it does later: a carrier that comes costs a look.
        let news = self.ears.open().values().fold(false, |news, ear| news | self.ears.hear(ear));
        self.ears.hushed.store(false, Ordering::SeqCst);
        if news {
            (self.ears.changed)();
        }
        done
    }
}

impl Watch {
    /// Does a large change of rules, and hears of none meanwhile: as long as anyone listens the kernel writes a message for each
    /// element (nf_tables_setelem_notify), which costs several times what the element does. Others may have changed something, too:
    /// so it counts as news.
    pub fn deaf<T>(&self, work: impl FnOnce() -> T) -> T {
        self.ears.listen(false);
        let done = work();
        self.ears.listen(true);
        (self.ears.changed)();
        done
    }
}

impl Ears {
    /// Whether to hear of rules.
    fn listen(&self, listen: bool) {
        for ear in self.open().values_mut().filter(|ear| ear.about == About::Rules) {
            let outcome = match listen {
                true => ear.socket.add_membership(GROUP_NFTABLES),
                false => ear.socket.drop_membership(GROUP_NFTABLES),
            };
            if let Err(error) = outcome {
                warn!("changes of rules by others are only seen from time to time: {error}");
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Ear>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, netns: Netns, file: &OwnedFd, about: About, own: u32) -> io::Result<()> {
        let socket = netns::within(file, || open(about, netns == Netns::Host))??;
        let number = number(netns, about);
        let mut open = self.open();
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        open.insert(number, Ear { about, socket, own });
        Ok(())
    }

    /// Sleeps until there is something; whether to go on.
    fn wait(&self) -> bool {
        let mut events = [EpollEvent::empty(); 8];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return true,
            Err(_) => return false,
        };
        let open = self.open();
        let heard = events[..ready].iter().filter_map(|event| open.get(&event.data()));
        let news = heard.fold(false, |news, ear| news | self.hear(ear));
        drop(open);
        !news || (self.changed)()
    }

    /// All that waits there; whether any of it is news.
    fn hear(&self, ear: &Ear) -> bool {
        let mut news = false;
        loop {
            let mut message = [0; 64];
            match ear.socket.recv(&mut &mut message[..], 0) {
                Ok(_) => news |= is_news(ear, &message, self.hushed.load(Ordering::SeqCst)),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    // Told more than fits: something certainly changed.
                    Some(Errno::ENOBUFS) => news = true,
                    Some(Errno::EINTR) => {}
                    _ => return news,
                },
            }
        }
    }
}

fn number(netns: Netns, about: About) -> u64 {
    netns as u64 * 2 + about as u64
}

fn open(about: About, is_host: bool) -> io::Result<Socket> {
    let mut socket = Socket::new(if about == About::Rules { NETLINK_NETFILTER } else { NETLINK_ROUTE })?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    // A change of ours may be told of by thousands of messages, and what is lost counts as news.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    let groups: &[&[u32]] = match about {
        About::Rules => &[&[GROUP_NFTABLES]],
        About::Links if is_host => &[&GROUPS_OF_LINKS],
        About::Links => &[&GROUPS_OF_LINKS, &GROUPS_OF_WAYS],
    };
    groups.iter().copied().flatten().try_for_each(|group| socket.add_membership(*group))?;
    Ok(socket)
}

/// The beginning of a notification's first message is enough: its kind, whose change it was, and the state of a neighbour. What comes
/// after is cut off.
fn is_news(ear: &Ear, message: &[u8; 64], hushed: bool) -> bool {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let author = u32::from_ne_bytes([message[12], message[13], message[14], message[15]]);
    // struct ndmsg: the family, padding, the link, and the state.
    let (family, state) = (message[16], u16::from_ne_bytes([message[24], message[25]]));
    let lasts = state & NUD_PERMANENT != 0 || family == AF_BRIDGE && state & NUD_NOARP != 0;
    let comes_by_itself = ear.about == About::Links && NEIGHBOURS.contains(&kind) && author == 0 && !lasts;
    author != ear.own && !comes_by_itself && !(hushed && author == 0)
}

fn watch_namespaces(changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let interest = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(netns::DIRECTORY, interest)?;
    thread::Builder::new().name("watch-netns".to_owned()).spawn(move || {
        loop {
            match inotify.read_events() {
                Ok(_) => {
                    // The name comes first, then the namespace is mounted there: of that nobody tells.
                    for _ in 0..MOUNTED_TRIES {
                        thread::sleep(UNTIL_MOUNTED);
                        if netns::all_are_mounted() {
                            break;
                        }
                    }
                    if !changed() {
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(())
}
