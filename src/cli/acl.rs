//! `keyward acl`: what a user may do, offline, and what Keyward's own user should be allowed.

use anyhow::Context as _;
use bytes::BytesMut;

use crate::acl::{self, Resolved, Target, User};
use crate::config;
use crate::resp::{Args, encode};
use crate::server::{self, ListenerUsers};

use super::healthcheck::{ask, body};
use super::{Asking, Exit, Learning, Narrowing, print, report, talk};

/// Says whether a request would be forwarded, or which rule refuses which of its arguments.
pub(super) fn test(asking: &Asking) -> anyhow::Result<Exit> {
    let listeners = match server::load_users(&asking.config.sources()) {
        Ok((_, listeners)) => listeners,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let wanted = |listener: &&ListenerUsers| {
        asking
            .listener
            .as_ref()
            .is_none_or(|name| *name == listener.listener)
    };
    let mut verdicts: Vec<(String, Vec<&str>)> = Vec::new();
    for listener in listeners.iter().filter(wanted) {
        let Some(user) = listener.users.get(&asking.user) else {
            continue;
        };
        let verdict = verdict(user, &asking.request);
        match verdicts.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, at)) => at.push(&listener.listener),
            None => verdicts.push((verdict, vec![&listener.listener])),
        }
    }
    if verdicts.is_empty() {
        let known: Vec<&str> = listeners
            .iter()
            .filter(wanted)
            .flat_map(|listener| listener.users.names())
            .collect();
        talk(&format!(
            "error: there is no user '{}'; users are: {}",
            asking.user,
            known.join(", ")
        ));
        return Ok(Exit::Usage);
    }
    let several = verdicts.len() > 1;
    for (verdict, at) in &verdicts {
        let at = if several {
            format!("at {}: ", at.join(", "))
        } else {
            String::new()
        };
        print(&format!("{at}{verdict}"));
    }
    let allowed = verdicts.iter().all(|(verdict, _)| verdict == ALLOWED);
    Ok(if allowed { Exit::Done } else { Exit::Refused })
}

fn verdict(user: &User, request: &[String]) -> String {
    let words: Vec<&[u8]> = request.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = BytesMut::new();
    encode::request(&mut bytes, &words);
    let args = Args::new(&bytes, u32::try_from(words.len()).unwrap_or(u32::MAX));
    let first = words.first().copied().unwrap_or_default();
    let command = match acl::resolve(first, words.get(1).copied()) {
        Resolved::Command(command) => command,
        Resolved::Container(container) => {
            return format!("refused: '{}' has no such subcommand, to anybody", container.name);
        }
        Resolved::Unknown => return "refused: there is no such command, to anybody".to_owned(),
    };
    let off = if user.enabled {
        ""
    } else {
        " (the user is off and cannot log in at all)"
    };
    match user.explain(command, args) {
        Some(reasons) => {
            let observed = if user.observes(command) {
                " (mode is observe: it would be forwarded all the same, counted and audited)"
            } else {
                ""
            };
            format!("refused: {}{observed}{off}", reasons.join("; "))
        }
        None if !command.accepts(args.announced()) => {
            format!(
                "refused: '{}' takes another number of arguments{off}",
                command.name
            )
        }
        None if !user.enabled => format!("refused:{off}"),
        None => ALLOWED.to_owned(),
    }
}

/// Prints the rules that Keyward's user should have on the server.
pub(super) fn upstream(narrowing: &Narrowing) -> anyhow::Result<Exit> {
    let Some(target) = Target::parse(&narrowing.server) else {
        talk("error: --server takes redis-7.0 or later, or valkey-7.2 or later");
        return Ok(Exit::Usage);
    };
    let (config, listeners) = match server::load_users(&narrowing.config.sources()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let wanted = |name: &str| narrowing.upstream.as_ref().is_none_or(|wanted| wanted == name);
    let chosen: Vec<_> = config
        .upstreams
        .iter()
        .enumerate()
        .filter(|(_, upstream)| wanted(&upstream.name))
        .collect();
    if chosen.is_empty() {
        talk("error: there is no upstream of this name");
        return Ok(Exit::Usage);
    }
    let many = chosen.len() > 1;
    for (index, upstream) in chosen {
        let users = listeners.iter().filter(|listener| listener.upstream == index);
        let users: Vec<&User> = users
            .flat_map(|listener| {
                let names = listener.users.names();
                names.into_iter().filter_map(|name| listener.users.get(name))
            })
            .map(|user| &**user)
            .collect();
        let rules = acl::upstream_rules(
            users.iter().copied(),
            target,
            narrowing.modules,
            upstream.database,
        );
        let name = upstream.username.as_deref().unwrap_or("default");
        if many {
            talk(&format!("upstream \"{}\":", upstream.name));
        }
        print(&format!("ACL SETUSER {name} {}", rules.join(" ")));
        if users.iter().any(|user| user.observe) {
            talk(
                "note: the line covers the rules; what mode = \"observe\" forwards beyond them, Redis would refuse",
            );
        }
        if users.iter().any(|user| user.databases.is_some()) {
            talk("note: Redis cannot limit databases; scripts of users with `databases` reach all of them");
        }
    }
    talk("note: passwords are left as they are; a new user needs one (ACL SETUSER name >password)");
    Ok(Exit::Done)
}

/// Prints the rules that a running Keyward has learned; what is to be said about them goes to standard error.
pub(super) fn learn(learning: &Learning) -> anyhow::Result<Exit> {
    let Some(address) = config::admin_section(&learning.config.sources()).address else {
        talk("error: the admin listener is off (admin.address), and rules are asked for there");
        return Ok(Exit::Failed);
    };
    let answer = ask(address, "/acl/learned", MOST_LEARNED)
        .with_context(|| format!("no answer from {address}; is keyward running?"))?;
    if answer.starts_with("HTTP/1.1 404") {
        talk("error: nothing is learned; set learn = true in a [[listener]] or [[user]] and reload");
        return Ok(Exit::Failed);
    }
    if !answer.starts_with("HTTP/1.1 200") {
        talk(&format!(
            "error: {}",
            answer.lines().next().unwrap_or("no answer")
        ));
        return Ok(Exit::Failed);
    }
    let wanted = |line: &str| {
        let name = |user: &String| {
            line.strip_prefix("user ")
                .and_then(|rest| rest.strip_prefix(user.as_str()))
                .is_some_and(|rest| rest.starts_with(' '))
                || line
                    .strip_prefix("# ")
                    .and_then(|rest| rest.strip_prefix(user.as_str()))
                    .is_some_and(|rest| rest.starts_with(": "))
                || line.starts_with("# incomplete: ")
        };
        learning.user.as_ref().is_none_or(name)
    };
    let mut rules = 0;
    for line in body(&answer).lines().filter(|line| wanted(line)) {
        match line.strip_prefix("# ") {
            Some(note) => talk(&format!("note: {note}")),
            None => {
                rules += 1;
                print(line);
            }
        }
    }
    if rules == 0 {
        talk("error: nothing has been seen yet; only users with learn = true are watched");
        return Ok(Exit::Failed);
    }
    talk(
        "note: what was not seen since the start is missing; passwords are left out: add #HASH (keyward hash-password)",
    );
    Ok(Exit::Done)
}

/// Bytes of an answer: far more than the bounded rules of many users.
const MOST_LEARNED: u64 = 64 * 1024 * 1024;

const ALLOWED: &str = "allowed";
