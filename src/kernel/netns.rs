//! Network namespaces, pinned under /run/netns as ip-netns(8) does it, so that `ip netns` shows them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};

use super::fault;
use super::link;
use super::socket::Socket;
use crate::objects::NetnsRef;

pub const DIRECTORY: &str = "/run/netns";
/// The network namespace of the thread that looks; `self` would be that of the process's first thread.
const OWN: &str = "/proc/thread-self/ns/net";

#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} namespace {name}")]
pub struct Error {
    verb: &'static str,
    name: String,
    #[source]
    source: io::Error,
}

pub type Result<T> = std::result::Result<T, Error>;

fn because<E: Into<io::Error>>(verb: &'static str, name: &str) -> impl FnOnce(E) -> Error {
    move |source| Error { verb, name: name.to_owned(), source: source.into() }
}

/// Makes and pins the namespace if it is not there.
pub fn create(name: &str) -> Result<()> {
    pin(name).map_err(because("add", name))
}

/// Unpins the namespace. It ends once no process, no socket and no descriptor of it is left.
pub fn delete(name: &str) -> Result<()> {
    unpin(name).map_err(because("delete", name))
}

/// Whether a namespace is pinned by that name. A file that a crash left without one does not count.
pub fn exists(name: &str) -> bool {
    statfs(&file_of(name)).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC)
}

/// Whether a namespace is mounted on every name that is not older than a few seconds.
pub fn all_are_mounted() -> bool {
    const NEW: Duration = Duration::from_secs(3);
    let names = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let is_new = |entry: &fs::DirEntry| {
        let made = entry.metadata().and_then(|file| file.modified());
        made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < NEW))
    };
    names.filter(is_new).all(|entry| entry.file_name().to_str().is_some_and(exists))
}

/// Opens what stands for a network namespace: a file under /run/netns, or a process's ns/net.
pub fn open(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    open_file(path).map_err(because("open", &path.display().to_string()))
}

/// Runs `work` in the namespace, on a thread of its own that ends with it. A socket opened there stays in
/// that namespace; /proc/sys/net and /proc/thread-self/net are those of that namespace.
pub fn within<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    aside(|| {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Whether both are the same namespace.
pub fn same(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// The number that tells a namespace from all others, as long as it lives.
pub fn identity(netns: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(netns)?.st_ino)
}

/// As [`identity`], of whatever stands for a namespace, without opening it; `None`: there is none.
pub fn number(netns: &NetnsRef) -> Option<u64> {
    Some(fs::metadata(netns.path()).ok()?.ino())
}

fn file_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn pin(name: &str) -> io::Result<()> {
    // A name is a file of that directory: `a/b` or `..` would be another's.
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name under /run/netns"));
    }
    let _lock = prepare_directory()?;
    if exists(name) {
        return Ok(());
    }
    // What a crash between these two steps leaves, a file without a namespace, is taken over here.
    let file = file_of(name);
    fault::at("file of a namespace")?;
    match OpenOptions::new().write(true).create_new(true).mode(0o444).open(&file) {
        // It may be there; nobody may write to it, us included where we have not all of root's capabilities.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let made = aside(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // IPVS sends by the loopback what it delivers locally. It is up before the namespace is pinned: so there
        // is none where a kill came between.
        let loopback = Socket::open(NETLINK_ROUTE).and_then(|mut socket| link::bring_up(&mut socket, "lo"));
        loopback.map_err(io::Error::other)?;
        fault::at("mount")?;
        mount(Some(OWN), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        let _ = fs::remove_file(&file);
    }
    made
}

fn unpin(name: &str) -> io::Result<()> {
    let file = file_of(name);
    fault::at("unmount")?;
    match umount2(&file, MntFlags::MNT_DETACH) {
        // EINVAL: a file that no namespace is mounted on.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    fault::at("remove file of a namespace")?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the directory a shared mount point, so that namespaces pinned here are seen, and can be unpinned,
/// in every mount namespace of the host. The lock is the one that ip(8) takes for the same steps.
fn prepare_directory() -> io::Result<Flock<File>> {
    match fs::create_dir(DIRECTORY) {
        // Everyone may list namespaces, whatever our umask is.
        Ok(()) => fs::set_permissions(DIRECTORY, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let lock = Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let change = |source, flags| mount(source, DIRECTORY, None::<&str>, flags, None::<&str>);
    match change(None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC) {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            change(Some(DIRECTORY), MsFlags::MS_BIND | MsFlags::MS_REC)?;
            change(None, MsFlags::MS_SHARED | MsFlags::MS_REC)?;
        }
        other => other?,
    }
    Ok(lock)
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let not_one = || io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace");
    // The path may be an operator's mistake: a named pipe must not block.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if fstatfs(file.as_fd())?.filesystem_type() != NSFS_MAGIC {
        return Err(not_one());
    }
    let netns = OwnedFd::from(file);
    // setns is told the type that it must be, and answers EINVAL for a mount or PID namespace.
    within(&netns, || ())
        .map_err(|error| if error.raw_os_error() == Some(Errno::EINVAL as i32) { not_one() } else { error })?;
    Ok(netns)
}

/// Runs `work` on a thread of its own: what it does to its namespaces ends with it.
fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
