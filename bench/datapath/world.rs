//! One or two nodes, a client and three backends, all namespaces, made anew for each variant.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Command, Stdio};

use crate::lab::{Backend, Lab, NODE4, Nodes, Place, Underlay};
use crate::programs::{self, Program};
use crate::traffic;

/// Names and addresses. They are on the last node.
pub const BACKENDS: [(&str, &str); 3] =
    [("kafka-1", "10.255.0.33"), ("kafka-2", "10.255.0.34"), ("kafka-3", "10.255.0.35")];

/// Ports are published from here on.
const FIRST: u16 = 20000;

enum Labs {
    One(Lab),
    Two(Nodes),
}

pub struct World {
    labs: Labs,
    pub nodes: Vec<Place>,
    pub backends: [Backend; 3],
    ports: u16,
    servers: Vec<Program>,
}

impl World {
    pub fn new(nodes: usize, ports: u16) -> Option<World> {
        let labs = match nodes {
            1 => Labs::One(Lab::new()?),
            _ => Labs::Two(Nodes::new(nodes, Underlay::default())?),
        };
        let (places, backends) = {
            let lab: &Lab = match &labs {
                Labs::One(lab) => lab,
                Labs::Two(nodes) => nodes,
            };
            let places = match &labs {
                Labs::One(lab) => vec![lab.node.clone()],
                Labs::Two(nodes) => nodes.all.iter().map(|node| Place::clone(node)).collect(),
            };
            (places, lab.backends(BACKENDS.map(|(name, _)| name)))
        };
        let mut world = World { labs, nodes: places, backends, ports, servers: Vec::new() };
        world.file("1m", 1 << 20);
        for (backend, (name, _)) in world.backends.iter().zip(BACKENDS) {
            world.servers.push(programs::server(backend, name, world.config_file().parent().expect("a directory")));
        }
        Some(world)
    }

    pub fn client(&self) -> &Place {
        &self.client
    }

    /// The nodes, where there are several.
    pub fn cluster(&self) -> Option<&Nodes> {
        match &self.labs {
            Labs::One(_) => None,
            Labs::Two(nodes) => Some(nodes),
        }
    }

    /// What the nodes of meshd say to each other is secret from now on.
    pub fn encrypt(&mut self) {
        if let Labs::Two(nodes) = &mut self.labs {
            nodes.encrypt();
        }
    }

    /// A node's, towards the client and the other.
    pub fn address(&self, node: usize) -> String {
        self.cluster().map_or(NODE4.to_owned(), |nodes| nodes.all[node].address())
    }

    /// The overlay's namespace of a node, by hand.
    pub fn overlay(&self, node: usize) -> Place {
        Place::new(format!("{}-overlay", self.nodes[node].name))
    }

    /// The sandbox, by hand.
    pub fn sandbox(&self) -> Place {
        Place::new(format!("{}-sandbox", self.nodes[0].name))
    }

    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        FIRST..FIRST + self.ports
    }

    /// The one that is asked: in the middle.
    pub fn published(&self) -> u16 {
        FIRST + self.ports / 2
    }

    /// That port of the first node.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(NODE4.parse().expect("an address"), self.published())
    }

    /// The backends' own addresses.
    pub fn direct(&self) -> Vec<SocketAddr> {
        BACKENDS.map(|(_, address)| SocketAddr::new(address.parse().expect("an address"), traffic::TARGET)).to_vec()
    }
}

impl Deref for World {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        match &self.labs {
            Labs::One(lab) => lab,
            Labs::Two(nodes) => nodes,
        }
    }
}

impl Drop for World {
    /// What was made by hand; the lab deletes the rest.
    fn drop(&mut self) {
        let mut places: Vec<Place> = (0..self.nodes.len()).map(|node| self.overlay(node)).collect();
        places.push(self.sandbox());
        let lines = places.iter().filter(|place| place.exists()).map(|place| format!("netns del {}\n", place.name));
        crate::lab::batch(None, &lines.collect::<String>());
    }
}

/// Runs a program that reads its lines.
pub fn program(place: &Place, line: &str, input: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = place.within(|| command.spawn()).unwrap_or_else(|error| panic!("{line}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{line} in {}: {status}", place.name);
}
