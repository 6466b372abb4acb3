//! Who is at the other end of the control socket, and what the kernel and the user database say of that.

use std::fs;

use nix::unistd::Group;

/// As SO_PEERCRED told it when the connection was made (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
}

impl Peer {
    /// Whether it is root, or runs with that group: as its own, or as one of its supplementary ones.
    pub fn may_connect(&self, group: Option<u32>) -> bool {
        let Some(group) = group else { return self.uid == 0 };
        self.uid == 0 || self.gid == group || self.groups().contains(&group)
    }

    /// SO_PEERCRED does not have them. Who comes here got past the socket's mode already: this is the second look, and
    /// it only sees a process that is still there.
    fn groups(&self) -> Vec<u32> {
        let status =
            self.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok()).unwrap_or_default();
        read_groups(&status)
    }
}

fn read_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// The number of a group; `None`: there is none of that name.
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_status() {
        assert_eq!(read_groups("Name:\tcat\nGid:\t0\t0\t0\t0\nGroups:\t4 27 998 \nNStgid:\t1\n"), [4, 27, 998]);
        assert_eq!(read_groups("Groups:\t \n"), [0; 0]);
        assert_eq!(read_groups(""), [0; 0]);
    }

    #[test]
    fn root_and_the_group_may_connect() {
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        assert!(peer(0, 5).may_connect(None));
        assert!(peer(0, 5).may_connect(Some(998)));
        assert!(peer(1000, 998).may_connect(Some(998)));
        assert!(!peer(1000, 1000).may_connect(Some(998)));
        assert!(!peer(1000, 998).may_connect(None));
        // A process of ours is in its own groups.
        let own = Peer { uid: 1000, gid: 1000, pid: Some(std::process::id() as i32) };
        let groups = own.groups();
        assert!(groups.iter().all(|group| own.may_connect(Some(*group))));
    }
}
