//! Who am I: `ACL WHOAMI` and our own `KEYWARD WHOAMI`, answered here because Redis knows only whom we log in as.

use bytes::BytesMut;

use crate::acl::User;
use crate::auth::{Identity, Proof};
use crate::resp::{Args, encode};

use super::refusal::{self, MONITORING, POISON};
use super::{Action, Expect, ReplyMode, Session};

/// Our own command. It is in no table and no category: whoever has logged in may use it, whatever the rules say.
pub(super) const OURS: &[u8] = b"keyward";

impl Session {
    /// KEYWARD WHOAMI.
    pub(super) fn ours(&mut self, args: Args<'_>, out: &mut BytesMut) -> Action<'static> {
        match args.get(1) {
            None => self.refuse(&refusal::arity("keyward"), out),
            Some(sub) if !sub.eq_ignore_ascii_case(b"whoami") => {
                self.refuse(&refusal::unknown_subcommand("keyward", Some(sub)), out)
            }
            Some(_) if args.announced() != 2 => self.refuse(&refusal::arity("keyward|whoami"), out),
            Some(_) => self.answer_here("keyward|whoami", out, |session, identity| {
                let mut reply = BytesMut::new();
                let rule = may_do(&identity.user);
                let proof = shown_by(identity.proof);
                let pairs: [(&str, &str); 4] = [
                    ("user", &identity.user.name),
                    ("identified-by", &proof),
                    ("listener", &session.listener),
                    ("rule", &rule),
                ];
                encode::map(&mut reply, &pairs, session.state.resp3());
                reply
            }),
        }
    }

    /// ACL WHOAMI: the client's own name, not the one that we log in to Redis with.
    pub(super) fn acl_whoami(&mut self, args: Args<'_>, out: &mut BytesMut) -> Action<'static> {
        if args.announced() != 2 {
            return self.refuse(&refusal::arity("acl|whoami"), out);
        }
        self.answer_here("acl|whoami", out, |_, identity| {
            let mut reply = BytesMut::new();
            encode::bulk(&mut reply, identity.user.name.as_bytes());
            reply
        })
    }

    /// An answer of ours in place of Redis's.
    fn answer_here(
        &mut self,
        name: &str,
        out: &mut BytesMut,
        reply: impl FnOnce(&Self, &Identity) -> BytesMut,
    ) -> Action<'static> {
        if self.state.monitor {
            return self.refuse(MONITORING, out);
        }
        if self.state.multi {
            return self.refuse(&refusal::not_in_multi(name), out);
        }
        // Whether it is a subscriber, and which protocol it speaks, shows when everything before has been answered.
        if !self.pending.is_empty() {
            return Action::Wait;
        }
        if self.state.subscribed() && !self.state.resp3() {
            return self.refuse(&refusal::subscribed(name), out);
        }
        match self.reply_mode {
            ReplyMode::Off => {}
            ReplyMode::Skip => {
                // Redis waits for the command whose reply it skips.
                self.reply_mode = ReplyMode::On;
                return Action::Substitute {
                    request: bytes::Bytes::from_static(POISON),
                    expect: Expect::Nothing,
                };
            }
            ReplyMode::On => {
                if let Some(identity) = &self.identity {
                    let reply = reply(self, identity);
                    self.pending.answer(&reply, out);
                }
            }
        }
        Action::Answered
    }
}

/// For people.
fn shown_by(proof: Proof) -> String {
    match proof {
        // People count from one; the first line of a file is the first password.
        Proof::Password(position) => format!("password {}", position.saturating_add(1)),
        Proof::AnyPassword => "any password".to_owned(),
        Proof::Certificate => "certificate".to_owned(),
        Proof::UnixUser => "unix user".to_owned(),
        Proof::Open => "no login".to_owned(),
    }
}

/// The user's rule without digests of passwords, which could be guessed at.
fn may_do(user: &User) -> String {
    let mut user = user.clone();
    user.passwords.clear();
    user.to_rule()
}
