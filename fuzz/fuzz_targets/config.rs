#![no_main]

#[path = "../inputs/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|input: &[u8]| config::feed(input));
