//! The screen: a line of summary, the table, a line of keys.

use std::iter;
use std::ops::Add;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

use super::number::short;
use super::rates::{PortRate, Rate};
use super::view::View;
use crate::meshctl::arguments::Sort;
use crate::meshctl::escape;

/// Heads and widths; the first has what the others leave.
pub const COLUMNS: [(&str, u16); 9] = [
    ("SERVICE, BACKEND", 0),
    ("CONN/S", 7),
    ("PKT/S IN", 8),
    ("PKT/S OUT", 9),
    ("B/S IN", 7),
    ("B/S OUT", 7),
    ("ACTIVE", 6),
    ("INACTIVE", 8),
    ("WEIGHT", 6),
];
/// Those that a narrow terminal does without, and a narrower one, too.
const LESS: [&[usize]; 3] = [&[], &[2, 3], &[2, 3, 7, 8]];
/// What the first column should have, to show a port or a backend with an IPv4 address.
const NAME: u16 = 24;
/// Less is no screen.
const SMALLEST: (u16, u16) = (60, 6);

pub fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = SMALLEST;
        let text = format!("The terminal is too small: {width} columns and {height} lines at least. q quits.");
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let [top, body, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    summary(frame, view, top);
    table(frame, view, body);
    let help = "q quit   s sort   ↑↓ PgUp PgDn scroll   space pause";
    frame.render_widget(Line::styled(help, Modifier::DIM), keys);
}

fn summary(frame: &mut Frame<'_>, view: &View, area: Rect) {
    if let Some(trouble) = &view.trouble {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let style = if view.color { style.fg(Color::Red) } else { style };
        frame.render_widget(Line::styled(format!("lost, trying again: {trouble}"), style), area);
        return;
    }
    let sort = match view.sort {
        Sort::Conn => "by connections",
        Sort::Bytes => "by bytes",
        Sort::Name => "by name",
    };
    let paused = if view.paused { "paused, " } else { "" };
    let right = format!("{paused}{sort}, every {} s", view.interval.as_secs_f64());
    let left = if view.seen { sums(&view.rates) } else { "waiting for meshd".to_owned() };
    let width = u16::try_from(right.chars().count()).unwrap_or(0);
    let [first, second] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).spacing(1).areas(area);
    frame.render_widget(Line::from(left), first);
    frame.render_widget(Line::from(right).alignment(Alignment::Right), second);
}

fn sums(rates: &[PortRate]) -> String {
    // (The sum of none would be -0.)
    let sum = |of: fn(Rate) -> f64| short(rates.iter().filter_map(|port| port.rate).map(of).fold(0.0, f64::add));
    let connections = sum(|rate| rate.connections);
    let bytes = sum(|rate| rate.bytes_in + rate.bytes_out);
    let ports = if rates.len() == 1 { "1 port".to_owned() } else { format!("{} ports", rates.len()) };
    format!("{ports}, {connections} conn/s, {bytes} B/s")
}

fn table(frame: &mut Frame<'_>, view: &mut View, area: Rect) {
    let without = without(area.width);
    let shown = |column: &usize| !without.contains(column);
    let lines: Vec<[String; 9]> = view.rates.iter().flat_map(cells).collect();
    view.page = usize::from(area.height.saturating_sub(1)).max(1);
    // What is beyond the end is not scrolled to.
    view.scroll = view.scroll.min(lines.len().saturating_sub(view.page));

    let row = |cells: [String; 9]| {
        let port = !cells[0].starts_with(' ');
        let cells = cells.into_iter().enumerate().filter(|(column, _)| shown(column));
        let cells = cells.map(|(column, text)| Cell::from(aligned(column, text)));
        Row::new(cells).style(if port { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() })
    };
    let rows = lines.into_iter().skip(view.scroll).take(view.page).map(row);
    let columns = || COLUMNS.iter().enumerate().filter(|(column, _)| shown(column));
    let heads = Row::new(columns().map(|(column, (head, _))| Cell::from(aligned(column, (*head).to_owned()))));
    let width = |(column, (_, width)): (usize, &(&str, u16))| match column {
        0 => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    };
    let table = Table::new(rows, columns().map(width))
        .column_spacing(1)
        .header(heads.style(Style::new().add_modifier(Modifier::REVERSED)));
    frame.render_widget(table, area);
}

/// As few columns as leave room for names.
fn without(room: u16) -> &'static [usize] {
    let others = |less: &[usize]| -> u16 {
        COLUMNS.iter().enumerate().filter(|(at, _)| !less.contains(at)).skip(1).map(|(_, (_, width))| width + 1).sum()
    };
    LESS.into_iter().find(|less| NAME + others(less) <= room).unwrap_or(LESS[2])
}

fn aligned(column: usize, text: String) -> Text<'static> {
    Text::from(text).alignment(if column == 0 { Alignment::Left } else { Alignment::Right })
}

/// The lines of a port: itself, and its backends below.
pub fn cells(port: &PortRate) -> impl Iterator<Item = [String; 9]> {
    let sum = |of: fn(&super::rates::BackendRate) -> u32| port.backends.iter().map(|b| u64::from(of(b))).sum::<u64>();
    let numbers = [sum(|b| b.active), sum(|b| b.inactive), sum(|b| b.weight)];
    let first = line(escape::word(&format!("{} {}", port.service, port.port)), port.rate, numbers);
    let backends = port.backends.iter().map(|backend| {
        let numbers = [backend.active, backend.inactive, backend.weight].map(u64::from);
        line(format!("  {}", escape::word(&backend.backend)), backend.rate, numbers)
    });
    iter::once(first).chain(backends)
}

fn line(name: String, rate: Option<Rate>, [active, inactive, weight]: [u64; 3]) -> [String; 9] {
    let each = |of: fn(Rate) -> f64| rate.map_or_else(|| "-".to_owned(), |rate| short(of(rate)));
    [
        name,
        each(|rate| rate.connections),
        each(|rate| rate.packets_in),
        each(|rate| rate.packets_out),
        each(|rate| rate.bytes_in),
        each(|rate| rate.bytes_out),
        active.to_string(),
        inactive.to_string(),
        weight.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::View;
    use super::super::view::tests::view;
    use super::draw;

    #[track_caller]
    fn check(mut view: View, (width, height): (u16, u16), expected: &[&str]) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        terminal.draw(|frame| draw(frame, &mut view)).expect("it is drawn");
        let buffer = terminal.backend().buffer();
        let symbols: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        let lines: Vec<String> =
            symbols.chunks(usize::from(width).max(1)).map(|line| line.concat().trim_end().to_owned()).collect();
        assert_eq!(lines, expected, "\n{}", lines.join("\n"));
    }

    #[test]
    fn a_wide_screen_shows_everything() {
        check(
            view(),
            (100, 7),
            &[
                "2 ports, 12.5 conn/s, 3.5M B/s                                             by connections, every 1 s",
                "SERVICE, BACKEND                    CONN/S PKT/S IN PKT/S OUT  B/S IN B/S OUT ACTIVE INACTIVE WEIGHT",
                "kafka tcp/20229                       12.5     1.2k       900    120k    3.4M      3       14      3",
                "  10.255.0.33:9092                    12.5     1.2k       900    120k    3.4M      3       12      1",
                "  [fd00::33\\u{1b}[2J]:9092               -        -         -       -       -      0        2      2",
                "web tcp/443                              -        -         -       -       -      0        0      0",
                "q quit   s sort   ↑↓ PgUp PgDn scroll   space pause",
            ],
        );
    }

    #[test]
    fn a_narrow_screen_does_without_packets_and_scrolls() {
        let scrolled = View { scroll: usize::MAX, paused: true, ..view() };
        check(
            scrolled,
            (80, 6),
            &[
                "2 ports, 12.5 conn/s, 3.5M B/s                 paused, by connections, every 1 s",
                "SERVICE, BACKEND                   CONN/S  B/S IN B/S OUT ACTIVE INACTIVE WEIGHT",
                "  10.255.0.33:9092                   12.5    120k    3.4M      3       12      1",
                "  [fd00::33\\u{1b}[2J]:9092              -       -       -      0        2      2",
                "web tcp/443                             -       -       -      0        0      0",
                "q quit   s sort   ↑↓ PgUp PgDn scroll   space pause",
            ],
        );
    }

    #[test]
    fn a_lost_daemon_is_told_above_its_last_numbers() {
        let lost = View { trouble: Some("no meshd at x".into()), ..view() };
        check(
            lost,
            (60, 6),
            &[
                "lost, trying again: no meshd at x",
                "SERVICE, BACKEND               CONN/S  B/S IN B/S OUT ACTIVE",
                "kafka tcp/20229                  12.5    120k    3.4M      3",
                "  10.255.0.33:9092               12.5    120k    3.4M      3",
                "  [fd00::33\\u{1b}[2J]:9092          -       -       -      0",
                "q quit   s sort   ↑↓ PgUp PgDn scroll   space pause",
            ],
        );
    }

    #[test]
    fn before_the_first_look_there_is_nothing() {
        let fresh = || View { rates: vec![], seen: false, ..view() };
        let empty = |summary: &'static str| {
            let head = "SERVICE, BACKEND               CONN/S  B/S IN B/S OUT ACTIVE";
            [summary, head, "", "", "", "q quit   s sort   ↑↓ PgUp PgDn scroll   space pause"]
        };
        check(fresh(), (60, 6), &empty("waiting for meshd                  by connections, every 1 s"));
        let seen = View { seen: true, ..fresh() };
        check(seen, (60, 6), &empty("0 ports, 0 conn/s, 0 B/s           by connections, every 1 s"));
    }

    #[test]
    fn a_screen_too_small_says_so() {
        check(view(), (40, 3), &["The terminal is too small: 60 columns", "and 6 lines at least. q quits.", ""]);
        check(view(), (1, 1), &["T"]);
        check(view(), (0, 0), &[]);
    }
}
