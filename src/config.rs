//! Text to [`Config`]: the grammar, the defaults, and errors that point at line and column.
//!
//! The text is TOML. It is read in three passes: `syntax` makes tables of it; `network` and `services` turn tables
//! into the words of [`crate::mesh`], one value at a time, by means of `reader`; `clash` looks for what does not go
//! together. Each reports all it finds, so that a file is corrected in one go, and what was reported once is left
//! out of what follows, so that one mistake is one error. Every error says what was found and what would do.
//!
//! `config/services.toml` shows every key with its default.

mod access;
mod beside;
mod check;
mod clash;
mod error;
mod nearest;
mod network;
mod peers;
mod reader;
mod services;
mod spread;
mod standing;
mod syntax;
mod way;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::mesh::{Dataplane, Gateway, Ingress, Mesh, Peer, Service};
use crate::objects::{PortRange, Protocol, PublicKey, Timeouts};

use error::{At, Findings};
use peers::{Nodes, Own};
use reader::Section;
use services::{LONGEST_TIMEOUT, Sites};

pub use beside::{Beside, Misfit, judge, judge_beside};
pub use check::{TYPES as CHECK_TYPES, keys_of as check_keys, written as written_duration};
pub use error::{Error, Errors};
pub use nearest::nearest;
pub use standing::Standing;

const ROOT: &[&str] = &["node", "ingress", "gateway", "ipvs", "metrics", "control", "peer", "service"];

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9326);
/// Where meshctl looks, too.
pub const DEFAULT_SOCKET: &str = "/run/meshd/meshd.sock";
/// Where `[node] state_dir` is.
pub const DEFAULT_STATE: &str = "/var/lib/meshd";
const DEFAULT_GROUP: &str = "meshd";

/// Everything that the configuration says, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    pub metrics: Metrics,
    pub control: Control,
    pub ingress: Ingress,
    pub gateway: Gateway,
    pub timeouts: Timeouts,
    /// The other nodes, in the order of the file.
    pub peers: Vec<Peer>,
    /// The public key that the list of peers has for this node itself, if it is there by the name of [node].
    pub own_key: Option<PublicKey>,
    /// In the order of the file, as are their ports and backends.
    pub services: Vec<Arc<Service>>,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `None`: the host's name.
    pub name: Option<String>,
    /// How other nodes reach this one: the local end of the VXLAN tunnel.
    pub address: Option<IpAddr>,
    /// Who balances; `None`: IPVS where the kernel has it, else nftables.
    pub dataplane: Option<Dataplane>,
    pub on_stop: OnStop,
    /// Where the services of the control socket are kept.
    pub state_dir: PathBuf,
    /// Whether the file is read again by itself when it changes.
    pub watch: bool,
}

impl Default for Node {
    fn default() -> Node {
        let (on_stop, state_dir) = (OnStop::default(), DEFAULT_STATE.into());
        Node { name: None, address: None, dataplane: None, on_stop, state_dir, watch: false }
    }
}

/// What becomes of the kernel's objects when meshd stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They stay: published ports go on answering, and the next start adopts them.
    #[default]
    Keep,
    /// They go.
    Remove,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Port 0 is any that is free.
    pub listen: SocketAddr,
    /// Whether each backend has series of its own.
    pub backends: bool,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// An absolute path, short enough for the address of a Unix socket.
    pub socket: PathBuf,
    /// The group that may connect, beside root.
    pub group: String,
}

impl Config {
    /// Reads a configuration. `file` is what the errors call it.
    ///
    /// # Errors
    ///
    /// If it is not TOML, the errors of its syntax; else everything else that is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Config, Errors> {
        let findings = Findings::new(text, file);
        let config = match syntax::parse(text, &findings) {
            Some(document) => read(&Section::root(document.get_ref(), ROOT, &findings)),
            None => None,
        };
        match config {
            Some(config) if findings.count() == 0 => Ok(config),
            _ => Err(findings.into_errors()),
        }
    }

    /// Where the state is that a configuration speaks of, whatever else is wrong with it. `file` as in [`parse`](Config::parse).
    ///
    /// # Errors
    ///
    /// If it is not TOML, or `[node]` cannot be read.
    pub fn state_dir(text: &str, file: &str) -> Result<PathBuf, Errors> {
        let findings = Findings::new(text, file);
        let document = syntax::parse(text, &findings);
        let state_dir = document.and_then(|document| {
            let root = Section::root(document.get_ref(), ROOT, &findings);
            let before = findings.count();
            let (node, ..) = node(&root);
            (findings.count() == before).then_some(node.state_dir)
        });
        state_dir.ok_or_else(|| findings.into_errors())
    }

    /// This node's name; the host's if the configuration gives none.
    pub fn node_name<'a>(&'a self, host_name: &'a str) -> &'a str {
        self.node.name.as_deref().unwrap_or(host_name)
    }

    /// The public key that the list of peers has for this node itself.
    pub fn listed_key(&self, host_name: &str) -> Option<PublicKey> {
        let name = self.node_name(host_name);
        self.own_key.or_else(|| self.peers.iter().find(|peer| peer.name == name)?.key)
    }

    /// What this node has to do, but for its key. `host_name` is its name if the configuration gives none.
    pub fn mesh(&self, host_name: &str) -> Mesh {
        self.mesh_with(host_name, std::iter::empty())
    }

    /// The same with more services than the file's.
    pub fn mesh_with(&self, host_name: &str, more: impl ExactSizeIterator<Item = Arc<Service>>) -> Mesh {
        // At once as many as there will be: they may be thousands, at each change.
        let mut services = Vec::with_capacity(self.services.len() + more.len());
        services.extend_from_slice(&self.services);
        services.extend(more);
        Mesh {
            node: self.node_name(host_name).to_owned(),
            address: self.node.address,
            key: None,
            ingress: self.ingress.clone(),
            gateway: self.gateway.clone(),
            dataplane: self.node.dataplane.unwrap_or_default(),
            timeouts: self.timeouts,
            peers: self.peers.clone(),
            services,
            out: BTreeSet::new(),
            resting: BTreeSet::new(),
            full: BTreeSet::new(),
        }
    }
}

/// `None` only if something was reported.
fn read(root: &Section<'_>) -> Option<Config> {
    let findings = root.findings;
    let (node, address, has_address) = node(root);
    let metrics = metrics(root);
    let control = control(root);
    let timeouts = timeouts(root);
    let ingress = network::ingress(root, has_address, address.is_some_and(|address| address.value.is_ipv6()));
    let gateway = network::gateway(root);
    let own = Own { name: node.name.as_deref(), address: node.address, ingress: ingress.as_ref() };
    let peers = peers::read(root, &own);
    let mut sites = Sites { nodes: nodes(&node, &peers.peers), dataplane: node.dataplane, ..Sites::default() };
    let services = services::read(root, &mut sites);

    // Services list their own backends behind their ports': what is already there stands above.
    sites.backends.sort_by_key(|site| site.address.at);
    clash::names(&sites.names, findings);
    clash::ports(&sites.ports, &taken(&metrics, ingress.as_ref().map(|read| &read.ingress)), findings);
    let (ingress, gateway) = (ingress?, gateway?);
    clash::subnets(&ingress, &gateway, findings);
    if let Some(address) = address {
        clash::node_address(address, &ingress, &gateway, findings);
    }
    let backends = clash::backends(&sites.backends, &ingress, &gateway, &peers.peers, findings);
    clash::namespaces(&backends, &ingress, findings);
    clash::macs(&backends, &ingress, &peers.endpoints, findings);

    let (ingress, gateway, own_key, peers) = (ingress.ingress, gateway.gateway, peers.own_key, peers.peers);
    Some(Config {
        node,
        metrics,
        control,
        ingress,
        gateway,
        timeouts,
        peers,
        own_key,
        services: services.into_iter().map(Arc::new).collect(),
    })
}

/// What a backend's `node` may be.
fn nodes(node: &Node, peers: &[Peer]) -> Nodes {
    Nodes { own: node.name.clone(), peers: peers.iter().map(|peer| peer.name.clone()).collect() }
}

/// Ports of the host that meshd needs itself: published, they would be led away from it.
fn taken(metrics: &Metrics, ingress: Option<&Ingress>) -> Vec<(PortRange, &'static str)> {
    let metrics = (PortRange::single(Protocol::Tcp, metrics.listen.port()), "the listener of [metrics]");
    let udp = |port| PortRange::single(Protocol::Udp, port);
    let tunnel = ingress.map(|ingress| (udp(ingress.port), "the tunnel of [ingress]"));
    let encryption = ingress.and_then(|ingress| ingress.encryption);
    let encryption = encryption.map(|encryption| (udp(encryption.port), "the encryption of [ingress]"));
    tunnel.into_iter().chain(encryption).chain([metrics]).collect()
}

/// With the place of its address, and whether there is one, be it a bad one.
fn node(root: &Section<'_>) -> (Node, Option<At<IpAddr>>, bool) {
    let section = root.section("node", "[node]", &["name", "address", "dataplane", "on_stop", "state_dir", "watch"]);
    let name = services::name(&section);
    let wanted = "an IPv4 or IPv6 address at which other nodes reach this one";
    let address = section.text("address", wanted, |text| {
        text.parse::<IpAddr>().ok().filter(|address| network::unreachable(*address).is_none())
    });
    let dataplane = section.text("dataplane", "\"auto\", \"ipvs\" or \"nftables\"", |text| match text {
        "auto" => Some(None),
        text => Dataplane::ALL.into_iter().find(|known| known.name() == text).map(Some),
    });
    let on_stop = section.text("on_stop", "\"keep\" or \"remove\"", |text| match text {
        "keep" => Some(OnStop::Keep),
        "remove" => Some(OnStop::Remove),
        _ => None,
    });
    // What is kept below it has names of up to 80 bytes.
    let state_dir = section.text("state_dir", "an absolute path of at most 4000 bytes", |text| {
        (text.starts_with('/') && text.len() <= 4000 && !text.contains(char::is_control)).then_some(text)
    });
    let watch = section.boolean("watch");
    let node = Node {
        name: name.map(|name| name.value),
        address: address.map(|address| address.value),
        dataplane: dataplane.and_then(|dataplane| dataplane.value),
        on_stop: on_stop.map(|on_stop| on_stop.value).unwrap_or_default(),
        state_dir: state_dir.map_or(DEFAULT_STATE, |directory| directory.value).into(),
        watch: watch.is_some_and(|watch| watch.value),
    };
    (node, address, section.has("address"))
}

fn metrics(root: &Section<'_>) -> Metrics {
    let section = root.section("metrics", "[metrics]", &["listen", "backends"]);
    let wanted = "an address and a port such as \"127.0.0.1:9326\" or \"[::1]:9326\"";
    let listen = section.text("listen", wanted, |text| text.parse().ok());
    let backends = section.boolean("backends");
    Metrics {
        listen: listen.map_or(DEFAULT_LISTEN, |listen| listen.value),
        backends: backends.is_none_or(|backends| backends.value),
    }
}

fn control(root: &Section<'_>) -> Control {
    let section = root.section("control", "[control]", &["socket", "group"]);
    // The kernel's sun_path has 108 bytes, the last of which is 0.
    let socket = section.text("socket", "an absolute path of at most 107 bytes", |text| {
        (text.starts_with('/') && text.len() <= 107 && !text.contains(char::is_control)).then_some(text)
    });
    // What groupadd(8) takes, more or less: nothing that has a meaning in /etc/group.
    let group = section.text("group", "the name of a group", |text| {
        let fits = (1..=32).contains(&text.len());
        (fits && !text.contains(|letter: char| ":,".contains(letter) || letter.is_whitespace() || letter.is_control()))
            .then_some(text)
    });
    Control {
        socket: socket.map_or(DEFAULT_SOCKET, |socket| socket.value).into(),
        group: group.map_or(DEFAULT_GROUP, |group| group.value).to_owned(),
    }
}

fn timeouts(root: &Section<'_>) -> Timeouts {
    let section = root.section("ipvs", "[ipvs]", &["tcp", "tcp_fin", "udp"]);
    // The kernel takes 0 for: leave it as it is.
    let seconds = |key, default| {
        section.number(key, "a number of seconds", 1..=LONGEST_TIMEOUT).map_or(default, |seconds| seconds.value)
    };
    let Timeouts { tcp, tcp_fin, udp } = Timeouts::default();
    Timeouts { tcp: seconds("tcp", tcp), tcp_fin: seconds("tcp_fin", tcp_fin), udp: seconds("udp", udp) }
}
