//! Backends that fall and rise under load: whoever is with another one notices nothing, and whoever comes once it is known
//! that one is down, or up again.

use std::time::Duration;

use crate::lab::{Config, HANGS, Lab, MARK, REFUSES, Tcp, afflict, eventually, value_of};

const TO: &str = "192.168.50.1:20229";
/// Questions of the crowd, each time.
const SOME: usize = 300;

fn kafka(lab: &Lab) -> Config {
    let backends: Vec<String> = (1..=3)
        .map(|number| format!("{{ address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number))
        .collect();
    lab.config().service(&format!(
        "name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}]\n\
         check = {{ type = 'tcp', interval = '1s', timeout = '1s', rise = 1, fall = 2 }}",
        backends.join(", ")
    ))
}

/// Which of them the kernel sends clients to.
fn work(lab: &Lab) -> Vec<usize> {
    let working = lab.sandbox().weights().into_iter().filter(|((mark, _), weight)| *mark == MARK && *weight > 0);
    let number = |address: String| address.rsplit('.').next().and_then(|last| last.parse::<usize>().ok()).unwrap() - 32;
    working.map(|((_, place), _)| number(place.ip().to_string())).collect()
}

/// Who was with it when it fell has failed by then.
fn dust_settles() {
    std::thread::sleep(Duration::from_millis(500));
}

#[test]
fn one_that_flaps_troubles_only_those_who_were_with_it() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let mut meshd = lab.start(&kafka(&lab));
    eventually("all work", || work(&lab) == [1, 2, 3]);
    let crowd = lab.crowd(TO, 3, 3);
    crowd.all_goes_well_for(SOME);
    for round in 0..6 {
        afflict(&backends[0], if round % 2 == 0 { REFUSES } else { HANGS });
        if round == 2 {
            // Nobody is meshd when it falls.
            meshd.kill9();
            meshd = lab.resume();
        }
        eventually("it is gone", || work(&lab) == [2, 3]);
        dust_settles();
        if round % 2 == 1 {
            // Who waits for it in vain does so for ten seconds at most, and is no failure of now.
            let failed = || crowd.failed();
            let mut last = failed();
            eventually("nobody waits for it any more", || {
                std::thread::sleep(Duration::from_secs(3));
                std::mem::replace(&mut last, failed()) == failed()
            });
        }
        crowd.all_goes_well_for(SOME);
        afflict(&backends[0], None);
        if round == 3 {
            meshd.kill9();
            meshd = lab.resume();
        }
        eventually("it is back", || work(&lab) == [1, 2, 3]);
        crowd.all_goes_well_for(SOME);
    }
    let (failures, answered) = crowd.finish();
    println!("{answered} requests, {} failed: those who were with it when it fell, six times", failures.len());
    assert!(!meshd.log().contains("10.255.0.34:9092 from") && !meshd.log().contains("remove tcp 20229"));
    assert_eq!(value_of(&lab.metrics(), "meshd_drift_found_total{kind=\"backend\"}"), 0.0);
}

#[test]
fn all_fall_and_one_rises() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let mut meshd = lab.start(&kafka(&lab));
    eventually("all work", || work(&lab) == [1, 2, 3]);
    let crowd = lab.crowd(TO, 3, 3);
    crowd.all_goes_well_for(SOME);
    for round in 0..3 {
        backends.iter().for_each(|backend| afflict(backend, REFUSES));
        eventually("nobody works", || work(&lab).is_empty());
        if round == 1 {
            meshd.kill9();
            meshd = lab.resume();
        }
        for _ in 0..5 {
            lab.client.is_refused(Tcp, TO);
        }
        afflict(&backends[round], None);
        eventually("one works", || work(&lab) == [round + 1]);
        dust_settles();
        crowd.all_goes_well_for(SOME);
        backends.iter().for_each(|backend| afflict(backend, None));
        eventually("all work", || work(&lab) == [1, 2, 3]);
        crowd.all_goes_well_for(SOME);
    }
    drop(meshd);
    crowd.finish();
}
