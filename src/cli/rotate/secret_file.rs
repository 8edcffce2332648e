//! Replacing a file that others read: whole or not at all, with the same owner and mode.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;

use crate::config::MAX_SECRET_FILE;
use crate::secret::Secret;

/// A file with a secret or digests in it.
#[derive(Debug)]
pub(super) struct SecretFile {
    /// As it is called where it is named.
    shown: PathBuf,
    /// Where it really is: a link stays a link.
    real: PathBuf,
    /// What is written before it takes the file's name. Always the same, so that nothing is left behind after a crash.
    draft: PathBuf,
}

impl SecretFile {
    /// Finds the file.
    pub(super) fn find(path: &Path) -> anyhow::Result<Self> {
        let real = fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            shown: path.to_owned(),
            draft: real.with_file_name(format!(".{name}.rotate")),
            real,
        })
    }

    /// What is in it.
    pub(super) fn read(&self) -> anyhow::Result<Secret> {
        let content =
            fs::read(&self.real).with_context(|| format!("cannot read {}", self.shown.display()))?;
        Ok(Secret::new(content))
    }

    /// When it was written last.
    pub(super) fn modified(&self) -> anyhow::Result<SystemTime> {
        fs::metadata(&self.real)
            .and_then(|metadata| metadata.modified())
            .with_context(|| format!("cannot read {}", self.shown.display()))
    }

    /// Finds out whether it could be replaced, before anything depends on it.
    pub(super) fn try_out(&self) -> anyhow::Result<()> {
        let outcome = self.write_draft(b"");
        let removed = remove(&self.draft);
        outcome.and(removed).with_context(|| self.trouble())
    }

    /// Puts `content` in its place, if it still holds `expected`.
    pub(super) fn replace(&self, expected: &Secret, content: &Secret) -> anyhow::Result<()> {
        let outcome = self.write_draft(content.expose());
        let outcome = outcome.with_context(|| self.trouble()).and_then(|()| {
            if self.read()? != *expected {
                anyhow::bail!(
                    "{} was changed by somebody else in this moment; is another rotation under way? Nothing was written",
                    self.shown.display()
                );
            }
            fs::rename(&self.draft, &self.real).with_context(|| self.trouble())
        });
        if outcome.is_err() {
            let _ = remove(&self.draft);
        }
        outcome?;
        // The name, too, has to be on the disk before Redis is told.
        let folder = self.real.parent().unwrap_or_else(|| Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot write {} to the disk", folder.display()))
    }

    fn write_draft(&self, content: &[u8]) -> io::Result<()> {
        remove(&self.draft)?;
        let present = fs::metadata(&self.real)?;
        let mut draft = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.draft)?;
        let made = draft.metadata()?;
        if (made.uid(), made.gid()) != (present.uid(), present.gid()) {
            fchown(&draft, Some(present.uid()), Some(present.gid()))?;
        }
        draft.set_permissions(present.permissions())?;
        draft.write_all(content)?;
        draft.sync_all()
    }

    fn trouble(&self) -> String {
        let folder = self.real.parent().unwrap_or_else(|| Path::new("."));
        format!(
            "cannot replace {} (whoever runs this must be its owner, or root, and may write to {}; a secret that \
             Kubernetes or Vault mounts is changed there)",
            self.shown.display(),
            folder.display()
        )
    }
}

impl std::fmt::Display for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.shown.display())
    }
}

/// The lines of a secret file with these passwords.
pub(super) fn lines(passwords: &[&Secret]) -> Secret {
    let mut content = Vec::with_capacity(MAX_SECRET_FILE);
    for password in passwords {
        content.extend_from_slice(password.expose());
        content.push(b'\n');
    }
    Secret::new(content)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn the_file_is_replaced_behind_its_link_with_its_mode_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        // Of a run that was killed.
        fs::write(folder.path().join(".real.rotate"), "half").unwrap();
        let file = SecretFile::find(&link).unwrap();
        file.try_out().unwrap();
        assert_eq!(file.read().unwrap(), secret("old\n"));
        let content = lines(&[&secret("new"), &secret("old")]);
        file.replace(&secret("old\n"), &content).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new\nold\n");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let error = file.replace(&secret("old\n"), &secret("other\n")).unwrap_err();
        assert!(error.to_string().contains("somebody else"), "{error}");
        assert_eq!(fs::read_to_string(&real).unwrap(), "new\nold\n");
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["link", "real"]);
    }
}
