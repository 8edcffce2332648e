//! The client side: TLS towards the upstream.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    ProtocolVersion, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::certificate::{CertificateInfo, CertificateRole, describe};
use super::server::{is_eof, root_store, unusable_pair};
use super::{TlsError, pem, provider, show_time, versions};
use crate::config::UpstreamTls;
use crate::net::{Socket, Stream};

/// An upstream's TLS, loaded and checked.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// Expiry of every certificate file that was loaded (the system's roots are not listed).
    pub certificates: Vec<CertificateInfo>,
}

impl ClientTls {
    /// Reads all files and builds a configuration that shares nothing with any other.
    ///
    /// # Errors
    /// [`TlsError`]: an unreadable or damaged file, a key that does not belong to its certificate, no CA at all, a
    /// `server_name` that is no name.
    pub fn load(section: &UpstreamTls) -> Result<Self, TlsError> {
        let mut certificates = Vec::new();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions(ProtocolVersion::TLSv1_2))
            .map_err(|error| TlsError::new(Path::new("upstream"), error.to_string()))?;
        let builder = if section.unsafe_skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(SkipVerify(provider())))
        } else {
            let roots = match &section.ca_file {
                Some(file) => {
                    let authorities = pem::certificates(file)?;
                    certificates.extend(describe(CertificateRole::UpstreamCa, file, &authorities));
                    root_store(file, authorities)?
                }
                None => system_roots()?,
            };
            builder.with_root_certificates(roots)
        };
        let config = match &section.client_certificate {
            Some(files) => {
                let chain = pem::certificates(&files.certificate_file)?;
                let key = pem::private_key(&files.key_file)?;
                certificates.extend(describe(
                    CertificateRole::UpstreamClient,
                    &files.certificate_file,
                    &chain,
                ));
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable_pair(&files.certificate_file, &files.key_file, &error))?
            }
            None => builder.with_no_client_auth(),
        };
        let server_name = match &section.server_name {
            Some(name) => Some(parse_name(name).ok_or_else(|| {
                TlsError::new(
                    Path::new(name),
                    "server_name is neither a host name nor an IP address",
                )
            })?),
            None => None,
        };
        Ok(Self {
            config: Arc::new(config),
            server_name,
            certificates,
        })
    }

    /// Performs the handshake and verifies that the upstream is `host` (or the configured `server_name`).
    ///
    /// Has no deadline of its own; the caller's covers connecting as a whole.
    ///
    /// # Errors
    /// [`ConnectFailure`]; nothing but the handshake has been sent then.
    pub async fn connect(&self, socket: Socket, host: &str) -> Result<Stream, ConnectFailure> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => parse_name(host).ok_or_else(|| ConnectFailure {
                reason: TlsReason::WrongName,
                detail: "there is no host name to verify; set server_name".to_owned(),
            })?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        match connector.connect(name, socket).await {
            Ok(stream) => Ok(Stream::TlsClient(Box::new(stream))),
            Err(error) => Err(ConnectFailure::from_io(&error)),
        }
    }
}

/// A name to verify: DNS (a final dot is not part of a certificate's names) or IP address.
fn parse_name(name: &str) -> Option<ServerName<'static>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned()).ok()
}

/// The roots that the operating system trusts.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // These bundles are not ours; some hold certificates that no library reads.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reasons: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
        let reasons = if reasons.is_empty() {
            "none were found".to_owned()
        } else {
            reasons.join("; ")
        };
        return Err(TlsError::new(
            Path::new("system CA certificates"),
            format!("there is no CA to verify the upstream with: {reasons}"),
        )
        .help("install ca-certificates, or set ca_file to the CA of your Redis"));
    }
    Ok(roots)
}

/// Why TLS to the upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsReason {
    /// Its certificate is not valid now.
    Expired,
    /// Its certificate is for other names.
    WrongName,
    /// Its certificate does not lead to a CA that we trust.
    Untrusted,
    /// It does not speak TLS.
    NotTls,
    /// No protocol version in common.
    Version,
    /// No cipher suite, group or signature scheme in common.
    Cipher,
    /// It does not accept our client certificate, or wants one.
    ClientCertificate,
    /// It closed during the handshake.
    Eof,
    /// It did not finish the handshake in time.
    Timeout,
    /// Anything else.
    Other,
}

impl TlsReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Expired,
        Self::WrongName,
        Self::Untrusted,
        Self::NotTls,
        Self::Version,
        Self::Cipher,
        Self::ClientCertificate,
        Self::Eof,
        Self::Timeout,
        Self::Other,
    ];

    /// Metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "tls_expired",
            Self::WrongName => "tls_wrong_name",
            Self::Untrusted => "tls_untrusted",
            Self::NotTls => "tls_not_tls",
            Self::Version => "tls_version",
            Self::Cipher => "tls_cipher",
            Self::ClientCertificate => "tls_client_certificate",
            Self::Eof => "tls_eof",
            Self::Timeout => "tls_timeout",
            Self::Other => "tls_other",
        }
    }

    fn from_rustls(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(problem) => match problem {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName
                }
                _ => Self::Untrusted,
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::PeerIncompatible(_) => Self::Cipher,
            Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied => Self::ClientCertificate,
                AlertDescription::ProtocolVersion => Self::Version,
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Self::Cipher,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// A failed TLS connection to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFailure {
    /// The class of it.
    pub reason: TlsReason,
    /// Names, dates and what to do, for the log.
    pub detail: String,
}

impl ConnectFailure {
    /// The handshake was not finished within `limit`.
    pub fn timeout(limit: Duration) -> Self {
        let detail = format!("it did not answer the TLS handshake within {limit:?}; is TLS on at that port?");
        Self {
            reason: TlsReason::Timeout,
            detail,
        }
    }

    /// Reads the reason out of what a TLS stream reported. With TLS 1.3 the upstream's verdict about our
    /// certificate comes after the handshake, so reads and writes may report it as well.
    pub fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self { reason: TlsReason::from_rustls(error), detail: explain(error) },
            None if is_eof(error) => Self {
                reason: TlsReason::Eof,
                detail: "it closed the connection during the TLS handshake; is TLS on at that port, and is maxclients reached?"
                    .to_owned(),
            },
            None => Self { reason: TlsReason::Other, detail: error.to_string() },
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// One line with names, dates and the remedy (F-19).
fn explain(error: &Error) -> String {
    let seconds = |time: &UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            format!("its certificate expired at {}; renew it", show_time(seconds(not_after)))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            format!(
                "its certificate is not valid before {}; check both clocks",
                show_time(seconds(not_before))
            )
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            format!(
                "its certificate is for {}, not for {}; use one of its names in the URL, or set server_name",
                if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") },
                expected.to_str()
            )
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by a CA that we trust; set ca_file to the CA that signed it".to_owned()
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS at that port; use redis:// or the TLS port".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::NoCertificate) => {
            "it wants a client certificate; set client_certificate_file and client_key_file, or tls-auth-clients no in Redis"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Takes every certificate; only behind `unsafe_skip_verify`. Signatures of the handshake are still checked, so the
/// peer at least owns the key of what it shows.
#[derive(Debug)]
struct SkipVerify(Arc<CryptoProvider>);

impl ServerCertVerifier for SkipVerify {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_verify_are_host_names_without_final_dot_and_addresses() {
        for (text, expected) in [
            ("redis.test", Some("redis.test")),
            ("redis.test.", Some("redis.test")),
            ("my_redis", Some("my_redis")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(
                parse_name(text).map(|name| name.to_str().into_owned()).as_deref(),
                expected
            );
        }
    }

    #[test]
    fn a_server_name_that_is_none_is_refused_at_load() {
        let section = UpstreamTls {
            server_name: Some("not a name".to_owned()),
            unsafe_skip_verify: true,
            ..UpstreamTls::default()
        };
        assert!(
            ClientTls::load(&section)
                .unwrap_err()
                .to_string()
                .contains("server_name")
        );
    }
}
