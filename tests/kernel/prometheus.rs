//! A real Prometheus reads what meshd tells of real traffic.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::lab::{BACKENDS4, Lab, Tcp, eventually};

/// The directory that has `prometheus` and `promtool` (scripts/prometheus); `None`, and a word about it, where
/// there is none.
fn programs() -> Option<String> {
    let programs = std::env::var("MESHD_PROMETHEUS").ok().filter(|programs| !programs.is_empty());
    if programs.is_none() {
        let missing = "no Prometheus: set MESHD_PROMETHEUS=$(scripts/prometheus --fetch)";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        println!("skipped: {missing}");
    }
    programs
}

/// A server in the node's namespace. It is killed when it is dropped.
struct Prometheus<'l> {
    lab: &'l Lab,
    child: Child,
    log: std::path::PathBuf,
}

impl Prometheus<'_> {
    /// Scrapes meshd every second, and answers at port 9090.
    fn start<'l>(lab: &'l Lab, programs: &str, directory: &Path) -> Prometheus<'l> {
        let config = "global: { scrape_interval: 1s, scrape_timeout: 1s }\n\
                      scrape_configs:\n- job_name: meshd\n  static_configs: [{ targets: ['127.0.0.1:9326'] }]\n";
        let (file, log) = (directory.join("prometheus.yml"), directory.join("prometheus.log"));
        std::fs::write(&file, config).expect("cannot write Prometheus's configuration");
        let mut command = Command::new(format!("{programs}/prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg("--web.listen-address=127.0.0.1:9090");
        command.stdin(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log file"));
        let child = lab.node.within(|| command.spawn()).expect("Prometheus starts");
        Prometheus { lab, child, log }
    }

    /// The value of an expression that has one series, if it has any yet.
    fn value(&self, expression: &str) -> Option<f64> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "20", "-G", "http://127.0.0.1:9090/api/v1/query"]);
        let Output { stdout, .. } =
            self.lab.node.output(curl.args(["--data-urlencode", &format!("query={expression}")]));
        let answer: Value = serde_json::from_slice(&stdout).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- Prometheus's log\n{}---", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

#[test]
fn prometheus_reads_what_is_there() {
    let Some(programs) = programs() else { return };
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let port = "port = [{ published = 20229, target = 9092 }]";
    let _meshd = lab.start(&lab.config().service(&format!("name = 'kafka'\n{port}{BACKENDS4}")));
    lab.client.ask_times(3, Tcp, "192.168.50.1:20229");

    // Its own tool finds nothing to complain of.
    let file = lab.file("scrape", 0);
    std::fs::write(&file, lab.metrics()).expect("cannot write the scrape");
    let mut promtool = Command::new(format!("{programs}/promtool"));
    promtool.args(["check", "metrics"]).stdin(std::fs::File::open(&file).expect("the scrape"));
    let Output { status, stdout, stderr } = lab.node.within(|| promtool.output()).expect("promtool runs");
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(status.success() && said.is_empty(), "promtool check metrics: {status}\n{said}");

    let directory = file.parent().expect("the lab's directory");
    let prometheus = Prometheus::start(&lab, &programs, directory);
    eventually("Prometheus has scraped meshd", || prometheus.value("up{job=\"meshd\"}") == Some(1.0));
    let backends = "sum(meshd_backend_connections_total{service=\"kafka\",port=\"20229\"})";
    eventually("the three connections are counted", || prometheus.value(backends) == Some(3.0));
    let full = "sum(meshd_conntrack_entries / meshd_conntrack_entries_limit) > 0";
    assert!(prometheus.value(full).is_some(), "connection tracking of the node and of the sandbox is told");
}
