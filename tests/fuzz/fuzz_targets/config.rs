//! Random text as configuration file, URL, rules and ACL file; the oracles are in `keyward::config::fuzz` and
//! `keyward::acl::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    keyward::config::fuzz::fuzz_config(data);
    keyward::acl::fuzz::fuzz_rules(data);
});
