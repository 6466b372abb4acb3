//! `[ingress] encryption`: VXLAN inside WireGuard.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket, sockopt,
};

use crate::explain::broken;
use crate::lab::{Meshd, Node, Nodes, Tcp, Udp, Underlay, batch, eventually, value_of};
use crate::nodes::{bodies, check, encapsulated, kafka};

/// What wg(8) says of the node's link: one line for itself, one for each peer, in columns.
fn shown(node: &Node) -> Vec<Vec<String>> {
    let text = node.overlay().run("wg show wg0 dump");
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// What does not change by itself: key and port; keys, ends, addresses and keepalive of the peers.
fn told(node: &Node) -> BTreeSet<Vec<String>> {
    let lines = shown(node).into_iter();
    lines
        .map(|line| if line.len() == 4 { line[1..3].to_vec() } else { [&line[..1], &line[2..4], &line[7..]].concat() })
        .collect()
}

/// WireGuard tells no one of a change, so it is found when meshd next looks: at once, if the host's nftables tell of another
/// one.
fn nudge(node: &Node) {
    node.run("nft delete chain inet meshd tunnel");
    eventually("meshd has looked", || node.try_run("nft list chain inet meshd tunnel").status.success());
}

#[test]
fn smoke_three_nodes_in_secret() {
    let Some(mut nodes) = Nodes::new(3, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    nodes.encrypt();
    let file = nodes.file("wire", 0);
    let mut tcpdump = nodes.lan.tcpdump("node-2", "udp", &file);
    let _daemons = nodes.start(kafka(&nodes));
    check(&nodes, Tcp);
    check(&nodes, Udp);
    bodies(&nodes);

    // All that a node says to another is WireGuard's. What is in the clear is between it and the client, at its own port.
    let wire = tcpdump.finish();
    let between =
        |line: &&str| (1..=3).all(|number| number == 2 || !line.contains(&format!("192.168.50.1{number}.20229")));
    let strange: Vec<&str> = wire
        .lines()
        .filter(|line| line.contains("UDP") || line.contains("VXLAN"))
        .filter(|line| !line.contains(".51820: UDP") && !line.contains(".20229") && between(line))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert!(
        !wire.contains(".4789 ") && !wire.contains(".4789:") && !wire.contains("VXLAN") && !wire.contains("10.255.0."),
        "{wire}"
    );
    assert!(wire.contains("192.168.50.1.51820 > 192.168.50.12.51820: UDP"), "{wire}");

    for node in &nodes.all {
        assert_eq!(node.sandbox().json("ip -j link show dev eth0")[0]["mtu"], 1390);
        let lines = shown(node);
        assert_eq!((lines[0][1].as_str(), lines[0][2].as_str()), (nodes.public_key(node), "51820"));
        let peers: BTreeSet<[&str; 3]> = lines[1..].iter().map(|of| [of[0].as_str(), &of[2], &of[3]]).collect();
        let others = nodes.all.iter().filter(|other| other.number != node.number);
        let expected: Vec<[String; 3]> = others
            .map(|other| [nodes.public_key(other).to_owned(), other.address() + ":51820", other.address() + "/32"])
            .collect();
        assert_eq!(peers, expected.iter().map(|of| [of[0].as_str(), &of[1], &of[2]]).collect());
        // The key is no one else's, and wg(8) agrees.
        let key = node.state_dir().join("wireguard.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let public = std::process::Command::new("wg").arg("pubkey").stdin(std::fs::File::open(&key).unwrap()).output();
        assert_eq!(String::from_utf8(public.unwrap().stdout).unwrap().trim(), nodes.public_key(node));
        let metrics = node.metrics();
        for other in nodes.all.iter().filter(|other| other.number != node.number) {
            let name = format!("meshd_peer_last_handshake_timestamp_seconds{{peer=\"{}\"}}", other.name());
            assert!(value_of(&metrics, &name) > 1.6e9, "{metrics}");
        }
    }
}

/// The clear text of who has a peer's address is a stranger's.
#[test]
fn what_comes_in_the_clear_is_dropped_and_counted() {
    for v6 in [false, true] {
        let Some(mut nodes) = Nodes::new(2, Underlay { v6, ..Underlay::default() }) else { return };
        nodes.encrypt();
        let _backends = nodes.kafka(&[Tcp, Udp]);
        let _daemons = nodes.start(kafka(&nodes));
        let [first, second] = [&nodes.all[0], &nodes.all[1]];
        assert_eq!(first.sandbox().json("ip -j link show dev eth0")[0]["mtu"], if v6 { 1350 } else { 1390 });
        let heard = || first.overlay().json("ip -j -s link show dev vxlan0")[0]["stats64"]["rx"]["packets"].as_u64();
        let dropped = || value_of(&first.metrics(), "meshd_tunnel_strangers_dropped_total");
        let tunnel = if v6 { "[fd50::1]:4789" } else { "192.168.50.1:4789" };
        let before = heard();
        let peer = second.datagrams(0, tunnel);
        (0..5).for_each(|_| peer.send(encapsulated(4077)));
        eventually("five were dropped", || dropped() == 5.0);
        assert_eq!(heard(), before);
        check(&nodes, Tcp);
        bodies(&nodes);
        assert!(heard() > before);

        // Without the link nothing is sent at all, until it is back.
        let file = nodes.file("wire", 0);
        let mut tcpdump = nodes.lan.tcpdump("node-1", "udp port 4789", &file);
        first.overlay().run("ip link set wg0 down");
        for _ in 0..4 {
            let _ = nodes.client.try_run("curl -s -m 1 http://192.168.50.1:20229/");
        }
        eventually("the link is up", || first.overlay().run("ip link show dev wg0").contains(",UP"));
        eventually("the other is reached", || (0..2).all(|_| nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok()));
        let wire = tcpdump.finish();
        assert_eq!(wire, "");
    }
}

/// A router's advertisement (RFC 4861, section 4.2) of the network that the nodes are in.
fn advertisement() -> Vec<u8> {
    let mut packet = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // On this link, and to make addresses from; a day.
    packet.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0]);
    packet.extend("fd50::".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet
}

/// Better ways to the peers than ours would be ways around WireGuard.
#[test]
fn a_backend_that_plays_the_router_leads_nothing_astray() {
    let Some(mut nodes) = Nodes::new(2, Underlay { v6: true, ..Underlay::default() }) else { return };
    nodes.encrypt();
    let backends = nodes.kafka(&[Tcp, Udp]);
    let _daemons = nodes.start(kafka(&nodes));
    let overlay = nodes.all[0].overlay();
    let file = nodes.file("port", 0);
    let mut tcpdump = overlay.tcpdump("br0", "icmp6 and ip6[40] = 134", &file);
    let index = backends[0].json("ip -j link show dev eth0")[0]["ifindex"].as_u64().unwrap();
    backends[0].within(|| {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255).unwrap();
        let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, u32::try_from(index).unwrap());
        let sent = sendto(raw.as_raw_fd(), &advertisement(), &SockaddrStorage::from(all), MsgFlags::empty());
        assert_eq!(sent, Ok(48));
    });
    assert!(tcpdump.finish().contains("router advertisement"), "it was heard");
    assert!(overlay.run("ip -6 route get fd50::12").contains("dev wg0"), "{}", overlay.run("ip -6 route"));
    assert_eq!(overlay.run("ip -6 address show dev br0"), "");
    check(&nodes, Tcp);
}

#[test]
fn an_underlay_of_9000_bytes() {
    let Some(mut nodes) = Nodes::new(2, Underlay { mtu: 9000, v6: true }) else { return };
    nodes.encrypt();
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let _daemons = nodes.start(kafka(&nodes));
    assert_eq!(nodes.all[1].sandbox().json("ip -j link show dev eth0")[0]["mtu"], 8850);
    bodies(&nodes);
}

#[test]
fn what_others_change_is_mended() {
    let Some(mut nodes) = Nodes::new(2, Underlay::default()) else { return };
    nodes.encrypt();
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let mut daemons = nodes.start(kafka(&nodes));
    let [first, second] = [&nodes.all[0], &nodes.all[1]];
    let overlay = first.overlay();
    let (before, other) = (told(first), nodes.public_key(second));
    let stranger = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    overlay.run("wg set wg0 listen-port 1234");
    eventually("by itself", || told(first) == before);
    for damage in [
        format!("wg set wg0 peer {other} remove"),
        format!("wg set wg0 peer {other} allowed-ips 10.9.9.9/32"),
        format!("wg set wg0 peer {other} persistent-keepalive off"),
        format!("wg set wg0 peer {stranger} endpoint 192.168.50.2:51820 allowed-ips 192.168.50.12/32"),
        "wg set wg0 private-key /dev/null".to_owned(),
        "ip address del 192.168.50.1/32 dev wg0".to_owned(),
        "ip route del default".to_owned(),
        "ip link del wg0".to_owned(),
    ] {
        overlay.run(&damage);
        nudge(first);
        eventually(&format!("{damage} is mended"), || {
            overlay.try_run("wg show wg0").status.success() && told(first) == before
        });
        eventually("the other is reached", || (0..2).all(|_| nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok()));
    }
    assert!(value_of(&first.metrics(), "meshd_drift_repaired_total{kind=\"wireguard\"}") >= 6.0);

    // Killed and started again, it finds all as it should be, and has its key.
    daemons.remove(0).kill9();
    let mut again = first.spawn();
    again.wait_until_ready();
    assert_eq!(told(first), before);
    assert!(!again.log().contains("wireguard peer"), "{}", again.log());
    assert!(!again.log().contains(std::fs::read_to_string(first.state_dir().join("wireguard.key")).unwrap().trim()));
    check(&nodes, Tcp);
}

#[test]
fn a_peer_that_moves_is_followed_by_its_key_and_by_the_file() {
    let Some(mut nodes) = Nodes::new(2, Underlay::default()) else { return };
    nodes.encrypt();
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let mut daemons = nodes.start(kafka(&nodes));
    let [first, second] = [&nodes.all[0], &nodes.all[1]];
    check(&nodes, Tcp);
    // It speaks from elsewhere, and no file says so: who has the key is answered, and nobody undoes that.
    batch(Some(second), "addr del 192.168.50.12/24 dev lan0\naddr add 192.168.50.99/24 dev lan0\n");
    let endpoint = || shown(first)[1][2].clone();
    let reached = || (0..2).all(|_| nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok());
    eventually("it is heard of", || {
        nodes.client.try_ask(Tcp, "192.168.50.99:20229").is_ok() && endpoint() == "192.168.50.99:51820"
    });
    eventually("it is reached", reached);
    nudge(first);
    assert_eq!(endpoint(), "192.168.50.99:51820");
    assert_eq!(daemons[0].log().matches("wireguard peer").count(), 1, "{}", daemons[0].log());

    // Nor does another meshd that starts there.
    daemons.remove(0).kill9();
    let mut first_daemon = first.spawn();
    first_daemon.wait_until_ready();
    assert_eq!(endpoint(), "192.168.50.99:51820");
    assert!(!first_daemon.log().contains("wireguard peer"), "{}", first_daemon.log());

    // Then the files say so, too, and a new key besides.
    let state = second.state_dir().join("wireguard.key");
    let mut second_daemon = daemons.remove(0);
    let old = nodes.public_key(second).to_owned();
    second_daemon.signal(nix::sys::signal::Signal::SIGKILL);
    second_daemon.wait();
    std::fs::remove_file(&state).unwrap();
    let program =
        format!("{} --config {} --public-key", crate::lab::program().display(), second.config_file().display());
    let new = second.run(&program).trim().to_owned();
    assert_ne!(new, old);
    // The file has the old one still.
    let refused =
        second.try_run(&format!("{} --config {}", crate::lab::program().display(), second.config_file().display()));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains(&old) && said.contains(&new), "{said}");
    let moved = |node: &Node| {
        kafka(&nodes)(nodes.config(node)).replacing("192.168.50.12", "192.168.50.99").replacing(&old, &new)
    };
    nodes.write(second, &moved(second));
    second_daemon = second.spawn();
    second_daemon.wait_until_ready();
    first_daemon.reload(&moved(first));
    eventually("it is reached by its new key", reached);
    let lines = shown(first);
    assert_eq!((lines.len(), lines[1][0].as_str(), lines[1][2].as_str()), (2, new.as_str(), "192.168.50.99:51820"));
}

#[test]
fn what_stands_in_the_way_is_named() {
    let Some(mut nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    let plain = kafka(&nodes)(nodes.config(&nodes.all[0]));
    nodes.encrypt();
    let secret = |node: &Node| kafka(&nodes)(nodes.config(node));
    let first = &nodes.all[0];
    let key = first.state_dir().join("wireguard.key");
    let good = std::fs::read_to_string(&key).unwrap();
    let refused = |words: &str| {
        let output = nodes.meshd(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
        assert!(!nodes.sandbox().exists(), "nothing was changed");
    };
    nodes.write(first, &secret(first));
    std::fs::write(&key, "no key").unwrap();
    refused("wireguard.key is no WireGuard key: put back what was there");
    std::fs::write(&key, &good).unwrap();
    let other = first.within(|| std::net::UdpSocket::bind("192.168.50.1:51820").unwrap());
    refused("UDP port 51820 is taken on this host");
    drop(other);

    // As if node-2's disk was a copy of this one's.
    let (own, others) = (nodes.public_key(first), nodes.public_key(&nodes.all[1]));
    let twins = secret(first).replacing(&format!("public_key = '{own}'"), "").replacing(others, own);
    nodes.write(first, &twins);
    refused("[[peer]] public_key of node-2 is this node's own: was its disk copied?");
    nodes.write(first, &secret(first));

    // A dry run makes no key, and tells none.
    std::fs::remove_file(&key).unwrap();
    let plan = nodes.dry_run();
    assert!(plan.contains("add link overlay/wg0: wireguard\n") && plan.contains("set wireguard public key "), "{plan}");
    assert!(!key.exists());
    std::fs::write(&key, &good).unwrap();

    // From clear to secret and back by a restart, on both; what was there before is no hindrance.
    let others = kafka(&nodes)(nodes.config(&nodes.all[1]));
    let clear = |text: &crate::lab::Config| text.clone().set("ingress", "encryption", "'none'");
    nodes.write(first, &plain);
    nodes.write(&nodes.all[1], &clear(&others));
    for (number, encrypted) in [false, true, false].into_iter().enumerate() {
        if number > 0 {
            nodes.write(first, &if encrypted { secret(first) } else { plain.clone() });
            nodes.write(&nodes.all[1], &if encrypted { others.clone() } else { clear(&others) });
        }
        let mut daemons: Vec<_> = nodes.all.iter().map(Node::spawn).collect();
        daemons.iter_mut().for_each(crate::lab::Meshd::wait_until_ready);
        let reached = || (0..2).all(|_| nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok());
        eventually("the other is reached", reached);
        check(&nodes, Tcp);
        assert_eq!(first.overlay().try_run("ip link show dev wg0").status.success(), encrypted);
        if encrypted {
            let before = daemons[0].log().len();
            nodes.write(first, &plain);
            daemons[0].signal(nix::sys::signal::Signal::SIGHUP);
            eventually("the reload is refused", || {
                daemons[0].log()[before..].contains("[ingress] encryption cannot change while meshd runs: restart it")
            });
        }
        daemons.into_iter().for_each(|daemon| assert!(daemon.stop().success()));
    }
}

#[test]
fn nobody_finds_anything_to_mend() {
    crate::doctor::are_well(false, true, false);
    crate::doctor::are_well(true, true, true);
}

/// Between nodes that speak in secret, too, what is broken is named.
#[test]
fn what_is_broken_is_named() {
    let Some(mut nodes) = Nodes::new(2, Underlay::default()) else { return };
    let _backends = nodes.kafka(&[Tcp, Udp]);
    nodes.encrypt();
    let daemons = nodes.start(kafka(&nodes));
    let line = format!("tcp/20229 --from 192.168.50.10 --config {}", nodes.config_file().display());
    eventually("all is well", || broken(&nodes, &line).is_none());
    daemons.into_iter().for_each(Meshd::kill9);
    let overlay = nodes.all[0].overlay();
    let key = nodes.public_key(&nodes.all[1]);
    overlay.run(&format!("wg set wg0 peer {key} remove"));
    assert_eq!(broken(&nodes, &line), Some((overlay.name.clone(), "WireGuard peer".to_owned())));
    overlay.run("ip link del wg0");
    assert_eq!(broken(&nodes, &line), Some((overlay.name, "link wg0".to_owned())));
}
