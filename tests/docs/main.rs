//! The examples that people copy are loaded by the real loader, and the reference pages are what the program says of itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failed assumption is a failed test"
)]

mod configuration;
mod metrics;
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward::acl::rule;
use keyward::config::schema::{Key, Kind, SECTIONS};
use keyward::config::{Loaded, Origin, Setting, Sources, load};

/// Files that the examples name, and where they are in the test.
const FILES: &[&str] = &[
    "/run/secrets/redis-password",
    "/run/secrets/app-password",
    "/run/secrets/redis-app",
    "/etc/ssl/redis-ca.pem",
    "redis-ca.pem",
    "server.pem",
    "server.key",
    "keyward.pem",
    "keyward.key",
    "client-ca.pem",
    "client-ca.crl",
    "users.acl",
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
            // What a shell allows where nobody has raised it.
            descriptor_limit: Some(1_024),
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

/// A line `key = value # comment` of the annotated configuration.
struct Annotated {
    /// The header above it, without brackets: `listener.tls`.
    section: String,
    key: String,
    value: String,
    comment: String,
    commented_out: bool,
}

fn annotated(text: &str) -> Vec<Annotated> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            continue;
        }
        // `# ` begins prose, `#` a key that is not set.
        if line.is_empty() || line.starts_with("# ") || line == "#" {
            continue;
        }
        let told = line.strip_prefix('#').unwrap_or(line).split_once(" # ");
        let (assignment, comment) = told.unwrap_or_else(|| panic!("no comment: {line}"));
        let (key, value) = assignment.split_once(" = ").unwrap();
        lines.push(Annotated {
            section: section.clone(),
            key: key.to_owned(),
            value: value.trim().to_owned(),
            comment: comment.to_owned(),
            commented_out: line.starts_with('#'),
        });
    }
    lines
}

/// Loads one form of the annotated configuration, with the files and variables that it names.
fn loads_annotated(text: &str) -> Loaded {
    with_annotated(text, |sources| loads(sources, "deploy/keyward.toml"))
}

fn with_annotated<T>(text: &str, look: impl FnOnce(&Sources) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keyward.toml");
    fs::write(&file, placed(text, dir.path())).unwrap();
    let secret = "0123456789abcdefghijklmnopqrstuvwxyz";
    let env = ["LOCAL_PASSWORD", "REPORTS_PASSWORD"].map(|name| (name.to_owned(), secret.to_owned()));
    let sources = Sources {
        file: Some(file),
        env: BTreeMap::from(env),
        ..Sources::default()
    };
    look(&sources)
}

/// The text with the lines that `keep` wants, none of them commented out; headers and blank lines stay.
fn only(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .filter(|line| line.starts_with('[') || keep(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[test]
fn the_annotated_configuration_has_every_key() {
    let text = root("deploy/keyward.toml");
    let lines = annotated(&text);
    let mut missing = Vec::new();
    let mut expect = |section: &str, keys: &[Key]| {
        for key in keys {
            let there = match key.kind {
                Kind::Table(_) => text.contains(&format!("\n[{section}.{}]\n", key.name)),
                _ => lines
                    .iter()
                    .any(|line| line.section == section && line.key == key.name),
            };
            if !there {
                missing.push(format!("{section}.{}", key.name));
            }
        }
    };
    for section in SECTIONS {
        expect(section.name, section.keys);
        for key in section.keys {
            if let Kind::Table(keys) = key.kind {
                expect(&format!("{}.{}", section.name, key.name), keys);
            }
        }
    }
    assert!(missing.is_empty(), "deploy/keyward.toml lacks {missing:?}");
    for line in &lines {
        let told = line.comment.contains("required") || line.comment.contains("default");
        assert!(
            told,
            "neither required nor a default: {} = {}",
            line.key, line.value
        );
    }
    assert!(text.lines().count() <= 190);
}

#[test]
fn the_annotated_configuration_loads_as_it_is_and_with_every_line_uncommented() {
    let text = root("deploy/keyward.toml");
    assert_eq!(loads_annotated(&text).config.listeners.len(), 2);
    let all = loads_annotated(&only(&text, |_| true));
    let given = |line: &Annotated| {
        let in_section = |setting: &&Setting| setting.key == line.key && title(setting) == line.section;
        let mut settings = all.settings.iter().filter(in_section);
        settings.any(|setting| matches!(setting.origin, Origin::File { .. }))
    };
    for line in annotated(&text) {
        assert!(given(&line), "[{}] {} was not read", line.section, line.key);
    }
}

/// `[[listener]] "gateway" tls` as it stands in the file: `listener.tls`.
fn title(setting: &Setting) -> String {
    let (kind, rest) = setting.section.split_once(']').unwrap();
    let kind = kind.trim_start_matches('[');
    let within = rest.rsplit_once("\" ").map(|(_, within)| format!(".{within}"));
    format!("{kind}{}", within.unwrap_or_default())
}

#[test]
fn the_annotated_defaults_are_the_real_ones() {
    let text = root("deploy/keyward.toml");
    // Where only what is required is set, everything else is at its default.
    let bare = loads_annotated(&only(&text, |line| line.contains("# required")));
    let mut compared = 0;
    for line in annotated(&text) {
        let Some((_, stated)) = line.comment.rsplit_once("default ") else {
            assert!(
                line.comment.contains("default: ") || line.comment.contains("required"),
                "{}",
                line.key
            );
            continue;
        };
        let stated = stated.split(' ').next().unwrap();
        let defaults: Vec<&str> = bare
            .settings
            .iter()
            .filter(|setting| setting.key == line.key && title(setting) == line.section)
            .filter(|setting| setting.origin == Origin::Default)
            .map(|setting| setting.value.as_str())
            .collect();
        if stated == "none" {
            assert!(defaults.is_empty(), "{} has the default {defaults:?}", line.key);
            continue;
        }
        // Of two listeners one may have another default than the usual one: the comment says so behind it.
        assert!(
            defaults.contains(&stated),
            "the default of {} is {defaults:?}, not {stated}",
            line.key
        );
        if line.commented_out {
            let value = line.value.replace('_', "");
            assert_eq!(
                value.trim_matches('"'),
                stated,
                "uncommented, {} would change",
                line.key
            );
        }
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} defaults were compared");
}

#[test]
fn the_example_of_an_acl_file_loads() {
    let users = rule::parse_file(&root("deploy/users.acl")).unwrap_or_else(|errors| panic!("{errors:?}"));
    let configured = loads_annotated(&root("deploy/keyward.toml")).config.users;
    for (_, user) in &users {
        assert!(
            configured.iter().all(|entry| entry.name != user.name),
            "{} stands in deploy/keyward.toml too, so the two could not be used together",
            user.name
        );
    }
    assert!(
        users
            .iter()
            .any(|(_, user)| user.enabled && !user.passwords.is_empty())
    );
}
