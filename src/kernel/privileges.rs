//! What the daemon may do from its start on, also where no unit bounds it: what it needs, and no more.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// As the unit has them (config/meshd.service says what for), and what it takes to run checks as somebody else, and to end them.
const NEEDED: [Capability; 8] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_CHOWN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

/// Gives up all else that this thread holds, for good, and with it those that it starts later: also programs that would get
/// more by their file's mode (PR_SET_NO_NEW_PRIVS).
///
/// # Errors
/// The kernel refuses.
pub fn give_up() -> Result<(), CapsError> {
    // Refused only with arguments that this has not.
    let _ = prctl::set_no_new_privs();
    let needed = CapsHashSet::from(NEEDED);
    // Who may not give up what could be had may not have it either: then there is only what is held.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        let bounding = caps::read(None, CapSet::Bounding)?;
        bounding.difference(&needed).try_for_each(|other| caps::drop(None, CapSet::Bounding, *other))?;
    }
    caps::clear(None, CapSet::Ambient)?;
    keep(CapSet::Inheritable, &CapsHashSet::new())?;
    keep(CapSet::Effective, &needed)?;
    keep(CapSet::Permitted, &needed)
}

/// Of that set only these. Where there are no others nothing is asked for: the unit's filter would refuse it.
fn keep(set: CapSet, needed: &CapsHashSet) -> Result<(), CapsError> {
    let held = caps::read(None, set)?;
    if held.is_subset(needed) { Ok(()) } else { caps::set(None, set, &(&held & needed)) }
}
