//! What holds for any text: it is read or refused with a place and words, and what was printed is read back.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use meshd::config::{Config, Control, Errors, Metrics, Node, OnStop};
use meshd::mesh::{
    Access, Backend, BackendState, ClientAddress, Encryption, Endpoint4, Endpoint6, Gateway, Ingress, Mode, NetnsRef,
    Port, PortRange, Protocol, Scheduler, SchedulerFlags, Scheduling, Service, Spread, Thresholds, Timeouts,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{INGRESS, INGRESS6, SERVICES};

/// Every error is one line of words about a place that the text has.
fn assert_in_bounds(text: &str, errors: &Errors) {
    assert!(errors.iter().next().is_some(), "no error is no failure");
    let lines: Vec<&str> = text.split('\n').collect();
    for error in errors.iter() {
        assert!((1..=lines.len()).contains(&error.line), "{error}");
        let columns = lines[error.line - 1].chars().count() + 1;
        assert!((1..=columns).contains(&error.column), "{error}");
        assert!(!error.message.is_empty() && !error.message.contains(char::is_control), "{error:?}");
    }
    assert_eq!(errors.to_string().lines().count(), errors.iter().count());
}

fn survives(text: &str) {
    match Config::parse(text, "t") {
        Ok(config) => assert_eq!(config.mesh("n").services, config.services),
        Err(errors) => assert_in_bounds(text, &errors),
    }
}

/// Text that looks like a configuration and seldom is one.
fn word_salad() -> impl Strategy<Value = String> {
    let words = "[ingress]|[node]|[gateway]|[ipvs]|[[service]]|[[service.port]]|[[service.backend]]|\
                 [[service.port.backend]]|name|address|subnet|subnet6|address6|published|target|protocol|netns|weight|upper_threshold|lower_threshold|\
                 scheduler|scheduler_flags|one_packet|persistence|persistence_mask|mtu|vni|port|backend|service|=|=|=|\
                 \n|\n|\n|,|.|{|}|[|]|'|\"|#|0|1|-1|80|65536|1e9|0xff|99999999999999999999|true|'tcp'|'udp'|'rr'|'sh'|\
                 ['sh-port']|'80-90'|'90-80'|'10.255.0.0/16'|'10.255.0.3'|'10.255.0.33'|'fd00::/64'|'fd00::3'|'::'|\
                 '0.0.0.0/0'|'::/0'|'255.255.255.255/30'|'a'|'/a'|'7'|[]|{}";
    let words: Vec<&str> = words.split('|').collect();
    prop::collection::vec(select(words), 0..60).prop_map(|words| words.join(" "))
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Delete(Index, usize),
    Insert(Index, String),
    DoubleLine(Index),
    DropLine(Index),
    SwapLines(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), 1..=255u8).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        (any::<Index>(), 1..20usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (any::<Index>(), "\\PC{1,5}").prop_map(|(at, text)| Mutation::Insert(at, text)),
        any::<Index>().prop_map(Mutation::DoubleLine),
        any::<Index>().prop_map(Mutation::DropLine),
        any::<(Index, Index)>().prop_map(|(one, other)| Mutation::SwapLines(one, other)),
    ]
}

impl Mutation {
    fn apply(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let mut lines: Vec<&str> = text.split('\n').collect();
        match self {
            _ if bytes.is_empty() => {}
            Mutation::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Mutation::Delete(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..bytes.len().min(at + length));
            }
            Mutation::Insert(at, text) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, text.bytes());
            }
            Mutation::DoubleLine(at) => {
                let at = at.index(lines.len());
                lines.insert(at, lines[at]);
                return lines.join("\n");
            }
            Mutation::DropLine(at) => {
                lines.remove(at.index(lines.len()));
                return lines.join("\n");
            }
            Mutation::SwapLines(one, other) => {
                let (one, other) = (one.index(lines.len()), other.index(lines.len()));
                lines.swap(one, other);
                return lines.join("\n");
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn scheduling(protocol: Protocol) -> impl Strategy<Value = Scheduling> {
    let flags = any::<(bool, bool)>();
    (select(Scheduler::ALL), flags, 0..4u32, 1..=32u8, 1..=128u8, any::<bool>()).prop_map(
        move |(scheduler, (fallback, port), persistence, persistence_mask, persistence_mask6, one_packet)| {
            let has_flags = matches!(scheduler, Scheduler::SourceHash | Scheduler::Maglev);
            let flags = if has_flags { SchedulerFlags { fallback, port } } else { SchedulerFlags::default() };
            let one_packet = one_packet && protocol == Protocol::Udp;
            let persistence = if one_packet { 0 } else { persistence };
            Scheduling { scheduler, flags, persistence, persistence_mask, persistence_mask6, one_packet }
        },
    )
}

/// The n-th of the backends that there are: two on the overlay in one namespace, others elsewhere.
fn nth_backend(n: u16, weight: u32) -> Backend {
    let host = n / 2 + 1;
    let (address, on_overlay): (IpAddr, bool) = match n % 4 {
        0 => (Ipv4Addr::new(10, 255, 1, host as u8).into(), true),
        1 => (Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0x2000, host).into(), true),
        2 => (Ipv4Addr::new(192, 168, 9, host as u8).into(), false),
        _ => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(), false),
    };
    let netns = on_overlay.then(|| match n / 4 % 4 {
        0 => Some(NetnsRef::Name(format!("n \"{host}\""))),
        1 => Some(NetnsRef::Path(format!("/run/docker/netns/{host}"))),
        2 => Some(NetnsRef::Pid(host.into())),
        _ => None,
    });
    let state = BackendState::ALL[usize::from(n) % 3];
    let thresholds = match n / 3 % 3 {
        0 => Thresholds::default(),
        1 => Thresholds { upper: weight + 1, lower: 0 },
        _ => Thresholds { upper: weight + 1, lower: weight },
    };
    Backend { address, weight, thresholds, state, backup: false, node: None, netns: netns.flatten() }
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    prop::sample::subsequence((0..60).collect::<Vec<u16>>(), 0..6)
        .prop_flat_map(|chosen| (Just(chosen.clone()), prop::collection::vec(0..=65535u32, chosen.len())))
        .prop_map(|(chosen, weights)| {
            chosen.into_iter().zip(weights).map(|(n, weight)| nth_backend(n, weight)).collect()
        })
}

/// Somewhere within a hundred ports: `services` gives each port its hundred.
fn one_port() -> impl Strategy<Value = Port> {
    (select(Protocol::ALL.to_vec()), 0..50u16, 0..50u16, any::<bool>(), 1..=65535u16).prop_flat_map(
        |(protocol, first, more, single, target)| {
            let more = if single { 0 } else { more };
            let published = PortRange { protocol, first, last: first + more };
            let target = (more == 0).then_some(target);
            (scheduling(protocol), backends()).prop_map(move |(scheduling, backends)| Port {
                published,
                target,
                scheduling,
                client_address: ClientAddress::Snat,
                mode: Mode::Ingress,
                check: None,
                spread: Spread::default(),
                access: Access::default(),
                backends,
            })
        },
    )
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    prop::collection::vec(prop::collection::vec(one_port(), 1..5), 0..5).prop_map(|services| {
        let mut hundreds = (10_000..).step_by(100);
        let numbered = services.into_iter().enumerate();
        let service = |(number, mut ports): (usize, Vec<Port>)| {
            for (port, hundred) in ports.iter_mut().zip(hundreds.by_ref()) {
                port.published.first += hundred;
                port.published.last += hundred;
                // A persistent port is its backends' port.
                if port.scheduling.persistence > 0 && port.target.is_some() {
                    port.target = Some(port.published.first);
                }
            }
            Service { name: format!("service_{number}.x-y"), ports }
        };
        numbered.map(service).collect()
    })
}

fn endpoints() -> impl Strategy<Value = (Endpoint4, Endpoint6)> {
    (1..=255u8, 8..=16u8, 64..=80u8).prop_map(|(host, prefix, prefix6)| {
        let v4 = Endpoint4 {
            subnet: format!("10.{}.0.0/{prefix}", (255u32 << (16 - prefix)) & 255).parse().unwrap(),
            address: Ipv4Addr::new(10, 255, 0, host),
        };
        let address = Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, host.into());
        (v4, Endpoint6 { subnet: format!("fd00:255::/{prefix6}").parse().unwrap(), address })
    })
}

prop_compose! {
    fn configs()(
        name in prop::option::of("[A-Za-z0-9_.-]{1,63}"),
        address in prop::option::of(select(vec!["192.168.50.1", "2001:db8:1::1"])),
        on_stop in select(vec![OnStop::Keep, OnStop::Remove]),
        (state_dir, watch) in ("/[a-z \"\\\\'#é]{0,50}", any::<bool>()),
        listen in (any::<Ipv6Addr>(), 0..10_000u16),
        backends: bool,
        socket in "/[a-z \"\\\\'#é]{0,50}",
        group in "[a-z_][a-z0-9_-]{0,31}",
        (v4, v6) in endpoints(),
        namespace in "[A-Za-z0-9_ \"'#]{1,60}\\.[a-zé]{1,9}",
        (vni, port, mtu) in (1..=0xff_ffffu32, 1..10_000u16, prop::option::of(1280..=65535u32)),
        // Below all published ports, as the tunnel's is.
        encryption in prop::option::of(1..10_000u16),
        bridge in prop::option::of("[!-$&-.0-9;-~]{1,12}[a-z]x"),
        (subnet, subnet6) in (12..=30u8, 64..=126u8),
        open_forward: bool,
        (tcp, tcp_fin, udp) in (1..=2_147_483u32, 1..=2_147_483u32, 1..=2_147_483u32),
        services in services(),
    ) -> Config {
        Config {
            node: Node { name, address: address.map(|address| address.parse().unwrap()), dataplane: None, on_stop, state_dir: state_dir.into(), watch },
            metrics: Metrics { listen: SocketAddr::new(listen.0.into(), listen.1), backends },
            control: Control { socket: socket.into(), group },
            ingress: Ingress {
                v4: Some(v4), v6: Some(v6), namespace, vni, port, mtu,
                encryption: encryption.filter(|own| address.is_some() && *own != port).map(|port| Encryption { port }),
            },
            gateway: Gateway {
                bridge,
                subnet: format!("172.16.0.0/{subnet}").parse().unwrap(),
                subnet6: format!("fd01::/{subnet6}").parse().unwrap(),
                open_forward,
                flow_table: !open_forward,
            },
            timeouts: Timeouts { tcp, tcp_fin, udp },
            peers: vec![],
            own_key: None,
            services: services.into_iter().map(Arc::new).collect(),
        }
    }
}

/// A configuration as text. Terse: a service says what its first port has, the other ports what differs.
fn print(config: &Config, terse: bool) -> String {
    let Config { node, metrics, control, ingress, gateway, timeouts, peers: _, own_key: _, services } = config;
    let mut text = String::new();
    let mut line = |what: String| writeln!(text, "{what}").unwrap();
    line("[node]".to_owned());
    node.name.iter().for_each(|name| line(format!("name = {}", quoted(name))));
    node.address.iter().for_each(|address| line(format!("address = '{address}'")));
    line(format!("on_stop = '{}'", if node.on_stop == OnStop::Keep { "keep" } else { "remove" }));
    line(format!("state_dir = {}\nwatch = {}", quoted(node.state_dir.to_str().unwrap()), node.watch));
    line(format!("[metrics]\nlisten = '{}'\nbackends = {}", metrics.listen, metrics.backends));
    line(format!("[control]\nsocket = {}", quoted(control.socket.to_str().unwrap())));
    line(format!("group = {}", quoted(&control.group)));
    line(format!("[ingress]\nnamespace = {}", quoted(&ingress.namespace)));
    line(format!("vni = {}\nport = {}", ingress.vni, ingress.port));
    ingress.mtu.iter().for_each(|mtu| line(format!("mtu = {mtu}")));
    let encryption = ingress.encryption.iter();
    encryption.for_each(|of| line(format!("encryption = 'wireguard'\nwireguard_port = {}", of.port)));
    ingress.v4.iter().for_each(|v4| line(format!("subnet = '{}'\naddress = '{}'", v4.subnet, v4.address)));
    ingress.v6.iter().for_each(|v6| line(format!("subnet6 = '{}'\naddress6 = '{}'", v6.subnet, v6.address)));
    line("[gateway]".to_owned());
    gateway.bridge.iter().for_each(|bridge| line(format!("bridge = {}", quoted(bridge))));
    line(format!("subnet = '{}'\nsubnet6 = '{}'", gateway.subnet, gateway.subnet6));
    line(format!("open_forward = {}\nflow_table = {}", gateway.open_forward, gateway.flow_table));
    line(format!("[ipvs]\ntcp = {}\ntcp_fin = {}\nudp = {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp));
    for service in services {
        let inherited = service.ports.first().filter(|_| terse);
        line(format!("[[service]]\nname = {}", quoted(&service.name)));
        if let Some(Port { scheduling, backends, .. }) = inherited {
            line(print_scheduling(scheduling, None) + &print_backends("service.backend", backends));
        }
        for port in &service.ports {
            let PortRange { protocol, first, last } = port.published;
            let published = if first == last { first.to_string() } else { format!("'{first}-{last}'") };
            line(format!("[[service.port]]\npublished = {published}\nprotocol = '{protocol}'"));
            port.target.iter().for_each(|target| line(format!("target = {target}")));
            line(print_scheduling(&port.scheduling, inherited.map(|first| &first.scheduling)));
            if inherited.is_none_or(|first| first.backends != port.backends) {
                line(print_backends("service.port.backend", &port.backends));
            }
        }
    }
    text
}

fn print_scheduling(own: &Scheduling, inherited: Option<&Scheduling>) -> String {
    let mut text = String::new();
    let differs = |has: fn(&Scheduling) -> u32| inherited.is_none_or(|inherited| has(own) != has(inherited));
    if inherited.is_none_or(|inherited| (own.scheduler, own.flags) != (inherited.scheduler, inherited.flags)) {
        let flags: Vec<String> = own.flags.names(own.scheduler).collect();
        write!(text, "scheduler = '{}'\nscheduler_flags = {flags:?}\n", own.scheduler).unwrap();
    }
    for (key, has) in [
        ("persistence", (|own| own.persistence) as fn(&Scheduling) -> u32),
        ("persistence_mask", |own| own.persistence_mask.into()),
        ("persistence_mask6", |own| own.persistence_mask6.into()),
    ] {
        if differs(has) {
            writeln!(text, "{key} = {}", has(own)).unwrap();
        }
    }
    if differs(|own| own.one_packet.into()) {
        writeln!(text, "one_packet = {}", own.one_packet).unwrap();
    }
    text
}

fn print_backends(title: &str, backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "backend = []\n".to_owned();
    }
    let mut text = String::new();
    for Backend { address, weight, thresholds: Thresholds { upper, lower }, state, backup: _, node: _, netns } in
        backends
    {
        writeln!(text, "[[{title}]]\naddress = '{address}'\nweight = {weight}\nstate = '{}'", state.name()).unwrap();
        writeln!(text, "upper_threshold = {upper}\nlower_threshold = {lower}").unwrap();
        match netns {
            Some(NetnsRef::Name(name)) => writeln!(text, "netns = {}", quoted(name)).unwrap(),
            Some(NetnsRef::Path(path)) => writeln!(text, "netns = {}", quoted(path)).unwrap(),
            Some(NetnsRef::Pid(pid)) => writeln!(text, "netns = {pid}").unwrap(),
            None => {}
        }
    }
    text
}

/// As a basic string of TOML, by someone else's rules than the reader's.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_words_are_read_or_refused(text in word_salad(), base in any::<bool>()) {
        survives(&if base { format!("{INGRESS}{INGRESS6}{text}") } else { text });
    }

    #[test]
    fn a_spoilt_file_is_read_or_refused(mutations in prop::collection::vec(mutation(), 1..4)) {
        survives(&mutations.iter().fold(SERVICES.to_owned(), |text, mutation| mutation.apply(&text)));
    }

    #[test]
    fn what_is_printed_is_read(config in configs(), terse: bool) {
        let text = print(&config, terse);
        match Config::parse(&text, "t") {
            Ok(read) => prop_assert_eq!(read, config, "\n{}", text),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, text),
        }
    }

    #[test]
    fn a_spoilt_printed_file_is_read_or_refused(
        config in configs(),
        terse: bool,
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        survives(&mutations.iter().fold(print(&config, terse), |text, mutation| mutation.apply(&text)));
    }
}
