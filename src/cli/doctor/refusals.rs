//! Why there is no connection to Redis, and what to do about it.
//!
//! [`DialError`] says what happened in one line of a log; here there is room for what people confuse.

use crate::config::{CredentialSource, UpstreamAddress};
use crate::tls::TlsReason;
use crate::upstream::{AuthRefusal, DialError};

use super::upstream::UpstreamFacts;

/// What happened, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Failure {
    fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Whom a connection logs in as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) username: Option<String>,
    pub(super) credential: Option<CredentialSource>,
}

/// The sentence for an error that Keyward itself met.
pub(super) fn failure(error: &DialError, facts: &UpstreamFacts) -> Failure {
    let account = Account {
        username: facts.section.username.clone(),
        credential: facts.section.credential.clone(),
    };
    failure_as(error, facts, &account)
}

/// The same for another account.
pub(super) fn failure_as(error: &DialError, facts: &UpstreamFacts, account: &Account) -> Failure {
    let target = facts.section.redacted_url().to_string();
    match error {
        DialError::Dns { host, detail } => Failure::new(
            format!("the name {host} does not resolve: {detail}"),
            format!(
                "correct the host in `url`, or this host's resolver (`getent hosts {host}`); in Kubernetes a name of another \
                 namespace is SERVICE.NAMESPACE.svc"
            ),
        ),
        DialError::Refused => refused(facts, &target),
        DialError::ConnectTimeout(limit) if facts.own.steps.addresses.is_empty() && !is_unix(facts) => {
            Failure::new(
                format!("its name did not resolve within {limit:?}"),
                "look whether this host's resolver answers (/etc/resolv.conf)",
            )
        }
        DialError::ConnectTimeout(limit) => Failure::new(
            format!("{target} did not accept a connection within {limit:?}"),
            "look for a firewall, security group or network policy between this host and Redis, and whether the address is right",
        ),
        DialError::Tls(failure) => tls(failure.reason, &failure.detail, facts),
        DialError::Auth { refusal, detail } => auth(*refusal, detail, account),
        // What Redis does to a connection that is not TLS at a port for TLS, and to one too many.
        DialError::Closed | DialError::NotRedis { .. } | DialError::Protocol(_) | DialError::Io(_)
            if facts.section.tls.is_none() && facts.other_way == Some(true) =>
        {
            Failure::new(
                format!("{target} speaks TLS, and `url` says redis://"),
                "rediss:// in `url`, with `ca_file` if the CA is your own",
            )
        }
        DialError::MaxClients => Failure::new(
            "Redis has reached its maxclients",
            "raise maxclients (CONFIG SET maxclients), or lower max_connections of this upstream and close idle clients",
        ),
        DialError::ProtectedMode => Failure::new(
            "Redis is in protected mode: it has no password and takes connections of its own host only",
            "give it a password (requirepass, or an ACL user for Keyward); do not switch protected-mode off instead",
        ),
        DialError::NotReady(code) => not_ready(code),
        DialError::Database(number) => Failure::new(
            format!("there is no database {number}"),
            "correct the number at the end of `url`, or `databases` of Redis; a cluster and some services have only 0",
        ),
        DialError::NotRedis { first } => Failure::new(
            format!("what answers at {target} is not Redis: it began with \"{first}\""),
            "correct host and port in `url`",
        ),
        DialError::AuthTimeout(limit) => Failure::new(
            format!("{target} accepted the connection and did not answer within {limit:?}"),
            "look whether Redis hangs or is stopped (its log, its CPU, SLOWLOG), and whether that port is Redis's",
        ),
        other => Failure::new(
            other.to_string(),
            "see the log of Redis, and deploy/docs/runbook.md#keywardupstreamdown",
        ),
    }
}

fn is_unix(facts: &UpstreamFacts) -> bool {
    matches!(facts.section.address, UpstreamAddress::Unix(_))
}

fn refused(facts: &UpstreamFacts, target: &str) -> Failure {
    match &facts.section.address {
        UpstreamAddress::Unix(path) => Failure::new(
            format!("nobody listens at {} (connection refused)", path.display()),
            "start Redis; `unixsocket` in its configuration must name this path, and this user must be in its group",
        ),
        UpstreamAddress::Tcp { host, port } => {
            let confusion = if facts.is_local() {
                "; if Redis runs in another container or on another host, its address is not loopback"
            } else {
                "; Redis's `bind` must have the address that is used here"
            };
            Failure::new(
                format!("nothing listens at {target} (connection refused)"),
                format!("start Redis, or correct `url`: is it {host}, and its port {port}?{confusion}"),
            )
        }
    }
}

fn tls(reason: TlsReason, detail: &str, facts: &UpstreamFacts) -> Failure {
    let message = detail.split_once(';').map_or(detail, |(fact, _)| fact).to_owned();
    if facts.other_way == Some(true) {
        return Failure::new(
            "Redis speaks plaintext at that port, and `url` says rediss://",
            "the port with TLS in `url` (tls-port of Redis); or redis:// if it has none and is on this host",
        );
    }
    let remedy = match reason {
        TlsReason::Expired => "renew Redis's certificate, or set the clock that is wrong (`clock`)".to_owned(),
        TlsReason::WrongName => {
            "one of the certificate's names in `url`, or `server_name`; in a tunnel or behind an address it is `server_name`"
                .to_owned()
        }
        TlsReason::Untrusted => match &facts.section.tls {
            Some(section) if section.ca_file.is_some() => {
                "`ca_file` must hold the CA that signed Redis's certificate: it holds another".to_owned()
            }
            _ => "`ca_file` with the CA that signed Redis's certificate: without it the system's CAs count".to_owned(),
        },
        TlsReason::NotTls => "redis:// in `url`, or the port with TLS (tls-port of Redis)".to_owned(),
        TlsReason::ClientCertificate => {
            "`client_certificate_file` and `client_key_file` of a CA that Redis knows, or `tls-auth-clients no` in Redis"
                .to_owned()
        }
        TlsReason::Version | TlsReason::Cipher => {
            "TLS 1.2 or 1.3 with usual ciphers in Redis (tls-protocols, tls-ciphers)".to_owned()
        }
        TlsReason::Eof | TlsReason::Timeout | TlsReason::Other => {
            "look whether that port has TLS, and whether Redis is at its maxclients (its log says why)".to_owned()
        }
    };
    Failure::new(message, remedy)
}

fn auth(refusal: AuthRefusal, detail: &str, account: &Account) -> Failure {
    let source = match &account.credential {
        Some(CredentialSource::File(path)) => path.display().to_string(),
        Some(_) => "the environment variable".to_owned(),
        None => "password_file".to_owned(),
    };
    match (refusal, &account.username) {
        (AuthRefusal::PasswordRequired, _) => Failure::new(
            "Redis wants a password (NOAUTH), and none is configured here",
            "`password_file` of the upstream (or REDIS_PASSWORD_FILE) with the password of Redis; `username` too for an ACL user",
        ),
        (AuthRefusal::WrongPassword, None) => Failure::new(
            format!("Redis refuses the password (WRONGPASS), which is from {source}"),
            format!(
                "the first line of {source} must be Redis's requirepass; if Redis has ACL users (RBAC of ElastiCache, Entra of \
                 Azure), `username` is needed as well"
            ),
        ),
        (AuthRefusal::WrongPassword, Some(user)) => Failure::new(
            format!(
                "Redis refuses user \"{user}\" (WRONGPASS): the password, which is from {source}, or no such user, or it is off"
            ),
            format!(
                "`ACL GETUSER {user}` as Redis's administrator: is it there and on? then compare {source}; if Redis has requirepass \
                 alone, leave `username` out"
            ),
        ),
        (AuthRefusal::NoPasswordSet, _) => Failure::new(
            "Redis has no password: it lets in everybody who reaches it",
            "set requirepass or an ACL user there; only if it is meant to be open, remove the credential here",
        ),
        (AuthRefusal::NoPermission, _) => Failure::new(
            format!("Redis refuses its user a permission (NOPERM): {detail}"),
            "`keyward acl upstream` prints the ACL SETUSER line with all that is needed",
        ),
        (AuthRefusal::Other, _) => Failure::new(
            format!("Redis did not accept AUTH: {detail}"),
            "look whether it is Redis 6 or later (`username` needs it), and not a Sentinel or another proxy",
        ),
    }
}

fn not_ready(code: &str) -> Failure {
    match code {
        "LOADING" => Failure::new(
            "Redis is loading its data (LOADING)",
            "wait; INFO persistence (loading_eta_seconds) says how long",
        ),
        "MASTERDOWN" => Failure::new(
            "it is a replica without its master (MASTERDOWN)",
            "point `url` to the master, or mend the replication",
        ),
        "BUSY" => Failure::new(
            "Redis is busy with a script (BUSY)",
            "wait, or SCRIPT KILL (FUNCTION KILL) as Redis's administrator",
        ),
        code => Failure::new(
            format!("Redis takes no commands now ({code})"),
            "see the log of Redis",
        ),
    }
}
