//! A model of what clients may see, against hundreds of random sessions through a real Keyward and a real Redis.
//!
//! Each session knows the one right reply to everything it sends, because its keys are its own, and checks every reply and
//! every message by a nonce. Meanwhile clients leave in the middle of anything, read slowly, make scripts inject frames, and
//! somebody kills Keyward's connections inside Redis. No session may ever get a wrong, doubled, reordered or foreign reply;
//! what was acknowledged must have been done; and who had nothing in flight must not notice.
//!
//! The same test is a longer proof with larger numbers: `KEYWARD_MODEL_SESSIONS` (for each of the four tests) and
//! `KEYWARD_MODEL_STEPS`; `KEYWARD_MODEL_SEED` repeats a run as far as the scheduler of the machine lets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "test code: a failed assumption is a failed test"
)]

mod connection;
mod leaving;
mod listening;
mod peer;
mod random;
mod replies;
mod session;
mod steps;
mod store;
#[path = "../e2e/support/mod.rs"]
mod support;
mod verdict;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use random::Random;
use session::Session;
use support::APP_PASSWORD;
use support::APP_PASSWORD_2;
use support::DEFAULT_PASSWORD;
use support::Keyward;
use support::ROOT_PASSWORD;
use support::Redis;
use support::Setup;
use support::eventually;

/// What the sessions of one test have in common.
pub(crate) struct World {
    address: SocketAddr,
    /// Redis itself, past Keyward.
    redis: SocketAddr,
    seed: u64,
    /// Names and passwords.
    users: &'static [(&'static str, &'static str)],
    /// Connections between Keyward and Redis are being killed.
    chaos: AtomicBool,
    /// Connections to Redis that have run a script, whose, and since when that is known.
    scripted: Mutex<HashMap<i64, (usize, Instant)>>,
    tally: Tally,
}

/// What has been done and seen.
#[derive(Default)]
struct Tally {
    sessions: Count,
    commands: Count,
    replies: Count,
    messages: Count,
    /// Lanes that were killed.
    kills: Count,
    /// Clients that left in the middle.
    closes: Count,
    /// Sessions that ended because of a kill.
    gone: Count,
    injections: Count,
    /// Sessions that ended because of their own injection.
    poisoned: Count,
    slow_reads: Count,
    /// The longest that a batch took, slow readers' own apart.
    slowest: Mutex<Duration>,
}

#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    fn slowest(&self, taken: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = taken.max(*slowest);
    }
}

impl World {
    /// A session works on this connection to Redis: it must not have run another's script before the session asked.
    fn knows(&self, id: i64, owner: usize, scripted: bool, asked: Instant) -> Result<(), String> {
        let mut known = self.scripted.lock().unwrap();
        if scripted {
            known.entry(id).or_insert_with(|| (owner, Instant::now()));
        }
        match known.get(&id) {
            Some((first, since)) if *first != owner && *since < asked => Err(format!(
                "works on connection {id}, which ran a script of session {first}"
            )),
            _ => Ok(()),
        }
    }

    fn has_chaos(&self) -> bool {
        self.chaos.load(Ordering::Relaxed)
    }
}

#[test]
fn every_reply_is_right_on_lanes_that_one_worker_shares() {
    prove("shared", 1);
}

#[test]
fn every_reply_is_right_on_lanes_that_two_workers_share() {
    prove("shared", 2);
}

#[test]
fn every_reply_is_right_on_a_lane_for_each_client_of_one_worker() {
    prove("dedicated", 1);
}

#[test]
fn every_reply_is_right_on_a_lane_for_each_client_of_two_workers() {
    prove("dedicated", 2);
}

const USERS: &[(&str, &str)] = &[
    ("app", APP_PASSWORD),
    ("default", DEFAULT_PASSWORD),
    ("second", APP_PASSWORD_2),
    ("quiet", ROOT_PASSWORD),
];

/// Sessions at the same time.
const CONCURRENT: usize = 64;

fn prove(connections: &str, workers: usize) {
    let sessions = number("KEYWARD_MODEL_SESSIONS", 120) as usize;
    let steps = number("KEYWARD_MODEL_STEPS", 40) as usize;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("KEYWARD_MODEL_SEED", now.as_nanos() as u64 % 1_000_000_000);
    let name = format!("{connections}, {workers} workers");
    eprintln!(
        "{name}: KEYWARD_MODEL_SEED={seed} KEYWARD_MODEL_SESSIONS={sessions} KEYWARD_MODEL_STEPS={steps}"
    );
    let began = Instant::now();
    let redis = Redis::start_tcp();
    let mut keyward = Setup::new(&redis)
        .env("KEYWARD_CONNECTIONS", connections)
        .server(&format!("workers = {workers}"))
        // Any work at all makes a worker busy, so sessions change threads all the time.
        .server("worker_busy_percent = 1")
        // What a busy machine may take; the limits have tests of their own.
        .login("timeout = \"1m\"")
        .listener("write_stall_timeout = \"10m\"")
        .without_user("root")
        .user("second", APP_PASSWORD_2, "acl = \"safe\"")
        .user("quiet", ROOT_PASSWORD, "acl = \"safe +client|reply\"")
        .expect("desync")
        .expect("upstream_closed")
        .expect("redis_connection_failed")
        .start();
    let world = Arc::new(World {
        address: keyward.address(),
        redis: SocketAddr::from(([127, 0, 0, 1], redis.port())),
        seed,
        users: USERS,
        chaos: AtomicBool::new(false),
        scripted: Mutex::default(),
        tally: Tally::default(),
    });
    // In the first half nothing but the clients themselves may end a connection.
    let result = run(&world, 0, sessions / 2, steps)
        .and_then(|()| at_rest(&keyward, &redis, &world, connections, workers))
        .and_then(|()| {
            world.chaos.store(true, Ordering::Relaxed);
            let over = AtomicBool::new(false);
            let result = std::thread::scope(|scope| {
                scope.spawn(|| kill_lanes(&redis, &world, &over));
                let result = run(&world, sessions / 2, sessions, steps);
                over.store(true, Ordering::Relaxed);
                result
            });
            result.and_then(|()| at_rest(&keyward, &redis, &world, connections, workers))
        });
    if let Err(fault) = result {
        let metrics = keyward.page("/metrics").1;
        let ends = |line: &&str| line.contains("_closed_total{") && !line.ends_with(" 0");
        let ends: Vec<&str> = metrics.lines().filter(ends).collect();
        eprintln!("connections that ended: {ends:#?}");
        panic!("{name}, KEYWARD_MODEL_SEED={seed}: {fault}");
    }
    let tally = &world.tally;
    assert_eq!(tally.sessions.get(), sessions as u64, "a session got lost");
    assert!(tally.kills.get() > 0, "no connection was killed");
    keyward.stop();
    eprintln!(
        "{name}: {sessions} sessions, {} commands, {} replies and {} messages checked, {} lanes killed ({} sessions ended by \
         that), {} clients left in the middle, {} scripts tried to inject ({} succeeded), {} slow reads, slowest batch \
         {:?}, {:?} in all",
        tally.commands.get(),
        tally.replies.get(),
        tally.messages.get(),
        tally.kills.get(),
        tally.gone.get(),
        tally.closes.get(),
        tally.injections.get(),
        tally.poisoned.get(),
        tally.slow_reads.get(),
        tally.slowest.lock().unwrap(),
        began.elapsed(),
    );
}

/// Runs the sessions with these numbers, many at a time.
fn run(world: &Arc<World>, from: usize, to: usize, steps: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let next = Arc::new(AtomicUsize::new(from));
    runtime.block_on(async {
        let mut running = tokio::task::JoinSet::<Result<(), String>>::new();
        for _ in 0..CONCURRENT {
            let (world, next) = (Arc::clone(world), Arc::clone(&next));
            running.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= to {
                        return Ok(());
                    }
                    let mut session = Session::open(&world, index).await?;
                    let stop = session.run(steps).await;
                    session
                        .conclude(stop)
                        .await
                        .map_err(|fault| format!("session {index}: {fault}"))?;
                    world.tally.sessions.add(1);
                }
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|panic| format!("a session panicked: {panic}"))??;
        }
        Ok(())
    })
}

/// Kills a random connection of Keyward inside Redis now and then.
fn kill_lanes(redis: &Redis, world: &World, over: &AtomicBool) {
    let mut random = Random::new(world.seed);
    let mut direct = redis.client();
    while !over.load(Ordering::Relaxed) {
        let list = direct.call("CLIENT LIST");
        // Keyward comes through the unix socket, and so does this connection, which says CLIENT.
        let lanes: Vec<&str> = list
            .lines()
            .filter(|line| line.contains(".sock:0 ") && !line.contains("cmd=client|list"))
            .filter_map(|line| line.trim_start_matches('$').split([' ', '=']).nth(1))
            .collect();
        // Mostly one, sometimes several at once; as often an old one, which is likely to be shared, as any.
        for _ in 0..if random.percent(10) { 6 } else { 1 } {
            let among = if random.percent(50) {
                lanes.len() / 4
            } else {
                lanes.len()
            };
            let Some(id) = lanes.get(random.below(among)) else {
                break;
            };
            if direct.call(&format!("CLIENT KILL ID {id}")) == ":1" {
                world.tally.kills.add(1);
            }
        }
        // The pace of the disaster.
        std::thread::park_timeout(Duration::from_millis(random.within(10..100) as u64));
    }
}

/// Every client has gone: what Keyward counts, and what Redis sees, is what it was.
fn at_rest(
    keyward: &Keyward,
    redis: &Redis,
    world: &World,
    connections: &str,
    workers: usize,
) -> Result<(), String> {
    keyward.wait_metric("keyward_connections_open", &[], 0.0);
    keyward.wait_metric("keyward_sessions_pinned", &[], 0.0);
    keyward.wait_metric("keyward_upstream_requests_queued", &[], 0.0);
    keyward.wait_metric("keyward_upstream_lanes_open", &[("kind", "own")], 0.0);
    let desyncs = keyward.metric("keyward_desync_total", &[]);
    let poisoned = world.tally.poisoned.get() as f64;
    let explained = if world.has_chaos() {
        desyncs <= poisoned
    } else {
        desyncs == poisoned
    };
    if !explained {
        return Err(format!(
            "{desyncs} replies out of step, but {poisoned} sessions provoked one"
        ));
    }
    if let Some(line) = keyward
        .events("desync")
        .iter()
        .find(|line| line["listener"].is_null() || line["reason"] != "unasked_reply")
    {
        return Err(format!("not by an injection: {line}"));
    }
    // The health check's; in shared mode one lane for each user, database and version, and the idle ones.
    let bound = match connections {
        "shared" => 1 + workers * (world.users.len() * session::DATABASES as usize * 2 + 16),
        _ => 1,
    };
    eventually("the connections to Redis to be those at rest", || {
        (redis.other_clients() <= bound).then_some(())
    });
    let agree = || {
        let open = keyward.metric("keyward_upstream_connections_open", &[]);
        let idle = keyward.metric("keyward_upstream_lanes_open", &[("kind", "idle")]);
        let seen = redis.other_clients() as f64;
        // The health check comes and goes, and an idle lane that was killed is found out when it is wanted.
        let killed = if world.has_chaos() { idle } else { 0.0 };
        (-1.0..=killed + 1.0).contains(&(open - seen)).then_some(())
    };
    eventually("Keyward and Redis to count the same connections", agree);
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}
