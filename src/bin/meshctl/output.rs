//! The only way out: standard output for answers, standard error for reasons.

use std::io::{self, IsTerminal, Write};

use meshd::control::protocol::Message;
use serde_json::json;

use super::arguments::{Color, Format, Global};
use super::escape;
use super::failure::Failure;
use super::table::{Paint, Tone};

pub struct Output {
    format: Format,
    color: Color,
}

impl Output {
    pub fn new(global: &Global) -> Output {
        Output { format: global.output, color: global.color }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// For standard output.
    pub fn paint(&self) -> Paint {
        Paint(self.colors(&io::stdout()))
    }

    fn colors(&self, stream: &impl IsTerminal) -> bool {
        // https://no-color.org: set and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !unwanted && stream.is_terminal(),
        }
    }

    /// The answer, as it was asked for.
    pub fn show<T: Message>(&self, answer: &T, text: impl FnOnce(&T, Paint) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.print(&text(answer, self.paint())),
            Format::Json => {
                let text = serde_json::to_string_pretty(answer).map_err(io::Error::other)?;
                self.print(&format!("{}\n", escape::json(&text)))
            }
        }
    }

    /// The same on one line, for streams.
    pub fn show_line<T: Message>(&self, answer: &T, text: impl FnOnce(&T, Paint) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.print(&text(answer, self.paint())),
            Format::Json => {
                let text = serde_json::to_string(answer).map_err(io::Error::other)?;
                self.print(&format!("{}\n", escape::json(&text)))
            }
        }
    }

    /// Text that is safe for a terminal already.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Says on standard error why something was not done.
    pub fn complain(&self, failure: &Failure) {
        if failure.detail.is_empty() {
            return;
        }
        let text = match self.format {
            Format::Table => {
                let mark = Paint(self.colors(&io::stderr())).on(Tone::Bad, "meshctl:");
                format!("{mark} {}\n", escape::lines(&failure.detail))
            }
            Format::Json => format!("{}\n", as_json(failure)),
        };
        // Nobody is left to be told if that fails.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn as_json(failure: &Failure) -> String {
    let mut error = json!({ "code": failure.code as u8, "detail": failure.detail });
    if let Some(problem) = &failure.problem {
        error["problem"] = json!(problem);
    }
    escape::json(&error.to_string())
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Problem;

    use super::as_json;
    use crate::meshctl::failure::{Code, Failure};

    #[track_caller]
    fn check(failure: &Failure, expected: &str) {
        assert_eq!(as_json(failure), expected);
    }

    #[test]
    fn a_program_gets_reasons_as_json() {
        check(&Failure::new(Code::Usage, "no \"such\""), r#"{"code":64,"detail":"no \"such\""}"#);
        let problem = Problem { status: 404, title: "Not Found".into(), detail: "no x\u{9b}".into(), errors: vec![] };
        check(
            &Failure::from(problem),
            "{\"code\":1,\"detail\":\"no x\\u009b\",\
             \"problem\":{\"detail\":\"no x\\u009b\",\"status\":404,\"title\":\"Not Found\"}}",
        );
    }
}
