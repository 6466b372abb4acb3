//! Paths between nodes that carry less than the nodes' links do, and say nothing of it.

use std::process::Command;

use crate::lab::{Nodes, Underlay};

/// Two nodes with links of 9000 bytes, and a switch that drops what has more than 1400 and goes to node-2.
fn narrowed(v6: bool) -> Option<Nodes> {
    let nodes = Nodes::new(2, Underlay { mtu: 9000, v6 })?;
    nodes.lan.run("nft add table bridge switch");
    nodes.lan.run("nft add chain bridge switch forward { type filter hook forward priority 0 ; }");
    nodes.lan.run("nft add rule bridge switch forward oifname node-2 meta length > 1400 drop");
    nodes.write(&nodes.all[0], &nodes.config(&nodes.all[0]));
    Some(nodes)
}

/// Whether the node's kernel lets root have sockets for echoes.
fn echo_sockets(nodes: &Nodes, allowed: bool) {
    let range = if allowed { "0 0" } else { "1 0" };
    nodes.node.output(Command::new("sysctl").args(["-qw", &format!("net.ipv4.ping_group_range={range}")]));
}

const WITHOUT_RAW_SOCKETS: &str = "setpriv --bounding-set -net_raw --inh-caps -net_raw";

#[test]
fn a_path_that_loses_what_is_large_without_a_word_is_an_error_that_names_the_value() {
    for (v6, value) in [(false, "1350"), (true, "1330")] {
        let Some(nodes) = narrowed(v6) else { return };
        let expected = format!(
            "the path to node-2 ({}) carries packets of 1400 bytes, and the tunnel's have up to 9000: set [ingress] mtu = \
             {value} on all nodes",
            nodes.tunnel_end(&nodes.all[1])
        );
        // By each of the two ways to ask.
        for (sockets, under) in [(false, "env"), (true, WITHOUT_RAW_SOCKETS)] {
            echo_sockets(&nodes, sockets);
            let output = nodes.meshd_under(under);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains(&expected), "{under}: {said}");
            assert!(!nodes.sandbox().exists(), "nothing was changed");
        }
        // Taken at its word, it starts; and where someone insists, with a warning: it may be a filter for echoes.
        for (mtu, warns) in [(value, false), ("8000", true)] {
            nodes.write(&nodes.all[0], &nodes.config(&nodes.all[0]).set("ingress", "mtu", mtu));
            let mut daemon = nodes.all[0].spawn();
            daemon.wait_until_ready();
            assert_eq!(daemon.log().contains("answers no echo of more than 1400 bytes"), warns, "{}", daemon.log());
            assert!(daemon.stop().success());
        }
    }
}

/// Of what is not known nothing is said: who answers no echo, who may ask for none.
#[test]
fn where_no_echo_is_to_be_had_meshd_starts() {
    for v6 in [false, true] {
        let Some(nodes) = narrowed(v6) else { return };
        let [first, second] = [&nodes.all[0], &nodes.all[1]];
        second.run("sysctl -q net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1");
        let mut daemon = first.spawn();
        daemon.wait_until_ready();
        assert!(daemon.stop().success());
        assert!(nodes.meshd(&["--cleanup"]).status.success());

        second.run("sysctl -q net.ipv4.icmp_echo_ignore_all=0 net.ipv6.icmp.echo_ignore_all=0");
        echo_sockets(&nodes, false);
        let under = format!("timeout --preserve-status 10 {WITHOUT_RAW_SOCKETS}");
        let output = nodes.meshd_under(&under);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && nodes.sandbox().exists(), "{said}");
    }
}
