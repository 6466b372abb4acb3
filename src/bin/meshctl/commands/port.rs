//! `meshctl port`

use hyper::Method;
use meshd::control::protocol::PortName;
use serde_json::{Value, json};

use super::Session;
use super::change::{Change, Manner};
use super::service::path;
use crate::meshctl::arguments::changes::PortCommand;
use crate::meshctl::arguments::scheduling::patch;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

pub async fn run(session: &Session<'_>, command: PortCommand) -> Result<(), Failure> {
    match command {
        PortCommand::Add { service, mut port, backend, scheduling, check, changing } => {
            port.check = check.whole()?.map(Box::new);
            port.scheduling = scheduling.scheduling();
            port.way = scheduling.way();
            port.spread = scheduling.spread();
            port.backend = (!backend.is_empty()).then_some(backend);
            let what = format!("port {} of {service}", text::service::name(&port));
            let path = format!("{}/ports", path(&service));
            let change = Change { method: Method::POST, path, body: Some(json!(port)), what };
            session.change(&service, change, &mut Manner::from(&changing)).await
        }
        PortCommand::Set { service, port, target, backend, service_backends, scheduling, unset, check, changing } => {
            let mut patch = patch(&scheduling, &unset);
            patch.extend(check.patch()?);
            patch.extend(target.map(|target| ("target".to_owned(), json!(target))));
            if service_backends {
                patch.insert("backend".to_owned(), Value::Null);
            } else if !backend.is_empty() {
                patch.insert("backend".to_owned(), json!(backend));
            }
            if patch.is_empty() {
                return Err(Failure::usage(
                    "nothing to set; an option such as --target or --scheduler says what is to change",
                ));
            }
            let change = change(Method::PATCH, &service, port, Some(Value::Object(patch)));
            session.change(&service, change, &mut Manner::from(&changing)).await
        }
        PortCommand::Rm { service, ports, changing } => {
            let mut manner = Manner::from(&changing);
            for port in ports {
                session.change(&service, change(Method::DELETE, &service, port, None), &mut manner).await?;
            }
            Ok(())
        }
    }
}

fn change(method: Method, service: &str, port: PortName, body: Option<Value>) -> Change {
    let path = format!("{}/ports/{port}", path(service));
    Change { method, path, body, what: format!("port {port} of {service}") }
}
