//! The credential that we log in to Redis with: one or two passwords, read again when they change (A-6, F-16).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::config::CredentialSource;
use crate::secret::Secret;

/// Why the secret cannot be read. Never shows any of it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct CredentialError {
    /// The file or variable.
    pub place: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Where the credential comes from, and what is in force.
pub(super) struct CredentialStore {
    source: CredentialSource,
    current: ArcSwap<Credential>,
}

/// One or two passwords, the one in force first.
pub(super) struct Credential {
    passwords: Vec<Secret>,
    /// Which of them Redis took last: asked first, so that a rotation does not fill Redis's ACL LOG.
    preferred: AtomicUsize,
    changed: SystemTime,
}

impl CredentialStore {
    /// Reads it for the first time.
    pub(super) fn load(
        source: &CredentialSource,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialError> {
        let credential = Credential::new(read(source, environment)?, modified(source));
        Ok(Self {
            source: source.clone(),
            current: ArcSwap::from_pointee(credential),
        })
    }

    /// Reads a file again; `true` if there is something else in it. The environment cannot change.
    pub(super) async fn reload(&self) -> Result<bool, CredentialError> {
        let CredentialSource::File(path) = &self.source else {
            return Ok(false);
        };
        let source = CredentialSource::File(path.clone());
        // Secrets may lie on a network file system; the worker must not wait for it.
        let reading = tokio::task::spawn_blocking(move || {
            read(&source, &|_| None).map(|passwords| (passwords, modified(&source)))
        });
        let (passwords, changed) = reading.await.map_err(|_| CredentialError {
            place: path.display().to_string(),
            problem: "reading it was interrupted".to_owned(),
        })??;
        if self.current.load().passwords == passwords {
            return Ok(false);
        }
        self.current.store(Arc::new(Credential::new(passwords, changed)));
        Ok(true)
    }

    pub(super) fn current(&self) -> Arc<Credential> {
        self.current.load_full()
    }

    pub(super) fn changed(&self) -> SystemTime {
        self.current.load().changed
    }

    /// For messages: the file and when it was written, or the variable.
    pub(super) fn describe(&self) -> String {
        match &self.source {
            CredentialSource::File(path) => {
                let at = time::OffsetDateTime::from(self.changed())
                    .format(&time::format_description::well_known::Rfc3339)
                    .unwrap_or_default();
                format!("secret file {}, modified {at}", path.display())
            }
            CredentialSource::Environment(name) | CredentialSource::EnvironmentUrl(name) => {
                format!("environment variable {name}")
            }
        }
    }
}

impl Credential {
    fn new(passwords: Vec<Secret>, changed: SystemTime) -> Self {
        Self {
            passwords,
            preferred: AtomicUsize::new(0),
            changed,
        }
    }

    /// The passwords in the order in which they are to be tried, each with its number.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, &Secret)> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let all = || self.passwords.iter().enumerate();
        all()
            .filter(move |(number, _)| *number == preferred)
            .chain(all().filter(move |(number, _)| *number != preferred))
    }

    /// Redis took this one.
    pub(super) fn prefer(&self, number: usize) {
        self.preferred.store(number, Ordering::Relaxed);
    }
}

/// When the secret was last changed: the file's time, or now.
fn modified(source: &CredentialSource) -> SystemTime {
    match source {
        CredentialSource::File(path) => std::fs::metadata(path).and_then(|found| found.modified()).ok(),
        CredentialSource::Environment(_) | CredentialSource::EnvironmentUrl(_) => None,
    }
    .unwrap_or_else(SystemTime::now)
}

fn read(
    source: &CredentialSource,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Secret>, CredentialError> {
    let (place, bytes) = match source {
        CredentialSource::File(path) => (path.display().to_string(), read_file(path)?),
        CredentialSource::Environment(name) | CredentialSource::EnvironmentUrl(name) => {
            let value = environment(name).ok_or_else(|| CredentialError {
                place: name.clone(),
                problem: "the environment variable is not set".to_owned(),
            })?;
            (name.clone(), Secret::new(value.into_bytes()))
        }
    };
    let lines = bytes.expose().split(|byte| *byte == b'\n');
    let passwords: Vec<_> = lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .take(2)
        .map(|line| Secret::new(line.to_vec()))
        .collect();
    if passwords.is_empty() {
        return Err(CredentialError {
            place,
            problem: "there is no password in it".to_owned(),
        });
    }
    Ok(passwords)
}

fn read_file(path: &PathBuf) -> Result<Secret, CredentialError> {
    std::fs::read(path)
        .map(Secret::new)
        .map_err(|error| CredentialError {
            place: path.display().to_string(),
            problem: format!("cannot be read: {error}"),
        })
}
