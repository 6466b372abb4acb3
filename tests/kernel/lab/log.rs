//! What meshd says it does.

use super::Meshd;

impl Meshd {
    /// How much it said so far, for [`said_since`](Meshd::said_since).
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// What it said since, each line as its level and its text.
    pub fn said_since(&self, mark: usize) -> Vec<(String, String)> {
        let log = self.log();
        let line = |line: &str| {
            // `2025-01-01T00:00:00.000000Z  INFO add link …`; a step's further lines begin with spaces.
            let (_, rest) = line.split_once("Z ")?;
            let (level, text) = rest.trim_start().split_once(' ')?;
            Some((level.to_owned(), text.trim().to_owned()))
        };
        log[mark..].lines().filter_map(line).collect()
    }

    /// The first lines of the steps it announced since.
    pub fn steps_since(&self, mark: usize) -> Vec<String> {
        const VERBS: [&str; 12] = [
            "add", "set", "delete", "restore", "attach", "detach", "map", "balance", "end", "take", "changing",
            "cannot",
        ];
        let is_step = |text: &String| text.split(' ').next().is_some_and(|verb| VERBS.contains(&verb));
        self.said_since(mark).into_iter().map(|(_, text)| text).filter(is_step).collect()
    }
}
