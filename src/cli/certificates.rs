//! A private CA and what it issues, for development and for those who have no PKI.

mod known;

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::DnsName;
use time::{Duration, OffsetDateTime};

pub(super) use known::{Known, Renewal, date, renewal};

/// A certificate and its key, PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A new CA, valid for ten years. ECDSA P-256, as everything here.
pub(super) fn authority() -> anyhow::Result<Issued> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let now = OffsetDateTime::now_utc();
    // While one follows another, a person can tell them apart.
    let name = format!("Keyward development CA of {}", now.date());
    let mut params = params(&name, now + Duration::days(CA_DAYS));
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

/// A certificate of this CA: for a server when it has names, else for the client `name`. It ends after so many days, and not
/// after its CA.
pub(super) fn issue(authority: &Issued, name: &str, hosts: &[String], days: u16) -> anyhow::Result<Issued> {
    let ca_key = KeyPair::from_pem(&authority.key).context("the CA's key cannot be read")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, ca_key)
        .context("the CA's certificate cannot be read")?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut end = OffsetDateTime::now_utc() + Duration::days(days.into());
    if let Some(known) = Known::all(&authority.certificate).first() {
        let last = OffsetDateTime::from_unix_timestamp(known.not_after).context("the CA's end is no date")?;
        end = end.min(last);
    }
    let mut params = params(name, end);
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
                Err(_) if is_host_name(host) => {
                    SanType::DnsName(host.as_str().try_into().context("not a name")?)
                }
                Err(_) => bail!("`{host}` is no host name"),
            });
        }
    }
    let certificate = params.signed_by(&key, &issuer).context("cannot sign")?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A name, or all names directly below one.
fn is_host_name(host: &str) -> bool {
    DnsName::try_from(host.strip_prefix("*.").unwrap_or(host)).is_ok()
}

/// The key that belongs to a PEM text, as certificates show it.
pub(super) fn public_key(key: &str) -> Option<Vec<u8>> {
    Some(KeyPair::from_pem(key).ok()?.public_key_raw().to_vec())
}

fn params(name: &str, end: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Clocks differ by a little.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = end;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

const CA_DAYS: i64 = 3650;
/// Under the 398 days that clients of public certificates accept at most.
pub(super) const LEAF_DAYS: u16 = 365;
