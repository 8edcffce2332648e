//! Whose password at Redis is rotated, in which file it is, and who reads that.

use std::path::PathBuf;

use crate::config::{self, CredentialSource, UpstreamAddress};

use super::servers::DEFAULT;

/// Whose password it is, and where.
#[derive(Debug)]
pub(super) struct Account {
    /// The user on Redis; `None`: logs in with a password alone.
    pub(super) username: Option<String>,
    /// The secret file.
    pub(super) file: PathBuf,
    /// Every server that it is used at.
    pub(super) servers: Vec<config::Upstream>,
    /// Upstream and user as the metrics call them.
    pub(super) series: Vec<(String, String)>,
}

impl Account {
    pub(super) fn find(
        config: &config::Config,
        upstream: Option<&str>,
        user: Option<&str>,
    ) -> Result<Self, String> {
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
    pub(super) fn add_servers(&mut self, named: &[String]) -> Result<(), String> {
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

    pub(super) fn user(&self) -> &str {
        self.username.as_deref().unwrap_or(DEFAULT)
    }
}
