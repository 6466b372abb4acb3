//! Typed reads of one table of the file. What cannot be used is reported and read as absent.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::check;
use super::error::{At, Findings};
use super::nearest::nearest;

/// One table of the file, or the lack of it: then every key is absent.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    /// As the file writes it: `[node]`, `[[service]]`.
    pub title: &'static str,
    /// The byte where it begins.
    pub at: usize,
    table: Option<&'t DeTable<'t>>,
    pub findings: &'t Findings<'t>,
}

impl<'t> Section<'t> {
    pub fn root(table: &'t DeTable<'t>, keys: &[&str], findings: &'t Findings<'t>) -> Section<'t> {
        Section { title: "the file", at: 0, table: Some(table), findings }.knowing(keys)
    }

    /// Reports every key that is none of those.
    fn knowing(self, keys: &[&str]) -> Section<'t> {
        let Section { title, table, findings, .. } = self;
        for key in table.into_iter().flat_map(|table| table.keys()) {
            let name = key.get_ref().as_ref();
            if !keys.contains(&name) {
                let hint = nearest(name, keys).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                let known = keys.join(", ");
                let name = excerpt(name);
                findings.report(key.span().start, format!("`{name}` is no key of {title}; {hint}its keys: {known}"));
            }
        }
        self
    }

    pub fn exists(&self) -> bool {
        self.table.is_some()
    }

    pub fn report(&self, at: usize, message: impl Into<String>) {
        self.findings.report(at, message);
    }

    /// Reports that a key is absent.
    pub fn lacks(&self, key: &str, remedy: &str) {
        self.report(self.at, format!("{} has no `{key}`; {remedy} would do", self.title));
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    /// Whether the key is there, be it with a value that cannot be used.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether the key is absent or an empty list.
    pub fn is_empty(&self, key: &str) -> bool {
        self.get(key).is_none_or(|value| value.get_ref().as_array().is_some_and(|array| array.is_empty()))
    }

    /// Reads any value.
    pub fn read<T>(
        &self,
        key: &str,
        wanted: impl Display,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        let at = value.span().start;
        match read(value.get_ref()) {
            Some(value) => Some(At { value, at }),
            None => {
                self.report(at, format!("`{key}` is {}; {wanted} would do", literal(value.get_ref())));
                None
            }
        }
    }

    /// Reads a string.
    pub fn text<T>(&self, key: &str, wanted: impl Display, read: impl FnOnce(&'t str) -> Option<T>) -> Option<At<T>> {
        self.read(key, wanted, |value| value.as_str().and_then(read))
    }

    /// Reads a whole number; `what` it is comes before `from … to …`.
    pub fn number<T: TryFrom<i64>>(&self, key: &str, what: &str, range: RangeInclusive<i64>) -> Option<At<T>> {
        let wanted = format!("{what} from {} to {}", range.start(), range.end());
        self.read(key, wanted, |value| integer(value).filter(|number| range.contains(number))?.try_into().ok())
    }

    /// Reads a duration, see [`check::duration`].
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let (least, most) = (check::written(*range.start()), check::written(*range.end()));
        let wanted = format!("a duration such as \"5s\", from \"{least}\" to \"{most}\"");
        self.read(key, wanted, |value| check::duration(value).filter(|duration| range.contains(duration)))
    }

    /// Where the key's value begins, if it is there.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.get(key).map(|value| value.span().start)
    }

    pub fn boolean(&self, key: &str) -> Option<At<bool>> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    pub fn array(&self, key: &str, wanted: &str) -> Option<At<&'t DeArray<'t>>> {
        self.read(key, wanted, DeValue::as_array)
    }

    /// The table of that key.
    pub fn section(&self, key: &str, title: &'static str, keys: &[&str]) -> Section<'t> {
        let table = self.read(key, format_args!("a table {title}"), DeValue::as_table);
        let at = table.map_or(self.at, |table| table.at);
        Section { title, at, table: table.map(|table| table.value), findings: self.findings }.knowing(keys)
    }

    /// The tables of that key; `None` when it is absent, so that an empty list can be told from none.
    pub fn sections(&self, key: &str, title: &'static str, keys: &[&str]) -> Option<Vec<Section<'t>>> {
        let array = self.array(key, &format!("a list of tables {title}"))?.value;
        let section = |value: &'t Spanned<DeValue<'t>>| {
            let at = value.span().start;
            let table = value.get_ref().as_table();
            if table.is_none() {
                let found = literal(value.get_ref());
                self.report(at, format!("`{key}` has an element that is {found}; a table {title} would do"));
            }
            Some(Section { title, at, table: Some(table?), findings: self.findings }.knowing(keys))
        };
        Some(array.iter().filter_map(section).collect())
    }
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value as one would write it, short enough for a message and on one line.
pub(super) fn literal(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(integer) => excerpt(&integer.to_string()),
        DeValue::Float(float) => excerpt(float.as_str()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => format!("the date or time {datetime}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", excerpt(text))
}

/// The beginning of a text, without anything that could break a line or a terminal.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut excerpt = String::new();
    for letter in text.chars().take(LONGEST) {
        match letter {
            '\'' => excerpt.push(letter),
            _ => excerpt.extend(letter.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        excerpt.push('…');
    }
    excerpt
}

/// `a, b or c`.
pub(super) fn choice(items: impl IntoIterator<Item = impl Display>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.pop() {
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} or {last}", items.join(", ")),
        None => String::new(),
    }
}
