//! One change of one service, as the control socket is asked for it: on the JSON, before it is judged.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::control::protocol::{Port, PortName, Problem};

/// A change of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    pub service: String,
    pub action: Action,
}

/// What is done. Merging is JSON merge patch (RFC 7396): null takes a key away.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Put(Value),
    Merge(Value),
    Delete,
    AddPort(Value),
    MergePort(PortName, Value),
    DeletePort(PortName),
    /// To the service's list, or to a port's own.
    AddBackend(Option<PortName>, Value),
    MergeBackend(Option<PortName>, IpAddr, Value),
    DeleteBackend(Option<PortName>, IpAddr),
}

impl Edit {
    /// What it does, for the log.
    pub fn summary(&self) -> String {
        let of = |port: &Option<PortName>| port.map(|port| format!(" of {port}")).unwrap_or_default();
        let address = |value: &Value| value["address"].as_str().unwrap_or("?").escape_debug().to_string();
        let what = match &self.action {
            Action::Put(_) => "put".to_owned(),
            Action::Merge(_) => "changed".to_owned(),
            Action::Delete => "deleted".to_owned(),
            Action::AddPort(port) => format!("port {} added", port["published"]),
            Action::MergePort(port, _) => format!("port {port} changed"),
            Action::DeletePort(port) => format!("port {port} removed"),
            Action::AddBackend(port, backend) => format!("backend {}{} added", address(backend), of(port)),
            Action::MergeBackend(port, backend, _) => format!("backend {backend}{} changed", of(port)),
            Action::DeleteBackend(port, backend) => format!("backend {backend}{} removed", of(port)),
        };
        format!("service {} {what}", self.service)
    }

    /// The service as it is then; `None`: it is gone.
    ///
    /// # Errors
    /// What is to be changed is not there, or what is to be added is.
    pub fn apply(&self, before: Option<Value>) -> Result<Option<Value>, Problem> {
        let name = &self.service;
        let existing = |before: Option<Value>| before.ok_or_else(|| Problem::not_found(format!("no service {name}")));
        let mut service = match &self.action {
            Action::Put(new) => new.clone(),
            _ => existing(before)?,
        };
        match &self.action {
            Action::Put(_) => {}
            Action::Merge(patch) => merge(&mut service, patch),
            Action::Delete => return Ok(None),
            Action::AddPort(port) => {
                let ports = list(&mut service, "port")?;
                let twin = port_name(port).filter(|new| ports.iter().any(|port| port_name(port) == Some(*new)));
                if let Some(twin) = twin {
                    return Err(Problem::conflict(format!("service {name} has a port {twin} already")));
                }
                ports.push(port.clone());
            }
            Action::MergePort(port, patch) => merge(self.port(&mut service, *port)?, patch),
            Action::DeletePort(port) => {
                let at = self.port_index(&mut service, *port)?;
                list(&mut service, "port")?.remove(at);
            }
            Action::AddBackend(of, backend) => {
                let backends = self.backends(&mut service, *of)?;
                let address = backend["address"].as_str().and_then(|text| text.parse().ok());
                if let Some(address) = address.filter(|address| position(backends, address).is_some()) {
                    return Err(Problem::conflict(format!("service {name} has a backend {address} there already")));
                }
                backends.push(backend.clone());
            }
            Action::MergeBackend(of, address, patch) => {
                let at = self.backend_index(&mut service, *of, address)?;
                if let Some(backend) = self.backends(&mut service, *of)?.get_mut(at) {
                    merge(backend, patch);
                }
            }
            Action::DeleteBackend(of, address) => {
                let at = self.backend_index(&mut service, *of, address)?;
                self.backends(&mut service, *of)?.remove(at);
            }
        }
        // The path says how it is called; a body may leave that out, not contradict it.
        match service.as_object_mut() {
            Some(object) if object.get("name").is_none_or(Value::is_null) => {
                object.insert("name".to_owned(), name.as_str().into());
            }
            Some(object) if object.get("name").and_then(Value::as_str) != Some(name) => {
                let detail = format!("service {name} cannot be renamed; delete it, and put another");
                return Err(Problem::fault("name", detail));
            }
            Some(_) => {}
            None => {
                return Err(Problem::malformed("a service is a JSON object such as {\"port\": [{\"published\": 80}]}"));
            }
        }
        strip(&mut service);
        Ok(Some(service))
    }

    fn port_index(&self, service: &mut Value, port: PortName) -> Result<usize, Problem> {
        let is_it = |value: &Value| port_name(value) == Some(port);
        let found = list(service, "port")?.iter().position(is_it);
        found.ok_or_else(|| Problem::not_found(format!("service {} has no port {port}", self.service)))
    }

    fn port<'v>(&self, service: &'v mut Value, port: PortName) -> Result<&'v mut Value, Problem> {
        let at = self.port_index(service, port)?;
        let gone = || Problem::not_found(format!("service {} has no port {port}", self.service));
        list(service, "port")?.get_mut(at).ok_or_else(gone)
    }

    /// The service's list of backends, or a port's own.
    fn backends<'v>(&self, service: &'v mut Value, of: Option<PortName>) -> Result<&'v mut Vec<Value>, Problem> {
        let Some(port) = of else { return list(service, "backend") };
        let owner = self.port(service, port)?;
        if owner.get("backend").is_none() {
            return Err(Problem::conflict(format!(
                "port {port} has no backends of its own but those of service {}: change them there, or give the port its \
                 own list by a PATCH of its `backend`",
                self.service
            )));
        }
        list(owner, "backend")
    }

    fn backend_index(&self, service: &mut Value, of: Option<PortName>, address: &IpAddr) -> Result<usize, Problem> {
        let found = position(self.backends(service, of)?, address);
        let whose = of.map_or(format!("service {}", self.service), |port| format!("port {port}"));
        found.ok_or_else(|| Problem::not_found(format!("{whose} has no backend {address}")))
    }
}

/// What a port is called, if it is a good one.
fn port_name(port: &Value) -> Option<PortName> {
    serde_json::from_value::<Port>(port.clone()).ok()?.name()
}

fn position(backends: &[Value], address: &IpAddr) -> Option<usize> {
    let same = |value: &Value| value["address"].as_str().is_some_and(|text| text.parse() == Ok(*address));
    backends.iter().position(same)
}

/// The list of that key, made where there is none.
fn list<'v>(value: &'v mut Value, key: &str) -> Result<&'v mut Vec<Value>, Problem> {
    let object = value.as_object_mut().ok_or_else(|| Problem::malformed("it is no JSON object"))?;
    let list = object.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut();
    list.ok_or_else(|| Problem::malformed(format!("`{key}` is no list")))
}

/// What is null is absent, for whoever reads it.
fn strip(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(strip);
        }
        Value::Array(array) => array.iter_mut().for_each(strip),
        _ => {}
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
