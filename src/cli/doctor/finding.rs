//! What is looked at, and what was found. No clock, files or sockets here.

use std::fmt;

/// A check. Its word is stable: scripts may rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    Config,
    Files,
    OpenFiles,
    Certificate,
    ClientCa,
    Port,
    Clock,
    Healthcheck,
    Reload,
    Clients,
    Dns,
    Connect,
    Tls,
    Auth,
    Ping,
    Server,
    Role,
    MaxMemory,
    Persistence,
    MaxClients,
    Privileges,
    AroundLogin,
    AroundDefaultUser,
    AroundPlaintext,
    AroundNetwork,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    Warn,
    Fail,
    /// Could not be looked at, or there is nothing to look at.
    Skip,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: Check,
    /// What was looked at, such as `upstream "main"`; empty for the process as a whole.
    pub(super) subject: String,
    pub(super) level: Level,
    pub(super) message: String,
    /// What to do; there is one with every warning and failure.
    pub(super) remedy: Option<String>,
    /// Code of the configuration's message, such as `KW0404`.
    pub(super) code: Option<&'static str>,
    /// The check whose failure kept this one from being made.
    pub(super) after: Option<Check>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Report(pub(super) Vec<Finding>);

impl Check {
    /// All, in the order they are made and printed, with what is looked at. `deploy/docs/doctor.md` has the same list.
    pub(super) const ALL: &'static [(Self, &'static str, &'static str)] = &[
        (
            Self::Config,
            "config",
            "every key of the configuration and the rules it names, as `keyward check` does",
        ),
        (
            Self::Files,
            "files",
            "secrets, keys, certificates and ACL files: there, readable, and closed to others",
        ),
        (
            Self::OpenFiles,
            "open-files",
            "the limit of open files against `max_connections`",
        ),
        (
            Self::Certificate,
            "certificate",
            "each listener's chain: expiry, order, names, purpose",
        ),
        (
            Self::ClientCa,
            "client-ca",
            "expiry of the CAs and revocation lists that client certificates are verified with",
        ),
        (
            Self::Port,
            "port",
            "each address can be listened on, or it is this Keyward that listens there",
        ),
        (
            Self::Clock,
            "clock",
            "this host's clock, and each Redis's against it",
        ),
        (
            Self::Healthcheck,
            "healthcheck",
            "what `keyward healthcheck` would say, and why",
        ),
        (
            Self::Reload,
            "reload",
            "whether the running process has this configuration in force",
        ),
        (
            Self::Clients,
            "clients",
            "clients that the running process has refused, by reason",
        ),
        (Self::Dns, "dns", "the name of the upstream resolves"),
        (
            Self::Connect,
            "connect",
            "somebody accepts connections at its address",
        ),
        (
            Self::Tls,
            "tls",
            "TLS, the certificate, its name and its CA; or that none is needed",
        ),
        (Self::Auth, "auth", "Redis takes the credential and the database"),
        (
            Self::Ping,
            "ping",
            "it takes commands: not loading, busy, or without its master",
        ),
        (
            Self::Server,
            "server",
            "its version, and that it is no cluster and no Sentinel",
        ),
        (Self::Role, "role", "it takes writes: a replica does not"),
        (
            Self::MaxMemory,
            "maxmemory",
            "whether it evicts keys, which loses jobs and sessions",
        ),
        (
            Self::Persistence,
            "persistence",
            "whether its data outlives a restart, and the last save went well",
        ),
        (
            Self::MaxClients,
            "maxclients",
            "its `maxclients` against `max_connections` of the upstream",
        ),
        (
            Self::Privileges,
            "privileges",
            "what its user may do there although nobody may do it here",
        ),
        (
            Self::AroundLogin,
            "around-login",
            "somebody without a password is not let in around Keyward",
        ),
        (
            Self::AroundDefaultUser,
            "around-default-user",
            "its user `default` is off when Keyward has a user of its own",
        ),
        (
            Self::AroundPlaintext,
            "around-plaintext",
            "no plaintext port is open beside the one with TLS",
        ),
        (
            Self::AroundNetwork,
            "around-network",
            "a Redis on this host does not listen for other hosts",
        ),
    ];

    /// The stable word.
    pub(super) fn id(self) -> &'static str {
        let row = Self::ALL.iter().find(|(check, ..)| *check == self);
        row.map_or("", |(_, id, _)| id)
    }
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::Warn, Self::Fail, Self::Skip];

    /// The stable word.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

impl Finding {
    fn new(check: Check, subject: impl fmt::Display, level: Level, message: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.to_string(),
            level,
            message: message.into(),
            remedy: None,
            code: None,
            after: None,
        }
    }

    pub(super) fn ok(check: Check, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(check, subject, Level::Ok, message)
    }

    /// Something that a person should look at.
    pub(super) fn warn(
        check: Check,
        subject: impl fmt::Display,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(check, subject, Level::Warn, message)
        }
    }

    /// Something that does not work, or is open.
    pub(super) fn fail(
        check: Check,
        subject: impl fmt::Display,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(check, subject, Level::Fail, message)
        }
    }

    /// Nothing that can be looked at.
    pub(super) fn skip(check: Check, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(check, subject, Level::Skip, message)
    }

    /// Not made because of that failure.
    pub(super) fn after(check: Check, subject: impl fmt::Display, failure: Check) -> Self {
        Self {
            after: Some(failure),
            ..Self::skip(
                check,
                subject,
                format!("not looked at: `{}` failed", failure.id()),
            )
        }
    }

    pub(super) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

impl Report {
    pub(super) fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.count(Level::Fail) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_check_has_one_row_and_a_word_of_its_own() {
        let ids: BTreeSet<&str> = Check::ALL.iter().map(|(_, id, _)| *id).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        // The last of the enum is in the list at its own place, and so are all before it.
        for (position, (check, id, _)) in Check::ALL.iter().enumerate() {
            assert_eq!(*check as usize, position, "{id}");
        }
        assert_eq!(Check::AroundNetwork as usize + 1, Check::ALL.len());
    }

    #[test]
    fn the_page_lists_the_same_checks() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docs/doctor.md");
        let page = std::fs::read_to_string(page).unwrap();
        let section = page
            .split("\n## ")
            .find(|section| section.starts_with("The checks"));
        let rows = section.unwrap().lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let id = cells.next()?.strip_suffix('`')?.to_owned();
            Some((id, cells.next()?.to_owned()))
        });
        let rows: Vec<(String, String)> = rows.collect();
        let code = Check::ALL.iter();
        let code: Vec<(String, String)> = code
            .map(|(_, id, what)| ((*id).to_owned(), (*what).to_owned()))
            .collect();
        assert_eq!(rows, code);
    }
}
