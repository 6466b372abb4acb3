//! What comes from elsewhere must not steer the terminal: names, reasons and paths may hold escape sequences.

/// Whether a terminal could take the letter for a command, or show other letters in another order because of it.
fn steers(letter: char) -> bool {
    let reorders = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || reorders
}

/// On one line.
pub fn word(text: &str) -> String {
    escape(text, |letter| steers(letter).then(|| letter.escape_default().to_string()))
}

/// Keeps the ends of lines.
pub fn lines(text: &str) -> String {
    escape(text, |letter| (letter != '\n' && steers(letter)).then(|| letter.escape_default().to_string()))
}

/// JSON that says the same: there, such letters are in strings only.
pub fn json(text: &str) -> String {
    escape(text, |letter| (letter != '\n' && steers(letter)).then(|| format!("\\u{:04x}", u32::from(letter))))
}

/// On one line of an XML document's text, or in one of its attributes.
pub fn xml(text: &str) -> String {
    escape(&word(text), |letter| match letter {
        '&' => Some("&amp;".to_owned()),
        '<' => Some("&lt;".to_owned()),
        '>' => Some("&gt;".to_owned()),
        '"' => Some("&quot;".to_owned()),
        '\'' => Some("&apos;".to_owned()),
        // Letters that no document may have, however they are written.
        '\u{fffe}' | '\u{ffff}' => Some(letter.escape_default().to_string()),
        _ => None,
    })
}

/// On one line of a label of Graphviz's, in quotes: there, a backslash begins an escape, and an ampersand an entity.
pub fn dot(text: &str) -> String {
    escape(&word(text), |letter| match letter {
        '\\' | '"' => Some(format!("\\{letter}")),
        '&' => Some("&amp;".to_owned()),
        // `dot -Tsvg` would print them.
        '\u{fffe}' | '\u{ffff}' => Some(format!("\\{}", letter.escape_default())),
        _ => None,
    })
}

fn escape(text: &str, replace: impl Fn(char) -> Option<String>) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match replace(letter) {
            Some(other) => escaped += &other,
            None => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{dot, json, lines, word, xml};

    #[track_caller]
    fn check(escape: fn(&str) -> String, text: &str, expected: &str) {
        assert_eq!(escape(text), expected);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        check(word, "kafka-1 für 10.255.0.33", "kafka-1 für 10.255.0.33");
        check(word, "\u{1b}[2Jgone\r\n\u{7}", "\\u{1b}[2Jgone\\r\\n\\u{7}");
        // The one-letter form of ESC [, and letters that turn others round.
        check(word, "\u{9b}31m \u{202e}evil", "\\u{9b}31m \\u{202e}evil");
        check(lines, "a\nb\u{1b}[0m\tc", "a\nb\\u{1b}[0m\\tc");
    }

    #[test]
    fn nothing_ends_a_text_before_its_end() {
        check(xml, "<a href='\u{1b}\">&amp;\u{ffff}", "&lt;a href=&apos;\\u{1b}&quot;&gt;&amp;amp;\\u{ffff}");
        check(dot, "\"]; x\\\n&#27;\u{ffff}", "\\\"]; x\\\\\\\\n&amp;#27;\\\\u{ffff}");
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string(&serde_json::json!({ "a": "x\u{9b}31m\u{7f}\u{1b}" })).unwrap();
        check(json, &text, "{\"a\":\"x\\u009b31m\\u007f\\u001b\"}");
        let value: serde_json::Value = serde_json::from_str(&json(&text)).unwrap();
        assert_eq!(value["a"], "x\u{9b}31m\u{7f}\u{1b}");
    }
}
