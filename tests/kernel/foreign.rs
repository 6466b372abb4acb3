//! What is not meshd's stays byte for byte, and answers.

use meshd::kernel::ipvs::Ipvs;

use crate::lab::{BACKENDS4, Lab, Place, Tcp, assert_same, batch, by_nftables};

/// Where nftables balances, the kernel may have no IPVS.
fn has_ipvs(place: &Place) -> bool {
    !by_nftables() || place.within(|| Ipvs::open().is_ok())
}

/// As they are listed twice in a row: services that come and go in other namespaces, which the tests beside this one have, shift a list
/// that is read in parts (ip_vs_genl_dump_services counts them, too).
fn services(place: &Place) -> String {
    if !has_ipvs(place) {
        return String::new();
    }
    let mut listed = place.ipvs();
    for _ in 0..10 {
        let again = place.ipvs();
        if again == listed {
            break;
        }
        listed = again;
    }
    listed
}

/// An operator's own things on the node, some of them called almost like ours.
fn populate(lab: &Lab) {
    let node = &lab.node;
    if has_ipvs(node) {
        node.run("ipvsadm -A -t 192.168.50.1:80 -s wlc -p 100");
        node.run("ipvsadm -a -t 192.168.50.1:80 -r 192.168.50.2:8080 -m -w 3");
        node.run("ipvsadm -a -t 192.168.50.1:80 -r 192.168.50.3:8080 -m");
        // tcp 20229's mark, but not in the sandbox.
        node.run("ipvsadm -A -f 85765 -s rr");
        node.run("ipvsadm -a -f 85765 -r 192.168.50.2:1 -m");
    }
    for family in ["inet other", "ip meshd", "ip6 meshd"] {
        node.run(&format!("nft add table {family}"));
        node.run(&format!("nft add map {family} published4 {{ type inet_service : mark ; }}"));
        node.run(&format!("nft add element {family} published4 {{ 20229 : 7 }}"));
        node.run(&format!("nft add chain {family} prerouting {{ type filter hook prerouting priority -300 ; }}"));
        node.run(&format!("nft add rule {family} prerouting meta mark 99 drop comment \"theirs\""));
    }
    batch(
        Some(node),
        "link add mesh_theirs type veth peer name theirs\n\
         addr add 198.51.100.1/24 dev mesh_theirs\n\
         link set mesh_theirs up\n\
         link add docker0 type bridge\n\
         link add vethx type veth peer name vethy\n\
         link set vethx master docker0\n\
         addr add 198.51.101.1/24 dev docker0\n\
         route add 203.0.113.0/24 via 192.168.50.2\n",
    );
}

/// And in the sandbox.
fn move_in(sandbox: &Place) {
    if has_ipvs(sandbox) {
        sandbox.run("ipvsadm -A -f 7 -s sh");
        sandbox.run("ipvsadm -a -f 7 -r 10.255.0.99:99 -m -w 7");
        sandbox.run("ipvsadm -A -t 10.255.0.3:81 -s rr");
        sandbox.run("ipvsadm -a -t 10.255.0.3:81 -r 10.255.0.99:99 -m");
    }
    sandbox.run("nft add table inet guest");
    sandbox.run("nft add chain inet guest input { type filter hook input priority 5 ; }");
    sandbox.run("nft add rule inet guest input meta mark 7 counter accept");
}

fn theirs(lab: &Lab) -> String {
    let node = &lab.node;
    let mut text = services(node);
    for table in ["inet other", "ip meshd", "ip6 meshd"] {
        text += &node.run(&format!("nft -a list table {table}"));
    }
    for link in ["mesh_theirs", "docker0", "vethx", "vethy", "lan0"] {
        let shown = node.run(&format!("ip -d addr show dev {link}"));
        // A bridge's timers run, and an address is tentative at first.
        text += &shown
            .split_whitespace()
            .filter(|word| (!word.contains('.') || word.contains('/')) && *word != "tentative")
            .collect::<Vec<_>>()
            .join(" ");
        text.push('\n');
    }
    text + &node.run("ip route show dev lan0")
}

fn guests(sandbox: &Place) -> String {
    let services = services(sandbox);
    let foreign = services.lines().filter(|line| line.contains(" -f 7 ") || line.contains(" -t "));
    foreign.map(|line| format!("{line}\n")).collect::<String>() + &sandbox.run("nft -a list table inet guest")
}

#[test]
fn smoke_foreign_things_stay_byte_for_byte() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    populate(&lab);
    let stranger = lab.backend("stranger");
    batch(Some(&stranger), "link add eth0 type veth peer name theirs\naddr add 10.255.0.99/16 dev eth0\n");
    let before = (theirs(&lab), stranger.state());
    let unchanged = |when: &str| {
        assert_same(&before.0, &theirs(&lab), when);
        assert_same(&before.1, &stranger.state(), when);
    };
    let config = |ports: &str| lab.config().service(&format!("name = 'kafka'\nport = [{ports}]{BACKENDS4}"));

    let mut meshd = lab.start(&config("{ published = 20229, target = 9092 }"));
    lab.client.ask(Tcp, "192.168.50.1:20229");
    unchanged("after the start");

    let sandbox = lab.sandbox();
    move_in(&sandbox);
    let inside = guests(&sandbox);
    meshd.reload(&config("{ published = 20230, target = 9092 }, { published = '30000-30009' }"));
    lab.client.ask(Tcp, "192.168.50.1:20230");
    unchanged("after a reload");
    assert_same(&inside, &guests(&sandbox), "after a reload");

    assert!(meshd.stop().success());
    lab.spawn().wait_until_ready();
    unchanged("after a restart");
    assert_same(&inside, &guests(&sandbox), "after a restart");

    assert!(lab.meshd(&["--cleanup"]).status.success());
    unchanged("after --cleanup");
    assert!(!sandbox.exists());
}
