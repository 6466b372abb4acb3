//! `-o json`: the graph for programs.

use serde_json::{Value, json};

use super::model::{Backend, Edge, Flow, Graph, Place, Port};

pub fn graph(graph: &Graph) -> Value {
    let nodes = graph.places.iter().enumerate().map(|(number, place)| node(graph, number, place));
    let ports = graph.ports.iter().enumerate().map(|(number, port)| self::port(number, port));
    let backends = graph.backends.iter().enumerate().map(|(number, backend)| self::backend(number, backend));
    json!({
        "node": graph.node,
        "dataplane": graph.dataplane,
        "rate": graph.flow.map(rate),
        "nodes": nodes.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "edges": graph.edges.iter().map(edge).collect::<Vec<_>>(),
    })
}

fn node(graph: &Graph, number: usize, place: &Place) -> Value {
    let (kind, name) = match place {
        Place::This => ("this", Some(&graph.node)),
        Place::Peer(name) => ("peer", Some(name)),
        Place::Unnamed => ("unnamed", None),
    };
    json!({ "id": format!("n{number}"), "kind": kind, "name": name })
}

fn port(number: usize, port: &Port) -> Value {
    json!({
        "id": format!("p{number}"), "service": port.service, "port": port.name, "target": port.target,
        "mark": port.mark.map(|mark| mark.0), "scheduler": port.scheduler,
        "mode": if port.host_mode { "host" } else { "ingress" }, "rate": port.flow.map(rate),
    })
}

fn backend(number: usize, backend: &Backend) -> Value {
    json!({
        "id": format!("b{number}"), "node": format!("n{}", backend.place), "address": backend.address,
        "netns": backend.netns, "rate": backend.flow.map(rate),
    })
}

fn edge(edge: &Edge) -> Value {
    let (active, inactive) = edge.connections.unzip();
    json!({
        "port": format!("p{}", edge.port), "backend": format!("b{}", edge.backend), "weight": edge.weight,
        "state": edge.state.name(), "idle": edge.is_idle(), "active": active, "inactive": inactive,
        "rate": edge.flow.map(rate),
    })
}

fn rate(flow: Flow) -> Value {
    let (into, out) = flow.bytes.unzip();
    json!({ "connections": flow.connections, "bytes_in": into, "bytes_out": out })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::examples::{counted, example};
    use super::graph;

    #[test]
    fn edges_name_ports_and_backends() {
        let graph = graph(&example(&counted()));
        let this = json!({ "id": "n0", "kind": "this", "name": "node-1" });
        assert_eq!(graph["nodes"][0], this);
        assert_eq!(graph["ports"][0]["mark"], 0x14f05);
        assert_eq!(graph["backends"][0]["node"], "n0");
        let edge = json!({
            "port": "p0", "backend": "b0", "weight": 2, "state": "enabled", "idle": false, "active": 3, "inactive": 12,
            "rate": { "connections": 12.5, "bytes_in": 120_000.0, "bytes_out": 3.4e6 },
        });
        assert_eq!(graph["edges"][0], edge);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let graph = graph(&example(&[]));
        assert!(
            graph["rate"].is_null() && graph["edges"][0]["rate"].is_null() && graph["edges"][0]["active"].is_null()
        );
        assert!(graph["nodes"][2]["name"].is_null(), "{graph:#}");
    }
}
