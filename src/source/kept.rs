//! What one kept service is on disk: one line of JSON, with a checksum, so that a torn or foreign file is told
//! from a good one.

use serde_json::{Value, json};

use crate::control::protocol::Service;

/// Of the format. A later one that reads otherwise has another.
const FORMAT: &str = "meshd service 1";

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

/// # Errors
/// Why it is none of ours, or not whole.
pub fn decode(bytes: &[u8]) -> Result<Kept, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not whole ({error})"))?;
    if value["format"] != FORMAT {
        return Err("not written by meshd".to_owned());
    }
    let generation = value["generation"].as_u64().ok_or("without a generation")?;
    if value["crc32"] != checksum(generation, &value["service"]) {
        return Err("changed by someone else (its checksum does not match)".to_owned());
    }
    let service = serde_json::from_value(value["service"].clone()).map_err(|error| error.to_string())?;
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
        assert_eq!(decode(altered.as_bytes()).unwrap_err(), "changed by someone else (its checksum does not match)");
        let altered = whole.replace("\"generation\":12", "\"generation\":13");
        assert!(decode(altered.as_bytes()).is_err());
        assert_eq!(decode(b"{\"name\":\"kafka\"}").unwrap_err(), "not written by meshd");
        assert!(decode(b"\0\0\0\0\0\0").unwrap_err().starts_with("not whole"));
    }
}
