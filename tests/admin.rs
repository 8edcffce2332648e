//! The admin listener over real sockets: what it answers, and what it refuses to wait for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failed assumption is a failed test"
)]
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::admin::{Admin, MAX_CONNECTIONS, Pages, Readiness};
use keyward::metrics::{Metrics, Shape};

struct Fixture {
    admin: Admin,
    readiness: Arc<Readiness>,
}

fn start() -> Fixture {
    let shape = Shape {
        listeners: vec![("gateway".into(), 10)],
        upstreams: vec!["main".into()],
        ..Shape::default()
    };
    let readiness = Readiness::new(["main"]);
    let pages = Pages {
        metrics: Metrics::new(&shape).unwrap(),
        readiness: Arc::clone(&readiness),
        learned: None,
        status: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Fixture {
        admin: Admin::start(listener, pages).unwrap(),
        readiness,
    }
}

impl Fixture {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.admin.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends the head with `connection: close` and returns everything that comes back.
    fn ask(&self, request_line: &str) -> String {
        let mut stream = self.connect();
        let head = format!("{request_line} HTTP/1.1\r\nhost: keyward\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        rest(&mut stream)
    }
}

/// Reads to the end; a reset is an end too.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> &str {
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no status in {answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn metrics_are_text_and_not_to_be_cached() {
    let fixture = start();
    let answer = fixture.ask("GET /metrics?x=1");
    assert_eq!(status(&answer), "200");
    for header in [
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
        "content-security-policy: default-src 'none'",
    ] {
        assert!(answer.contains(header), "{header} is missing");
    }
    assert!(body(&answer).contains("keyward_auth_failures_total{listener=\"gateway\""));
}

#[test]
fn readiness_follows_the_state() {
    let fixture = start();
    let expect = |code: &str, text: &str| {
        for path in ["/readyz", "/healthz"] {
            let answer = fixture.ask(&format!("GET {path}"));
            assert_eq!((status(&answer), body(&answer)), (code, text));
        }
    };
    expect("503", r#"{"status":"degraded","redis":"unhealthy"}"#);
    fixture.readiness.started();
    expect("503", r#"{"status":"degraded","redis":"unhealthy"}"#);
    fixture.readiness.upstream("main").unwrap().set(true);
    expect("200", r#"{"status":"ok","redis":"healthy"}"#);
    fixture.readiness.draining();
    expect("503", r#"{"status":"degraded","redis":"healthy"}"#);
    assert_eq!(status(&fixture.ask("GET /livez")), "200");
}

#[test]
fn nothing_else_is_there_and_nothing_can_be_changed() {
    let fixture = start();
    for path in [
        "/",
        "/metrics/",
        "/metricsx",
        "//metrics",
        "/%6detrics",
        "/quit",
        "*",
    ] {
        assert_eq!(status(&fixture.ask(&format!("GET {path}"))), "404", "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "FLUSHALL"] {
        let answer = fixture.ask(&format!("{method} /metrics"));
        assert_eq!(status(&answer), "405", "{method}");
        assert!(answer.contains("allow: GET, HEAD"));
    }
    assert_eq!(status(&fixture.ask("POST /nowhere")), "404");
}

#[test]
fn head_is_get_without_the_body() {
    let fixture = start();
    let answer = fixture.ask("HEAD /livez");
    assert_eq!((status(&answer), body(&answer)), ("200", ""));
    assert!(answer.contains("content-length: 15"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = start();
    let mut stream = fixture.connect();
    stream
        .write_all(
            b"GET /livez HTTP/1.1\r\nhost: k\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: k\r\n\r\n\
              GET /livez HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
    let answers = rest(&mut stream);
    let codes: Vec<_> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answers[at + 9..at + 12])
        .collect();
    assert_eq!(codes, ["200", "404", "200"]);
}

#[test]
fn a_body_is_never_waited_for() {
    let fixture = start();
    let mut stream = fixture.connect();
    let head = b"GET /livez HTTP/1.1\r\nhost: k\r\ncontent-length: 1000000000\r\nconnection: close\r\n\r\nx";
    stream.write_all(head).unwrap();
    assert_eq!(status(&rest(&mut stream)), "200");
}

#[test]
fn a_head_above_the_limit_is_refused() {
    let fixture = start();
    let mut stream = fixture.connect();
    let head = format!(
        "GET /livez HTTP/1.1\r\nhost: k\r\nx-long: {}\r\n\r\n",
        "x".repeat(16 * 1024)
    );
    // The far end may reset in the middle of this.
    let _ = stream.write_all(head.as_bytes());
    let answer = rest(&mut stream);
    assert!(answer.is_empty() || status(&answer) == "431", "{answer}");

    let mut stream = fixture.connect();
    let head = format!("GET /livez HTTP/1.1\r\nhost: k\r\n{}\r\n", "a: b\r\n".repeat(100));
    let _ = stream.write_all(head.as_bytes());
    let answer = rest(&mut stream);
    assert!(answer.is_empty() || status(&answer) == "431", "{answer}");
    assert_eq!(status(&fixture.ask("GET /livez")), "200");
}

#[test]
fn what_is_not_http_is_closed() {
    let fixture = start();
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = fixture.connect();
        stream.write_all(bytes).unwrap();
        let answer = rest(&mut stream);
        assert!(
            answer.is_empty() || status(&answer).starts_with('4') || status(&answer) == "505",
            "{answer}"
        );
    }
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let fixture = start();
    let begun = Instant::now();
    let mut silent = fixture.connect();
    let mut slow = fixture.connect();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: k\r\nx: ").unwrap();
    assert_eq!(rest(&mut silent), "");
    let answer = rest(&mut slow);
    assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "it waited only {:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it waited {:?}",
        begun.elapsed()
    );
}

#[test]
fn too_many_connections_are_refused_and_room_comes_back() {
    let fixture = start();
    // Idle connections end after two seconds: on a machine too slow to open all of them in time, try again.
    let refused = (0..5).any(|_| {
        let begun = Instant::now();
        let _held: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| {
                let mut stream = fixture.connect();
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: k\r\n\r\n");
                // Waits for the answer, so that the place is known to be taken.
                let _ = stream.read(&mut [0; 12]);
                stream
            })
            .collect();
        let answer = rest(&mut fixture.connect());
        begun.elapsed() < Duration::from_secs(1) && status(&answer) == "503"
    });
    assert!(refused);
    let deadline = Instant::now() + Duration::from_secs(5);
    while status(&fixture.ask_or_busy()) != "200" {
        assert!(Instant::now() < deadline, "no room came back");
    }
}

impl Fixture {
    /// Like `ask`, where the refusal may come before the request has been sent.
    fn ask_or_busy(&self) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n");
        let answer = rest(&mut stream);
        if answer.is_empty() {
            "HTTP/1.1 503 reset".into()
        } else {
            answer
        }
    }
}

#[test]
fn it_stops_when_dropped_even_with_connections_open() {
    let fixture = start();
    let mut open = fixture.connect();
    let address = fixture.admin.address();
    drop(fixture);
    assert_eq!(rest(&mut open), "");
    assert!(TcpStream::connect(address).is_err());
}
