//! `meshctl backend`

use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use hyper::Method;
use meshd::control::protocol::Backend;
use serde_json::{Map, Value, json};

use super::Session;
use super::change::{Change, Manner};
use super::service::path;
use crate::meshctl::arguments::changes::{BackendCommand, BackendKey, BackendValues, List};
use crate::meshctl::client::segment;
use crate::meshctl::failure::Failure;

const DISABLED: &str = "disabled";
/// So long a change is waited for that another one builds on, where nobody says how long.
const FOR_NOW: Duration = Duration::from_secs(30);

pub async fn run(session: &Session<'_>, command: BackendCommand) -> Result<(), Failure> {
    match command {
        BackendCommand::Add { list, address, values, changing } => {
            let BackendValues { weight, upper_threshold, lower_threshold, node, netns, state, backup } = values;
            let address_text = address.to_string();
            let backup = backup.then_some(true);
            let backend =
                Backend { address: address_text, weight, upper_threshold, lower_threshold, state, backup, node, netns };
            let change = Change { method: Method::POST, ..list.change(address, Some(json!(backend))) };
            let change = Change { path: list.path(), ..change };
            session.change(&list.service, change, &mut Manner::from(&changing)).await
        }
        BackendCommand::Set { list, address, values, unset, changing } => {
            let patch = patch(&values, &unset);
            if patch.is_empty() {
                return Err(Failure::usage(
                    "nothing to set; an option such as --weight, --upper-threshold or --unset says what is to change",
                ));
            }
            let change = list.change(address, Some(Value::Object(patch)));
            session.change(&list.service, change, &mut Manner::from(&changing)).await
        }
        BackendCommand::Drain { list, addresses, undo, now, changing } => {
            let state = match (undo, now) {
                // Enabled is what a backend is without a state.
                (true, _) => Value::Null,
                (_, true) => DISABLED.into(),
                _ => "drain".into(),
            };
            let mut manner = Manner::from(&changing);
            for address in addresses {
                let change = list.change(address, Some(json!({ "state": state })));
                session.change(&list.service, change, &mut manner).await?;
            }
            Ok(())
        }
        BackendCommand::Rm { list, addresses, now, changing } => {
            let mut manner = Manner::from(&changing);
            for address in addresses {
                if now && !manner.dry_run {
                    disable(session, &list, address, &mut manner).await?;
                }
                let change = Change { method: Method::DELETE, ..list.change(address, None) };
                session.change(&list.service, change, &mut manner).await?;
            }
            Ok(())
        }
    }
}

/// What is disabled has no connections that could be waited for. That has to be in the kernel before the next change comes.
async fn disable(session: &Session<'_>, list: &List, address: IpAddr, manner: &mut Manner) -> Result<(), Failure> {
    let wait = manner.wait;
    manner.wait = wait.or(Some(FOR_NOW));
    let change = list.change(address, Some(json!({ "state": DISABLED })));
    let outcome = session.change(&list.service, change, manner).await;
    manner.wait = wait;
    outcome
}

impl List {
    fn path(&self) -> String {
        let service = path(&self.service);
        match &self.port {
            Some(port) => format!("{service}/ports/{port}/backends"),
            None => format!("{service}/backends"),
        }
    }

    /// Of one backend that is there.
    fn change(&self, address: IpAddr, body: Option<Value>) -> Change {
        let port = self.port.as_ref().map(|port| format!(" {port}")).unwrap_or_default();
        let what = format!("backend {address} of {}{port}", self.service);
        let path = format!("{}/{}", self.path(), segment(&address.to_string()));
        Change { method: Method::PATCH, path, body, what }
    }
}

/// What is to change, as a merge patch (RFC 7396): what is not named stays.
fn patch(values: &BackendValues, unset: &[BackendKey]) -> Map<String, Value> {
    let BackendValues { weight, upper_threshold, lower_threshold, node, netns, state, backup } = values;
    let values = [
        ("weight", weight.map(|weight| json!(weight))),
        ("upper_threshold", upper_threshold.map(|upper| json!(upper))),
        ("lower_threshold", lower_threshold.map(|lower| json!(lower))),
        ("node", node.as_ref().map(|node| json!(node))),
        ("netns", netns.as_ref().map(|netns| json!(netns))),
        ("backup", backup.then(|| json!(true))),
        ("state", state.as_ref().map(|state| json!(state))),
    ];
    let unset =
        unset.iter().filter_map(|key| Some((key.to_possible_value()?.get_name().replace('-', "_"), Value::Null)));
    let set = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    set.chain(unset).collect()
}
