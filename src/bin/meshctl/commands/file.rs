//! A service from a file. The daemon judges it; here it is only found in what `service get -o json` printed.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use crate::meshctl::failure::Failure;

pub struct ServiceFile {
    pub service: Value,
    /// As it is written there.
    pub name: Option<String>,
}

/// `-` is standard input.
pub fn read(path: &Path) -> Result<ServiceFile, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let shown = path.display();
    let text = text.map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    parse(&text).map_err(|reason| Failure::usage(format!("{shown}: {reason}")))
}

fn parse(text: &str) -> Result<ServiceFile, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let service = match value {
        Value::Object(mut entry) if entry.get("service").is_some_and(Value::is_object) => {
            entry.remove("service").unwrap_or_default()
        }
        Value::Object(service) => Value::Object(service),
        _ => return Err("no service: an object such as `service get -o json` prints would do".to_owned()),
    };
    let name = service.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(ServiceFile { service, name })
}

impl ServiceFile {
    /// The name that both command line and file may give, if they agree.
    pub fn named(&self, wanted: Option<&str>) -> Result<String, Failure> {
        match (wanted, self.name.as_deref()) {
            (Some(wanted), Some(name)) if wanted != name => {
                Err(Failure::usage(format!("the file describes the service {name}, not {wanted}")))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
            (None, None) => Err(Failure::usage("the file's service has no name; give it one on the command line")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[track_caller]
    fn check(text: &str, wanted: Option<&str>, expected: Result<&str, &str>) {
        let named = parse(text).and_then(|file| file.named(wanted).map_err(|failure| failure.detail));
        assert_eq!(named.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_service_is_found_in_what_was_printed() {
        check(r#"{ "name": "kafka", "port": [] }"#, None, Ok("kafka"));
        check(r#"{ "owner": "socket", "generation": 3, "service": { "name": "kafka" } }"#, Some("kafka"), Ok("kafka"));
        check(r#"{ "port": [] }"#, Some("kafka"), Ok("kafka"));
        check(r#"{ "port": [] }"#, None, Err("the file's service has no name; give it one on the command line"));
        check(r#"{ "name": "web" }"#, Some("kafka"), Err("the file describes the service web, not kafka"));
        check("[]", None, Err("no service: an object such as `service get -o json` prints would do"));
        check("{\n  x", None, Err("no JSON: key must be a string at line 2 column 3"));
    }
}
