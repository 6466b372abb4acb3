//! A world of its own for each test: the node that meshd runs on, a client outside, and backends, all of
//! them network namespaces.
//!
//! ```text
//! client  c0 192.168.50.2, fd50::2 ─── lan0 192.168.50.1, fd50::1  node (meshd's "host")
//!                                      far0 192.168.60.1, fd60::1 ─── eth0 192.168.60.2, fd60::2  (far, if asked for)
//! ```
//!
//! A test reads like an operator's session:
//!
//! ```ignore
//! let Some(lab) = Lab::new() else { return };          // no root or no IPVS: says so; MESHD_REQUIRE_KERNEL=1: panics
//! let _kafka = lab.backend("kafka-1").tcp(9092);       // a namespace with a server in it; ends when dropped
//! let config = lab.config().service(r#"
//!     name = "kafka"
//!     port = [{ published = 20229, target = 9092 }]
//!     backend = [{ address = "10.255.0.33", netns = "kafka-1" }]"#);
//! let mut meshd = lab.start(&config);                  // waits for READY=1, panics with the log otherwise
//! lab.client.ask(Protocol::Tcp, "192.168.50.1:20229"); // one connection: who answered, whom it saw
//! lab.client.run("curl -sS http://192.168.50.1:20229/");
//! lab.sandbox().run("ipvsadm -Ln");
//! meshd.reload(&config.service("…"));                  // SIGHUP, waits until it is done
//! meshd.stop();                                        // SIGTERM, waits; also kill9()
//! ```
//!
//! - [`Place`] is a namespace: run programs in it, open connections from it. `lab.node`, `lab.client`,
//!   `lab.sandbox()`, `lab.overlay()`; a [`Backend`] is a place, too.
//! - [`Config`] is a configuration with everything but services filled in. A `netns = "kafka-1"` in a service
//!   is the lab's namespace of that name.
//! - [`Meshd`] is a running daemon; `lab.meshd(&[…])` runs the program once, for `--dry-run` and the like.
//! - `lab.api()` is a client of the control socket.
//! - `lab.kafka(&[Tcp, Udp])` and [`BACKENDS`] are the three backends that most tests use.
//! - `lab.load(&["192.168.50.1:20229"])` keeps asking while something else happens; `lab.state()` and
//!   [`assert_same`] tell whether anything changed; `meshd.steps_since(mark)` is what it announced.
//! - `lab.meshctl("service ls")` is what an operator types beside a running daemon.
//! - [`Nodes`] is a lab with several nodes on one LAN, each with a meshd of its own.
//! - At the end of a test that did not fail, `meshd --cleanup` must leave nothing behind.

mod affliction;
mod again;
mod api;
mod backend;
pub mod config;
mod crowd;
mod ctl;
mod daemon;
mod kafka;
mod load;
mod log;
mod nodes;
mod place;
mod program;
mod state;
mod stream;
mod tools;
mod watchdog;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use meshd::kernel::Names;
use meshd::kernel::ipvs::Ipvs;
use meshd::objects::HOST_END;

pub use affliction::{HANGS, REFUSES, afflict, afflict_port};
pub use api::Api;
pub use backend::Backend;
pub use config::Config;
pub use daemon::{Meshd, faulty, program};
pub use kafka::{BACKENDS, BACKENDS4, MARK};
pub use load::Load;
pub use meshd::objects::Protocol::{self, Sctp, Tcp, Udp};
pub use nodes::{Node, Nodes, Underlay};
pub use place::{Place, batch};
pub use state::assert_same;
pub use stream::{Stream, tally};
pub use tools::{SECOND, by_nftables, eventually, number, to_serve, value_of};

/// The node's address towards the client.
pub const NODE4: &str = "192.168.50.1";
pub const NODE6: &str = "fd50::1";

pub struct Lab {
    pub node: Place,
    pub client: Place,
    /// What the names of this lab's namespaces begin with.
    prefix: String,
    /// Files of this lab: configuration, log, sockets.
    directory: PathBuf,
    /// Made for this lab, deleted with it.
    namespaces: RefCell<Vec<String>>,
}

impl Lab {
    /// `None`, and a word about it, where this kernel cannot do it.
    pub fn new() -> Option<Lab> {
        able()?;
        let lab = Lab::empty();
        lab.add_namespaces(&[&lab.node, &lab.client]);
        lab.connect("lan0", &lab.client, "c0", 50);
        Some(lab)
    }

    /// For what only IPVS does.
    pub fn of_ipvs() -> Option<Lab> {
        if by_nftables() {
            println!("skipped: nftables does not do that");
            return None;
        }
        Lab::new()
    }

    fn empty() -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let prefix = format!("m{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("meshd-lab-{prefix}"));
        std::fs::create_dir_all(&directory).expect("cannot make the lab's directory");
        watchdog::watch(&prefix);
        Lab {
            node: Place::new(format!("{prefix}node")),
            client: Place::new(format!("{prefix}client")),
            prefix,
            directory,
            namespaces: RefCell::default(),
        }
    }

    /// A namespace with nobody in it yet.
    pub fn backend(&self, name: &str) -> Backend {
        let [backend] = self.backends([name]);
        backend
    }

    /// Several at once: programs take long to start under emulation.
    pub fn backends<const N: usize>(&self, names: [&str; N]) -> [Backend; N] {
        let places = names.map(|name| Place::new(format!("{}{name}", self.prefix)));
        self.add_namespaces(&places.each_ref());
        let mut names = names.into_iter();
        places.map(|place| Backend::new(names.next().unwrap_or_default(), place))
    }

    /// A backend that is no namespace of its own but a process on the node.
    pub fn local_backend(&self, name: &str) -> Backend {
        Backend::new(name, self.node.clone())
    }

    /// A backend that the node reaches by routing, at 192.168.60.2 and fd60::2: not on the overlay.
    pub fn far_backend(&self, name: &str) -> Backend {
        let backend = self.backend(name);
        self.connect("far0", &backend, "eth0", 60);
        batch(Some(&backend), "route add default via 192.168.60.1\nroute add ::/0 via fd60::1\n");
        backend
    }

    pub fn sandbox(&self) -> Place {
        Place::new(self.sandbox_name())
    }

    pub fn overlay(&self) -> Place {
        Place::new(format!("{}_overlay", self.sandbox_name()))
    }

    /// As meshd calls what is its own here.
    pub fn names(&self) -> Names {
        Names { sandbox: self.sandbox_name(), gateway: HOST_END.to_owned() }
    }

    /// Looks come in their turn; not to wait for it, the kernel has something to tell, which is no one's.
    pub fn have_a_look(&self) {
        self.node.run("nft add table ip touched");
        self.node.run("nft delete table ip touched");
    }

    fn sandbox_name(&self) -> String {
        format!("{}sbox", self.prefix)
    }

    /// The configuration of this lab's node, without services.
    pub fn config(&self) -> Config {
        Config::new(&self.prefix, &self.sandbox_name(), &self.directory)
    }

    /// A file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where [`start`](Lab::start) writes the configuration.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("meshd.toml")
    }

    /// Starts meshd on the node and waits until it is ready.
    pub fn start(&self, config: &Config) -> Meshd {
        self.write(config);
        self.resume()
    }

    /// Starts meshd with the configuration that is there.
    pub fn resume(&self) -> Meshd {
        let mut meshd = self.spawn();
        meshd.wait_until_ready();
        meshd
    }

    /// Starts meshd with the configuration that is there, and does not wait.
    pub fn spawn(&self) -> Meshd {
        Meshd::spawn(&self.node, &self.config_file(), &self.directory)
    }

    /// The same, of the program that MESHD_PREVIOUS names.
    pub fn spawn_previous(&self) -> Meshd {
        let program = std::env::var_os("MESHD_PREVIOUS").expect("MESHD_PREVIOUS");
        Meshd::spawn_as(Command::new(program), &self.node, &self.config_file(), &self.directory)
    }

    /// The same, of the program with faults: `fault` is what will happen, `after` the file that has to be there first, and `points`
    /// has a line for each place where it may happen.
    pub fn spawn_faulty(&self, fault: &str, after: Option<&Path>, points: Option<&Path>) -> Meshd {
        let mut command = daemon::faulty();
        command.env("MESHD_FAULT", fault);
        after.map(|file| command.env("MESHD_FAULT_AFTER", file));
        points.map(|file| command.env("MESHD_FAULT_POINTS", file));
        Meshd::spawn_as(command, &self.node, &self.config_file(), &self.directory)
    }

    pub fn write(&self, config: &Config) {
        std::fs::write(self.config_file(), config.to_string()).expect("cannot write the configuration");
    }

    /// Runs the program on the node to its end, with `--config` and what else is asked for.
    pub fn meshd(&self, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new(daemon::program());
        command.arg("--config").arg(self.config_file()).args(arguments);
        self.node.output(&mut command)
    }

    /// The plan that meshd would carry out now.
    pub fn dry_run(&self) -> String {
        let output = self.meshd(&["--dry-run"]);
        assert!(output.status.success(), "--dry-run: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a plan is text")
    }

    /// What Prometheus would get.
    pub fn metrics(&self) -> String {
        self.node.run("curl -sSf -m 60 http://127.0.0.1:9326/metrics")
    }

    /// A file of so many bytes, for uploads.
    pub fn file(&self, name: &str, size: usize) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, vec![b'x'; size]).expect("cannot write a file");
        path
    }

    fn add_namespaces(&self, places: &[&Place]) {
        let lines: String = places.iter().map(|place| format!("netns add {}\n", place.name)).collect();
        batch(None, &lines);
        self.namespaces.borrow_mut().extend(places.iter().map(|place| place.name.clone()));
    }

    /// A veth from the node to another place, with addresses ending in 1 and 2.
    fn connect(&self, near: &str, other: &Place, far: &str, net: u8) {
        let (node, name) = (&self.node.name, &other.name);
        batch(None, &format!("link add {near} netns {node} type veth peer name {far} netns {name}\n"));
        for (place, link, host) in [(&self.node, near, 1), (other, far, 2)] {
            batch(
                Some(place),
                &format!(
                    "addr add 192.168.{net}.{host}/24 dev {link}\n\
                     addr add fd{net}::{host}/64 dev {link} nodad\n\
                     link set {link} up\n\
                     link set lo up\n"
                ),
            );
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let cleanup = self.config_file().exists().then(|| self.meshd(&["--cleanup"]));
        let left = [self.sandbox(), self.overlay()].into_iter().filter(Place::exists).collect::<Vec<_>>();
        let names = self.namespaces.borrow().clone().into_iter().chain(left.iter().map(|place| place.name.clone()));
        batch(None, &names.map(|name| format!("netns del {name}\n")).collect::<String>());
        // The log of a failed test was printed already.
        let _ = std::fs::remove_dir_all(&self.directory);
        watchdog::forget(&self.prefix);
        if let (false, Some(cleanup)) = (failed, cleanup) {
            let log = String::from_utf8_lossy(&cleanup.stderr);
            assert!(cleanup.status.success() && left.is_empty(), "--cleanup left {left:?}\n{log}");
        }
    }
}

/// `None`, and a word about it, where this kernel cannot do it.
fn able() -> Option<()> {
    let Some(missing) = missing() else { return Some(()) };
    assert!(std::env::var_os("MESHD_REQUIRE_KERNEL").is_none(), "{missing}");
    println!("skipped: {missing}");
    None
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("real-kernel tests must be run as root".to_owned());
    }
    if by_nftables() {
        return None;
    }
    Ipvs::open().err().map(|error| format!("no IPVS here: {error}"))
}
