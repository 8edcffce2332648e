//! What stands in the tables: the columns, and a row of each kind.

use super::super::words::{ago, date, latency, number, rate, span, state, until};
use super::super::{Certificate, Listener, RefusedRow, Upstream, UpstreamState, User};
use super::table::{Cell, Column};

pub(super) fn refusal(row: &RefusedRow, first: Cell, now: i64) -> Vec<Cell> {
    vec![
        first,
        Cell::text(&row.reason),
        Cell::number(number(row.count)),
        Cell::number(ago(row.last, now)),
    ]
}

pub(super) fn listener(known: &Listener) -> Vec<Cell> {
    let mut asks = vec![if known.tls { "TLS" } else { "plain text" }];
    match known.client_certificates.as_str() {
        "optional" => asks.push("client certificate optional"),
        "required" => asks.push("client certificate"),
        _ => {}
    }
    asks.push(if known.login == "none" {
        "no login"
    } else {
        "login"
    });
    let connections = number(known.connections);
    let strangers = match known.unauthenticated {
        0 => String::new(),
        count => format!("{} not logged in", number(count)),
    };
    let time = |value: Option<f64>| value.map_or_else(Cell::none, |value| Cell::number(latency(value)));
    vec![
        Cell::note(&known.name, &known.address),
        Cell::text(&asks.join(", ")),
        Cell::text(&known.upstream),
        Cell::part(
            format!("{connections} of {}", number(known.connections_max)),
            known.connections,
            known.connections_max,
        )
        .noted(strangers),
        Cell::number(rate(known.requests_per_second)),
        time(known.p50_seconds),
        time(known.p99_seconds),
        Cell::number(number(known.refused)),
    ]
}

pub(super) fn upstream(known: &Upstream, now: i64) -> Vec<Cell> {
    let since = known
        .since
        .map(|since| format!("for {}", span(now.saturating_sub(since))))
        .unwrap_or_default();
    let class = match known.state {
        UpstreamState::Up => "good",
        UpstreamState::Down => "bad",
        UpstreamState::NotReady | UpstreamState::Unknown => "warn",
    };
    let time = |value: Option<f64>| value.map_or_else(Cell::none, |value| Cell::number(latency(value)));
    let lanes = format!(
        "{} shared, {} own, {} idle",
        number(known.lanes_shared),
        number(known.lanes_own),
        number(known.lanes_idle)
    );
    let waiting = match (known.waiting, known.queued) {
        (0, 0) => String::new(),
        (waiting, queued) => format!("{} waiting, {} in flight", number(waiting), number(queued)),
    };
    let address = if known.tls {
        format!("{}, TLS", known.address)
    } else {
        known.address.clone()
    };
    vec![
        Cell::note(&known.name, &address),
        Cell::text(state(known.state)).coloured(class).noted(since),
        time(known.ping_seconds),
        time(known.connect_p50_seconds),
        Cell::part(
            format!(
                "{} of {}",
                number(known.connections),
                number(known.connections_max)
            ),
            known.connections,
            known.connections_max,
        ),
        Cell::text(&lanes).noted(waiting),
        known
            .credential_changed
            .map_or_else(Cell::none, |at| Cell::number(age(at, now))),
    ]
}

fn age(changed: i64, now: i64) -> String {
    span(now.saturating_sub(changed))
}

pub(super) fn account(known: &User, now: i64) -> Vec<Cell> {
    let mode = match (known.enabled, known.observed) {
        (false, _) => "may not log in",
        (true, true) => "rules only observed",
        (true, false) => "",
    };
    let at_redis = known
        .redis_credential_changed
        .map(|at| format!("at Redis {}", age(at, now)))
        .unwrap_or_default();
    let connections = known.connections_max.map_or_else(
        || Cell::number(number(known.connections)),
        |most| {
            Cell::part(
                format!("{} of {}", number(known.connections), number(most)),
                known.connections,
                most,
            )
        },
    );
    vec![
        Cell::note(&known.name, mode),
        Cell::text(&known.listeners.join(", ")),
        connections,
        Cell::number(number(known.refused_logins)),
        Cell::number(number(known.refused_commands)),
        known
            .credential_changed
            .map_or_else(Cell::none, |at| Cell::number(age(at, now)))
            .noted(at_redis),
    ]
}

pub(super) fn certificate(known: &Certificate, now: i64) -> Vec<Cell> {
    let left = known.ends.saturating_sub(now);
    let class = match left {
        i64::MIN..TWO_DAYS => "bad",
        TWO_DAYS..TWO_WEEKS => "warn",
        _ => "",
    };
    let role = match known.role.as_str() {
        "listener" => "shown to clients",
        "client_ca" => "verifies clients",
        "upstream_ca" => "verifies Redis",
        "upstream_client" => "shown to Redis",
        "revocation_list" => "revoked client certificates",
        other => other,
    };
    vec![
        Cell::text(&known.owner),
        Cell::text(role),
        Cell::note(&known.file, &known.subject),
        Cell::number(until(known.ends, now))
            .coloured(class)
            .noted(date(known.ends)),
    ]
}

pub(super) const LISTENER: [Column; 8] = [
    ("Listener", false),
    ("Asks for", false),
    ("Upstream", false),
    ("Connections", true),
    ("Requests a second", true),
    ("p50", true),
    ("p99", true),
    ("Refused", true),
];
pub(super) const UPSTREAM: [Column; 7] = [
    ("Upstream", false),
    ("State", false),
    ("PING", true),
    ("Connecting", true),
    ("Connections", true),
    ("Lanes", false),
    ("Password age", true),
];
pub(super) const USER: [Column; 6] = [
    ("User", false),
    ("Listeners", false),
    ("Connections", true),
    ("Logins refused", true),
    ("Commands refused", true),
    ("Password age", true),
];
pub(super) const CERTIFICATE: [Column; 4] = [("Of", false), ("Use", false), ("File", false), ("Ends", true)];
pub(super) const LOGIN: [Column; 4] = [
    ("User", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
pub(super) const COMMAND: [Column; 4] = [
    ("Command", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
pub(super) const CONNECTION: [Column; 4] = [
    ("Listener", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
pub(super) const LOCKOUT: [Column; 3] = [("Source", false), ("For another", true), ("Times in a row", true)];
pub(super) const SLOWED: [Column; 2] = [("User", false), ("Failures", true)];

const TWO_DAYS: i64 = 2 * 86_400;
const TWO_WEEKS: i64 = 14 * 86_400;
