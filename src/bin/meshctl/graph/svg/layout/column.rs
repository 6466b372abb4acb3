//! Boxes below each other, in frames.

use super::super::super::model::{Edge, Graph, Place};
use super::{Area, Card, FIRST_LINE, Frame, Line, PAD, letters, lines};

/// The column at the right: nodes with their backends, those on the overlay in one more frame.
pub struct Backends {
    pub frames: Vec<Frame>,
    /// In the graph's order.
    pub cards: Vec<Card>,
    /// For each edge, the line of its backend that it ends at.
    pub rows: Vec<u64>,
}

impl Backends {
    pub fn new(graph: &Graph, x: u64) -> Backends {
        let head = |backend: &super::model::Backend| {
            let flow = backend.flow.map(|flow| flow.words().join(", "));
            lines([backend.words().join(", ")].into_iter().chain(flow))
        };
        let mut all: Vec<Vec<Line>> = graph.backends.iter().map(head).collect();
        let mut rows = Vec::new();
        for edge in &graph.edges {
            let lines = &mut all[edge.backend];
            rows.push(lines.len() as u64);
            lines.push(Line { text: row(graph, edge), idle: edge.is_idle() });
        }

        let overlay = graph.places.iter().filter(|place| **place != Place::Unnamed).count();
        // Room for the overlay's own title.
        let mut top = if overlay > 0 { PAD + FIRST_LINE + PAD } else { PAD };
        let (mut frames, mut cards, mut all) = (Vec::new(), Vec::<Card>::new(), all.into_iter());
        for (number, place) in graph.places.iter().enumerate() {
            if number == overlay && overlay > 0 {
                top += 2 * PAD;
            }
            let inside = graph.backends_at(number).filter_map(|(_, backend)| Some((all.next()?, backend.idle)));
            let (frame, below) = framed(x + PAD, top, graph.name_of(place), inside);
            top = frame.area.bottom() + PAD;
            frames.push(frame);
            cards.extend(below);
        }
        let width = frames.iter().map(|frame| frame.area.width).max().unwrap_or(0);
        frames.iter_mut().for_each(|frame| frame.area.width = width);
        cards.iter_mut().for_each(|card| card.area.width = width - 2 * PAD);
        if let Some(bottom) = frames[..overlay].last().map(|frame| frame.area.bottom()) {
            let area = Area { x, y: PAD, width: width + 2 * PAD, height: bottom };
            frames.insert(0, Frame { area, title: "overlay".to_owned() });
        }
        Backends { frames, cards, rows }
    }
}

fn row(graph: &Graph, edge: &Edge) -> String {
    let port = &graph.ports[edge.port];
    let flow = edge.flow.map(|flow| flow.words()).unwrap_or_default();
    format!("{} {}: {}", port.service, port.name, [edge.words(), flow].concat().join(", "))
}

/// Boxes of the same width, in a frame with a title.
pub fn framed(x: u64, y: u64, title: String, cards: impl Iterator<Item = (Vec<Line>, bool)>) -> (Frame, Vec<Card>) {
    let mut bottom = y + FIRST_LINE + PAD;
    let place = |(lines, idle): (Vec<Line>, bool)| {
        let area = Area::of(&lines, x + PAD, bottom);
        bottom = area.bottom() + PAD;
        Card { area, lines, idle }
    };
    let mut cards: Vec<Card> = cards.map(place).collect();
    let width = cards.iter().map(|card| card.area.width).max().unwrap_or(0).max(letters(&title));
    cards.iter_mut().for_each(|card| card.area.width = width);
    (Frame { area: Area { x, y, width: width + 2 * PAD, height: bottom - y }, title }, cards)
}
