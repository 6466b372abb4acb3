//! Two daemons on one sandbox: who comes second is told who was first.

use crate::lab::{BACKENDS4, Lab, Tcp, assert_same};

#[test]
fn the_second_daemon_refuses_and_names_the_first() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let first = lab.start(
        &lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS4}")),
    );
    let before = lab.state();
    let holder = [format!("pid {}", first.pid()), lab.config_file().display().to_string()];

    let mut second = lab.spawn();
    assert_eq!(second.wait().code(), Some(1));
    let said = second.log();
    assert!(holder.iter().all(|word| said.contains(word)), "{said}");

    let cleanup = lab.meshd(&["--cleanup"]);
    assert_eq!(cleanup.status.code(), Some(1));
    let said = String::from_utf8_lossy(&cleanup.stderr);
    assert!(holder.iter().all(|word| said.contains(word)), "{said}");

    // To look is allowed.
    assert_eq!(lab.dry_run(), "");
    assert_same(&before, &lab.state(), "with the first daemon running");
    lab.client.ask(Tcp, "192.168.50.1:20229");
    assert!(first.stop().success());
    // Nothing of the first stands in the way of the next.
    lab.spawn().wait_until_ready();
}
