//! Where intent comes from: the configuration file and the control socket, merged into one mesh.
//!
//! Every accepted change has a number, its generation. A service has one owner: what the file defines, the
//! socket may not change. If the file comes to define a service that the socket made, the file takes it over.

mod edit;
pub mod file;
mod kept;
mod store;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tracing::{error, info, warn};

use crate::config::{Config, Misfit, judge};
use crate::control::protocol::{Entry, Fault, Owner, Problem, Services};
use crate::mesh::{Mesh, Service};

pub use edit::{Action, Edit};
pub use kept::{Kept, decode, encode};
pub use store::{Found, Store};

/// What the kernel is to hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub generation: u64,
    pub config: Arc<Config>,
    pub mesh: Arc<Mesh>,
}

/// The mesh of a configuration and of what the state directory has, without touching either: a daemon may be at work.
///
/// # Errors
/// A kept service does not go with the file.
pub fn peek(config: &Config, host_name: &str) -> Result<Mesh, String> {
    let (admitted, _) = admit(config, Store::peek(&config.node.state_dir))?;
    Ok(merged(config, host_name, admitted.into_values()))
}

/// A service of the socket: as it was written, and what that means.
#[derive(Clone, Debug)]
struct Declared {
    kept: Kept,
    service: Service,
}

/// Everything that is wanted, and who wants it.
#[derive(Debug)]
pub struct Sources {
    pub path: PathBuf,
    host_name: String,
    config: Arc<Config>,
    /// Since when each service of the file is as it is.
    of_file: BTreeMap<String, u64>,
    of_socket: BTreeMap<String, Declared>,
    /// `None`: there is no place to keep services, for that reason; then the socket can only be asked.
    store: Result<Store, String>,
    generation: u64,
    /// What [`commit`](Sources::commit) has to make last, as it was before.
    staged: BTreeMap<String, Option<Declared>>,
    committed: u64,
    /// Files of the state directory that were not used.
    pub refused_files: Vec<String>,
    /// Why the last reload was refused, if it was.
    pub refused_reload: Option<String>,
}

impl Sources {
    /// Merges a configuration and what the state directory has.
    ///
    /// # Errors
    /// A kept service does not go with the file: both are named.
    pub fn open(path: PathBuf, config: Config, host_name: &str) -> Result<Sources, String> {
        let (store, kept, generation, refused_files) = match Store::open(&config.node.state_dir) {
            Ok(Found { store, services, generation, refused }) => (Ok(store), services, generation, refused),
            Err(error) => {
                let reason = format!("cannot use [node] state_dir {}: {error}", config.node.state_dir.display());
                warn!("{reason}; services can only come from the file");
                (Err(reason), BTreeMap::new(), 0, Vec::new())
            }
        };
        let generation = generation + 1;
        let mut sources = Sources {
            path,
            host_name: host_name.to_owned(),
            of_file: config.services.iter().map(|service| (service.name.clone(), generation)).collect(),
            config: Arc::new(config),
            of_socket: BTreeMap::new(),
            store,
            generation,
            staged: BTreeMap::new(),
            committed: generation,
            refused_files,
            refused_reload: None,
        };
        let (admitted, taken) = admit(&sources.config, kept)?;
        sources.of_socket = admitted;
        sources.hand_over(taken);
        Ok(sources)
    }

    pub fn wanted(&self) -> Wanted {
        Wanted { generation: self.generation, config: self.config.clone(), mesh: Arc::new(self.mesh()) }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn list(&self) -> Services {
        let names: BTreeSet<&String> = self.of_file.keys().chain(self.of_socket.keys()).collect();
        let services = names.into_iter().filter_map(|name| self.entry(name)).collect();
        Services { generation: self.generation, services }
    }

    /// # Errors
    /// There is no such service.
    pub fn get(&self, name: &str) -> Result<Entry, Problem> {
        self.entry(name).ok_or_else(|| Problem::not_found(format!("no service {}", name.escape_debug())))
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        if let Some(Declared { kept, .. }) = self.of_socket.get(name) {
            return Some(Entry { owner: Owner::Socket, generation: kept.generation, service: kept.service.clone() });
        }
        let service = self.config.services.iter().find(|service| service.name == name)?;
        let generation = *self.of_file.get(name)?;
        Some(Entry { owner: Owner::File, generation, service: written::write(service) })
    }

    /// Makes a change in memory; [`commit`](Sources::commit) makes it last. Answers the service's generation
    /// then, and whether anything changed.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed then.
    pub fn change(&mut self, edit: &Edit, expected: Option<u64>) -> Result<(u64, bool), Problem> {
        if let Err(reason) = &self.store {
            return Err(Problem::new(507, "nowhere to keep it", reason.clone()));
        }
        let Some(declared) = self.judged(edit, expected)? else {
            let before = self.of_socket.remove(&edit.service);
            return Ok((self.stage(&edit.service, before), true));
        };
        let before = self.of_socket.get(&edit.service);
        if let Some(same) = before.filter(|before| before.kept.service == declared.kept.service) {
            return Ok((same.kept.generation, false));
        }
        let before = self.of_socket.insert(edit.service.clone(), declared);
        Ok((self.stage(&edit.service, before), true))
    }

    /// The mesh as it would be with that change.
    ///
    /// # Errors
    /// As [`change`](Sources::change).
    pub fn try_change(&self, edit: &Edit, expected: Option<u64>) -> Result<Mesh, Problem> {
        let declared = self.judged(edit, expected)?;
        let mut mesh = self.mesh();
        mesh.services.retain(|service| service.name != edit.service);
        mesh.services.extend(declared.map(|declared| declared.service));
        Ok(mesh)
    }

    /// The service as it is after that change, found good; `None`: it is gone.
    fn judged(&self, edit: &Edit, expected: Option<u64>) -> Result<Option<Declared>, Problem> {
        let name = &edit.service;
        if self.of_file.contains_key(name) {
            return Err(Problem::conflict(format!(
                "service {name} belongs to {}: change it there, and reload",
                self.path.display()
            )));
        }
        let before = self.of_socket.get(name);
        let there = before.map_or(0, |declared| declared.kept.generation);
        if let Some(expected) = expected.filter(|expected| *expected != there) {
            let now = if there == 0 { "is not there".to_owned() } else { format!("has generation {there}") };
            return Err(Problem::conflict(format!(
                "service {name} {now}, not {expected}: look at it again before you change it"
            )));
        }
        let text = before.map(|declared| serde_json::to_value(&declared.kept.service)).transpose();
        let text = text.map_err(|error| Problem::malformed(error.to_string()))?;
        let Some(new) = edit.apply(text)? else { return Ok(None) };

        let others = self.of_socket.iter().filter(|(other, _)| *other != name);
        let others: Vec<&Service> = others.map(|(_, declared)| &declared.service).collect();
        let mut judged = judge(&[&new], &self.config, &others).map_err(|misfits| refuse(&misfits))?;
        let service = judged.pop().ok_or_else(|| Problem::malformed("no service was read"))?;
        let written = serde_json::from_value(new).map_err(|error| Problem::malformed(error.to_string()))?;
        Ok(Some(Declared { kept: Kept { generation: self.generation + 1, service: written }, service }))
    }

    fn stage(&mut self, name: &str, before: Option<Declared>) -> u64 {
        self.generation += 1;
        // Of several changes of one service, what was before the first is what was.
        self.staged.entry(name.to_owned()).or_insert(before);
        self.generation
    }

    /// Makes all changes since the last commit last.
    ///
    /// # Errors
    /// None of them was made: all is as it was.
    pub fn commit(&mut self) -> io::Result<()> {
        let staged = std::mem::take(&mut self.staged);
        if staged.is_empty() {
            return Ok(());
        }
        let now = |name: &String| self.of_socket.get(name).map(|declared| declared.kept.clone());
        let changes = staged.keys().map(|name| (name.clone(), now(name))).collect();
        let outcome = match &mut self.store {
            Ok(store) => store.write(&changes, self.generation),
            Err(reason) => Err(io::Error::other(reason.clone())),
        };
        match outcome {
            Ok(()) => self.committed = self.generation,
            Err(_) => {
                for (name, before) in staged {
                    match before {
                        Some(before) => self.of_socket.insert(name, before),
                        None => self.of_socket.remove(&name),
                    };
                }
                self.generation = self.committed;
            }
        }
        outcome
    }

    /// Whether a configuration goes with what the socket has; the mesh as it would be.
    ///
    /// # Errors
    /// A service of the socket does not go with it.
    pub fn try_config(&self, config: &Config) -> Result<Mesh, String> {
        let kept = self.kept();
        let (admitted, _) = admit(config, kept)?;
        Ok(merged(config, &self.host_name, admitted.into_values()))
    }

    /// Takes a new configuration. Services of the socket that it defines are the file's from now on.
    ///
    /// # Errors
    /// As [`try_config`](Sources::try_config); nothing has changed then.
    pub fn reload(&mut self, config: Config) -> Result<u64, String> {
        let kept = self.kept();
        let (admitted, taken) = admit(&config, kept)?;
        let before: BTreeMap<&str, &Service> =
            self.config.services.iter().map(|service| (service.name.as_str(), service)).collect();
        self.generation += 1;
        let since = |service: &Service| {
            let same = before.get(service.name.as_str()).is_some_and(|old| *old == service);
            same.then(|| self.of_file.get(&service.name).copied()).flatten().unwrap_or(self.generation)
        };
        self.of_file = config.services.iter().map(|service| (service.name.clone(), since(service))).collect();
        self.config = Arc::new(config);
        self.of_socket = admitted;
        self.committed = self.generation;
        self.hand_over(taken);
        if let Ok(store) = &mut self.store
            && let Err(error) = store.reserve(self.generation)
        {
            warn!("cannot keep the generation: {error}");
        }
        Ok(self.generation)
    }

    /// What the file has taken over is kept no longer.
    fn hand_over(&mut self, taken: Vec<String>) {
        if taken.is_empty() {
            return;
        }
        for name in &taken {
            info!("service {name} belongs to {} from now on", self.path.display());
        }
        let changes = taken.into_iter().map(|name| (name, None)).collect();
        let outcome = match &mut self.store {
            Ok(store) => store.write(&changes, self.generation),
            Err(_) => Ok(()),
        };
        if let Err(error) = outcome {
            error!("cannot forget what the control socket said of services that the file defines: {error}");
        }
    }

    fn kept(&self) -> BTreeMap<String, Kept> {
        self.of_socket.iter().map(|(name, declared)| (name.clone(), declared.kept.clone())).collect()
    }

    fn mesh(&self) -> Mesh {
        merged(&self.config, &self.host_name, self.of_socket.values().cloned())
    }
}

/// Those of the socket's services that go on beside that configuration, and the names of those that it takes.
fn admit(
    config: &Config,
    mut kept: BTreeMap<String, Kept>,
) -> Result<(BTreeMap<String, Declared>, Vec<String>), String> {
    let taken: Vec<String> =
        config.services.iter().filter_map(|service| kept.remove(&service.name).map(|kept| kept.service.name)).collect();
    let texts: Vec<Value> = kept
        .values()
        .map(|kept| serde_json::to_value(&kept.service))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let judged = judge(&texts.iter().collect::<Vec<_>>(), config, &[]).map_err(|misfits| {
        let names: Vec<&String> = kept.keys().collect();
        let told = misfits.iter().map(|misfit| {
            let name = names.get(misfit.service).map_or("?", |name| name.as_str());
            format!(
                "service {name} of the control socket does not go with this file: {}; \
                 `meshctl service rm {name}`, or another file, would do",
                fault(misfit)
            )
        });
        told.collect::<Vec<_>>().join("\n")
    })?;
    let declared = kept.into_iter().zip(judged).map(|((name, kept), service)| (name, Declared { kept, service }));
    Ok((declared.collect(), taken))
}

fn merged(config: &Config, host_name: &str, declared: impl Iterator<Item = Declared>) -> Mesh {
    let mut mesh = config.mesh(host_name);
    mesh.services.extend(declared.map(|declared| declared.service));
    mesh
}

fn refuse(misfits: &[Misfit]) -> Problem {
    Problem::faults(misfits.iter().map(fault).collect())
}

fn fault(misfit: &Misfit) -> Fault {
    Fault { place: misfit.place.clone(), detail: misfit.message.clone() }
}
