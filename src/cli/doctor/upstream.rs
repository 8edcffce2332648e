//! One upstream: how far a connection gets, and what the server says of itself. Facts in, findings out.

use std::collections::BTreeSet;

use crate::config::{Upstream, UpstreamAddress};
use crate::server::Excess;
use crate::upstream::{DialError, Visit, Welcome};

use super::finding::{Check, Finding};
use super::refusals::{Account, Failure, failure, failure_as};
use super::{around, certificates, redis};

/// Everything that was found out about one upstream.
#[derive(Debug, Clone)]
pub(super) struct UpstreamFacts {
    pub(super) section: Upstream,
    /// As Keyward itself.
    pub(super) own: Visit,
    /// As the Redis users of those who have one.
    pub(super) users: Vec<UserFacts>,
    /// Whether a connection in the other way (with TLS, without) got as far as an answer; `None`: not tried.
    pub(super) other_way: Option<bool>,
    /// What the user may do beyond the rules here.
    pub(super) excess: Option<Result<Excess, DialError>>,
    /// What somebody without a credential is told at the same address.
    pub(super) stranger: Option<Result<Welcome, DialError>>,
    /// The same at a plaintext port beside the one with TLS.
    pub(super) plaintext: Option<(u16, Result<Welcome, DialError>)>,
    /// The same at an address of this host that others reach, for an upstream on loopback.
    pub(super) network: Option<(String, Result<Welcome, DialError>)>,
    /// Expiry of the CA and client certificate files for it: what and when.
    pub(super) files: Vec<(String, i64)>,
}

/// The login of one user at Redis.
#[derive(Debug, Clone)]
pub(super) struct UserFacts {
    /// The user here.
    pub(super) user: String,
    pub(super) account: Account,
    pub(super) visit: Visit,
}

impl UpstreamFacts {
    pub(super) fn new(section: &Upstream) -> Self {
        Self {
            section: section.clone(),
            own: Visit::default(),
            users: Vec::new(),
            other_way: None,
            excess: None,
            stranger: None,
            plaintext: None,
            network: None,
            files: Vec::new(),
        }
    }

    /// What messages call it.
    pub(super) fn subject(&self) -> String {
        format!("upstream \"{}\"", self.section.name)
    }

    /// Whether it holds what may be thrown away, by its name: nothing else tells a cache from a queue.
    pub(super) fn is_cache(&self) -> bool {
        self.section.name.to_ascii_lowercase().contains("cache")
    }

    /// It is on this host.
    pub(super) fn is_local(&self) -> bool {
        match &self.section.address {
            UpstreamAddress::Unix(_) => true,
            UpstreamAddress::Tcp { .. } => {
                let addresses = &self.own.steps.addresses;
                !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback())
            }
        }
    }
}

/// All findings about it, in the order of the checks.
pub(super) fn upstream(facts: &UpstreamFacts, now: i64) -> Vec<Finding> {
    let mut found = way(facts, now);
    let subject = facts.subject();
    // What was not reached cannot tell anything.
    let unreached = (!facts.own.logged_in).then(|| stage(facts));
    match unreached {
        None => found.extend(redis::server(facts)),
        Some(failure) => found.extend(
            redis::CHECKS
                .iter()
                .map(|check| Finding::after(*check, &subject, failure)),
        ),
    }
    let secured = facts.own.steps.secured && facts.other_way != Some(true);
    match unreached.filter(|_| !secured) {
        None => found.extend(around::around(facts)),
        Some(failure) => found.extend(
            around::CHECKS
                .iter()
                .map(|check| Finding::after(*check, &subject, failure)),
        ),
    }
    found
}

/// From the name to PING.
fn way(facts: &UpstreamFacts, now: i64) -> Vec<Finding> {
    let subject = facts.subject();
    let visit = &facts.own;
    let unix = matches!(facts.section.address, UpstreamAddress::Unix(_));
    let target = facts.section.redacted_url().to_string();
    let broken = visit
        .error
        .as_ref()
        .map(|error| (stage(facts), failure(error, facts)));
    let mut found = Vec::new();
    for check in WAY {
        if let Some((stage, failure)) = &broken {
            if stage == check {
                found.push(failed(*check, &subject, failure));
                continue;
            }
            if stage < check {
                found.push(Finding::after(*check, &subject, *stage));
                continue;
            }
        }
        found.extend(match check {
            Check::Dns if unix => vec![Finding::skip(*check, &subject, "a unix socket has no name")],
            Check::Dns => vec![Finding::ok(*check, &subject, addresses(facts))],
            Check::Connect => vec![Finding::ok(
                *check,
                &subject,
                format!("{target} accepts connections"),
            )],
            Check::Tls => tls(facts, now),
            Check::Auth => vec![Finding::ok(*check, &subject, taken(facts))],
            _ => vec![match &visit.pong {
                Some(Ok(())) => Finding::ok(*check, &subject, "it answers PING"),
                Some(Err(code)) => failed(
                    *check,
                    &subject,
                    &failure(&DialError::NotReady(code.clone()), facts),
                ),
                None => Finding::skip(*check, &subject, "not asked"),
            }],
        });
    }
    for UserFacts { user, account, visit } in &facts.users {
        let subject = format!("{subject} as user \"{user}\"");
        match &visit.error {
            Some(error) => found.push(failed(Check::Auth, &subject, &failure_as(error, facts, account))),
            None => found.push(Finding::ok(Check::Auth, &subject, "Redis takes the credential")),
        }
    }
    found
}

/// Which check an error belongs to.
fn stage(facts: &UpstreamFacts) -> Check {
    let visit = &facts.own;
    let unix = matches!(facts.section.address, UpstreamAddress::Unix(_));
    match (&visit.error, &visit.steps) {
        // With TLS 1.3 the verdict about our certificate comes late; and the wrong way is the matter of TLS.
        (Some(DialError::Tls(_)), _) => Check::Tls,
        (_, steps) if steps.secured && facts.other_way == Some(true) => Check::Tls,
        (_, steps) if visit.logged_in && steps.secured => Check::Ping,
        (_, steps) if steps.secured => Check::Auth,
        (_, steps) if steps.connected => Check::Tls,
        (_, steps) if unix || !steps.addresses.is_empty() => Check::Connect,
        _ => Check::Dns,
    }
}

fn failed(check: Check, subject: &str, failure: &Failure) -> Finding {
    Finding::fail(check, subject, failure.message.clone(), failure.remedy.clone())
}

fn addresses(facts: &UpstreamFacts) -> String {
    let UpstreamAddress::Tcp { host, .. } = &facts.section.address else {
        return String::new();
    };
    let addresses: BTreeSet<String> = facts
        .own
        .steps
        .addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    if addresses.contains(host) {
        return format!("{host} is an address, no name");
    }
    let addresses: Vec<String> = addresses.into_iter().take(MOST_ADDRESSES).collect();
    format!("{host} is {}", addresses.join(", "))
}

fn taken(facts: &UpstreamFacts) -> String {
    match (&facts.section.username, &facts.section.credential) {
        (Some(user), _) => format!("Redis takes the credential of its user \"{user}\""),
        (None, Some(_)) => "Redis takes the password".to_owned(),
        (None, None) => "no password is configured, and Redis asks for none".to_owned(),
    }
}

fn tls(facts: &UpstreamFacts, now: i64) -> Vec<Finding> {
    let subject = facts.subject();
    let Some(section) = &facts.section.tls else {
        return vec![Finding::skip(Check::Tls, &subject, "not configured (redis://)")];
    };
    let mut found = Vec::new();
    if let Some(leaf) = facts.own.certificates.first() {
        let which = "Redis's certificate";
        let soon = certificates::validity(
            Check::Tls,
            &subject,
            which,
            (leaf.not_before, leaf.not_after),
            now,
        );
        // The file is not ours, and Redis does not read it again by itself.
        found.extend(soon.map(|finding| Finding {
            remedy: Some(
                "renew Redis's certificate (tls-cert-file), then CONFIG SET tls-cert-file, or restart Redis".to_owned(),
            ),
            ..finding
        }));
    }
    for (what, end) in &facts.files {
        found.extend(certificates::validity(
            Check::Tls,
            &subject,
            what,
            (i64::MIN, *end),
            now,
        ));
    }
    if found.is_empty() {
        let until = facts
            .own
            .certificates
            .first()
            .map(|leaf| crate::tls::show_time(leaf.not_after));
        let until = until.map_or_else(String::new, |until| {
            format!("; its certificate is good until {until}")
        });
        let verified = if section.unsafe_skip_verify {
            "not verified"
        } else {
            "verified"
        };
        found.push(Finding::ok(
            Check::Tls,
            &subject,
            format!("TLS, {verified}{until}"),
        ));
    }
    found
}

/// The way of a connection, in order.
const WAY: &[Check] = &[Check::Dns, Check::Connect, Check::Tls, Check::Auth, Check::Ping];
const MOST_ADDRESSES: usize = 8;
