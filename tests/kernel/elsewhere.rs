//! Backends that are not on the overlay: in another network, and on the node itself.

use crate::lab::{Lab, Sctp, Tcp, Udp, eventually};

#[test]
fn a_backend_outside_the_overlay_is_reached_by_masquerade() {
    let Some(lab) = Lab::new() else { return };
    let _far = lab.far_backend("far").tcp(9092).udp(9092).sctp(9092);
    let _meshd = lab.start(&lab.config().service(
        r#"
        name = "far"
        port = [
            { published = 20229, target = 9092 },
            { published = 20229, target = 9092, protocol = "udp" },
            { published = 20229, target = 9092, protocol = "sctp" },
        ]
        backend = [{ address = "192.168.60.2" }, { address = "fd60::2" }]"#,
    ));
    for protocol in [Tcp, Udp, Sctp] {
        for (from, to, seen) in [
            (&lab.client, "192.168.50.1:20229", "192.168.60.1"),
            (&lab.client, "[fd50::1]:20229", "fd60::1"),
            (&lab.node, "192.168.50.1:20229", "192.168.60.1"),
            (&lab.node, "127.0.0.1:20229", "192.168.60.1"),
            (&lab.node, "[fd50::1]:20229", "fd60::1"),
        ] {
            let answer = from.ask(protocol, to);
            assert_eq!((answer.backend.as_str(), answer.peer.ip().to_string().as_str()), ("far", seen), "{to}");
        }
    }
}

/// Every port that a question may be asked from is published: the answer is the sandbox's all the same.
#[test]
fn a_backend_outside_the_overlay_is_asked_whatever_is_published() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let _far = lab.far_backend("far").tcp(9092);
    let _meshd = lab.start(
        &lab.config()
            .service(
                r#"
                name = "far"
                port = [{ published = 20229, target = 9092 }]
                check = { type = "tcp", interval = "1s", timeout = "1s", rise = 3 }
                backend = [{ address = "192.168.60.2" }, { address = "fd60::2" }]"#,
            )
            .service(
                r#"
                name = "kafka"
                port = [{ published = "32768-60999" }]
                backend = [{ address = "10.255.0.33", netns = "kafka-1" }, { address = "fd00:255::33", netns = "kafka-1" }]"#,
            ),
    );
    eventually("both are well", || {
        lab.sandbox().weights().iter().filter(|((_, place), _)| place.port() == 9092).count() == 2
    });
    for to in ["192.168.50.1:20229", "[fd50::1]:20229"] {
        assert_eq!(lab.client.ask(Tcp, to).backend, "far");
    }
}

/// The node's own port is published as well, for another service and for the same one: what comes out of the
/// sandbox must not be led back in.
#[test]
fn a_backend_on_the_node_does_not_loop() {
    let Some(lab) = Lab::new() else { return };
    let _kafka = lab.kafka(&[Tcp]);
    let _local = lab.local_backend("local").tcp(9000).tcp(9001);
    let _meshd = lab.start(
        &lab.config()
            .service(
                r#"
                name = "local"
                port = [{ published = 8080, target = 9000 }, { published = 9001 }]
                backend = [{ address = "192.168.50.1" }, { address = "fd50::1" }]"#,
            )
            .service(
                r#"
                name = "kafka"
                port = [{ published = 9000, target = 9092 }]
                backend = [{ address = "10.255.0.33", netns = "kafka-1" }]"#,
            ),
    );
    for from in [&lab.client, &lab.node] {
        for port in [8080, 9001] {
            for node in ["192.168.50.1", "[fd50::1]"] {
                assert_eq!(from.ask(Tcp, &format!("{node}:{port}")).backend, "local", "{node}:{port} of {from:?}");
            }
        }
        assert_eq!(from.ask(Tcp, "192.168.50.1:9000").backend, "kafka-1");
    }
}
