//! What one kept service is on disk: one line of JSON, with a checksum, so that a torn or foreign file is told
//! from a good one.

use serde_json::{Value, json};

use crate::control::protocol::Service;

/// Of the format. A later one that reads otherwise has another number.
const FORMAT: &str = "meshd service 1";
const FAMILY: &str = "meshd service ";

/// A service of the control socket, and since when it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub generation: u64,
    pub service: Service,
}

/// # Errors
/// Never in practice: a service has nothing that JSON has not.
pub fn encode(kept: &Kept) -> serde_json::Result<String> {
    let service = serde_json::to_value(&kept.service)?;
    let checksum = checksum(kept.generation, &service);
    let text = json!({ "format": FORMAT, "generation": kept.generation, "crc32": checksum, "service": service });
    Ok(format!("{text}\n"))
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is none of ours, or not whole: it will never be of use.
    Bad(String),
    /// A later meshd wrote it, who may come back.
    Later(String),
}

/// # Errors
/// Why it cannot be used.
pub fn decode(bytes: &[u8]) -> Result<Kept, Flaw> {
    let bad = |reason: &str| Flaw::Bad(reason.to_owned());
    let value: Value = serde_json::from_slice(bytes).map_err(|error| Flaw::Bad(format!("not whole ({error})")))?;
    match value["format"].as_str() {
        Some(FORMAT) => {}
        Some(later) if later.starts_with(FAMILY) => {
            return Err(Flaw::Later(format!("of a later meshd (\"{}\")", later.escape_debug())));
        }
        _ => return Err(bad("not written by meshd")),
    }
    let generation = value["generation"].as_u64().ok_or_else(|| bad("without a generation"))?;
    if value["crc32"] != checksum(generation, &value["service"]) {
        return Err(bad("changed by someone else (its checksum does not match)"));
    }
    let service = serde_json::from_value(value["service"].clone()).map_err(|error| Flaw::Bad(error.to_string()))?;
    Ok(Kept { generation, service })
}

fn checksum(generation: u64, service: &Value) -> String {
    // Objects are printed in the order of their keys, whatever the file's.
    format!("{:08x}", crc32fast::hash(format!("{generation} {service}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let service = json!({
            "name": "kafka",
            "scheduler": "wrr",
            "port": [{ "published": "9090-9099", "protocol": "udp" }, { "published": 80, "target": 8080 }],
            "backend": [{ "address": "10.255.0.33", "netns": "kafka-1" }, { "address": "fd00::1", "netns": 4711 }],
        });
        Kept { generation: 12, service: serde_json::from_value(service).unwrap() }
    }

    #[test]
    fn what_is_kept_is_read_back() {
        assert_eq!(decode(encode(&kept()).unwrap().as_bytes()), Ok(kept()));
    }

    #[test]
    fn every_torn_or_altered_file_is_refused() {
        let whole = encode(&kept()).unwrap();
        // The last byte is the line's end, without which nothing is missing.
        for length in 0..whole.len() - 1 {
            assert!(decode(&whole.as_bytes()[..length]).is_err(), "{length} bytes");
        }
        let altered = whole.replace("10.255.0.33", "10.255.0.34");
        let bad = |text: &[u8]| match decode(text).unwrap_err() {
            Flaw::Bad(reason) | Flaw::Later(reason) => reason,
        };
        assert_eq!(bad(altered.as_bytes()), "changed by someone else (its checksum does not match)");
        let altered = whole.replace("\"generation\":12", "\"generation\":13");
        assert!(decode(altered.as_bytes()).is_err());
        assert_eq!(bad(b"{\"name\":\"kafka\"}"), "not written by meshd");
        assert!(bad(b"\0\0\0\0\0\0").starts_with("not whole"));
        let later = whole.replace("meshd service 1", "meshd service 2");
        assert_eq!(decode(later.as_bytes()), Err(Flaw::Later("of a later meshd (\"meshd service 2\")".to_owned())));
    }
}
