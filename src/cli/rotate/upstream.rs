//! `keyward rotate upstream`: a new password for Keyward's login at Redis, without a lost request.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::config;
use crate::secret::Secret;

use super::super::{Config, Exit, report, talk};
use super::account::Account;
use super::plan::{self, Facts, Lines, Next, Saved};
use super::rotation::{Rotation, fail, read};
use super::secret_file::SecretFile;
use super::servers::{Login, RedisServer};
use super::{Keywards, read_password};

#[derive(Debug, Args)]
pub(in super::super) struct UpstreamArgs {
    #[command(flatten)]
    config: Config,
    /// Which upstream, when there are several
    #[arg(value_name = "NAME")]
    upstream: Option<String>,
    /// Rotate the Redis login of this user (its upstream_password_file) instead of Keyward's own
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Redis user that may change passwords; default: the login that is rotated
    #[arg(long = "as", value_name = "NAME", requires = "password_source")]
    login: Option<String>,
    #[command(flatten)]
    password: PasswordSource,
    /// A further Redis with the same user, such as a replica: ACL users are not replicated (may be repeated)
    #[arg(long, value_name = "HOST:PORT")]
    redis: Vec<String>,
    /// Leave out the replicas that are connected and not named
    #[arg(long)]
    ignore_replicas: bool,
    /// Do not have Redis save the change: you put it into Redis's own configuration
    #[arg(long)]
    no_save: bool,
    /// Only finish a rotation that has begun
    #[arg(long)]
    finish: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keywards: Keywards,
}

/// Where the password of `--as` is; never on the command line, which every process sees.
#[derive(Debug, Args)]
#[group(id = "password_source", multiple = false)]
pub(super) struct PasswordSource {
    /// Its password: the first line of a file, or of standard input for -
    #[arg(long = "as-password-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Its password: an environment variable
    #[arg(long = "as-password-env", value_name = "NAME")]
    variable: Option<String>,
}

/// Rotates, or says what it would do.
pub(in super::super) fn rotate(args: &UpstreamArgs) -> anyhow::Result<Exit> {
    let config = match config::load(&args.config.sources()) {
        Ok(loaded) => loaded.config,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let mut account = match Account::find(&config, args.upstream.as_deref(), args.user.as_deref()) {
        Ok(account) => account,
        Err(problem) => {
            talk(&format!("error: {problem}"));
            return Ok(Exit::Configuration);
        }
    };
    if let Err(problem) = account.add_servers(&args.redis) {
        talk(&format!("error: {problem}"));
        return Ok(Exit::Usage);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let outcome = runtime.block_on(async {
        let rotation = Rotation::prepare(args, &config, account).await?;
        if args.dry_run {
            rotation.explain()
        } else {
            rotation.run().await
        }
    });
    Ok(outcome.unwrap_or_else(|error| fail(&error)))
}

impl Rotation {
    /// Finds everything out that can be found out before anything is changed.
    async fn prepare(args: &UpstreamArgs, config: &config::Config, account: Account) -> anyhow::Result<Self> {
        let file = SecretFile::find(&account.file)?;
        let (content, credential) = read(&file)?;
        let operator = args.password.read()?;
        let is_own_login = operator.is_none();
        let login = match operator {
            Some(password) => Login {
                username: args.login.clone(),
                passwords: vec![password],
            },
            None => Login {
                username: account.username.clone(),
                passwords: credential.iter().cloned().collect(),
            },
        };
        let mut servers = Vec::new();
        for section in &account.servers {
            servers.push(RedisServer::log_in(section, &login).await?);
        }
        check_roles(&servers, args.ignore_replicas)?;
        let running = args.keywards.find(&config.admin)?;
        let facts = Facts {
            may_begin: !args.finish,
            file: Lines::One,
            servers: Vec::new(),
            verified: false,
            taken_over: running.is_none(),
        };
        let mut rotation = Self {
            account,
            login,
            is_own_login,
            file,
            servers,
            running,
            facts,
            content,
            first: credential.current,
            second: credential.other,
        };
        for server in &mut rotation.servers {
            if args.no_save {
                server.saved = Saved::Yes;
            } else if let Err(why) = server.could_save().await? {
                talk(&format!(
                    "note: {} will not be able to save the change: {why}. The old password stays in the file as its second \
                     line until you have put the new one into Redis's own configuration; then: keyward rotate upstream \
                     --finish --no-save",
                    server.shown
                ));
            }
        }
        rotation.look().await?;
        if rotation.facts.file == Lines::Two {
            talk(&format!(
                "{} has two lines: a rotation has begun, and this finishes it",
                rotation.file
            ));
        } else if args.finish {
            talk(&format!(
                "{} has one line: there is nothing to finish",
                rotation.file
            ));
        }
        if let Next::Stuck(stuck) = plan::next(&rotation.facts) {
            return Err(rotation.stuck(stuck));
        }
        // Before Redis is touched: it must be possible to end.
        if !args.dry_run {
            rotation.file.try_out()?;
        }
        Ok(rotation)
    }
}

impl PasswordSource {
    fn read(&self) -> anyhow::Result<Option<Secret>> {
        match (&self.file, &self.variable) {
            (Some(file), _) => read_password(file).map(Some),
            (None, Some(name)) => {
                let value = std::env::var(name).ok().filter(|value| !value.is_empty());
                let value = value.context("the environment variable of --as-password-env is not set")?;
                Ok(Some(Secret::new(value.into_bytes())))
            }
            (None, None) => Ok(None),
        }
    }
}

/// ACL users are not replicated, and a master does not tell its replicas its password: what is not named is left behind.
fn check_roles(servers: &[RedisServer], ignore: bool) -> anyhow::Result<()> {
    if servers.iter().any(|server| server.role().cluster) {
        anyhow::bail!(
            "this Redis is a node of a cluster, which Keyward does not support (nothing was changed)"
        );
    }
    let named = servers.iter().filter(|server| server.role().replica).count();
    let replicas: Vec<&str> = servers
        .iter()
        .flat_map(|server| server.role().replicas.iter().map(String::as_str))
        .collect();
    if replicas.len() <= named {
        return Ok(());
    }
    let text = format!(
        "replicas are connected ({}) and {named} of them named with --redis. They have users of their own, and log in to their \
         master with masterauth: one that is left out refuses Keyward after a failover, or loses its master",
        replicas.join(", ")
    );
    if ignore {
        talk(&format!("warning: {text}"));
        return Ok(());
    }
    anyhow::bail!("{text}. Name each with --redis HOST:PORT, or say --ignore-replicas (nothing was changed)")
}
