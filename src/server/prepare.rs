//! From a configuration to what listeners need: users, certificates, upstreams. Everything is built and checked before
//! anything is used, so that a start or a reload happens whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::acl::User;
use crate::acl::rule::{self, RuleError};
use crate::auth::Users;
use crate::config::{self, AclText, Config, CredentialSource, Diagnostic, Location, LoginMode, Severity};
use crate::tls::{CertificateInfo, ServerTls};

/// How environment variables are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What one listener needs besides its configuration.
pub(super) struct Prepared {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) certificates: Vec<CertificateInfo>,
    pub(super) users: Arc<Users>,
}

/// Builds everything that depends on files and rules, for every listener in order.
///
/// # Errors
/// Every fault at once.
pub(super) fn prepare(
    config: &Config,
    environment: Environment<'_>,
) -> Result<Vec<Prepared>, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let entries = entries(config, environment, &mut faults);
    let mut prepared = Vec::new();
    for listener in &config.listeners {
        let users = users(listener, &entries, &mut faults);
        let (tls, certificates) = match listener.tls.as_ref().map(ServerTls::load) {
            None => (None, Vec::new()),
            Some(Ok(tls)) => (Some(tls.config), tls.certificates),
            Some(Err(error)) => {
                faults.push(fault(
                    "KW0601",
                    format!("listener \"{}\": {error}", listener.name),
                    None,
                    error.help.clone(),
                ));
                continue;
            }
        };
        prepared.push(Prepared {
            tls,
            certificates,
            users: Arc::new(Users::new(users)),
        });
    }
    if faults.is_empty() {
        Ok(prepared)
    } else {
        Err(faults)
    }
}

/// The faults that only building finds: ACL rules, certificates, secrets. For `keyward check`.
pub fn check(config: &Config, environment: Environment<'_>) -> Vec<Diagnostic> {
    let mut faults = prepare(config, environment).err().unwrap_or_default();
    for upstream in &config.upstreams {
        let counters = Arc::new(crate::upstream::NoCounters);
        if let Err(error) = crate::upstream::Upstream::new(upstream, environment, counters) {
            faults.push(fault(
                "KW0602",
                format!("upstream \"{}\": {error}", upstream.name),
                None,
                None,
            ));
        }
    }
    faults
}

/// The `[[user]]` tables, in order; `None` where one is at fault.
fn entries(config: &Config, environment: Environment<'_>, faults: &mut Vec<Diagnostic>) -> Vec<Option<User>> {
    let mut entries = Vec::new();
    for entry in &config.users {
        let Some(mut user) = from_text(&entry.name, &entry.acl, faults) else {
            entries.push(None);
            continue;
        };
        for digest in &entry.password_hashes {
            user.add_password(*digest);
        }
        if let Some(source) = &entry.credential {
            match source.read(environment) {
                Ok(credential) => {
                    for secret in credential.iter() {
                        user.add_password(rule::hash_password(secret.expose()));
                    }
                }
                Err(error) => {
                    faults.push(fault(
                        "KW0603",
                        format!("user \"{}\": {error}", entry.name),
                        None,
                        None,
                    ));
                }
            }
        }
        entries.push(Some(user));
    }
    entries
}

/// Everyone who may log in at one listener.
fn users(listener: &config::Listener, entries: &[Option<User>], faults: &mut Vec<Diagnostic>) -> Vec<User> {
    if listener.login == LoginMode::None {
        let open = from_text(OPEN_USER, &listener.acl, faults);
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
    if let Some(path) = &listener.users_file {
        for user in from_file(path, faults) {
            if users.iter().any(|known| known.name == user.name) {
                let message = format!(
                    "listener \"{}\": user \"{}\" stands in a [[user]] table and in {}",
                    listener.name,
                    user.name,
                    path.display()
                );
                faults.push(fault(
                    "KW0504",
                    message,
                    None,
                    Some("keep one of the two".to_owned()),
                ));
            } else {
                users.push(user);
            }
        }
    }
    users
}

/// A user from rules in the configuration. Users of the configuration are `on` unless the rules say otherwise.
fn from_text(name: &str, acl: &AclText, faults: &mut Vec<Diagnostic>) -> Option<User> {
    let mut words: Vec<&str> = acl.text.split_whitespace().collect();
    // Behind a preset, which must come first.
    let at = usize::from(
        words
            .first()
            .is_some_and(|word| crate::acl::Preset::by_name(word).is_some()),
    );
    words.insert(at, "on");
    match rule::parse_user_all(name, &words) {
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
                faults.push(rule_fault(
                    format!("user \"{name}\": {}", error.message),
                    location,
                    &error,
                ));
            }
            None
        }
    }
}

fn from_file(path: &Path, faults: &mut Vec<Diagnostic>) -> Vec<User> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot read the ACL file {}: {error}", path.display());
            faults.push(fault(
                "KW0502",
                message,
                None,
                Some("check the path and the file's permissions".to_owned()),
            ));
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
    let help = error
        .suggestion
        .as_ref()
        .map(|suggestion| format!("did you mean `{suggestion}`?"));
    fault("KW0501", message, location, help)
}

fn fault(
    code: &'static str,
    message: String,
    location: Option<Location>,
    help: Option<String>,
) -> Diagnostic {
    Diagnostic {
        code,
        severity: Severity::Error,
        message,
        location,
        label: String::new(),
        help,
    }
}

/// The place of one word of rules that stand in a TOML string.
fn word_location(string: &Location, text: &str, index: usize) -> Location {
    let mut location = string.clone();
    if let Some(word) = text.split_whitespace().nth(index) {
        let offset = word.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        // Behind the opening quote; a string with escapes is pointed at roughly.
        let before = text.get(..offset).unwrap_or_default().chars().count();
        location.column = location.column.saturating_add(before).saturating_add(1);
        location.length = word.chars().count().max(1);
    }
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
