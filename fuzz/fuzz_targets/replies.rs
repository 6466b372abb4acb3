#![no_main]

#[path = "../inputs/replies.rs"]
mod replies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| replies::feed(input));
