//! Graphviz's language: `meshctl graph --format dot | dot -Tsvg`.

use super::model::{Edge, Graph, Place, Port, words};
use crate::meshctl::escape;

const IDLE: &str = ", style=dashed, color=gray60, fontcolor=gray50";

pub fn graph(graph: &Graph) -> String {
    let mut text = "\
digraph mesh {
  graph [rankdir=LR, ranksep=2, fontname=\"sans-serif\"];
  node [shape=box, fontname=\"sans-serif\", fontsize=11];
  edge [fontname=\"sans-serif\", fontsize=9];
"
    .to_owned();
    let clients = label(["clients".to_owned()].into_iter().chain(words(graph.flow)));
    text += &format!("  clients [label={clients}, shape=ellipse];\n");
    text += &cluster("  ", "sandbox", &graph.title(), &ports(graph));
    let overlay = graph.places.iter().enumerate().filter(|(_, place)| **place != Place::Unnamed);
    let overlay: String = overlay.map(|(number, place)| self::place("    ", graph, number, place)).collect();
    if !overlay.is_empty() {
        text += &cluster("  ", "overlay", "overlay", &overlay);
    }
    let unnamed = graph.places.iter().enumerate().filter(|(_, place)| **place == Place::Unnamed);
    text.extend(unnamed.map(|(number, place)| self::place("  ", graph, number, place)));
    text.extend(graph.ports.iter().enumerate().map(|(number, port)| way_in(number, port)));
    text.extend(graph.edges.iter().map(edge));
    text + "}\n"
}

fn ports(graph: &Graph) -> String {
    let port = |(number, port): (usize, &Port)| {
        let lines = [format!("{} {}", port.service, port.name), port.details().join(", ")];
        format!("    p{number} [label={}];\n", label(lines.into_iter()))
    };
    graph.ports.iter().enumerate().map(port).collect()
}

fn place(indent: &str, graph: &Graph, number: usize, place: &Place) -> String {
    let backends = graph.backends_at(number).map(|(number, backend)| {
        let idle = if backend.idle { IDLE } else { "" };
        format!(
            "{indent}  b{number} [label={}{idle}];\n",
            label(backend.words().into_iter().chain(words(backend.flow)))
        )
    });
    cluster(indent, &format!("n{number}"), &graph.name_of(place), &backends.collect::<String>())
}

fn way_in(number: usize, port: &Port) -> String {
    format!("  clients -> p{number} [label={}];\n", label(words(port.flow)))
}

fn edge(edge: &Edge) -> String {
    let idle = if edge.is_idle() { IDLE } else { "" };
    let label = label([edge.words().join(", ")].into_iter().chain(words(edge.flow)));
    format!("  p{} -> b{} [label={label}{idle}];\n", edge.port, edge.backend)
}

/// A box with a title: Graphviz knows it by the beginning of its name.
fn cluster(indent: &str, name: &str, title: &str, inside: &str) -> String {
    let title = label([title.to_owned()].into_iter());
    format!("{indent}subgraph cluster_{name} {{\n{indent}  label={title};\n{inside}{indent}}}\n")
}

/// In quotes, a line below the other.
fn label(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<String> = lines.map(|line| escape::dot(&line)).collect();
    format!("\"{}\"", lines.join("\\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::model::examples::{counted, example, strange};
    use super::super::wellformed;
    use super::graph;

    #[test]
    fn nodes_are_clusters_on_the_overlay() {
        let text = graph(&example(&counted()));
        let labels = wellformed::dot(&text).expect("it is Graphviz's language");
        assert_eq!(labels[1], "node-1: published ports ─► ingress_sbox (ipvs)");
        for line in [
            "  clients [label=\"clients\\n12.5 conn/s\\n120k B/s in\\n3.4M B/s out\", shape=ellipse];\n",
            "    p0 [label=\"kafka tcp/20229\\nto 9092, mark 0x14f05, wrr\"];\n",
            "  subgraph cluster_overlay {\n    label=\"overlay\";\n    subgraph cluster_n0 {\n",
            "      label=\"node-1 (this node)\";\n      b0 [label=\"10.255.0.33\\nkafka-1\\n12.5 conn/s",
            "  p0 -> b0 [label=\"weight 2\\n12.5 conn/s\\n120k B/s in\\n3.4M B/s out\"];\n",
            "  p0 -> b2 [label=\"weight 0, drain\", style=dashed, color=gray60, fontcolor=gray50];\n",
            "      b2 [label=\"fd00:255::36\", style=dashed, color=gray60, fontcolor=gray50];\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let without = graph(&example(&[]));
        assert!(without.contains("  p0 -> b0 [label=\"weight 2\"];\n"), "{without}");
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_it_is_read_as_it_was_meant(strange in strange()) {
            let labels = wellformed::dot(&graph(&strange)).map_err(TestCaseError::fail)?;
            let clusters = 1 + strange.places.len() + 1;
            let things = 1 + strange.ports.len() * 2 + strange.backends.len() + strange.edges.len();
            prop_assert_eq!(labels.len(), clusters + things);
        }
    }
}
