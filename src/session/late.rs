//! Requests whose verdict comes late: the keys that it hangs on stand behind values.
//!
//! ```text
//!   head ── open ──► Hold ── still open ──► Wait until nothing is outstanding ──► Forward, and judge the rest as it passes
//!                      │ decided                                                     │ refused: the lane is closed, Redis
//!                      ▼                                                             ▼ drops the partial request (R-30)
//!               as any request                                                    NOPERM
//! ```
//!
//! Users who may touch all keys never come here.

use std::sync::Arc;

use bytes::BytesMut;

use crate::acl::{Command, Denied, LateCheck};
use crate::resp::encode;

use super::client::ReplyMode;
use super::frames::Current;
use super::refusal::Note;
use super::{Action, Closing, Request, Session};

impl Session {
    /// The head of a request does not decide about it.
    pub(super) fn undecided<'a>(
        &mut self,
        command: &'static Command,
        request: Request<'a>,
        out: &mut BytesMut,
        note: &mut Option<Note>,
    ) -> Action<'a> {
        if !std::mem::replace(&mut self.holding, true) {
            return Action::Hold;
        }
        // If it is refused, nothing else may be lost with its lane.
        if request.unsent || !self.pending.is_empty() {
            return Action::Wait;
        }
        self.holding = false;
        let Some(identity) = &self.identity else {
            return Action::Wait;
        };
        match LateCheck::new(Arc::clone(&identity.user), command, request.args) {
            Ok(check) => {
                let action = self.permitted(command, request, out);
                if matches!(action, Action::Forward { .. }) {
                    self.late = Some(Box::new(check));
                }
                action
            }
            Err(denied) => self.deny_or_observe(denied, command, request, out, note),
        }
    }

    /// The ACL refuses a request of which nothing has been forwarded. Where it only observes, the request goes the way of any
    /// other of its command.
    pub(super) fn deny_or_observe<'a>(
        &mut self,
        denied: Denied,
        command: &'static Command,
        request: Request<'a>,
        out: &mut BytesMut,
        note: &mut Option<Note>,
    ) -> Action<'a> {
        if !self.observes(command) {
            return self.deny(denied, out, note);
        }
        let action = self.permitted(command, request, out);
        // One that waits is asked about again, and told then.
        if action.is_final() {
            *note = Some(Note::Observed(denied));
        }
        action
    }

    fn observes(&self, command: &Command) -> bool {
        let identity = self.identity.as_ref();
        identity.is_some_and(|identity| identity.user.observes(command))
    }

    fn deny(&mut self, denied: Denied, out: &mut BytesMut, note: &mut Option<Note>) -> Action<'static> {
        let user = self.identity.as_ref().map_or("", |identity| &identity.user.name);
        let reply = denied.reply(user);
        *note = Some(Note::Denied(denied));
        self.refuse(&reply, out)
    }

    /// Further bytes of a request whose head was forwarded; ask before they are. `note` receives a refusal that is only observed.
    ///
    /// # Errors
    /// The request is refused: close its lane without these bytes, tell [`Session::late_denied`], and drop the rest of it.
    pub fn body(&mut self, bytes: &[u8], last: bool, note: &mut Option<Note>) -> Result<(), Denied> {
        let Some(check) = &mut self.late else {
            return Ok(());
        };
        let verdict = check.feed(bytes).and_then(|()| {
            if last {
                check.finish().map(|_permit| ())
            } else {
                Ok(())
            }
        });
        if last || verdict.is_err() {
            self.late = None;
        }
        // A check is only made of commands that can be permitted, so every one of them can be observed.
        let observe = self
            .identity
            .as_ref()
            .is_some_and(|identity| identity.user.observe);
        match verdict {
            Err(denied) if observe => {
                *note = Some(Note::Observed(denied));
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// A request was refused whose first bytes had been forwarded, and its lane is closed. Nothing but its own reply was
    /// outstanding; what cannot be put on another lane ends the session.
    pub fn late_denied(&mut self, denied: &Denied, out: &mut BytesMut) {
        let survives = self.state.is_replayable() && self.reply_mode == ReplyMode::On;
        self.pending.clear();
        self.current = Current::None;
        if self.reply_mode == ReplyMode::On {
            let user = self.identity.as_ref().map_or("", |identity| &identity.user.name);
            encode::error(out, &denied.reply(user));
        }
        if !survives {
            self.closing = Some(Closing::LateDenial);
        }
    }
}
