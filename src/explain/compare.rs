//! Hops that are objects of ours: what is wanted, and what the kernel has.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use super::walk::Walk;
use crate::control::protocol::{Hop, Verdict};
use crate::objects::{Address, Chain, Family, LinkId, MapValue, Netns, Objects, SetElement, Space, Table};

const GONE: &str = "nothing";

impl Walk<'_> {
    /// A hop, if there is anything wanted or found: good, where both are the same.
    pub fn compare<T: PartialEq + Display>(
        &mut self,
        space: &Space,
        what: &str,
        (wanted, found): (Option<T>, Option<T>),
        look: &str,
    ) {
        if wanted.is_none() && found.is_none() {
            return;
        }
        let holds = wanted == found;
        let text = |one: Option<T>| one.map_or_else(|| GONE.to_owned(), |one| one.to_string());
        let reason = match (&wanted, &found) {
            (Some(_), None) => Some("it is not there"),
            (None, Some(_)) => Some("it should not be there"),
            (Some(_), Some(_)) if !holds => Some("it is another one"),
            _ => None,
        };
        self.hop(Hop {
            place: self.place(space),
            what: what.to_owned(),
            wanted: text(wanted),
            found: text(found),
            verdict: if holds { Verdict::Good } else { Verdict::Broken },
            reason: reason.map(str::to_owned),
            look: self.command(space, look),
        });
    }

    /// What both of them have, each of its own.
    pub fn both<T>(&self, of: impl Fn(&Objects) -> Option<T>) -> (Option<T>, Option<T>) {
        (of(&self.known.wanted), of(&self.known.seen))
    }

    pub fn namespace(&mut self, netns: Netns) {
        let pinned = self.both(|objects| objects.namespaces.contains(&netns).then_some("is there"));
        let space = Space::Ours(netns);
        let name = self.place(&space);
        self.compare(&space, "namespace", pinned, "true");
        if let Some(hop) = self.hops().last_mut().filter(|hop| hop.what == "namespace") {
            hop.look = format!("ls /run/netns/{name}");
        }
    }

    pub fn link(&mut self, netns: Netns, name: &str) {
        let id = LinkId::new(netns, name);
        let link = self.both(|objects| objects.links.get(&id).cloned());
        self.compare(&Space::Ours(netns), &format!("link {name}"), link, &format!("ip -d link show {name}"));
    }

    /// The addresses of one family that a link has to have.
    pub fn addresses(&mut self, netns: Netns, name: &str, family: Family) {
        let id = LinkId::new(netns, name);
        let own = |address: &&Address| address.link == id && Family::of(&address.ip.ip()) == family;
        let addresses = self.both(|objects| {
            let all: Vec<String> = objects.addresses.iter().filter(own).map(|address| address.ip.to_string()).collect();
            (!all.is_empty()).then(|| all.join(" "))
        });
        let look = format!("ip address show {name}");
        self.compare(&Space::Ours(netns), &format!("address of {name}"), addresses, &look);
    }

    /// Our route to that destination.
    pub fn own_route(&mut self, netns: Netns, name: &str, family: Family, what: &str) {
        let id = LinkId::new(netns, name);
        let routes = self.both(|objects| {
            let own = objects.routes.iter().filter(|route| route.link == id);
            let own = own.filter(|route| Family::of(&route.destination.ip()) == family);
            let all: Vec<String> = own.map(ToString::to_string).collect();
            (!all.is_empty()).then(|| all.join(", "))
        });
        self.compare(&Space::Ours(netns), what, routes, "ip route show");
    }

    /// Kernel parameters whose names have one of these beginnings, in one hop: those that differ, if any do.
    pub fn parameters(&mut self, netns: Netns, beginnings: &[&str]) {
        let of = |objects: &Objects| {
            let all = objects.sysctls.iter().filter(|((of, _), _)| *of == netns);
            let all = all.filter(|((_, name), _)| beginnings.iter().any(|beginning| name.starts_with(beginning)));
            all.map(|((_, name), value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        let (wanted, seen) = (of(&self.known.wanted), of(&self.known.seen));
        let differs = |(name, value): &&(String, String)| !seen.contains(&(name.clone(), value.clone()));
        let different: Vec<&(String, String)> = wanted.iter().filter(differs).collect();
        let told: Vec<&(String, String)> =
            if different.is_empty() { wanted.iter().collect() } else { different.clone() };
        let dotted = |name: &str| name.replace('/', ".");
        let text = |value: &dyn Fn(&str) -> String| {
            told.iter().map(|(name, _)| format!("{} = {}", dotted(name), value(name))).collect::<Vec<_>>().join(", ")
        };
        if told.is_empty() {
            return;
        }
        let value = |of: &[(String, String)], name: &str| {
            of.iter().find(|(known, _)| known == name).map_or(GONE.to_owned(), |(_, value)| value.clone())
        };
        let (wanted_text, found) = (text(&|name| value(&wanted, name)), text(&|name| value(&seen, name)));
        let names: Vec<String> = told.iter().map(|(name, _)| dotted(name)).collect();
        let look = format!("sysctl {}", names.join(" "));
        self.compare(&Space::Ours(netns), "kernel parameters", (Some(wanted_text), Some(found)), &look);
    }

    fn tables(&self, netns: Netns) -> (Option<&Table>, Option<&Table>) {
        (self.known.wanted.tables.get(&netns), self.known.seen.tables.get(&netns))
    }

    /// One of our chains: the first rule that is not as it should be, if any is not.
    pub fn chain(&mut self, netns: Netns, name: &str) {
        let (wanted, seen) = self.tables(netns);
        let (wanted, seen) =
            (wanted.and_then(|table| table.chains.get(name)), seen.and_then(|table| table.chains.get(name)));
        let texts = match (wanted, seen) {
            (Some(wanted), Some(seen)) if wanted != seen => {
                let (wanted, seen) = difference(wanted, seen);
                (Some(wanted), Some(seen))
            }
            _ => (wanted.map(short), seen.map(short)),
        };
        let look = format!("nft list chain inet meshd {name}");
        self.compare(&Space::Ours(netns), &format!("chain {name}"), texts, &look);
    }

    /// What one of our maps has for this port.
    pub fn element(&mut self, netns: Netns, map: &str, what: &str) {
        let port = self.port.published;
        let (wanted, seen) = self.tables(netns);
        let value = |table: Option<&Table>| {
            let value: &MapValue = table?.maps.get(map)?.elements.get(&port)?;
            Some(format!("{port} → {value}"))
        };
        let values = (value(wanted), value(seen));
        let look = format!("nft get element inet meshd {map} '{{ {} . {} }}'", port.protocol, port.first);
        self.compare(&Space::Ours(netns), what, values, &look);
    }

    /// What one of our sets has of this port.
    pub fn elements(&mut self, netns: Netns, set: &str, what: &str) {
        let port = self.port.published;
        let (wanted, seen) = self.tables(netns);
        let own = |element: &&SetElement| element.ports() == Some(port);
        let all = |table: Option<&Table>| {
            let all = table.and_then(|table| table.sets.get(set)).map(|set| set.elements.iter().filter(own).cloned());
            all.map(|all| all.collect::<BTreeSet<SetElement>>()).unwrap_or_default()
        };
        let (wanted, seen) = (all(wanted), all(seen));
        // Of thousands those matter that are only on one side.
        let text = |all: &BTreeSet<SetElement>, other: &BTreeSet<SetElement>| match wanted == seen {
            true => several(all.iter()),
            false => several(all.difference(other)),
        };
        let values = (text(&wanted, &seen), text(&seen, &wanted));
        self.compare(&Space::Ours(netns), what, values, &format!("nft list set inet meshd {set}"));
    }

    /// Whether one of our sets has that.
    pub fn member(&mut self, netns: Netns, set: &str, what: &str, element: &SetElement) {
        let (wanted, seen) = self.tables(netns);
        let has = |table: Option<&Table>| {
            table?.sets.get(set)?.elements.contains(element).then(|| format!("{element} in @{set}"))
        };
        let values = (has(wanted), has(seen));
        self.compare(&Space::Ours(netns), what, values, &format!("nft list set inet meshd {set}"));
    }
}

/// The first few of them, and how many more there are; `None`: there is none.
fn several<'e>(all: impl Iterator<Item = &'e SetElement>) -> Option<String> {
    const TOLD: usize = 8;
    let all: Vec<&SetElement> = all.collect();
    let first: Vec<String> = all.iter().take(TOLD).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!all.is_empty()).then(|| format!("{}{more}", first.join(", ")))
}

/// A chain that is as it should be.
fn short(chain: &Chain) -> String {
    let at = chain.base.map(|base| format!("{base}, ")).unwrap_or_default();
    match chain.rules.len() {
        1 => format!("{at}1 rule"),
        many => format!("{at}{many} rules"),
    }
}

/// The first thing in which two differ.
fn difference(wanted: &Chain, seen: &Chain) -> (String, String) {
    if !wanted.same_hook(seen) {
        let at = |chain: &Chain| chain.base.map_or_else(|| "no hook".to_owned(), |base| base.to_string());
        return (at(wanted), at(seen));
    }
    let longest = wanted.rules.len().max(seen.rules.len());
    let at = (0..longest).find(|place| wanted.rules.get(*place) != seen.rules.get(*place)).unwrap_or(0);
    let rule = |chain: &Chain| {
        let text = chain.rules.get(at).map_or_else(|| "none".to_owned(), ToString::to_string);
        format!("rule {}: {text}", at + 1)
    };
    (rule(wanted), rule(seen))
}

/// The address of that family among these.
pub fn of_family(addresses: impl IntoIterator<Item = IpAddr>, family: Family) -> Option<IpAddr> {
    addresses.into_iter().find(|address| Family::of(address) == family)
}
