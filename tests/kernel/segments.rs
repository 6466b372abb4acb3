//! Backends on the overlay that someone else attached, with a leg that takes larger packets than the overlay does.

use crate::lab::{Backend, Config, Node, Nodes, Tcp, Underlay, batch};

const ADDRESSES: [&str; 2] = ["10.255.0.34", "fd00:255::22"];

/// A leg for each family on the node's overlay, at the MACs where other nodes look for them. It sends segment by segment, as
/// hardware does: what the kernel has yet to cut up passes a bridge whatever its size.
fn attach_by_hand(backend: &Backend, node: &Node) {
    let (overlay, name) = (node.overlay(), &backend.name);
    for (number, mac) in ["02:42:0a:ff:00:22", "02:42:00:00:00:22"].iter().enumerate() {
        let near = format!("byhand{number} mtu 1500 netns {}", overlay.name);
        let far = format!("eth{number} mtu 1500 gso_max_segs 1 address {mac} netns {name}");
        batch(None, &format!("link add {near} type veth peer name {far}\n"));
        batch(Some(&overlay), &format!("link set byhand{number} master br0 up\n"));
    }
    let [v4, v6] = ADDRESSES;
    batch(
        Some(backend),
        &format!(
            "addr add {v4}/16 dev eth0\naddr add {v6}/64 dev eth1 nodad\nlink set eth0 up\nlink set eth1 up\nlink set lo up\n"
        ),
    );
}

/// What both ends of a connection to that address of a node ask for when it begins.
fn sizes(nodes: &Nodes, backend: &Backend, leg: &str, at: &str) -> [Vec<String>; 2] {
    let [at_backend, at_client] = ["at-backend", "at-client"].map(|name| nodes.file(name, 0));
    let mut wires =
        [backend.tcpdump(leg, "tcp port 9092", &at_backend), nodes.client.tcpdump("c0", "tcp port 20229", &at_client)];
    nodes.client.ask(Tcp, &format!("{at}:20229"));
    // Each hears both the question and the answer: the one that came in has been through the mesh.
    let size = |line: &str| Some(line.split_once("mss ")?.1.split(',').next()?.to_owned());
    let [heard, answered] = wires.each_mut().map(|wire| wire.finish());
    let of = |wire: &str, flags: &str| wire.lines().filter(|line| line.contains(flags)).filter_map(size).collect();
    [of(&heard, "Flags [S],"), of(&answered, "Flags [S.],")]
}

#[test]
fn a_backend_attached_by_hand_is_sent_and_sends_segments_that_fit() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let backend = nodes.backend("by-hand").tcp(9092);
    let service = ADDRESSES.map(|address| format!("{{ address = '{address}', node = 'node-2' }}")).join(", ");
    let service = format!("name = 'far'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{service}]");
    let mut daemons = nodes.start(|config: Config| config.service(&service));
    let [first, second] = [&nodes.all[0], &nodes.all[1]];
    attach_by_hand(&backend, second);

    let [v4, v6] = [first.address(), format!("[{}]", first.address6())];
    for (at, leg, bytes) in [(&v4, "eth0", "1410"), (&v6, "eth1", "1390")] {
        assert_eq!(sizes(&nodes, &backend, leg, at), [[bytes], [bytes]], "{at}");
        nodes.bodies(at, 1);
    }
    nodes.bodies(&second.address(), 1);
    nodes.bodies(&format!("[{}]", second.address6()), 1);

    // With nobody there to put them back: it is these rules that do it.
    daemons.remove(0).kill9();
    first.sandbox().run("nft flush chain inet meshd segments");
    for at in [&v4, &v6] {
        assert!(nodes.client.try_ask(Tcp, &format!("{at}:20229")).is_ok(), "what is small gets through");
        let get = format!("curl -sSgf -m 5 -o /dev/null http://{at}:20229/bytes/1048576");
        assert_eq!(nodes.client.try_run(&get).status.code(), Some(28), "what is large hangs at {at}");
    }
}
