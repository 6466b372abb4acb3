//! This node's own WireGuard key, in the state directory: made once, and kept.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;
use x25519_dalek::StaticSecret;

use super::store::{absent_is_fine, make, sync};
use crate::objects::PrivateKey;

/// As wg(8) has it: `wg genkey` writes such a file, and `wg pubkey` reads it.
const FILE: &str = "wireguard.key";
/// Bytes; a key has 44.
const LONGEST: u64 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot {verb} the WireGuard key {}", .path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is no WireGuard key: put back what was there, or remove it; another is made then, and other nodes have to be told \
         its public key",
        .path.display()
    )]
    NoKey { path: PathBuf },
}

/// One that no one has, from the kernel's random numbers (getrandom(2)).
pub fn random() -> PrivateKey {
    StaticSecret::random().to_bytes().into()
}

/// The key that is there, or else a new one, which is there from now on; and whether it is new.
///
/// # Errors
/// There is something else in its place, or it cannot be read or made.
pub fn load_or_make(state_dir: &Path) -> Result<(PrivateKey, bool), KeyError> {
    let path = state_dir.join(FILE);
    if let Some(key) = load(&path)? {
        let tidied = restrict(&path).and_then(|()| remove_leftovers(state_dir));
        tidied.map_err(|source| KeyError::Io { verb: "restrict", path, source })?;
        return Ok((key, false));
    }
    write_new(state_dir, &path, &random()).map_err(|source| KeyError::Io {
        verb: "make",
        path: path.clone(),
        source,
    })?;
    // Someone else may have come first.
    load(&path)?.map(|key| (key, true)).ok_or(KeyError::NoKey { path })
}

/// The key, if there is one. Nothing is touched.
///
/// # Errors
/// As [`load_or_make`].
pub fn load_from(state_dir: &Path) -> Result<Option<PrivateKey>, KeyError> {
    load(&state_dir.join(FILE))
}

fn load(path: &Path) -> Result<Option<PrivateKey>, KeyError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => return Err(KeyError::NoKey { path: path.to_owned() }),
        Err(source) => return Err(KeyError::Io { verb: "read", path: path.to_owned(), source }),
    };
    text.trim().parse().map(Some).map_err(|_| KeyError::NoKey { path: path.to_owned() })
}

fn read(path: &Path) -> io::Result<String> {
    // A named pipe would have us wait.
    let status = fs::metadata(path)?;
    if !status.is_file() || status.len() > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    fs::read_to_string(path)
}

/// What a crash left of making the key is a key, too.
fn remove_leftovers(state_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.strip_prefix(FILE).is_some_and(|rest| rest.starts_with('.')) {
            absent_is_fine(fs::remove_file(&path))?;
        }
    }
    Ok(())
}

fn restrict(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        warn!("others could read {}: its mode is 0600 now, but consider a new key", path.display());
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Either all of it is there, for good, or nothing; a key that is there stays.
fn write_new(state_dir: &Path, path: &Path, key: &PrivateKey) -> io::Result<()> {
    make(state_dir)?;
    let new = path.with_extension(format!("key.{}", std::process::id()));
    absent_is_fine(fs::remove_file(&new))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = writeln!(file, "{}", key.encode()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&new, path) {
        // Someone else came first, and took ours for a leftover.
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => Ok(()),
        other => other,
    });
    let removed = absent_is_fine(fs::remove_file(&new));
    linked.and(removed).and_then(|()| sync(state_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own, gone with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("meshd-key-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            Directory(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join(FILE)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let directory = Directory::new("once");
        assert!(load_from(&directory.0).unwrap().is_none());
        let (key, new) = load_or_make(&directory.0).unwrap();
        assert!(new && key.public() != random().public());
        // As a crash would leave it.
        fs::write(directory.0.join("wireguard.key.4711"), key.encode()).unwrap();
        let (again, new) = load_or_make(&directory.0).unwrap();
        assert!(!new && again.public() == key.public());
        assert_eq!(load_from(&directory.0).unwrap().unwrap().public(), key.public());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.0), mode(&directory.file())), (0o700, 0o600));
        assert_eq!(fs::read_to_string(directory.file()).unwrap().len(), 45, "as `wg genkey` writes it");
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);

        fs::set_permissions(directory.file(), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load_or_make(&directory.0).unwrap().0.public(), key.public());
        assert_eq!(mode(&directory.file()), 0o600);
    }

    #[test]
    fn who_comes_second_takes_the_key_of_the_first() {
        let directory = Directory::new("second");
        let (first, _) = load_or_make(&directory.0).unwrap();
        write_new(&directory.0, &directory.file(), &random()).unwrap();
        assert_eq!(load_or_make(&directory.0).unwrap().0.public(), first.public());
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_is_named_and_stays() {
        let directory = Directory::new("bad");
        fs::create_dir_all(&directory.0).unwrap();
        for text in ["", "hello", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LC", &"A".repeat(5000), "\u{fffd}"] {
            fs::write(directory.file(), text).unwrap();
            let error = load_or_make(&directory.0).unwrap_err().to_string();
            assert!(error.contains("wireguard.key is no WireGuard key"), "{error}");
            assert_eq!(fs::read_to_string(directory.file()).unwrap(), text);
        }
        fs::write(directory.file(), [0xff, 0xfe]).unwrap();
        assert!(load_or_make(&directory.0).unwrap_err().to_string().contains("no WireGuard key"));
        fs::remove_file(directory.file()).unwrap();
        fs::create_dir(directory.file()).unwrap();
        assert!(load_or_make(&directory.0).is_err());
    }
}
