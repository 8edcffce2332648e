//! The examples that people copy are loaded by the real loader.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a failed assumption is a failed test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward::config::{Loaded, Sources, load};

/// Files that the examples name, and where they are in the test.
const FILES: &[&str] = &[
    "/run/secrets/redis-password",
    "/run/secrets/app-password",
    "/etc/ssl/redis-ca.pem",
    "redis-ca.pem",
    "server.pem",
    "server.key",
];

/// The example with every file it names made in `dir`.
fn placed(text: &str, dir: &Path) -> String {
    let mut text = text.to_owned();
    for (index, file) in FILES.iter().enumerate() {
        let place = dir.join(format!("{index}-{}", file.rsplit('/').next().unwrap()));
        fs::write(&place, "0123456789abcdefghijklmnopqrstuvwxyz-a-long-secret\n").unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
        for (open, close) in [
            ("\"", "\""),
            ("=", "\n"),
            ("ca_certs=", "\n"),
            ("ca_certs=", "' "),
        ] {
            text = text.replace(
                &format!("{open}{file}{close}"),
                &format!("{open}{}{close}", place.display()),
            );
        }
    }
    text
}

fn root(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn loads(sources: &Sources, what: &str) -> Loaded {
    load(sources).unwrap_or_else(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        panic!("{what} is refused:\n{}", faults.join("\n"))
    })
}

#[test]
fn the_gateway_examples_load() {
    let readme = root("README.md");
    let blocks: Vec<&str> = readme
        .split("```toml keyward\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(
        !blocks.is_empty(),
        "README.md has no example that is marked ```toml keyward"
    );
    let gateway = root("deploy/gateway.toml");
    for (what, text) in blocks
        .into_iter()
        .map(|block| ("README.md", block))
        .chain([("deploy/gateway.toml", gateway.as_str())])
    {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyward.toml");
        fs::write(&file, placed(text, dir.path())).unwrap();
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        let config = loads(&sources, what).config;
        assert_eq!(config.listeners.len(), 1, "{what}");
        assert_eq!(config.users.len(), 1, "{what}");
        assert!(
            config.listeners.iter().all(|listener| listener.tls.is_some()),
            "{what}"
        );
    }
}

#[test]
fn the_sidecar_examples_load() {
    let dir = tempfile::tempdir().unwrap();
    let file = placed(&root("deploy/sidecar.env"), dir.path());
    let readme = root("README.md");
    let block = readme
        .split("```sh\n")
        .map(|rest| rest.split("```").next().unwrap())
        .find(|block| block.starts_with("REDIS_URL="))
        .unwrap();
    let block = placed(&block.replace(" \\\n", "\n").replace('\'', ""), dir.path());
    for (what, text) in [("deploy/sidecar.env", file), ("README.md", block)] {
        let env: BTreeMap<String, String> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert!(env.len() >= 2, "{what}");
        let sources = Sources {
            env,
            ..Sources::default()
        };
        let config = loads(&sources, what).config;
        assert_eq!(config.upstreams.len(), 1, "{what}");
        assert!(
            config.upstreams.iter().all(|upstream| upstream.tls.is_some()),
            "{what}"
        );
    }
}
