//! `bind`, `allow` and `deny`: what is taken, what a port has of its service, and what is refused.

use meshd::mesh::Access;

use super::{check, good, service};

/// A service with one port; `keys` from line 3, the port's in line 4 or later.
fn one_port(keys: &str, own: &str) -> String {
    service(&format!("{keys}\nport = [{{ published = 80{own} }}]\nbackend = [{{ address = '10.255.0.33' }}]"))
}

/// Said back as an operator would say it.
fn told(access: &Access) -> String {
    let networks = |networks: &std::collections::BTreeSet<meshd::mesh::Network>| {
        networks.iter().map(|network| network.0.to_string()).collect::<Vec<_>>().join(" ")
    };
    let bind = access.bind.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let allow = access.allow.as_ref().map_or("everyone".to_owned(), networks);
    format!("{bind}; {allow}; {}", networks(&access.deny))
}

#[test]
fn a_port_has_what_its_service_says_or_its_own() {
    for (keys, own, expected) in [
        ("", "", "; everyone; "),
        (
            "bind = ['eth0', '192.168.50.1', 'fd50::1', '127.0.0.1']",
            "",
            "127.0.0.1 192.168.50.1 fd50::1 eth0; everyone; ",
        ),
        ("bind = ['eth0']", ", bind = []", "; everyone; "),
        ("allow = ['10.0.0.0/8', '192.0.2.7', '::/0']", "", "; 10.0.0.0/8 192.0.2.7/32 ::/0; "),
        ("allow = ['10.0.0.0/8']\ndeny = ['10.1.0.0/16']", ", deny = ['10.2.0.0/16']", "; 10.0.0.0/8; 10.2.0.0/16"),
        ("allow = ['10.0.0.0/8', '10.0.0.0/8', '10.1.0.0/16']", "", "; 10.0.0.0/8 10.1.0.0/16; "),
    ] {
        let ports = good(&one_port(keys, own)).services[0].ports.clone();
        assert_eq!(told(&ports[0].access), expected, "{keys}{own}");
    }
}

#[test]
fn what_is_refused() {
    const NETWORK: &str = "a network such as \"10.0.0.0/8\", or an address would do";
    for (case, expected) in [
        (
            "bind = 'eth0'",
            "3:8: `bind` is \"eth0\"; a list, each an address or the name of a link such as \"eth0\" would do"
                .to_owned(),
        ),
        ("bind = [7]", "3:9: `bind` has 7; an address or the name of a link such as \"eth0\" would do".to_owned()),
        (
            "bind = ['eth0/1']",
            "3:9: `bind` has \"eth0/1\"; an address or the name of a link such as \"eth0\" would do".to_owned(),
        ),
        (
            "bind = ['0.0.0.0']",
            "3:9: `bind` has \"0.0.0.0\"; an address or the name of a link such as \"eth0\" would do".to_owned(),
        ),
        (
            "allow = []",
            "3:9: `allow` is empty, which would let no one in; to leave it out, or [\"0.0.0.0/0\", \"::/0\"], would do"
                .to_owned(),
        ),
        (
            "allow = ['10.0.0.1/8']",
            "3:10: `allow` has \"10.0.0.1/8\"; \"10.0.0.0/8\", with no bits behind its prefix, would do".to_owned(),
        ),
        (
            "deny = ['10.0.0.0/33', 'home']",
            format!("3:9: `deny` has \"10.0.0.0/33\"; {NETWORK}\n3:24: `deny` has \"home\"; {NETWORK}"),
        ),
        ("deny = ['10.0.0.0/+8']", format!("3:9: `deny` has \"10.0.0.0/+8\"; {NETWORK}")),
    ] {
        check(&one_port(case, ""), &expected);
    }
}
