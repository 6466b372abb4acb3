//! A file of the state directory, whatever is in it.

use meshd::source::{decode, encode};

pub fn feed(bytes: &[u8]) {
    if let Ok(kept) = decode(bytes) {
        let again = encode(&kept).expect("it can be written");
        assert_eq!(decode(again.as_bytes()), Ok(kept));
    }
}
