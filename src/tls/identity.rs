//! The names in a client's certificate that may say who it is.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::CertificateName;

/// URIs, DNS names and the common name of a verified certificate. All of them have their full length, and a certificate
/// with one that nobody could mean in earnest has no name at all: whoever asked for it wanted to be taken for another.
///
/// The common name counts only if there is exactly one.
pub fn certificate_names(leaf: &CertificateDer<'_>) -> Vec<CertificateName> {
    names(leaf).unwrap_or_default()
}

fn names(leaf: &CertificateDer<'_>) -> Option<Vec<CertificateName>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut names = Vec::new();
    // An error is an extension that cannot be read, or stands there twice.
    if let Some(alternatives) = certificate.subject_alternative_name().ok()? {
        for alternative in &alternatives.value.general_names {
            match alternative {
                GeneralName::URI(uri) => names.push(CertificateName::Uri(graphic(uri)?)),
                GeneralName::DNSName(name) => names.push(CertificateName::DnsName(graphic(name)?)),
                GeneralName::Invalid(..) => return None,
                _ => {}
            }
        }
    }
    let mut common_names = certificate.subject().iter_common_name();
    if let Some(first) = common_names.next()
        && common_names.next().is_none()
    {
        let text = first.as_str().ok()?;
        if text.chars().any(char::is_control) {
            return None;
        }
        names.push(CertificateName::CommonName(text.to_owned()));
    }
    Some(names)
}

/// The text, if it has only characters that URIs and DNS names have.
fn graphic(text: &str) -> Option<String> {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_names: &[&str], alternatives: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn ia5(text: &str) -> Ia5String {
        Ia5String::try_from(text).unwrap()
    }

    #[test]
    fn names_keep_their_kind_and_length() {
        let leaf = certificate(
            &["web"],
            &[
                SanType::URI(ia5("spiffe://prod/web")),
                SanType::DnsName(ia5("*.web.test")),
                SanType::Rfc822Name(ia5("web@web.test")),
            ],
        );
        assert_eq!(
            certificate_names(&leaf),
            [
                CertificateName::Uri("spiffe://prod/web".into()),
                CertificateName::DnsName("*.web.test".into()),
                CertificateName::CommonName("web".into()),
            ]
        );
        assert!(certificate_names(&certificate(&[], &[])).is_empty());
    }

    #[test]
    fn a_nul_or_control_character_takes_all_names_away() {
        for (common_names, alternatives) in [
            (vec!["web\0.evil"], vec![]),
            (vec!["web\n"], vec![]),
            (vec!["web"], vec![SanType::DnsName(ia5("web.test\0.evil"))]),
            (
                vec!["web"],
                vec![
                    SanType::URI(ia5("spiffe://prod/web")),
                    SanType::URI(ia5("spiffe://prod/web\0")),
                ],
            ),
            (vec!["web"], vec![SanType::DnsName(ia5("web.test "))]),
        ] {
            let leaf = certificate(&common_names, &alternatives);
            assert!(
                certificate_names(&leaf).is_empty(),
                "{common_names:?} {alternatives:?}"
            );
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert!(certificate_names(&CertificateDer::from(b"hello".to_vec())).is_empty());
    }
}
