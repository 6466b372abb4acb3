//! The daemon ends, in whatever way, and starts again: the data plane does not notice.

use crate::lab::{BACKENDS, Config, Lab, MARK, Tcp, Udp, assert_same, batch};

fn kafka(lab: &Lab) -> Config {
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}, \
         {{ published = '9090-9099', protocol = 'udp' }}]{BACKENDS}"
    ))
}

#[test]
fn smoke_restarts_are_not_noticed() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let mut meshd = lab.start(&kafka(&lab));
    let load = lab.load(&["192.168.50.1:20229", "192.168.50.1:20229", "[fd50::1]:20229"]);
    let mut held = lab.client.connect(Tcp, "192.168.50.1:20229").unwrap();
    let busy = held.ask("before").unwrap().backend;
    load.goes_on_for(60);
    let state = lab.state();

    for killed in [false, true] {
        let before = lab.sandbox().connections(MARK);
        if killed {
            meshd.kill9();
        } else {
            assert!(meshd.stop().success());
        }
        load.goes_on_for(40);
        assert_eq!(held.ask("nobody at home").unwrap().backend, busy);
        assert_same(&state, &lab.state(), "while meshd is away");
        assert_eq!(lab.dry_run(), "");

        meshd = lab.spawn();
        meshd.wait_until_ready();
        load.goes_on_for(40);
        assert_eq!(meshd.steps_since(0), [""; 0]);
        assert_eq!(held.ask("after").unwrap().backend, busy);
        assert_same(&state, &lab.state(), "after a restart");
        // Not made anew: it would count from zero.
        let after = lab.sandbox().connections(MARK);
        assert!(after.len() == 6 && before.iter().all(|(to, count)| after[to] >= *count), "{before:?} {after:?}");
    }
    load.goes_on_for(60);
    let answers = load.finish();
    assert!(answers.len() >= 250, "{}", answers.len());
    assert!(meshd.stop().success());
}

#[test]
fn on_stop_remove_takes_everything_away() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    // As every container has it.
    batch(Some(&backends[0]), "link set lo up\n");
    let before = (lab.state(), lab.node.sysctls(), backends[0].state());
    let meshd = lab.start(&kafka(&lab).set("node", "on_stop", "'remove'"));
    lab.client.ask(Tcp, "192.168.50.1:20229");
    assert!(meshd.stop().success());
    assert!(!lab.sandbox().exists() && !lab.overlay().exists());
    assert_same(&before.0, &lab.state(), "after the stop");
    assert_same(&before.1, &lab.node.sysctls(), "after the stop");
    assert_same(&before.2, &backends[0].state(), "after the stop");
    lab.client.is_refused(Tcp, "192.168.50.1:20229");
}
