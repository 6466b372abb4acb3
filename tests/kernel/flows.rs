//! The host's flow table: what is established passes by it, and no one passes who may not.

use std::time::Duration;

use crate::lab::{BACKENDS, Config, Lab, Place, Tcp, Udp, batch, eventually, tally};

const ADDRESSES: [&str; 2] = ["192.168.50.1:20229", "[fd50::1]:20229"];

fn kafka(lab: &Lab, more: &str) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = 20229, target = 9092, protocol = 'udp' }}]\n\
         {more}{BACKENDS}"
    ))
}

/// The links of the flow table, as nft lists them.
fn links(node: &Place) -> Option<Vec<String>> {
    let shown = node.try_run("nft list flowtable inet meshd flows");
    let text = String::from_utf8(shown.stdout).expect("nft prints text");
    let links = text.lines().find_map(|line| line.trim().strip_prefix("devices = { ")?.strip_suffix(" }"))?;
    let mut links: Vec<String> = links.split(", ").map(|link| link.trim_matches('"').to_owned()).collect();
    links.sort();
    Some(links)
}

/// Connections that pass by the flow table, as the kernel's connection tracking marks them.
fn offloaded(node: &Place, protocol: &str) -> usize {
    let all = node.run("cat /proc/net/nf_conntrack");
    all.lines().filter(|line| line.contains(protocol) && line.contains("[OFFLOAD]")).count()
}

#[test]
fn smoke_established_connections_pass_by_the_flow_table() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp, Udp]);
    let meshd = lab.start(&kafka(&lab, "drain = '2s'\n"));
    let node = &lab.node;
    assert_eq!(links(node), Some(vec!["lan0".to_owned(), "mesh_sbox".to_owned()]));
    let mut held = ADDRESSES.map(|to| lab.client.connect(Tcp, to).unwrap());
    for _ in 0..5 {
        held.iter_mut().for_each(|one| drop(one.ask("hello").unwrap()));
    }
    assert_eq!(offloaded(node, "tcp"), 2, "{}", node.run("cat /proc/net/nf_conntrack"));
    let flows = ADDRESSES.map(|to| lab.client.datagrams(5353, to));
    for _ in 0..5 {
        flows.iter().for_each(|flow| drop(flow.ask("hello", Duration::from_secs(5)).unwrap()));
    }
    assert_eq!(offloaded(node, "udp"), 2);
    // Bodies, both ways, and an end that both sides see.
    for to in ADDRESSES {
        let answers = lab.client.ask_times(12, Tcp, to);
        assert_eq!(tally(&answers).len(), 3);
    }
    // A restart, and a link that comes and goes.
    meshd.kill9();
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    assert!(!meshd.log().contains("flow table"), "{}", meshd.log());
    node.run("ip link add later0 type dummy");
    node.run("ip link set later0 up");
    node.run("ip addr add 192.168.77.1/24 dev later0");
    eventually("it is in the flow table", || links(node).is_some_and(|links| links.contains(&"later0".to_owned())));
    held.iter_mut().for_each(|one| drop(one.ask("still").unwrap()));
    node.run("ip link del later0");
    eventually("it is not", || links(node) == Some(vec!["lan0".to_owned(), "mesh_sbox".to_owned()]));
    held.iter_mut().for_each(|one| drop(one.ask("and still").unwrap()));
    eventually("they pass by it again", || {
        held.iter_mut().for_each(|one| drop(one.ask("and on").unwrap()));
        offloaded(node, "tcp") == 2
    });
    // Whom the operator takes away is gone when its time is over, whatever the host remembers.
    let who = held[0].ask("who").unwrap().backend;
    let number: usize = who.trim_start_matches("kafka-").parse().unwrap();
    let without = kafka(&lab, "drain = '2s'\n").to_string();
    let without: Vec<&str> = without.lines().filter(|line| !line.contains(&format!("-kafka-{number}\""))).collect();
    std::fs::write(lab.config_file(), without.join("\n")).unwrap();
    meshd.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("its connection ends", || held[0].ask("gone?").is_err());
    drop(backends);
}

/// Whoever is kept out from now on is, also with the connections that there are.
#[test]
fn who_is_denied_does_not_go_on_in_the_flow_table() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab, ""));
    let mut held = ADDRESSES.map(|to| lab.client.connect(Tcp, to).unwrap());
    for _ in 0..5 {
        held.iter_mut().for_each(|one| drop(one.ask("hello").unwrap()));
    }
    assert_eq!(offloaded(&lab.node, "tcp"), 2);
    meshd.reload(&kafka(&lab, "deny = ['192.168.50.2/32']\n"));
    assert_eq!(links(&lab.node), None);
    assert!(held[0].ask("denied").is_err());
    held[1].ask("by another family").unwrap();
    meshd.reload(&kafka(&lab, ""));
    assert!(links(&lab.node).is_some());
    lab.client.ask_times(3, Tcp, ADDRESSES[0]);
    held[1].ask("still").unwrap();
    // And none where none is wanted.
    drop(meshd);
    let _meshd = lab.start(&kafka(&lab, "").set("gateway", "flow_table", "false"));
    assert_eq!(links(&lab.node), None);
    held[1].ask("and on").unwrap();
    assert_eq!(offloaded(&lab.node, "tcp"), 0);
}

/// The flow table would have answers leave by the link that the connection came in by: where routes say otherwise, they count.
#[test]
fn where_the_way_back_is_another_link_connections_go_the_long_way() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let (node, client) = (&lab.node, &lab.client);
    batch(None, &format!("link add lan1 netns {} type veth peer name lan1 netns {}\n", node.name, client.name));
    batch(Some(node), "addr add 192.168.51.1/24 dev lan1\nlink set lan1 up\nroute add 10.99.0.9/32 via 192.168.50.2\n");
    batch(
        Some(client),
        "addr add 192.168.51.2/24 dev lan1\nlink set lan1 up\naddr add 10.99.0.9/32 dev lo\n\
         route replace 192.168.50.1/32 via 192.168.51.1 src 10.99.0.9\n",
    );
    // The client is at that address by one of its links only.
    client.run("sysctl -q net.ipv4.conf.all.arp_ignore=1");
    let _meshd = lab.start(&kafka(&lab, ""));
    eventually("lan1 is in the flow table", || links(node).is_some_and(|links| links.contains(&"lan1".to_owned())));
    let mut held = client.connect(Tcp, ADDRESSES[0]).unwrap();
    for _ in 0..20 {
        held.ask("hello").unwrap();
    }
    let tracked = node.run("cat /proc/net/nf_conntrack");
    assert!(tracked.contains("src=10.99.0.9") && !tracked.contains("[OFFLOAD]"), "{tracked}");
}

/// More links than a flow table takes.
#[test]
fn with_more_links_than_it_takes_ports_are_published_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let many: String = (0..300)
        .map(|number| {
            let (third, last) = (number / 250, number % 250 + 1);
            format!("link add many{number} type dummy\nlink set many{number} up\naddr add 10.98.{third}.{last}/32 dev many{number}\n")
        })
        .collect();
    batch(Some(&lab.node), &many);
    let mut meshd = lab.start(&kafka(&lab, ""));
    assert_eq!(links(&lab.node).map(|links| links.len()), Some(255));
    lab.client.ask_times(3, Tcp, ADDRESSES[0]);
    let more = "name = 'more'\nport = [{ published = 81, target = 9092 }]\nbackend = [{ address = '10.255.0.33', netns = \"kafka-1\" }]";
    meshd.reload(&kafka(&lab, "").service(more));
    lab.client.ask(Tcp, "192.168.50.1:81");
}
