//! The layers: who may use whom, and what the pure core must never touch.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a failed assumption is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, its level, and the modules it may use. Used modules are always on a lower level, so there is no ring.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("secret", 0, &[]),
    ("drain", 0, &[]),
    ("resp", 0, &[]),
    ("status", 0, &[]),
    ("acl", 1, &["resp"]),
    ("config", 1, &["secret"]),
    ("auth", 2, &["acl", "config", "secret"]),
    ("limits", 2, &["config"]),
    ("net", 2, &["config"]),
    ("session", 3, &["resp", "acl", "auth"]),
    ("audit", 3, &["acl", "auth", "limits"]),
    ("tls", 3, &["config", "secret", "net", "drain"]),
    ("metrics", 4, &["acl", "auth", "limits", "session"]),
    (
        "upstream",
        5,
        &["resp", "config", "secret", "net", "tls", "metrics", "drain"],
    ),
    ("admin", 5, &["config", "metrics", "drain", "status"]),
    (
        "server",
        6,
        &[
            "secret", "drain", "resp", "acl", "config", "auth", "limits", "net", "session", "metrics",
            "audit", "tls", "upstream", "admin", "status",
        ],
    ),
    (
        "cli",
        7,
        &[
            "secret", "drain", "resp", "acl", "config", "auth", "limits", "net", "session", "metrics",
            "audit", "tls", "upstream", "admin", "server", "status",
        ],
    ),
];

/// Bytes and values in, decisions out: no runtime, sockets, files or clock.
const PURE: &[&str] = &["resp", "acl", "auth", "session", "status"];
const IMPURE: &[&str] = &[
    "tokio",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "tracing::",
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The code of each module, without comments, tests, and what only tests use.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let mut modules = BTreeMap::<String, String>::new();
    for path in paths {
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        if relative.ends_with("tests.rs") || relative.contains("/tests/") || relative == "resp/fuzz.rs" {
            continue;
        }
        let name = relative
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        modules.entry(name).or_default().push_str(&code);
    }
    modules
}

#[test]
fn every_module_uses_only_what_its_layer_allows() {
    let modules = modules();
    let mut faults = Vec::new();
    for (name, code) in &modules {
        if name == "lib" || name == "main" {
            continue;
        }
        let Some((_, _, allowed)) = LAYERS.iter().find(|(known, ..)| known == name) else {
            faults.push(format!("{name} has no layer: add it to tests/layering.rs"));
            continue;
        };
        let used: BTreeSet<&str> = code
            .split("crate::")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
            .filter(|word| !word.is_empty())
            .collect();
        assert!(
            !code.contains("crate::{"),
            "{name}: one path for each use, so that this test can read it"
        );
        for other in used {
            if other != name && !allowed.contains(&other) {
                faults.push(format!("{name} uses {other}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(
        modules.len(),
        LAYERS.len() + 2,
        "a layer is listed that is not there"
    );
}

#[test]
fn layers_only_look_down() {
    for (name, level, allowed) in LAYERS {
        for other in *allowed {
            let (_, below, _) = LAYERS.iter().find(|(known, ..)| known == other).unwrap();
            assert!(below < level, "{name} may use {other}, which is not below it");
        }
    }
}

#[test]
fn the_core_is_pure() {
    let modules = modules();
    for name in PURE {
        let code = &modules[*name];
        assert!(code.len() > 1000, "{name} was not found");
        for word in IMPURE {
            assert!(
                !code.contains(word),
                "{name} is part of the pure core and uses {word}"
            );
        }
    }
}
