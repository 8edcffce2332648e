//! What a session has left behind on its upstream connection: what could be put on a new one, and what could not.

use bytes::{Bytes, BytesMut};

use crate::acl::SubKind;
use crate::resp::encode;

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
    /// Something that is not replayed: a script's lane, tracking, READONLY, …
    pub(super) sticky: bool,
    /// MONITOR was forwarded.
    pub(super) monitor: bool,
    /// Subscriptions as the last confirmations told.
    channels: i64,
    patterns: i64,
    shards: i64,
}

impl State {
    /// Whether a new connection can take over by [`State::replay`] (F-3).
    pub(super) fn is_replayable(&self) -> bool {
        !(self.multi || self.watching || self.sticky || self.monitor || self.subscribed())
    }

    /// Whether Redis would call this connection a subscriber.
    pub(super) fn subscribed(&self) -> bool {
        self.channels > 0 || self.patterns > 0 || self.shards > 0
    }

    /// The commands that the client has begun to listen with.
    pub(super) fn listens_with(&self) -> impl Iterator<Item = &'static [u8]> {
        [
            (self.channels > 0, b"subscribe" as &[u8]),
            (self.patterns > 0, b"psubscribe"),
            (self.shards > 0, b"ssubscribe"),
            (self.monitor, b"monitor"),
        ]
        .into_iter()
        .filter_map(|(listens, name)| listens.then_some(name))
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
            Effect::None | Effect::Blocking => {}
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

    /// Writes the requests that make a fresh connection (on database `home`) look like the last one; returns their effects in order.
    pub(super) fn replay(&self, home: u32, out: &mut BytesMut) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.resp3 {
            encode::request(out, &[b"HELLO", b"3"]);
            effects.push(Effect::Hello {
                resp3: Some(true),
                name: None,
            });
        }
        if let Some(name) = &self.name {
            encode::request(out, &[b"CLIENT", b"SETNAME", name]);
            effects.push(Effect::None);
        }
        for (attribute, value) in &self.info {
            encode::request(out, &[b"CLIENT", b"SETINFO", attribute, value]);
            effects.push(Effect::None);
        }
        if self.db != home {
            encode::request(out, &[b"SELECT", self.db.to_string().as_bytes()]);
            effects.push(Effect::Select(self.db));
        }
        effects
    }

    /// A session that begins on database `home`, or begins anew after RESET.
    pub(super) fn at(home: u32) -> Self {
        Self {
            db: home,
            ..Self::default()
        }
    }
}

/// LIB-NAME and LIB-VER; a server that learns more attributes gets them passed on, but not replayed.
const MAX_INFO: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_session_replays_nothing() {
        let mut out = BytesMut::new();
        assert!(State::at(3).replay(3, &mut out).is_empty());
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
        assert_eq!(state.replay(0, &mut out).len(), 3);
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
