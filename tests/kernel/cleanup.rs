//! `--cleanup`: what was there before is there again, and nothing else, whatever state it finds.

use std::time::Duration;

use crate::lab::{BACKENDS, Backend, Config, Lab, Tcp, assert_same, batch, by_nftables, eventually};

fn kafka(lab: &Lab) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, \
         {{ published = '9090-9099', protocol = 'udp' }}]{BACKENDS}"
    ))
}

fn clean_up(lab: &Lab) {
    let output = lab.meshd(&["--cleanup"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!lab.sandbox().exists() && !lab.overlay().exists());
    let left = [lab.sandbox(), lab.overlay()].map(|place| format!("/run/netns/{}", place.name));
    assert!(!left.iter().any(|file| std::path::Path::new(file).exists()), "{left:?}");
    assert!(!std::path::Path::new("/run/meshd").join(lab.sandbox().name).exists());
}

/// As every container does. Where it is down, meshd brings it up, and --cleanup leaves it so.
fn has_loopback(backend: &Backend) {
    batch(Some(backend), "link set lo up\n");
}

fn states(lab: &Lab, backends: &[Backend]) -> String {
    lab.state() + &backends[0].state()
}

#[test]
fn smoke_the_host_is_as_it_was_before() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    has_loopback(&backends[0]);
    // The host forwards on one link only, and meshd must not leave it forwarding on all, or none.
    lab.node.run("sysctl -q net.ipv4.conf.lan0.forwarding=1");
    lab.node.run("sysctl -q net.ipv4.conf.all.accept_redirects=1");
    let before = (states(&lab, &backends), lab.node.sysctls());

    let meshd = lab.start(&kafka(&lab));
    lab.client.ask(Tcp, "192.168.50.1:20229");
    assert!(meshd.stop().success());
    for when in ["after --cleanup", "after a second --cleanup"] {
        clean_up(&lab);
        assert_same(&before.0, &states(&lab, &backends), when);
        assert_same(&before.1, &lab.node.sysctls(), when);
    }
    lab.client.is_refused(Tcp, "192.168.50.1:20229");
}

#[test]
fn half_of_it_is_cleaned_up_as_well() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    has_loopback(&backends[0]);
    let before = (states(&lab, &backends), lab.node.sysctls());
    lab.write(&kafka(&lab));

    let (sandbox, overlay) = (lab.sandbox().name, lab.overlay().name);
    let damages: [&dyn Fn(); 4] = [
        &|| drop(lab.node.run("nft delete table inet meshd")),
        &|| {
            batch(None, &format!("netns del {sandbox}\n"));
            lab.node.try_run("ip link del mesh_sbox");
        },
        // What a crash between making the file and mounting the namespace on it leaves.
        &|| {
            batch(None, &format!("netns del {sandbox}\nnetns del {overlay}\n"));
            // The kernel ends what was in them in its own time.
            eventually("its links are gone", || {
                !backends.iter().any(|backend| backend.try_run("ip link show dev eth0").status.success())
            });
            std::fs::write(format!("/run/netns/{sandbox}"), "").unwrap();
        },
        &|| {
            lab.sandbox().run("nft flush ruleset");
            if !by_nftables() {
                lab.sandbox().run("ipvsadm -C");
            }
            lab.overlay().run("ip link del br0");
            lab.node.try_run("ip link del mesh_sbox");
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut meshd = lab.spawn();
        meshd.wait_until_ready();
        meshd.kill9();
        damage();
        clean_up(&lab);
        assert_same(&before.0, &states(&lab, &backends), &format!("after damage {number}"));
    }
    assert_same(&before.1, &lab.node.sysctls(), "after all damages");
}

#[test]
fn a_start_that_was_killed_is_cleaned_up() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    has_loopback(&backends[0]);
    let before = (states(&lab, &backends), lab.node.sysctls());
    lab.write(&kafka(&lab));
    for moment in [0, 100, 250] {
        let meshd = lab.spawn();
        eventually("a plan", || meshd.log().contains("add namespace"));
        std::thread::sleep(Duration::from_millis(moment));
        meshd.kill9();
        clean_up(&lab);
        assert_same(&before.0, &states(&lab, &backends), &format!("killed {moment} ms after the plan"));
    }
    assert_same(&before.1, &lab.node.sysctls(), "after all kills");
}
