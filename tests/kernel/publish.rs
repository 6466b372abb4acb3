//! `bind`, `allow` and `deny`: where a port is published, and who may come to it.

use std::time::Duration;

use crate::lab::{BACKENDS, Config, Lab, Place, Protocol, Tcp, Udp, batch, eventually};

/// kafka on TCP and UDP, with these keys, and another service beside it with none.
fn services(lab: &Lab, keys: &str) -> Config {
    let ports = "[{ published = 20229, target = 9092 }, { published = 20229, target = 9092, protocol = 'udp' }]";
    lab.config()
        .service(&format!("name = 'kafka'\n{keys}\nport = {ports}{BACKENDS}"))
        .service(&format!("name = 'open'\nport = [{{ published = 20230, target = 9092 }}]{BACKENDS}"))
}

fn answers(from: &Place, to: &str) {
    for protocol in [Tcp, Udp] {
        from.ask(protocol, to);
    }
}

fn refused(from: &Place, to: &str) {
    for protocol in [Tcp, Udp] {
        from.is_refused(protocol, to);
    }
}

/// Not a word comes back: neither an answer nor a refusal.
fn dropped(from: &Place, to: &str) {
    let http = from.try_run(&format!("curl -sSg -m 2 http://{to}/"));
    assert_eq!(http.status.code(), Some(28), "{to} from {}: {http:?}", from.name);
    let silent = from.datagrams(0, to).ask("hello", Duration::from_secs(1));
    assert_eq!(silent.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{to} from {}", from.name);
}

#[test]
fn a_bound_port_is_open_where_it_is_bound_and_closed_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let other = lab.far_backend("other");
    batch(Some(&lab.client), "route add 192.168.60.0/24 via 192.168.50.1\n");
    batch(Some(&lab.node), "addr add 192.168.50.7/24 dev lan0\naddr add fd50::7/64 dev lan0 nodad\n");
    let mut meshd = lab.start(&services(&lab, "bind = ['192.168.50.1', 'fd50::7', '127.0.0.1']"));
    for from in [&lab.client, &lab.node, &other] {
        answers(from, "192.168.50.1:20229");
        answers(from, "[fd50::7]:20229");
        refused(from, "192.168.50.7:20229");
        refused(from, "[fd50::1]:20229");
        from.ask(Tcp, "192.168.50.7:20230");
    }
    answers(&lab.node, "127.0.0.1:20229");

    // By link: for what comes in by it, at whatever address; and what is open already stays so.
    let load = lab.load(&["192.168.50.1:20229", "192.168.50.1:20230"]);
    meshd.reload(&services(&lab, "bind = ['lan0', '192.168.60.1']"));
    load.goes_on_for(20);
    load.finish();
    for to in ["192.168.50.1:20229", "192.168.50.7:20229", "[fd50::1]:20229", "192.168.60.1:20229"] {
        answers(&lab.client, to);
    }
    answers(&other, "192.168.60.1:20229");
    refused(&other, "192.168.50.1:20229");
    refused(&other, "[fd60::1]:20229");
    refused(&lab.node, "192.168.50.1:20229");
    let listed = lab.node.run("nft list set inet meshd bound_links");
    assert!(listed.contains("\"lan0\" . tcp . 20229") && listed.contains("\"lan0\" . udp . 20229"), "{listed}");

    // Bound no more, it is open everywhere, and nothing is left of it.
    meshd.reload(&services(&lab, ""));
    answers(&other, "192.168.50.7:20229");
    for set in ["bound_ports", "bound4", "bound6", "bound_links"] {
        assert!(!lab.node.run(&format!("nft list set inet meshd {set}")).contains("elements"), "{set}");
    }
}

#[test]
fn who_is_not_allowed_is_not_heard() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let other = lab.far_backend("other").udp(9092);
    let (v4, v6) = ("192.168.50.1:20229", "[fd50::1]:20229");
    let mut meshd = lab.start(&services(&lab, "allow = ['192.168.50.0/24', 'fd50::2']"));
    for to in [v4, v6] {
        answers(&lab.client, to);
        dropped(&other, to);
        // The node's own connections are not asked.
        answers(&lab.node, to);
        other.ask(Tcp, &to.replace("20229", "20230"));
    }

    // Who is allowed before and after notices nothing.
    let load = lab.load(&[v4, v6]);
    for keys in [
        "allow = ['192.168.0.0/16', 'fd50::/64', 'fd60::2']",
        "deny = ['192.168.60.2']",
        "allow = ['0.0.0.0/0', '::/0']\ndeny = ['192.168.60.0/24', 'fd60::/64', '192.168.60.2']",
    ] {
        meshd.reload(&services(&lab, keys));
        load.goes_on_for(10);
    }
    load.finish();
    for to in [v4, v6] {
        dropped(&other, to);
    }
    // An answer to a connection of the node's own, whose port is published by chance, is no one who comes.
    let own = lab.node.datagrams(20229, "192.168.60.2:9092").ask("hello", Duration::from_secs(10));
    assert_eq!(own.unwrap().backend, "other");

    // At once, in what is open as well: checked before anything else.
    let mut stream = lab.client.connect(Protocol::Tcp, v4).unwrap();
    stream.ask("hello").unwrap();
    meshd.reload(&services(&lab, "deny = ['192.168.50.2']"));
    dropped(&lab.client, v4);
    answers(&lab.client, v6);
    answers(&other, v4);
    let chain = lab.node.run("nft list chain inet meshd access");
    assert!(chain.contains("ip saddr . meta l4proto . th dport @denied4 counter packets"), "{chain}");
    meshd.reload(&services(&lab, ""));
    stream.ask("hello again").unwrap();
    // What nobody needs any more goes with the next look.
    eventually("the lists are gone", || !lab.node.run("nft list table inet meshd").contains("denied"));
}

/// What is published answers from the first packet on, by both families: no link of ours waits for an address to prove its own.
#[test]
fn smoke_the_first_client_does_not_wait() {
    for bridge in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let _backends = lab.kafka(&[Tcp]);
        let service = format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}");
        let config = if bridge { lab.config().set("gateway", "bridge", "'mesh_br'") } else { lab.config() };
        let _meshd = lab.start(&config.service(&service));
        for place in [&lab.node, &lab.sandbox()] {
            let tentative = place.run("ip -6 -o address show tentative");
            let ours = tentative.lines().filter(|line| !line.contains(": lan0"));
            assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", place.name);
        }
        for to in ["192.168.50.1:20229", "[fd50::1]:20229"] {
            lab.client.ask(Tcp, to);
            lab.node.ask(Tcp, to);
        }
        for place in [&lab.client, &lab.node] {
            let sent_again = place.run("nstat -asz TcpRetransSegs");
            assert!(
                sent_again.lines().any(|line| line.split_whitespace().eq(["TcpRetransSegs", "0", "0.0"])),
                "{sent_again}"
            );
        }
    }
}
