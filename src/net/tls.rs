//! TLS towards a client, on rustls's interface without buffers.
//!
//! A client's connection is idle most of the time, and there are thousands of them: between two reads it keeps nothing but
//! the head of a record that has not come whole. Everything else passes through memory that all connections of a thread
//! have in common:
//!
//! ```text
//!   socket ── read ──► incoming ── decrypt in place ──► the reader's buffer
//!   socket ◄─ write ── outgoing ◄──── encrypt ───────── the writer's bytes
//! ```
//!
//! So one system call reads as much as there is, where a buffer of a connection's own would have to be small, and a batch
//! of replies leaves in one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Socket;

/// The server's side of a TLS connection whose handshake is over.
pub struct TlsStream {
    socket: Socket,
    tls: UnbufferedServerConnection,
    /// Received and not yet whole: the head of a record, or the records of a message of the handshake protocol. At most
    /// [`MAX_HELD`].
    held: Vec<u8>,
    /// Decrypted and not yet read: what came with the last message of the handshake, or did not fit into the reader's buffer.
    plain: BytesMut,
    /// Encrypted and not yet sent: at most one batch and what the protocol itself has to say.
    unsent: BytesMut,
    /// `close_notify` has come: nothing more will.
    peer_closed: bool,
    /// Ours has been sent.
    closing: bool,
    /// The client broke the rules of TLS, and has been told so: rustls is not to be asked again.
    broken: bool,
}

/// Memory that every connection of a thread uses while it is at work.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; MAX_HELD + READ].into_boxed_slice(),
        outgoing: vec![0; MAX_BATCH + OVERHEAD].into_boxed_slice(),
    });
}

impl TlsStream {
    /// Performs the handshake.
    ///
    /// # Errors
    /// An I/O error, or one of rustls inside an I/O error, after the client was sent the alert that belongs to it; with the
    /// socket, so that the client gets to read it.
    pub async fn accept(config: Arc<ServerConfig>, socket: Socket) -> Result<Self, (io::Error, Socket)> {
        let tls = match UnbufferedServerConnection::new(config) {
            Ok(tls) => tls,
            Err(error) => return Err((invalid(error), socket)),
        };
        let mut stream = Self {
            socket,
            tls,
            held: Vec::new(),
            plain: BytesMut::new(),
            unsent: BytesMut::new(),
            peer_closed: false,
            closing: false,
            broken: false,
        };
        match std::future::poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(error) => Err((error, stream.socket)),
        }
    }

    /// What is under TLS.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// See [`TlsStream::socket`].
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// What was negotiated.
    pub fn state(&self) -> &CommonState {
        &self.tls
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Self {
                tls,
                held,
                plain,
                unsent,
                ..
            } = self;
            let pass = Pass::over(
                tls,
                held,
                unsent,
                |payload| plain.extend_from_slice(payload),
                &Then::Nothing,
                &mut [],
            );
            discard(held, pass.used);
            self.peer_closed |= pass.peer_closed;
            if let Err(error) = pass.result {
                self.broken = true;
                // The alert. Whether it leaves changes nothing.
                let _ = self.poll_unsent(cx);
                return Poll::Ready(Err(error));
            }
            // Not before: requests that came right behind the handshake are not held any more.
            check_held(&self.held)?;
            ready!(self.poll_unsent(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let held = &mut self.held;
            let socket = Pin::new(&mut self.socket);
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let room = scratch.incoming.get_mut(..READ).unwrap_or_default();
                let read = ready!(poll_read_into(socket, cx, room))?;
                held.extend_from_slice(room.get(..read).unwrap_or_default());
                Poll::Ready(Ok::<_, io::Error>(read))
            });
            if ready!(read)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Sends what is encrypted.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        if self.unsent.capacity() > 0 {
            self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and hands over what came whole.
    fn poll_records(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self {
            socket,
            tls,
            held,
            plain,
            unsent,
            peer_closed,
            broken,
            ..
        } = self;
        if *broken {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            // No more than fits into the reader's buffer, so that as a rule nothing has to be kept.
            let limit = buffer
                .remaining()
                .clamp(MIN_READ, READ)
                .saturating_add(held.len());
            let incoming = scratch.incoming.get_mut(..limit).unwrap_or_default();
            let (old, new) = incoming.split_at_mut(held.len().min(limit));
            let read = ready!(poll_read_into(Pin::new(socket), cx, new))?;
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            old.copy_from_slice(held);
            let filled = held.len().saturating_add(read);
            let input = incoming.get_mut(..filled).unwrap_or_default();
            let deliver = |payload: &[u8]| {
                let fits = payload
                    .len()
                    .min(if plain.is_empty() { buffer.remaining() } else { 0 });
                let (now, later) = payload.split_at(fits);
                buffer.put_slice(now);
                plain.extend_from_slice(later);
            };
            let pass = Pass::over(tls, input, unsent, deliver, &Then::Nothing, &mut []);
            *peer_closed |= pass.peer_closed;
            let rest = input.get(pass.used..).unwrap_or_default();
            if rest.is_empty() || *peer_closed {
                if held.capacity() > 0 {
                    *held = Vec::new();
                }
            } else {
                held.clear();
                held.extend_from_slice(rest);
            }
            *broken = pass.result.is_err();
            pass.result?;
            Poll::Ready(check_held(held))
        })
    }

    /// Encrypts into the thread's memory, or behind what is unsent, and sends as much as goes.
    fn send(&mut self, cx: &mut Context<'_>, then: &Then<'_>) -> io::Result<()> {
        let Self {
            socket,
            tls,
            held,
            plain,
            unsent,
            peer_closed,
            broken,
            ..
        } = self;
        if *broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let outgoing = &mut scratch.outgoing;
            let pass = Pass::over(
                tls,
                held,
                unsent,
                |payload| plain.extend_from_slice(payload),
                then,
                outgoing,
            );
            discard(held, pass.used);
            *peer_closed |= pass.peer_closed;
            *broken = pass.result.is_err();
            pass.result?;
            let mut rest = outgoing.get(..pass.encrypted).unwrap_or_default();
            // What the protocol had to say was encrypted first and leaves first.
            while unsent.is_empty() && !rest.is_empty() {
                match Pin::new(&mut *socket).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(sent)) => rest = rest.get(sent..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
            unsent.extend_from_slice(rest);
            Ok(())
        })
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        loop {
            if !self.plain.is_empty() {
                let fits = self.plain.len().min(buffer.remaining());
                buffer.put_slice(self.plain.get(..fits).unwrap_or_default());
                self.plain.advance(fits);
                if self.plain.is_empty() {
                    self.plain = BytesMut::new();
                }
            }
            if buffer.remaining() < before || self.peer_closed || before == 0 {
                return Poll::Ready(Ok(()));
            }
            let outcome = ready!(self.poll_records(cx, buffer));
            // What the protocol itself answers: to a key update, or an alert. If it cannot leave now, it leaves with what is
            // written next.
            let _ = self.poll_unsent(cx);
            outcome?;
        }
    }
}

impl AsyncWrite for TlsStream {
    /// Takes a batch as soon as the former one has been sent; what the socket does not take of it leaves with the next
    /// call, or with `poll_flush`.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let batch = bytes.get(..bytes.len().min(MAX_BATCH)).unwrap_or_default();
        self.send(cx, &Then::Encrypt(batch))?;
        Poll::Ready(Ok(batch.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.broken && !std::mem::replace(&mut self.closing, true) {
            self.send(cx, &Then::CloseNotify)?;
        }
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What is to be done when nothing is left to be processed.
enum Then<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    CloseNotify,
}

/// What came of handing received bytes to rustls.
struct Pass {
    /// Bytes from the front that are done with.
    used: usize,
    /// Bytes that were encrypted into the caller's memory.
    encrypted: usize,
    peer_closed: bool,
    result: io::Result<()>,
}

impl Pass {
    /// Processes all that is whole in `input`: data goes to `deliver`, what the protocol itself answers behind `unsent`.
    /// `input` begins with what the last pass has not used.
    fn over(
        tls: &mut UnbufferedServerConnection,
        input: &mut [u8],
        unsent: &mut BytesMut,
        mut deliver: impl FnMut(&[u8]),
        then: &Then<'_>,
        outgoing: &mut [u8],
    ) -> Self {
        let mut pass = Self {
            used: 0,
            encrypted: 0,
            peer_closed: false,
            result: Ok(()),
        };
        loop {
            let rest = input.get_mut(pass.used..).unwrap_or_default();
            let UnbufferedStatus {
                mut discard, state, ..
            } = tls.process_tls_records(rest);
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard = discard.saturating_add(record.discard);
                                deliver(record.payload);
                            }
                            Err(error) => {
                                pass.result = Err(invalid(error));
                                done = true;
                            }
                        }
                    }
                    // To be told that nothing is left costs as much as a record. What the protocol may still have to say is
                    // said with the next batch.
                    let used_up = pass.used.saturating_add(discard) >= input.len();
                    done |= used_up && matches!(then, Then::Nothing);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, unsent);
                    // After an error, its alert: there is nothing else to be had.
                    done = pass.result.is_err();
                }
                // It is sent before anything else is.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => pass.peer_closed = true,
                Ok(ConnectionState::Closed) => {
                    pass.peer_closed = true;
                    done = true;
                }
                Ok(ConnectionState::BlockedHandshake) => done = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let encrypted = match then {
                        Then::Nothing => Ok(0),
                        Then::Encrypt(bytes) => traffic.encrypt(bytes, outgoing),
                        Then::CloseNotify => traffic.queue_close_notify(outgoing),
                    };
                    match encrypted {
                        Ok(encrypted) => pass.encrypted = encrypted,
                        Err(error) => pass.result = Err(unencrypted(&error)),
                    }
                    done = true;
                }
                // Early data is off; nothing else is known today.
                Ok(_) => {
                    pass.result = Err(io::ErrorKind::Unsupported.into());
                    done = true;
                }
                Err(error) if pass.result.is_ok() => pass.result = Err(invalid(error)),
                Err(_) => done = true,
            }
            pass.used = pass.used.saturating_add(discard);
            if done {
                return pass;
            }
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, unsent: &mut BytesMut) {
    let start = unsent.len();
    let mut room = 0;
    // It says how much it needs.
    while let Err(EncodeError::InsufficientSize(needed)) = {
        unsent.resize(start.saturating_add(room), 0);
        data.encode(unsent.get_mut(start..).unwrap_or_default())
    } {
        room = needed.required_size;
    }
}

fn poll_read_into(
    socket: Pin<&mut Socket>,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(room);
    ready!(socket.poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

fn discard(held: &mut Vec<u8>, used: usize) {
    if used >= held.len() {
        *held = Vec::new();
    } else {
        held.drain(..used);
    }
}

/// A client may cut a message of the handshake protocol into as many records as it likes, but not keep us busy with it.
fn check_held(held: &[u8]) -> io::Result<()> {
    if held.len() > MAX_HELD {
        return Err(invalid(Error::InvalidMessage(
            InvalidMessage::HandshakePayloadTooLarge,
        )));
    }
    Ok(())
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn unencrypted(error: &EncryptError) -> io::Error {
    io::Error::other(error.to_string())
}

/// Bytes that one system call reads at most: what fits into the window that sessions read into, with some to spare.
const READ: usize = 96 * 1024;

/// The same where the reader has little room, as while closing.
const MIN_READ: usize = 4 * 1024;

/// The largest record (RFC 8446, section 5.2, and TLS 1.2's longer padding) is a fourth of it, the largest message of a
/// handshake that rustls takes a bit less.
const MAX_HELD: usize = 72 * 1024;

/// Bytes that are encrypted in one go, a batch of replies as a rule: each go is a system call.
const MAX_BATCH: usize = 128 * 1024;

/// What encryption adds to a batch: less than 64 bytes for each of its records of 16 KiB, and a record or two of the
/// protocol's own.
const OVERHEAD: usize = 4 * 1024;

#[cfg(test)]
mod tests;
