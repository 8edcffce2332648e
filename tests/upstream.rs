//! Connections to Redis: every way in which one can be had or refused, against real servers and scripted ones.
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

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use keyward::config::{self, CertificateFiles, CredentialSource, UpstreamAddress, UpstreamTls};
use keyward::net::Stream;
use keyward::tls::TlsReason;
use keyward::upstream::{
    AuthRefusal, Counters, DialError, DialReason, LaneReport, LaneState, LostWhen, NoCounters, OpenGuard,
    Probe, Scratch, Seat, SetupError, SharedLane, Target, Upstream,
};
use support::certs::Wish;
use support::redis::{Options, free_port};
use support::{Action, Authority, Fake, PATIENCE, REDIS_PASSWORD, REDIS_PASSWORD_2, Redis, WRONG_PASSWORD};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

/// An upstream in the making.
struct Plan {
    section: config::Upstream,
    variables: Vec<(&'static str, String)>,
    counters: Arc<dyn Counters>,
}

impl Plan {
    fn new(address: UpstreamAddress) -> Self {
        let section = config::Upstream {
            name: "main".to_owned(),
            address,
            database: 0,
            username: None,
            credential: None,
            tls: None,
            connect_timeout: PATIENCE,
            auth_timeout: PATIENCE,
            pool: config::UpstreamPool::default(),
            require_least_privilege: false,
        };
        Self {
            section,
            variables: Vec::new(),
            counters: Arc::new(NoCounters),
        }
    }

    fn tcp(host: &str, port: u16) -> Self {
        Self::new(UpstreamAddress::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    fn unix(path: PathBuf) -> Self {
        Self::new(UpstreamAddress::Unix(path))
    }

    fn fake(fake: &Fake) -> Self {
        Self::tcp("127.0.0.1", port_of(&fake.url()))
    }

    fn password(mut self, password: &str) -> Self {
        self.section.credential = Some(CredentialSource::Environment("PASSWORD".to_owned()));
        self.variables.push(("PASSWORD", password.to_owned()));
        self
    }

    fn password_file(mut self, file: &Path) -> Self {
        self.section.credential = Some(CredentialSource::File(file.to_owned()));
        self
    }

    fn user(mut self, name: &str) -> Self {
        self.section.username = Some(name.to_owned());
        self
    }

    fn database(mut self, database: u32) -> Self {
        self.section.database = database;
        self
    }

    fn tls(mut self, tls: UpstreamTls) -> Self {
        self.section.tls = Some(tls);
        self
    }

    fn timeouts(mut self, connect: Duration, auth: Duration) -> Self {
        self.section.connect_timeout = connect;
        self.section.auth_timeout = auth;
        self
    }

    fn counters(mut self, counters: &Arc<Tally>) -> Self {
        self.counters = Arc::clone(counters) as Arc<dyn Counters>;
        self
    }

    fn read(&self) -> Result<Upstream, SetupError> {
        let lookup = |name: &str| {
            self.variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.clone())
        };
        Upstream::new(&self.section, &lookup, Arc::clone(&self.counters))
    }

    fn try_build(&self) -> Result<Arc<Upstream>, SetupError> {
        self.read().map(Arc::new)
    }

    fn build(&self) -> Arc<Upstream> {
        self.try_build().unwrap()
    }
}

/// Counts what an upstream reports.
#[derive(Default)]
struct Tally {
    connecting: AtomicUsize,
    connected: AtomicUsize,
    open: Arc<AtomicUsize>,
    failures: Mutex<Vec<&'static str>>,
    refusals: Mutex<Vec<&'static str>>,
    credentials: AtomicUsize,
    up: Mutex<Vec<bool>>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters for Tally {
    fn connecting(&self) {
        self.connecting.fetch_add(1, Ordering::Relaxed);
    }
    fn connected(&self, _: Duration) -> OpenGuard {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Box::new(Open(Arc::clone(&self.open)))
    }
    fn connect_failed(&self, reason: DialReason) {
        self.failures.lock().unwrap().push(reason.label());
    }
    fn auth_failed(&self, _: &str, reason: AuthRefusal) {
        self.refusals.lock().unwrap().push(reason.label());
    }
    fn credential_changed(&self, _: &str, _: SystemTime) {
        self.credentials.fetch_add(1, Ordering::Relaxed);
    }
    fn up(&self, up: bool) {
        self.up.lock().unwrap().push(up);
    }
}

fn port_of(url: &str) -> u16 {
    url.trim_end_matches("/0")
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// A secret file with these lines.
fn secret(directory: &TempDir, lines: &[&str]) -> PathBuf {
    let path = directory.path().join("secret");
    support::certs::replace(&path, &(lines.join("\n") + "\n"), 0o600);
    path
}

/// Sends one command and reads what comes with one read (replies here are short).
async fn ask(stream: &mut Stream, line: &str) -> String {
    stream.write_all(&support::words(line)).await.unwrap();
    stream.flush().await.unwrap();
    let mut reply = vec![0; 4096];
    let read = stream.read(&mut reply).await.unwrap();
    String::from_utf8_lossy(&reply[..read]).into_owned()
}

/// The error of a dial that has to fail, checked for what must hold of every one of them.
async fn refused(upstream: &Upstream) -> DialError {
    let error = upstream.dial().await.map(|_| ()).expect_err("a refusal");
    assert!(DialReason::LABELS.contains(&error.label()));
    let shown = format!("{error} {error:?}");
    for secret in support::SECRETS {
        assert!(!shown.contains(secret), "a secret in {shown}");
    }
    error
}

fn refusal(error: &DialError) -> AuthRefusal {
    assert_eq!(
        error.client_reply(),
        "ERR keyward: upstream authentication failed"
    );
    error
        .refusal()
        .unwrap_or_else(|| panic!("not an authentication failure: {error}"))
}

const UNREACHABLE: &str = "LOADING keyward: upstream is not reachable";

// Having a connection.

#[tokio::test]
async fn a_connection_is_authenticated_and_on_its_database() {
    let redis = Redis::start_tcp();
    let tally = Arc::new(Tally::default());
    for plan in [
        Plan::tcp("127.0.0.1", redis.port()),
        Plan::tcp("localhost", redis.port()),
        Plan::unix(redis.socket()),
    ] {
        let upstream = plan.password(REDIS_PASSWORD).database(5).counters(&tally).build();
        let mut dialed = upstream.dial().await.unwrap();
        assert!(ask(&mut dialed.stream, "CLIENT INFO").await.contains(" db=5 "));
        assert_eq!(tally.open.load(Ordering::Relaxed), 1);
        drop(dialed);
        assert_eq!(tally.open.load(Ordering::Relaxed), 0);
    }
    assert_eq!(tally.connecting.load(Ordering::Relaxed), 3);
    assert_eq!(tally.connected.load(Ordering::Relaxed), 3);
    assert!(tally.failures.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_user_of_the_acl_logs_in_by_name() {
    let redis = Redis::start();
    let rule = format!("ACL SETUSER proxy on >{REDIS_PASSWORD_2} ~* +get +ping +client|info");
    assert_eq!(redis.client().call(&rule), "+OK");
    let plan = || {
        Plan::unix(redis.socket())
            .user("proxy")
            .password(REDIS_PASSWORD_2)
    };
    let mut dialed = plan().build().dial().await.unwrap();
    assert!(
        ask(&mut dialed.stream, "CLIENT INFO")
            .await
            .contains(" user=proxy ")
    );
    // F-13: what is missing is named.
    let error = refused(&plan().database(2).build()).await;
    assert_eq!(refusal(&error), AuthRefusal::NoPermission);
    assert!(error.to_string().contains("+select"), "{error}");
}

#[tokio::test]
async fn a_server_without_password_is_fine_when_none_is_configured() {
    let redis = Redis::without_password().start();
    let mut dialed = Plan::unix(redis.socket())
        .database(1)
        .build()
        .dial()
        .await
        .unwrap();
    assert_eq!(ask(&mut dialed.stream, "PING").await, "+PONG\r\n");
    let error = refused(&Plan::unix(redis.socket()).database(99).build()).await;
    assert_eq!(error, DialError::Database(99));
}

// Reaching it: F-1, F-2, F-5.

#[tokio::test]
async fn f1_nobody_listens() {
    let tally = Arc::new(Tally::default());
    let upstream = Plan::tcp("127.0.0.1", free_port())
        .password(REDIS_PASSWORD)
        .counters(&tally)
        .build();
    for _ in 0..3 {
        let error = refused(&upstream).await;
        assert_eq!(error, DialError::Refused);
        assert_eq!(error.client_reply(), UNREACHABLE);
    }
    assert_eq!(*tally.failures.lock().unwrap(), ["refused"; 3]);
    assert_eq!(
        refused(&Plan::unix("/nonexistent/redis.sock".into()).build()).await,
        DialError::Refused
    );
}

#[tokio::test]
async fn f2_a_name_that_does_not_resolve() {
    let error = refused(&Plan::tcp("keyward-test.invalid", 6379).build()).await;
    assert_eq!(error.label(), "dns");
    assert!(error.to_string().contains("keyward-test.invalid"), "{error}");
    assert_eq!(error.client_reply(), UNREACHABLE);
}

#[tokio::test]
async fn f5_it_accepts_and_never_answers() {
    let fake = Fake::start(|_| Action::Silence);
    let short = Duration::from_millis(200);
    let silent = Plan::fake(&fake)
        .password(REDIS_PASSWORD)
        .timeouts(PATIENCE, short);
    assert_eq!(refused(&silent.build()).await, DialError::AuthTimeout(short));
    // With TLS nothing comes back either, and nothing but the handshake has been sent.
    let tls = UpstreamTls {
        unsafe_skip_verify: true,
        ..UpstreamTls::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = Plan::tcp("127.0.0.1", port)
        .password(REDIS_PASSWORD)
        .tls(tls)
        .timeouts(short, PATIENCE);
    assert_eq!(tls_reason(&refused(&silent.build()).await), TlsReason::Timeout);
    let (mut accepted, _) = listener.accept().await.unwrap();
    let mut sent = Vec::new();
    accepted.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent[0], 0x16, "a TLS handshake and nothing else");
    assert!(!sent.windows(4).any(|four| four == b"AUTH"));
}

#[tokio::test]
async fn an_answer_that_trickles_does_not_extend_the_deadline() {
    let fake = Fake::start(|_| {
        Action::Trickle(
            b"+OK and so on and on and on\r\n".to_vec(),
            Duration::from_millis(50),
        )
    });
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let upstream = Plan::fake(&fake)
        .password(REDIS_PASSWORD)
        .timeouts(PATIENCE, limit)
        .build();
    assert_eq!(refused(&upstream).await, DialError::AuthTimeout(limit));
    assert!(begun.elapsed() < PATIENCE);
}

// The credential: F-12, F-13, F-16, F-17.

#[tokio::test]
async fn f12_a_wrong_password_is_not_tried_again_at_once() {
    let redis = Redis::start();
    let directory = TempDir::new().unwrap();
    let file = secret(&directory, &[WRONG_PASSWORD]);
    let tally = Arc::new(Tally::default());
    let upstream = Plan::unix(redis.socket())
        .password_file(&file)
        .counters(&tally)
        .build();
    let first = refused(&upstream).await;
    assert_eq!(refusal(&first), AuthRefusal::WrongPassword);
    assert!(first.to_string().contains(&file.display().to_string()), "{first}");
    assert!(first.to_string().contains("modified 20"), "{first}");
    for _ in 0..20 {
        assert_eq!(refused(&upstream).await, first);
    }
    assert_eq!(
        redis.calls("auth"),
        1 + logins_of_the_test(&redis),
        "one attempt reached Redis"
    );
    assert_eq!(tally.connecting.load(Ordering::Relaxed), 1);
    assert_eq!(*tally.refusals.lock().unwrap(), ["wrongpass"]);
    assert_eq!(*tally.failures.lock().unwrap(), ["auth_refused"]);

    // The next attempt comes after a pause, by itself; and a new secret ends the pause.
    assert!(!upstream.reload_credential().await.unwrap());
    assert_eq!(refused(&upstream).await, first);
    secret(&directory, &[REDIS_PASSWORD]);
    assert!(upstream.reload_credential().await.unwrap());
    upstream.dial().await.unwrap();
    // What was read first is no change.
    assert_eq!(tally.credentials.load(Ordering::Relaxed), 1);
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(upstream.credentials(), [(String::new(), modified)]);
}

/// How many AUTHs the test's own connections have sent so far, this question included.
fn logins_of_the_test(redis: &Redis) -> u64 {
    let connections: u64 = redis.info("total_connections_received").parse().unwrap();
    // The start looked once, unauthenticated; the upstream connected once; `calls` came before this one.
    connections - 3
}

#[tokio::test]
async fn the_pause_after_a_refusal_ends_by_itself() {
    let redis = Redis::start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD_2).build();
    refused(&upstream).await;
    assert_eq!(
        redis
            .client()
            .call(&format!("CONFIG SET requirepass {REDIS_PASSWORD_2}")),
        "+OK"
    );
    let deadline = Instant::now() + PATIENCE;
    let begun = Instant::now();
    while upstream.dial().await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(500), "there was a pause");
}

#[tokio::test]
async fn f16_the_second_line_is_tried_and_remembered() {
    let redis = Redis::start();
    let directory = TempDir::new().unwrap();
    let file = secret(&directory, &[REDIS_PASSWORD_2, REDIS_PASSWORD]);
    let tally = Arc::new(Tally::default());
    let upstream = Plan::unix(redis.socket())
        .password_file(&file)
        .counters(&tally)
        .build();
    for _ in 0..5 {
        upstream.dial().await.unwrap();
    }
    assert!(tally.refusals.lock().unwrap().is_empty());
    let log = redis.client().call("ACL LOG");
    assert!(log.contains("count"), "{log}");
    let entries = redis.client().call("ACL LOG").matches("username").count();
    assert_eq!(
        entries, 1,
        "only the first connection tried the password that is not in force yet"
    );
    // Now the new one is put in force, and the old one ends.
    assert_eq!(
        redis
            .client()
            .call(&format!("CONFIG SET requirepass {REDIS_PASSWORD_2}")),
        "+OK"
    );
    upstream.dial().await.unwrap();
}

#[tokio::test]
async fn f16_a_password_rotated_under_us_is_read_again() {
    let redis = Redis::start();
    let directory = TempDir::new().unwrap();
    let file = secret(&directory, &[REDIS_PASSWORD]);
    let tally = Arc::new(Tally::default());
    let upstream = Plan::unix(redis.socket())
        .password_file(&file)
        .counters(&tally)
        .build();
    let mut before = upstream.dial().await.unwrap();
    assert_eq!(
        redis
            .client()
            .call(&format!("CONFIG SET requirepass {REDIS_PASSWORD_2}")),
        "+OK"
    );
    secret(&directory, &[REDIS_PASSWORD_2]);
    // No reload: the refusal itself makes us look.
    upstream.dial().await.unwrap();
    assert_eq!(
        ask(&mut before.stream, "PING").await,
        "+PONG\r\n",
        "existing connections stay"
    );
    assert!(tally.refusals.lock().unwrap().is_empty());
    // What was read first is no change.
    assert_eq!(tally.credentials.load(Ordering::Relaxed), 1);
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(upstream.credentials(), [(String::new(), modified)]);
}

#[tokio::test]
async fn f16_redis_may_go_from_one_to_the_other_between_two_tries() {
    // It takes the new one from the moment at which it has refused it, and the old one no more.
    let fake = Fake::start({
        let tries = AtomicUsize::new(0);
        move |command| match (command[0].as_str(), tries.fetch_add(1, Ordering::Relaxed)) {
            ("AUTH", 2) if command[1] == REDIS_PASSWORD_2 => Action::say("+OK\r\n"),
            ("AUTH", _) => Action::say("-WRONGPASS no\r\n"),
            _ => Action::say("+OK\r\n"),
        }
    });
    let directory = TempDir::new().unwrap();
    let file = secret(&directory, &[REDIS_PASSWORD_2, REDIS_PASSWORD]);
    let tally = Arc::new(Tally::default());
    let upstream = Plan::fake(&fake).password_file(&file).counters(&tally).build();
    upstream.dial().await.unwrap();
    assert!(tally.refusals.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_keeps_the_former_one() {
    let redis = Redis::start();
    let directory = TempDir::new().unwrap();
    let file = secret(&directory, &[REDIS_PASSWORD]);
    let upstream = Plan::unix(redis.socket()).password_file(&file).build();
    for bad in [&[""][..], &["a", "b", "c"]] {
        secret(&directory, bad);
        assert!(upstream.reload_credential().await.is_err());
    }
    std::fs::remove_file(&file).unwrap();
    assert!(upstream.reload_credential().await.is_err());
    upstream.dial().await.unwrap();
    let error = Plan::unix(redis.socket())
        .password_file(&file)
        .try_build()
        .unwrap_err();
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn f17_a_server_that_is_open_to_everyone_is_refused() {
    let redis = Redis::without_password().start();
    let error = refused(&Plan::unix(redis.socket()).password(REDIS_PASSWORD).build()).await;
    assert_eq!(refusal(&error), AuthRefusal::NoPasswordSet);
    assert_eq!(error.label(), "no_password_set");
    assert!(error.to_string().contains("requirepass"), "{error}");
}

#[tokio::test]
async fn a_server_that_wants_a_password_says_which_setting_is_missing() {
    let redis = Redis::start();
    for database in [0, 3] {
        let error = refused(&Plan::unix(redis.socket()).database(database).build()).await;
        assert_eq!(refusal(&error), AuthRefusal::PasswordRequired);
        assert!(error.to_string().contains("password_file"), "{error}");
    }
}

#[tokio::test]
async fn an_error_that_repeats_our_password_is_not_shown() {
    let redis = Redis::without_password().line("rename-command AUTH \"\"").start();
    let error = refused(&Plan::unix(redis.socket()).password(REDIS_PASSWORD).build()).await;
    assert_eq!(refusal(&error), AuthRefusal::Other);
}

// What is there but cannot serve: F-8, F-9, F-10, F-15, P-10.

#[tokio::test]
async fn f8_loading_is_up_and_not_ready() {
    for code in ["LOADING", "MASTERDOWN", "BUSY"] {
        let fake = Fake::start(move |command| match command[0].as_str() {
            "AUTH" => Action::say("+OK\r\n"),
            _ => Action::say(format!("-{code} try later\r\n")),
        });
        let tally = Arc::new(Tally::default());
        let upstream = Plan::fake(&fake)
            .password(REDIS_PASSWORD)
            .counters(&tally)
            .build();
        upstream.dial().await.unwrap();
        let health = Probe::new(upstream).check().await;
        assert!(health.up && !health.ready, "{health:?}");
        assert!(health.detail.contains(code), "{health:?}");
        assert_eq!(*tally.up.lock().unwrap(), [true]);
        // A database cannot be selected then.
        let error = refused(&Plan::fake(&fake).password(REDIS_PASSWORD).database(1).build()).await;
        assert_eq!(error, DialError::NotReady(code.to_owned()));
        assert!(error.client_reply().starts_with("LOADING "));
    }
}

#[tokio::test]
async fn f9_a_replica_without_its_master_is_up_and_not_ready() {
    let redis = Redis::with_password()
        .line(&format!("replicaof 127.0.0.1 {}", free_port()))
        .line("replica-serve-stale-data no")
        .start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD).build();
    let health = Probe::new(upstream).check().await;
    assert!(
        health.up && !health.ready && health.detail.contains("MASTERDOWN"),
        "{health:?}"
    );
}

#[tokio::test]
async fn f10_a_server_busy_with_a_script_is_up_and_not_ready() {
    let redis = Redis::with_password().line("busy-reply-threshold 1").start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD).build();
    let mut probe = Probe::new(Arc::clone(&upstream));
    assert!(probe.check().await.ready);
    let mut hog = upstream.dial().await.unwrap();
    hog.stream
        .write_all(&support::request(&[b"EVAL", b"while true do end", b"0"]))
        .await
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = probe.check().await;
        if !health.ready && health.up {
            assert!(health.detail.contains("BUSY"), "{health:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{health:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut killer = upstream.dial().await.unwrap();
    assert_eq!(ask(&mut killer.stream, "SCRIPT KILL").await, "+OK\r\n");
    let mut reply = [0; 512];
    assert!(hog.stream.read(&mut reply).await.unwrap() > 0);
    assert!(probe.check().await.ready);
}

#[tokio::test]
async fn f15_a_server_without_room_is_recognised_every_time() {
    let redis = Redis::with_password().tcp().line("maxclients 1").start();
    // The connection of the start may not have been forgotten yet.
    let deadline = Instant::now() + PATIENCE;
    let _keeper = loop {
        let mut keeper = tokio::net::TcpStream::connect(("127.0.0.1", redis.port()))
            .await
            .unwrap();
        keeper.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        let mut answer = [0; 7];
        if keeper.read_exact(&mut answer).await.is_ok() && &answer == b"-NOAUTH" {
            break keeper;
        }
        assert!(Instant::now() < deadline);
    };
    for _ in 0..50 {
        for plan in [Plan::tcp("127.0.0.1", redis.port()), Plan::unix(redis.socket())] {
            let error = refused(&plan.password(REDIS_PASSWORD).build()).await;
            assert_eq!(error, DialError::MaxClients);
            assert_eq!(error.client_reply(), "ERR max number of clients reached");
        }
    }
}

#[tokio::test]
async fn p10_errors_that_come_unasked_are_read() {
    let cases = [
        ("-ERR max number of clients reached\r\n", "max_clients"),
        (
            "-DENIED Redis is running in protected mode because ...\r\n",
            "protected_mode",
        ),
        ("", "closed"),
    ];
    for (greeting, expected) in cases {
        for reset in [false, true] {
            let action = if reset {
                Action::SayAndReset
            } else {
                Action::SayAndClose
            };
            let fake = Fake::start_with_greeting(Some(action(greeting.into())), |_| Action::Silence);
            for plan in [Plan::fake(&fake), Plan::fake(&fake).password(REDIS_PASSWORD)] {
                let error = refused(&plan.build()).await;
                // A reset may arrive while the connection is still being made, and takes the text with it.
                let lost = reset && error == DialError::Closed;
                assert!(lost || error.label() == expected, "{greeting:?}: {error}");
            }
        }
    }
}

// What is not Redis, or not an honest one: F-18, F-44, P-11.

#[tokio::test]
async fn f18_what_is_not_redis_is_named_by_its_first_bytes() {
    let cases: [(&[u8], &str); 3] = [
        (
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            "\"HTTP/1.1 400 Bad\"",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x46",
            "\"\\x15\\x03\\x03\\x00\\x02\\x02F\"",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "\"SSH-2.0-OpenSSH_\""),
    ];
    for (bytes, shown) in cases {
        let fake = Fake::start(move |_| Action::SayAndClose(bytes.to_vec()));
        let error = refused(&Plan::fake(&fake).password(REDIS_PASSWORD).build()).await;
        assert_eq!(error.label(), "not_redis");
        assert!(error.to_string().contains(shown), "{error}");
        assert_eq!(error.client_reply(), UNREACHABLE);
    }
}

#[tokio::test]
async fn f44_more_than_was_asked_for_is_refused() {
    let cases: [(&[u8], &str); 9] = [
        (b"+OK\r\n+OK\r\n", "protocol"),
        (b"+OK\r\n>2\r\n+message\r\n+x\r\n", "protocol"),
        (b"+OK\r\n$5\r\nhal", "protocol"),
        (b"+OK\r\n\r\n", "protocol"),
        (b":1\r\n", "protocol"),
        (b"+PONG\r\n", "protocol"),
        (b"$-1\r\n", "protocol"),
        (b"%1\r\n+a\r\n+b\r\n", "protocol"),
        (b"-\xff\xfe\r\n", "protocol"),
    ];
    for (answer, expected) in cases {
        let fake = Fake::start(move |_| Action::Say(answer.to_vec()));
        let error = refused(&Plan::fake(&fake).password(REDIS_PASSWORD).build()).await;
        assert_eq!(error.label(), expected, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn p11_a_hostile_server_costs_neither_memory_nor_patience() {
    let nested = "*1\r\n".repeat(1_000_000);
    let floods: [Vec<u8>; 5] = [
        vec![b'x'; 65536],
        [b"+".to_vec(), vec![b'x'; 65536]].concat(),
        [b"$1099511627776\r\n".to_vec(), vec![b'x'; 65536]].concat(),
        nested.into_bytes(),
        b"*4294967296\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n".repeat(1000),
    ];
    for flood in floods {
        let shown = flood[..12].escape_ascii().to_string();
        let fake = Fake::start(move |_| Action::Flood(flood.clone()));
        let error = refused(&Plan::fake(&fake).password(REDIS_PASSWORD).build()).await;
        assert!(
            ["protocol", "not_redis"].contains(&error.label()),
            "{shown}: {error}"
        );
    }
}

// Least privilege: C-9.

const ASKED: [&[&[u8]]; 4] = [
    &[b"flushall", b"x"],
    &[b"get", b"other:1"],
    &[b"no-such-command"],
    &[b"config", b"get", b"x"],
];

async fn would_run(upstream: &Upstream) -> Result<Option<Vec<bool>>, DialError> {
    let requests: Vec<_> = ASKED.iter().map(|words| words.to_vec()).collect();
    let own = upstream.login_of("");
    upstream.would_run(&own, &requests).await
}

#[tokio::test]
async fn c9_redis_says_what_it_would_run_and_runs_nothing() {
    let redis = Redis::start();
    let mut direct = redis.client();
    for (rules, expected) in [
        ("~* +@all", Some([true, true, false, true])),
        ("~* +@all -@dangerous", Some([false, true, false, false])),
        // A key that it may not touch does not tell of the command.
        ("~app:* +@all -flushall", Some([false, true, false, true])),
        // Without PING, which is not needed; and without the transaction, which is.
        ("~* +multi +get +auth", Some([false, true, false, false])),
        ("~* +@all -multi", None),
    ] {
        assert_eq!(direct.call("SET a 1"), "+OK");
        let rule = format!("ACL SETUSER proxy reset on >{REDIS_PASSWORD_2} {rules}");
        assert_eq!(direct.call(&rule), "+OK");
        let upstream = Plan::unix(redis.socket())
            .user("proxy")
            .password(REDIS_PASSWORD_2)
            .build();
        let verdicts = would_run(&upstream).await.unwrap();
        assert_eq!(verdicts, expected.map(|expected| expected.to_vec()), "{rules}");
        assert_eq!(direct.call("GET a"), "$1");
    }
    assert_eq!(redis.calls("flushall"), 0);
}

#[tokio::test]
async fn c9_a_server_that_does_not_queue_is_sent_nothing_that_could_do_harm() {
    let answers = [
        ("-ERR unknown command\r\n", "+PONG\r\n"),
        ("+OK\r\n", "+PONG\r\n"),
        ("+OK\r\n", "-ERR not now\r\n"),
        ("+OK\r\n", "*1\r\n+QUEUED\r\n"),
    ];
    for (multi, ping) in answers {
        let (multi, ping) = (multi.to_owned(), ping.to_owned());
        let shown = format!("{multi:?} {ping:?}");
        let fake = Fake::start(move |command| match command[0].as_str() {
            "MULTI" => Action::say(&multi),
            "PING" => Action::say(&ping),
            _ => Action::say("+OK\r\n"),
        });
        let upstream = Plan::fake(&fake).password(REDIS_PASSWORD).build();
        let outcome = would_run(&upstream).await;
        assert_eq!(outcome, Ok(None), "{shown}");
        let seen = fake.seen();
        let harmless = |word: &String| ["AUTH", "MULTI", "PING"].contains(&word.split(' ').next().unwrap());
        assert!(seen.iter().all(harmless), "{shown}: {seen:?}");
    }
    // One that says QUEUED and then runs things is no Redis: its word is worth nothing.
    let fake = Fake::start(|command| match command[0].as_str() {
        "PING" => Action::say("+QUEUED\r\n"),
        _ => Action::say("+OK\r\n"),
    });
    let upstream = Plan::fake(&fake).password(REDIS_PASSWORD).build();
    assert!(matches!(would_run(&upstream).await, Err(DialError::Protocol(_))));
}

// TLS: F-19, X-12.

fn with_ca(authority: &Authority) -> UpstreamTls {
    UpstreamTls {
        ca_file: Some(authority.file()),
        ..UpstreamTls::default()
    }
}

fn tls_redis(identity: &support::Identity, authority: &Authority) -> Options {
    Redis::with_password().tls(identity, &authority.file())
}

fn tls_reason(error: &DialError) -> TlsReason {
    assert_eq!(error.client_reply(), UNREACHABLE);
    match error {
        DialError::Tls(failure) => failure.reason,
        other => panic!("not TLS: {other}"),
    }
}

#[tokio::test]
async fn tls_is_verified_before_the_credential_is_sent() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let redis = tls_redis(&ours.server("redis"), &ours).start();
    let plan = |host: &str, tls| {
        Plan::tcp(host, redis.tls_port())
            .password(REDIS_PASSWORD)
            .tls(tls)
    };
    for host in ["127.0.0.1", "localhost"] {
        let dialed = plan(host, with_ca(&ours)).build().dial().await.unwrap();
        assert_eq!(dialed.stream.tls_version(), Some("1.3"));
    }
    let auths = redis.calls("auth");
    let error = refused(&plan("localhost", with_ca(&other)).build()).await;
    assert_eq!(tls_reason(&error), TlsReason::Untrusted);
    assert!(error.to_string().contains("ca_file"), "{error}");
    assert_eq!(
        redis.calls("auth"),
        auths + 1,
        "only the question itself logged in"
    );

    let named = UpstreamTls {
        server_name: Some("redis.internal".to_owned()),
        ..with_ca(&ours)
    };
    let error = refused(&plan("localhost", named).build()).await;
    assert_eq!(tls_reason(&error), TlsReason::WrongName);
    assert!(
        error.to_string().contains("redis.internal") && error.to_string().contains("localhost"),
        "{error}"
    );

    // Not without saying so: no verification at all.
    let blind = UpstreamTls {
        unsafe_skip_verify: true,
        ..UpstreamTls::default()
    };
    plan("127.0.0.1", blind).build().dial().await.unwrap();
}

#[tokio::test]
async fn f19_an_expired_certificate_is_refused_with_its_date() {
    let authority = Authority::new("ours");
    let redis = tls_redis(&authority.issue(Wish::server("old").expired()), &authority).start();
    let upstream = Plan::tcp("localhost", redis.tls_port())
        .password(REDIS_PASSWORD)
        .tls(with_ca(&authority))
        .build();
    let error = refused(&upstream).await;
    assert_eq!(tls_reason(&error), TlsReason::Expired);
    assert!(error.to_string().contains("expired at 20"), "{error}");
}

#[tokio::test]
async fn another_name_can_be_verified_than_the_address() {
    let authority = Authority::new("ours");
    let identity = authority.issue(Wish::server("redis").names(&["redis.internal"]));
    let redis = tls_redis(&identity, &authority).start();
    let plan = |tls| {
        Plan::tcp("127.0.0.1", redis.tls_port())
            .password(REDIS_PASSWORD)
            .tls(tls)
            .build()
    };
    assert_eq!(
        tls_reason(&refused(&plan(with_ca(&authority))).await),
        TlsReason::WrongName
    );
    let named = UpstreamTls {
        server_name: Some("redis.internal".to_owned()),
        ..with_ca(&authority)
    };
    plan(named).dial().await.unwrap();
}

#[tokio::test]
async fn a_server_may_want_our_certificate() {
    let authority = Authority::new("ours");
    let redis = tls_redis(&authority.server("redis"), &authority)
        .line("tls-auth-clients yes")
        .start();
    let plan = |tls| {
        Plan::tcp("localhost", redis.tls_port())
            .password(REDIS_PASSWORD)
            .tls(tls)
    };
    let error = refused(&plan(with_ca(&authority)).build()).await;
    assert_eq!(tls_reason(&error), TlsReason::ClientCertificate);
    assert!(error.to_string().contains("client_certificate_file"), "{error}");
    let identity = authority.client("keyward");
    let files = CertificateFiles {
        certificate_file: identity.certificate.clone(),
        key_file: identity.key,
    };
    let upstream = plan(UpstreamTls {
        client_certificate: Some(files),
        ..with_ca(&authority)
    })
    .build();
    upstream.dial().await.unwrap();
    let mut names: Vec<_> = upstream
        .certificates()
        .into_iter()
        .map(|info| (info.role.label(), info.name))
        .collect();
    names.sort();
    let file = |path: &Path| path.display().to_string();
    assert_eq!(
        names,
        [
            ("upstream_ca", file(&authority.file())),
            ("upstream_client", file(&identity.certificate))
        ]
    );
}

#[tokio::test]
async fn tls_and_plaintext_are_not_mistaken_for_one_another() {
    let authority = Authority::new("ours");
    let redis = tls_redis(&authority.server("redis"), &authority).tcp().start();
    let plain_port = Plan::tcp("localhost", redis.port())
        .password(REDIS_PASSWORD)
        .tls(with_ca(&authority))
        .timeouts(Duration::from_millis(500), PATIENCE);
    // Redis may wait for the rest of what it takes for a command, or answer it, or close.
    let error = refused(&plain_port.build()).await;
    assert!(
        [TlsReason::NotTls, TlsReason::Eof, TlsReason::Timeout].contains(&tls_reason(&error)),
        "{error}"
    );
    assert!(error.to_string().contains("TLS"), "{error}");
    let tls_port = Plan::tcp("localhost", redis.tls_port()).password(REDIS_PASSWORD);
    let error = refused(&tls_port.build()).await;
    assert!(["not_redis", "closed"].contains(&error.label()), "{error}");
}

#[tokio::test]
async fn certificates_are_exchanged_at_a_reload_or_kept() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let redis = tls_redis(&new.server("redis"), &new).start();
    let directory = TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::copy(old.file(), &ca).unwrap();
    let tls = UpstreamTls {
        ca_file: Some(ca.clone()),
        ..UpstreamTls::default()
    };
    let upstream = Plan::tcp("localhost", redis.tls_port())
        .password(REDIS_PASSWORD)
        .tls(tls)
        .build();
    assert_eq!(tls_reason(&refused(&upstream).await), TlsReason::Untrusted);
    std::fs::copy(new.file(), &ca).unwrap();
    upstream.reload_tls().unwrap();
    upstream.dial().await.unwrap();
    std::fs::write(&ca, "rubbish").unwrap();
    assert!(upstream.reload_tls().unwrap_err().to_string().contains("ca.pem"));
    upstream.dial().await.unwrap();
}

#[tokio::test]
async fn a_reload_keeps_an_upstream_that_is_the_same_server_and_takes_what_its_files_hold_now() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let redis = tls_redis(&new.server("redis"), &new).start();
    let directory = TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::copy(old.file(), &ca).unwrap();
    let file = secret(&directory, &[WRONG_PASSWORD]);
    let tls = UpstreamTls {
        ca_file: Some(ca.clone()),
        ..UpstreamTls::default()
    };
    let mut plan = Plan::tcp("localhost", redis.tls_port())
        .password_file(&file)
        .tls(tls);
    let upstream = plan.build();
    assert_eq!(tls_reason(&refused(&upstream).await), TlsReason::Untrusted);
    std::fs::copy(new.file(), &ca).unwrap();
    let kept = upstream.replaced_by(plan.read().unwrap());
    assert!(Arc::ptr_eq(&upstream, &kept));
    assert_eq!(refused(&upstream).await.label(), "auth_refused");
    secret(&directory, &[REDIS_PASSWORD]);
    plan.section.pool.max_connections = 1;
    let kept = upstream.replaced_by(plan.read().unwrap());
    assert!(Arc::ptr_eq(&upstream, &kept) && !upstream.is_retired());
    // Not held up by the refusal before; and within the new bound.
    let only = upstream.dial().await.unwrap();
    assert!(upstream.places().take().is_none());

    plan.section.database = 1;
    let next = upstream.replaced_by(plan.read().unwrap());
    assert!(!Arc::ptr_eq(&upstream, &next) && upstream.is_retired());
    assert!(
        next.places().take().is_none(),
        "the old one's connection counts until it is closed"
    );
    drop(only);
    next.dial().await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_place_ends_with_an_error_that_names_the_bound() {
    let redis = Redis::start();
    let mut plan = Plan::unix(redis.socket()).password(REDIS_PASSWORD);
    plan.section.pool.max_connections = 2;
    plan.section.pool.wait_timeout = Duration::from_millis(50);
    let upstream = plan.build();
    let (one, _two) = (upstream.dial().await.unwrap(), upstream.dial().await.unwrap());
    let error = upstream.dial().await.unwrap_err();
    assert_eq!(error, DialError::Full(2));
    let reply = error.client_reply();
    assert!(
        reply.starts_with("LOADING ") && reply.contains("max_connections"),
        "{reply}"
    );
    assert!(!upstream.is_failing(), "nothing is wrong with Redis");
    // The health check has a connection beside them.
    assert!(Probe::new(Arc::clone(&upstream)).check().await.ready);
    drop(one);
    upstream.dial().await.unwrap();
}

// The probe and the log.

#[tokio::test]
async fn the_probe_follows_the_server_down_and_up_again() {
    let mut redis = Redis::start();
    let tally = Arc::new(Tally::default());
    let upstream = Plan::unix(redis.socket())
        .password(REDIS_PASSWORD)
        .counters(&tally)
        .build();
    let mut probe = Probe::new(upstream);
    for _ in 0..3 {
        assert!(probe.check().await.ready);
    }
    assert_eq!(
        tally.connecting.load(Ordering::Relaxed),
        1,
        "the connection is kept"
    );
    redis.kill();
    let health = probe.check().await;
    assert!(
        !health.up && !health.ready && health.detail.contains("refused"),
        "{health:?}"
    );
    redis.restart();
    assert!(probe.check().await.ready);
    assert_eq!(*tally.up.lock().unwrap(), [true, true, true, false, true]);
}

#[tokio::test]
async fn f6_a_server_that_hangs_is_down_within_the_probes_patience() {
    let redis = Redis::start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD).build();
    let mut probe = Probe::new(upstream);
    assert!(probe.check().await.ready);
    redis.signal("STOP");
    let health = probe.check().await;
    redis.signal("CONT");
    assert!(!health.up, "{health:?}");
    let deadline = Instant::now() + PATIENCE;
    while !probe.check().await.ready {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_refused_credential_shows_although_an_old_connection_still_works() {
    let redis = Redis::start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD).build();
    let mut probe = Probe::new(Arc::clone(&upstream));
    assert!(probe.check().await.ready);
    assert_eq!(
        redis
            .client()
            .call(&format!("CONFIG SET requirepass {REDIS_PASSWORD_2}")),
        "+OK"
    );
    assert!(probe.check().await.ready, "Redis keeps what is authenticated");
    refused(&upstream).await;
    let health = probe.check().await;
    assert!(!health.up && health.detail.contains("WRONGPASS"), "{health:?}");
}

/// What was logged, shared with the subscriber.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_one_line_for_each_change_of_state() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    // With a single subscriber in the process, a line that another test reaches first would be off for good: its thread
    // has none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut redis = Redis::start();
    let upstream = Plan::unix(redis.socket()).password(REDIS_PASSWORD).build();
    for _ in 0..3 {
        upstream.dial().await.unwrap();
    }
    redis.kill();
    for _ in 0..4 {
        refused(&upstream).await;
    }
    redis.restart();
    for _ in 0..3 {
        upstream.dial().await.unwrap();
    }
    assert_eq!(
        redis
            .client()
            .call(&format!("CONFIG SET requirepass {REDIS_PASSWORD_2}")),
        "+OK"
    );
    for _ in 0..3 {
        refused(&upstream).await;
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for secret in support::SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
    let lines: Vec<(String, String, String)> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| line["fields"][name].as_str().unwrap_or_default().to_owned();
            assert_eq!(field("upstream"), "main");
            assert_eq!(field("url"), format!("{}/0", redis.socket().display()));
            (
                line["level"].as_str().unwrap().to_owned(),
                field("event"),
                field("reason"),
            )
        })
        .collect();
    let line =
        |level: &str, event: &str, reason: &str| (level.to_owned(), event.to_owned(), reason.to_owned());
    assert_eq!(
        lines,
        [
            line("INFO", "redis_connection_initialized", ""),
            line("WARN", "redis_connection_failed", "refused"),
            line("INFO", "redis_connection_initialized", ""),
            line("ERROR", "redis_connection_failed", "auth_refused"),
        ]
    );
}

/// What a worker lends its lanes.
#[derive(Default)]
struct Worker {
    pauses: Cell<u64>,
}

impl Scratch for Worker {
    fn with_window<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        work(&mut [0; 4096])
    }
    fn take_buffer(&self) -> BytesMut {
        BytesMut::new()
    }
    fn give_buffer(&self, _: BytesMut) {}
    fn pauses(&self) -> &Cell<u64> {
        &self.pauses
    }
}

/// Remembers how many requests left with each write, and how many writes waited for more.
#[derive(Clone, Default)]
struct Batches(Rc<RefCell<Vec<u64>>>, Rc<Cell<u32>>);

impl LaneReport for Batches {
    fn paused(&self) {
        self.1.set(self.1.get() + 1);
    }
    fn flushed(&self, requests: u64, _: usize) {
        self.0.borrow_mut().push(requests);
    }
    fn received(&self, _: usize, _: u64) {}
    fn error_reply(&self, _: &[u8]) {}
    fn surprised(&self, _: &'static str) {}
    fn lost(&self, _: LostWhen) {}
    fn slow_reader(&self) {}
}

/// A shared lane to this server, which is dialled when its task is polled.
fn shared_lane(fake: &Fake, batches: &Batches) -> (Rc<SharedLane>, impl Future<Output = ()> + use<>) {
    lane_to(&Plan::fake(fake).build(), batches)
}

fn lane_to(
    upstream: &Arc<Upstream>,
    batches: &Batches,
) -> (Rc<SharedLane>, impl Future<Output = ()> + use<>) {
    let state = LaneState { db: 0, resp3: false };
    let dialing = Arc::clone(upstream);
    let dial = Box::pin(async move { dialing.dial().await.map(Box::new) });
    let target = Target::of(upstream, None);
    SharedLane::open(&target, state, dial, Rc::<Worker>::default(), batches.clone())
}

#[tokio::test]
async fn a_session_keeps_its_place_on_a_lane_that_ended_until_it_has_taken_every_reply() {
    let fake = Fake::start(|command| {
        Action::healthy(command).unwrap_or_else(|| Action::SayAndClose(b"$1\r\na\r\n".to_vec()))
    });
    let (lane, driver) = shared_lane(&fake, &Batches::default());
    let seat = Seat::new(&lane);
    assert!(seat.is_settled() && seat.takes_requests());
    seat.send(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", 1);
    driver.await;
    // The reply came whole before the end, but a slow reader has not taken it: the next lane's would overtake it.
    assert!(!lane.is_open() && seat.outstanding() == 0 && seat.end().is_none());
    assert!(!seat.is_settled() && !seat.takes_requests());
    let reply = seat.take_replies(|replies| replies.bytes.to_vec());
    assert_eq!(reply.as_deref(), Some(&b"$1\r\na\r\n"[..]));
    assert!(seat.is_settled() && seat.takes_requests());
}

#[tokio::test]
async fn requests_that_come_while_others_are_in_flight_to_a_near_redis_leave_in_one_batch() {
    let (answer, told) = std::sync::mpsc::channel::<()>();
    let told = Mutex::new(told);
    let fake = Fake::start(move |command| {
        Action::healthy(command).unwrap_or_else(|| {
            if command[1] == "first" {
                told.lock().unwrap().recv().unwrap();
            }
            Action::say("$1\r\na\r\n")
        })
    });
    let batches = Batches::default();
    let (lane, driver) = shared_lane(&fake, &batches);
    let mut driver = Box::pin(driver);
    let (one, other) = (Seat::new(&lane), Seat::new(&lane));
    one.send(b"*2\r\n$3\r\nGET\r\n$5\r\nfirst\r\n", 1);
    tokio::select! {
        () = &mut driver => panic!("the lane has ended"),
        () = until(|| batches.0.borrow().len() == 1) => {}
    }
    for (seat, turns) in [(&one, 3), (&other, 5), (&one, 2)] {
        seat.send(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", 1);
        for _ in 0..turns {
            tokio::select! {
                biased;
                () = &mut driver => panic!("the lane has ended"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    assert_eq!(*batches.0.borrow(), [1], "they have not waited");
    answer.send(()).unwrap();
    tokio::select! {
        () = &mut driver => panic!("the lane has ended"),
        () = until(|| one.outstanding() == 0 && other.outstanding() == 0) => {}
    }
    assert_eq!(*batches.0.borrow(), [1, 3]);
    // As much as makes a batch by itself waits for nothing.
    one.send(b"*2\r\n$3\r\nGET\r\n$5\r\nfirst\r\n", 1);
    let value = "x".repeat(40_000);
    let big = format!("*2\r\n$3\r\nGET\r\n${}\r\n{value}\r\n", value.len());
    tokio::select! {
        () = &mut driver => panic!("the lane has ended"),
        () = until(|| batches.0.borrow().len() == 3) => {}
    }
    other.send(big.as_bytes(), 1);
    tokio::select! {
        () = &mut driver => panic!("the lane has ended"),
        () = until(|| batches.0.borrow().len() == 4) => {}
    }
    answer.send(()).unwrap();
    tokio::select! {
        () = &mut driver => panic!("the lane has ended"),
        () = until(|| one.outstanding() == 0 && other.outstanding() == 0) => {}
    }
}

#[tokio::test]
async fn the_batches_of_a_crowd_wait_for_more_and_every_reply_finds_its_session() {
    const SESSIONS: usize = 64;
    let redis = Redis::start_tcp();
    let upstream = Plan::tcp("127.0.0.1", redis.port())
        .password(REDIS_PASSWORD)
        .build();
    let batches = Batches::default();
    let (lane, driver) = lane_to(&upstream, &batches);
    let tasks = tokio::task::LocalSet::new();
    tasks.spawn_local(driver);
    let end = Instant::now() + PATIENCE;
    // All are busy, but few at a time.
    let turns = Rc::new(Semaphore::new(8));
    let mut sessions = Vec::new();
    for session in 0..SESSIONS {
        let (lane, batches, turns) = (Rc::clone(&lane), batches.clone(), Rc::clone(&turns));
        sessions.push(tasks.spawn_local(async move {
            let seat = Seat::new(&lane);
            let mut number = 0;
            // Pauses are made as soon as Redis is seen to be near, which on a busy machine may take a while.
            while number < 50 || batches.1.get() == 0 && Instant::now() < end {
                number += 1;
                let _turn = turns.acquire().await.unwrap();
                let word = format!("{session}:{number}");
                let request = format!("*2\r\n$4\r\nECHO\r\n${}\r\n{word}\r\n", word.len());
                seat.send(request.as_bytes(), 1);
                poll_fn(|cx| {
                    seat.register(cx);
                    let over = seat.outstanding() == 0 || seat.end().is_some();
                    if over { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                let reply = seat.take_replies(|replies| replies.bytes.to_vec()).unwrap();
                let expected = format!("${}\r\n{word}\r\n", word.len());
                assert_eq!(String::from_utf8(reply).unwrap(), expected);
            }
        }));
    }
    let all = async {
        for session in sessions {
            session.await.unwrap();
        }
    };
    tasks.run_until(all).await;
    assert!(batches.1.get() > 0, "no batch has waited");
}

/// Ready when it holds; asks whenever everybody else has had a turn.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}
