//! Large bodies through the overlay, whose MTU is smaller than the client's.

use crate::lab::{BACKENDS, Lab, Place, Tcp};

const MIB: usize = 1 << 20;

#[test]
fn a_mebibyte_passes_both_ways() {
    let Some(lab) = Lab::new() else { return };
    let _backends = lab.kafka(&[Tcp]);
    let _meshd = lab.start(
        &lab.config().service(&format!("name = 'kafka'\nport = [{{ published = 20229, target = 9092 }}]{BACKENDS}")),
    );
    assert_eq!(lab.sandbox().json("ip -j link show dev eth0")[0]["mtu"], 1450);
    assert_eq!(lab.client.json("ip -j link show dev c0")[0]["mtu"], 1500);
    let file = lab.file("body", MIB);

    let transfer = |from: &Place, node: &str| {
        let got =
            from.run(&format!("curl -sSgf -m 60 -o /dev/null -w %{{size_download}} http://{node}:20229/bytes/{MIB}"));
        assert_eq!(got, MIB.to_string(), "from {node}");
        let file = file.display();
        let head = from.run(&format!("curl -sSgf -m 60 -D - -o /dev/null --data-binary @{file} http://{node}:20229/"));
        assert!(head.contains(&format!("X-Received: {MIB}\r\n")), "to {node}: {head}");
    };
    transfer(&lab.client, "192.168.50.1");
    transfer(&lab.client, "[fd50::1]");
    transfer(&lab.node, "127.0.0.1");
    transfer(&lab.node, "[fd50::1]");
}
