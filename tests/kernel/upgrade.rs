//! An upgrade: what the program of the commit before left is taken over by today's.

use serde_json::json;

use crate::lab::{BACKENDS, Lab, Tcp, Udp, assert_same};

/// MESHD_PREVIOUS is the other program (scripts/previous builds it).
#[test]
fn a_mesh_of_the_commit_before_is_taken_over_without_a_dropped_connection() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let config = lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, {{ published = '9090-9099', protocol = 'udp' }}]{BACKENDS}"
    ));
    lab.write(&config);
    let of_socket = json!({
        "port": [{ "published": 20230, "target": 9092 }],
        "backend": [{ "address": "10.255.0.33", "netns": lab.place("kafka-1").name }]
    });
    for killed in [true, false] {
        let mut before = lab.spawn_previous();
        before.wait_until_ready();
        lab.api().good("PUT", "/v1/services/of-socket?wait=30", Some(&of_socket));
        let crowds = ["192.168.50.1:20229", "[fd50::1]:20229", "192.168.50.1:20230"].map(|to| lab.crowd(to, 1, 1));
        let mut held = lab.client.connect(Tcp, "192.168.50.1:20229").expect("a connection");
        let backend = held.ask("before").expect("an answer").backend;
        crowds.iter().for_each(|crowd| crowd.all_goes_well_for(20));
        if killed {
            before.kill9();
        } else {
            assert!(before.stop().success());
        }
        crowds.iter().for_each(|crowd| crowd.all_goes_well_for(20));
        let today = lab.resume();
        crowds.iter().for_each(|crowd| crowd.all_goes_well_for(20));
        assert_eq!(held.ask("after").expect("an answer").backend, backend);
        let taken_over = lab.state();
        for crowd in crowds {
            let (failures, answered) = crowd.finish();
            assert!(failures.is_empty() && answered > 0, "{failures:?}");
        }
        // As if nothing had been there.
        assert!(today.stop().success());
        assert!(lab.meshd(&["--cleanup"]).status.success());
        let anew = lab.resume();
        assert_same(&lab.state(), &taken_over, "an upgrade leaves other things than a start");
        lab.client.ask(Tcp, "192.168.50.1:20230");
        assert!(anew.stop().success());
        assert!(lab.meshd(&["--cleanup"]).status.success());
    }
}
