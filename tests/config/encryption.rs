//! `[ingress] encryption` and the peers' public keys.

use std::path::Path;

use meshd::config::Config;
use meshd::mesh::Encryption;

use super::{check, good};

const FIRST: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const SECOND: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// node-1 with that in its [ingress], which begins in line 4, and what comes behind, from line 9 on.
fn node(ingress: &str, rest: &str) -> String {
    format!(
        "[node]\nname = 'node-1'\naddress = '192.168.50.1'\n\
         [ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\nencryption = {ingress}\n\n{rest}"
    )
}

fn peer(number: u8, more: &str) -> String {
    format!(
        "[[peer]]\nname = 'node-{number}'\naddress = '192.168.50.{number}'\ningress = '10.255.0.{}'\n{more}\n",
        number + 2
    )
}

fn key(key: &str) -> String {
    format!("public_key = '{key}'")
}

#[test]
fn what_cannot_be() {
    let secret = |rest: &str| node("'wireguard'", rest);
    for (case, expected) in [
        (node("'ipsec'", ""), "7:14: `encryption` is \"ipsec\"; \"none\" or \"wireguard\" would do"),
        (node("true", ""), "7:14: `encryption` is true; \"none\" or \"wireguard\" would do"),
        (node("'wireguard'\nwireguard_port = 0", ""), "8:18: `wireguard_port` is 0; a port from 1 to 65535 would do"),
        (
            node("'wireguard'\nwireguard_port = 4789", ""),
            "8:18: `wireguard_port` is 4789, the `port` of VXLAN inside; another would do",
        ),
        (
            secret("").replace("address = '192.168.50.1'", ""),
            "7:14: `encryption` is \"wireguard\", and [node] has no `address`; one at which other nodes reach this one would do",
        ),
        (
            secret("").replace("192.168.50.1", "2001:db8::1").replace("encryption", "mtu = 1200\nencryption"),
            "7:7: `mtu` is 1200; with [node] `address` IPv6 and encryption a number of bytes from 1210 to 65535 would do",
        ),
        (
            secret(&peer(2, "")),
            "9:1: [[peer]] has no `public_key`; what `meshd --public-key` prints on that node would do",
        ),
        (
            secret(&peer(2, &key("secret"))),
            "13:14: `public_key` is \"secret\"; 44 characters of base64 such as `meshd --public-key` prints would do",
        ),
        (
            secret(&(peer(2, &key(FIRST)) + &peer(3, &key(FIRST)))),
            "18:14: `public_key` is \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\", a peer's already at line 13; that node's own would do",
        ),
        (
            secret(
                "[[service]]\nname = 'a'\nbackend = [{ address = '10.255.0.33' }]\nport = [{ published = 51820, protocol = 'udp' }]",
            ),
            "12:23: published port udp 51820 of service \"a\" is already used by the encryption of [ingress]; another port would do",
        ),
    ] {
        check(&case, expected);
    }
}

#[test]
fn a_list_of_all_nodes_has_this_ones_key_too() {
    let list = peer(1, &key(FIRST)) + &peer(2, &key(SECOND));
    let config = good(&node("'wireguard'", &list));
    assert_eq!(config.ingress.encryption, Some(Encryption { port: 51820 }));
    assert_eq!(config.peers.iter().map(|peer| peer.key.unwrap().to_string()).collect::<Vec<_>>(), [SECOND]);
    assert_eq!(config.listed_key("host").map(|key| key.to_string()).as_deref(), Some(FIRST));
    // It need not: it knows its own.
    assert_eq!(good(&node("'wireguard'", &(peer(1, "") + &peer(2, &key(SECOND))))).listed_key("host"), None);
    // By the name that the host has, it is a peer like any other until it is known who reads.
    let nameless = good(
        &node("'wireguard'", &list.replace(".50.1'", ".50.9'").replace(".0.3'", ".0.9'"))
            .replace("name = 'node-1'\naddress = '192.168.50.1'\n[", "address = '192.168.50.1'\n["),
    );
    assert_eq!(nameless.listed_key("node-1").map(|key| key.to_string()).as_deref(), Some(FIRST));
    assert_eq!(nameless.listed_key("another"), None);
    // Keys do no harm where nothing is encrypted.
    assert_eq!(good(&node("'none'\nwireguard_port = 1", &list)).ingress.encryption, None);
}

/// For the key of a node there need not be a configuration that is good yet: it lacks the others' keys.
#[test]
fn the_state_directory_is_found_in_a_file_that_is_not_good_yet() {
    let known = |text: &str| Config::state_dir(text, "f");
    let unfinished = node("'wireguard'", &peer(2, "")).replace("[ingress]", "state_dir = '/srv/mesh'\n[ingress]");
    assert!(Config::parse(&unfinished, "f").is_err());
    assert_eq!(known(&unfinished).unwrap(), Path::new("/srv/mesh"));
    assert_eq!(known("").unwrap(), Path::new("/var/lib/meshd"));
    assert_eq!(known("[strange]\nkey = 1").unwrap(), Path::new("/var/lib/meshd"));
    for (text, expected) in [
        (
            "[node]\nstate_dir = 'here'",
            "f:2:13: `state_dir` is \"here\"; an absolute path of at most 4000 bytes would do",
        ),
        (
            "[node]\nstate_dri = '/here'",
            "f:2:1: `state_dri` is no key of [node]; did you mean `state_dir`? its keys: name, address, dataplane, on_stop, state_dir, watch",
        ),
    ] {
        assert_eq!(known(text).unwrap_err().to_string(), expected);
    }
    assert!(known("[node").is_err());
}
