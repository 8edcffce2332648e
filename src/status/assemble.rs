//! Puts a [`Status`] together from what was collected.

use std::collections::BTreeMap;

use super::facts::{Facts, Live};
use super::history::{Increase, Now, Ring, quantile};
use super::problems::{self, Scene};
use super::reading::{
    AUTH_FAILURES, CONNECT_DURATION, CPU, DENIED, LANES, MEMORY, OPEN, OPEN_FILES, OPEN_FILES_MAX, OPEN_MAX,
    QUEUED, REJECTED, RELOAD_SUCCESSFUL, RELOAD_TIMESTAMP, Reading, START, UNAUTHENTICATED, UPSTREAM_CHANGED,
    UPSTREAM_MAX, UPSTREAM_OPEN, UPSTREAM_WAITING, USER_CHANGED,
};
use super::words::{seconds, whole};
use super::{
    Configuration, Listener, MAX_LOCKOUTS, MAX_PROBLEMS, MAX_REFUSED, MAX_USERS, Problem, Process, Refused,
    RefusedRow, Severity, State, Status, Upstream, UpstreamState, User,
};

/// Takes the reading into the last hour and says how things are.
pub fn assemble(facts: &Facts, live: &Live, reading: &Reading, ring: &mut Ring, now: Now) -> Status {
    ring.observe(reading, now);
    let found = problems::find(Scene {
        facts,
        live,
        reading,
        ring,
        now: now.unix,
    });
    let mut problems = standing(found, ring, now);
    let problems_total = problems.len();
    problems.truncate(MAX_PROBLEMS);
    let mut users = users(facts, live, reading, ring);
    let users_total = users.len();
    users.truncate(MAX_USERS);
    let mut certificates = facts.certificates.clone();
    certificates.sort_by_key(|certificate| certificate.ends);
    let time = |name: &str| reading.find(name, &[]).map(seconds);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: now.unix,
        started: time(START).unwrap_or_default(),
        phase: live.phase,
        state: worst(&problems),
        configuration: Configuration {
            source: facts.source.clone(),
            loaded: time(RELOAD_TIMESTAMP).filter(|at| *at > 0),
            successful: reading.sum(RELOAD_SUCCESSFUL, &[]) > 0.0,
            fault: live.reload_fault.clone().unwrap_or_default(),
        },
        problems,
        problems_total,
        refused: refused(live, ring),
        listeners: listeners(facts, reading, ring),
        upstreams: upstreams(facts, live, reading),
        users,
        users_total,
        certificates,
        history: ring.hour(),
        process: Process {
            memory_bytes: whole(reading.sum(MEMORY, &[])),
            open_files: whole(reading.sum(OPEN_FILES, &[])),
            open_files_max: whole(reading.sum(OPEN_FILES_MAX, &[])),
            cpu_seconds: reading.sum(CPU, &[]),
        },
    }
}

/// Those that have stood long enough, the worst and oldest first.
fn standing(found: Vec<Problem>, ring: &mut Ring, now: Now) -> Vec<Problem> {
    let mut problems = Vec::new();
    for mut problem in found {
        let since = ring.since(&problem.id, &problem.title, now);
        if now.age.saturating_sub(since.age) >= problems::patience(&problem.id) {
            problem.since = since.unix;
            problems.push(problem);
        }
    }
    ring.forget_solved();
    problems.sort_by(|one, other| {
        let key = |problem: &Problem| (problem.severity, problem.since);
        key(one).cmp(&key(other))
    });
    problems
}

fn worst(problems: &[Problem]) -> State {
    match problems.first().map(|problem| problem.severity) {
        Some(Severity::Critical) => State::Critical,
        Some(Severity::Warning) => State::Warning,
        Some(Severity::Notice) | None => State::Ok,
    }
}

fn refused(live: &Live, ring: &Ring) -> Refused {
    let list = |name: &'static str| {
        let mut rows: Vec<RefusedRow> = ring.increases(name, &[], HOUR).map(row).collect();
        let total = rows.iter().map(|row| row.count).sum();
        rows.sort_by(|one, other| other.count.cmp(&one.count).then(other.last.cmp(&one.last)));
        rows.truncate(MAX_REFUSED);
        (rows, total)
    };
    let (logins, logins_total) = list(AUTH_FAILURES);
    let (commands, commands_total) = list(DENIED);
    let (connections, connections_total) = list(REJECTED);
    Refused {
        window_seconds: ring.known_seconds(),
        logins,
        commands,
        connections,
        logins_total,
        commands_total,
        connections_total,
        lockouts: live.lockouts.iter().take(MAX_LOCKOUTS).cloned().collect(),
        lockouts_total: live.lockouts_total,
        slowed_users: live.slowed_users.iter().take(MAX_LOCKOUTS).cloned().collect(),
        not_followed: ring.not_followed(),
    }
}

fn row(found: Increase<'_>) -> RefusedRow {
    let label = |name| found.series.label(name).to_owned();
    RefusedRow {
        listener: label("listener"),
        user: label("user"),
        command: label("cmd"),
        reason: label("reason"),
        count: found.count,
        last: found.last,
    }
}

fn listeners(facts: &Facts, reading: &Reading, ring: &Ring) -> Vec<Listener> {
    let listener = |known: &super::facts::ListenerFacts| {
        let name = known.name.as_str();
        let labels = [("listener", name)];
        let count = |family| whole(reading.sum(family, &labels));
        let refused = |family| ring.increase(family, &labels, HOUR);
        Listener {
            name: name.to_owned(),
            address: known.address.clone(),
            upstream: known.upstream.clone(),
            tls: known.tls,
            client_certificates: known.client_certificates.to_owned(),
            login: if known.login { "password" } else { "none" }.to_owned(),
            connections: count(OPEN),
            connections_max: count(OPEN_MAX),
            unauthenticated: count(UNAUTHENTICATED),
            requests_per_second: ring.request_rate(name),
            p50_seconds: ring.quantile(0.5, name, FIVE_MINUTES),
            p99_seconds: ring.quantile(0.99, name, FIVE_MINUTES),
            refused: refused(AUTH_FAILURES) + refused(DENIED),
        }
    };
    facts.listeners.iter().map(listener).collect()
}

fn upstreams(facts: &Facts, live: &Live, reading: &Reading) -> Vec<Upstream> {
    let upstream = |known: &super::facts::UpstreamFacts| {
        let name = known.name.as_str();
        let labels = [("upstream", name)];
        let count = |family| whole(reading.sum(family, &labels));
        let lanes = |kind| whole(reading.sum(LANES, &[("upstream", name), ("kind", kind)]));
        let check = live.checks.get(name);
        let connects = reading.family(CONNECT_DURATION);
        let connects = connects.filter(|(series, _)| series.label("upstream") == name);
        let changed = reading.find(UPSTREAM_CHANGED, &[("upstream", name), ("user", "")]);
        Upstream {
            name: name.to_owned(),
            address: known.address.clone(),
            tls: known.tls,
            state: match check {
                None => UpstreamState::Unknown,
                Some(check) if !check.up => UpstreamState::Down,
                Some(check) if !check.ready => UpstreamState::NotReady,
                Some(_) => UpstreamState::Up,
            },
            since: check.map(|check| check.since),
            detail: check.map(|check| check.detail.clone()).unwrap_or_default(),
            ping_seconds: check.and_then(|check| check.ping_seconds),
            connect_p50_seconds: quantile(
                0.5,
                connects.map(|(series, count)| (series.label("le"), whole(count))),
            ),
            connections: count(UPSTREAM_OPEN),
            connections_max: count(UPSTREAM_MAX),
            lanes_shared: lanes("shared"),
            lanes_own: lanes("own"),
            lanes_idle: lanes("idle"),
            waiting: count(UPSTREAM_WAITING),
            queued: count(QUEUED),
            credential_changed: changed.map(seconds).filter(|at| *at > 0),
        }
    };
    facts.upstreams.iter().map(upstream).collect()
}

/// Those who were refused most first.
fn users(facts: &Facts, live: &Live, reading: &Reading, ring: &Ring) -> Vec<User> {
    let mut by_user = BTreeMap::<&str, (u64, u64)>::new();
    let logins = ring.increases(AUTH_FAILURES, &[], HOUR);
    for found in logins {
        by_user.entry(found.series.label("user")).or_default().0 += found.count;
    }
    let commands = ring.increases(DENIED, &[], HOUR);
    for found in commands {
        by_user.entry(found.series.label("user")).or_default().1 += found.count;
    }
    let mut changed = BTreeMap::<&str, i64>::new();
    for (series, at) in reading.family(USER_CHANGED) {
        changed.insert(series.label("user"), seconds(at));
    }
    // A user may have the same login at several upstreams.
    let mut at_redis = BTreeMap::<&str, i64>::new();
    for (series, at) in reading.family(UPSTREAM_CHANGED) {
        let oldest = at_redis.entry(series.label("user")).or_insert(i64::MAX);
        *oldest = seconds(at).min(*oldest);
    }
    let mut users = BTreeMap::<&str, User>::new();
    for known in &facts.users {
        let name = known.name.as_str();
        let user = users.entry(name).or_insert_with(|| {
            let (refused_logins, refused_commands) = by_user.get(name).copied().unwrap_or_default();
            User {
                name: name.to_owned(),
                connections: live.connections.get(name).copied().unwrap_or_default(),
                connections_max: known.connections_max,
                refused_logins,
                refused_commands,
                credential_changed: changed.get(name).copied(),
                redis_credential_changed: at_redis.get(name).copied(),
                ..User::default()
            }
        });
        user.listeners.push(known.listener.clone());
        user.enabled |= known.enabled;
        user.observed |= known.observed;
    }
    let mut users: Vec<User> = users.into_values().collect();
    users.sort_by_key(|user| {
        std::cmp::Reverse((user.refused_logins + user.refused_commands, user.connections))
    });
    users
}

const HOUR: u64 = 60 * 60;
const FIVE_MINUTES: u64 = 5 * 60;
