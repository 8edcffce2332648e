//! What this host says: configuration, files, limits, certificates, clock. Facts in, findings out.

use std::path::PathBuf;

use crate::config::{Diagnostic, code};
use crate::tls::{CertificateFacts, show_time};

use super::finding::{Check, Finding};

/// The message of the loader as a finding.
pub(super) fn of_diagnostic(diagnostic: &Diagnostic) -> Finding {
    let check = check_of(diagnostic.code);
    let place = diagnostic.location.as_ref().map(|place| format!("{place}: "));
    let label = match diagnostic.label.as_str() {
        "" => String::new(),
        label => format!(" ({label})"),
    };
    let message = format!("{}{}{label}", place.unwrap_or_default(), diagnostic.message);
    let remedy = diagnostic.help.clone();
    let remedy = remedy.unwrap_or_else(|| "`keyward check` shows the line".to_owned());
    let finding = if diagnostic.is_error() {
        Finding::fail(check, "", message, remedy)
    } else {
        Finding::warn(check, "", message, remedy)
    };
    finding.with_code(diagnostic.code)
}

fn check_of(wanted: &str) -> Check {
    match wanted {
        code::FILE | code::FILE_MODE | code::SECRET_FILE | code::ACL_FILE | code::USER_PASSWORD => {
            Check::Files
        }
        code::LISTENER_TLS => Check::Certificate,
        code::UPSTREAM_SETUP => Check::Files,
        code::DESCRIPTORS => Check::OpenFiles,
        _ => Check::Config,
    }
}

/// A file that the configuration names, or the configuration itself.
#[derive(Debug, Clone)]
pub(super) struct FileFacts {
    pub(super) path: PathBuf,
    /// Permission bits, through links.
    pub(super) mode: u32,
    /// Of the directory that it stands in.
    pub(super) directory_mode: u32,
    /// A password.
    pub(super) secret: bool,
    /// Some part of its path is a link, as in volumes that Kubernetes keeps up to date.
    pub(super) linked: bool,
}

/// What the loader does not look at: who may exchange a file, and whether its changes arrive.
pub(super) fn files(files: &[FileFacts], in_kubernetes: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in files {
        let shown = file.path.display();
        let sticky = file.directory_mode & 0o1000 != 0;
        if file.mode & 0o002 != 0 {
            found.push(Finding::fail(
                Check::Files,
                "",
                format!("everyone may write {shown} (mode {:04o})", file.mode & 0o7777),
                format!("chmod o-w {shown}"),
            ));
        } else if file.directory_mode & 0o002 != 0 && !sticky {
            found.push(Finding::fail(
                Check::Files,
                "",
                format!("everyone may exchange {shown}: its directory may be written by all"),
                format!("chmod o-w {}", parent(file)),
            ));
        }
        if in_kubernetes && file.secret && !file.linked {
            found.push(Finding::warn(
                Check::Files,
                "",
                format!("{shown} is no link: a subPath mount, whose changes never arrive"),
                "mount the Secret as a directory, without subPath, so that a rotation is noticed",
            ));
        }
    }
    found
}

fn parent(file: &FileFacts) -> String {
    file.path
        .parent()
        .map_or_else(|| ".".to_owned(), |parent| parent.display().to_string())
}

/// `needed` for that many connections, against what is allowed, by whose account.
pub(super) fn open_files(connections: usize, limit: Option<(u64, &str)>) -> Finding {
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        .saturating_add(RESERVED_FILES);
    match limit {
        None => Finding::skip(Check::OpenFiles, "", "the limit of open files is not known here"),
        Some((limit, whose)) if limit < needed => Finding::fail(
            Check::OpenFiles,
            "",
            format!("{connections} connections need {needed} open files, and {whose} allows {limit}"),
            format!("`ulimit -n {needed}`, LimitNOFILE={needed} in a systemd unit; or lower max_connections"),
        ),
        Some((limit, whose)) => Finding::ok(
            Check::OpenFiles,
            "",
            format!("{connections} connections need {needed} open files, {whose} allows {limit}"),
        ),
    }
}

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

/// This host's own clock.
pub(super) fn clock(now: i64) -> Finding {
    if now < EARLIEST {
        return Finding::fail(
            Check::Clock,
            "",
            format!(
                "this host believes that it is {}: certificates look not yet valid",
                show_time(now)
            ),
            "set the clock (timedatectl, chrony) before anything else",
        );
    }
    Finding::ok(Check::Clock, "", format!("{} here", show_time(now)))
}

/// As the loader counts (L-31).
const RESERVED_FILES: u64 = 64;
/// Two weeks, as the log and the alerts.
const NOTICE_DAYS: i64 = 14;
/// Half a day, as the log.
const LIST_NOTICE: i64 = 43_200;
/// Start of 2026: this program did not exist before.
const EARLIEST: i64 = 1_767_225_600;

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

    fn levels(found: &[Finding]) -> Vec<(Level, &str)> {
        found
            .iter()
            .map(|finding| (finding.level, finding.message.as_str()))
            .collect()
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

    #[test]
    fn files_that_others_may_exchange_are_open() {
        let file = FileFacts {
            path: "/etc/keyward/secret".into(),
            mode: 0o100_640,
            directory_mode: 0o40_755,
            secret: true,
            linked: false,
        };
        assert!(files(std::slice::from_ref(&file), false).is_empty());
        let found = files(std::slice::from_ref(&file), true);
        assert_eq!(found[0].level, Level::Warn);
        assert!(found[0].message.contains("subPath"));
        assert!(
            files(
                &[FileFacts {
                    linked: true,
                    ..file.clone()
                }],
                true
            )
            .is_empty()
        );
        let open = FileFacts {
            directory_mode: 0o40_777,
            ..file.clone()
        };
        assert_eq!(
            one(files(&[open], false)).remedy.unwrap(),
            "chmod o-w /etc/keyward"
        );
        let temporary = FileFacts {
            directory_mode: 0o41_777,
            ..file.clone()
        };
        assert!(files(&[temporary], false).is_empty());
        let open = FileFacts {
            mode: 0o100_646,
            ..file
        };
        assert_eq!(one(files(&[open], false)).level, Level::Fail);
    }

    #[test]
    fn open_files_and_clocks_have_limits() {
        assert_eq!(open_files(100, Some((264, "x"))).level, Level::Ok);
        assert_eq!(open_files(100, Some((263, "x"))).level, Level::Fail);
        assert_eq!(open_files(usize::MAX, Some((263, "x"))).level, Level::Fail);
        assert_eq!(open_files(100, None).level, Level::Skip);
        assert_eq!(clock(0).level, Level::Fail);
        assert_eq!(clock(NOW).level, Level::Ok);
        assert_eq!(levels(&[clock(NOW)])[0].1, "2027-01-15T08:00:00Z here");
    }
}
