//! Whom we log in to Redis as: Keyward's own user, or that of one of our users, so that Redis's ACL, ACL LOG and CLIENT
//! LIST see the real caller.
//!
//! Each login has its own passwords, its own pause after a refusal, and its own connections: lanes of all kinds belong to
//! a [`Target`]. The number of connections and the pace of opening them are the upstream's, whoever they are for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::credential::CredentialStore;
use super::{DialError, Upstream, lock};
use crate::config::{self, CredentialError, UpstreamLogin};

/// A user of Redis that we log in as.
pub struct Login {
    /// The user of ours that it belongs to; empty: Keyward's own. A metric label.
    user: Box<str>,
    username: Option<String>,
    pub(super) store: Option<CredentialStore>,
    refusal: Mutex<Option<Refusal>>,
    /// When its refusal was last written to the log.
    said: Mutex<Option<Instant>>,
    /// A reload has put another in its place.
    retired: AtomicBool,
    /// Clients may have connections with it.
    trusted: AtomicBool,
}

/// Where a connection leads, and as whom: what lanes are kept apart by.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub upstream: Arc<Upstream>,
    /// The user there.
    pub login: Arc<Login>,
}

/// Redis refused our credential: no attempt before `until`, so that its ACL LOG is not flooded (F-12).
struct Refusal {
    since: Instant,
    until: Instant,
    interval: Duration,
    error: DialError,
}

impl Login {
    /// Keyward's own login at an upstream.
    pub(super) fn own(
        section: &config::Upstream,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialError> {
        let store = match &section.credential {
            Some(source) => Some(CredentialStore::load(source, environment)?),
            None => None,
        };
        Ok(Self::new("", section.username.clone(), store))
    }

    /// The login of one of our users.
    ///
    /// # Errors
    /// Its secret cannot be read.
    pub fn of_user(
        user: &str,
        section: &UpstreamLogin,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialError> {
        let store = CredentialStore::load(&section.credential, environment)?;
        Ok(Self::new(user, Some(section.username.clone()), Some(store)))
    }

    fn new(user: &str, username: Option<String>, store: Option<CredentialStore>) -> Self {
        Self {
            user: user.into(),
            username,
            store,
            refusal: Mutex::default(),
            said: Mutex::default(),
            retired: AtomicBool::new(false),
            trusted: AtomicBool::new(true),
        }
    }

    /// The user of ours that it belongs to; empty: Keyward's own.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The name that Redis knows it by.
    pub(super) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    pub(super) fn is_own(&self) -> bool {
        self.user.is_empty()
    }

    /// Whether a reload has put another in its place.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether clients may have connections with it: without `require_least_privilege`, or once Redis has shown what it
    /// refuses to this login.
    pub fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    /// Records the outcome of that.
    pub fn set_trusted(&self, trusted: bool) {
        self.trusted.store(trusted, Ordering::Release);
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether the other would log in as the same user with passwords from the same place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_source = match (&self.store, &other.store) {
            (Some(one), Some(other)) => one.has_source_of(other),
            (None, None) => true,
            _ => false,
        };
        same_source && self.user == other.user && self.username == other.username
    }

    /// Fails while a refusal lasts. When its time is over, the first caller may try and all others wait on.
    pub(super) fn check_refusal(&self) -> Result<(), DialError> {
        let mut refusal = lock(&self.refusal);
        let Some(refusal) = refusal.as_mut() else {
            return Ok(());
        };
        let now = Instant::now();
        if now < refusal.until {
            return Err(refusal.error.clone());
        }
        refusal.until = now + refusal.interval;
        Ok(())
    }

    /// Whether Redis refused it last time.
    pub fn is_refused(&self) -> bool {
        lock(&self.refusal).is_some()
    }

    /// Begins or prolongs the pause, after an attempt that began at `begun`.
    pub(super) fn note_refusal(&self, error: &DialError, begun: Instant) {
        let mut slot = lock(&self.refusal);
        let interval = match slot.as_ref() {
            None => FIRST_PAUSE,
            // Attempts that were under way together are one refusal.
            Some(former) if former.since >= begun => return,
            Some(former) => former.interval.saturating_mul(2).min(LONGEST_PAUSE),
        };
        let since = Instant::now();
        *slot = Some(Refusal {
            since,
            until: since + interval,
            interval,
            error: error.clone(),
        });
    }

    /// Redis took it, or it has changed.
    pub(super) fn forget_refusal(&self) {
        *lock(&self.refusal) = None;
        *lock(&self.said) = None;
    }

    /// Whether its refusal is to be written now, and not again before `interval` is over.
    pub(super) fn may_say(&self, interval: Duration) -> bool {
        let mut said = lock(&self.said);
        if said.is_some_and(|at| at.elapsed() < interval) {
            return false;
        }
        *said = Some(Instant::now());
        true
    }
}

impl Target {
    /// The connections of this user at this upstream; `None`: of nobody in particular.
    pub fn of(upstream: &Arc<Upstream>, user: Option<&str>) -> Self {
        Self {
            login: upstream.login_of(user.unwrap_or_default()),
            upstream: Arc::clone(upstream),
        }
    }

    /// Whether connections for the one are connections for the other.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && Arc::ptr_eq(&self.login, &other.login)
    }

    /// Whether a reload has put another in its place: its connections end.
    pub fn is_retired(&self) -> bool {
        self.upstream.is_retired() || self.login.is_retired()
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Pause after the first refusal of our credential; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a repaired password is noticed within it, even without a reload.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::super::AuthRefusal;
    use super::*;

    #[tokio::test]
    async fn the_pause_doubles_with_each_refusal_up_to_half_a_minute() {
        let (login, other) = (Login::new("app", None, None), Login::new("", None, None));
        let error = DialError::Auth {
            refusal: AuthRefusal::WrongPassword,
            detail: String::new(),
        };
        let pause = || lock(&login.refusal).as_ref().unwrap().interval;
        login.check_refusal().unwrap();
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let begun = Instant::now();
            // Three that were under way together.
            for _ in 0..3 {
                login.note_refusal(&error, begun);
            }
            assert_eq!(pause(), Duration::from_secs(expected));
            assert_eq!(login.check_refusal(), Err(error.clone()));
            assert_eq!(other.check_refusal(), Ok(()), "nobody else pauses");
        }
        // When its time is over, one may try and the others wait.
        lock(&login.refusal).as_mut().unwrap().until = Instant::now();
        login.check_refusal().unwrap();
        assert_eq!(login.check_refusal(), Err(error));
    }
}
