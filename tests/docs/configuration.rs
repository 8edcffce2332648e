//! `deploy/docs/configuration.md`: keys and types from the schema, meaning and default from the annotated example (which is
//! compared with the loader), bounds and words from what the loader answers to a wrong value.

use keyward::config::schema::{Key, Kind, NEEDS_RESTART, SECTIONS};
use keyward::config::{Diagnostic, VARIABLES, load};

use super::page::{compare, read, table};
use super::{only, with_annotated};

const FILE: &str = "deploy/docs/configuration.md";

/// A key as `deploy/keyward.toml` tells of it.
struct Told {
    /// `listener.tls`
    section: String,
    key: String,
    /// Where, counted from 0.
    line: usize,
    default: String,
    meaning: String,
}

/// The example: what stands above each section, and its keys. Prose above a key belongs to it.
fn told(text: &str) -> (Vec<(String, String)>, Vec<Told>) {
    let (mut sections, mut keys) = (Vec::new(), Vec::new());
    let (mut section, mut prose) = (String::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        if let Some(words) = line.strip_prefix("# ") {
            prose.push(words.to_owned());
            continue;
        }
        let above = std::mem::take(&mut prose).join(" ");
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            sections.push((section.clone(), above));
        } else if let Some((assignment, comment)) = line.split_once(" # ") {
            let key = assignment.trim_start_matches('#').split(" = ").next().unwrap();
            let (meaning, default) = split(comment);
            let meaning = [meaning, above]
                .map(|text| text.trim().to_owned())
                .into_iter()
                .filter(|text| !text.is_empty());
            keys.push(Told {
                section: section.clone(),
                key: key.to_owned(),
                line: number,
                default,
                meaning: meaning.collect::<Vec<_>>().join(". "),
            });
        }
    }
    (sections, keys)
}

/// `threads; default: one for each core`, `required: its name`: meaning and default.
fn split(comment: &str) -> (String, String) {
    if let Some((meaning, default)) = comment.split_once("; default") {
        return (
            meaning.to_owned(),
            default.trim_start_matches([':', ' ']).to_owned(),
        );
    }
    if let Some(default) = comment.strip_prefix("default") {
        return (String::new(), default.trim_start_matches([':', ' ']).to_owned());
    }
    match comment.split_once(": ") {
        Some((required, meaning)) if required.starts_with("required") => {
            (meaning.to_owned(), required.to_owned())
        }
        _ => (String::new(), comment.to_owned()),
    }
}

/// What the loader says of a value in this line of the example, in which every key is set.
fn says(text: &str, line: usize, key: &str, value: &str) -> Option<Diagnostic> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // Comments are blank lines here, so that the numbers stay.
    for line in &mut lines {
        *line = if line.starts_with("# ") {
            String::new()
        } else {
            line.trim_start_matches('#').to_owned()
        };
    }
    lines[line] = format!("{key} = {value}");
    let faults = with_annotated(&(lines.join("\n") + "\n"), |sources| {
        load(sources).err().unwrap_or_default()
    });
    let here = |fault: &Diagnostic| {
        fault
            .location
            .as_ref()
            .is_some_and(|place| place.line == line + 1)
    };
    faults.into_iter().find(|fault| fault.is_error() && here(fault))
}

/// Type and bounds.
fn form(text: &str, told: &Told, key: &Key) -> (String, String) {
    let ask = |value: &str| says(text, told.line, &told.key, value);
    let number = |fault: Option<Diagnostic>| {
        let label = fault.map(|fault| fault.label).unwrap_or_default();
        label
            .rsplit_once("between ")
            .map(|(_, bounds)| bounds.replace(" and ", " to "))
            .unwrap_or_default()
    };
    let kind = match key.kind {
        Kind::Integer => {
            let mut bounds = number(ask("-1"));
            if key.name == "max_unauthenticated" {
                bounds.push_str(" (`max_connections`)");
            }
            return ("whole number".to_owned(), bounds);
        }
        Kind::Boolean => return ("boolean".to_owned(), "`true`, `false`".to_owned()),
        Kind::List => "list of texts",
        Kind::Integers => "list of whole numbers",
        Kind::Ids => "list of names and numbers",
        Kind::Table(_) => "table",
        Kind::Text => {
            let fault = ask("\"zzzzzzzz\"");
            let message = fault
                .as_ref()
                .map(|fault| fault.message.clone())
                .unwrap_or_default();
            if message.ends_with("is not a duration") {
                let off = if ask("\"off\"").is_none() {
                    ", or `\"off\"`"
                } else {
                    ""
                };
                return (
                    "duration".to_owned(),
                    format!("{}{off}", number(ask("\"999999999d\""))),
                );
            }
            let help = fault.and_then(|fault| fault.help).unwrap_or_default();
            if let Some(words) = help.strip_prefix("possible: ") {
                let words: Vec<String> = words.split(", ").map(|word| format!("`{word}`")).collect();
                return ("word".to_owned(), words.join(", "));
            }
            match key.name {
                name if name.ends_with("_file") => "file",
                name if name.ends_with("_env") => "variable's name",
                _ => "text",
            }
        }
    };
    (kind.to_owned(), String::new())
}

/// The table of one section, in the order of the schema.
fn keys(text: &str, all: &[Told], section: &str, keys: &[Key]) -> String {
    let rows = keys
        .iter()
        .filter(|key| !matches!(key.kind, Kind::Table(_)))
        .map(|key| {
            let mut found = all
                .iter()
                .filter(|told| told.section == section && told.key == key.name);
            let told = found
                .next()
                .unwrap_or_else(|| panic!("deploy/keyward.toml has no {section}.{}", key.name));
            let (kind, bounds) = form(text, told, key);
            let restart = NEEDS_RESTART.contains(&(section, key.name));
            vec![
                format!("`{}`", key.name),
                kind,
                told.default.clone(),
                bounds,
                told.meaning.clone(),
                if restart { "restart" } else { "reload" }.to_owned(),
            ]
        });
    table(
        &["key", "type", "default", "bounds", "meaning", "a change takes a"],
        rows,
    )
}

fn page() -> String {
    let text = read("deploy/keyward.toml");
    let (above, all) = told(&text);
    let prose = |section: &str| {
        let mut found = above
            .iter()
            .filter(|(name, prose)| name == section && !prose.is_empty());
        found
            .next()
            .map_or_else(String::new, |(_, prose)| format!("{prose}\n\n"))
    };
    let mut page = String::from(
        "# Configuration\n\n\
         Every key of the configuration file, made by `cargo test --test docs` from the schema, from\n\
         [keyward.toml](../keyward.toml) and from what the loader answers to wrong values; the test fails if this page differs.\n\n\
         The file is TOML. Flags come before environment variables, those before the file, the file before defaults. Durations are a\n\
         number and a unit: `\"500ms\"`, `\"10s\"`, `\"2m\"`, `\"1h\"`, `\"7d\"`. Relative paths count from the file's directory. Secrets stand in\n\
         files (mode 0640 or narrower) or environment variables, never here. `keyward check` finds every fault at once, `keyward check\n\
         --show` prints what is in force and where it came from.\n\n\
         *reload*: `SIGHUP` (`systemctl reload keyward`) takes a change over without ending a session that may go on; what the named files\n\
         hold (certificates, passwords, ACLs) is taken over by itself when they change. *restart*: a reload that changes it is refused,\n\
         and so is one with more or fewer listeners or upstreams.\n",
    );
    for section in SECTIONS {
        let name = section.name;
        let heading = if section.many {
            format!("[[{name}]]")
        } else {
            format!("[{name}]")
        };
        let most = if section.many {
            format!("Up to {} of them. ", section.most)
        } else {
            String::new()
        };
        page.push_str(&format!("\n## {heading}\n\n{most}{}", prose(name)));
        page.push_str(&keys(&text, &all, name, section.keys));
        for key in section.keys {
            if let Kind::Table(within) = key.kind {
                let name = format!("{name}.{}", key.name);
                page.push_str(&format!("\n## [{name}]\n\n{}", prose(&name)));
                page.push_str(&keys(&text, &all, &name, within));
            }
        }
    }
    let variables = VARIABLES
        .iter()
        .map(|(name, what)| vec![format!("`{name}`"), (*what).to_owned()]);
    page.push_str(
        "\n## Environment variables\n\n\
         A sidecar needs no file: these make its one upstream, listener and user. Beside a file they come before its keys; those of the\n\
         sidecar only where there is one upstream, listener or user that they can mean.\n\n",
    );
    page.push_str(&table(&["variable", "meaning"], variables));
    page
}

#[test]
fn the_page_is_what_the_loader_takes() {
    let page = page();
    assert!(
        !page.contains("| whole number | none |  |"),
        "bounds are missing:\n{page}"
    );
    compare(FILE, &page);
}

#[test]
fn numbers_and_durations_have_bounds_that_the_loader_keeps() {
    let text = read("deploy/keyward.toml");
    let (_, all) = told(&text);
    let mut bounded = 0;
    for section in SECTIONS {
        for key in section.keys {
            let Some(told) = all
                .iter()
                .find(|told| told.section == section.name && told.key == key.name)
            else {
                continue;
            };
            let (kind, bounds) = form(&text, told, key);
            let quote = if kind == "duration" { "\"" } else { "" };
            if kind != "duration" && kind != "whole number" {
                continue;
            }
            let bounds = bounds.split([',', '(']).next().unwrap().trim();
            let (least, most) = bounds
                .split_once(" to ")
                .unwrap_or_else(|| panic!("{} has no bounds", key.name));
            bounded += 1;
            for value in [least, most] {
                let fault = says(&text, told.line, key.name, &format!("{quote}{value}{quote}"));
                let out_of_range = fault
                    .as_ref()
                    .is_some_and(|fault| fault.message.ends_with("is out of range"));
                assert!(!out_of_range, "{} = {value}: {fault:?}", key.name);
            }
        }
    }
    assert!(bounded > 25, "{bounded}");
    // What is refused here would be a key that the example does not set.
    assert!(!only(&text, |_| true).is_empty());
}

#[test]
fn what_needs_a_restart_is_in_the_schema() {
    for (section, key) in NEEDS_RESTART {
        let mut sections = SECTIONS.iter().filter(|known| known.name == *section);
        assert!(
            sections.any(|known| known.keys.iter().any(|known| known.name == *key)),
            "{section}.{key}"
        );
    }
}
