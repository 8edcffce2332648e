//! `keyward dev-certs` again and again, and a Keyward that runs meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::keyward::command_line;
use super::support::keyward::set_mode;
use super::support::request;

/// Runs it in this directory, and demands the exit code.
fn dev_certs(dir: &Path, args: &[&str], expected: i32) -> String {
    let mut all = vec!["dev-certs", "--out", dir.to_str().unwrap()];
    all.extend_from_slice(args);
    let (code, _, said) = command_line(&all, &[], "");
    assert_eq!(code, expected, "{said}");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            path.extension().is_some_and(|end| end != "new"),
            "{}",
            path.display()
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let wanted = if path.extension().unwrap() == "key" {
            0o600
        } else {
            0o644
        };
        assert_eq!(mode, wanted, "{}", path.display());
    }
    said
}

/// Every file's name and content.
fn files(dir: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(file).unwrap();
    found.map(Result::unwrap).collect()
}

/// A client as somebody sets it up at this moment, with copies of the files of this moment.
fn client_of(dir: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&dir.join("ca.pem")) {
        roots.add(authority).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let key = PrivateKeyDer::from_pem_file(dir.join("client.key")).unwrap();
    Arc::new(
        builder
            .with_client_auth_cert(certificates(&dir.join("client.pem")), key)
            .unwrap(),
    )
}

/// Whether a new client gets through: its certificate is refused, if at all, after the handshake's end (TLS 1.3).
fn works(keyward: &Keyward, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut client) = Client::tls(keyward.address(), config) else {
        return false;
    };
    says(&mut client, &["AUTH", "app", APP_PASSWORD], "+OK")
}

fn says(client: &mut Client, words: &[&str], reply: &str) -> bool {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let sent = client.try_send(&request(&words));
    sent.and_then(|()| client.try_value())
        .is_ok_and(|value| value.to_string() == reply)
}

fn served(keyward: &Keyward, config: &Arc<ClientConfig>) -> Vec<u8> {
    let client = Client::tls(keyward.address(), config).unwrap();
    client.tls_session().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn running_it_again_renews_what_is_missing_or_ends_soon_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    dev_certs(dir, &["--host", "redis.internal"], 0);
    let first = files(dir);
    assert_eq!(first.len(), 6, "{first:?}");
    // Names once given need not be given again.
    let said = dev_certs(dir, &[], 0);
    assert_eq!(files(dir), first, "{said}");
    assert_eq!(said.matches("kept ").count(), 3, "{said}");
    let changed = |what: &[&str]| {
        let now = files(dir);
        let differing = now.iter().filter(|file| !first.contains(file));
        let names: Vec<&str> = differing.map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, what);
        for (name, text) in &first {
            fs::write(dir.join(name), text).unwrap();
        }
    };
    fs::remove_file(dir.join("client.key")).unwrap();
    dev_certs(dir, &[], 0);
    set_mode(&dir.join("client.key"), 0o600);
    changed(&["client.key", "client.pem"]);
    dev_certs(dir, &["--host", "10.1.2.3"], 0);
    changed(&["server.key", "server.pem"]);
    fs::copy(dir.join("client.key"), dir.join("server.key")).unwrap();
    dev_certs(dir, &[], 0);
    changed(&["server.key", "server.pem"]);
    dev_certs(dir, &["--rotate"], 0);
    changed(&["client.key", "client.pem", "server.key", "server.pem"]);
    let said = dev_certs(dir, &["--host", "no name"], 1);
    assert!(said.contains("`no name` is no host name"), "{said}");
    changed(&[]);
}

#[test]
fn an_unfinished_run_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    dev_certs(dir, &[], 0);
    let old = fs::read_to_string(dir.join("ca.pem")).unwrap();
    // The key of the next CA was written, and ca.pem was not.
    dev_certs(dir, &["--rotate-ca"], 0);
    fs::write(dir.join("ca.pem"), &old).unwrap();
    dev_certs(dir, &["--rotate-ca"], 0);
    assert_eq!(certificates(&dir.join("ca.pem")).len(), 2);
    // The new CA has its place, and the certificates are the old one's.
    fs::rename(dir.join("ca-next.key"), dir.join("ca.key")).unwrap();
    let server = fs::read(dir.join("server.pem")).unwrap();
    dev_certs(dir, &[], 0);
    assert_eq!(
        fs::read(dir.join("server.pem")).unwrap(),
        server,
        "both are trusted"
    );
    let said = dev_certs(dir, &["--drop-old-ca"], 0);
    assert_eq!(said.matches("its CA is not in force").count(), 2, "{said}");
    // A CA whose key is gone signs nothing any more, and what it has signed is still good.
    let last = fs::read_to_string(dir.join("ca.pem")).unwrap();
    assert!(!old.contains(&last) && !last.contains(&old));
    fs::remove_file(dir.join("ca.key")).unwrap();
    let said = dev_certs(dir, &[], 0);
    assert_eq!(said.matches("kept ").count(), 2, "{said}");
    let both = fs::read_to_string(dir.join("ca.pem")).unwrap();
    assert!(both.ends_with(&last) && both.len() > last.len());
}

#[test]
fn a_running_keyward_goes_through_a_whole_rotation_and_loses_no_session() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    dev_certs(dir, &[], 0);
    let file = |name: &str| dir.join(name).display().to_string();
    let tls = format!(
        "tls = {{ certificate_file = {:?}, key_file = {:?}, client_ca_file = {:?} }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let keyward = Setup::new(&redis)
        .listener(&tls)
        .server("watch_interval = \"50ms\"")
        .start();
    let first = client_of(dir);
    let mut session = Client::tls(keyward.address(), &first)
        .unwrap()
        .login("app", APP_PASSWORD);
    // Each step, and what Keyward serves after it; the first session lives on.
    let mut step = |args: &[&str], new_certificate: bool| {
        let before = served(&keyward, &client_of(dir));
        let reloads = keyward.events("reloaded").len();
        dev_certs(dir, args, 0);
        eventually("the reload", || {
            (keyward.events("reloaded").len() > reloads).then_some(())
        });
        let wanted = certificates(&dir.join("server.pem"))[0].to_vec();
        let now = eventually("the certificate", || {
            Some(served(&keyward, &client_of(dir))).filter(|now| *now == wanted)
        });
        assert_eq!(now != before, new_certificate, "{args:?}");
        assert!(works(&keyward, &client_of(dir)), "{args:?}");
        (says(&mut session, &["PING"], "+PONG"), client_of(dir))
    };
    let (alive, _) = step(&["--rotate"], true);
    assert!(alive && works(&keyward, &first), "the CA is the same");
    let (alive, second) = step(&["--rotate-ca"], false);
    assert!(alive && works(&keyward, &first), "nobody knows the new CA yet");
    dev_certs(dir, &["--rotate-ca"], 77);
    dev_certs(dir, &["--drop-old-ca"], 77);
    let (alive, third) = step(&["--rotate"], true);
    assert!(alive, "the old CA is still trusted");
    assert!(
        works(&keyward, &second),
        "who has both is served, with a certificate of the old CA"
    );
    assert!(
        !works(&keyward, &first),
        "who has the old one alone does not know this server"
    );
    let (alive, _) = step(&["--drop-old-ca"], false);
    assert!(!alive, "a session of the old CA ends with it");
    assert!(works(&keyward, &third));
    assert!(!works(&keyward, &second), "its own certificate is the old CA's");
}
