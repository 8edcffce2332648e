//! TLS towards clients, client certificates, and the PROXY protocol (rules, L-20, F-28).

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::NamedGroup;
use rustls::ProtocolVersion;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::PATIENCE;
use super::support::Redis;
use super::support::Setup;
use super::support::certs::Wish;
use super::support::eventually;
use super::support::keyward::set_mode;
use super::support::words;

fn client(keyward: &Keyward, config: &Arc<ClientConfig>) -> Client {
    Client::tls(keyward.address(), config)
        .unwrap()
        .login("app", APP_PASSWORD)
}

/// The handshake or the first read fails: with TLS 1.3 the server's alert comes behind the client's last message.
fn refused(keyward: &Keyward, config: &Arc<ClientConfig>) -> bool {
    match Client::tls(keyward.address(), config) {
        Err(_) => true,
        Ok(mut client) => client.try_send(&words("PING")).is_err() || client.try_value().is_err(),
    }
}

#[test]
fn both_versions_ecdsa_and_rsa_and_chains_are_served() {
    let ca = Authority::new("ca");
    let intermediate = ca.intermediate("below");
    let certificates = [
        ca.server("ecdsa"),
        ca.issue(Wish::server("rsa").rsa()),
        intermediate.server("chain"),
    ];
    let redis = Redis::start();
    for identity in certificates {
        let keyward = Setup::new(&redis).tls(&identity, "").start();
        for (version, expected) in [
            (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
            (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let mut client = client(&keyward, &ca.client_config_for(None, &[version]));
            assert_eq!(client.tls_session().protocol_version(), Some(expected));
            assert_eq!(
                client.tls_session().peer_certificates().unwrap()[0],
                *identity.leaf()
            );
            assert_eq!(client.call("SET a 1"), "+OK");
            assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
            assert_eq!(client.call("GET a"), "$1");
        }
        keyward.wait_metric("keyward_tls_handshakes_total", &[("listener", "main")], 2.0);
        assert!(
            keyward.metric(
                "keyward_tls_certificate_not_after_timestamp_seconds",
                &[("role", "listener")]
            ) > 1.7e9
        );
    }
}

#[test]
fn the_key_exchange_is_post_quantum_by_default_and_there_is_no_early_data() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    let config = ca.client_config(None);
    for _ in 0..2 {
        let mut client = client(&keyward, &config);
        assert_eq!(client.call("PING"), "+PONG");
        let session = client.tls_session();
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert!(
            !session.is_early_data_accepted(),
            "0-RTT could replay an INCR (X-3)"
        );
    }
}

#[test]
fn min_version_refuses_the_older_one() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .tls(&ca.server("server"), ", min_version = \"1.3\"")
        .start();
    assert!(refused(
        &keyward,
        &ca.client_config_for(None, &[&rustls::version::TLS12])
    ));
    keyward.wait_metric(
        "keyward_tls_handshake_failures_total",
        &[("reason", "version")],
        1.0,
    );
    assert_eq!(client(&keyward, &ca.client_config(None)).call("PING"), "+PONG");
}

#[test]
fn plaintext_on_a_tls_port_is_told_so_in_one_line() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    let inputs: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$3\r\nfoo\r\n",
    ];
    for input in inputs {
        let mut client = keyward.connect();
        client.send(input);
        assert_eq!(
            client.reply(),
            "-ERR this port needs TLS: use rediss:// instead of redis://"
        );
        client.expect_closed();
    }
    keyward.wait_metric(
        "keyward_tls_handshake_failures_total",
        &[("reason", "plaintext")],
        inputs.len() as f64,
    );
    // A port scan is no plaintext client.
    drop(keyward.connect());
    keyward.wait_metric("keyward_tls_handshake_failures_total", &[("reason", "eof")], 1.0);
    assert_eq!(keyward.metric("keyward_tls_handshakes_total", &[]), 0.0);
}

#[test]
fn a_client_that_lacks_the_authority_is_counted() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    assert!(refused(&keyward, &other.client_config(None)));
    let reason = [("reason", "client_rejected_certificate")];
    keyward.wait_metric("keyward_tls_handshake_failures_total", &reason, 1.0);
}

#[test]
fn a_stalled_handshake_ends_at_the_login_deadline() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .tls(&ca.server("server"), "")
        .login("timeout = \"500ms\"")
        .start();
    let began = Instant::now();
    let mut silent = keyward.connect();
    silent.expect_closed();
    let mut half = keyward.connect();
    half.send(&[0x16, 0x03, 0x01, 0x02, 0x00]);
    half.expect_closed();
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    keyward.wait_metric(
        "keyward_tls_handshake_failures_total",
        &[("reason", "timeout")],
        2.0,
    );
}

/// The first bytes of a ClientHello, and then nothing.
fn stalled(keyward: &Keyward) -> TcpStream {
    let mut stream = TcpStream::connect(keyward.address()).unwrap();
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).unwrap();
    stream
}

/// One worker, and a login deadline that ends nothing in a test.
fn one_worker(redis: &Redis, ca: &Authority) -> Setup {
    Setup::new(redis)
        .tls(&ca.server("server"), "")
        .login("timeout = \"10m\"")
        .server("workers = 1")
}

const IN_PROGRESS: &str = "keyward_tls_handshakes_in_progress";
const WAITING: &str = "keyward_tls_handshakes_waiting";

#[test]
fn stalled_and_silent_clients_keep_no_handshake_from_its_turn() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    // Default, and the strictest.
    for places in [64, 1] {
        let keyward = one_worker(&redis, &ca)
            .server(&format!("max_tls_handshakes = {places}"))
            .start();
        let silent: Vec<Client> = (0..5).map(|_| keyward.connect()).collect();
        let held: Vec<TcpStream> = (0..100).map(|_| stalled(&keyward)).collect();
        keyward.wait_metric(IN_PROGRESS, &[("listener", "main")], 100.0);
        for _ in 0..3 {
            assert_eq!(client(&keyward, &ca.client_config(None)).call("PING"), "+PONG");
        }
        // They wait for their clients, not for us, and nobody had to go.
        keyward.wait_metric(IN_PROGRESS, &[("listener", "main")], 100.0);
        keyward.wait_metric(WAITING, &[("listener", "main")], 0.0);
        assert_eq!(
            keyward.metric("keyward_connections_closed_total", &[("reason", "evicted")]),
            0.0
        );
        drop((held, silent));
        keyward.wait_metric(IN_PROGRESS, &[("listener", "main")], 0.0);
        keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 0.0);
    }
}

#[test]
fn a_storm_of_handshakes_is_served_whole_and_sessions_with_it() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = one_worker(&redis, &ca).server("max_tls_handshakes = 2").start();
    let address = keyward.address();
    let config = ca.client_config(None);
    let mut inside = client(&keyward, &config);
    let clients: Vec<_> = (0..60)
        .map(|_| {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let client = Client::tls(address, &config).unwrap();
                assert_eq!(client.login("app", APP_PASSWORD).call("PING"), "+PONG");
            })
        })
        .collect();
    for number in 1..=20 {
        assert_eq!(inside.call("INCR n"), format!(":{number}"));
    }
    for client in clients {
        client.join().unwrap();
    }
    keyward.wait_metric("keyward_tls_handshakes_total", &[("listener", "main")], 61.0);
    assert_eq!(keyward.metric("keyward_tls_handshake_failures_total", &[]), 0.0);
    assert_eq!(
        keyward.metric("keyward_connections_closed_total", &[("reason", "evicted")]),
        0.0
    );
    keyward.wait_metric(IN_PROGRESS, &[("listener", "main")], 0.0);
    assert_eq!(keyward.metric(WAITING, &[("listener", "main")]), 0.0);
}

#[test]
fn certificates_that_end_soon_or_have_ended_are_mentioned_at_every_load() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    for (wish, event) in [
        (Wish::server("soon").days(13), "certificate_expires_soon"),
        (Wish::server("over").expired(), "certificate_expired"),
    ] {
        let identity = ca.issue(wish);
        let keyward = Setup::new(&redis).tls(&identity, "").expect(event).start();
        let line = keyward.wait_event(event);
        assert_eq!(
            (&line["role"], &line["name"]),
            (&"listener".into(), &"main".into())
        );
        assert_eq!(line["file"], identity.certificate.to_str().unwrap());
        keyward.reload();
        eventually("the mention after the reload", || {
            (keyward.events(event).len() == 2).then_some(())
        });
    }
    // Two weeks and a bit are none of anybody's business: an unexpected warning fails the test.
    let identity = ca.issue(Wish::server("fine").days(15));
    let keyward = Setup::new(&redis).tls(&identity, "").start();
    assert_eq!(client(&keyward, &ca.client_config(None)).call("PING"), "+PONG");
}

#[test]
fn the_end_of_a_revocation_list_is_a_metric_and_mentioned_when_near() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let list = clients.revocation_list(&[]);
    let redis = Redis::start();
    let more = format!(
        ", client_ca_file = {:?}, client_crl_file = {list:?}, client_certificates = \"required\"",
        clients.file()
    );
    let keyward = Setup::new(&redis)
        .tls(&ca.server("server"), &more)
        .expect("revocation_list_expires_soon")
        .start();
    let end = || {
        keyward.metric(
            "keyward_tls_crl_next_update_timestamp_seconds",
            &[("listener", "main")],
        )
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let left = end() - now;
    assert!((6.9..7.1).contains(&(left / 86_400.0)), "{left} s");
    assert!(keyward.events("revocation_list_expires_soon").is_empty());
    clients.revocation_list_for(time::Duration::hours(6), &[]);
    keyward.reload();
    keyward.wait_event("revocation_list_expires_soon");
    let left = end() - now;
    assert!((5.9..6.1).contains(&(left / 3_600.0)), "{left} s");
}

#[test]
fn client_certificates_can_be_required() {
    let (ca, clients, stranger) = (
        Authority::new("ca"),
        Authority::new("clients"),
        Authority::new("stranger"),
    );
    let redis = Redis::start();
    let more = format!(
        ", client_ca_file = {:?}, client_certificates = \"required\"",
        clients.file()
    );
    let keyward = Setup::new(&redis).tls(&ca.server("server"), &more).start();
    let mut welcome = client(&keyward, &ca.client_config(Some(&clients.client("web"))));
    assert_eq!(welcome.call("PING"), "+PONG");
    // A certificate replaces no password here.
    let config = ca.client_config(Some(&clients.client("web2")));
    let mut nobody = Client::tls(keyward.address(), &config).unwrap();
    assert_eq!(nobody.call("PING"), "-NOAUTH Authentication required.");
    assert!(refused(&keyward, &ca.client_config(None)), "no certificate");
    assert!(
        refused(&keyward, &ca.client_config(Some(&stranger.client("web")))),
        "another authority"
    );
    let expired = clients.issue(Wish::client("old").expired());
    assert!(refused(&keyward, &ca.client_config(Some(&expired))), "expired");
    // A server's certificate is none for a client.
    assert!(
        refused(&keyward, &ca.client_config(Some(&clients.server("server")))),
        "wrong usage"
    );
    // TLS 1.2 alike.
    let old = ca.client_config_for(Some(&stranger.client("web")), &[&rustls::version::TLS12]);
    assert!(refused(&keyward, &old));
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", ""), ("reason", "client_cert_missing")],
        1.0,
    );
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", ""), ("reason", "client_cert_expired")],
        1.0,
    );
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", ""), ("reason", "client_cert_untrusted")],
        3.0,
    );
    assert_eq!(
        keyward.metric("keyward_tls_handshake_failures_total", &[]),
        0.0,
        "nothing is counted twice"
    );
}

#[test]
fn client_certificates_can_be_optional() {
    let (ca, clients, stranger) = (
        Authority::new("ca"),
        Authority::new("clients"),
        Authority::new("stranger"),
    );
    let redis = Redis::start();
    let more = format!(
        ", client_ca_file = {:?}, client_certificates = \"optional\"",
        clients.file()
    );
    let keyward = Setup::new(&redis).tls(&ca.server("server"), &more).start();
    assert_eq!(client(&keyward, &ca.client_config(None)).call("PING"), "+PONG");
    assert_eq!(
        client(&keyward, &ca.client_config(Some(&clients.client("web")))).call("PING"),
        "+PONG"
    );
    assert!(
        refused(&keyward, &ca.client_config(Some(&stranger.client("web")))),
        "presented, hence verified"
    );
}

#[test]
fn revoked_client_certificates_are_refused() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let (good, bad) = (clients.client("good"), clients.client("bad"));
    let list = clients.revocation_list(&[&bad]);
    let redis = Redis::start();
    let more = format!(
        ", client_ca_file = {:?}, client_crl_file = {list:?}, client_certificates = \"required\"",
        clients.file()
    );
    let keyward = Setup::new(&redis).tls(&ca.server("server"), &more).start();
    assert_eq!(
        client(&keyward, &ca.client_config(Some(&good))).call("PING"),
        "+PONG"
    );
    assert!(refused(&keyward, &ca.client_config(Some(&bad))));
}

#[test]
fn a_revocation_at_reload_ends_resumption_too() {
    // Rule 11: with the session store or the ticketer carried over, the revoked client would resume and be accepted.
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let identity = clients.client("soon-revoked");
    let list = clients.revocation_list(&[]);
    let redis = Redis::start();
    let more = format!(
        ", client_ca_file = {:?}, client_crl_file = {list:?}, client_certificates = \"required\"",
        clients.file()
    );
    let keyward = Setup::new(&redis).tls(&ca.server("server"), &more).start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        clients.revocation_list(&[]);
        keyward.reload();
        let config = ca.client_config_for(Some(&identity), &[version]);
        for _ in 0..3 {
            let mut client = client(&keyward, &config);
            assert_eq!(client.call("PING"), "+PONG");
        }
        clients.revocation_list(&[&identity]);
        keyward.reload();
        assert!(refused(&keyward, &config), "{:?}", version.version);
    }
}

#[test]
fn sessions_are_resumed_without_client_certificates() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    let config = ca.client_config(None);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let mut client = client(&keyward, &config);
        assert_eq!(client.call("PING"), "+PONG");
        kinds.push(client.tls_session().handshake_kind().unwrap());
    }
    assert_eq!(kinds[0], HandshakeKind::Full);
    assert!(kinds[1..].contains(&HandshakeKind::Resumed), "{kinds:?}");
}

#[test]
fn a_private_key_that_others_may_read_is_refused_at_start() {
    let ca = Authority::new("ca");
    let identity = ca.server("server");
    set_mode(&identity.key, 0o644);
    let redis = Redis::start();
    let (code, text) = Setup::new(&redis).tls(&identity, "").refuse();
    assert!([77, 78].contains(&code), "{code}: {text}");
    assert!(
        text.contains(identity.key.to_str().unwrap()),
        "the file is named: {text}"
    );
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_refused_at_start() {
    let ca = Authority::new("ca");
    let (one, two) = (ca.server("one"), ca.server("two"));
    std::fs::copy(&two.key, &one.key).unwrap();
    let redis = Redis::start();
    let (code, text) = Setup::new(&redis).tls(&one, "").refuse();
    assert_eq!(code, 78, "{text}");
}

#[test]
fn plaintext_beyond_loopback_must_be_said_in_words() {
    let redis = Redis::start();
    let (code, text) = Setup::new(&redis).listener("address = \"0.0.0.0:0\"").refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("unsafe_plaintext"), "{text}");
    let setup = Setup::new(&redis)
        .listener("address = \"0.0.0.0:0\"")
        .listener("unsafe_plaintext = true");
    let keyward = setup
        .expect("unsafe_plaintext")
        .expect("configuration_warning")
        .start();
    let port = keyward.address().port();
    let client = Client::tcp(([127, 0, 0, 1], port).into());
    assert_eq!(client.login("app", APP_PASSWORD).call("PING"), "+PONG");
}

fn behind_proxy(keyward: &Keyward, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(keyward.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(header).unwrap();
    stream
}

/// A version 2 header for TCP over IPv4 with this much of additional data.
fn version_2(source: [u8; 4], tlv: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&u16::try_from(12 + tlv.len()).unwrap().to_be_bytes());
    header.extend_from_slice(&source);
    header.extend_from_slice(&[127, 0, 0, 1, 0x30, 0x39, 0x18, 0xec]);
    header.extend_from_slice(tlv);
    header
}

fn with_proxy_protocol(redis: &Redis) -> Setup {
    Setup::new(redis).listener("proxy_protocol_from = [\"127.0.0.0/8\"]")
}

#[test]
fn the_source_comes_from_the_proxy_header() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let plain = with_proxy_protocol(&redis).start();
    let tls = with_proxy_protocol(&redis).tls(&ca.server("server"), "").start();
    let headers = [
        b"PROXY TCP4 203.0.113.7 127.0.0.1 12345 6380\r\n".to_vec(),
        version_2([203, 0, 113, 7], b""),
    ];
    for (number, header) in headers.iter().enumerate() {
        let mut client = Client::from_tcp(behind_proxy(&plain, header));
        let wrong = super::support::WRONG_PASSWORD;
        assert!(
            client
                .call_args(&["AUTH", "app", wrong])
                .starts_with("-WRONGPASS ")
        );
        let mut client = client.login("app", APP_PASSWORD);
        assert_eq!(client.call("PING"), "+PONG");
        let line = plain.wait_event("auth_failed");
        assert!(
            line["peer"].as_str().unwrap().starts_with("203.0.113.7"),
            "{line}"
        );
        let stream = behind_proxy(&tls, header);
        let mut client = Client::tls_over(stream, &ca.client_config(None))
            .unwrap()
            .login("app", APP_PASSWORD);
        assert_eq!(client.call("PING"), "+PONG", "header {number}");
    }
    // LOCAL and UNKNOWN: the balancer's own health check, served as what it is.
    let mut local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec();
    local.extend(words("PING"));
    let mut client = Client::from_tcp(behind_proxy(&plain, &local));
    assert_eq!(client.reply(), "-NOAUTH Authentication required.");
    let mut client = Client::from_tcp(behind_proxy(&plain, b"PROXY UNKNOWN\r\n"));
    assert_eq!(client.call("PING"), "-NOAUTH Authentication required.");
}

#[test]
fn a_header_in_the_same_packet_or_byte_by_byte_is_read_exactly() {
    let redis = Redis::start();
    let keyward = with_proxy_protocol(&redis).start();
    let mut bytes = version_2(
        [203, 0, 113, 8],
        &[0x04, 0, 200].into_iter().chain([b'x'; 200]).collect::<Vec<u8>>(),
    );
    bytes.extend(super::support::request(&[
        b"AUTH",
        b"app",
        APP_PASSWORD.as_bytes(),
    ]));
    bytes.extend(words("PING"));
    let mut client = Client::from_tcp(behind_proxy(&keyward, &bytes));
    assert_eq!(client.replies(2), ["+OK", "+PONG"]);
    let mut client = keyward.connect();
    for byte in b"PROXY TCP6 2001:db8::1 ::1 12345 6380\r\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.login("app", APP_PASSWORD).call("PING"), "+PONG");
}

#[test]
fn where_the_header_is_required_nothing_else_is_served() {
    let redis = Redis::start();
    let keyward = with_proxy_protocol(&redis).login("timeout = \"2s\"").start();
    let huge = version_2([203, 0, 113, 9], &[b'x'; 60_000]);
    let inputs: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"PROXY TCP4 203.0.113.7\r\n*1\r\n$4\r\nPING\r\n",
        b"PROXY TCP4 999.0.113.7 127.0.0.1 1 2\r\n*1\r\n$4\r\nPING\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        &huge,
    ];
    for input in inputs {
        let mut stream = behind_proxy(&keyward, b"");
        let _ = stream.write_all(input);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(
            !rest.contains("NOAUTH") && !rest.contains("PONG"),
            "{:?}: {rest:?}",
            String::from_utf8_lossy(&input[..20.min(input.len())])
        );
    }
    let mut client = Client::from_tcp(behind_proxy(
        &keyward,
        b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n",
    ));
    assert_eq!(client.call("PING"), "-NOAUTH Authentication required.");
}

#[test]
fn a_header_from_an_address_that_is_not_listed_is_not_believed() {
    let redis = Redis::start();
    for setup in [
        Setup::new(&redis).listener("proxy_protocol_from = [\"192.0.2.0/24\"]"),
        Setup::new(&redis),
    ] {
        let keyward = setup.listener("inline = true").start();
        let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n";
        let mut client = Client::from_tcp(behind_proxy(&keyward, header));
        assert!(client.reply().starts_with("-ERR Protocol error: a PROXY header"));
        client.expect_closed();
        let mut client = keyward.connect();
        let wrong = super::support::WRONG_PASSWORD;
        assert!(
            client
                .call_args(&["AUTH", "app", wrong])
                .starts_with("-WRONGPASS ")
        );
        let line = keyward.wait_event_where("auth_failed", |line| line["reason"] == "bad_password");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        let header = version_2([203, 0, 113, 7], b"");
        let mut client = Client::from_tcp(behind_proxy(&keyward, &header));
        let _ = client.try_send(&words("PING"));
        client.finish_sending();
        assert!(!String::from_utf8_lossy(&client.read_to_end()).contains("PONG"));
    }
}
