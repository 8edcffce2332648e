//! What certificates that are there say, and whether they are to be made anew.

use std::fmt;
use std::net::IpAddr;

use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;

/// A certificate that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Known {
    /// Itself, PEM.
    pub(in crate::cli) pem: String,
    /// When it begins and ends, Unix seconds.
    pub(in crate::cli) not_before: i64,
    pub(in crate::cli) not_after: i64,
    /// Its key, to compare with that of a private one.
    pub(in crate::cli) public_key: Vec<u8>,
    /// DNS names and addresses that it is for.
    pub(in crate::cli) names: Vec<String>,
    /// By which those it has signed name it, and by which it names who signed it.
    key_id: Option<Vec<u8>>,
    issuer_key_id: Option<Vec<u8>>,
}

/// Why a certificate is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Renewal {
    /// It, or its key, is not there or cannot be read.
    Missing,
    /// The key belongs to another.
    OtherKey,
    /// No CA of the bundle has signed it.
    Stranger,
    /// Less than a third of its time is left.
    EndsSoon(i64),
    /// It is not for this name.
    Lacks(String),
    /// It was said so.
    Asked,
}

impl Known {
    /// Every certificate of a PEM text, in order; what cannot be read is left out.
    pub(in crate::cli) fn all(text: &str) -> Vec<Self> {
        let blocks = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
        blocks.filter_map(|(inside, _)| Self::read(inside)).collect()
    }

    fn read(inside: &str) -> Option<Self> {
        let text = format!("{BEGIN}{inside}{END}\n");
        let (_, block) = parse_x509_pem(text.as_bytes()).ok()?;
        let certificate = block.parse_x509().ok()?;
        let mut names = Vec::new();
        let (mut key_id, mut issuer_key_id) = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    issuer_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(alternatives) => {
                    names.extend(alternatives.general_names.iter().filter_map(name));
                }
                _ => {}
            }
        }
        Some(Self {
            pem: text,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            names,
            key_id,
            issuer_key_id,
        })
    }

    fn signed(&self, other: &Self) -> bool {
        self.key_id.is_some() && self.key_id == other.issuer_key_id
    }

    /// Whether less than a third of its time is left, which is when certificates are commonly renewed.
    pub(in crate::cli) fn ends_soon(&self, now: i64) -> bool {
        self.not_after.saturating_sub(now) < self.not_after.saturating_sub(self.not_before) / 3
    }
}

/// Why this certificate with this key must be made anew; `None`: it is good. `public_key` is that of its private key, `bundle`
/// the CAs in force, `now` in Unix seconds.
pub(in crate::cli) fn renewal(
    certificate: Option<&Known>,
    public_key: Option<&[u8]>,
    bundle: &[Known],
    hosts: &[String],
    now: i64,
) -> Option<Renewal> {
    let (Some(certificate), Some(public_key)) = (certificate, public_key) else {
        return Some(Renewal::Missing);
    };
    if certificate.public_key != public_key {
        return Some(Renewal::OtherKey);
    }
    if !bundle.iter().any(|authority| authority.signed(certificate)) {
        return Some(Renewal::Stranger);
    }
    if certificate.ends_soon(now) {
        return Some(Renewal::EndsSoon(certificate.not_after));
    }
    let missing = hosts.iter().find(|host| !certificate.names.contains(host));
    missing.map(|host| Renewal::Lacks(host.clone()))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(address.to_string())
        }
        _ => None,
    }
}

impl fmt::Display for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::OtherKey => f.write_str("its key was another one's"),
            Self::Stranger => f.write_str("its CA is not in force"),
            Self::EndsSoon(end) => write!(f, "it would have ended on {}", date(*end)),
            Self::Lacks(name) => write!(f, "it was not for {name}"),
            Self::Asked => f.write_str("as asked"),
        }
    }
}

/// `2027-11-23`.
pub(in crate::cli) fn date(unix_seconds: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(unix_seconds) {
        Ok(moment) => moment.date().to_string(),
        Err(_) => "an impossible date".to_owned(),
    }
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::certificates::{authority, issue, public_key};

    const DAY: i64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_for_each_cause_and_for_no_other() {
        let (ours, other) = (authority().unwrap(), authority().unwrap());
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = issue(&ours, "keyward", &hosts, 90).unwrap();
        let bundle = Known::all(&format!("{}{}", other.certificate, ours.certificate));
        assert_eq!(bundle.len(), 2);
        let known = Known::all(&made.certificate).remove(0);
        assert_eq!(known.names, hosts);
        assert_eq!(known.pem, made.certificate);
        let key = public_key(&made.key).unwrap();
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let ask =
            |bundle: &[Known], hosts: &[String], now| renewal(Some(&known), Some(&key), bundle, hosts, now);
        assert_eq!(ask(&bundle, &hosts, now), None);
        assert_eq!(ask(&bundle, &[], now), None);
        assert_eq!(ask(&bundle[..1], &hosts, now), Some(Renewal::Stranger));
        assert_eq!(ask(&bundle, &hosts, now + 59 * DAY), None);
        let soon = Some(Renewal::EndsSoon(known.not_after));
        assert_eq!(ask(&bundle, &hosts, now + 61 * DAY), soon);
        assert_eq!(ask(&bundle, &hosts, now + 400 * DAY), soon);
        let more = ["localhost".to_owned(), "redis.internal".to_owned()];
        assert_eq!(
            ask(&bundle, &more, now),
            Some(Renewal::Lacks("redis.internal".to_owned()))
        );
        let another = public_key(&other.key).unwrap();
        let found = renewal(Some(&known), Some(&another), &bundle, &hosts, now);
        assert_eq!(found, Some(Renewal::OtherKey));
        assert_eq!(
            renewal(Some(&known), None, &bundle, &hosts, now),
            Some(Renewal::Missing)
        );
        assert_eq!(
            renewal(None, Some(&key), &bundle, &hosts, now),
            Some(Renewal::Missing)
        );
    }

    #[test]
    fn nothing_outlives_its_ca() {
        let authority = authority().unwrap();
        let leaf = issue(&authority, "client", &[], u16::MAX).unwrap();
        let ends = |issued: &str| Known::all(issued).remove(0).not_after;
        assert_eq!(ends(&leaf.certificate), ends(&authority.certificate));
    }

    #[test]
    fn what_is_no_certificate_is_left_out() {
        let text = authority().unwrap().certificate;
        let damaged = text.replace("MII", "AAA");
        assert!(Known::all(&damaged).is_empty());
        assert!(Known::all("").is_empty());
        assert_eq!(Known::all(&format!("words\n{text}\nmore words")).len(), 1);
    }
}
