//! Against rustls's ordinary interface on the other side, byte by byte where that matters.

use std::future::poll_fn;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::io::{Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Client {
    tls: ClientConnection,
    socket: UnixStream,
}

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

impl Client {
    /// Everything that TLS wants to send, in pieces of this size.
    async fn flush(&mut self, piece: usize) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        for piece in bytes.chunks(piece) {
            self.socket.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    async fn send(&mut self, data: &[u8], piece: usize) {
        // rustls takes no more than its buffer holds at a time.
        for part in data.chunks(32 * 1024) {
            self.tls.writer().write_all(part).unwrap();
            self.flush(piece).await;
        }
    }

    /// What came, decrypted; empty at the end.
    async fn read(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        while data.is_empty() {
            let mut bytes = [0; 8192];
            let count = self.socket.read(&mut bytes).await.unwrap();
            let mut rest = &bytes[..count];
            if rest.is_empty() {
                break;
            }
            let mut closed = false;
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest).unwrap();
                closed |= self.tls.process_new_packets().unwrap().peer_has_closed();
                let mut part = [0; 16384];
                while let Ok(count @ 1..) = self.tls.reader().read(&mut part) {
                    data.extend_from_slice(&part[..count]);
                }
            }
            if closed {
                break;
            }
            self.flush(usize::MAX).await;
        }
        data
    }

    async fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            let more = self.read().await;
            assert!(!more.is_empty(), "the end after {} of {length} bytes", data.len());
            data.extend(more);
        }
        data
    }

    async fn shake_hands(&mut self, piece: usize) {
        while self.tls.is_handshaking() {
            self.flush(piece).await;
            if !self.tls.is_handshaking() {
                break;
            }
            let mut bytes = [0; 8192];
            let count = self.socket.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the end of the handshake");
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest).unwrap();
                self.tls.process_new_packets().unwrap();
            }
        }
        self.flush(piece).await;
    }
}

fn pair(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Socket, Client) {
    let (server, client) = configs(version);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let client = Client {
        tls: ClientConnection::new(client, name).unwrap(),
        socket: theirs,
    };
    (server, Socket::Unix(ours), client)
}

async fn connected(version: &'static SupportedProtocolVersion) -> (TlsStream, Client) {
    let (config, socket, mut client) = pair(version);
    let (server, ()) = tokio::join!(TlsStream::accept(config, socket), client.shake_hands(usize::MAX));
    (server.unwrap(), client)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await })
        .expect("it must not take so long");
}

/// Bytes that differ from each other wherever one looks.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[3])
        .collect()
}

#[test]
fn bytes_arrive_however_they_are_cut_and_read() {
    run(async {
        for version in VERSIONS {
            for (length, piece, room) in [
                (1, usize::MAX, 1),
                (3000, 1, 4096),
                (3000, 7, 1),
                (40_000, 1000, 333),
                (300_000, 16_407, 80 * 1024),
                (1_000_000, usize::MAX, 80 * 1024),
                (1_000_000, 70_001, 20_000),
            ] {
                let (config, socket, mut client) = pair(version);
                let (server, ()) = tokio::join!(TlsStream::accept(config, socket), client.shake_hands(piece));
                let mut server = server.unwrap();
                let data = noise(length);
                let read = async {
                    let mut received = Vec::new();
                    let mut buffer = vec![0; room];
                    while received.len() < length {
                        let count = server.read(&mut buffer).await.unwrap();
                        assert!(count > 0);
                        received.extend_from_slice(&buffer[..count]);
                    }
                    received
                };
                let (received, ()) = tokio::join!(read, client.send(&data, piece));
                assert!(
                    received == data,
                    "{length} bytes in pieces of {piece}, read by {room}"
                );
                assert_eq!(kept(&server), 0);

                let write = async {
                    server.write_all(&data).await.unwrap();
                    server.flush().await.unwrap();
                };
                let ((), received) = tokio::join!(write, client.read_exactly(length));
                assert!(received == data, "{length} bytes back");
                assert_eq!(kept(&server), 0);
            }
        }
    });
}

/// Bytes that a connection holds for itself.
fn kept(stream: &TlsStream) -> usize {
    stream.held.capacity() + stream.plain.capacity() + stream.unsent.capacity()
}

#[test]
fn what_comes_with_the_last_message_of_the_handshake_is_read() {
    run(async {
        for length in [7, 300_000] {
            let (config, socket, mut client) = pair(&TLS13);
            let data = noise(length);
            client.tls.set_buffer_limit(None);
            client.tls.writer().write_all(&data).unwrap();
            let serve = async {
                let mut server = TlsStream::accept(config, socket).await.unwrap();
                let mut received = vec![0; length];
                server.read_exact(&mut received).await.unwrap();
                received
            };
            let (received, ()) = tokio::join!(serve, client.shake_hands(usize::MAX));
            assert!(received == data);
        }
    });
}

#[test]
fn keys_may_be_renewed_at_any_time() {
    run(async {
        let (mut server, mut client) = connected(&TLS13).await;
        for round in 0..20_u8 {
            client.tls.refresh_traffic_keys().unwrap();
            client
                .send(&[round; 100], if round % 2 == 0 { 1 } else { usize::MAX })
                .await;
            let mut buffer = [0; 100];
            server.read_exact(&mut buffer).await.unwrap();
            assert_eq!(buffer, [round; 100]);
            server.write_all(&[round; 50]).await.unwrap();
            assert_eq!(client.read_exactly(50).await, [round; 50]);
        }
    });
}

#[test]
fn a_client_that_has_said_goodbye_still_gets_its_replies() {
    run(async {
        for version in VERSIONS {
            let (mut server, mut client) = connected(version).await;
            client.send(b"last words", usize::MAX).await;
            client.tls.send_close_notify();
            client.flush(usize::MAX).await;
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, b"last words");
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
            server.write_all(b"farewell").await.unwrap();
            server.shutdown().await.unwrap();
            assert_eq!(client.read_exactly(8).await, b"farewell");
            assert!(client.read().await.is_empty());
        }
    });
}

#[test]
fn an_end_without_goodbye_is_an_error_and_ours_is_announced() {
    run(async {
        for version in VERSIONS {
            let (mut server, mut client) = connected(version).await;
            client.socket.shutdown().await.unwrap();
            let error = server.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

            let (mut server, mut client) = connected(version).await;
            server.shutdown().await.unwrap();
            drop(server);
            // Asserts that close_notify came: without it the client's rustls reports an error at the end.
            assert!(client.read().await.is_empty());
            assert!(client.tls.reader().read(&mut [0; 8]).unwrap() == 0);
        }
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_the_writer_at_a_bound() {
    run(async {
        let (mut server, mut client) = connected(&TLS13).await;
        let data = noise(16 * 1024 * 1024);
        let mut taken = 0;
        poll_fn(|cx| {
            loop {
                match Pin::new(&mut server).poll_write(cx, &data[taken..]) {
                    Poll::Ready(count) => taken += count.unwrap(),
                    Poll::Pending => return Poll::Ready(()),
                }
            }
        })
        .await;
        assert!(taken < data.len() / 2, "{taken}");
        assert!(server.unsent.len() <= MAX_BATCH + OVERHEAD);
        let rest = async {
            server.write_all(&data[taken..]).await.unwrap();
            server.flush().await.unwrap();
        };
        let ((), received) = tokio::join!(rest, client.read_exactly(data.len()));
        assert!(received == data);
        assert_eq!(kept(&server), 0);
    });
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert() {
    run(async {
        for version in VERSIONS {
            let (mut server, mut client) = connected(version).await;
            client.tls.writer().write_all(b"PING\r\n").unwrap();
            let mut bytes = Vec::new();
            client.tls.write_tls(&mut bytes).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            client.socket.write_all(&bytes).await.unwrap();
            let error = server.read(&mut [0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // The alert has left already; nothing more is said or heard.
            assert!(server.unsent.is_empty());
            assert!(server.write(b"+OK\r\n").await.is_err());
            assert!(server.read(&mut [0; 64]).await.is_err());
            drop(server);
            // Behind the tickets that it has not read yet.
            let mut rest = Vec::new();
            client.socket.read_to_end(&mut rest).await.unwrap();
            let mut rest = rest.as_slice();
            let told = loop {
                assert!(!rest.is_empty(), "no alert");
                client.tls.read_tls(&mut rest).unwrap();
                if let Err(error) = client.tls.process_new_packets() {
                    break error;
                }
            };
            assert!(matches!(told, Error::AlertReceived(_)), "{told:?}");
        }
    });
}

#[test]
fn a_message_in_endless_pieces_is_refused() {
    run(async {
        let (config, socket, mut client) = pair(&TLS13);
        // The head of a ClientHello of 60,000 bytes, then the rest byte by byte: six bytes sent for each.
        let mut bytes = vec![0x16, 3, 1, 0, 4, 1, 0, 0xea, 0x60];
        for _ in 0..59_000 {
            bytes.extend([0x16, 3, 1, 0, 1, 3]);
        }
        let send = async {
            // The server stops reading and closes.
            let _ = client.socket.write_all(&bytes).await;
        };
        let accept = async {
            let (error, socket) = TlsStream::accept(config, socket).await.unwrap_err();
            drop(socket);
            error
        };
        let (error, ()) = tokio::join!(accept, send);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    });
}

/// A server that is sent what nobody should send, at every stage, fails or goes on; it never panics, and never hands over
/// bytes that were not sent.
#[test]
fn damaged_bytes_are_never_taken_for_others() {
    run(async {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below.max(1) as u64).unwrap()
        };
        for round in 0..300 {
            let version = VERSIONS[round % 2];
            let (config, socket, mut client) = pair(version);
            let data = noise(200);
            // Some are damaged in the first flight, the others after the handshake.
            let early = round % 3 == 0;
            let (server, ()) = if early {
                let mut bytes = Vec::new();
                client.tls.write_tls(&mut bytes).unwrap();
                let at = next(bytes.len());
                bytes[at] ^= 1 << next(8);
                client.socket.write_all(&bytes).await.unwrap();
                client.socket.shutdown().await.unwrap();
                (TlsStream::accept(config, socket).await, ())
            } else {
                tokio::join!(TlsStream::accept(config, socket), client.shake_hands(usize::MAX))
            };
            let Ok(mut server) = server else {
                assert!(early);
                continue;
            };
            assert!(!early, "a damaged ClientHello was taken");
            let mut bytes = Vec::new();
            for part in data.chunks(50) {
                client.tls.writer().write_all(part).unwrap();
                client.tls.write_tls(&mut bytes).unwrap();
            }
            match round % 5 {
                0 => bytes.truncate(next(bytes.len())),
                1 => drop(bytes.drain(..=next(bytes.len()))),
                2 => bytes.insert(next(bytes.len()), 0x17),
                _ => {
                    let at = next(bytes.len());
                    bytes[at] ^= 1 << next(8);
                }
            }
            client.socket.write_all(&bytes).await.unwrap();
            client.socket.shutdown().await.unwrap();
            let mut received = Vec::new();
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = server.read(&mut buffer).await {
                received.extend_from_slice(&buffer[..count]);
            }
            assert!(data.starts_with(&received), "round {round}");
            assert!(received.len() < data.len(), "round {round}");
            let _ = server.write_all(&data).await;
            server.shutdown().await.ok();
        }
    });
}
