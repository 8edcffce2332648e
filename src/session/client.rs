//! CLIENT REPLY and the names of a connection, in so far as the session keeps them itself.

use bytes::BytesMut;

use crate::acl::{Command, Role};
use crate::resp::{Args, encode};

use super::{Action, Effect, Expect, PinReason, Route, Session, right_arity};

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyMode {
    On,
    Off,
    /// Nothing for the next command.
    Skip,
}

impl Session {
    /// CLIENT SETNAME, SETINFO and GETNAME, which would be about a connection that is not the session's: answered here,
    /// as Redis would, where lanes are shared.
    pub(super) fn client_names(
        &mut self,
        command: &Command,
        args: Args<'_>,
        out: &mut BytesMut,
    ) -> Option<Action<'static>> {
        if self.state.multi
            || self.reply_mode != ReplyMode::On
            || !right_arity(command.arity, args.announced())
        {
            return None;
        }
        let answer = match command.role {
            Role::ClientSetName => self.state.set_name_checked(args.get(2)?),
            Role::ClientSetInfo => self.state.set_info_checked(args.get(2)?, args.get(3)?),
            Role::ClientGetName => Ok(()),
            _ => return None,
        };
        match answer {
            Ok(()) if command.role == Role::ClientGetName => {
                let mut reply = BytesMut::new();
                match self.state.name() {
                    Some(name) => encode::bulk(&mut reply, name),
                    None => encode::null(&mut reply, self.state.resp3()),
                }
                self.pending.answer(&reply, out);
                Some(Action::Answered)
            }
            Ok(()) => {
                self.pending.answer(b"+OK\r\n", out);
                Some(Action::Answered)
            }
            Err(text) => Some(self.refuse(text, out)),
        }
    }

    /// CLIENT REPLY ON | OFF | SKIP where an ACL allows it (S-12).
    pub(super) fn client_reply(&mut self, command: &'static Command, args: Args<'_>) -> Action<'static> {
        self.state.stick(PinReason::NoReplies);
        let was = self.reply_mode;
        let word = args.get(2).filter(|_| args.announced() == 3).unwrap_or_default();
        // Redis compares option words as C strings: `OFF` is one too when a NUL and more follows it.
        let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
        if word.eq_ignore_ascii_case(b"on") {
            self.reply_mode = ReplyMode::On;
            return Action::Forward {
                command,
                route: Route::Own,
                expect: Expect::Reply(Effect::None),
            };
        }
        if word.eq_ignore_ascii_case(b"off") {
            self.reply_mode = ReplyMode::Off;
        } else if word.eq_ignore_ascii_case(b"skip") {
            if was != ReplyMode::Off {
                self.reply_mode = ReplyMode::Skip;
            }
        } else {
            // A syntax error of Redis: one reply, unless replies are off or this is the one to skip.
            let expect = if was == ReplyMode::On {
                Expect::Reply(Effect::None)
            } else {
                Expect::Nothing
            };
            if was == ReplyMode::Skip {
                self.reply_mode = ReplyMode::On;
            }
            return Action::Forward {
                command,
                route: Route::Own,
                expect,
            };
        }
        Action::Forward {
            command,
            route: Route::Own,
            expect: Expect::Nothing,
        }
    }
}
