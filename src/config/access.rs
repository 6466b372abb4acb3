//! `bind`, `allow` and `deny`: where on a node a port is published, and who may come to it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mesh::{Access, Bind};
use crate::objects::Network;

use super::network::{is_link_name, unreachable};
use super::reader::{Section, literal};

/// What a service or a port says of it, over what it inherits: each list as a whole.
pub(super) fn read(section: &Section<'_>, inherited: Option<&Access>) -> Access {
    let mut access = inherited.cloned().unwrap_or_default();
    if let Some(bind) = list(section, "bind", "an address or the name of a link such as \"eth0\"", bind) {
        access.bind = bind;
    }
    const NETWORK: &str = "a network such as \"10.0.0.0/8\", or an address";
    if let Some(allow) = list(section, "allow", NETWORK, network) {
        if allow.is_empty() && section.is_empty("allow") {
            let at = section.array("allow", "").map_or(section.at, |array| array.at);
            let remedy = "to leave it out, or [\"0.0.0.0/0\", \"::/0\"], would do";
            section.report(at, format!("`allow` is empty, which would let no one in; {remedy}"));
        }
        access.allow = Some(allow);
    }
    if let Some(deny) = list(section, "deny", NETWORK, network) {
        access.deny = deny;
    }
    access
}

/// The elements of a list of strings; one that cannot be used is reported.
fn list<T: Ord>(
    section: &Section<'_>,
    key: &str,
    wanted: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<BTreeSet<T>> {
    let array = section.array(key, &format!("a list, each {wanted}"))?.value;
    let element = |value: &toml::Spanned<toml::de::DeValue<'_>>| {
        let text = value.get_ref().as_str();
        match text.map_or_else(|| Err(wanted.to_owned()), &read) {
            Ok(element) => Some(element),
            Err(remedy) => {
                let remedy = if remedy.is_empty() { wanted } else { &remedy };
                let found = literal(value.get_ref());
                section.report(value.span().start, format!("`{key}` has {found}; {remedy} would do"));
                None
            }
        }
    };
    Some(array.iter().filter_map(element).collect())
}

/// `Err`: what would do instead; empty: what is wanted of all.
fn bind(text: &str) -> Result<Bind, String> {
    match text.parse::<IpAddr>() {
        // 127.0.0.1 is an address of the node like others.
        Ok(address) if unreachable(address).is_none() || address.is_loopback() => Ok(Bind::Address(address)),
        Err(_) if is_link_name(text) => Ok(Bind::Link(text.to_owned())),
        _ => Err(String::new()),
    }
}

fn network(text: &str) -> Result<Network, String> {
    let network = match text.split_once('/') {
        None => text.parse::<IpAddr>().ok().map(IpNetwork::from),
        Some((address, prefix)) => {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = address.parse::<IpAddr>().ok().zip(prefix.parse::<u8>().ok().filter(|_| digits));
            parsed.and_then(|(address, prefix)| IpNetwork::new(address, prefix).ok())
        }
    };
    let network = network.ok_or_else(String::new)?;
    if network.ip() != network.network() {
        return Err(format!("\"{}/{}\", with no bits behind its prefix,", network.network(), network.prefix()));
    }
    Ok(Network(network))
}
