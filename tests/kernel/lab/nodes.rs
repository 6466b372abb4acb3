//! Several nodes on one LAN, each with a meshd of its own, and the client beside them.
//!
//! ```text
//! client  c0 192.168.50.2, fd50::2 ──────┐
//! node-1  lan0 192.168.50.1, fd50::1 ────┤ br0   lan
//! node-2  lan0 192.168.50.12, fd50::12 ──┤
//! node-3  lan0 192.168.50.13, fd50::13 ──┘
//! ```

use std::ops::Deref;
use std::path::PathBuf;

use super::{Config, Lab, Meshd, Place, able, batch};

/// The network between the nodes.
#[derive(Clone, Copy, Debug)]
pub struct Underlay {
    /// Bytes; of every link on it.
    pub mtu: u32,
    /// Whether the tunnel's ends are IPv6 addresses.
    pub v6: bool,
}

impl Default for Underlay {
    fn default() -> Underlay {
        Underlay { mtu: 1500, v6: false }
    }
}

/// A lab with several nodes. What [`Lab`] says of its node is said of node-1.
pub struct Nodes {
    lab: Lab,
    /// The switch: all that is on the wire passes here, by a port that is named after its owner.
    pub lan: Place,
    pub all: Vec<Node>,
    underlay: Underlay,
    /// By node, once the tunnel is to be encrypted.
    keys: Vec<String>,
}

/// One of them.
pub struct Node {
    place: Place,
    /// From 1.
    pub number: usize,
    sandbox: String,
    directory: PathBuf,
}

impl Nodes {
    /// As [`Lab::new`].
    pub fn new(count: usize, underlay: Underlay) -> Option<Nodes> {
        able()?;
        let lab = Lab::empty();
        let lan = Place::new(format!("{}lan", lab.prefix));
        let node = |number: usize| {
            let (name, sandbox, directory) = match number {
                1 => (lab.node.name.clone(), lab.sandbox_name(), lab.directory.clone()),
                _ => (
                    format!("{}node{number}", lab.prefix),
                    format!("{}{number}", lab.sandbox_name()),
                    lab.directory.join(format!("node-{number}")),
                ),
            };
            std::fs::create_dir_all(&directory).expect("cannot make a node's directory");
            Node { place: Place::new(name), number, sandbox, directory }
        };
        let all: Vec<Node> = (1..=count).map(node).collect();
        let mut places: Vec<&Place> = all.iter().map(|node| &node.place).collect();
        places.extend([&lan, &lab.client]);
        lab.add_namespaces(&places);
        let nodes = Nodes { lab, lan, all, underlay, keys: Vec::new() };
        batch(Some(&nodes.lan), "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n");
        nodes.plug("client", &nodes.lab.client, "c0", 2);
        for node in &nodes.all {
            nodes.plug(&node.name(), &node.place, "lan0", node.host());
        }
        Some(nodes)
    }

    /// Has all nodes make their keys, and speak in secret from now on.
    pub fn encrypt(&mut self) {
        let key = |node: &Node| {
            // All that is known so far.
            self.write(node, &self.config(node).set("ingress", "encryption", "'wireguard'"));
            let program = super::daemon::program();
            node.run(&format!("{} --config {} --public-key", program.display(), node.config_file().display()))
        };
        self.keys = self.all.iter().map(|node| key(node).trim().to_owned()).collect();
    }

    /// As it prints it itself.
    pub fn public_key(&self, node: &Node) -> &str {
        &self.keys[node.number - 1]
    }

    fn plug(&self, port: &str, place: &Place, link: &str, host: usize) {
        let (lan, name, mtu) = (&self.lan.name, &place.name, self.underlay.mtu);
        batch(
            None,
            &format!("link add {port} mtu {mtu} netns {lan} type veth peer name {link} mtu {mtu} netns {name}\n"),
        );
        batch(Some(&self.lan), &format!("link set {port} master br0 up\n"));
        batch(
            Some(place),
            &format!(
                "addr add 192.168.50.{host}/24 dev {link}\naddr add fd50::{host}/64 dev {link} nodad\n\
                 link set {link} up\nlink set lo up\n"
            ),
        );
    }

    /// The configuration of that node, with all nodes as its peers, without services.
    pub fn config(&self, node: &Node) -> Config {
        let quoted = |text: String| format!("'{text}'");
        let mut config = Config::new(&self.lab.prefix, &node.sandbox, &node.directory)
            .set("node", "name", &quoted(node.name()))
            .set("node", "address", &quoted(self.tunnel_end(node)))
            .set("ingress", "address", &quoted(node.ingress()))
            .set("ingress", "address6", &quoted(node.ingress6()));
        if !self.keys.is_empty() {
            config = config.set("ingress", "encryption", "'wireguard'");
        }
        for peer in &self.all {
            let key = self.keys.get(peer.number - 1).map(|key| format!("public_key = '{key}'\n"));
            config = config.peer(&format!(
                "{}name = '{}'\naddress = '{}'\ningress = '{}'\ningress6 = '{}'",
                key.unwrap_or_default(),
                peer.name(),
                self.tunnel_end(peer),
                peer.ingress(),
                peer.ingress6()
            ));
        }
        config
    }

    pub fn tunnel_end(&self, node: &Node) -> String {
        if self.underlay.v6 { node.address6() } else { node.address() }
    }

    /// Starts all of them with these services; they come up side by side.
    pub fn start(&self, with: impl Fn(Config) -> Config) -> Vec<Meshd> {
        for node in &self.all {
            self.write(node, &with(self.config(node)));
        }
        let mut daemons: Vec<Meshd> = self.all.iter().map(Node::spawn).collect();
        daemons.iter_mut().for_each(Meshd::wait_until_ready);
        daemons
    }

    pub fn write(&self, node: &Node, config: &Config) {
        std::fs::write(node.config_file(), config.to_string()).expect("cannot write a configuration");
    }

    /// A MiB to the client and a MiB from it, so often, by the port 20229 at that address of a node.
    pub fn bodies(&self, at: &str, times: usize) {
        const MIB: usize = 1 << 20;
        let file = self.lab.file("body", MIB);
        for _ in 0..times {
            let get = format!("curl -sSgf -m 60 -o /dev/null -w %{{size_download}} http://{at}:20229/bytes/{MIB}");
            assert_eq!(self.lab.client.run(&get), MIB.to_string(), "from {at}");
            let put =
                format!("curl -sSgf -m 60 -D - -o /dev/null --data-binary @{} http://{at}:20229/", file.display());
            let head = self.lab.client.run(&put);
            assert!(head.contains(&format!("X-Received: {MIB}\r\n")), "to {at}: {head}");
        }
    }

    /// Cuts the node's link to the LAN, or joins it again.
    pub fn link(&self, node: &Node, up: bool) {
        batch(Some(&self.lan), &format!("link set {} {}\n", node.name(), if up { "up" } else { "down" }));
    }
}

impl Node {
    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    fn host(&self) -> usize {
        if self.number == 1 { 1 } else { 10 + self.number }
    }

    pub fn address(&self) -> String {
        format!("192.168.50.{}", self.host())
    }

    pub fn address6(&self) -> String {
        format!("fd50::{}", self.host())
    }

    /// Whom the backends see.
    pub fn ingress(&self) -> String {
        format!("10.255.0.{}", 2 + self.number)
    }

    pub fn ingress6(&self) -> String {
        format!("fd00:255::{}", 2 + self.number)
    }

    pub fn sandbox(&self) -> Place {
        Place::new(self.sandbox.clone())
    }

    pub fn overlay(&self) -> Place {
        Place::new(format!("{}_overlay", self.sandbox))
    }

    /// Where its key is, and what the control socket said.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.join("meshd.toml")
    }

    /// Starts meshd with the configuration that is there, and does not wait.
    pub fn spawn(&self) -> Meshd {
        Meshd::spawn(&self.place, &self.config_file(), &self.directory)
    }

    /// What Prometheus would get.
    pub fn metrics(&self) -> String {
        self.run("curl -sSf -m 60 http://127.0.0.1:9326/metrics")
    }
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Deref for Nodes {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Nodes {
    /// node-1 is the lab's own.
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for node in self.all.iter().skip(1).filter(|node| node.config_file().exists()) {
            let mut command = std::process::Command::new(super::daemon::program());
            let cleanup = node.output(command.arg("--config").arg(node.config_file()).arg("--cleanup"));
            let left: Vec<Place> = [node.sandbox(), node.overlay()].into_iter().filter(Place::exists).collect();
            batch(None, &left.iter().map(|place| format!("netns del {}\n", place.name)).collect::<String>());
            if !failed {
                let log = String::from_utf8_lossy(&cleanup.stderr);
                assert!(cleanup.status.success() && left.is_empty(), "--cleanup left {left:?}\n{log}");
            }
        }
    }
}
