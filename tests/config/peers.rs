//! `[[peer]]` and a backend's `node`: what is refused, and what each node makes of one list.

use super::{Config, check, good};

/// node-1 and what comes behind: lines 1 to 8 are given.
fn node(rest: &str) -> String {
    let own = "[node]\nname = 'node-1'\naddress = '192.168.50.1'\n";
    format!(
        "{own}[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\nsubnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n{rest}"
    )
}

/// node-2, in lines 9 to 12, and a service whose backends come behind, from line 15.
fn with_peer(backends: &str) -> String {
    node(&format!(
        "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n\
         [[service]]\nname = 'web'\nport = [{{ published = 80 }}]\n{backends}"
    ))
}

#[test]
fn peers_that_cannot_be() {
    for (case, expected) in [
        (
            "[[peer]]",
            "9:1: [[peer]] has no `name`; the one that backends' `node` has would do\n9:1: [[peer]] has no `address`; its end of the VXLAN tunnel would do\n9:1: [[peer]] has no `ingress`; its own address in [ingress] `subnet` would do",
        ),
        (
            "[[peer]]\nname = 'a b'\naddress = '192.168.50.2'\ningress = '10.255.0.4'",
            "10:8: `name` is \"a b\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '127.0.0.1'\ningress = '10.255.0.4'",
            "11:11: `address` is \"127.0.0.1\"; an IPv4 or IPv6 address at which this node reaches it would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = 'fd00::2'\ningress = '10.255.0.4'",
            "11:11: `address` is \"fd00::2\", of another family than this end of the tunnel; an IPv4 address here, or another [node] `address`, would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.3'",
            "12:11: `ingress` is \"10.255.0.3\", this node's own; an address of its own there would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.254.0.3'",
            "12:11: `ingress` is \"10.254.0.3\", outside the ingress subnet 10.255.0.0/16 or fd00:255::/64; an address of its own there would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.255.255'",
            "12:11: `ingress` is \"10.255.255.255\", the broadcast address of 10.255.0.0/16; an address of its own there would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress6 = '10.255.0.4'",
            "12:12: `ingress6` is \"10.255.0.4\"; an IPv6 address of its own in the ingress subnet would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.1'\ningress = '10.255.0.4'",
            "11:11: `address` is \"192.168.50.1\", this node's own; its own address, or this node's [node] `name`, would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '10.255.0.9'\ningress = '10.255.0.4'",
            "11:11: `address` is \"10.255.0.9\", in the ingress subnet 10.255.0.0/16; one of the network between the nodes would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n\
             [[peer]]\nname = 'node-2'\naddress = '192.168.50.3'\ningress = '10.255.0.5'",
            "13:1: peer \"node-2\" is already defined at line 10; another name would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n\
             [[peer]]\nname = 'node-3'\naddress = '192.168.50.2'\ningress = '10.255.0.4'",
            "15:11: 192.168.50.2 is already a peer's address at line 11; one of its own would do\n16:11: 10.255.0.4 is already a peer's address at line 12; one of its own would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress6 = 'fd00:255::aff:3'",
            "12:12: peer's ingress address fd00:255::aff:3 makes the same MAC 02:42:0a:ff:00:03 as ingress address 10.255.0.3 at line 6; an address with other last 32 bits would do",
        ),
        (
            "[[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\nport = 1",
            "13:1: `port` is no key of [[peer]]; its keys: name, address, ingress, ingress6, public_key",
        ),
        (
            "[[peer]]\nname = 'node-1'\naddress = '192.168.50.9'\ningress = '10.255.0.9'\ningress6 = 'fd00:255::9'",
            "11:11: `address` of this node is \"192.168.50.9\", and [node] `address` is 192.168.50.1; the same in both would do\n12:11: `ingress` of this node is \"10.255.0.9\", and [ingress] `address` is 10.255.0.3; the same in both would do\n13:12: `ingress6` of this node is \"fd00:255::9\", and [ingress] `address6` is fd00:255::3; the same in both would do",
        ),
    ] {
        check(&node(case), expected);
    }
}

#[test]
fn a_list_that_is_none() {
    check(&format!("peer = 1\n{}", node("")), "1:8: `peer` is 1; a list of tables [[peer]] would do");
}

#[test]
fn backends_that_cannot_be_there() {
    for (case, expected) in [
        (
            "backend = [{ address = '10.255.0.33', node = 'node-3' }]",
            "16:46: `node` is \"node-3\"; \"node-1\" or \"node-2\" would do",
        ),
        ("backend = [{ address = '10.255.0.33', node = 7 }]", "16:46: `node` is 7; \"node-1\" or \"node-2\" would do"),
        (
            "backend = [{ address = '192.0.2.1', node = 'node-2' }]",
            "16:44: backend 192.0.2.1 has a `node` but is not in the ingress subnet; an address in 10.255.0.0/16 or fd00:255::/64, or no `node`, would do",
        ),
        (
            "backend = [{ address = '10.255.0.4' }]",
            "16:24: backend 10.255.0.4 is node node-2's own address in the ingress subnet; an address of its own would do",
        ),
        (
            "backend = [{ address = '10.255.0.33', node = 'node-2', netns = 'a' }, { address = 'fd00:255::33', node = 'node-2', netns = '/run/netns/a' }]",
            "16:124: namespace /run/netns/a is called a at line 16; one name for it would do",
        ),
        (
            "backend = [{ address = '10.255.0.33', node = 'node-2' }]\n[[service]]\nname = 'api'\nport = [{ published = 81 }]\nbackend = [{ address = '10.255.0.33' }]",
            "20:24: backend 10.255.0.33 is on node node-2 at line 16, here on this node; one of them would do",
        ),
    ] {
        check(&with_peer(case), expected);
    }
}

#[test]
fn a_name_of_another_node_may_be_meshds_own_here() {
    let backends = "backend = [\n{ address = '10.255.0.33', node = 'node-2', netns = 'ingress_sbox' },\n\
                    { address = '10.255.0.34', node = 'node-2', netns = 'a' },\n{ address = '10.255.0.35', netns = 'a' }]";
    good(&with_peer(backends));
}

/// All nodes can have the same list of peers and of services: a node's own name is no peer and no elsewhere.
#[test]
fn one_list_serves_every_node() {
    let shared = "[[peer]]\nname = 'node-1'\naddress = '192.168.50.1'\ningress = '10.255.0.3'\n\
                  [[peer]]\nname = 'node-2'\naddress = '192.168.50.2'\ningress = '10.255.0.4'\n\
                  [[service]]\nname = 'web'\nport = [{ published = 80 }]\n\
                  backend = [{ address = '10.255.0.33', node = 'node-1' }, { address = '10.255.0.34', node = 'node-2' }]";
    let first = node(shared);
    let second = first
        .replacen("name = 'node-1'", "name = 'node-2'", 1)
        .replacen("192.168.50.1", "192.168.50.2", 1)
        .replacen("10.255.0.3'", "10.255.0.4'", 1);
    let told = |config: Config| {
        let peers: Vec<String> = config.peers.iter().map(|peer| peer.name.clone()).collect();
        let nodes: Vec<Option<String>> =
            config.services[0].ports[0].backends.iter().map(|backend| backend.node.clone()).collect();
        (peers, nodes)
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(told(good(&first)), (vec!["node-2".to_owned()], vec![None, named("node-2")]));
    assert_eq!(told(good(&second)), (vec!["node-1".to_owned()], vec![named("node-1"), None]));
}
