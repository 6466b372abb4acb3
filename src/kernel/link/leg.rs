//! Legs: veths between the overlay's bridge and the namespaces of backends.
//!
//! A backend's namespace is opened when it is needed and closed again: held open, it would outlive the
//! container that it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use ipnetwork::IpNetwork;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::message::{Found, Settings, changes, tag};
use super::{Links, Result, address, because, bring_up, conflict, make, message, remote};
use crate::kernel::netns;
use crate::kernel::socket::{self, Socket};
use crate::objects::{Leg, LinkId, Mac, Netns, NetnsRef, port_name};

/// The overlay's bridge.
const BRIDGE: &str = "br0";
/// How often a name that was free and is taken a moment later is looked for again.
const NAME_TRIES: usize = 8;

/// The other end of a leg, in the backend's namespace.
struct End {
    link: Found,
    addresses: BTreeSet<IpNetwork>,
}

impl Links {
    /// Attaches a backend's namespace to the overlay, or mends what is attached.
    pub fn add_leg(&mut self, mac: &Mac, leg: &Leg) -> Result<()> {
        let verb = "attach";
        let Some(netns) = &leg.netns else { return Err(conflict(verb, mac, "its namespace is not known")) };
        let object = format!("namespace {netns} to the overlay");
        let file = netns::open(netns.path())?;
        let own = self.spaces.iter().find(|(_, space)| netns::same(&file, &space.file).is_ok_and(|same| same));
        if let Some((own, _)) = own {
            return Err(conflict(verb, object, format!("it is the {own}'s own, which no backend can have")));
        }
        let socket = self.socket(Netns::Overlay)?;
        settle(socket, *mac, leg, &file).map_err(because(verb, object))
    }

    /// A leg that is gone already is detached.
    pub fn delete_leg(&mut self, mac: &Mac) -> Result<()> {
        self.delete_link(&LinkId::new(Netns::Overlay, port_name(mac)))
    }

    /// The legs among the overlay's links. One that is half broken is seen with an MTU of 0, so that it
    /// differs from what is wanted.
    pub(super) fn observe_legs(
        &mut self,
        all: &[Found],
        backends: &BTreeMap<Mac, NetnsRef>,
    ) -> Result<BTreeMap<Mac, Leg>> {
        let bridge = all.iter().find(|found| found.name == BRIDGE).map(|found| found.index);
        let socket = self.socket(Netns::Overlay)?;
        let mut legs = BTreeMap::new();
        for port in all {
            let Some(mac) = mac_of_port(&port.name) else { continue };
            let netns = backends.get(&mac);
            let end = match netns {
                Some(netns) => look(socket, port, netns).map_err(because("look at the leg in namespace", netns))?,
                None => None,
            };
            let leg = match end {
                Some(End { link, addresses }) => {
                    let well = bridge.is_some() && port.master == bridge && port.up && link.up && link.mac == mac;
                    let mtu = if well && link.mtu == port.mtu { port.mtu } else { 0 };
                    Leg { netns: netns.cloned(), mtu, addresses }
                }
                None => Leg { netns: None, mtu: port.mtu, addresses: BTreeSet::new() },
            };
            legs.insert(mac, leg);
        }
        Ok(legs)
    }
}

/// The MAC in the name of a leg's port: the opposite of [`port_name`].
pub(super) fn mac_of_port(name: &str) -> Option<Mac> {
    let digits = name.strip_prefix('p').filter(|digits| digits.len() == 12 && digits.is_ascii())?;
    let mut mac = Mac([0; 6]);
    for (place, byte) in mac.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).ok()?;
    }
    (port_name(&mac) == name).then_some(mac)
}

/// The port's other end, if it is in that namespace; a namespace that is gone has none.
fn look(overlay: &mut Socket, port: &Found, netns: &NetnsRef) -> socket::Result<Option<End>> {
    let Ok(file) = netns::open(netns.path()) else { return Ok(None) };
    if !leads_to(overlay, port, &file)? {
        return Ok(None);
    }
    let Some(index) = port.other_end else { return Ok(None) };
    inside(&file, |socket| end(socket, index))
}

fn end(socket: &mut Socket, index: u32) -> socket::Result<Option<End>> {
    let Some(link) = message::find_index(socket, index)? else { return Ok(None) };
    Ok(Some(End { link, addresses: address::on(socket, index)? }))
}

fn leads_to(overlay: &mut Socket, port: &Found, netns: &OwnedFd) -> socket::Result<bool> {
    Ok(port.other_netns.is_some() && message::number_of(overlay, netns.as_raw_fd())? == port.other_netns)
}

/// Makes the leg whole: what is there already stays, what is amiss is set right.
fn settle(overlay: &mut Socket, mac: Mac, leg: &Leg, netns: &OwnedFd) -> socket::Result<()> {
    let name = port_name(&mac);
    let port = match message::find(overlay, &name)? {
        Some(port) if leads_to(overlay, &port, netns)? => port,
        other => {
            // It hangs elsewhere.
            other.map_or(Ok(()), |port| message::delete(overlay, port.index))?;
            pair(overlay, &name, mac, leg.mtu, netns)?;
            message::find(overlay, &name)?.ok_or(Errno::ENODEV)?
        }
    };
    // The overlay's end last: no frame comes before the backend's is ready for it.
    let index = port.other_end.ok_or(Errno::ENODEV)?;
    inside(netns, |socket| settle_end(socket, index, mac, leg))?;
    let bridge = message::find(overlay, BRIDGE)?.ok_or(Errno::ENODEV)?;
    let wanted = Settings { mac: None, mtu: Some(leg.mtu), master: Some(bridge.index), isolated: false, up: true };
    message::send(overlay, &changes(&port, &wanted))?;
    // Where the backend was on another node a moment ago, the bridge has learned that, and would go on sending there
    // until the backend says something.
    overlay.request(remote::set_port(port.index, mac))
}

fn settle_end(socket: &mut Socket, index: u32, mac: Mac, leg: &Leg) -> socket::Result<()> {
    let End { link, addresses } = end(socket, index)?.ok_or(Errno::ENODEV)?;
    bring_up(socket, "lo")?;
    if !link.is_tagged() {
        message::send(socket, &[tag(&link.name)])?;
    }
    let wanted = Settings { mac: Some(mac), mtu: Some(leg.mtu), master: None, isolated: false, up: true };
    message::send(socket, &changes(&link, &wanted))?;
    for unwanted in addresses.difference(&leg.addresses) {
        address::delete(socket, index, *unwanted)?;
    }
    for missing in leg.addresses.difference(&addresses) {
        address::add(socket, index, *missing)?;
    }
    Ok(())
}

/// Makes the veth pair. The other end is called eth0, or the first free ethN: whoever else gives that
/// namespace links may be at it at the same time.
fn pair(overlay: &mut Socket, name: &str, mac: Mac, mtu: u32, netns: &OwnedFd) -> socket::Result<()> {
    for _ in 0..NAME_TRIES {
        let free = inside(netns, free_name)?;
        let far = make::first(&free, Some(mac), mtu);
        let pair = make::veth(make::first(name, None, mtu), far, netns.as_raw_fd());
        match message::send(overlay, &[pair, tag(name)]) {
            Err(error) if error.is(Errno::EEXIST) => continue,
            other => return other,
        }
    }
    Err(Errno::EEXIST.into())
}

fn free_name(socket: &mut Socket) -> socket::Result<String> {
    for number in 0.. {
        let name = format!("eth{number}");
        if message::find(socket, &name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Errno::EEXIST.into())
}

fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce(&mut Socket) -> socket::Result<T> + Send) -> socket::Result<T> {
    netns::within(netns, || work(&mut Socket::open(NETLINK_ROUTE)?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_name_tells_the_mac() {
        let mac = Mac([0x02, 0x42, 0x0a, 0xff, 0x00, 0x21]);
        assert_eq!(mac_of_port(&port_name(&mac)), Some(mac));
        for other in [
            "",
            "p",
            "br0",
            "p02420aff002",
            "p02420aff00211",
            "p02420AFF0021",
            "p+2420aff0021",
            "pé2420aff002",
            "q02420aff0021",
        ] {
            assert_eq!(mac_of_port(other), None, "{other}");
        }
    }
}
