//! Whom programs run as, the end of those that do not end by themselves, what this host may be short of, and the clock
//! that all its processes share.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, User};

/// What the user database says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    /// Of the user's own group.
    pub gid: u32,
}

/// The numbers of a user; `None`: there is none of that name.
///
/// # Errors
/// This host is short of something, so that nobody knows.
pub fn user(name: &str) -> io::Result<Option<UserIds>> {
    match User::from_name(name) {
        Ok(user) => Ok(user.map(|user| UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() })),
        Err(errno) if is_short(errno) => Err(errno.into()),
        // Of a name that they do not know, some of the host's sources say so by an error (getpwnam_r(3)).
        Err(_) => Ok(None),
    }
}

/// Whether something could not be done because this host has not enough of what that takes: memory, processes,
/// descriptors, buffers, ports.
pub fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| is_short(Errno::from_raw(number)))
}

fn is_short(errno: Errno) -> bool {
    use Errno::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    [EAGAIN, ENOMEM, EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL].contains(&errno)
}

/// Kills every process of the group that this one leads. That there is none is not an error.
pub fn kill_group(leader: u32) {
    // 0 would be our own group, and 1 everyone.
    if let Some(leader) = i32::try_from(leader).ok().filter(|leader| *leader > 1) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// No huge pages for this process from now on, nor for those that it starts (PR_SET_THP_DISABLE): where a host has them for
/// everyone, a small heap takes several times the memory that it uses.
pub fn use_small_pages() {
    // It goes without, too.
    let _ = prctl::set_thp_disable(true);
}

/// Time since the boot, also that in which the machine slept. Nobody can set this clock.
pub fn since_boot() -> Duration {
    // The kernel has this clock since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_looked_up_by_name() {
        let user = |name| user(name).expect("nothing is short");
        assert_eq!(user("root"), Some(UserIds { uid: 0, gid: 0 }));
        assert_eq!(user("no-such-user"), None);
        assert_eq!(user("a\0b"), None);
        assert_eq!(user(""), None);
    }

    #[test]
    fn what_a_host_is_short_of_is_told_from_what_others_refuse() {
        let is_short = |errno: Errno| is_shortage(&errno.into());
        assert!(
            [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL]
                .into_iter()
                .all(is_short)
        );
        assert!(![Errno::ECONNREFUSED, Errno::ENOENT, Errno::EACCES, Errno::EHOSTUNREACH].into_iter().any(is_short));
        assert!(!is_shortage(&io::Error::other("something")));
    }
}
