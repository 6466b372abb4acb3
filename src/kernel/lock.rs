//! One daemon for one sandbox, and for one state directory: whoever comes second is told who was first.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
        let failed = |source| Error::Io { path: path.clone(), source };
        fs::create_dir_all(names.runtime_directory()).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        // Whoever can read it could hold it, too.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let written = file.set_len(0).and_then(|()| write!(file, "pid {}, {about}", std::process::id()));
                written.map_err(failed)?;
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                Err(Error::Held { what: format!("sandbox {}", names.sandbox), holder })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Takes a directory, which stays as it is: that works where nothing can be written, too.
    pub fn directory(path: &Path) -> Result<Lock, Error> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        match Flock::lock(File::open(path).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(Error::Held { what: path.display().to_string(), holder: "it is in use".to_owned() })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
