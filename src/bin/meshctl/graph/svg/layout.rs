//! Where everything is: clients, ports and backends in three columns, a backend's edges each at a line of its own.

mod column;

use super::super::model::{self, Graph, Port};

use column::{Backends, framed};

/// From one line of text to the next, and from a box's top to the foot of its first line.
pub const LINE: u64 = 16;
pub const FIRST_LINE: u64 = PAD + 11;
/// Around text, and between boxes.
pub const PAD: u64 = 8;
/// Between two columns, for the edges.
const GAP: u64 = 120;
/// A letter's width or a little more, in tenths: nobody knows which font there is.
const LETTER: u64 = 75;

/// In an SVG's own unit, a point of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: u64,
    pub y: u64,
    pub width: u64,
    pub height: u64,
}

/// Around boxes that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub area: Area,
    pub title: String,
}

/// A box with text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub area: Area,
    pub lines: Vec<Line>,
    pub idle: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub idle: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub from: (u64, u64),
    pub to: (u64, u64),
    pub idle: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u64,
    pub height: u64,
    /// The outer ones first.
    pub frames: Vec<Frame>,
    pub edges: Vec<Edge>,
    pub cards: Vec<Card>,
}

impl Picture {
    pub fn new(graph: &Graph) -> Picture {
        let clients = lines(["clients".to_owned()].into_iter().chain(model::words(graph.flow)));
        let clients = Card { area: Area::of(&clients, PAD, 0), lines: clients, idle: false };
        let ports = graph.ports.iter().map(|port| (lines(words(port)), false));
        let (sandbox, ports) = framed(clients.area.right() + GAP, PAD, graph.title(), ports);
        let Backends { frames, cards, rows } = Backends::new(graph, sandbox.area.right() + GAP);

        let frames = [vec![sandbox], frames].concat();
        let areas = || frames.iter().map(|frame| frame.area).chain([clients.area]);
        let height = areas().map(Area::bottom).max().unwrap_or(0) + PAD;
        let width = areas().map(Area::right).max().unwrap_or(0) + PAD;
        let y = (frames[0].area.middle()).saturating_sub(clients.area.height / 2).max(PAD);
        let clients = Card { area: Area { y, ..clients.area }, ..clients };

        let ways_in = ports.iter().map(|port| Edge::new(&clients, port, port.area.middle(), false));
        let ways_out = graph.edges.iter().zip(rows).map(|(edge, row)| {
            let backend = &cards[edge.backend];
            let y = backend.area.y + PAD + row * LINE + LINE / 2;
            Edge::new(&ports[edge.port], backend, y, edge.is_idle())
        });
        let edges = ways_in.chain(ways_out).collect();
        Picture { width, height, frames, edges, cards: [vec![clients], ports, cards].concat() }
    }
}

fn words(port: &Port) -> impl Iterator<Item = String> {
    let flow = port.flow.map(|flow| flow.words().join(", "));
    [format!("{} {}", port.service, port.name), port.details().join(", ")].into_iter().chain(flow)
}

fn lines(words: impl Iterator<Item = String>) -> Vec<Line> {
    words.map(|text| Line { text, idle: false }).collect()
}

impl Edge {
    /// From the middle of the one to that height of the other.
    fn new(from: &Card, to: &Card, y: u64, idle: bool) -> Edge {
        Edge { from: (from.area.right(), from.area.middle()), to: (to.area.x, y), idle }
    }
}

impl Area {
    /// As much as the lines need.
    fn of(lines: &[Line], x: u64, y: u64) -> Area {
        let width = lines.iter().map(|line| letters(&line.text)).max().unwrap_or(0) + 2 * PAD;
        Area { x, y, width, height: lines.len() as u64 * LINE + 2 * PAD }
    }

    fn right(self) -> u64 {
        self.x + self.width
    }

    fn bottom(self) -> u64 {
        self.y + self.height
    }

    fn middle(self) -> u64 {
        self.y + self.height / 2
    }
}

/// How wide a line will be, at the most: other scripts' letters may have twice the width.
fn letters(text: &str) -> u64 {
    let letters = crate::meshctl::escape::word(text);
    letters.chars().map(|letter| if letter.is_ascii() { LETTER } else { 2 * LETTER }).sum::<u64>() / 10
}
