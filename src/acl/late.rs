//! The verdict on a request that is too long to be held: its arguments are judged one by one while they pass.

use std::sync::Arc;

use super::decide::{Judge, Outcome, unseen};
use super::keys::Walk;
use super::{Command, Denied, Permit, User};
use crate::resp::{ArgFeed, ArgSink, Args};

/// Follows one request from its first byte to its last. Keeps no more of it than one key.
#[derive(Debug)]
pub struct LateCheck {
    feed: ArgFeed,
    judging: Judging,
}

#[derive(Debug)]
struct Judging {
    user: Arc<User>,
    command: &'static Command,
    walk: Walk,
    /// Position among [`User::accesses`], and what it has found.
    judges: Vec<(usize, Judge)>,
    /// What the others said to the head.
    others: Outcome,
}

impl LateCheck {
    /// A check of the request whose head left the decision [open](super::Decision::Open); it has taken the head's bytes.
    ///
    /// # Errors
    /// The head alone is refused.
    pub fn new(user: Arc<User>, command: &'static Command, head: Args<'_>) -> Result<Self, Denied> {
        let mut others = None;
        let mut judges = Vec::new();
        for (position, access) in user.accesses().enumerate() {
            match access.decide(command, head, false) {
                Outcome::Open => judges.push((position, Judge::default())),
                outcome => others = Some(others.map_or(outcome, |others: Outcome| others.or(outcome))),
            }
        }
        let others = others.unwrap_or(Outcome::Denied(super::DenyReason::Command, 0));
        let mut check = Self {
            feed: ArgFeed::default(),
            judging: Judging {
                walk: Walk::new(command.keys, command.channels, head.announced()),
                user,
                command,
                judges,
                others,
            },
        };
        check.feed(head.bytes())?;
        Ok(check)
    }

    /// Takes further bytes of the request, as they are.
    ///
    /// # Errors
    /// It is refused: neither these bytes nor any that follow may be forwarded.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Denied> {
        self.feed.feed(bytes, &mut self.judging);
        match self.judging.outcome() {
            Outcome::Denied(reason, argument) => Err(self.judging.denied(reason, argument)),
            Outcome::Permitted | Outcome::Open => Ok(()),
        }
    }

    /// The last byte has been taken.
    ///
    /// # Errors
    /// It is refused: the last bytes may not be forwarded.
    pub fn finish(&self) -> Result<Permit, Denied> {
        match self.judging.outcome() {
            Outcome::Permitted => Ok(Permit(())),
            Outcome::Denied(reason, argument) => Err(self.judging.denied(reason, argument)),
            Outcome::Open => Err(self.judging.denied(unseen(self.judging.command), 0)),
        }
    }
}

impl Judging {
    fn outcome(&self) -> Outcome {
        let accesses = self.judges.iter().filter_map(|(position, judge)| {
            let access = self.user.accesses().nth(*position)?;
            Some(judge.outcome(access, &self.walk))
        });
        accesses.fold(self.others, Outcome::or)
    }

    fn denied(&self, reason: super::DenyReason, argument: u32) -> Denied {
        Denied {
            command: self.command.name,
            reason,
            argument,
        }
    }
}

impl ArgSink for Judging {
    fn wants(&mut self, length: usize) -> bool {
        if !self.walk.wants() {
            return false;
        }
        if length > MOST_NAME {
            let (at, reason) = (self.walk.at(), unseen(self.command));
            for (_, judge) in &mut self.judges {
                judge.refuse(reason, at);
            }
        }
        length <= MOST_NAME
    }

    fn take(&mut self, argument: Option<&[u8]>) {
        if self.walk.is_done() {
            return;
        }
        let at = self.walk.at();
        let part = self.walk.take(argument);
        for (position, judge) in &mut self.judges {
            let Some(access) = self.user.accesses().nth(*position) else {
                continue;
            };
            match part {
                Ok(part) => judge.hear(access, part, at, argument.unwrap_or_default()),
                Err(_) => judge.refuse(unseen(self.command), at),
            }
        }
    }
}

/// The longest argument that is kept until it has come whole; a longer key or channel is refused, a longer value is of no concern.
pub(super) const MOST_NAME: usize = 1024 * 1024;
