//! What others break is mended while clients come and go: as soon as the kernel tells of it, else by the look that comes in its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meshd::kernel::Kernel;
use meshd::objects::Netns;
use meshd::plan::Step;

use crate::lab::{BACKENDS, Config, Lab, Place, Tcp, batch, by_nftables, eventually, value_of};

fn config(lab: &Lab) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = '30000-30009' }}]{BACKENDS}"
    ))
}

/// What one does to another's mesh, and whether clients have to notice.
const ON_THE_NODE: &[(&str, Clients)] = &[
    ("nft delete element inet meshd published4 { tcp . 20229 }", Clients::Notice),
    ("nft delete table inet meshd", Clients::Notice),
    ("nft flush ruleset", Clients::Notice),
    ("ip addr del 169.254.77.1/24 dev mesh_sbox", Clients::Notice),
    ("ip link set mesh_sbox mtu 1400", Clients::GoOn),
    ("ip link set mesh_sbox down", Clients::Notice),
    ("ip link del mesh_sbox", Clients::Notice),
    ("sysctl -q net.ipv4.ip_forward=0 net.ipv4.conf.mesh_sbox.route_localnet=0", Clients::Notice),
    ("ip netns del SANDBOX", Clients::Notice),
    ("ip netns del OVERLAY", Clients::Notice),
];
const OF_IPVS: &[(&str, Clients)] = &[
    ("ipvsadm -e -f 85765 -r 10.255.0.33:9092 -m -w 9", Clients::GoOn),
    ("ipvsadm -d -f 85765 -r 10.255.0.34:9092", Clients::Notice),
    // Nobody answers there.
    ("ipvsadm -a -f 85765 -r 10.255.0.77:9092 -m", Clients::Notice),
    ("ipvsadm -C", Clients::Notice),
    ("ipvsadm --set 10 10 10", Clients::GoOn),
    ("sysctl -q net.ipv4.vs.conntrack=0", Clients::Notice),
];
const OF_NFTABLES: &[(&str, Clients)] = &[
    ("nft delete element inet meshd slots4 { 0x14f05 . 0x1 }", Clients::Notice),
    // Nobody is led there.
    ("nft add element inet meshd slots4 { 0x14f05 . 0x9 : 10.255.0.77 . 9092 }", Clients::GoOn),
    ("nft flush map inet meshd slots4", Clients::Notice),
    ("nft flush map inet meshd ways4", Clients::Notice),
    ("nft flush set inet meshd backends4", Clients::GoOn),
    ("nft flush chain inet meshd balance", Clients::Notice),
    ("nft flush chain inet meshd turn_ipv4_to_3_44", Clients::Notice),
    ("sysctl -q net.netfilter.nf_conntrack_tcp_timeout_established=77", Clients::GoOn),
];
const IN_THE_SANDBOX: &[(&str, Clients)] = &[
    ("nft delete element inet meshd marks { tcp . 20229 }", Clients::Notice),
    ("nft flush chain inet meshd postrouting", Clients::Notice),
    ("ip route del default", Clients::Notice),
    ("ip addr flush dev eth0", Clients::Notice),
    // With it goes the default route.
    ("ip link set eth1 down", Clients::Notice),
];
const IN_THE_OVERLAY: &[(&str, Clients)] = &[
    ("ip link set vxlan0 down", Clients::GoOn),
    ("ip link set br0 down", Clients::Notice),
    ("ip link set p02420aff0022 down", Clients::Notice),
    ("ip link del p02420aff0021", Clients::Notice),
];

/// Whether the kernel tells of it.
fn is_told(line: &str) -> bool {
    !line.starts_with("ipvsadm") && !line.contains("net.ipv4.vs") && !line.contains("net.netfilter")
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clients {
    GoOn,
    Notice,
}

#[test]
fn what_others_break_is_mended_while_clients_come_and_go() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&config(&lab));
    let wanted = lab.state();
    let crowd = lab.crowd("192.168.50.1:20229", 2, 1);
    let mended = |what: &str| {
        lab.becomes(&wanted, what);
        // Each backend in turn; a first packet may still be on a way that is no more.
        for to in ["192.168.50.1:20229", "[fd50::1]:20229"] {
            eventually("an answer from every backend", || (0..3).all(|_| lab.client.try_ask(Tcp, to).is_ok()));
        }
    };
    let of = |place: &Place, damages: &'static [(&str, Clients)]| {
        damages.iter().map(|damage| (place.clone(), *damage)).collect::<Vec<_>>()
    };
    let others = [
        ((*backends[2]).clone(), ("ip addr flush dev eth0", Clients::Notice)),
        ((*backends[2]).clone(), ("ip link del eth0", Clients::Notice)),
    ];
    let (sandbox, overlay) = (lab.sandbox(), lab.overlay());
    let balancing = of(&sandbox, if by_nftables() { OF_NFTABLES } else { OF_IPVS });
    let sandboxed = of(&sandbox, IN_THE_SANDBOX);
    let damages = [of(&lab.node, ON_THE_NODE), balancing, sandboxed, of(&overlay, IN_THE_OVERLAY)].concat();
    let mut damages: Vec<_> = damages.into_iter().chain(others).collect();
    // Who is hit by a damage may only find out during the next.
    damages.sort_by_key(|(_, (_, clients))| *clients);
    for (place, (line, clients)) in damages {
        let failed = crowd.failed();
        let line = line.replace("SANDBOX", &sandbox.name).replace("OVERLAY", &overlay.name);
        let began = Instant::now();
        // A leg that was mended is in its place a moment later.
        eventually("it can be broken", || place.try_run(&line).status.success());
        if !is_told(&line) || place.name == backends[2].name {
            lab.have_a_look();
        }
        mended(&line);
        let lost = crowd.failed() - failed;
        println!("damage: {line}: mended in {:.1} s at most, {lost} requests failed", began.elapsed().as_secs_f64());
        assert!(clients == Clients::Notice || lost == 0, "{line}: {lost} requests failed");
    }
    let timeouts = || lab.sandbox().run("ipvsadm -L --timeout").trim().to_owned();
    assert!(by_nftables() || timeouts() == "Timeout (tcp tcpfin udp): 900 120 300");
    for parameter in ["net.ipv4.ip_forward", "net.ipv4.conf.mesh_sbox.route_localnet"] {
        assert_eq!(lab.node.run(&format!("sysctl -n {parameter}")).trim(), "1", "{parameter}");
    }

    // All of it.
    batch(None, &format!("netns del {}\n", sandbox.name));
    lab.node.run("nft flush ruleset");
    lab.node.try_run("ip link del mesh_sbox");
    batch(None, &format!("netns del {}\n", overlay.name));
    mended("without anything");
    // Who was hit may only find out now.
    eventually("nobody fails any more", || crowd.goes_well_for(100));
}

/// Of what others do there the kernel tells, but for IPVS; of what we do ourselves it does not.
#[test]
fn smoke_changes_by_others_are_told_of() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    // The mesh stays; nobody mends it.
    lab.start(&config(&lab)).kill9();
    let told = Arc::new(AtomicUsize::new(0));
    let (names, tell) = (lab.names(), told.clone());
    let mut kernel = lab.node.within(|| {
        let mut kernel = Kernel::open(names).unwrap();
        kernel.watch(move || tell.fetch_add(1, Ordering::SeqCst) < usize::MAX).unwrap();
        kernel
    });
    let times = || told.load(Ordering::SeqCst);
    let calm = || {
        let mut before = usize::MAX;
        // What follows by itself, such as a carrier, follows within a second.
        while before != times() {
            before = times();
            std::thread::sleep(Duration::from_millis(1500));
        }
        before
    };
    let entries = [
        (&lab.sandbox(), "ip neigh add 10.255.0.99 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"),
        (&lab.sandbox(), "ip neigh del 10.255.0.99 dev eth0"),
        (&lab.overlay(), "bridge fdb add 02:00:00:00:00:01 dev vxlan0 dst 192.168.50.9 self permanent"),
        (&lab.overlay(), "bridge fdb del 02:00:00:00:00:01 dev vxlan0 self"),
    ];
    for (place, line) in entries {
        let before = calm();
        place.run(line);
        eventually(line, || times() > before);
    }
    // Namespaces come and go with the tests beside this one, and are told of: so once in ten times nothing has to be heard.
    let silent = |work: &mut dyn FnMut(usize)| {
        (0..10).any(|turn| {
            let before = calm();
            work(turn);
            calm() == before
        })
    };
    // Who looks for a neighbour, in vain, changes nothing.
    assert!(silent(&mut |_| drop(lab.sandbox().try_run("ping -c 1 -W 1 10.255.0.98"))), "we heard of a neighbour");
    let damages = [(&lab.node, ON_THE_NODE), (&lab.sandbox(), IN_THE_SANDBOX), (&lab.overlay(), IN_THE_OVERLAY)];
    for (place, damages) in damages {
        // Of what is gone already, nothing is told.
        let is_there = |line: &str| !["flush ruleset", "link del", "netns del"].iter().any(|gone| line.contains(gone));
        for (line, _) in damages.iter().filter(|(line, _)| is_told(line) && is_there(line)) {
            let before = calm();
            place.run(line);
            eventually(line, || times() > before);
        }
    }
    let mut ours = |turn: usize| {
        let value = (turn % 2).to_string();
        let steps = [Step::SetSysctl { netns: Netns::Host, name: "net/ipv4/ip_forward".to_owned(), value }];
        lab.node.within(|| kernel.apply(&steps).into_iter().for_each(|outcome| outcome.unwrap()));
    };
    assert!(silent(&mut ours), "we heard ourselves");
}

/// Clients who come and go are no change: nobody looks more often because of them.
#[test]
fn traffic_is_no_news() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&config(&lab));
    let crowd = lab.crowd("192.168.50.1:20229", 2, 1);
    let looks = || value_of(&lab.metrics(), "meshd_reconciles_total{result=\"clean\"}");
    // Namespaces of the tests beside this one are told of: so once in ten times it has to be calm.
    let calm = (0..10).any(|_| {
        let before = looks();
        std::thread::sleep(Duration::from_secs(4));
        looks() - before <= 1.0
    });
    assert!(calm, "{} looks", looks());
    crowd.all_goes_well_for(20);
}

/// Someone who undoes what is mended is not fought as fast as both can.
#[test]
fn who_undoes_every_repair_is_named_and_not_fought_without_end() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let mut meshd = lab.start(&config(&lab));
    let contested = || value_of(&lab.metrics(), "meshd_drift_contested");
    assert_eq!(contested(), 0.0);
    let undo = || {
        let there = || lab.node.try_run("nft list map inet meshd published4").stdout;
        eventually("it is there", || String::from_utf8_lossy(&there()).contains("20229"));
        lab.node.run("nft delete element inet meshd published4 { tcp . 20229 }");
    };
    let mut rounds = 0;
    while contested() == 0.0 {
        undo();
        rounds += 1;
        assert!(rounds < 20, "it is not noticed");
    }
    (0..4).for_each(|_| undo());
    let status = lab.meshctl("status");
    assert!(status.contains("What someone else undoes every time that it is mended:"), "{status}");
    assert!(status.contains("map published4 in host: add tcp 20229"), "{status}");
    let said = meshd.log().matches("someone undoes what is mended, every time").count();
    assert_eq!(said, 1, "{}", meshd.log());
    // Each is mended all the same.
    eventually("an answer", || lab.client.try_ask(Tcp, "192.168.50.1:20229").is_ok());
    meshd.reload(&config(&lab));
}
