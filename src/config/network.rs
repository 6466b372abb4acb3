//! `[ingress]` and `[gateway]`: subnets and this node's addresses in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::mesh::{Encryption, Endpoint4, Endpoint6, Gateway, Ingress};
use crate::objects::{Family, HOST_END};

use super::error::At;
use super::reader::{Section, quoted};

pub(super) const INGRESS: &[&str] =
    &["subnet", "address", "subnet6", "address6", "namespace", "vni", "port", "mtu", "encryption", "wireguard_port"];
pub(super) const GATEWAY: &[&str] = &["bridge", "subnet", "subnet6", "open_forward", "flow_table"];

const DEFAULT_NAMESPACE: &str = "ingress_sbox";
/// What the overlay's own namespace has behind the sandbox's name.
pub(super) const OVERLAY_SUFFIX: &str = "_overlay";
/// Not Swarm's 4096: one host cannot hold a VNI twice.
const DEFAULT_VNI: u32 = 4077;
/// IANA's for VXLAN.
const DEFAULT_PORT: u16 = 4789;
/// Where WireGuard is expected, if anywhere.
const DEFAULT_WIREGUARD_PORT: u16 = 51820;
/// Link-local and unique-local: they clash with no one's networks.
const DEFAULT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 0);
const DEFAULT_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd6d, 0x6573, 0x6864, 0, 0, 0, 0, 0);

/// One family's subnet of the overlay and this node's address in it.
#[derive(Clone, Copy)]
pub(super) struct Endpoint {
    pub subnet: At<IpNetwork>,
    pub address: At<IpAddr>,
}

/// `[ingress]`, and where its parts stand.
pub(super) struct IngressRead {
    pub ingress: Ingress,
    /// IPv4 first.
    pub endpoints: Vec<Endpoint>,
}

/// `[gateway]`, and where its subnets stand; a default one stands nowhere.
pub(super) struct GatewayRead {
    pub gateway: Gateway,
    pub sites: [(IpNetwork, Option<usize>); 2],
}

impl IngressRead {
    /// IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNetwork> {
        self.endpoints.iter().map(|endpoint| endpoint.subnet.value)
    }
}

impl GatewayRead {
    /// The sandbox's own addresses: the second of each subnet.
    pub fn sandbox(&self) -> [IpAddr; 2] {
        self.sites.map(|(subnet, _)| nth(subnet, 2))
    }
}

/// `None`: something is wrong with it, and reported. `reachable`: other nodes are told how to
/// reach this one; `by_v6`: by IPv6.
pub(super) fn ingress(root: &Section<'_>, reachable: bool, by_v6: bool) -> Option<IngressRead> {
    let before = root.findings.count();
    let section = root.section("ingress", "[ingress]", INGRESS);
    if !section.exists() {
        if !root.has("ingress") {
            root.report(
                0,
                "the file has no [ingress]; one with `subnet` and `address`, or `subnet6` and `address6`, would do",
            );
        }
        return None;
    }
    let endpoints: Vec<Endpoint> = Family::ALL.into_iter().filter_map(|family| endpoint(&section, family)).collect();
    if ["subnet", "address", "subnet6", "address6"].iter().all(|key| !section.has(key)) {
        section.report(
            section.at,
            "[ingress] has no subnet; `subnet` and `address`, or `subnet6` and `address6`, or all four would do",
        );
    }
    let v6 = section.has("subnet6");
    let port = section.number("port", "a port", 1..=65535).map_or(DEFAULT_PORT, |port| port.value);
    let encryption = encryption(&section, port, reachable);
    let (least, kind) = least_mtu(v6, encryption.is_some() && by_v6);
    let ingress = Ingress {
        v4: endpoints.iter().find_map(endpoint4),
        v6: endpoints.iter().find_map(endpoint6),
        namespace: section
            .text("namespace", "a file name of 1 to 240 bytes", |text| is_file_name(text, 240).then_some(text))
            .map_or(DEFAULT_NAMESPACE, |namespace| namespace.value)
            .to_owned(),
        vni: section.number("vni", "a number", 1..=0xff_ffff).map_or(DEFAULT_VNI, |vni| vni.value),
        port,
        encryption,
        mtu: section.number("mtu", kind, least..=65535).map(|mtu| mtu.value),
    };
    (root.findings.count() == before).then_some(IngressRead { ingress, endpoints })
}

fn encryption(section: &Section<'_>, tunnel: u16, reachable: bool) -> Option<Encryption> {
    let wireguard = section.text("encryption", "\"none\" or \"wireguard\"", |text| match text {
        "none" => Some(false),
        "wireguard" => Some(true),
        _ => None,
    });
    let port = section.number("wireguard_port", "a port", 1..=65535);
    if let Some(At { at, .. }) = port.filter(|port| port.value == tunnel) {
        section.report(at, format!("`wireguard_port` is {tunnel}, the `port` of VXLAN inside; another would do"));
    }
    let wireguard = wireguard.filter(|wireguard| wireguard.value)?;
    if !reachable {
        let trouble = "`encryption` is \"wireguard\", and [node] has no `address`";
        section.report(wireguard.at, format!("{trouble}; one at which other nodes reach this one would do"));
    }
    Some(Encryption { port: port.map_or(DEFAULT_WIREGUARD_PORT, |port| port.value) })
}

/// What every link must carry in one piece (RFC 8200; for IPv4 what every host must accept, RFC 791). `inside_v6`: inside
/// WireGuard the tunnel's own packets are IPv6, with 70 bytes around each of the overlay's.
fn least_mtu(v6: bool, inside_v6: bool) -> (i64, &'static str) {
    match (v6, inside_v6) {
        (true, _) => (1280, "with IPv6 a number of bytes"),
        (false, true) => (1280 - 70, "with [node] `address` IPv6 and encryption a number of bytes"),
        (false, false) => (576, "a number of bytes"),
    }
}

/// As [`ingress`].
pub(super) fn gateway(root: &Section<'_>) -> Option<GatewayRead> {
    let before = root.findings.count();
    let section = root.section("gateway", "[gateway]", GATEWAY);
    let v4 = network(&section, "subnet", Family::V4, "169.254.77.0/24");
    let v6 = network(&section, "subnet6", Family::V6, "fd6d:6573:6864::/64");
    let subnet = match v4 {
        Some(At { value: IpNetwork::V4(subnet), .. }) => subnet,
        _ => Ipv4Network::new(DEFAULT_GATEWAY, 24).unwrap_or(DEFAULT_GATEWAY.into()),
    };
    let subnet6 = match v6 {
        Some(At { value: IpNetwork::V6(subnet), .. }) => subnet,
        _ => Ipv6Network::new(DEFAULT_GATEWAY6, 64).unwrap_or(DEFAULT_GATEWAY6.into()),
    };
    let gateway = Gateway {
        bridge: bridge(&section).map(str::to_owned),
        subnet,
        subnet6,
        open_forward: section.boolean("open_forward").is_none_or(|open| open.value),
        flow_table: section.boolean("flow_table").is_none_or(|flows| flows.value),
    };
    let sites = [(subnet.into(), v4.map(|v4| v4.at)), (subnet6.into(), v6.map(|v6| v6.at))];
    (root.findings.count() == before).then_some(GatewayRead { gateway, sites })
}

/// The kernel's rules for the name of a link (`dev_valid_name`), in ASCII only because its notion of a space
/// is Latin-1's; `%` would have it count.
pub(super) fn is_link_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
        && text != "."
        && text != ".."
}

fn bridge<'t>(section: &Section<'t>) -> Option<&'t str> {
    let wanted = "a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%`";
    let bridge = section.text("bridge", wanted, |text| is_link_name(text).then_some(text))?;
    // Taken: by the kernel, by the sysctls of all links, by meshd itself.
    if ["lo", "all", "default", HOST_END].contains(&bridge.value) {
        let found = quoted(bridge.value);
        section.report(
            bridge.at,
            format!("`bridge` is {found}, a name that is taken; such as \"mesh_gwbridge\" would do"),
        );
        return None;
    }
    Some(bridge.value)
}

/// Whether a directory can hold a file of that name, and a message can show it.
pub(super) fn is_file_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|letter: char| letter == '/' || letter.is_control())
}

fn endpoint(section: &Section<'_>, family: Family) -> Option<Endpoint> {
    let (subnet_key, address_key, example) = match family {
        Family::V4 => ("subnet", "address", "10.255.0.0/16"),
        Family::V6 => ("subnet6", "address6", "fd00:255::/64"),
    };
    let subnet = network(section, subnet_key, family, example);
    let wanted = format!("an {} address of this node's own in `{subnet_key}`", family_name(family));
    let address = section
        .text(address_key, wanted, |text| text.parse::<IpAddr>().ok().filter(|address| Family::of(address) == family));
    match (section.has(subnet_key), section.has(address_key)) {
        (true, false) => section.lacks(address_key, &format!("this node's own address in `{subnet_key}`")),
        (false, true) => section.lacks(subnet_key, &format!("the network that `{address_key}` is in")),
        _ => {}
    }
    let endpoint = Endpoint { subnet: subnet?, address: address? };
    let (subnet, At { value, at }) = (endpoint.subnet.value, endpoint.address);
    if let Some(place) = misplaced(value, subnet) {
        let hosts = hosts(subnet);
        section.report(at, format!("`{address_key}` is \"{value}\", {place} {subnet}; an address {hosts} would do"));
        return None;
    }
    Some(endpoint)
}

/// Why no host can have that address in that subnet.
fn misplaced(address: IpAddr, subnet: IpNetwork) -> Option<&'static str> {
    if !subnet.contains(address) { Some("outside the subnet") } else { not_a_host(address, subnet) }
}

/// Which address of its subnet it is, if it is none that a host can have.
pub(super) fn not_a_host(address: IpAddr, subnet: IpNetwork) -> Option<&'static str> {
    if address == subnet.network() {
        Some("the network address of")
    } else if subnet.is_ipv4() && address == subnet.broadcast() {
        Some("the broadcast address of")
    } else {
        None
    }
}

/// `from … to …`: the addresses of a subnet that a host can have.
fn hosts(subnet: IpNetwork) -> String {
    let last = match subnet.broadcast() {
        IpAddr::V4(broadcast) => IpAddr::V4(u32::from(broadcast).saturating_sub(1).into()),
        last => last,
    };
    format!("from {} to {last}", nth(subnet, 1))
}

/// The n-th address of a network.
fn nth(network: IpNetwork, n: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).saturating_add(n.into()).into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).saturating_add(n.into()).into()),
    }
}

fn endpoint4(endpoint: &Endpoint) -> Option<Endpoint4> {
    match (endpoint.subnet.value, endpoint.address.value) {
        (IpNetwork::V4(subnet), IpAddr::V4(address)) => Some(Endpoint4 { subnet, address }),
        _ => None,
    }
}

fn endpoint6(endpoint: &Endpoint) -> Option<Endpoint6> {
    match (endpoint.subnet.value, endpoint.address.value) {
        (IpNetwork::V6(subnet), IpAddr::V6(address)) => Some(Endpoint6 { subnet, address }),
        _ => None,
    }
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Reads a network that can hold two hosts beside its first address.
fn network(section: &Section<'_>, key: &str, family: Family, example: &str) -> Option<At<IpNetwork>> {
    let wanted = format!("an {} network such as \"{example}\"", family_name(family));
    let read = section.text(key, wanted, |text| parse_network(text, family))?;
    let At { value: network, at } = read;
    let longest = match family {
        Family::V4 => 30,
        Family::V6 => 126,
    };
    let wrong = |trouble: &str| section.report(at, format!("`{key}` is \"{network}\", {trouble} would do"));
    if network.prefix() > longest {
        wrong(&format!("which has no room for two hosts; /{longest} or shorter"));
    } else if network.ip() != network.network() {
        wrong(&format!("which has bits set behind its prefix; \"{}/{}\"", network.network(), network.prefix()));
    } else if let Some(reserved) = reserved(network) {
        wrong(&format!("which overlaps {reserved}; a private network such as \"{example}\""));
    } else {
        return Some(read);
    }
    None
}

/// An address, a slash and the length of the prefix. (`IpNetwork` itself would also take less, and netmasks.)
fn parse_network(text: &str, family: Family) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok().filter(|address| Family::of(address) == family)?;
    if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNetwork::new(address, prefix.parse().ok()?).ok()
}

/// Which addresses of the network no host of an overlay can have.
fn reserved(network: IpNetwork) -> Option<String> {
    const RESERVED: [(&str, IpAddr, u8); 7] = [
        ("the unspecified addresses", IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
        ("the loopback addresses", IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        ("the multicast addresses", IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        ("the loopback address", IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ("the IPv4-mapped addresses", IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96),
        ("the link-local addresses", IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
        ("the multicast addresses", IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    ];
    RESERVED.iter().find_map(|(what, address, prefix)| {
        let range = IpNetwork::new(*address, *prefix).ok()?;
        overlap(network, range).then(|| format!("{what} {range}"))
    })
}

pub(super) fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

/// What kind of address it is, if no host can be reached at it from another namespace.
pub(super) fn unreachable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address, good on one link only"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}
