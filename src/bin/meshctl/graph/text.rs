//! A tree for terminals. Ports that have the same backends stand above them, so that 100 ports are 100 lines.

use std::collections::BTreeSet;

use super::model::{self, Edge, Flow, Graph, Place, State, sum};
use crate::meshctl::escape;
use crate::meshctl::table::{Paint, Tone};
use crate::meshctl::top::number::short;

/// Of a line.
const WIDTH: usize = 80;
/// Of each of the three columns at its end, with the blank before it.
const COLUMN: usize = 8;
/// Deep in the tree words still need some room.
const LEAST: usize = 20;

/// A line of the tree, and what hangs on it.
#[derive(Default)]
struct Twig {
    /// Traffic goes that way; else it is a part of what is above.
    arrow: bool,
    words: Vec<String>,
    tone: Tone,
    /// Whether there is something to measure, and what was.
    flow: Option<Option<Flow>>,
    below: Vec<Twig>,
}

pub fn graph(graph: &Graph, paint: Paint) -> String {
    let mut text = Text { rates: graph.flow.is_some(), paint, text: String::new() };
    let heads = ["CONN/S", "B/S IN", "B/S OUT"].map(str::to_owned);
    text.line("", "clients", Tone::Head, Some(heads));
    let below = match graph.ports.is_empty() {
        true => vec![Twig { words: vec!["no published ports".to_owned()], ..Twig::default() }],
        false => services(graph),
    };
    let node = Twig { arrow: true, words: vec![graph.title()], tone: Tone::Head, flow: Some(graph.flow), below };
    text.draw(&[node], "");
    text.text
}

fn services(graph: &Graph) -> Vec<Twig> {
    let ports: Vec<usize> = (0..graph.ports.len()).collect();
    let services = ports.chunk_by(|one, other| graph.ports[*one].service == graph.ports[*other].service);
    let service = |ports: &[usize]| {
        let alike = ports.chunk_by(|one, other| whom(graph, *one) == whom(graph, *other));
        let below = alike.flat_map(|ports| together(graph, ports)).collect();
        Twig { words: vec![graph.ports[ports[0]].service.clone()], tone: Tone::Head, below, ..Twig::default() }
    };
    services.map(service).collect()
}

fn edges(graph: &Graph, port: usize) -> &[Edge] {
    let first = graph.edges.partition_point(|edge| edge.port < port);
    let last = graph.edges.partition_point(|edge| edge.port <= port);
    &graph.edges[first..last]
}

/// Those who are wanted behind a port.
fn whom(graph: &Graph, port: usize) -> Vec<usize> {
    let wanted = edges(graph, port).iter().filter(|edge| edge.state != State::Leaving);
    wanted.map(|edge| edge.backend).collect()
}

/// Ports that have the same backends, and these.
fn together(graph: &Graph, ports: &[usize]) -> Vec<Twig> {
    let port = |number: &usize| {
        let port = &graph.ports[*number];
        let words = [port.name.clone()].into_iter().chain(port.details()).collect();
        Twig { words, flow: Some(port.flow), ..Twig::default() }
    };
    let mut twigs: Vec<Twig> = ports.iter().map(port).collect();
    let edges: Vec<&Edge> = ports.iter().flat_map(|port| edges(graph, *port)).collect();
    let numbers: BTreeSet<usize> = edges.iter().map(|edge| edge.backend).collect();
    let (mut overlay, mut unnamed) = (Vec::new(), Vec::new());
    for (number, place) in graph.places.iter().enumerate() {
        let here = numbers.iter().filter(|backend| graph.backends[**backend].place == number);
        let below: Vec<Twig> = here.map(|number| backend(graph, *number, &edges)).collect();
        match place {
            _ if below.is_empty() => {}
            Place::Unnamed => unnamed = below,
            _ => overlay.push(Twig { words: vec![graph.name_of(place)], tone: Tone::Head, below, ..Twig::default() }),
        }
    }
    let arrow = |words: &str, below| Twig { arrow: true, words: vec![words.to_owned()], below, ..Twig::default() };
    if edges.is_empty() {
        twigs.push(arrow("no backends", Vec::new()));
    }
    twigs.extend((!overlay.is_empty()).then(|| arrow("overlay", overlay)));
    twigs.extend((!unnamed.is_empty()).then(|| arrow(&graph.name_of(&Place::Unnamed), unnamed)));
    twigs
}

fn backend(graph: &Graph, number: usize, edges: &[&Edge]) -> Twig {
    let edges: Vec<&Edge> = edges.iter().copied().filter(|edge| edge.backend == number).collect();
    let words = [graph.backends[number].words(), model::words_of(&edges)].concat();
    let tone = if edges.iter().all(|edge| edge.is_idle()) { Tone::Warning } else { Tone::Plain };
    Twig { words, tone, flow: Some(sum(edges.iter().map(|edge| edge.flow))), ..Twig::default() }
}

struct Text {
    /// Whether there are columns of rates.
    rates: bool,
    paint: Paint,
    text: String,
}

impl Text {
    fn draw(&mut self, twigs: &[Twig], stem: &str) {
        for (number, twig) in twigs.iter().enumerate() {
            let (knot, beside) = match (number + 1 == twigs.len(), twig.arrow) {
                (false, false) => ("├─ ", "│  "),
                (false, true) => ("├─► ", "│   "),
                (true, false) => ("└─ ", "   "),
                (true, true) => ("└─► ", "    "),
            };
            let below = format!("{stem}{beside}");
            let room = self.room().saturating_sub(below.chars().count()).max(LEAST);
            let mut flow = twig.flow.map(columns);
            let more = format!("{below}{}  ", if twig.below.is_empty() { " " } else { "│" });
            for (number, line) in wrapped(&twig.words, room).iter().enumerate() {
                let before = if number == 0 { format!("{stem}{knot}") } else { more.clone() };
                self.line(&before, line, twig.tone, flow.take());
            }
            self.draw(&twig.below, &below);
        }
    }

    fn room(&self) -> usize {
        if self.rates { WIDTH - 3 * COLUMN } else { WIDTH }
    }

    fn line(&mut self, before: &str, words: &str, tone: Tone, columns: Option<[String; 3]>) {
        let used = before.chars().count() + words.chars().count();
        self.text += &format!("{before}{}", self.paint.on(tone, words));
        if let Some(columns) = columns.filter(|_| self.rates) {
            let blanks = self.room().saturating_sub(used);
            let columns: String = columns.iter().map(|column| format!("{column:>COLUMN$}")).collect();
            self.text += &format!("{}{columns}", " ".repeat(blanks));
        }
        self.text.push('\n');
    }
}

fn columns(flow: Option<Flow>) -> [String; 3] {
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), short);
    let (into, out) = flow.and_then(|flow| flow.bytes).unzip();
    [number(flow.map(|flow| flow.connections)), number(into), number(out)]
}

/// Words with commas between them, on as many lines as they need; one that is too long for any is broken.
fn wrapped(words: &[String], room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (number, word) in words.iter().enumerate() {
        let comma = if number + 1 == words.len() { "" } else { "," };
        let word: Vec<char> = format!("{}{comma}", escape::word(word)).chars().collect();
        for piece in word.chunks(room - 3).map(|piece| piece.iter().collect::<String>()) {
            // Those below the first begin three columns later.
            let room = if lines.len() == 1 { room } else { room - 3 };
            match lines.last_mut() {
                Some(line) if line.is_empty() => *line = piece,
                Some(line) if line.chars().count() + 1 + piece.chars().count() <= room => *line += &format!(" {piece}"),
                _ => lines.push(piece),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::model::examples::{counted, example, large, strange};
    use super::graph;
    use crate::meshctl::table::Paint;

    #[test]
    fn a_tree_from_clients_to_backends() {
        let expected = "\
clients                                                   CONN/S  B/S IN B/S OUT
└─► node-1: published ports ─► ingress_sbox (ipvs)          12.5    120k    3.4M
    ├─ kafka
    │  ├─ tcp/20229, to 9092, mark 0x14f05, wrr             12.5    120k    3.4M
    │  ├─ tcp/20230, to 9092, mark 0x14f06, wrr                -       -       -
    │  ├─► overlay
    │  │   ├─ node-1 (this node)
    │  │   │  └─ 10.255.0.33, kafka-1, weight 2             12.5    120k    3.4M
    │  │   └─ node-2
    │  │      ├─ 10.255.0.34, kafka-2, weight 1,               -       -       -
    │  │      │     out at 1 of 2 ports
    │  │      └─ fd00:255::36, weight 0 to 1, drain            -       -       -
    │  ├─► no node named: overlay or routed
    │  │   └─ 10.255.0.99, weight 0, leaving                   -       -       -
    │  ├─ udp/30000-30001, mark 0x27530, sh                    -       -       -
    │  └─► no node named: overlay or routed
    │      └─ 10.255.0.35, weight 1                            -       -       -
    └─ web
       ├─ tcp/80, mark 0x10050, rr, mode host                  -       -       -
       └─► no backends
";
        assert_eq!(graph(&example(&counted()), Paint(false)), expected);
    }

    #[test]
    fn a_hundred_ports_are_a_hundred_lines() {
        let text = graph(&large(), Paint(false));
        assert_eq!(text.lines().count(), 3 + 100 + 1 + 3, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_lines_are_short_and_safe(strange in strange()) {
            let text = graph(&strange, Paint(false));
            prop_assert!(text.lines().all(|line| line.chars().count() <= 80), "{}", text);
            prop_assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{:?}", text);
        }
    }
}
