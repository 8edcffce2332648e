#![no_main]
//! See `keyward::resp::fuzz`: the oracles are there.

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyward::resp::fuzz::fuzz_request(data));
