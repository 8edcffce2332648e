//! Reading PEM files: certificate chains, CA bundles, revocation lists and private keys.
//!
//! `rustls-pemfile` is used in this file alone, behind [`sections`]. It is archived (RUSTSEC-2025-0134 says
//! unmaintained, not vulnerable) and by now a thin layer over `rustls_pki_types::pem`; moving there means changing
//! that one function. What it skips silently, we refuse: an unknown section in a bundle is a certificate that
//! somebody believes to be in force.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::{Error, Item};
use zeroize::Zeroizing;

use super::TlsError;
use super::certificate;

/// A certificate chain as it is sent: leaf first, then intermediates. All of the file, at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(file)?;
    let mut found = Vec::new();
    for item in sections(file, &bytes)? {
        match item {
            Item::X509Certificate(der) => {
                certificate::check(&der).map_err(|problem| {
                    let nth = found.len() + 1;
                    TlsError::new(
                        file,
                        format!("certificate {nth} of the file cannot be read: {problem}"),
                    )
                    .help("replace or remove it; a file with one bad certificate is refused whole")
                })?;
                found.push(der);
            }
            // One file with certificate and key is a common habit.
            Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_) => {}
            _ => {
                return Err(
                    TlsError::new(file, "there is a section in it that is no certificate")
                        .help("keep only CERTIFICATE sections"),
                );
            }
        }
    }
    if found.is_empty() {
        return Err(TlsError::new(file, "there is no certificate in it")
            .help("it must hold at least one PEM section that begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

/// The one private key of a file: PKCS#8, PKCS#1 (RSA) or SEC1 (EC). The file must not be open to others.
pub(super) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut handle = open(file)?;
    // Asked of the open file, so that it is the file that is read. Links (Kubernetes) are followed.
    let mode = handle
        .metadata()
        .map_err(|error| unreadable(file, &error))?
        .permissions()
        .mode();
    if mode & FORBIDDEN_KEY_MODE != 0 {
        return Err(TlsError::new(
            file,
            format!("the private key is open to others (mode {:04o})", mode & 0o7777),
        )
        .help("chmod 0600 (or 0640) it"));
    }
    let bytes = read_from(file, &mut handle)?;
    let mut keys = Vec::new();
    for item in sections(file, &bytes)? {
        match item {
            Item::Pkcs1Key(key) => keys.push(PrivateKeyDer::Pkcs1(key)),
            Item::Pkcs8Key(key) => keys.push(PrivateKeyDer::Pkcs8(key)),
            Item::Sec1Key(key) => keys.push(PrivateKeyDer::Sec1(key)),
            _ => {}
        }
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err(TlsError::new(file, "there is more than one private key in it")
            .help("keep the one that belongs to the certificate")),
        (None, _) => Err(TlsError::new(file, "there is no private key in it").help(
            "it must hold a PEM section PRIVATE KEY (PKCS#8), RSA PRIVATE KEY (PKCS#1) or EC PRIVATE KEY (SEC1)",
        )),
    }
}

/// The revocation lists of a file, at least one.
pub(super) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(file)?;
    let mut found = Vec::new();
    for item in sections(file, &bytes)? {
        match item {
            Item::Crl(der) => found.push(der),
            _ => {
                return Err(
                    TlsError::new(file, "there is a section in it that is no revocation list")
                        .help("keep only X509 CRL sections"),
                );
            }
        }
    }
    if found.is_empty() {
        return Err(TlsError::new(file, "there is no revocation list in it")
            .help("it must hold at least one PEM section that begins with -----BEGIN X509 CRL-----"));
    }
    Ok(found)
}

/// Every section of a PEM text, in order; an error if any of them is damaged, encrypted or unknown.
fn sections(file: &Path, bytes: &[u8]) -> Result<Vec<Item>, TlsError> {
    refuse_unknown_labels(file, bytes)?;
    let mut rest = bytes;
    let mut items = Vec::new();
    loop {
        match rustls_pemfile::read_one_from_slice(rest) {
            Ok(Some((item, after))) => {
                items.push(item);
                rest = after;
            }
            Ok(None) => return Ok(items),
            // The parser's own texts quote lines of the file, which may be lines of a key.
            Err(error) => {
                let problem = match error {
                    Error::MissingSectionEnd { .. } => "a section has no -----END line",
                    Error::IllegalSectionStart { .. } => "a -----BEGIN line is damaged",
                    Error::Base64Decode(_) => "a section is not valid base64",
                };
                let nth = items.len() + 1;
                return Err(TlsError::new(file, format!("{problem} (section {nth})"))
                    .help("write the file anew; it may have been cut or edited"));
            }
        }
    }
}

/// The parser skips sections that it does not know; we must not.
fn refuse_unknown_labels(file: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some(label) = line.strip_prefix(b"-----BEGIN ") else {
            continue;
        };
        let label = label.strip_suffix(b"-----").unwrap_or(label);
        if KNOWN_LABELS.contains(&label) {
            continue;
        }
        if label == b"ENCRYPTED PRIVATE KEY" {
            return Err(TlsError::new(file, "the private key is encrypted").help(
                "decrypt it with `openssl pkey -in <file> -out <new file>` and protect it by its mode",
            ));
        }
        if label == b"TRUSTED CERTIFICATE" {
            return Err(
                TlsError::new(file, "it holds a certificate in OpenSSL's own trusted form")
                    .help("convert it with `openssl x509 -in <file> -out <new file>`"),
            );
        }
        let shown: String = label.escape_ascii().take(40).map(char::from).collect();
        return Err(
            TlsError::new(file, format!("it holds a section of unknown kind ({shown})"))
                .help("remove that section"),
        );
    }
    Ok(())
}

fn open(file: &Path) -> Result<File, TlsError> {
    File::open(file).map_err(|error| unreadable(file, &error))
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    read_from(file, &mut open(file)?)
}

/// Into a buffer that is wiped at drop and, for ordinary files, never moved: a key may be in it.
fn read_from(file: &Path, handle: &mut File) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let length = handle.metadata().map_err(|error| unreadable(file, &error))?.len();
    if length > MAX_FILE {
        return Err(TlsError::new(
            file,
            format!("it is too big for a PEM file ({length} bytes)"),
        ));
    }
    let capacity = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    handle
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(file, &error))?;
    Ok(bytes)
}

fn unreadable(file: &Path, error: &std::io::Error) -> TlsError {
    let refused = error.kind() == std::io::ErrorKind::PermissionDenied;
    let unreadable = TlsError::new(file, format!("cannot be read: {error}"));
    if refused {
        unreadable.help("the user that Keyward runs as must be able to read it")
    } else {
        unreadable
    }
}

/// Group may read a key; nobody else may do anything with it, and only the owner may write it.
const FORBIDDEN_KEY_MODE: u32 = 0o027;
/// A bundle with all public CAs has about 250 KiB; revocation lists can be larger.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// What the parser knows, and the parameters that OpenSSL writes before an EC key.
const KNOWN_LABELS: &[&[u8]] = &[
    b"CERTIFICATE",
    b"X509 CRL",
    b"PRIVATE KEY",
    b"RSA PRIVATE KEY",
    b"EC PRIVATE KEY",
    b"EC PARAMETERS",
    b"PUBLIC KEY",
    b"CERTIFICATE REQUEST",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use tempfile::TempDir;

    struct Files {
        directory: TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self {
                directory: TempDir::new().unwrap(),
            }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["redis.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_chain_is_read_whole_with_text_around_it() {
        let files = Files::new();
        let (first, key) = made();
        let (second, _) = made();
        let path = files.write(
            "chain.pem",
            &format!("subject=x\n{first}\n\nissuer=y\r\n{second}{key}"),
        );
        assert_eq!(certificates(&path).unwrap().len(), 2);
        assert!(private_key(&path).is_ok(), "the key of a combined file");
    }

    #[test]
    fn a_bundle_with_one_bad_entry_is_refused_whole() {
        let files = Files::new();
        let (good, key) = made();
        let damaged = good.replacen("MII", "MI!", 1);
        let other_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &good[..good.len() - 20];
        let cases = [
            (format!("{good}{damaged}"), "base64"),
            (format!("{good}{other_der}"), "certificate 2"),
            (format!("{good}{cut}"), "no -----END line"),
            (
                format!("{good}-----BEGIN CERTIFICATE\nAAAA\n"),
                "-----BEGIN line is damaged",
            ),
            (
                format!("{good}{}", good.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
                "trusted form",
            ),
            (
                format!("{good}{}", good.replace("CERTIFICATE", "X509 CERTIFICATE")),
                "unknown kind",
            ),
            (
                format!("{good}{}", good.replace("CERTIFICATE", "X509 CRL")),
                "no certificate",
            ),
            (String::new(), "no certificate in it"),
            ("hello".to_owned(), "no certificate in it"),
            (key, "no certificate in it"),
        ];
        for (text, expected) in cases {
            let message = certificates(&files.write("bundle.pem", &text))
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message} lacks {expected}");
            assert!(message.contains("bundle.pem"), "{message}");
        }
    }

    #[test]
    fn a_key_file_holds_exactly_one_plain_key() {
        let files = Files::new();
        let (certificate, key) = made();
        let cases = [
            (format!("{key}{key}"), "more than one"),
            (certificate, "no private key"),
            (key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "encrypted"),
            (key.replacen('M', "!", 1), "base64"),
        ];
        for (text, expected) in cases {
            let message = private_key(&files.write("server.key", &text))
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message} lacks {expected}");
            assert!(
                !message.contains("MIG"),
                "a message must not quote a key: {message}"
            );
        }
    }

    #[test]
    fn a_key_that_others_can_reach_is_refused() {
        let files = Files::new();
        let (_, key) = made();
        let path = files.write("server.key", &key);
        for (mode, fine) in [
            (0o400, true),
            (0o600, true),
            (0o640, true),
            (0o440, true),
            (0o644, false),
            (0o660, false),
            (0o601, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match private_key(&path) {
                Ok(_) => assert!(fine, "{mode:o}"),
                Err(error) => assert!(!fine && error.to_string().contains("chmod"), "{mode:o}: {error}"),
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = certificates(Path::new("/nonexistent/server.pem"))
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("/nonexistent/server.pem: cannot be read"),
            "{message}"
        );
    }
}
