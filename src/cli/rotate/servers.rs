//! The Redis servers of a rotation: what they know, and changing it.
//!
//! Passwords are given and taken by their digests (`#…`, `!…`), so that none of them passes through MONITOR or a slow log;
//! `requirepass` and `masterauth` take nothing else than the password itself, which Redis keeps out of both.

use std::sync::Arc;

use crate::acl::rule;
use crate::config;
use crate::secret::Secret;
use crate::upstream::{Answer, DialError, NoCounters, Operator, Upstream};

use super::plan::{Holds, Saved, Server};
use super::role::Role;

/// Who the rotation logs in as.
pub(super) struct Login {
    /// `None`: as whoever has the password alone (`default`).
    pub(super) username: Option<String>,
    /// Tried in this order.
    pub(super) passwords: Vec<Secret>,
}

/// One Redis server, logged in.
pub(super) struct RedisServer {
    upstream: Upstream,
    operator: Operator,
    /// As messages call it.
    pub(super) shown: String,
    /// Who logged in there, as messages say it.
    login: String,
    pub(super) saved: Saved,
    /// Its answer to INFO replication.
    role: Role,
}

/// The passwords that are told apart.
pub(super) struct Passwords<'a> {
    pub(super) user: &'a str,
    pub(super) first: &'a Secret,
    pub(super) second: Option<&'a Secret>,
}

/// Why something could not be done at a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection, or it broke.
    #[error("{server}: {error}")]
    Unreachable { server: String, error: DialError },
    /// No password is right.
    #[error("{server}: Redis refuses the password of {login}")]
    WrongPassword { server: String, login: String },
    /// It may not do that.
    #[error(
        "{server}: {login} may not run {command}; name a user that may with --as NAME --as-password-file FILE (it needs \
         +acl|getuser +acl|setuser +acl|save +config|get +config|set +config|rewrite +info)"
    )]
    Forbidden {
        server: String,
        login: String,
        command: &'static str,
    },
    /// There is no such user.
    #[error(
        "{server}: there is no user {user} on this Redis (ACL users are not replicated: each server has its own)"
    )]
    NoUser { server: String, user: String },
    /// Something else.
    #[error(
        "{server}: {command} was answered with: {answer}{}",
        if answer.contains("unknown command") { NO_ACL } else { "" }
    )]
    Refused {
        server: String,
        command: &'static str,
        answer: String,
    },
}

impl RedisServer {
    /// Connects and logs in.
    pub(super) async fn log_in(section: &config::Upstream, login: &Login) -> Result<Self, Trouble> {
        let shown = format!("redis {}", section.redacted_url());
        let unreachable = |error| Trouble::Unreachable {
            server: shown.clone(),
            error,
        };
        let upstream = open(section).map_err(unreachable)?;
        let who = format!("user {}", login.username.as_deref().unwrap_or("default"));
        let mut operator = None;
        for password in &login.passwords {
            operator = upstream
                .operate(login.username.as_deref(), password)
                .await
                .map_err(unreachable)?;
            if operator.is_some() {
                break;
            }
        }
        let Some(operator) = operator else {
            return Err(Trouble::WrongPassword {
                server: shown,
                login: who,
            });
        };
        let mut server = Self {
            upstream,
            operator,
            shown,
            login: who,
            saved: Saved::No,
            role: Role::default(),
        };
        server.role = server.ask_role().await?;
        Ok(server)
    }

    /// What it is among others; empty if it may not be asked.
    pub(super) fn role(&self) -> &Role {
        &self.role
    }

    /// Logs in again if Redis has closed the connection meanwhile (its `timeout`, a restart); whether it had.
    pub(super) async fn revive(
        &mut self,
        section: &config::Upstream,
        login: &Login,
    ) -> Result<bool, Trouble> {
        if self.operator.ask(&[b"PING"]).await.is_ok() {
            return Ok(false);
        }
        let saved = self.saved;
        *self = Self::log_in(section, login).await?;
        self.saved = saved;
        Ok(true)
    }

    /// Whether a login with this password succeeds, on a connection of its own.
    pub(super) async fn takes(&self, user: Option<&str>, password: &Secret) -> Result<bool, Trouble> {
        let outcome = self.upstream.operate(user, password).await;
        Ok(outcome.map_err(|error| self.unreachable(error))?.is_some())
    }

    /// What it knows of the user.
    pub(super) async fn facts(&mut self, passwords: &Passwords<'_>) -> Result<Server, Trouble> {
        let user = passwords.user;
        let answer = self
            .ask("ACL GETUSER", &[b"ACL", b"GETUSER", user.as_bytes()])
            .await?;
        if answer == Answer::Null {
            return Err(Trouble::NoUser {
                server: self.shown.clone(),
                user: user.to_owned(),
            });
        }
        let words = |field: &str| -> Vec<Vec<u8>> {
            let items = answer.field(field).map(Answer::items).unwrap_or_default();
            items
                .iter()
                .filter_map(|item| item.text().map(<[u8]>::to_vec))
                .collect()
        };
        let (flags, digests) = (words("flags"), words("passwords"));
        let flag = |name: &str| flags.iter().any(|flag| flag == name.as_bytes());
        let first = digest(passwords.first).into_bytes();
        let second = passwords.second.map(|second| digest(second).into_bytes());
        // Two lines with the same in them are one password.
        let second = second.filter(|second| *second != first);
        let is_second = |known: &Vec<u8>| second.as_ref() == Some(known);
        let requirepass = if user == DEFAULT {
            self.holds("requirepass", passwords).await?
        } else {
            Holds::Nothing
        };
        let master_user = self.setting("masteruser").await?.unwrap_or_default();
        let follows_as_user = master_user == user.as_bytes() || (master_user.is_empty() && user == DEFAULT);
        let masterauth = if follows_as_user {
            self.holds("masterauth", passwords).await?
        } else {
            Holds::Nothing
        };
        Ok(Server {
            first: digests.contains(&first),
            second: digests.iter().any(is_second),
            others: digests
                .iter()
                .filter(|known| **known != first && !is_second(known))
                .count(),
            open: flag("nopass"),
            off: !flag("on"),
            requirepass,
            masterauth,
            saved: self.saved,
        })
    }

    /// Lets the user log in with this password too.
    pub(super) async fn add(&mut self, user: &str, password: &Secret) -> Result<(), Trouble> {
        self.set_user(user, format!("#{}", digest(password))).await
    }

    /// Takes this password from the user.
    pub(super) async fn drop_password(&mut self, user: &str, password: &Secret) -> Result<(), Trouble> {
        self.set_user(user, format!("!{}", digest(password))).await
    }

    async fn set_user(&mut self, user: &str, rule: String) -> Result<(), Trouble> {
        let request: [&[u8]; 4] = [b"ACL", b"SETUSER", user.as_bytes(), rule.as_bytes()];
        self.ask("ACL SETUSER", &request).await.map(drop)
    }

    /// Puts a password into a setting.
    pub(super) async fn set(&mut self, setting: &'static str, password: &Secret) -> Result<(), Trouble> {
        let request: [&[u8]; 4] = [b"CONFIG", b"SET", setting.as_bytes(), password.expose()];
        match self.ask("CONFIG SET", &request).await {
            // What it says may hold what it was sent.
            Err(Trouble::Refused { server, .. }) => Err(Trouble::Refused {
                server,
                command: "CONFIG SET",
                answer: format!("an error about {setting}"),
            }),
            outcome => outcome.map(drop),
        }
    }

    /// Has it write users and settings to its disk; says how, or why it cannot.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn save(&mut self, settings_too: bool) -> Result<Result<&'static str, String>, Trouble> {
        let users = match self.ask("ACL SAVE", &[b"ACL", b"SAVE"]).await {
            Ok(_) if !settings_too => return Ok(Ok("ACL SAVE")),
            Ok(_) => true,
            Err(error @ Trouble::Unreachable { .. }) => return Err(error),
            Err(Trouble::Refused { answer, .. }) if answer.contains(NO_ACL_FILE) => false,
            Err(error) => return Ok(Err(error.to_string())),
        };
        match self.ask("CONFIG REWRITE", &[b"CONFIG", b"REWRITE"]).await {
            Ok(_) if users => Ok(Ok("ACL SAVE and CONFIG REWRITE")),
            Ok(_) => Ok(Ok("CONFIG REWRITE")),
            Err(error @ Trouble::Unreachable { .. }) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Whether it has a file to save to, as far as it may be asked: `Err` is why not.
    pub(super) async fn could_save(&mut self) -> Result<Result<(), &'static str>, Trouble> {
        let acl_file = self.setting("aclfile").await?;
        let Some(acl_file) = acl_file else {
            return Ok(Ok(()));
        };
        if !acl_file.is_empty() {
            return Ok(Ok(()));
        }
        let info = self.info("server").await?;
        let has_file = info.is_none_or(|info| {
            let mut lines = info.lines();
            lines.any(|line| {
                line.strip_prefix("config_file:")
                    .is_some_and(|file| !file.trim().is_empty())
            })
        });
        Ok(if has_file {
            Ok(())
        } else {
            Err("it runs without an ACL file and without a configuration file")
        })
    }

    /// Which password a setting holds; `Nothing` as well if it may not be asked.
    async fn holds(&mut self, setting: &'static str, passwords: &Passwords<'_>) -> Result<Holds, Trouble> {
        let Some(value) = self.setting(setting).await? else {
            return Ok(Holds::Nothing);
        };
        let value = Secret::new(value);
        Ok(if value == *passwords.first {
            Holds::First
        } else if passwords.second.is_some_and(|second| value == *second) {
            Holds::Second
        } else {
            Holds::Nothing
        })
    }

    /// A setting; `None` if it may not be asked.
    async fn setting(&mut self, name: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let answer = self
            .ask("CONFIG GET", &[b"CONFIG", b"GET", name.as_bytes()])
            .await;
        let answer = permitted(answer)?;
        Ok(answer.and_then(|answer| answer.field(name).and_then(Answer::text).map(<[u8]>::to_vec)))
    }

    async fn info(&mut self, section: &str) -> Result<Option<String>, Trouble> {
        let answer = permitted(self.ask("INFO", &[b"INFO", section.as_bytes()]).await)?;
        let text = answer.and_then(|answer| {
            answer
                .text()
                .map(|text| String::from_utf8_lossy(text).into_owned())
        });
        Ok(text)
    }

    async fn ask_role(&mut self) -> Result<Role, Trouble> {
        let replication = self.info("replication").await?.unwrap_or_default();
        let cluster = self.info("cluster").await?.unwrap_or_default();
        Ok(Role {
            cluster: cluster.lines().any(|line| line.trim() == "cluster_enabled:1"),
            ..Role::read(&replication)
        })
    }

    async fn ask(&mut self, command: &'static str, request: &[&[u8]]) -> Result<Answer, Trouble> {
        let answer = self.operator.ask(request).await;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        match answer {
            Answer::Error { code, .. } if code == "NOPERM" => Err(Trouble::Forbidden {
                server: self.shown.clone(),
                login: self.login.clone(),
                command,
            }),
            Answer::Error { text, .. } => Err(Trouble::Refused {
                server: self.shown.clone(),
                command,
                answer: text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect(),
            }),
            answer => Ok(answer),
        }
    }

    fn unreachable(&self, error: DialError) -> Trouble {
        Trouble::Unreachable {
            server: self.shown.clone(),
            error,
        }
    }
}

/// `None` where asking is forbidden or unknown: then it is done without.
fn permitted(answer: Result<Answer, Trouble>) -> Result<Option<Answer>, Trouble> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Trouble::Forbidden { .. } | Trouble::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(section: &config::Upstream) -> Result<Upstream, DialError> {
    // Its own credential is given each time.
    let section = config::Upstream {
        credential: None,
        ..section.clone()
    };
    Upstream::new(&section, &|_| None, Arc::new(NoCounters)).map_err(|error| DialError::Io(error.to_string()))
}

/// As Redis writes it.
fn digest(password: &Secret) -> String {
    rule::hash_password(password.expose())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Who logs in with a password alone.
pub(super) const DEFAULT: &str = "default";
/// How Redis says that its users stand in its configuration file.
const NO_ACL_FILE: &str = "not configured to use an ACL file";
/// Where changing users is not a client's affair.
const NO_ACL: &str = " (Redis before 6 has no ACL, and managed services keep it to themselves: rotate by hand there, the new \
    password above the old one in the file first)";
/// Characters of an error that are shown.
const MAX_SHOWN: usize = 200;
