//! One byte stream for everything: TCP, unix sockets, and TLS over either.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

use super::TlsStream;

/// A connected socket without TLS.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
    /// On the way from one thread's runtime to another's: see [`Stream::park`]. Reads and writes fail.
    Parked(Parked),
}

/// A socket that no runtime looks after.
#[derive(Debug)]
pub enum Parked {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
    /// Lost: the runtime would not give it up or take it on.
    Lost,
}

/// A connection as sessions and lanes use it.
///
/// `poll_shutdown` on TLS sends `close_notify` before it closes the sending half of the socket.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// Plain unix socket.
    Unix(UnixStream),
    /// TLS towards a client, over either kind of socket.
    TlsServer(Box<TlsStream>),
    /// TLS towards Redis.
    TlsClient(Box<tokio_rustls::client::TlsStream<Socket>>),
    /// A plain socket between two threads: see [`Stream::park`].
    Parked(Parked),
}

impl Socket {
    /// Sends a last line and closes so that the peer gets to read it.
    ///
    /// Closing a socket with unread data makes the kernel send a reset, which may overtake what was written; so
    /// what the peer has sent is read and dropped first, at most 64 KiB of it and for at most `patience`.
    pub async fn refuse(mut self, line: &[u8], patience: Duration) {
        let farewell = async {
            self.write_all(line).await?;
            self.shutdown().await?;
            drain(&mut self).await
        };
        // The connection is over whatever happens: neither an error nor the end of our patience changes anything.
        let _: Result<io::Result<()>, _> = tokio::time::timeout(patience, farewell).await;
    }

    fn park(&mut self) -> io::Result<()> {
        let parked = match std::mem::replace(self, Self::Parked(Parked::Lost)) {
            Self::Tcp(stream) => Parked::Tcp(stream.into_std()?),
            Self::Unix(stream) => Parked::Unix(stream.into_std()?),
            Self::Parked(parked) => parked,
        };
        *self = Self::Parked(parked);
        Ok(())
    }

    fn unpark(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Parked(Parked::Lost)) {
            Self::Parked(Parked::Tcp(stream)) => Self::Tcp(TcpStream::from_std(stream)?),
            Self::Parked(Parked::Unix(stream)) => Self::Unix(UnixStream::from_std(stream)?),
            Self::Parked(Parked::Lost) => return Err(io::ErrorKind::NotConnected.into()),
            running => running,
        };
        Ok(())
    }
}

impl Stream {
    /// Takes the connection off its thread's runtime, so that another thread can go on with it; bytes that the kernel or
    /// TLS has received meanwhile stay with it.
    ///
    /// # Errors
    /// The system would not let it go; the connection is lost.
    pub fn park(self) -> io::Result<Self> {
        self.with_socket(Socket::park)
    }

    /// Puts a parked connection on the runtime that this is called in.
    ///
    /// # Errors
    /// The runtime would not take it, or it was lost; the connection is over.
    pub fn unpark(self) -> io::Result<Self> {
        self.with_socket(Socket::unpark)
    }

    fn with_socket(self, work: impl FnOnce(&mut Socket) -> io::Result<()>) -> io::Result<Self> {
        let mut socket = match self {
            Self::TlsServer(mut stream) => {
                work(stream.socket_mut())?;
                return Ok(Self::TlsServer(stream));
            }
            Self::TlsClient(mut stream) => {
                work(stream.get_mut().0)?;
                return Ok(Self::TlsClient(stream));
            }
            Self::Tcp(stream) => Socket::Tcp(stream),
            Self::Unix(stream) => Socket::Unix(stream),
            Self::Parked(parked) => Socket::Parked(parked),
        };
        work(&mut socket)?;
        Ok(socket.into())
    }

    /// Closes so that the peer gets to read what was written last; see [`Socket::refuse`].
    pub async fn close_gently(&mut self, patience: Duration) {
        let farewell = async {
            self.shutdown().await?;
            match self {
                // TLS has said its last word: what comes now need not be understood.
                Self::TlsServer(stream) => drain(stream.socket_mut()).await,
                _ => drain(self).await,
            }
        };
        // As above: nothing is left to be done about a failure.
        let _: Result<io::Result<()>, _> = tokio::time::timeout(patience, farewell).await;
    }

    /// Whether the peer has closed its sending half or the whole connection, as far as the kernel has said so: also
    /// when bytes before that have not been read. Wakes nobody.
    pub fn peer_has_closed(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => return has_closed(pin!(stream.ready(Interest::READABLE))),
            Self::Unix(stream) => return has_closed(pin!(stream.ready(Interest::READABLE))),
            Self::TlsServer(stream) => stream.socket(),
            Self::TlsClient(stream) => stream.get_ref().0,
            Self::Parked(_) => return false,
        };
        match socket {
            Socket::Tcp(stream) => has_closed(pin!(stream.ready(Interest::READABLE))),
            Socket::Unix(stream) => has_closed(pin!(stream.ready(Interest::READABLE))),
            Socket::Parked(_) => false,
        }
    }

    /// The certificate chain that the peer proved to own, leaf first; `None` without TLS or without a certificate.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.tls_state()?.peer_certificates()
    }

    /// `"1.2"` or `"1.3"`; `None` without TLS. A metric label.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self.tls_state()?.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("1.2"),
            ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// What was negotiated; `None` without TLS.
    pub fn tls_state(&self) -> Option<&CommonState> {
        match self {
            Self::TlsServer(stream) => Some(stream.state()),
            Self::TlsClient(stream) => Some(stream.get_ref().1),
            Self::Tcp(_) | Self::Unix(_) | Self::Parked(_) => None,
        }
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => Self::Tcp(stream),
            Socket::Unix(stream) => Self::Unix(stream),
            Socket::Parked(parked) => Self::Parked(parked),
        }
    }
}

/// Calls the same poll function on whichever stream is inside.
macro_rules! each {
    ($self:expr, [$($variant:ident),+], $stream:ident => $call:expr) => {
        match $self.get_mut() {
            $(Self::$variant(stream) => {
                #[allow(unused_mut, reason = "poll functions consume the pin")]
                let mut $stream = Pin::new(stream);
                $call
            })+
            Self::Parked(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix], stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, [Tcp, Unix], stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, [Tcp, Unix], stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix], stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix], stream => stream.poll_shutdown(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix, TlsServer, TlsClient], stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, [Tcp, Unix, TlsServer, TlsClient], stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, [Tcp, Unix, TlsServer, TlsClient], stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix, TlsServer, TlsClient], stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, [Tcp, Unix, TlsServer, TlsClient], stream => stream.poll_shutdown(cx))
    }
}

/// What is known of a socket's readiness without waiting for it.
fn has_closed(readiness: Pin<&mut impl Future<Output = io::Result<Ready>>>) -> bool {
    match readiness.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(ready)) => ready.is_read_closed(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// Reads and drops what the peer still sends, up to its end or [`MAX_DRAIN`].
async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut scratch = [0u8; 1024];
    let mut dropped = 0;
    while dropped < MAX_DRAIN {
        match stream.read(&mut scratch).await? {
            0 => break,
            read => dropped += read,
        }
    }
    Ok(())
}

/// Bytes dropped at most while closing: more than a client sends before it has seen an answer.
const MAX_DRAIN: usize = 64 * 1024;
