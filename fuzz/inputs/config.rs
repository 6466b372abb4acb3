//! A configuration file, whatever is in it: up to the steps that lead a bare host to what it wants.

use meshd::config::Config;
use meshd::dataplane;
use meshd::kernel::fake;
use meshd::objects::{Objects, Opening, PublicKey, Surroundings};
use meshd::plan::{Plan, diff};

pub fn feed(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = Config::state_dir(text, "services.toml");
    let config = match Config::parse(text, "services.toml") {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.to_string().is_empty(), "a refusal says why");
            return;
        }
    };
    let bare = config.mesh("node-1");
    let mut keyed = bare.clone();
    keyed.key = Some(PublicKey([1; 32]));
    for (mesh, surroundings) in [(bare, Surroundings::default()), (keyed, busy())] {
        let wanted = dataplane::objects(&mesh, &surroundings);
        assert_eq!(diff(&wanted, &wanted), Plan::default());
        let mut there = Objects::default();
        lead(&mut there, &wanted);
        assert!(there == wanted, "to be done still:\n{}", diff(&there, &wanted));
        lead(&mut there, &Objects::default());
    }
}

/// A host where all that makes a difference is there.
fn busy() -> Surroundings {
    let opening = Opening { family: "ip", table: "filter".to_owned(), chain: "FORWARD".to_owned() };
    Surroundings {
        kernel: (6, 12),
        underlay_mtu: 9000,
        forward_drops: [opening].into(),
        accept_ra: ["eth0".to_owned()].into(),
        uplinks: ["eth0".to_owned(), "eth1".to_owned()].into(),
        bridge_netfilter: true,
    }
}

/// Does all steps; none may be refused.
fn lead(there: &mut Objects, wanted: &Objects) {
    let plan = diff(there, wanted);
    let _ = plan.to_string();
    for step in &plan.steps {
        if let Err(refusal) = fake::apply(there, step) {
            panic!("`{step}` is refused: {refusal}\nin the plan\n{plan}");
        }
    }
}
