//! The steps of rotating the password at Redis, one after the other: file and Redis are looked at before each.

use anyhow::Context as _;

use crate::config;
use crate::secret::Secret;

use super::super::gen_password::generate;
use super::super::{Exit, talk};
use super::account::Account;
use super::plan::{self, Facts, Holds, Lines, Next, Saved, Step, Stuck};
use super::running::Running;
use super::secret_file::{SecretFile, lines};
use super::servers::{DEFAULT, Login, Passwords, RedisServer, Trouble};

/// A rotation, at whatever point.
pub(super) struct Rotation {
    pub(super) account: Account,
    /// Who makes the changes at Redis.
    pub(super) login: Login,
    /// It is the login whose password is rotated.
    pub(super) is_own_login: bool,
    pub(super) file: SecretFile,
    pub(super) servers: Vec<RedisServer>,
    pub(super) running: Option<Running>,
    /// What this run has found out and done.
    pub(super) facts: Facts,
    pub(super) content: Secret,
    pub(super) first: Secret,
    pub(super) second: Option<Secret>,
}

impl Rotation {
    /// Looks at the file and at Redis again.
    pub(super) async fn look(&mut self) -> anyhow::Result<()> {
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
        if self.is_own_login {
            self.login.passwords = std::iter::once(&self.first)
                .chain(&self.second)
                .cloned()
                .collect();
        }
        let mut facts = Vec::new();
        for (server, section) in self.servers.iter_mut().zip(&self.account.servers) {
            if server.revive(section, &self.login).await? {
                self.facts.verified = false;
            }
            facts.push(server.facts(&passwords).await?);
        }
        self.facts.servers = facts;
        Ok(())
    }

    /// Says each step and changes nothing.
    pub(super) fn explain(&self) -> anyhow::Result<Exit> {
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
    pub(super) async fn run(mut self) -> anyhow::Result<Exit> {
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

    pub(super) fn stuck(&self, stuck: Stuck) -> anyhow::Error {
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

/// Says what went wrong.
pub(super) fn fail(error: &anyhow::Error) -> Exit {
    talk(&format!("error: {error:#}"));
    match error.downcast_ref() {
        Some(Trouble::Unreachable { .. }) => Exit::Unavailable,
        Some(Trouble::WrongPassword { .. } | Trouble::Forbidden { .. }) => Exit::Refused,
        _ => Exit::Failed,
    }
}

pub(super) fn read(file: &SecretFile) -> anyhow::Result<(Secret, config::Credential)> {
    let content = file.read()?;
    let credential = config::Credential::parse(content.expose());
    let credential = credential.with_context(|| format!("the secret file {file} is not usable"))?;
    Ok((content, credential))
}

const AGE: &str = "keyward_upstream_credential_changed_timestamp_seconds";
