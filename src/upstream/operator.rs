//! An operator's connection to Redis: for the command line, which asks and changes what no client may.
//!
//! It goes the same way as any other (name resolution, TLS with the same verification, the same limits of time), but logs in
//! with what the operator gives it and sees whole answers.

use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::time::timeout;

use super::{DialError, Steps, Upstream, handshake};
use crate::net::Stream;
use crate::secret::Secret;

/// A connection that is logged in, with one question under way at most.
#[derive(Debug)]
pub struct Operator {
    stream: Stream,
    patience: Duration,
}

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A simple or a bulk string, or a number in digits.
    Text(Vec<u8>),
    /// An array.
    List(Vec<Self>),
    /// Nothing.
    Null,
    /// An error.
    Error {
        /// Its code, such as `NOPERM`.
        code: String,
        /// All of it. To be shown for requests that hold no secret: some errors repeat what they were sent.
        text: String,
    },
}

impl Upstream {
    /// Opens a connection and logs in as this user; `None`: Redis refuses the password. One attempt, without counting and
    /// without regard to `max_connections`.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn operate(
        &self,
        user: Option<&str>,
        password: &Secret,
    ) -> Result<Option<Operator>, DialError> {
        let mut stream = self.reach(&mut Steps::default()).await?;
        let patience = self.tuning.load().auth_timeout;
        let taken = timeout(patience, handshake::log_in_with(&mut stream, user, password))
            .await
            .unwrap_or(Err(DialError::AuthTimeout(patience)))?;
        let operator = Operator {
            stream,
            patience: patience.max(LEAST_PATIENCE),
        };
        Ok(taken.then_some(operator))
    }
}

impl Operator {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`DialError`]; the connection is of no further use.
    pub async fn ask(&mut self, arguments: &[&[u8]]) -> Result<Answer, DialError> {
        let exchange = handshake::exchange(&mut self.stream, arguments, MAX_ANSWER);
        let frame = timeout(self.patience, exchange)
            .await
            .unwrap_or(Err(DialError::AuthTimeout(self.patience)))?;
        Ok(Answer::from(frame))
    }
}

impl Answer {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items; none if it is no list.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// What stands behind this name in a list of names and values, as Redis shows a map in RESP2.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [key, value] if key.text() == Some(name.as_bytes()) => Some(value),
            _ => None,
        })
    }
}

impl From<BytesFrame> for Answer {
    fn from(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString(text) | BytesFrame::BulkString(text) => Self::Text(text.to_vec()),
            BytesFrame::Integer(number) => Self::Text(number.to_string().into_bytes()),
            BytesFrame::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            BytesFrame::Null => Self::Null,
            BytesFrame::Error(text) => Self::Error {
                code: handshake::code(&text).to_owned(),
                text: text.to_string(),
            },
        }
    }
}

/// Longest answer: INFO and ACL GETUSER of a user with thousands of key patterns have less.
const MAX_ANSWER: usize = 1024 * 1024;
/// Saving goes to a disk.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
