//! The underlay, offloads, clashes and other firewalls.

use meshd::control::protocol::Grade::{self, Fault, Notice, Warning};
use meshd::mesh::Protocol;
use meshd::objects::{Beside, Condition, LinkId, Netns, Obstacle, Opening};

use super::{BASE, KAFKA, PEER, after, alone, check, check_good, encrypted, mesh, parse, peer};

#[test]
fn this_node_has_its_address() {
    let gone = |condition: &mut Condition| condition.addresses.clear();
    let (found, mend) =
        ("192.168.50.1 is not an address of this host", "[node] address = one that `ip -br address` shows");
    check(&mesh(""), gone, Fault, "[node] address", found, mend);
    // There is nobody who would reach it.
    check(&alone(""), gone, Notice, "[node] address", found, mend);
}

#[test]
fn the_overlay_fits_the_underlay() {
    let mtu = |mtu| move |condition: &mut Condition| condition.underlay.as_mut().unwrap().mtu = mtu;
    let found = "1450 bytes, and 50 around them; lan0 carries 1400";
    let mend = "[ingress] mtu = 1350 on all nodes, or ip link set lan0 mtu 1500";
    check(&mesh(""), mtu(1400), Fault, "MTU of the overlay", found, mend);
    check(&alone(""), mtu(1400), Notice, "MTU of the overlay", found, mend);
    let found = "1450 bytes, and 50 around them; lan0 carries 9000";
    check_good(&mesh(""), mtu(9000), "MTU of the overlay", found);
}

#[test]
fn links_of_the_overlay_carry_what_they_should() {
    let link =
        |mtu| move |condition: &mut Condition| _ = condition.links.insert(LinkId::new(Netns::Overlay, "vxlan0"), mtu);
    let (what, mend) = ("MTU of the overlay's links", "systemctl restart meshd, which sets them");
    check(&mesh(""), link(1500), Fault, what, "overlay/vxlan0 1500, where 1450 is wanted", mend);
    check(&alone(""), link(1500), Notice, what, "overlay/vxlan0 1500, where 1450 is wanted", mend);
    check(&mesh(""), link(1400), Notice, what, "overlay/vxlan0 1400, where 1450 is wanted", mend);
    check_good(&mesh(""), |_| (), what, "1450 bytes on all 2");
}

#[test]
fn paths_carry_what_the_tunnel_sends() {
    let path = |bytes, by_echo| move |condition: &mut Condition| _ = condition.paths.insert(peer(), (bytes, by_echo));
    let found = "1420 bytes in one piece, and the tunnel's packets have up to 1500";
    let mend = "[ingress] mtu = 1370 on all nodes";
    check(&mesh(""), path(1420, false), Fault, "path to node-2", found, mend);
    check(&mesh(""), path(1420, true), Fault, "path to node-2", found, mend);
    // Who says how large packets are to be may know of a filter.
    check(&mesh("mtu = 1450\n"), path(1420, true), Warning, "path to node-2", found, mend);
    check_good(&mesh(""), path(9000, false), "paths to other nodes", "1500 bytes in one piece, to 1");
    let (what, mend) = ("routes to other nodes", "ip route get ADDRESS, of that node's [[peer]]");
    check(&mesh(""), |condition| condition.paths.clear(), Fault, what, "no route to node-2", mend);
    assert!(after(&alone(""), |_| ()).iter().all(|finding| finding.what != "paths to other nodes"));
}

#[test]
fn hardware_that_spoils_checksums() {
    let vmxnet3 = |condition: &mut Condition| condition.underlay.as_mut().unwrap().driver = Some("vmxnet3".to_owned());
    let what = "checksums of VXLAN by lan0";
    let found = "tx-checksum-ip-generic on, driver vmxnet3";
    let mend =
        "ethtool -K lan0 tx-checksum-ip-generic off, on all nodes; or another [ingress] port than 4789 on all nodes";
    check(&mesh(""), vmxnet3, Warning, what, found, mend);
    check(&alone(""), vmxnet3, Notice, what, found, mend);
    check_good(&encrypted(), vmxnet3, what, found);
    check_good(&mesh(""), |_| (), what, "tx-checksum-ip-generic on, driver virtio_net");
    let off = |condition: &mut Condition| {
        vmxnet3(condition);
        condition.underlay.as_mut().unwrap().offloads.as_mut().unwrap().on.remove("tx-checksum-ip-generic");
    };
    check_good(&mesh(""), off, what, "tx-checksum-ip-generic off, driver vmxnet3");
}

#[test]
fn hardware_that_cuts() {
    let what = "segmentation of VXLAN by lan0";
    let off = |can: bool| {
        move |condition: &mut Condition| {
            let offloads = condition.underlay.as_mut().unwrap().offloads.as_mut().unwrap();
            offloads.on.remove("tx-udp_tnl-segmentation");
            if !can {
                offloads.can.remove("tx-udp_tnl-segmentation");
            }
        }
    };
    check(&mesh(""), off(true), Notice, what, "off", "ethtool -K lan0 tx-udp_tnl-segmentation on");
    check_good(&mesh(""), off(false), what, "not there");
    check_good(&mesh(""), |_| (), what, "on");
    let silent = |condition: &mut Condition| condition.underlay.as_mut().unwrap().offloads = None;
    check(&mesh(""), silent, Notice, "offloads", "lan0 does not say", "ethtool -k lan0");
}

#[test]
fn subnets_that_others_have() {
    let route = |network: &'static str| {
        move |condition: &mut Condition| condition.routes.push((network.parse().unwrap(), "eth1".to_owned()))
    };
    let mend = |name: &str| format!("{name} = another that is free on all nodes, or ip route del the other");
    let what = "[ingress] subnet";
    check(
        &mesh(""),
        route("10.255.7.0/24"),
        Fault,
        what,
        "10.255.0.0/16, and this host has a route to 10.255.7.0/24 on eth1",
        &mend(what),
    );
    check(
        &mesh(""),
        route("10.0.0.0/8"),
        Fault,
        what,
        "10.255.0.0/16, and this host has a route to 10.0.0.0/8 on eth1",
        &mend(what),
    );
    let what = "[gateway] subnet";
    check(
        &mesh(""),
        route("169.254.0.0/16"),
        Fault,
        what,
        "169.254.77.0/24, and this host has a route to 169.254.0.0/16 on eth1",
        &mend(what),
    );
    check_good(&mesh(""), route("10.254.0.0/16"), "subnets", "169.254.77.0/24, 10.255.0.0/16");
}

#[test]
fn names_that_others_have() {
    let foreign = |condition: &mut Condition| _ = condition.foreign.insert("mesh_sbox".to_owned());
    let mend = "ip link delete mesh_sbox, or another [gateway] bridge";
    check(&mesh(""), foreign, Fault, "link mesh_sbox", "it is not meshd's", mend);
}

#[test]
fn ports_that_others_have() {
    let listener = |protocol, at: &'static str| {
        move |condition: &mut Condition| _ = condition.listeners.insert((protocol, at.parse().unwrap()))
    };
    let mend = "ss -ulpn 'sport = 4789' shows a process that has it; or another [ingress] port on all nodes";
    let unborn = |condition: &mut Condition| {
        condition.links.clear();
        listener(Protocol::Udp, "0.0.0.0:4789")(condition);
    };
    check(&mesh(""), unborn, Warning, "UDP port 4789", "somebody has it", mend);
    // Our own device has it, and it is TCP.
    check_good(&mesh(""), listener(Protocol::Udp, "0.0.0.0:4789"), "UDP port 4789", "nobody else's");
    check_good(&mesh(""), listener(Protocol::Tcp, "0.0.0.0:4789"), "UDP port 4789", "nobody else's");
    let wireguard = listener(Protocol::Udp, "[::]:51820");
    check_good(&encrypted(), wireguard, "UDP port 51820", "nobody else's");
    let taken = |condition: &mut Condition| {
        wireguard(condition);
        condition.wireguard_port = None;
    };
    let mend = "ss -ulpn 'sport = 51820' shows a process that has it; or another [ingress] wireguard_port on all nodes";
    check(&encrypted(), taken, Fault, "UDP port 51820", "somebody has it", mend);
}

#[test]
fn processes_on_published_ports() {
    let listens = |protocol, at: &'static str| {
        move |condition: &mut Condition| _ = condition.listeners.insert((protocol, at.parse().unwrap()))
    };
    let what = "processes on published ports";
    let mend =
        "have the process listen elsewhere (`ss -lntup`), or publish another port, or at some addresses only (`bind`)";
    check(&mesh(""), listens(Protocol::Tcp, "127.0.0.1:20229"), Warning, what, "tcp 127.0.0.1:20229", mend);
    check_good(&mesh(""), listens(Protocol::Udp, "127.0.0.1:20229"), what, "none on 1");
    let range = parse(&format!(
        "{BASE}{PEER}{}",
        KAFKA.replace("published = 20229, target = 9092", "published = '30000-30009'")
    ));
    check(&range, listens(Protocol::Tcp, "[::]:30009"), Warning, what, "tcp [::]:30009", mend);
    check_good(&range, listens(Protocol::Tcp, "[::]:30010"), what, "none on 1");
    let many = |condition: &mut Condition| {
        (1..=9).for_each(|last| _ = condition.listeners.insert((Protocol::Tcp, ([127, 0, 0, last], 20229).into())));
    };
    let told = after(&mesh(""), many).into_iter().find(|finding| finding.what == what).unwrap();
    assert!(told.found.ends_with("tcp 127.0.0.5:20229 and 4 more"), "{told:?}");
}

fn drops(family: &'static str, table: &str) -> (Opening, impl FnOnce(&mut Condition) + use<>) {
    let chain = Opening { family, table: table.to_owned(), chain: "FORWARD".to_owned() };
    let copy = chain.clone();
    (chain, move |condition| _ = condition.surroundings.forward_drops.insert(copy))
}

#[test]
fn forward_chains_that_drop() {
    let rules = "nft insert rule ip filter FORWARD iifname mesh_sbox accept && nft insert rule ip filter FORWARD oifname mesh_sbox accept";
    let (chain, damage) = drops("ip", "filter");
    let mend = format!("systemctl start meshd, or {rules}");
    let found = "drops what nobody accepts, and meshd's rules are not there";
    check(&mesh(""), damage, Fault, "chain ip filter FORWARD", found, &mend);
    let opened = |condition: &mut Condition| {
        condition.surroundings.forward_drops.insert(chain.clone());
        condition.openings.insert(chain.clone());
    };
    check_good(&mesh(""), opened, "chain ip filter FORWARD", "drops, but for mesh_sbox");
    // What is there does not count where it is not wanted: it will go.
    let closed = mesh("[gateway]\nopen_forward = false\n");
    let (found, mend) = (
        "drops what nobody accepts, and [gateway] open_forward = false",
        format!("{rules}; or [gateway] open_forward = true"),
    );
    check(&closed, opened, Fault, "chain ip filter FORWARD", found, &mend);
    let grade_of = |closed: bool, family: &'static str, table: &str| -> Option<Grade> {
        let mesh = mesh(if closed { "[gateway]\nopen_forward = false\n" } else { "" });
        let what = format!("chain {}", drops(family, table).0);
        after(&mesh, drops(family, table).1)
            .into_iter()
            .find(|finding| finding.what == what)
            .map(|finding| finding.grade)
    };
    // firewalld lets through what was translated; and nothing of this mesh is IPv6.
    assert_eq!(grade_of(true, "inet", "firewalld"), Some(Warning));
    assert_eq!(grade_of(true, "ip6", "filter"), None);
    check_good(&mesh(""), |_| (), "forward chains of others", "none drops what nobody accepts");
}

#[test]
fn legacy_iptables() {
    let legacy = |condition: &mut Condition| condition.legacy.push("iptables-legacy");
    let mend = "iptables-legacy -I FORWARD -i mesh_sbox -j ACCEPT && iptables-legacy -I FORWARD -o mesh_sbox -j ACCEPT, if it drops";
    check(&mesh(""), legacy, Warning, "iptables-legacy", "it has a filter table here", mend);
}

#[test]
fn rules_that_keep_the_tunnel_out() {
    let obstacle = |is_sure| {
        move |condition: &mut Condition| {
            let obstacle = Obstacle { chain: "ip filter INPUT".to_owned(), handle: None, does: "drop", is_sure };
            condition.obstacles.insert(peer(), vec![obstacle]);
        }
    };
    let what = "the tunnel's packets from node-2 (192.168.50.2)";
    let mend = |port| format!("nft insert rule ip filter INPUT udp dport {port} accept");
    check(&mesh(""), obstacle(true), Fault, what, "chain ip filter INPUT: policy drop", &mend(4789));
    check(&mesh(""), obstacle(false), Warning, what, "chain ip filter INPUT: policy may drop", &mend(4789));
    check(&encrypted(), obstacle(true), Fault, what, "chain ip filter INPUT: policy drop", &mend(51820));
    check_good(&mesh(""), |_| (), "the tunnel's packets, UDP port 4789", "let in from node-2");
}

#[test]
fn who_else_makes_rules() {
    let beside =
        |who, seen: &'static str| move |condition: &mut Condition| _ = condition.beside.insert(who, seen.to_owned());
    check_good(
        &mesh(""),
        beside(Beside::Docker, "ip filter DOCKER-USER"),
        "Docker",
        "here, by chain ip filter DOCKER-USER",
    );
    check_good(
        &mesh(""),
        beside(Beside::Kubernetes, "ip nat KUBE-SERVICES"),
        "Kubernetes",
        "here, by chain ip nat KUBE-SERVICES",
    );
    let mend = "allow = [\"192.0.2.0/24\"] or deny at the published port, where not everyone may come";
    check(
        &mesh(""),
        beside(Beside::Firewalld, "inet firewalld filter_INPUT"),
        Notice,
        "firewalld",
        "here, by chain inet firewalld filter_INPUT",
        mend,
    );
    check(
        &mesh(""),
        beside(Beside::Ufw, "ip filter ufw-user-input"),
        Notice,
        "ufw",
        "here, by chain ip filter ufw-user-input",
        mend,
    );
}
