//! Tests of connection permits: each limit, eviction, and that everything is given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{
    AclText, Admin, Connections, ListenAddress, Listener, Log, LogFormat, Login, LoginMode, RuleMode, Server,
    UserEntry,
};

fn listener(name: &str, max_connections: usize, max_connections_per_ip: Option<usize>) -> Listener {
    Listener {
        name: name.into(),
        address: ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        upstream: 0,
        tls: None,
        login: LoginMode::Password,
        users_file: None,
        users: Vec::new(),
        acl: AclText {
            text: "safe".into(),
            location: None,
        },
        mode: RuleMode::Enforce,
        learn: false,
        max_connections,
        max_connections_per_ip,
        idle_timeout: None,
        write_stall_timeout: Duration::from_secs(60),
        inline: true,
        proxy_protocol_from: Vec::new(),
    }
}

fn user(name: &str, max_connections: usize) -> UserEntry {
    UserEntry {
        certificates: Vec::new(),
        certificate_required: false,
        unix_users: Vec::new(),
        upstream_login: None,
        name: name.into(),
        credential: None,
        password_hashes: Vec::new(),
        acl: AclText {
            text: "safe".into(),
            location: None,
        },
        mode: None,
        learn: None,
        databases: None,
        sources: Vec::new(),
        max_connections: Some(max_connections),
    }
}

fn config(max_connections: usize, max_unauthenticated: usize, listeners: Vec<Listener>) -> Config {
    Config {
        server: Server {
            worker_busy_percent: 70,
            workers: 1,
            max_connections,
            max_unauthenticated,
            max_connections_per_ip: None,
            max_tls_handshakes: 64,
            drain_timeout: Duration::from_secs(10),
            watch_interval: Duration::from_secs(2),
            connections: Connections::Dedicated,
        },
        admin: Admin {
            address: None,
            control_socket: None,
        },
        log: Log {
            format: LogFormat::Auto,
            filter: "info".into(),
        },
        login: Login {
            timeout: Duration::from_secs(10),
            max_failures: 5,
            max_commands: 16,
            lockout: true,
            lockout_after: 10,
            lockout_window: Duration::from_secs(60),
            lockout_first: Duration::from_secs(10),
            lockout_max: Duration::from_secs(900),
            max_sources: 65_536,
            aggregate_after: 16,
            max_failures_per_second: 100,
        },
        upstreams: Vec::new(),
        listeners,
        users: Vec::new(),
        named_files: Vec::new(),
    }
}

fn source(last: u8) -> Source {
    Source::from(IpAddr::from([10, 0, 0, last]))
}

fn everything_is_released(limits: &Limits) {
    assert_eq!((limits.open(), limits.unauthenticated()), (0, 0));
    let state = limits.state();
    assert_eq!(state.closing, 0);
    assert!(state.users.is_empty());
    assert!(
        state
            .listeners
            .iter()
            .all(|listener| listener.open == 0 && listener.waiting.is_empty())
    );
    drop(state);
    assert!(limits.sources.iter().all(|shard| lock(shard).is_empty()));
}

#[test]
fn a_listener_is_full_at_its_limit_and_not_before() {
    let limits = Limits::new(&config(
        100,
        100,
        vec![listener("a", 2, None), listener("b", 2, None)],
    ));
    let mut permits: Vec<_> = (0..2).map(|_| limits.admit(0, source(1)).unwrap()).collect();
    for permit in &mut permits {
        permit.authenticated("app").unwrap();
    }
    assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Listener);
    assert!(limits.admit(1, source(1)).is_ok());
    permits.pop();
    assert!(limits.admit(0, source(1)).is_ok());
    drop(permits);
    everything_is_released(&limits);
}

#[test]
fn the_process_is_full_at_its_limit_over_all_listeners() {
    let limits = Limits::new(&config(
        2,
        2,
        vec![listener("a", 9, None), listener("b", 9, None)],
    ));
    let mut first = limits.admit(0, source(1)).unwrap();
    let mut second = limits.admit(1, source(2)).unwrap();
    first.authenticated("app").unwrap();
    second.authenticated("app").unwrap();
    assert_eq!(limits.admit(0, source(3)).unwrap_err(), Reject::Global);
    assert_eq!(limits.open_from(source(3)), 0);
    drop((first, second));
    everything_is_released(&limits);
}

#[test]
fn a_source_is_limited_per_listener_and_overall() {
    let mut config = config(100, 100, vec![listener("a", 9, Some(1)), listener("b", 9, None)]);
    config.server.max_connections_per_ip = Some(2);
    let limits = Limits::new(&config);
    let here = limits.admit(0, source(1)).unwrap();
    assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Source);
    let there = limits.admit(1, source(1)).unwrap();
    assert_eq!(limits.admit(1, source(1)).unwrap_err(), Reject::Source);
    let other = limits.admit(0, source(2)).unwrap();
    let unix: Vec<_> = (0..5)
        .map(|_| limits.admit(0, Source::Unix(None)).unwrap())
        .collect();
    drop((here, there, other, unix));
    everything_is_released(&limits);
}

#[test]
fn a_proxied_connection_is_counted_for_its_true_source() {
    let limits = Limits::new(&config(100, 100, vec![listener("a", 9, Some(1))]));
    let mut first = limits.admit(0, Source::Pending).unwrap();
    let mut second = limits.admit(0, Source::Pending).unwrap();
    first.set_source(source(1)).unwrap();
    assert_eq!(second.set_source(source(1)), Err(Reject::Source));
    assert_eq!(second.source(), Source::Pending);
    second.set_source(source(2)).unwrap();
    assert_eq!(limits.open_from(source(1)), 1);
    drop((first, second));
    everything_is_released(&limits);
}

#[test]
fn a_user_is_limited_and_may_log_in_again() {
    let mut config = config(100, 100, vec![listener("a", 9, None)]);
    config.users = vec![user("app", 1)];
    let limits = Limits::new(&config);
    let mut first = limits.admit(0, source(1)).unwrap();
    let mut second = limits.admit(0, source(1)).unwrap();
    first.authenticated("app").unwrap();
    first.authenticated("app").unwrap();
    assert_eq!(second.authenticated("app"), Err(Reject::User));
    assert_eq!(limits.unauthenticated(), 1);
    second.authenticated("other").unwrap();
    assert_eq!(second.authenticated("app"), Err(Reject::User));
    first.authenticated("other").unwrap();
    second.authenticated("app").unwrap();
    drop((first, second));
    everything_is_released(&limits);
}

#[test]
fn the_oldest_that_has_not_logged_in_gives_way() {
    let limits = Limits::new(&config(
        100,
        2,
        vec![listener("a", 100, None), listener("b", 100, None)],
    ));
    let mut quick = limits.admit(0, source(1)).unwrap();
    quick.authenticated("app").unwrap();
    let oldest = limits.admit(1, source(2)).unwrap();
    let mut younger = limits.admit(0, source(3)).unwrap();
    let newest = limits.admit(0, source(4)).unwrap();
    assert!(oldest.eviction().is_evicted());
    assert!(!younger.eviction().is_evicted() && !newest.eviction().is_evicted());
    younger.authenticated("app").unwrap();
    assert!(!quick.eviction().is_evicted());
    assert_eq!((limits.open(), limits.unauthenticated()), (3, 1));
    drop((quick, oldest, younger, newest));
    everything_is_released(&limits);
}

#[test]
fn an_evicted_connection_cannot_log_in_any_more() {
    let limits = Limits::new(&config(100, 1, vec![listener("a", 100, None)]));
    let mut slow = limits.admit(0, source(1)).unwrap();
    let eviction = slow.eviction();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let newer = runtime.block_on(async {
        let admit = async { limits.admit(0, source(2)).unwrap() };
        let ((), newer) = tokio::join!(eviction.evicted(), admit);
        eviction.evicted().await;
        newer
    });
    assert_eq!(slow.authenticated("app"), Err(Reject::Evicted));
    drop((slow, newer));
    everything_is_released(&limits);
}

#[test]
fn who_logs_out_is_a_stranger_again() {
    let mut config = config(100, 1, vec![listener("a", 9, None)]);
    config.users = vec![user("app", 1)];
    let limits = Limits::new(&config);
    let mut first = limits.admit(0, source(1)).unwrap();
    first.authenticated("app").unwrap();
    let waiting = limits.admit(0, source(1)).unwrap();
    first.logged_out();
    assert!(waiting.eviction().is_evicted(), "the budget holds for those too");
    assert_eq!((limits.open(), limits.unauthenticated()), (1, 1));
    drop(waiting);
    let mut second = limits.admit(0, source(1)).unwrap();
    assert!(first.eviction().is_evicted());
    second.authenticated("app").unwrap();
    drop((first, second));
    everything_is_released(&limits);
}

#[test]
fn a_silent_flood_on_a_full_process_cannot_keep_a_client_out() {
    let limits = Limits::new(&config(4, 2, vec![listener("a", 4, None)]));
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut permit = limits.admit(0, source(1)).unwrap();
        permit.authenticated("app").unwrap();
        served.push(permit);
    }
    let silent = limits.admit(0, source(66)).unwrap();
    let mut client = limits.admit(0, source(1)).unwrap();
    assert!(silent.eviction().is_evicted());
    client.authenticated("app").unwrap();
    assert_eq!(limits.admit(0, source(66)).unwrap_err(), Reject::Global);
    drop((served, silent, client));
    everything_is_released(&limits);
}

#[test]
fn connections_that_are_slow_to_close_are_bounded() {
    let limits = Limits::new(&config(100, 2, vec![listener("a", 100, None)]));
    let held: Vec<_> = (0..4).map(|_| limits.admit(0, source(1)).unwrap()).collect();
    assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Unauthenticated);
    assert_eq!(limits.open(), 2);
    drop(held);
    everything_is_released(&limits);
}

#[test]
fn a_reload_changes_limits_and_keeps_counts_and_numbers() {
    let limits = Limits::new(&config(
        100,
        100,
        vec![listener("a", 9, None), listener("b", 9, None)],
    ));
    let mut permits: Vec<_> = (0..3).map(|_| limits.admit(1, source(1)).unwrap()).collect();
    for permit in &mut permits {
        permit.authenticated("app").unwrap();
    }
    limits.reconfigure(&config(
        100,
        100,
        vec![listener("c", 9, None), listener("b", 3, None)],
    ));
    assert_eq!(limits.listener("b"), Some(1));
    assert_eq!(limits.listener("c"), Some(2));
    assert_eq!(limits.admit(1, source(1)).unwrap_err(), Reject::Listener);
    assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Listener);
    assert_eq!(limits.admit(7, source(1)).unwrap_err(), Reject::Listener);
    let other = limits.admit(2, source(1)).unwrap();
    drop((permits, other));
    everything_is_released(&limits);
}

proptest! {
    /// Whatever happens in whatever order: no limit is exceeded, and in the end everything is given back.
    #[test]
    fn counts_hold_for_any_sequence(steps in prop::collection::vec((0_u8..7, 0_u8..4, 0_usize..8), 1..300)) {
        let mut config = config(6, 3, vec![listener("a", 5, Some(3)), listener("b", 4, None)]);
        config.users = vec![user("app", 2)];
        let limits = Limits::new(&config);
        let mut permits = Vec::new();
        for (step, who, which) in steps {
            let any = if permits.is_empty() { 0 } else { which % permits.len() };
            match step {
                0..=2 => permits.extend(limits.admit(usize::from(who % 2), source(who)).ok()),
                3 if !permits.is_empty() => drop(permits.swap_remove(any)),
                4 if !permits.is_empty() => {
                    let name = if who % 2 == 0 { "app" } else { "other" };
                    let permit: &mut ConnectionPermit = &mut permits[any];
                    let evicted = permit.eviction().is_evicted();
                    prop_assert_eq!(evicted, permit.authenticated(name) == Err(Reject::Evicted));
                }
                5 if !permits.is_empty() => drop(permits[any].set_source(source(who))),
                6 if !permits.is_empty() => permits[any].logged_out(),
                _ => {}
            }
            let state = limits.state();
            prop_assert!(state.total <= 6 && state.unauthenticated <= 3);
            prop_assert_eq!(state.total + state.closing, permits.len());
            prop_assert!(state.users.get("app").copied().unwrap_or(0) <= 2);
            prop_assert!(state.listeners[0].open <= 5 && state.listeners[1].open <= 4);
        }
        drop(permits);
        everything_is_released(&limits);
    }
}
