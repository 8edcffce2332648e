//! Whether Redis can be reached around Keyward. Facts in, findings out.

use crate::upstream::{Rights, Welcome};

use super::finding::{Check, Finding};
use super::upstream::UpstreamFacts;

/// In order.
pub(super) const CHECKS: &[Check] = &[
    Check::AroundLogin,
    Check::AroundDefaultUser,
    Check::AroundPlaintext,
    Check::AroundNetwork,
];

/// All of them.
pub(super) fn around(facts: &UpstreamFacts) -> Vec<Finding> {
    vec![
        login(facts),
        default_user(facts),
        plaintext(facts),
        network(facts),
    ]
}

fn login(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::AroundLogin, facts.subject());
    let rights = match &facts.stranger {
        None => return Finding::skip(check, subject, "not tried"),
        Some(Err(error)) => return Finding::skip(check, subject, format!("could not be tried: {error}")),
        Some(Ok(Welcome::PasswordWanted)) => {
            return Finding::ok(check, subject, "a client without a password is told NOAUTH");
        }
        Some(Ok(Welcome::ProtectedMode)) => {
            return Finding::ok(check, subject, "protected mode: only its own host is let in");
        }
        Some(Ok(Welcome::LetIn(rights))) => rights,
    };
    let remedy = "`ACL SETUSER default off` in Redis once Keyward (`keyward acl upstream`) and an administrator have users of their own, \
                  or requirepass";
    if !rights.reads && !rights.writes && !rights.empties {
        return Finding::warn(
            check,
            subject,
            "Redis lets in everybody without a password, but to hardly anything",
            remedy,
        );
    }
    let may = may(*rights);
    let certificate = facts
        .section
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_certificate.is_some());
    let (who, mild) = match (facts.is_local(), certificate) {
        (true, _) => ("every process of this host", true),
        (false, true) => ("everybody with a certificate of its CA", true),
        (false, false) => ("everybody who reaches it", false),
    };
    let message = format!("around Keyward {who} gets in without a password and may {may}");
    // No password and none expected, on this host alone: so it was set up. With one, somebody believes that it protects.
    if mild && facts.section.credential.is_none() {
        return Finding::warn(check, subject, message, remedy);
    }
    Finding::fail(check, subject, message, remedy)
}

fn may(rights: Rights) -> String {
    let words = [
        (rights.reads, "read"),
        (rights.writes, "write"),
        (rights.empties, "FLUSHALL"),
    ];
    let words: Vec<&str> = words
        .iter()
        .filter(|(may, _)| *may)
        .map(|(_, word)| *word)
        .collect();
    words.join(", ")
}

fn default_user(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::AroundDefaultUser, facts.subject());
    let user = match facts.section.username.as_deref() {
        None | Some("default") => {
            return Finding::skip(
                check,
                subject,
                "Keyward itself is the user `default` there; a user of its own is better",
            );
        }
        Some(user) => user,
    };
    if let Some(Ok(Welcome::LetIn(_))) = facts.stranger {
        return Finding::fail(
            check,
            subject,
            "the user `default` is on and has no password",
            "`ACL SETUSER default off` once an administrator has another user, in Redis's ACL file too",
        );
    }
    match &facts.own.server.default_user {
        None => Finding::skip(
            check,
            subject,
            format!(
                "user \"{user}\" may not ask, as it should be; `ACL GETUSER default` as Redis's administrator"
            ),
        ),
        Some(flags) if flags.iter().any(|flag| flag == "on") => Finding::warn(
            check,
            subject,
            "the user `default` is on: whoever has its password goes around Keyward",
            "`ACL SETUSER default off` when no application and no administrator needs it any more, in Redis's ACL file too",
        ),
        Some(_) => Finding::ok(check, subject, "the user `default` is off"),
    }
}

fn plaintext(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::AroundPlaintext, facts.subject());
    let Some((port, outcome)) = &facts.plaintext else {
        let why = match facts.section.tls {
            Some(_) => "no plaintext port is known",
            None => "Keyward itself has no TLS to it",
        };
        return Finding::skip(check, subject, why);
    };
    let remedy = "`port 0` in Redis, which closes it; or a firewall";
    match outcome {
        Ok(Welcome::LetIn(rights)) => Finding::fail(
            check,
            subject,
            format!(
                "port {port} takes connections without TLS and without a password, which may {}",
                may(*rights)
            ),
            remedy,
        ),
        Ok(Welcome::PasswordWanted | Welcome::ProtectedMode) => Finding::warn(
            check,
            subject,
            format!("port {port} takes connections without TLS: passwords and data can be read on the way"),
            remedy,
        ),
        Err(_) => Finding::ok(check, subject, format!("no Redis without TLS at port {port}")),
    }
}

fn network(facts: &UpstreamFacts) -> Finding {
    let (check, subject) = (Check::AroundNetwork, facts.subject());
    let Some((address, outcome)) = &facts.network else {
        let why = if facts.is_local() {
            "a unix socket, or this host has no other address"
        } else {
            "Redis is on another host: let its network policy or firewall admit Keyward alone"
        };
        return Finding::skip(check, subject, why);
    };
    let remedy = "`bind 127.0.0.1 -::1` in Redis, since Keyward reaches it by loopback";
    match outcome {
        Ok(Welcome::LetIn(rights)) => Finding::fail(
            check,
            subject,
            format!(
                "Redis listens at {address} too, and lets in other hosts without a password, which may {}",
                may(*rights)
            ),
            remedy,
        ),
        Ok(Welcome::PasswordWanted) => Finding::warn(
            check,
            subject,
            format!("Redis listens at {address} too: other hosts need its password and nothing else"),
            remedy,
        ),
        Ok(Welcome::ProtectedMode) => Finding::warn(
            check,
            subject,
            format!("Redis listens at {address} too, and sends other hosts away by its protected mode alone"),
            remedy,
        ),
        Err(_) => Finding::ok(check, subject, format!("no Redis at {address}")),
    }
}
