//! Black-box tests: the real `keyward` binary between raw clients and a real `redis-server`.
//!
//! One binary, one module per subject. Every test starts its own servers in its own directory on ports that the
//! kernel picks, so all of them run in parallel. Nothing waits for a fixed time: conditions are polled with a deadline.
//! Each `Keyward` guard ends its process with SIGTERM, demands a clean exit, refuses WARN and ERROR lines that the
//! test did not announce, and searches everything the process wrote for the passwords, keys and values in use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "test code: a failed assumption is a failed test"
)]

mod acl;
mod activation;
mod admin;
mod big_values;
mod certificates;
mod cli;
mod clients;
mod commands;
mod doctor;
mod door;
mod drain;
mod fail2ban;
mod guessing;
mod identity;
mod limits;
mod login;
mod logs;
mod observe;
mod pool;
mod redis_users;
mod reload;
mod rotate;
mod session;
mod smuggling;
mod status;
mod support;
mod tls;
mod upstream;
