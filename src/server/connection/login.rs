//! The verdict on credentials: lockout first, then the password, then the user's limit.

use std::time::{Duration, Instant};

use crate::auth::{AuthFailure, AuthMethod, Evidence, Identity};
use crate::limits::{self, Reject};
use crate::session::Login;

use super::Client;

/// What a login came to.
pub(super) enum Verdict {
    /// The client is this user now.
    Granted(Identity),
    /// No; the answer is to be held back for `delay`, which holds up no worker (L-30).
    Refused {
        /// Why.
        failure: AuthFailure,
        /// Zero: answer now.
        delay: Duration,
    },
    /// The password was right, but a limit is reached.
    Rejected(Reject),
}

/// Judges credentials, counts and audits the outcome.
pub(super) fn judge(client: &mut Client, login: &Login<'_>, evidence: &Evidence, now: Instant) -> Verdict {
    client.metrics().auth_attempt(AuthMethod::Password.label());
    let source = client.permit.source();
    // Before any work on the password: a locked-out source learns nothing, not even whether it is right now.
    if let limits::Verdict::LockedOut { .. } = client.throttle().check(source, now) {
        client.auth_failed(&AuthFailure::LockedOut, Some(login.user));
        return Verdict::Refused {
            failure: AuthFailure::LockedOut,
            delay: LOCKED_OUT_DELAY,
        };
    }
    match client
        .users()
        .authenticate_with(login.user, login.password, evidence)
    {
        Ok(identity) => match client.permit.authenticated(&identity.user.name) {
            Ok(()) => {
                client.throttle().succeeded(source, now);
                client.authenticated();
                Verdict::Granted(identity)
            }
            Err(reject) => {
                client.rejected(reject);
                Verdict::Rejected(reject)
            }
        },
        Err(failure) => {
            client.auth_failed(&failure, Some(login.user));
            let delay = match client.throttle().failed(source, client.listener_index(), now) {
                limits::Verdict::Allow => Duration::ZERO,
                limits::Verdict::Delay(delay) => delay,
                limits::Verdict::LockedOut { begins, until } => {
                    if begins {
                        client.locked_out(until.saturating_duration_since(now));
                    }
                    LOCKED_OUT_DELAY
                }
            };
            Verdict::Refused { failure, delay }
        }
    }
}

/// How long the answer to a source that is locked out takes: long enough that asking on is pointless, short
/// enough for a person who mistyped.
const LOCKED_OUT_DELAY: Duration = Duration::from_secs(2);
