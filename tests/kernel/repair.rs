//! What others break is mended: by the look that comes every ten seconds, or sooner.

use crate::lab::{BACKENDS, Lab, Tcp, batch, eventually};

#[test]
fn damages_are_repaired() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = '30000-30009' }}]{BACKENDS}"
    )));
    let (node, sandbox, overlay) = (&lab.node, lab.sandbox(), lab.overlay());
    let wanted = lab.state();
    let mended = |what: &str| {
        lab.becomes(&wanted, what);
        // Each backend in turn; a first packet may still be on a way that is no more.
        for to in ["192.168.50.1:20229", "[fd50::1]:20229"] {
            eventually("an answer from every backend", || (0..3).all(|_| lab.client.try_ask(Tcp, to).is_ok()));
        }
    };

    node.run("nft delete table inet meshd");
    node.run("ip addr del 169.254.77.1/24 dev mesh_sbox");
    node.run("ip link set mesh_sbox down");
    node.run("ip link set mesh_sbox mtu 1400");
    node.run("sysctl -q net.ipv4.ip_forward=0 net.ipv4.conf.mesh_sbox.route_localnet=0");
    mended("on the node");
    for parameter in ["net.ipv4.ip_forward", "net.ipv4.conf.mesh_sbox.route_localnet"] {
        assert_eq!(node.run(&format!("sysctl -n {parameter}")).trim(), "1", "{parameter}");
    }

    sandbox.run("ipvsadm -C");
    sandbox.run("ipvsadm --set 10 10 10");
    sandbox.run("nft delete element inet meshd marks { tcp . 20229 }");
    sandbox.run("nft flush chain inet meshd postrouting");
    sandbox.run("sysctl -q net.ipv4.vs.conntrack=0");
    // With it goes the default route.
    sandbox.run("ip link set eth1 down");
    batch(Some(&overlay), "link del p02420aff0021\nlink set p02420aff0022 down\nlink set vxlan0 down\n");
    batch(Some(&backends[2]), "addr flush dev eth0\n");
    mended("inside");
    assert_eq!(sandbox.run("sysctl -n net.ipv4.vs.conntrack").trim(), "1");
    assert_eq!(sandbox.run("ipvsadm -L --timeout").trim(), "Timeout (tcp tcpfin udp): 900 120 300");

    // One thing only, and of those no one tells us about.
    sandbox.run("ipvsadm -d -f 85765 -r 10.255.0.34:9092");
    sandbox.run("ipvsadm -e -f 85765 -r 10.255.0.33:9092 -m -w 9");
    sandbox.run("ipvsadm -a -f 85765 -r 10.255.0.77:9092 -m");
    mended("in IPVS");

    // All of it.
    batch(None, &format!("netns del {}\n", sandbox.name));
    node.run("nft flush ruleset");
    node.try_run("ip link del mesh_sbox");
    mended("without a sandbox");
    batch(None, &format!("netns del {}\n", overlay.name));
    mended("without an overlay");
}
