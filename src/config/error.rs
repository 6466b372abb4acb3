//! What is wrong with a configuration, and where.

use std::cell::{Cell, RefCell};
use std::fmt;

/// One thing that is wrong. It is printed as `file:line:column: message`, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What was found, and what would do.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { file, line, column, message } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

impl std::error::Error for Error {}

/// All that is wrong with one configuration, in the order of the text. Never empty; printed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }
}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A value and the byte of the text where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub at: usize,
}

/// Of what was accepted before, from another text. (No value stands at the first byte: a key comes before it.)
pub(super) const ELSEWHERE: usize = 0;

/// Collects what is wrong while a text is read. Shared by all readers, hence the cell.
pub(super) struct Findings<'t> {
    text: &'t str,
    file: &'t str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    /// What stands at a byte, where a line says nothing to who wrote the text.
    name: Option<&'t dyn Fn(usize) -> String>,
    found: RefCell<Vec<At<String>>>,
    /// Those that were too many to be kept.
    more: Cell<usize>,
}

/// So many things that are wrong are told: a text of nothing but mistakes must not become a longer one.
const MOST: usize = 100;

impl<'t> Findings<'t> {
    pub fn new(text: &'t str, file: &'t str) -> Findings<'t> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(offset, _)| offset + 1)).collect();
        Findings { text, file, lines, name: None, found: RefCell::default(), more: Cell::default() }
    }

    /// Says where something is by that, instead of by lines.
    pub fn named(self, name: &'t dyn Fn(usize) -> String) -> Findings<'t> {
        Findings { name: Some(name), ..self }
    }

    pub fn report(&self, at: usize, message: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < MOST {
            found.push(At { value: message.into(), at });
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// Reports one thing only about one place: a value that many others inherit is wrong once.
    pub fn report_once(&self, at: usize, message: impl Into<String>) {
        if self.found.borrow().iter().all(|finding| finding.at != at) {
            self.report(at, message);
        }
    }

    /// How many there are: two counts tell whether anything between them was wrong.
    pub fn count(&self) -> usize {
        self.found.borrow().len() + self.more.get()
    }

    /// ` at line 12`, to be said behind what stands there; nothing of what stands in no text.
    pub fn place(&self, at: usize) -> String {
        match self.name {
            _ if at == ELSEWHERE => String::new(),
            Some(name) => format!(" at {}", name(at)),
            None => format!(" at line {}", self.line(at)),
        }
    }

    /// The number of the line that holds that byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// The number of the column of that byte in its line, from 1.
    fn column(&self, at: usize) -> usize {
        let start = self.lines.get(self.line(at) - 1).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..at.min(self.text.len())).unwrap_or_default();
        // Every byte but those that continue a character of UTF-8.
        1 + before.iter().filter(|byte| *byte & 0xc0 != 0x80).count()
    }

    /// In the order of the text.
    pub fn into_found(self) -> Vec<At<String>> {
        self.take()
    }

    fn take(&self) -> Vec<At<String>> {
        let mut found = self.found.take();
        found.sort_by_key(|finding| finding.at);
        if let (more @ 1.., Some(last)) = (self.more.get(), found.last()) {
            let at = last.at;
            found.push(At { value: format!("{more} more mistakes are not listed"), at });
        }
        found
    }

    pub fn into_errors(self) -> Errors {
        let found = self.take();
        let error = |At { value: message, at }| Error {
            file: self.file.to_owned(),
            line: self.line(at),
            column: self.column(at),
            message,
        };
        Errors(found.into_iter().map(error).collect())
    }
}
