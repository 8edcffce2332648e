//! What client libraries do with a connection: pipelines, transactions, blocking, pub/sub, tracking, scripts, streams.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::Redis;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::eventually;
use super::support::keyward::resting_lanes;
use super::support::keyward::sharing;
use super::support::pipeline;
use super::support::request;
use super::support::words;

const ABORT: &str = "-EXECABORT Transaction discarded because of previous errors.";

/// Sends both the same words and compares the replies.
fn same(keyward: &mut Client, redis: &mut Client, lines: &[&str]) {
    for line in lines {
        let ours = keyward.call(line);
        let theirs = redis.call(line);
        assert_eq!(ours, theirs, "{line}");
    }
}

/// A message can only arrive when the subscription is known to Redis.
fn wait_subscribers(redis: &Redis, channel: &str, count: u32) {
    eventually("subscribers", || {
        (redis.client().call(&format!("PUBSUB NUMSUB {channel}")) == format!("*[${channel}, :{count}]"))
            .then_some(())
    });
}

#[test]
fn ten_thousand_pipelined_requests_keep_their_order() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let mut bytes = Vec::new();
    for number in 0..10_000 {
        match number % 5 {
            0 => bytes.extend(words("INCR n")),
            1 => bytes.extend(words(&format!("ECHO {number}"))),
            2 => bytes.extend(words("FLUSHALL")),
            3 => bytes.extend(words(&format!("SET k{number} {number}"))),
            _ => bytes.extend(words(&format!("GET k{}", number - 1))),
        }
    }
    let mut socket = client.socket();
    let writer = thread::spawn(move || std::io::Write::write_all(&mut socket, &bytes).unwrap());
    for number in 0..10_000 {
        let reply = client.reply();
        match number % 5 {
            0 => assert_eq!(reply, format!(":{}", number / 5 + 1)),
            1 => assert_eq!(reply, format!("${number}")),
            2 => assert!(reply.starts_with("-NOPERM "), "{reply}"),
            3 => assert_eq!(reply, "+OK"),
            _ => assert_eq!(reply, format!("${}", number - 1)),
        }
    }
    writer.join().unwrap();
}

#[test]
fn more_outstanding_requests_than_are_tracked_only_wait() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let mut bytes = words("BLPOP gate 0");
    for _ in 0..40_000 {
        bytes.extend(words("INCR n"));
    }
    let mut socket = client.socket();
    let writer = thread::spawn(move || std::io::Write::write_all(&mut socket, &bytes).unwrap());
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    assert_eq!(redis.client().call("RPUSH gate open"), ":1");
    assert_eq!(client.reply(), "*[$gate, $open]");
    for number in 1..=40_000 {
        assert_eq!(client.reply(), format!(":{number}"));
    }
    writer.join().unwrap();
}

#[test]
fn transactions_work_as_in_redis() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let (mut ours, mut theirs) = (keyward.app(), redis.client());
    assert_eq!(theirs.call("SELECT 1"), "+OK");
    same(
        &mut ours,
        &mut theirs,
        &[
            "MULTI",
            "SET a 1",
            "INCR a",
            "LPUSH a x",
            "GET a",
            "EXEC", // a runtime error is an element (S-2)
            "MULTI",
            "EXEC",
            "MULTI",
            "SET a 5",
            "DISCARD",
            "GET a",
            "EXEC",
            "DISCARD",
            "MULTI",
            "MULTI",
            "PING",
            "EXEC", // nested (S-3)
            "MULTI",
            "WATCH a",
            "PING",
            "EXEC",
            "MULTI",
            "GET",
            "PING",
            "EXEC", // wrong arity aborts
            "WATCH a b",
            "UNWATCH",
            "WATCH a",
            "MULTI",
            "GET a",
            "EXEC",
            "PING",
        ],
    );
}

#[test]
fn watch_sees_the_writes_of_others() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let (mut one, mut two) = (keyward.app(), keyward.app());
    assert_eq!(one.call("SET a 1"), "+OK");
    assert_eq!(one.call("WATCH a"), "+OK");
    assert_eq!(two.call("SET a 2"), "+OK");
    one.send(&pipeline(&["MULTI", "SET a 3", "EXEC", "GET a"]));
    assert_eq!(one.replies(4), ["+OK", "+QUEUED", "*-1", "$2"]);
    // The writes of one's own connection count as well, those of an unwatched key do not.
    assert_eq!(one.call("WATCH a"), "+OK");
    assert_eq!(two.call("SET b 2"), "+OK");
    one.send(&pipeline(&["MULTI", "SET a 3", "EXEC"]));
    assert_eq!(one.replies(3), ["+OK", "+QUEUED", "*[+OK]"]);
}

#[test]
fn a_transaction_left_open_reaches_nobody_else() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for _ in 0..20 {
        let mut gone = keyward.app();
        gone.send(&pipeline(&["SELECT 2", "WATCH a", "MULTI", "SET a 1"]));
        assert_eq!(gone.replies(4), ["+OK", "+OK", "+OK", "+QUEUED"]);
        drop(gone);
        let mut next = keyward.app();
        assert_eq!(next.call("GET a"), "$-1");
        assert_eq!(next.call("EXEC"), "-ERR EXEC without MULTI");
    }
}

#[test]
fn a_refusal_waits_behind_a_blocked_command() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&pipeline(&["BLPOP list 0", "FLUSHALL", "PING"]));
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    client.patience(Duration::from_millis(100));
    assert!(
        client.try_value().is_err(),
        "nothing may be answered before the BLPOP (S-13)"
    );
    client.patience(super::support::PATIENCE);
    assert_eq!(keyward.app().call("RPUSH list x"), ":1");
    assert_eq!(client.reply(), "*[$list, $x]");
    assert!(client.reply().starts_with("-NOPERM "));
    assert_eq!(client.reply(), "+PONG");
}

#[test]
fn blocking_commands_time_out_by_themselves() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let lines = [
        "BLPOP none 0.1",
        "BRPOP none 0.1",
        "BZPOPMIN none 0.1",
        "BLMPOP 0.1 1 none LEFT",
        "BLMOVE none other LEFT LEFT 0.1",
        "XREAD BLOCK 100 STREAMS none $",
        "WAIT 1 100",
        "PING",
    ];
    same(&mut keyward.app(), &mut redis.client(), &lines);
}

#[test]
fn the_element_for_a_client_that_has_gone_is_not_lost() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for abrupt in [false, true] {
        let mut gone = keyward.app();
        gone.send(&words("BLPOP list 0"));
        eventually("the blocked client", || {
            (redis.info("blocked_clients") == "1").then_some(())
        });
        if abrupt {
            gone.reset();
        } else {
            drop(gone);
        }
        eventually("its end in Redis", || {
            (redis.info("blocked_clients") == "0").then_some(())
        });
        let mut next = keyward.app();
        assert_eq!(next.call("RPUSH list x"), ":1");
        assert_eq!(next.call("LPOP list"), "$x", "S-14");
    }
}

#[test]
fn a_client_that_leaves_while_nothing_more_is_read_from_it_is_noticed() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    // Behind the first nothing is read on purpose, the second waits for all replies, and no more than so many
    // requests may wait.
    for behind in [
        pipeline(&["QUIT"]),
        pipeline(&["RESET"]),
        pipeline(&["PING"; 20_000]),
    ] {
        let mut gone = keyward.app();
        gone.send(&words("BLPOP list 0"));
        eventually("the blocked client", || {
            (redis.info("blocked_clients") == "1").then_some(())
        });
        // As much of it as is taken.
        gone.patience(Duration::from_millis(500));
        let _ = gone.try_send(&behind);
        drop(gone);
        eventually("its end in Redis", || {
            (redis.info("blocked_clients") == "0").then_some(())
        });
        let mut next = keyward.app();
        assert_eq!(next.call("RPUSH list x"), ":1");
        assert_eq!(next.call("LPOP list"), "$x", "S-14");
    }
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 0.0);
}

#[test]
fn a_half_closed_client_still_gets_its_replies() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&pipeline(&[
        "SET a 1", "FLUSHALL", "MULTI", "INCR a", "EXEC", "GET a",
    ]));
    client.finish_sending();
    assert_eq!(client.reply(), "+OK");
    assert!(client.reply().starts_with("-NOPERM "));
    assert_eq!(client.replies(4), ["+OK", "+QUEUED", "*[:2]", "$2"]);
    client.expect_closed();
    let mut client = keyward.app();
    let big = vec![b'x'; 3 << 20];
    client.send(&request(&[b"SET", b"big", &big]));
    client.send(&words("GET big"));
    client.finish_sending();
    assert_eq!(client.reply(), "+OK");
    assert_eq!(client.value(), super::support::client::Value::Bulk(big));
    client.expect_closed();
}

#[test]
fn abrupt_ends_leave_nothing_behind() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    assert_eq!(keyward.app().call("PING"), "+PONG");
    for round in 0..30 {
        let mut client = keyward.app();
        client.send(&pipeline(&["SET a 1", "GET a", "MULTI", "GET a"]));
        if round % 3 == 0 {
            client.reply();
        }
        if round % 2 == 0 {
            client.reset();
        }
    }
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 0.0);
    eventually("lanes to be given back", || {
        let list = redis.client().call("CLIENT LIST");
        let open_transactions = list.split("multi=").skip(1).any(|rest| !rest.starts_with("-1"));
        (redis.other_clients() <= resting_lanes() + 1 && !open_transactions).then_some(())
    });
    assert_eq!(keyward.app().call("GET a"), "$1");
}

#[test]
fn subscriptions_in_resp2() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 1"), "+OK");
    client.send(&words("SUBSCRIBE one two"));
    assert_eq!(
        client.replies(2),
        ["*[$subscribe, $one, :1]", "*[$subscribe, $two, :2]"]
    );
    assert_eq!(client.call("PSUBSCRIBE o* x?"), "*[$psubscribe, $o*, :3]");
    assert_eq!(client.reply(), "*[$psubscribe, $x?, :4]");
    assert_eq!(keyward.app().call("PUBLISH one hello"), ":2");
    let got: BTreeSet<String> = client.replies(2).into_iter().collect();
    let expected = [
        "*[$message, $one, $hello]".to_owned(),
        "*[$pmessage, $o*, $one, $hello]".to_owned(),
    ];
    assert_eq!(got, BTreeSet::from(expected));
    // What is possible in between, and what is not; the policy still holds.
    assert_eq!(client.call("PING"), "*[$pong, $]");
    assert_eq!(client.call("PING x"), "*[$pong, $x]");
    let refused = client.call("GET a");
    assert!(
        refused.starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"),
        "{refused}"
    );
    assert!(client.call("FLUSHALL").starts_with('-'));
    assert!(client.call("NOSUCH").starts_with('-'));
    client.send(&words("UNSUBSCRIBE"));
    let got: BTreeSet<String> = client.replies(2).into_iter().collect();
    assert!(
        got.iter().all(|reply| reply.starts_with("*[$unsubscribe, $")),
        "{got:?}"
    );
    client.send(&words("PUNSUBSCRIBE"));
    let last = client.replies(2);
    assert!(last[1].ends_with(", :0]"), "{last:?}");
    // Back to normal.
    assert_eq!(client.call("GET a"), "$1");
    assert_eq!(client.call("UNSUBSCRIBE"), "*[$unsubscribe, $-1, :0]");
    assert_eq!(
        client.call("UNSUBSCRIBE nothing"),
        "*[$unsubscribe, $nothing, :0]"
    );
    assert_eq!(client.call("PUNSUBSCRIBE"), "*[$punsubscribe, $-1, :0]");
    assert_eq!(client.call("GET a"), "$1");
    assert_eq!(client.call("PING"), "+PONG");
}

#[test]
fn subscribed_connections_can_quit_and_reset() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    assert_eq!(client.call("RESET"), "+RESET");
    assert_eq!(client.call("PING"), "-NOAUTH Authentication required.");
    wait_subscribers(&redis, "a", 0);
    let mut client = keyward.app();
    assert_eq!(client.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    assert_eq!(client.call("QUIT"), "+OK");
    client.expect_closed();
    wait_subscribers(&redis, "a", 0);
}

#[test]
fn subscribing_in_a_pipeline_keeps_every_reply_in_its_place() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&pipeline(&[
        "SET a 1",
        "FLUSHALL",
        "SUBSCRIBE x y",
        "FLUSHALL",
        "PING",
        "UNSUBSCRIBE x y",
        "GET a",
        "FLUSHALL",
        "PING",
    ]));
    let replies = client.replies(11);
    assert_eq!(replies[0], "+OK");
    assert!(replies[1].starts_with("-NOPERM "), "{replies:?}");
    assert_eq!(replies[2..4], ["*[$subscribe, $x, :1]", "*[$subscribe, $y, :2]"]);
    assert!(replies[4].starts_with('-'), "{replies:?}");
    assert_eq!(replies[5], "*[$pong, $]");
    assert_eq!(
        replies[6..8],
        ["*[$unsubscribe, $x, :1]", "*[$unsubscribe, $y, :0]"]
    );
    assert_eq!(replies[8], "$1");
    assert!(replies[9].starts_with("-NOPERM "), "{replies:?}");
    assert_eq!(replies[10], "+PONG");
}

#[test]
fn messages_come_between_the_replies_of_resp3() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app3();
    assert_eq!(client.call("SUBSCRIBE news"), ">[$subscribe, $news, :1]");
    let mut publisher = keyward.app();
    let publishing = thread::spawn(move || {
        for number in 0..500 {
            assert_eq!(publisher.call(&format!("PUBLISH news {number}")), ":1");
        }
    });
    let (mut replies, mut messages) = (0, 0);
    for _ in 0..20 {
        let lines: Vec<String> = (0..50)
            .map(|n| {
                if n % 10 == 9 {
                    "KEYS *".into()
                } else {
                    "INCR n".into()
                }
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        client.send(&pipeline(&lines));
        let target = replies + 50;
        while replies < target {
            let value = client.reply();
            if value.starts_with(">[") {
                assert_eq!(value, format!(">[$message, $news, ${messages}]"));
                messages += 1;
            } else if replies % 10 == 9 {
                assert!(value.starts_with("-NOPERM "), "{value}");
                replies += 1;
            } else {
                assert_eq!(value, format!(":{}", replies - replies / 10 + 1));
                replies += 1;
            }
        }
    }
    while messages < 500 {
        assert_eq!(client.reply(), format!(">[$message, $news, ${messages}]"));
        messages += 1;
    }
    publishing.join().unwrap();
    assert_eq!(
        client.call("GET n"),
        "$900",
        "RESP3 may run everything while subscribed"
    );
    client.send(&pipeline(&["UNSUBSCRIBE", "PING"]));
    assert_eq!(client.replies(2), [">[$unsubscribe, $news, :0]", "+PONG"]);
}

#[test]
fn shard_channels_work() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for (mut client, open) in [(keyward.app(), "*["), (keyward.app3(), ">[")] {
        assert_eq!(
            client.call("SSUBSCRIBE shard"),
            format!("{open}$ssubscribe, $shard, :1]")
        );
        assert_eq!(keyward.app().call("SPUBLISH shard hi"), ":1");
        assert_eq!(client.reply(), format!("{open}$smessage, $shard, $hi]"));
        assert_eq!(
            client.call("SUNSUBSCRIBE"),
            format!("{open}$sunsubscribe, $shard, :0]")
        );
        assert_eq!(client.call("PING"), "+PONG");
    }
}

#[test]
fn a_subscribed_client_that_reads_late_gets_everything() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call("SUBSCRIBE bulk"), "*[$subscribe, $bulk, :1]");
    let payload = "y".repeat(2_000);
    let mut publisher = keyward.app();
    for number in 0..1_000 {
        assert_eq!(
            publisher.call_args(&["PUBLISH", "bulk", &format!("{number}{payload}")]),
            ":1"
        );
    }
    for number in 0..1_000 {
        assert_eq!(client.reply(), format!("*[$message, $bulk, ${number}{payload}]"));
    }
}

#[test]
fn tracking_announces_changes_as_pushes() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app3();
    assert_eq!(client.call("CLIENT TRACKING ON"), "+OK");
    assert_eq!(client.call("SET a 1"), "+OK");
    assert_eq!(client.call("GET a"), "$1");
    assert_eq!(keyward.app().call("SET a 2"), "+OK");
    assert_eq!(client.reply(), ">[$invalidate, *[$a]]");
    // The client's own write: the push may come before or behind the reply (S-11), and is no reply itself.
    assert_eq!(client.call("GET a"), "$2");
    client.send(&pipeline(&["SET a 3", "ECHO end"]));
    let three = client.replies(3);
    let replies: Vec<&String> = three.iter().filter(|value| !value.starts_with(">[")).collect();
    assert_eq!(replies, ["+OK", "$end"], "{three:?}");
    assert!(three.contains(&">[$invalidate, *[$a]]".to_owned()), "{three:?}");
    assert_eq!(client.call("CLIENT TRACKING OFF"), "+OK");
    assert_eq!(client.call("PING"), "+PONG");
}

#[test]
fn scripts_and_functions_run() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(
        client.call_args(&["EVAL", "return {1,'two',{3}}", "0"]),
        "*[:1, $two, *[:3]]"
    );
    assert_eq!(
        client.call_args(&[
            "EVAL",
            "return redis.call('SET',KEYS[1],ARGV[1])",
            "1",
            "k",
            SAMPLE_VALUE
        ]),
        "+OK"
    );
    let sha = client.call_args(&["SCRIPT", "LOAD", "return ARGV[1]"]);
    assert_eq!(client.call_args(&["EVALSHA", &sha[1..], "0", "x"]), "$x");
    assert!(
        client
            .call("EVALSHA 0000000000000000000000000000000000000000 0")
            .starts_with("-NOSCRIPT ")
    );
    let library = "#!lua name=lib\nredis.register_function('f', function(keys, args) return args[1] end)";
    assert_eq!(client.call_args(&["FUNCTION", "LOAD", library]), "$lib");
    assert_eq!(client.call("FCALL f 0 y"), "$y");
    // Another session is not disturbed by frames that a script injects into its own stream (P-6).
    let mut other = keyward.app();
    client.send(&request(&[b"EVAL", b"#!lua flags=\"a\r\n+INJ\"\nreturn 1", b"0"]));
    client.send(&words("PING"));
    assert!(client.reply().starts_with('-'));
    assert_eq!(other.call("GET k"), format!("${SAMPLE_VALUE}"));
    drop(client);
    assert_eq!(keyward.app().call("PING"), "+PONG");
    assert_eq!(other.call("PING"), "+PONG");
}

#[test]
fn injected_frames_never_shift_the_replies_of_others() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).expect("desync").start();
    let mut other = keyward.app();
    for round in 0..50 {
        let mut evil = keyward.app();
        evil.send(&request(&[b"EVAL", b"#!lua flags=\"a\r\n+INJ\"\nreturn 1", b"0"]));
        evil.send(&pipeline(&["FLUSHALL", "ECHO mine"]));
        assert!(evil.reply().starts_with('-'));
        // What comes behind that is the attacker's own affair: an end or a shifted stream, but never ours.
        let _ = evil.try_value();
        assert_eq!(other.call(&format!("ECHO {round}")), format!("${round}"));
        assert_eq!(keyward.app().call("ECHO fresh"), "$fresh");
    }
}

#[test]
fn deeply_nested_replies_pass_or_end_the_connection() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).expect("desync").start();
    let mut client = keyward.app();
    let script = "local t={1} for i=1,tonumber(ARGV[1]) do t={t} end return t";
    client.send(&request(&[b"EVAL", script.as_bytes(), b"0", b"7000"]));
    let mut depth = 0;
    loop {
        match client.line() {
            Ok(line) if line == b"*1" => depth += 1,
            Ok(line) => {
                assert_eq!(String::from_utf8_lossy(&line), ":1");
                assert_eq!(depth, 7_001);
                assert_eq!(client.call("PING"), "+PONG");
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(keyward.app().call("PING"), "+PONG", "the process is well");
}

#[test]
fn scan_walks_the_whole_keyspace() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let names: Vec<String> = (0..2_000).map(|n| format!("key:{n}")).collect();
    let mut bytes = Vec::new();
    for name in &names {
        bytes.extend(request(&[b"SET", name.as_bytes(), b"x"]));
    }
    client.send(&bytes);
    client.replies(names.len());
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = client.call(&format!("SCAN {cursor} MATCH key:* COUNT 100"));
        let (next, keys) = reply[3..].split_once(", *[").unwrap();
        seen.extend(
            keys.trim_end_matches(']')
                .split(", ")
                .filter(|key| !key.is_empty())
                .map(|key| key[1..].to_owned()),
        );
        cursor = next.to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, names.into_iter().collect());
}

#[test]
fn streams_and_consumer_groups_work() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let (mut reader, mut writer) = (keyward.app(), keyward.app());
    reader.send(&words("XREAD BLOCK 0 STREAMS events $"));
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    assert_eq!(writer.call("XADD events 1-1 field value"), "$1-1");
    assert_eq!(reader.reply(), "*[*[$events, *[*[$1-1, *[$field, $value]]]]]");
    assert_eq!(writer.call("XGROUP CREATE events workers 0"), "+OK");
    let read = "XREADGROUP GROUP workers w1 COUNT 10 BLOCK 100 STREAMS events >";
    assert_eq!(reader.call(read), "*[*[$events, *[*[$1-1, *[$field, $value]]]]]");
    assert_eq!(reader.call("XACK events workers 1-1"), ":1");
    assert_eq!(reader.call(read), "*-1");
    let mut three = keyward.app3();
    assert_eq!(
        three.call("XREAD STREAMS events 0"),
        "%{$events: *[*[$1-1, *[$field, $value]]]}"
    );
}

#[test]
fn resp3_types_pass_unchanged() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut root = keyward.connect();
    let hello = root.call_args(&["HELLO", "3", "AUTH", "root", super::support::ROOT_PASSWORD]);
    assert!(hello.starts_with("%{"), "{hello}");
    let mut direct = redis.client();
    assert!(direct.call("HELLO 3").starts_with("%{"));
    let kinds = [
        "string", "integer", "double", "null", "array", "set", "map", "attrib", "bignum", "verbatim", "true",
        "false",
    ];
    for kind in kinds {
        let line = format!("DEBUG PROTOCOL {kind}");
        assert_eq!(root.call(&line), direct.call(&line), "{kind}");
    }
    // A push and the reply, in whichever order Redis sends them.
    root.send(&pipeline(&["DEBUG PROTOCOL push", "ECHO end"]));
    let mut frames = root.replies(3);
    assert_eq!(frames.pop().unwrap(), "$end");
    assert!(frames.iter().any(|frame| frame.starts_with(">[")), "{frames:?}");
    assert_eq!(root.call("HGETALL none"), "%{}");
    assert_eq!(root.call("SMEMBERS none"), "~[]");
    assert_eq!(root.call("ZADD z 1.5 m"), ":1");
    assert_eq!(root.call("ZSCORE z m"), ",1.5");
}

#[test]
fn monitor_works_where_it_is_allowed() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut watcher = keyward.root();
    assert_eq!(watcher.call("MONITOR"), "+OK");
    assert_eq!(keyward.app().call("SET seen 1"), "+OK");
    let line = eventually("the command in the monitor", || {
        let line = watcher.reply();
        line.contains("\"SET\" \"seen\"").then_some(line)
    });
    assert!(line.starts_with('+'), "{line}");
    drop(watcher);
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn connection_names_belong_to_the_session() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let (mut one, mut two) = (keyward.app(), keyward.app());
    assert_eq!(one.call("CLIENT SETNAME first"), "+OK");
    assert_eq!(one.call("CLIENT GETNAME"), "$first");
    let name = two.call("CLIENT GETNAME");
    assert!(name == "$-1" || name == "$", "{name}");
    assert!(one.call("CLIENT ID").starts_with(':'));
    assert!(one.call("CLIENT SETNAME a\tb").starts_with("-ERR "));
    assert_eq!(one.call("CLIENT GETNAME"), "$first");
    // 7.0 does not know SETINFO yet: libraries send it anyway and take the error; it must stay in step.
    one.send(&pipeline(&[
        "CLIENT SETINFO LIB-NAME redis-py",
        "CLIENT SETINFO LIB-VER 8",
        "PING",
    ]));
    assert_eq!(one.replies(3)[2], "+PONG");
}

#[test]
fn the_database_belongs_to_the_session() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let (mut one, mut two) = (keyward.app(), keyward.app());
    assert_eq!(one.call("SELECT 5"), "+OK");
    assert_eq!(one.call("SET a five"), "+OK");
    assert_eq!(two.call("GET a"), "$-1");
    for line in ["SELECT 16", "SELECT -1", "SELECT 01", "SELECT x", "SELECT"] {
        assert_eq!(one.call(line), redis.client().call(line), "{line}");
    }
    assert_eq!(one.call("GET a"), "$five");
    drop(one);
    assert_eq!(
        keyward.app().call("GET a"),
        "$-1",
        "a new session begins in the configured database"
    );
}

#[test]
fn the_database_of_the_url_is_selected() {
    let redis = Redis::start_tcp();
    let keyward = Setup::to_url(&format!("redis://127.0.0.1:{}/7", redis.port())).start();
    assert_eq!(keyward.app().call("SET a seven"), "+OK");
    let mut direct = redis.client();
    assert_eq!(direct.call("SELECT 7"), "+OK");
    assert_eq!(direct.call("GET a"), "$seven");
    let mut client = keyward.app();
    assert_eq!(client.call("SELECT 0"), "+OK");
    assert_eq!(client.call("GET a"), "$-1");
    let url = keyward.wait_event("redis_connection_initialized")["url"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(url, format!("127.0.0.1:{}/7", redis.port()));
}

#[test]
fn client_reply_works_where_it_is_allowed() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.root();
    client.send(&pipeline(&["CLIENT REPLY SKIP", "SET a 1", "GET a"]));
    assert_eq!(client.reply(), "$1");
    client.send(&pipeline(&[
        "CLIENT REPLY OFF",
        "SET a 2",
        "NOSUCH",
        "GET a",
        "CLIENT REPLY ON",
        "GET a",
    ]));
    assert_eq!(client.replies(2), ["+OK", "$2"]);
    // Inside a transaction it would make an array shorter than it says (S-12): refused, whoever asks.
    client.send(&pipeline(&["MULTI", "CLIENT REPLY OFF", "EXEC", "PING"]));
    let replies = client.replies(4);
    assert!(replies[1].starts_with('-'), "{replies:?}");
    assert_eq!(replies[2..], [ABORT, "+PONG"]);
}

#[test]
fn reset_and_quit_speak_or_are_silent_as_in_redis() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for (mode, silent) in [("OFF", false), ("SKIP", true)] {
        let mode = format!("CLIENT REPLY {mode}");
        let lines = [mode.as_str(), "RESET", "CLIENT GETNAME", "NOSUCH"];
        let (mut through, mut past) = (keyward.root(), redis.client());
        through.send(&pipeline(&lines));
        past.send(&pipeline(&lines));
        let count = if silent { 2 } else { 3 };
        let replies = through.replies(count);
        assert_eq!(replies, past.replies(count), "{mode}");
        assert_eq!(replies[0] == "+RESET", !silent, "{mode}: {replies:?}");
        // Nothing more comes behind it on either side.
        for client in [&mut through, &mut past] {
            assert!(client.call("RESET").starts_with("+RESET"), "{mode}");
        }
        let mut through = keyward.root();
        through.send(&pipeline(&[mode.as_str(), "QUIT"]));
        through.expect_closed();
    }
}

#[test]
fn a_subscriber_of_resp2_cannot_turn_replies_off() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for word in ["OFF", "SKIP", "ON"] {
        let reply = format!("CLIENT REPLY {word}");
        // One after the other, and in one packet with the subscription that decides about it.
        let lines = ["SUBSCRIBE c", &reply, "PING", "UNSUBSCRIBE c", "PING"];
        same(&mut keyward.root(), &mut redis.client(), &lines);
        let (mut through, mut past) = (keyward.root(), redis.client());
        through.send(&pipeline(&lines));
        past.send(&pipeline(&lines));
        assert_eq!(through.replies(5), past.replies(5), "{word}");
    }
    // Nor log in, until the last subscription has ended.
    let lines = [
        "SUBSCRIBE c",
        "UNSUBSCRIBE",
        "HELLO 2 SETNAME me",
        "CLIENT GETNAME",
    ];
    let mut client = keyward.app();
    client.send(&pipeline(&lines[..1]));
    client.reply();
    client.send(&pipeline(&lines[1..]));
    let replies = client.replies(3);
    assert!(replies[1].starts_with("*[$server, "), "{replies:?}");
    assert_eq!(replies[2], "$me");
    // Whoever gets pushes may.
    let mut client = keyward.root();
    assert!(client.call("HELLO 3").starts_with("%{"));
    client.send(&pipeline(&["SUBSCRIBE c", "CLIENT REPLY SKIP", "PING", "ECHO x"]));
    assert_eq!(client.replies(2), [">[$subscribe, $c, :1]", "$x"]);
}

#[test]
fn a_half_closed_client_gets_what_it_has_asked_for_before() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&pipeline(&["MULTI", "BLPOP none 0", "SET a 1", "EXEC"]));
    client.finish_sending();
    assert_eq!(
        client.replies(4),
        ["+OK", "+QUEUED", "+QUEUED", "*[*-1, +OK]"],
        "nothing blocks in it"
    );
    // A subscriber too is answered what it has asked for before it closed.
    let mut client = keyward.app();
    client.send(&pipeline(&["SUBSCRIBE c", "GET a", "RESET", "PING"]));
    client.finish_sending();
    assert_eq!(client.reply(), "*[$subscribe, $c, :1]");
    assert!(client.reply().starts_with("-ERR Can't execute 'get'"));
    assert_eq!(client.replies(2), ["+RESET", "-NOAUTH Authentication required."]);
    client.expect_closed();
}

#[test]
fn a_client_without_replies_may_leave_at_once() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut watcher = redis.client();
    for (number, last) in [None, Some("QUIT"), Some("RESET")].into_iter().enumerate() {
        let mut client = keyward.root();
        let big = vec![b'x'; 300_000];
        let count = format!("count{number}");
        client.send(&words("CLIENT REPLY OFF"));
        for _ in 0..20 {
            client.send(&request(&[b"SET", b"big", &big]));
            client.send(&words(&format!("INCR {count}")));
        }
        if let Some(last) = last {
            client.send(&words(last));
        }
        client.finish_sending();
        client.read_to_end();
        eventually("everything that was sent", || {
            (watcher.call(&format!("GET {count}")) == "$20").then_some(())
        });
    }
}

#[test]
fn a_refusal_aborts_the_transaction_of_a_client_without_replies_too() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .user("quiet", APP_PASSWORD, "acl = \"safe +client|reply\"")
        .start();
    let mut client = keyward.connect().login("quiet", APP_PASSWORD);
    for refused in ["FLUSHALL", "NOSUCH"] {
        client.send(&pipeline(&[
            "CLIENT REPLY OFF",
            "MULTI",
            "SET a 1",
            refused,
            "EXEC",
            "CLIENT REPLY ON",
            "GET a",
        ]));
        assert_eq!(client.replies(2), ["+OK", "$-1"], "behind {refused}");
    }
}

#[test]
fn errors_of_redis_pass_in_band() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call("SET a x"), "+OK");
    let wrongtype = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(client.call("LPUSH a 1"), wrongtype);
    assert_eq!(
        client.call("INCR a"),
        "-ERR value is not an integer or out of range"
    );
    assert_eq!(redis.client().call("CONFIG SET maxmemory 1"), "+OK");
    assert!(client.call("SET b y").starts_with("-OOM "));
    assert_eq!(redis.client().call("CONFIG SET maxmemory 0"), "+OK");
    keyward.wait_metric("keyward_error_replies_total", &[("err", "OOM")], 1.0);
    keyward.wait_metric("keyward_error_replies_total", &[("err", "WRONGTYPE")], 1.0);
}

#[test]
fn sessions_of_many_clients_do_not_mix() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let address = keyward.address();
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            thread::spawn(move || {
                let mut client = Client::tcp(address).login("app", APP_PASSWORD);
                for round in 0..200 {
                    let nonce = format!("{worker}-{round}");
                    let key = format!("k{worker}");
                    client.send(&pipeline(&[
                        &format!("SET {key} {nonce}"),
                        "KEYS *",
                        &format!("GET {key}"),
                        "MULTI",
                        &format!("GET {key}"),
                        "EXEC",
                        &format!("ECHO {nonce}"),
                    ]));
                    let replies = client.replies(7);
                    assert_eq!(replies[0], "+OK");
                    assert!(replies[1].starts_with("-NOPERM "), "{replies:?}");
                    assert_eq!(replies[2], format!("${nonce}"));
                    assert_eq!(replies[5], format!("*[${nonce}]"));
                    assert_eq!(replies[6], format!("${nonce}"));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

/// Sessions that change threads under load: with this limit a worker is busy as soon as it does anything at all.
#[test]
fn sessions_move_between_workers_and_lose_nothing() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("workers = 3")
        .server("worker_busy_percent = 1")
        .start();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let mut client = if number % 2 == 0 {
                keyward.app()
            } else {
                keyward.app3()
            };
            let stop = std::sync::Arc::clone(&stop);
            thread::spawn(move || {
                let mut count = 0_u64;
                assert_eq!(client.call(&format!("CLIENT SETNAME name-{number}")), "+OK");
                assert_eq!(client.call(&format!("SELECT {}", number % 3)), "+OK");
                while count == 0 || !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    count += 1;
                    client.send(&pipeline(&[
                        &format!("INCR counter-{number}"),
                        &format!("ECHO {number}-{count}"),
                    ]));
                    let expected = [format!(":{count}"), format!("${number}-{count}")];
                    assert_eq!(client.replies(2), expected);
                    if count.is_multiple_of(50) {
                        client.send(&pipeline(&["MULTI", &format!("GET counter-{number}"), "EXEC"]));
                        let expected = ["+OK".to_owned(), "+QUEUED".to_owned(), format!("*[${count}]")];
                        assert_eq!(client.replies(3), expected);
                    }
                }
                assert_eq!(client.call("CLIENT GETNAME"), format!("$name-{number}"));
                count
            })
        })
        .collect();
    if sharing() {
        eventually("sessions to have moved", || {
            (keyward.metric("keyward_sessions_moved_total", &[]) >= 8.0).then_some(())
        });
        assert!(keyward.metric("keyward_workers_active", &[]) > 1.0);
    } else {
        keyward.wait_metric("keyward_workers_active", &[], 3.0);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
}

/// WAIT is about the writes of its connection; they have travelled on another one when connections are shared.
#[test]
fn wait_is_about_the_writes_of_the_session() {
    let redis = Redis::start_tcp();
    let replica = Redis::with_password()
        .line(&format!("replicaof 127.0.0.1 {}", redis.port()))
        .line(&format!("masterauth {REDIS_PASSWORD}"))
        .line("repl-diskless-sync-delay 0")
        .start();
    eventually("the replica", || {
        (replica.info("master_link_status") == "up").then_some(())
    });
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    // A connection of the session's own is there already, and has seen no write.
    assert_eq!(client.call("BLPOP nothing 0.01"), "*-1");
    eventually("the replica to follow", || {
        assert_eq!(client.call("SET before 1"), "+OK");
        (client.call("WAIT 1 1000") == ":1").then_some(())
    });
    replica.signal("STOP");
    assert_eq!(client.call("SET after 1"), "+OK");
    assert_eq!(client.call("WAIT 1 50"), ":0");
    replica.signal("CONT");
    assert_eq!(client.call("WAIT 1 30000"), ":1");
    client.send(&pipeline(&["SET again 1", "WAIT 1 30000", "GET again"]));
    assert_eq!(client.replies(3), ["+OK", ":1", "$1"]);
}
