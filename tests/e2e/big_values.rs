//! Values that are larger than any buffer (rules R-13, P-3, F-27, F-32): streamed both ways in bounded memory.
//!
//! 64 MiB by default; `KEYWARD_TEST_BIG_MB` (at most 512, Redis's own limit) for more.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::client::Value;
use super::support::eventually;
use super::support::keyward::resting_lanes;
use super::support::keyward::sharing;
use super::support::proc_status;
use super::support::request;
use super::support::resident_bytes;
use super::support::words;

/// The most that the proxy may grow while it carries a value of any size.
const GROWTH: u64 = 8 << 20;

fn size() -> usize {
    let megabytes = std::env::var("KEYWARD_TEST_BIG_MB").map_or(64, |text| text.parse().unwrap());
    usize::min(megabytes, 512) << 20
}

/// A block whose content says where it is, so that a shifted or repeated piece shows.
fn block(index: usize) -> Vec<u8> {
    let mut block: Vec<u8> = format!("{index:016}").into_bytes().repeat(BLOCK / 16);
    block.truncate(BLOCK);
    block
}

const BLOCK: usize = 64 * 1024;

fn send_value(client: &mut Client, key: &str, size: usize) {
    client.send(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${size}\r\n", key.len()).as_bytes());
    for index in 0..size / BLOCK {
        client.send(&block(index));
    }
    client.send(b"\r\n");
}

fn check_value(client: &mut Client, size: usize) {
    assert_eq!(client.line().unwrap(), format!("${size}").as_bytes());
    for index in 0..size / BLOCK {
        let piece = client.raw(BLOCK);
        assert!(piece == block(index), "block {index} of {}", size / BLOCK);
    }
    assert_eq!(client.raw(2), b"\r\n");
}

#[test]
fn a_big_value_passes_both_ways_in_bounded_memory() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call("PING"), "+PONG");
    let before = resident_bytes(keyward.pid());
    send_value(&mut client, "big", size());
    assert_eq!(client.reply(), "+OK");
    client.send(&words("GET big"));
    check_value(&mut client, size());
    assert_eq!(client.call("STRLEN big"), format!(":{}", size()));
    // The peak, not what is left at the end.
    let peak = proc_status(keyward.pid(), "VmHWM:") * 1024;
    let grown = peak.saturating_sub(before);
    assert!(
        grown < GROWTH,
        "the proxy grew by {grown} bytes for {} bytes",
        size()
    );
}

#[test]
fn a_big_value_passes_through_tls() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    let mut client = Client::tls(keyward.address(), &ca.client_config(None))
        .unwrap()
        .login("app", APP_PASSWORD);
    assert_eq!(client.call("PING"), "+PONG");
    let before = resident_bytes(keyward.pid());
    let size = 16 << 20;
    send_value(&mut client, "big", size);
    assert_eq!(client.reply(), "+OK");
    client.send(&words("GET big"));
    check_value(&mut client, size);
    let grown = (proc_status(keyward.pid(), "VmHWM:") * 1024).saturating_sub(before);
    assert!(grown < GROWTH, "the proxy grew by {grown} bytes for {size} bytes");
}

#[test]
fn big_arguments_keep_their_place_among_small_ones() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let value = block(7).repeat(40);
    let mut bytes = words("SET small 1");
    bytes.extend(request(&[b"SET", b"big", &value]));
    bytes.extend(words("FLUSHALL"));
    bytes.extend(request(&[b"MSET", b"x", &value, b"y", &value]));
    bytes.extend(words("GET small"));
    bytes.extend(words("STRLEN y"));
    let mut socket = client.socket();
    let writer = thread::spawn(move || socket.write_all(&bytes).unwrap());
    assert_eq!(client.replies(2), ["+OK", "+OK"]);
    assert!(client.reply().starts_with("-NOPERM "));
    assert_eq!(client.replies(3), ["+OK", "$1", &format!(":{}", value.len())]);
    writer.join().unwrap();
    client.send(&words("MGET x small big"));
    let expected = vec![
        Value::Bulk(value.clone()),
        Value::Bulk(b"1".to_vec()),
        Value::Bulk(value),
    ];
    assert_eq!(client.value(), Value::Array(expected));
}

#[test]
fn a_client_that_does_not_read_stops_its_own_traffic_only() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut slow = keyward.app();
    send_value(&mut slow, "big", 32 << 20);
    assert_eq!(slow.reply(), "+OK");
    let before = resident_bytes(keyward.pid());
    // Several times what any socket buffer holds, and nobody reads.
    for _ in 0..4 {
        slow.send(&words("GET big"));
    }
    if sharing() {
        // From here on nobody gets behind it on a shared connection.
        let big = [("reason", "big_replies")];
        eventually("its replies to be known as big", || {
            (keyward.metric("keyward_sessions_pinned", &big) == 1.0).then_some(())
        });
    }
    let mut other = keyward.app();
    for number in 1..=200 {
        assert_eq!(other.call("INCR n"), format!(":{number}"));
    }
    let grown = resident_bytes(keyward.pid()).saturating_sub(before);
    assert!(
        grown < GROWTH,
        "grew by {grown} bytes for a client that does not read"
    );
    for _ in 0..4 {
        check_value(&mut slow, 32 << 20);
    }
    assert_eq!(slow.call("PING"), "+PONG");
}

#[test]
fn twenty_clients_with_big_values_share_a_bounded_memory() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let address = keyward.address();
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let before = resident_bytes(keyward.pid());
    let each = 4 << 20;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                let mut client = Client::tcp(address).login("app", APP_PASSWORD);
                send_value(&mut client, &format!("big{number}"), each);
                assert_eq!(client.reply(), "+OK");
                client.send(&words(&format!("GET big{number}")));
                check_value(&mut client, each);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let grown = (proc_status(keyward.pid(), "VmHWM:") * 1024).saturating_sub(before);
    assert!(
        grown < 2 * GROWTH,
        "the proxy grew by {grown} bytes for 20 × {each} bytes each way"
    );
}

#[test]
fn a_client_that_never_reads_is_ended_after_the_write_stall_timeout() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .listener("write_stall_timeout = \"500ms\"")
        .start();
    let mut slow = keyward.app();
    send_value(&mut slow, "big", 32 << 20);
    assert_eq!(slow.reply(), "+OK");
    slow.send(&words("GET big"));
    let closed = || keyward.metric("keyward_connections_closed_total", &[("listener", "main")]) >= 1.0;
    eventually("the end of the stalled client", || closed().then_some(()));
    eventually("its connection to Redis to end", || {
        (redis.other_clients() <= resting_lanes()).then_some(())
    });
    // One that reads slowly, but does read, stays.
    let mut steady = keyward.app();
    steady.send(&words("GET big"));
    assert_eq!(steady.line().unwrap(), format!("${}", 32 << 20).as_bytes());
    for _ in 0..8 {
        steady.skip_bytes(4 << 20);
        thread::park_timeout(Duration::from_millis(150));
    }
    assert_eq!(steady.raw(2), b"\r\n");
    assert_eq!(steady.call("PING"), "+PONG");
}
