//! Who the client is: login, RESET, a reload, and what is remembered and counted by user.

use std::time::Instant;

use crate::acl::{DenyReason, Learned};
use crate::auth::AuthFailure;
use crate::metrics::CloseReason;
use crate::resp::ReplyScanner;
use crate::session::{Action, Closing, Effect, Expect, Login, Note};

use super::super::alarms::Alarm;
use super::super::login::{self, Verdict};
use super::{Relay, Stop, Turn};

impl Relay {
    pub(super) fn login(&mut self, login: &Login<'_>, turn: &Turn<'_, '_>) -> Result<(), Stop> {
        let evidence = self.client.evidence(&self.stream);
        match login::judge(&mut self.client, login, &evidence, turn.now) {
            Verdict::Granted(identity) => {
                self.alarms.clear(Alarm::Login);
                let moves = self.client.would_move(&identity.user.name);
                if moves && self.lane.is_some() && !self.leave_lane() {
                    self.session
                        .dismiss(STATE_IS_ANOTHERS, Closing::Rejected, &mut self.out);
                    return Ok(());
                }
                // From here on no lane of the former login is left that could be given back as the new one's.
                self.client.serves(Some(&identity.user.name));
                // Another user's requests never travel on this lane.
                self.seat = None;
                self.requests.set_limits(self.client.request_limits(true));
                self.client.logged_in(&identity);
                let action = self
                    .session
                    .logged_in(identity, login.hello.as_ref(), &mut self.out);
                match action {
                    Action::Substitute { request, expect } => {
                        self.open_lane().extend_from_slice(&request);
                        self.session.forwarded(expect, turn.stamp);
                    }
                    Action::Greet { request, effect } => self.greet(turn, &request, effect),
                    _ => {}
                }
            }
            Verdict::Refused { failure, delay } if delay.is_zero() => {
                self.session.login_refused(&failure, &mut self.out);
            }
            Verdict::Refused { failure, delay } => {
                self.penalty = Some(failure);
                self.alarms.set(Alarm::Penalty, turn.now + delay);
            }
            Verdict::Rejected(reject) => {
                self.session
                    .dismiss(reject.reply(), Closing::Rejected, &mut self.out);
            }
        }
        Ok(())
    }

    /// HELLO on a lane that others share, so that a client that speaks RESP3 does not need one of its own to say so: thousands
    /// that connect at once would open as many. A lane that the session still has is known to be in its former state until
    /// HELLO is answered there; and as long as nobody knows whether Redis speaks RESP3, HELLO may be refused, which a client
    /// must be told.
    pub(super) fn greet(&mut self, turn: &Turn<'_, '_>, request: &[u8], effect: Effect) {
        let asks_resp3 = matches!(
            effect,
            Effect::Hello {
                resp3: Some(true),
                ..
            }
        );
        let certain = !asks_resp3 || self.client.target().upstream.speaks_resp3();
        let expect = if self.lane.is_none() && certain {
            self.session.shares(effect);
            self.seat().send(request, 1);
            Expect::Reply(Effect::None)
        } else {
            self.open_lane().extend_from_slice(request);
            Expect::Reply(effect)
        };
        self.session.forwarded(expect, turn.stamp);
    }

    pub(super) fn reset(&mut self, now: Instant) {
        self.lane = None;
        self.seat = None;
        self.replies = ReplyScanner::new();
        self.reply_carry.clear();
        let identity = self.session.identity();
        self.requests
            .set_limits(self.client.request_limits(identity.is_some()));
        let user = identity.map(|identity| &*identity.user.name);
        self.client.serves(user);
        if let Some(identity) = identity {
            if let Err(reject) = self.client.known_by(identity) {
                self.session
                    .dismiss(reject.reply(), Closing::Rejected, &mut self.out);
            }
            return;
        }
        self.client.logged_out();
        if !self.alarms.is_set(Alarm::Login) {
            self.alarms
                .set(Alarm::Login, now + self.client.login_rules().timeout);
        }
    }

    /// After a reload: the same user with new rules, or nobody any more, or a certificate that is revoked.
    pub(super) fn rejudge(&mut self) -> Result<(), Stop> {
        let removed = || Stop::silent(CloseReason::CredentialRemoved);
        if !self.client.reload_settings(&self.stream) {
            return Err(removed());
        }
        let evidence = self.client.evidence(&self.stream);
        let open = self.client.open_identity(&evidence).map_err(|_| removed())?;
        if let Some(identity) = self.session.identity() {
            let moved = self.client.serves(Some(&identity.user.name));
            if moved && let Some(lane) = &mut self.lane {
                lane.retire();
                self.alarms
                    .set(Alarm::Retirement, Instant::now() + self.client.drain_timeout());
            }
            let allowed = self
                .client
                .users()
                .refresh_with(identity, &evidence)
                .filter(|identity| self.client.may_come_as(&identity.user.name))
                .is_some_and(|identity| self.session.refresh_identity(identity));
            if !allowed {
                // The credential is gone, or the right to be here or to listen to what the session listens to.
                if let Some(identity) = self.session.identity() {
                    self.client.credential_removed(&identity.user.name);
                }
                return Err(removed());
            }
        } else {
            self.client.serves(None);
        }
        // A password that was the first may be an older one now.
        self.client.count_password(self.session.identity());
        self.session.set_open(open);
        self.session.set_logins_differ(self.client.logins_differ());
        Ok(())
    }

    /// Remembers something of the user's requests.
    pub(super) fn learn(&self, what: impl FnOnce(&mut Learned)) {
        if let Some(identity) = self.session.identity() {
            self.client.worker.learn(&identity.user.name, what);
        }
    }

    pub(super) fn note(&self, note: &Note) {
        let user = self.session.identity().map(|identity| &*identity.user.name);
        match note {
            Note::Denied(denied) => {
                self.client
                    .denied(user.unwrap_or_default(), Some(denied.command), denied.reason);
            }
            Note::Observed(denied) => {
                self.client
                    .observed(user.unwrap_or_default(), denied.command, denied.reason);
            }
            Note::Unknown => {
                // A stranger has no rules to break.
                if let Some(user) = user {
                    self.client.denied(user, None, DenyReason::Command);
                }
            }
            Note::NoCredentials => self.client.auth_failed(&AuthFailure::NoCredentials, None),
            Note::Malformed => self.client.auth_failed(&AuthFailure::Malformed, None),
        }
    }

    /// Apart, so that the way of all other commands stays short.
    #[cold]
    pub(super) fn admin_command(&self, name: &'static str) {
        if let Some(identity) = self.session.identity() {
            self.client.admin_command(&identity.user.name, name);
        }
    }
}

/// The answer to a right password of a user whose requests reach Redis as somebody else, where the session cannot go on so.
const STATE_IS_ANOTHERS: &str = "ERR keyward: what this connection has begun cannot go on as another user of Redis; use RESET before AUTH, or a new connection";
