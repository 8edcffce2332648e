//! What every black-box test needs: servers as guards, a raw client, certificates, a scripted upstream.

#![allow(
    dead_code,
    unused_imports,
    reason = "a kit: not every tool is in use at every time"
)]

pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod fake;
pub(crate) mod keyward;
pub(crate) mod redis;

use std::process::Command;
use std::time::Duration;
use std::time::Instant;

pub(crate) use certs::Authority;
pub(crate) use certs::Identity;
pub(crate) use client::Client;
pub(crate) use fake::Action;
pub(crate) use fake::Fake;
pub(crate) use keyward::Keyward;
pub(crate) use keyward::Setup;
pub(crate) use redis::Redis;

/// How long anything may take before the test gives up. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Passwords and samples. None of them may ever show up in anything Keyward writes.
pub(crate) const REDIS_PASSWORD: &str = "redis-side-secret-0fYq7ZbT3mKx9LwPvRj2";
pub(crate) const REDIS_PASSWORD_2: &str = "redis-side-secret-rotated-Hc51uXsQe8Dn";
pub(crate) const APP_PASSWORD: &str = "app-secret-V8nJ4kQz1TgW6yBd0RmXc3LhPe";
pub(crate) const APP_PASSWORD_2: &str = "app-secret-second-u7Yw2Gf9KsZa4NtEoMi";
pub(crate) const DEFAULT_PASSWORD: &str = "default-secret-Qp5SxD0vJr7Wb3HkTz8Ly";
pub(crate) const ROOT_PASSWORD: &str = "root-secret-n2Bf6MwXe9Cj1UaGq4RvKo7S";
pub(crate) const WRONG_PASSWORD: &str = "wrong-secret-jT3dPz8YhLq0FxVn5CuEw6M";
pub(crate) const SAMPLE_KEY: &str = "samplekeyQ7x";
pub(crate) const SAMPLE_VALUE: &str = "samplevalueZ4mR";

/// All of the above, for the search through the output.
pub(crate) const SECRETS: &[&str] = &[
    REDIS_PASSWORD,
    REDIS_PASSWORD_2,
    APP_PASSWORD,
    APP_PASSWORD_2,
    DEFAULT_PASSWORD,
    ROOT_PASSWORD,
    WRONG_PASSWORD,
    SAMPLE_KEY,
    SAMPLE_VALUE,
];

/// Polls until `probe` gives something; panics with `what` when the deadline passes.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "did not come about within {PATIENCE:?}: {what}"
        );
        // A pause of polling, not a wait for anything in particular.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Sends a signal by name (`TERM`, `HUP`, `STOP`, `CONT`, `KILL`) through the shell's own `kill`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status()
        .unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// Resident memory of a process in bytes, from `/proc`.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    proc_status(pid, "VmRSS:") * 1024
}

/// A numeric field of `/proc/<pid>/status`.
pub(crate) fn proc_status(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Open descriptors of a process.
pub(crate) fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A canonical request: an array of bulk strings.
pub(crate) fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A canonical request from words separated by single blanks.
pub(crate) fn words(line: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    request(&args)
}

/// Several requests one behind the other.
pub(crate) fn pipeline(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| words(line)).collect()
}
