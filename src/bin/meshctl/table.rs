//! Tables for people: columns as wide as they need to be, in plain text or with a little colour.

use super::escape;

/// How a word is shown where there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Head,
    Good,
    Warning,
    Bad,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    pub fn on(self, tone: Tone, text: &str) -> String {
        // Select Graphic Rendition, ECMA-48.
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Head => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(text: impl ToString, tone: Tone) -> Cell {
        Cell { text: escape::word(&text.to_string()), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text, Tone::Plain)
    }
}

/// Where a column's words stand: numbers to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

pub struct Table {
    columns: Vec<Align>,
    /// The heads are the first.
    rows: Vec<Vec<Cell>>,
}

/// Between two columns.
const GAP: &str = "   ";

impl Table {
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let heads = columns.iter().map(|(head, _)| Cell::new(head, Tone::Head)).collect();
        Table { columns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heads] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// A line for each row, without blanks at its end.
    pub fn render(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(width).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), widest) in row.iter().zip(&self.columns).zip(&widths) {
                let blanks = " ".repeat(widest.saturating_sub(width(cell)));
                let word = paint.on(cell.tone, &cell.text);
                line += &match align {
                    Align::Left => format!("{word}{blanks}{GAP}"),
                    Align::Right => format!("{blanks}{word}{GAP}"),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn width(cell: &Cell) -> usize {
    cell.text.chars().count()
}

/// `Name:   value`, a line each.
pub fn facts(facts: &[(&str, Cell)], paint: Paint) -> String {
    let widest = facts.iter().map(|(name, _)| name.chars().count() + 1).max().unwrap_or(0);
    let line = |(name, cell): &(&str, Cell)| {
        let name = format!("{name}:");
        format!("{name:widest$}  {}\n", paint.on(cell.tone, &cell.text))
    };
    facts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::Align::{Left, Right};
    use super::{Cell, Paint, Table, Tone, facts};

    fn table() -> Table {
        let mut table = Table::new(&[("NAME", Left), ("WEIGHT", Right), ("STATE", Left)]);
        table.row(["kafka\u{1b}".into(), 10.into(), Cell::new("drain", Tone::Warning)]);
        table.row(["a".into(), 2.into(), "".into()]);
        table
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let expected = "\
NAME          WEIGHT   STATE
kafka\\u{1b}       10   drain
a                  2
";
        assert_eq!(table().render(Paint(false)), expected);
    }

    #[test]
    fn colours_take_no_room() {
        let painted = table().render(Paint(true));
        assert!(painted.contains("\u{1b}[33mdrain\u{1b}[0m"), "{painted:?}");
        let mut bare = painted;
        for code in ["\u{1b}[1m", "\u{1b}[33m", "\u{1b}[0m"] {
            bare = bare.replace(code, "");
        }
        assert_eq!(bare, table().render(Paint(false)));
    }

    #[test]
    fn facts_stand_in_a_column() {
        let text = facts(&[("Name", "kafka".into()), ("Generation", 12.into())], Paint(false));
        assert_eq!(text, "Name:        kafka\nGeneration:  12\n");
    }
}
