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
    use super::{json, lines, word};

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
    fn json_stays_json() {
        let text = serde_json::to_string(&serde_json::json!({ "a": "x\u{9b}31m\u{7f}\u{1b}" })).unwrap();
        check(json, &text, "{\"a\":\"x\\u009b31m\\u007f\\u001b\"}");
        let value: serde_json::Value = serde_json::from_str(&json(&text)).unwrap();
        assert_eq!(value["a"], "x\u{9b}31m\u{7f}\u{1b}");
    }
}
