//! A private CA and what it issues, for development and for those who have no PKI.

use std::net::IpAddr;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// A certificate and its key, PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A new CA, valid for ten years. ECDSA P-256, as everything here.
pub(super) fn authority() -> anyhow::Result<Issued> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = params("Keyward development CA", CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(&key)
        .context("cannot make the CA's certificate")?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A certificate of this CA: for a server when it has names, else for the client `name`.
pub(super) fn issue(authority: &Issued, name: &str, hosts: &[String]) -> anyhow::Result<Issued> {
    let ca_key = KeyPair::from_pem(&authority.key).context("the CA's key cannot be read")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, ca_key)
        .context("the CA's certificate cannot be read")?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = params(name, LEAF_DAYS);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if hosts.is_empty() {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().context("not a name")?)];
    } else {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    host.as_str()
                        .try_into()
                        .with_context(|| format!("`{host}` is no host name"))?,
                ),
            });
        }
    }
    let certificate = params.signed_by(&key, &issuer).context("cannot sign")?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn params(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    // Clocks differ by a little.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// When a leaf made now ends, for the person: `2027-11-23`.
pub(super) fn leaf_end() -> String {
    (OffsetDateTime::now_utc() + Duration::days(LEAF_DAYS))
        .date()
        .to_string()
}

const CA_DAYS: i64 = 3650;
/// Under the 398 days that clients of public certificates accept at most.
const LEAF_DAYS: i64 = 365;
