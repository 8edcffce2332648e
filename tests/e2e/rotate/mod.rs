//! `keyward rotate`: new passwords while everything runs.

mod load;
mod redis_password;
mod trouble;
mod user_password;

use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use super::support::Client;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::Redis;
use super::support::Setup;
use super::support::keyward::command_line;

/// What a run of the command came to.
struct Outcome {
    code: i32,
    /// Standard output: nothing, but for the URL of a user.
    out: String,
    /// Standard error: every step.
    said: String,
}

impl Outcome {
    #[track_caller]
    fn is(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.said);
        for text in said {
            assert!(self.said.contains(text), "{text:?} is not in:\n{}", self.said);
        }
        self
    }
}

/// Runs `keyward rotate …` against the configuration of this process.
fn rotate(keyward: &Keyward, args: &[&str]) -> Outcome {
    rotate_with(keyward, args, "")
}

fn rotate_with(keyward: &Keyward, args: &[&str], input: &str) -> Outcome {
    let all = arguments(keyward, args);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (code, out, said) = command_line(&all, &[], input);
    Outcome { code, out, said }
}

fn arguments(keyward: &Keyward, args: &[&str]) -> Vec<String> {
    let config = keyward.setup().config_file().display().to_string();
    let mut all = vec!["rotate".to_owned()];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    all.extend(["--config".to_owned(), config]);
    if !args.contains(&"--offline") && !args.contains(&"--admin") {
        all.extend(["--admin".to_owned(), keyward.admin_address().to_string()]);
    }
    all
}

/// Kills the command with SIGKILL as soon as it has said that it did so many steps; what it said, and whether it was still there.
fn rotate_and_kill(keyward: &Keyward, args: &[&str], steps: usize) -> (Vec<String>, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(arguments(keyward, args))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut said, mut did) = (Vec::new(), 0);
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        did += usize::from(line.starts_with("did "));
        said.push(line);
        if did == steps {
            break;
        }
    }
    let alive = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    let _ = child.wait();
    (said, alive)
}

/// Kills the command with SIGKILL as soon as it has printed a line on standard output; the line.
fn rotate_and_kill_when_printed(keyward: &Keyward, args: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(arguments(keyward, args))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let _ = child.kill();
    let _ = child.wait();
    line
}

/// Files are looked at often, so that nobody waits for long.
fn setup(redis: &Redis) -> Setup {
    Setup::new(redis).server("watch_interval = \"100ms\"")
}

fn secret_file(keyward: &Keyward) -> PathBuf {
    keyward.setup().dir().join("main.redis")
}

/// The lines of the file with Redis's password.
fn lines(keyward: &Keyward) -> Vec<String> {
    let text = std::fs::read_to_string(secret_file(keyward)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Whether Redis takes this.
fn redis_takes(redis: &Redis, user: &str, password: &str) -> bool {
    Client::unix(&redis.socket()).call_args(&["AUTH", user, password]) == "+OK"
}

/// Redis has the new password alone, the file too, and everybody is served.
#[track_caller]
fn is_rotated(keyward: &Keyward, redis: &Redis, user: &str, old: &str) -> String {
    let lines = lines(keyward);
    assert_eq!(lines.len(), 1, "the file has one line");
    assert_eq!(lines[0].len(), 43);
    assert_ne!(lines[0], old);
    assert!(redis_takes(redis, user, &lines[0]), "Redis takes the new one");
    assert!(!redis_takes(redis, user, old), "and the old one no more");
    assert_eq!(keyward.app().call("SET rotated yes"), "+OK");
    lines[0].clone()
}

/// Nothing has been changed.
#[track_caller]
fn is_as_before(keyward: &Keyward, redis: &Redis) {
    assert_eq!(lines(keyward), [REDIS_PASSWORD]);
    assert!(redis_takes(redis, "default", REDIS_PASSWORD));
    assert_eq!(keyward.app().call("SET rotated no"), "+OK");
}
