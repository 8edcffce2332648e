//! What a certificate says of itself, for those who look for faults before clients meet them.

use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, pem};
use crate::net::Stream;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is.
    pub subject: String,
    /// Who signed it, by its own account.
    pub issuer: String,
    /// First moment of its validity, in Unix seconds.
    pub not_before: i64,
    /// Last moment, in Unix seconds.
    pub not_after: i64,
    /// DNS names and addresses of the subject alternative names; clients look at no others.
    pub names: Vec<String>,
    /// It may identify a server: it says so, or says nothing about its purpose.
    pub for_servers: bool,
}

impl CertificateFacts {
    /// Signed by itself, by its own account: a root, or a certificate that stands alone.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(name).collect(),
            _ => Vec::new(),
        };
        let for_servers = match certificate.extended_key_usage() {
            Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
            _ => true,
        };
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            names,
            for_servers,
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address: IpAddr = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok()?.into(),
                _ => <[u8; 16]>::try_from(*bytes).ok()?.into(),
            };
            Some(address.to_string())
        }
        _ => None,
    }
}

/// The certificates of a file, in its order: the leaf first in a chain.
///
/// # Errors
/// [`TlsError`]: the file cannot be read as certificates.
pub fn chain_facts(file: &Path) -> Result<Vec<CertificateFacts>, TlsError> {
    let chain = pem::certificates(file)?;
    Ok(chain.iter().filter_map(CertificateFacts::read).collect())
}

/// What the other end of a connection showed, its leaf first; empty without TLS.
pub fn peer_facts(stream: &Stream) -> Vec<CertificateFacts> {
    let shown = stream.peer_certificates().unwrap_or_default();
    shown.iter().filter_map(CertificateFacts::read).collect()
}
