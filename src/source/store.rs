//! The state directory: what came through the control socket, one file for each service.
//!
//! ```text
//! services/              mode 0700; locked by the meshd that uses it
//! services/kafka.json           as it was last acknowledged
//! services/kafka.json.last      as it was before that
//! services/kafka.json.new       being written; left over, it never counted
//! services/kafka.json.refused   not used at a start: torn, or someone else's
//! wireguard.key                 mode 0600; this node's own, see `key`
//! generation                    no generation above this number was ever given out
//! ```
//!
//! A file is written beside its place, synced, and renamed; then the directory is synced. So at any moment each
//! service is there as it was before a change or after it, and what was acknowledged outlives a power cut.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::{error, warn};

use super::kept::{Flaw, Kept, decode, encode};
use crate::kernel::fault;
use crate::kernel::lock::{self, Lock};

/// Generations are promised to the disk by so many: not every change has to write the number.
const STRIDE: u64 = 1000;
/// No honest count comes that far.
const LAST_GENERATION: u64 = u64::MAX / 2;

#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// No generation above that was given out, as far as the disk knows.
    reserved: u64,
    /// Held until the process ends.
    _lock: Option<Lock>,
}

/// What a start finds.
#[derive(Debug)]
pub struct Found {
    pub store: Store,
    pub services: BTreeMap<String, Kept>,
    /// No generation above this was ever given out.
    pub generation: u64,
    /// Files that are not used, each with the reason.
    pub refused: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and none can be made: nothing was ever kept there.
    #[error("cannot make {}: {source}", .path.display())]
    Absent { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Locked(#[from] lock::Error),
    /// There may be services that are wanted, and cannot be read: not to know of them would be to remove them.
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// All is as it was.
    #[error("{0}")]
    Nothing(io::Error),
    /// Some of it may be there.
    #[error("{0}")]
    Doubt(io::Error),
}

/// What a service's files have.
enum Reading {
    Good(Kept),
    /// What is wrong with the current one, and the service as it was before.
    Bad {
        reason: String,
        before: Option<Kept>,
    },
}

impl Store {
    /// Reads what is there. A file that is not good is put aside, and its last good version is used.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<Found, OpenError> {
        let path = directory.join("services");
        make(&path).map_err(|source| OpenError::Absent { path: path.clone(), source })?;
        let mut store = Store { directory: directory.to_owned(), reserved: 0, _lock: Some(Lock::directory(&path)?) };
        let mut refused = Vec::new();
        let mut services = BTreeMap::new();
        for file in list(&path)? {
            if file.ends_with(".json.new")
                && let Err(error) = fs::remove_file(path.join(&file))
            {
                warn!("cannot remove {}: {error}", path.join(&file).display());
            }
            let Some(name) = file.strip_suffix(".json") else { continue };
            let kept = match store.current_or_last(name)? {
                Reading::Good(kept) => Some(kept),
                Reading::Bad { reason, before } => {
                    refused.push(store.put_aside(name, &reason, before.as_ref()));
                    before
                }
            };
            services.extend(kept.map(|kept| (name.to_owned(), kept)));
        }
        store.reserved = store.read_generation(&mut refused)?;
        let highest = services.values().map(|kept| kept.generation).max().unwrap_or(0);
        let generation = store.reserved.max(highest);
        Ok(Found { store, services, generation, refused })
    }

    /// What [`open`](Store::open) would find, with nothing touched.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory that is not there has nothing.
    pub fn peek(directory: &Path) -> Result<BTreeMap<String, Kept>, OpenError> {
        let store = Store { directory: directory.to_owned(), reserved: 0, _lock: None };
        if !store.services().exists() {
            return Ok(BTreeMap::new());
        }
        let mut services = BTreeMap::new();
        for file in list(&store.services())? {
            let Some(name) = file.strip_suffix(".json") else { continue };
            match store.current_or_last(name)? {
                Reading::Good(kept) | Reading::Bad { before: Some(kept), .. } => {
                    services.insert(name.to_owned(), kept);
                }
                Reading::Bad { before: None, .. } => {}
            }
        }
        Ok(services)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the changes last: services as they are now, or `None` where they are gone.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write(&mut self, changes: &BTreeMap<String, Option<Kept>>, generation: u64) -> Result<(), WriteError> {
        self.reserve(generation).map_err(WriteError::Nothing)?;
        let written = changes.iter().filter_map(|(name, kept)| Some((name, kept.as_ref()?)));
        for (name, kept) in written {
            let new = self.file(name, ".json.new");
            let text = encode(kept).map_err(io::Error::other);
            if let Err(error) = text.and_then(|text| write_synced(&new, text.as_bytes())) {
                changes.keys().for_each(|name| drop(fs::remove_file(self.file(name, ".json.new"))));
                return Err(WriteError::Nothing(error));
            }
        }
        changes.iter().try_for_each(|(name, kept)| self.replace(name, kept.is_some())).map_err(WriteError::Doubt)?;
        sync(&self.services()).map_err(WriteError::Doubt)
    }

    /// The new file takes the place, or the place is empty.
    fn replace(&self, name: &str, by_new: bool) -> io::Result<()> {
        let (current, last) = (self.file(name, ".json"), self.file(name, ".json.last"));
        absent_is_fine(fs::remove_file(&last))?;
        if !by_new {
            return absent_is_fine(fs::remove_file(&current));
        }
        fault::at("link state")?;
        absent_is_fine(fs::hard_link(&current, &last))?;
        fault::at("rename state")?;
        fs::rename(self.file(name, ".json.new"), &current)
    }

    /// Makes sure that no generation up to this one is given out twice, whatever happens.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn reserve(&mut self, generation: u64) -> io::Result<()> {
        if generation <= self.reserved {
            return Ok(());
        }
        let reserved = generation.saturating_add(STRIDE);
        let (new, file) = (self.directory.join("generation.new"), self.directory.join("generation"));
        write_synced(&new, format!("{reserved}\n").as_bytes())?;
        fs::rename(&new, &file)?;
        sync(&self.directory)?;
        self.reserved = reserved;
        Ok(())
    }

    fn services(&self) -> PathBuf {
        self.directory.join("services")
    }

    fn file(&self, name: &str, suffix: &str) -> PathBuf {
        self.services().join(format!("{name}{suffix}"))
    }

    /// The service as it is kept; or what is wrong with its file, and the service as it was before.
    fn current_or_last(&self, name: &str) -> Result<Reading, OpenError> {
        let reason = match read_file(&self.file(name, ".json"), name)? {
            Ok(kept) => return Ok(Reading::Good(kept)),
            Err(reason) => reason,
        };
        let last = self.file(name, ".json.last");
        let before = if last.exists() { read_file(&last, name)?.ok() } else { None };
        Ok(Reading::Bad { reason, before })
    }

    /// A file that cannot be used gets another name, and the one before it takes its place. What was done, for people.
    fn put_aside(&self, name: &str, reason: &str, before: Option<&Kept>) -> String {
        let (current, aside) = (self.file(name, ".json"), self.file(name, ".json.refused"));
        // At no moment is there neither the bad file nor the good one.
        let moved =
            absent_is_fine(fs::remove_file(&aside)).and_then(|()| fs::hard_link(&current, &aside)).and_then(|()| {
                match before {
                    Some(_) => {
                        let new = self.file(name, ".json.new");
                        absent_is_fine(fs::remove_file(&new))?;
                        fs::hard_link(self.file(name, ".json.last"), &new)?;
                        fs::rename(&new, &current)
                    }
                    None => fs::remove_file(&current),
                }
            });
        if let Err(error) = moved.and_then(|()| sync(&self.services())) {
            warn!("cannot put {} aside: {error}", current.display());
        }
        let what_now = match before {
            Some(_) => format!("service {name} is as it was before its last change"),
            None => format!("service {name} is not there, for there is no good one before it"),
        };
        let line = format!("{} is {reason}: {what_now}; it is now {}", current.display(), aside.display());
        error!("{line}");
        line
    }

    fn read_generation(&self, refused: &mut Vec<String>) -> Result<u64, OpenError> {
        let path = self.directory.join("generation");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) if error.kind() == ErrorKind::InvalidData => error.to_string(),
            Err(error) => return Err(OpenError::Unreadable { path, reason: error.to_string() }),
        };
        if let Some(generation) = text.trim().parse().ok().filter(|number| *number < LAST_GENERATION) {
            return Ok(generation);
        }
        let line = format!("{} is no such number: generations go on from the services'", path.display());
        error!("{line}");
        refused.push(line);
        Ok(0)
    }
}

fn list(directory: &Path) -> Result<Vec<String>, OpenError> {
    let unreadable = |error: io::Error| OpenError::Unreadable { path: directory.to_owned(), reason: error.to_string() };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        names.extend(entry.map_err(unreadable)?.file_name().to_str().map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The service in a file, or what is wrong with it.
///
/// # Errors
/// The file may be good, and cannot be read now, or not by us.
fn read_file(path: &Path, name: &str) -> Result<Result<Kept, String>, OpenError> {
    let unreadable = |reason| OpenError::Unreadable { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    match decode(&bytes) {
        Ok(kept) if kept.service.name == name && kept.generation < LAST_GENERATION => Ok(Ok(kept)),
        Ok(kept) => Ok(Err(format!("of another service, {}", kept.service.name.escape_debug()))),
        Err(Flaw::Bad(reason)) => Ok(Err(reason)),
        Err(Flaw::Later(reason)) => Err(unreadable(format!("it is {reason}"))),
    }
}

/// Makes a directory for root's eyes only, and what it is in, so that all of it lasts.
pub(super) fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    make(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    sync(parent)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fault::at("write state")?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    fault::at("sync state")?;
    file.sync_all()
}

/// A file's name lasts once its directory is synced (fsync(2)).
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
