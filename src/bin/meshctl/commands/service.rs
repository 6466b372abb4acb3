//! `meshctl service`

use hyper::Method;
use meshd::control::protocol::{Entry, Port, PortName, Service, Services};
use serde_json::{Value, json};

use super::change::{Change, Manner};
use super::{Session, file, near};
use crate::meshctl::arguments::changes::{ServiceAdd, ServiceCommand, ServiceSet};
use crate::meshctl::arguments::scheduling::patch;
use crate::meshctl::client::segment;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

pub async fn run(session: &Session<'_>, command: ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::Ls => {
            let services: Services = session.client.get("/v1/services").await?;
            session.output.show(&services, text::service::list)
        }
        ServiceCommand::Get { name } => {
            let entry = get(session, &name).await?;
            session.output.show(&entry, text::service::one)
        }
        ServiceCommand::Add(arguments) => add(session, arguments).await,
        ServiceCommand::Set(arguments) => set(session, arguments).await,
        ServiceCommand::Rm { names, changing } => {
            if names.len() > 1 && changing.generation.is_some() {
                return Err(Failure::usage("--generation is of one service, and several are named"));
            }
            let mut manner = Manner::from(&changing);
            for name in names {
                let change = change(Method::DELETE, &name, None);
                session.change(&name, change, &mut manner).await?;
            }
            Ok(())
        }
    }
}

pub fn path(name: &str) -> String {
    format!("/v1/services/{}", segment(name))
}

async fn get(session: &Session<'_>, name: &str) -> Result<Entry, Failure> {
    match session.client.get(&path(name)).await {
        Ok(entry) => Ok(entry),
        Err(failure) => Err(near::explain(&session.client, failure, name).await),
    }
}

fn change(method: Method, name: &str, body: Option<Value>) -> Change {
    Change { method, path: path(name), body, what: format!("service {name}") }
}

async fn add(session: &Session<'_>, arguments: ServiceAdd) -> Result<(), Failure> {
    let ServiceAdd { name, publish, backend, scheduling, check, file, doing } = arguments;
    let (name, service) = match (&file, name) {
        (Some(path), name) => {
            let file = file::read(path)?;
            (file.named(name.as_deref())?, file.service)
        }
        (None, Some(name)) => {
            let (way, spread, scheduling) = (scheduling.way(), scheduling.spread(), scheduling.scheduling());
            let check = check.whole()?.map(Box::new);
            let service = Service { name: name.clone(), scheduling, way, check, spread, port: publish, backend };
            (name, json!(service))
        }
        (None, None) => return Err(Failure::usage("the service needs a name")),
    };
    // Nobody's service of that name is replaced.
    let mut manner = Manner { generation: Some(0), ..Manner::from(&doing) };
    session.change(&name, change(Method::PUT, &name, Some(service)), &mut manner).await
}

/// How often a change that is made of what is there begins anew when somebody else was faster.
const TRIES: usize = 5;

async fn set(session: &Session<'_>, arguments: ServiceSet) -> Result<(), Failure> {
    let ServiceSet { name, scheduling, unset, check, publish_add, publish_rm, file, changing } = arguments;
    let mut manner = Manner::from(&changing);
    let mut patch = patch(&scheduling, &unset);
    patch.extend(check.patch()?);
    if let Some(path) = &file {
        let file = file::read(path)?;
        file.named(Some(&name))?;
        // To replace is not to add: it must be there.
        let replace = |_| Ok(change(Method::PUT, &name, Some(file.service.clone())));
        return set_what_is_there(session, &name, &manner, replace).await;
    }
    if !publish_add.is_empty() || !publish_rm.is_empty() {
        // The list is replaced as a whole; somebody else's change in between is not.
        let merge = |service: Service| {
            let mut patch = patch.clone();
            patch.insert("port".to_owned(), json!(republish(service.port, &publish_add, &publish_rm)?));
            Ok(change(Method::PATCH, &name, Some(Value::Object(patch))))
        };
        return set_what_is_there(session, &name, &manner, merge).await;
    }
    if patch.is_empty() {
        return Err(Failure::usage(
            "nothing to set; an option such as --scheduler or --publish-add says what is to change",
        ));
    }
    session.change(&name, change(Method::PATCH, &name, Some(Value::Object(patch))), &mut manner).await
}

/// A change that is made of the service as it is, and of no other.
async fn set_what_is_there(
    session: &Session<'_>,
    name: &str,
    manner: &Manner,
    make: impl Fn(Service) -> Result<Change, Failure>,
) -> Result<(), Failure> {
    let mut entry = get(session, name).await?;
    for _ in 1..TRIES {
        let generation = entry.generation;
        let mut wanted = Manner { generation: manner.generation.or(Some(generation)), ..manner.clone() };
        let failure = match session.change(name, make(entry.service)?, &mut wanted).await {
            Err(failure) if failure.has_status(409) && manner.generation.is_none() => failure,
            result => return result,
        };
        entry = get(session, name).await?;
        if entry.generation == generation {
            // It was refused for something else.
            return Err(failure);
        }
    }
    let mut last = Manner { generation: Some(entry.generation), ..manner.clone() };
    session.change(name, make(entry.service)?, &mut last).await
}

fn republish(mut ports: Vec<Port>, more: &[Port], less: &[PortName]) -> Result<Vec<Port>, Failure> {
    for name in less {
        let before = ports.len();
        ports.retain(|port| port.name().as_ref() != Some(name));
        if ports.len() == before {
            let known: Vec<String> = ports.iter().map(text::service::name).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            return Err(Failure::refused(format!("the service has no port {name}; {known}")));
        }
    }
    ports.extend_from_slice(more);
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::republish;
    use crate::meshctl::specs::{port, port_name};
    use crate::meshctl::text::service::name;

    #[track_caller]
    fn check(more: &[&str], less: &[&str], expected: Result<&str, &str>) {
        let ports = ["20229:9092", "53/udp"].map(|text| port(text).unwrap()).to_vec();
        let more: Vec<_> = more.iter().map(|text| port(text).unwrap()).collect();
        let less: Vec<_> = less.iter().map(|text| port_name(text).unwrap()).collect();
        let ports = republish(ports, &more, &less).map(|ports| ports.iter().map(name).collect::<Vec<_>>().join(" "));
        assert_eq!(ports.as_deref().map_err(|failure| failure.detail.as_str()), expected);
    }

    #[test]
    fn ports_come_and_go() {
        check(&["80"], &[], Ok("tcp/20229 udp/53 tcp/80"));
        check(&[], &["53/udp"], Ok("tcp/20229"));
        check(&["53:54/udp"], &["udp/53"], Ok("tcp/20229 udp/53"));
        check(&[], &["tcp/53"], Err("the service has no port tcp/53; it has tcp/20229, udp/53"));
    }
}
