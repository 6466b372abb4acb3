//! The kernel, its parameters, tables, timeouts, the clock and limits.

use meshd::control::protocol::Grade::{Fault, Notice, Warning};
use meshd::mesh::Mesh;
use meshd::objects::{Condition, Family, Feature, Files, Netns};

use super::{BASE, KAFKA, PEER, after, alone, check, check_good, encrypted, mesh, parse, set};

fn lacks(what: &str, needed: bool) -> impl FnOnce(&mut Condition) {
    let feature = Feature { what: what.to_owned(), outcome: Err("it is not there".to_owned()), needed };
    move |condition| {
        condition.features.retain(|other| other.what != feature.what);
        condition.features.push(feature);
    }
}

fn by_nftables() -> Mesh {
    parse(&format!("{BASE}{PEER}{KAFKA}").replace("'ipvs'", "'nftables'"))
}

#[test]
fn what_a_kernel_lacks() {
    let missing = "it is not there";
    let ipvs = "modprobe ip_vs, or [node] dataplane = \"nftables\"";
    check(&mesh(""), lacks("ip_vs", false), Fault, "ip_vs", missing, ipvs);
    check(&by_nftables(), lacks("ip_vs", false), Notice, "ip_vs", missing, ipvs);
    check(&encrypted(), lacks("wireguard", false), Fault, "wireguard", missing, "modprobe wireguard");
    check(&mesh(""), lacks("nf_tables", true), Fault, "nf_tables", missing, "modprobe nf_tables");
    check(&mesh(""), lacks("vxlan", true), Fault, "vxlan", missing, "modprobe vxlan");
    let flow = "modprobe -a nf_flow_table_inet nft_flow_offload";
    check(&mesh(""), lacks("nft flow tables", false), Notice, "nft flow tables", missing, flow);
    let v6 = mesh("subnet6 = 'fd00:255::/64'\naddress6 = 'fd00:255::3'\n");
    check(&v6, lacks("ipv6", false), Warning, "ipv6", missing, "boot without ipv6.disable=1");
    check(&mesh(""), lacks("ipv6", false), Notice, "ipv6", missing, "boot without ipv6.disable=1");
    check_good(&mesh(""), |_| (), "features", "nf_tables, ip_vs");
    // Schedulers that nobody wants.
    check_good(&mesh(""), lacks("other schedulers", false), "schedulers", "rr wrr lc");
}

#[test]
fn schedulers_that_ports_want() {
    let wants = parse(&format!("{BASE}{}", KAFKA.replace("name = 'kafka'\n", "name = 'kafka'\nscheduler = 'mh'\n")));
    let (found, mend) = ("not there: ip_vs_mh", "modprobe -a ip_vs_mh, or another scheduler");
    check(&wants, |_| (), Fault, "schedulers", found, mend);
}

#[test]
fn versions_with_known_faults() {
    let release = |text: &str| {
        let text = text.to_owned();
        move |condition: &mut Condition| condition.release = text
    };
    check_good(&mesh(""), release("6.18.0-rc1"), "version", "6.18.0-rc1");
    let told = |mesh: &Mesh, text: &str| -> Vec<String> {
        let all = after(mesh, release(text)).into_iter().filter(|finding| finding.what.contains("(before Linux"));
        all.map(|finding| finding.what.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(told(&mesh(""), "6.16.1"), [""; 0]);
    assert_eq!(told(&mesh(""), "6.12.9"), ["reading"]);
    assert_eq!(told(&mesh(""), "6.1.0-13-amd64"), ["flow", "reading"]);
    assert_eq!(told(&mesh(""), "5.8.1"), ["source", "flow", "reading"]);
    assert_eq!(told(&mesh(""), "5.6.12"), ["checksums", "source", "flow", "reading"]);
    assert_eq!(told(&mesh(""), "5.6.13"), ["source", "flow", "reading"]);
    // Only where they matter.
    assert_eq!(told(&by_nftables(), "5.6.12"), ["checksums", "flow"]);
    assert_eq!(told(&alone(""), "5.6.12"), ["source", "flow", "reading"]);
    assert_eq!(told(&encrypted(), "5.6.12"), ["source", "flow", "reading"]);
    let mut distribution = after(&mesh(""), release("5.4.0-42-generic")).into_iter();
    let checksums = distribution.find(|finding| finding.what.starts_with("checksums of VXLAN packets"));
    assert!(
        checksums.is_some_and(|it| it.grade == Notice && it.found == "5.4.0-42-generic, in which it may be mended")
    );
    let (what, mend) = ("version", "uname -r");
    check(&mesh(""), release("Linux"), Notice, what, "\"Linux\"", mend);
}

#[test]
fn what_balances_cannot_do() {
    let mut mesh = by_nftables();
    let mut service = (*mesh.services[0]).clone();
    service.ports[0].scheduling.scheduler = "lc".parse().unwrap();
    mesh.services = vec![service.into()];
    let found = after(&mesh, |_| ()).into_iter().find(|finding| finding.what == "data plane").unwrap();
    assert!(found.grade == Fault && found.found.contains("port tcp 20229"), "{found:?}");
}

#[test]
fn parameters_that_meshd_sets() {
    let mesh = mesh("");
    let wanted = "0, where 1 is wanted";
    let to = |netns, name: &'static str, value: &'static str| {
        move |condition: &mut Condition| set(condition, netns, name, value)
    };
    let (what, mend) = ("net.ipv4.ip_forward of the host", "sysctl -w net.ipv4.ip_forward=1");
    check(&mesh, to(Netns::Host, "net/ipv4/ip_forward", "0"), Fault, what, wanted, mend);
    let (what, mend) =
        ("net.ipv4.vs.conntrack of the sandbox", "ip netns exec ingress_sbox sysctl -w net.ipv4.vs.conntrack=1");
    check(&mesh, to(Netns::Sandbox, "net/ipv4/vs/conntrack", "0"), Fault, what, wanted, mend);
    check_good(&mesh, |_| (), what, "1");
    let gone = |condition: &mut Condition| {
        condition.parameters.remove(&(Netns::Sandbox, "net/ipv4/ip_forward".to_owned()));
    };
    let mend = "ip netns exec ingress_sbox sysctl -w net.ipv4.ip_forward=1";
    check(&mesh, gone, Fault, "net.ipv4.ip_forward of the sandbox", "not there", mend);
}

#[test]
fn where_meshd_never_ran_it_has_set_nothing() {
    let never = |condition: &mut Condition| {
        condition.namespaces = [Netns::Host].into();
        condition.parameters.retain(|(netns, name), _| *netns == Netns::Host && !name.ends_with("route_localnet"));
        condition.links.clear();
        set(condition, Netns::Host, "net/ipv4/ip_forward", "0");
    };
    let found = "there is no namespace ingress_sbox";
    check(&mesh(""), never, Notice, "sandbox", found, "systemctl start meshd");
}

#[test]
fn reverse_path_filters() {
    let mesh = mesh("");
    let strict = |link: &'static str| {
        move |condition: &mut Condition| set(condition, Netns::Host, &format!("net/ipv4/conf/{link}/rp_filter"), "1")
    };
    let (what, mend) = ("reverse path filter of mesh_sbox", "sysctl -w net.ipv4.conf.mesh_sbox.rp_filter=2");
    check(&mesh, strict("mesh_sbox"), Notice, what, "1, strict", mend);
    // The larger of both holds, and 2 is loose.
    check_good(&mesh, strict("all"), what, "2");
    let both = |condition: &mut Condition| {
        strict("all")(condition);
        set(condition, Netns::Host, "net/ipv4/conf/mesh_sbox/rp_filter", "0");
    };
    check(&mesh, both, Notice, what, "1, strict", mend);
    let what = "reverse path filter of uplinks";
    check_good(&mesh, |_| (), what, "lan0");
    let uplinks = |all: &'static [(&'static str, u64)]| {
        move |condition: &mut Condition| {
            condition.uplinks = all.iter().map(|(link, own)| ((*link).to_owned(), *own)).collect()
        }
    };
    let mend = "sysctl -w net.ipv4.conf.lan0.rp_filter=2; sysctl -w net/ipv4/conf/vlan0.7/rp_filter=2";
    let two = uplinks(&[("lan0", 1), ("vlan0.7", 1)]);
    check(&mesh, two, Notice, what, "1, strict, on lan0, vlan0.7", mend);
    let one_of_two = uplinks(&[("lan0", 2), ("vlan0.7", 1)]);
    let mend = "sysctl -w net/ipv4/conf/vlan0.7/rp_filter=2";
    check(&mesh, one_of_two, Notice, what, "1, strict, on vlan0.7", mend);
    check_good(&mesh, uplinks(&[("lan0", 0), ("lan1", 2)]), what, "lan0, lan1");
    assert!(after(&mesh, uplinks(&[])).iter().all(|finding| finding.what != what));
}

#[test]
fn ports_that_the_host_gives_away() {
    let mesh = parse(&format!(
        "{BASE}{}",
        KAFKA.replace("20229", "40000").replace(" }]\nbackend", " }, { published = '50000-50009' }]\nbackend")
    ));
    let what = "published ports in ip_local_port_range";
    let (found, mend) = (
        "tcp 40000, tcp 50000-50009 in 32768 to 60999",
        "sysctl -w net.ipv4.ip_local_reserved_ports=40000,50000-50009",
    );
    check(&mesh, |_| (), Notice, what, found, mend);
    let reserved = |text: &'static str| {
        move |condition: &mut Condition| set(condition, Netns::Host, "net/ipv4/ip_local_reserved_ports", text)
    };
    let (found, mend) =
        ("tcp 50000-50009 in 32768 to 60999", "sysctl -w net.ipv4.ip_local_reserved_ports=8080,40000,50000-50009");
    check(&mesh, reserved("8080,40000"), Notice, what, found, mend);
    check_good(&mesh, reserved("39999-40001,50000-50100"), what, "none in 32768 to 60999");
    let narrow = |condition: &mut Condition| set(condition, Netns::Host, "net/ipv4/ip_local_port_range", "40001 49999");
    check_good(&mesh, narrow, what, "none in 40001 to 49999");
    let torn = |condition: &mut Condition| set(condition, Netns::Host, "net/ipv4/ip_local_port_range", "all");
    assert!(after(&mesh, torn).iter().all(|finding| finding.what != what));
}

#[test]
fn bridges_that_show_what_they_carry() {
    let bridged = alone("[gateway]\nbridge = 'gw0'\n");
    let calls = |value: &'static str| {
        move |condition: &mut Condition| {
            set(condition, Netns::Host, "net/bridge/bridge-nf-call-iptables", value);
            set(condition, Netns::Host, "net/ipv4/conf/gw0/rp_filter", "0");
        }
    };
    let what = "bridge-nf-call-iptables of the host";
    let mend = "remove [gateway] bridge (a pair of devices does), or, if no one else needs it, sysctl -w net.bridge.bridge-nf-call-iptables=0";
    check(&bridged, calls("1"), Notice, what, "1", mend);
    check_good(&bridged, calls("0"), what, "0");
    // Where there is no bridge it is nobody's business.
    assert!(after(&alone(""), calls("1")).iter().all(|finding| finding.what != what));
}

#[test]
fn room_for_connections() {
    let mesh = mesh("");
    let tracked = |netns, count: &'static str, most: &'static str| {
        move |condition: &mut Condition| {
            set(condition, netns, "net/netfilter/nf_conntrack_count", count);
            set(condition, netns, "net/netfilter/nf_conntrack_max", most);
        }
    };
    let (host, sandbox) = ("connection tracking of the host", "connection tracking of the sandbox");
    let mend = "sysctl -w net.netfilter.nf_conntrack_max=2000";
    check_good(&mesh, tracked(Netns::Host, "799", "1000"), host, "799 of 1000");
    check(&mesh, tracked(Netns::Host, "800", "1000"), Warning, host, "800 of 1000", mend);
    check(&mesh, tracked(Netns::Host, "950", "1000"), Fault, host, "950 of 1000", mend);
    check(&mesh, tracked(Netns::Sandbox, "950", "1000"), Fault, sandbox, "950 of 1000", mend);
    let most = u64::MAX.to_string();
    let huge = |condition: &mut Condition| {
        ["count", "max"]
            .into_iter()
            .for_each(|name| set(condition, Netns::Host, &format!("net/netfilter/nf_conntrack_{name}"), &most));
    };
    assert!(after(&mesh, huge).iter().any(|finding| finding.what == host && finding.grade == Fault));
    // No limit.
    assert!(after(&mesh, tracked(Netns::Sandbox, "950", "0")).iter().all(|finding| finding.what != sandbox));
}

#[test]
fn room_for_neighbours() {
    let mesh = mesh("");
    let entries = |entries: u64, overflows: u64| {
        move |condition: &mut Condition| {
            let table = condition.neighbours.get_mut(&Family::V4).unwrap();
            (table.entries, table.overflows) = (entries, overflows);
        }
    };
    let what = "neighbours, IPv4";
    check_good(&mesh, entries(818, 0), what, "818 in all namespaces, of 512 to 1024; the mesh has 2 backends");
    let mend = "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096 && sysctl -w net.ipv4.neigh.default.gc_thresh2=2048";
    let found = "820 in all namespaces, of 512 to 1024; the mesh has 2 backends";
    check(&mesh, entries(820, 0), Warning, what, found, mend);
    let found = "10 in all namespaces, of 512 to 1024; the mesh has 2 backends; 3 times there was no room";
    check(&mesh, entries(10, 3), Warning, what, found, mend);
    let few = |condition: &mut Condition| set(condition, Netns::Host, "net/ipv4/neigh/default/gc_thresh2", "1");
    let found = "10 in all namespaces, of 1 to 1024; the mesh has 2 backends";
    check(&mesh, few, Warning, what, found, mend);
}

#[test]
fn idle_connections() {
    let time = |seconds: &'static str| {
        move |condition: &mut Condition| set(condition, Netns::Host, "net/ipv4/tcp_keepalive_time", seconds)
    };
    let what = "idle TCP connections";
    let found = |tcp: u32, time: u32| {
        format!(
            "forgotten after {tcp} s ([ipvs] tcp); TCP's keepalive begins after {time} s here, 9 probes, 75 s apart"
        )
    };
    let mend = "[ipvs] tcp = 7440, or, where the connections begin, sysctl -w net.ipv4.tcp_keepalive_time=600";
    check(&mesh(""), time("7200"), Notice, what, &found(900, 7200), mend);
    check_good(&mesh(""), time("600"), what, &found(900, 600));
    let long = parse(&format!("{BASE}[ipvs]\ntcp = 7440\n{PEER}{KAFKA}"));
    check_good(&long, time("7200"), what, &found(7440, 7200));
    let host = |condition: &mut Condition| {
        set(condition, Netns::Host, "net/netfilter/nf_conntrack_tcp_timeout_established", "600")
    };
    let found = "idle TCP connections are forgotten after 600 s, by the sandbox after 900 s";
    let mend = "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=900, or [ipvs] tcp = 600";
    check(&mesh(""), host, Warning, "connection tracking of the host", found, mend);
}

#[test]
fn clocks() {
    let early = |condition: &mut Condition| condition.clock.now = 100;
    let (found, mend) = ("100 s since 1970, which is before this meshd was made", "timedatectl set-ntp true");
    check(&mesh(""), early, Warning, "time", found, mend);
    check(&encrypted(), early, Fault, "time", found, mend);
    let free = |condition: &mut Condition| condition.clock.kept = false;
    check_good(&mesh(""), free, "time", "not known to be kept");
    let mend = "timedatectl, or chronyc tracking, tells; timedatectl set-ntp true";
    check(&encrypted(), free, Notice, "time", "not known to be kept", mend);
    let slow = |condition: &mut Condition| condition.clock.source = Some("hpet".to_owned());
    assert!(after(&mesh(""), slow).iter().any(|finding| finding.what == "clock source" && finding.grade == Notice));
    check_good(
        &mesh(""),
        |condition| condition.clock.source = Some("kvm-clock".to_owned()),
        "clock source",
        "kvm-clock",
    );
}

#[test]
fn files_and_memory() {
    let files = |open, limit| move |condition: &mut Condition| condition.files = Some(Files { open, limit });
    let (what, mend) = ("open files", "systemctl edit meshd, and below [Service] LimitNOFILE=65536");
    check(&mesh(""), files(200, 250), Warning, what, "200 open, 250 allowed; this mesh may need 256", mend);
    check(&mesh(""), files(820, 1024), Warning, what, "820 open, 1024 allowed; this mesh may need 256", mend);
    check_good(&mesh(""), files(100, 1024), what, "100 open, 1024 allowed; this mesh may need 256");
    // Programs have pipes.
    let checked = parse(&format!("{BASE}{KAFKA}[service.check]\ntype = 'exec'\ncommand = ['/bin/true']\n"));
    check_good(
        &checked,
        files(100, u64::MAX),
        what,
        &format!("100 open, {} allowed; this mesh may need 262", u64::MAX),
    );
    let memory = |free: u64| move |condition: &mut Condition| condition.memory = Some((1000 * 1024, free * 1024));
    check_good(&mesh(""), memory(50), "memory", "50 of 1000 MiB are free for new uses");
    let mend = "ps aux --sort -rss | head shows who has it";
    check(&mesh(""), memory(49), Warning, "memory", "49 of 1000 MiB are free for new uses", mend);
}
