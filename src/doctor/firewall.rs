//! Other firewalls of the host.

use super::chart::{Chart, several};
use crate::control::protocol::{Area, Grade};
use crate::objects::{Beside, Obstacle, Opening};

pub fn look(chart: &mut Chart<'_>) {
    forward(chart);
    legacy(chart);
    tunnel(chart);
    beside(chart);
}

/// Chains that drop what nobody accepts.
fn forward(chart: &mut Chart<'_>) {
    let v6 = chart.v6();
    let met = chart.condition.surroundings.forward_drops.iter();
    let met: Vec<&Opening> = met.filter(|chain| v6 || chain.family != "ip6").collect();
    if met.is_empty() {
        let found = "none drops what nobody accepts";
        chart.good(Area::Firewall, "forward chains of others", found, "clients' packets reach the sandbox");
    }
    let link = chart.mesh.gateway.link();
    for chain in met {
        let what = format!("chain {chain}");
        let opens = chart.mesh.gateway.open_forward;
        if opens && chart.condition.openings.contains(chain) {
            let found = format!("drops, but for {link}");
            chart.good(Area::Firewall, what, found, "meshd has put its two rules there");
            continue;
        }
        // firewalld lets through what was translated.
        let grade = if chain.table == "firewalld" || opens && !chart.has_run() { Grade::Warning } else { Grade::Fault };
        let found = if opens {
            "drops what nobody accepts, and meshd's rules are not there"
        } else {
            "drops what nobody accepts, and [gateway] open_forward = false"
        };
        let why = "published ports do not answer clients from outside";
        let rule = |way: &str| format!("nft insert rule {chain} {way} {link} accept");
        let rules = format!("{} && {}", rule("iifname"), rule("oifname"));
        let mend = if opens {
            format!("systemctl start meshd, or {rules}")
        } else {
            format!("{rules}; or [gateway] open_forward = true")
        };
        chart.bad((Area::Firewall, grade), what, found, why, mend);
    }
}

/// The kernel tells nothing of these, and their rules cannot be read by nftables.
fn legacy(chart: &mut Chart<'_>) {
    let link = chart.mesh.gateway.link();
    for command in &chart.condition.legacy {
        let why = "meshd cannot see what is in it: if its FORWARD chain drops, published ports do not answer clients from outside";
        let mend = format!(
            "{command} -I FORWARD -i {link} -j ACCEPT && {command} -I FORWARD -o {link} -j ACCEPT, if it drops"
        );
        chart.bad((Area::Firewall, Grade::Warning), *command, "it has a filter table here", why, mend);
    }
}

/// What others' rules do to packets of other nodes.
fn tunnel(chart: &mut Chart<'_>) {
    let port = chart.mesh.ingress.underlay_port();
    let name = |address| {
        chart.mesh.other_nodes().find(|peer| peer.address == address).map_or("a node", |peer| peer.name.as_str())
    };
    let mut clear = Vec::new();
    let mut met: Vec<(String, &Obstacle)> = Vec::new();
    for (peer, obstacles) in &chart.condition.obstacles {
        if obstacles.is_empty() {
            clear.push(name(*peer));
        }
        met.extend(obstacles.iter().map(|obstacle| (format!("{} ({peer})", name(*peer)), obstacle)));
    }
    if !clear.is_empty() {
        let found = format!("let in from {}", several(&clear));
        chart.good(
            Area::Firewall,
            format!("the tunnel's packets, UDP port {port}"),
            found,
            "others' rules do not drop them",
        );
    }
    for (peer, obstacle) in met {
        let grade = if obstacle.is_sure { Grade::Fault } else { Grade::Warning };
        let what = format!("the tunnel's packets from {peer}");
        let why = "backends there do not answer clients that come by this node";
        let mend = format!("nft insert rule {} udp dport {port} accept", obstacle.chain);
        chart.bad((Area::Firewall, grade), what, obstacle.to_string(), why, mend);
    }
}

/// Who else makes rules, by what the kernel holds of theirs.
fn beside(chart: &mut Chart<'_>) {
    for (who, seen) in &chart.condition.beside {
        let seen = format!("here, by chain {seen}");
        match who {
            Beside::Docker => {
                let why = "Docker drops what it does not know; meshd's rules go to DOCKER-USER where that is, which Docker leaves to others";
                chart.good(Area::Firewall, "Docker", seen, why);
            }
            Beside::Kubernetes => chart.good(
                Area::Firewall,
                "Kubernetes",
                seen,
                "its node ports and the mesh's must differ; each has tables of its own",
            ),
            Beside::Firewalld | Beside::Ufw => {
                let name = if *who == Beside::Firewalld { "firewalld" } else { "ufw" };
                let why = "published ports are led to the mesh before it: its rules for the host's own ports do not hold for them";
                let mend = "allow = [\"192.0.2.0/24\"] or deny at the published port, where not everyone may come";
                chart.bad((Area::Firewall, Grade::Notice), name, seen, why, mend);
            }
        }
    }
}
