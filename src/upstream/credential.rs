//! The credential that we log in to Redis with: one or two passwords, read again when they change (A-6, F-16).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::config::{Credential, CredentialError, CredentialSource};
use crate::secret::Secret;

/// Where the credential comes from, and what is in force.
pub(super) struct CredentialStore {
    source: CredentialSource,
    current: ArcSwap<Passwords>,
}

/// What was read last.
pub(super) struct Passwords {
    credential: Credential,
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
        let passwords = Passwords::read(source, environment)?;
        Ok(Self {
            source: source.clone(),
            current: ArcSwap::from_pointee(passwords),
        })
    }

    /// Whether both hold the same passwords at present.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.current.load().credential == other.current.load().credential
    }

    /// Reads a file again; `true` if there is something else in it. The environment cannot change.
    pub(super) async fn reload(&self) -> Result<bool, CredentialError> {
        let Some(file) = self.source.file() else {
            return Ok(false);
        };
        let (source, path) = (self.source.clone(), file.to_owned());
        // Secrets may lie on a network file system; the worker must not wait for it.
        let reading = tokio::task::spawn_blocking(move || Passwords::read(&source, &|_| None));
        let passwords = reading.await.map_err(|error| CredentialError::Io {
            path,
            source: std::io::Error::other(error),
        })??;
        if self.current.load().credential == passwords.credential {
            return Ok(false);
        }
        self.current.store(Arc::new(passwords));
        Ok(true)
    }

    /// Takes what another has read from the same source; `true` if there is something else in it.
    pub(super) fn adopt(&self, other: &Self) -> bool {
        let (present, read) = (self.current(), other.current());
        if present.credential != read.credential {
            self.current.store(read);
            return true;
        }
        // A file that was written again has another date, by which `keyward rotate` sees that it was read.
        if self.source.file().is_some() && present.changed != read.changed {
            self.current.store(Arc::new(present.dated(read.changed)));
        }
        false
    }

    /// Whether both read from the same place.
    pub(super) fn has_source_of(&self, other: &Self) -> bool {
        self.source == other.source
    }

    pub(super) fn current(&self) -> Arc<Passwords> {
        self.current.load_full()
    }

    pub(super) fn changed(&self) -> SystemTime {
        self.current.load().changed
    }

    /// For messages: the file and when it was written. A variable's name may be a password put in the wrong place.
    pub(super) fn describe(&self) -> String {
        match self.source.file() {
            Some(path) => {
                let at = time::OffsetDateTime::from(self.changed())
                    .format(&time::format_description::well_known::Rfc3339)
                    .unwrap_or_default();
                format!("secret file {}, modified {at}", path.display())
            }
            None => "from the environment, which is read at start alone".to_owned(),
        }
    }
}

impl Passwords {
    /// A secret from a file is as old as the file, one from the environment as old as this moment.
    fn read(
        source: &CredentialSource,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialError> {
        // Before it is read: what comes between is never taken for a later file than it is.
        let changed = source
            .file()
            .and_then(|path| std::fs::metadata(path).ok()?.modified().ok())
            .unwrap_or_else(SystemTime::now);
        Ok(Self {
            credential: source.read(environment)?,
            preferred: AtomicUsize::new(0),
            changed,
        })
    }

    /// The same passwords in a file of another date.
    fn dated(&self, changed: SystemTime) -> Self {
        Self {
            credential: self.credential.clone(),
            preferred: AtomicUsize::new(self.preferred.load(Ordering::Relaxed)),
            changed,
        }
    }

    /// The passwords in the order in which they are to be tried, each with its number.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, &Secret)> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let all = || self.credential.iter().enumerate();
        all()
            .filter(move |(number, _)| *number == preferred)
            .chain(all().filter(move |(number, _)| *number != preferred))
    }

    /// Whether there is a second one to try.
    pub(super) fn are_two(&self) -> bool {
        self.credential.other.is_some()
    }

    /// Redis took this one.
    pub(super) fn prefer(&self, number: usize) {
        self.preferred.store(number, Ordering::Relaxed);
    }
}
