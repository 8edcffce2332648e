//! How many connections to Redis there are: never more than allowed, kept ready, handed on, opened at a measured pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::open_descriptors;
use super::support::pipeline;
use super::support::words;

const FULL: &str = "-LOADING keyward: all upstream connections are in use (max_connections reached)";

const MODES: [&str; 2] = ["dedicated", "shared"];

fn setup(redis: &Redis, mode: &str) -> Setup {
    Setup::new(redis).env("KEYWARD_CONNECTIONS", mode)
}

fn upstream_metric(keyward: &Keyward, name: &str) -> f64 {
    keyward.metric(&format!("keyward_upstream_{name}"), &[("upstream", "main")])
}

fn wait_upstream(keyward: &Keyward, name: &str, value: f64) {
    keyward.wait_metric(
        &format!("keyward_upstream_{name}"),
        &[("upstream", "main")],
        value,
    );
}

fn lanes(keyward: &Keyward, kind: &str) -> f64 {
    keyward.metric("keyward_upstream_lanes_open", &[("kind", kind)])
}

/// Asks Redis again and again how many connections it has, and remembers the most. The health check's, which is not
/// counted by the bound, and those of the test are among them.
struct Watch {
    stop: Arc<AtomicBool>,
    most: thread::JoinHandle<(usize, usize)>,
}

impl Watch {
    fn start(redis: &Redis) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut client) = (Arc::clone(&stop), redis.client());
        let most = thread::spawn(move || {
            let (mut most, mut looks) = (0, 0);
            loop {
                let list = client.call("CLIENT LIST");
                most = most.max(list.lines().filter(|line| line.contains("addr=")).count());
                looks += 1;
                if stopped.load(Ordering::Acquire) {
                    return (most, looks);
                }
            }
        });
        Self { stop, most }
    }

    /// Whether there were never more than `max`, besides this watch's own, the health check's and so many of the test.
    fn assert_at_most(self, max: usize, of_the_test: usize) {
        self.stop.store(true, Ordering::Release);
        let (most, looks) = self.most.join().unwrap();
        assert!(
            most <= max + of_the_test + 2,
            "{most} connections, seen {looks} times"
        );
    }
}

#[test]
fn clients_above_the_bound_wait_and_are_served_in_order() {
    for mode in MODES {
        let redis = Redis::start();
        let keyward = setup(&redis, mode)
            .server("workers = 2")
            .upstream("max_connections = 3")
            .upstream("wait_timeout = \"1m\"")
            .start();
        assert_eq!(upstream_metric(&keyward, "connections_max"), 3.0);
        let mut pusher = redis.client();
        let watch = Watch::start(&redis);
        let mut clients: Vec<Client> = (0..10).map(|_| keyward.app()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&words("BLPOP gate 0"));
            // One after the other, so that the order is known.
            if number < 3 {
                let blocked = (number + 1).to_string();
                eventually("the blocked client", || {
                    (redis.info("blocked_clients") == blocked).then_some(())
                });
            } else {
                wait_upstream(&keyward, "waiting", (number - 2) as f64);
            }
        }
        assert_eq!(redis.info("blocked_clients"), "3", "{mode}");
        let mut served = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            pusher.call(&format!("RPUSH gate {number}"));
            assert_eq!(client.reply(), format!("*[$gate, ${number}]"), "{mode}");
            if mode == "shared" {
                // It needs no connection of its own any more; in dedicated mode it has to leave.
                served.push(client);
            } else {
                drop(client);
            }
            let waiting = 7_usize.saturating_sub(number + 1);
            wait_upstream(&keyward, "waiting", waiting as f64);
            // The next has to be blocked in Redis before it is its turn.
            let blocked = (9 - number).min(3).to_string();
            eventually("the next one", || {
                (redis.info("blocked_clients") == blocked).then_some(())
            });
        }
        assert_eq!(upstream_metric(&keyward, "waits_total"), 7.0);
        assert_eq!(upstream_metric(&keyward, "wait_timeouts_total"), 0.0);
        // `redis.info` connects as well.
        watch.assert_at_most(3, 2);
    }
}

#[test]
fn saying_hello_needs_no_connection_of_its_own() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared")
        .server("workers = 1")
        .upstream("max_connections = 2")
        .start();
    // One connection that those who speak RESP3 share, and one that is taken.
    let mut first = keyward.app3();
    assert_eq!(first.call("HSET hash field value"), ":1");
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP gate 0"));
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    for _ in 0..10 {
        let mut client = keyward.app3();
        assert_eq!(client.call("HGETALL hash"), "%{$field: $value}");
        assert!(client.call("HELLO").contains("$proto: :3"));
    }
    assert_eq!(upstream_metric(&keyward, "waits_total"), 0.0);
    assert_eq!(lanes(&keyward, "shared"), 1.0);
}

#[test]
fn a_connection_that_is_given_back_speaks_what_it_is_taken_for() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared").server("workers = 1").start();
    let mut one = keyward.app();
    let mut other = keyward.app();
    assert_eq!(one.call("HSET hash field value"), ":1");
    // All in one piece, so that the connection of the transaction may still be held when HELLO is read.
    for (hello, hash, transaction) in [
        ("HELLO 3", "%{$field: $value}", "*[*[$field, $value]]"),
        ("HELLO 2", "*[$field, $value]", "*[*[$field, $value]]"),
    ] {
        let requests = ["MULTI", "PING", "EXEC", hello, "HGETALL hash"];
        one.send(&pipeline(&requests));
        let replies = one.replies(5);
        assert_eq!(replies[4], hash, "{replies:?}");
        other.send(&pipeline(&["MULTI", "HGETALL hash", "EXEC"]));
        let replies = other.replies(3);
        assert_eq!(replies[2], transaction, "{replies:?}");
    }
}

#[test]
fn a_client_that_waits_in_vain_is_told_what_is_in_the_way() {
    for mode in MODES {
        let redis = Redis::start();
        let keyward = setup(&redis, mode)
            .upstream("max_connections = 1")
            .upstream("wait_timeout = \"200ms\"")
            .expect("upstream_connections_exhausted")
            .start();
        let mut blocked = keyward.app();
        blocked.send(&words("BLPOP gate 0"));
        eventually("the blocked client", || {
            (redis.info("blocked_clients") == "1").then_some(())
        });
        for _ in 0..3 {
            let mut late = keyward.app();
            late.send(&pipeline(&["GET a", "GET b"]));
            assert_eq!(late.reply(), FULL);
            late.expect_closed();
        }
        assert_eq!(upstream_metric(&keyward, "wait_timeouts_total"), 3.0);
        let said = keyward.events("upstream_connections_exhausted");
        assert_eq!(said.len(), 1, "said once, then every 30 s");
        let error = said[0]["error"].as_str().unwrap();
        assert!(error.contains("all 1 connections"), "{error}");
        assert!(error.contains("max_connections"), "{error}");
        assert_eq!(keyward.page("/readyz").0, 200, "Redis itself is well");
        drop(blocked);
        assert_eq!(keyward.app().call("GET a"), "$-1");
    }
}

#[test]
fn a_client_that_gives_up_waiting_leaves_the_queue() {
    let redis = Redis::start();
    let keyward = setup(&redis, "dedicated")
        .upstream("max_connections = 1")
        .upstream("wait_timeout = \"1m\"")
        .start();
    let mut first = keyward.app();
    assert_eq!(first.call("SET a 1"), "+OK");
    let mut gone = keyward.app();
    gone.send(&words("SET a 2"));
    wait_upstream(&keyward, "waiting", 1.0);
    let mut last = keyward.app();
    last.send(&words("GET a"));
    wait_upstream(&keyward, "waiting", 2.0);
    gone.reset();
    wait_upstream(&keyward, "waiting", 1.0);
    drop(first);
    assert_eq!(last.reply(), "$1", "nobody has sent the request of who left");
}

#[test]
fn idle_connections_are_not_kept_from_those_who_wait_elsewhere() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared")
        .server("workers = 4")
        .upstream("max_connections = 1")
        .upstream("wait_timeout = \"1m\"")
        .start();
    let watch = Watch::start(&redis);
    let mut clients: Vec<Client> = (0..8).map(|_| keyward.app()).collect();
    for round in 0..5 {
        // One at a time: each time it is idle on one worker and wanted on the next.
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&pipeline(&["MULTI", "INCR a", "EXEC"]));
            let count = round * 16 + number + 1;
            assert_eq!(client.replies(3), ["+OK", "+QUEUED", &format!("*[:{count}]")]);
        }
        // And all at once.
        for client in &mut clients {
            client.send(&pipeline(&["MULTI", "INCR a", "EXEC"]));
        }
        for client in &mut clients {
            assert_eq!(client.replies(2), ["+OK", "+QUEUED"]);
            assert!(client.reply().starts_with("*[:"));
        }
    }
    // A shared connection waits like all others.
    assert_eq!(clients[0].call("GET a"), "$80");
    assert_eq!(upstream_metric(&keyward, "wait_timeouts_total"), 0.0);
    watch.assert_at_most(1, 0);
}

#[test]
fn shared_connections_that_nobody_uses_make_room() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared")
        .server("workers = 2")
        .upstream("max_connections = 1")
        .upstream("wait_timeout = \"1m\"")
        .start();
    for _ in 0..3 {
        let mut app = keyward.app();
        assert_eq!(app.call("INCR a"), app_count(&redis));
        let mut root = keyward.root();
        root.send(&words("GET a"));
        wait_upstream(&keyward, "waiting", 1.0);
        // While its session is there, the connection is in use.
        drop(app);
        assert_eq!(root.reply().replacen('$', ":", 1), app_count(&redis));
        drop(root);
        let mut own = keyward.app();
        // Its own place on a shared one is not in its way either.
        assert_eq!(own.call("EXISTS a"), ":1");
        assert_eq!(own.call("MULTI"), "+OK");
        assert_eq!(own.call("EXEC"), "*[]");
        assert_eq!(own.call("EXISTS a"), ":1");
    }
    assert_eq!(upstream_metric(&keyward, "wait_timeouts_total"), 0.0);
}

/// What `a` is, as INCR shows it.
fn app_count(redis: &Redis) -> String {
    redis.client().call("GET a").replacen('$', ":", 1)
}

#[test]
fn whole_transactions_use_few_connections_and_give_them_back() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared").server("workers = 2").start();
    let address = keyward.address();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let app = || Client::tcp(address).login("app", super::support::APP_PASSWORD);
                let mut clients: Vec<Client> = (0..10).map(|_| app()).collect();
                for _ in 0..5 {
                    for client in &mut clients {
                        client.send(&pipeline(&["MULTI", "INCR a", "EXEC"]));
                        assert_eq!(client.replies(2), ["+OK", "+QUEUED"]);
                        assert!(client.reply().starts_with("*[:"));
                    }
                }
                clients
            })
        })
        .collect();
    let clients: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(redis.client().call("GET a"), "$200");
    // Four at a time on each of two workers, and the health check's.
    let connects = upstream_metric(&keyward, "connects_total");
    assert!(connects <= 9.0, "{connects}");
    eventually("all to be given back", || {
        (lanes(&keyward, "own") == 0.0).then_some(())
    });
    assert!(lanes(&keyward, "idle") >= 1.0);
    assert!(lanes(&keyward, "idle") <= 8.0);
    drop(clients);
}

#[test]
fn idle_connections_are_bounded_and_closed_when_nobody_wants_them() {
    let redis = Redis::start();
    let keyward = setup(&redis, "shared")
        .server("workers = 1")
        .upstream("pool_max = 2")
        .upstream("pool_idle_time = \"1s\"")
        .start();
    let mut clients: Vec<Client> = (0..5).map(|_| keyward.app()).collect();
    for client in &mut clients {
        assert_eq!(client.call("MULTI"), "+OK");
    }
    assert_eq!(lanes(&keyward, "own"), 5.0);
    for client in &mut clients {
        assert_eq!(client.call("EXEC"), "*[]");
    }
    eventually("all but two to be closed", || {
        (lanes(&keyward, "own") == 0.0 && redis.other_clients() <= 3).then_some(())
    });
    eventually("those two", || (lanes(&keyward, "idle") == 0.0).then_some(()));
    assert_eq!(clients[0].call("MULTI"), "+OK");
}

#[test]
fn connections_are_kept_ready_and_replaced_when_redis_closes_them() {
    for mode in MODES {
        let mut redis = Redis::start();
        let keyward = setup(&redis, mode)
            .server("workers = 2")
            .upstream("pool_min = 3")
            .upstream("pool_idle_time = \"1s\"")
            .expect("redis_connection_failed")
            .start();
        let ready = || {
            eventually("six to be ready", || {
                (lanes(&keyward, "idle") == 6.0).then_some(())
            });
        };
        ready();
        let before = upstream_metric(&keyward, "connects_total");
        let mut client = keyward.app();
        assert_eq!(client.call("SET a 1"), "+OK");
        // It took one of them, so that one is opened in its place.
        ready();
        assert_eq!(upstream_metric(&keyward, "connects_total"), before + 1.0);
        let killed = redis.client().call("CLIENT KILL TYPE normal SKIPME yes");
        assert!(killed.starts_with(':'), "{killed}");
        let closed = || keyward.metric("keyward_upstream_closed_total", &[("when", "idle")]);
        eventually("all to be noticed", || (closed() >= 6.0).then_some(()));
        ready();
        assert_eq!(client.call("GET a"), "$1");
        redis.kill();
        eventually("none to be ready", || {
            (lanes(&keyward, "idle") == 0.0).then_some(())
        });
        redis.restart();
        ready();
        assert_eq!(client.call("GET a"), "$-1");
    }
}

#[test]
fn nothing_is_kept_ready_while_redis_refuses_the_credential() {
    let redis = Redis::start();
    let setup = setup(&redis, "dedicated")
        .server("workers = 2")
        .server("watch_interval = \"100ms\"")
        .upstream("pool_min = 4")
        .expect("redis_connection_failed");
    setup.write("main.redis", &format!("{}\n", super::support::WRONG_PASSWORD));
    let keyward = setup.start();
    let refused = || keyward.metric("keyward_upstream_auth_failures_total", &[("reason", "wrongpass")]);
    // The first ones are under way together; later only the health check asks, after 1 s and 2 s more.
    eventually("the first refusals", || (refused() >= 1.0).then_some(()));
    let first = refused();
    assert!(first <= 9.0, "{first}");
    eventually("the health check's", || (refused() >= first + 1.0).then_some(()));
    assert!(refused() <= 11.0, "{}", refused());
    assert_eq!(lanes(&keyward, "idle"), 0.0);
    keyward
        .setup()
        .write("main.redis", &format!("{}\n", super::support::REDIS_PASSWORD));
    eventually("eight to be ready", || {
        (lanes(&keyward, "idle") == 8.0).then_some(())
    });
}

#[test]
fn after_a_restart_of_redis_all_sessions_go_on_within_the_bound() {
    let mut redis = Redis::start();
    let keyward = setup(&redis, "dedicated")
        .upstream("max_connections = 200")
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    let mut clients: Vec<Client> = (0..200).map(|_| keyward.app()).collect();
    for round in 0..2 {
        for client in &mut clients {
            assert_eq!(client.call("PING"), "+PONG");
        }
        redis.kill();
        eventually("the loss of all", || {
            (lanes(&keyward, "own") == 0.0).then_some(())
        });
        redis.restart();
        keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 1.0);
        let watch = Watch::start(&redis);
        for client in &mut clients {
            client.send(&words("INCR n"));
        }
        let mut replies: Vec<String> = clients.iter_mut().map(Client::reply).collect();
        replies.sort_by_key(|reply| reply[1..].parse::<u32>().unwrap_or_default());
        let expected: Vec<String> = (1..=200).map(|number| format!(":{number}")).collect();
        assert_eq!(replies, expected, "round {round}");
        // One each, the watch's, and perhaps already the health check's.
        let others = redis.other_clients();
        assert!((201..=202).contains(&others), "{others}");
        watch.assert_at_most(200, 1);
    }
}

#[test]
fn a_redis_that_hangs_is_not_overrun() {
    let redis = Redis::start();
    let keyward = setup(&redis, "dedicated")
        .upstream("auth_timeout = \"1m\"")
        .upstream("connect_timeout = \"1m\"")
        .expect("redis_connection_failed")
        .start();
    keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 1.0);
    let mut clients: Vec<Client> = (0..200).map(|_| keyward.app()).collect();
    let files = open_descriptors(keyward.pid());
    redis.signal("STOP");
    for client in &mut clients {
        client.send(&words("INCR n"));
    }
    eventually("as many as are allowed at once", || {
        (upstream_metric(&keyward, "connects_total") >= 64.0).then_some(())
    });
    // The health check's may have been renewed, and scraping needs one.
    let more = open_descriptors(keyward.pid()) - files;
    assert!(more <= 64 + 4, "{more}");
    assert!(upstream_metric(&keyward, "connects_total") <= 64.0 + 3.0);
    redis.signal("CONT");
    for client in &mut clients {
        let reply = client.reply();
        assert!(reply.starts_with(':'), "{reply}");
    }
    assert_eq!(redis.client().call("GET n"), "$200");
}

#[test]
fn one_timeout_is_everybodys_when_redis_hangs() {
    let redis = Redis::start();
    let keyward = setup(&redis, "dedicated")
        .upstream("auth_timeout = \"1s\"")
        .expect("redis_connection_failed")
        .start();
    let mut clients: Vec<Client> = (0..200).map(|_| keyward.app()).collect();
    redis.signal("STOP");
    for client in &mut clients {
        client.send(&words("INCR n"));
    }
    for client in &mut clients {
        assert_eq!(client.reply(), "-LOADING keyward: upstream is not reachable");
        client.expect_closed();
    }
    let attempts = upstream_metric(&keyward, "connects_total");
    assert!(
        attempts < 130.0,
        "not one attempt each, one after the other: {attempts}"
    );
    redis.signal("CONT");
    eventually("Redis to be back", || {
        let reply = keyward.app().call("INCR n");
        reply.starts_with(':').then_some(())
    });
}

/// Numbers of the connections of Keyward in Redis.
fn connection_ids(redis: &Redis) -> Vec<String> {
    let list = redis.client().call("CLIENT LIST");
    let ids = list
        .lines()
        .filter(|line| line.contains("addr=") && !line.contains("cmd=client"))
        .filter_map(|line| line.split(' ').find(|word| word.contains("id=")));
    let mut ids: Vec<String> = ids.map(|id| id.trim_start_matches('$').to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_reload_keeps_the_connections_of_an_upstream_that_stays() {
    for mode in MODES {
        let redis = Redis::start();
        let mut keyward = setup(&redis, mode).start();
        let mut client = keyward.app();
        assert_eq!(client.call("SET a 1"), "+OK");
        let mut open = keyward.app();
        assert_eq!(open.call("MULTI"), "+OK");
        keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 1.0);
        let lanes = || {
            let own = |kind| keyward.metric("keyward_upstream_lanes_open", &[("kind", kind)]);
            own("own") + own("shared")
        };
        assert_eq!(lanes(), 2.0);
        let before = connection_ids(&redis);
        // First nothing of it changes, then only bounds and timeouts do.
        keyward.reload();
        keyward.change(|setup| {
            setup
                .upstream("max_connections = 17")
                .upstream("auth_timeout = \"3s\"")
        });
        keyward.reload();
        assert_eq!(upstream_metric(&keyward, "connections_max"), 17.0);
        assert_eq!(client.call("GET a"), "$1");
        assert_eq!(open.call("EXEC"), "*[]");
        let after = connection_ids(&redis);
        let kept = before.iter().filter(|id| after.contains(id)).count();
        // All but the health check's, which is new with every reload.
        assert!(kept + 1 >= before.len(), "{mode}: {before:?} {after:?}");
    }
}

#[test]
fn connections_of_an_upstream_that_was_replaced_end() {
    for mode in MODES {
        let (old, new) = (Redis::start(), Redis::start());
        let keyward = setup(&old, mode)
            .server("workers = 2")
            .server("drain_timeout = \"2s\"")
            .upstream("pool_min = 1")
            .start();
        let mut plain = keyward.app();
        assert_eq!(plain.call("SELECT 3"), "+OK");
        assert_eq!(plain.call("SET a old"), "+OK");
        let mut open = keyward.app();
        assert_eq!(open.call("MULTI"), "+OK");
        assert_eq!(open.call("SET b 1"), "+QUEUED");
        let mut blocked = keyward.app();
        blocked.send(&words("BLPOP gate 0"));
        eventually("the blocked client", || {
            (old.info("blocked_clients") == "1").then_some(())
        });
        let mut subscribed = keyward.app();
        assert_eq!(subscribed.call("SUBSCRIBE c"), "*[$subscribe, $c, :1]");
        let text = keyward.setup().text();
        keyward.overwrite_config(&text.replace(&old.unix_url(), &new.unix_url()));
        keyward.reload();
        // Without state it goes on at once, with its database.
        eventually("the move", || (plain.call("GET a") == "$-1").then_some(()));
        assert_eq!(plain.call("SET a new"), "+OK");
        let mut there = new.client();
        assert_eq!(there.call("SELECT 3"), "+OK");
        assert_eq!(there.call("GET a"), "$new");
        // What was begun is ended there.
        assert_eq!(open.call("EXEC"), "*[+OK]");
        assert_eq!(open.call("GET b"), "$-1");
        assert_eq!(old.client().call("RPUSH gate x"), ":1");
        assert_eq!(blocked.reply(), "*[$gate, $x]");
        assert_eq!(blocked.call("LLEN gate"), ":0");
        // What would last for ever has an end.
        subscribed.expect_closed();
        eventually("the end of all on the old one", || {
            (old.other_clients() == 0).then_some(())
        });
        eventually("the new ones to be ready", || {
            (lanes(&keyward, "idle") >= 2.0).then_some(())
        });
    }
}

#[test]
fn an_element_is_never_given_to_a_client_that_has_left() {
    let behind = [
        vec![],
        pipeline(&["PING"; 3]),
        // Waits until nothing is outstanding, so nothing behind it is read.
        pipeline(&["HELLO 3", "PING"]),
        // More than is read ahead.
        words(&format!("SET big {}", "x".repeat(300_000))),
    ];
    for mode in MODES {
        let redis = Redis::start();
        let keyward = setup(&redis, mode).start();
        for (number, behind) in behind.iter().enumerate() {
            for abrupt in [false, true] {
                let mut gone = keyward.app();
                gone.send(&words("BLPOP list 0"));
                eventually("the blocked client", || {
                    (redis.info("blocked_clients") == "1").then_some(())
                });
                gone.patience(Duration::from_millis(200));
                // As much of it as is taken.
                let _ = gone.try_send(behind);
                if abrupt {
                    gone.reset();
                } else {
                    drop(gone);
                }
                eventually("its end in Redis", || {
                    (redis.info("blocked_clients") == "0").then_some(())
                });
                let mut next = redis.client();
                assert_eq!(next.call("RPUSH list x"), ":1", "{mode} {number} {abrupt}");
                assert_eq!(next.call("LPOP list"), "$x", "{mode} {number} {abrupt}");
                assert_eq!(next.call("EXISTS big"), ":0", "what was behind has not run");
            }
        }
        eventually("its connections to be closed", || {
            (lanes(&keyward, "own") == 0.0).then_some(())
        });
    }
}

#[test]
fn bounds_that_make_no_sense_are_refused_with_their_place() {
    let redis = Redis::start();
    for (lines, expected) in [
        (
            &["pool_min = 3", "pool_max = 2"][..],
            "`pool_min` is more than `pool_max`",
        ),
        (&["max_connections = 0"], "`max_connections` is out of range"),
        (&["wait_timeout = \"1ms\""], "`wait_timeout` is out of range"),
        (&["pool_idle_time = \"0s\""], "`pool_idle_time` is out of range"),
        (&["pool_max = 1_000_000"], "`pool_max` is out of range"),
    ] {
        let setup = lines
            .iter()
            .fold(Setup::new(&redis), |setup, line| setup.upstream(line));
        let (status, said) = setup.refuse();
        assert_ne!(status, 0);
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(said.contains("keyward.toml:"), "{said}");
    }
    let few = Setup::new(&redis)
        .server("workers = 1")
        .server("max_connections = 100")
        .upstream("pool_min = 20")
        .open_files(270)
        .expect("KW0304")
        .start();
    let warning = few.wait_event_where("configuration_warning", |line| {
        line["problem"]
            .as_str()
            .is_some_and(|text| text.contains("`pool_min`"))
    });
    assert_eq!(warning["level"], "WARN");
    drop(few);
    // A larger minimum than the usual maximum needs no second key.
    let keyward = setup(&redis, "dedicated")
        .server("workers = 1")
        .upstream("pool_min = 20")
        .start();
    eventually("all to be ready", || {
        (lanes(&keyward, "idle") == 20.0).then_some(())
    });
}
