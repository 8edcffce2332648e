//! `keyward rotate upstream`: a new password for Keyward's login at Redis, without a lost request.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::config::{self, CredentialSource, UpstreamAddress};
use crate::secret::Secret;

use super::super::gen_password::generate;
use super::super::{Config, Exit, report, talk};
use super::plan::{self, Facts, Holds, Lines, Next, Saved, Step, Stuck};
use super::running::Running;
use super::secret_file::{SecretFile, lines};
use super::servers::{DEFAULT, Login, Passwords, RedisServer, Trouble};
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

/// Whose password it is, and where.
#[derive(Debug)]
struct Account {
    /// The user on Redis; `None`: logs in with a password alone.
    username: Option<String>,
    /// The secret file.
    file: PathBuf,
    /// Every server that it is used at.
    servers: Vec<config::Upstream>,
    /// Upstream and user as the metrics call them.
    series: Vec<(String, String)>,
}

struct Rotation {
    account: Account,
    file: SecretFile,
    servers: Vec<RedisServer>,
    running: Option<Running>,
    /// What this run has found out and done.
    facts: Facts,
    content: Secret,
    first: Secret,
    second: Option<Secret>,
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

/// Says what went wrong.
fn fail(error: &anyhow::Error) -> Exit {
    talk(&format!("error: {error:#}"));
    match error.downcast_ref() {
        Some(Trouble::Unreachable { .. }) => Exit::Unavailable,
        Some(Trouble::WrongPassword { .. } | Trouble::Forbidden { .. }) => Exit::Refused,
        _ => Exit::Failed,
    }
}

impl Account {
    fn find(config: &config::Config, upstream: Option<&str>, user: Option<&str>) -> Result<Self, String> {
        let names = || {
            let names: Vec<&str> = config
                .upstreams
                .iter()
                .map(|upstream| upstream.name.as_str())
                .collect();
            names.join(", ")
        };
        let (username, source, what) = match user {
            Some(name) => {
                let entry = config.users.iter().find(|entry| entry.name == name);
                let login = entry.and_then(|entry| entry.upstream_login.as_ref());
                let login = login.ok_or_else(|| {
                    format!("no [[user]] \"{name}\" has a Redis login of its own (upstream_username); without --user it is Keyward's")
                })?;
                (
                    Some(login.username.clone()),
                    Some(&login.credential),
                    "upstream_password_file",
                )
            }
            None => {
                let section = match (upstream, config.upstreams.as_slice()) {
                    (Some(name), all) => all.iter().find(|section| section.name == name),
                    (None, [only]) => Some(only),
                    (None, _) => return Err(format!("name one of the upstreams: {}", names())),
                };
                let section =
                    section.ok_or_else(|| format!("there is no such upstream; there are: {}", names()))?;
                (
                    section.username.clone(),
                    section.credential.as_ref(),
                    "password_file",
                )
            }
        };
        let file = match source {
            Some(CredentialSource::File(file)) => file.clone(),
            Some(_) => {
                return Err(format!(
                    "this password comes from an environment variable, which a running process cannot read again: write it \
                     into a file, name that with {what} (REDIS_PASSWORD_FILE), restart Keyward once, and rotate then"
                ));
            }
            None => {
                return Err(
                    "Keyward logs in to this Redis without a password: there is nothing to rotate".to_owned(),
                );
            }
        };
        let mut account = Self {
            username,
            file,
            servers: Vec::new(),
            series: Vec::new(),
        };
        account.find_uses(config)?;
        Ok(account)
    }

    /// Everything that reads this file: all of it has to change together.
    fn find_uses(&mut self, config: &config::Config) -> Result<(), String> {
        let is_file = |source: Option<&CredentialSource>| {
            source.and_then(CredentialSource::file) == Some(self.file.as_path())
        };
        let mut uses: Vec<(&config::Upstream, Option<&str>, &str)> = Vec::new();
        for section in &config.upstreams {
            if is_file(section.credential.as_ref()) {
                uses.push((section, section.username.as_deref(), ""));
            }
        }
        for (index, entry) in config.users.iter().enumerate() {
            if is_file(entry.credential.as_ref()) {
                return Err(format!(
                    "{} is the password of user \"{}\" as well: give each a file of its own",
                    self.file.display(),
                    entry.name
                ));
            }
            let Some(login) = entry
                .upstream_login
                .as_ref()
                .filter(|login| is_file(Some(&login.credential)))
            else {
                continue;
            };
            for listener in config
                .listeners
                .iter()
                .filter(|listener| listener.users.contains(&index))
            {
                if let Some(section) = config.upstreams.get(listener.upstream) {
                    uses.push((section, Some(&login.username), &entry.name));
                }
            }
        }
        let redis_user = |name: Option<&str>| name.unwrap_or(DEFAULT).to_owned();
        let own = redis_user(self.username.as_deref());
        for (section, username, user) in uses {
            if redis_user(username) != own {
                return Err(format!(
                    "{} is the password of two Redis users, {own} and {}: give each a file of its own",
                    self.file.display(),
                    redis_user(username)
                ));
            }
            let series = (section.name.clone(), user.to_owned());
            if !self.series.contains(&series) {
                self.series.push(series);
            }
            if !self.servers.iter().any(|known| known.address == section.address) {
                self.servers.push(section.clone());
            }
        }
        if self.servers.is_empty() {
            return Err("this user may log in at no listener, so its Redis login is used nowhere".to_owned());
        }
        Ok(())
    }

    /// Servers named on the command line: reached as the first is.
    fn add_servers(&mut self, named: &[String]) -> Result<(), String> {
        for text in named {
            let address = text.rsplit_once(':').and_then(|(host, port)| {
                let host = host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'))
                    .unwrap_or(host);
                let port = port.parse().ok().filter(|port| *port != 0)?;
                (!host.is_empty() && !host.contains(['@', '/'])).then(|| UpstreamAddress::Tcp {
                    host: host.to_owned(),
                    port,
                })
            });
            let address = address.ok_or_else(|| "--redis takes HOST:PORT".to_owned())?;
            if self.servers.iter().any(|known| known.address == address) {
                continue;
            }
            if let Some(first) = self.servers.first().cloned() {
                self.servers.push(config::Upstream { address, ..first });
            }
        }
        Ok(())
    }

    fn user(&self) -> &str {
        self.username.as_deref().unwrap_or(DEFAULT)
    }
}

impl Rotation {
    /// Finds everything out that can be found out before anything is changed.
    async fn prepare(args: &UpstreamArgs, config: &config::Config, account: Account) -> anyhow::Result<Self> {
        let file = SecretFile::find(&account.file)?;
        let (content, credential) = read(&file)?;
        let login = match args.password.read()? {
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

    /// Looks at the file and at Redis again.
    async fn look(&mut self) -> anyhow::Result<()> {
        let (content, credential) = read(&self.file)?;
        if credential.current != self.first {
            // Somebody else's password: nothing is known of it yet.
            self.facts.verified = false;
        }
        if content != self.content {
            self.facts.taken_over = self.running.is_none();
        }
        self.facts.file = if credential.other.is_some() {
            Lines::Two
        } else {
            Lines::One
        };
        (self.content, self.first, self.second) = (content, credential.current, credential.other);
        let passwords = Passwords {
            user: self.account.username.as_deref().unwrap_or(DEFAULT),
            first: &self.first,
            second: self.second.as_ref(),
        };
        let mut facts = Vec::new();
        for server in &mut self.servers {
            facts.push(server.facts(&passwords).await?);
        }
        self.facts.servers = facts;
        Ok(())
    }

    /// Says each step and changes nothing.
    fn explain(&self) -> anyhow::Result<Exit> {
        let mut facts = self.facts.clone();
        talk("dry run: nothing is changed");
        loop {
            match plan::next(&facts) {
                Next::Step(step) => {
                    talk(&format!("would {}", self.describe(step)));
                    facts = facts.after(step);
                }
                Next::Done | Next::Unsaved(_) => return Ok(Exit::Done),
                Next::Stuck(stuck) => return Err(self.stuck(stuck)),
            }
        }
    }

    /// One step after the other; before each, file and Redis are looked at.
    async fn run(mut self) -> anyhow::Result<Exit> {
        let mut began = false;
        loop {
            match plan::next(&self.facts) {
                Next::Step(step) => {
                    let mut outcome = self.act(step).await;
                    began |= outcome.is_ok();
                    if outcome.is_ok() {
                        outcome = self.look().await;
                    }
                    if let Err(error) = outcome {
                        let exit = fail(&error);
                        talk(&self.where_it_stands(began));
                        return Ok(exit);
                    }
                }
                Next::Done => {
                    if began {
                        talk("done: the old password is good for nothing any more");
                    }
                    return Ok(Exit::Done);
                }
                Next::Unsaved(server) => {
                    talk(&format!(
                        "not finished: {} knows the new password until it restarts, and the old one from then on. Both stay in \
                         {}, so Keyward gets in either way. Put the new one (line 1) into Redis's own configuration, then: \
                         keyward rotate upstream --finish --no-save",
                        self.shown(server),
                        self.file
                    ));
                    return Ok(Exit::Failed);
                }
                Next::Stuck(stuck) => return Err(self.stuck(stuck)),
            }
        }
    }

    async fn act(&mut self, step: Step) -> anyhow::Result<()> {
        let user = self.account.user().to_owned();
        let old = || self.second.clone().context("the file has lost its second line");
        let mut note = String::new();
        match step {
            Step::Write => {
                let password = Secret::new(generate()?.into_bytes());
                self.file
                    .replace(&self.content, &lines(&[&password, &self.first]))?;
                self.facts.may_begin = false;
            }
            Step::Verify => {
                for server in &self.servers {
                    if !server
                        .takes(self.account.username.as_deref(), &self.first)
                        .await?
                    {
                        anyhow::bail!("{} was given the new password and refuses it", server.shown);
                    }
                }
                self.facts.verified = true;
            }
            Step::TakeOver => {
                self.wait_for_keywards()?;
                self.facts.taken_over = true;
            }
            Step::Finish => {
                self.file.replace(&self.content, &lines(&[&self.first]))?;
                self.facts.may_begin = false;
            }
            Step::Add(index) => {
                let new = self.first.clone();
                self.server(index)?.add(&user, &new).await?;
            }
            Step::Masterauth(index) => {
                let new = self.first.clone();
                self.server(index)?.set("masterauth", &new).await?;
            }
            Step::Requirepass(index) => {
                let new = self.first.clone();
                self.server(index)?.set("requirepass", &new).await?;
            }
            Step::Drop(index) => {
                let old = old()?;
                self.server(index)?.drop_password(&user, &old).await?;
            }
            Step::Save(index) => {
                let settings = self.facts.servers.get(index).is_some_and(|server| {
                    server.requirepass == Holds::First || server.masterauth == Holds::First
                });
                let server = self.server(index)?;
                match server.save(settings).await? {
                    Ok(how) => {
                        server.saved = Saved::Yes;
                        note =
                            format!(" ({how}, which also saves whatever else was changed there at run time)");
                    }
                    Err(why) => {
                        server.saved = Saved::Impossible;
                        talk(&format!("could not {}: {why}", self.describe(step)));
                        return Ok(());
                    }
                }
            }
        }
        talk(&format!("did {}{note}", self.describe(step)));
        Ok(())
    }

    fn wait_for_keywards(&self) -> anyhow::Result<()> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let modified = self.file.modified()?;
        running.wait("read the new password", |page| {
            for (upstream, user) in &self.account.series {
                let labels = [("upstream", upstream.as_str()), ("user", user.as_str())];
                match page.is_at(AGE, &labels, modified) {
                    Some(true) => {}
                    Some(false) => return Ok(false),
                    None => anyhow::bail!("has no upstream \"{upstream}\": is it of another configuration?"),
                }
            }
            Ok(true)
        })
    }

    /// The end of a sentence that begins with "would" or "did".
    fn describe(&self, step: Step) -> String {
        let user = self.account.user();
        match step {
            Step::Write => format!("write a new password above the old one into {}", self.file),
            Step::Add(index) => format!(
                "give user {user} the new password beside the old one at {}",
                self.shown(index)
            ),
            Step::Verify => "log in with the new password".to_owned(),
            Step::TakeOver => {
                let addresses = self.running.iter().flat_map(|running| &running.addresses);
                let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
                format!(
                    "wait until Keyward has read the new password ({})",
                    addresses.join(", ")
                )
            }
            Step::Masterauth(index) => {
                format!("put the new password into masterauth at {}", self.shown(index))
            }
            Step::Requirepass(index) => format!(
                "put the new password into requirepass at {}, which takes the old one away",
                self.shown(index)
            ),
            Step::Drop(index) => format!("take the old password from user {user} at {}", self.shown(index)),
            Step::Save(index) => format!("have the change saved by {}", self.shown(index)),
            Step::Finish => format!("take the old password out of {}", self.file),
        }
    }

    /// For whoever reads an error in the middle.
    fn where_it_stands(&self, began: bool) -> String {
        if began || self.facts.file == Lines::Two {
            format!(
                "stopped in the middle; nothing is lost: Keyward gets in with what {} holds. The same command goes on from here",
                self.file
            )
        } else {
            "nothing was changed".to_owned()
        }
    }

    fn stuck(&self, stuck: Stuck) -> anyhow::Error {
        let user = self.account.user();
        match stuck {
            Stuck::Unknown(index) => anyhow::anyhow!(
                "{} knows no password of {} for user {user}: put the one that is right into the file first (nothing was changed)",
                self.shown(index),
                self.file
            ),
            Stuck::Open(index) => anyhow::anyhow!(
                "{}: user {user} is nopass, so any password opens it; that is the finding (nothing was changed)",
                self.shown(index)
            ),
            Stuck::Off(index) => {
                anyhow::anyhow!("{}: user {user} is off (nothing was changed)", self.shown(index))
            }
        }
    }

    fn shown(&self, index: usize) -> &str {
        self.servers.get(index).map_or("redis", |server| &server.shown)
    }

    fn server(&mut self, index: usize) -> anyhow::Result<&mut RedisServer> {
        self.servers.get_mut(index).context("no such server")
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

fn read(file: &SecretFile) -> anyhow::Result<(Secret, config::Credential)> {
    let content = file.read()?;
    let credential = config::Credential::parse(content.expose());
    let credential = credential.with_context(|| format!("the secret file {file} is not usable"))?;
    Ok((content, credential))
}

const AGE: &str = "keyward_upstream_credential_changed_timestamp_seconds";
