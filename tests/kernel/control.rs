//! The control socket in an operator's hands: changes while traffic runs, what is refused, what is kept.

use serde_json::{Value, json};

use std::net::SocketAddr;

use crate::lab::{Lab, MARK, Tcp, by_nftables, eventually, tally, to_serve, value_of};

/// kafka at the first so many of its backends.
fn kafka(lab: &Lab, backends: usize) -> Value {
    let backend = |number: usize| json!({ "address": format!("10.255.0.{}", 32 + number), "netns": lab.place(&format!("kafka-{number}")).name });
    json!({
        "port": [{ "published": 20229, "target": 9092 }],
        "backend": (1..=backends).map(backend).collect::<Vec<_>>(),
    })
}

#[test]
fn smoke_a_service_lives_by_the_socket() {
    let Some(lab) = Lab::new() else { return };
    let backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&lab.config());
    lab.client.is_refused(Tcp, "192.168.50.1:20229");

    // By curl, as an operator would.
    let socket = lab.socket().display().to_string();
    let curl = |rest: &str| lab.node.run(&format!("curl -sS -m 60 --unix-socket {socket} {rest}"));
    let body = lab.socket().with_file_name("kafka.json");
    std::fs::write(&body, kafka(&lab, 2).to_string()).unwrap();
    let said = curl(&format!("-X PUT -d @{} http://meshd/v1/services/kafka?wait=60", body.display()));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["result"], "programmed", "{said}");
    assert_eq!(said["changed"], true, "{said}");
    assert_eq!(tally(&lab.client.ask_times(4, Tcp, "192.168.50.1:20229")).len(), 2);

    let mut api = lab.api();
    let first = said["generation"].as_u64().unwrap();
    assert_eq!(
        api.get("/v1/services/kafka"),
        json!({ "owner": "socket", "generation": first, "service": {
            "name": "kafka", "port": kafka(&lab, 2)["port"], "backend": kafka(&lab, 2)["backend"],
        }})
    );
    // The same again is no change.
    let again = api.good("PUT", "/v1/services/kafka", Some(&kafka(&lab, 2)));
    assert_eq!(again, json!({ "generation": first, "changed": false, "result": "accepted" }));

    // A third backend, another weight, another port, another scheduler: one thing at a time, under load.
    let load = lab.load(&["192.168.50.1:20229"; 2]);
    let wait = |path: &str| format!("/v1/services/kafka{path}?wait=60");
    let mark = meshd.mark();
    api.good("POST", &wait("/backends"), Some(&kafka(&lab, 3)["backend"][2]));
    api.good("PATCH", &wait("/backends/10.255.0.34"), Some(&json!({ "weight": 3 })));
    api.good("PATCH", &wait(""), Some(&json!({ "scheduler": "wrr" })));
    api.good("POST", &wait("/ports"), Some(&json!({ "published": 20230, "target": 9092 })));
    // Whom it attaches it may attach at any time, and chains that choose alike go at a look.
    let aside = |step: &String| step.starts_with("attach") || step.contains(" chain turn_");
    let steps: Vec<String> = meshd.steps_since(mark).into_iter().filter(|step| !aside(step)).collect();
    let expected: &[&str] = if by_nftables() {
        &[
            "balance tcp 20229 ipv4 (mark 0x14f05): backend 10.255.0.35:9092 slot 2 10.255.0.35:9092 by turn_ipv4_to_3_44",
            "balance tcp 20229 ipv4 (mark 0x14f05): remove slot 0 remove slot 1 remove slot 2 slot 0 10.255.0.34:9092 \
             slot 1 10.255.0.33:9092 slot 2 10.255.0.34:9092 slot 3 10.255.0.35:9092 slot 4 10.255.0.34:9092 by turn_ipv4_to_5_44",
            "balance tcp 20230 ipv4 (mark 0x14f06): backend 10.255.0.33:9092 backend 10.255.0.34:9092 backend 10.255.0.35:9092 \
             slot 0 10.255.0.34:9092 slot 1 10.255.0.33:9092 slot 2 10.255.0.34:9092 slot 3 10.255.0.35:9092 \
             slot 4 10.255.0.34:9092 by turn_ipv4_to_5_45",
            "map marks in sandbox: add tcp 20230 to 0x14f06",
            "map published4 in host: add tcp 20230 to 169.254.77.2",
        ]
    } else {
        &[
            "add backend 10.255.0.35:9092 weight 1 to tcp 20229 ipv4 (mark 0x14f05)",
            "set backend 10.255.0.34:9092 weight 3 of tcp 20229 ipv4 (mark 0x14f05)",
            "map marks in sandbox: remove tcp 20229",
            "set service tcp 20229 ipv4 (mark 0x14f05): scheduler wrr",
            "map marks in sandbox: add tcp 20229 to 0x14f05",
            "add service tcp 20230 ipv4 (mark 0x14f06): scheduler wrr",
            "add backend 10.255.0.33:9092 weight 1 to tcp 20230 ipv4 (mark 0x14f06)",
            "add backend 10.255.0.34:9092 weight 3 to tcp 20230 ipv4 (mark 0x14f06)",
            "add backend 10.255.0.35:9092 weight 1 to tcp 20230 ipv4 (mark 0x14f06)",
            "map marks in sandbox: add tcp 20230 to 0x14f06",
            "map published4 in host: add tcp 20230 to 169.254.77.2",
        ]
    };
    assert_eq!(steps, expected);
    assert_eq!(lab.sandbox().weights()[&(MARK, "10.255.0.34:9092".parse().unwrap())], 3);
    assert_eq!(tally(&lab.client.ask_times(10, Tcp, "192.168.50.1:20230"))["kafka-2"], 6);
    assert_eq!(value_of(&lab.metrics(), "meshd_generation_programmed"), (first + 4) as f64);

    // To drain: what is open goes on, nothing new comes.
    let mut held = lab.client.connect_to_each(Tcp, "192.168.50.1:20229", &["kafka-2"]);
    api.good("PATCH", &wait("/backends/10.255.0.34"), Some(&json!({ "state": "drain" })));
    assert!(!tally(&lab.client.ask_times(6, Tcp, "192.168.50.1:20229")).contains_key("kafka-2"));
    assert_eq!(held.get_mut("kafka-2").unwrap().ask("still there").unwrap().backend, "kafka-2");
    let backend = api.get("/v1/services/kafka")["service"]["backend"][1].clone();
    assert_eq!((&backend["weight"], &backend["state"]), (&json!(3), &json!("drain")));
    api.good("PATCH", &wait("/backends/10.255.0.34"), Some(&json!({ "state": null })));
    assert!(tally(&lab.client.ask_times(10, Tcp, "192.168.50.1:20229")).contains_key("kafka-2"));
    drop(held);

    // A port goes; the other does not notice.
    api.good("DELETE", &wait("/ports/tcp/20230"), None);
    lab.client.is_refused(Tcp, "192.168.50.1:20230");
    load.goes_on_for(30);
    load.finish();
    api.good("DELETE", &wait(""), None);
    lab.client.is_refused(Tcp, "192.168.50.1:20229");
    assert_eq!(api.get("/v1/services")["services"], json!([]));
    drop(backends);
    assert!(meshd.stop().success());
    assert!(!lab.socket().exists());
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let config =
        lab.config().service("name = 'web'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.9' }]");
    let meshd = lab.start(&config);
    let mut api = lab.api();
    let good = json!({ "port": [{ "published": 20229, "target": 9092 }], "backend": [{ "address": "10.255.0.33" }] });
    let generation = api.good("PUT", "/v1/services/kafka?wait=60&generation=0", Some(&good))["generation"].clone();
    let before = (lab.state(), api.get("/v1/services"));

    let mut refused = |method: &str, path: &str, body: Option<Value>, status: u16, words: &str| {
        let (answered, problem) = api.call(method, path, body.as_ref());
        assert_eq!(answered, status, "{method} {path}: {problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{method} {path}: {problem:#}");
        problem
    };
    let file = lab.config_file().display().to_string();
    refused("PUT", "/v1/services/web", Some(good.clone()), 409, &format!("service web belongs to {file}"));
    refused("DELETE", "/v1/services/web", None, 409, "change it there, and reload");
    refused("PATCH", "/v1/services/web/backends/10.255.0.9", Some(json!({ "weight": 0 })), 409, "belongs to");
    refused("GET", "/v1/services/kafak", None, 404, "no service kafak");
    refused("DELETE", "/v1/services/kafak", None, 404, "no service kafak");
    refused(
        "PUT",
        "/v1/services/kafka?generation=0",
        Some(good.clone()),
        409,
        &format!("has generation {generation}, not 0"),
    );
    refused("DELETE", "/v1/services/kafka?generation=99999999", None, 409, "not 99999999");
    refused("PUT", "/v1/services/new?generation=7", Some(good.clone()), 409, "service new is not there, not 7");
    refused("PUT", "/v1/services/a%20b", Some(good.clone()), 422, "`name` is \"a b\"");
    refused("PUT", "/v1/services/kafka", Some(json!([1])), 400, "a service is a JSON object");
    refused("PUT", "/v1/services/kafka", Some(json!({ "name": "other" })), 422, "cannot be renamed");
    refused("PUT", "/v1/services/kafka", Some(json!({})), 422, "has no `port`");
    refused("PUT", "/v1/services/kafka?generatoin=1", Some(good.clone()), 400, "unknown field `generatoin`");
    refused("PUT", "/v1/services/kafka?wait=301", Some(good.clone()), 400, "0 to 300 would do");
    refused("PUT", "/v1/services/kafka?wait=nan", Some(good.clone()), 400, "0 to 300 would do");
    refused(
        "POST",
        "/v1/services/kafka/ports",
        Some(json!({ "published": 20229 })),
        409,
        "has a port tcp/20229 already",
    );
    refused("POST", "/v1/services/kafka/ports", Some(json!({ "published": 80 })), 422, "published by service \"web\"");
    refused("PATCH", "/v1/services/kafka/ports/tcp/1", Some(json!({})), 404, "has no port tcp/1");
    refused("PATCH", "/v1/services/kafka/ports/tcp/one", Some(json!({})), 400, "\"tcp/one\" is no port");
    refused("DELETE", "/v1/services/kafka/ports/tcp/20229", None, 422, "has no `port`");
    refused("POST", "/v1/services/kafka/backends", Some(json!({ "address": "10.255.0.33" })), 409, "already");
    refused("PATCH", "/v1/services/kafka/backends/ten", Some(json!({})), 400, "\"ten\" is no address");
    refused("DELETE", "/v1/services/kafka/backends/10.255.0.34", None, 404, "has no backend 10.255.0.34");
    refused("POST", "/v1/services/kafka/ports/tcp/20229/backends", Some(json!({})), 409, "no backends of its own");
    refused("GET", "/v1/wait?generation=99999999", None, 404, "the newest is");
    refused("GET", "/v1/nonsense", None, 404, "openapi.json");
    refused("POST", "/v1/status", None, 405, "openapi.json");
    refused("PUT", "/v1/services/kafka", None, 400, "there is no body");

    // All that is wrong, each with its place.
    let wrong = json!({
        "colour": "red",
        "scheduler": "fastest",
        "port": [{ "published": 80 }, { "published": "9-1" }, { "published": 70000, "protocol": "icmp" }],
        "backend": [{ "address": "10.255.0.33", "weight": 1.5 }, { "address": "10.255.0.3" }, { "adress": "::1" }],
    });
    let problem = refused("PUT", "/v1/services/kafka", Some(wrong), 422, "colour");
    let places: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|fault| fault["place"].as_str().unwrap()).collect();
    let expected = [
        "backend[0].weight",
        "backend[1].address",
        "backend[2]",
        "backend[2].adress",
        "colour",
        "port[0].published",
        "port[1].published",
        "port[2].protocol",
        "port[2].published",
        "scheduler",
    ];
    let mut sorted = places.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "{problem:#}");

    assert_eq!(before.1, lab.api().get("/v1/services"));
    crate::lab::assert_same(&before.0, &lab.state(), "after so many refusals");
    let metrics = lab.metrics();
    let route = "route=\"/v1/services/{name}\"";
    assert!(value_of(&metrics, &format!("meshd_control_requests_total{{code=\"422\",method=\"PUT\",{route}}}")) >= 4.0);
    drop(meshd);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(&lab.config());
    let mut api = lab.api();
    let before = lab.state();
    let said = api.good("PUT", "/v1/services/kafka?dry_run=true", Some(&kafka(&lab, 1)));
    let plan: Vec<&str> = said["plan"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert!(plan.contains(&"map marks in sandbox: add tcp 20229 to 0x14f05"), "{plan:#?}");
    assert_eq!(said["changed"], false);
    assert_eq!(api.get("/v1/services")["services"], json!([]));
    crate::lab::assert_same(&before, &lab.state(), "after a dry run");

    // What a reload of the file would do.
    lab.write(
        &lab.config().service("name = 'web'\nport = [{ published = 80 }]\nbackend = [{ address = '10.255.0.9' }]"),
    );
    let plan = api.get("/v1/plan?reload=true").to_string();
    assert!(plan.contains(&to_serve("tcp 80 ipv4")), "{plan}");
    assert_eq!(api.get("/v1/plan"), json!({ "steps": [] }));
    crate::lab::assert_same(&before, &lab.state(), "after a plan");
    // The plan comes true.
    api.good("POST", "/v1/reload?wait=60", None);
    assert_eq!(api.get("/v1/plan?reload=true"), json!({ "steps": [] }));
    lab.client.try_ask(Tcp, "192.168.50.1:80").unwrap_err();
    assert_eq!(api.get("/v1/services/web")["owner"], "file");
}

#[test]
fn what_was_acknowledged_is_kept_through_kills_and_the_file_takes_over() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let meshd = lab.start(&lab.config());
    let mut api = lab.api();
    api.good("PUT", "/v1/services/kafka", Some(&kafka(&lab, 1)));
    api.good("PUT", "/v1/services/kafka", Some(&kafka(&lab, 2)));
    let newest = api.good("PATCH", "/v1/services/kafka", Some(&json!({ "scheduler": "wrr" })))["generation"].as_u64();
    meshd.kill9();
    let mut meshd = lab.start(&lab.config());
    let mut api = lab.api();
    let kept = api.get("/v1/services/kafka");
    assert_eq!((kept["generation"].as_u64(), &kept["service"]["scheduler"]), (newest, &json!("wrr")));
    assert!(api.get("/v1/status")["generation"]["wanted"].as_u64() > newest);
    assert_eq!(tally(&lab.client.ask_times(4, Tcp, "192.168.50.1:20229")).len(), 2);
    assert!(lab.dry_run().is_empty(), "a dry run knows what is kept");

    // The file comes to define it: nothing is done to the kernel but what differs, and it is the file's.
    let backend = |number: usize| format!("{{ address = '10.255.0.{}', netns = \"kafka-{number}\" }}", 32 + number);
    let service = format!(
        "name = 'kafka'\nscheduler = 'wrr'\nport = [{{ published = 20229, target = 9092 }}]\nbackend = [{}, {}]",
        backend(1),
        backend(2)
    );
    let mark = meshd.mark();
    meshd.reload(&lab.config().service(&service));
    assert_eq!(meshd.steps_since(mark), [""; 0]);
    assert_eq!(api.get("/v1/services/kafka")["owner"], "file");
    assert_eq!(std::fs::read_dir(lab.state_dir().join("services")).unwrap().count(), 0);

    // A file that does not go with what the socket has is refused, and says with what.
    let other = json!({ "port": [{ "published": 9000 }], "backend": [{ "address": "10.255.0.40" }] });
    api.good("PUT", "/v1/services/other", Some(&other));
    let clash =
        lab.config().service("name = 'web'\nport = [{ published = 9000 }]\nbackend = [{ address = '10.255.0.41' }]");
    lab.write(&clash);
    let (status, problem) = api.call("POST", "/v1/reload", None);
    let words = "service other of the control socket does not go with this file: port[0].published";
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains(words), "{problem:#}");
    assert!(api.get("/v1/status")["configuration"]["refused"].as_str().unwrap().contains(words));
    assert!(meshd.stop().success());
    // At a start the file comes first: what does not go with it is kept, named, and not in force.
    let mut meshd = lab.spawn();
    meshd.wait_until_ready();
    let mut api = lab.api();
    assert_eq!(api.get("/v1/services/web")["owner"], "file");
    let (status, problem) = api.call("GET", "/v1/services/other", None);
    assert!(status == 404 && problem["detail"].as_str().unwrap().contains("kept but not in force"), "{problem:#}");
    assert!(meshd.log().contains("service other of the control socket is not in force"), "{}", meshd.log());
    meshd.reload(&lab.config());
    assert_eq!(api.get("/v1/services/other")["owner"], "socket");
    assert_eq!(api.get("/v1/status")["state"]["refused"], json!([]));
    // Where it is kept does not change under way.
    meshd.reload(&lab.config().set("node", "state_dir", "'/run/elsewhere'"));
    assert!(api.get("/v1/status")["configuration"]["refused"].as_str().unwrap().contains("state_dir cannot change"));
    lab.write(&lab.config());
}

#[test]
fn torn_and_foreign_files_are_put_aside() {
    let Some(lab) = Lab::new() else { return };
    let meshd = lab.start(&lab.config());
    let mut api = lab.api();
    let service = |port: u16| json!({ "port": [{ "published": port }], "backend": [{ "address": "10.255.0.40" }] });
    api.good("PUT", "/v1/services/torn", Some(&service(1000)));
    api.good("PUT", "/v1/services/torn", Some(&service(1001)));
    api.good("PUT", "/v1/services/lost", Some(&service(2000)));
    api.good("PUT", "/v1/services/whole?wait=60", Some(&service(3000)));
    meshd.kill9();
    let file = |name: &str| lab.state_dir().join("services").join(name);
    let text = std::fs::read(file("torn.json")).unwrap();
    std::fs::write(file("torn.json"), &text[..text.len() / 2]).unwrap();
    std::fs::write(file("lost.json"), b"\0\0\0\0").unwrap();
    std::fs::write(file("foreign.json"), b"{\"name\":\"foreign\",\"port\":[{\"published\":1}]}").unwrap();
    std::fs::write(file("whole.json.new"), b"half").unwrap();
    let meshd = lab.start(&lab.config());
    let mut api = lab.api();
    let services = api.get("/v1/services");
    let names: Vec<&str> = services["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["service"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["torn", "whole"]);
    assert_eq!(api.get("/v1/services/torn")["service"]["port"][0]["published"], 1000);
    let refused = api.get("/v1/status")["state"]["refused"].to_string();
    for name in ["torn.json", "lost.json", "foreign.json"] {
        assert!(refused.contains(&file(name).display().to_string()), "{name}: {refused}");
        assert!(file(&format!("{name}.refused")).exists());
        assert!(meshd.log().contains(&format!("{}.refused", file(name).display())), "{}", meshd.log());
    }
    assert!(!file("whole.json.new").exists());
    // The next start has nothing to say.
    assert!(meshd.stop().success());
    let _meshd = lab.start(&lab.config());
    assert_eq!(lab.api().get("/v1/status")["state"]["refused"], json!([]));
    let is_there = |place: &SocketAddr| *place == "10.255.0.40:1000".parse().unwrap();
    eventually("the kernel has it", || lab.sandbox().weights().keys().any(|(_, place)| is_there(place)));
}
