//! Services that do not come from the file: judged by the file's own grammar, beside what the file says.
//!
//! What the control socket is given is JSON in the file's keys. It is written down as TOML, with a note of what
//! stands where, and read as the file is: so there is one grammar, and one place for each rule.

use serde_json::Value;

use crate::mesh::Service;

use super::error::{At, ELSEWHERE, Findings};
use super::network::{Endpoint, GatewayRead, IngressRead};
use super::reader::Section;
use super::services::{self, BackendSite, PortSite, Sites};
use super::{Config, clash, syntax, taken};

/// What is wrong with one of several services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Which of them, from 0.
    pub service: usize,
    /// In it: `backend[0].address`; empty: the service itself.
    pub place: String,
    /// What was found, and what would do.
    pub message: String,
}

/// Judges services beside a configuration and beside services that were accepted before.
///
/// # Errors
/// All that is wrong with any of them, in the order of their texts.
pub fn judge(services: &[&Value], config: &Config, accepted: &[&Service]) -> Result<Vec<Service>, Vec<Misfit>> {
    let written = Written::from(services);
    let name = |at| written.at(at).1;
    let findings = Findings::new(&written.text, "").named(&name);
    let document = syntax::parse(&written.text, &findings);
    let mut sites = Sites::default();
    config.services.iter().chain(accepted.iter().copied()).for_each(|service| stand(service, &mut sites));
    let read = document.as_ref().map(|document| {
        let root = Section::root(document.get_ref(), &["service"], &findings);
        services::read(&root, &mut sites)
    });

    let ingress = IngressRead { ingress: config.ingress.clone(), endpoints: endpoints(config) };
    let gateway = &config.gateway;
    let subnets = [(gateway.subnet.into(), None), (gateway.subnet6.into(), None)];
    let gateway = GatewayRead { gateway: gateway.clone(), sites: subnets };
    clash::ports(&sites.ports, &taken(&config.metrics, Some(&config.ingress)), &findings);
    let backends = clash::backends(&sites.backends, &ingress, &gateway, &findings);
    clash::namespaces(&backends, &ingress, &findings);
    clash::macs(&backends, &ingress, &findings);

    match read {
        Some(read) if findings.count() == 0 => Ok(read),
        _ => Err(findings
            .into_found()
            .into_iter()
            .map(|At { value: message, at }| {
                let (service, place) = written.at(at);
                Misfit { service, place, message }
            })
            .collect()),
    }
}

/// The ports and backends of a service that is there already.
fn stand(service: &Service, sites: &mut Sites) {
    fn at<T>(value: T) -> At<T> {
        At { value, at: ELSEWHERE }
    }
    for port in &service.ports {
        sites.ports.push(PortSite { published: at(port.published), service: service.name.clone() });
        let backends = port.backends.iter();
        sites.backends.extend(
            backends.map(|backend| BackendSite { address: at(backend.address), netns: backend.netns.clone().map(at) }),
        );
    }
}

fn endpoints(config: &Config) -> Vec<Endpoint> {
    let v4 = config.ingress.v4.map(|v4| (v4.subnet.into(), v4.address.into()));
    let v6 = config.ingress.v6.map(|v6| (v6.subnet.into(), v6.address.into()));
    let endpoint = |(subnet, address)| Endpoint {
        subnet: At { value: subnet, at: ELSEWHERE },
        address: At { value: address, at: ELSEWHERE },
    };
    v4.into_iter().chain(v6).map(endpoint).collect()
}

/// Services as TOML.
#[derive(Default)]
struct Written {
    text: String,
    /// What begins at which byte, in the order of the text: the number of the service, and the place in it.
    places: Vec<(usize, usize, String)>,
}

impl Written {
    fn from(services: &[&Value]) -> Written {
        let mut written = Written { text: "service = [".to_owned(), places: Vec::new() };
        for (number, service) in services.iter().enumerate() {
            written.write(service, number, "");
            written.text += ",\n";
        }
        written.text += "]\n";
        written
    }

    fn write(&mut self, value: &Value, number: usize, place: &str) {
        self.places.push((self.text.len(), number, place.to_owned()));
        match value {
            // TOML has no such thing. As the value of a key it is left out (see below).
            Value::Null => self.text += "\"null\"",
            Value::Bool(boolean) => self.text += if *boolean { "true" } else { "false" },
            Value::Number(number) => self.text += &number.to_string(),
            Value::String(text) => self.quote(text),
            Value::Array(array) => {
                self.text.push('[');
                for (index, element) in array.iter().enumerate() {
                    self.write(element, number, &format!("{place}[{index}]"));
                    self.text.push(',');
                }
                self.text.push(']');
            }
            Value::Object(object) => {
                self.text.push('{');
                let given = object.iter().filter(|(_, value)| !value.is_null());
                for (index, (key, value)) in given.enumerate() {
                    if index > 0 {
                        self.text.push(',');
                    }
                    let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                    self.places.push((self.text.len(), number, place.clone()));
                    self.quote(key);
                    self.text.push('=');
                    self.write(value, number, &place);
                }
                self.text.push('}');
            }
        }
    }

    fn quote(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' | '\\' => self.text.extend(['\\', letter]),
                _ if letter.is_control() => self.text += &format!("\\u{:04x}", u32::from(letter)),
                _ => self.text.push(letter),
            }
        }
        self.text.push('"');
    }

    /// Service and place of the last thing that begins at or before that byte.
    fn at(&self, at: usize) -> (usize, String) {
        let behind = self.places.partition_point(|(start, ..)| *start <= at);
        let found = behind.checked_sub(1).and_then(|index| self.places.get(index));
        found.map_or((0, String::new()), |(_, service, place)| (*service, place.clone()))
    }
}
