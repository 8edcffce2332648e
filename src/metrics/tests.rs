//! Tests of the families as a whole.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::limits::Reject;

fn metrics() -> Arc<Metrics> {
    let shape = Shape {
        listeners: vec![("gateway".into(), 10_000), ("sidecar".into(), 100)],
        upstreams: vec!["main".into()],
        commands: vec!["get", "config|get"],
        labels: Labels::default(),
    };
    let metrics = Metrics::new(&shape).unwrap();
    metrics.add_users("gateway", &["app", "default"]);
    metrics.add_users("sidecar", &["app"]);
    metrics
}

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[track_caller]
fn has(metrics: &Metrics, series: &str, expected: f64) {
    assert_eq!(
        value(metrics, series),
        Some(expected),
        "{series}\n{}",
        metrics.render()
    );
}

/// Counts something of each kind whose series are not there from the beginning.
fn use_everything(metrics: &Metrics) {
    metrics.set_user_credentials([("app", 1e9)]);
    metrics.upstream("main").credential_changed("", 1e9);
    metrics
        .upstream("main")
        .overprivileged(&[("flushall", true), ("keys", false)]);
    metrics.set_certificates([(CertificateRole::Listener, "gateway", 2_000_000_000)]);
    metrics.set_revocation_lists([("gateway", 2_000_000_000)]);
    metrics.listener("gateway").tally().command(0);
}

#[test]
fn every_documented_family_is_there_under_its_name_and_type() {
    const FAMILIES: &[(&str, &str)] = &[
        ("keyward_auth_failures_total", "counter"),
        ("keyward_auth_attempts_total", "counter"),
        ("keyward_upstream_auth_failures_total", "counter"),
        ("keyward_upstream_overprivileged", "gauge"),
        ("keyward_auth_lockouts_total", "counter"),
        ("keyward_auth_locked_sources", "gauge"),
        ("keyward_commands_denied_total", "counter"),
        ("keyward_commands_observed_total", "counter"),
        ("keyward_user_credential_changed_timestamp_seconds", "gauge"),
        ("keyward_upstream_credential_changed_timestamp_seconds", "gauge"),
        ("keyward_password_logins_total", "counter"),
        ("keyward_password_sessions_open", "gauge"),
        ("keyward_older_password_last_used_timestamp_seconds", "gauge"),
        ("keyward_connections_open", "gauge"),
        ("keyward_connections_max", "gauge"),
        ("keyward_connections_total", "counter"),
        ("keyward_connections_rejected_total", "counter"),
        ("keyward_connections_closed_total", "counter"),
        ("keyward_commands_total", "counter"),
        ("keyward_error_replies_total", "counter"),
        ("keyward_command_duration_seconds", "histogram"),
        ("keyward_network_received_bytes_total", "counter"),
        ("keyward_network_sent_bytes_total", "counter"),
        ("keyward_protocol_errors_total", "counter"),
        ("keyward_tls_handshakes_total", "counter"),
        ("keyward_tls_handshake_failures_total", "counter"),
        ("keyward_tls_handshake_duration_seconds", "histogram"),
        ("keyward_tls_certificate_not_after_timestamp_seconds", "gauge"),
        ("keyward_tls_crl_next_update_timestamp_seconds", "gauge"),
        ("keyward_tls_handshakes_in_progress", "gauge"),
        ("keyward_tls_handshakes_waiting", "gauge"),
        ("keyward_upstream_up", "gauge"),
        ("keyward_upstream_connections_open", "gauge"),
        ("keyward_upstream_connections_max", "gauge"),
        ("keyward_upstream_waiting", "gauge"),
        ("keyward_upstream_waits_total", "counter"),
        ("keyward_upstream_wait_timeouts_total", "counter"),
        ("keyward_upstream_connects_total", "counter"),
        ("keyward_upstream_connect_failures_total", "counter"),
        ("keyward_upstream_connect_duration_seconds", "histogram"),
        ("keyward_build_info", "gauge"),
        ("keyward_config_last_reload_successful", "gauge"),
        ("keyward_config_last_reload_success_timestamp_seconds", "gauge"),
        ("keyward_config_reloads_total", "counter"),
        ("keyward_audit_events_dropped_total", "counter"),
        ("keyward_log_messages_total", "counter"),
        ("process_cpu_seconds_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
        // Beyond the first list: what the fault catalogue needs and it had no family for.
        ("keyward_connections_unauthenticated", "gauge"),
        ("keyward_connections_evicted_total", "counter"),
        ("keyward_accept_errors_total", "counter"),
        ("keyward_client_write_stalls_total", "counter"),
        ("keyward_upstream_closed_total", "counter"),
        ("keyward_desync_total", "counter"),
        ("keyward_draining", "gauge"),
        ("keyward_workers_active", "gauge"),
        ("keyward_sessions_moved_total", "counter"),
        ("keyward_panics_total", "counter"),
        ("keyward_log_dropped_total", "counter"),
        // How sessions share connections.
        ("keyward_auth_delays_total", "counter"),
        ("keyward_auth_lockouts_lifted_total", "counter"),
        ("keyward_auth_tracked_sources", "gauge"),
        ("keyward_auth_aggregated_networks", "gauge"),
        ("keyward_auth_slowed_users", "gauge"),
        ("keyward_auth_evicted_sources_total", "counter"),
        ("keyward_sessions_pinned", "gauge"),
        ("keyward_session_pins_total", "counter"),
        ("keyward_upstream_lanes_open", "gauge"),
        ("keyward_upstream_requests_queued", "gauge"),
        ("keyward_upstream_requests_per_flush", "histogram"),
        ("keyward_upstream_gathers_total", "counter"),
    ];
    let metrics = metrics();
    use_everything(&metrics);
    let text = metrics.render();
    let expected: BTreeSet<_> = FAMILIES.iter().copied().collect();
    let found: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn all_refusals_are_at_zero_before_anything_has_happened() {
    let metrics = metrics();
    for series in [
        r#"keyward_auth_failures_total{listener="gateway",reason="no_credentials",user=""}"#,
        r#"keyward_auth_failures_total{listener="sidecar",reason="bad_password",user="app"}"#,
        r#"keyward_auth_attempts_total{listener="gateway",method="client_cert"}"#,
        r#"keyward_auth_failures_total{listener="gateway",reason="over_budget",user=""}"#,
        r#"keyward_auth_delays_total{listener="gateway",reason="source"}"#,
        r#"keyward_auth_delays_total{listener="gateway",reason="user"}"#,
        r#"keyward_auth_delays_total{listener="gateway",reason="lockout"}"#,
        r#"keyward_auth_delays_total{listener="gateway",reason="budget"}"#,
        r#"keyward_auth_lockouts_lifted_total{listener="gateway"}"#,
        r#"keyward_auth_locked_sources{listener="gateway"}"#,
        r#"keyward_auth_aggregated_networks"#,
        r#"keyward_auth_slowed_users"#,
        r#"keyward_auth_evicted_sources_total"#,
        r#"keyward_connections_rejected_total{listener="gateway",reason="source_limit"}"#,
        r#"keyward_connections_rejected_total{listener="gateway",reason="proxy_header"}"#,
        r#"keyward_connections_closed_total{listener="gateway",reason="internal"}"#,
        r#"keyward_commands_total{cmd="_other",listener="gateway"}"#,
        r#"keyward_commands_denied_total{cmd="_other",listener="gateway",reason="command",user="app"}"#,
        r#"keyward_commands_denied_total{cmd="flushall",listener="gateway",reason="command",user="default"}"#,
        r#"keyward_commands_observed_total{cmd="_other",listener="gateway",reason="command",user="app"}"#,
        r#"keyward_commands_observed_total{cmd="flushall",listener="gateway",reason="command",user="app"}"#,
        r#"keyward_commands_denied_total{cmd="config|set",listener="sidecar",reason="command",user="app"}"#,
        r#"keyward_tls_handshake_failures_total{listener="gateway",reason="plaintext"}"#,
        r#"keyward_tls_handshakes_in_progress{listener="gateway"}"#,
        r#"keyward_tls_handshakes_waiting{listener="gateway"}"#,
        r#"keyward_tls_handshakes_total{listener="gateway",version="1.3"}"#,
        r#"keyward_accept_errors_total{kind="descriptors",listener="gateway"}"#,
        r#"keyward_protocol_errors_total{listener="gateway",side="upstream"}"#,
        r#"keyward_error_replies_total{err="OOM",upstream="main"}"#,
        r#"keyward_upstream_connect_failures_total{reason="dns",upstream="main"}"#,
        r#"keyward_upstream_auth_failures_total{reason="wrongpass",upstream="main",user=""}"#,
        r#"keyward_upstream_closed_total{upstream="main",when="reply"}"#,
        r#"keyward_config_reloads_total{result="failure"}"#,
        r#"keyward_log_messages_total{level="error"}"#,
        r#"keyward_upstream_up{upstream="main"}"#,
    ] {
        has(&metrics, series, 0.0);
    }
    has(
        &metrics,
        r#"keyward_connections_max{listener="gateway"}"#,
        10_000.0,
    );
}

#[test]
fn label_words_are_distinct_within_each_set() {
    fn distinct(words: impl IntoIterator<Item = &'static str>) {
        let words: Vec<_> = words.into_iter().collect();
        assert!(!words.is_empty());
        assert_eq!(
            words.iter().collect::<BTreeSet<_>>().len(),
            words.len(),
            "{words:?}"
        );
    }
    let all = Labels::default();
    distinct(CloseReason::ALL.iter().map(|word| word.label()));
    distinct(Side::ALL.iter().map(|word| word.label()));
    distinct(TlsVersion::ALL.iter().map(|word| word.label()));
    distinct(CertificateRole::ALL.iter().map(|word| word.label()));
    distinct(UpstreamClosed::ALL.iter().map(|word| word.label()));
    distinct(AcceptErrorKind::ALL.iter().map(|word| word.label()));
    distinct(
        Reject::ALL
            .iter()
            .map(|word| word.label())
            .chain([labels::PROXY_HEADER]),
    );
    distinct(labels::ERROR_CODES);
    for words in [
        all.auth_failures,
        all.user_auth_failures,
        all.auth_methods,
        all.tls_handshake_failures,
        all.connect_failures,
        all.upstream_auth_failures,
    ] {
        distinct(words.iter().copied());
    }
}

#[test]
fn a_connection_is_open_until_it_is_dropped_and_closed_once_for_its_first_reason() {
    let metrics = metrics();
    let listener = metrics.listener("gateway");
    let mut first = listener.connection_open();
    let second = listener.connection_open();
    has(&metrics, r#"keyward_connections_open{listener="gateway"}"#, 2.0);
    has(
        &metrics,
        r#"keyward_connections_unauthenticated{listener="gateway"}"#,
        2.0,
    );
    first.authenticated();
    first.authenticated();
    has(
        &metrics,
        r#"keyward_connections_unauthenticated{listener="gateway"}"#,
        1.0,
    );
    first.close(CloseReason::WriteStall);
    first.close(CloseReason::ClientReset);
    drop(first);
    drop(second);
    for (series, expected) in [
        (r#"keyward_connections_total{listener="gateway"}"#, 2.0),
        (r#"keyward_connections_open{listener="gateway"}"#, 0.0),
        (r#"keyward_connections_unauthenticated{listener="gateway"}"#, 0.0),
        (
            r#"keyward_connections_closed_total{listener="gateway",reason="write_stall"}"#,
            1.0,
        ),
        (
            r#"keyward_connections_closed_total{listener="gateway",reason="client_reset"}"#,
            0.0,
        ),
        (
            r#"keyward_connections_closed_total{listener="gateway",reason="internal"}"#,
            1.0,
        ),
        (r#"keyward_client_write_stalls_total{listener="gateway"}"#, 1.0),
    ] {
        has(&metrics, series, expected);
    }
}

#[test]
fn waits_for_a_connection_are_counted_and_last_until_dropped() {
    let metrics = metrics();
    let upstream = metrics.upstream("main");
    let waits = |waiting: f64| {
        for (name, expected) in [("waiting", waiting), ("waits_total", 1.0)] {
            has(
                &metrics,
                &format!(r#"keyward_upstream_{name}{{upstream="main"}}"#),
                expected,
            );
        }
    };
    let wait = upstream.wait();
    waits(1.0);
    upstream.wait_timed_out();
    drop(wait);
    waits(0.0);
    has(
        &metrics,
        r#"keyward_upstream_wait_timeouts_total{upstream="main"}"#,
        1.0,
    );
}

#[test]
fn upstream_connections_are_open_until_dropped() {
    let metrics = metrics();
    let upstream = metrics.upstream("main");
    upstream.connect_attempt();
    upstream.connected(Duration::from_millis(1));
    let connection = upstream.connection_open();
    has(
        &metrics,
        r#"keyward_upstream_connections_open{upstream="main"}"#,
        1.0,
    );
    drop(connection);
    has(
        &metrics,
        r#"keyward_upstream_connections_open{upstream="main"}"#,
        0.0,
    );
    has(
        &metrics,
        r#"keyward_upstream_connect_duration_seconds_count{upstream="main"}"#,
        1.0,
    );
}

#[test]
fn commands_are_counted_by_name_and_unknown_ones_together() {
    let metrics = metrics();
    let listener = metrics.listener("gateway");
    let tally = listener.tally();
    for command in [1, 1, 1, 1, 1, 99] {
        tally.command(command);
    }
    tally.observe(Duration::from_micros(70), 5);
    tally.observe(Duration::from_secs(3), 1);
    has(
        &metrics,
        r#"keyward_commands_total{cmd="config|get",listener="gateway"}"#,
        5.0,
    );
    has(
        &metrics,
        r#"keyward_commands_total{cmd="_other",listener="gateway"}"#,
        1.0,
    );
    assert_eq!(
        value(
            &metrics,
            r#"keyward_commands_total{cmd="get",listener="gateway"}"#
        ),
        None
    );
    has(
        &metrics,
        r#"keyward_command_duration_seconds_bucket{listener="gateway",le="0.0001"}"#,
        5.0,
    );
    has(
        &metrics,
        r#"keyward_command_duration_seconds_count{listener="gateway"}"#,
        6.0,
    );
}

#[test]
fn ages_are_of_credentials_in_force_and_of_no_others() {
    let metrics = metrics();
    metrics.add_users("gateway", &["app", "late"]);
    metrics.set_user_credentials([("app", 1e9), ("late", 2e9)]);
    let (main, other) = (metrics.upstream("main"), metrics.upstream("other"));
    main.set_credentials([("", 1e9), ("app", 2e9)]);
    other.set_credentials([("", 3e9)]);
    metrics.set_user_credentials([("late", 4e9)]);
    main.set_credentials([("", 5e9)]);
    let user = |name| format!("keyward_user_credential_changed_timestamp_seconds{{user=\"{name}\"}}");
    let login = |upstream, user| {
        format!(
            "keyward_upstream_credential_changed_timestamp_seconds{{upstream=\"{upstream}\",user=\"{user}\"}}"
        )
    };
    assert_eq!(value(&metrics, &user("app")), None, "the user is gone");
    has(&metrics, &user("late"), 4e9);
    assert_eq!(value(&metrics, &login("main", "app")), None);
    has(&metrics, &login("main", ""), 5e9);
    has(&metrics, &login("other", ""), 3e9);
}

#[test]
fn no_label_ever_holds_what_a_peer_sent() {
    let metrics = metrics();
    let listener = metrics.listener("gateway");
    let before = metrics.render().lines().count();
    for n in 0..50 {
        let name = format!("intruder{n}\n");
        listener.auth_failed(Some(&name), "unknown_user");
        listener.denied(&name, None, "command");
        listener.observed(&name, "_other", "command");
        metrics.set_user_credentials([(name.as_str(), 1.0)]);
        metrics.upstream("main").error_reply(name.as_bytes());
    }
    let text = metrics.render();
    assert!(!text.contains("intruder"));
    assert_eq!(text.lines().count(), before);
    has(
        &metrics,
        r#"keyward_auth_failures_total{listener="gateway",reason="unknown_user",user=""}"#,
        50.0,
    );
    has(
        &metrics,
        r#"keyward_error_replies_total{err="_other",upstream="main"}"#,
        50.0,
    );
}

#[test]
fn users_and_listeners_of_a_reload_get_their_series() {
    let metrics = metrics();
    metrics.add_users("gateway", &["batch"]);
    metrics.add_users("queue", &["app", "batch"]);
    metrics
        .listener("queue")
        .auth_failed(Some("batch"), "bad_password");
    has(
        &metrics,
        r#"keyward_auth_failures_total{listener="gateway",reason="bad_password",user="batch"}"#,
        0.0,
    );
    assert_eq!(
        value(
            &metrics,
            r#"keyward_auth_failures_total{listener="sidecar",reason="bad_password",user="batch"}"#
        ),
        None,
        "nobody of this name may log in there"
    );
    has(
        &metrics,
        r#"keyward_auth_failures_total{listener="queue",reason="bad_password",user="batch"}"#,
        1.0,
    );
    has(
        &metrics,
        r#"keyward_auth_failures_total{listener="queue",reason="bad_password",user="app"}"#,
        0.0,
    );
}

#[test]
fn the_first_refusal_of_an_alarming_command_is_an_increase() {
    let names: BTreeSet<&str> = crate::acl::commands()
        .iter()
        .map(|command| command.name)
        .collect();
    for cmd in labels::ALARMING {
        assert!(names.contains(cmd), "{cmd} is no name of the command table");
    }
    let metrics = metrics();
    let series =
        r#"keyward_commands_denied_total{cmd="flushall",listener="sidecar",reason="command",user="app"}"#;
    has(&metrics, series, 0.0);
    metrics
        .listener("sidecar")
        .denied("app", Some("flushall"), "command");
    has(&metrics, series, 1.0);
}

#[test]
fn many_users_do_not_multiply_the_alarming_commands() {
    let metrics = metrics();
    let lines = |metrics: &Metrics| metrics.render().lines().count();
    let before = lines(&metrics);
    let names: Vec<String> = (0..1_000).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    metrics.add_users("gateway", &names);
    // One more for commands refused, and for commands observed; five for logins with the current and with older passwords.
    let each = Labels::default().user_auth_failures.len() + 2 + 5;
    assert_eq!(lines(&metrics) - before, 1_000 * each);
}

#[test]
fn revocation_lists_are_replaced() {
    let metrics = metrics();
    let family = "keyward_tls_crl_next_update_timestamp_seconds";
    metrics.set_revocation_lists([("gateway", 5), ("sidecar", 6)]);
    metrics.set_revocation_lists([("gateway", 7)]);
    has(&metrics, &format!(r#"{family}{{listener="gateway"}}"#), 7.0);
    assert_eq!(
        value(&metrics, &format!(r#"{family}{{listener="sidecar"}}"#)),
        None
    );
}

#[test]
fn certificates_are_replaced_and_the_earliest_expiry_counts() {
    let metrics = metrics();
    metrics.set_certificates([(CertificateRole::ClientCa, "old", 5)]);
    metrics.set_certificates([
        (CertificateRole::Listener, "gateway", 9),
        (CertificateRole::Listener, "gateway", 7),
        (CertificateRole::UpstreamCa, "main", 8),
    ]);
    let family = "keyward_tls_certificate_not_after_timestamp_seconds";
    has(
        &metrics,
        &format!(r#"{family}{{name="gateway",role="listener"}}"#),
        7.0,
    );
    has(
        &metrics,
        &format!(r#"{family}{{name="main",role="upstream_ca"}}"#),
        8.0,
    );
    assert!(!metrics.render().contains(r#"name="old""#));
}

#[test]
fn reloads_are_counted_by_result() {
    let metrics = metrics();
    metrics.config_loaded(1e9);
    metrics.reload_failed();
    has(&metrics, "keyward_config_last_reload_successful", 0.0);
    has(
        &metrics,
        "keyward_config_last_reload_success_timestamp_seconds",
        1e9,
    );
    metrics.reload_succeeded(2e9);
    has(&metrics, "keyward_config_last_reload_successful", 1.0);
    has(&metrics, r#"keyward_config_reloads_total{result="success"}"#, 1.0);
    has(&metrics, r#"keyward_config_reloads_total{result="failure"}"#, 1.0);
}

#[test]
fn log_lines_are_counted_by_level() {
    use tracing_subscriber::layer::SubscriberExt as _;

    let metrics = metrics();
    let subscriber = tracing_subscriber::registry().with(metrics.log_counter());
    tracing::subscriber::with_default(subscriber, || {
        tracing::warn!("w");
        tracing::error!("e");
        tracing::error!("e");
        tracing::info!("i");
    });
    has(&metrics, r#"keyward_log_messages_total{level="warn"}"#, 1.0);
    has(&metrics, r#"keyward_log_messages_total{level="error"}"#, 2.0);
}

#[test]
fn accept_errors_are_sorted_by_what_to_do_about_them() {
    let kind = |errno| AcceptErrorKind::from(&std::io::Error::from_raw_os_error(errno));
    assert_eq!(kind(24), AcceptErrorKind::Descriptors);
    assert!(kind(103).is_transient());
    assert!(!kind(24).is_transient() && !kind(12).is_transient() && !kind(22).is_transient());
}

/// Skipped without a word where promtool is not installed.
#[test]
fn promtool_has_nothing_to_say() {
    let metrics = metrics();
    use_everything(&metrics);
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else { return };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.render().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn what_redis_would_run_is_replaced_as_a_whole() {
    let metrics = metrics();
    let upstream = metrics.upstream("main");
    let series = |cmd: &str| format!("keyward_upstream_overprivileged{{cmd=\"{cmd}\",upstream=\"main\"}}");
    upstream.overprivileged(&[("flushall", true), ("keys", false)]);
    has(&metrics, &series("flushall"), 1.0);
    has(&metrics, &series("keys"), 0.0);
    upstream.overprivileged(&[("flushall", false)]);
    has(&metrics, &series("flushall"), 0.0);
    assert_eq!(value(&metrics, &series("keys")), None);
}

#[test]
fn a_login_of_a_user_has_its_series_from_the_beginning() {
    let metrics = metrics();
    let upstream = metrics.upstream("main");
    upstream.prepare_login("app");
    let series = |user: &str| {
        format!(
            "keyward_upstream_auth_failures_total{{reason=\"wrongpass\",upstream=\"main\",user=\"{user}\"}}"
        )
    };
    has(&metrics, &series("app"), 0.0);
    upstream.auth_failed("app", "wrongpass");
    has(&metrics, &series("app"), 1.0);
    has(&metrics, &series(""), 0.0);
}

#[test]
fn logins_with_older_passwords_are_told_apart_from_the_start() {
    let metrics = metrics();
    let gateway = metrics.listener("gateway");
    let series = |name: &str, user: &str, credential: &str| {
        format!("{name}{{credential=\"{credential}\",listener=\"gateway\",user=\"{user}\"}}")
    };
    let last = "keyward_older_password_last_used_timestamp_seconds{listener=\"gateway\",user=\"app\"}";
    for credential in ["current", "older"] {
        has(
            &metrics,
            &series("keyward_password_logins_total", "app", credential),
            0.0,
        );
        has(
            &metrics,
            &series("keyward_password_sessions_open", "app", credential),
            0.0,
        );
    }
    gateway.password_login("app", PasswordAge::at(0), 1e9);
    has(&metrics, last, 0.0);
    gateway.password_login("app", PasswordAge::at(2), 2e9);
    has(&metrics, last, 2e9);
    let session = gateway.password_session("app", PasswordAge::Older);
    has(
        &metrics,
        &series("keyward_password_sessions_open", "app", "older"),
        1.0,
    );
    drop(session);
    has(
        &metrics,
        &series("keyward_password_sessions_open", "app", "older"),
        0.0,
    );
    has(
        &metrics,
        &series("keyward_password_logins_total", "app", "current"),
        1.0,
    );
    has(
        &metrics,
        &series("keyward_password_logins_total", "app", "older"),
        1.0,
    );
    // A name that is not configured is no label.
    gateway.password_login("stranger", PasswordAge::Older, 3e9);
    has(
        &metrics,
        &series("keyward_password_logins_total", "", "older"),
        1.0,
    );
    assert!(!metrics.render().contains("stranger"));
}
