//! Oracles for the loader, whatever the text. The fuzz target and a test share them; no other code of the proxy uses
//! this module.
//!
//! A text is only loaded when it names no file outside of a directory of ours, which holds one secret file and one
//! other. Nothing is written but these two.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{SourceText, names_secret};
use super::load::load_source;
use super::url::RedisUrl;
use super::values::{parse_duration, parse_size, show_duration};
use super::{Diagnostic, Loaded, Sources};

/// Loads a text as configuration file, as that with secrets in it, and as `REDIS_URL`: never a panic, and nothing
/// that is said or shown holds a secret.
pub fn fuzz_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if text.contains(SECRET) {
        return;
    }
    small_values(text);
    url(text);
    let document = DeTable::parse_recoverable(text).0;
    let Some(secrets) = secrets(document.get_ref()) else {
        return;
    };
    keeps_secrets(&load(text));
    let mut with_secrets = text.to_owned();
    // From behind, so that the other spans stay right.
    for span in secrets.into_iter().rev() {
        if with_secrets.get(span.clone()).is_some() {
            with_secrets.replace_range(span, &format!("\"{SECRET}\""));
        }
    }
    keeps_secrets(&load(&with_secrets));
    for table in INLINE {
        keeps_secrets(&load(&format!("{text}\n{}", table.replace("SECRET", SECRET))));
    }
}

/// Every inline secret is refused, whatever stands around it; this is what is appended.
const INLINE: [&str; 4] = [
    "[[user]]\nname = \"a\"\npassword = \"SECRET\"\n",
    "[[user]]\nname = \"a\"\nacl = \"on >SECRET ~* +gte\"\n",
    "[[upstream]]\nname = \"a\"\nurl = \"redis://:SECRET@host/x\"\n",
    "[[upstream]]\nname = \"a\"\npassword_env = \"SECRET\"\ncolour = { token = \"SECRET\", x = [] }\n",
];

type Outcome = Result<Loaded, Vec<Diagnostic>>;

fn load(text: &str) -> Outcome {
    let folder = folder();
    let file = folder.join("keyward.toml");
    let source = SourceText::new(file.display().to_string(), text.to_owned());
    let sources = Sources {
        file: Some(file),
        env: BTreeMap::from([("VARIABLE".to_owned(), format!("{SECRET}-of-the-environment"))]),
        ..Sources::default()
    };
    load_source(&sources, Some(&source), |_| Vec::new())
}

fn keeps_secrets(outcome: &Outcome) {
    let keeps = |found: &Diagnostic| {
        let shown = found.to_string();
        assert!(!shown.contains(SECRET), "{shown}");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(control), "{shown:?}");
    };
    match outcome {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(keeps);
            assert!(!loaded.warnings.iter().any(Diagnostic::is_error));
            for setting in &loaded.settings {
                assert!(!setting.value.contains(SECRET), "{setting:?}");
            }
        }
        Err(found) => {
            found.iter().for_each(keeps);
            assert!(found.iter().any(Diagnostic::is_error), "refused without a reason");
        }
    }
}

/// Reads a text as a URL and as its parts; the reason of a refusal repeats nothing of it.
fn url(text: &str) {
    let forms = [
        text.to_owned(),
        format!("redis://:{SECRET}@{text}"),
        format!("rediss://{text}:{SECRET}@host/1"),
        format!("redis://:{SECRET}{text}@host:1"),
        format!("unix://:{SECRET}@/{text}"),
    ];
    for form in forms {
        match RedisUrl::parse(&form) {
            Ok(url) => assert!(!format!("{:?}", url.password).contains(SECRET)),
            Err(error) => assert!(!error.to_string().contains(SECRET)),
        }
    }
    // A file may only be named where it can be looked at.
    if text.contains("ssl_") || text.contains('\0') {
        return;
    }
    let env = [
        ("REDIS_URL", format!("redis://:{SECRET}@{text}")),
        ("KEYWARD_LISTEN", text.to_owned()),
        ("KEYWARD_ACL", format!("{text} >{SECRET}")),
        ("KEYWARD_PASSWORD", SECRET.to_owned()),
    ];
    let sources = Sources {
        env: env.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Sources::default()
    };
    keeps_secrets(&load_source(&sources, None, |_| Vec::new()));
}

fn small_values(text: &str) {
    if let Some(duration) = parse_duration(text) {
        let shown = show_duration(duration);
        assert_eq!(
            parse_duration(&shown),
            Some(duration),
            "{text} is shown as {shown}"
        );
    }
    let _ = parse_size(text);
}

/// The spans of the values whose keys name secrets, in order; `None` if the text names a file that is not ours.
fn secrets(document: &DeTable<'_>) -> Option<Vec<Range<usize>>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut left = Vec::new();
    for (key, value) in document {
        left.push((names_secret(key.get_ref()), value));
    }
    while let Some((secret, value)) = left.pop() {
        match value.get_ref() {
            DeValue::String(text) => {
                let foreign = text.starts_with('/') || text.contains("..") || text.contains('\0');
                // The options of a URL name files too.
                if foreign || text.contains("ssl_") {
                    return None;
                }
                if secret {
                    spans.push(value.span());
                }
            }
            DeValue::Array(items) => left.extend(items.iter().map(|item| (secret, item))),
            DeValue::Table(table) => {
                left.extend(
                    table
                        .iter()
                        .map(|(key, value)| (secret || names_secret(key.get_ref()), value)),
                );
            }
            _ => {}
        }
    }
    spans.sort_by_key(|span| span.start);
    spans.dedup_by(|second, first| second.start < first.end);
    Some(spans)
}

/// The directory that relative paths count from.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("keyward-fuzz-{}", std::process::id()));
        let made = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("s"), format!("{SECRET}-of-a-file\n")))
            .and_then(|()| std::fs::set_permissions(folder.join("s"), std::fs::Permissions::from_mode(0o600)))
            .and_then(|()| std::fs::write(folder.join("p"), SECRET));
        assert!(made.is_ok(), "{made:?}");
        folder
    })
}

const SECRET: &str = "a-secret-of-the-text";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_secrets() {
        for text in [
            "",
            "[[upstream]]\nname = \"a\"\nurl = \"redis://localhost\"\npassword_file = \"s\"\n[[listener]]\n\
             name = \"a\"\naddress = \"127.0.0.1:0\"\n[[user]]\nname = \"a\"\npassword_env = \"VARIABLE\"\n",
            "[login]\ntimeout = \"10s\"\n[user]\npassword = [\n\"x\", 1], colour = 2\n",
            "a = { \"p\\u0061ssword\" = \"x\", colour = 1 }\n",
            "[[user]]\npassword = \"x\n",
            "server = { password = [\n\"x\"], colour = 1, drain_timeout = 1 }\n",
            "name = \"\"\"",
            "10s",
            "localhost:6379/0",
        ] {
            fuzz_config(text.as_bytes());
        }
    }

    #[test]
    fn what_fuzzing_begins_with_is_worth_it() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/config");
        for entry in std::fs::read_dir(seeds).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read(&path).unwrap();
            fuzz_config(&text);
            crate::acl::fuzz::fuzz_rules(&text);
        }
        let text = std::fs::read_to_string(format!("{seeds}/every_key.toml")).unwrap();
        let found = load(&text).err().unwrap_or_default();
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
        assert!(secrets(DeTable::parse_recoverable(&text).0.get_ref()).is_some());
    }
}
