//! System calls that neither meshd nor a check has any business with, refused from the start on (seccomp(2)), also where no unit does
//! that. The unit's filter is narrower: it lets through what is known. This one is under the whole test-suite.

use nix::libc::{self, c_long};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What changes the kernel itself or its clock, reads or holds other processes, or asks for parts of the kernel that are young and large.
const REFUSED: [c_long; 40] = [
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_open_by_handle_at,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fanotify_init,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Has the kernel refuse them, EPERM, to this thread and those that it starts later, for good. A program for another processor (a check
/// that runs a 32-bit one) is ended: the numbers mean other calls there.
///
/// # Errors
/// The kernel has no seccomp, the processor is none that the library knows, or new privileges were not given up before.
pub fn forbid() -> Result<(), seccompiler::Error> {
    let refused = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_refused_and_the_rest_is_not() {
        // The filter stays with its thread.
        let thread = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            forbid().unwrap();
            // Whoever may call it is told that there is no such directory.
            assert_eq!(nix::unistd::chroot("/nowhere"), Err(nix::errno::Errno::EPERM));
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = thread.join().unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    }
}
