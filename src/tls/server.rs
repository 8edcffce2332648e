//! The server side: TLS towards clients.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, ProtocolVersion,
    RootCertStore, ServerConfig,
};
use tokio::time::Instant;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::certificate::{CertificateInfo, CertificateRole, describe};
use super::{TlsError, pem, provider, show_time, versions};
use crate::config::{CertificateFiles, ClientCertificates, ListenerTls, TlsVersion};
use crate::net::{Socket, Stream, TlsStream};

/// A listener's TLS, loaded and checked.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// For [`handshake`]. Swapped as a whole at a reload.
    pub config: Arc<ServerConfig>,
    /// What client certificates are verified with; `None`: they are not asked for.
    pub clients: Option<Arc<ClientTrust>>,
    /// Expiry of every certificate file that was loaded.
    pub certificates: Vec<CertificateInfo>,
    /// When the first revocation list runs out, in seconds of Unix time; from then on no client certificate is
    /// accepted.
    pub crl_next_update: Option<i64>,
}

/// What client certificates are verified with, for those that were accepted before a reload.
pub struct ClientTrust {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Over everything that the verdict depends on but the time.
    fingerprint: digest::Digest,
    /// Verdicts on chains by their digests.
    judged: Mutex<HashMap<Vec<u8>, bool>>,
}

impl ServerTls {
    /// Reads all files and builds a configuration that shares nothing with any other.
    ///
    /// TLS 1.2 and 1.3 (or 1.3 alone), no early data, no ALPN. Clients may resume sessions by tickets, except
    /// where client certificates are asked for: a resumed session is not checked against the revocation list
    /// again, so there every connection is a full handshake.
    ///
    /// # Errors
    /// [`TlsError`]: an unreadable or damaged file, a key that does not belong to the certificate or is open to
    /// others, client certificates without a CA, an expired revocation list.
    pub fn load(section: &ListenerTls) -> Result<Self, TlsError> {
        let certificate_file = &section.certificate.certificate_file;
        let key_file = &section.certificate.key_file;
        let chain = pem::certificates(certificate_file)?;
        let key = pem::private_key(key_file)?;
        let mut certificates = Vec::new();
        certificates.extend(describe(CertificateRole::Listener, certificate_file, &chain));
        let mut crl_next_update = None;

        let lowest = match section.min_version {
            TlsVersion::Tls12 => ProtocolVersion::TLSv1_2,
            TlsVersion::Tls13 => ProtocolVersion::TLSv1_3,
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions(lowest))
            .map_err(|error| unusable_pair(certificate_file, key_file, &error))?;
        let asks_for_certificates = section.client_certificates != ClientCertificates::Off;
        let mut clients = None;
        let builder = if asks_for_certificates {
            let trust = client_verifier(section, certificate_file, &mut certificates, &mut crl_next_update)?;
            let verifier = Arc::clone(&trust.verifier);
            clients = Some(Arc::new(trust));
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        // Checks that the key belongs to the leaf.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unusable_pair(certificate_file, key_file, &error))?;

        config.max_early_data_size = 0;
        config.alpn_protocols = Vec::new();
        if asks_for_certificates {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
            config.ticketer = Ticketer::new()
                .map_err(|error| TlsError::new(certificate_file, format!("no ticket keys: {error}")))?;
            config.send_tls13_tickets = TICKETS;
        }
        Ok(Self {
            config: Arc::new(config),
            clients,
            certificates,
            crl_next_update,
        })
    }
}

impl ServerTls {
    /// Everything that is wrong with the files, where [`Self::load`] ends with the first; empty if it would succeed.
    pub fn faults(section: &ListenerTls) -> Vec<TlsError> {
        let CertificateFiles {
            certificate_file,
            key_file,
        } = &section.certificate;
        let mut faults = Vec::new();
        faults.extend(pem::certificates(certificate_file).err());
        faults.extend(pem::private_key(key_file).err());
        if section.client_certificates != ClientCertificates::Off {
            faults.extend(client_verifier(section, certificate_file, &mut Vec::new(), &mut None).err());
        }
        if faults.is_empty() {
            faults.extend(Self::load(section).err());
        }
        faults
    }
}

/// Verifies client certificates: chain, client-authentication purpose, and revocation of the whole chain.
fn client_verifier(
    section: &ListenerTls,
    certificate_file: &Path,
    certificates: &mut Vec<CertificateInfo>,
    crl_next_update: &mut Option<i64>,
) -> Result<ClientTrust, TlsError> {
    let Some(ca_file) = &section.client_ca_file else {
        return Err(TlsError::new(
            certificate_file,
            "client certificates are asked for, but no CA is configured to verify them with",
        )
        .help("set client_ca_file, or client_certificates = \"off\""));
    };
    let authorities = pem::certificates(ca_file)?;
    certificates.extend(describe(CertificateRole::ClientCa, ca_file, &authorities));
    let mut digest = digest::Context::new(&digest::SHA256);
    for authority in &authorities {
        digest.update(authority);
    }
    let roots = root_store(ca_file, authorities)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    // Where a remaining complaint belongs to: the revocation lists, if there are any.
    let mut culprit = ca_file;
    if let Some(crl_file) = &section.client_crl_file {
        let lists = pem::revocation_lists(crl_file)?;
        *crl_next_update = check_revocation_lists(crl_file, &lists)?;
        // Whatever comes behind cannot be taken for one more authority.
        digest.update(b"revocation lists");
        for list in &lists {
            digest.update(list);
        }
        // The verifier's defaults are what X-9 wants: the whole chain, unknown status refused.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        culprit = crl_file;
    }
    if section.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|error| TlsError::new(culprit, error.to_string()))?;
    Ok(ClientTrust {
        verifier,
        fingerprint: digest.finish(),
        judged: Mutex::default(),
    })
}

impl ClientTrust {
    /// Whether a certificate that the other accepted needs to be looked at again.
    pub fn differs_from(&self, former: &Self) -> bool {
        self.fingerprint.as_ref() != former.fingerprint.as_ref()
    }

    /// Whether clients without a certificate are refused.
    pub fn is_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    /// Whether this chain, leaf first, would be accepted in a handshake now. That its owner has the key was shown in the
    /// handshake that it came with.
    pub fn accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let mut key = digest::Context::new(&digest::SHA256);
        for certificate in chain {
            key.update(&certificate.len().to_be_bytes());
            key.update(certificate);
        }
        let key = key.finish().as_ref().to_vec();
        // The sessions of one client program show the same certificate, and a reload asks about all of them at once.
        let known = lock(&self.judged).get(&key).copied();
        if let Some(accepted) = known {
            return accepted;
        }
        let accepted = self
            .verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .is_ok();
        let mut judged = lock(&self.judged);
        if judged.len() < MAX_JUDGED {
            judged.insert(key, accepted);
        }
        accepted
    }
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust").finish_non_exhaustive()
    }
}

/// The map behind it is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A store with every certificate of the bundle, or an error.
pub(super) fn root_store(
    file: &Path,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        roots.add(authority).map_err(|error| {
            TlsError::new(
                file,
                format!("certificate {} of the file cannot be a CA: {error}", index + 1),
            )
            .help("replace or remove it; a bundle with one bad certificate is refused whole")
        })?;
    }
    Ok(roots)
}

/// Every list must be in force; tells when the first one ends.
fn check_revocation_lists(
    file: &Path,
    lists: &[CertificateRevocationListDer<'_>],
) -> Result<Option<i64>, TlsError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let mut first = None;
    for (index, der) in lists.iter().enumerate() {
        let nth = index + 1;
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|_| {
            TlsError::new(
                file,
                format!("list {nth} of the file is not a certificate revocation list"),
            )
        })?;
        let Some(next_update) = list.next_update().map(|time| time.timestamp()) else {
            continue;
        };
        if next_update <= now {
            return Err(TlsError::new(
                file,
                format!(
                    "the revocation list {nth} of the file expired at {}",
                    show_time(next_update)
                ),
            )
            .help("fetch a new one from its CA; an old list does not tell who is revoked"));
        }
        first = Some(first.map_or(next_update, |first: i64| first.min(next_update)));
    }
    Ok(first)
}

/// The message for a certificate and key that do not make a pair.
pub(super) fn unusable_pair(certificate_file: &Path, key_file: &Path, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::new(
            key_file,
            format!(
                "the key does not belong to the certificate in {}",
                certificate_file.display()
            ),
        )
        .help("both must be replaced together"),
        Error::InvalidCertificate(problem) => TlsError::new(
            certificate_file,
            format!("the certificate cannot be used: {problem}"),
        ),
        _ => TlsError::new(key_file, format!("the key cannot be used: {error}"))
            .help("RSA from 2048 bits, ECDSA P-256/P-384/P-521 and Ed25519 keys work"),
    }
}

/// Why a handshake with a client failed. Which metric counts it: [`HandshakeFailure::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The client does not speak TLS: `redis://` instead of `rediss://`, most likely.
    Plaintext,
    /// No protocol version in common.
    Version,
    /// No cipher suite, group or signature scheme in common.
    Cipher,
    /// The client does not accept our certificate: it lacks the CA, or the name differs.
    ClientRejectedCertificate,
    /// Not finished in time (L-20).
    Timeout,
    /// The client closed first: port scans and TCP health checks.
    Eof,
    /// Anything else.
    Other,
    /// A certificate is required and the client has none.
    ClientCertMissing,
    /// The client's certificate does not lead to our CA, is not for clients, or its revocation is unknown.
    ClientCertUntrusted,
    /// The client's certificate is not valid now.
    ClientCertExpired,
    /// The client's certificate is on the revocation list.
    ClientCertRevoked,
}

/// Which metric a failure belongs to; nothing is counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// `keyward_tls_handshake_failures_total`.
    Tls,
    /// `keyward_auth_failures_total`: a certificate that fails is a failed login.
    Auth,
}

impl HandshakeFailure {
    /// All of them, to create the metric series beforehand.
    pub const ALL: [Self; 11] = [
        Self::Plaintext,
        Self::Version,
        Self::Cipher,
        Self::ClientRejectedCertificate,
        Self::Timeout,
        Self::Eof,
        Self::Other,
        Self::ClientCertMissing,
        Self::ClientCertUntrusted,
        Self::ClientCertExpired,
        Self::ClientCertRevoked,
    ];

    /// The labels of [`FailureKind::Tls`].
    pub const TLS_LABELS: &'static [&'static str] = &[
        "plaintext",
        "version",
        "cipher",
        "client_rejected_certificate",
        "timeout",
        "eof",
        "other",
    ];

    /// The labels of [`FailureKind::Auth`].
    pub const AUTH_LABELS: &'static [&'static str] = &[
        "client_cert_missing",
        "client_cert_untrusted",
        "client_cert_expired",
        "client_cert_revoked",
    ];

    /// Metric label and audit word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Version => "version",
            Self::Cipher => "cipher",
            Self::ClientRejectedCertificate => "client_rejected_certificate",
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::Other => "other",
            Self::ClientCertMissing => "client_cert_missing",
            Self::ClientCertUntrusted => "client_cert_untrusted",
            Self::ClientCertExpired => "client_cert_expired",
            Self::ClientCertRevoked => "client_cert_revoked",
        }
    }

    /// Which metric counts it.
    pub fn kind(self) -> FailureKind {
        match self {
            Self::ClientCertMissing
            | Self::ClientCertUntrusted
            | Self::ClientCertExpired
            | Self::ClientCertRevoked => FailureKind::Auth,
            _ => FailureKind::Tls,
        }
    }

    fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::from_rustls(error),
            None if is_eof(error) => Self::Eof,
            None => Self::Other,
        }
    }

    fn from_rustls(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plaintext,
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => Self::Version,
            Error::PeerIncompatible(problem) => match problem {
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                // Came with TLS 1.2: this is what older clients fail at first.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Self::Version,
                PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoEcPointFormatsInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => Self::Cipher,
                _ => Self::Other,
            },
            Error::AlertReceived(alert) => match alert {
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied => Self::ClientRejectedCertificate,
                AlertDescription::ProtocolVersion | AlertDescription::InappropriateFallback => Self::Version,
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Self::Cipher,
                AlertDescription::CloseNotify | AlertDescription::UserCanceled => Self::Eof,
                _ => Self::Other,
            },
            Error::NoCertificatesPresented => Self::ClientCertMissing,
            Error::InvalidCertificate(problem) => match problem {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::ClientCertExpired,
                CertificateError::Revoked => Self::ClientCertRevoked,
                _ => Self::ClientCertUntrusted,
            },
            _ => Self::Other,
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A failed handshake.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub failure: HandshakeFailure,
    /// More, for the debug log; comes from the TLS library, never from the client's bytes.
    pub detail: String,
    /// The socket, where one is left: to answer a plaintext client with [`PLAINTEXT_REPLY`] by
    /// [`Socket::refuse`], or to close so that the client gets to read the alert.
    pub socket: Option<Socket>,
}

impl Rejected {
    fn new(failure: HandshakeFailure, detail: impl Into<String>, socket: Option<Socket>) -> Self {
        Self {
            failure,
            detail: detail.into(),
            socket,
        }
    }

    fn timed_out() -> Self {
        Self::new(HandshakeFailure::Timeout, "the handshake took too long", None)
    }
}

/// Waits until the client has begun to speak, until `deadline` at the latest.
///
/// Over TCP the first byte is looked at, so that a client that speaks RESP can be told in RESP.
///
/// # Errors
/// [`Rejected`] with the reason.
pub async fn first_byte(socket: Socket, deadline: Instant) -> Result<Socket, Rejected> {
    let first = async {
        match &socket {
            Socket::Tcp(stream) => {
                let mut first = [0u8; 1];
                let read = stream.peek(&mut first).await?;
                Ok::<_, io::Error>(first.get(..read).and_then(<[u8]>::first).copied())
            }
            // These cannot be peeked at: the TLS library finds out.
            Socket::Unix(stream) => stream.readable().await.map(|()| Some(CONTENT_TYPE_HANDSHAKE)),
            // No connection changes threads before its handshake is over.
            Socket::Parked(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    };
    match tokio::time::timeout_at(deadline, first).await {
        Ok(Ok(Some(CONTENT_TYPE_HANDSHAKE))) => Ok(socket),
        Ok(Ok(Some(_))) => Err(Rejected::new(
            HandshakeFailure::Plaintext,
            "the first byte is not TLS",
            Some(socket),
        )),
        Ok(Ok(None)) => Err(Rejected::new(
            HandshakeFailure::Eof,
            "closed before the first byte",
            None,
        )),
        Ok(Err(error)) => Err(Rejected::new(
            HandshakeFailure::from_io(&error),
            error.to_string(),
            None,
        )),
        Err(_) => Err(Rejected::timed_out()),
    }
}

/// Performs the handshake of one client, until `deadline`.
///
/// # Errors
/// [`Rejected`] with the reason.
pub async fn handshake(
    config: Arc<ServerConfig>,
    socket: Socket,
    deadline: Instant,
) -> Result<Stream, Rejected> {
    match tokio::time::timeout_at(deadline, TlsStream::accept(config, socket)).await {
        Ok(Ok(stream)) => Ok(Stream::TlsServer(Box::new(stream))),
        Ok(Err((error, socket))) => Err(Rejected::new(
            HandshakeFailure::from_io(&error),
            error.to_string(),
            Some(socket),
        )),
        Err(_) => Err(Rejected::timed_out()),
    }
}

/// Whether the peer has gone.
pub(super) fn is_eof(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// What a plaintext client on a TLS port is told before the connection is closed.
pub const PLAINTEXT_REPLY: &[u8] = b"-ERR this port needs TLS: use rediss:// instead of redis://\r\n";
/// First byte of every TLS connection: a record of the handshake protocol (RFC 8446, section 5.1).
const CONTENT_TYPE_HANDSHAKE: u8 = 0x16;
/// Sessions remembered for TLS 1.2 clients without tickets; some 100 bytes each.
const SESSIONS: usize = 1024;
/// Verdicts that are remembered after a reload; of more certificates than that each session's is verified by itself.
const MAX_JUDGED: usize = 4096;
/// One ticket a connection: clients keep connections long, and each ticket costs a record and its encryption.
const TICKETS: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_distinct_and_each_belongs_to_one_metric() {
        let labels: HashSet<_> = HandshakeFailure::ALL
            .iter()
            .map(|failure| failure.label())
            .collect();
        assert_eq!(labels.len(), HandshakeFailure::ALL.len());
        let of = |kind| -> Vec<_> {
            let all = HandshakeFailure::ALL.into_iter();
            all.filter(|failure| failure.kind() == kind)
                .map(HandshakeFailure::label)
                .collect()
        };
        assert_eq!(of(FailureKind::Tls), HandshakeFailure::TLS_LABELS);
        assert_eq!(of(FailureKind::Auth), HandshakeFailure::AUTH_LABELS);
    }

    #[test]
    fn errors_have_their_reason() {
        let cases = [
            (
                Error::NoCertificatesPresented,
                HandshakeFailure::ClientCertMissing,
            ),
            (
                Error::InvalidCertificate(CertificateError::Revoked),
                HandshakeFailure::ClientCertRevoked,
            ),
            (
                Error::InvalidCertificate(CertificateError::Expired),
                HandshakeFailure::ClientCertExpired,
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                HandshakeFailure::ClientCertUntrusted,
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownRevocationStatus),
                HandshakeFailure::ClientCertUntrusted,
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                HandshakeFailure::ClientRejectedCertificate,
            ),
            (
                Error::AlertReceived(AlertDescription::ProtocolVersion),
                HandshakeFailure::Version,
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                HandshakeFailure::Cipher,
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                HandshakeFailure::Plaintext,
            ),
            (Error::DecryptError, HandshakeFailure::Other),
        ];
        for (error, expected) in cases {
            let io_error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(HandshakeFailure::from_io(&io_error), expected, "{io_error}");
        }
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(HandshakeFailure::from_io(&kind.into()), HandshakeFailure::Eof);
        }
    }
}
