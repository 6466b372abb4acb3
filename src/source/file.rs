//! The configuration file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Errors};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// One line for each thing that is wrong, with file, line and column.
    #[error("{0}")]
    Config(Errors),
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config, Error> {
    read(path, Config::parse)
}

/// The state directory that a configuration file speaks of, whatever else is wrong with it.
pub fn state_dir(path: &Path) -> Result<PathBuf, Error> {
    read(path, Config::state_dir)
}

fn read<T>(path: &Path, parse: impl FnOnce(&str, &str) -> Result<T, Errors>) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string()).map_err(Error::Config)
}

/// What tells one state of a file from the next, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds, of the content and of the inode.
    changed: [i64; 4],
}

/// Of the file that the path leads to, through whatever links: an editor's rename gives it another inode, and so
/// does a link that is swapped. `None`: there is no file just now.
///
/// This is looked at twice a second in place of inotify(7), which watches inodes: it would have to follow every
/// directory and link of the way, and sees nothing on network file systems.
pub fn signature(path: &Path) -> Option<Signature> {
    let file = fs::metadata(path).ok()?;
    Some(Signature {
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        changed: [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()],
    })
}
