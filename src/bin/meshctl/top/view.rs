//! What the screen shows, and what keys do to it. It knows no terminal.

use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Look;
use super::rates::{History, PortRate, sort};
use crate::meshctl::arguments::Sort;
use crate::meshctl::escape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Stay,
    Quit,
}

pub struct View {
    pub history: History,
    pub rates: Vec<PortRate>,
    pub sort: Sort,
    pub interval: Duration,
    pub paused: bool,
    /// The first line that is shown.
    pub scroll: usize,
    /// How many lines the screen had room for.
    pub page: usize,
    /// Why the last look failed.
    pub trouble: Option<String>,
    /// Whether there was any look that did not.
    pub seen: bool,
    pub color: bool,
}

impl View {
    pub fn new(sort: Sort, interval: Duration, color: bool) -> View {
        View {
            history: History::default(),
            rates: Vec::new(),
            sort,
            interval,
            paused: false,
            scroll: 0,
            page: 1,
            trouble: None,
            seen: false,
            color,
        }
    }

    pub fn take(&mut self, look: Look) -> Next {
        match look {
            Ok(traffic) => {
                self.history.push(traffic);
                self.trouble = None;
                // While paused, rates are counted on behind what is shown.
                if !self.paused {
                    self.seen = true;
                    self.rates = self.history.rates();
                    sort(&mut self.rates, self.sort);
                }
            }
            Err(failure) => {
                self.trouble = Some(escape::word(&failure.detail));
                // The next one may be another daemon's, which has a clock of its own.
                self.history = History::default();
            }
        }
        Next::Stay
    }

    /// Any event draws the screen anew: that is all that a new size needs.
    pub fn on(&mut self, event: &Event) -> Next {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
            _ => Next::Stay,
        }
    }

    fn key(&mut self, key: &KeyEvent) -> Next {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Next::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Conn => Sort::Bytes,
                    Sort::Bytes => Sort::Name,
                    Sort::Name => Sort::Conn,
                };
                sort(&mut self.rates, self.sort);
            }
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(self.page),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        Next::Stay
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

    use super::{Next, View};
    use crate::meshctl::arguments::Sort;
    use crate::meshctl::failure::Failure;
    use crate::meshctl::top::rates::{BackendRate, PortRate, Rate};

    /// Two ports, one of which was only just published.
    pub fn rates() -> Vec<PortRate> {
        let rate = Some(Rate {
            connections: 12.5,
            packets_in: 1234.0,
            packets_out: 900.0,
            bytes_in: 120_000.0,
            bytes_out: 3.4e6,
        });
        let first = "10.255.0.33:9092".to_owned();
        let second = "[fd00::33\u{1b}[2J]:9092".to_owned();
        let backends = vec![
            BackendRate { backend: first, rate, active: 3, inactive: 12, weight: 1 },
            BackendRate { backend: second, rate: None, active: 0, inactive: 2, weight: 2 },
        ];
        vec![
            PortRate { service: "kafka".into(), port: "tcp/20229".into(), rate, backends },
            PortRate { service: "web".into(), port: "tcp/443".into(), rate: None, backends: vec![] },
        ]
    }

    pub fn view() -> View {
        let view = View::new(Sort::Conn, Duration::from_secs(1), false);
        View { rates: rates(), seen: true, ..view }
    }

    fn press(view: &mut View, code: KeyCode) -> Next {
        view.on(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn keys_sort_scroll_pause_and_quit() {
        let mut view = view();
        assert_eq!(press(&mut view, KeyCode::Char('s')), Next::Stay);
        assert_eq!(view.sort, Sort::Bytes);
        view.page = 10;
        let mut check = |code: KeyCode, scroll: usize| {
            press(&mut view, code);
            assert_eq!(view.scroll, scroll, "{code:?}");
        };
        check(KeyCode::Up, 0);
        check(KeyCode::Down, 1);
        check(KeyCode::PageDown, 11);
        check(KeyCode::PageUp, 1);
        check(KeyCode::Home, 0);
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut view, code), Next::Quit);
        }
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.on(&Event::Key(interrupt)), Next::Quit);
        assert_eq!(press(&mut view, KeyCode::Char('c')), Next::Stay);
    }

    #[test]
    fn trouble_is_told_and_forgotten_and_a_pause_holds_the_numbers() {
        let mut view = view();
        view.take(Err(Failure::unavailable("no meshd at x\u{1b}")));
        assert_eq!(view.trouble.as_deref(), Some("no meshd at x\\u{1b}"));
        assert_eq!(view.rates, rates());
        let nothing = || super::super::Traffic { clock: 1.0, ports: vec![] };
        press(&mut view, KeyCode::Char(' '));
        view.take(Ok(nothing()));
        assert_eq!((view.trouble.as_ref(), &view.rates), (None, &rates()));
        press(&mut view, KeyCode::Char(' '));
        view.take(Ok(nothing()));
        assert!(view.rates.is_empty());
    }
}
