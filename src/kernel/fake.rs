//! A kernel in memory, for plans and properties: what each step does to [`Objects`], and nothing else.
//!
//! It is as particular as the real one: what hangs on something that isn't there is refused, and what hangs
//! on something that goes, goes too.

mod balances;
mod links;
mod tables;

use std::net::IpAddr;

use crate::objects::{Destination, DestinationKey, Netns, Objects, VirtualKey, VirtualService};
use crate::plan::Step;

/// Why a step could not be done; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

type Outcome = Result<(), Refusal>;

fn require(condition: bool, reason: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Refusal(reason())) }
}

/// Does a step to a value, as the kernel does it to itself.
pub fn apply(objects: &mut Objects, step: &Step) -> Outcome {
    match step.clone() {
        Step::AddNamespace(netns) => {
            objects.namespaces.insert(netns);
        }
        Step::DeleteNamespace(netns) => delete_namespace(objects, netns),
        Step::SetSysctl { netns, name, value } => return set_sysctl(objects, netns, name, value),
        Step::RestoreSysctl { name } => {
            objects.sysctls.remove(&(Netns::Host, name));
        }
        Step::AddLink { id, link } => return links::add(objects, id, link),
        Step::SetLink { id, link } => return links::set(objects, id, link),
        Step::DeleteLink(id) => links::delete(objects, &id),
        Step::AddAddress(address) => return links::add_address(objects, address),
        Step::DeleteAddress(address) => links::delete_address(objects, &address),
        Step::AddRoute(route) => return links::add_route(objects, route),
        Step::DeleteRoute(route) => {
            objects.routes.remove(&route);
        }
        Step::AddLeg { mac, leg } => return links::add_leg(objects, mac, leg),
        Step::DeleteLeg { mac } => {
            objects.legs.remove(&mac);
        }
        Step::SetWireguard { .. } | Step::SetWireguardPeer { .. } | Step::DeleteWireguardPeer { .. } => {
            return links::wireguard(objects, step);
        }
        Step::SetForwarding { mac, node } => return links::set_forwarding(objects, mac, node),
        Step::DeleteForwarding { mac, .. } => {
            objects.forwarding.remove(&mac);
        }
        Step::SetNeighbour { ip, mac } => return links::set_neighbour(objects, ip, mac),
        Step::DeleteNeighbour { ip } => {
            objects.neighbours.remove(&ip);
        }
        Step::SetReturns { netns, returns } => {
            let attached = objects.legs.values().any(|leg| leg.netns.as_ref() == Some(&netns));
            require(attached, || format!("namespace {netns} is not attached"))?;
            objects.returns.insert(netns, returns);
        }
        Step::DeleteReturns { netns } => {
            objects.returns.remove(&netns);
        }
        Step::OpenForward(opening) => {
            objects.openings.insert(opening);
        }
        Step::CloseForward(opening) => {
            objects.openings.remove(&opening);
        }
        // Other people's flows are not among our objects.
        Step::TakeOver { .. } => {}
        Step::AddTable(_)
        | Step::DeleteTable(_)
        | Step::AddMap { .. }
        | Step::DeleteMap { .. }
        | Step::AddSet { .. }
        | Step::DeleteSet { .. }
        | Step::EditSets { .. }
        | Step::AddFlows { .. }
        | Step::DeleteFlows { .. }
        | Step::SetChain { .. }
        | Step::DeleteChain { .. }
        | Step::EditMap { .. } => return tables::apply(objects, step),
        Step::EditBalance { .. } | Step::DropBackend { .. } => return balances::apply(objects, step),
        Step::SetTimeouts(timeouts) => {
            exists(objects, Netns::Sandbox)?;
            objects.timeouts = Some(timeouts);
        }
        Step::AddService { key, service } | Step::SetService { key, service } => {
            return set_service(objects, key, service, matches!(step, Step::AddService { .. }));
        }
        Step::DeleteService(key) => {
            objects.services.remove(&key);
        }
        Step::AddDestination { service, key, destination } | Step::SetDestination { service, key, destination } => {
            return set_destination(objects, service, key, destination);
        }
        Step::DeleteDestination { service, key } => {
            if let Some(service) = objects.services.get_mut(&service) {
                service.destinations.remove(&key);
            }
        }
    }
    Ok(())
}

fn exists(objects: &Objects, netns: Netns) -> Outcome {
    let there = netns == Netns::Host || objects.namespaces.contains(&netns);
    require(there, || format!("there is no namespace {netns}"))
}

fn set_sysctl(objects: &mut Objects, netns: Netns, name: String, value: String) -> Outcome {
    exists(objects, netns)?;
    // Of the parameters that belong to a link, this is the one that we set on a link of ours.
    if let Some(link) = name.strip_prefix("net/ipv4/conf/").and_then(|rest| rest.strip_suffix("/route_localnet")) {
        links::named(objects, netns, link)?;
    }
    objects.sysctls.insert((netns, name), value);
    Ok(())
}

/// A service that is there keeps its destinations.
fn set_service(objects: &mut Objects, key: VirtualKey, service: VirtualService, new: bool) -> Outcome {
    exists(objects, Netns::Sandbox)?;
    let seen = objects.services.get_mut(&key);
    require(new || seen.is_some(), || format!("there is no service {key}"))?;
    let destinations = seen.map(|seen| std::mem::take(&mut seen.destinations)).unwrap_or_default();
    objects.services.insert(key, VirtualService { destinations, ..service });
    Ok(())
}

fn set_destination(
    objects: &mut Objects,
    service: VirtualKey,
    key: DestinationKey,
    destination: Destination,
) -> Outcome {
    require(routable(objects, key.address), || format!("there is no route to {key}"))?;
    let seen = objects.services.get_mut(&service).ok_or_else(|| Refusal(format!("there is no service {service}")))?;
    seen.destinations.insert(key, destination);
    Ok(())
}

/// Whether the sandbox knows a way to that address.
fn routable(objects: &Objects, address: IpAddr) -> bool {
    let neighbours = objects.addresses.iter().filter(|held| held.link.netns == Netns::Sandbox).map(|held| held.ip);
    let routes =
        objects.routes.iter().filter(|route| route.link.netns == Netns::Sandbox).map(|route| route.destination);
    neighbours.chain(routes).any(|network| network.contains(address))
}

fn delete_namespace(objects: &mut Objects, netns: Netns) {
    objects.namespaces.remove(&netns);
    let inside: Vec<_> = objects.links.keys().filter(|id| id.netns == netns).cloned().collect();
    inside.iter().for_each(|id| links::delete(objects, id));
    objects.tables.remove(&netns);
    objects.sysctls.retain(|(of, _), _| *of != netns);
    match netns {
        Netns::Sandbox => {
            objects.services.clear();
            objects.balances.clear();
            objects.timeouts = None;
        }
        Netns::Overlay => objects.legs.clear(),
        Netns::Host => {}
    }
}
