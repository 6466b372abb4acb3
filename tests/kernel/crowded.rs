//! Many connections at once: MESHD_CONNECTIONS says how many (2,000; `make soak`: 50,000).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::lab::{Lab, Tcp, eventually, number, value_of};

/// One client has so many ports of its own for each port that it asks.
const OF_A_PORT: usize = 25_000;

#[test]
fn many_connections_are_held_and_more_are_served() {
    let Some(lab) = Lab::new() else { return };
    let wanted = number("MESHD_CONNECTIONS", 2_000);
    // Each has two ends here.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let needed = wanted as u64 * 2 + 10_000;
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).expect("root may raise it");
    let backend = lab.backend("kafka-1").tcp(9092);
    let ports = wanted.div_ceil(OF_A_PORT);
    let published: Vec<String> =
        (0..ports).map(|number| format!("{{ published = {}, target = 9093 }}", 20_000 + number)).collect();
    let text = "backend = [{ address = \"10.255.0.33\", netns = \"kafka-1\" }]";
    let config = lab
        .config()
        .service(&format!("name = 'held'\nport = [{}]\n{text}", published.join(", ")))
        .service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]\n{text}"));
    let meshd = lab.start(&config);
    let accepted: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let held = accepted.clone();
    let listener = backend.within(|| TcpListener::bind("0.0.0.0:9093").expect("a free port"));
    let accepting = thread::spawn(move || {
        for stream in listener.incoming().take(wanted) {
            held.lock().expect("no panic").push(stream.expect("a connection"));
        }
    });
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    lab.client.within(|| std::fs::write(range, "10000 65000")).expect("it can be set");
    let open = |number: usize| {
        let to = SocketAddr::from(([192, 168, 50, 1], 20_000 + (number / OF_A_PORT) as u16));
        TcpStream::connect_timeout(&to, Duration::from_secs(10))
            .unwrap_or_else(|error| panic!("the {number}th: {error}"))
    };
    let mut clients: Vec<TcpStream> = lab.client.within(|| (0..wanted).map(open).collect());
    eventually("all are accepted", || accepted.lock().expect("no panic").len() == wanted);
    accepting.join().expect("it has all");

    // All of them are seen, and nobody waits because of them.
    let connections = value_of(&lab.metrics(), "meshd_ipvs_connections");
    assert!(connections >= wanted as f64, "{connections}");
    assert!(value_of(&lab.metrics(), "meshd_conntrack_entries{netns=\"sandbox\"}") >= wanted as f64);
    let put = serde_json::json!({ "port": [{ "published": 20300 }], "backend": [{ "address": "10.255.0.33" }] });
    lab.api().good("PUT", "/v1/services/more?wait=30", Some(&put));
    for _ in 0..20 {
        lab.client.ask(Tcp, "192.168.50.1:20229");
    }
    // A death and a start take none of them away.
    meshd.kill9();
    let _meshd = lab.resume();
    let mut accepted = accepted.lock().expect("no panic");
    for stream in accepted.iter_mut() {
        stream.write_all(b"still here\n").expect("it is open");
    }
    for client in &mut clients {
        // So many at once may be too many for a link, and come again.
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
        let mut line = [0; 11];
        client.read_exact(&mut line).expect("it is open");
        assert_eq!(&line, b"still here\n");
    }
    println!("load: {wanted} connections held through a death and a start");
}
