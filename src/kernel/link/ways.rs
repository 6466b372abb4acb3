//! rtnetlink's messages about routing rules and the tables they lead to: a backend's ways back to the nodes.
//!
//! They are told from others' by their origin: rules and routes say who made them (ip-rule(8), ip-route(8), `protocol`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use super::super::attribute::{Writer, find, ip_of, u32_of};
use super::super::socket::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, Result, Socket};
use super::remote::family;
use super::{address, message};
use crate::objects::{Returns, return_mark};

// linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
// linux/fib_rules.h
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const UDP: u8 = 17;
/// `struct rtmsg` and `struct fib_rule_hdr` are as long.
const HEADER: usize = 12;

/// Who made a rule or a route: a number that rt_protos has for no one else, `m`.
const ORIGIN: u8 = 109;
/// Before the main table's 32766, behind what operators number by hand.
const PRIORITY_MARK: u32 = 30_100;
const PRIORITY_PORT: u32 = 30_200;
/// The table of answers that have no source yet: `mesh`.
const SOURCES: u32 = u32::from_be_bytes(*b"mesh");

/// A rule: the numbers of what it matches and the table it leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    family: u8,
    mark: Option<u32>,
    ports: Option<(u16, u16)>,
    table: u32,
}

/// A default route of one of those tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    family: u8,
    table: u32,
    link: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// Index and name of the link that holds the returns' sources, if there is one.
pub(in crate::kernel) fn leg_of(socket: &mut Socket, returns: &Returns) -> Result<Option<(u32, String)>> {
    let all = address::all(socket)?;
    let holds = |held: &&address::Held| returns.sources.iter().any(|source| source.ip() == held.ip.ip());
    let Some(held) = all.iter().find(holds) else { return Ok(None) };
    Ok(message::find_index(socket, held.index)?.map(|found| (found.index, found.name)))
}

/// Makes rules and routes what is wanted, and no others of ours be there. New ones come before old ones go.
pub(in crate::kernel) fn set(socket: &mut Socket, link: u32, returns: &Returns) -> Result<()> {
    settle(socket, &rules(returns), &routes(returns, link))
}

pub(in crate::kernel) fn remove(socket: &mut Socket) -> Result<()> {
    settle(socket, &BTreeSet::new(), &BTreeSet::new())
}

/// Whether they are what is wanted.
pub(in crate::kernel) fn are(socket: &mut Socket, link: u32, returns: &Returns) -> Result<bool> {
    Ok(seen_rules(socket)? == rules(returns) && seen_routes(socket)? == routes(returns, link))
}

fn settle(socket: &mut Socket, rules: &BTreeSet<Rule>, routes: &BTreeSet<Route>) -> Result<()> {
    let (seen_rules, seen_routes) = (seen_rules(socket)?, seen_routes(socket)?);
    let mut requests: Vec<Request> = Vec::new();
    requests.extend(
        routes.difference(&seen_routes).map(|route| route.request((RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE))),
    );
    requests.extend(rules.difference(&seen_rules).map(|rule| rule.request((RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL))));
    requests.extend(seen_rules.difference(rules).map(|rule| rule.request((RTM_DELRULE, 0))));
    // One that was replaced is gone.
    let kept = |old: &&Route| routes.iter().any(|new| (new.family, new.table) == (old.family, old.table));
    requests
        .extend(seen_routes.difference(routes).filter(|old| !kept(old)).map(|route| route.request((RTM_DELROUTE, 0))));
    for outcome in socket.requests(&requests) {
        match outcome {
            Err(error) if error.is(Errno::EEXIST) || error.is(Errno::ENOENT) || error.is(Errno::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

fn rules(returns: &Returns) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for source in &returns.sources {
        let family = family(source.ip());
        for (mac, addresses) in &returns.nodes {
            if addresses.iter().any(|address| address.is_ipv4() == source.is_ipv4()) {
                let mark = return_mark(mac);
                rules.insert(Rule { family, mark: Some(mark), ports: None, table: mark });
            }
        }
        let answering = |ports: &(u16, u16)| Rule { family, mark: None, ports: Some(*ports), table: SOURCES };
        rules.extend(returns.datagrams.iter().map(answering));
    }
    rules
}

fn routes(returns: &Returns, link: u32) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    for source in &returns.sources {
        let family = family(source.ip());
        for (mac, addresses) in &returns.nodes {
            let gateway = addresses.iter().find(|address| address.is_ipv4() == source.is_ipv4()).copied();
            let way = gateway.map(|_| Route { family, table: return_mark(mac), link, gateway, source: None });
            routes.extend(way);
        }
        if !returns.datagrams.is_empty() {
            routes.insert(Route { family, table: SOURCES, link, gateway: None, source: Some(source.ip()) });
        }
    }
    routes
}

impl Rule {
    fn request(&self, (kind, flags): (u16, u16)) -> Request {
        let mut body = Writer::after(&[self.family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        body.u32(FRA_PRIORITY, if self.mark.is_some() { PRIORITY_MARK } else { PRIORITY_PORT });
        body.u32(FRA_TABLE, self.table);
        body.u8(FRA_PROTOCOL, ORIGIN);
        if let Some(mark) = self.mark {
            body.u32(FRA_FWMARK, mark);
        }
        if let Some((first, last)) = self.ports {
            body.u8(FRA_IP_PROTO, UDP);
            body.bytes(FRA_SPORT_RANGE, &[first.to_ne_bytes(), last.to_ne_bytes()].concat());
        }
        Request { kind, flags, body: body.finish() }
    }

    fn parse(body: &[u8]) -> Option<Rule> {
        let (family, rest) = (*body.first()?, body.get(HEADER..)?);
        if find(rest, FRA_PROTOCOL) != Some(&[ORIGIN]) {
            return None;
        }
        let ports = |value: &[u8]| match *value {
            [a, b, c, d] => Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))),
            _ => None,
        };
        let mark = find(rest, FRA_FWMARK).and_then(u32_of);
        let ports = find(rest, FRA_SPORT_RANGE).and_then(ports);
        Some(Rule { family, mark, ports, table: find(rest, FRA_TABLE).and_then(u32_of)? })
    }
}

impl Route {
    fn request(&self, (kind, flags): (u16, u16)) -> Request {
        let scope = if self.gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let mut body = Writer::after(&[self.family, 0, 0, 0, 0, ORIGIN, scope, RTN_UNICAST, 0, 0, 0, 0]);
        body.u32(RTA_TABLE, self.table);
        body.u32(RTA_OIF, self.link);
        for (kind, address) in [(RTA_GATEWAY, self.gateway), (RTA_PREFSRC, self.source)] {
            if let Some(address) = address {
                body.ip(kind, address);
            }
        }
        Request { kind, flags, body: body.finish() }
    }

    fn parse(body: &[u8]) -> Option<Route> {
        let (family, rest) = (*body.first()?, body.get(HEADER..)?);
        (*body.get(5)? == ORIGIN).then_some(())?;
        let address = |kind| find(rest, kind).and_then(ip_of);
        let number = |kind| find(rest, kind).and_then(u32_of);
        let (gateway, source) = (address(RTA_GATEWAY), address(RTA_PREFSRC));
        Some(Route { family, table: number(RTA_TABLE)?, link: number(RTA_OIF)?, gateway, source })
    }
}

fn seen_rules(socket: &mut Socket) -> Result<BTreeSet<Rule>> {
    let question = Request { kind: RTM_GETRULE, flags: 0, body: vec![0; HEADER] };
    let all = socket.dump(&question, |kind, body| if kind == RTM_NEWRULE { Rule::parse(body) } else { None })?;
    Ok(all.into_iter().collect())
}

fn seen_routes(socket: &mut Socket) -> Result<BTreeSet<Route>> {
    let question = Request { kind: RTM_GETROUTE, flags: 0, body: vec![0; HEADER] };
    let all = socket.dump(&question, |kind, body| if kind == RTM_NEWROUTE { Route::parse(body) } else { None })?;
    Ok(all.into_iter().collect())
}

/// For `replies`.
pub(super) fn read_any(body: &[u8]) {
    let _ = (Rule::parse(body), Route::parse(body));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Mac;

    fn returns() -> Returns {
        let node = |last: u8| {
            let addresses = [IpAddr::from([10, 255, 0, last]), format!("fd00:255::{last}").parse().unwrap()];
            (Mac::of(&addresses[0]), addresses.into())
        };
        Returns {
            nodes: [node(3), node(4)].into(),
            sources: ["10.255.0.33/16", "fd00:255::33/64"].map(|source| source.parse().unwrap()).into(),
            datagrams: [(53, 53), (30000, 30009)].into(),
        }
    }

    #[test]
    fn rules_and_routes_survive_the_way_through_netlink() {
        let (rules, routes) = (rules(&returns()), routes(&returns(), 7));
        assert_eq!((rules.len(), routes.len()), (8, 6));
        for rule in rules {
            let body = rule.request((RTM_NEWRULE, 0)).body;
            assert_eq!(Rule::parse(&body).as_ref(), Some(&rule));
            (0..body.len()).for_each(|length| assert_ne!(Rule::parse(&body[..length]).as_ref(), Some(&rule)));
        }
        for route in routes {
            let body = route.request((RTM_NEWROUTE, 0)).body;
            assert_eq!(Route::parse(&body).as_ref(), Some(&route));
            (0..body.len()).for_each(|length| assert_ne!(Route::parse(&body[..length]).as_ref(), Some(&route)));
        }
    }

    #[test]
    fn others_rules_and_routes_are_not_ours() {
        let mut rule = Writer::after(&[2, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        rule.u32(FRA_TABLE, 100);
        rule.u8(FRA_PROTOCOL, 4);
        assert_eq!(Rule::parse(&rule.finish()), None);
        let mut route = Writer::after(&[2, 0, 0, 0, 0, 4, 0, RTN_UNICAST, 0, 0, 0, 0]);
        route.u32(RTA_TABLE, 254);
        route.u32(RTA_OIF, 2);
        assert_eq!(Route::parse(&route.finish()), None);
    }
}
