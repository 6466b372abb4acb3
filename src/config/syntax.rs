//! Text to TOML. The parser's complaint, in our words.

use toml::Spanned;
use toml::de::DeTable;

use super::error::Findings;
use super::reader::{choice, excerpt};

/// The tables of the text, or `None` when it is not TOML: half a file is not worth judging, and what the parser
/// finds behind its first error is mostly its own confusion.
pub(super) fn parse<'t>(text: &'t str, findings: &Findings<'_>) -> Option<Spanned<DeTable<'t>>> {
    match DeTable::parse(text) {
        Ok(document) => Some(document),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            findings.report(span.start, reword(error.message(), text.get(span).unwrap_or_default()));
            None
        }
    }
}

/// `trouble, expected this, that` becomes `trouble; this or that would do`.
fn reword(message: &str, found: &str) -> String {
    let (trouble, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let found = if found.trim().is_empty() { String::new() } else { format!(" `{}`", excerpt(found)) };
    match trouble {
        "duplicate key" => format!("key{found} is given twice; one of the two would do"),
        "string values must be quoted" if found.is_empty() => {
            "a value is missing; a string in quotes, a number, true or false would do".to_owned()
        }
        "string values must be quoted" => format!("invalid value{found}; a string in quotes would do"),
        _ => match expected {
            "" => format!("{trouble}{found}; see https://toml.io for what would do"),
            "nothing" => format!("{trouble}{found}; to leave it out would do"),
            _ => format!("{trouble}{found}; {} would do", choice(expected.split(", "))),
        },
    }
}
