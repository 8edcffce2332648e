//! `keyward status`: the status page in the terminal, read from the admin listener's `/status.json`.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

use crate::config;
use crate::status::{State, Status, text};

use super::{Config, Exit, healthcheck, talk};

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Looking {
    #[command(flatten)]
    config: Config,
    /// The admin listener; default: admin.address of the configuration
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
    /// Print the JSON of /status.json
    #[arg(long)]
    json: bool,
    /// Look again and again, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// Looks once, or until it is ended.
pub(super) fn status(looking: &Looking) -> anyhow::Result<Exit> {
    let address = match looking.address() {
        Ok(address) => address,
        Err(exit) => return Ok(exit),
    };
    loop {
        let (exit, answer) = looking.once(address);
        if let Some(answer) = answer
            && looking.show(&answer).is_err()
        {
            // Whoever read it has seen enough.
            return Ok(exit);
        }
        match looking.watch {
            None => return Ok(exit),
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
        }
    }
}

impl Looking {
    fn address(&self) -> Result<SocketAddr, Exit> {
        let Some(url) = &self.url else {
            return config::admin_section(&self.config.sources())
                .address
                .ok_or_else(|| {
                    talk("error: the admin listener is off (admin.address)");
                    Exit::NoAnswer
                });
        };
        let host = url.strip_prefix("http://").unwrap_or(url);
        let host = host.split('/').next().unwrap_or_default();
        match host.to_socket_addrs().map(|mut found| found.next()) {
            Ok(Some(address)) => Ok(address),
            _ => {
                talk(&format!(
                    "error: {url} is not the URL of an admin listener, such as http://127.0.0.1:6390"
                ));
                Err(Exit::Usage)
            }
        }
    }

    /// How it is, and what is to be printed; a failure has been told.
    fn once(&self, address: SocketAddr) -> (Exit, Option<String>) {
        let answer = match healthcheck::ask(address, "/status.json", MAX_ANSWER) {
            Ok(answer) => answer,
            Err(error) => {
                talk(&format!(
                    "error: no answer from {address}: {error:#}; is keyward running?"
                ));
                return (Exit::NoAnswer, None);
            }
        };
        let body = healthcheck::body(&answer);
        if !answer.starts_with("HTTP/1.1 200") {
            talk(&format!("error: {address} does not tell its status: {body}"));
            return (Exit::NoAnswer, None);
        }
        let status: Status = match serde_json::from_str(body) {
            Ok(status) => status,
            Err(error) => {
                talk(&format!(
                    "error: the answer of {address} cannot be read ({error}): is it keyward?"
                ));
                return (Exit::NoAnswer, None);
            }
        };
        let exit = match status.state {
            State::Ok => Exit::Done,
            State::Warning | State::Critical => Exit::Failed,
        };
        let shown = if self.json {
            body.to_owned()
        } else {
            text::lines(&status, colour())
        };
        (exit, Some(shown))
    }

    /// Watching on a terminal, over what was there before.
    fn show(&self, answer: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.watch.is_some() && !self.json && out.is_terminal() {
            // Home, and everything below it away.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        writeln!(out, "{}", answer.trim_end())?;
        out.flush()
    }
}

/// On a terminal alone, and not against its owner's wish.
fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

const EXIT_CODES: &str = "\
Exit codes:  0 nothing to do, 1 problems, 2 no answer, 64 usage; with --watch it runs until it is ended";
/// All rows that there may be, and room.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
