//! What others would make: the routed way without a balancer, a mesh by hand with nft and ipvsadm, Swarm's rules.
//!
//! ```text
//! client ─── node ─── leg (direct, proxies) ─────────────┐
//!             │                                          br0 ─── backends      overlay (one a node, VXLAN between them)
//!             └─ gw0 ─── eth1  sandbox (meshes)  eth0 ───┘
//! ```

use std::fmt::Write as _;

use crate::lab::{Place, batch};
use crate::traffic::TARGET;
use crate::world::{BACKENDS, World, program};

/// The node's address on the overlay where it has one, and the sandbox's.
const LEG: &str = "10.255.0.1";
const INGRESS: &str = "10.255.0.3";
const GATEWAY: &str = "172.18.0.1";
const SANDBOX: &str = "172.18.0.2";

/// The overlay with the backends on it; they answer by that gateway where they are given one.
fn overlay(world: &World, gateway: Option<&str>) {
    let several = world.nodes.len() > 1;
    for (number, node) in world.nodes.iter().enumerate() {
        let overlay = world.overlay(number);
        batch(
            None,
            &format!(
                "netns add {0}\nlink add br0 netns {0} mtu 1450 type bridge forward_delay 0 mcast_snooping 0\n",
                overlay.name
            ),
        );
        if several {
            let (near, far) = (world.address(number), world.address(1 - number));
            // The device's socket stays where it is made.
            batch(
                Some(node),
                &format!(
                    "link add vxlan0 type vxlan id 4096 dstport 4789 local {near} remote {far}\n\
                     link set vxlan0 netns {}\n",
                    overlay.name
                ),
            );
            batch(Some(&overlay), "link set vxlan0 mtu 1450 master br0 up\n");
        }
        batch(Some(&overlay), "link set br0 up\nlink set lo up\n");
    }
    let overlay = world.overlay(world.nodes.len() - 1);
    for (backend, (name, address)) in world.backends.iter().zip(BACKENDS) {
        plug(&overlay, name, backend, "eth0", address);
        if let Some(gateway) = gateway {
            batch(Some(backend), &format!("route add default via {gateway}\n"));
        }
    }
}

/// A link from the overlay's bridge to a place, with an address there.
fn plug(overlay: &Place, port: &str, place: &Place, link: &str, address: &str) {
    batch(
        None,
        &format!(
            "link add {port} mtu 1450 netns {0} type veth peer name {link} mtu 1450 netns {1}\n",
            overlay.name, place.name
        ),
    );
    batch(Some(overlay), &format!("link set {port} master br0 up\n"));
    batch(Some(place), &format!("addr add {address}/16 dev {link}\nlink set {link} up\nlink set lo up\n"));
}

/// The node routes clients to the backends' own addresses. Also what proxies stand on.
pub fn direct(world: &World) {
    overlay(world, Some(LEG));
    plug(&world.overlay(0), "leg", &world.nodes[0], "ov0", LEG);
    world.nodes[0].run("sysctl -q net.ipv4.ip_forward=1");
    batch(Some(world.client()), "route add 10.255.0.0/16 via 192.168.50.1\n");
}

/// A sandbox between the gateway's bridge and the overlay, as Swarm has it, without rules.
fn sandbox(world: &World) -> Place {
    overlay(world, None);
    let sandbox = world.sandbox();
    batch(None, &format!("netns add {}\n", sandbox.name));
    plug(&world.overlay(0), "sbox0", &sandbox, "eth0", INGRESS);
    let node = &world.nodes[0];
    batch(
        None,
        &format!(
            "link add gw0 netns {0} type bridge forward_delay 0 mcast_snooping 0\n\
             link add sbox1 netns {0} type veth peer name eth1 netns {1}\n",
            node.name, sandbox.name
        ),
    );
    batch(Some(node), &format!("link set sbox1 master gw0 up\naddr add {GATEWAY}/16 dev gw0\nlink set gw0 up\n"));
    batch(
        Some(&sandbox),
        &format!("addr add {SANDBOX}/16 dev eth1\nlink set eth1 up\nroute add default via {GATEWAY}\n"),
    );
    node.run("sysctl -q net.ipv4.ip_forward=1 net.ipv4.conf.gw0.route_localnet=1");
    sandbox
}

/// IPVS services by mark, each with all backends, at that port.
fn ipvs(sandbox: &Place, marks: impl Iterator<Item = u32>, target: u16) {
    let mut lines = String::new();
    for mark in marks {
        let _ = writeln!(lines, "-A -f {mark} -s rr");
        for (_, address) in BACKENDS {
            let _ = writeln!(lines, "-a -f {mark} -r {address}:{target} -m -w 1");
        }
    }
    program(sandbox, "ipvsadm -R", &lines);
    sandbox.run(
        "sysctl -q net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1 \
         net.ipv4.vs.expire_quiescent_template=1",
    );
}

/// nftables maps, a mark for each port, IPVS, SNAT: what meshd is measured against (KERNEL.md's recipe, IPv4 alone).
pub fn mesh(world: &World) {
    let sandbox = sandbox(world);
    let elements = |value: &dyn Fn(u16) -> String| {
        let elements: Vec<String> = world.ports().map(|port| format!("tcp . {port} : {}", value(port))).collect();
        elements.join(", ")
    };
    let host = format!(
        "table ip hand {{
            map ports {{ type inet_proto . inet_service : ipv4_addr; elements = {{ {} }}; }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname gw0 return
                fib daddr type local dnat ip to meta l4proto . th dport map @ports
            }}
            chain output {{
                type nat hook output priority -100;
                fib daddr type local dnat ip to meta l4proto . th dport map @ports
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname gw0 fib saddr type local masquerade
            }}
        }}",
        elements(&|_| SANDBOX.to_owned())
    );
    // Every node of a mesh is published at.
    world.nodes.iter().for_each(|node| program(node, "nft -f -", &host));
    let mark = |port: u16| 0x10000 | u32::from(port);
    let inside = format!(
        "table ip hand {{
            map marks {{ type inet_proto . inet_service : mark; elements = {{ {} }}; }}
            chain prerouting {{
                type filter hook prerouting priority mangle;
                iifname eth0 accept
                meta mark set meta l4proto . th dport map @marks
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip daddr 10.255.0.0/16 meta mark != 0 snat to {INGRESS}
            }}
        }}",
        elements(&|port| mark(port).to_string())
    );
    program(&sandbox, "nft -f -", &inside);
    ipvs(&sandbox, world.ports().map(mark), TARGET);
}

/// The rules that dockerd makes (SWARM.md), newest port first as it inserts them; without br_netfilter, which it loads.
pub fn swarm(world: &World) {
    let sandbox = sandbox(world);
    let ports: Vec<u16> = world.ports().collect();
    let newest_first = || ports.iter().rev();
    let mut host = String::from(
        "*nat\n:DOCKER-INGRESS - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS\n\
         -A POSTROUTING -o gw0 -m addrtype --src-type LOCAL -j MASQUERADE\n",
    );
    for port in newest_first() {
        let _ =
            writeln!(host, "-A DOCKER-INGRESS -p tcp -m tcp --dport {port} -j DNAT --to-destination {SANDBOX}:{port}");
    }
    host += "-A DOCKER-INGRESS -j RETURN\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n:DOCKER-INGRESS - [0:0]\n-A FORWARD -j DOCKER-INGRESS\n";
    for port in newest_first() {
        let _ = writeln!(
            host,
            "-A DOCKER-INGRESS -p tcp -m tcp --dport {port} -j ACCEPT\n\
             -A DOCKER-INGRESS -p tcp -m state --state RELATED,ESTABLISHED -m tcp --sport {port} -j ACCEPT"
        );
    }
    host += "-A DOCKER-INGRESS -j RETURN\nCOMMIT\n";
    program(&world.nodes[0], "iptables-restore", &host);

    // A mark for each service, from 256.
    let marks = || ports.iter().zip(256u32..);
    let mut inside = String::from("*mangle\n");
    for (port, mark) in marks() {
        let _ = writeln!(inside, "-A PREROUTING -p tcp -m tcp --dport {port} -j MARK --set-xmark {mark:#x}/0xffffffff");
    }
    let _ = write!(
        inside,
        "COMMIT\n*nat\n-A POSTROUTING -d 10.255.0.0/16 -m ipvs --ipvs -j SNAT --to-source {INGRESS}\nCOMMIT\n"
    );
    program(&sandbox, "iptables-restore", &inside);
    ipvs(&sandbox, marks().map(|(_, mark)| mark), 0);

    // In a task's namespace the published port becomes the target port; nothing else of it is open. A task is in one service.
    let published = world.published();
    for (backend, (_, address)) in world.backends.iter().zip(BACKENDS) {
        let task = format!(
            "*nat\n-A PREROUTING -d {address}/32 -p tcp -m tcp --dport {published} -j REDIRECT --to-ports {TARGET}\nCOMMIT\n\
             *filter\n\
             -A INPUT -d {address}/32 -p tcp -m tcp --dport {TARGET} -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n\
             -A INPUT -d {address}/32 -p tcp -j DROP\n\
             -A OUTPUT -s {address}/32 -p tcp -m tcp --sport {TARGET} -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
             -A OUTPUT -s {address}/32 -p tcp -j DROP\nCOMMIT\n"
        );
        program(backend, "iptables-restore", &task);
    }
}
