//! Metrics: known traffic, and the numbers that Prometheus gets.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::lab::{BACKENDS4, Lab, Tcp, Udp, by_nftables, eventually, value_of};

#[test]
fn known_traffic_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp, Udp]);
    let config = |weight: u32| {
        let ports = r#"
            name = "kafka"
            port = [{ published = 20229, target = 9092 }, { published = "9090-9099", protocol = "udp" }]"#;
        let third = format!("netns = \"kafka-3\", weight = {weight}");
        lab.config().service(&format!("{ports}{}", BACKENDS4.replace("netns = \"kafka-3\"", &third)))
    };
    let mut meshd = lab.start(&config(1));

    for _ in 0..3 {
        lab.client.run("curl -sSf -m 60 -o /dev/null http://192.168.50.1:20229/bytes/10000");
    }
    lab.client.ask_times(3, Tcp, "192.168.50.1:20229");
    lab.client.ask_times(3, Udp, "192.168.50.1:9092");
    let mut held = lab.client.connect(Tcp, "192.168.50.1:20229").unwrap();
    let busy = held.ask("hello").unwrap().backend;

    let port = r#"port="20229",protocol="tcp",service="kafka""#;
    let of_port = |what: &str| format!("meshd_port_{what}_total{{{port}}}");
    // The kernel adds up its counters every two seconds.
    eventually("seven connections", || value_of(&lab.metrics(), &of_port("connections")) == 7.0);
    let metrics = lab.metrics();
    let value = |series: &str| value_of(&metrics, series);
    let backend =
        |what: &str, address: &str| value(&format!("meshd_backend_{what}{{backend=\"{address}:9092\",{port}}}"));
    for (name, address) in [("kafka-1", "10.255.0.33"), ("kafka-2", "10.255.0.34"), ("kafka-3", "10.255.0.35")] {
        let held = if name == busy { 1.0 } else { 0.0 };
        assert_eq!(backend("connections_total", address), 2.0 + held, "{name}");
        assert_eq!(backend("connections_active", address), held, "{name}");
        // Those that are over nftables does not count.
        assert_eq!(backend("connections_inactive", address), if by_nftables() { 0.0 } else { 2.0 }, "{name}");
        assert_eq!(backend("weight", address), 1.0, "{name}");
    }

    if by_nftables() {
        // What passes by a flow table is not counted, so nothing is.
        assert!(!metrics.contains("bytes_total{") && !metrics.contains("packets_total{"), "{metrics}");
    } else {
        bytes_are_counted(&metrics, port);
    }

    // A range is one port.
    let range = r#"port="9090-9099",protocol="udp",service="kafka""#;
    assert_eq!(value(&format!("meshd_port_connections_total{{{range}}}")), 3.0);
    assert_eq!(value(&format!("meshd_backend_connections_total{{backend=\"10.255.0.34:0\",{range}}}")), 1.0);

    assert_eq!(value("meshd_services"), 1.0);
    assert_eq!(value("meshd_ports"), 2.0);
    assert_eq!(value("meshd_backends"), 6.0);
    assert_eq!(value(&format!("meshd_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    let done = value("meshd_plan_steps_total{result=\"done\"}");
    assert!(done > 20.0, "{done}");
    assert_eq!(value("meshd_plan_steps_total{result=\"failed\"}"), 0.0);
    assert_eq!(value("meshd_reconciles_total{result=\"changed\"}"), 1.0);
    assert_eq!(value("meshd_config_last_reload_success"), 1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("meshd_reconcile_last_success_timestamp_seconds");
    assert!((0.0..120.0).contains(&age), "{age} s ago");

    // The tables that this went through.
    for netns in ["host", "sandbox"] {
        let [entries, limit] =
            ["", "_limit"].map(|what| value(&format!("meshd_conntrack_entries{what}{{netns=\"{netns}\"}}")));
        assert!(7.0 <= entries && entries < limit, "{netns}: {entries} of {limit}");
    }
    if !by_nftables() {
        assert!(value("meshd_ipvs_connections") >= 7.0);
        let listed = lab.sandbox().run("ipvsadm -Ln");
        let size = listed.split_once("size=").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        assert_eq!(Some(value("meshd_ipvs_connection_table_size")), size);
    }
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") > 3.0);

    // One weight changes: two ports, two steps; by turns nftables has a slot for each, whatever it weighs. Counters go on.
    let (steps, weighs) = if by_nftables() { (0.0, 1.0) } else { (2.0, 5.0) };
    meshd.reload(&config(5));
    let metrics = lab.metrics();
    assert_eq!(value_of(&metrics, "meshd_plan_steps_total{result=\"done\"}"), done + steps);
    let weight = format!("meshd_backend_weight{{backend=\"10.255.0.35:9092\",{port}}}");
    assert_eq!(value_of(&metrics, &weight), weighs);
    assert_eq!(value_of(&metrics, &of_port("connections")), 7.0);
    assert_eq!(value_of(&metrics, "meshd_config_reloads_total{result=\"accepted\"}"), 1.0);
    assert_eq!(held.ask("still there").unwrap().backend, busy);

    // Backends can be left out; ports stay.
    meshd.reload(&config(5).set("metrics", "backends", "false"));
    let metrics = lab.metrics();
    assert!(!metrics.contains("meshd_backend_"), "{metrics}");
    assert_eq!(value_of(&metrics, &of_port("connections")), 7.0);
}

/// Each of the three bodies, with its headers, went out; what came in are requests and acknowledgements.
fn bytes_are_counted(metrics: &str, port: &str) {
    let of_port = |what: &str, direction: &str| {
        value_of(metrics, &format!("meshd_port_{what}_total{{direction=\"{direction}\",{port}}}"))
    };
    let bytes = |direction: &str| of_port("bytes", direction);
    assert!((30_000.0..45_000.0).contains(&bytes("out")), "{}", bytes("out"));
    assert!((1_000.0..15_000.0).contains(&bytes("in")), "{}", bytes("in"));
    let sum = |what: &str, direction: &str| -> f64 {
        let of = |host| {
            let labels = format!("backend=\"10.255.0.{host}:9092\",direction=\"{direction}\",{port}");
            value_of(metrics, &format!("meshd_backend_{what}_total{{{labels}}}"))
        };
        [33, 34, 35].into_iter().map(of).sum()
    };
    assert_eq!(sum("bytes", "out"), bytes("out"));
    assert_eq!(sum("packets", "in"), of_port("packets", "in"));
}
