//! From a configuration to what listeners need: users, certificates, upstreams. Everything is built and checked before
//! anything is used, so that a start or a reload happens whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::acl::User;
use crate::acl::rule::{self, RuleError};
use crate::auth::{Factors, Users};
use crate::config::{
    self, AclText, Config, CredentialSource, Diagnostic, Loaded, Location, LoginMode, NamedFile, RuleMode,
    Sources, code,
};
use crate::tls::{CertificateInfo, ClientTrust, ServerTls, TlsError};
use crate::upstream::{Counters, Login, NoCounters, SetupError, Upstream};

/// How environment variables are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What one listener needs besides its configuration.
pub(super) struct Prepared {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// What client certificates are verified with.
    pub(super) clients: Option<Arc<ClientTrust>>,
    pub(super) certificates: Vec<CertificateInfo>,
    /// When the first of the revocation lists runs out, in Unix seconds.
    pub(super) crl_next_update: Option<i64>,
    pub(super) users: Arc<Users>,
    pub(super) sources: Arc<Networks>,
    /// Users with a login of their own at Redis: those of `[[user]]` tables. Another of the same name in an ACL file or at
    /// another listener is somebody else.
    pub(super) own_logins: BTreeSet<String>,
}

/// Networks that users may log in from, by name; users who are not here may log in from everywhere.
#[derive(Debug, Default)]
pub(super) struct Networks(HashMap<String, Vec<IpNet>>);

impl Networks {
    fn of(config: &Config, listener: &config::Listener) -> Self {
        let entries = listener.users.iter().filter_map(|index| config.users.get(*index));
        let limited = entries.filter(|entry| !entry.sources.is_empty());
        Self(
            limited
                .map(|entry| (entry.name.clone(), entry.sources.clone()))
                .collect(),
        )
    }

    /// Whether the user may log in from there; a client of a unix socket comes from no network.
    pub(super) fn allow(&self, user: &str, address: Option<IpAddr>) -> bool {
        self.0.get(user).is_none_or(|networks| {
            address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
        })
    }
}

/// Everything that is built from a configuration before anything is used.
pub(super) struct Built {
    /// In the order of the listeners.
    pub(super) listeners: Vec<Prepared>,
    /// In the order of the upstreams.
    pub(super) upstreams: Vec<Upstream>,
    /// Users with a password file, and when that was changed.
    pub(super) passwords: Vec<(String, SystemTime)>,
}

/// Loads the configuration and tries out what it names, so that all faults of both kinds come in one list.
///
/// # Errors
/// Every fault, and the warnings behind them.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Diagnostic>> {
    let environment = |name: &str| sources.env.get(name).cloned();
    config::load_and(sources, |sound| {
        let counters = |_: &str| Arc::new(NoCounters) as Arc<dyn Counters>;
        build(sound, &environment, &counters).err().unwrap_or_default()
    })
}

/// The users of one listener, for displays.
#[derive(Debug)]
pub struct ListenerUsers {
    /// The listener's name.
    pub listener: String,
    /// Position of its upstream in the configuration.
    pub upstream: usize,
    /// Who may log in there.
    pub users: Arc<Users>,
}

/// Loads the configuration and everything it names, and gives the users of each listener.
///
/// # Errors
/// As [`load`].
pub fn load_users(sources: &Sources) -> Result<(Config, Vec<ListenerUsers>), Vec<Diagnostic>> {
    let config = load(sources)?.config;
    let environment = |name: &str| sources.env.get(name).cloned();
    let built = build(&config, &environment, &|_| Arc::new(NoCounters))?;
    let users = config.listeners.iter().zip(built.listeners);
    let users = users.map(|(listener, prepared)| ListenerUsers {
        listener: listener.name.clone(),
        upstream: listener.upstream,
        users: prepared.users,
    });
    let users = users.collect();
    Ok((config, users))
}

/// Builds everything that depends on files and rules.
///
/// # Errors
/// Every fault at once.
pub(super) fn build(
    config: &Config,
    environment: Environment<'_>,
    counters: &dyn Fn(&str) -> Arc<dyn Counters>,
) -> Result<Built, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    // Before they are read: what comes between is never taken for a later file than it is.
    let passwords = password_dates(config);
    let entries = entries(config, environment, &mut faults);
    let mut acl_files = BTreeMap::new();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let users = users(config, listener, &entries, &mut acl_files, &mut faults);
        let (tls, clients, certificates, crl_next_update) = match listener.tls.as_ref().map(ServerTls::load) {
            None => (None, None, Vec::new(), None),
            Some(Ok(tls)) => (
                Some(tls.config),
                tls.clients,
                tls.certificates,
                tls.crl_next_update,
            ),
            Some(Err(error)) => {
                let mut all = listener.tls.as_ref().map_or(Vec::new(), ServerTls::faults);
                if all.is_empty() {
                    // The file was mended in this moment; the next attempt will do.
                    all.push(error);
                }
                let owner = ("listener", listener.name.as_str());
                faults.extend(
                    all.iter()
                        .map(|error| tls_fault(code::LISTENER_TLS, config, owner, error)),
                );
                continue;
            }
        };
        listeners.push(Prepared {
            tls,
            clients,
            certificates,
            crl_next_update,
            users: Arc::new(Users::with_factors(
                watched(config, listener, users),
                factors(config, listener),
            )),
            own_logins: own_logins(config, listener)
                .map(|(_, entry)| entry.name.clone())
                .collect(),
            sources: Arc::new(Networks::of(config, listener)),
        });
    }
    let mut upstreams = Vec::new();
    for (index, section) in config.upstreams.iter().enumerate() {
        let owner = ("upstream", section.name.as_str());
        match Upstream::new(section, environment, counters(&section.name)) {
            Ok(upstream) => {
                let (logins, own_serves) = logins(config, index, &listeners, environment, &mut faults);
                upstreams.push(upstream.with_logins(logins, own_serves));
            }
            Err(SetupError::Tls(error)) => {
                faults.push(tls_fault(code::UPSTREAM_SETUP, config, owner, &error));
            }
            Err(SetupError::Credential(error)) => {
                let file = section.credential.as_ref().and_then(CredentialSource::file);
                faults.push(file_fault(
                    code::UPSTREAM_SETUP,
                    config,
                    owner,
                    file,
                    &error.to_string(),
                ));
            }
        }
    }
    if faults.is_empty() {
        Ok(Built {
            listeners,
            upstreams,
            passwords,
        })
    } else {
        Err(faults)
    }
}

/// When the password files of users were changed.
fn password_dates(config: &Config) -> Vec<(String, SystemTime)> {
    let dated = config.users.iter().filter_map(|user| {
        let file = user.credential.as_ref()?.file()?;
        let changed = std::fs::metadata(file).ok()?.modified().ok()?;
        Some((user.name.clone(), changed))
    });
    dated.collect()
}

/// What shows who the users of a listener are besides passwords.
fn factors(config: &Config, listener: &config::Listener) -> Vec<(String, Factors)> {
    if listener.login == LoginMode::None {
        return Vec::new();
    }
    let here = listener.users.iter().filter_map(|index| config.users.get(*index));
    here.map(|entry| {
        let factors = Factors {
            certificates: entry.certificates.clone(),
            certificate_required: entry.certificate_required,
            unix_users: entry.unix_users.clone(),
        };
        (entry.name.clone(), factors)
    })
    .collect()
}

/// The users of a listener with a login of their own at Redis, by their numbers in the configuration.
fn own_logins<'c>(
    config: &'c Config,
    listener: &'c config::Listener,
) -> impl Iterator<Item = (usize, &'c config::UserEntry)> {
    let here = listener
        .users
        .iter()
        .filter(|_| listener.login == LoginMode::Password);
    here.filter_map(|&index| Some((index, config.users.get(index)?)))
        .filter(|(_, entry)| entry.upstream_login.is_some())
}

/// The users with a login of their own at this upstream, and whether there are others that use it.
fn logins(
    config: &Config,
    upstream: usize,
    listeners: &[Prepared],
    environment: Environment<'_>,
    faults: &mut Vec<Diagnostic>,
) -> (Vec<Login>, bool) {
    let (mut wanted, mut own_serves) = (BTreeSet::new(), false);
    for (section, prepared) in config.listeners.iter().zip(listeners) {
        if section.upstream != upstream {
            continue;
        }
        wanted.extend(own_logins(config, section).map(|(index, _)| index));
        let names = prepared.users.names();
        own_serves |= names.iter().any(|name| !prepared.own_logins.contains(*name));
    }
    let mut logins = Vec::new();
    for entry in wanted.into_iter().filter_map(|index| config.users.get(index)) {
        let Some(section) = &entry.upstream_login else {
            continue;
        };
        match Login::of_user(&entry.name, section, environment) {
            Ok(login) => logins.push(login),
            Err(error) => {
                let fault = file_fault(
                    code::UPSTREAM_SETUP,
                    config,
                    ("user", &entry.name),
                    section.credential.file(),
                    &error.to_string(),
                );
                // A user may be asked about for several upstreams.
                if !faults.iter().any(|known| known.message == fault.message) {
                    faults.push(fault);
                }
            }
        }
    }
    (logins, own_serves)
}

/// The `[[user]]` tables, in order; `None` where one is at fault.
fn entries(config: &Config, environment: Environment<'_>, faults: &mut Vec<Diagnostic>) -> Vec<Option<User>> {
    let mut entries = Vec::new();
    for entry in &config.users {
        let Some(mut user) = from_text(
            (&format!("user \"{}\"", entry.name), &entry.name),
            &entry.acl,
            faults,
        ) else {
            entries.push(None);
            continue;
        };
        user.databases.clone_from(&entry.databases);
        for digest in &entry.password_hashes {
            user.add_password(*digest);
        }
        if let Some(source) = &entry.credential {
            match source.read(environment) {
                Ok(credential) => {
                    // In front, since the first is the one in force: the metrics tell it from the older ones.
                    let digests = credential
                        .iter()
                        .map(|secret| rule::hash_password(secret.expose()));
                    let others = std::mem::take(&mut user.passwords);
                    digests.chain(others).for_each(|digest| user.add_password(digest));
                }
                Err(error) => {
                    faults.push(file_fault(
                        code::USER_PASSWORD,
                        config,
                        ("user", &entry.name),
                        source.file(),
                        &error.to_string(),
                    ));
                }
            }
        }
        entries.push(Some(user));
    }
    entries
}

/// Everyone who may log in at one listener.
fn users(
    config: &Config,
    listener: &config::Listener,
    entries: &[Option<User>],
    acl_files: &mut BTreeMap<PathBuf, Vec<User>>,
    faults: &mut Vec<Diagnostic>,
) -> Vec<User> {
    if listener.login == LoginMode::None {
        let who = format!("listener \"{}\"", listener.name);
        let open = from_text((&who, OPEN_USER), &listener.acl, faults);
        return open
            .map(|mut user| {
                user.nopass = true;
                user
            })
            .into_iter()
            .collect();
    }
    let mut users: Vec<User> = listener
        .users
        .iter()
        .filter_map(|index| entries.get(*index).cloned().flatten())
        .collect();
    let Some(path) = &listener.users_file else {
        return users;
    };
    let named = config.named("listener", &listener.name, path);
    // Several listeners may share a file; its faults are reported once.
    let in_file = acl_files
        .entry(path.clone())
        .or_insert_with(|| from_file(path, named, faults));
    let in_tables: BTreeSet<&str> = listener
        .users
        .iter()
        .filter_map(|index| config.users.get(*index))
        .map(|entry| entry.name.as_str())
        .collect();
    for user in in_file.iter() {
        if in_tables.contains(user.name.as_str()) {
            let message = format!(
                "listener \"{}\": user \"{}\" stands in a [[user]] table and in {}",
                listener.name,
                user.name,
                path.display()
            );
            faults.push(
                Diagnostic::error(code::TWO_USERS, message)
                    .at(named.and_then(|named| named.location.clone()))
                    .helped("keep one of the two"),
            );
        } else {
            users.push(user.clone());
        }
    }
    users
}

/// Users with the listener's word on observing and learning, or their own.
fn watched(config: &Config, listener: &config::Listener, mut users: Vec<User>) -> Vec<User> {
    let entries = listener.users.iter().filter_map(|index| config.users.get(*index));
    let entries: HashMap<&str, &config::UserEntry> = match listener.login {
        LoginMode::Password => entries.map(|entry| (entry.name.as_str(), entry)).collect(),
        LoginMode::None => HashMap::new(),
    };
    for user in &mut users {
        let entry = entries.get(user.name.as_str());
        let mode = entry.and_then(|entry| entry.mode).unwrap_or(listener.mode);
        user.observe = mode == RuleMode::Observe;
        user.learn = entry.and_then(|entry| entry.learn).unwrap_or(listener.learn);
    }
    users
}

/// A user from rules in the configuration, who are what messages call them and the name. Users of the configuration are
/// `on` unless the rules say otherwise.
fn from_text((who, name): (&str, &str), acl: &AclText, faults: &mut Vec<Diagnostic>) -> Option<User> {
    let mut words: Vec<&str> = acl.text.split_whitespace().collect();
    // Behind a preset, which must come first.
    let at = usize::from(
        words
            .first()
            .is_some_and(|word| crate::acl::Preset::by_name(word).is_some()),
    );
    words.insert(at, "on");
    let parsed =
        rule::parse_user_all(name, &words).and_then(|user| match rule::without_keys(&user, words.len()) {
            Some(error) => Err(vec![error]),
            None => Ok(user),
        });
    match parsed {
        Ok(user) => Some(user),
        Err(errors) => {
            for error in errors {
                let index = if error.word_index > at {
                    error.word_index.saturating_sub(1)
                } else {
                    error.word_index
                };
                let location = acl
                    .location
                    .as_ref()
                    .map(|location| word_location(location, &acl.text, index));
                faults.push(rule_fault(format!("{who}: {}", error.message), location, &error));
            }
            None
        }
    }
}

fn from_file(path: &Path, named: Option<&NamedFile>, faults: &mut Vec<Diagnostic>) -> Vec<User> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot read the ACL file {}: {error}", path.display());
            faults.push(
                Diagnostic::error(code::ACL_FILE, message)
                    .at(named.and_then(|named| named.location.clone()))
                    .helped("check the path, the file's permissions, and that it is UTF-8 text"),
            );
            return Vec::new();
        }
    };
    match rule::parse_file(&text) {
        Ok(users) => users.into_iter().map(|(_line, user)| user).collect(),
        Err(errors) => {
            for error in errors {
                let location = error.position.map(|(line, column)| Location {
                    file: path.display().to_string(),
                    line,
                    column,
                    length: 1,
                    // The line may hold passwords.
                    source: None,
                });
                faults.push(rule_fault(error.message.clone(), location, &error));
            }
            Vec::new()
        }
    }
}

fn rule_fault(message: String, location: Option<Location>, error: &RuleError) -> Diagnostic {
    let fault = Diagnostic::error(code::ACL_RULE, message).at(location);
    match &error.suggestion {
        Some(suggestion) => fault.helped(format!("did you mean `{suggestion}`?")),
        None => fault,
    }
}

/// A certificate, key, CA or revocation list of a table: kind and name.
fn tls_fault(code: &'static str, config: &Config, owner: (&str, &str), error: &TlsError) -> Diagnostic {
    let problem = format!("{}: {}", error.file.display(), error.problem);
    let mut fault = file_fault(code, config, owner, Some(&error.file), &problem);
    fault.help.clone_from(&error.help);
    fault
}

/// Something about the content of a file, at the key or variable that names it.
fn file_fault(
    code: &'static str,
    config: &Config,
    (kind, name): (&str, &str),
    file: Option<&Path>,
    problem: &str,
) -> Diagnostic {
    let named = file.and_then(|file| config.named(kind, name, file));
    let variable = named.and_then(|named| named.variable.as_deref());
    let before = variable
        .map(|variable| format!("{variable}: "))
        .unwrap_or_default();
    Diagnostic::error(code, format!("{before}{kind} \"{name}\": {problem}"))
        .at(named.and_then(|named| named.location.clone()))
}

/// The place of one word of rules that stand in a TOML string.
fn word_location(string: &Location, text: &str, index: usize) -> Location {
    let mut location = string.clone();
    let Some(word) = text.split_whitespace().nth(index) else {
        return location;
    };
    let offset = word.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let before = text.get(..offset).unwrap_or_default();
    // Behind an escape it is pointed at roughly.
    match before.rsplit_once('\n') {
        Some((above, indent)) => {
            location.line += above.matches('\n').count() + 1;
            location.column = indent.chars().count() + 1;
            // Known is the line that the text begins in.
            location.source = None;
        }
        None => location.column += before.chars().count(),
    }
    location.length = word.chars().count().max(1);
    location
}

/// Files whose change calls for a reload, in no particular order.
pub(super) fn watched_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let secret = |source: &Option<CredentialSource>| match source {
        Some(CredentialSource::File(path)) => Some(path.clone()),
        _ => None,
    };
    for upstream in &config.upstreams {
        files.extend(secret(&upstream.credential));
        if let Some(tls) = &upstream.tls {
            files.extend(tls.ca_file.clone());
            if let Some(certificate) = &tls.client_certificate {
                files.extend([certificate.certificate_file.clone(), certificate.key_file.clone()]);
            }
        }
    }
    for user in &config.users {
        files.extend(secret(&user.credential));
        let login = user.upstream_login.as_ref();
        files.extend(login.and_then(|login| login.credential.file().map(Path::to_owned)));
    }
    for listener in &config.listeners {
        files.extend(listener.users_file.clone());
        if let Some(tls) = &listener.tls {
            files.extend([
                tls.certificate.certificate_file.clone(),
                tls.certificate.key_file.clone(),
            ]);
            files.extend(tls.client_ca_file.clone());
            files.extend(tls.client_crl_file.clone());
        }
    }
    files.sort();
    files.dedup();
    files
}

/// Who the clients of a listener without login are.
const OPEN_USER: &str = "default";
