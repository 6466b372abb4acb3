//! A UDP flow that began before its port was published reaches the mesh as soon as it is published.

use std::time::Duration;

use crate::lab::{Lab, SECOND, Udp};

/// For an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn publishing_takes_over_flows_that_began_before() {
    let Some(lab) = Lab::new() else { return };
    let _dns = lab.backend("dns-1").udp(53).tcp(53);
    let _local = lab.local_backend("local").udp(5353);
    let service = |ports: &str| {
        lab.config().service(&format!(
            "name = 'dns'\nport = [{{ published = 1053, target = 53 }}{ports}]\n\
             backend = [{{ address = '10.255.0.33', netns = \"dns-1\" }}, {{ address = 'fd00:255::33', netns = \"dns-1\" }}]"
        ))
    };
    let mut meshd = lab.start(&service(""));

    // At first a local process answers on one port, and nobody on the other.
    let targets = ["192.168.50.1:5353", "[fd50::1]:5353"];
    let served = targets.map(|to| lab.client.datagrams(40001, to));
    let unserved = ["192.168.50.1:5354", "[fd50::1]:5354"].map(|to| lab.client.datagrams(40002, to));
    for socket in &served {
        assert_eq!(socket.ask("before", PATIENCE).unwrap().backend, "local");
    }
    for socket in &unserved {
        assert!(socket.ask("before", SECOND).is_err());
    }
    // Flows to other ports are left alone.
    let other = lab.local_backend("other").udp(5355);
    let untouched = lab.client.datagrams(40003, "192.168.50.1:5355");
    assert_eq!(untouched.ask("before", PATIENCE).unwrap().backend, "other");
    let entries = |port: u16| lab.node.run(&format!("conntrack -L -p udp --orig-port-dst {port}"));
    assert!(entries(5353).contains("src=192.168.50.1 dst=192.168.50.2 sport=5353"), "{}", entries(5353));

    meshd.reload(&service(
        ", { published = 5353, target = 53, protocol = 'udp' }, { published = 5354, target = 53, protocol = 'udp' }",
    ));
    for socket in served.iter().chain(&unserved) {
        assert_eq!(socket.ask("after", PATIENCE).unwrap().backend, "dns-1");
    }
    assert!(!entries(5353).contains("src=192.168.50.1 dst=192.168.50.2 sport=5353"), "{}", entries(5353));
    assert!(entries(5353).contains("src=169.254.77.2"), "{}", entries(5353));
    assert!(entries(5355).contains("src=192.168.50.1 dst=192.168.50.2 sport=5355"), "{}", entries(5355));
    assert_eq!(untouched.ask("after", PATIENCE).unwrap().backend, "other");
    drop(other);
}

/// The same at the first start, on a host that tracks connections already.
#[test]
fn starting_takes_over_flows_that_began_before() {
    let Some(lab) = Lab::new() else { return };
    let _dns = lab.backend("dns-1").udp(53);
    let _local = lab.local_backend("local").udp(5353);
    lab.node.run("nft add table inet admin");
    lab.node.run("nft add chain inet admin input { type filter hook input priority 0 ; }");
    lab.node.run("nft add rule inet admin input ct state established counter");
    let socket = lab.client.datagrams(40001, "192.168.50.1:5353");
    assert_eq!(socket.ask("before", PATIENCE).unwrap().backend, "local");

    let _meshd = lab.start(&lab.config().service(
        r#"
        name = "dns"
        port = [{ published = 5353, target = 53, protocol = "udp" }]
        backend = [{ address = "10.255.0.33", netns = "dns-1" }]"#,
    ));
    assert_eq!(socket.ask("after", PATIENCE).unwrap().backend, "dns-1");
    assert_eq!(lab.client.ask(Udp, "192.168.50.1:5353").backend, "dns-1");
}
