//! What is told about a loaded certificate: role, name, expiry.

use rustls::pki_types::CertificateDer;
use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

/// Expiry of one loaded certificate file, for the metric `keyward_tls_certificate_not_after_timestamp_seconds` and
/// for warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// What it is used for; a metric label.
    pub role: CertificateRole,
    /// The file as the configuration names it; a metric label, so never anything from the certificate itself.
    pub name: String,
    /// Subject of the certificate that expires first, for people.
    pub subject: String,
    /// When the first certificate of the file expires, in seconds of Unix time.
    pub not_after: i64,
}

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateRole {
    /// Shown to clients.
    Listener,
    /// Verifies clients.
    ClientCa,
    /// Verifies the upstream.
    UpstreamCa,
    /// Shown to the upstream.
    UpstreamClient,
}

impl CertificateRole {
    /// All roles.
    pub const ALL: [Self; 4] = [
        Self::Listener,
        Self::ClientCa,
        Self::UpstreamCa,
        Self::UpstreamClient,
    ];

    /// Metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ClientCa => "client_ca",
            Self::UpstreamCa => "upstream_ca",
            Self::UpstreamClient => "upstream_client",
        }
    }
}

/// Describes the certificate of a file that expires first; `None` for an empty list.
pub(super) fn describe(
    role: CertificateRole,
    file: &Path,
    certificates: &[CertificateDer<'_>],
) -> Option<CertificateInfo> {
    certificates
        .iter()
        .filter_map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(CertificateInfo {
                role,
                name: file.display().to_string(),
                subject: certificate.subject().to_string(),
                not_after: certificate.validity().not_after.timestamp(),
            })
        })
        .min_by_key(|info| info.not_after)
}

/// Whether these bytes are a certificate and nothing else.
pub(super) fn check(der: &CertificateDer<'_>) -> Result<(), &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], _)) => Ok(()),
        Ok(_) => Err("there are bytes behind its end"),
        Err(_) => Err("it is not an X.509 certificate"),
    }
}
