//! Our command table against `COMMAND` of a live server: every difference is a failure that names the command.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop with a message"
)]

#[allow(dead_code, reason = "shared with the other tests against a live server")]
mod live_redis;

use std::collections::HashMap;

use keyward::acl::{Categories, Class, Command, Role, Since, commands};
use live_redis::{LiveCommand, LiveRedis, Server, live_commands};

/// A column in which an older server differs from the table, which follows the newest Redis.
struct Difference {
    name: &'static str,
    /// Servers before these versions differ.
    before: Since,
    /// What they say instead.
    arity: Option<i64>,
    without_category: Option<&'static str>,
}

const fn before(
    name: &'static str,
    redis: (u8, u8),
    valkey: (u8, u8),
    arity: Option<i64>,
    without_category: Option<&'static str>,
) -> Difference {
    let before = Since {
        redis: Some(redis),
        valkey: Some(valkey),
    };
    Difference {
        name,
        before,
        arity,
        without_category,
    }
}

const DIFFERENCES: &[Difference] = &[
    // WITHSCORE came with 7.2.
    before("zrank", (7, 2), (7, 2), Some(3), None),
    before("zrevrank", (7, 2), (7, 2), Some(3), None),
    // 7.2 lets COMMAND GETKEYS name a command without arguments.
    before("command|getkeys", (7, 2), (7, 2), Some(-4), None),
    before("command|getkeysandflags", (7, 2), (7, 2), Some(-4), None),
    // Waiting for replicas was not a blocking command until 7.4.
    before("wait", (7, 4), (8, 0), None, Some("blocking")),
    before("waitaof", (7, 4), (8, 0), None, Some("blocking")),
];

fn reached(server: Server, since: Since) -> bool {
    match server {
        Server::Redis(major, minor) => since.redis.is_some_and(|since| since <= (major, minor)),
        Server::Valkey(major, minor) => since.valkey.is_some_and(|since| since <= (major, minor)),
    }
}

/// Everything in which a row and the server disagree.
fn drift(ours: &Command, live: &LiveCommand, server: Server) -> Vec<String> {
    let known = DIFFERENCES
        .iter()
        .find(|known| known.name == ours.name && !reached(server, known.before));
    let mut drift = Vec::new();
    let mut compare = |column: &str, ours_is: String, live_is: String| {
        if ours_is != live_is {
            drift.push(format!(
                "{}: {column} is {ours_is}, the server says {live_is}",
                ours.name
            ));
        }
    };
    let arity = known
        .and_then(|known| known.arity)
        .unwrap_or_else(|| i64::from(ours.arity));
    compare("arity", arity.to_string(), live.arity.to_string());
    let without = known.and_then(|known| known.without_category);
    let mut categories: Vec<_> = ours
        .categories
        .names()
        .filter(|name| Some(*name) != without)
        .collect();
    categories.sort_unstable();
    compare("categories", categories.join(" "), live.categories.join(" "));
    compare("has_keys", ours.has_keys().to_string(), live.has_keys.to_string());
    compare(
        "container",
        ours.container.to_string(),
        live.container.to_string(),
    );
    compare(
        "always_allowed",
        ours.always_allowed.to_string(),
        has(live, "no_auth"),
    );
    // The server's `blocking` flag and ours have to agree, or the session would share a connection that stands still.
    let blocking = matches!(ours.role, Role::Blocking) && without != Some("blocking");
    compare("blocking", blocking.to_string(), has(live, "blocking"));
    drift
}

fn has(live: &LiveCommand, flag: &str) -> String {
    live.flags.iter().any(|have| have == flag).to_string()
}

#[test]
fn the_table_agrees_with_a_live_server() {
    let mut redis = LiveRedis::start();
    let server = redis.server();
    let live: HashMap<String, LiveCommand> = live_commands(&mut redis)
        .into_iter()
        .map(|command| (command.name.clone(), command))
        .collect();
    assert!(live.len() > 300, "COMMAND listed only {} commands", live.len());
    let ours: HashMap<&str, &Command> = commands().iter().map(|command| (command.name, command)).collect();

    let mut drifts = Vec::new();
    for command in live.values() {
        match ours.get(command.name.as_str()) {
            Some(row) if reached(server, row.since) => drifts.extend(drift(row, command, server)),
            Some(row) => drifts.push(format!(
                "{}: the server has it, the table says {:?}",
                row.name, row.since
            )),
            None => drifts.push(format!("{}: not in the table", command.name)),
        }
    }
    for row in commands() {
        // A module need not be loaded.
        let expected = row.class != Class::Module && row.role != Role::Http && reached(server, row.since);
        if expected && !live.contains_key(row.name) {
            drifts.push(format!(
                "{}: the table says {:?}, the server has no such command",
                row.name, row.since
            ));
        }
    }
    drifts.sort();
    assert!(drifts.is_empty(), "{server:?}:\n{}", drifts.join("\n"));
    println!("{server:?}: {} commands and subcommands agree", live.len());
}

#[test]
fn the_server_knows_no_category_that_we_do_not() {
    let mut redis = LiveRedis::start();
    let reply = redis.call(&["ACL", "CAT"]);
    let live: Vec<_> = reply.array().iter().map(|name| name.text()).collect();
    assert!(live.len() >= 21, "{live:?}");
    for name in live {
        assert!(Categories::by_name(name).is_some(), "@{name}");
    }
}
