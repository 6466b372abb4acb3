//! Beside a firewall that drops what it does not know: two rules of ours in its chain, and no more.

use crate::lab::{BACKENDS, Config, Lab, Place, Tcp, eventually, value_of};

fn kafka(lab: &Lab) -> Config {
    lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"))
}

/// What many hosts do, with iptables' nf_tables backend.
fn drop_forwarded(node: &Place) {
    node.run("iptables -P FORWARD DROP");
    node.run("ip6tables -P FORWARD DROP");
}

/// Rules with the comment `meshd`, as family, table and chain, sorted.
fn openings(node: &Place) -> Vec<String> {
    let ruleset = node.json("nft -j list ruleset");
    let rules = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("rule"));
    let ours = rules.filter(|rule| rule["comment"] == "meshd");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    let mut places: Vec<String> =
        ours.map(|rule| ["family", "table", "chain"].map(|key| word(&rule[key])).join(" ")).collect();
    places.sort();
    places
}

fn two_each(chain: &str) -> Vec<String> {
    ["ip", "ip", "ip6", "ip6"].map(|family| format!("{family} filter {chain}")).to_vec()
}

fn is_reachable(lab: &Lab) {
    for to in ["192.168.50.1:20229", "[fd50::1]:20229"] {
        lab.client.ask(Tcp, to);
        lab.node.ask(Tcp, to);
    }
}

#[test]
fn a_policy_of_drop_is_opened_for_the_link() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    drop_forwarded(&lab.node);
    let before = lab.node.run("nft -s list ruleset");
    let meshd = lab.start(&kafka(&lab));
    is_reachable(&lab);
    assert_eq!(openings(&lab.node), two_each("FORWARD"));
    let rules = lab.node.run("nft list chain ip filter FORWARD");
    for direction in ["iifname", "oifname"] {
        let rule = format!("{direction} \"mesh_sbox\" accept comment \"meshd\"");
        assert!(rules.contains(&rule), "{rules}");
    }

    // Someone flushes their chain: meshd looks again by itself.
    lab.node.run("iptables -F FORWARD");
    lab.node.run("ip6tables -F FORWARD");
    eventually("the rules are there again", || openings(&lab.node) == two_each("FORWARD"));
    is_reachable(&lab);

    // A firewall that is loaded anew does not drop for a moment: it finds its chain open when it does again.
    let looks = || {
        let lines = lab.metrics();
        ["clean", "changed"].map(|result| value_of(&lines, &format!("meshd_reconciles_total{{result=\"{result}\"}}")))
    };
    lab.node.run("iptables -P FORWARD ACCEPT");
    let before_it = looks().iter().sum::<f64>();
    eventually("it was looked at", || looks().iter().sum::<f64>() >= before_it + 1.0);
    assert_eq!(openings(&lab.node), two_each("FORWARD"));
    lab.node.run("iptables -P FORWARD DROP");
    is_reachable(&lab);

    // They survive a stop, as the data plane does, and go with it.
    assert!(meshd.stop().success());
    is_reachable(&lab);
    assert!(lab.meshd(&["--cleanup"]).status.success());
    assert_eq!(lab.node.run("nft -s list ruleset"), before);
}

#[test]
fn docker_leaves_a_chain_to_operators() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    drop_forwarded(&lab.node);
    for iptables in ["iptables", "ip6tables"] {
        for line in ["-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER"] {
            lab.node.run(&format!("{iptables} {line}"));
        }
    }
    let before = lab.node.run("nft -s list ruleset");
    let meshd = lab.start(&kafka(&lab));
    is_reachable(&lab);
    assert_eq!(openings(&lab.node), two_each("DOCKER-USER"));
    assert!(meshd.stop().success());
    assert!(lab.meshd(&["--cleanup"]).status.success());
    assert_eq!(lab.node.run("nft -s list ruleset"), before);
}

/// firewalld's way, and its own table; and the firewall comes after meshd.
#[test]
fn a_reject_at_the_end_is_opened_when_it_comes() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&kafka(&lab));
    is_reachable(&lab);
    assert!(openings(&lab.node).is_empty());
    lab.node.run("nft add table inet firewall");
    lab.node.run("nft add chain inet firewall forward { type filter hook forward priority 10 ; }");
    lab.node.run("nft add rule inet firewall forward ct state established,related accept");
    lab.node.run("nft add rule inet firewall forward reject with icmpx admin-prohibited");
    eventually("it is opened", || openings(&lab.node) == ["inet firewall forward", "inet firewall forward"]);
    is_reachable(&lab);

    // Without its reject it needs no opening.
    lab.node.run("nft flush chain inet firewall forward");
    lab.node.run("nft add rule inet firewall forward accept");
    eventually("what is not needed is not there", || {
        openings(&lab.node).is_empty() && lab.meshctl("plan") == "nothing to do\n"
    });
}

#[test]
fn meshd_can_be_told_to_leave_firewalls_alone() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    drop_forwarded(&lab.node);
    let meshd = lab.start(&kafka(&lab).set("gateway", "open_forward", "false"));
    assert!(openings(&lab.node).is_empty());
    // The node's own connections are not forwarded.
    lab.node.ask(Tcp, "192.168.50.1:20229");
    let outside = lab.client.try_run("curl -sS -m 3 http://192.168.50.1:20229/");
    assert_eq!(outside.status.code(), Some(28), "it should time out: {outside:?}");
    // The log says what blocks.
    let log = meshd.log();
    assert!(log.lines().any(|line| line.contains("FORWARD") && line.contains("drop")), "nothing about FORWARD");
}

/// Where meshd may not open it, the operator is told what to do, whoever was there first.
#[test]
fn a_chain_that_drops_is_named_whenever_it_comes() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&kafka(&lab).set("gateway", "open_forward", "false"));
    is_reachable(&lab);
    assert!(!meshd.log().contains("drops what nobody accepts") && !lab.meshctl("status").contains("firewalls"));
    lab.node.run("nft add table ip fw");
    lab.node.run("nft add chain ip fw closed { type filter hook forward priority 0 ; policy drop ; }");
    let remedy = "`nft insert rule ip fw closed iifname mesh_sbox accept`";
    eventually("it is named", || meshd.log().contains(remedy));
    eventually("in the status, too", || lab.meshctl("status").contains(remedy));
    assert!(lab.client.try_ask(Tcp, "192.168.50.1:20229").is_err());
    for direction in ["iifname", "oifname"] {
        lab.node.run(&format!("nft insert rule ip fw closed {direction} mesh_sbox accept"));
    }
    is_reachable(&lab);
    // Who did what was said has opened it.
    eventually("it is over", || meshd.log().contains("no other firewall is in the way any more"));
    assert!(!lab.meshctl("status").contains(remedy));
    lab.node.run("nft flush chain ip fw closed");
    eventually("it is named again", || lab.meshctl("status").contains(remedy));
    // iptables writes such rules in its own way.
    lab.node.run("nft delete table ip fw");
    lab.node.run("iptables -P FORWARD DROP");
    eventually("the other is named", || lab.meshctl("status").contains("chain ip filter FORWARD drops"));
    for direction in ["-i", "-o"] {
        lab.node.run(&format!("iptables -I FORWARD {direction} mesh_sbox -j ACCEPT"));
    }
    eventually("it is open, too", || !lab.meshctl("status").contains("drops what nobody accepts"));
}
