//! Services that do not come from the file: judged by the file's own grammar, beside what the file says.
//!
//! What the control socket is given is JSON in the file's keys. It is written down as TOML, with a note of what
//! stands where, and read as the file is: so there is one grammar, and one place for each rule.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::mesh::Service;

use super::error::{At, ELSEWHERE, Findings};
use super::network::{Endpoint, GatewayRead, IngressRead};
use super::reader::{Section, excerpt};
use super::services::{self, PortSite, Sites};
use super::standing::{Standing, elsewhere, places};
use super::{Config, clash, nodes, syntax, taken};

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
pub fn judge(services: &[&Value], config: &Config, accepted: &[&Service]) -> Result<Vec<Arc<Service>>, Vec<Misfit>> {
    let of_file = config.services.iter().map(|service| service.as_ref());
    let beside = Beside { standing: &of_file.chain(accepted.iter().copied()).collect(), without: None, also: &[] };
    judge_beside(services, config, &beside)
}

/// What newcomers have to go with.
pub struct Beside<'s> {
    /// The configuration's services and others.
    pub standing: &'s Standing,
    /// One of those that does not count: what is judged comes in its place.
    pub without: Option<&'s Service>,
    /// And these.
    pub also: &'s [&'s Service],
}

/// As [`judge`]; that costs what is judged and what it could clash with, and not what there is.
///
/// # Errors
/// As [`judge`].
pub fn judge_beside(
    services: &[&Value],
    config: &Config,
    beside: &Beside<'_>,
) -> Result<Vec<Arc<Service>>, Vec<Misfit>> {
    let written = Written::from(services);
    let name = |at| written.at(at).1;
    let findings = Findings::new(&written.text, "").named(&name);
    let document = syntax::parse(&written.text, &findings);
    let mut sites =
        Sites { nodes: nodes(&config.node, &config.peers), dataplane: config.node.dataplane, ..Sites::default() };
    let read = document.as_ref().map(|document| {
        let root = Section::root(document.get_ref(), &["service"], &findings);
        services::read(&root, &mut sites)
    });
    let mut also = Sites::default();
    beside.also.iter().for_each(|service| stand(service, &mut also));
    // Who was there first comes first.
    let Beside { standing, without, .. } = beside;
    let mut ports = standing.ports_near(&sites.ports, *without);
    ports.extend(also.ports);
    ports.append(&mut sites.ports);
    also.backends.append(&mut sites.backends);
    let mut backends = standing.places_near(&also.backends, *without);
    backends.append(&mut also.backends);
    let sites = Sites { ports, backends, ..sites };

    let ingress = IngressRead { ingress: config.ingress.clone(), endpoints: endpoints(config) };
    let gateway = &config.gateway;
    let subnets = [(gateway.subnet.into(), None), (gateway.subnet6.into(), None)];
    let gateway = GatewayRead { gateway: gateway.clone(), sites: subnets };
    clash::ports(&sites.ports, &taken(&config.metrics, Some(&config.ingress)), &findings);
    let backends = clash::backends(&sites.backends, &ingress, &gateway, &config.peers, &findings);
    clash::namespaces(&backends, &ingress, &findings);
    clash::macs(&backends, &ingress, &peer_endpoints(config), &findings);

    // What does not go together of what is there already is no fault of the newcomers.
    let mut found = findings.into_found();
    if read.is_some() {
        found.retain(|found| found.at != ELSEWHERE);
    }
    match read {
        Some(read) if found.is_empty() => Ok(read.into_iter().map(Arc::new).collect()),
        _ => Err(found
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
    let port = |published| PortSite { published: elsewhere(published), service: service.name.clone() };
    sites.ports.extend(service.ports.iter().map(|of| port(of.published)));
    sites.backends.extend(places(service).map(|place| place.site()));
}

fn peer_endpoints(config: &Config) -> Vec<At<IpAddr>> {
    config.peers.iter().filter_map(|peer| peer.endpoints().next()).map(elsewhere).collect()
}

fn endpoints(config: &Config) -> Vec<Endpoint> {
    let v4 = config.ingress.v4.map(|v4| (v4.subnet.into(), v4.address.into()));
    let v6 = config.ingress.v6.map(|v6| (v6.subnet.into(), v6.address.into()));
    let endpoint = |(subnet, address)| Endpoint { subnet: elsewhere(subnet), address: elsewhere(address) };
    v4.into_iter().chain(v6).map(endpoint).collect()
}

/// Services as TOML.
struct Written<'j> {
    text: String,
    /// What begins where, in the order of the text.
    places: Vec<Place<'j>>,
}

/// A place in a service, by the place that it is in: names are long where a client wants them to be, so none is
/// written out before it is asked for.
struct Place<'j> {
    /// The byte at which it begins.
    at: usize,
    /// Its number in the list of places; a service is in itself.
    within: usize,
    name: Name<'j>,
}

#[derive(Clone, Copy)]
enum Name<'j> {
    /// The n-th service.
    Service(usize),
    Key(&'j str),
    Index(usize),
}

impl<'j> Written<'j> {
    fn from(services: &[&'j Value]) -> Written<'j> {
        let mut written = Written { text: "service = [".to_owned(), places: Vec::new() };
        for (number, service) in services.iter().enumerate() {
            written.write(service, written.places.len(), Name::Service(number));
            written.text += ",\n";
        }
        written.text += "]\n";
        written
    }

    fn write(&mut self, value: &'j Value, within: usize, name: Name<'j>) {
        let place = self.places.len();
        self.places.push(Place { at: self.text.len(), within, name });
        match value {
            // TOML has no such thing. As the value of a key it is left out (see below).
            Value::Null => self.text += "\"null\"",
            Value::Bool(boolean) => self.text += if *boolean { "true" } else { "false" },
            Value::Number(number) => self.text += &number.to_string(),
            Value::String(text) => self.quote(text),
            Value::Array(array) => {
                self.text.push('[');
                for (index, element) in array.iter().enumerate() {
                    self.write(element, place, Name::Index(index));
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
                    self.places.push(Place { at: self.text.len(), within: place, name: Name::Key(key) });
                    self.quote(key);
                    self.text.push('=');
                    self.write(value, place, Name::Key(key));
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
        let behind = self.places.partition_point(|place| place.at <= at);
        let mut names = Vec::new();
        let mut next = behind.checked_sub(1);
        while let Some(place) = next.and_then(|index| self.places.get(index)) {
            match place.name {
                Name::Service(number) => return (number, spell(names)),
                name => names.push(name),
            }
            next = Some(place.within);
        }
        (0, String::new())
    }
}

/// `backend[0].address`, from the innermost name outwards.
fn spell(names: Vec<Name<'_>>) -> String {
    let mut text = String::new();
    for name in names.into_iter().rev() {
        match name {
            Name::Key(key) if text.is_empty() => text = excerpt(key),
            Name::Key(key) => text += &format!(".{}", excerpt(key)),
            Name::Index(index) => text += &format!("[{index}]"),
            Name::Service(_) => {}
        }
    }
    text
}
