//! `keyward hash-password`: what a configuration may hold instead of a password.

use std::io::{Read, Write as _};

use anyhow::Context as _;

use crate::acl::rule;
use crate::secret::Secret;

use super::{Exit, print, talk};

/// Reads a password from standard input and prints its SHA-256, as Redis's ACL writes it behind `#`.
pub(super) fn hash_password() -> anyhow::Result<Exit> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(MAX_PASSWORD)
        .read_to_end(&mut input)
        .context("cannot read standard input")?;
    let password = Secret::new(input);
    let bytes = password.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.is_empty() {
        talk("error: no password on standard input; use it as: keyward hash-password < password-file");
        return Ok(Exit::Usage);
    }
    if bytes.len() < 32 {
        talk("warning: under 32 characters; keyward gen-password makes a good one");
    }
    let digest = rule::hash_password(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!("sha256:{hex}"));
    std::io::stdout().flush()?;
    Ok(Exit::Done)
}

/// As secret files: nobody's password is longer.
const MAX_PASSWORD: u64 = 64 * 1024;
