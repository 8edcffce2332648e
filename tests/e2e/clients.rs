//! Real clients: the libraries and tools are the specification.

use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use super::support::Authority;
use super::support::DEFAULT_PASSWORD;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;

/// Keyward with TLS, and the CA that clients trust.
fn secured(redis: &Redis) -> (Keyward, Authority) {
    let authority = Authority::new("clients");
    let server = authority.server("localhost");
    (Setup::new(redis).tls(&server, "").start(), authority)
}

/// A program that is ended when it takes too long: a client that waits for ever must fail its test, not hold up all.
fn limited(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "180"]).arg(program);
    command
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run.sh, it installs it"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?} failed:\n{text}");
    text
}

#[test]
fn redis_py_asyncio_does_what_applications_do() {
    let redis = Redis::start();
    let (keyward, authority) = secured(&redis);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("tests/.venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run tests/run.sh, it makes it",
        python.display()
    );
    let text = run(limited(python)
        .arg(root.join("tests/clients/redis_py.py"))
        .args(["localhost", &keyward.address().port().to_string()])
        .arg(authority.file())
        .env("KEYWARD_PASSWORD", DEFAULT_PASSWORD));
    assert!(text.contains("ok"), "{text}");
}

fn redis_cli(keyward: &Keyward, authority: &Authority) -> Command {
    let mut command = limited("redis-cli");
    command.args([
        "-h",
        "localhost",
        "-p",
        &keyward.address().port().to_string(),
        "--tls",
        "--cacert",
    ]);
    command
        .arg(authority.file())
        .env("REDISCLI_AUTH", DEFAULT_PASSWORD);
    command
}

#[test]
fn redis_cli_works_also_in_bulk() {
    let redis = Redis::start();
    let (keyward, authority) = secured(&redis);
    assert_eq!(run(redis_cli(&keyward, &authority).arg("PING")).trim(), "PONG");
    assert!(run(redis_cli(&keyward, &authority).args(["-3", "HELLO"])).contains("proto"));
    assert!(run(redis_cli(&keyward, &authority).arg("FLUSHALL")).contains("NOPERM"));
    let mut bulk = String::new();
    for n in 0..20_000 {
        bulk.push_str(&format!("SET bulk:{n} value\r\n"));
    }
    let file = authority.dir().join("bulk.txt");
    std::fs::write(&file, bulk).unwrap();
    let text = run(redis_cli(&keyward, &authority)
        .arg("--pipe")
        .stdin(Stdio::from(std::fs::File::open(&file).unwrap())));
    assert!(text.contains("errors: 0, replies: 20000"), "{text}");
    assert_eq!(redis.client().call("DBSIZE"), ":20000");
}

#[test]
fn redis_benchmark_runs_its_default_tests() {
    let redis = Redis::start();
    let (keyward, authority) = secured(&redis);
    let text = run(limited("redis-benchmark")
        .args([
            "-h",
            "localhost",
            "-p",
            &keyward.address().port().to_string(),
            "--tls",
            "--cacert",
        ])
        .arg(authority.file())
        .args(["-a", DEFAULT_PASSWORD, "-q", "-n", "2000", "-c", "20", "-P", "4"]));
    assert!(
        text.contains("MSET (10 keys)") && !text.contains("Error"),
        "{text}"
    );
}
