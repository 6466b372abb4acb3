//! What is refused, by the table: the text, and the line, the column and the words of each error.

use super::{backend, check, dual, ingress, service, text};

#[test]
fn syntax() {
    for (case, expected) in [
        ("a = ", "1:5: a value is missing; a string in quotes, a number, true or false would do"),
        ("a = b\nc = d", "1:5: invalid value `b`; a string in quotes would do"),
        ("[node\nname = 'n'", "1:6: unclosed table; `]` would do"),
        ("[node]\nname = 'n'\nname = 'm'", "3:1: key `name` is given twice; one of the two would do"),
        ("[node]\n[node]", "2:2: key `node` is given twice; one of the two would do"),
        ("[node]\nname = 'n", "2:10: invalid literal string; `'` would do"),
        (
            "[node]\nname = \"\\q\"",
            "2:10: missing escaped value; `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u` or `U` would do",
        ),
        ("a = [1,", "3:1: missing comma between array elements; `,` would do"),
        ("= 1", "1:1: unquoted keys cannot be empty; letters, numbers, `-` or `_` would do"),
        ("a 1", "1:3: key with no value; `=` would do"),
        ("a = 1 b = 2", "1:9: unexpected key or value; newline or `#` would do"),
        ("[node]\nname = { a = 1", "3:1: missing key for inline table element; `,` would do"),
        ("a = 01", "1:5: unexpected leading zero `0`; to leave it out would do"),
        ("a = truu", "1:5: invalid boolean `truu`; `true` would do"),
        ("é = 1", "1:1: invalid unquoted key `é`; letters, numbers, `-` or `_` would do"),
        (
            "a = 1\na.b = 2",
            "2:1: cannot extend value of type integer with a dotted key `a`; see https://toml.io for what would do",
        ),
        ("[[service]]\n[service]", "2:2: key `service` is given twice; one of the two would do"),
        ("a = 0b12", "1:8: invalid binary number; see https://toml.io for what would do"),
        ("a = 1979-13-01", "1:5: invalid date `1979-13-01`; month between 01 and 12 would do"),
        (
            "'a\tb' = 1",
            "1:1: `a\\tb` is no key of the file; its keys: node, ingress, gateway, ipvs, metrics, control, peer, service",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn unknown_keys() {
    for (case, expected) in [
        (
            "nodes = 1",
            "1:1: `nodes` is no key of the file; did you mean `node`? its keys: node, ingress, gateway, ipvs, metrics, control, peer, service",
        ),
        (
            "[node]\nnam = 'n'",
            "2:1: `nam` is no key of [node]; did you mean `name`? its keys: name, address, dataplane, on_stop, state_dir, watch",
        ),
        (
            "[node]\ncolour = 'red'",
            "2:1: `colour` is no key of [node]; its keys: name, address, dataplane, on_stop, state_dir, watch",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\nadress = 1",
            "4:1: `adress` is no key of [ingress]; did you mean `address`? its keys: subnet, address, subnet6, address6, namespace, vni, port, mtu, encryption, wireguard_port",
        ),
        (
            "[gateway]\nsubnet4 = 1",
            "2:1: `subnet4` is no key of [gateway]; did you mean `subnet`? its keys: bridge, subnet, subnet6, open_forward, flow_table",
        ),
        (
            "[ipvs]\ntcp_fn = 3",
            "2:1: `tcp_fn` is no key of [ipvs]; did you mean `tcp_fin`? its keys: tcp, tcp_fin, udp",
        ),
        ("[metrics]\nport = 1", "2:1: `port` is no key of [metrics]; its keys: listen, backends"),
        (
            "[control]\nsockets = 1",
            "2:1: `sockets` is no key of [control]; did you mean `socket`? its keys: socket, group",
        ),
        (
            "\"a\\nb\" = 1",
            "1:1: `a\\nb` is no key of the file; its keys: node, ingress, gateway, ipvs, metrics, control, peer, service",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn unknown_service_keys() {
    for (case, expected) in [
        (
            "schedular = 'rr'\nport = [{ published = 80 }]",
            "3:1: `schedular` is no key of [[service]]; did you mean `scheduler`? its keys: name, scheduler, scheduler_flags, persistence, persistence_mask, persistence_mask6, one_packet, client_address, mode, bind, allow, deny, check, prefer, slow_start, drain, quorum, hysteresis, on_empty, port, backend",
        ),
        (
            "[[service.port]]\npublished = 80\npublish = 81",
            "5:1: `publish` is no key of [[service.port]]; did you mean `published`? its keys: published, target, protocol, scheduler, scheduler_flags, persistence, persistence_mask, persistence_mask6, one_packet, client_address, mode, bind, allow, deny, check, prefer, slow_start, drain, quorum, hysteresis, on_empty, backend",
        ),
        (
            "port = [{ published = 80 }]\n[[service.backend]]\naddress = '10.255.0.33'\nwheight = 1",
            "6:1: `wheight` is no key of [[service.backend]]; did you mean `weight`? its keys: address, weight, upper_threshold, lower_threshold, state, backup, node, netns",
        ),
        (
            "[[service.port]]\npublished = 80\n[[service.port.backend]]\naddress = '10.255.0.33'\nport = 8080",
            "7:1: `port` is no key of [[service.port.backend]]; its keys: address, weight, upper_threshold, lower_threshold, state, backup, node, netns",
        ),
    ] {
        check(&service(case), expected);
    }
}

#[test]
fn wrong_types() {
    for (case, expected) in [
        ("node = 3", "1:8: `node` is 3; a table [node] would do"),
        ("ingress = '10.255.0.0/16'", "1:11: `ingress` is \"10.255.0.0/16\"; a table [ingress] would do"),
        ("[service]\nname = 'web'", "1:1: `service` is a table; a list of tables [[service]] would do"),
        ("service = [1]", "1:12: `service` has an element that is 1; a table [[service]] would do"),
        (
            "[node]\nname = 1",
            "2:8: `name` is 1; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        ("[node]\non_stop = true", "2:11: `on_stop` is true; \"keep\" or \"remove\" would do"),
        ("[gateway]\nopen_forward = 'yes'", "2:16: `open_forward` is \"yes\"; true or false would do"),
        (
            "[ingress]\nsubnet = 10\naddress = 1979-05-27",
            "2:10: `subnet` is 10; an IPv4 network such as \"10.255.0.0/16\" would do\n\
             3:11: `address` is the date or time 1979-05-27; an IPv4 address of this node's own in `subnet` would do",
        ),
        ("[ipvs]\ntcp = 1.5", "2:7: `tcp` is 1.5; a number of seconds from 1 to 2147483 would do"),
        (
            "[metrics]\nlisten = 9326",
            "2:10: `listen` is 9326; an address and a port such as \"127.0.0.1:9326\" or \"[::1]:9326\" would do",
        ),
        ("service = { name = 'web' }", "1:11: `service` is a table; a list of tables [[service]] would do"),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn missing() {
    for (case, expected) in [
        (
            "[[service]]\nport = [{ published = 80 }]",
            "1:1: [[service]] has no `name`; one such as name = \"web\" would do",
        ),
        ("[[service]]\nname = 'web'", "1:1: [[service]] has no `port`; a [[service.port]] with `published` would do"),
        (
            "[[service]]\nname = 'web'\nport = []",
            "1:1: [[service]] has no `port`; a [[service.port]] with `published` would do",
        ),
        (
            "[[service]]\nname = 'web'\n[[service.port]]\ntarget = 80",
            "3:1: [[service.port]] has no `published`; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\n[[service.backend]]\nweight = 1",
            "4:1: [[service.backend]] has no `address`; an IPv4 or IPv6 address would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn no_ingress() {
    for (case, expected) in [
        ("", "1:1: the file has no [ingress]; one with `subnet` and `address`, or `subnet6` and `address6`, would do"),
        (
            "# nothing\n",
            "1:1: the file has no [ingress]; one with `subnet` and `address`, or `subnet6` and `address6`, would do",
        ),
        (
            "[ingress]",
            "1:1: [ingress] has no subnet; `subnet` and `address`, or `subnet6` and `address6`, or all four would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'",
            "1:1: [ingress] has no `address`; this node's own address in `subnet` would do",
        ),
        (
            "[ingress]\naddress = '10.255.0.3'",
            "1:1: [ingress] has no `subnet`; the network that `address` is in would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/64'",
            "1:1: [ingress] has no `address6`; this node's own address in `subnet6` would do",
        ),
        (
            "[ingress]\naddress6 = 'fd00:255::3'",
            "1:1: [ingress] has no `subnet6`; the network that `address6` is in would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress6 = 'fd00:255::3'",
            "1:1: [ingress] has no `address`; this node's own address in `subnet` would do\n\
             1:1: [ingress] has no `subnet6`; the network that `address6` is in would do",
        ),
    ] {
        check(case, expected);
    }
}

#[test]
fn node() {
    for (case, expected) in [
        (
            "[node]\nname = ''",
            "2:8: `name` is \"\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[node]\nname = 'node 1'",
            "2:8: `name` is \"node 1\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[node]\nname = 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn'",
            "2:8: `name` is \"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[node]\naddress = 'node-1'",
            "2:11: `address` is \"node-1\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '0.0.0.0'",
            "2:11: `address` is \"0.0.0.0\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '127.0.0.1'",
            "2:11: `address` is \"127.0.0.1\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '224.0.0.1'",
            "2:11: `address` is \"224.0.0.1\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '::'",
            "2:11: `address` is \"::\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '192.168.50.1/24'",
            "2:11: `address` is \"192.168.50.1/24\"; an IPv4 or IPv6 address at which other nodes reach this one would do",
        ),
        (
            "[node]\naddress = '10.255.7.7'",
            "2:11: node address 10.255.7.7 is in the ingress subnet 10.255.0.0/16; one that other nodes reach would do",
        ),
        (
            "[node]\naddress = '169.254.77.9'",
            "2:11: node address 169.254.77.9 is in the gateway subnet 169.254.77.0/24; one that other nodes reach would do",
        ),
        ("[node]\non_stop = 'stay'", "2:11: `on_stop` is \"stay\"; \"keep\" or \"remove\" would do"),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn metrics_and_control() {
    for (case, expected) in [
        (
            "[metrics]\nlisten = 'localhost:9326'",
            "2:10: `listen` is \"localhost:9326\"; an address and a port such as \"127.0.0.1:9326\" or \"[::1]:9326\" would do",
        ),
        (
            "[metrics]\nlisten = '127.0.0.1'",
            "2:10: `listen` is \"127.0.0.1\"; an address and a port such as \"127.0.0.1:9326\" or \"[::1]:9326\" would do",
        ),
        (
            "[metrics]\nlisten = '127.0.0.1:99999'",
            "2:10: `listen` is \"127.0.0.1:99999\"; an address and a port such as \"127.0.0.1:9326\" or \"[::1]:9326\" would do",
        ),
        ("[metrics]\nbackends = 'no'", "2:12: `backends` is \"no\"; true or false would do"),
        (
            "[control]\nsocket = 'meshd.sock'",
            "2:10: `socket` is \"meshd.sock\"; an absolute path of at most 107 bytes would do",
        ),
        (
            "[control]\nsocket = '/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss'",
            "2:10: `socket` is \"/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssss…\"; an absolute path of at most 107 bytes would do",
        ),
        ("[control]\ngroup = ''", "2:9: `group` is \"\"; the name of a group would do"),
        ("[control]\ngroup = 'a:b'", "2:9: `group` is \"a:b\"; the name of a group would do"),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn timeouts() {
    for (case, expected) in [
        ("[ipvs]\ntcp = 0", "2:7: `tcp` is 0; a number of seconds from 1 to 2147483 would do"),
        ("[ipvs]\ntcp_fin = -1", "2:11: `tcp_fin` is -1; a number of seconds from 1 to 2147483 would do"),
        ("[ipvs]\nudp = 2147484", "2:7: `udp` is 2147484; a number of seconds from 1 to 2147483 would do"),
        ("[ipvs]\ntcp = '15m'", "2:7: `tcp` is \"15m\"; a number of seconds from 1 to 2147483 would do"),
        (
            "[ipvs]\nudp = 99999999999999999999",
            "2:7: `udp` is 99999999999999999999; a number of seconds from 1 to 2147483 would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn ingress_subnet() {
    for (case, expected) in [
        (
            "[ingress]\nsubnet = '10.255.0.0'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"10.255.0.0\"; an IPv4 network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/33'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"10.255.0.0/33\"; an IPv4 network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/+16'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"10.255.0.0/+16\"; an IPv4 network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/255.255.0.0'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"10.255.0.0/255.255.0.0\"; an IPv4 network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = 'fd00::/64'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"fd00::/64\"; an IPv4 network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.3/16'\naddress = '10.255.0.3'",
            "2:10: `subnet` is \"10.255.0.3/16\", which has bits set behind its prefix; \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/31'\naddress = '10.255.0.1'",
            "2:10: `subnet` is \"10.255.0.0/31\", which has no room for two hosts; /30 or shorter would do",
        ),
        (
            "[ingress]\nsubnet = '127.0.0.0/8'\naddress = '127.0.0.3'",
            "2:10: `subnet` is \"127.0.0.0/8\", which overlaps the loopback addresses 127.0.0.0/8; a private network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '224.0.0.0/8'\naddress = '224.0.0.3'",
            "2:10: `subnet` is \"224.0.0.0/8\", which overlaps the multicast addresses 224.0.0.0/4; a private network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '0.0.0.0/0'\naddress = '10.0.0.1'",
            "2:10: `subnet` is \"0.0.0.0/0\", which overlaps the unspecified addresses 0.0.0.0/8; a private network such as \"10.255.0.0/16\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.254.0.3'",
            "3:11: `address` is \"10.254.0.3\", outside the subnet 10.255.0.0/16; an address from 10.255.0.1 to 10.255.255.254 would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.0'",
            "3:11: `address` is \"10.255.0.0\", the network address of 10.255.0.0/16; an address from 10.255.0.1 to 10.255.255.254 would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.255.255'",
            "3:11: `address` is \"10.255.255.255\", the broadcast address of 10.255.0.0/16; an address from 10.255.0.1 to 10.255.255.254 would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = 'fd00::1'",
            "3:11: `address` is \"fd00::1\"; an IPv4 address of this node's own in `subnet` would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/16'\naddress = 'ten'",
            "3:11: `address` is \"ten\"; an IPv4 address of this node's own in `subnet` would do",
        ),
    ] {
        check(case, expected);
    }
}

#[test]
fn ingress_subnet6() {
    for (case, expected) in [
        (
            "[ingress]\nsubnet6 = 'fd00:255::'\naddress6 = 'fd00:255::3'",
            "2:11: `subnet6` is \"fd00:255::\"; an IPv6 network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = '10.255.0.0/16'\naddress6 = 'fd00:255::3'",
            "2:11: `subnet6` is \"10.255.0.0/16\"; an IPv6 network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::3/64'\naddress6 = 'fd00:255::3'",
            "2:11: `subnet6` is \"fd00:255::3/64\", which has bits set behind its prefix; \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/127'\naddress6 = 'fd00:255::1'",
            "2:11: `subnet6` is \"fd00:255::/127\", which has no room for two hosts; /126 or shorter would do",
        ),
        (
            "[ingress]\nsubnet6 = '::/64'\naddress6 = '::3'",
            "2:11: `subnet6` is \"::/64\", which overlaps the loopback address ::1/128; a private network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fe80::/64'\naddress6 = 'fe80::3'",
            "2:11: `subnet6` is \"fe80::/64\", which overlaps the link-local addresses fe80::/10; a private network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = 'ff00::/16'\naddress6 = 'ff00::3'",
            "2:11: `subnet6` is \"ff00::/16\", which overlaps the multicast addresses ff00::/8; a private network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = '::ffff:0:0/96'\naddress6 = '::ffff:10.0.0.1'",
            "2:11: `subnet6` is \"::ffff:0.0.0.0/96\", which overlaps the IPv4-mapped addresses ::ffff:0.0.0.0/96; a private network such as \"fd00:255::/64\" would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/64'\naddress6 = 'fd00:256::3'",
            "3:12: `address6` is \"fd00:256::3\", outside the subnet fd00:255::/64; an address from fd00:255::1 to fd00:255::ffff:ffff:ffff:ffff would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::'",
            "3:12: `address6` is \"fd00:255::\", the network address of fd00:255::/64; an address from fd00:255::1 to fd00:255::ffff:ffff:ffff:ffff would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/64'\naddress6 = '10.255.0.3'",
            "3:12: `address6` is \"10.255.0.3\"; an IPv6 address of this node's own in `subnet6` would do",
        ),
    ] {
        check(case, expected);
    }
}

#[test]
fn the_rest_of_ingress() {
    for (case, expected) in [
        ("namespace = ''", "4:13: `namespace` is \"\"; a file name of 1 to 240 bytes would do"),
        ("namespace = '..'", "4:13: `namespace` is \"..\"; a file name of 1 to 240 bytes would do"),
        ("namespace = 'a/b'", "4:13: `namespace` is \"a/b\"; a file name of 1 to 240 bytes would do"),
        (
            "namespace = 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn'",
            "4:13: `namespace` is \"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…\"; a file name of 1 to 240 bytes would do",
        ),
        ("vni = 0", "4:7: `vni` is 0; a number from 1 to 16777215 would do"),
        ("vni = 16777216", "4:7: `vni` is 16777216; a number from 1 to 16777215 would do"),
        ("port = 0", "4:8: `port` is 0; a port from 1 to 65535 would do"),
        ("port = 65536", "4:8: `port` is 65536; a port from 1 to 65535 would do"),
        ("mtu = 575", "4:7: `mtu` is 575; a number of bytes from 576 to 65535 would do"),
        ("mtu = 65536", "4:7: `mtu` is 65536; a number of bytes from 576 to 65535 would do"),
        (
            "subnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\nmtu = 1279",
            "6:7: `mtu` is 1279; with IPv6 a number of bytes from 1280 to 65535 would do",
        ),
    ] {
        check(&ingress(case), expected);
    }
}

#[test]
fn gateway() {
    for (case, expected) in [
        (
            "[gateway]\nbridge = ''",
            "2:10: `bridge` is \"\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = 'mesh_gwbridge_00'",
            "2:10: `bridge` is \"mesh_gwbridge_00\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = 'a/b'",
            "2:10: `bridge` is \"a/b\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = 'a b'",
            "2:10: `bridge` is \"a b\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = '.'",
            "2:10: `bridge` is \".\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = 'br%d'",
            "2:10: `bridge` is \"br%d\"; a name of 1 to 15 ASCII characters without spaces, `/`, `:` and `%` would do",
        ),
        (
            "[gateway]\nbridge = 'all'",
            "2:10: `bridge` is \"all\", a name that is taken; such as \"mesh_gwbridge\" would do",
        ),
        (
            "[gateway]\nbridge = 'mesh_sbox'",
            "2:10: `bridge` is \"mesh_sbox\", a name that is taken; such as \"mesh_gwbridge\" would do",
        ),
        (
            "[gateway]\nsubnet = '169.254.77.0/31'",
            "2:10: `subnet` is \"169.254.77.0/31\", which has no room for two hosts; /30 or shorter would do",
        ),
        (
            "[gateway]\nsubnet = '169.254.77.1/24'",
            "2:10: `subnet` is \"169.254.77.1/24\", which has bits set behind its prefix; \"169.254.77.0/24\" would do",
        ),
        (
            "[gateway]\nsubnet = '127.1.0.0/16'",
            "2:10: `subnet` is \"127.1.0.0/16\", which overlaps the loopback addresses 127.0.0.0/8; a private network such as \"169.254.77.0/24\" would do",
        ),
        (
            "[gateway]\nsubnet6 = 'fd6d:6573:6864::/127'",
            "2:11: `subnet6` is \"fd6d:6573:6864::/127\", which has no room for two hosts; /126 or shorter would do",
        ),
        (
            "[gateway]\nsubnet6 = 'fe80::/64'",
            "2:11: `subnet6` is \"fe80::/64\", which overlaps the link-local addresses fe80::/10; a private network such as \"fd6d:6573:6864::/64\" would do",
        ),
        (
            "[gateway]\nsubnet = '10.255.7.0/24'",
            "2:10: gateway subnet 10.255.7.0/24 overlaps ingress subnet 10.255.0.0/16 at line 4; one apart from it would do",
        ),
        (
            "[gateway]\nsubnet = '10.0.0.0/8'",
            "2:10: gateway subnet 10.0.0.0/8 overlaps ingress subnet 10.255.0.0/16 at line 4; one apart from it would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn default_gateway_overlaps() {
    for (case, expected) in [
        (
            "[ingress]\nsubnet = '169.254.0.0/16'\naddress = '169.254.0.3'",
            "2:10: ingress subnet 169.254.0.0/16 overlaps the default gateway subnet 169.254.77.0/24; one apart from it would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd6d:6573:6864::/48'\naddress6 = 'fd6d:6573:6864::3'",
            "2:11: ingress subnet fd6d:6573:6864::/48 overlaps the default gateway subnet fd6d:6573:6864::/64; one apart from it would do",
        ),
        (
            "[ingress]\nsubnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n[gateway]\nsubnet6 = 'fd00::/16'",
            "5:11: gateway subnet fd00::/16 overlaps ingress subnet fd00:255::/64 at line 2; one apart from it would do",
        ),
    ] {
        check(case, expected);
    }
}

#[test]
fn lists_that_are_none() {
    for (case, expected) in [
        ("port = 80", "3:8: `port` is 80; a list of tables [[service.port]] would do"),
        ("port = [80]", "3:9: `port` has an element that is 80; a table [[service.port]] would do"),
        (
            "backend = '10.255.0.33'\nport = [{ published = 80 }]",
            "3:11: `backend` is \"10.255.0.33\"; a list of tables [[service.backend]] would do",
        ),
    ] {
        check(&service(case), expected);
    }
}

#[test]
fn service_names() {
    for (case, expected) in [
        (
            "[[service]]\nname = ''\nport = [{ published = 80 }]",
            "2:8: `name` is \"\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[service]]\nname = 'my service'\nport = [{ published = 80 }]",
            "2:8: `name` is \"my service\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[service]]\nname = 'ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss'\nport = [{ published = 80 }]",
            "2:8: `name` is \"ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss…\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[service]]\nname = 3\nport = [{ published = 80 }]",
            "2:8: `name` is 3; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[service]]\nname = \"a\\nb\"\nport = [{ published = 80 }]",
            "2:8: `name` is \"a\\nb\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\n[[service]]\nname = 'web'\nport = [{ published = 81 }]",
            "5:8: service \"web\" is already defined at line 2; another name would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn published() {
    for (case, expected) in [
        (
            "[[service.port]]\npublished = 0",
            "4:13: `published` is 0; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = 65536",
            "4:13: `published` is 65536; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = -1",
            "4:13: `published` is -1; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = 'http'",
            "4:13: `published` is \"http\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = ''",
            "4:13: `published` is \"\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '80-'",
            "4:13: `published` is \"80-\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '+80'",
            "4:13: `published` is \"+80\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '30099-30000'",
            "4:13: `published` is \"30099-30000\", which runs backwards; \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '0-80'",
            "4:13: `published` is \"0-80\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '1-65536'",
            "4:13: `published` is \"1-65536\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = '80-90-100'",
            "4:13: `published` is \"80-90-100\"; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = 80.0",
            "4:13: `published` is 80.0; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
        (
            "[[service.port]]\npublished = [80]",
            "4:13: `published` is a list; a port from 1 to 65535 or a range such as \"30000-30099\" would do",
        ),
    ] {
        check(&service(case), expected);
    }
}

#[test]
fn ports() {
    for (case, expected) in [
        ("[[service.port]]\npublished = 80\ntarget = 0", "5:10: `target` is 0; a port from 1 to 65535 would do"),
        (
            "[[service.port]]\npublished = 80\ntarget = 65536",
            "5:10: `target` is 65536; a port from 1 to 65535 would do",
        ),
        (
            "[[service.port]]\npublished = 80\ntarget = 'http'",
            "5:10: `target` is \"http\"; a port from 1 to 65535 would do",
        ),
        (
            "persistence = 60\n[[service.port]]\npublished = 80\ntarget = 8080",
            "6:10: `target` is 8080, but with `persistence` IPVS keeps the published port 80; 80, or `scheduler` \"sh\" or \"mh\" in place of `persistence`, or [node] dataplane = \"nftables\", would do",
        ),
        (
            "[[service.port]]\npublished = '30000-30099'\ntarget = 80",
            "5:10: `target` is 80, but a range keeps its ports; to leave it out would do",
        ),
        (
            "[[service.port]]\npublished = 80\nprotocol = 'icmp'",
            "5:12: `protocol` is \"icmp\"; \"tcp\", \"udp\" or \"sctp\" would do",
        ),
        (
            "[[service.port]]\npublished = 80\nprotocol = 'TCP'",
            "5:12: `protocol` is \"TCP\"; \"tcp\", \"udp\" or \"sctp\" would do",
        ),
        (
            "[[service.port]]\npublished = 80\nprotocol = 6",
            "5:12: `protocol` is 6; \"tcp\", \"udp\" or \"sctp\" would do",
        ),
    ] {
        check(&service(case), expected);
    }
}

#[test]
fn port_clashes() {
    for (case, expected) in [
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = 20229\n[[service]]\nname = 'web'\n[[service.port]]\npublished = 20229",
            "8:13: published port tcp 20229 of service \"web\" is already published by service \"kafka\" at line 4; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = '30000-30099'\n[[service]]\nname = 'web'\n[[service.port]]\npublished = 30050",
            "8:13: published port tcp 30050 of service \"web\" is one of tcp 30000-30099, already published by service \"kafka\" at line 4; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = 30050\n[[service]]\nname = 'web'\n[[service.port]]\npublished = '30000-30099'",
            "8:13: published ports tcp 30000-30099 of service \"web\" include tcp 30050, already published by service \"kafka\" at line 4; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = '30000-30050'\n[[service]]\nname = 'web'\n[[service.port]]\npublished = '30050-30099'",
            "8:13: published ports tcp 30050-30099 of service \"web\" overlap tcp 30000-30050, already published by service \"kafka\" at line 4; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = 53\nprotocol = 'udp'\n[[service]]\nname = 'web'\n[[service.port]]\npublished = 53\nprotocol = 'udp'",
            "9:13: published port udp 53 of service \"web\" is already published by service \"kafka\" at line 4; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }, { published = 443 }, { published = 80, target = 8080 }]",
            "3:64: published port tcp 80 of service \"web\" is already published by service \"web\" at line 3; a protocol and port has one owner",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = 4789\nprotocol = 'udp'\n[[service]]\nname = 'web'\n[[service.port]]\npublished = 9326",
            "4:13: published port udp 4789 of service \"kafka\" is already used by the tunnel of [ingress]; another port would do\n\
             9:13: published port tcp 9326 of service \"web\" is already used by the listener of [metrics]; another port would do",
        ),
        (
            "[[service]]\nname = 'kafka'\n[[service.port]]\npublished = '4000-5000'\nprotocol = 'udp'\n[[service]]\nname = 'web'\n[[service.port]]\npublished = '9000-9999'",
            "4:13: published ports udp 4000-5000 of service \"kafka\" include udp 4789, already used by the tunnel of [ingress]; another port would do\n\
             9:13: published ports tcp 9000-9999 of service \"web\" include tcp 9326, already used by the listener of [metrics]; another port would do",
        ),
        (
            "[metrics]\nlisten = '0.0.0.0:80'\n[[service]]\nname = 'web'\nport = [{ published = 80 }]",
            "5:23: published port tcp 80 of service \"web\" is already used by the listener of [metrics]; another port would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn scheduling() {
    for (case, expected) in [
        (
            "scheduler = 'round-robin'\nport = [{ published = 80 }]",
            "3:13: `scheduler` is \"round-robin\"; one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq, twos or random would do",
        ),
        (
            "scheduler = 1\nport = [{ published = 80 }]",
            "3:13: `scheduler` is 1; one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq, twos or random would do",
        ),
        (
            "scheduler = 'RR'\nport = [{ published = 80 }]",
            "3:13: `scheduler` is \"RR\"; one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq, twos or random would do",
        ),
        (
            "scheduler = 'sh'\nscheduler_flags = ['sh-prot']\nport = [{ published = 80 }]",
            "4:20: \"sh-prot\" is no flag of scheduler \"sh\"; \"sh-port\" or \"sh-fallback\" would do",
        ),
        (
            "scheduler = 'sh'\nscheduler_flags = ['mh-port']\nport = [{ published = 80 }]",
            "4:20: \"mh-port\" is no flag of scheduler \"sh\"; \"sh-port\" or \"sh-fallback\" would do",
        ),
        (
            "scheduler_flags = ['sh-port']\nport = [{ published = 80 }]",
            "3:20: \"sh-port\" is no flag of scheduler \"rr\"; scheduler \"sh\" or \"mh\", or no flags would do",
        ),
        (
            "scheduler = 'mh'\nscheduler_flags = 'mh-port'\nport = [{ published = 80 }]",
            "4:19: `scheduler_flags` is \"mh-port\"; a list such as [\"sh-port\", \"sh-fallback\"] would do",
        ),
        (
            "scheduler = 'mh'\nscheduler_flags = [1]\nport = [{ published = 80 }]",
            "4:20: 1 is no flag of scheduler \"mh\"; \"mh-port\" or \"mh-fallback\" would do",
        ),
        (
            "scheduler = 'round'\nscheduler_flags = ['sh-port', 'flag']\nport = [{ published = 80 }]",
            "3:13: `scheduler` is \"round\"; one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq, twos or random would do\n\
             4:31: \"flag\" is no flag of any scheduler; \"sh-port\", \"sh-fallback\", \"mh-port\" or \"mh-fallback\" would do",
        ),
        (
            "persistence = -1\nport = [{ published = 80 }]",
            "3:15: `persistence` is -1; a number of seconds from 0 to 2147483 would do",
        ),
        (
            "persistence = 2147484\nport = [{ published = 80 }]",
            "3:15: `persistence` is 2147484; a number of seconds from 0 to 2147483 would do",
        ),
        (
            "persistence = '5m'\nport = [{ published = 80 }]",
            "3:15: `persistence` is \"5m\"; a number of seconds from 0 to 2147483 would do",
        ),
        (
            "persistence_mask = 0\nport = [{ published = 80 }]",
            "3:20: `persistence_mask` is 0; a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32 would do",
        ),
        (
            "persistence_mask = 33\nport = [{ published = 80 }]",
            "3:20: `persistence_mask` is 33; a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32 would do",
        ),
        (
            "persistence_mask = '255.0.255.0'\nport = [{ published = 80 }]",
            "3:20: `persistence_mask` is \"255.0.255.0\"; a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32 would do",
        ),
        (
            "persistence_mask = '0.0.0.0'\nport = [{ published = 80 }]",
            "3:20: `persistence_mask` is \"0.0.0.0\"; a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32 would do",
        ),
        (
            "persistence_mask = '24'\nport = [{ published = 80 }]",
            "3:20: `persistence_mask` is \"24\"; a netmask such as \"255.255.255.0\" or the length of a prefix from 1 to 32 would do",
        ),
        (
            "persistence_mask6 = 0\nport = [{ published = 80 }]",
            "3:21: `persistence_mask6` is 0; the length of a prefix from 1 to 128 would do",
        ),
        (
            "persistence_mask6 = 129\nport = [{ published = 80 }]",
            "3:21: `persistence_mask6` is 129; the length of a prefix from 1 to 128 would do",
        ),
        (
            "persistence_mask6 = 'ffff::'\nport = [{ published = 80 }]",
            "3:21: `persistence_mask6` is \"ffff::\"; the length of a prefix from 1 to 128 would do",
        ),
        ("one_packet = 1\nport = [{ published = 80 }]", "3:14: `one_packet` is 1; true or false would do"),
        (
            "one_packet = true\nport = [{ published = 80 }]",
            "3:14: `one_packet` is true for port tcp 80; true for udp ports only would do",
        ),
        (
            "one_packet = true\npersistence = 60\nport = [{ published = 80 }]",
            "3:14: `one_packet` schedules every datagram anew, and `persistence` is 60; one of them would do",
        ),
        (
            "one_packet = true\npersistence = 60\n[[service.port]]\npublished = 53\nprotocol = 'udp'",
            "3:14: `one_packet` schedules every datagram anew, and `persistence` is 60; one of them would do",
        ),
    ] {
        check(&service(case), expected);
    }
}

/// What a data plane cannot do is named where it is said, once for however many ports.
#[test]
fn what_the_data_plane_cannot_do() {
    for (case, dataplane, expected) in [
        (
            "scheduler = 'lc'\nport = [{ published = 80 }, { published = 81 }]",
            "nftables",
            "3:13: scheduler \"lc\" of port tcp 80 is nothing that [node] dataplane \"nftables\" can do; \"rr\", \"wrr\", \"random\", \
             \"sh\" or \"mh\", or dataplane = \"ipvs\", would do",
        ),
        (
            "[[service.port]]\npublished = 80\nscheduler = 'wlc'",
            "nftables",
            "5:13: scheduler \"wlc\" of port tcp 80 is nothing that [node] dataplane \"nftables\" can do; \"rr\", \"wrr\", \"random\", \
             \"sh\" or \"mh\", or dataplane = \"ipvs\", would do",
        ),
        (
            "scheduler = 'random'\nport = [{ published = 80 }]",
            "ipvs",
            "3:13: scheduler \"random\" of port tcp 80 is nothing that [node] dataplane \"ipvs\" can do; \"rr\" or \"twos\", or dataplane = \
             \"nftables\", would do",
        ),
        (
            "one_packet = true\nport = [{ published = 53, protocol = 'udp' }]",
            "nftables",
            "3:14: `one_packet` of port udp 53 is nothing that [node] dataplane \"nftables\" can do; to leave it out, or dataplane = \
             \"ipvs\", would do",
        ),
        (
            "persistence = 60\nport = [{ published = 80, target = 8080 }]",
            "ipvs",
            "4:36: `target` is 8080, but with `persistence` IPVS keeps the published port 80; 80, or `scheduler` \"sh\" or \"mh\" in place of \
             `persistence`, or [node] dataplane = \"nftables\", would do",
        ),
    ] {
        check(&service(&format!("{case}\n[node]\ndataplane = '{dataplane}'")), expected);
    }
}

#[test]
fn port_scheduling() {
    for (case, expected) in [
        (
            "scheduler = 'sh'\nscheduler_flags = ['sh-port']\n[[service.port]]\npublished = 80\nscheduler = 'rr'\nscheduler_flags = ['sh-fallback']",
            "8:20: \"sh-fallback\" is no flag of scheduler \"rr\"; scheduler \"sh\" or \"mh\", or no flags would do",
        ),
        (
            "persistence = 60\n[[service.port]]\npublished = 53\nprotocol = 'udp'\none_packet = true",
            "7:14: `one_packet` schedules every datagram anew, and `persistence` is 60; one of them would do",
        ),
        (
            "one_packet = true\n[[service.port]]\npublished = 53\nprotocol = 'udp'\npersistence = 60",
            "3:14: `one_packet` schedules every datagram anew, and `persistence` is 60; one of them would do",
        ),
        (
            "[[service.port]]\npublished = 53\nprotocol = 'sctp'\none_packet = true",
            "6:14: `one_packet` is true for port sctp 53; true for udp ports only would do",
        ),
        (
            "[[service.port]]\npublished = 80\nscheduler = 'best'",
            "5:13: `scheduler` is \"best\"; one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, fo, ovf, sed, nq, twos or random would do",
        ),
        (
            "one_packet = true\nport = [{ published = 53 }, { published = 54 }]",
            "3:14: `one_packet` is true for port tcp 53; true for udp ports only would do",
        ),
    ] {
        check(&service(case), expected);
    }
}

#[test]
fn backends() {
    for (case, expected) in [
        ("address = 'kafka-1'", "6:11: `address` is \"kafka-1\"; an IPv4 or IPv6 address would do"),
        ("address = 33", "6:11: `address` is 33; an IPv4 or IPv6 address would do"),
        ("address = '10.255.0.33:9092'", "6:11: `address` is \"10.255.0.33:9092\"; an IPv4 or IPv6 address would do"),
        (
            "address = '0.0.0.0'",
            "6:11: `address` is \"0.0.0.0\", the unspecified address; a host's own such as \"10.255.0.33\" would do",
        ),
        (
            "address = '127.0.0.1'",
            "6:11: `address` is \"127.0.0.1\", a loopback address; a host's own such as \"10.255.0.33\" would do",
        ),
        (
            "address = '224.0.0.1'",
            "6:11: `address` is \"224.0.0.1\", a multicast address; a host's own such as \"10.255.0.33\" would do",
        ),
        (
            "address = '255.255.255.255'",
            "6:11: `address` is \"255.255.255.255\", the broadcast address; a host's own such as \"10.255.0.33\" would do",
        ),
        (
            "address = '::'",
            "6:11: `address` is \"::\", the unspecified address; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "address = '::1'",
            "6:11: `address` is \"::1\", a loopback address; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "address = 'ff02::1'",
            "6:11: `address` is \"ff02::1\", a multicast address; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "address = 'fe80::1'",
            "6:11: `address` is \"fe80::1\", a link-local address, good on one link only; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "address = '::ffff:10.255.0.33'",
            "6:11: `address` is \"::ffff:10.255.0.33\", an IPv4-mapped address; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "address = '10.255.0.3'",
            "6:11: backend 10.255.0.3 is this node's own address in the ingress subnet; an address of its own would do",
        ),
        (
            "address = '10.255.0.0'",
            "6:11: backend 10.255.0.0 is the network address of the ingress subnet 10.255.0.0/16; an address of its own would do",
        ),
        (
            "address = '10.255.255.255'",
            "6:11: backend 10.255.255.255 is the broadcast address of the ingress subnet 10.255.0.0/16; an address of its own would do",
        ),
        (
            "address = '169.254.77.2'",
            "6:11: backend 169.254.77.2 is the sandbox's own address in the gateway subnet; an address of its own would do",
        ),
        (
            "address = 'fd6d:6573:6864::2'",
            "6:11: backend fd6d:6573:6864::2 is the sandbox's own address in the gateway subnet; an address of its own would do",
        ),
        ("address = '10.255.0.33'\nweight = -1", "7:10: `weight` is -1; a whole number from 0 to 65535 would do"),
        ("address = '10.255.0.33'\nweight = 65536", "7:10: `weight` is 65536; a whole number from 0 to 65535 would do"),
        ("address = '10.255.0.33'\nweight = 1.5", "7:10: `weight` is 1.5; a whole number from 0 to 65535 would do"),
        (
            "address = '10.255.0.33'\nweight = 'heavy'",
            "7:10: `weight` is \"heavy\"; a whole number from 0 to 65535 would do",
        ),
        (
            "address = '10.255.0.33'\nupper_threshold = -1",
            "7:19: `upper_threshold` is -1; a whole number of connections from 0 to 1431655765 would do",
        ),
        (
            "address = '10.255.0.33'\nupper_threshold = 1431655766\nlower_threshold = 1431655766",
            "7:19: `upper_threshold` is 1431655766; a whole number of connections from 0 to 1431655765 would do\n\
             8:19: `lower_threshold` is 1431655766; a whole number of connections from 0 to 1431655765 would do",
        ),
        (
            "address = '10.255.0.33'\nlower_threshold = 3",
            "7:19: `lower_threshold` is 3, and there is no `upper_threshold`; one of 3 or more would do",
        ),
        (
            "address = '10.255.0.33'\nlower_threshold = 3\nupper_threshold = 0",
            "7:19: `lower_threshold` is 3, and there is no `upper_threshold`; one of 3 or more would do",
        ),
        (
            "address = '10.255.0.33'\nlower_threshold = 4\nupper_threshold = 3",
            "7:19: `lower_threshold` is 4, and `upper_threshold` 3; at most that would do",
        ),
        // Of one that is wrong it is not known what it should be.
        (
            "address = '10.255.0.33'\nlower_threshold = 4\nupper_threshold = 'few'",
            "8:19: `upper_threshold` is \"few\"; a whole number of connections from 0 to 1431655765 would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = ''",
            "7:9: `netns` is \"\"; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = 'a/b'",
            "7:9: `netns` is \"a/b\"; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = '..'",
            "7:9: `netns` is \"..\"; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = 0",
            "7:9: `netns` is 0; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = -5",
            "7:9: `netns` is -5; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = 4194305",
            "7:9: `netns` is 4194305; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = '99999999999'",
            "7:9: `netns` is \"99999999999\"; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = \"10.255.0.33\"\nnetns = \"/run/\\u0000\"",
            "7:9: `netns` is \"/run/\\0\"; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = true",
            "7:9: `netns` is true; a name under /run/netns, an absolute path or the number of a process would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = 'ingress_sbox'",
            "7:9: namespace ingress_sbox is meshd's own; a backend's would do",
        ),
        (
            "address = '10.255.0.33'\nnetns = '/var/run/netns/ingress_sbox_overlay'",
            "7:9: namespace /var/run/netns/ingress_sbox_overlay is meshd's own; a backend's would do",
        ),
        (
            "address = '192.168.7.7'\nnetns = 'a'",
            "7:9: backend 192.168.7.7 has a `netns` but is not in the ingress subnet; an address in 10.255.0.0/16, or no `netns`, would do",
        ),
        (
            "address = 'fd00:255::33'\nnetns = 'a'",
            "7:9: backend fd00:255::33 has a `netns` but is not in the ingress subnet; an address in 10.255.0.0/16, or no `netns`, would do",
        ),
    ] {
        check(&backend(case), expected);
    }
}

#[test]
fn backend_clashes() {
    for (case, expected) in [
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = '10.255.0.33' },\n  { address = '10.255.0.34' },\n  { address = '10.255.0.33' }\n]",
            "7:15: backend 10.255.0.33 is already listed at line 5; to list it once would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = '10.255.0.33', netns = 'a' },\n  { address = '10.255.0.34', netns = '/run/netns/a' }\n]",
            "6:38: namespace /run/netns/a is called a at line 5; one name for it would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = '10.255.0.33', netns = 7 },\n  { address = '10.255.0.34', netns = '/proc/7/ns/net' }\n]",
            "6:38: namespace /proc/7/ns/net is called pid 7 at line 5; one name for it would do",
        ),
        (
            "[[service]]\nname = 'a'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.33', netns = 'a' }]\n[[service]]\nname = 'b'\nport = [{ published = 81 }]\nbackend = [{ address = '10.255.0.33', netns = 'b' }]",
            "8:47: backend 10.255.0.33 is in namespace a at line 4, here in b; one of them would do",
        ),
        (
            "[[service]]\nname = 'web'\n[[service.port]]\npublished = 80\n[[service.port.backend]]\naddress = '10.255.0.33'\nnetns = 'a'\n[[service.backend]]\naddress = '10.255.0.33'\nnetns = 'b'",
            "10:9: backend 10.255.0.33 is in namespace a at line 7, here in b; one of them would do",
        ),
        (
            "[[service]]\nname = 'web'\n[[service.port]]\npublished = 80\n[[service.port.backend]]\naddress = '10.255.0.33'\n[[service.port.backend]]\naddress = '10.255.0.33'\nweight = 2",
            "8:11: backend 10.255.0.33 is already listed at line 6; to list it once would do",
        ),
    ] {
        check(&text(case), expected);
    }
}

#[test]
fn macs() {
    for (case, expected) in [
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = 'fd00:255::33' },\n  { address = 'fd00:255::1:0:33' }\n]",
            "11:15: backend fd00:255::1:0:33 makes the same MAC 02:42:00:00:00:33 as backend fd00:255::33 at line 10; an address with other last 32 bits would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = '10.255.0.33' },\n  { address = 'fd00:255::aff:21' }\n]",
            "11:15: backend fd00:255::aff:21 makes the same MAC 02:42:0a:ff:00:21 as backend 10.255.0.33 at line 10; an address with other last 32 bits would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = 'fd00:255::aff:3' }\n]",
            "10:15: backend fd00:255::aff:3 makes the same MAC 02:42:0a:ff:00:03 as ingress address 10.255.0.3 at line 3; an address with other last 32 bits would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = 'fd00:255::aff:3', netns = 'a' },\n  { address = '10.255.0.34', netns = 'b' }\n]",
            "10:15: backend fd00:255::aff:3 makes the same MAC 02:42:0a:ff:00:03 as ingress address 10.255.0.3 at line 3; an address with other last 32 bits would do",
        ),
        (
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = '10.255.0.33', netns = 'a' },\n  { address = 'fd00:255::33', netns = 'a' },\n  { address = 'fd00:255::aff:21', netns = 'b' }\n]",
            "12:15: backend fd00:255::aff:21 makes the same MAC 02:42:0a:ff:00:21 as backend 10.255.0.33 at line 10; an address with other last 32 bits would do",
        ),
    ] {
        check(&dual(case), expected);
    }
}

#[test]
fn broken_dual() {
    check(
        &dual(
            "[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = 'fd00:255::' },\n  { address = 'fd00:255::3' },\n  { address = 'fd01::1', netns = 'a' },\n  { address = '192.168.1.1', netns = 'b' }\n]",
        ),
        "10:15: backend fd00:255:: is the network address of the ingress subnet fd00:255::/64; an address of its own would do\n\
             11:15: backend fd00:255::3 is this node's own address in the ingress subnet; an address of its own would do\n\
             12:34: backend fd01::1 has a `netns` but is not in the ingress subnet; an address in 10.255.0.0/16 or fd00:255::/64, or no `netns`, would do\n\
             13:38: backend 192.168.1.1 has a `netns` but is not in the ingress subnet; an address in 10.255.0.0/16 or fd00:255::/64, or no `netns`, would do",
    );
}

#[test]
fn macs_of_ipv6_alone() {
    check(
        "[ingress]\nsubnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n[[service]]\nname = 'web'\nport = [{ published = 80 }]\nbackend = [\n  { address = 'fd00:255::1:0:3' }\n]",
        "8:15: backend fd00:255::1:0:3 makes the same MAC 02:42:00:00:00:03 as ingress address fd00:255::3 at line 3; an address with other last 32 bits would do",
    );
}

#[test]
fn several_at_once() {
    for (case, expected) in [
        (
            "[node]\nname = 1\naddres = 'x'\n[ipvs]\nudp = 0\n[[service]]\n[[service.port]]\npublished = 0\nprotocol = 'icmp'\n[[service.port.backend]]\naddress = '::'",
            "2:8: `name` is 1; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do\n\
             3:1: `addres` is no key of [node]; did you mean `address`? its keys: name, address, dataplane, on_stop, state_dir, watch\n\
             5:7: `udp` is 0; a number of seconds from 1 to 2147483 would do\n\
             6:1: [[service]] has no `name`; one such as name = \"web\" would do\n\
             8:13: `published` is 0; a port from 1 to 65535 or a range such as \"30000-30099\" would do\n\
             9:12: `protocol` is \"icmp\"; \"tcp\", \"udp\" or \"sctp\" would do\n\
             11:11: `address` is \"::\", the unspecified address; a host's own such as \"fd00:255::33\" would do",
        ),
        (
            "[ingress]\nsubnet = '10.255.0.0/15'\nvni = 0\n[[service]]\nname = 'web'\n[[service.port]]\npublished = 80\n[[service.port.backend]]\naddress = '10.255.0.33'\nnetns = 'a'",
            "1:1: [ingress] has no `address`; this node's own address in `subnet` would do\n\
             2:10: `subnet` is \"10.255.0.0/15\", which has bits set behind its prefix; \"10.254.0.0/15\" would do\n\
             3:7: `vni` is 0; a number from 1 to 16777215 would do",
        ),
    ] {
        check(&text(case), expected);
    }
}
