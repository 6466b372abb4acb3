//! Configurations, as text: what an operator would write, in the names of the lab.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A configuration: everything but services is filled in, for both families.
#[derive(Clone, Debug)]
pub struct Config {
    prefix: String,
    /// By section and key, the values as TOML.
    settings: BTreeMap<(String, String), String>,
    peers: String,
    services: String,
}

/// Who balances in these tests, if they leave it open: each data plane has the whole suite.
pub fn dataplane() -> String {
    std::env::var("MESHD_DATAPLANE").unwrap_or_else(|_| "ipvs".to_owned())
}

impl Config {
    pub(super) fn new(prefix: &str, sandbox: &str, directory: &Path) -> Config {
        let config = Config {
            prefix: prefix.to_owned(),
            settings: BTreeMap::new(),
            peers: String::new(),
            services: String::new(),
        };
        config
            .set("node", "name", "'node-1'")
            .set("node", "address", "'192.168.50.1'")
            .set("ingress", "subnet", "'10.255.0.0/16'")
            .set("ingress", "address", "'10.255.0.3'")
            .set("ingress", "subnet6", "'fd00:255::/64'")
            .set("ingress", "address6", "'fd00:255::3'")
            .set("ingress", "namespace", &format!("'{sandbox}'"))
            .set("control", "socket", &format!("'{}'", directory.join("control").display()))
            // One that every Debian has, so that nothing is warned of.
            .set("control", "group", "'daemon'")
            .set("node", "state_dir", &format!("'{}'", directory.join("state").display()))
            .set("node", "dataplane", &format!("'{}'", dataplane()))
    }

    /// Sets one key, to a value in TOML's syntax.
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Config {
        self.settings.insert((section.to_owned(), key.to_owned()), value.to_owned());
        self
    }

    pub fn without_ipv6(mut self) -> Config {
        self.settings.retain(|(_, key), _| !key.ends_with('6'));
        let lines = self.peers.lines().filter(|line| !line.starts_with("ingress6"));
        self.peers = lines.map(|line| format!("{line}\n")).collect();
        self
    }

    /// The same with another text wherever that one stands.
    pub fn replacing(mut self, from: &str, to: &str) -> Config {
        self.settings
            .values_mut()
            .chain([&mut self.peers, &mut self.services])
            .for_each(|text| *text = text.replace(from, to));
        self
    }

    /// Adds a peer: the text below its `[[peer]]`.
    pub fn peer(mut self, text: &str) -> Config {
        self.peers += &format!("\n[[peer]]\n{text}\n");
        self
    }

    /// Adds a service: the text below its `[[service]]`.
    pub fn service(mut self, text: &str) -> Config {
        let text = text.replace("netns = \"", &format!("netns = \"{}", self.prefix));
        self.services += &format!("\n[[service]]\n{text}\n");
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((section, key), value) in &self.settings {
            if last != section {
                writeln!(f, "[{section}]")?;
                last = section;
            }
            writeln!(f, "{key} = {value}")?;
        }
        f.write_str(&self.peers)?;
        f.write_str(&self.services)
    }
}
