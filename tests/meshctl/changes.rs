//! Changes: what each command line asks the daemon for, and what it makes of the answer.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::fake::{Fake, accepted, good, kafka, problem, services};

fn daemon() -> Fake {
    Fake::new(|asked| match asked {
        "GET /v1/services" => good(services()),
        "GET /v1/services/kafka" => good(kafka()),
        _ => accepted(12, "programmed"),
    })
}

/// A command line, its words divided by blanks, the request that it makes, and what it says.
#[track_caller]
fn check(fake: &Fake, line: &str, expected: &str, said: &str) {
    let ran = fake.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), format!("{said}\n").as_str(), ""), "{line}");
    let asked = fake.asked().pop().unwrap_or_default();
    assert_eq!(asked, expected, "{line}");
}

#[test]
fn services_are_added_changed_and_removed() {
    let fake = daemon();
    let said = "service kafka: generation 12, programmed";
    check(
        &fake,
        "service add kafka -p 20229:9092 -p 53/udp -b 10.255.0.33,weight=2,netns=kafka-1 -b fd00::33 -s wrr",
        "PUT /v1/services/kafka?generation=0&wait=30 {\"backend\":[{\"address\":\"10.255.0.33\",\
         \"netns\":\"kafka-1\",\"weight\":2},{\"address\":\"fd00::33\"}],\"name\":\"kafka\",\"port\":[{\"published\":\
         20229,\"target\":9092},{\"protocol\":\"udp\",\"published\":53}],\"scheduler\":\"wrr\"}",
        said,
    );
    check(
        &fake,
        "service set kafka --scheduler lc --unset persistence --no-wait",
        "PATCH /v1/services/kafka {\"persistence\":null,\"scheduler\":\"lc\"}",
        said,
    );
    // The list of ports is replaced; so it must be the one that was read.
    check(
        &fake,
        "service set kafka --publish-add 80:8080 --publish-rm udp/53 --timeout 5",
        "PATCH /v1/services/kafka?generation=7&wait=5 {\"port\":[{\"published\":20229,\"target\":9092},\
         {\"published\":80,\"target\":8080}]}",
        said,
    );
    check(
        &fake,
        "service set kafka --one-packet --generation 6",
        "PATCH /v1/services/kafka?generation=6&wait=30 {\"one_packet\":true}",
        said,
    );
    check(&fake, "service rm kafka", "DELETE /v1/services/kafka?wait=30", said);
    let name = "service rm ../a?b";
    check(&fake, name, "DELETE /v1/services/..%2Fa%3Fb?wait=30", "service ../a?b: generation 12, programmed");
}

#[test]
fn checks_are_made_and_changed() {
    let fake = daemon();
    let service = "service kafka: generation 12, programmed";
    check(
        &fake,
        "service add kafka -p 20229:9092 -b 10.255.0.33 --check http --check-path /healthz --check-host kafka \
         --check-status 200-299 --check-interval 5s --check-timeout 500ms --check-rise 1 --check-fall 4 --check-port 80",
        "PUT /v1/services/kafka?generation=0&wait=30 {\"backend\":[{\"address\":\"10.255.0.33\"}],\"check\":{\"fall\":4,\
         \"host\":\"kafka\",\"interval\":\"5s\",\"path\":\"/healthz\",\"port\":80,\"rise\":1,\"status\":\"200-299\",\
         \"timeout\":\"500ms\",\"type\":\"http\"},\"name\":\"kafka\",\"port\":[{\"published\":20229,\"target\":9092}]}",
        service,
    );
    // What is not named stays; a type's keys do not follow to another.
    check(
        &fake,
        "service set kafka --check-interval 1",
        "PATCH /v1/services/kafka?wait=30 {\"check\":{\"interval\":1}}",
        service,
    );
    check(
        &fake,
        "service set kafka --check dns --check-name example.net",
        "PATCH /v1/services/kafka?wait=30 {\"check\":{\"body\":null,\"command\":null,\"expect\":null,\"host\":null,\
         \"name\":\"example.net\",\"path\":null,\"send\":null,\"status\":null,\"type\":\"dns\",\"user\":null,\
         \"verify\":null}}",
        service,
    );
    check(&fake, "service set kafka --unset check", "PATCH /v1/services/kafka?wait=30 {\"check\":null}", service);
    let port = "port tcp/20230 of kafka: generation 12, programmed";
    check(
        &fake,
        "port add kafka 20230 --check exec --check-command /bin/check --check-command --fast --check-user daemon",
        "POST /v1/services/kafka/ports?wait=30 {\"check\":{\"command\":[\"/bin/check\",\"--fast\"],\"type\":\"exec\",\
         \"user\":\"daemon\"},\"published\":20230}",
        port,
    );
    check(
        &fake,
        "port set kafka tcp/20230 --check none",
        "PATCH /v1/services/kafka/ports/tcp/20230?wait=30 {\"check\":{\"body\":null,\"command\":null,\"expect\":null,\
         \"fall\":null,\"host\":null,\"interval\":null,\"name\":null,\"on_down\":null,\"path\":null,\"port\":null,\"record\":null,\
         \"rise\":null,\"send\":null,\"start\":null,\"status\":null,\"timeout\":null,\"type\":\"none\",\"user\":null,\
         \"verify\":null}}",
        port,
    );
}

#[test]
fn ports_are_added_changed_and_removed() {
    let fake = daemon();
    let said = "port tcp/20230 of kafka: generation 12, programmed";
    check(
        &fake,
        "port add kafka 20230:9092/tcp -b 10.255.0.40 --scheduler sh --scheduler-flag sh-port",
        "POST /v1/services/kafka/ports?wait=30 {\"backend\":[{\"address\":\"10.255.0.40\"}],\"protocol\":\"tcp\",\
         \"published\":20230,\"scheduler\":\"sh\",\"scheduler_flags\":[\"sh-port\"],\"target\":9092}",
        said,
    );
    check(
        &fake,
        "port set kafka 20230/tcp --target 9093 --unset scheduler",
        "PATCH /v1/services/kafka/ports/tcp/20230?wait=30 {\"scheduler\":null,\"target\":9093}",
        said,
    );
    check(
        &fake,
        "port set kafka 20230 -b 10.255.0.40",
        "PATCH /v1/services/kafka/ports/tcp/20230?wait=30 {\"backend\":[{\"address\":\"10.255.0.40\"}]}",
        said,
    );
    check(
        &fake,
        "port set kafka 20230 --service-backends",
        "PATCH /v1/services/kafka/ports/tcp/20230?wait=30 {\"backend\":null}",
        said,
    );
    check(
        &fake,
        "port rm kafka udp/30000-30099",
        "DELETE /v1/services/kafka/ports/udp/30000-30099?wait=30",
        "port udp/30000-30099 of kafka: generation 12, programmed",
    );
}

#[test]
fn backends_are_added_changed_drained_and_removed() {
    let fake = daemon();
    let said = "backend 10.255.0.33 of kafka: generation 12, programmed";
    check(
        &fake,
        "backend add kafka 10.255.0.33 --weight 2 -x 100 -y 80 --netns 4711 --state drain",
        "POST /v1/services/kafka/backends?wait=30 {\"address\":\"10.255.0.33\",\"lower_threshold\":80,\"netns\":4711,\
         \"state\":\"drain\",\"upper_threshold\":100,\"weight\":2}",
        said,
    );
    check(
        &fake,
        "backend set kafka 10.255.0.33 --weight 0 --unset netns",
        "PATCH /v1/services/kafka/backends/10.255.0.33?wait=30 {\"netns\":null,\"weight\":0}",
        said,
    );
    check(
        &fake,
        "backend set kafka 10.255.0.33 --upper-threshold 7 --unset lower-threshold",
        "PATCH /v1/services/kafka/backends/10.255.0.33?wait=30 {\"lower_threshold\":null,\"upper_threshold\":7}",
        said,
    );
    let drained = "PATCH /v1/services/kafka/backends/10.255.0.33?wait=30 {\"state\":\"drain\"}";
    check(&fake, "backend drain kafka 10.255.0.33", drained, said);
    let undone = "PATCH /v1/services/kafka/backends/10.255.0.33?wait=30 {\"state\":null}";
    check(&fake, "backend drain kafka 10.255.0.33 --undo", undone, said);
    check(&fake, "backend rm kafka 10.255.0.33", "DELETE /v1/services/kafka/backends/10.255.0.33?wait=30", said);
    check(
        &fake,
        "backend rm kafka fd00:0::33 --port 53/udp",
        "DELETE /v1/services/kafka/ports/udp/53/backends/fd00::33?wait=30",
        "backend fd00::33 of kafka udp/53: generation 12, programmed",
    );
}

#[test]
fn one_generation_leads_to_the_next() {
    let fake = daemon();
    let ran = fake.run(&["backend", "drain", "kafka", "10.255.0.33", "10.255.0.34", "--generation", "7"]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 2), "{ran:?}");
    let queries: Vec<String> =
        fake.asked().iter().map(|asked| asked.replace("/v1/services/kafka/backends/", "")).collect();
    assert_eq!(
        queries,
        [
            "PATCH 10.255.0.33?generation=7&wait=30 {\"state\":\"drain\"}",
            "PATCH 10.255.0.34?generation=12&wait=30 {\"state\":\"drain\"}",
        ]
    );
}

#[test]
fn who_was_faster_is_not_overwritten() {
    let reads = AtomicU64::new(6);
    let fake = Fake::new(move |asked| match asked {
        "GET /v1/services/kafka" => {
            let mut entry = kafka();
            // Somebody changes it twice; later, nobody does.
            entry["generation"] = reads.fetch_add(1, Ordering::Relaxed).min(8).into();
            good(entry)
        }
        asked if asked.contains("generation=8") => accepted(12, "programmed"),
        _ => problem(409, "service kafka has another generation"),
    });
    check(
        &fake,
        "service set kafka --publish-rm 20229",
        "PATCH /v1/services/kafka?generation=8&wait=30 {\"port\":[{\"backend\":[{\"address\":\"10.255.0.40\"}],\
         \"protocol\":\"udp\",\"published\":53}]}",
        "service kafka: generation 12, programmed",
    );
    // Who names a generation means that one; and what is refused for something else is not tried again.
    let ran = fake.run(&["service", "set", "kafka", "--publish-rm", "20229", "--generation", "7"]);
    assert_eq!((ran.code, fake.asked().len()), (Some(1), 2), "{ran:?}");
    let file = Fake::new(|asked| match asked {
        "GET /v1/services/kafka" => good(kafka()),
        _ => problem(409, "service kafka belongs to the file"),
    });
    let ran = file.run(&["service", "set", "kafka", "--publish-rm", "20229"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "meshctl: service kafka belongs to the file\n"));
    assert_eq!(file.asked().len(), 3);
}

#[test]
fn a_dry_run_prints_the_plan() {
    let steps = ["add service tcp 20229 ipv4 (mark 0x14f05)", "map marks in sandbox: add tcp 20229"];
    let fake =
        Fake::new(move |_| good(json!({ "generation": 7, "changed": false, "result": "accepted", "plan": steps })));
    check(&fake, "service rm kafka --dry-run", "DELETE /v1/services/kafka?dry_run=true", &steps.join("\n"));
    let ran = fake.run(&["-o", "json", "service", "rm", "kafka", "--dry-run"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(answer["plan"], json!(steps));
}

#[test]
fn what_was_printed_can_be_given_back() {
    let fake = daemon();
    let printed = fake.run(&["service", "get", "kafka", "-o", "json"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let file = fake.place.file("kafka.json");
    std::fs::write(&file, &printed.out).expect("a file");
    let file = file.display().to_string();
    let whole = kafka()["service"].to_string();

    let said = "service kafka: generation 12, programmed";
    check(
        &fake,
        &format!("service add -f {file}"),
        &format!("PUT /v1/services/kafka?generation=0&wait=30 {whole}"),
        said,
    );
    check(
        &fake,
        &format!("service set kafka -f {file}"),
        &format!("PUT /v1/services/kafka?generation=7&wait=30 {whole}"),
        said,
    );

    let mut command = fake.place.command(&["service", "add", "-f", "-"]);
    let command = command.stdin(std::fs::File::open(&file).expect("the file"));
    let ran: crate::fake::Ran = command.output().expect("meshctl starts").into();
    assert_eq!((ran.code, ran.out), (Some(0), format!("{said}\n")));
}
