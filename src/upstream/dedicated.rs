//! A lane of one session's own: one upstream connection, opened when the session first needs it.
//!
//! The session's requests go into [`Lane::buffer`]; whoever owns the lane polls it. Requests may be buffered while
//! the connection is still being dialled, so a client never waits for a round trip more than it has to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;

use super::{Dial, DialError, Dialed, OpenGuard};

/// An upstream connection that belongs to one session.
pub struct Lane {
    state: State,
    /// Requests that have not been written yet. Bounded by its owner, who reads no further requests above
    /// [`HIGH_WATER`].
    out: BytesMut,
    /// Written into TLS, perhaps not yet into the socket.
    unflushed: bool,
    /// Counts the lane by its present use.
    counted: Option<OpenGuard>,
    /// Its upstream was replaced.
    retired: bool,
}

enum State {
    Dialing(Dial),
    /// Kept whole: it counts as an open connection until it is dropped.
    Open(Box<Dialed>),
}

/// Why a lane is of no use any more.
#[derive(Debug)]
pub enum LaneEnd {
    /// It could not be opened.
    Dial(DialError),
    /// Redis closed it.
    Closed,
    /// The network broke it.
    Broken(io::Error),
}

/// Bytes of requests that may wait for the upstream connection; above it the client is not read (L-27).
const HIGH_WATER: usize = 64 * 1024;

impl Lane {
    /// A lane over a connection in the making; nothing happens before the first poll.
    pub fn dial(dial: Dial) -> Self {
        Self::new(State::Dialing(dial))
    }

    /// A lane over a connection that has nothing outstanding.
    pub fn over(dialed: Box<Dialed>) -> Self {
        Self::new(State::Open(dialed))
    }

    fn new(state: State) -> Self {
        Self {
            state,
            out: BytesMut::new(),
            unflushed: false,
            counted: None,
            retired: false,
        }
    }

    /// The connection of a lane that is quiet.
    pub fn into_connection(self) -> Option<Box<Dialed>> {
        match self.state {
            State::Open(dialed) if self.out.is_empty() => Some(dialed),
            State::Open(_) | State::Dialing(_) => None,
        }
    }

    /// Whether there is no connection yet.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Dialing(_))
    }

    /// Marks a lane whose upstream was replaced: no request that can travel elsewhere may be put on it.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether its upstream was replaced.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// Counts the lane by its use from now on, in place of its former use.
    pub fn count_as(&mut self, guard: OpenGuard) {
        self.counted = Some(guard);
    }

    /// Where whole requests are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Whether more requests may be appended.
    pub fn has_room(&self) -> bool {
        self.out.len() < HIGH_WATER
    }

    /// Whether everything has been handed to the kernel.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Dials and writes as far as possible; ready when everything has been written. Returns how many bytes went.
    ///
    /// # Errors
    /// A [`LaneEnd`]: the lane is dead.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LaneEnd>> {
        let stream = ready!(self.state.poll_open(cx))?;
        let mut written = 0_usize;
        while !self.out.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(LaneEnd::Closed)),
                Poll::Ready(Ok(count)) => {
                    written = written.saturating_add(count);
                    self.unflushed = true;
                    if count == self.out.len() {
                        self.out.clear();
                    } else {
                        self.out.advance(count);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(LaneEnd::Broken(error))),
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(LaneEnd::Broken(error))),
                Poll::Pending if written == 0 => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(written))
    }

    /// Writes part of a request without keeping it, if it is its turn; returns how many bytes went. The others belong in the
    /// buffer. An error shows when that is written: what was put on the lane must be known to be outstanding then.
    pub fn write_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        let State::Open(dialed) = &mut self.state else {
            return 0;
        };
        if !self.out.is_empty() {
            return 0;
        }
        match Pin::new(&mut dialed.stream).poll_write(cx, bytes) {
            Poll::Ready(Ok(count)) => {
                self.unflushed = true;
                count
            }
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        }
    }

    /// Reads replies into `window`; returns how many bytes came, at least one.
    ///
    /// # Errors
    /// A [`LaneEnd`]: the lane is dead.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut [u8]) -> Poll<Result<usize, LaneEnd>> {
        let stream = ready!(self.state.poll_open(cx))?;
        let mut window = ReadBuf::new(window);
        match ready!(Pin::new(stream).poll_read(cx, &mut window)) {
            Ok(()) if window.filled().is_empty() => Poll::Ready(Err(LaneEnd::Closed)),
            Ok(()) => Poll::Ready(Ok(window.filled().len())),
            Err(error) => Poll::Ready(Err(LaneEnd::Broken(error))),
        }
    }

    /// Whether an idle lane is open and has nothing to say.
    pub fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        matches!(self.state, State::Open(_))
            && self.is_flushed()
            && self.poll_read(cx, &mut byte).is_pending()
    }

    /// Gives an empty buffer back, so that idle lanes hold none.
    pub fn take_idle_buffer(&mut self) -> Option<BytesMut> {
        (self.out.is_empty() && self.out.capacity() > 0).then(|| std::mem::take(&mut self.out))
    }
}

impl State {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<&mut Stream, LaneEnd>> {
        if let Self::Dialing(dial) = self {
            *self = Self::Open(ready!(dial.as_mut().poll(cx)).map_err(LaneEnd::Dial)?);
        }
        match self {
            Self::Open(dialed) => Poll::Ready(Ok(&mut dialed.stream)),
            // Just replaced above.
            Self::Dialing(_) => Poll::Pending,
        }
    }
}
