use std::collections::BTreeMap;

use super::facts::{Check, Facts, ListenerFacts, Live, UpstreamFacts, UserFacts};
use super::history::{MAX_SERIES, Now, Ring, SLOT_SECONDS, SLOTS};
use super::reading::{COUNTERS, GAUGES, Reading};
use super::*;

const UNIX: i64 = 1_795_800_000;
const DAY: i64 = 86_400;
const HOSTILE: &str = "<script>alert('1')</script>\"&\x1b[31m\u{202e}";

/// A healthy Keyward, to be made ill.
struct World {
    facts: Facts,
    live: Live,
    reading: Reading,
    ring: Ring,
    age: u64,
}

impl World {
    fn healthy() -> Self {
        let check = Check {
            up: true,
            ready: true,
            ping_seconds: Some(0.0004),
            since: UNIX,
            ..Check::default()
        };
        let mut world = Self {
            facts: Facts {
                source: "/etc/keyward/keyward.toml".into(),
                lockout: true,
                listeners: vec![ListenerFacts {
                    name: "gateway".into(),
                    address: "0.0.0.0:6380".into(),
                    upstream: "main".into(),
                    tls: true,
                    client_certificates: "optional",
                    login: true,
                    ..ListenerFacts::default()
                }],
                upstreams: vec![UpstreamFacts {
                    name: "main".into(),
                    address: "redis.internal:6379/0".into(),
                    tls: true,
                    verified: true,
                    password_file: Some("/run/secrets/redis".into()),
                    ..UpstreamFacts::default()
                }],
                users: vec![user("app"), user("reports")],
                certificates: vec![certificate("listener", 60)],
            },
            live: Live {
                phase: Phase::Serving,
                checks: BTreeMap::from([("main".to_owned(), check)]),
                ..Live::default()
            },
            reading: Reading::default(),
            ring: Ring::default(),
            age: 0,
        };
        world.add("keyward_config_last_reload_successful", &[], 1.0);
        world.add("keyward_connections_max", &[("listener", "gateway")], 1_000.0);
        world.add("keyward_upstream_connections_max", &[("upstream", "main")], 100.0);
        world.add("process_max_fds", &[], 1_000.0);
        world.add("process_start_time_seconds", &[], 1_795_800_000.0);
        world
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.reading.add(name, labels, value);
    }

    fn look(&mut self) -> Status {
        self.look_after(10)
    }

    fn look_after(&mut self, seconds: u64) -> Status {
        self.age += seconds;
        let now = Now {
            unix: UNIX + i64::try_from(self.age).unwrap(),
            age: self.age,
        };
        assemble(&self.facts, &self.live, &self.reading, &mut self.ring, now)
    }
}

fn user(name: &str) -> UserFacts {
    UserFacts {
        name: name.into(),
        listener: "gateway".into(),
        enabled: true,
        ..UserFacts::default()
    }
}

fn certificate(role: &str, days: i64) -> Certificate {
    Certificate {
        role: role.into(),
        owner: "gateway".into(),
        file: "server.pem".into(),
        subject: "CN=gateway".into(),
        ends: UNIX + days * DAY,
    }
}

fn ids(status: &Status) -> Vec<&str> {
    status
        .problems
        .iter()
        .map(|problem| problem.id.as_str())
        .collect()
}

const AT: [(&str, &str); 1] = [("listener", "gateway")];
const MAIN: [(&str, &str); 1] = [("upstream", "main")];

type Illness = (&'static str, fn(&mut World), &'static str);

/// What makes each alert's problem, and a word of what has to be said about it.
const ILLNESSES: &[Illness] = &[
    (
        "KeywardAuthFailures",
        |world| world.add("keyward_auth_failures_total", &login("bad_password"), 6.0),
        "second line",
    ),
    (
        "KeywardAuthBruteForce",
        |world| world.add("keyward_auth_lockouts_total", &AT, 1.0),
        "keyward unlock",
    ),
    (
        "KeywardGuessingFromManyAddresses",
        |world| world.add("keyward_auth_slowed_users", &[], 1.0),
        "firewall",
    ),
    (
        "KeywardSourcesLockedOut",
        |world| world.add("keyward_auth_locked_sources", &AT, 1.0),
        "proxy_protocol_from",
    ),
    (
        "KeywardUpstreamRefusesCredential",
        |world| {
            let labels = [("upstream", "main"), ("user", ""), ("reason", "wrongpass")];
            world.add("keyward_upstream_auth_failures_total", &labels, 1.0);
        },
        "first line",
    ),
    (
        "KeywardDangerousCommandDenied",
        |world| world.add("keyward_commands_denied_total", &denied("flushall"), 1.0),
        "FLUSHALL",
    ),
    (
        "KeywardCommandsDenied",
        |world| world.add("keyward_commands_denied_total", &denied("keys"), 51.0),
        "acl test",
    ),
    (
        "KeywardUpstreamOverprivileged",
        |world| {
            world.add(
                "keyward_upstream_overprivileged",
                &[("upstream", "main"), ("cmd", "flushall")],
                1.0,
            )
        },
        "keyward acl upstream",
    ),
    (
        "KeywardCredentialOld",
        |world| {
            let changed = [("user", "app")];
            world.add(
                "keyward_user_credential_changed_timestamp_seconds",
                &changed,
                real(UNIX - 91 * DAY),
            );
        },
        "keyward rotate",
    ),
    (
        "KeywardAuditEventsDropped",
        |world| world.add("keyward_audit_events_dropped_total", &[], 1.0),
        "folded",
    ),
    (
        "KeywardDesync",
        |world| world.add("keyward_desync_total", &MAIN, 1.0),
        "nothing but Redis",
    ),
    (
        "KeywardUpstreamDown",
        |world| {
            let check = world.live.checks.get_mut("main").unwrap();
            (check.up, check.ready, check.detail) = (false, false, "it refused the connection".into());
            let labels = [("upstream", "main"), ("reason", "refused")];
            world.add("keyward_upstream_connect_failures_total", &labels, 9.0);
        },
        "Start Redis",
    ),
    (
        "KeywardUpstreamConnectFailures",
        |world| {
            let labels = [("upstream", "main"), ("reason", "max_clients")];
            world.add("keyward_upstream_connect_failures_total", &labels, 6.0);
        },
        "maxclients",
    ),
    (
        "KeywardUpstreamConnectionsExhausted",
        |world| world.add("keyward_upstream_wait_timeouts_total", &MAIN, 1.0),
        "max_connections",
    ),
    (
        "KeywardUpstreamConnectionWaits",
        |world| world.add("keyward_upstream_connections_open", &MAIN, 91.0),
        "max_connections",
    ),
    (
        "KeywardConnectionsNearLimit",
        |world| world.add("keyward_connections_open", &AT, 801.0),
        "80 %",
    ),
    (
        "KeywardConnectionsRejected",
        |world| {
            let labels = [("listener", "gateway"), ("reason", "source_limit")];
            world.add("keyward_connections_rejected_total", &labels, 1.0);
        },
        "max_connections_per_ip",
    ),
    (
        "KeywardConnectionsEvicted",
        |world| world.add("keyward_connections_evicted_total", &AT, 1.0),
        "max_unauthenticated",
    ),
    (
        "KeywardAcceptErrors",
        |world| {
            world.add(
                "keyward_accept_errors_total",
                &[("listener", "gateway"), ("kind", "descriptors")],
                1.0,
            )
        },
        "LimitNOFILE",
    ),
    (
        "KeywardFileDescriptorsLow",
        |world| world.add("process_open_fds", &[], 801.0),
        "LimitNOFILE",
    ),
    (
        "KeywardTlsHandshakeFailures",
        |world| {
            let labels = [("listener", "gateway"), ("reason", "plaintext")];
            world.add("keyward_tls_handshake_failures_total", &labels, 11.0);
        },
        "rediss://",
    ),
    (
        "KeywardTlsHandshakesWaiting",
        |world| world.add("keyward_tls_handshakes_waiting", &AT, 1.0),
        "connection pools",
    ),
    (
        "KeywardCertificateExpiresSoon",
        |world| world.facts.certificates = vec![certificate("listener", 13)],
        "server.pem",
    ),
    (
        "KeywardCertificateExpiresNow",
        |world| world.facts.certificates = vec![certificate("client_ca", -1)],
        "has expired",
    ),
    (
        "KeywardRevocationListExpires",
        |world| world.facts.certificates = vec![certificate("revocation_list", 1)],
        "new list",
    ),
    (
        "KeywardConfigReloadFailed",
        |world| {
            world.live.reload_fault = Some("keyward.toml:3:1: unknown key bindd".into());
            world.add("keyward_config_last_reload_successful", &[], -1.0);
        },
        "unknown key bindd",
    ),
    (
        "KeywardLatencyHigh",
        |world| {
            world.add(
                "keyward_command_duration_seconds",
                &[("listener", "gateway"), ("le", "0.5")],
                100.0,
            )
        },
        "SLOWLOG",
    ),
    (
        "KeywardPanics",
        |world| world.add("keyward_panics_total", &[], 1.0),
        "Report",
    ),
];

fn login(reason: &'static str) -> [(&'static str, &'static str); 3] {
    [("listener", "gateway"), ("user", "app"), ("reason", reason)]
}

fn denied(cmd: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("listener", "gateway"),
        ("user", "app"),
        ("cmd", cmd),
        ("reason", "command"),
    ]
}

fn real(unix: i64) -> f64 {
    f64::from(u32::try_from(unix).unwrap())
}

#[test]
fn a_healthy_one_has_no_problem() {
    let status = World::healthy().look();
    assert_eq!(status.problems, []);
    assert_eq!((status.state, status.phase), (State::Ok, Phase::Serving));
    let page = html::page(&status, true);
    assert!(page.contains("<h1>All is well</h1>"), "{page}");
}

#[test]
fn every_alert_has_its_problem_with_its_remedy() {
    let told: Vec<&str> = ILLNESSES.iter().map(|(id, ..)| *id).collect();
    let alerts: Vec<&str> = ALERTS.iter().map(|(id, _)| *id).collect();
    assert_eq!(told, alerts);
    for (id, infect, word) in ILLNESSES {
        let mut world = World::healthy();
        infect(&mut world);
        let mut status = world.look();
        let patient = problems::patience(id);
        if patient > 0 {
            assert_eq!(status.problems, [], "{id} comes and goes");
            status = world.look_after(patient);
        }
        assert_eq!(ids(&status), [*id]);
        let problem = &status.problems[0];
        let severity = ALERTS.iter().find(|(known, _)| known == id).unwrap().1;
        assert_eq!((problem.severity, problem.since), (severity, UNIX + 10), "{id}");
        assert_eq!(problem.runbook, format!("runbook.md#{}", id.to_lowercase()));
        assert!(status.state != State::Ok, "{id}");
        let lines = text::lines(&status, false);
        let page = html::page(&status, true);
        for said in [&lines, &page] {
            assert!(said.contains(word), "{id} does not say {word}: {said}");
            let plain = said.replace("&quot;", "\"").replace("&#39;", "'");
            assert!(plain.contains(&problem.remedy), "{id}: {plain}");
        }
    }
}

#[test]
fn thresholds_are_those_of_the_rules() {
    for (name, labels, value) in [
        ("keyward_auth_failures_total", &login("bad_password")[..], 5.0),
        ("keyward_auth_failures_total", &login("locked_out"), 100.0),
        ("keyward_commands_denied_total", &denied("keys"), 50.0),
        ("keyward_connections_open", &AT, 800.0),
        ("process_open_fds", &[], 800.0),
        ("keyward_upstream_connections_open", &MAIN, 90.0),
        (
            "keyward_tls_handshake_failures_total",
            &[("listener", "gateway"), ("reason", "eof")],
            100.0,
        ),
        (
            "keyward_tls_handshake_failures_total",
            &[("listener", "gateway"), ("reason", "other")],
            10.0,
        ),
        (
            "keyward_upstream_connect_failures_total",
            &[("upstream", "main"), ("reason", "io")],
            5.0,
        ),
        (
            "keyward_connections_rejected_total",
            &[("listener", "gateway"), ("reason", "draining")],
            5.0,
        ),
        (
            "keyward_user_credential_changed_timestamp_seconds",
            &[("user", "app")],
            real(UNIX - 89 * DAY),
        ),
        (
            "keyward_command_duration_seconds",
            &[("listener", "gateway"), ("le", "0.25")],
            100.0,
        ),
    ] {
        let mut world = World::healthy();
        world.add(name, labels, value);
        assert_eq!(ids(&world.look()), [""; 0], "{name}");
    }
    let mut world = World::healthy();
    world.facts.certificates = vec![certificate("listener", 15), certificate("revocation_list", 3)];
    assert_eq!(world.look().problems, []);
}

#[test]
fn a_refused_credential_is_one_problem_and_another_refusal_is_told_too() {
    let mut world = World::healthy();
    let check = world.live.checks.get_mut("main").unwrap();
    (check.up, check.ready, check.detail) = (false, false, "NOAUTH".into());
    let labels = [("upstream", "main"), ("reason", "auth_refused")];
    world.add("keyward_upstream_connect_failures_total", &labels, 9.0);
    let labels = [("upstream", "main"), ("user", ""), ("reason", "noauth")];
    world.add("keyward_upstream_auth_failures_total", &labels, 9.0);
    assert_eq!(ids(&world.look()), ["KeywardUpstreamDown"]);
    let labels = [("upstream", "main"), ("user", ""), ("reason", "wrongpass")];
    world.add("keyward_upstream_auth_failures_total", &labels, 9.0);
    let status = world.look();
    assert_eq!(ids(&status), ["KeywardUpstreamRefusesCredential"]);
    assert!(status.problems[0].detail.contains("It cannot be used."));
}

#[test]
fn an_older_password_in_use_is_a_notice() {
    let mut world = World::healthy();
    let labels = [("listener", "gateway"), ("user", "app"), ("credential", "older")];
    world.add("keyward_password_sessions_open", &labels, 2.0);
    let status = world.look();
    assert_eq!(ids(&status), ["KeywardOldPasswordInUse"]);
    assert_eq!(status.state, State::Ok);
    assert!(status.problems[0].detail.starts_with("2 sessions open, 0 logins"));
}

#[test]
fn few_failures_among_many_handshakes_are_none() {
    let mut world = World::healthy();
    world.add(
        "keyward_tls_handshake_failures_total",
        &[("listener", "gateway"), ("reason", "other")],
        11.0,
    );
    world.add(
        "keyward_tls_handshakes_total",
        &[("listener", "gateway"), ("version", "1.3")],
        1_000.0,
    );
    assert_eq!(world.look().problems, []);
}

#[test]
fn what_is_over_is_no_problem_any_more() {
    let mut world = World::healthy();
    world.add("keyward_auth_lockouts_total", &AT, 1.0);
    assert_eq!(ids(&world.look()), ["KeywardAuthBruteForce"]);
    assert_eq!(ids(&world.look_after(290)), ["KeywardAuthBruteForce"]);
    let status = world.look_after(60);
    assert_eq!(status.problems, []);
    // A second time is a problem of its own.
    world.add("keyward_auth_lockouts_total", &AT, 1.0);
    let status = world.look();
    assert_eq!(status.problems[0].since, status.now);
}

#[test]
fn notices_do_not_alarm() {
    let mut world = World::healthy();
    world.facts.lockout = false;
    world.facts.listeners[0].tls = false;
    world.facts.upstreams[0].tls = false;
    world.facts.upstreams[0].verified = false;
    world.facts.users[1].observed = true;
    world.live.phase = Phase::Draining;
    let status = world.look();
    let expected = [
        "Draining",
        "PlaintextListener",
        "RulesObserved",
        "PlaintextUpstream",
        "UpstreamNotVerified",
        "LockoutOff",
    ];
    assert_eq!(ids(&status), expected);
    assert_eq!(status.state, State::Ok);
    assert!(
        status
            .problems
            .iter()
            .all(|problem| problem.severity == Severity::Notice && !problem.remedy.is_empty())
    );
    world.facts.listeners[0].local = true;
    world.facts.upstreams[0].local = true;
    assert!(
        !ids(&world.look()).contains(&"PlaintextListener"),
        "on this machine nobody listens in"
    );
}

#[test]
fn the_worst_comes_first_and_the_number_is_bounded() {
    let mut world = World::healthy();
    world.facts.lockout = false;
    for day in 0..200 {
        let mut soon = certificate("listener", 5);
        soon.owner = format!("listener {day}");
        world.facts.certificates.push(soon);
    }
    world.facts.certificates.push(certificate("listener", 1));
    let status = world.look();
    assert_eq!(status.problems[0].id, "KeywardCertificateExpiresNow");
    assert_eq!(
        (status.problems.len(), status.problems_total),
        (MAX_PROBLEMS, 202)
    );
    assert!(html::page(&status, true).contains("and 102 further problems"));
}

#[test]
fn nothing_from_outside_becomes_markup_or_moves_the_cursor() {
    let mut world = World::healthy();
    world.facts.source = HOSTILE.into();
    world.facts.listeners[0].name = HOSTILE.into();
    world.facts.listeners[0].address = HOSTILE.into();
    world.facts.upstreams[0].name = HOSTILE.into();
    world.facts.upstreams[0].address = HOSTILE.into();
    world.facts.users = vec![UserFacts {
        name: HOSTILE.into(),
        listener: HOSTILE.into(),
        ..user("")
    }];
    world.facts.certificates = vec![Certificate {
        role: HOSTILE.into(),
        owner: HOSTILE.into(),
        file: HOSTILE.into(),
        subject: HOSTILE.into(),
        ends: UNIX,
    }];
    let check = Check {
        detail: HOSTILE.into(),
        ..Check::default()
    };
    world.live.checks = BTreeMap::from([(HOSTILE.to_owned(), check)]);
    world.live.reload_fault = Some(HOSTILE.into());
    world.add("keyward_config_last_reload_successful", &[], -1.0);
    world.live.lockouts = vec![Lockout {
        source: HOSTILE.into(),
        listener: HOSTILE.into(),
        ..Lockout::default()
    }];
    world.live.slowed_users = vec![SlowedUser {
        user: HOSTILE.into(),
        listener: HOSTILE.into(),
        ..SlowedUser::default()
    }];
    let labels = [
        ("listener", HOSTILE),
        ("user", HOSTILE),
        ("cmd", HOSTILE),
        ("reason", HOSTILE),
    ];
    world.add("keyward_commands_denied_total", &labels, 100.0);
    world.add("keyward_auth_failures_total", &labels, 100.0);
    world.add("keyward_connections_rejected_total", &labels, 100.0);
    let status = world.look();
    assert!(status.problems.len() >= 6);
    let page = html::page(&status, true);
    assert!(
        page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}[31m\u{fffd}"),
        "{page}"
    );
    let lower = page.to_lowercase();
    for forbidden in [
        "<script", "alert('", "\x1b", "\u{202e}", "http://", "https://", "style=", "onload", "src=", "url(",
    ] {
        let found = lower.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(forbidden), "{forbidden} in {page}");
    }
    assert_eq!(page.matches('<').count(), page.matches('>').count());
    let lines = text::lines(&status, true);
    let lines = lines.replace("\x1b[", "").replace("[0m", "");
    assert!(!lines.contains('\x1b') && !lines.contains('\u{202e}'));
    assert!(
        !text::lines(&status, false).contains('\x1b'),
        "colours on a terminal alone"
    );
    // JSON keeps the text as it is, escaped by its own rules.
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
}

#[test]
fn old_readers_understand_new_answers_and_the_other_way_round() {
    let status: Status =
        serde_json::from_str(r#"{"now": 5, "state": "critical", "a_new_field": [1, 2]}"#).unwrap();
    assert_eq!((status.now, status.state), (5, State::Critical));
    // As bare as it is, it can be shown.
    html::page(&status, false);
    text::lines(&status, true);
}

#[test]
fn the_hour_is_known_minute_by_minute() {
    let mut world = World::healthy();
    let command = [("listener", "gateway"), ("cmd", "get")];
    for minute in 0..61_u32 {
        world.add("keyward_commands_total", &command, f64::from(minute));
        world.look_after(60);
    }
    world.add(
        "keyward_commands_total",
        &[("listener", "gateway"), ("cmd", "set")],
        600.0,
    );
    let status = world.look_after(30);
    let requests = &status.history.requests;
    assert_eq!(requests.len(), 60);
    assert_eq!(
        requests.iter().sum::<u64>(),
        (1..61).sum::<u64>() + 600,
        "{requests:?}"
    );
    assert_eq!(requests[59], 660);
    assert_eq!(status.history.known_seconds, 3_600);
    // The slot that has just begun and the two before it: 60 seconds.
    assert!((status.listeners[0].requests_per_second - 660.0 / 60.0).abs() < 0.01);
    let refused = &world.look_after(3_600).history.requests;
    assert_eq!(refused.iter().sum::<u64>(), 0, "an hour later nothing is left");
}

#[test]
fn a_counter_that_is_still_for_long_does_not_come_back() {
    let mut world = World::healthy();
    world.add("keyward_panics_total", &[], 1.0);
    assert_eq!(ids(&world.look()), ["KeywardPanics"]);
    for pause in [SLOT_SECONDS * SLOTS as u64, SLOT_SECONDS * SLOTS as u64 * 3 + 1] {
        assert_eq!(world.look_after(pause).problems, [], "{pause}");
    }
    world.add("keyward_panics_total", &[], 1.0);
    assert!(
        world.look().problems[0].detail.starts_with("1 panic "),
        "the one of before is over"
    );
}

#[test]
fn quantiles_are_as_prometheus_finds_them() {
    let found = |share, counts: &[(&str, u64)]| history::quantile(share, counts.iter().copied());
    assert_eq!(found(0.5, &[]), None);
    assert_eq!(found(0.5, &[("1", 0), ("+Inf", 0)]), None);
    let near = |found: Option<f64>, wanted: f64| assert!((found.unwrap() - wanted).abs() < 1e-9, "{found:?}");
    near(found(0.5, &[("0.1", 50), ("0.2", 50)]), 0.1);
    near(found(0.75, &[("0.1", 50), ("0.2", 50)]), 0.15);
    near(found(0.5, &[("0.1", 0), ("0.2", 10)]), 0.15);
    near(found(0.99, &[("0.1", 50), ("2.5", 0), ("+Inf", 50)]), 2.5);
}

#[test]
fn series_are_bounded_and_the_totals_are_not() {
    let mut world = World::healthy();
    let users: Vec<String> = (0..MAX_SERIES + 100)
        .map(|number| format!("user{number}"))
        .collect();
    for name in &users {
        let labels = [
            ("listener", "gateway"),
            ("user", name),
            ("cmd", "keys"),
            ("reason", "command"),
        ];
        world.add("keyward_commands_denied_total", &labels, 1.0);
        world.facts.users.push(user(name));
    }
    let status = world.look();
    assert_eq!(status.refused.not_followed, 100);
    assert_eq!(status.refused.commands.len(), MAX_REFUSED);
    assert_eq!(status.history.refusals.iter().sum::<u64>(), users.len() as u64);
    assert_eq!(
        (status.users.len(), status.users_total),
        (MAX_USERS, users.len() + 2)
    );
    assert!(html::page(&status, true).len() < 512 * 1024);
}

#[test]
fn users_are_told_once_with_everything_about_them() {
    let mut world = World::healthy();
    world.facts.users.push(UserFacts {
        listener: "second".into(),
        ..user("app")
    });
    world.live.connections = BTreeMap::from([("app".to_owned(), 7)]);
    world.add("keyward_auth_failures_total", &login("bad_password"), 3.0);
    world.add("keyward_commands_denied_total", &denied("keys"), 2.0);
    world.add(
        "keyward_user_credential_changed_timestamp_seconds",
        &[("user", "app")],
        real(UNIX - DAY),
    );
    for (upstream, age) in [("main", 2 * DAY), ("other", 3 * DAY)] {
        world.add(
            "keyward_upstream_credential_changed_timestamp_seconds",
            &[("upstream", upstream), ("user", "app")],
            real(UNIX - age),
        );
    }
    let status = world.look();
    for text in [html::page(&status, true), text::lines(&status, false)] {
        assert!(text.contains("at Redis 3 d"), "{text}");
    }
    assert_eq!(status.users.len(), 2);
    assert_eq!(
        status.users[0],
        User {
            name: "app".into(),
            listeners: vec!["gateway".into(), "second".into()],
            connections: 7,
            refused_logins: 3,
            refused_commands: 2,
            credential_changed: Some(UNIX - DAY),
            redis_credential_changed: Some(UNIX - 3 * DAY),
            enabled: true,
            ..User::default()
        }
    );
}

#[test]
fn the_clock_may_jump() {
    let mut world = World::healthy();
    world.add(
        "keyward_user_credential_changed_timestamp_seconds",
        &[("user", "app")],
        f64::MAX,
    );
    world.add("keyward_auth_lockouts_total", &AT, f64::NAN);
    world.facts.certificates = vec![Certificate {
        ends: i64::MIN,
        ..certificate("listener", 0)
    }];
    for unix in [0, i64::MAX, i64::MIN, UNIX] {
        let now = Now { unix, age: 5 };
        let status = assemble(&world.facts, &world.live, &world.reading, &mut world.ring, now);
        html::page(&status, true);
        text::lines(&status, true);
    }
}

#[test]
fn names_are_metrics_of_ours() {
    for name in COUNTERS.iter().chain(GAUGES) {
        assert!(
            name.starts_with("keyward_") || name.starts_with("process_"),
            "{name}"
        );
    }
}

/// Name, severity and expression of every alert of the rules that Prometheus gets.
fn rules() -> Vec<(String, String, String)> {
    let text = include_str!("../../deploy/prometheus/keyward.rules.yml");
    let alerts = text.split("- alert: ").skip(1);
    alerts
        .map(|alert| {
            let (name, rest) = alert.split_once('\n').unwrap();
            let (_, severity) = rest.split_once("severity: ").unwrap();
            let expression = rest.split("labels:").next().unwrap();
            (
                name.into(),
                severity.lines().next().unwrap().into(),
                expression.into(),
            )
        })
        .collect()
}

#[test]
fn page_and_pager_have_one_vocabulary() {
    let severity = |severity: &Severity| {
        serde_json::to_value(severity)
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    let ours: Vec<_> = ALERTS
        .iter()
        .map(|(id, how)| ((*id).to_owned(), severity(how)))
        .collect();
    let rules = rules();
    let theirs = rules
        .iter()
        .map(|(name, severity, _)| (name.clone(), severity.clone()));
    // Whether it is there at all, a process cannot say itself; and it does not remember for a week.
    let elsewhere = ["KeywardDown", "KeywardOldPasswordInUse"];
    let theirs: Vec<_> = theirs
        .filter(|(name, _)| !elsewhere.contains(&name.as_str()))
        .collect();
    assert_eq!(ours, theirs);
    for (name, _, expression) in &rules {
        let patience = expression
            .split("for: ")
            .nth(1)
            .map(|rest| rest.trim().to_owned());
        match problems::patience(name) {
            0 => {}
            seconds => assert_eq!(patience, Some(format!("{}m", seconds / 60)), "{name}"),
        }
    }
}

#[test]
fn the_same_commands_are_dangerous_for_both() {
    let rules = rules();
    let (.., expression) = rules
        .iter()
        .find(|(name, ..)| name == "KeywardDangerousCommandDenied")
        .unwrap();
    let pattern = expression
        .split("cmd=~\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let mut words = Vec::new();
    for group in pattern.replace("\\\\|", "!").split_inclusive(')') {
        let (plain, within) = group.split_once('(').unwrap_or((group, ""));
        let (singles, stem) = plain.rsplit_once('|').unwrap_or(("", plain));
        words.extend(
            singles
                .split('|')
                .filter(|word| !word.is_empty())
                .map(str::to_owned),
        );
        if within.is_empty() {
            words.push(stem.to_owned());
        }
        let ends = within
            .trim_end_matches(')')
            .split('|')
            .filter(|end| !end.is_empty());
        words.extend(ends.map(|end| format!("{stem}{end}")));
    }
    let mut words: Vec<_> = words.iter().map(|word| word.replace('!', "|")).collect();
    words.sort();
    assert_eq!(words, DANGEROUS_COMMANDS);
}
