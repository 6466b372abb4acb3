//! The configuration: what is taken and what it means. `refused` has what is not, `properties` what always holds.

#[path = "config/access.rs"]
mod access;
#[path = "config/beside.rs"]
mod beside;
#[path = "config/check.rs"]
mod check;
#[path = "config/encryption.rs"]
mod encryption;
#[path = "config/peers.rs"]
mod peers;
#[path = "config/properties.rs"]
mod properties;
#[path = "config/refused.rs"]
mod refused;
#[path = "config/spread.rs"]
mod spread;
#[path = "config/standing.rs"]
mod standing;
#[path = "config/way.rs"]
mod way;

use std::net::IpAddr;
use std::sync::Arc;

use meshd::config::{Config, Control, Metrics, Node, OnStop};
use meshd::mesh::{
    Access, Backend, BackendState, ClientAddress, Encryption, Endpoint4, Endpoint6, Gateway, Ingress, Mode, NetnsRef,
    Peer, Port, PortRange, Protocol, Scheduler, SchedulerFlags, Scheduling, Service, Spread, Thresholds, Timeouts,
};

const SERVICES: &str = include_str!("../config/services.toml");
const MINIMAL: &str = include_str!("../config/minimal.toml");

const INGRESS: &str = "[ingress]\nsubnet = '10.255.0.0/16'\naddress = '10.255.0.3'\n";
const INGRESS6: &str = "subnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n";

/// The text, and behind it an overlay if it has none of its own: so its lines keep their numbers.
fn text(text: &str) -> String {
    let complete = text.contains("[ingress]") || text.starts_with("ingress");
    if complete { text.to_owned() } else { format!("{text}\n{INGRESS}") }
}

/// More of `[ingress]`, from line 4.
fn ingress(keys: &str) -> String {
    format!("{INGRESS}{keys}")
}

/// Behind an overlay with both families, from line 6.
fn dual(text: &str) -> String {
    format!("{INGRESS}{INGRESS6}{text}")
}

/// More of a service that has a name, from line 3.
fn service(keys: &str) -> String {
    text(&format!("[[service]]\nname = 'web'\n{keys}"))
}

/// The keys of a backend, from line 6.
fn backend(keys: &str) -> String {
    service(&format!("[[service.port]]\npublished = 80\n[[service.port.backend]]\n{keys}"))
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let errors = Config::parse(text, "services.toml").expect_err(text).to_string();
    let expected: Vec<String> = expected.lines().map(|line| format!("services.toml:{line}")).collect();
    assert_eq!(errors, expected.join("\n"), "\n{text}");
}

#[track_caller]
fn good(text: &str) -> Config {
    Config::parse(text, "services.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn round_robin() -> Scheduling {
    Scheduling {
        scheduler: Scheduler::RoundRobin,
        flags: SchedulerFlags::default(),
        persistence: 0,
        persistence_mask: 32,
        persistence_mask6: 128,
        one_packet: false,
    }
}

fn named(address: &str, netns: &str) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        weight: 1,
        thresholds: Thresholds::default(),
        state: BackendState::Enabled,
        backup: false,
        node: None,
        netns: Some(NetnsRef::Name(netns.to_owned())),
    }
}

/// What a configuration is that says nothing but its overlay's addresses.
fn defaults() -> Config {
    Config {
        node: Node {
            dataplane: None,
            name: None,
            address: None,
            on_stop: OnStop::Keep,
            state_dir: "/var/lib/meshd".into(),
            watch: false,
        },
        metrics: Metrics { listen: "127.0.0.1:9326".parse().unwrap(), backends: true },
        control: Control { socket: "/run/meshd/meshd.sock".into(), group: "meshd".to_owned() },
        ingress: Ingress {
            v4: Some(Endpoint4 { subnet: "10.255.0.0/16".parse().unwrap(), address: "10.255.0.3".parse().unwrap() }),
            v6: None,
            namespace: "ingress_sbox".to_owned(),
            vni: 4077,
            port: 4789,
            mtu: None,
            encryption: None,
        },
        gateway: Gateway {
            bridge: None,
            subnet: "169.254.77.0/24".parse().unwrap(),
            subnet6: "fd6d:6573:6864::/64".parse().unwrap(),
            open_forward: true,
            flow_table: true,
        },
        timeouts: Timeouts { tcp: 900, tcp_fin: 120, udp: 300 },
        peers: vec![],
        own_key: None,
        services: vec![],
    }
}

#[test]
fn defaults_are_the_contract() {
    assert_eq!(good(INGRESS), defaults());
    // Empty tables say nothing either.
    assert_eq!(good(&text("[node]\n[gateway]\n[ipvs]\n[metrics]\n[control]\n")), defaults());
}

#[test]
fn every_key_is_read() {
    let config = good(
        r#"
        service = [
            { name = "dns", scheduler = "mh", scheduler_flags = ["mh-port", "mh-fallback"], persistence = 7,
              persistence_mask = "255.255.254.0", persistence_mask6 = 56, one_packet = false,
              port = [{ published = "53", protocol = "sctp" },
                      { published = 54, target = 5353, protocol = "sctp", persistence = 0 }],
              backend = [{ address = "2001:db8::1", weight = 0, state = "drain", upper_threshold = 1000,
                           lower_threshold = 700 }] },
        ]
        [[peer]]
        name = "node-2"
        address = "192.168.50.2"
        ingress = "10.1.0.10"
        ingress6 = "fd01::10"
        public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        [node]
        name = "node-1"
        address = "192.168.50.1"
        on_stop = "remove"
        state_dir = "/srv/mesh"
        watch = true
        [ingress]
        subnet = "10.1.0.0/24"
        address = "10.1.0.9"
        subnet6 = "fd01::/64"
        address6 = "fd01::9"
        namespace = "sbox"
        vni = 0xff_ffff
        port = 8472
        mtu = 1400
        encryption = "wireguard"
        wireguard_port = 51871
        [gateway]
        bridge = "br-mesh"
        subnet = "172.30.0.0/30"
        subnet6 = "fd02::/126"
        open_forward = false
        flow_table = false
        [ipvs]
        tcp = 2147483
        tcp_fin = 1
        udp = 30
        [metrics]
        listen = "[::]:9000"
        backends = false
        [control]
        socket = "/tmp/m.sock"
        group = "wheel"
        "#,
    );
    let expected = Config {
        node: Node {
            dataplane: None,
            name: Some("node-1".to_owned()),
            address: Some("192.168.50.1".parse().unwrap()),
            on_stop: OnStop::Remove,
            state_dir: "/srv/mesh".into(),
            watch: true,
        },
        metrics: Metrics { listen: "[::]:9000".parse().unwrap(), backends: false },
        control: Control { socket: "/tmp/m.sock".into(), group: "wheel".to_owned() },
        ingress: Ingress {
            v4: Some(Endpoint4 { subnet: "10.1.0.0/24".parse().unwrap(), address: "10.1.0.9".parse().unwrap() }),
            v6: Some(Endpoint6 { subnet: "fd01::/64".parse().unwrap(), address: "fd01::9".parse().unwrap() }),
            namespace: "sbox".to_owned(),
            vni: 0xff_ffff,
            port: 8472,
            mtu: Some(1400),
            encryption: Some(Encryption { port: 51871 }),
        },
        gateway: Gateway {
            bridge: Some("br-mesh".to_owned()),
            subnet: "172.30.0.0/30".parse().unwrap(),
            subnet6: "fd02::/126".parse().unwrap(),
            open_forward: false,
            flow_table: false,
        },
        timeouts: Timeouts { tcp: 2_147_483, tcp_fin: 1, udp: 30 },
        peers: vec![Peer {
            name: "node-2".to_owned(),
            address: "192.168.50.2".parse().unwrap(),
            key: Some("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap()),
            ingress: Some("10.1.0.10".parse().unwrap()),
            ingress6: Some("fd01::10".parse().unwrap()),
        }],
        own_key: None,
        services: vec![Arc::new(Service {
            name: "dns".to_owned(),
            ports: [(53, 53, 7), (54, 5353, 0)]
                .map(|(published, target, persistence)| Port {
                    published: PortRange::single(Protocol::Sctp, published),
                    target: Some(target),
                    scheduling: Scheduling {
                        scheduler: Scheduler::Maglev,
                        flags: SchedulerFlags { fallback: true, port: true },
                        persistence,
                        persistence_mask: 23,
                        persistence_mask6: 56,
                        one_packet: false,
                    },
                    client_address: ClientAddress::Snat,
                    mode: Mode::Ingress,
                    check: None,
                    spread: Spread::default(),
                    access: Access::default(),
                    backends: vec![Backend {
                        address: "2001:db8::1".parse().unwrap(),
                        weight: 0,
                        thresholds: Thresholds { upper: 1000, lower: 700 },
                        state: BackendState::Drain,
                        node: None,
                        backup: false,
                        netns: None,
                    }],
                })
                .into(),
        })],
    };
    assert_eq!(config, expected);
}

#[test]
fn the_example_means_what_its_comments_say() {
    let kafka = ["10.255.0.33", "10.255.0.34", "10.255.0.35", "fd00:255::33", "fd00:255::34", "fd00:255::35"];
    let kafka = kafka.iter().zip([1, 2, 3].iter().cycle());
    let on = |number: u8, address: &str, netns: &str| {
        let node = (number != 1).then(|| format!("node-{number}"));
        Backend { node, ..named(address, &format!("{netns}-{number}")) }
    };
    let web = vec![on(1, "10.255.0.41", "web"), on(2, "10.255.0.42", "web")];
    let port = |protocol, published, target, backends| Port {
        published: PortRange::single(protocol, published),
        target: Some(target),
        scheduling: round_robin(),
        client_address: ClientAddress::Snat,
        mode: Mode::Ingress,
        check: None,
        spread: Spread::default(),
        access: Access::default(),
        backends,
    };
    let mut expected = defaults();
    expected.node.name = Some("node-1".to_owned());
    expected.node.address = Some("192.168.50.1".parse().unwrap());
    // The file lists this node, too.
    expected.peers = [(2u8, 4u8), (3, 5)]
        .map(|(number, last)| Peer {
            name: format!("node-{number}"),
            address: format!("192.168.50.1{number}").parse().unwrap(),
            key: None,
            ingress: Some([10, 255, 0, last].into()),
            ingress6: Some(format!("fd00:255::{last}").parse().unwrap()),
        })
        .into();
    expected.ingress.v6 =
        Some(Endpoint6 { subnet: "fd00:255::/64".parse().unwrap(), address: "fd00:255::3".parse().unwrap() });
    let services = [
        Service {
            name: "kafka".to_owned(),
            ports: vec![port(
                Protocol::Tcp,
                20229,
                9092,
                kafka.map(|(address, number)| on(*number, address, "kafka")).collect(),
            )],
        },
        Service {
            name: "web".to_owned(),
            ports: [port(Protocol::Tcp, 20230, 8080, web.clone()), port(Protocol::Udp, 20231, 53, web)]
                .map(|port| Port { client_address: ClientAddress::Preserve, ..port })
                .into(),
        },
    ];
    expected.services = services.map(Arc::new).into();
    // Its check is that of all defaults.
    let check = good(&text("[[service]]\nname = 'a'\ncheck = { type = 'tcp' }\nport = [{ published = 1 }]\n"));
    let port = &mut Arc::make_mut(&mut expected.services[0]).ports[0];
    port.check.clone_from(&check.services[0].ports[0].check);
    port.spread.drain = Some(std::time::Duration::from_secs(30));
    assert!(port.check.is_some());
    assert_eq!(good(SERVICES), expected);
}

/// What the example shows as a commented-out key can be used as it stands.
#[test]
fn the_example_is_good_with_its_comments_taken_off() {
    let uncommented = SERVICES.replace("\n# mtu = ", "\nmtu = ");
    let config = good(&uncommented);
    assert_eq!(config.ingress.mtu, Some(1450));
}

#[test]
fn the_example_shows_every_key() {
    let unknown = ["node", "ingress", "gateway", "ipvs", "metrics", "control", "[peer]"]
        .map(|table| format!("[{table}]\nx = 1\n"));
    let service = "[[service]]\nx = 1\ncheck = { x = 1 }\n[[service.port]]\nx = 1\n[[service.backend]]\nx = 1\n";
    let errors = Config::parse(&(unknown.concat() + service), "t").unwrap_err();
    let lists = errors.iter().filter_map(|error| error.message.split_once("its keys: "));
    let keys: Vec<&str> = lists.flat_map(|(_, keys)| keys.split(", ")).collect();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        let tables = ["[[service.port]]", "[[service.backend]]", "[[service.check]]"];
        let shown = SERVICES.lines().any(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = ")));
        assert!(
            shown || tables.contains(&format!("[[service.{key}]]").as_str()),
            "{key} is not in config/services.toml"
        );
    }
}

#[test]
fn the_minimal_example_publishes_one_port() {
    let config = good(MINIMAL);
    let expected = Port {
        published: PortRange::single(Protocol::Tcp, 8080),
        target: Some(8080),
        scheduling: round_robin(),
        client_address: ClientAddress::Snat,
        mode: Mode::Ingress,
        check: None,
        spread: Spread::default(),
        access: Access::default(),
        backends: vec![Backend {
            address: "10.255.0.41".parse().unwrap(),
            weight: 1,
            thresholds: Thresholds::default(),
            state: BackendState::Enabled,
            node: None,
            backup: false,
            netns: None,
        }],
    };
    assert_eq!(config.services, [Arc::new(Service { name: "web".to_owned(), ports: vec![expected] })]);
}

/// The port of a service with one.
#[track_caller]
fn port(text: &str) -> Port {
    good(text).services[0].ports[0].clone()
}

#[test]
fn ports_are_numbers_or_ranges() {
    for (published, first, last, target) in [
        ("1", 1, 1, Some(1)),
        ("65535", 65535, 65535, Some(65535)),
        ("0x50", 80, 80, Some(80)),
        ("'80'", 80, 80, Some(80)),
        ("'80-80'", 80, 80, Some(80)),
        ("'30000-30099'", 30000, 30099, None),
        ("'30000 - 30099'", 30000, 30099, None),
        ("'10000-65535'", 10000, 65535, None),
    ] {
        let port = port(&service(&format!("[[service.port]]\npublished = {published}")));
        assert_eq!((port.published.first, port.published.last, port.target), (first, last, target), "{published}");
    }
}

#[test]
fn neighbours_do_not_clash() {
    let ports = [("'80-89'", "tcp"), ("90", "tcp"), ("'91-99'", "tcp"), ("80", "udp"), ("80", "sctp"), ("79", "tcp")];
    let ports =
        ports.map(|(port, protocol)| format!("[[service.port]]\npublished = {port}\nprotocol = '{protocol}'\n"));
    let marks: Vec<_> = good(&service(&ports.concat())).mesh("n").names().into_keys().collect();
    assert_eq!(marks.len(), 6);
    // meshd's own ports are of one protocol each.
    good(&service("port = [{ published = 4789 }, { published = 9326, protocol = 'udp' }]"));
}

#[test]
fn a_namespace_is_a_name_a_path_or_a_process() {
    for (netns, expected) in [
        ("'kafka-1'", NetnsRef::Name("kafka-1".to_owned())),
        ("'1a'", NetnsRef::Name("1a".to_owned())),
        ("'/run/docker/netns/d1'", NetnsRef::Path("/run/docker/netns/d1".to_owned())),
        ("4711", NetnsRef::Pid(4711)),
        ("'4711'", NetnsRef::Pid(4711)),
    ] {
        let port = port(&backend(&format!("address = '10.255.0.33'\nnetns = {netns}")));
        assert_eq!(port.backends[0].netns, Some(expected), "{netns}");
    }
}

#[test]
fn a_namespace_has_several_addresses() {
    let attached = |address: &str| format!("[[service.backend]]\naddress = '{address}'\nnetns = 'a'\n");
    let backends = ["10.255.0.33", "10.255.0.34", "fd00:255::33", "fd00:255::aff:21"].map(attached).concat();
    good(&dual(&format!("[[service]]\nname = 'web'\n[[service.port]]\npublished = 80\n{backends}")));
}

#[test]
fn an_address_is_in_its_namespace_wherever_it_is_listed() {
    let port = |port: u16, rest: &str| {
        format!("[[service.port]]\npublished = {port}\n[[service.port.backend]]\naddress = '10.255.0.33'\n{rest}")
    };
    good(&service(&(port(80, "netns = 'a'\n") + &port(81, "netns = 'a'\n") + &port(82, ""))));
}

#[test]
fn the_host_itself_can_be_a_backend() {
    good(&backend("address = '169.254.77.1'"));
}

#[test]
fn masks_are_netmasks_or_lengths() {
    for (mask, expected) in
        [("24", 24), ("'255.255.255.0'", 24), ("'255.255.255.255'", 32), ("'128.0.0.0'", 1), ("1", 1)]
    {
        let port = port(&service(&format!("persistence_mask = {mask}\n[[service.port]]\npublished = 80")));
        assert_eq!(port.scheduling.persistence_mask, expected, "{mask}");
    }
}

#[test]
fn every_scheduler_of_the_kernel_is_known() {
    for scheduler in "rr wrr lc wlc lblc lblcr sh mh dh fo ovf sed nq twos".split(' ') {
        let port = port(&service(&format!("scheduler = '{scheduler}'\n[[service.port]]\npublished = 80")));
        assert_eq!(port.scheduling.scheduler.name(), scheduler);
    }
}

#[test]
fn a_port_has_what_its_service_has_or_its_own() {
    let config = good(&service(
        "scheduler = 'sh'\nscheduler_flags = ['sh-port']\npersistence = 60\n\
         [[service.backend]]\naddress = '10.255.0.41'\n\
         [[service.port]]\npublished = 1\n\
         [[service.port]]\npublished = 2\nscheduler = 'mh'\n\
         [[service.port]]\npublished = 3\nscheduler_flags = ['sh-fallback']\n\
         [[service.port]]\npublished = 4\nprotocol = 'udp'\npersistence = 0\none_packet = true\n\
         [[service.port]]\npublished = 5\n[[service.port.backend]]\naddress = '10.255.0.42'\nweight = 5\n\
         [[service.port]]\npublished = 6\nbackend = []\n",
    ));
    let inherited = Scheduling {
        scheduler: Scheduler::SourceHash,
        flags: SchedulerFlags { port: true, fallback: false },
        persistence: 60,
        ..round_robin()
    };
    let ports = &config.services[0].ports;
    let scheduling: Vec<&Scheduling> = ports.iter().map(|port| &port.scheduling).collect();
    assert_eq!(scheduling[0], &inherited);
    // Flags are a scheduler's own.
    let other = Scheduling { scheduler: Scheduler::Maglev, flags: SchedulerFlags::default(), ..inherited.clone() };
    assert_eq!(scheduling[1], &other);
    let flags = SchedulerFlags { port: false, fallback: true };
    assert_eq!(scheduling[2], &Scheduling { flags, ..inherited.clone() });
    assert_eq!(scheduling[3], &Scheduling { persistence: 0, one_packet: true, ..inherited });
    let backends: Vec<Vec<String>> =
        ports.iter().map(|port| port.backends.iter().map(|backend| backend.address.to_string()).collect()).collect();
    let service = vec!["10.255.0.41".to_owned()];
    let own = vec!["10.255.0.42".to_owned()];
    assert_eq!(backends, [service.clone(), service.clone(), service.clone(), service, own, vec![]]);
}

#[test]
fn the_order_is_the_files() {
    let service = |name, ports: [u16; 2]| {
        let [a, b] = ports.map(|port| format!("[[service.port]]\npublished = {port}\n"));
        format!(
            "[[service]]\nname = '{name}'\n{a}{b}[[service.backend]]\naddress = '10.255.0.42'\n\
             [[service.backend]]\naddress = '10.255.0.41'\n"
        )
    };
    let config = good(&text(&(service("b", [9, 8]) + &service("a", [7, 6]))));
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    let ports = config.services.iter().flat_map(|service| &service.ports);
    assert_eq!(ports.clone().map(|port| port.published.first).collect::<Vec<_>>(), [9, 8, 7, 6]);
    for port in ports {
        let addresses: Vec<String> = port.backends.iter().map(|backend| backend.address.to_string()).collect();
        assert_eq!(addresses, ["10.255.0.42", "10.255.0.41"]);
    }
}

#[test]
fn the_mesh_is_named_by_the_configuration_or_the_host() {
    let config = good(MINIMAL);
    assert_eq!(config.mesh("host").node, "host");
    let config = good(&text("[node]\nname = 'node-1'\naddress = '192.168.50.1'"));
    let mesh = config.mesh("host");
    assert_eq!((mesh.node.as_str(), mesh.address), ("node-1", Some(IpAddr::from([192, 168, 50, 1]))));
    assert_eq!((mesh.ingress, mesh.gateway, mesh.timeouts), (config.ingress, config.gateway, config.timeouts));
}

/// A clash among many ports is found without comparing each with each.
#[test]
fn ten_thousand_ports() {
    let ports: String = (10_000..20_000).map(|port| format!("[[service.port]]\npublished = {port}\n")).collect();
    let text = service(&ports);
    assert_eq!(good(&text).services[0].ports.len(), 10_000);
    check(
        &format!("{text}[[service]]\nname = 'late'\nport = [{{ published = '19999-20001' }}]"),
        "20009:23: published ports tcp 19999-20001 of service \"late\" include tcp 19999, already published by \
         service \"web\" at line 20002; a protocol and port has one owner",
    );
}

#[test]
fn columns_count_characters() {
    check(&text("[node]\r\n\tname = 'é', # ü"), "2:12: unexpected key or value; newline or `#` would do");
    check(&text("node = { 'name' = 'éé', on_stop = 'ü' }"), NAMES_AND_STOPS);
}

const NAMES_AND_STOPS: &str = "1:19: `name` is \"éé\"; a name of 1 to 63 characters from A-Z, a-z, 0-9, `_`, `.` and `-` would do\n\
                               1:35: `on_stop` is \"ü\"; \"keep\" or \"remove\" would do";
