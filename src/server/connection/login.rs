//! The verdict on credentials: lockout and budget first, then the password, then the user's limit.

use std::time::{Duration, Instant};

use crate::auth::{AuthFailure, AuthMethod, Evidence, Identity};
use crate::limits::{self, Attempt, Cause, Reject};
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
    let attempt = Attempt {
        source: client.permit.source(),
        listener: client.listener_index(),
        user: login.user,
    };
    // Before any work on the password: who is refused here learns nothing, not even whether it is right now.
    match client.throttle().check(attempt, now) {
        limits::Verdict::Allow | limits::Verdict::Delay(..) => {}
        limits::Verdict::LockedOut { .. } => {
            client.auth_failed(&AuthFailure::LockedOut, Some(login.user));
            return refused(client, AuthFailure::LockedOut, UNHEARD_DELAY, Cause::Lockout);
        }
        limits::Verdict::OverBudget => {
            client.auth_failed(&AuthFailure::OverBudget, Some(login.user));
            return refused(client, AuthFailure::OverBudget, UNHEARD_DELAY, Cause::Budget);
        }
    }
    let verdict = client
        .users()
        .authenticate_with(login.user, login.password, evidence);
    // Behind the work on the password, so that its time says nothing.
    let verdict = verdict.and_then(|identity| {
        if client.may_come_as(&identity.user.name) {
            Ok(identity)
        } else {
            Err(AuthFailure::SourceNotAllowed {
                user: identity.user.name.as_str().into(),
            })
        }
    });
    match verdict {
        Ok(identity) => {
            client.throttle().succeeded(attempt, now);
            match client.permit.authenticated(&identity.user.name) {
                Ok(()) => {
                    client.authenticated();
                    Verdict::Granted(identity)
                }
                Err(reject) => {
                    client.rejected(reject);
                    Verdict::Rejected(reject)
                }
            }
        }
        Err(failure) => {
            client.auth_failed(&failure, Some(login.user));
            let verdict = client.throttle().failed(attempt, failure.user().is_some(), now);
            match verdict {
                limits::Verdict::Allow | limits::Verdict::OverBudget => Verdict::Refused {
                    failure,
                    delay: Duration::ZERO,
                },
                limits::Verdict::Delay(delay, cause) => refused(client, failure, delay, cause),
                limits::Verdict::LockedOut {
                    network,
                    until,
                    begins,
                } => {
                    if begins {
                        client.locked_out(network, until.saturating_duration_since(now));
                    }
                    refused(client, failure, UNHEARD_DELAY, Cause::Lockout)
                }
            }
        }
    }
}

/// A refusal that is held back.
fn refused(client: &Client, failure: AuthFailure, delay: Duration, cause: Cause) -> Verdict {
    client.metrics().auth_delayed(cause);
    Verdict::Refused { failure, delay }
}

/// How long the answer to a client takes whose password is not looked at: long enough that asking on is pointless, short
/// enough for a person who mistyped.
const UNHEARD_DELAY: Duration = Duration::from_secs(2);
