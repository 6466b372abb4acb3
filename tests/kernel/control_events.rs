//! Waiting, events, the watched file.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Config, Lab, Tcp, by_nftables, eventually, value_of};

/// The stream of `/v1/events`.
struct Events(BufReader<UnixStream>);

impl Events {
    fn listen(lab: &Lab) -> Events {
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: meshd\r\n\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            events.0.read_line(&mut line).unwrap();
        }
        events
    }

    /// The next one of that kind.
    fn next(&mut self, kind: &str) -> Value {
        // What keeps the connection alive is no event.
        let (deadline, mut others) = (Instant::now() + Duration::from_secs(60), Vec::new());
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("an event") > 0, "the stream ended");
            assert!(Instant::now() < deadline, "no {kind}, but {others:?}");
            if let Some(data) = line.strip_prefix("data: ") {
                let event: Value = serde_json::from_str(data).unwrap();
                if event["event"] == kind {
                    return event;
                }
                others.push(event);
            }
        }
    }
}

fn web(port: u16) -> Value {
    json!({ "port": [{ "published": port, "target": 80 }], "backend": [{ "address": "10.255.0.9" }] })
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let Some(lab) = Lab::new() else { return };
    let mut meshd = lab.start(&lab.config());
    let mut events = Events::listen(&lab);
    let mut api = lab.api();
    let generation = api.good("PUT", "/v1/services/web?wait=60", Some(&web(80)))["generation"].clone();
    let accepted = events.next("accepted");
    assert_eq!(accepted, json!({ "event": "accepted", "generation": generation, "what": "service web put", "uid": 0 }));
    assert_eq!(events.next("programmed")["generation"], generation);

    // The operator's word for a backend.
    for (state, from, to) in [("disabled", "enabled", "disabled"), ("enabled", "disabled", "up")] {
        let backend = "/v1/services/web/backends/10.255.0.9?wait=60";
        api.good("PATCH", backend, Some(&json!({ "state": state })));
        let told = events.next("health");
        assert_eq!([&told["backend"], &told["from"], &told["to"]], [&json!("10.255.0.9"), &json!(from), &json!(to)]);
    }

    // Someone else changes the kernel: it is mended, told and counted.
    let before = lab.metrics();
    lab.node.run("nft flush map inet meshd published4");
    if by_nftables() {
        lab.sandbox().run("nft delete element inet meshd ways4 { 0x10050 }");
    } else {
        lab.sandbox().run(&format!("ipvsadm -D -f {}", 0x1_0050));
    }
    let repaired = events.next("repaired");
    assert!(repaired["steps"].to_string().contains("published4"), "{repaired}");
    let mended = |kind: &str| {
        let series = |text: &str| value_of(text, &format!("meshd_drift_repaired_total{{kind=\"{kind}\"}}"));
        series(&lab.metrics()) - series(&before)
    };
    eventually("the drift is mended", || mended("port") >= 1.0 && mended("service") == 1.0);
    // IPVS's service went with its backend.
    assert!(by_nftables() || mended("backend") == 1.0);
    assert!(api.get("/v1/status")["repaired"].as_u64().unwrap() >= 2);
    let found = value_of(&lab.metrics(), "meshd_drift_found_total{kind=\"service\"}");
    assert_eq!(found, 1.0);

    // A step that cannot be done. Of nftables it is known before.
    let odd = json!({ "scheduler": "twos", "port": [{ "published": 81 }], "backend": [{ "address": "10.255.0.9" }] });
    let (status, said) = api.call("PUT", "/v1/services/odd?wait=60", Some(&odd));
    if by_nftables() {
        assert!(status == 422 && said["detail"].to_string().contains("twos"), "{said:#}");
    } else {
        assert_eq!(status, 200);
        let waited = api.get("/v1/wait?timeout=60");
        // Debian's 6.1 lacks that scheduler; where it is there, all is well.
        if waited["result"] == "failed" {
            let failures = waited["failures"].to_string();
            assert!(failures.contains("service odd") && failures.contains("twos"), "{failures}");
            assert!(events.next("failed")["failures"].to_string().contains("twos"));
            assert!(api.get("/v1/status")["failures"].to_string().contains("twos"));
            assert!(
                value_of(&lab.metrics(), "meshd_generation_wanted")
                    > value_of(&lab.metrics(), "meshd_generation_programmed")
            );
        }
        api.good("DELETE", "/v1/services/odd?wait=60", None);
    }
    assert_eq!(api.get("/v1/wait?timeout=60")["result"], "programmed");
    assert!(value_of(&lab.metrics(), "meshd_programming_duration_seconds_count") >= 2.0);

    meshd.reload(&lab.config());
    assert_eq!(events.next("reload"), json!({ "event": "reload", "accepted": true, "reason": null }));
    meshd.reload(&lab.config().set("ingress", "vni", "0"));
    assert!(events.next("reload")["reason"].as_str().unwrap().contains("`vni` is 0"));
    lab.write(&lab.config());
    // A generation that is there already is not waited for.
    let now = api.get("/v1/status")["generation"]["programmed"].as_u64().unwrap();
    assert_eq!(api.get(&format!("/v1/wait?generation={now}&timeout=0"))["result"], "programmed");
}

fn published(lab: &Lab, port: u16) -> Config {
    lab.config()
        .set("node", "watch", "true")
        .service(&format!("name = 'web'\nport = [{{ published = {port}, target = 80 }}]\nbackend = [{{ address = '10.255.0.41', netns = \"web-1\" }}]"))
}

#[test]
fn a_watched_file_takes_effect_however_it_is_written() {
    let Some(lab) = Lab::new() else { return };
    let _web = lab.backend("web-1").tcp(80);
    let meshd = lab.start(&published(&lab, 8000));
    let answers = |port: u16| {
        eventually(&format!("port {port} answers"), || {
            lab.client.try_ask(Tcp, &format!("192.168.50.1:{port}")).is_ok()
        });
    };
    let reloads = || value_of(&lab.metrics(), "meshd_config_reloads_total{result=\"accepted\"}");
    let file = lab.config_file();
    answers(8000);

    // In place.
    fs::write(&file, published(&lab, 8001).to_string()).unwrap();
    answers(8001);
    // As editors do: a new file takes the name.
    let new = file.with_extension("new");
    fs::write(&new, published(&lab, 8002).to_string()).unwrap();
    fs::rename(&new, &file).unwrap();
    answers(8002);
    // A link that is swapped, two links deep (Kubernetes' config maps).
    for (directory, port) in [("one", 8003), ("two", 8004)] {
        let directory = file.with_file_name(directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("services.toml"), published(&lab, port).to_string()).unwrap();
    }
    let (current, link) = (file.with_file_name("current"), file.with_file_name("link"));
    std::os::unix::fs::symlink("one", &current).unwrap();
    std::os::unix::fs::symlink("current/services.toml", &link).unwrap();
    fs::rename(&link, &file).unwrap();
    answers(8003);
    std::os::unix::fs::symlink("two", &link).unwrap();
    fs::rename(&link, &current).unwrap();
    answers(8004);

    // A bad file changes nothing, and is told once.
    let accepted = reloads();
    fs::remove_file(&file).unwrap();
    fs::write(&file, "[node]\nwatch = yes\n").unwrap();
    eventually("it is refused", || meshd.log().contains("reload refused"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(meshd.log().matches("reload refused").count(), 1, "{}", meshd.log());
    answers(8004);
    assert_eq!(reloads(), accepted);
    // SIGHUP and the watch do not read one change twice.
    let mut meshd = meshd;
    meshd.reload(&published(&lab, 8005));
    answers(8005);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(reloads(), accepted + 1.0);
    // No more watching: the file may change unheard.
    meshd.reload(&published(&lab, 8006).set("node", "watch", "false"));
    fs::write(&file, published(&lab, 8007).to_string()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    lab.client.is_refused(Tcp, "192.168.50.1:8007");
    answers(8006);
}
