//! The verdict on one request.

use super::access::Access;
use super::keys::{Part, Walk};
use super::{Command, Denied, DenyReason, KeyFlags, Permit, Role, User};
use crate::resp::Args;

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may be forwarded.
    Permitted(Permit),
    /// It may not.
    Denied(Denied),
    /// Only its head is here, and what it hangs on comes behind: ask again with more, or see [`LateCheck`](super::LateCheck).
    Open,
}

/// A key or channel that a request names, for displays and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A key, and what is done with it.
    Key(KeyFlags),
    /// A channel.
    Channel,
}

/// What one access says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Permitted,
    /// And the argument.
    Denied(DenyReason, u32),
    Open,
}

impl User {
    /// Decides about one request.
    ///
    /// `command` is what [`resolve`](super::resolve) found. A container itself (`CONFIG` alone or with an unknown subcommand) can be
    /// checked too: refused here means that the user is not even told which subcommands exist (C-11).
    /// `whole` is false when `args` hold only the head of a longer request: a preset's rule about arguments that cannot
    /// be seen refuses, keys and channels that cannot be seen leave the decision open.
    #[inline]
    pub fn decide(&self, command: &Command, args: Args<'_>, whole: bool) -> Decision {
        let mut outcome = if matches!(command.role, Role::Replication | Role::Http) {
            Outcome::Denied(DenyReason::Command, 0)
        } else {
            self.access.decide(command, args, whole)
        };
        if outcome != Outcome::Permitted && !self.selectors.is_empty() {
            outcome = self.ask_selectors(outcome, command, args, whole);
        }
        if self.databases.is_some()
            && outcome != Outcome::Open
            && !matches!(outcome, Outcome::Denied(..))
            && let Some(argument) = self.refused_database(command, args)
        {
            outcome = Outcome::Denied(DenyReason::Database, argument);
        }
        match outcome {
            Outcome::Permitted => Decision::Permitted(Permit(())),
            Outcome::Denied(reason, argument) => Decision::Denied(Denied {
                command: command.name,
                reason,
                argument,
            }),
            Outcome::Open => Decision::Open,
        }
    }

    /// As [`User::decide`], where what cannot be seen is refused.
    pub fn check(&self, command: &Command, args: Args<'_>, whole: bool) -> Result<Permit, Denied> {
        match self.decide(command, args, whole) {
            Decision::Permitted(permit) => Ok(permit),
            Decision::Denied(denied) => Err(denied),
            Decision::Open => Err(Denied {
                command: command.name,
                reason: unseen(command),
                argument: 0,
            }),
        }
    }

    /// What one access permits as a whole is permitted; otherwise the refusal that says most counts
    /// (`ACLCheckAllUserCommandPerm`).
    #[cold]
    fn ask_selectors(&self, first: Outcome, command: &Command, args: Args<'_>, whole: bool) -> Outcome {
        if matches!(command.role, Role::Replication | Role::Http) {
            return first;
        }
        self.selectors.iter().fold(first, |so_far, selector| {
            so_far.or(selector.decide(command, args, whole))
        })
    }

    /// The argument that names a database which the user may not use.
    fn refused_database(&self, command: &Command, args: Args<'_>) -> Option<u32> {
        let databases = self.databases.as_ref()?;
        refused_database(command, args, &mut |number| databases.contains(&number))
    }

    /// Whether some request of this command could be permitted. For displays and checks at start, not for decisions.
    pub fn may_run(&self, command: &Command) -> bool {
        !matches!(command.role, Role::Replication | Role::Http)
            && self.accesses().any(|access| access.may_run(command))
    }

    /// Whether the user may listen to a channel with this command: what a session listens to is judged again after a
    /// reload.
    pub fn may_listen(&self, command: &Command, channel: &[u8], pattern: bool) -> bool {
        self.accesses()
            .any(|access| access.permits(command) && access.allows_channel(channel, pattern))
    }

    /// Whether the user may listen to every channel with this command.
    pub fn may_listen_to_all(&self, command: &Command) -> bool {
        self.accesses()
            .any(|access| access.permits(command) && access.all_channels)
    }

    /// Whether the user may use this database.
    pub fn may_use_database(&self, database: u32) -> bool {
        self.databases
            .as_ref()
            .is_none_or(|databases| databases.contains(&database))
    }

    /// The rules of the user, then those in parentheses.
    pub(super) fn accesses(&self) -> impl Iterator<Item = &Access> {
        std::iter::once(&self.access).chain(&self.selectors)
    }
}

impl Access {
    /// What these rules alone say about a request.
    #[inline]
    pub(super) fn decide(&self, command: &Command, args: Args<'_>, whole: bool) -> Outcome {
        if !self.permits(command) {
            return Outcome::Denied(DenyReason::Command, 0);
        }
        if !self.arguments.is_empty() && self.restricts(command.id, args, whole) {
            return Outcome::Denied(DenyReason::Argument, 0);
        }
        if command.role == Role::ClientTracking
            && !self.reads_all_keys()
            && let Some(at) = broadcasts(args, whole)
        {
            return Outcome::Denied(DenyReason::Key, at);
        }
        let limited =
            !self.all_keys && command.touches_keys() || !self.all_channels && command.has_channels();
        if limited {
            self.decide_names(command, args)
        } else {
            Outcome::Permitted
        }
    }

    fn decide_names(&self, command: &Command, args: Args<'_>) -> Outcome {
        let mut walk = Walk::new(command.keys, command.channels, args.announced());
        let mut judge = Judge::default();
        for argument in args {
            if walk.is_done() {
                break;
            }
            let at = walk.at();
            match walk.take(Some(argument)) {
                Ok(part) => judge.hear(self, part, at, argument),
                Err(_) => judge.refuse(unseen(command), at),
            }
            if judge.refused.is_some() || judge.is_settled(&walk) {
                break;
            }
        }
        judge.outcome(self, &walk)
    }
}

/// Where CLIENT TRACKING asks for the names of all keys that change (K-4), which Redis's own ACL does not see; the end of
/// what can be seen of a longer request counts as asking.
#[cold]
fn broadcasts(args: Args<'_>, whole: bool) -> Option<u32> {
    let mut at = 0;
    for argument in args {
        if at >= 2 && super::keys::is(argument, "bcast") {
            return Some(at);
        }
        at += 1;
    }
    (!whole || at < args.announced()).then_some(at)
}

impl Outcome {
    /// Of two accesses.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Permitted, _) | (_, Self::Permitted) => Self::Permitted,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::Denied(one, at), Self::Denied(two, other_at)) => {
                if (rank(two), other_at) > (rank(one), at) {
                    other
                } else {
                    self
                }
            }
        }
    }
}

/// What one access has found out about the names in a request so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge {
    pub(super) refused: Option<(DenyReason, u32)>,
    /// Of [`Part::Either`]: whether either use is permitted, and where it is.
    either: (bool, bool, u32),
    /// Of the last [`Part::Last`].
    last: (bool, u32),
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            refused: None,
            either: (true, true, 0),
            last: (true, 0),
        }
    }
}

impl Judge {
    pub(super) fn hear(&mut self, access: &Access, part: Part, at: u32, argument: &[u8]) {
        match part {
            Part::Other => {}
            Part::Key(flags) => {
                if !access.allows_key(argument, flags) {
                    self.refuse(DenyReason::Key, at);
                }
            }
            Part::Either(first, second) => {
                let second = second.is_none_or(|second| access.allows_key(argument, second));
                self.either = (access.allows_key(argument, first), second, at);
            }
            Part::Last(flags) => self.last = (access.allows_key(argument, flags), at),
            Part::Channel { pattern } => {
                if !access.allows_channel(argument, pattern) {
                    self.refuse(DenyReason::Channel, at);
                }
            }
        }
    }

    /// The first refusal stays.
    pub(super) fn refuse(&mut self, reason: DenyReason, at: u32) {
        self.refused.get_or_insert((reason, at));
    }

    /// Whether no further argument can change what it comes to.
    fn is_settled(&self, walk: &Walk) -> bool {
        walk.is_done() || walk.only_choice_is_open() && self.either.0 == self.either.1
    }

    /// What it comes to, if the walk has got far enough.
    pub(super) fn outcome(&self, access: &Access, walk: &Walk) -> Outcome {
        if let Some((reason, at)) = self.refused {
            return Outcome::Denied(reason, at);
        }
        if !self.is_settled(walk) {
            return Outcome::Open;
        }
        let (first, second, at) = self.either;
        let chosen = if walk.chooses_second() { second } else { first };
        if !chosen {
            return Outcome::Denied(DenyReason::Key, at);
        }
        if !self.last.0 {
            return Outcome::Denied(DenyReason::Key, self.last.1);
        }
        if walk.reads_all() && !access.reads_all_keys() {
            return Outcome::Denied(DenyReason::Key, 1);
        }
        Outcome::Permitted
    }
}

/// The argument that names a database which is not allowed. What is not understood is refused; so is FLUSHALL, which means
/// all databases.
pub(super) fn refused_database(
    command: &Command,
    args: Args<'_>,
    allowed: &mut dyn FnMut(u32) -> bool,
) -> Option<u32> {
    let mut refused = |at: u32| {
        let number = args.get(at as usize).and_then(crate::resp::parse_integer);
        let allowed = number
            .and_then(|number| u32::try_from(number).ok())
            .is_some_and(&mut *allowed);
        (!allowed).then_some(at)
    };
    match command.name {
        "select" => refused(1),
        "move" => refused(2),
        "swapdb" => refused(1).or_else(|| refused(2)),
        "copy" => {
            let mut at = 3;
            while at < args.announced() {
                match args.get(at as usize) {
                    Some(word) if super::keys::is(word, "replace") => at += 1,
                    Some(word) if super::keys::is(word, "db") && refused(at + 1).is_none() => at += 2,
                    _ => return Some(at),
                }
            }
            None
        }
        "flushall" => Some(0),
        _ => None,
    }
}

/// The reason for refusing names that cannot be seen.
pub(super) fn unseen(command: &Command) -> DenyReason {
    if command.has_channels() {
        DenyReason::Channel
    } else {
        DenyReason::Key
    }
}

/// Redis reports the refusal that came furthest.
fn rank(reason: DenyReason) -> u8 {
    match reason {
        DenyReason::Command => 0,
        DenyReason::Argument => 1,
        DenyReason::Key => 2,
        DenyReason::Channel => 3,
        DenyReason::Database => 4,
    }
}

/// Every key and channel that a request names, with its position, in order of position. `None`: not understood, or not all there.
///
/// Decisions do not go through here; it is what `COMMAND GETKEYSANDFLAGS` is to Redis. A key whose use a later argument tells has
/// the use that it told, and of several STORE the last is given.
pub fn names(command: &Command, args: Args<'_>) -> Option<Vec<(u32, Named)>> {
    let mut walk = Walk::new(command.keys, command.channels, args.announced());
    let mut found = Vec::new();
    let mut either = None;
    let mut last = None;
    for argument in args {
        if walk.is_done() {
            break;
        }
        let at = walk.at();
        match walk.take(Some(argument)).ok()? {
            Part::Other => {}
            Part::Key(flags) => found.push((at, Named::Key(flags))),
            Part::Either(first, second) => either = Some((at, first, second)),
            Part::Last(flags) => last = Some((at, Named::Key(flags))),
            Part::Channel { .. } => found.push((at, Named::Channel)),
        }
    }
    if !walk.is_done() {
        return None;
    }
    if let Some((at, first, second)) = either {
        let flags = if walk.chooses_second() {
            second
        } else {
            Some(first)
        };
        found.extend(flags.map(|flags| (at, Named::Key(flags))));
    }
    found.extend(last);
    found.sort_by_key(|(at, _)| *at);
    Some(found)
}
