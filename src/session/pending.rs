//! The queue that matches replies to requests.
//!
//! Every request that a client sends has exactly one place in this queue, in the order of the requests, whether Redis
//! answers it or we do. Replies from upstream settle the front; our own answers leave when they reach the front. That
//! is the whole secret of never answering out of step (rules 7 and 9).
//!
//! ```text
//!  requests ──► [ 3 replies ][ ours: NOPERM ][ 1 reply: SELECT ][ 2 confirmations ] ◄── upstream frames settle the front
//! ```
//!
//! Plain replies with one stamp are one entry with a count, so a deep pipeline costs a number, not a list.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::acl::SubKind;

use super::state::Effect;

/// A moment as the caller counts it (nanoseconds since its own epoch); the session only hands it back.
pub type Stamp = u64;

/// What a request brings from upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// One reply, and what a successful one means for the session.
    Reply(Effect),
    /// One reply, which the client gets these bytes for (a refused request that Redis had to see as an error).
    Replace(Bytes),
    /// Confirmations of a command of the SUBSCRIBE family.
    Confirmations {
        /// Which of the three families.
        kind: SubKind,
        /// (P|S)UNSUBSCRIBE.
        unsubscribe: bool,
        /// `None`: one for each subscription there is then, or one if there is none.
        count: Option<u32>,
    },
    /// A reply to a request of our own, which must succeed, and then one that may be long in coming.
    Fenced,
    /// No reply at all (CLIENT REPLY OFF and SKIP).
    Nothing,
}

/// One place in the queue.
#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    kind: Kind,
}

/// What settles a place.
#[derive(Debug)]
pub(super) enum Kind {
    /// So many plain replies.
    Plain(u32),
    /// One reply with an effect.
    Reply(Effect),
    /// One reply that is replaced.
    Replace(Bytes),
    /// One reply to a request of our own, which the client never sees.
    Swallow(Effect),
    /// Confirmations; `left` is unknown until the place is at the front.
    Confirmations {
        kind: SubKind,
        unsubscribe: bool,
        left: Option<u32>,
    },
    /// Our own answer.
    Local(Bytes),
}

/// A place that has been settled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// Of its request.
    pub(super) stamp: Stamp,
    /// What a success means.
    pub(super) effect: Effect,
    /// What the client gets instead of the reply.
    pub(super) instead: Option<Bytes>,
}

/// The queue of requests that wait for their answers. Bounded by [`super::MAX_OUTSTANDING`]: the session asks for no
/// more requests above it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    /// Requests in `entries`, counting each plain reply.
    outstanding: usize,
    /// Of these, how many may block upstream (S-14).
    blocking: usize,
    /// A frame without a place, such as a message, is passing: nothing of ours may get into it.
    passing: bool,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing is outstanding and no message is on its way to the client.
    pub(super) fn is_at_rest(&self) -> bool {
        self.entries.is_empty() && !self.passing
    }

    /// A frame without a place begins or has ended.
    pub(super) fn set_passing(&mut self, passing: bool) {
        self.passing = passing;
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(super) fn has_blocking(&self) -> bool {
        self.blocking > 0
    }

    /// Adds the place of a request that was forwarded.
    pub(super) fn expect(&mut self, expect: Expect, stamp: Stamp) {
        let kind = match expect {
            Expect::Nothing => return,
            Expect::Reply(Effect::None) => {
                self.outstanding += 1;
                if let Some(Entry {
                    stamp: last,
                    kind: Kind::Plain(count),
                }) = self.entries.back_mut()
                    && *last == stamp
                {
                    *count += 1;
                    return;
                }
                self.entries.push_back(Entry {
                    stamp,
                    kind: Kind::Plain(1),
                });
                return;
            }
            Expect::Reply(effect) => {
                if matches!(effect, Effect::Blocking) {
                    self.blocking += 1;
                }
                Kind::Reply(effect)
            }
            Expect::Fenced => {
                self.swallow(Effect::Fence);
                return self.expect(Expect::Reply(Effect::Blocking), stamp);
            }
            Expect::Replace(bytes) => Kind::Replace(bytes),
            Expect::Confirmations {
                kind,
                unsubscribe,
                count,
            } => Kind::Confirmations {
                kind,
                unsubscribe,
                left: count,
            },
        };
        self.push(kind, stamp);
    }

    /// Adds the place of a request of our own.
    pub(super) fn swallow(&mut self, effect: Effect) {
        self.push(Kind::Swallow(effect), 0);
    }

    /// Adds our own answer, or writes it at once when nothing is ahead of it.
    pub(super) fn answer(&mut self, answer: &[u8], out: &mut BytesMut) {
        if self.is_at_rest() {
            out.extend_from_slice(answer);
        } else {
            self.push(Kind::Local(Bytes::copy_from_slice(answer)), 0);
        }
    }

    fn push(&mut self, kind: Kind, stamp: Stamp) {
        self.outstanding += 1;
        self.entries.push_back(Entry { stamp, kind });
    }

    /// Forgets every place: their lane was closed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the next reply from upstream settles.
    pub(super) fn front(&mut self) -> Option<&mut Kind> {
        self.entries.front_mut().map(|entry| &mut entry.kind)
    }

    /// Settles one reply of the front place.
    pub(super) fn settle(&mut self) -> Option<Settled> {
        let front = self.entries.front_mut()?;
        let stamp = front.stamp;
        self.outstanding = self.outstanding.saturating_sub(1);
        if let Kind::Plain(count) = &mut front.kind
            && *count > 1
        {
            *count -= 1;
            return Some(Settled {
                stamp,
                effect: Effect::None,
                instead: None,
            });
        }
        let (effect, instead) = match self.entries.pop_front()?.kind {
            Kind::Reply(effect) | Kind::Swallow(effect) => (effect, None),
            Kind::Replace(instead) => (Effect::None, Some(instead)),
            Kind::Plain(_) | Kind::Confirmations { .. } | Kind::Local(_) => (Effect::None, None),
        };
        if matches!(effect, Effect::Blocking) {
            self.blocking = self.blocking.saturating_sub(1);
        }
        Some(Settled {
            stamp,
            effect,
            instead,
        })
    }

    /// Writes our own answers that have come to the front.
    pub(super) fn release(&mut self, out: &mut BytesMut) {
        while let Some(Entry {
            kind: Kind::Local(answer),
            ..
        }) = self.entries.front()
        {
            out.extend_from_slice(answer);
            self.entries.pop_front();
            self.outstanding = self.outstanding.saturating_sub(1);
        }
    }

    /// Whether every place is settled by plain replies: no answer of ours waits among them.
    pub(super) fn is_plain(&self) -> bool {
        match (self.entries.front(), self.entries.len()) {
            (None, _) => true,
            (Some(entry), 1) => matches!(entry.kind, Kind::Plain(_)),
            _ => self
                .entries
                .iter()
                .all(|entry| matches!(entry.kind, Kind::Plain(_))),
        }
    }

    /// Gives memory back when the queue has been deep and is empty now.
    pub(super) fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > KEPT_ENTRIES {
            self.entries = VecDeque::new();
        }
    }
}

/// Places an idle session keeps allocated: the first growth step of a `VecDeque`.
const KEPT_ENTRIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_replies_of_one_batch_are_one_entry() {
        let mut pending = Pending::default();
        for _ in 0..1000 {
            pending.expect(Expect::Reply(Effect::None), 7);
        }
        assert_eq!(pending.entries.len(), 1);
        assert_eq!(pending.outstanding(), 1000);
        for _ in 0..1000 {
            assert_eq!(pending.settle().map(|settled| settled.stamp), Some(7));
        }
        assert!(pending.is_empty());
        assert_eq!(pending.settle(), None);
    }

    #[test]
    fn an_answer_of_ours_waits_for_the_replies_before_it() {
        let mut pending = Pending::default();
        let mut out = BytesMut::new();
        pending.answer(b"+first\r\n", &mut out);
        assert_eq!(&out[..], b"+first\r\n");
        out.clear();
        pending.expect(Expect::Reply(Effect::None), 1);
        pending.answer(b"-a\r\n", &mut out);
        pending.answer(b"-b\r\n", &mut out);
        pending.expect(Expect::Reply(Effect::None), 1);
        assert!(out.is_empty());
        pending.settle();
        pending.release(&mut out);
        assert_eq!(&out[..], b"-a\r\n-b\r\n");
        assert_eq!(pending.outstanding(), 1);
    }

    #[test]
    fn an_answer_of_ours_waits_for_the_end_of_a_message() {
        let mut pending = Pending::default();
        let mut out = BytesMut::new();
        pending.set_passing(true);
        pending.answer(b"-a\r\n", &mut out);
        assert!(out.is_empty() && !pending.is_at_rest());
        pending.set_passing(false);
        pending.release(&mut out);
        assert_eq!(&out[..], b"-a\r\n");
        assert!(pending.is_at_rest());
    }

    #[test]
    fn blocking_requests_are_counted_until_they_are_settled() {
        let mut pending = Pending::default();
        pending.expect(Expect::Reply(Effect::None), 1);
        pending.expect(Expect::Reply(Effect::Blocking), 1);
        assert!(pending.has_blocking());
        pending.settle();
        assert!(pending.has_blocking());
        pending.settle();
        assert!(!pending.has_blocking());
    }

    #[test]
    fn a_request_without_reply_has_no_place() {
        let mut pending = Pending::default();
        pending.expect(Expect::Nothing, 1);
        assert!(pending.is_empty());
    }
}
