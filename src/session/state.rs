//! What a session has left behind on its upstream connection: what could be put on a new one, and what could not.

use bytes::{Bytes, BytesMut};

use crate::acl::{self, Resolved, SubKind, User};
use crate::resp::encode;

use super::listening::Listening;

/// What a successful reply changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Nothing, but the reply may be long in coming (S-14).
    Blocking,
    /// The connection works on this database now.
    Select(u32),
    /// The connection speaks this version now, and has this name if one was given.
    Hello {
        /// RESP3, else RESP2; `None`: HELLO without a version changes nothing.
        resp3: Option<bool>,
        /// SETNAME.
        name: Option<Bytes>,
    },
    /// CLIENT SETNAME.
    SetName(Bytes),
    /// CLIENT SETINFO: LIB-NAME or LIB-VER.
    SetInfo(Bytes, Bytes),
    /// The connection is a monitor now.
    Monitor,
    /// Nothing, but what comes next relies on its success.
    Fence,
    /// EXEC, DISCARD, UNWATCH: a refusal may leave the transaction open.
    EndsTransaction,
}

/// Why a session needs a lane of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinReason {
    /// MULTI is open.
    Transaction,
    /// WATCH.
    Watch,
    /// Channels, patterns or shard channels are subscribed.
    Subscribed,
    /// MONITOR.
    Monitor,
    /// CLIENT TRACKING; for good.
    Tracking,
    /// A script or function ran; for good (rule 3c).
    Script,
    /// A module's command ran; for good.
    Module,
    /// CLIENT REPLY OFF or SKIP; for good.
    NoReplies,
    /// Other connection state, such as READONLY; for good.
    ConnectionState,
    /// A reply was too big to let others wait behind it; for good.
    BigReplies,
}

impl PinReason {
    /// Every reason, for pre-created series.
    pub const ALL: [Self; 10] = [
        Self::Transaction,
        Self::Watch,
        Self::Subscribed,
        Self::Monitor,
        Self::Tracking,
        Self::Script,
        Self::Module,
        Self::NoReplies,
        Self::ConnectionState,
        Self::BigReplies,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Watch => "watch",
            Self::Subscribed => "subscribed",
            Self::Monitor => "monitor",
            Self::Tracking => "tracking",
            Self::Script => "script",
            Self::Module => "module",
            Self::NoReplies => "no_replies",
            Self::ConnectionState => "connection_state",
            Self::BigReplies => "big_replies",
        }
    }
}

/// State that Redis keeps for this session on its connection.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Replayable: database.
    db: u32,
    /// Replayable: protocol version.
    resp3: bool,
    /// Replayable: CLIENT SETNAME.
    name: Option<Bytes>,
    /// Replayable: CLIENT SETINFO, at most one value for each of the two attributes.
    info: Vec<(Bytes, Bytes)>,
    /// MULTI was forwarded and neither EXEC nor DISCARD since. Redis is the owner of the truth; see `Session::refuse`.
    pub(super) multi: bool,
    /// The rules have changed since MULTI.
    pub(super) stale: bool,
    /// WATCH since the last EXEC, DISCARD, UNWATCH.
    pub(super) watching: bool,
    /// Something that is not replayed and lasts: a script's lane, tracking, READONLY, …
    sticky: Option<PinReason>,
    /// The session's replies are too big to share a lane.
    pub(super) bulky: bool,
    /// The present lane carried a command of administration, and may not serve others after this session.
    pub(super) spent: bool,
    /// MONITOR was forwarded.
    pub(super) monitor: bool,
    /// Names of what it may be subscribed to; most sessions never are.
    pub(super) listening: Option<Box<Listening>>,
    /// Subscriptions as the last confirmations told.
    channels: i64,
    patterns: i64,
    shards: i64,
}

impl State {
    /// Whether a new connection can take over by [`State::replay`] (F-3).
    pub(super) fn is_replayable(&self) -> bool {
        self.pinned().is_none_or(|pin| pin == PinReason::BigReplies)
    }

    /// Pins the session to its lane for the rest of its life; the first reason stays.
    pub(super) fn stick(&mut self, pin: PinReason) {
        self.sticky.get_or_insert(pin);
    }

    /// Why the session needs a lane of its own.
    pub(super) fn pinned(&self) -> Option<PinReason> {
        if self.sticky.is_some() {
            self.sticky
        } else if self.multi {
            Some(PinReason::Transaction)
        } else if self.watching {
            Some(PinReason::Watch)
        } else if self.monitor {
            Some(PinReason::Monitor)
        } else if self.subscribed() {
            Some(PinReason::Subscribed)
        } else if self.bulky {
            Some(PinReason::BigReplies)
        } else {
            None
        }
    }

    /// The database.
    pub(super) fn db(&self) -> u32 {
        self.db
    }

    /// CLIENT SETNAME.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// CLIENT SETNAME as Redis judges it (`validateClientName`).
    pub(super) fn set_name_checked(&mut self, name: &[u8]) -> Result<(), &'static str> {
        if !is_printable(name) {
            return Err("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        if name.len() > MAX_NAME {
            return Err("ERR keyward: the client name is too long");
        }
        self.set_name(Bytes::copy_from_slice(name));
        Ok(())
    }

    /// CLIENT SETINFO as Redis judges it (`clientSetinfoCommand`).
    pub(super) fn set_info_checked(&self, attribute: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let known = [&b"lib-name"[..], &b"lib-ver"[..]]
            .into_iter()
            .any(|known| attribute.eq_ignore_ascii_case(known));
        if !known {
            return Err("ERR Unrecognized option in CLIENT SETINFO");
        }
        if !is_printable(value) || value.len() > MAX_NAME {
            return Err("ERR lib-name and lib-ver cannot contain spaces, newlines or special characters.");
        }
        Ok(())
    }

    /// Whether Redis would call this connection a subscriber.
    pub(super) fn subscribed(&self) -> bool {
        self.channels > 0 || self.patterns > 0 || self.shards > 0
    }

    /// Whether these rules let the client go on listening to what it listens to.
    pub(super) fn may_listen(&self, user: &User) -> bool {
        let command = |name| match acl::resolve(name, None) {
            Resolved::Command(command) => Some(command),
            Resolved::Container(_) | Resolved::Unknown => None,
        };
        if self.monitor && !command(b"monitor").is_some_and(|monitor| user.may_run(monitor)) {
            return false;
        }
        let kinds = [
            (SubKind::Channel, b"subscribe" as &[u8]),
            (SubKind::Pattern, b"psubscribe"),
            (SubKind::Shard, b"ssubscribe"),
        ];
        kinds.into_iter().all(|(kind, name)| {
            let Some(command) = command(name) else {
                return false;
            };
            let pattern = kind == SubKind::Pattern;
            self.subscriptions(kind) == 0
                || user.may_listen_to_all(command)
                || (self.listening.as_ref())
                    .and_then(|listening| listening.names(kind))
                    .is_some_and(|mut names| names.all(|name| user.may_listen(command, name, pattern)))
        })
    }

    /// Whether the connection speaks RESP3.
    pub(super) fn resp3(&self) -> bool {
        self.resp3
    }

    /// Subscriptions of one family.
    pub(super) fn subscriptions(&self, kind: SubKind) -> u32 {
        let count = match kind {
            SubKind::Channel => self.channels,
            SubKind::Pattern => self.patterns,
            SubKind::Shard => self.shards,
        };
        u32::try_from(count).unwrap_or(0)
    }

    /// Takes the count of a confirmation: channels and patterns are counted together by Redis, shard channels alone.
    pub(super) fn confirmed(&mut self, kind: SubKind, total: i64) {
        match kind {
            SubKind::Channel => self.channels = total.saturating_sub(self.patterns).max(0),
            SubKind::Pattern => self.patterns = total.saturating_sub(self.channels).max(0),
            SubKind::Shard => self.shards = total.max(0),
        }
    }

    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None | Effect::Blocking | Effect::Fence | Effect::EndsTransaction => {}
            Effect::Select(db) => self.db = db,
            Effect::Hello { resp3, name } => {
                if let Some(resp3) = resp3 {
                    self.resp3 = resp3;
                }
                if let Some(name) = name {
                    self.set_name(name);
                }
            }
            Effect::SetName(name) => self.set_name(name),
            Effect::SetInfo(attribute, value) => {
                self.info
                    .retain(|(known, _)| !known.eq_ignore_ascii_case(&attribute));
                if self.info.len() < MAX_INFO {
                    self.info.push((attribute, value));
                }
            }
            Effect::Monitor => self.monitor = true,
        }
    }

    fn set_name(&mut self, name: Bytes) {
        self.name = (!name.is_empty()).then_some(name);
    }

    /// Writes the requests that make a connection which is on this database and speaks RESP3 or not look like the last
    /// one, names included if wanted; returns their effects in order.
    pub(super) fn replay(&self, (db, resp3): (u32, bool), names: bool, out: &mut BytesMut) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.resp3 != resp3 {
            encode::request(out, &[b"HELLO", if self.resp3 { b"3" } else { b"2" }]);
            effects.push(Effect::Hello {
                resp3: Some(self.resp3),
                name: None,
            });
        }
        if !names {
            self.replay_database(db, out, &mut effects);
            return effects;
        }
        if let Some(name) = &self.name {
            encode::request(out, &[b"CLIENT", b"SETNAME", name]);
            effects.push(Effect::None);
        }
        for (attribute, value) in &self.info {
            encode::request(out, &[b"CLIENT", b"SETINFO", attribute, value]);
            effects.push(Effect::None);
        }
        self.replay_database(db, out, &mut effects);
        effects
    }

    fn replay_database(&self, db: u32, out: &mut BytesMut, effects: &mut Vec<Effect>) {
        if self.db != db {
            encode::request(out, &[b"SELECT", self.db.to_string().as_bytes()]);
            effects.push(Effect::Select(self.db));
        }
    }

    /// A session that begins on database `home`, or begins anew after RESET.
    pub(super) fn at(home: u32) -> Self {
        Self {
            db: home,
            ..Self::default()
        }
    }
}

/// Redis takes names of any printable bytes but the blank.
fn is_printable(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// The longest client name or library name that is remembered.
const MAX_NAME: usize = 1024;

/// LIB-NAME and LIB-VER; a server that learns more attributes gets them passed on, but not replayed.
const MAX_INFO: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_session_replays_nothing() {
        let mut out = BytesMut::new();
        assert!(State::at(3).replay((3, false), true, &mut out).is_empty());
        assert!(out.is_empty());
    }

    #[test]
    fn replay_restores_version_name_and_database() {
        let mut state = State::at(0);
        state.apply(Effect::Hello {
            resp3: Some(true),
            name: Some(Bytes::from_static(b"me")),
        });
        state.apply(Effect::Select(5));
        let mut out = BytesMut::new();
        assert_eq!(state.replay((0, false), true, &mut out).len(), 3);
        let expected = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n5\r\n";
        assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn channels_and_patterns_share_one_count_and_shards_have_their_own() {
        let mut state = State::at(0);
        state.confirmed(SubKind::Channel, 1);
        state.confirmed(SubKind::Pattern, 2);
        state.confirmed(SubKind::Pattern, 3);
        state.confirmed(SubKind::Shard, 1);
        assert_eq!(
            [SubKind::Channel, SubKind::Pattern, SubKind::Shard].map(|kind| state.subscriptions(kind)),
            [1, 2, 1]
        );
        state.confirmed(SubKind::Channel, 2);
        state.confirmed(SubKind::Pattern, 1);
        state.confirmed(SubKind::Pattern, 0);
        assert!(state.subscribed());
        state.confirmed(SubKind::Shard, 0);
        assert!(!state.subscribed());
    }

    #[test]
    fn only_state_that_can_be_put_on_a_new_connection_survives_it() {
        let mut state = State::at(0);
        state.apply(Effect::Select(2));
        assert!(state.is_replayable());
        state.watching = true;
        assert!(!state.is_replayable());
    }
}
