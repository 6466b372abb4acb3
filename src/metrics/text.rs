//! Prometheus's text format, line by line.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only goes up, until the counted thing or the process begins anew.
    Counter,
    Gauge,
}

/// The two lines before a family's series.
pub(super) fn head(out: &mut Vec<u8>, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    write(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// One series. Labels stand in the order of their names, as everything else that meshd exposes has them.
pub(super) fn sample(out: &mut Vec<u8>, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
    out.extend_from_slice(name.as_bytes());
    for (number, (label, value)) in labels.iter().enumerate() {
        let sign = if number == 0 { '{' } else { ',' };
        write(out, format_args!("{sign}{label}=\""));
        // What is written to a Vec is written.
        let _ = write!(Escaped(out), "{value}");
        out.push(b'"');
    }
    let close = if labels.is_empty() { "" } else { "}" };
    write(out, format_args!("{close} {value}\n"));
}

/// A family with one series, if there is a value.
pub(super) fn single(out: &mut Vec<u8>, name: &str, kind: Kind, help: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        head(out, name, kind, help);
        sample(out, name, &[], value);
    }
}

fn write(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // What is written to a Vec is written.
    let _ = out.write_fmt(text);
}

/// What may stand between a label's quotes.
struct Escaped<'o>(&'o mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'\\' => self.0.extend_from_slice(b"\\\\"),
                b'"' => self.0.extend_from_slice(b"\\\""),
                b'\n' => self.0.extend_from_slice(b"\\n"),
                byte => self.0.push(byte),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut out = Vec::new();
        head(&mut out, "a_total", Kind::Counter, "C:\\ \"and\"\nmore");
        sample(&mut out, "a_total", &[("b", &"\\ \" \n é"), ("c", &1)], 2);
        single(&mut out, "d", Kind::Gauge, "D.", Some(0.5));
        single(&mut out, "e", Kind::Gauge, "E.", None::<u64>);
        let expected = "# HELP a_total C:\\\\ \"and\"\\nmore\n# TYPE a_total counter\n\
                        a_total{b=\"\\\\ \\\" \\n é\",c=\"1\"} 2\n\
                        # HELP d D.\n# TYPE d gauge\nd 0.5\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
