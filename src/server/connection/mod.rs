//! One client's task, from accept to close: PROXY header, TLS, then the relay.
//!
//! The header, the handshake and the login share one deadline that no byte extends (L-20, L-21).

mod alarms;
mod client;
mod login;
mod relay;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::drain::SessionGuard;
use crate::limits::{ConnectionPermit, Reject, Source};
use crate::metrics::{CloseReason, TlsVersion};
use crate::net::{self, Accepted, Peer, ProxyInfo, Socket, Stream};
use crate::tls;

use super::handshakes::Gate;
use super::listener::{Courtesy, Listener, Settings};
use super::worker::{Control, Load, Registration, Worker};

use client::{Belongings, Client};
use relay::{End, Relay};

pub(super) use relay::AtRest;

/// An accepted connection on its way to a worker.
pub(super) struct Job {
    pub(super) accepted: Accepted,
    pub(super) admission: Admission,
    pub(super) listener: Arc<Listener>,
    pub(super) accepted_at: Instant,
    pub(super) load: Load,
    pub(super) guard: SessionGuard,
}

/// A session on its way from one worker to another.
pub(super) struct Moved {
    belongings: Belongings,
    session: AtRest,
    load: Load,
    guard: SessionGuard,
}

/// Whether the connection got a slot.
pub(super) enum Admission {
    Admitted(ConnectionPermit),
    /// It is only told so, in RESP, if that is quick.
    Refused(Reject, Courtesy),
}

/// Serves one connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, registration: Registration, job: Job) {
    let Job {
        accepted,
        admission,
        listener,
        accepted_at,
        load,
        guard,
    } = job;
    let settings = listener.settings.load_full();
    let deadline = accepted_at + settings.login.timeout;
    let Ok((socket, peer)) = accepted.register() else {
        return;
    };
    match admission {
        Admission::Refused(reject, courtesy) => {
            listener.rejected(reject, &peer);
            Box::pin(refuse(socket, &listener, &settings, &worker.handshakes, reject)).await;
            drop(courtesy);
        }
        Admission::Admitted(mut permit) => {
            if let Peer::Unix { uid } = peer {
                // One user's failed logins are not the others': known only now. No limit applies to it.
                let _ = permit.set_source(Source::Unix(uid));
            }
            let mut open = listener.metrics.connection_open();
            let mut opening = Opening {
                listener: &listener,
                settings: &settings,
                gate: &worker.handshakes,
                control: &registration.control,
                permit,
                peer,
            };
            // Boxed: what a handshake needs must not stay with the connection for its whole life.
            let stream = Box::pin(opening.stream(socket, deadline)).await;
            let Opening { permit, peer, .. } = opening;
            match stream {
                Ok(stream) => {
                    let belongings = Belongings {
                        permit,
                        listener,
                        settings,
                        peer,
                        open,
                        password: None,
                    };
                    let client = Client::new(worker, &registration, belongings);
                    let end = Box::new(Relay::new(client, stream, deadline)).run().await;
                    hand_over(end, load, guard);
                    return;
                }
                Err(reason) => open.close(reason),
            }
        }
    }
    // Named so that they live as long as the connection.
    drop((load, guard, registration));
}

/// Goes on with a session that another worker has served.
pub(super) async fn resume(worker: Rc<Worker>, registration: Registration, moved: Moved) {
    let Moved {
        belongings,
        session,
        load,
        guard,
    } = moved;
    // A reload may have passed by on the way.
    registration.control.reload_settings();
    let client = Client::new(worker, &registration, belongings);
    if let Some(relay) = Relay::resume(client, session) {
        let end = Box::new(relay).run().await;
        hand_over(end, load, guard);
    }
}

/// Passes a session on that has left its worker; everything else ends here.
fn hand_over(end: End, load: Load, guard: SessionGuard) {
    match end {
        End::Closed => {}
        End::Leaving(to, leaving) => {
            let (client, session) = *leaving;
            to.take_over(|load| Moved {
                belongings: client.pack(),
                session,
                load,
                guard,
            });
        }
    }
    drop(load);
}

/// A connection that does not speak RESP yet.
struct Opening<'a> {
    listener: &'a Listener,
    settings: &'a Settings,
    gate: &'a Gate,
    control: &'a Control,
    permit: ConnectionPermit,
    peer: Peer,
}

impl Opening<'_> {
    /// Reads the PROXY header and does the TLS handshake, as the listener demands.
    async fn stream(&mut self, socket: Socket, deadline: Instant) -> Result<Stream, CloseReason> {
        let control = self.control;
        tokio::select! {
            stream = self.opened(socket, deadline) => stream,
            // A session would end now as well.
            () = told(control, Control::is_aborting) => Err(CloseReason::Drain),
        }
    }

    async fn opened(&mut self, mut socket: Socket, deadline: Instant) -> Result<Stream, CloseReason> {
        let eviction = self.permit.eviction();
        let control = self.control;
        if self.permit.source() == Source::Pending {
            let refused = tokio::select! {
                header = self.proxy_header(&mut socket, deadline) => header?,
                () = eviction.evicted() => return Err(CloseReason::Evicted),
                () = told(control, Control::is_draining) => return Err(CloseReason::Drain),
            };
            if let Some(reject) = refused {
                // It keeps its place among the strangers meanwhile, so as many at most are told at the same time.
                tokio::select! {
                    () = refuse(socket, self.listener, self.settings, self.gate, reject) => {}
                    () = eviction.evicted() => {}
                }
                return Err(CloseReason::Rejected);
            }
        }
        let Some(config) = &self.settings.tls else {
            return Ok(socket.into());
        };
        let first = tokio::select! {
            first = tls::first_byte(socket, deadline.into()) => first,
            () = eviction.evicted() => return Err(CloseReason::Evicted),
            // One that has said nothing loses nothing.
            () = told(control, Control::is_draining) => return Err(CloseReason::Drain),
        };
        let begun = Instant::now();
        let result = match first {
            Ok(socket) => tokio::select! {
                result = self.gate.run(
                    self.settings.max_handshakes,
                    &self.listener.metrics,
                    tls::handshake(Arc::clone(config), socket, deadline.into()),
                ) => result,
                () = eviction.evicted() => return Err(CloseReason::Evicted),
            },
            Err(rejected) => Err(rejected),
        };
        match result {
            Ok(stream) => {
                let version = match stream.tls_version() {
                    Some("1.2") => TlsVersion::Tls12,
                    _ => TlsVersion::Tls13,
                };
                self.listener.metrics.tls_handshake(version, begun.elapsed());
                Ok(stream)
            }
            Err(rejected) => {
                self.listener.handshake_failed(&rejected, &self.peer);
                if let Some(socket) = rejected.socket {
                    let line = match rejected.failure {
                        tls::HandshakeFailure::Plaintext => tls::PLAINTEXT_REPLY,
                        _ => b"",
                    };
                    socket.refuse(line, PATIENCE).await;
                }
                Err(CloseReason::Handshake)
            }
        }
    }

    /// Reads the header; the limit that the client's true source has reached, if any.
    async fn proxy_header(
        &mut self,
        socket: &mut Socket,
        deadline: Instant,
    ) -> Result<Option<Reject>, CloseReason> {
        let Socket::Tcp(stream) = socket else {
            return Ok(None);
        };
        let header = tokio::time::timeout_at(deadline.into(), net::read_proxy_header(stream)).await;
        match header {
            Ok(Ok(ProxyInfo::Client { source, .. })) => self.peer = Peer::Tcp(source),
            Ok(Ok(ProxyInfo::Local)) => {}
            Ok(Err(error)) => {
                self.listener.proxy_header_failed(error.label(), &self.peer);
                return Err(CloseReason::ProtocolError);
            }
            Err(_) => return Err(CloseReason::AuthTimeout),
        }
        let Some(address) = self.peer.ip() else {
            return Ok(None);
        };
        let refused = self.permit.set_source(Source::from(address)).err();
        if let Some(reject) = refused {
            self.listener.rejected(reject, &self.peer);
        }
        Ok(refused)
    }
}

/// Ready when the connection has been given this order.
async fn told(control: &Control, order: fn(&Control) -> bool) {
    poll_fn(|cx| {
        control.watch(cx);
        if order(control) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Tells a client that there is no room for it: after the TLS handshake if there is one, since nobody could read it
/// before.
async fn refuse(socket: Socket, listener: &Listener, settings: &Settings, gate: &Gate, reject: Reject) {
    let line = format!("-{}\r\n", reject.reply());
    let Some(config) = &settings.tls else {
        socket.refuse(line.as_bytes(), PATIENCE).await;
        return;
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let Ok(socket) = tls::first_byte(socket, deadline).await else {
        return;
    };
    let handshake = tls::handshake(Arc::clone(config), socket, deadline);
    let result = gate
        .run(settings.max_handshakes, &listener.metrics, handshake)
        .await;
    if let Ok(mut stream) = result {
        let _ = tokio::time::timeout(
            PATIENCE,
            tokio::io::AsyncWriteExt::write_all(&mut stream, line.as_bytes()),
        )
        .await;
        stream.close_gently(PATIENCE).await;
    }
}

/// How long somebody who is sent away may take to read why.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Ten thousand idle connections are the normal case: what each keeps is worth a look when it grows.
    #[test]
    fn an_idle_connection_is_small() {
        let own = size_of_future(serve) + size_of::<Relay>();
        assert!(own <= 1_800, "{own} bytes");
    }
}
