//! Who a client is: users, their passwords, and the outcome of a login.
//!
//! Every attempt costs the same: one SHA-256 and one constant-time comparison for each of as many digests as the user with the
//! most has, whether the name is known or not. The answer to the client is the same too; the reason is for
//! metrics and the audit log.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::acl::{User, rule};

mod evidence;

pub use evidence::{Evidence, Factors};

use evidence::Mappings;

/// The users of a listener.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// Comparisons an attempt makes, for every user alike: the largest number of passwords of one user, at least one.
    comparisons: usize,
    mappings: Mappings,
}

/// A client that has logged in.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user, as it was when the client logged in.
    pub user: Arc<User>,
    /// What showed that it is this user.
    pub proof: Proof,
}

/// What showed who a client is; it must still do so after a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The password at this position of [`User::passwords`], so that a rotation can be watched.
    Password(usize),
    /// Any password: the user is `nopass`.
    AnyPassword,
    /// The certificate of the TLS connection.
    Certificate,
    /// The user of the process at the other end of a unix socket.
    UnixUser,
    /// The listener asks for no login.
    Open,
}

/// Why a login was refused. Only names that are configured appear in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthFailure {
    /// A command before the login.
    NoCredentials,
    /// No user of this name.
    UnknownUser,
    /// The user exists, none of its passwords is this one.
    BadPassword {
        /// The configured name.
        user: Arc<str>,
    },
    /// The user is `off`.
    UserDisabled {
        /// The configured name.
        user: Arc<str>,
    },
    /// The source address may not log in here.
    SourceNotAllowed {
        /// The configured name.
        user: Arc<str>,
    },
    /// The source has failed too often and has to wait (L-30).
    LockedOut,
    /// More wrong passwords were tried in this second than are looked at (L-30).
    OverBudget,
    /// The connection has failed too often and is closed (L-22).
    TooManyFailures,
    /// No login within the time (L-21).
    Timeout,
    /// AUTH or HELLO that cannot be read.
    Malformed,
    /// A client certificate is required and none came.
    ClientCertMissing,
    /// The client certificate was not issued by the configured authority, or is revoked.
    ClientCertUntrusted,
    /// The client certificate has expired or is not valid yet.
    ClientCertExpired,
    /// No user belongs to the client certificate.
    ClientCertNotMapped,
    /// The client certificate belongs to another user than the one that logs in.
    ClientCertMismatch {
        /// The configured name.
        user: Arc<str>,
    },
}

/// How a client showed who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// AUTH or HELLO AUTH.
    Password,
    /// The certificate of the TLS connection.
    ClientCert,
    /// The user of the process at the other end of a unix socket.
    UnixUser,
    /// A listener without login.
    None,
}

impl Users {
    /// Takes the users over. Of two with one name the later counts.
    pub fn new(users: Vec<User>) -> Self {
        let comparisons = users
            .iter()
            .map(|user| user.passwords.len())
            .max()
            .unwrap_or(0)
            .max(1);
        let by_name = users
            .into_iter()
            .map(|user| (user.name.clone(), Arc::new(user)))
            .collect();
        Self {
            by_name,
            comparisons,
            mappings: Mappings::default(),
        }
    }

    /// The same, with what shows who the users are besides passwords.
    pub fn with_factors(users: Vec<User>, factors: Vec<(String, Factors)>) -> Self {
        Self {
            mappings: Mappings::new(factors),
            ..Self::new(users)
        }
    }

    /// Decides a login with name and password, of a client that shows nothing else.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Result<Identity, AuthFailure> {
        self.authenticate_with(name, password, &Evidence::Nothing)
    }

    /// Decides a login with name and password. A client that sends a password alone means the user `default`.
    pub fn authenticate_with(
        &self,
        name: &[u8],
        password: &[u8],
        evidence: &Evidence,
    ) -> Result<Identity, AuthFailure> {
        let user = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.by_name.get(name));
        let digests = user.map_or(&[] as &[_], |user| user.passwords.as_slice());
        // All the work first, then the decisions, so that they take no time of their own.
        let credential = self.find_password(digests, password);
        let Some(user) = user else {
            return Err(AuthFailure::UnknownUser);
        };
        if !user.enabled {
            return Err(AuthFailure::UserDisabled {
                user: user.name.as_str().into(),
            });
        }
        let proof = if user.nopass {
            Some(Proof::AnyPassword)
        } else {
            credential.map(Proof::Password)
        };
        let Some(proof) = proof else {
            return Err(AuthFailure::BadPassword {
                user: user.name.as_str().into(),
            });
        };
        if !self.mappings.lets_in_with_password(&user.name, evidence) {
            return Err(AuthFailure::ClientCertMismatch {
                user: user.name.as_str().into(),
            });
        }
        Ok(Identity {
            user: Arc::clone(user),
            proof,
        })
    }

    /// Who a client is that has sent nothing yet: `None` when it has to log in.
    ///
    /// # Errors
    /// Its certificate belongs to no user or to several, or to one that is `off`: it has to go.
    pub fn identify(&self, evidence: &Evidence) -> Result<Option<Identity>, AuthFailure> {
        let Some((name, proof)) = self.mappings.user_of(evidence)? else {
            return Ok(None);
        };
        // A user whose rules were refused has no mapping either, so this one is there.
        let user = self.by_name.get(name).ok_or(AuthFailure::ClientCertNotMapped)?;
        if !user.enabled {
            return Err(AuthFailure::UserDisabled {
                user: user.name.as_str().into(),
            });
        }
        let identity = Identity {
            user: Arc::clone(user),
            proof,
        };
        Ok((!self.mappings.needs_both(name)).then_some(identity))
    }

    /// Whether certificates say who a client is; otherwise they only let it in.
    pub fn maps_certificates(&self) -> bool {
        self.mappings.has_certificates()
    }

    /// The identity of a client that need not log in: `default`, if it is enabled and `nopass`, as in Redis.
    pub fn open(&self) -> Option<Identity> {
        let user = self
            .by_name
            .get(DEFAULT)
            .filter(|user| user.enabled && user.nopass)?;
        Some(Identity {
            user: Arc::clone(user),
            proof: Proof::Open,
        })
    }

    /// As [`Users::refresh_with`], of a client that shows nothing but its password.
    pub fn refresh(&self, identity: &Identity) -> Option<Identity> {
        self.refresh_with(identity, &Evidence::Nothing)
    }

    /// The same client under the users of a reload: `None` when its user is gone or off, or what it logged in with is
    ///
    pub fn refresh_with(&self, identity: &Identity, evidence: &Evidence) -> Option<Identity> {
        let name = identity.user.name.as_str();
        let user = self.by_name.get(name).filter(|user| user.enabled)?;
        // A certificate that belongs to nobody any more would not be let in again.
        let shown = self.mappings.user_of(evidence).ok()?;
        let proof = match identity.proof {
            Proof::Certificate | Proof::UnixUser => {
                let same = shown == Some((name, identity.proof)) && !self.mappings.needs_both(name);
                return same.then(|| Identity {
                    user: Arc::clone(user),
                    proof: identity.proof,
                });
            }
            Proof::Password(position) => {
                let digest = identity.user.passwords.get(position)?;
                let found = user.passwords.iter().position(|known| known == digest);
                found
                    .map(Proof::Password)
                    .or_else(|| user.nopass.then_some(Proof::AnyPassword))
            }
            Proof::AnyPassword | Proof::Open => user.nopass.then_some(identity.proof),
        };
        let proof = proof.filter(|_| self.mappings.lets_in_with_password(name, evidence))?;
        Some(Identity {
            user: Arc::clone(user),
            proof,
        })
    }

    /// Every user, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// The user of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// The configured names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Position of the first digest that the password has. Looks at every one, and at stand-ins up to the common number.
    fn find_password(&self, digests: &[[u8; 32]], password: &[u8]) -> Option<usize> {
        let hash = rule::hash_password(password);
        let mut found = Choice::from(0);
        let mut position = 0u32;
        for index in 0..self.comparisons.max(digests.len()) {
            let (digest, real) = match digests.get(index) {
                Some(digest) => (digest, Choice::from(1)),
                None => (&STAND_IN, Choice::from(0)),
            };
            let right = digest.ct_eq(&hash) & real;
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            position.conditional_assign(&index, right & !found);
            found |= right;
        }
        bool::from(found).then_some(position as usize)
    }
}

impl AuthFailure {
    /// Labels of every failure, for metrics that are created beforehand.
    pub const LABELS: [&str; 15] = [
        "no_credentials",
        "unknown_user",
        "bad_password",
        "user_disabled",
        "source_not_allowed",
        "locked_out",
        "over_budget",
        "too_many_failures",
        "timeout",
        "malformed",
        "client_cert_missing",
        "client_cert_untrusted",
        "client_cert_expired",
        "client_cert_not_mapped",
        "client_cert_mismatch",
    ];

    /// Label of metrics and audit lines.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::UnknownUser => "unknown_user",
            Self::BadPassword { .. } => "bad_password",
            Self::UserDisabled { .. } => "user_disabled",
            Self::SourceNotAllowed { .. } => "source_not_allowed",
            Self::LockedOut => "locked_out",
            Self::OverBudget => "over_budget",
            Self::TooManyFailures => "too_many_failures",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::ClientCertMissing => "client_cert_missing",
            Self::ClientCertUntrusted => "client_cert_untrusted",
            Self::ClientCertExpired => "client_cert_expired",
            Self::ClientCertNotMapped => "client_cert_not_mapped",
            Self::ClientCertMismatch { .. } => "client_cert_mismatch",
        }
    }

    /// The configured user it is about, if any.
    pub const fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::BadPassword { user }
            | Self::UserDisabled { user }
            | Self::SourceNotAllowed { user }
            | Self::ClientCertMismatch { user } => Some(user),
            _ => None,
        }
    }

    /// The reply, without the leading `-`. Redis's text where Redis has one, the same for every wrong name or password.
    pub const fn reply(&self) -> &'static str {
        match self {
            Self::NoCredentials => "NOAUTH Authentication required.",
            Self::UnknownUser
            | Self::BadPassword { .. }
            | Self::UserDisabled { .. }
            | Self::SourceNotAllowed { .. }
            | Self::ClientCertMismatch { .. } => {
                "WRONGPASS invalid username-password pair or user is disabled."
            }
            Self::LockedOut => "ERR keyward: too many failed logins from this address, try again later",
            // Nothing is wrong with this client, perhaps: a code that client libraries try again on.
            Self::OverBudget => "TRYAGAIN keyward: too many failed logins at present, try again later",
            Self::TooManyFailures => "ERR keyward: too many failed logins on this connection",
            Self::Timeout => "ERR keyward: no login in time",
            Self::Malformed => "ERR syntax error",
            Self::ClientCertMissing => "NOAUTH keyward: a client certificate is required",
            Self::ClientCertUntrusted => "NOAUTH keyward: the client certificate is not trusted",
            Self::ClientCertExpired => "NOAUTH keyward: the client certificate is not valid at this time",
            Self::ClientCertNotMapped => "NOAUTH keyward: the client certificate belongs to no user here",
        }
    }
}

/// For logs; holds nothing that the client sent.
impl fmt::Display for AuthFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl AuthMethod {
    /// Every method; metrics are pre-created from it.
    pub const ALL: [Self; 4] = [Self::Password, Self::ClientCert, Self::UnixUser, Self::None];

    /// Label of metrics and audit lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCert => "client_cert",
            Self::UnixUser => "unix_user",
            Self::None => "none",
        }
    }
}

/// The user of clients that send a password alone or nothing.
const DEFAULT: &str = "default";

/// Compared when a user has fewer passwords than another, or does not exist; never counts as equal.
const STAND_IN: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;

    fn users(lines: &str) -> Users {
        Users::new(
            rule::parse_file(lines)
                .unwrap()
                .into_iter()
                .map(|(_, user)| user)
                .collect(),
        )
    }

    const MANY: &str = "user default on nopass ~* &* +@all\n\
                        user app on >one >two >three ~* &* +@all\n\
                        user old off >one ~* &* +@all\n\
                        user off-open off nopass ~* &* +@all\n\
                        user bare on ~* &* +@all\n";

    #[test]
    fn every_password_of_a_user_is_right_and_says_which_it_was() {
        let users = users(MANY);
        for (position, password) in [b"one" as &[u8], b"two", b"three"].iter().enumerate() {
            let identity = users.authenticate(b"app", password).unwrap();
            assert_eq!(
                (identity.user.name.as_str(), identity.proof),
                ("app", Proof::Password(position))
            );
        }
    }

    #[test]
    fn failures_have_their_reason_and_one_text() {
        let users = users(MANY);
        /// Name, password, label, user in the failure.
        type Case<'a> = (&'a [u8], &'a [u8], &'a str, Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (b"app", b"four", "bad_password", Some("app")),
            (b"app", b"", "bad_password", Some("app")),
            (b"app", b"one\0", "bad_password", Some("app")),
            // The digest is no password.
            (
                b"app",
                b"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
                "bad_password",
                Some("app"),
            ),
            (b"bare", b"", "bad_password", Some("bare")),
            (b"old", b"one", "user_disabled", Some("old")),
            (b"old", b"two", "user_disabled", Some("old")),
            (b"off-open", b"x", "user_disabled", Some("off-open")),
            (b"nobody", b"one", "unknown_user", None),
            (b"APP", b"one", "unknown_user", None),
            (b"app\0", b"one", "unknown_user", None),
            (b"", b"one", "unknown_user", None),
            (b"\xff\xfe", b"one", "unknown_user", None),
        ];
        for (name, password, label, user) in cases {
            let failure = users.authenticate(name, password).unwrap_err();
            assert_eq!(failure.label(), *label, "{name:?}");
            assert_eq!(failure.user().map(|user| &**user), *user, "{name:?}");
            assert_eq!(
                failure.reply(),
                "WRONGPASS invalid username-password pair or user is disabled."
            );
        }
    }

    #[test]
    fn an_all_zero_digest_is_no_back_door_to_stand_ins() {
        // `app` has three digests, so `bare` is compared with stand-ins: no password may match one, whatever its digest.
        let users = users(MANY);
        assert!(users.find_password(&[], b"x").is_none());
        let zero = rule::hash_password(b"x");
        assert_eq!(
            users.find_password(&[STAND_IN, zero, zero], b"x"),
            Some(1),
            "the first of two equal ones counts"
        );
    }

    #[test]
    fn the_work_does_not_depend_on_the_user() {
        assert_eq!(users(MANY).comparisons, 3);
        assert_eq!(users("").comparisons, 1);
    }

    #[test]
    fn any_password_does_for_nopass_and_open_is_default_only() {
        let open = users(MANY);
        assert_eq!(
            open.authenticate(b"default", b"anything").unwrap().proof,
            Proof::AnyPassword
        );
        assert_eq!(open.open().unwrap().user.name, "default");
        for closed in [
            "user default on >one ~* &* +@all",
            "user default off nopass",
            "user app on nopass ~* +@all",
            "",
        ] {
            assert!(users(closed).open().is_none(), "{closed}");
        }
    }

    #[test]
    fn names_are_sorted_and_users_found() {
        let users = users(MANY);
        assert_eq!(users.names(), ["app", "bare", "default", "off-open", "old"]);
        assert!(users.get("app").is_some() && users.get("nobody").is_none());
    }

    #[test]
    fn labels_are_all_listed_once() {
        let user: Arc<str> = "u".into();
        let failures = [
            AuthFailure::NoCredentials,
            AuthFailure::UnknownUser,
            AuthFailure::BadPassword {
                user: Arc::clone(&user),
            },
            AuthFailure::UserDisabled {
                user: Arc::clone(&user),
            },
            AuthFailure::SourceNotAllowed {
                user: Arc::clone(&user),
            },
            AuthFailure::LockedOut,
            AuthFailure::OverBudget,
            AuthFailure::TooManyFailures,
            AuthFailure::Timeout,
            AuthFailure::Malformed,
            AuthFailure::ClientCertMissing,
            AuthFailure::ClientCertUntrusted,
            AuthFailure::ClientCertExpired,
            AuthFailure::ClientCertNotMapped,
            AuthFailure::ClientCertMismatch { user },
        ];
        assert_eq!(failures.each_ref().map(AuthFailure::label), AuthFailure::LABELS);
        assert_eq!(
            AuthMethod::ALL.map(AuthMethod::label),
            ["password", "client_cert", "unix_user", "none"]
        );
        for failure in failures {
            assert!(
                failure
                    .reply()
                    .split_once(' ')
                    .is_some_and(|(code, _)| code.bytes().all(|b| b.is_ascii_uppercase()))
            );
        }
    }
}
