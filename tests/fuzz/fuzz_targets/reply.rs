//! Random upstream bytes; the oracles are in `keyward::resp::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyward::resp::fuzz::fuzz_reply(data));
