//! A file of the state directory, whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshd::source::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(kept) = decode(bytes) {
        let again = encode(&kept).expect("it can be written");
        assert_eq!(decode(again.as_bytes()), Ok(kept));
    }
});
