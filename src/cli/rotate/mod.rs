//! `keyward rotate`: new passwords without a lost request.

mod account;
mod acl_file;
mod client_url;
mod plan;
mod role;
mod rotation;
mod running;
mod secret_file;
mod servers;
mod upstream;
mod user;

use std::io::{IsTerminal, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::config::{self, MAX_SECRET_FILE};
use crate::secret::Secret;

use super::Exit;
use running::Running;

#[derive(Debug, Subcommand)]
pub(super) enum Rotation {
    /// Change the password that Keyward logs in to Redis with; run again, it goes on where it was interrupted
    Upstream(upstream::UpstreamArgs),
    /// Give a user a new password beside the old one and print its URL; --finish takes the old one away
    User(user::UserArgs),
}

/// Which Keywards read the files.
#[derive(Debug, Args)]
struct Keywards {
    /// Admin address of a running Keyward that reads the file (may be repeated); default: that of the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin: Vec<SocketAddr>,
    /// No Keyward runs: wait for none
    #[arg(long, conflicts_with = "admin")]
    offline: bool,
    /// How long a running Keyward may take to read the file
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    patience: Duration,
}

/// Rotates.
pub(super) fn rotate(rotation: &Rotation) -> anyhow::Result<Exit> {
    match rotation {
        Rotation::Upstream(args) => upstream::rotate(args),
        Rotation::User(args) => user::rotate(args),
    }
}

impl Keywards {
    /// `None`: none runs.
    fn find(&self, section: &config::Admin) -> anyhow::Result<Option<Running>> {
        if self.offline {
            return Ok(None);
        }
        let addresses = match (self.admin.as_slice(), section.address) {
            ([], Some(address)) => vec![address],
            ([], None) => anyhow::bail!(
                "the admin listener is off, so nobody can be asked whether Keyward has read a new password: switch it on \
                 (admin.address), or say --offline if no Keyward runs"
            ),
            (named, _) => named.to_vec(),
        };
        let running = Running {
            addresses,
            patience: self.patience,
        };
        // Before anything is changed.
        running.pages()?;
        Ok(Some(running))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
        .ok_or_else(|| "a whole number with a unit: 500ms, 10s, 2m, 1h, 7d".to_owned())
}

/// The first line of a file, or of standard input for `-`.
fn read_password(file: &Path) -> anyhow::Result<Secret> {
    let limit = u64::try_from(MAX_SECRET_FILE).unwrap_or(u64::MAX);
    let mut content = Vec::with_capacity(MAX_SECRET_FILE);
    if file.as_os_str() == "-" {
        if std::io::stdin().is_terminal() {
            anyhow::bail!(
                "standard input is a terminal, which would show the password: pipe it, or name a file"
            );
        }
        std::io::stdin()
            .take(limit)
            .read_to_end(&mut content)
            .context("cannot read standard input")?;
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(limit).read_to_end(&mut content))
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    let content = Secret::new(content);
    let credential =
        config::Credential::parse(content.expose()).context("the password of --as is not usable")?;
    Ok(credential.current)
}
