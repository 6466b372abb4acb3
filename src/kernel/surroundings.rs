//! What the host is like: facts that are not ours.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::{Kernel, Result, probe};
use crate::objects::Surroundings;

/// Bytes; Ethernet's.
const DEFAULT_MTU: u32 = 1500;
/// Of a route that a router advertised (linux/ipv6_route.h, RTF_ADDRCONF).
const ADVERTISED: u32 = 0x0004_0000;

impl Kernel {
    /// Looks around. `underlay` is this node's end of the overlay's tunnel.
    pub fn surroundings(&mut self, underlay: Option<IpAddr>) -> Result<Surroundings> {
        let mtu = match underlay {
            Some(address) => self.links.underlay_mtu(address)?,
            None => None,
        };
        let has_flow_tables = *self.flow_tables.get_or_insert_with(probe::has_flow_tables);
        let forward = self.host.forward(&self.names.gateway)?;
        Ok(Surroundings {
            kernel: release(),
            underlay_mtu: mtu.unwrap_or(DEFAULT_MTU),
            forward_drops: forward.drops,
            accept_ra: self.advertised()?,
            uplinks: if has_flow_tables { self.links.uplinks()? } else { BTreeSet::new() },
            bridge_netfilter: Path::new("/proc/sys/net/bridge").exists(),
        })
    }

    /// Links whose default route came by router advertisement, and those for which we took care of that before.
    fn advertised(&self) -> Result<BTreeSet<String>> {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
        let mut links = advertised_defaults(&routes);
        let recorded = self.sysctls.recorded()?;
        links.extend(
            recorded
                .keys()
                .filter_map(|name| Some(name.strip_prefix("net/ipv6/conf/")?.strip_suffix("/accept_ra")?.to_owned())),
        );
        Ok(links)
    }
}

/// Destination, its prefix length, …, flags (the ninth field), link.
fn advertised_defaults(routes: &str) -> BTreeSet<String> {
    let mut links = BTreeSet::new();
    for line in routes.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, prefix, _, _, _, _, _, _, flags, link] = fields[..] else { continue };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        if prefix == "00" && flags & ADVERTISED != 0 {
            links.insert(link.to_owned());
        }
    }
    links
}

/// The commands of legacy iptables that hold a filter table here. We cannot see or change what is in it.
pub fn legacy_filters() -> Vec<&'static str> {
    let tables = [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")];
    let used = |file: &str| {
        let names = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        names.lines().any(|table| table == "filter")
    };
    tables.into_iter().filter(|(file, _)| used(file)).map(|(_, command)| command).collect()
}

/// The host's name, for a node that was given none.
pub fn host_name() -> String {
    let name = nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned());
    name.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Major and minor number of the kernel; 0.0 where it does not say.
fn release() -> (u32, u32) {
    let text = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_advertised_default_routes_count() {
        let routes = "\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth1
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00440001     eth2
garbage
";
        assert_eq!(advertised_defaults(routes), BTreeSet::from(["eth0".to_owned()]));
    }

    #[test]
    fn a_kernel_has_a_release() {
        assert!(release() >= (4, 0));
    }
}
