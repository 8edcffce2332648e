//! What must come back, and the look at what does.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::World;
use crate::session::Stop;
use crate::store::Change;
use crate::store::Store;
use crate::store::bulk;
use crate::support::client::Value;

pub(crate) struct Sent {
    pub(crate) what: String,
    pub(crate) want: Want,
    pub(crate) change: Option<Change>,
    pub(crate) blocks: bool,
}

/// What a reply must be.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    Is(Value),
    /// An error that begins so.
    Error(&'static str),
    /// An unknown command's error, which must quote this.
    Quotes(String),
    /// HELLO's, with this version.
    Hello(i64),
    /// The number of a connection to Redis; `scripted`: it has run a script of session `owner`.
    Id {
        owner: usize,
        scripted: bool,
        asked: Instant,
    },
    /// `+OK`, or an error of a Redis that is older than the command.
    OkOrUnknown,
    /// Any, for [`Session::caught`].
    Caught,
}

impl Want {
    fn fits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(wanted), value) => wanted == value,
            (Self::Error(begin), Value::Error(text)) => text.starts_with(begin),
            (Self::Quotes(nonce), Value::Error(text)) => {
                text.starts_with("ERR unknown command") && text.contains(nonce)
            }
            (Self::Id { .. }, Value::Integer(_)) | (Self::Caught, _) => true,
            (Self::Hello(version), Value::Map(pairs)) => {
                pairs.contains(&(Value::Bulk(b"proto".to_vec()), Value::Integer(*version)))
            }
            (Self::Hello(version), Value::Array(items)) => items
                .windows(2)
                .any(|pair| pair == [Value::Bulk(b"proto".to_vec()), Value::Integer(*version)]),
            (Self::OkOrUnknown, Value::Simple(text)) => text == "OK",
            (Self::OkOrUnknown, Value::Error(text)) => text.starts_with("ERR unknown subcommand"),
            _ => false,
        }
    }
}

/// What takes frames in.
pub(crate) struct Inbox<'a> {
    pub(crate) waiting: &'a mut VecDeque<Sent>,
    pub(crate) pushes: &'a mut VecDeque<Value>,
    pub(crate) acknowledged: &'a mut Store,
    pub(crate) caught: &'a mut Option<Value>,
    pub(crate) world: &'a World,
    pub(crate) trace: &'a mut VecDeque<String>,
}

impl Inbox<'_> {
    pub(crate) fn settle(&mut self, value: Value) -> Result<(), Stop> {
        if comes_unasked(&value) {
            return match self.pushes.pop_front() {
                Some(wanted) if wanted == value => {
                    self.world.tally.messages.add(1);
                    Ok(())
                }
                wanted => Err(Stop::Fault(format!(
                    "message {} instead of {}",
                    brief(&value),
                    wanted.as_ref().map_or_else(|| "none".into(), brief)
                ))),
            };
        }
        let Some(sent) = self.waiting.pop_front() else {
            return Err(Stop::Fault(format!(
                "a reply that nobody asked for: {}",
                brief(&value)
            )));
        };
        if !sent.want.fits(&value) {
            let fault = format!(
                "{}: {} instead of {}",
                sent.what,
                brief(&value),
                sent.want.brief()
            );
            self.waiting.push_front(sent);
            let said =
                matches!(&value, Value::Error(text) if FAREWELLS.iter().any(|begin| text.starts_with(begin)));
            if said && self.world.has_chaos() {
                self.trace.push_back(format!("< {}", brief(&value)));
                return Err(Stop::Gone(false));
            }
            return Err(Stop::Fault(fault));
        }
        if let (
            Want::Id {
                owner,
                scripted,
                asked,
            },
            Value::Integer(id),
        ) = (&sent.want, &value)
        {
            self.world
                .knows(*id, *owner, *scripted, *asked)
                .map_err(Stop::Fault)?;
        }
        if let Some(change) = &sent.change {
            self.acknowledged.replay(change);
        }
        if matches!(sent.want, Want::Caught) {
            *self.caught = Some(value);
        }
        self.world.tally.replies.add(1);
        Ok(())
    }
}

impl Want {
    fn brief(&self) -> String {
        match self {
            Self::Is(value) => brief(value),
            other => format!("{other:?}"),
        }
    }
}

/// Messages and invalidations; confirmations are replies.
pub(crate) fn comes_unasked(value: &Value) -> bool {
    let (Value::Push(items) | Value::Array(items)) = value else {
        return false;
    };
    match items.first() {
        Some(Value::Bulk(word)) => matches!(&word[..], b"message" | b"pmessage" | b"invalidate"),
        _ => false,
    }
}

pub(crate) fn short(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(&word[..word.len().min(40)])
        .escape_debug()
        .to_string();
    if word.len() > 40 {
        format!("{text}…{}", word.len())
    } else {
        text
    }
}

pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) if bytes.len() > 200 => format!("${}", short(bytes)),
        value => {
            let text: String = value.to_string().chars().take(300).collect();
            text.escape_debug().to_string()
        }
    }
}

pub(crate) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn confirmation(kind: &str, name: Option<&str>, count: usize, resp3: bool) -> Value {
    let name = match name {
        Some(name) => bulk(&text(name)),
        None if resp3 => Value::Null,
        None => Value::NilBulk,
    };
    frame(vec![bulk(&text(kind)), name, Value::Integer(count as i64)], resp3)
}

/// A push, or the array that stands for one in RESP2.
pub(crate) fn frame(items: Vec<Value>, resp3: bool) -> Value {
    if resp3 {
        Value::Push(items)
    } else {
        Value::Array(items)
    }
}

/// What Keyward says before it closes a connection whose lane could not be had.
const FAREWELLS: &[&str] = &["LOADING keyward: ", "ERR keyward: upstream "];
