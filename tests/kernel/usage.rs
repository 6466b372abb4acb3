//! The command line: exit codes, and what changes nothing.

use std::fs;

use crate::lab::{BACKENDS, Config, Lab, Tcp, assert_same, by_nftables, to_serve};

fn kafka(lab: &Lab) -> Config {
    lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}"))
}

/// Exit code and all that was printed.
fn run(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lab.meshd(arguments);
    (
        output.status.code(),
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join(""),
    )
}

#[test]
fn exit_codes_tell_mistakes_from_obstacles() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.state();
    let file = lab.config_file().display().to_string();
    let check = |arguments: &[&str], code: i32, word: &str| {
        let (status, said) = run(&lab, arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    };
    for mode in [&[][..], &["--check"], &["--dry-run"], &["--cleanup"]] {
        check(mode, 64, &file);
    }
    fs::create_dir(&file).unwrap();
    check(&[], 64, &file);
    fs::remove_dir(&file).unwrap();

    lab.write(&kafka(&lab));
    check(&["--check"], 0, "1 services, 1 ports: good");
    check(&["--nonsense"], 64, "--nonsense");
    check(&["--check", "--dry-run"], 64, "--dry-run");
    check(&["--help"], 0, "--cleanup");
    check(&["--version"], 0, env!("CARGO_PKG_VERSION"));
    check(&["--probe"], 0, "ip_vs");

    lab.write(&kafka(&lab).set("ingress", "vni", "0").set("gateway", "colour", "'red'"));
    for mode in [&[][..], &["--check"], &["--dry-run"]] {
        let (status, said) = run(&lab, mode);
        assert_eq!(status, Some(64), "{said}");
        // Both mistakes, each with its place.
        let places = said.lines().filter(|line| line.starts_with(&format!("{file}:"))).count();
        assert!(places == 2 && said.contains("colour") && said.contains("vni"), "{said}");
    }
    assert_same(&before, &lab.state(), "after all of that");
    // So that the lab can clean up.
    lab.write(&kafka(&lab));
}

#[test]
fn a_dry_run_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.write(&kafka(&lab));
    let before = (lab.state(), lab.node.sysctls());
    let plan = lab.dry_run();
    for step in [
        "add namespace sandbox\n",
        "attach namespace",
        &to_serve("tcp 20229 ipv6"),
        "map published4 in host: add tcp 20229 to",
    ] {
        assert!(plan.contains(step), "{step}: {plan}");
    }
    assert_same(&before.0, &lab.state(), "after a dry run");
    assert_same(&before.1, &lab.node.sysctls(), "after a dry run");

    // The plan is what is done then.
    let meshd = lab.start(&kafka(&lab));
    let firsts: Vec<&str> = plan.lines().filter(|line| !line.starts_with(' ')).collect();
    let done: Vec<String> = meshd.steps_since(0).into_iter().filter(|step| !step.starts_with("changing")).collect();
    assert_eq!(firsts, done);

    let running = lab.state();
    lab.write(&lab.config());
    let plan = lab.dry_run();
    let goes = |step: &str| match by_nftables() {
        true => step.starts_with("balance tcp 20229 ipv4 ") && step.ends_with(" no more"),
        false => step.contains("delete service tcp 20229 ipv4"),
    };
    assert!(plan.lines().any(goes), "{plan}");
    assert_same(&running, &lab.state(), "after a dry run beside a daemon");
}

/// Whoever starts it, and with whatever: it gives up what it does not need.
#[test]
fn smoke_it_holds_no_more_than_it_needs() {
    let Some(lab) = Lab::new() else { return };
    let meshd = lab.start(&lab.config());
    // CHOWN, KILL, SETGID, SETUID, NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN (capabilities(7)).
    let needed: u64 = [0, 5, 6, 7, 12, 13, 19, 21].into_iter().map(|bit| 1 << bit).sum();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", meshd.pid())).expect("it runs");
    let mut seen = 0;
    for task in tasks {
        // Some threads are short.
        let Ok(status) = std::fs::read_to_string(task.expect("a thread").path().join("status")) else { continue };
        seen += 1;
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
        for (set, held) in
            [("CapPrm:", needed), ("CapEff:", needed), ("CapBnd:", needed), ("CapInh:", 0), ("CapAmb:", 0)]
        {
            assert_eq!(u64::from_str_radix(&of(set), 16), Ok(held), "{set} of {}", of("Name:"));
        }
        assert_eq!((of("NoNewPrivs:").as_str(), of("Seccomp:").as_str()), ("1", "2"));
    }
    assert!(seen >= 4, "only {seen} threads");
}
