//! What a server that lets us in says of itself. Facts in, findings out.

use std::collections::BTreeMap;

use crate::server::Excess;

use super::finding::{Check, Finding};
use super::upstream::UpstreamFacts;

/// In order.
pub(super) const CHECKS: &[Check] = &[
    Check::Server,
    Check::Role,
    Check::MaxMemory,
    Check::Persistence,
    Check::MaxClients,
    Check::Privileges,
    Check::Clock,
];

/// All of them.
pub(super) fn server(facts: &UpstreamFacts) -> Vec<Finding> {
    vec![
        version(facts),
        role(facts),
        max_memory(facts),
        persistence(facts),
        max_clients(facts),
        privileges(facts),
        clock(facts),
    ]
}

fn field<'a>(fields: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    fields.get(name).map(String::as_str)
}

fn number(fields: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    field(fields, name)?.parse().ok()
}

/// What its user may not ask stays unknown, which is as it should be for a user with few rights.
fn untold(check: Check, facts: &UpstreamFacts, what: &str) -> Finding {
    let message = format!("its user may not ask ({what}), as it should be; ask as Redis's administrator");
    Finding::skip(check, facts.subject(), message)
}

fn version(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::Server, facts.subject());
    let (hello, info) = (&facts.own.server.hello, &facts.own.server.info);
    let version = field(info, "valkey_version")
        .or_else(|| field(hello, "version"))
        .or_else(|| field(info, "redis_version"));
    let Some(version) = version else {
        return Finding::skip(
            check,
            subject,
            "it does not tell its version: a proxy, or older than Redis 6",
        );
    };
    let product = if info.contains_key("valkey_version") {
        "valkey"
    } else {
        field(hello, "server").unwrap_or("redis")
    };
    match field(hello, "mode").or_else(|| field(info, "redis_mode")) {
        Some("cluster") => {
            return Finding::fail(
                check,
                subject,
                format!(
                    "{product} {version} is in cluster mode: its redirections (MOVED) lead clients around Keyward"
                ),
                "a server without cluster mode; see deploy/docs/managed-redis.md for services",
            );
        }
        Some("sentinel") => {
            return Finding::fail(
                check,
                subject,
                format!("{product} {version} is a Sentinel, which holds no data"),
                "the master's address in `url` (SENTINEL get-master-addr-by-name NAME tells it)",
            );
        }
        _ => {}
    }
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if product == "redis" && (major, minor) < (6, 2) {
        return Finding::warn(
            check,
            subject,
            format!(
                "{product} {version} gets no security fixes any more, and is not what Keyward is tested with"
            ),
            "Redis 7 or Valkey",
        );
    }
    Finding::ok(check, subject, format!("{product} {version}"))
}

fn role(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::Role, facts.subject());
    let server = &facts.own.server;
    match field(&server.hello, "role").or_else(|| field(&server.info, "role")) {
        Some("slave" | "replica") => Finding::warn(
            check,
            subject,
            "it is a replica: clients that write are told READONLY",
            "the master's address in `url`, unless this listener is for reading alone",
        ),
        Some("master") => Finding::ok(check, subject, "it is a master"),
        _ => untold(check, facts, "HELLO, INFO"),
    }
}

fn max_memory(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::MaxMemory, facts.subject());
    let (info, settings) = (&facts.own.server.info, &facts.own.server.settings);
    let limit = number(info, "maxmemory").or_else(|| number(settings, "maxmemory"));
    let policy = field(info, "maxmemory_policy").or_else(|| field(settings, "maxmemory-policy"));
    let (Some(limit), Some(policy)) = (limit, policy) else {
        return untold(check, facts, "INFO, CONFIG GET");
    };
    let size = match limit {
        0 => "no limit".to_owned(),
        limit if limit < 1 << 20 => format!("{limit} bytes"),
        limit => format!("{} MiB", limit >> 20),
    };
    let told = format!("maxmemory {size}, policy {policy}");
    if policy == "noeviction" {
        return Finding::ok(check, subject, told);
    }
    if facts.is_cache() {
        return Finding::ok(
            check,
            subject,
            format!("{told}: it evicts keys, as a cache should"),
        );
    }
    let what = if policy.starts_with("volatile") {
        "keys with a time to live"
    } else {
        "any key"
    };
    let when = if limit == 0 {
        "as soon as it has a limit"
    } else {
        "when it is full"
    };
    Finding::warn(
        check,
        subject,
        format!("{told}: it evicts {what} {when}, and queues, sessions and locks lose what was in them"),
        "`maxmemory-policy noeviction` where queues (Celery, BullMQ, Sidekiq) or sessions live; an upstream whose name has \
         \"cache\" in it is taken for a cache",
    )
}

fn persistence(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::Persistence, facts.subject());
    let (info, settings) = (&facts.own.server.info, &facts.own.server.settings);
    let (Some(save), Some(log)) = (field(info, "rdb_last_bgsave_status"), field(info, "aof_enabled")) else {
        return untold(check, facts, "INFO");
    };
    if save != "ok" {
        return Finding::fail(
            check,
            subject,
            "its last snapshot failed: it may refuse writes (MISCONF)",
            "look at Redis's log: the disk is full, its directory is not writable, or memory for fork is missing \
             (vm.overcommit_memory)",
        );
    }
    if log == "1" && field(info, "aof_last_write_status") == Some("err") {
        return Finding::fail(
            check,
            subject,
            "its append-only file could not be written: it refuses writes (MISCONF)",
            "look at Redis's log: the disk is full, or its directory is not writable",
        );
    }
    match (log, field(settings, "save")) {
        ("1", _) => Finding::ok(check, subject, "append-only file"),
        (_, Some("")) if facts.is_cache() => Finding::ok(check, subject, "none, which is right for a cache"),
        (_, Some("")) => Finding::warn(
            check,
            subject,
            "neither snapshots nor append-only file: a restart of Redis loses everything",
            "`appendonly yes` where queues or sessions live; an upstream whose name has \"cache\" in it is taken for a cache",
        ),
        (_, Some(points)) => Finding::ok(check, subject, format!("snapshots ({points})")),
        (_, None) => Finding::ok(
            check,
            subject,
            "no append-only file; whether there are snapshots, it does not tell",
        ),
    }
}

fn max_clients(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::MaxClients, facts.subject());
    let Some(max) = number(&facts.own.server.info, "maxclients") else {
        return untold(check, facts, "INFO");
    };
    let ours = u64::try_from(facts.section.pool.max_connections).unwrap_or(u64::MAX);
    if ours.saturating_add(CLIENTS_LEFT) > max {
        return Finding::warn(
            check,
            subject,
            format!("max_connections is {ours}, and Redis takes {max} clients in all"),
            format!(
                "max_connections = {} here (over all instances of Keyward together), or a larger maxclients there",
                max.saturating_sub(CLIENTS_LEFT).max(1)
            ),
        );
    }
    Finding::ok(check, subject, format!("max_connections {ours} of {max}"))
}

fn privileges(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::Privileges, facts.subject());
    let remedy = format!(
        "`keyward acl upstream --upstream {}` prints the ACL SETUSER line that is enough",
        facts.section.name
    );
    let excess = match &facts.excess {
        None => return Finding::skip(check, subject, "not asked"),
        Some(Err(error)) => return Finding::skip(check, subject, format!("it could not be asked: {error}")),
        Some(Ok(excess)) => excess,
    };
    let Excess { commands, scripts } = excess;
    let message = match commands {
        None => {
            let message = "it does not tell what Keyward's user may do";
            let remedy = "+multi and +discard for Keyward's Redis user, or look at it as Redis's administrator (ACL LIST)";
            return match facts.section.require_least_privilege {
                true => Finding::fail(check, subject, message, remedy),
                false => Finding::skip(check, subject, format!("{message}: {remedy}")),
            };
        }
        Some(commands) if commands.is_empty() => {
            return Finding::ok(
                check,
                subject,
                "Redis refuses Keyward's user what is refused here",
            );
        }
        Some(commands) => {
            let (shown, more) = commands.split_at(commands.len().min(MOST_SHOWN));
            let shown = shown.join(", ").to_ascii_uppercase().replace('|', " ");
            let more = match more.len() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            let within = match scripts {
                true => "scripts of clients can run it",
                false => "only the rules here keep clients from it",
            };
            format!("Redis would run {shown}{more} for Keyward although nobody may run it here: {within}")
        }
    };
    // The server does not start with it.
    match facts.section.require_least_privilege {
        true => Finding::fail(check, subject, message, remedy),
        false => Finding::warn(check, subject, message, remedy),
    }
}

fn clock(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::Clock, facts.subject());
    let Some(skew) = facts.own.server.clock else {
        return untold(check, facts, "TIME");
    };
    let doubt = i64::try_from(skew.round_trip.as_millis()).unwrap_or(i64::MAX);
    let off = skew.ahead_ms.saturating_abs();
    let way = if skew.ahead_ms < 0 { "behind" } else { "ahead of" };
    if off.saturating_sub(doubt) > MOST_SKEW_MS {
        return Finding::warn(
            check,
            subject,
            format!("Redis's clock is {} s {way} this host's", off / 1000),
            "synchronise both (timedatectl, chrony): certificates, EXPIREAT and the logs go by them",
        );
    }
    Finding::ok(
        check,
        subject,
        format!("Redis's clock is {off} ms {way} this host's"),
    )
}

/// What others need beside Keyward: replicas, operators, our own health check.
const CLIENTS_LEFT: u64 = 32;
const MOST_SHOWN: usize = 6;
/// Beyond what a network that is synchronised at all shows.
const MOST_SKEW_MS: i64 = 5_000;
