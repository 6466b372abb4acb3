//! One daemon for one sandbox: whoever comes second is told who was first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Names;

/// Held as long as the value lives; the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} belongs to another meshd: {holder}")]
    Held { what: String, holder: String },
    #[error("cannot lock {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of a sandbox. `about` says who we are, for those who come later.
    pub fn take(names: &Names, about: &str) -> Result<Lock, Error> {
        let path = names.runtime_directory().join("lock");
        Lock::hold(&path, &format!("sandbox {}", names.sandbox), about)
    }

    /// Takes the lock that is that file, of what is called `what`.
    pub fn hold(path: &Path, what: &str, about: &str) -> Result<Lock, Error> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let written = file.set_len(0).and_then(|()| write!(file, "pid {}, {about}", std::process::id()));
                written.map_err(failed)?;
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                Err(Error::Held { what: what.to_owned(), holder })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
