//! meshd itself, in each of its modes.

use crate::lab::{Config, Meshd};
use crate::traffic::TARGET;
use crate::world::{BACKENDS, World};

/// Runs it with as many services as there are ports; `keys` are each service's.
pub fn start(world: &World, dataplane: &str, keys: &str) -> Vec<Meshd> {
    // They are on the last node.
    let house = world.nodes.len();
    let services = |config: Config| {
        let backends = BACKENDS.map(|(name, address)| {
            let node = if house > 1 { format!(", node = 'node-{house}'") } else { String::new() };
            format!("{{ address = '{address}'{node}, netns = \"{name}\" }}")
        });
        let backends = backends.join(", ");
        let config = config.without_ipv6().set("node", "dataplane", &format!("'{dataplane}'"));
        world.ports().fold(config, |config, port| {
            config.service(&format!(
                "name = 'service-{port}'\n{keys}\nport = [{{ published = {port}, target = {TARGET} }}]\nbackend = [{backends}]"
            ))
        })
    };
    match world.cluster() {
        None => vec![world.start(&services(world.config()))],
        Some(nodes) => {
            for node in &nodes.all {
                nodes.write(node, &services(nodes.config(node)));
            }
            let mut daemons: Vec<Meshd> = nodes.all.iter().map(|node| node.spawn()).collect();
            daemons.iter_mut().for_each(Meshd::wait_until_ready);
            daemons
        }
    }
}
