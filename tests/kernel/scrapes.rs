//! The metrics listener has to do with strangers, and with a kernel that is not as it should be.

use std::io::Write;
use std::net::TcpStream;

use crate::lab::{BACKENDS4, Lab, Tcp, batch, eventually, value_of};

const LISTEN: &str = "127.0.0.1:9326";

fn send(lab: &Lab, bytes: &[u8]) -> TcpStream {
    lab.node.within(|| {
        let mut stream = TcpStream::connect(LISTEN).expect("it listens");
        // It may hang up in the middle.
        let _ = stream.write_all(bytes);
        stream
    })
}

#[test]
fn garbage_and_a_missing_sandbox_do_not_disturb() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let config =
        lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS4}"));
    let mut meshd = lab.start(&config);

    let mut held: Vec<TcpStream> = (0..100).map(|_| send(&lab, b"")).collect();
    for half in [
        "GET /metr",
        "GET /metrics HTTP/1.1\r\nHost: x",
        "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx",
    ] {
        held.extend((0..10).map(|_| send(&lab, half.as_bytes())));
    }
    let noise: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for length in [1, 100, 10_000, 100_000] {
        drop(send(&lab, &noise[..length]));
    }
    drop(send(&lab, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000)).as_bytes()));
    assert_eq!(value_of(&lab.metrics(), "meshd_services"), 1.0);
    let status = |path: &str| {
        let format = ["-w", "%{http_code}"].join(" ");
        lab.node.run(&format!("curl -sS -m 60 -o /dev/null {format} http://{LISTEN}{path}"))
    };
    assert_eq!((status("/"), status("/metrics")), ("404".to_owned(), "200".to_owned()));

    // Without a sandbox there is nothing to count, and that is all.
    batch(None, &format!("netns del {}\n", lab.sandbox().name));
    eventually("the sandbox is there again", || {
        let metrics = lab.metrics();
        assert_eq!(value_of(&metrics, "meshd_services"), 1.0);
        lab.sandbox().exists() && metrics.contains("meshd_backend_weight")
    });
    lab.client.ask(Tcp, "192.168.50.1:20229");
    meshd.reload(&config);
    drop(held);
    assert!(meshd.stop().success());
}
