#![no_main]

#[path = "../inputs/state_file.rs"]
mod state_file;

libfuzzer_sys::fuzz_target!(|input: &[u8]| state_file::feed(input));
