//! Tests of the audit log: its lines, its folding, what it never shows.

use std::io;

use super::*;

/// Runs with the project's own log format and returns the lines.
fn lines(run: impl FnOnce(&Audit, Instant)) -> Vec<serde_json::Value> {
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    let audit = Audit::new(dropped()).unwrap();
    tracing::subscriber::with_default(subscriber, || run(&audit, Instant::now()));
    let bytes = buffer.0.lock().unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn dropped() -> IntCounter {
    IntCounter::new("dropped", "dropped").unwrap()
}

fn peer() -> Peer {
    Peer::Tcp("10.2.0.17:51514".parse().unwrap())
}

fn listener() -> Arc<str> {
    "gateway".into()
}

#[test]
fn a_failed_login_is_one_flat_line() {
    let listener = listener();
    let lines = lines(|audit, now| {
        let at = At {
            listener: &listener,
            peer: peer(),
        };
        audit.auth_failed(at, User::Configured("app"), "bad_password", now);
        audit.auth_failed(at, User::None, "no_credentials", now);
    });
    let line = &lines[0];
    assert_eq!(line["event"], "auth_failed");
    assert_eq!(line["target"], TARGET);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["listener"], "gateway");
    assert_eq!(line["peer"], "10.2.0.17:51514");
    assert_eq!(line["user"], "app");
    assert_eq!(line["reason"], "bad_password");
    assert!(lines[1].get("user").is_none());
}

#[test]
fn an_unknown_name_is_only_recognisable() {
    let listener = listener();
    let names: Vec<_> = lines(|audit, now| {
        let at = At {
            listener: &listener,
            peer: peer(),
        };
        for name in ["hunter2", "hunter2", "other\n\u{1b}[31m"] {
            audit.auth_failed(at, User::Unknown(name.as_bytes()), "unknown_user", now);
        }
    })
    .iter()
    .map(|line| line["user"].as_str().unwrap().to_owned())
    .collect();
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
    assert!(
        names
            .iter()
            .all(|name| name.len() == 15 && name.starts_with("sha256:")),
        "{names:?}"
    );
    let (first, second) = (Audit::new(dropped()).unwrap(), Audit::new(dropped()).unwrap());
    assert_ne!(first.name(User::Unknown(b"x")), second.name(User::Unknown(b"x")));
}

#[test]
fn a_flood_ends_in_one_summary_and_one_line_for_the_minute() {
    let listener = listener();
    let lines = lines(|audit, now| {
        let at = At {
            listener: &listener,
            peer: peer(),
        };
        for _ in 0..312 {
            audit.auth_failed(at, User::None, "bad_password", now);
        }
        audit.tick(now + Duration::from_secs(9));
        audit.tick(now + Duration::from_secs(10));
        audit.tick(now + Duration::from_secs(60));
        audit.tick(now + Duration::from_secs(120));
        audit.flush();
        assert_eq!(audit.dropped.get(), 292);
    });
    assert_eq!(lines.len(), 22);
    let summary = &lines[20];
    assert_eq!(summary["event"], "auth_failed");
    assert_eq!(summary["folded"], true);
    assert_eq!(summary["count"], 292);
    assert_eq!(summary["listener"], "gateway");
    assert_eq!(summary["source"], "10.2.0.17");
    let minute = &lines[21];
    assert_eq!(minute["event"], "auth_failures_summary");
    assert_eq!(
        minute["message"],
        "312 failed authentications in 60 s from 1 addresses"
    );
}

#[test]
fn a_few_failures_have_no_summary() {
    let listener = listener();
    let lines = lines(|audit, now| {
        let at = At {
            listener: &listener,
            peer: peer(),
        };
        audit.auth_failed(at, User::None, "bad_password", now);
        audit.tick(now + Duration::from_secs(60));
        audit.flush();
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn every_kind_has_its_fields() {
    let listener = listener();
    let lines = lines(|audit, now| {
        let at = At {
            listener: &listener,
            peer: Peer::Unix(Some(1000)),
        };
        audit.command_denied(at, "app", Some("flushall"), "command", now);
        audit.command_denied(at, "app", None, "command", now);
        audit.command_observed(at, "app", "flushall", "command", now);
        audit.connection_refused(at, "source_limit", now);
        audit.plaintext_refused(at, now);
        let network = Network::Host(peer().source());
        audit.source_locked_out(At { peer: peer(), ..at }, network, Duration::from_secs(20), now);
        audit.lockout_ended(&listener, network, now);
        audit.user_credential_changed("gateway", "app", CredentialChange::Changed);
        audit.upstream_credential_changed("main");
        audit.session_closed(at, "app", now);
        audit.reload();
        audit.reload_refused("KW0203");
        audit.admin_command(at, "root", "config|set", now);
        let wide = Network::around(peer().source()).unwrap();
        audit.lockout_lifted(&listener, Released::Network(wide), Some(0), now);
        audit.lockout_lifted(&listener, Released::User("app"), None, now);
    });
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        [
            "command_denied",
            "command_denied",
            "command_observed",
            "connection_refused",
            "plaintext_refused",
            "source_locked_out",
            "lockout_ended",
            "credential_changed",
            "credential_changed",
            "session_closed",
            "config_changed",
            "config_refused",
            "admin_command",
            "lockout_lifted",
            "lockout_lifted",
        ]
    );
    assert_eq!(lines[0]["cmd"], "flushall");
    assert_eq!(lines[0]["peer"], "unix:uid=1000");
    assert_eq!(lines[1]["cmd"], "_other");
    assert_eq!(
        (&lines[2]["cmd"], &lines[2]["reason"]),
        (&"flushall".into(), &"command".into())
    );
    assert_eq!(lines[5]["source"], "10.2.0.17");
    assert_eq!(lines[5]["seconds"], 20);
    assert_eq!(lines[6]["level"], "INFO");
    assert_eq!(lines[7]["change"], "changed");
    assert_eq!(lines[11]["error"], "KW0203");
    assert_eq!(lines[12]["cmd"], "config|set");
    assert_eq!(lines[12]["user"], "root");
    assert_eq!(lines[12]["level"], "INFO");
    assert_eq!(lines[13]["source"], "10.2.0.0/24");
    assert_eq!(lines[13]["by_uid"], 0);
    assert_eq!(lines[14]["user"], "app");
}

#[test]
fn admin_commands_are_folded_per_user_and_command_wherever_they_come_from() {
    let listener = listener();
    let lines = lines(|audit, now| {
        for n in 0..100_u8 {
            let at = At {
                listener: &listener,
                peer: Peer::Tcp(([10, 0, 0, n], 1).into()),
            };
            audit.admin_command(at, "root", "config|get", now);
            audit.admin_command(at, "ops", "config|get", now);
            audit.admin_command(at, "root", "client|list", now);
        }
        audit.tick(now + WINDOW);
    });
    let folded: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(
        (lines.len(), folded),
        (6, 297),
        "the first of each, and a summary"
    );
    for summary in &lines[3..] {
        assert_eq!(
            (summary["count"].as_u64(), &summary["level"]),
            (Some(99), &"INFO".into())
        );
        assert!(
            summary["user"].is_string() && summary["cmd"].is_string(),
            "{summary}"
        );
    }
}

#[test]
fn a_flood_of_strangers_does_not_drown_what_insiders_do() {
    let listener = listener();
    let lines = lines(|audit, now| {
        for n in 0..50_000_u32 {
            let at = At {
                listener: &listener,
                peer: Peer::Tcp((n.to_be_bytes(), 1).into()),
            };
            audit.auth_failed(at, User::None, "unknown_user", now);
        }
        let at = At {
            listener: &listener,
            peer: peer(),
        };
        audit.admin_command(at, "root", "flushall", now);
        audit.command_denied(at, "app", Some("keys"), "command", now);
    });
    let last: Vec<_> = lines.iter().rev().take(2).map(|line| &line["event"]).collect();
    assert_eq!(last, ["command_denied", "admin_command"]);
}
