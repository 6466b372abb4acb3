//! A terminal: script(1)'s, of 80 columns and 24 lines, and what is on its screen.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fake::Place;

const COLUMNS: usize = 80;
const LINES: usize = 24;

/// meshctl in it.
pub struct Terminal {
    script: Child,
    /// All that was written to the terminal.
    file: PathBuf,
}

impl Terminal {
    /// The program's number is in the place's file `pid`.
    pub fn new(place: &Place, arguments: &str) -> Terminal {
        let file = place.file("typescript");
        let (pid, program) = (place.file("pid").display().to_string(), env!("CARGO_BIN_EXE_meshctl"));
        let line = format!("stty cols {COLUMNS} rows {LINES}; echo $$ > {pid}; exec {program} {arguments}");
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &line]).arg(&file);
        command.env("MESHCTL_SOCKET", place.socket()).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let script = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("script(1) starts");
        Terminal { script, file }
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).unwrap_or_default()).into_owned()
    }

    /// Waits until that is on the screen.
    #[track_caller]
    pub fn shows(&self, word: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let screen = screen(&self.written());
            if screen.contains(word) {
                return;
            }
            assert!(Instant::now() < deadline, "{word} is not shown in\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().expect("a pipe");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("it takes keys");
    }

    /// The exit code, and whether the terminal is as it was.
    #[track_caller]
    pub fn ends(&mut self, code: i32) {
        let status = self.script.wait().expect("it ends");
        let written = self.written();
        let (entered, left) = (written.rfind("\u{1b}[?1049h"), written.rfind("\u{1b}[?1049l"));
        assert!(entered.is_some() && left > entered, "the other screen is left");
        assert!(written.rfind("\u{1b}[?25h") > written.rfind("\u{1b}[?25l"), "the cursor is there");
        assert_eq!(status.code(), Some(code), "{}", screen(&written));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of a test that failed. The program loses its terminal with it.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// What those letters and sequences (ECMA-48) leave on the screen: as much of it as ratatui uses.
fn screen(written: &str) -> String {
    let mut cells = vec![vec![' '; COLUMNS]; LINES];
    let (mut line, mut column) = (0, 0);
    let mut rest = written;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        if letter == '\u{1b}' && rest.starts_with('[') {
            let end = rest[1..].find(|letter: char| ('@'..='~').contains(&letter)).map_or(rest.len() - 1, |at| at + 1);
            let (parameters, command) = (&rest[1..end], &rest[end..=end]);
            let mut numbers = parameters.split(';').map(|number| number.parse::<usize>().unwrap_or(1));
            match command {
                "H" => (line, column) = (numbers.next().unwrap_or(1) - 1, numbers.next().unwrap_or(1) - 1),
                // Another screen begins empty.
                "J" | "h" if matches!(parameters, "2" | "?1049") => cells.iter_mut().for_each(|line| line.fill(' ')),
                _ => {}
            }
            rest = &rest[end + 1..];
        } else if letter == '\n' {
            (line, column) = (line + 1, 0);
        } else if let Some(cell) = cells.get_mut(line).and_then(|line| line.get_mut(column)) {
            *cell = letter;
            column += 1;
        }
    }
    cells.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}
