//! Namespaces, links, addresses, routes and legs on a real kernel, as an operator would look at them.
//!
//! The "host" is a namespace of its own: nothing of the machine's changes but what is under /run/netns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use meshd::kernel::link::{Links, Seen};
use meshd::kernel::netns;
use meshd::kernel::sysctl;
use meshd::objects::{Address, Leg, Link, LinkId, LinkKind, Mac, Netns, NetnsRef, Route, port_name};
use serde_json::Value;

const BRIDGE: &str = "mesh_gwbridge";

/// A node in namespaces with names of its own, deleted at the end.
struct Lab {
    prefix: String,
    names: Vec<String>,
    links: Links,
}

impl Lab {
    /// `None`, and a word about it, where namespaces cannot be made.
    fn new() -> Option<Lab> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("mt{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut lab = Lab { prefix, names: Vec::new(), links: Links::default() };
        if let Err(error) = netns::create(&lab.name("host")) {
            assert!(std::env::var_os("MESHD_REQUIRE_KERNEL").is_none(), "cannot make namespaces: {error:?}");
            eprintln!("SKIPPED: cannot make namespaces: {error:?}");
            return None;
        }
        lab.names.push(lab.name("host"));
        for (netns, part) in [(Netns::Host, "host"), (Netns::Sandbox, "sbox"), (Netns::Overlay, "over")] {
            lab.namespace(part);
            lab.links.enter(netns, netns::open(format!("/run/netns/{}", lab.name(part))).unwrap()).unwrap();
        }
        Some(lab)
    }

    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    fn namespace(&mut self, part: &str) -> NetnsRef {
        let name = self.name(part);
        netns::create(&name).unwrap();
        self.names.push(name.clone());
        NetnsRef::Name(name)
    }

    /// Runs ip(8) in one of the lab's namespaces.
    fn ip(&self, part: &str, arguments: &str) -> String {
        run("ip", &format!("-n {} {arguments}", self.name(part)))
    }

    fn ip_json(&self, part: &str, arguments: &str) -> Value {
        serde_json::from_str(&self.ip(part, &format!("-j -d {arguments}"))).unwrap()
    }

    fn ping(&self, part: &str, address: &str) {
        run("ip", &format!("netns exec {} ping -c1 -W3 {address}", self.name(part)));
    }

    fn observe(&mut self, wanted: &Seen) -> Seen {
        let backends = wanted.legs.iter().filter_map(|(mac, leg)| Some((*mac, leg.netns.clone()?))).collect();
        self.links.observe(&backends).unwrap()
    }

    /// Everything wanted, in the order of a plan; each step is idempotent, so that this mends, too.
    fn apply(&mut self, wanted: &Seen) {
        let seen = self.observe(wanted);
        for (id, link) in &seen.links {
            if wanted.links.get(id).is_none_or(|wanted| wanted.kind != link.kind) {
                self.links.delete_link(id).unwrap();
            }
        }
        for address in seen.addresses.difference(&wanted.addresses) {
            self.links.delete_address(address).unwrap();
        }
        for route in seen.routes.difference(&wanted.routes) {
            self.links.delete_route(route).unwrap();
        }
        for (id, link) in &wanted.links {
            self.links.add_link(id, link).unwrap();
        }
        for (id, link) in &wanted.links {
            self.links.set_link(id, link).unwrap();
        }
        for address in &wanted.addresses {
            self.links.add_address(address).unwrap();
        }
        for route in &wanted.routes {
            self.links.add_route(route).unwrap();
        }
        for (mac, leg) in &wanted.legs {
            self.links.add_leg(mac, leg).unwrap();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            netns::delete(name).unwrap();
            assert!(!netns::exists(name));
        }
    }
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(netns: Netns, name: &str) -> LinkId {
    LinkId::new(netns, name)
}

fn veth(mac: u8, mtu: u32, peer: LinkId, master: Option<&str>) -> Link {
    let kind = LinkKind::Veth { peer };
    Link { kind, mac: Mac([2, 1, 0, 0, 0, mac]), mtu, master: master.map(str::to_owned), isolated: false, up: true }
}

fn bridge(mac: u8, mtu: u32) -> Link {
    Link { kind: LinkKind::Bridge, mac: Mac([2, 1, 0, 0, 0, mac]), mtu, master: None, isolated: false, up: true }
}

/// What a node is made of.
fn node(backends: &[(&str, NetnsRef)]) -> Seen {
    let (host, sandbox, overlay) = (Netns::Host, Netns::Sandbox, Netns::Overlay);
    let (mesh0, eth1) = (id(host, "mesh0"), id(sandbox, "eth1"));
    let (eth0, port) = (id(sandbox, "eth0"), id(overlay, "sbox"));
    let vxlan = LinkKind::Vxlan { vni: 4077, port: 4789, local: Some(ip("192.168.50.1")), underlay: host };
    let vxlan = Link { kind: vxlan, master: Some("br0".to_owned()), ..bridge(6, 1450) };
    let links = BTreeMap::from([
        (id(host, BRIDGE), bridge(1, 1500)),
        (mesh0.clone(), Link { isolated: true, ..veth(2, 1500, eth1.clone(), Some(BRIDGE)) }),
        (eth1.clone(), veth(3, 1500, mesh0, None)),
        (id(overlay, "br0"), bridge(4, 1450)),
        (port.clone(), veth(5, 1450, eth0.clone(), Some("br0"))),
        (eth0.clone(), veth(7, 1450, port, None)),
        (id(overlay, "vxlan0"), vxlan),
    ]);
    let address = |link: &LinkId, text: &str| Address { link: link.clone(), ip: text.parse().unwrap() };
    let addresses = BTreeSet::from([
        address(&id(host, BRIDGE), "169.254.77.1/24"),
        address(&id(host, BRIDGE), "fd00:77::1/64"),
        address(&eth1, "169.254.77.2/24"),
        address(&eth1, "fd00:77::2/64"),
        address(&eth0, "10.255.0.3/16"),
        address(&eth0, "fd00:255::3/64"),
    ]);
    let route = |to: &str, gateway: &str| Route {
        link: eth1.clone(),
        destination: to.parse().unwrap(),
        gateway: Some(ip(gateway)),
    };
    let routes = BTreeSet::from([route("0.0.0.0/0", "169.254.77.1"), route("::/0", "fd00:77::1")]);
    let legs = backends.iter().map(|(address, netns)| {
        let six = format!("fd00:255::{}/64", address.rsplit('.').next().unwrap());
        let addresses = BTreeSet::from([format!("{address}/16").parse().unwrap(), six.parse().unwrap()]);
        (Mac::of(&ip(address)), Leg { netns: Some(netns.clone()), mtu: 1450, addresses })
    });
    Seen { links, addresses, routes, legs: legs.collect(), ..Seen::default() }
}

#[test]
fn a_node_is_made_as_wanted_and_mended_when_broken() {
    let Some(mut lab) = Lab::new() else { return };
    let (one, two) = (lab.namespace("b1"), lab.namespace("b2"));
    // The second backend has an eth0 of its own.
    lab.ip("b2", "link add eth0 type bridge");
    let wanted = node(&[("10.255.0.33", one), ("10.255.0.34", two)]);
    let before: Vec<Value> =
        ["host", "sbox", "over", "b1", "b2"].iter().map(|part| lab.ip_json(part, "link")).collect();

    assert_eq!(lab.observe(&wanted), Seen::default());
    lab.apply(&wanted);
    assert_eq!(lab.observe(&wanted), wanted);

    // What iproute2 says.
    let link = |lab: &Lab, part: &str, name: &str| lab.ip_json(part, &format!("link show {name}"))[0].clone();
    let bridge = link(&lab, "host", BRIDGE);
    assert_eq!(bridge["ifalias"], "meshd");
    assert_eq!(bridge["address"], "02:01:00:00:00:01");
    assert_eq!(bridge["linkinfo"]["info_data"]["stp_state"], 0);
    assert_eq!(bridge["linkinfo"]["info_data"]["mcast_snooping"], 0);
    assert_eq!(bridge["linkinfo"]["info_data"]["forward_delay"], 0);
    assert_eq!(link(&lab, "host", "mesh0")["linkinfo"]["info_slave_data"]["isolated"], true);
    let vxlan = link(&lab, "over", "vxlan0");
    assert_eq!(vxlan["linkinfo"]["info_data"]["id"], 4077);
    assert_eq!(vxlan["linkinfo"]["info_data"]["learning"], false);
    assert!(vxlan["link_netnsid"].is_number(), "its socket is in another namespace: {vxlan}");
    assert_eq!(link(&lab, "b1", "eth0")["address"], "02:42:0a:ff:00:21");
    assert_eq!(link(&lab, "b2", "eth1")["address"], "02:42:0a:ff:00:22");
    assert_eq!(link(&lab, "b2", "eth0")["linkinfo"]["info_kind"], "bridge");
    assert_eq!(lab.ip_json("sbox", "route show default")[0]["gateway"], "169.254.77.1");
    assert_eq!(lab.ip_json("sbox", "-6 route show default")[0]["gateway"], "fd00:77::1");

    for address in ["10.255.0.33", "10.255.0.34", "169.254.77.1", "fd00:255::33", "fd00:255::34", "fd00:77::1"] {
        lab.ping("sbox", address);
    }
    lab.ping("b1", "10.255.0.34");

    // Twice is like once, and tells nobody of a change.
    let indexes = |lab: &Lab| ["host", "sbox", "over", "b1", "b2"].map(|part| lab.ip_json(part, "address"));
    let once = indexes(&lab);
    lab.apply(&wanted);
    assert_eq!(lab.observe(&wanted), wanted);
    assert_eq!(links_of(&indexes(&lab)), links_of(&once));

    let port = port_name(&Mac::of(&ip("10.255.0.33")));
    for (part, breakage) in [
        ("sbox", "link del eth1".to_owned()),
        ("sbox", "link set eth0 down".to_owned()),
        ("sbox", "link set eth0 mtu 1400".to_owned()),
        // Up, it keeps its name before Linux 6.2.
        ("sbox", "link set eth0 down; link set eth0 name other".to_owned()),
        ("sbox", "addr del 10.255.0.3/16 dev eth0".to_owned()),
        ("sbox", "addr add 10.255.0.77/16 dev eth0".to_owned()),
        ("sbox", "route del default".to_owned()),
        ("sbox", "route add 198.51.100.0/24 via 169.254.77.1".to_owned()),
        ("sbox", "link add stray type bridge".to_owned()),
        ("host", format!("link del {BRIDGE}")),
        ("host", "link set mesh0 nomaster".to_owned()),
        ("host", "link set mesh0 type bridge_slave isolated off".to_owned()),
        ("host", format!("link set {BRIDGE} address 02:01:00:00:00:99")),
        ("host", format!("-6 addr del fd00:77::1/64 dev {BRIDGE}")),
        ("over", "link set vxlan0 type vxlan learning".to_owned()),
        ("over", "link del vxlan0".to_owned()),
        ("over", "link set vxlan0 nomaster".to_owned()),
        ("over", "link del br0".to_owned()),
        ("over", format!("link del {port}")),
        ("over", format!("link set {port} nomaster")),
        ("over", format!("link set {port} down")),
        ("b1", "link set eth0 down".to_owned()),
        ("b1", "link set eth0 address 02:01:00:00:00:98".to_owned()),
        ("b1", "link set eth0 mtu 1300".to_owned()),
        ("b1", "addr flush dev eth0".to_owned()),
        ("b1", "addr add 10.255.0.99/16 dev eth0".to_owned()),
        ("b2", "link del eth1".to_owned()),
        ("b1", format!("link set eth0 netns {}", lab.name("host"))),
    ] {
        for command in breakage.split("; ") {
            lab.ip(part, command);
        }
        let seen = lab.observe(&wanted);
        assert_ne!(seen, wanted, "unnoticed: {part}: {breakage}");
        lab.apply(&wanted);
        assert_eq!(lab.observe(&wanted), wanted, "not mended: {part}: {breakage}");
    }
    lab.ping("sbox", "10.255.0.33");
    lab.ping("sbox", "fd00:255::34");

    // An IPv6 address has one prefix length: the wanted one wins even where another came first.
    lab.ip("host", &format!("-6 addr del fd00:77::1/64 dev {BRIDGE}"));
    lab.ip("host", &format!("-6 addr add fd00:77::1/48 dev {BRIDGE}"));
    for address in &wanted.addresses {
        lab.links.add_address(address).unwrap();
    }
    assert_eq!(lab.observe(&wanted), wanted);

    // A plan adds before it deletes: what is new stands in the way of nothing, and stays when the old goes.
    let eth0 = id(Netns::Sandbox, "eth0");
    let [old, new] =
        ["10.255.0.3/16", "10.255.0.4/16"].map(|ip| Address { link: eth0.clone(), ip: ip.parse().unwrap() });
    lab.links.add_address(&new).unwrap();
    lab.links.delete_address(&old).unwrap();
    let seen = lab.observe(&wanted);
    assert!(seen.addresses.contains(&new) && !seen.addresses.contains(&old), "{:?}", seen.addresses);
    lab.links.add_address(&old).unwrap();
    lab.links.delete_address(&new).unwrap();
    lab.links.delete_address(&new).unwrap();
    for (old, gateway) in wanted.routes.iter().zip(["169.254.77.9", "fd00:77::9"]) {
        let new = Route { gateway: Some(ip(gateway)), ..old.clone() };
        lab.links.add_route(&new).unwrap();
        lab.links.delete_route(old).unwrap();
        let seen = lab.observe(&wanted);
        assert!(seen.routes.contains(&new) && !seen.routes.contains(old), "{:?}", seen.routes);
        lab.links.add_route(old).unwrap();
        lab.links.delete_route(&new).unwrap();
        lab.links.delete_route(&new).unwrap();
    }
    assert_eq!(lab.observe(&wanted), wanted);

    for mac in wanted.legs.keys() {
        lab.links.delete_leg(mac).unwrap();
        lab.links.delete_leg(mac).unwrap();
    }
    for link in wanted.links.keys() {
        lab.links.delete_link(link).unwrap();
    }
    assert_eq!(lab.observe(&wanted), Seen::default());
    let after: Vec<Value> = ["host", "sbox", "over", "b1", "b2"].iter().map(|part| lab.ip_json(part, "link")).collect();
    assert_eq!(links_of(&after), links_of(&before));
}

/// Names and indexes: a link that was made anew has another index.
fn links_of(listings: &[Value]) -> Vec<Vec<(String, String)>> {
    let of_one = |listing: &Value| {
        let links = listing.as_array().unwrap().iter();
        links.map(|link| (link["ifname"].to_string(), link["ifindex"].to_string())).collect()
    };
    listings.iter().map(of_one).collect()
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let Some(mut lab) = Lab::new() else { return };
    let wanted = node(&[]);
    lab.ip("host", "link add mesh0 type bridge");
    lab.ip("host", "link add meshful type bridge");
    assert!(lab.links.is_foreign("mesh0").unwrap());
    assert!(!lab.links.is_foreign(BRIDGE).unwrap());
    let mesh0 = id(Netns::Host, "mesh0");
    let refused = |result: meshd::kernel::link::Result<()>| result.unwrap_err().to_string();
    let reason = refused(lab.links.add_link(&mesh0, &wanted.links[&mesh0]));
    assert_eq!(reason, "cannot add link host/mesh0: a link of that name exists and is not meshd's");
    let reason = refused(lab.links.set_link(&mesh0, &wanted.links[&mesh0]));
    assert_eq!(reason, "cannot set link host/mesh0: the link is not meshd's");
    let reason = refused(lab.links.delete_link(&mesh0));
    assert_eq!(reason, "cannot delete link host/mesh0: the link is not meshd's");
    // On the overlay, a backend's leg that someone else made; what is no veth has no business there.
    lab.namespace("b1");
    lab.ip("over", &format!("link add theirs type veth peer name eth0 netns {}", lab.name("b1")));
    assert_eq!(lab.observe(&wanted), Seen::default());
    lab.ip("over", "link add stray type bridge");
    assert_eq!(lab.observe(&wanted).links.into_keys().collect::<Vec<_>>(), [id(Netns::Overlay, "stray")]);

    // Ours, of another kind: that is for a delete step to remove first.
    lab.ip("sbox", "link add eth1 type bridge");
    let eth1 = id(Netns::Sandbox, "eth1");
    let reason = refused(lab.links.add_link(&eth1, &wanted.links[&eth1]));
    assert_eq!(reason, "cannot add link sandbox/eth1: it exists, as bridge, not veth to host/mesh0");
    let reason = refused(lab.links.set_link(&id(Netns::Sandbox, "eth7"), &wanted.links[&eth1]));
    assert_eq!(reason, "cannot set link sandbox/eth7: there is no such link");
    lab.links.leave(Netns::Sandbox);
    assert_eq!(refused(lab.links.delete_link(&eth1)), "the sandbox namespace is not open");

    let gone = NetnsRef::Name(lab.name("gone"));
    let leg = Leg { netns: Some(gone), mtu: 1450, addresses: BTreeSet::new() };
    let reason = refused(lab.links.add_leg(&Mac([2, 1, 0, 0, 0, 9]), &leg));
    assert_eq!(reason, format!("cannot open namespace /run/netns/{}", lab.name("gone")));
}

#[test]
fn a_bridge_keeps_its_mtu() {
    let Some(mut lab) = Lab::new() else { return };
    let wanted = node(&[]);
    for (id, link) in wanted.links.iter().filter(|(_, link)| link.kind == LinkKind::Bridge) {
        lab.links.add_link(id, link).unwrap();
        lab.links.set_link(id, link).unwrap();
    }
    lab.ip("host", &format!("link add low mtu 1300 master {BRIDGE} type veth peer name peer"));
    lab.ip("over", "link add low mtu 1300 master br0 type veth peer name peer");
    let seen = lab.observe(&wanted);
    for link in [id(Netns::Host, BRIDGE), id(Netns::Overlay, "br0")] {
        assert_eq!(seen.links[&link], wanted.links[&link]);
    }
}

#[test]
fn a_leg_is_named_by_its_namespace_only_where_it_hangs() {
    let Some(mut lab) = Lab::new() else { return };
    let (one, two) = (lab.namespace("b1"), lab.namespace("b2"));
    let mut wanted = node(&[("10.255.0.33", one)]);
    lab.apply(&wanted);
    let mac = Mac::of(&ip("10.255.0.33"));

    // A backend that left the configuration.
    let seen = lab.observe(&Seen::default());
    assert_eq!(seen.legs[&mac].netns, None);

    // One that moved: the leg is taken from the one and hung into the other.
    wanted.legs.get_mut(&mac).unwrap().netns = Some(two);
    assert_eq!(lab.observe(&wanted).legs[&mac].netns, None);
    lab.apply(&wanted);
    assert_eq!(lab.observe(&wanted), wanted);
    assert_eq!(lab.ip_json("b1", "link").as_array().unwrap().len(), 1);

    // One that died: its end of the leg went with it, and so did ours.
    netns::delete(&lab.name("b2")).unwrap();
    let gone = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        lab.observe(&wanted).legs.is_empty()
    });
    assert!(gone);
}

#[test]
fn facts_about_the_host_are_told() {
    let Some(mut lab) = Lab::new() else { return };
    lab.ip("host", "link add wan type veth peer name peer");
    lab.ip("host", "link set wan up mtu 1400");
    lab.ip("host", "link set peer up");
    lab.ip("host", "addr add 192.0.2.1/24 dev wan");
    lab.ip("host", "addr add 2001:db8::1/64 dev wan nodad valid_lft 3600 preferred_lft 3600");
    lab.ip("host", "route add 198.51.100.0/24 nexthop via 192.0.2.2 dev wan nexthop via 192.0.2.3 dev wan");
    lab.ip("host", "route add 203.0.113.0/24 via 192.0.2.2");
    lab.ip("host", "route add default via 192.0.2.254");
    let routes = lab.links.host_routes().unwrap();
    let expected = ["192.0.2.0/24 wan", "198.51.100.0/24 ", "203.0.113.0/24 wan", "2001:db8::/64 wan"];
    assert_eq!(
        routes.iter().map(|(to, link)| format!("{to} {link}")).collect::<BTreeSet<_>>(),
        expected.map(str::to_owned).into()
    );
    let addresses = lab.links.host_addresses().unwrap();
    assert!(
        ["192.0.2.1/24", "2001:db8::1/64"].iter().all(|ip| addresses.contains(&ip.parse().unwrap())),
        "{addresses:?}"
    );
    for (address, mtu) in [("192.0.2.1", 1400), ("2001:db8::1", 1400), ("203.0.113.9", 1400), ("127.0.0.1", 65536)] {
        assert_eq!(lab.links.underlay_mtu(ip(address)).unwrap(), Some(mtu), "{address}");
    }
    assert_eq!(lab.links.underlay_mtu(ip("2001:db9::1")).unwrap(), None);
    assert_eq!(lab.links.names(Netns::Host).unwrap(), ["lo", "wan", "peer"].map(str::to_owned).into());
}

#[test]
fn a_namespace_is_pinned_where_a_file_was_left() {
    let Some(mut lab) = Lab::new() else { return };
    let name = lab.name("left");
    let path = format!("/run/netns/{name}");
    std::fs::write(&path, "").unwrap();
    assert!(!netns::exists(&name));
    assert!(format!("{:?}", netns::open(&path).unwrap_err()).contains("not a network namespace"));
    lab.namespace("left");
    assert!(netns::exists(&name));
    let once = netns::open(&path).unwrap();
    netns::create(&name).unwrap();
    assert!(netns::same(&once, &netns::open(&path).unwrap()).unwrap());
    assert!(!netns::same(&once, lab.links.netns(Netns::Host).unwrap()).unwrap());
    assert!(run("ip", "netns list").lines().any(|line| line.split_whitespace().next() == Some(&name)));
    assert_eq!(lab.ip_json("left", "link show lo")[0]["flags"][1], "UP");

    netns::delete(&name).unwrap();
    netns::delete(&name).unwrap();
    assert!(!netns::exists(&name) && !std::path::Path::new(&path).exists());
    for wrong in ["/proc/self/ns/mnt", "/etc/passwd", "/nonexistent", "/run/netns"] {
        netns::open(wrong).unwrap_err();
    }
    netns::open(NetnsRef::Pid(std::process::id()).path()).unwrap();
    netns::create("../left").unwrap_err();
}

#[test]
fn the_hosts_parameters_are_given_back() {
    let Some(lab) = Lab::new() else { return };
    for link in ["wan", "lan", "lan.100"] {
        lab.ip("host", &format!("link add name {link} type bridge"));
    }
    let host = lab.links.netns(Netns::Host).unwrap();
    let (four, six, redirects) =
        ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.accept_redirects");
    for name in [four, six, redirects] {
        sysctl::write(host, name, "0").unwrap();
    }
    let dotted = "net/ipv4/conf/lan.100/forwarding";
    for name in ["net.ipv4.conf.wan.forwarding", dotted, "net.ipv6.conf.lan.forwarding"] {
        sysctl::write(host, name, "1").unwrap();
    }
    let listing = |lab: &Lab| {
        let name = lab.name("host");
        let text = run("ip", &format!("netns exec {name} sysctl -a -r forwarding|ip_forward|accept_redirects"));
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = listing(&lab);
    assert!(before.contains("net.ipv4.conf.lan/100.forwarding = 1"), "{before:?}");

    let directory = std::env::temp_dir().join(lab.name("run"));
    netns::within(host, || {
        let parameters = sysctl::Host::new(&directory);
        parameters.set(four, "0").unwrap();
        assert!(parameters.recorded().unwrap().is_empty(), "what is not changed is not ours to restore");
        for _ in 0..2 {
            parameters.set(four, "1").unwrap();
            parameters.set(six, "1").unwrap();
        }
        assert_eq!(parameters.recorded().unwrap(), [four, six].map(|name| (name.to_owned(), "0".to_owned())).into());
        parameters.set("net.ipv4.nonesuch", "1").unwrap_err();
    })
    .unwrap();
    assert_eq!(sysctl::read(host, four).unwrap().as_deref(), Some("1"));
    assert_eq!(sysctl::read(host, "net.ipv4.conf.lan.forwarding").unwrap().as_deref(), Some("1"));
    assert_eq!(sysctl::read(host, "net.ipv4.nonesuch").unwrap(), None);
    assert_ne!(listing(&lab), before);

    // The daemon that restores is another one, and a link went in between.
    lab.ip("host", "link del wan");
    netns::within(host, || {
        let parameters = sysctl::Host::new(&directory);
        for name in [four, six, six] {
            parameters.restore(name).unwrap();
        }
        assert!(parameters.recorded().unwrap().is_empty());
    })
    .unwrap();
    let of_wan = |line: &String| line.contains(".conf.wan.");
    assert_eq!(listing(&lab), before.into_iter().filter(|line| !of_wan(line)).collect());
    std::fs::remove_dir_all(directory).unwrap();
}
