//! `keyward gen-password`: 256 random bits, more than anyone will guess, so a fast hash is enough for them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context as _;

use super::{Exit, print, talk};

/// Makes a password; prints it, or writes it to a file and prints nothing of it.
pub(super) fn gen_password(write: Option<&Path>, force: bool) -> anyhow::Result<Exit> {
    let password = generate()?;
    let Some(path) = write else {
        print(&password);
        return Ok(Exit::Done);
    };
    match write_secret(path, password.as_bytes(), force) {
        Ok(()) => {
            talk(&format!("wrote a new password to {} (mode 0600)", path.display()));
            Ok(Exit::Done)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            talk(&format!(
                "error: {} exists; --force overwrites it",
                path.display()
            ));
            Ok(Exit::Refused)
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

/// 32 random bytes in base64url without padding: 43 characters that need no quoting in a URL, a shell or TOML.
pub(super) fn generate() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system has no random bytes: {error}"))?;
    let mut text = String::with_capacity(43);
    for chunk in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(index).copied().unwrap_or(0));
        }
        for index in 0..=chunk.len() {
            let six = bits >> (18 - 6 * index) & 63;
            text.push(char::from(ALPHABET.get(six as usize).copied().unwrap_or(b'A')));
        }
    }
    Ok(text)
}

/// Writes a file that was never readable by anyone else.
pub(super) fn write_secret(path: &Path, content: &[u8], overwrite: bool) -> io::Result<()> {
    if overwrite {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// RFC 4648, section 5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_43_safe_characters_and_differ() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.len(), 43);
        assert!(one.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(one, two);
    }
}
