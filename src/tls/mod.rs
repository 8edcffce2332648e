//! TLS on both sides: loading certificates, handshakes, and the reasons why either fails.
//!
//! Two principles. *Loading is all or nothing*: every file is read and checked before anything changes, a bundle with
//! one bad entry is refused whole, and the message names the file and what to do. *A reload starts from nothing*:
//! each load makes a new configuration with its own session storage and ticket keys, because a session resumed from
//! an older one would skip the certificate check that the reload may have tightened (rule 11, X-4).
//!
//! The cryptography is aws-lc-rs, passed explicitly everywhere; no process-wide default is installed or needed.

mod certificate;
mod client;
mod facts;
mod identity;
mod pem;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ProtocolVersion, SupportedProtocolVersion};

pub use certificate::{CertificateInfo, CertificateRole};
pub use client::{ClientTls, ConnectFailure, TlsReason};
pub use facts::{CertificateFacts, chain_facts, peer_facts};
pub use identity::certificate_names;
pub use server::{
    ClientTrust, FailureKind, HandshakeFailure, PLAINTEXT_REPLY, Rejected, ServerTls, first_byte, handshake,
};

/// Why certificates, keys or revocation lists cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}{}", file.display(), help_suffix(help.as_deref()))]
pub struct TlsError {
    /// The file, as the configuration names it.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl TlsError {
    fn new(file: &Path, problem: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            problem: problem.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn help_suffix(help: Option<&str>) -> String {
    help.map(|help| format!("; {help}")).unwrap_or_default()
}

/// The one cryptographic provider: rustls's default suites and groups, hybrid post-quantum first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The protocol versions from `lowest` up.
fn versions(lowest: ProtocolVersion) -> Vec<&'static SupportedProtocolVersion> {
    let all = rustls::ALL_VERSIONS.iter().copied();
    all.filter(|version| lowest != ProtocolVersion::TLSv1_3 || version.version == lowest)
        .collect()
}

/// A moment as `2026-11-01T00:00:00Z`, for messages.
pub(crate) fn show_time(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{unix_seconds} (Unix time)"))
}
