//! kill -9 between any two steps, then a start: the kernel comes to the same state as undisturbed.
//!
//! The moments are spread over the time that the steps took when nobody disturbed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::{Config, Lab, Meshd, Tcp, assert_same};

const ROUNDS: u32 = 6;

fn ports(lab: &Lab, ports: &str, backends: &str) -> Config {
    lab.config().service(&format!("name = 'kafka'\nport = [{ports}]\nbackend = [{backends}]"))
}

pub fn first(lab: &Lab) -> Config {
    ports(
        lab,
        "{ published = 20229, target = 9092 }, { published = '9090-9099', protocol = 'udp' }",
        "{ address = '10.255.0.33', netns = \"kafka-1\" }, { address = 'fd00:255::33', netns = \"kafka-1\" }, \
         { address = '10.255.0.34', netns = \"kafka-2\" }",
    )
}

pub fn second(lab: &Lab) -> Config {
    ports(
        lab,
        "{ published = 20229, target = 9092 }, { published = '9095-9104', protocol = 'udp' }, { published = 20231 }",
        "{ address = '10.255.0.34', netns = \"kafka-2\", weight = 5 }, \
         { address = '10.255.0.35', netns = \"kafka-3\" }, { address = 'fd00:255::35', netns = \"kafka-3\" }",
    )
}

/// Waits until the plan was announced: right after that its steps are done.
fn wait_for_plan(meshd: &Meshd, mark: usize, last_step: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !meshd.log()[mark..].contains(last_step) {
        assert!(Instant::now() < deadline, "no plan: {}", meshd.log());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the rounds have in common: how long the steps took, and how many starts found something half done.
struct Rounds {
    took: Duration,
    half_done: u32,
}

impl Rounds {
    fn kill_after(&self, meshd: Meshd, round: u32) {
        std::thread::sleep(self.took * round / ROUNDS);
        meshd.kill9();
    }

    /// A start that must end in `wanted`.
    fn start(&mut self, lab: &Lab, wanted: &str, round: u32) -> Meshd {
        let mut meshd = lab.spawn();
        meshd.wait_until_ready();
        self.half_done += u32::from(!meshd.steps_since(0).is_empty());
        assert_same(wanted, &lab.state(), &format!("after the kill of round {round}"));
        meshd
    }

    fn report(&self) {
        println!("{} of {ROUNDS} starts found something to do; steps take {:?}", self.half_done, self.took);
    }
}

#[test]
fn a_first_start_may_be_killed_anywhere() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    lab.write(&first(&lab));
    let last_step = "in host: add udp 9090";
    let mut meshd = lab.spawn();
    wait_for_plan(&meshd, 0, last_step);
    let began = Instant::now();
    meshd.wait_until_ready();
    let mut rounds = Rounds { took: began.elapsed(), half_done: 0 };
    let wanted = lab.state();
    meshd.kill9();
    for round in 0..ROUNDS {
        assert!(lab.meshd(&["--cleanup"]).status.success());
        let meshd = lab.spawn();
        wait_for_plan(&meshd, 0, last_step);
        rounds.kill_after(meshd, round);
        rounds.start(&lab, &wanted, round).kill9();
    }
    lab.client.ask(Tcp, "192.168.50.1:20229");
    lab.client.ask(Tcp, "[fd50::1]:20229");
    rounds.report();
}

#[test]
fn a_reload_may_be_killed_anywhere() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let configs = [first(&lab), second(&lab)];
    let mut meshd = lab.start(&configs[1]);
    let second = lab.state();
    let mark = meshd.mark();
    meshd.reload(&configs[0]);
    let first = lab.state();
    let last_step = |number: usize| ["detach leg 02:42:0a:ff:00:23", "detach leg 02:42:0a:ff:00:21"][number];
    assert!(meshd.log()[mark..].contains(last_step(0)), "{:#?}", meshd.steps_since(mark));

    let mark = meshd.mark();
    lab.write(&configs[1]);
    meshd.signal(Signal::SIGHUP);
    wait_for_plan(&meshd, mark, last_step(1));
    let began = Instant::now();
    meshd.wait_until_ready();
    let mut rounds = Rounds { took: began.elapsed(), half_done: 0 };
    assert_same(&second, &lab.state(), "after the way there and back");

    for round in 0..ROUNDS {
        let to = (round % 2) as usize;
        let mark = meshd.mark();
        lab.write(&configs[to]);
        meshd.signal(Signal::SIGHUP);
        wait_for_plan(&meshd, mark, last_step(to));
        rounds.kill_after(meshd, round);
        meshd = rounds.start(&lab, [&first, &second][to], round);
        lab.client.ask(Tcp, "192.168.50.1:20229");
    }
    rounds.report();
}
