//! What stands in the way at start is named, with what to do, and nothing is changed.

use crate::lab::{BACKENDS, Config, Lab, Tcp, assert_same, eventually};

fn kafka(lab: &Lab) -> Config {
    lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"))
}

/// Something is put in the way, meshd refuses, and the thing is taken out of the way again.
fn clash(lab: &Lab, put: &str, take: &str, words: &[&str]) {
    lab.node.run(put);
    let config = kafka(lab);
    let said =
        lab.refuses(&if put.contains("bridge") { config.set("gateway", "bridge", "'mesh_gwbridge'") } else { config });
    assert!(words.iter().all(|word| said.contains(word)), "{put}: not all of {words:?} in: {said}");
    assert!(!lab.sandbox().exists(), "{put}");
    lab.node.run(take);
}

#[test]
fn what_is_taken_is_named() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let before = (lab.state(), lab.node.sysctls());
    let choose = "choose another subnet";
    for (destination, key, hop) in [
        ("10.255.128.0/17", "[ingress] subnet", "via 192.168.50.2"),
        ("10.0.0.0/8", "[ingress] subnet", "via 192.168.50.2"),
        ("fd00:255::/64", "[ingress] subnet6", "via fd50::2"),
        ("169.254.77.128/25", "[gateway] subnet", "dev lan0"),
        ("fd6d:6573:6864::/48", "[gateway] subnet6", "dev lan0"),
    ] {
        let route = format!("{destination} {hop}");
        clash(
            &lab,
            &format!("ip route add {route}"),
            &format!("ip route del {route}"),
            &[key, destination, "lan0", choose],
        );
    }
    clash(
        &lab,
        "ip link add mesh_gwbridge type bridge",
        "ip link del mesh_gwbridge",
        &["mesh_gwbridge", "choose another [gateway] bridge", "ip link delete mesh_gwbridge"],
    );
    clash(
        &lab,
        "ip link add mesh_sbox type bridge",
        "ip link del mesh_sbox",
        &["mesh_sbox", "not meshd's", "ip link delete mesh_sbox"],
    );
    let listener = lab.local_backend("listener").tcp(9326);
    clash(&lab, "true", "true", &["127.0.0.1:9326", "[metrics] listen", "choose another"]);
    drop(listener);
    assert_same(&before.0, &lab.state(), "after all clashes");
    assert_same(&before.1, &lab.node.sysctls(), "after all clashes");
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.write(&kafka(&lab));
    let before = lab.state();
    for (capability, name) in [("net_admin", "CAP_NET_ADMIN"), ("sys_admin", "CAP_SYS_ADMIN")] {
        let output = lab.meshd_under(&format!("setpriv --bounding-set -{capability} --inh-caps -{capability}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(name) && said.contains("run as root"), "{said}");
    }
    assert_same(&before, &lab.state(), "without capabilities");
}

/// The kernel has no list of those: it is only seen when the tunnel is made. What needs no tunnel works.
#[test]
fn a_tunnel_that_is_taken_is_named_and_made_when_it_is_free() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.node.run("ip link add theirs type vxlan id 4077 dstport 4789 dev lan0");
    let meshd = lab.start(&kafka(&lab));
    let said = meshd.said_since(0);
    let named = |text: &str| {
        ["VXLAN identifier 4077 on port 4789 is taken", "choose another [ingress] vni"]
            .iter()
            .all(|word| text.contains(word))
    };
    assert!(said.iter().any(|(level, text)| level == "ERROR" && named(text)), "{said:#?}");
    lab.client.ask(Tcp, "192.168.50.1:20229");
    // Not healthy, and why.
    let health = || lab.node.run("curl -sS -m 60 -w %{http_code} http://127.0.0.1:9326/healthz");
    assert!(health().ends_with("503") && named(&health()), "{}", health());
    lab.node.run("ip link del theirs");
    eventually("it is healthy", || health() == "ok\n200");
    eventually("the tunnel is there", || lab.overlay().try_run("ip link show dev vxlan0").status.success());
    eventually("all is well", || meshd.log().contains("all is as wanted again"));
}

/// It is no mistake: the mesh is asked first.
#[test]
fn a_local_listener_on_a_published_port_is_named_and_loses() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _local = lab.local_backend("local").tcp(20229);
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20229").backend, "local");
    let meshd = lab.start(&kafka(&lab));
    let said = meshd.said_since(0);
    let warning = said.iter().find(|(level, _)| level == "WARN");
    let (_, text) = warning.unwrap_or_else(|| panic!("{said:#?}"));
    assert!(text.contains("published port tcp 20229") && text.contains("[::]:20229"), "{text}");
    for from in [&lab.client, &lab.node] {
        assert!(from.ask(Tcp, "192.168.50.1:20229").backend.starts_with("kafka-"), "{from:?}");
    }
}
