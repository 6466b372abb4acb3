//! One that leaves, as a line: so that who is told to stay for a while does so whoever is meshd then.

use std::time::Duration;

use super::Leaver;
use crate::mesh::{Backend, BackendState, Key, Mark, NetnsRef, Thresholds};

/// Mark, address, node, namespace, its number, time, and what it is; with tabs between, names have none.
pub fn write((mark, address): &Key, leaver: &Leaver) -> String {
    let Leaver { backend, taken, until, done, namespace, .. } = leaver;
    let node = backend.node.as_deref().unwrap_or_default();
    let netns = match &backend.netns {
        None => String::new(),
        Some(NetnsRef::Name(name)) => format!("name {name}"),
        Some(NetnsRef::Path(path)) => format!("path {path}"),
        Some(NetnsRef::Pid(pid)) => format!("pid {pid}"),
    };
    let number = namespace.map(|number| number.to_string()).unwrap_or_default();
    let until = until.as_millis();
    let why = if *taken { "taken" } else { "drained" };
    let how = if *done { "done" } else { "open" };
    format!("{:#x}\t{address}\t{node}\t{netns}\t{number}\t{until}\t{why}\t{how}\n", mark.0)
}

/// `None`: no such line.
pub fn read(line: &str) -> Option<(Key, Leaver)> {
    let mut words = line.split('\t');
    let mark = Mark(u32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?);
    let address = words.next()?.parse().ok()?;
    let node = Some(words.next()?).filter(|node| !node.is_empty()).map(str::to_owned);
    let netns = match words.next()?.split_once(' ') {
        None => None,
        Some(("name", name)) => Some(NetnsRef::Name(name.to_owned())),
        Some(("path", path)) => Some(NetnsRef::Path(path.to_owned())),
        Some(("pid", pid)) => Some(NetnsRef::Pid(pid.parse().ok()?)),
        Some(_) => return None,
    };
    let namespace = Some(words.next()?).filter(|number| !number.is_empty());
    let namespace = namespace.map(str::parse).transpose().ok()?;
    let until = Duration::from_millis(words.next()?.parse().ok()?);
    let taken = one_of(words.next()?, "taken", "drained")?;
    let done = one_of(words.next()?, "done", "open")?;
    let backend = Backend {
        address,
        weight: 1,
        thresholds: Thresholds::default(),
        state: BackendState::Drain,
        backup: false,
        node,
        netns,
    };
    Some(((mark, address), Leaver { backend, taken, until, done, namespace, open: None }))
}

fn one_of(word: &str, yes: &str, no: &str) -> Option<bool> {
    (word == yes || word == no).then_some(word == yes)
}
