//! A scrape is made piece by piece: memory does not grow with the number of series.

use meshd::metrics::CHUNK;

use super::format::parse;
use super::made_up::{counters, exposition, mesh, text};

/// Lines of all that is not traffic.
fn lines_without_traffic() -> usize {
    text(exposition(&mesh(""), Default::default(), true)).lines().count()
}

/// 10,000 ports with 10 backends each: 850,000 series, and at no time more than two pieces of text.
#[test]
fn ten_thousand_ports_with_ten_backends() {
    let ports: String = (10_000..20_000).map(|port| format!("[[service.port]]\npublished = {port}\n")).collect();
    let mesh = mesh(&format!("[[service]]\nname = 'web'\n{ports}"));
    let counters = counters(&mesh, 10);

    let (mut lines, mut bytes, mut last) = (0, 0, CHUNK);
    for piece in exposition(&mesh, counters.clone(), true) {
        assert_eq!(last, CHUNK, "only the last piece is smaller");
        assert!(piece.len() <= CHUNK && piece.capacity() <= 2 * CHUNK, "{} of {}", piece.len(), piece.capacity());
        last = piece.len();
        bytes += last;
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
    }
    let (families, of_port, of_backend) = (9, 5, 8);
    let heads = 2 * families;
    assert_eq!(lines, lines_without_traffic() + heads + 10_000 * of_port + 100_000 * of_backend);
    assert!(bytes > 50 << 20, "{bytes}");

    // Without the backends' series it is a tenth of that.
    let pieces = exposition(&mesh, counters, false);
    let lines: usize = pieces.map(|piece| piece.iter().filter(|byte| **byte == b'\n').count()).sum();
    assert_eq!(lines, lines_without_traffic() + 2 * 3 + 10_000 * of_port);
}

#[test]
fn nothing_that_is_not_there_is_shown() {
    let families = parse(&text(exposition(&mesh(""), Default::default(), true)));
    let shown = |name: &str| families.iter().any(|family| family.name == name);
    for absent in ["meshd_port_connections_total", "meshd_backend_weight", "meshd_conntrack_entries"] {
        assert!(!shown(absent), "{absent}");
    }
    assert!(shown("meshd_services") && shown("meshd_ipvs_connections"));
}

/// What the kernel still has of a port that is not in the mesh any more is no one's; its connections count.
#[test]
fn a_port_that_is_gone_has_no_series() {
    let [both, one] = ["80 }, { published = 81", "80"]
        .map(|ports| mesh(&format!("[[service]]\nname = 'web'\nport = [{{ published = {ports} }}]")));
    let text = text(exposition(&one, counters(&both, 1), true));
    assert!(text.contains("port=\"80\"") && !text.contains("port=\"81\""));
    assert!(text.contains("\nmeshd_ipvs_connections 12\n"), "{text}");
}
