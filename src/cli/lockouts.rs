//! `keyward lockouts` and `keyward unlock`: what the control socket of the running process says and does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use crate::config;

use super::{Config, Exit, print, talk};

/// Where the control socket is.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Socket {
    #[command(flatten)]
    config: Config,
    /// The control socket; default: admin.control_socket of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Listing {
    #[command(flatten)]
    socket: Socket,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Unlocking {
    #[command(flatten)]
    socket: Socket,
    /// Whose: an address, a network (203.0.113.0/24), or a user's name
    #[arg(
        value_name = "ADDRESS|NETWORK|USER",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    target: Option<String>,
    /// Everybody's
    #[arg(long)]
    all: bool,
}

/// Lists who is locked out.
pub(super) fn lockouts(listing: &Listing) -> anyhow::Result<Exit> {
    let answer = match listing.socket.ask("lockouts")? {
        Ok(answer) => answer,
        Err(exit) => return Ok(exit),
    };
    if listing.json {
        print(&answer.to_string());
        return Ok(Exit::Done);
    }
    let lockouts = items(&answer, "lockouts");
    let slowed = items(&answer, "slowed_users");
    if lockouts.is_empty() && slowed.is_empty() {
        talk("nobody is locked out");
    }
    if !lockouts.is_empty() {
        print(&row(&["SOURCE", "LISTENER", "LEFT", "TIMES"]));
    }
    for lockout in lockouts {
        let left = Duration::from_secs(number(lockout, "seconds_left"));
        print(&row(&[
            text(lockout, "source"),
            text(lockout, "listener"),
            &config::show_duration(left),
            &number(lockout, "times").to_string(),
        ]));
    }
    for user in slowed {
        print(&format!(
            "user {} at {}: refusals are held back for strangers after {} failures from many sources; right passwords are \
             not",
            text(user, "user"),
            text(user, "listener"),
            number(user, "failures"),
        ));
    }
    let (total, shown) = (number(&answer, "total"), lockouts.len());
    if total > shown as u64 {
        talk(&format!("{shown} of {total} lockouts, those that last longest"));
    }
    Ok(Exit::Done)
}

/// Lifts lockouts.
pub(super) fn unlock(unlocking: &Unlocking) -> anyhow::Result<Exit> {
    let request = match &unlocking.target {
        Some(target) if target.chars().any(char::is_control) => {
            talk("error: not an address, a network or a user's name");
            return Ok(Exit::Usage);
        }
        Some(target) => format!("unlock {target}"),
        None => "unlock-all".to_owned(),
    };
    let answer = match unlocking.socket.ask(&request)? {
        Ok(answer) => answer,
        Err(exit) => return Ok(exit),
    };
    let (lifted, slowed) = (items(&answer, "lifted"), items(&answer, "slowed_users"));
    for lockout in lifted {
        print(&format!(
            "unlocked {} ({})",
            text(lockout, "source"),
            text(lockout, "listener")
        ));
    }
    for user in slowed {
        print(&format!(
            "unlocked user {} ({})",
            text(user, "user"),
            text(user, "listener")
        ));
    }
    let (total, shown) = (number(&answer, "total"), lifted.len());
    if total > shown as u64 {
        print(&format!("unlocked {} more", total.saturating_sub(shown as u64)));
    }
    match &unlocking.target {
        Some(target) if total == 0 && slowed.is_empty() => {
            talk(&format!(
                "{target} was not locked out; keyward lockouts lists who is"
            ));
            Ok(Exit::Failed)
        }
        _ => Ok(Exit::Done),
    }
}

impl Socket {
    /// One request, one answer; the inner error is for the person and has been said.
    fn ask(&self, request: &str) -> anyhow::Result<Result<Value, Exit>> {
        let configured = || config::admin_section(&self.config.sources()).control_socket;
        let Some(path) = self.socket.clone().or_else(configured) else {
            talk(
                "error: there is no control socket: set control_socket in [admin] (or KEYWARD_CONTROL_SOCKET) and restart, \
                 or name one with --socket",
            );
            return Ok(Err(Exit::Configuration));
        };
        let shown = path.display();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                talk(&format!(
                    "error: {shown}: {error}; only Keyward's own user and root may open it"
                ));
                return Ok(Err(Exit::Refused));
            }
            Err(error) => {
                talk(&format!("error: {shown}: {error}; is keyward running?"));
                return Ok(Err(Exit::Failed));
            }
        };
        let answer = exchange(stream, request).with_context(|| format!("no answer from {shown}"))?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| {
            format!("the answer from {shown} cannot be read: is it keyward's control socket?")
        })?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            talk(&format!("error: {error}"));
            return Ok(Err(Exit::Usage));
        }
        Ok(Ok(answer))
    }
}

fn exchange(mut stream: UnixStream, request: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

fn items<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    let list = answer.get(key).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn text<'a>(item: &'a Value, key: &str) -> &'a str {
    item.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(item: &Value, key: &str) -> u64 {
    item.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn row(cells: &[&str; 4]) -> String {
    let [source, listener, left, times] = cells;
    format!("{source:<44} {listener:<20} {left:>8} {times:>6}")
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// A thousand lockouts and as many users, and room.
const MAX_ANSWER: u64 = 1024 * 1024;
