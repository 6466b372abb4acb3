//! For tests: whether a text is XML, or Graphviz's language, by a strict reader of as much of them as is printed.

mod dot;
mod xml;

pub use dot::dot;
pub use xml::xml;

/// No letter that could steer a terminal, or that no XML document may have.
fn is_clean(text: &str) -> bool {
    !text
        .chars()
        .any(|letter| letter.is_control() && letter != '\n' || matches!(letter, '\u{202e}' | '\u{fffe}' | '\u{ffff}'))
}
