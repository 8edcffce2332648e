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

/// The users of a listener.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// Comparisons an attempt makes, for every user alike: the largest number of passwords of one user, at least one.
    comparisons: usize,
}

/// A client that has logged in.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user, as it was when the client logged in.
    pub user: Arc<User>,
    /// Position of the password that was right in [`User::passwords`], so that a rotation can be watched; 0 for
    /// users that need none.
    pub credential: usize,
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
    SourceNotAllowed,
    /// The source has failed too often and has to wait (L-30).
    LockedOut,
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
        Self { by_name, comparisons }
    }

    /// Decides a login with name and password. A client that sends a password alone means the user `default`.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Result<Identity, AuthFailure> {
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
        let credential = if user.nopass { Some(0) } else { credential };
        match credential {
            Some(credential) => Ok(Identity {
                user: Arc::clone(user),
                credential,
            }),
            None => Err(AuthFailure::BadPassword {
                user: user.name.as_str().into(),
            }),
        }
    }

    /// The identity of a client that need not log in: `default`, if it is enabled and `nopass`, as in Redis.
    pub fn open(&self) -> Option<Identity> {
        let user = self
            .by_name
            .get(DEFAULT)
            .filter(|user| user.enabled && user.nopass)?;
        Some(Identity {
            user: Arc::clone(user),
            credential: 0,
        })
    }

    /// The same client under the users of a reload: `None` when its user is gone or off, or the password that it
    /// logged in with is.
    pub fn refresh(&self, identity: &Identity) -> Option<Identity> {
        let user = self
            .by_name
            .get(&identity.user.name)
            .filter(|user| user.enabled)?;
        let credential = match identity.user.passwords.get(identity.credential) {
            Some(digest) if !identity.user.nopass => user.passwords.iter().position(|known| known == digest),
            _ => None,
        };
        let credential = if user.nopass { Some(0) } else { credential };
        credential.map(|credential| Identity {
            user: Arc::clone(user),
            credential,
        })
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
    pub const LABELS: [&str; 14] = [
        "no_credentials",
        "unknown_user",
        "bad_password",
        "user_disabled",
        "source_not_allowed",
        "locked_out",
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
            Self::SourceNotAllowed => "source_not_allowed",
            Self::LockedOut => "locked_out",
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
            Self::BadPassword { user } | Self::UserDisabled { user } | Self::ClientCertMismatch { user } => {
                Some(user)
            }
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
            | Self::SourceNotAllowed
            | Self::ClientCertNotMapped
            | Self::ClientCertMismatch { .. } => {
                "WRONGPASS invalid username-password pair or user is disabled."
            }
            Self::LockedOut => "ERR keyward: too many failed logins from this address, try again later",
            Self::TooManyFailures => "ERR keyward: too many failed logins on this connection",
            Self::Timeout => "ERR keyward: no login in time",
            Self::Malformed => "ERR syntax error",
            Self::ClientCertMissing => "NOAUTH keyward: a client certificate is required",
            Self::ClientCertUntrusted => "NOAUTH keyward: the client certificate is not trusted",
            Self::ClientCertExpired => "NOAUTH keyward: the client certificate is not valid at this time",
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
    pub const ALL: [Self; 3] = [Self::Password, Self::ClientCert, Self::None];

    /// Label of metrics and audit lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCert => "client_cert",
            Self::None => "none",
        }
    }
}

/// The user of clients that send a password alone or nothing.
const DEFAULT: &str = "default";

/// Compared when a user has fewer passwords than another, or does not exist; never counts as equal.
const STAND_IN: [u8; 32] = [0; 32];
