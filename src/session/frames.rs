//! Frames from upstream: whose they are, and what they mean for the session.

use bytes::BytesMut;

use crate::acl::SubKind;
use crate::resp::FrameKind;

use super::pending::{Kind, Stamp};
use super::{Effect, PinReason, Session, Surprise};

/// What becomes of the frame that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its bytes go to the client.
    Deliver,
    /// Its bytes are dropped.
    Drop,
}

/// What the frame that is passing belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Current {
    None,
    /// A push or a pub/sub message.
    Async,
    /// A confirmation that nobody asked for (a shard that moved, say).
    Unasked(SubKind),
    /// The front of the queue; `applies`: a success whose effect counts.
    Reply {
        applies: bool,
    },
    /// A confirmation at the front of the queue.
    Confirmation(SubKind),
    /// An error that ends all confirmations of the front.
    NoConfirmation,
}

impl Session {
    /// A frame from upstream begins: `word` is its error code, first word or first element.
    ///
    /// # Errors
    /// A [`Surprise`] ends the session and its lane: nobody could say whose reply this is (rule 9).
    pub fn frame_begins(&mut self, kind: FrameKind, word: &[u8]) -> Result<Fate, Surprise> {
        let subscriber = self.state.subscribed() && !self.state.resp3();
        let confirmation = confirmation_kind(word);
        if kind == FrameKind::Push || (kind == FrameKind::Array && subscriber && is_message(word)) {
            self.current = match (confirmation, self.pending.front()) {
                (
                    Some((kind, unsubscribe)),
                    Some(Kind::Confirmations {
                        kind: k,
                        unsubscribe: u,
                        ..
                    }),
                ) if *k == kind && *u == unsubscribe => Current::Confirmation(kind),
                (Some((kind, _)), _) => self.passes(Current::Unasked(kind)),
                (None, _) => self.passes(Current::Async),
            };
            return Ok(Fate::Deliver);
        }
        if kind == FrameKind::Error && word == b"NOAUTH" {
            return Err(Surprise::SessionLost);
        }
        let applies = !kind.is_error() && word != b"QUEUED";
        let Some(front) = self.pending.front() else {
            if self.state.monitor && kind == FrameKind::Simple {
                self.current = self.passes(Current::Async);
                return Ok(Fate::Deliver);
            }
            if let (Some((kind, _)), true, FrameKind::Array) = (confirmation, subscriber, kind) {
                self.current = self.passes(Current::Unasked(kind));
                return Ok(Fate::Deliver);
            }
            return Err(Surprise::UnaskedReply);
        };
        match front {
            Kind::Reply(Effect::EndsTransaction) if kind.is_error() && word != b"EXECABORT" => {
                // Redis may still be inside MULTI or watching (its own ACL refused MULTI or DISCARD, say).
                self.state.stick(PinReason::Transaction);
                self.current = Current::Reply { applies };
                Ok(Fate::Deliver)
            }
            Kind::Plain(_) | Kind::Reply(_) => {
                self.current = Current::Reply { applies };
                Ok(Fate::Deliver)
            }
            Kind::Replace(_) => {
                self.current = Current::Reply { applies: false };
                Ok(Fate::Drop)
            }
            Kind::Swallow(effect) => {
                if !applies && *effect != Effect::None {
                    return Err(Surprise::ReplayRefused);
                }
                self.current = Current::Reply { applies };
                Ok(Fate::Drop)
            }
            Kind::Confirmations {
                kind: expected,
                unsubscribe,
                ..
            } => match confirmation {
                Some((found, u)) if kind == FrameKind::Array && found == *expected && u == *unsubscribe => {
                    self.current = Current::Confirmation(found);
                    Ok(Fate::Deliver)
                }
                _ if kind.is_error() => {
                    self.current = Current::NoConfirmation;
                    Ok(Fate::Deliver)
                }
                _ => Err(Surprise::WrongReply),
            },
            // Answers of ours never stay at the front.
            Kind::Local(_) => Err(Surprise::UnaskedReply),
        }
    }

    /// A frame that settles nothing passes: answers of ours wait for its end.
    fn passes(&mut self, current: Current) -> Current {
        self.pending.set_passing(true);
        current
    }

    /// The frame has passed whole; answers of ours that it held up go to `out`. Returns the stamp of the request that it
    /// settled. `last_integer` is the count in a confirmation.
    pub fn frame_ends(&mut self, last_integer: Option<i64>, out: &mut BytesMut) -> Option<Stamp> {
        self.pending.set_passing(false);
        let stamp = match std::mem::replace(&mut self.current, Current::None) {
            Current::None | Current::Async => None,
            Current::Unasked(kind) => {
                self.state.confirmed(kind, last_integer.unwrap_or(0));
                None
            }
            Current::Reply { applies } => self.pending.settle().map(|settled| {
                if let Some(instead) = settled.instead {
                    out.extend_from_slice(&instead);
                } else if applies {
                    self.state.apply(settled.effect);
                } else if settled.effect == Effect::Monitor {
                    self.state.monitor = false;
                }
                settled.stamp
            }),
            Current::NoConfirmation => self.pending.settle().map(|settled| settled.stamp),
            Current::Confirmation(kind) => {
                let before = self.state.subscriptions(kind);
                self.state.confirmed(kind, last_integer.unwrap_or(0));
                match self.pending.front() {
                    Some(Kind::Confirmations { left, .. }) => {
                        let remaining = left.unwrap_or_else(|| before.max(1)).saturating_sub(1);
                        *left = Some(remaining);
                        if remaining > 0 {
                            None
                        } else {
                            self.pending.settle().map(|settled| settled.stamp)
                        }
                    }
                    _ => None,
                }
            }
        };
        self.pending.release(out);
        self.pending.shrink();
        stamp
    }
}

/// `subscribe` and its kin as the first element of a confirmation; the flag says unsubscribe.
fn confirmation_kind(word: &[u8]) -> Option<(SubKind, bool)> {
    Some(match word {
        b"subscribe" => (SubKind::Channel, false),
        b"unsubscribe" => (SubKind::Channel, true),
        b"psubscribe" => (SubKind::Pattern, false),
        b"punsubscribe" => (SubKind::Pattern, true),
        b"ssubscribe" => (SubKind::Shard, false),
        b"sunsubscribe" => (SubKind::Shard, true),
        _ => return None,
    })
}

/// Messages that a RESP2 subscriber receives unasked.
fn is_message(word: &[u8]) -> bool {
    matches!(word, b"message" | b"pmessage" | b"smessage")
}
