//! How the process ends (rules F-34, F-35): nothing outstanding is lost, nobody waits for ever.

use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::pipeline;
use super::support::words;

fn wait_blocked(redis: &Redis, count: u32) {
    eventually("blocked clients", || {
        (redis.info("blocked_clients") == count.to_string()).then_some(())
    });
}

#[test]
fn idle_sessions_end_at_once_and_the_process_with_them() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut idle: Vec<Client> = (0..5).map(|_| keyward.app()).collect();
    for client in &mut idle {
        assert_eq!(client.call("PING"), "+PONG");
    }
    let mut stranger = keyward.connect();
    assert!(stranger.call("PING").starts_with("-NOAUTH "));
    let began = Instant::now();
    keyward.stop();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for client in &mut idle {
        client.expect_closed();
    }
    stranger.expect_closed();
    assert!(keyward.events("stopped").len() == 1);
}

#[test]
fn outstanding_replies_are_delivered_and_new_clients_refused() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let address = keyward.address();
    let mut waiting = keyward.app();
    waiting.send(&pipeline(&["INCR n", "BLPOP list 0", "INCR n"]));
    wait_blocked(&redis, 1);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    eventually("the listener to be closed", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    let (status, _) = keyward.page("/readyz");
    assert_eq!(status, 503, "no more traffic, please");
    assert_eq!(keyward.page("/livez").0, 200);
    assert_eq!(keyward.metric("keyward_draining", &[]), 1.0);
    assert_eq!(redis.client().call("RPUSH list x"), ":1");
    assert_eq!(waiting.replies(3), [":1", "*[$list, $x]", ":2"]);
    waiting.expect_closed();
    let status = keyward.wait_exit();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn sessions_that_wait_are_ended_after_the_drain_timeout() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1s\"").start();
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP list 0"));
    wait_blocked(&redis, 1);
    let mut listening = keyward.app();
    assert_eq!(listening.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    let began = Instant::now();
    keyward.signal("TERM");
    keyward.wait_event("draining");
    assert_eq!(redis.client().call("PUBLISH a last"), ":1");
    assert_eq!(listening.reply(), "*[$message, $a, $last]");
    let status = keyward.wait_exit();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    blocked.expect_closed();
    listening.expect_closed();
    wait_blocked(&redis, 0);
}

#[test]
fn a_transaction_that_is_open_may_be_finished() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&pipeline(&["MULTI", "SET a 1"]));
    assert_eq!(client.replies(2), ["+OK", "+QUEUED"]);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    assert_eq!(client.call("EXEC"), "*[+OK]");
    client.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
    assert_eq!(redis.client().call("GET a"), "$1");
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"10m\"").start();
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP list 0"));
    wait_blocked(&redis, 1);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    keyward.signal("TERM");
    let status = keyward.wait_exit();
    assert_eq!(status.code(), Some(0));
    blocked.expect_closed();
}

#[test]
fn a_reload_while_draining_changes_nothing() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP list 0"));
    wait_blocked(&redis, 1);
    keyward.signal("TERM");
    keyward.wait_event("draining");
    keyward.signal("HUP");
    keyward.signal("HUP");
    assert_eq!(redis.client().call("RPUSH list x"), ":1");
    assert_eq!(blocked.reply(), "*[$list, $x]");
    blocked.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
}

#[test]
fn a_killed_process_can_be_replaced_at_once_on_the_same_addresses() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    let socket = setup.dir().join("keyward.sock");
    let local = format!("unix:{}", socket.display());
    let keyward = setup.add_listener("local", "main", &local).start();
    let port = keyward.address().port();
    let mut clients: Vec<Client> = (0..5).map(|_| keyward.app()).collect();
    let setup = keyward.kill();
    for client in &mut clients {
        client.expect_closed();
    }
    // Connections of the killed one are in TIME_WAIT, and its socket file lies about.
    let keyward = setup.listener(&format!("address = \"127.0.0.1:{port}\"")).start();
    assert_eq!(keyward.address().port(), port);
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let local = Client::unix(&socket).login("app", super::support::APP_PASSWORD);
    assert_eq!({ local }.call("PING"), "+PONG");
}

#[test]
fn an_address_in_use_is_named() {
    let redis = Redis::start();
    let first = Keyward::start(&redis);
    let address = first.address();
    let (code, text) = Setup::new(&redis)
        .listener(&format!("address = \"{address}\""))
        .refuse();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&address.to_string()), "{text}");
    // So is a socket that another process listens on.
    let setup = Setup::new(&redis);
    let socket = setup.dir().join("keyward.sock");
    let local = format!("unix:{}", socket.display());
    let _second = setup.add_listener("local", "main", &local).start();
    let (code, text) = Setup::new(&redis).add_listener("local", "main", &local).refuse();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("keyward.sock"), "{text}");
}

#[test]
fn a_pipeline_that_has_been_read_is_answered_whole() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    let mut client = keyward.app();
    client.send(&words("BLPOP list 0"));
    wait_blocked(&redis, 1);
    // Behind the blocked request and known to Keyward: Redis has not answered any of it.
    for number in 0..200 {
        client.send(&words(&format!("SET k{number} {number}")));
    }
    eventually("all commands to be read", || {
        (keyward.find_metric("keyward_commands_total", &[("cmd", "set")]) == Some(200.0)).then_some(())
    });
    keyward.signal("TERM");
    keyward.wait_event("draining");
    assert_eq!(redis.client().call("RPUSH list item"), ":1");
    assert_eq!(client.reply(), "*[$list, $item]");
    assert!(client.replies(200).iter().all(|reply| reply == "+OK"));
    client.expect_closed();
    assert_eq!(keyward.wait_exit().code(), Some(0));
}

#[test]
fn clients_that_have_said_nothing_hold_nobody_up() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .tls(&ca.server("server"), "")
        .login("timeout = \"10m\"")
        .server("drain_timeout = \"1h\"")
        .add_listener("proxied", "main", "127.0.0.1:0")
        .listener_line("proxied", "proxy_protocol_from = [\"127.0.0.0/8\"]")
        .start();
    let mut silent = [keyward.connect(), Client::tcp(keyward.address_of("proxied"))];
    keyward.wait_metric("keyward_connections_open", &[], 2.0);
    keyward.signal("TERM");
    assert_eq!(keyward.wait_exit().code(), Some(0));
    for client in &mut silent {
        client.expect_closed();
    }
}

#[test]
fn without_sessions_the_end_takes_no_time_and_sigint_will_do() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("drain_timeout = \"1h\"").start();
    keyward.signal("INT");
    assert_eq!(keyward.wait_exit().code(), Some(0));
}

/// `Type=notify` and `WatchdogSec=`: systemd waits for READY=1, hears that the process lives, and is told of the end.
#[test]
fn the_service_manager_is_told_of_readiness_life_and_end() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    let path = setup.dir().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let mut keyward = setup
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "2000000")
        .start();
    assert!(next().starts_with("READY=1\n"));
    assert_eq!(next().trim_end(), "WATCHDOG=1");
    assert_eq!(next().trim_end(), "WATCHDOG=1");
    keyward.stop();
    loop {
        let told = next();
        if told.starts_with("STOPPING=1\n") {
            break;
        }
        assert_eq!(told.trim_end(), "WATCHDOG=1");
    }
}
