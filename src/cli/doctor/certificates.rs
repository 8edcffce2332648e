//! Certificates and revocation lists, as the other side will look at them. Facts in, findings out.

use crate::tls::{CertificateFacts, show_time};

use super::finding::{Check, Finding};

/// A listener's chain, the leaf first.
pub(super) fn certificate(subject: &str, file: &str, chain: &[CertificateFacts], now: i64) -> Vec<Finding> {
    let check = Check::Certificate;
    let Some(leaf) = chain.first() else {
        return vec![Finding::skip(check, subject, format!("{file} cannot be read"))];
    };
    let mut found = Vec::new();
    for (number, certificate) in chain.iter().enumerate() {
        let which = match number {
            0 => format!("the certificate in {file}"),
            _ => format!(
                "certificate {} of {file} ({})",
                number.saturating_add(1),
                certificate.subject
            ),
        };
        found.extend(validity(
            check,
            subject,
            &which,
            (certificate.not_before, certificate.not_after),
            now,
        ));
    }
    for (number, pair) in chain.windows(2).enumerate() {
        if let [lower, upper] = pair
            && lower.issuer != upper.subject
        {
            found.push(Finding::fail(
                check,
                subject,
                format!(
                    "{file}: certificate {} was signed by {}, but the next one is {}",
                    number.saturating_add(1),
                    lower.issuer,
                    upper.subject
                ),
                "put the certificates in order: the server's own first, then each one's issuer",
            ));
        }
    }
    if leaf.names.is_empty() {
        found.push(Finding::fail(
            check,
            subject,
            format!(
                "the certificate in {file} has no subject alternative names: clients accept it for no host"
            ),
            "issue it anew with the names and addresses that clients use in their URL",
        ));
    }
    if !leaf.for_servers {
        found.push(Finding::fail(
            check,
            subject,
            format!("the certificate in {file} is not for servers (extended key usage)"),
            "issue it anew with serverAuth",
        ));
    }
    if found.is_empty() {
        let trust = if leaf.is_self_issued() {
            "signed by itself: clients need this very file as their CA"
        } else {
            "clients need its CA"
        };
        found.push(Finding::ok(
            check,
            subject,
            format!(
                "for {} until {}; {trust}",
                leaf.names.join(", "),
                show_time(leaf.not_after)
            ),
        ));
    }
    found
}

/// What is wrong with a time of validity.
pub(super) fn validity(
    check: Check,
    subject: &str,
    which: &str,
    (begin, end): (i64, i64),
    now: i64,
) -> Option<Finding> {
    let renew =
        "replace the file (it is read again when it changes), and look at what should have renewed it";
    if now < begin {
        return Some(Finding::fail(
            check,
            subject,
            format!("{which} is not valid before {}", show_time(begin)),
            "check this host's clock, and that of the CA",
        ));
    }
    if now > end {
        return Some(Finding::fail(
            check,
            subject,
            format!("{which} expired at {}", show_time(end)),
            renew,
        ));
    }
    let days = end.saturating_sub(now) / 86_400;
    (days < NOTICE_DAYS).then(|| {
        Finding::warn(
            check,
            subject,
            format!("{which} expires in {}, at {}", left(days), show_time(end)),
            renew,
        )
    })
}

fn left(days: i64) -> String {
    match days {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// A CA bundle or revocation list.
#[derive(Debug, Clone)]
pub(super) struct Expiring {
    pub(super) what: String,
    pub(super) end: i64,
    /// It ends after days, as it should, and is warned of for a shorter time.
    pub(super) short_lived: bool,
}

/// What client certificates are verified with.
pub(super) fn client_ca(subject: &str, items: &[Expiring], now: i64) -> Vec<Finding> {
    let check = Check::ClientCa;
    if items.is_empty() {
        return vec![Finding::skip(
            check,
            subject,
            "no client certificates are asked for",
        )];
    }
    let mut found: Vec<Finding> = items
        .iter()
        .filter(|item| !item.short_lived || item.end.saturating_sub(now) < LIST_NOTICE)
        .filter_map(|item| validity(check, subject, &item.what, (i64::MIN, item.end), now))
        .collect();
    if found.is_empty() {
        let first = items.iter().map(|item| item.end).min().unwrap_or(now);
        found.push(Finding::ok(
            check,
            subject,
            format!("in force until {}", show_time(first)),
        ));
    }
    found
}

/// Two weeks, as the log and the alerts.
const NOTICE_DAYS: i64 = 14;
/// Half a day, as the log.
const LIST_NOTICE: i64 = 43_200;

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn leaf() -> CertificateFacts {
        CertificateFacts {
            subject: "CN=server".to_owned(),
            issuer: "CN=ca".to_owned(),
            not_before: NOW - DAY,
            not_after: NOW + 90 * DAY,
            names: vec!["redis.test".to_owned()],
            for_servers: true,
        }
    }

    fn one(found: Vec<Finding>) -> Finding {
        assert_eq!(found.len(), 1, "{found:#?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn a_chain_is_looked_at_as_a_client_does() {
        let look = |chain: &[CertificateFacts]| one(certificate("listener", "s.pem", chain, NOW));
        assert_eq!(look(&[leaf()]).level, Level::Ok);
        let soon = CertificateFacts {
            not_after: NOW + 14 * DAY - 1,
            ..leaf()
        };
        assert_eq!(look(&[soon]).level, Level::Warn);
        let fine = CertificateFacts {
            not_after: NOW + 14 * DAY,
            ..leaf()
        };
        assert_eq!(look(&[fine]).level, Level::Ok);
        for (bad, word) in [
            (
                CertificateFacts {
                    not_after: NOW - 1,
                    ..leaf()
                },
                "expired at",
            ),
            (
                CertificateFacts {
                    not_before: NOW + 1,
                    ..leaf()
                },
                "not valid before",
            ),
            (
                CertificateFacts {
                    names: Vec::new(),
                    ..leaf()
                },
                "no subject alternative names",
            ),
            (
                CertificateFacts {
                    for_servers: false,
                    ..leaf()
                },
                "not for servers",
            ),
        ] {
            let found = look(&[bad]);
            assert_eq!(found.level, Level::Fail);
            assert!(found.message.contains(word), "{found:?}");
            assert!(found.remedy.is_some());
        }
        let ca = CertificateFacts {
            subject: "CN=ca".to_owned(),
            names: Vec::new(),
            ..leaf()
        };
        assert_eq!(look(&[leaf(), ca.clone()]).level, Level::Ok);
        let found = look(&[leaf(), leaf()]);
        assert!(found.message.contains("the next one is CN=server"), "{found:?}");
        let old = CertificateFacts {
            not_after: NOW - 1,
            ..ca
        };
        assert!(look(&[leaf(), old]).message.contains("certificate 2 of"));
    }

    #[test]
    fn revocation_lists_are_short_lived_and_authorities_are_not() {
        let item = |end: i64, short_lived: bool| Expiring {
            what: "it".to_owned(),
            end,
            short_lived,
        };
        let look = |item: Expiring| one(client_ca("listener", &[item], NOW)).level;
        assert_eq!(look(item(NOW + DAY, true)), Level::Ok);
        assert_eq!(look(item(NOW + 3_600, true)), Level::Warn);
        assert_eq!(look(item(NOW - 1, true)), Level::Fail);
        assert_eq!(look(item(NOW + DAY, false)), Level::Warn);
        assert_eq!(one(client_ca("listener", &[], NOW)).level, Level::Skip);
    }
}
