//! Elements that are closed, attributes in quotes, known entities.

/// What stands between the tags, with the entities read.
pub fn xml(text: &str) -> Result<Vec<String>, String> {
    if !super::is_clean(text) {
        return Err("letters that no document has".to_owned());
    }
    let (mut open, mut words, mut rest) = (Vec::<&str>::new(), Vec::new(), text);
    loop {
        let (before, after) = rest.split_once('<').unwrap_or((rest, ""));
        let word = unescaped(before)?;
        if !word.trim().is_empty() {
            open.last().ok_or_else(|| format!("outside of all: {word}"))?;
            words.push(word);
        }
        if after.is_empty() {
            return if open.is_empty() { Ok(words) } else { Err(format!("not closed: {open:?}")) };
        }
        let (tag, after) = after.split_once('>').ok_or("a tag without an end")?;
        rest = after;
        match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
            (Some(name), _) if open.pop() == Some(name) => {}
            (Some(name), _) => return Err(format!("{name} closes nothing")),
            (None, Some(empty)) => drop(element(empty)?),
            (None, None) => open.push(element(tag)?),
        }
    }
}

/// Its name.
fn element(tag: &str) -> Result<&str, String> {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    while !rest.is_empty() {
        let (key, value) = rest.split_once("=\"").ok_or_else(|| format!("no attribute: {rest}"))?;
        let (value, more) = value.split_once('"').ok_or_else(|| format!("without an end: {value}"))?;
        unescaped(value)?;
        if !is_name(key) || !(more.is_empty() || more.starts_with(' ')) {
            return Err(format!("no attribute: {rest}"));
        }
        rest = more.trim_start();
    }
    if is_name(name) { Ok(name) } else { Err(format!("no element: {tag}")) }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut pieces = text.split('&');
    let mut read = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (entity, after) = piece.split_once(';').ok_or_else(|| format!("no entity: {piece}"))?;
        read += match entity {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            "apos" => "'",
            other => return Err(format!("no entity: {other}")),
        };
        read += after;
    }
    if text.contains('>') { Err(format!("a tag's end: {text}")) } else { Ok(read) }
}

#[test]
fn it_is_strict() {
    assert_eq!(xml("<a b=\"1\"><c/>x &lt;&amp;</a>\n"), Ok(vec!["x <&".to_owned()]));
    for wrong in
        ["<a>", "<a></b>", "x<a/>", "<a b=1/>", "<a b=\"\"c/>", "<a>&x;</a>", "<a>&</a>", "<a>></a>", "<a>\u{1b}</a>"]
    {
        assert!(xml(wrong).is_err(), "{wrong}");
    }
}
