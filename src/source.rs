//! Where intent comes from: the configuration file and the control socket, merged into one mesh.
//!
//! Every accepted change has a number, its generation. A service has one owner: what the file defines, the
//! socket may not change. If the file comes to define a service that the socket made, the file takes it over.

mod admit;
mod edit;
pub mod file;
mod kept;
pub mod key;
mod store;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::config::{Beside, Config, Misfit, Standing, judge_beside};
use crate::control::protocol::{Entry, Owner, Problem, Services};
use crate::mesh::{Mesh, PublicKey, Service};

use admit::{Aside, Declared, admit, fault, fitting, merged, taken};

pub use edit::{Action, Edit};
pub use kept::{Flaw, Kept, decode, encode};
pub use store::{Found, OpenError, Store, WriteError};

/// What the kernel is to hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub generation: u64,
    pub config: Arc<Config>,
    pub mesh: Arc<Mesh>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It is made in memory. The service's generation now, and whether that is a new one.
    Done { generation: u64, changed: bool },
    /// It only goes with what was changed before, not with what that was: a power cut between the two would leave
    /// services that clash. So what was changed has to last first; then it can be tried again.
    CommitFirst,
}

/// A configuration that goes with what the socket has.
#[derive(Debug)]
pub struct Candidate {
    config: Config,
    pub mesh: Mesh,
    admitted: BTreeMap<String, Declared>,
    aside: BTreeMap<String, Aside>,
    /// Services of the socket that the file defines now.
    taken: Vec<String>,
}

/// Everything that is wanted, and who wants it.
#[derive(Debug)]
pub struct Sources {
    pub path: PathBuf,
    host_name: String,
    /// This node's own, where it encrypts.
    key: Option<PublicKey>,
    config: Arc<Config>,
    /// Since when each service of the file is as it is.
    of_file: BTreeMap<String, u64>,
    of_socket: BTreeMap<String, Declared>,
    /// All that are in force.
    standing: Standing,
    aside: BTreeMap<String, Aside>,
    /// What the file took over at the start, and is still kept.
    taken: Vec<String>,
    /// `Err`: nothing can be kept, for that reason; then the socket can only be asked.
    store: Result<Store, String>,
    generation: u64,
    /// What [`commit`](Sources::commit) has to make last, as it was before.
    staged: BTreeMap<String, Option<Declared>>,
    committed: u64,
    /// Files of the state directory that were not used.
    refused_files: Vec<String>,
    /// Why the last reload was refused, if it was.
    pub refused_reload: Option<String>,
}

impl Sources {
    /// Merges a configuration and what the state directory has. What was kept and does not go with the file is left
    /// out and named, but stays kept.
    ///
    /// # Errors
    /// Something may be kept that cannot be read, or another meshd has it.
    pub fn open(path: PathBuf, config: Config, host_name: &str) -> Result<Sources, OpenError> {
        let nothing = |reason: String| {
            let reason = format!("[node] state_dir: {reason}");
            warn!("{reason}; services can only come from the file");
            (Err(reason), BTreeMap::new(), 0, Vec::new())
        };
        let (mut store, mut kept, generation, refused_files) = match Store::open(&config.node.state_dir) {
            Ok(Found { store, services, generation, refused }) => (Ok(store), services, generation, refused),
            Err(absent @ OpenError::Absent { .. }) => nothing(absent.to_string()),
            Err(error) => return Err(error),
        };
        // Of a start that fails later, or is killed, no number is given out again.
        let generation = generation + 1;
        if let Ok(there) = &mut store
            && let Err(error) = there.reserve(generation)
        {
            let reason = format!("[node] state_dir: {} cannot be written: {error}", config.node.state_dir.display());
            warn!("{reason}; what the control socket said before is in force, and it can say no more");
            store = Err(reason);
        }
        let taken = taken(&config, &mut kept);
        let (of_socket, aside) = fitting(&config, kept);
        for (name, Aside { reason, .. }) in &aside {
            error!(
                "service {name} of the control socket is not in force, it does not go with {}: {reason}",
                path.display()
            );
        }
        Ok(Sources {
            path,
            host_name: host_name.to_owned(),
            key: None,
            of_file: config.services.iter().map(|service| (service.name.clone(), generation)).collect(),
            standing: standing(&config, &of_socket),
            config: Arc::new(config),
            of_socket,
            aside,
            taken,
            store,
            generation,
            staged: BTreeMap::new(),
            committed: generation,
            refused_files,
            refused_reload: None,
        })
    }

    /// This node's own key is part of the mesh from now on.
    ///
    /// # Errors
    /// The file has another one for this node.
    pub fn encrypt(&mut self, key: PublicKey) -> Result<(), String> {
        self.key = Some(key);
        agrees(&self.config, &self.host_name, self.key)
    }

    pub fn wanted(&self) -> Wanted {
        Wanted { generation: self.generation, config: self.config.clone(), mesh: Arc::new(self.mesh()) }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is kept, or would be, and is not in force; and why nothing can be kept, if so.
    pub fn troubles(&self) -> Vec<String> {
        let store = self.store.as_ref().err().cloned();
        let aside = self.aside.iter().map(|(name, Aside { reason, .. })| {
            format!("service {name} is kept but not in force, it does not go with the file: {reason}")
        });
        store.into_iter().chain(self.refused_files.iter().cloned()).chain(aside).collect()
    }

    /// Where services are kept.
    pub fn state_dir(&self) -> &Path {
        self.store.as_ref().map_or(&self.config.node.state_dir, Store::directory)
    }

    pub fn list(&self) -> Services {
        let names: BTreeSet<&String> = self.of_file.keys().chain(self.of_socket.keys()).collect();
        let services = names.into_iter().filter_map(|name| self.entry(name)).collect();
        Services { generation: self.generation, services }
    }

    /// # Errors
    /// There is no such service.
    pub fn get(&self, name: &str) -> Result<Entry, Problem> {
        self.entry(name).ok_or_else(|| {
            let detail = match self.aside.get(name) {
                Some(Aside { reason, .. }) => format!("service {name} is kept but not in force: {reason}"),
                None => format!("no service {}", name.escape_debug()),
            };
            Problem::not_found(detail)
        })
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        if let Some(Declared { kept, .. }) = self.of_socket.get(name) {
            return Some(Entry { owner: Owner::Socket, generation: kept.generation, service: kept.service.clone() });
        }
        let service = self.config.services.iter().find(|service| service.name == name)?;
        let generation = *self.of_file.get(name)?;
        Some(Entry { owner: Owner::File, generation, service: written::write(service) })
    }

    /// Makes a change in memory; [`commit`](Sources::commit) makes it last.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed then.
    pub fn change(&mut self, edit: &Edit, expected: Option<u64>) -> Result<Staged, Problem> {
        if let Err(reason) = &self.store {
            return Err(Problem::new(507, "nowhere to keep it", reason.clone()));
        }
        let declared = match self.judged(edit, expected, true) {
            Ok(declared) => declared,
            Err(_) if !self.staged.is_empty() && self.judged(edit, expected, false).is_ok() => {
                return Ok(Staged::CommitFirst);
            }
            Err(problem) => return Err(problem),
        };
        let before = self.of_socket.get(&edit.service);
        if let (Some(before), Some(declared)) = (before, &declared)
            && before.kept.service == declared.kept.service
        {
            return Ok(Staged::Done { generation: before.kept.generation, changed: false });
        }
        let before = self.set(&edit.service, declared);
        self.generation += 1;
        // Of several changes of one service, what was before the first is what was.
        self.staged.entry(edit.service.clone()).or_insert(before);
        Ok(Staged::Done { generation: self.generation, changed: true })
    }

    /// Another one in its place, or none; answers what it was.
    fn set(&mut self, name: &str, declared: Option<Declared>) -> Option<Declared> {
        let before = self.of_socket.remove(name);
        before.iter().for_each(|before| self.standing.remove(&before.service));
        if let Some(declared) = declared {
            self.standing.add(&declared.service);
            self.of_socket.insert(name.to_owned(), declared);
        }
        before
    }

    /// The mesh as it would be with that change.
    ///
    /// # Errors
    /// As [`change`](Sources::change).
    pub fn try_change(&self, edit: &Edit, expected: Option<u64>) -> Result<Mesh, Problem> {
        let declared = self.judged(edit, expected, false)?;
        let mut mesh = self.mesh();
        mesh.services.retain(|service| service.name != edit.service);
        mesh.services.extend(declared.map(|declared| declared.service));
        Ok(mesh)
    }

    /// The service as it is after that change, found good; `None`: it is gone. `also_before`: also beside what other
    /// services were before the changes that are not committed yet.
    fn judged(&self, edit: &Edit, expected: Option<u64>, also_before: bool) -> Result<Option<Declared>, Problem> {
        let name = &edit.service;
        if self.of_file.contains_key(name) {
            return Err(Problem::conflict(format!(
                "service {name} belongs to {}: change it there, and reload",
                self.path.display()
            )));
        }
        let aside = || self.aside.get(name).map(|aside| &aside.kept);
        let before = self.of_socket.get(name).map(|declared| &declared.kept).or_else(aside);
        let there = before.map_or(0, |kept| kept.generation);
        if let Some(expected) = expected.filter(|expected| *expected != there) {
            let now = if there == 0 { "is not there".to_owned() } else { format!("has generation {there}") };
            return Err(Problem::conflict(format!(
                "service {name} {now}, not {expected}: look at it again before you change it"
            )));
        }
        let text = before.map(|kept| serde_json::to_value(&kept.service)).transpose();
        let text = text.map_err(|error| Problem::malformed(error.to_string()))?;
        let Some(new) = edit.apply(text)? else { return Ok(None) };

        let staged = self.staged.iter().filter(|(other, _)| also_before && *other != name);
        let also: Vec<&Service> = staged.filter_map(|(_, before)| Some(before.as_ref()?.service.as_ref())).collect();
        let without = self.of_socket.get(name).map(|declared| declared.service.as_ref());
        let beside = Beside { standing: &self.standing, without, also: &also };
        let mut judged = judge_beside(&[&new], &self.config, &beside).map_err(|misfits| refuse(&misfits))?;
        let service = judged.pop().ok_or_else(|| Problem::malformed("no service was read"))?;
        let written = serde_json::from_value(new).map_err(|error| Problem::malformed(error.to_string()))?;
        Ok(Some(Declared { kept: Kept { generation: self.generation + 1, service: written }, service }))
    }

    /// Makes all changes since the last commit last.
    ///
    /// # Errors
    /// In memory all is as it was. On disk too, or that is in doubt: then nothing can be kept any more.
    pub fn commit(&mut self) -> Result<(), WriteError> {
        let staged = std::mem::take(&mut self.staged);
        if staged.is_empty() {
            return Ok(());
        }
        let now = |name: &String| self.of_socket.get(name).map(|declared| declared.kept.clone());
        let changes = staged.keys().map(|name| (name.clone(), now(name))).collect();
        let outcome = match &mut self.store {
            Ok(store) => store.write(&changes, self.generation),
            Err(reason) => Err(WriteError::Nothing(std::io::Error::other(reason.clone()))),
        };
        let Err(error) = outcome else {
            self.committed = self.generation;
            staged.keys().for_each(|name| drop(self.aside.remove(name)));
            return Ok(());
        };
        for (name, before) in staged {
            self.set(&name, before);
        }
        if let WriteError::Doubt(error) = &error {
            let reason =
                format!("{} failed in the middle of a change: {error}; restart meshd", self.state_dir().display());
            self.store = Err(reason);
        } else {
            self.generation = self.committed;
        }
        Err(error)
    }

    /// Whether a configuration goes with what the socket has.
    ///
    /// # Errors
    /// A service of the socket that is in force does not go with it.
    pub fn candidate(&self, config: Config) -> Result<Candidate, String> {
        let mut kept = self.of_socket.iter().map(|(name, declared)| (name.clone(), declared.kept.clone())).collect();
        let mut taken = taken(&config, &mut kept);
        let mut admitted = admit(&config, kept, &[]).map_err(|misfits| {
            let told = misfits.into_iter().map(|(name, reason)| {
                format!(
                    "service {name} of the control socket does not go with this file: {reason}; \
                     `meshctl service rm {name}`, or another file, would do"
                )
            });
            told.collect::<Vec<_>>().join("\n")
        })?;
        let mut aside = BTreeMap::new();
        for (name, Aside { kept, .. }) in &self.aside {
            if config.services.iter().any(|service| service.name == *name) {
                taken.push(name.clone());
                continue;
            }
            let beside: Vec<&Service> =
                admitted.values().map(|declared: &Declared| declared.service.as_ref()).collect();
            match admit(&config, BTreeMap::from([(name.clone(), kept.clone())]), &beside) {
                Ok(fits) => admitted.extend(fits),
                Err(misfits) => {
                    let reason = misfits.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join("; ");
                    aside.insert(name.clone(), Aside { kept: kept.clone(), reason });
                }
            }
        }
        agrees(&config, &self.host_name, self.key)?;
        let mesh = merged(&config, &self.host_name, self.key, &admitted);
        Ok(Candidate { config, mesh, admitted, aside, taken })
    }

    /// Takes a new configuration. Services of the socket that it defines are the file's from now on.
    ///
    /// Answers the generation, and whether anything is different.
    pub fn reload(&mut self, candidate: Candidate) -> (u64, bool) {
        let Candidate { mut config, admitted, aside, taken, .. } = candidate;
        let changed = config != *self.config || !taken.is_empty() || aside.len() != self.aside.len();
        let before: BTreeMap<&str, &Arc<Service>> =
            self.config.services.iter().map(|service| (service.name.as_str(), service)).collect();
        // What is the same stays the same: so it costs nothing further on.
        for service in &mut config.services {
            if let Some(old) = before.get(service.name.as_str()).filter(|old| **old == service) {
                *service = Arc::clone(old);
            }
        }
        self.generation += 1;
        let since = |service: &Arc<Service>| {
            let same = before.get(service.name.as_str()).is_some_and(|old| Arc::ptr_eq(old, service));
            same.then(|| self.of_file.get(&service.name).copied()).flatten().unwrap_or(self.generation)
        };
        self.of_file = config.services.iter().map(|service| (service.name.clone(), since(service))).collect();
        self.config = Arc::new(config);
        self.of_socket = admitted;
        self.standing = standing(&self.config, &self.of_socket);
        self.aside = aside;
        self.committed = self.generation;
        self.taken.extend(taken);
        self.hand_over();
        if let Ok(store) = &mut self.store
            && let Err(error) = store.reserve(self.generation)
        {
            warn!("cannot keep the generation: {error}");
        }
        (self.generation, changed)
    }

    /// What the file has taken over is kept no longer. At a start, only once that is certain to go on: a start that
    /// fails must leave things as they were.
    pub fn hand_over(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            return;
        }
        for name in &taken {
            info!("service {name} belongs to {} from now on", self.path.display());
        }
        let changes = taken.into_iter().map(|name| (name, None)).collect();
        if let Ok(store) = &mut self.store
            && let Err(error) = store.write(&changes, self.generation)
        {
            error!("cannot forget what the control socket said of services that the file defines: {error}");
        }
    }

    fn mesh(&self) -> Mesh {
        merged(&self.config, &self.host_name, self.key, &self.of_socket)
    }
}

fn standing(config: &Config, of_socket: &BTreeMap<String, Declared>) -> Standing {
    let of_socket = of_socket.values().map(|declared| &declared.service);
    config.services.iter().chain(of_socket).map(|service| service.as_ref()).collect()
}

/// What the list of peers says of this node's own key is what the other nodes go by.
fn agrees(config: &Config, host_name: &str, key: Option<PublicKey>) -> Result<(), String> {
    let name = config.node_name(host_name);
    let twin = config.peers.iter().find(|peer| key.is_some() && peer.key == key && peer.name != name);
    if let Some(twin) = twin {
        return Err(format!(
            "[[peer]] public_key of {} is this node's own: was its disk copied? Remove wireguard.key in [node] state_dir there, \
             and list its new one",
            twin.name
        ));
    }
    match (config.listed_key(host_name), key) {
        (Some(listed), Some(key)) if listed != key => Err(format!(
            "[[peer]] public_key of this node is \"{listed}\", and its key has \"{key}\": list that, on all nodes, or put back \
             the key that was in [node] state_dir"
        )),
        _ => Ok(()),
    }
}

/// The mesh of a configuration and of what the state directory has, without touching either: a daemon may be at work.
///
/// # Errors
/// Something may be kept that cannot be read.
pub fn peek(config: &Config, host_name: &str, key: Option<PublicKey>) -> Result<Mesh, OpenError> {
    let mut kept = Store::peek(&config.node.state_dir)?;
    taken(config, &mut kept);
    let (fitting, _) = fitting(config, kept);
    Ok(merged(config, host_name, key, &fitting))
}

fn refuse(misfits: &[Misfit]) -> Problem {
    Problem::faults(misfits.iter().map(fault).collect())
}
