//! Strings that end, braces that are closed, edges between nodes that there are.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Quoted(String),
    Arrow,
    Sign(char),
}

/// The labels.
pub fn dot(text: &str) -> Result<Vec<String>, String> {
    if !super::is_clean(text) {
        return Err("letters that steer a terminal".to_owned());
    }
    let mut reader =
        Reader { tokens: tokens(text)?.into_iter().peekable(), nodes: BTreeSet::new(), labels: Vec::new() };
    for word in ["digraph", "mesh"] {
        reader.expect(&Token::Name(word.to_owned()))?;
    }
    reader.body()?;
    match reader.tokens.next() {
        None => Ok(reader.labels),
        Some(more) => Err(format!("behind the end: {more:?}")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut letters) = (Vec::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            ' ' | '\n' => continue,
            '"' => Token::Quoted(quoted(&mut letters)?),
            '-' if letters.next_if_eq(&'>').is_some() => Token::Arrow,
            '{' | '}' | '[' | ']' | '=' | ',' | ';' => Token::Sign(letter),
            _ if letter.is_ascii_alphanumeric() => {
                let mut name = String::from(letter);
                while let Some(more) = letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_') {
                    name.push(more);
                }
                Token::Name(name)
            }
            other => return Err(format!("no token: {other:?}")),
        });
    }
    Ok(tokens)
}

/// As Graphviz shows it.
fn quoted(letters: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut read = String::new();
    loop {
        match letters.next().ok_or("a string without an end")? {
            '"' => break,
            '\\' => read.push(match letters.next() {
                Some('n') => '\n',
                Some(letter @ ('\\' | '"')) => letter,
                other => return Err(format!("no escape: {other:?}")),
            }),
            '\n' => return Err("a line's end in a string".to_owned()),
            letter => read.push(letter),
        }
    }
    let entities = read.matches('&').count();
    if entities == read.matches("&amp;").count() {
        Ok(read.replace("&amp;", "&"))
    } else {
        Err(format!("an entity: {read}"))
    }
}

struct Reader {
    tokens: Peekable<IntoIter<Token>>,
    nodes: BTreeSet<String>,
    labels: Vec<String>,
}

impl Reader {
    fn expect(&mut self, token: &Token) -> Result<(), String> {
        let found = self.tokens.next();
        if found.as_ref() == Some(token) { Ok(()) } else { Err(format!("{found:?} in place of {token:?}")) }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.tokens.next() {
            Some(Token::Name(name)) => Ok(name),
            other => Err(format!("{other:?} in place of a name")),
        }
    }

    fn body(&mut self) -> Result<(), String> {
        self.expect(&Token::Sign('{'))?;
        while self.tokens.next_if_eq(&Token::Sign('}')).is_none() {
            self.statement()?;
        }
        Ok(())
    }

    fn statement(&mut self) -> Result<(), String> {
        let name = self.name()?;
        if name == "subgraph" {
            self.name()?;
            return self.body();
        }
        if self.tokens.next_if_eq(&Token::Sign('=')).is_some() {
            self.value(&name)?;
        } else if self.tokens.next_if_eq(&Token::Arrow).is_some() {
            let to = self.name()?;
            if let Some(strange) = [name, to].iter().find(|end| !self.nodes.contains(*end)) {
                return Err(format!("no node {strange}"));
            }
            self.attributes()?;
        } else {
            self.nodes.insert(name);
            self.attributes()?;
        }
        self.expect(&Token::Sign(';'))
    }

    fn attributes(&mut self) -> Result<(), String> {
        self.expect(&Token::Sign('['))?;
        loop {
            let key = self.name()?;
            self.expect(&Token::Sign('='))?;
            self.value(&key)?;
            if self.tokens.next_if_eq(&Token::Sign(']')).is_some() {
                return Ok(());
            }
            self.expect(&Token::Sign(','))?;
        }
    }

    fn value(&mut self, key: &str) -> Result<(), String> {
        match self.tokens.next() {
            Some(Token::Quoted(label)) if key == "label" => self.labels.push(label),
            Some(Token::Name(_) | Token::Quoted(_)) => {}
            other => return Err(format!("{other:?} in place of a value")),
        }
        Ok(())
    }
}

#[test]
fn it_is_strict() {
    let good = "digraph mesh {\n a [label=\"x \\\"\\\\&amp;\\ny\", w=1]; subgraph cluster_b { label=\"z\"; b [c=d]; } a -> b [w=2]; }\n";
    assert_eq!(dot(good), Ok(vec!["x \"\\&\ny".to_owned(), "z".to_owned()]));
    for wrong in
        ["a [b=c]; } }", "a [b=\"c];", "a [b=\"\\x\"];", "a [b=\"&#1;\"];", "a -> b [c=d];", "a b;", "subgraph a {"]
    {
        assert!(
            dot(&format!("digraph mesh {{ {wrong}")).is_err() && dot(&format!("digraph mesh {{ {wrong} }}")).is_err(),
            "{wrong}"
        );
    }
}
