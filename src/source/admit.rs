//! Which of the socket's services go with a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::kept::Kept;
use crate::config::{Config, Misfit, judge};
use crate::control::protocol::Fault;
use crate::mesh::{Mesh, PublicKey, Service};

/// A service of the socket: as it was written, and what that means.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub kept: Kept,
    pub service: Arc<Service>,
}

/// A service that is kept, and not in force: it does not go with the file.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    pub kept: Kept,
    pub reason: String,
}

/// Takes away the services that the file defines; their names.
pub(super) fn taken(config: &Config, kept: &mut BTreeMap<String, Kept>) -> Vec<String> {
    let names = config.services.iter().map(|service| &service.name);
    names.filter(|name| kept.remove(*name).is_some()).cloned().collect()
}

/// Those that go with the configuration, and those that do not.
pub(super) fn fitting(
    config: &Config,
    mut kept: BTreeMap<String, Kept>,
) -> (BTreeMap<String, Declared>, BTreeMap<String, Aside>) {
    let mut aside: BTreeMap<String, Aside> = BTreeMap::new();
    loop {
        let misfits = match admit(config, kept.clone(), &[]) {
            Ok(declared) => return (declared, aside),
            Err(misfits) => misfits,
        };
        let before = kept.len();
        for (name, reason) in misfits {
            if let Some(kept) = kept.remove(&name) {
                aside.insert(name, Aside { kept, reason });
            }
        }
        // A fault that is no one's would be found for ever.
        if kept.len() == before {
            let reason = "it cannot be read".to_owned();
            let left = std::mem::take(&mut kept).into_iter();
            aside.extend(left.map(|(name, kept)| (name, Aside { kept, reason: reason.clone() })));
        }
    }
}

/// All of these services as they are beside that configuration; or each that is not good, with a reason.
pub(super) fn admit(
    config: &Config,
    kept: BTreeMap<String, Kept>,
    beside: &[&Service],
) -> Result<BTreeMap<String, Declared>, Vec<(String, String)>> {
    let texts: Vec<Value> = kept.values().map(|kept| serde_json::to_value(&kept.service).unwrap_or_default()).collect();
    let judged = judge(&texts.iter().collect::<Vec<_>>(), config, beside).map_err(|misfits| {
        let names: Vec<&String> = kept.keys().collect();
        let named = misfits
            .iter()
            .filter_map(|misfit| Some((names.get(misfit.service)?.to_string(), fault(misfit).to_string())));
        named.collect::<Vec<_>>()
    })?;
    Ok(kept.into_iter().zip(judged).map(|((name, kept), service)| (name, Declared { kept, service })).collect())
}

/// The mesh of a configuration, of this node's own key where it encrypts, and of the socket's services.
pub(super) fn merged(
    config: &Config,
    host_name: &str,
    key: Option<PublicKey>,
    declared: &BTreeMap<String, Declared>,
) -> Mesh {
    Mesh { key, ..config.mesh_with(host_name, declared.values().map(|declared| declared.service.clone())) }
}

pub(super) fn fault(misfit: &Misfit) -> Fault {
    Fault { place: misfit.place.clone(), detail: misfit.message.clone() }
}
