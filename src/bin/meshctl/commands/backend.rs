//! `meshctl backend`

use std::net::IpAddr;

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

pub async fn run(session: &Session<'_>, command: BackendCommand) -> Result<(), Failure> {
    match command {
        BackendCommand::Add { list, address, values, changing } => {
            let BackendValues { weight, node, netns, state } = values;
            let backend = Backend { address: address.to_string(), weight, state, node, netns };
            let change = Change { method: Method::POST, ..list.change(address, Some(json!(backend))) };
            let change = Change { path: list.path(), ..change };
            session.change(&list.service, change, &mut Manner::from(&changing)).await
        }
        BackendCommand::Set { list, address, values, unset, changing } => {
            let patch = patch(&values, &unset);
            if patch.is_empty() {
                return Err(Failure::usage(
                    "nothing to set; --weight, --node, --netns, --state or --unset says what is to change",
                ));
            }
            let change = list.change(address, Some(Value::Object(patch)));
            session.change(&list.service, change, &mut Manner::from(&changing)).await
        }
        BackendCommand::Drain { list, addresses, undo, changing } => {
            // Enabled is what a backend is without a state.
            let state = if undo { Value::Null } else { "drain".into() };
            let mut manner = Manner::from(&changing);
            for address in addresses {
                let change = list.change(address, Some(json!({ "state": state })));
                session.change(&list.service, change, &mut manner).await?;
            }
            Ok(())
        }
        BackendCommand::Rm { list, addresses, changing } => {
            let mut manner = Manner::from(&changing);
            for address in addresses {
                let change = Change { method: Method::DELETE, ..list.change(address, None) };
                session.change(&list.service, change, &mut manner).await?;
            }
            Ok(())
        }
    }
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
    let BackendValues { weight, node, netns, state } = values;
    let values = [
        ("weight", weight.map(|weight| json!(weight))),
        ("node", node.as_ref().map(|node| json!(node))),
        ("netns", netns.as_ref().map(|netns| json!(netns))),
        ("state", state.as_ref().map(|state| json!(state))),
    ];
    let unset = unset.iter().filter_map(|key| Some((key.to_possible_value()?.get_name().to_owned(), Value::Null)));
    let set = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    set.chain(unset).collect()
}
