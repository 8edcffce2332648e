//! Ten rotations under traffic: no request fails and every reply is the right one.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use super::super::support::Authority;
use super::super::support::Client;
use super::super::support::Keyward;
use super::super::support::REDIS_PASSWORD;
use super::super::support::Redis;
use super::super::support::eventually;
use super::is_rotated;
use super::lines;
use super::redis_takes;
use super::rotate;
use super::setup;

const ROTATIONS: usize = 10;

/// A client that stays: simple requests and transactions, by turns.
fn stay(mut client: Client, number: usize, end: &AtomicBool, count: &AtomicU64) {
    let mut round = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let (key, value) = (format!("stay:{number}"), format!("{number}.{round}"));
        assert_eq!(client.call(&format!("SET {key} {value}")), "+OK");
        assert_eq!(client.call(&format!("GET {key}")), format!("${value}"));
        // In pieces, so that it takes a connection of its own: with `pool_max = 0` a new one each time.
        assert_eq!(client.call("MULTI"), "+OK");
        assert_eq!(client.call(&format!("GET {key}")), "+QUEUED");
        assert_eq!(client.call("EXEC"), format!("*[${value}]"));
        round += 1;
        count.fetch_add(5, Ordering::Relaxed);
    }
}

/// Clients that come and go.
fn come_and_go(connect: &dyn Fn() -> Client, number: usize, end: &AtomicBool, count: &AtomicU64) {
    let mut round = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let mut client = connect();
        let (key, value) = (format!("come:{number}"), format!("{number}.{round}"));
        assert_eq!(client.call(&format!("SET {key} {value}")), "+OK");
        assert_eq!(client.call(&format!("GET {key}")), format!("${value}"));
        round += 1;
        count.fetch_add(3, Ordering::Relaxed);
    }
}

fn rotate_under_traffic(keyward: &Keyward, redis: &Redis, connect: &(dyn Fn() -> Client + Sync)) -> u64 {
    let (end, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // Whoever fails ends the rest, and the scope fails with it.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (end, count) = (&end, &count);
        for number in 0..4 {
            scope.spawn(move || {
                let _end = End(end);
                stay(connect(), number, end, count);
            });
        }
        for number in 0..2 {
            scope.spawn(move || {
                let _end = End(end);
                come_and_go(connect, number, end, count);
            });
        }
        let _end = End(end);
        let mut old = REDIS_PASSWORD.to_owned();
        for round in 0..ROTATIONS {
            let before = count.load(Ordering::Relaxed);
            rotate(keyward, &["upstream"]).is(0, &["done: "]);
            eventually("requests after the rotation", || {
                (end.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            assert!(
                !end.load(Ordering::Relaxed),
                "a request failed in rotation {round}"
            );
            let new = lines(keyward)[0].clone();
            assert_ne!(new, old);
            old = new;
        }
    });
    is_rotated(keyward, redis, "default", REDIS_PASSWORD);
    assert_eq!(
        keyward.metric("keyward_upstream_connect_failures_total", &[]),
        0.0
    );
    assert_eq!(keyward.metric("keyward_upstream_auth_failures_total", &[]), 0.0);
    count.load(Ordering::Relaxed)
}

#[test]
fn ten_rotations_under_traffic_lose_no_request() {
    for mode in ["shared", "dedicated"] {
        let redis = Redis::start();
        let keyward = setup(&redis)
            .env("KEYWARD_CONNECTIONS", mode)
            .upstream("pool_max = 0")
            .start();
        let opened = redis.info("total_connections_received").parse::<u64>().unwrap();
        let count = rotate_under_traffic(&keyward, &redis, &|| keyward.app());
        let opened = keyward.metric("keyward_upstream_connects_total", &[]) as u64 - opened.min(1);
        eprintln!(
            "{mode}: {count} requests, 0 failed, {ROTATIONS} rotations, {opened} connections to Redis opened meanwhile"
        );
        assert!(opened as usize > ROTATIONS);
    }
}

#[test]
fn ten_rotations_under_traffic_with_tls_on_both_sides() {
    let authority = Authority::new("ca");
    let identity = authority.server("localhost");
    let redis = Redis::with_password().tls(&identity, &authority.file()).start();
    let keyward_user = format!(">{REDIS_PASSWORD}");
    let rules = [
        "ACL",
        "SETUSER",
        "keyward",
        "on",
        &keyward_user,
        "~*",
        "&*",
        "+@all",
        "-@admin",
    ];
    assert_eq!(redis.client().call_args(&rules), "+OK");
    let url = format!("rediss://keyward@localhost:{}/0", redis.tls_port());
    let keyward = super::Setup::to_url(&url)
        .server("watch_interval = \"100ms\"")
        .upstream(&format!("ca_file = {:?}", authority.file()))
        .tls(&identity, "")
        .start();
    let operator = keyward.setup().write("operator", &format!("{REDIS_PASSWORD}\n"));
    let operator = operator.display().to_string();
    let args = ["upstream", "--as", "default", "--as-password-file", &operator];
    let config = authority.client_config(None);
    let address = keyward.address();
    let connect = || {
        Client::tls(address, &config)
            .unwrap()
            .login("app", super::super::support::APP_PASSWORD)
    };
    let (end, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (end, count, connect) = (&end, &count, &connect);
        for number in 0..2 {
            scope.spawn(move || stay(connect(), number, end, count));
        }
        scope.spawn(move || come_and_go(connect, 9, end, count));
        for round in 0..ROTATIONS {
            let before = count.load(Ordering::Relaxed);
            rotate(&keyward, &args).is(0, &["done: "]);
            eventually("requests after the rotation", || {
                (count.load(Ordering::Relaxed) > before + 20).then_some(())
            });
            eprintln!(
                "rotation {round}: {} requests so far",
                count.load(Ordering::Relaxed)
            );
        }
        end.store(true, Ordering::Relaxed);
    });
    let count = count.load(Ordering::Relaxed);
    eprintln!("TLS: {count} requests, 0 failed, {ROTATIONS} rotations");
    assert!(count > 100, "there was traffic");
    assert!(
        redis_takes(&redis, "keyward", &lines(&keyward)[0])
            && !redis_takes(&redis, "keyward", REDIS_PASSWORD)
    );
    assert!(
        redis_takes(&redis, "default", REDIS_PASSWORD),
        "whose login it was keeps its own"
    );
}
