//! SIGTERM: nobody loses a reply, nobody holds the process up (rule F-34).

use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use super::support::Client;
use super::support::Keyward;
use super::support::PATIENCE;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::words;

/// A client that waits in a BLPOP which Redis has got.
fn blocked(keyward: &Keyward, redis: &Redis) -> Client {
    let mut client = keyward.app();
    client.send(&words("BLPOP queue 0"));
    eventually("Redis holds the request", || {
        (redis.info("blocked_clients") != "0").then_some(())
    });
    client
}

#[test]
fn idle_sessions_are_closed_at_once() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let mut used = keyward.app();
    assert_eq!(used.call("SET a 1"), "+OK");
    let mut stranger = keyward.connect();
    assert!(stranger.call("PING").starts_with("-NOAUTH "));
    let mut subscribed_before = keyward.app();
    assert_eq!(
        subscribed_before.call("SUBSCRIBE news"),
        "*[$subscribe, $news, :1]"
    );
    assert!(
        subscribed_before
            .call("UNSUBSCRIBE news")
            .starts_with("*[$unsubscribe")
    );
    keyward.signal("TERM");
    used.expect_closed();
    stranger.expect_closed();
    subscribed_before.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
    assert_eq!(keyward.events("draining").len(), 1);
    assert_eq!(keyward.events("stopped").len(), 1);
    assert!(keyward.events("drain_cut_short").is_empty());
}

#[test]
fn an_outstanding_reply_is_delivered() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let address = keyward.address();
    let mut client = blocked(&keyward, &redis);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    let (status, body) = keyward.page("/readyz");
    assert_eq!(status, 503, "{body}");
    assert_eq!(keyward.page("/livez").0, 200);
    keyward.wait_metric("keyward_draining", &[], 1.0);
    eventually("no new connections", || match TcpStream::connect(address) {
        Err(_) => Some(()),
        // Taken by the kernel just before the socket was closed.
        Ok(_) => None,
    });
    assert_eq!(redis.client().call("RPUSH queue item"), ":1");
    assert_eq!(client.reply(), "*[$queue, $item]");
    client.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
    assert!(keyward.events("drain_cut_short").is_empty());
}

#[test]
fn who_waits_for_ever_is_cut_off_at_the_deadline() {
    let redis = Redis::start();
    let limit = Duration::from_millis(800);
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"800ms\"").start();
    let mut client = blocked(&keyward, &redis);
    let began = Instant::now();
    keyward.signal("TERM");
    client.expect_closed();
    assert!(began.elapsed() >= limit, "after {:?} already", began.elapsed());
    assert_eq!(keyward.wait_exit().code(), Some(0));
    assert_eq!(keyward.events("drain_cut_short")[0]["sessions"], 1);
    eventually("Redis is rid of the request", || {
        (redis.info("blocked_clients") == "0").then_some(())
    });
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let mut client = blocked(&keyward, &redis);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    keyward.signal("TERM");
    client.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
}

#[test]
fn a_pipeline_under_way_is_answered_whole() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let mut client = blocked(&keyward, &redis);
    // Behind the blocked request and known to Keyward: Redis has not answered any of it.
    for n in 0..200 {
        client.send(&words(&format!("SET k{n} {n}")));
    }
    eventually("all commands are read", || {
        (keyward.find_metric("keyward_commands_total", &[("cmd", "set")]) == Some(200.0)).then_some(())
    });
    keyward.signal("TERM");
    keyward.wait_event("draining");
    assert_eq!(redis.client().call("RPUSH queue item"), ":1");
    assert_eq!(client.reply(), "*[$queue, $item]");
    for n in 0..200 {
        assert_eq!(client.reply(), "+OK", "reply {n}");
    }
    client.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
}

#[test]
fn without_sessions_the_end_takes_no_time() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let began = Instant::now();
    keyward.signal("INT");
    assert_eq!(keyward.wait_exit().code(), Some(0));
    assert!(began.elapsed() < PATIENCE);
}
