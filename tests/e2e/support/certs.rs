//! Certificates made at run time, so that nothing expires in the repository and no private key lies in git.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::RevocationReason;
use rcgen::RevokedCertParams;
use rcgen::RsaKeySize;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::Duration;
use time::OffsetDateTime;

/// A certificate authority with a directory of its own for what it issues.
pub(crate) struct Authority {
    dir: Arc<tempfile::TempDir>,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates between a leaf and the root, in the order of a chain file.
    intermediates: Vec<(CertificateDer<'static>, String)>,
    root: CertificateDer<'static>,
}

/// A certificate chain and its key, as files and in memory.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    chain_pem: String,
    key_der: Vec<u8>,
    key_pem: String,
    serial: u64,
}

/// What is to be issued.
pub(crate) struct Wish<'a> {
    name: &'a str,
    names: Vec<String>,
    usage: Option<ExtendedKeyUsagePurpose>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    rsa: bool,
    uris: Vec<String>,
    common_names: Option<Vec<String>>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let issuer =
            CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap();
        let root = issuer.der().clone();
        let authority = Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            name: name.to_owned(),
            issuer,
            intermediates: Vec::new(),
            root,
        };
        fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// An authority below this one; what it issues carries the chain up to, and without, the root.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let issuer =
            CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), &self.issuer)
                .unwrap();
        let mut intermediates = vec![(issuer.der().clone(), issuer.pem())];
        intermediates.extend(self.intermediates.iter().cloned());
        Self {
            dir: Arc::clone(&self.dir),
            name: self.name.clone(),
            issuer,
            intermediates,
            root: self.root.clone(),
        }
    }

    /// The root as a PEM file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join(format!("{}.pem", self.name))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A server certificate for `localhost` and 127.0.0.1, ECDSA P-256.
    pub(crate) fn server(&self, name: &str) -> Identity {
        self.issue(Wish::server(name))
    }

    /// A client certificate with this name as DNS name and common name.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.issue(Wish::client(name))
    }

    pub(crate) fn issue(&self, wish: Wish<'_>) -> Identity {
        let params = wish.params();
        self.sign(params, wish.name, wish.rsa)
    }

    /// A client certificate that nobody has signed but its owner.
    pub(crate) fn self_signed(&self, wish: Wish<'_>) -> Identity {
        let (params, key) = (wish.params(), KeyPair::generate().unwrap());
        let leaf = params.self_signed(&key).unwrap();
        let (certificate, serial) = (self.dir.path().join(format!("{}.self.pem", wish.name)), 0);
        let identity = Identity {
            key: certificate.with_extension("key"),
            certificate,
            chain: vec![leaf.der().clone()],
            chain_pem: leaf.pem(),
            key_der: key.serialize_der(),
            key_pem: key.serialize_pem(),
            serial,
        };
        identity.write_to(&identity.certificate, &identity.key);
        identity
    }

    fn sign(&self, mut params: CertificateParams, name: &str, rsa: bool) -> Identity {
        params.use_authority_key_identifier_extension = true;
        let serial = fs::read_dir(self.dir.path()).unwrap().count() as u64 + 1000;
        params.serial_number = Some(SerialNumber::from(serial));
        let key = if rsa {
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
        } else {
            KeyPair::generate().unwrap()
        };
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let (mut chain, mut chain_pem) = (vec![leaf.der().clone()], leaf.pem());
        for (der, pem) in &self.intermediates {
            chain.push(der.clone());
            chain_pem.push_str(pem);
        }
        let identity = Identity {
            certificate: self.dir.path().join(format!("{name}.{serial}.crt.pem")),
            key: self.dir.path().join(format!("{name}.{serial}.key")),
            chain,
            chain_pem,
            key_der: key.serialize_der(),
            key_pem: key.serialize_pem(),
            serial,
        };
        identity.write_to(&identity.certificate, &identity.key);
        identity
    }

    /// A revocation list of this authority, valid for a week.
    pub(crate) fn revocation_list(&self, revoked: &[&Identity]) -> PathBuf {
        self.revocation_list_for(Duration::days(7), revoked)
    }

    /// One that is valid for so long.
    pub(crate) fn revocation_list_for(&self, valid: Duration, revoked: &[&Identity]) -> PathBuf {
        let serials: Vec<u64> = revoked.iter().map(|identity| identity.serial).collect();
        let file = self.dir.path().join(format!("{}.crl.pem", self.name));
        fs::write(&file, self.list(valid, &serials)).unwrap();
        file
    }

    /// The list of this authority as text, with the intermediate of this name on it if one is given.
    pub(crate) fn list_with_intermediate(&self, revoked: Option<&str>) -> String {
        let serials: Vec<u64> = revoked.map(authority_serial).into_iter().collect();
        self.list(Duration::days(7), &serials)
    }

    fn list(&self, valid: Duration, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + valid,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now - Duration::minutes(30),
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }

    /// A client that trusts this authority, with or without a certificate of its own.
    pub(crate) fn client_config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_config_for(identity, rustls::ALL_VERSIONS)
    }

    pub(crate) fn client_config_for(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.private_key())
                .unwrap(),
        };
        Arc::new(config)
    }
}

impl Identity {
    /// Writes the chain and the key (0600) to these places, as a rotation does.
    pub(crate) fn write_to(&self, certificate: &Path, key: &Path) {
        replace(certificate, &self.chain_pem, 0o644);
        replace(key, &self.key_pem, 0o600);
    }

    /// The leaf certificate, to compare with what a server presented.
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }
}

impl<'a> Wish<'a> {
    pub(crate) fn server(name: &'a str) -> Self {
        Self::new(
            name,
            vec!["localhost".into(), "127.0.0.1".into()],
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    pub(crate) fn client(name: &'a str) -> Self {
        Self::new(name, vec![name.into()], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn new(name: &'a str, names: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Self {
        let now = OffsetDateTime::now_utc();
        let (not_before, not_after) = (now - Duration::days(1), now + Duration::days(90));
        Self {
            name,
            names,
            usage: Some(usage),
            not_before,
            not_after,
            rsa: false,
            uris: Vec::new(),
            common_names: None,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Written as they are: a name that no library would make must be possible.
        params.subject_alt_names = self.names.iter().map(|name| subject_name(name)).collect();
        for uri in &self.uris {
            params
                .subject_alt_names
                .push(SanType::URI(uri.as_str().try_into().unwrap()));
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        let own = vec![self.name.to_owned()];
        for name in self.common_names.as_ref().unwrap_or(&own) {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = self.usage.iter().cloned().collect();
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params
    }

    /// URIs in the subject alternative names.
    pub(crate) fn uris(mut self, uris: &[&str]) -> Self {
        self.uris = uris.iter().map(|&uri| uri.to_owned()).collect();
        self
    }

    /// Another common name than the name.
    pub(crate) fn common_names(mut self, names: &[&str]) -> Self {
        self.common_names = Some(names.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Without extended key usage: for any purpose.
    pub(crate) fn any_usage(mut self) -> Self {
        self.usage = None;
        self
    }

    /// For other names than `localhost`.
    pub(crate) fn names(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Valid for so many days from now.
    pub(crate) fn days(mut self, days: i64) -> Self {
        self.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        self
    }

    pub(crate) fn expired(mut self) -> Self {
        self.not_before = OffsetDateTime::now_utc() - Duration::days(30);
        self.not_after = OffsetDateTime::now_utc() - Duration::days(1);
        self
    }

    pub(crate) fn not_yet_valid(mut self) -> Self {
        self.not_before = OffsetDateTime::now_utc() + Duration::days(1);
        self
    }

    pub(crate) fn rsa(mut self) -> Self {
        self.rsa = true;
        self
    }
}

/// Writes a file as a careful tool does: a new file with its mode, then an atomic rename.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

fn subject_name(name: &str) -> SanType {
    match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(authority_serial(name)));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// Above the serials of what is issued, and known from the name alone.
fn authority_serial(name: &str) -> u64 {
    name.bytes().fold(1 << 32, |serial, byte| {
        serial * 31 % (1 << 40) + u64::from(byte) + (1 << 32)
    })
}
