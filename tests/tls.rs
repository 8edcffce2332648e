//! TLS towards clients: the matrix of versions, certificates and verdicts, on real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code: a failed assumption is a failed test"
)]

#[path = "e2e/support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyward::config::{CertificateFiles, ClientCertificates, ListenerTls, TlsVersion};
use keyward::net::{Socket, Stream};
use keyward::tls::{CertificateRole, HandshakeFailure, PLAINTEXT_REPLY, ServerTls, first_byte, handshake};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use support::certs::Wish;
use support::{Authority, Identity, PATIENCE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// A TLS listener whose configuration can be exchanged, as a reload does.
struct Server {
    address: std::net::SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

/// What became of a connection on the server's side.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Outcome {
    Accepted {
        version: &'static str,
        kind: &'static str,
        client_chain: usize,
    },
    Failed(HandshakeFailure),
}

impl Outcome {
    fn failure(&self) -> HandshakeFailure {
        match self {
            Self::Failed(failure) => *failure,
            Self::Accepted { .. } => panic!("accepted: {self:?}"),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Accepted { kind, .. } => kind,
            Self::Failed(failure) => panic!("failed: {failure}"),
        }
    }
}

impl Server {
    async fn start(section: &ListenerTls) -> Self {
        Self::with(load(section).config, PATIENCE).await
    }

    async fn with(config: Arc<ServerConfig>, limit: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config));
        let (sender, outcomes) = mpsc::unbounded_channel();
        let shared = Arc::clone(&config);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = Arc::clone(&shared.lock().unwrap());
                let sender = sender.clone();
                tokio::spawn(async move {
                    let outcome = serve(config, Socket::Tcp(stream), limit).await;
                    let _ = sender.send(outcome);
                });
            }
        });
        Self {
            address,
            config,
            outcomes,
        }
    }

    fn reload(&self, section: &ListenerTls) {
        *self.config.lock().unwrap() = load(section).config;
    }

    async fn outcome(&mut self) -> Outcome {
        tokio::time::timeout(PATIENCE, self.outcomes.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Connects, sends a byte and waits for the answer, so that tickets and late alerts arrive.
    async fn connect(
        &self,
        client: &Arc<ClientConfig>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(name, socket)
            .await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).await?;
        Ok(stream)
    }

    /// The server's verdict about this client.
    async fn verdict(&mut self, client: &Arc<ClientConfig>) -> Outcome {
        let _ = self.connect(client).await;
        self.outcome().await
    }
}

/// Handshake, one byte back for one byte, then close in order; or what the server does about a failure.
async fn serve(config: Arc<ServerConfig>, socket: Socket, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let result = match first_byte(socket, deadline).await {
        Ok(socket) => handshake(config, socket, deadline).await,
        Err(rejected) => Err(rejected),
    };
    match result {
        Ok(mut stream) => {
            let outcome = Outcome::Accepted {
                version: stream.tls_version().unwrap(),
                kind: match stream.tls_state().unwrap().handshake_kind().unwrap() {
                    HandshakeKind::Full => "full",
                    HandshakeKind::FullWithHelloRetryRequest => "retried",
                    HandshakeKind::Resumed => "resumed",
                },
                client_chain: stream.peer_certificates().map_or(0, <[_]>::len),
            };
            let mut byte = [0; 1];
            if stream.read_exact(&mut byte).await.is_ok() {
                let _ = stream.write_all(&byte).await;
                let _ = stream.flush().await;
            }
            stream.close_gently(PATIENCE).await;
            outcome
        }
        Err(rejected) => {
            assert!(!rejected.detail.is_empty());
            if let Some(socket) = rejected.socket {
                let line = if rejected.failure == HandshakeFailure::Plaintext {
                    PLAINTEXT_REPLY
                } else {
                    b""
                };
                socket.refuse(line, PATIENCE).await;
            }
            Outcome::Failed(rejected.failure)
        }
    }
}

fn section(identity: &Identity) -> ListenerTls {
    ListenerTls {
        certificate: CertificateFiles {
            certificate_file: identity.certificate.clone(),
            key_file: identity.key.clone(),
        },
        client_ca_file: None,
        client_crl_file: None,
        client_certificates: ClientCertificates::Off,
        min_version: TlsVersion::Tls12,
    }
}

fn mutual(identity: &Identity, authority: &Authority, mode: ClientCertificates) -> ListenerTls {
    ListenerTls {
        client_ca_file: Some(authority.file()),
        client_certificates: mode,
        ..section(identity)
    }
}

fn load(section: &ListenerTls) -> ServerTls {
    ServerTls::load(section).unwrap()
}

fn refused(section: &ListenerTls) -> String {
    ServerTls::load(section).expect_err("a refusal").to_string()
}

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

// Serving.

#[tokio::test]
async fn the_whole_chain_is_sent_for_every_kind_of_key() {
    let root = Authority::new("root");
    let below = root.intermediate("below");
    for identity in [below.server("ecdsa"), below.issue(Wish::server("rsa").rsa())] {
        let loaded = load(&section(&identity));
        assert_eq!(loaded.certificates.len(), 1);
        let mut server = Server::with(loaded.config, PATIENCE).await;
        for (versions, expected) in VERSIONS.into_iter().zip(["1.2", "1.3"]) {
            // This client knows the root alone.
            let stream = server
                .connect(&root.client_config_for(None, versions))
                .await
                .unwrap();
            let chain = stream.get_ref().1.peer_certificates().unwrap();
            assert_eq!(chain.len(), 2);
            assert_eq!(&chain[0], identity.leaf());
            drop(stream);
            let outcome = server.outcome().await;
            assert!(
                matches!(outcome, Outcome::Accepted { version, client_chain: 0, .. } if version == expected)
            );
        }
    }
}

#[tokio::test]
async fn x2_the_hybrid_group_is_negotiated_and_x3_there_is_no_early_data() {
    let authority = Authority::new("root");
    let mut server = Server::start(&section(&authority.server("a"))).await;
    assert_eq!(server.config.lock().unwrap().max_early_data_size, 0);
    let mut client = Arc::unwrap_or_clone(authority.client_config(None));
    client.enable_early_data = true;
    client.alpn_protocols = vec![b"redis".to_vec()];
    let client = Arc::new(client);
    for expected in ["full", "resumed"] {
        let stream = server.connect(&client).await.unwrap();
        let state = &stream.get_ref().1;
        assert_eq!(
            state.negotiated_key_exchange_group().unwrap().name(),
            rustls::NamedGroup::X25519MLKEM768
        );
        assert!(!state.is_early_data_accepted());
        assert_eq!(state.alpn_protocol(), None);
        drop(stream);
        assert_eq!(server.outcome().await.kind(), expected);
    }
}

#[tokio::test]
async fn x1_only_forward_secret_authenticated_suites_are_offered() {
    let authority = Authority::new("root");
    let config = load(&section(&authority.issue(Wish::server("rsa").rsa()))).config;
    let suites: Vec<String> = config
        .crypto_provider()
        .cipher_suites
        .iter()
        .map(|suite| format!("{:?}", suite.suite()))
        .collect();
    assert_eq!(suites.len(), 9);
    for suite in &suites {
        let modern = suite.starts_with("TLS13_") || suite.starts_with("TLS_ECDHE_");
        let aead = suite.contains("GCM") || suite.contains("POLY1305");
        assert!(modern && aead, "{suite}");
    }
    // The same seen from outside, by another library.
    let mut server = Server::with(config, PATIENCE).await;
    let cases: [(&[&str], Option<HandshakeFailure>); 6] = [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], None),
        (&["-tls1_3"], None),
        (
            &["-tls1_2", "-cipher", "AES128-SHA"],
            Some(HandshakeFailure::Cipher),
        ),
        (
            &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
            Some(HandshakeFailure::Cipher),
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"],
            Some(HandshakeFailure::Cipher),
        ),
        (
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            Some(HandshakeFailure::Version),
        ),
    ];
    for (options, expected) in cases {
        let mut openssl = tokio_command(
            "openssl",
            &["s_client", "-connect", &server.address.to_string()],
            options,
        );
        let outcome = server.outcome().await;
        openssl.kill().unwrap();
        openssl.wait().unwrap();
        match expected {
            None => assert_eq!(outcome.kind(), "full", "{options:?}"),
            Some(failure) => assert_eq!(outcome.failure(), failure, "{options:?}"),
        }
    }
}

/// A program that talks to a server of ours while we go on; it sends one line first.
fn tokio_command(program: &str, first: &[&str], more: &[&str]) -> std::process::Child {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(program)
        .args(first)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is needed: run tests/run.sh, which installs it");
    // Closes its standard input as well, which ends s_client.
    let _ = child.stdin.take().unwrap().write_all(b"?\n");
    child
}

#[tokio::test]
async fn min_version_refuses_the_older_one() {
    let authority = Authority::new("root");
    let section = ListenerTls {
        min_version: TlsVersion::Tls13,
        ..section(&authority.server("a"))
    };
    let mut server = Server::start(&section).await;
    let old = server
        .verdict(&authority.client_config_for(None, &[&TLS12]))
        .await;
    assert_eq!(old.failure(), HandshakeFailure::Version);
    let new = server.verdict(&authority.client_config(None)).await;
    assert!(matches!(new, Outcome::Accepted { version: "1.3", .. }));
}

#[tokio::test]
async fn keys_may_be_pkcs8_pkcs1_or_sec1() {
    let authority = Authority::new("root");
    let cases = [
        (authority.server("ec"), vec!["ec"], "EC PRIVATE KEY"),
        (
            authority.issue(Wish::server("rsa").rsa()),
            vec!["rsa", "-traditional"],
            "RSA PRIVATE KEY",
        ),
    ];
    for (identity, convert, label) in cases {
        load(&section(&identity));
        let old = identity.key.with_extension("old");
        let output = Command::new("openssl")
            .args(convert)
            .arg("-in")
            .arg(&identity.key)
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(label));
        // As `openssl ecparam -genkey` writes it.
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        support::certs::replace(&old, &format!("{parameters}{text}"), 0o600);
        let mut changed = section(&identity);
        changed.certificate.key_file = old;
        let mut server = Server::start(&changed).await;
        assert_eq!(
            server.verdict(&authority.client_config(None)).await.kind(),
            "full"
        );
    }
}

#[tokio::test]
async fn an_end_of_a_session_is_announced() {
    let authority = Authority::new("root");
    let server = Server::start(&section(&authority.server("a"))).await;
    let mut stream = server.connect(&authority.client_config(None)).await.unwrap();
    // Without close_notify this would be an error.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

// What fails, and what it is called.

#[tokio::test]
async fn plaintext_is_recognised_and_answered() {
    let authority = Authority::new("root");
    let mut server = Server::start(&section(&authority.server("a"))).await;
    let long = [
        b"*2\r\n$4\r\nECHO\r\n$20000\r\n".to_vec(),
        vec![b'x'; 20000],
        b"\r\n".to_vec(),
    ]
    .concat();
    for sent in [
        &b"PING\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"G",
        b"\x80\x2e\x01",
        &long,
    ] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        // The whole line arrives although the server has not read what was sent.
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, PLAINTEXT_REPLY);
        drop(client);
        assert_eq!(server.outcome().await.failure(), HandshakeFailure::Plaintext);
    }
}

#[tokio::test]
async fn tls_over_a_unix_socket_works_and_plaintext_there_is_recognised() {
    let authority = Authority::new("root");
    let config = load(&section(&authority.server("a"))).config;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve(Arc::clone(&config), Socket::Unix(theirs), PATIENCE));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(authority.client_config(None))
        .connect(name, ours)
        .await
        .unwrap();
    stream.write_all(b"?").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'?');
    drop(stream);
    assert_eq!(serving.await.unwrap().kind(), "full");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve(config, Socket::Unix(theirs), PATIENCE));
    ours.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(PLAINTEXT_REPLY), "{}", answer.escape_ascii());
    drop(ours);
    assert_eq!(serving.await.unwrap().failure(), HandshakeFailure::Plaintext);
}

#[tokio::test]
async fn scans_stalls_and_rubbish_have_their_names() {
    let authority = Authority::new("root");
    let limit = Duration::from_millis(200);
    let mut server = Server::with(load(&section(&authority.server("a"))).config, limit).await;
    // Closed at once, and after half a record.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(sent).await.unwrap();
        drop(client);
        assert_eq!(server.outcome().await.failure(), HandshakeFailure::Eof);
    }
    // Kept open: the deadline holds from the first byte on, whatever comes.
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(sent).await.unwrap();
        assert_eq!(server.outcome().await.failure(), HandshakeFailure::Timeout);
    }
    for sent in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x03\x01\xff\xff"] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        assert_eq!(server.outcome().await.failure(), HandshakeFailure::Other);
    }
}

#[tokio::test]
async fn a_client_without_the_authority_is_named() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let mut server = Server::start(&section(&ours.server("a"))).await;
    for versions in VERSIONS {
        let verdict = server.verdict(&other.client_config_for(None, versions)).await;
        assert_eq!(verdict.failure(), HandshakeFailure::ClientRejectedCertificate);
    }
}

// Client certificates.

fn self_signed_client(
    trusted: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut roots = rustls::RootCertStore::empty();
    let text = fs::read(trusted.file()).unwrap();
    for found in rustls_pemfile::certs(&mut text.as_slice()) {
        roots.add(found.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn client_certificates_are_judged() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let below = ours.intermediate("below");
    let below_other = ours.intermediate("elsewhere");
    let server_identity = ours.server("server");
    let revoked = ours.client("revoked");
    let under_revocation_list = |lists: &[PathBuf], section: ListenerTls| {
        let file = ours.dir().join("all.crl.pem");
        let text: String = lists
            .iter()
            .map(|list| fs::read_to_string(list).unwrap())
            .collect();
        fs::write(&file, text).unwrap();
        ListenerTls {
            client_crl_file: Some(file),
            ..section
        }
    };
    let ours_list = fs::copy(ours.revocation_list(&[&revoked]), ours.dir().join("1.crl"));
    ours_list.unwrap();
    let ours_list = ours.dir().join("1.crl");
    fs::copy(below.revocation_list(&[]), ours.dir().join("2.crl")).unwrap();
    let below_list = ours.dir().join("2.crl");

    // What the client shows; whether a list is in force; the verdict, without and with a list.
    enum Shown {
        Nothing,
        SelfSigned,
        Certificate(Identity),
    }
    type Verdict = Result<usize, HandshakeFailure>;
    let cases: Vec<(&str, Shown, Verdict, Verdict)> = vec![
        ("good", Shown::Certificate(ours.client("app")), Ok(1), Ok(1)),
        (
            "RSA",
            Shown::Certificate(ours.issue(Wish::client("app").rsa())),
            Ok(1),
            Ok(1),
        ),
        (
            "by an intermediate",
            Shown::Certificate(below.client("app")),
            Ok(2),
            Ok(2),
        ),
        (
            "by an intermediate without a list",
            Shown::Certificate(below_other.client("app")),
            Ok(2),
            Err(HandshakeFailure::ClientCertUntrusted),
        ),
        (
            "revoked",
            Shown::Certificate(revoked.clone()),
            Ok(1),
            Err(HandshakeFailure::ClientCertRevoked),
        ),
        (
            "of another CA",
            Shown::Certificate(other.client("app")),
            Err(HandshakeFailure::ClientCertUntrusted),
            Err(HandshakeFailure::ClientCertUntrusted),
        ),
        (
            "expired",
            Shown::Certificate(ours.issue(Wish::client("app").expired())),
            Err(HandshakeFailure::ClientCertExpired),
            Err(HandshakeFailure::ClientCertExpired),
        ),
        (
            "for servers only",
            Shown::Certificate(ours.server("app")),
            Err(HandshakeFailure::ClientCertUntrusted),
            Err(HandshakeFailure::ClientCertUntrusted),
        ),
        (
            "self-signed",
            Shown::SelfSigned,
            Err(HandshakeFailure::ClientCertUntrusted),
            Err(HandshakeFailure::ClientCertUntrusted),
        ),
        (
            "none",
            Shown::Nothing,
            Err(HandshakeFailure::ClientCertMissing),
            Err(HandshakeFailure::ClientCertMissing),
        ),
    ];
    for mode in [
        ClientCertificates::Required,
        ClientCertificates::Optional,
        ClientCertificates::Off,
    ] {
        for with_list in [false, true] {
            let plain = mutual(&server_identity, &ours, mode);
            let section = if with_list {
                under_revocation_list(&[ours_list.clone(), below_list.clone()], plain)
            } else {
                plain
            };
            let mut server = Server::start(&section).await;
            for versions in VERSIONS {
                for (name, shown, without, with) in &cases {
                    let client = match shown {
                        Shown::Nothing => ours.client_config_for(None, versions),
                        Shown::Certificate(identity) => ours.client_config_for(Some(identity), versions),
                        Shown::SelfSigned => self_signed_client(&ours, versions),
                    };
                    let expected = match (mode, shown) {
                        (ClientCertificates::Off, _) => Ok(0),
                        (ClientCertificates::Optional, Shown::Nothing) => Ok(0),
                        _ => *if with_list { with } else { without },
                    };
                    let found = match server.verdict(&client).await {
                        Outcome::Accepted { client_chain, .. } => Ok(client_chain),
                        Outcome::Failed(failure) => Err(failure),
                    };
                    assert_eq!(
                        found, expected,
                        "{name}, {mode:?}, list: {with_list}, {versions:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn x4_a_revocation_at_reload_ends_resumption_too() {
    for versions in VERSIONS {
        for mode in [ClientCertificates::Required, ClientCertificates::Optional] {
            let authority = Authority::new("root");
            let identity = authority.server("server");
            let app = authority.client("app");
            let open = mutual(&identity, &authority, mode);
            let mut server = Server::start(&open).await;
            // One client, which keeps whatever sessions and tickets it gets.
            let client = authority.client_config_for(Some(&app), versions);
            for _ in 0..3 {
                assert_eq!(
                    server.verdict(&client).await.kind(),
                    "full",
                    "no sessions with client certificates"
                );
            }
            let list = authority.revocation_list(&[&app]);
            server.reload(&ListenerTls {
                client_crl_file: Some(list),
                ..open
            });
            assert_eq!(
                server.verdict(&client).await.failure(),
                HandshakeFailure::ClientCertRevoked
            );
            assert_eq!(
                server.verdict(&client).await.failure(),
                HandshakeFailure::ClientCertRevoked
            );
        }
    }
}

#[tokio::test]
async fn x4_a_session_without_certificate_does_not_survive_the_demand_for_one() {
    for versions in VERSIONS {
        let authority = Authority::new("root");
        let identity = authority.server("server");
        let mut server = Server::start(&section(&identity)).await;
        let client = authority.client_config_for(None, versions);
        assert_eq!(server.verdict(&client).await.kind(), "full");
        assert_eq!(server.verdict(&client).await.kind(), "resumed");
        // A reload that changes nothing still starts from nothing.
        server.reload(&section(&identity));
        assert_eq!(server.verdict(&client).await.kind(), "full");
        assert_eq!(server.verdict(&client).await.kind(), "resumed");
        server.reload(&mutual(&identity, &authority, ClientCertificates::Required));
        assert_eq!(
            server.verdict(&client).await.failure(),
            HandshakeFailure::ClientCertMissing
        );
    }
}

// Loading.

#[test]
fn what_was_loaded_is_told() {
    let authority = Authority::new("root");
    let identity = authority.server("server");
    let list = authority.revocation_list(&[]);
    let loaded = load(&ListenerTls {
        client_crl_file: Some(list),
        ..mutual(&identity, &authority, ClientCertificates::Required)
    });
    let now = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap();
    let days = |from: i64| (from - now + 3600) / 86400;
    let told: Vec<_> = loaded
        .certificates
        .iter()
        .map(|info| (info.role, info.name.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (
                CertificateRole::Listener,
                identity.certificate.display().to_string()
            ),
            (CertificateRole::ClientCa, authority.file().display().to_string()),
        ]
    );
    assert_eq!(days(loaded.certificates[0].not_after), 90);
    assert!(loaded.certificates[0].subject.contains("server"));
    assert_eq!(loaded.crl_next_update.map(days), Some(7));
}

#[test]
fn f20_an_expired_certificate_of_our_own_is_still_served() {
    let authority = Authority::new("root");
    load(&section(&authority.issue(Wish::server("old").expired())));
}

#[test]
fn f21_what_does_not_fit_together_is_refused_with_file_and_remedy() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let (first, second) = (authority.server("first"), authority.server("second"));
    let mut mixed = section(&first);
    mixed.certificate.key_file = second.key.clone();
    let message = refused(&mixed);
    assert!(
        message.contains("does not belong to the certificate"),
        "{message}"
    );
    assert!(message.contains(&second.key.display().to_string()), "{message}");
    assert!(
        message.contains(&first.certificate.display().to_string()),
        "{message}"
    );

    let without_ca = ListenerTls {
        client_certificates: ClientCertificates::Required,
        ..section(&first)
    };
    assert!(refused(&without_ca).contains("client_ca_file"));

    let empty = authority.dir().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let required = mutual(&first, &authority, ClientCertificates::Required);
    let message = refused(&ListenerTls {
        client_ca_file: Some(empty.clone()),
        ..required.clone()
    });
    assert!(
        message.contains("empty.pem") && message.contains("no certificate"),
        "{message}"
    );
    let message = refused(&ListenerTls {
        client_crl_file: Some(empty),
        ..required.clone()
    });
    assert!(message.contains("no revocation list"), "{message}");

    // One bad entry in a bundle.
    let bundle = authority.dir().join("bundle.pem");
    let good = fs::read_to_string(other.file()).unwrap();
    fs::write(
        &bundle,
        format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    )
    .unwrap();
    let message = refused(&ListenerTls {
        client_ca_file: Some(bundle),
        ..required.clone()
    });
    assert!(message.contains("certificate 2"), "{message}");

    fs::set_permissions(&first.key, fs::Permissions::from_mode(0o644)).unwrap();
    let message = refused(&section(&first));
    assert!(message.contains("0644") && message.contains("chmod"), "{message}");
}

/// An authority whose lists are in force until any date.
fn list_until(directory: &Path, next_update: time::OffsetDateTime) -> PathBuf {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "lists");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: next_update - time::Duration::days(30),
        next_update,
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let file = directory.join("until.crl.pem");
    fs::write(&file, list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    file
}

#[test]
fn x9_an_expired_or_damaged_revocation_list_is_refused() {
    let authority = Authority::new("root");
    let required = mutual(
        &authority.server("server"),
        &authority,
        ClientCertificates::Required,
    );
    let with = |file: PathBuf| ListenerTls {
        client_crl_file: Some(file),
        ..required.clone()
    };
    let yesterday = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    let message = refused(&with(list_until(authority.dir(), yesterday)));
    assert!(
        message.contains("expired at 20") && message.contains("until.crl.pem"),
        "{message}"
    );
    let damaged = authority.dir().join("damaged.crl.pem");
    fs::write(
        &damaged,
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    )
    .unwrap();
    let message = refused(&with(damaged));
    assert!(message.contains("list 1"), "{message}");
}

/// The types that the tests above lean on without naming.
#[allow(dead_code, reason = "checked by the compiler alone")]
fn streams_can_be_moved_between_threads(stream: Stream) -> impl Send {
    stream
}
