//! Whom programs run as, and the end of those that do not end by themselves.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};

/// What the user database says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    /// Of the user's own group.
    pub gid: u32,
}

/// The numbers of a user; `None`: there is none of that name.
pub fn user(name: &str) -> Option<UserIds> {
    let user = User::from_name(name).ok().flatten()?;
    Some(UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// Kills every process of the group that this one leads. That there is none is not an error.
pub fn kill_group(leader: u32) {
    // 0 would be our own group, and 1 everyone.
    if let Some(leader) = i32::try_from(leader).ok().filter(|leader| *leader > 1) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_looked_up_by_name() {
        assert_eq!(user("root"), Some(UserIds { uid: 0, gid: 0 }));
        assert_eq!(user("no-such-user"), None);
        assert_eq!(user("a\0b"), None);
        assert_eq!(user(""), None);
    }
}
