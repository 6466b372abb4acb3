//! `client_address` and `mode`: what is taken, what a port has of its service, and what does not go together.

use meshd::mesh::{ClientAddress, Mode};

use super::{check, good, service};

/// A service with two ports and an attached backend; `keys` from line 3, the first port's in line 5.
fn two_ports(keys: &str, own: &str) -> String {
    service(&format!(
        "{keys}\nport = [\n{{ published = 80{own} }},\n{{ published = 53, protocol = 'udp' }}]\n\
         backend = [{{ address = '10.255.0.33', netns = 'a' }}]"
    ))
}

#[test]
fn a_port_has_what_its_service_says_or_its_own() {
    use ClientAddress::{Preserve, Snat};
    for (keys, own, first, second) in [
        ("", "", (Snat, Mode::Ingress), (Snat, Mode::Ingress)),
        ("client_address = 'preserve'", "", (Preserve, Mode::Ingress), (Preserve, Mode::Ingress)),
        ("", ", client_address = 'preserve'", (Preserve, Mode::Ingress), (Snat, Mode::Ingress)),
        ("client_address = 'preserve'", ", client_address = 'snat'", (Snat, Mode::Ingress), (Preserve, Mode::Ingress)),
        ("mode = 'host'", "", (Preserve, Mode::Host), (Preserve, Mode::Host)),
        ("", ", mode = 'host'", (Preserve, Mode::Host), (Snat, Mode::Ingress)),
        (
            "mode = 'host'\nclient_address = 'preserve'",
            ", mode = 'ingress'",
            (Preserve, Mode::Ingress),
            (Preserve, Mode::Host),
        ),
    ] {
        let ports = good(&two_ports(keys, own)).services[0].ports.clone();
        let found: Vec<_> = ports.iter().map(|port| (port.client_address, port.mode)).collect();
        assert_eq!(found, [first, second], "{keys}{own}");
    }
}

#[test]
fn what_does_not_go_together() {
    for (case, expected) in [
        (
            two_ports("client_address = 'proxy'", ""),
            "3:18: `client_address` is \"proxy\"; \"snat\" or \"preserve\" would do",
        ),
        (two_ports("mode = 'vip'", ""), "3:8: `mode` is \"vip\"; \"ingress\" or \"host\" would do"),
        (
            two_ports("client_address = 'snat'", ", mode = 'host'"),
            "3:18: `client_address` is \"snat\", but `mode` \"host\" keeps it; \"preserve\", or `mode` \"ingress\", would do",
        ),
        (
            service(
                "client_address = 'preserve'\nport = [{ published = 80 }, { published = 81 }]\nbackend = [{ address = '10.255.0.33' }]",
            ),
            "3:18: `client_address` is \"preserve\", but meshd does not attach backend 10.255.0.33, so its answers would not find the way back; its `netns`, or `client_address` \"snat\", would do",
        ),
        (
            service("port = [{ published = 80, mode = 'host' }]\nbackend = [{ address = '192.0.2.7' }]"),
            "3:34: `mode` is \"host\", but meshd does not attach backend 192.0.2.7, so its answers would not find the way back; its `netns`, or `mode` \"ingress\", would do",
        ),
        (
            service("client_address = 'preserve'\nport = [{ published = 80, protocol = 'sctp' }]"),
            "3:18: `client_address` is \"preserve\" for port sctp 80; tcp and udp ports only would do",
        ),
    ] {
        check(&case, expected);
    }
}
