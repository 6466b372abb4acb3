//! Backends that are checked: who cannot serve gets nobody.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::lab::{
    Backend, Config, HANGS, Lab, Nodes, REFUSES, Tcp, Udp, Underlay, afflict, afflict_port, by_nftables, eventually,
    tally, value_of,
};

/// kafka-1 and so on behind tcp 20229, asked every second, with patience: the machine is busy.
fn checked(lab: &Lab, check: &str) -> Config {
    let backends: Vec<String> = (1..=3)
        .flat_map(|number| {
            [format!("10.255.0.{}", 32 + number), format!("fd00:255::{}", 32 + number)]
                .map(|address| format!("{{ address = '{address}', netns = \"kafka-{number}\" }}"))
        })
        .collect();
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}]\n\
         check = {{ {check}, interval = '1s', timeout = '1s', rise = 2, fall = 3 }}",
        backends.join(", ")
    ))
}

const ADDRESSES: [&str; 2] = ["192.168.50.1:20229", "[fd50::1]:20229"];

/// Who is in the kernel's tables: family and the last number of the address.
fn there(lab: &Lab) -> BTreeSet<String> {
    let short = |address: String| {
        let family = if address.contains(':') { 6 } else { 4 };
        format!("{family}:{}", address.rsplit(['.', ':']).next().unwrap_or_default())
    };
    let places = lab.sandbox().weights().into_keys().map(|(_, place)| place).filter(|place| place.port() == 9092);
    places.map(|place| short(place.ip().to_string())).collect()
}

fn only(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().flat_map(|number| [4, 6].map(|family| format!("{family}:{}", 32 + number))).collect()
}

/// Asks both families so often; who answered. Nobody may be refused.
fn asked(lab: &Lab) -> BTreeSet<String> {
    let answers = ADDRESSES.iter().flat_map(|to| lab.client.ask_times(6, Tcp, to)).collect::<Vec<_>>();
    tally(&answers).into_keys().map(|name| name.to_string()).collect()
}

fn names(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().map(|number| format!("kafka-{number}")).collect()
}

#[test]
fn smoke_who_dies_gets_nobody_and_who_returns_gets_clients() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    // One is dead from the beginning, and gets not one client.
    afflict(&backends[2], REFUSES);
    let mut meshd = lab.start(&checked(&lab, "type = 'tcp'"));
    assert_eq!(there(&lab), only(&[1, 2]), "ready once every backend was heard of");
    assert_eq!(asked(&lab), names(&[1, 2]));
    assert!(lab.meshctl("status").contains("kafka tcp/20229: backend 10.255.0.35 is down: connection refused"));

    let events = lab.meshctl_beside("watch");
    for how in [HANGS, REFUSES] {
        afflict(&backends[1], how);
        eventually("it is gone", || there(&lab) == only(&[1]));
        assert_eq!(asked(&lab), names(&[1]));
        let metrics = lab.metrics();
        let up = |address: &str| {
            value_of(
                &metrics,
                &format!("meshd_backend_up{{backend=\"{address}\",port=\"20229\",protocol=\"tcp\",service=\"kafka\"}}"),
            )
        };
        assert_eq!((up("10.255.0.33"), up("10.255.0.34"), up("fd00:255::34")), (1.0, 0.0, 0.0));
        afflict(&backends[1], None);
        eventually("it is back", || there(&lab) == only(&[1, 2]));
        assert_eq!(asked(&lab), names(&[1, 2]));
    }
    let log = meshd.log();
    for (backend, reason) in [("10.255.0.34", "no answer in 1s"), ("fd00:255::34", "connection refused")] {
        let told = log.lines().any(|line| {
            line.contains("backend is down, after failing") && line.contains(backend) && line.contains(reason)
        });
        assert!(told, "{backend} {reason}\n{log}");
    }
    // None of that is anybody's tampering.
    assert_eq!(value_of(&lab.metrics(), "meshd_drift_found_total{kind=\"backend\"}"), 0.0);
    assert!(value_of(&lab.metrics(), "meshd_health_changes_total{to=\"down\"}") >= 6.0);
    meshd.signal(nix::sys::signal::Signal::SIGTERM);
    let told = String::from_utf8(events.wait_with_output().unwrap().stdout).unwrap();
    assert!(told.contains("kafka tcp/20229: backend 10.255.0.34 is down, after failing: "), "{told}");
    meshd.wait();
}

/// Where that is wanted, one that does not answer its checks gets nobody new, and keeps those that it has; whoever is meshd.
#[test]
fn who_is_with_one_that_is_down_may_stay() {
    let Some(lab) = Lab::new() else { return };
    // They are asked at another port than the one that serves.
    let backends = lab.kafka(&[Tcp]).map(|backend| backend.tcp(9094));
    let config = checked(&lab, "type = 'tcp', port = 9094, on_down = 'keep'");
    let meshd = lab.start(&config);
    assert_eq!(asked(&lab), names(&[1, 2, 3]));
    let mut held: Vec<_> = (0..6).map(|_| lab.client.connect(Tcp, ADDRESSES[0]).unwrap()).collect();
    let fell_silent = |backend: &Backend| afflict_port(backend, 9094, REFUSES);
    // Of each backend its weight in both families.
    let are = |expected: [u32; 3]| {
        let kafkas = lab.sandbox().weights().into_iter().filter(|((_, place), _)| place.port() == 9092);
        let weights: Vec<u32> = kafkas.map(|(_, weight)| weight).collect();
        weights == [expected, expected].concat()
    };
    fell_silent(&backends[0]);
    eventually("it gets nobody new", || are([0, 1, 1]));
    assert_eq!(asked(&lab), names(&[2, 3]));
    let mut who: BTreeSet<String> = BTreeSet::new();
    let mut all_go_on = || who.extend(held.iter_mut().map(|one| one.ask("still there").unwrap().backend));
    all_go_on();
    meshd.kill9();
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    let step = if by_nftables() { "balance tcp" } else { "set backend" };
    assert!(are([0, 1, 1]) && !meshd.log().contains(step), "{}", meshd.log());
    all_go_on();
    // Nobody is left: new clients are refused, by the sandbox; a reload does nothing to that.
    backends[1..].iter().for_each(fell_silent);
    eventually("nobody is left", || are([0, 0, 0]));
    lab.client.is_refused(Tcp, ADDRESSES[0]);
    all_go_on();
    let mark = meshd.mark();
    meshd.reload(
        &config.clone().service("name = 'other'\nport = [{ published = 81 }]\nbackend = [{ address = '10.255.0.99' }]"),
    );
    assert!(are([0, 0, 0]) && !meshd.steps_since(mark).iter().any(|step| step.contains("20229")));
    afflict(&backends[0], None);
    eventually("one is back", || are([1, 0, 0]));
    assert_eq!(asked(&lab), names(&[1]));
    all_go_on();
    // Its operator wants otherwise now: those who are down are cut.
    meshd.reload(&checked(&lab, "type = 'tcp', port = 9094"));
    eventually("they are gone", || there(&lab) == only(&[1]));
    assert!(held.iter_mut().map(|one| one.ask("cut").is_err()).filter(|cut| *cut).count() == 4);
    assert_eq!(who, names(&[1, 2, 3]));
}

/// Reset at once and every time, by the sandbox; and nothing else on the node answers in their place.
#[test]
fn when_nobody_is_left_clients_are_refused_at_once_until_one_is_back() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&checked(&lab, "type = 'tcp'"));
    // A local process on the published port stays unheard.
    let _local = lab.local_backend("local").tcp(20229);
    assert_eq!(asked(&lab), names(&[1, 2, 3]));
    let mut held = lab.client.connect(Tcp, ADDRESSES[0]).unwrap();
    let busy = held.ask("before").unwrap().backend;
    backends.iter().for_each(|backend| afflict(backend, REFUSES));
    eventually("all are gone", || there(&lab).is_empty());
    for to in ADDRESSES {
        for _ in 0..20 {
            lab.client.is_refused(Tcp, to);
        }
    }
    assert!(held.ask("after").is_err(), "{busy} is gone");
    afflict(&backends[1], None);
    eventually("one is back", || there(&lab) == only(&[2]));
    assert_eq!(asked(&lab), names(&[2]));
}

/// What is known of backends outlives meshd in the kernel: so no port is lost for that, and nobody who is down gets clients.
#[test]
fn a_restart_loses_nobody_and_believes_nobody() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    afflict(&backends[2], REFUSES);
    let config = checked(&lab, "type = 'tcp'");
    let meshd = lab.start(&config);
    assert_eq!(there(&lab), only(&[1, 2]));
    let load = lab.load(&[ADDRESSES[0], ADDRESSES[1]]);
    load.goes_on_for(20);
    meshd.kill9();
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    load.goes_on_for(40);
    assert_eq!(there(&lab), only(&[1, 2]));
    let steps = if by_nftables() { ["balance tcp"; 2] } else { ["delete backend", "delete service"] };
    assert!(!steps.iter().any(|step| meshd.log().contains(step)), "{}", meshd.log());
    let answers = load.finish();
    assert!(answers.iter().all(|answer| answer.backend != "kafka-3"));

    // Who died and who came back while there was no meshd is found.
    meshd.kill9();
    afflict(&backends[0], REFUSES);
    afflict(&backends[2], None);
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    eventually("it has looked", || there(&lab) == only(&[2, 3]));
    assert_eq!(asked(&lab), names(&[2, 3]));

    // A reload changes nothing that is known: who is down stays down, who is new has to prove itself.
    let mark = meshd.mark();
    meshd.reload(
        &config.clone().service("name = 'other'\nport = [{ published = 81 }]\nbackend = [{ address = '10.255.0.99' }]"),
    );
    assert_eq!(there(&lab), only(&[2, 3]));
    assert!(!meshd.steps_since(mark).iter().any(|step| step.contains("10.255.0.33")));
    // Who goes and comes back is another one, and serves once it has proved itself.
    let without: Vec<String> = config
        .to_string()
        .lines()
        .map(|line| line.replace("{ address = '10.255.0.34', netns = \"", "{ address = '10.255.0.94', netns = \""))
        .collect();
    let without = without.join("\n");
    assert_ne!(without, config.to_string());
    for text in [&without, &config.to_string()] {
        std::fs::write(lab.config_file(), text).unwrap();
        meshd.signal(nix::sys::signal::Signal::SIGHUP);
        let expected = if *text == without { "6:34" } else { "4:34" };
        eventually("it has taken effect", || {
            there(&lab).contains(expected) && there(&lab).contains("4:34") == (*text != without)
        });
    }
    // Without checks everybody is taken to be well again.
    let unchecked =
        config.to_string().lines().filter(|line| !line.starts_with("check = ")).collect::<Vec<_>>().join("\n");
    std::fs::write(lab.config_file(), unchecked).unwrap();
    meshd.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("all are there", || there(&lab) == only(&[1, 2, 3]));
    // And with them again nobody who had clients loses them for being asked.
    // (kafka-1 still refuses.)
    let mut held = (0..3).find_map(|_| lab.client.connect(Tcp, ADDRESSES[0]).ok()).unwrap();
    held.ask("before").unwrap();
    let mark = meshd.mark();
    meshd.reload(&config);
    let ends =
        |step: &String| if by_nftables() { step.ends_with(" no more") } else { step.starts_with("delete service") };
    assert!(!meshd.steps_since(mark).iter().any(ends));
    held.ask("after").unwrap();
}

/// One socket asks all the while: its flow is the dead backend's, and then another's.
#[test]
fn a_flow_of_datagrams_moves_when_its_backend_dies() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp, Udp]);
    let config = checked(&lab, "type = 'tcp'").replacing("target = 9092 }]", "target = 9092, protocol = 'udp' }]");
    let _meshd = lab.start(&config);
    for to in ADDRESSES {
        let flow = lab.client.datagrams(5353, to);
        let ask = |text: &str| flow.ask(text, Duration::from_millis(300));
        let first = ask("who").unwrap().backend;
        let number = names(&[1, 2, 3]).iter().position(|name| *name == first).unwrap();
        let (backend, others) = (&backends[number], [1, 2, 3].into_iter().filter(|other| *other != number + 1));
        afflict(backend, HANGS);
        backend.run("nft add rule inet affliction input udp dport 9092 drop");
        let others: Vec<usize> = others.collect();
        eventually("it is gone", || there(&lab) == only(&others));
        let gone = Instant::now();
        eventually("the flow has moved", || ask("where").is_ok_and(|answer| answer.backend != first));
        println!("{to}: the flow moved {:?} after its backend was deleted", gone.elapsed());
        afflict(backend, None);
        eventually("it is back", || there(&lab) == only(&[1, 2, 3]));
    }
}

/// A program that does not end is ended, with all that it has started, and says nothing good of its backend.
#[test]
fn a_program_that_hangs_is_a_failure_and_goes() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    // A time of this run's own: one that was killed may have left its own behind.
    let time = format!("4711{}", std::process::id());
    let hangs = format!(
        "type = 'exec', command = ['/bin/sh', '-c', 'case $MESHD_ADDRESS in *33) sleep {time} & sleep {time}; esac']"
    );
    // A machine that is busy takes its time to start a shell.
    let config = checked(&lab, &hangs).replacing("interval = '1s', timeout = '1s'", "interval = '4s', timeout = '4s'");
    let _meshd = lab.start(&config);
    eventually("it is known", || there(&lab) == only(&[2, 3]));
    assert_eq!(asked(&lab), names(&[2, 3]));
    // Who has not yet answered gets nobody either.
    eventually("it is told", || lab.meshctl("status").contains("backend 10.255.0.33 is down: "));
    // One question's are there at a time, of each family: the shell and what it has started.
    for _ in 0..5 {
        let counted = lab.node.try_run(&format!("pgrep -f -c {time}")).stdout;
        let count: usize = String::from_utf8(counted).unwrap().trim().parse().unwrap();
        assert!(count <= 6, "{count}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Someone deletes the sandbox: it is made anew, and backends are asked from the new one.
#[test]
fn backends_are_asked_from_the_sandbox_that_is_there() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&checked(&lab, "type = 'tcp'"));
    let sandbox = lab.sandbox();
    crate::lab::batch(None, &format!("netns del {}\n", sandbox.name));
    eventually("there is another", || sandbox.exists() && there(&lab) == only(&[1, 2, 3]));
    eventually("all serve", || asked(&lab) == names(&[1, 2, 3]));
    afflict(&backends[0], HANGS);
    eventually("it is gone", || there(&lab) == only(&[2, 3]));
    // The one before did not live on with us in it: its link would have kept the name that the new one has.
    assert_eq!(lab.node.json("ip -j link show dev mesh_sbox").as_array().unwrap().len(), 1);
}

/// The question takes the way that traffic takes: over the tunnel, also to those who see the client.
#[test]
fn backends_of_other_nodes_are_asked_too() {
    let Some(nodes) = Nodes::new(2, Underlay::default()) else { return };
    let backends: Vec<Backend> = ["kafka-1", "kafka-2"].map(|name| nodes.backend(name).tcp(9092)).into();
    let service = |way: &str| {
        let backend = |number: usize| {
            format!("{{ address = '10.255.0.{}', node = 'node-{number}', netns = \"kafka-{number}\" }}", 32 + number)
        };
        format!(
            "name = 'kafka'\nclient_address = '{way}'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}, {}]\n\
             check = {{ type = 'tcp', interval = '1s', timeout = '1s' }}",
            backend(1),
            backend(2)
        )
    };
    let mut daemons = nodes.start(|config| config.service(&service("preserve")));
    let answer = |node: &str| {
        let answers = nodes.client.ask_times(4, Tcp, &format!("{node}:20229"));
        answers.iter().map(|answer| answer.backend.clone()).collect::<BTreeSet<String>>()
    };
    for way in ["preserve", "snat"] {
        for node in &nodes.all {
            eventually("both serve", || answer(&node.address()).len() == 2);
        }
        // A node that is cut off takes its backends with it, for the others.
        nodes.link(&nodes.all[1], false);
        let near = || nodes.client.try_ask(Tcp, "192.168.50.1:20229").is_ok_and(|answer| answer.backend == "kafka-1");
        eventually("only the near one serves", || (0..4).all(|_| near()));
        nodes.link(&nodes.all[1], true);
        eventually("both serve", || answer("192.168.50.1").len() == 2);
        if way == "preserve" {
            for (node, daemon) in nodes.all.iter().zip(&mut daemons) {
                daemon.reload(&nodes.config(node).service(&service("snat")));
            }
        }
    }
    drop(backends);
}
