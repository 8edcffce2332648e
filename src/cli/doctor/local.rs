//! What this host says: configuration, files, limits, clock. Facts in, findings out.

use std::path::PathBuf;

use crate::config::{Diagnostic, code};
use crate::tls::show_time;

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
/// Start of 2026: this program did not exist before.
const EARLIEST: i64 = 1_767_225_600;

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const NOW: i64 = 1_800_000_000;

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
