//! Backends' namespaces come and go while meshd runs.

use crate::lab::{Lab, Tcp, eventually};

#[test]
fn a_namespace_that_comes_later_or_again_is_attached() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let meshd = lab.start(&lab.config().service(
        r#"
        name = "kafka"
        port = [
            { published = 20229, target = 9092 },
            { published = 8080, target = 80, backend = [{ address = "10.255.0.41", netns = "web-1" }] },
        ]
        backend = [{ address = "10.255.0.33", netns = "kafka-1" }]"#,
    ));
    // The rest works.
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20229").backend, "kafka-1");
    let complaints = || {
        let said = meshd.said_since(0);
        said.into_iter().filter(|(level, text)| level == "ERROR" && text.contains("web-1")).map(|(_, text)| text)
    };
    // It tries again and again, and says so once.
    let tries = || meshd.said_since(0).iter().filter(|(_, text)| text.starts_with("attach namespace")).count();
    eventually("several tries", || tries() >= 4);
    assert_eq!(complaints().count(), 1, "{:#?}", complaints().collect::<Vec<_>>());

    let answers = || lab.client.try_ask(Tcp, "192.168.50.1:8080").is_ok_and(|answer| answer.backend == "web-1");
    let web = lab.backend("web-1").tcp(80);
    eventually("web-1 is attached", answers);
    lab.remove(web);
    assert!(!lab.place("web-1").exists());
    assert_eq!(lab.client.ask(Tcp, "192.168.50.1:20229").backend, "kafka-1");
    let _web = lab.backend("web-1").tcp(80);
    eventually("web-1 is attached again", answers);
}
