//! A picture by itself: no script, no font and no file beside it; dark where the reader's screen is.

mod layout;

use super::model::Graph;
use crate::meshctl::escape;
use layout::{Area, Card, Edge, FIRST_LINE, Frame, LINE, PAD, Picture};

const STYLE: &str = "\
  <style>
    text { font: 12px ui-monospace, monospace; fill: #1f2328; }
    .title { font-weight: bold; }
    .paper { fill: #ffffff; }
    .frame { fill: #8c959f; fill-opacity: 0.1; stroke: #8c959f; }
    .box { fill: #ffffff; stroke: #1f6feb; }
    .edge { fill: none; stroke: #1f6feb; }
    .tip { fill: #1f6feb; }
    .idle-tip { fill: #8c959f; }
    .idle { stroke: #8c959f; stroke-dasharray: 5 3; }
    text.idle { stroke: none; fill: #6e7781; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .paper, .box { fill: #0d1117; }
      .box, .edge { stroke: #58a6ff; }
      .tip { fill: #58a6ff; }
      .idle-tip { fill: #6e7681; }
      .idle { stroke: #6e7681; }
      text.idle { fill: #8b949e; }
    }
  </style>
  <defs>
    <marker id=\"tip\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">
      <path class=\"tip\" d=\"M0,0 L8,4 L0,8 Z\"/>
    </marker>
    <marker id=\"idle-tip\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">
      <path class=\"idle-tip\" d=\"M0,0 L8,4 L0,8 Z\"/>
    </marker>
  </defs>
";

pub fn graph(graph: &Graph) -> String {
    let Picture { width, height, frames, edges, cards } = Picture::new(graph);
    let title = escape::xml(&format!("The mesh, as {} has it", graph.node));
    // What comes later is drawn above.
    let shapes: String = frames.iter().map(frame).chain(edges.iter().map(edge)).chain(cards.iter().map(card)).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n  <title>{title}</title>\n{STYLE}  \
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n{shapes}</svg>\n"
    )
}

fn frame(Frame { area, title }: &Frame) -> String {
    rectangle("frame", area) + &text("title", area.x + PAD, area.y, title)
}

fn card(Card { area, lines, idle }: &Card) -> String {
    let lines = lines.iter().enumerate().map(|(number, line)| {
        let class = match (number, line.idle) {
            (_, true) => "idle",
            (0, false) => "title",
            _ => "line",
        };
        text(class, area.x + PAD, area.y + number as u64 * LINE, &line.text)
    });
    rectangle(if *idle { "box idle" } else { "box" }, area) + &lines.collect::<String>()
}

fn edge(Edge { from: (x, y), to: (to_x, to_y), idle }: &Edge) -> String {
    let (class, tip) = if *idle { ("edge idle", "idle-tip") } else { ("edge", "tip") };
    let middle = u64::midpoint(*x, *to_x);
    let way = format!("M{x},{y} C{middle},{y} {middle},{to_y} {to_x},{to_y}");
    format!("  <path class=\"{class}\" marker-end=\"url(#{tip})\" d=\"{way}\"/>\n")
}

fn rectangle(class: &str, Area { x, y, width, height }: &Area) -> String {
    format!("  <rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>\n")
}

/// The first line of what begins there.
fn text(class: &str, x: u64, y: u64, text: &str) -> String {
    format!("  <text class=\"{class}\" x=\"{x}\" y=\"{}\">{}</text>\n", y + FIRST_LINE, escape::xml(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::model::examples::{counted, example, large, strange};
    use super::super::wellformed;
    use super::graph;
    use super::layout::{Area, Picture};

    #[test]
    fn a_picture_by_itself() {
        let text = graph(&example(&counted()));
        let words = wellformed::xml(&text).expect("it is XML");
        for word in [
            "node-1: published ports ─► ingress_sbox (ipvs)",
            "kafka tcp/20229",
            "overlay",
            "node-1 (this node)",
            "10.255.0.33, kafka-1",
            "kafka tcp/20229: weight 2, 12.5 conn/s, 120k B/s in, 3.4M B/s out",
        ] {
            assert!(words.iter().any(|other| other == word), "{word} in {words:?}");
        }
        for line in [
            ">kafka tcp/20229: weight 0, drain</text>",
            "<rect class=\"box idle\" ",
            "<path class=\"edge idle\" ",
            "prefers-color-scheme: dark",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        // The name of a name space is all that it names of the world outside.
        assert_eq!(text.matches("http").count(), 1);
        assert!(!text.contains("script") && !text.contains("href"));
    }

    #[track_caller]
    fn check(picture: &Picture) {
        let within = |one: &Area| one.x + one.width <= picture.width && one.y + one.height <= picture.height;
        assert!(picture.frames.iter().all(|frame| within(&frame.area)), "{picture:#?}");
        let areas: Vec<Area> = picture.cards.iter().map(|card| card.area).collect();
        for (number, one) in areas.iter().enumerate() {
            let apart = |other: &Area| {
                let beside = |(at, long): (u64, u64), (to, wide): (u64, u64)| at + long < to || to + wide < at;
                beside((one.x, one.width), (other.x, other.width))
                    || beside((one.y, one.height), (other.y, other.height))
            };
            assert!(within(one) && areas[..number].iter().all(apart), "{picture:#?}");
        }
        for edge in &picture.edges {
            let begins = |area: &Area| (area.x + area.width, area.y + area.height / 2) == edge.from;
            let ends = |area: &Area| area.x == edge.to.0 && (area.y..area.y + area.height).contains(&edge.to.1);
            assert!(areas.iter().any(begins) && areas.iter().any(ends), "{edge:?} in {picture:#?}");
        }
    }

    #[test]
    fn boxes_are_apart_and_edges_end_at_them() {
        check(&Picture::new(&example(&[])));
        let large = Picture::new(&large());
        check(&large);
        assert_eq!(large.edges.len(), 400);
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_it_is_xml(strange in strange()) {
            wellformed::xml(&graph(&strange)).map_err(TestCaseError::fail)?;
            check(&Picture::new(&strange));
        }
    }
}
