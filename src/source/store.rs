//! The state directory: what came through the control socket, one file for each service.
//!
//! ```text
//! services/kafka.json           as it was last acknowledged
//! services/kafka.json.last      as it was before that
//! services/kafka.json.new       being written; left over, it never counted
//! services/kafka.json.refused   not used at a start: torn, or someone else's
//! generation                    no generation above this number was ever given out
//! lock                          held by the meshd that uses it
//! ```
//!
//! A file is written beside its place, synced, and renamed; then the directory is synced. So at any moment each
//! service is there as it was before a change or after it, and what was acknowledged outlives a power cut.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::{error, warn};

use super::kept::{Kept, decode, encode};

/// Generations are promised to the disk by so many: not every change has to write the number.
const STRIDE: u64 = 1000;

#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// No generation above that was given out, as far as the disk knows.
    reserved: u64,
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

impl Store {
    /// Reads what is there. A file that is not good is put aside, and its last good version is used.
    ///
    /// # Errors
    /// The directory can be neither read nor made.
    pub fn open(directory: &Path) -> io::Result<Found> {
        let mut store = Store { directory: directory.to_owned(), reserved: 0 };
        DirBuilder::new().recursive(true).mode(0o700).create(store.services())?;
        let mut refused = Vec::new();
        let mut services = BTreeMap::new();
        for entry in fs::read_dir(store.services())? {
            let path = entry?.path();
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if file.ends_with(".json.new") {
                fs::remove_file(&path)?;
            } else if let Some(name) = file.strip_suffix(".json")
                && let Some(kept) = store.read(name, &mut refused)
            {
                services.insert(name.to_owned(), kept);
            }
        }
        store.reserved = store.read_generation(&mut refused);
        let highest = services.values().map(|kept| kept.generation).max().unwrap_or(0);
        let generation = store.reserved.max(highest);
        Ok(Found { store, services, generation, refused })
    }

    /// The services that are kept, read without touching anything.
    pub fn peek(directory: &Path) -> BTreeMap<String, Kept> {
        let store = Store { directory: directory.to_owned(), reserved: 0 };
        let files = fs::read_dir(store.services()).into_iter().flatten().flatten();
        let good = files.filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_suffix(".json")?.to_owned();
            Some((name.clone(), read_file(&entry.path(), &name).ok()?))
        });
        good.collect()
    }

    /// Makes the changes last: services as they are now, or `None` where they are gone.
    ///
    /// # Errors
    /// Either nothing was changed, or what was is in doubt; then [`open`](Store::open) tells.
    pub fn write(&mut self, changes: &BTreeMap<String, Option<Kept>>, generation: u64) -> io::Result<()> {
        self.reserve(generation)?;
        let written = changes.iter().filter_map(|(name, kept)| Some((name, kept.as_ref()?)));
        for (name, kept) in written {
            let text = encode(kept).map_err(io::Error::other)?;
            if let Err(error) = write_synced(&self.file(name, ".json.new"), text.as_bytes()) {
                changes.keys().for_each(|name| drop(fs::remove_file(self.file(name, ".json.new"))));
                return Err(error);
            }
        }
        for (name, kept) in changes {
            let (current, last) = (self.file(name, ".json"), self.file(name, ".json.last"));
            absent_is_fine(fs::remove_file(&last))?;
            if kept.is_some() {
                absent_is_fine(fs::hard_link(&current, &last))?;
                fs::rename(self.file(name, ".json.new"), &current)?;
            } else {
                absent_is_fine(fs::remove_file(&current))?;
            }
        }
        sync(&self.services())
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

    /// The service as it is kept, or as it was before; what cannot be used is put aside.
    fn read(&self, name: &str, refused: &mut Vec<String>) -> Option<Kept> {
        let (current, last) = (self.file(name, ".json"), self.file(name, ".json.last"));
        let reason = match read_file(&current, name) {
            Ok(kept) => return Some(kept),
            Err(reason) => reason,
        };
        let before = read_file(&last, name).ok();
        let aside = self.file(name, ".json.refused");
        let moved = fs::rename(&current, &aside).and_then(|()| match before {
            Some(_) => fs::hard_link(&last, &current),
            None => Ok(()),
        });
        if let Err(error) = moved {
            warn!("cannot put {} aside: {error}", current.display());
        }
        let what_now = match before {
            Some(_) => format!("service {name} is as it was before its last change"),
            None => format!("service {name} is not there, for there is no good one before it"),
        };
        let line = format!("{} is {reason}: {what_now}; it is now {}", current.display(), aside.display());
        error!("{line}");
        refused.push(line);
        before
    }

    fn read_generation(&self, refused: &mut Vec<String>) -> u64 {
        let path = self.directory.join("generation");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return 0,
            Err(error) => error.to_string(),
        };
        text.trim().parse().unwrap_or_else(|_| {
            let line = format!("{} is no number: generations go on from the services'", path.display());
            error!("{line}");
            refused.push(line);
            0
        })
    }
}

fn read_file(path: &Path, name: &str) -> Result<Kept, String> {
    let bytes = fs::read(path).map_err(|error| format!("not to be read ({error})"))?;
    let kept = decode(&bytes)?;
    if kept.service.name == name { Ok(kept) } else { Err(format!("of another service, {}", kept.service.name)) }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file's name lasts once its directory is synced (fsync(2)).
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
