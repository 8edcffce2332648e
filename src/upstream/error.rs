//! Why a connection to Redis cannot be had: one type for metric label, log line and the client's answer.

use crate::config::CredentialError;
use crate::tls::{ConnectFailure, TlsError, TlsReason};

/// What keeps an upstream from being set up at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A certificate, key or CA file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The secret.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// Why a connection failed. The texts are for the operator; clients get [`DialError::client_reply`].
///
/// No text of Redis is repeated in full: a server without AUTH answers with the arguments of the unknown command,
/// and those are our password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve (F-2).
    #[error("the name {host} does not resolve: {detail}")]
    Dns {
        /// The configured host.
        host: String,
        /// The resolver's error.
        detail: String,
    },
    /// Nobody listens there (F-1).
    #[error("it refused the connection; is Redis running, and is the address right?")]
    Refused,
    /// No connection within `connect_timeout`.
    #[error("no connection within {0:?}; is it reachable from here (firewall, network policy)?")]
    ConnectTimeout(std::time::Duration),
    /// Connected, but no answer within `auth_timeout` (F-5).
    #[error("it accepted the connection but did not answer within {0:?}; does it hang?")]
    AuthTimeout(std::time::Duration),
    /// TLS (F-19).
    #[error("TLS: {0}")]
    Tls(ConnectFailure),
    /// Our credential is refused (F-12, F-13, F-16, F-17), or one is needed and none is configured.
    #[error("{refusal} ({detail})")]
    Auth {
        /// The class of it.
        refusal: AuthRefusal,
        /// Where the credential came from, or which permission is missing.
        detail: String,
    },
    /// Redis is at `maxclients` (F-15).
    #[error("it has reached its maxclients; raise it, or lower max_connections here")]
    MaxClients,
    /// Redis is in protected mode and takes loopback connections only (P-10).
    #[error(
        "it is in protected mode (-DENIED): it has no password and takes connections from its own host only"
    )]
    ProtectedMode,
    /// Redis loads its data, or has lost its master, or runs a script: it cannot select the database now.
    #[error("it is not ready ({0})")]
    NotReady(String),
    /// The configured database does not exist there.
    #[error("it has no database {0}; see `databases` in its configuration")]
    Database(u32),
    /// What answers is not Redis (F-18).
    #[error("what answers there is not Redis: it began with \"{first}\"")]
    NotRedis {
        /// The first bytes, at most 16, escaped.
        first: String,
    },
    /// It answered something that is never an answer to what was asked, or more than that (P-5, F-44).
    #[error("it broke the protocol: {0}")]
    Protocol(&'static str),
    /// It closed before it answered.
    #[error("it closed the connection before it answered; has it reached its maxclients?")]
    Closed,
    /// Anything else of the operating system.
    #[error("{0}")]
    Io(String),
    /// All connections that we may have are in use, and none became free in time. No attempt was made.
    #[error(
        "all {0} connections that max_connections of this upstream allows stayed in use; raise it (Redis's maxclients must be larger), or let fewer clients block, subscribe and hold transactions"
    )]
    Full(usize),
    /// Nobody is served before Redis has shown that it refuses what is refused here. No attempt was made.
    #[error(
        "it has not shown yet that it refuses what is refused here (require_least_privilege), so nobody is served"
    )]
    Unproven,
}

/// Metric label of a failed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialReason {
    /// The name does not resolve.
    Dns,
    /// Connection refused.
    Refused,
    /// Not connected in time.
    Timeout,
    /// Connected, but not answered in time.
    AuthTimeout,
    /// TLS, with its own reason.
    Tls(TlsReason),
    /// Our credential is refused, or one is needed.
    AuthRefused,
    /// It has no password.
    NoPasswordSet,
    /// `maxclients`.
    MaxClients,
    /// Protected mode.
    ProtectedMode,
    /// Loading, without master, or busy.
    NotReady,
    /// No such database.
    Database,
    /// Not Redis.
    NotRedis,
    /// Protocol broken.
    Protocol,
    /// Closed before it answered.
    Closed,
    /// Anything else.
    Io,
}

/// How Redis refused our credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthRefusal {
    /// WRONGPASS.
    #[error("upstream refused our credential (WRONGPASS)")]
    WrongPassword,
    /// NOPERM: the user may not do what a connection needs.
    #[error("upstream refused our user a permission (NOPERM)")]
    NoPermission,
    /// It has no password, so everybody who reaches it is let in.
    #[error(
        "upstream has no password: everybody who reaches it is let in; set requirepass or an ACL there, or remove the credential here"
    )]
    NoPasswordSet,
    /// It wants a password and we have none.
    #[error(
        "upstream needs a password (NOAUTH) and none is configured; set password_file, or REDIS_PASSWORD_FILE"
    )]
    PasswordRequired,
    /// Any other answer to AUTH.
    #[error("upstream did not accept AUTH")]
    Other,
}

impl DialError {
    /// For the metric.
    pub fn reason(&self) -> DialReason {
        match self {
            Self::Dns { .. } => DialReason::Dns,
            Self::Refused => DialReason::Refused,
            // Counted as a wait that was in vain, not as a failed attempt.
            Self::ConnectTimeout(_) | Self::Full(_) => DialReason::Timeout,
            Self::AuthTimeout(_) => DialReason::AuthTimeout,
            Self::Tls(failure) => DialReason::Tls(failure.reason),
            Self::Auth {
                refusal: AuthRefusal::NoPasswordSet,
                ..
            } => DialReason::NoPasswordSet,
            Self::Auth { .. } => DialReason::AuthRefused,
            Self::MaxClients => DialReason::MaxClients,
            Self::ProtectedMode => DialReason::ProtectedMode,
            Self::NotReady(_) | Self::Unproven => DialReason::NotReady,
            Self::Database(_) => DialReason::Database,
            Self::NotRedis { .. } => DialReason::NotRedis,
            Self::Protocol(_) => DialReason::Protocol,
            Self::Closed => DialReason::Closed,
            Self::Io(_) => DialReason::Io,
        }
    }

    /// The metric label.
    pub fn label(&self) -> &'static str {
        self.reason().label()
    }

    /// How our credential was refused, if that is what happened.
    pub fn refusal(&self) -> Option<AuthRefusal> {
        match self {
            Self::Auth { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }

    /// What a client is told, without the leading `-` and the line end; the connection is closed behind it.
    ///
    /// `LOADING` is what client libraries retry on, so it stands for everything that may pass (F-1). Our credential's
    /// failure must not look like the client's own (F-12).
    pub fn client_reply(&self) -> &'static str {
        match self {
            Self::Auth { .. } | Self::Database(_) => "ERR keyward: upstream authentication failed",
            Self::MaxClients => "ERR max number of clients reached",
            Self::NotReady(_) => "LOADING keyward: upstream is not ready",
            Self::Unproven => {
                "LOADING keyward: upstream has not shown yet that its user is as restricted as the users here"
            }
            Self::Full(_) => "LOADING keyward: all upstream connections are in use (max_connections reached)",
            _ => "LOADING keyward: upstream is not reachable",
        }
    }

    /// Whether it will not pass by itself: logged as an error, everything else as a warning.
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Refused
            | Self::ConnectTimeout(_)
            | Self::AuthTimeout(_)
            | Self::NotReady(_)
            | Self::Closed
            | Self::Full(_)
            | Self::Unproven
            | Self::Io(_) => false,
            Self::Tls(failure) => !matches!(failure.reason, TlsReason::Eof | TlsReason::Timeout),
            Self::Auth { .. }
            | Self::MaxClients
            | Self::ProtectedMode
            | Self::Database(_)
            | Self::NotRedis { .. }
            | Self::Protocol(_) => true,
        }
    }
}

impl DialReason {
    /// Whether it is about our login alone, and not about the server.
    pub(super) fn is_about_login(self) -> bool {
        matches!(self, Self::AuthRefused | Self::NoPasswordSet)
    }

    /// Every label, to create the metric series beforehand.
    pub const LABELS: &'static [&'static str] = &[
        "dns",
        "refused",
        "timeout",
        "auth_timeout",
        "tls_expired",
        "tls_wrong_name",
        "tls_untrusted",
        "tls_not_tls",
        "tls_version",
        "tls_cipher",
        "tls_client_certificate",
        "tls_eof",
        "tls_timeout",
        "tls_other",
        "auth_refused",
        "no_password_set",
        "max_clients",
        "protected_mode",
        "not_ready",
        "database",
        "not_redis",
        "protocol",
        "closed",
        "io",
    ];

    /// The metric label; one of [`DialReason::LABELS`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::AuthTimeout => "auth_timeout",
            Self::Tls(reason) => reason.label(),
            Self::AuthRefused => "auth_refused",
            Self::NoPasswordSet => "no_password_set",
            Self::MaxClients => "max_clients",
            Self::ProtectedMode => "protected_mode",
            Self::NotReady => "not_ready",
            Self::Database => "database",
            Self::NotRedis => "not_redis",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Io => "io",
        }
    }
}

impl AuthRefusal {
    /// Every label, to create the metric series beforehand.
    pub const LABELS: &'static [&'static str] =
        &["wrongpass", "noperm", "no_password_set", "noauth", "other"];

    /// The metric label; one of [`AuthRefusal::LABELS`].
    pub fn label(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrongpass",
            Self::NoPermission => "noperm",
            Self::NoPasswordSet => "no_password_set",
            Self::PasswordRequired => "noauth",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_label_in_the_list() {
        let own = [
            DialReason::Dns,
            DialReason::Refused,
            DialReason::Timeout,
            DialReason::AuthTimeout,
            DialReason::AuthRefused,
            DialReason::NoPasswordSet,
            DialReason::MaxClients,
            DialReason::ProtectedMode,
            DialReason::NotReady,
            DialReason::Database,
            DialReason::NotRedis,
            DialReason::Protocol,
            DialReason::Closed,
            DialReason::Io,
        ];
        let all = own
            .into_iter()
            .chain(TlsReason::ALL.into_iter().map(DialReason::Tls));
        let labels: HashSet<_> = all.map(DialReason::label).collect();
        assert_eq!(labels, DialReason::LABELS.iter().copied().collect());
        assert_eq!(labels.len(), DialReason::LABELS.len());
        assert_eq!(labels.len(), own.len() + TlsReason::ALL.len());

        let refusals = [
            AuthRefusal::WrongPassword,
            AuthRefusal::NoPermission,
            AuthRefusal::NoPasswordSet,
            AuthRefusal::PasswordRequired,
            AuthRefusal::Other,
        ];
        let labels: HashSet<_> = refusals.map(AuthRefusal::label).into_iter().collect();
        assert_eq!(labels, AuthRefusal::LABELS.iter().copied().collect());
        assert_eq!(labels.len(), refusals.len());
    }
}
