//! Credentials: where a secret comes from, and reading it.
//!
//! A secret file has one or two lines: the first is in force, the second is the other valid one. During a rotation
//! the new password is written above the old one; users may log in with either, and towards an upstream the first
//! is tried before the second, so the order of the steps does not matter and nobody is locked out.

use std::io::Read;
use std::path::PathBuf;

use thiserror::Error;

use super::CredentialSource;
use super::url::{RedisUrl, UrlError};
use crate::secret::Secret;

/// A secret file may be this long; passwords are not longer, and `/dev/zero` is.
pub const MAX_SECRET_FILE: usize = 64 * 1024;

/// One secret, or two during a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// In force.
    pub current: Secret,
    /// The other valid one.
    pub other: Option<Secret>,
}

impl Credential {
    /// Splits the content of a secret file. Blanks belong to the secret; line ends (LF or CR LF) do not.
    pub fn parse(content: &[u8]) -> Result<Self, CredentialFault> {
        if content.len() > MAX_SECRET_FILE {
            return Err(CredentialFault::TooLarge);
        }
        let mut lines = content
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let current = lines
            .next()
            .filter(|line| !line.is_empty())
            .ok_or(CredentialFault::Empty)?;
        let other = lines.next().filter(|line| !line.is_empty());
        if lines.any(|line| !line.is_empty()) {
            return Err(CredentialFault::TooManyLines);
        }
        let secret = |bytes: &[u8]| Secret::new(bytes.to_vec());
        Ok(Self {
            current: secret(current),
            other: other.map(secret),
        })
    }

    /// Both, the one in force first.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(&self.other)
    }
}

/// What is wrong with the content of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialFault {
    /// Nothing, or an empty first line.
    #[error("its first line is empty")]
    Empty,
    /// More than [`MAX_SECRET_FILE`].
    #[error("it is larger than 64 KiB")]
    TooLarge,
    /// More than the one in force and the other.
    #[error("it has more than two lines")]
    TooManyLines,
    /// The environment variable does not exist.
    #[error("it is not set")]
    NotSet,
    /// The environment variable holds a URL that cannot be read.
    #[error("it holds no valid URL: {0}")]
    Url(UrlError),
    /// The environment variable holds a URL without a password.
    #[error("its URL has no password")]
    NoPassword,
}

/// Why a credential could not be read. Never holds any of its content.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read the secret file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can be read and is not usable.
    #[error("the secret file {} is not usable: {fault}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        fault: CredentialFault,
    },
    /// The environment variable is not usable. Its name is left out: in a wrong configuration it may be the
    /// password itself.
    #[error("the environment variable of a password is not usable: {0}")]
    Environment(CredentialFault),
}

impl CredentialSource {
    /// Reads the secret now. `env` looks up environment variables.
    pub fn read(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Credential, CredentialError> {
        match self {
            Self::File(path) => {
                let content = read_bounded(path).map_err(|source| CredentialError::Io {
                    path: path.clone(),
                    source,
                })?;
                Credential::parse(content.expose()).map_err(|fault| CredentialError::File {
                    path: path.clone(),
                    fault,
                })
            }
            Self::Environment(name) => {
                let value = env(name).ok_or(CredentialError::Environment(CredentialFault::NotSet))?;
                let value = Secret::new(value.into_bytes());
                Credential::parse(value.expose()).map_err(CredentialError::Environment)
            }
            Self::EnvironmentUrl(name) => {
                let value = env(name).ok_or(CredentialError::Environment(CredentialFault::NotSet))?;
                let value = Secret::new(value.into_bytes());
                let text = std::str::from_utf8(value.expose())
                    .map_err(|_| CredentialError::Environment(CredentialFault::NotSet))?;
                let url = RedisUrl::parse(text)
                    .map_err(|error| CredentialError::Environment(CredentialFault::Url(error)))?;
                let current = url
                    .password
                    .ok_or(CredentialError::Environment(CredentialFault::NoPassword))?;
                Ok(Credential { current, other: None })
            }
        }
    }

    /// The file to watch, if it is one.
    pub fn file(&self) -> Option<&std::path::Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Environment(_) | Self::EnvironmentUrl(_) => None,
        }
    }
}

/// At most one byte more than allowed, so that the caller sees that it is too much.
fn read_bounded(path: &std::path::Path) -> std::io::Result<Secret> {
    let file = std::fs::File::open(path)?;
    // The full capacity at once: growing would leave copies of the secret in freed memory.
    let mut content = Vec::with_capacity(MAX_SECRET_FILE + 1);
    let limit = u64::try_from(MAX_SECRET_FILE + 1).unwrap_or(u64::MAX);
    let outcome = file.take(limit).read_to_end(&mut content);
    let content = Secret::new(content);
    outcome.map(|_| content)
}

/// Why a password is too easy to guess; `None` when nothing speaks against it.
pub(super) fn weakness(secret: &Secret) -> Option<&'static str> {
    /// Examples of documentation and compose files, and the first guesses of every attacker.
    const WELL_KNOWN: [&str; 22] = [
        "change-me-in-production",
        "change-me",
        "changeme",
        "change_me",
        "changeit",
        "password",
        "passw0rd",
        "p@ssw0rd",
        "secret",
        "redis",
        "redis-password",
        "redispassword",
        "redis_password",
        "foobared",
        "admin",
        "root",
        "default",
        "test",
        "keyward",
        "qwerty",
        "letmein",
        "your-password-here",
    ];
    let bytes = secret.expose();
    let lower = zeroize::Zeroizing::new(bytes.to_ascii_lowercase());
    if WELL_KNOWN
        .iter()
        .any(|known| known.as_bytes() == lower.as_slice())
    {
        return Some("it is a well-known example password");
    }
    // The number of the security guides: 32 characters of a random text are beyond guessing.
    if bytes.len() < 32 {
        return Some("it is shorter than 32 characters");
    }
    let first = bytes.first();
    if bytes.iter().all(|byte| Some(byte) == first) {
        return Some("it repeats one character");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), CredentialFault> {
        let credential = Credential::parse(content)?;
        Ok((
            credential.current.expose().to_vec(),
            credential.other.map(|other| other.expose().to_vec()),
        ))
    }

    #[test]
    fn secret_files_have_one_or_two_lines() {
        assert_eq!(lines(b"a"), Ok((b"a".to_vec(), None)));
        assert_eq!(lines(b"a\n"), Ok((b"a".to_vec(), None)));
        assert_eq!(lines(b"a\r\n"), Ok((b"a".to_vec(), None)));
        assert_eq!(lines(b"a\nb"), Ok((b"a".to_vec(), Some(b"b".to_vec()))));
        assert_eq!(
            lines(b"a\r\nb\r\n\r\n\n"),
            Ok((b"a".to_vec(), Some(b"b".to_vec())))
        );
        assert_eq!(lines(b" a \n"), Ok((b" a ".to_vec(), None)));
        assert_eq!(lines(b"a\n\n"), Ok((b"a".to_vec(), None)));
    }

    #[test]
    fn unusable_contents_are_named() {
        assert_eq!(lines(b""), Err(CredentialFault::Empty));
        assert_eq!(lines(b"\n"), Err(CredentialFault::Empty));
        assert_eq!(lines(b"\nb\n"), Err(CredentialFault::Empty));
        assert_eq!(lines(b"a\nb\nc\n"), Err(CredentialFault::TooManyLines));
        assert_eq!(
            lines(&[b'a'; MAX_SECRET_FILE + 1]),
            Err(CredentialFault::TooLarge)
        );
        assert!(lines(&[b'a'; MAX_SECRET_FILE]).is_ok());
    }

    #[test]
    fn every_source_is_read_and_no_error_shows_a_secret() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "new\nold\n").expect("write");
        let env = |name: &str| match name {
            "PW" => Some("s3cret".to_owned()),
            "URL" => Some("redis://:s3%20cret@h".to_owned()),
            "BAD" => Some("redis://:s3cret/@h".to_owned()),
            "OPEN" => Some("redis://h".to_owned()),
            _ => None,
        };
        let file = CredentialSource::File(path).read(&env).expect("file");
        assert_eq!(
            file.iter().map(|s| s.expose().to_vec()).collect::<Vec<_>>(),
            [b"new".to_vec(), b"old".to_vec()]
        );
        let value = CredentialSource::Environment("PW".to_owned())
            .read(&env)
            .expect("variable");
        assert_eq!(value.current.expose(), b"s3cret");
        let value = CredentialSource::EnvironmentUrl("URL".to_owned())
            .read(&env)
            .expect("url");
        assert_eq!(value.current.expose(), b"s3 cret");
        for source in [
            CredentialSource::Environment("s3cret".to_owned()),
            CredentialSource::EnvironmentUrl("BAD".to_owned()),
            CredentialSource::EnvironmentUrl("OPEN".to_owned()),
            CredentialSource::File(folder.path().join("none")),
            CredentialSource::File(folder.path().to_owned()),
        ] {
            let error = source.read(&env).expect_err("unusable");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn short_and_well_known_passwords_are_weak() {
        for weak in [
            "change-me-in-production",
            "Password",
            "redis",
            "short-but-random-9f2",
            &"a".repeat(40),
        ] {
            assert!(
                weakness(&Secret::new(weak.as_bytes().to_vec())).is_some(),
                "{weak}"
            );
        }
        let strong = Secret::new(b"pN4nD2cFQm0vVnYc7cBzJw1k9TgXo3Lh".to_vec());
        assert_eq!(weakness(&strong), None);
    }
}
