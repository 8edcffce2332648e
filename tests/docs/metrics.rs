//! `deploy/docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use keyward::acl::DenyReason;
use keyward::config::{Sources, load};
use keyward::metrics::{CertificateRole, Metrics};

use super::page::{compare, path, read, table};

const FILE: &str = "deploy/docs/metrics.md";
const RULES: &str = "deploy/prometheus/keyward.rules.yml";

/// Headings, and how the names under them begin; the first that fits counts.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Who is being refused",
        &[
            "keyward_auth_",
            "keyward_commands_denied",
            "keyward_commands_observed",
            "keyward_user_",
        ],
    ),
    (
        "Connections",
        &["keyward_connections_", "keyward_accept_", "keyward_client_"],
    ),
    (
        "Traffic",
        &[
            "keyward_command",
            "keyward_error_",
            "keyward_network_",
            "keyward_protocol_",
        ],
    ),
    ("TLS", &["keyward_tls_"]),
    ("Redis or Valkey", &["keyward_upstream_", "keyward_desync_"]),
    ("Sharing connections", &["keyward_session", "keyward_workers_"]),
    ("Keyward itself", &["keyward_", "process_"]),
];

/// Labels whose words are names of the configuration or commands, not a closed list.
const OPEN: &[&str] = &[
    "listener",
    "upstream",
    "user",
    "name",
    "cmd",
    "version",
    "revision",
    "tls_provider",
    "le",
];

/// One family, as a scrape shows it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// A registry of a configuration with one of everything, with something counted where series are not there from the beginning.
fn registry() -> std::sync::Arc<Metrics> {
    let env = [
        ("REDIS_URL", "unix:///run/redis.sock"),
        ("KEYWARD_LISTEN", "127.0.0.1:0"),
    ];
    let sources = Sources {
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Sources::default()
    };
    let config = load(&sources)
        .unwrap_or_else(|faults| panic!("{faults:?}"))
        .config;
    let metrics = keyward::server::metrics(&config).unwrap();
    let (listener, upstream) = (&config.listeners[0].name, &config.upstreams[0].name);
    metrics.add_users(listener, &["app"]);
    for reason in DenyReason::ALL {
        metrics.listener(listener).denied("app", None, reason.label());
        metrics.listener(listener).observed("app", "get", reason.label());
    }
    metrics.set_user_credentials([("app", 1e9)]);
    metrics.upstream(upstream).credential_changed("", 1e9);
    metrics.upstream(upstream).overprivileged(&[("flushall", true)]);
    let roles = CertificateRole::ALL
        .iter()
        .map(|role| (*role, listener.as_str(), 1));
    metrics.set_certificates(roles);
    metrics.set_revocation_lists([(listener.as_str(), 1)]);
    metrics
}

/// Takes a scrape apart.
fn families(scrape: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            current = name.to_owned();
            families.entry(current.clone()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((_, labels)) = line
            .rsplit_once('}')
            .and_then(|(series, _)| series.split_once('{'))
        {
            let family = families.get_mut(&current).unwrap();
            for (label, word) in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
                let words = family.labels.entry(label.to_owned()).or_default();
                words.insert(word.trim_end_matches('"').to_owned());
            }
        }
    }
    families
}

/// The alerts that look at each metric, through recording rules as well.
fn alerts() -> BTreeMap<String, BTreeSet<String>> {
    let rules = read(RULES);
    let mut looks: Vec<(bool, String, BTreeSet<String>)> = Vec::new();
    let mut in_expression = false;
    for line in rules.lines() {
        let line = line.trim_start();
        for (alert, key) in [(true, "- alert: "), (false, "- record: ")] {
            if let Some(name) = line.strip_prefix(key) {
                looks.push((alert, name.to_owned(), BTreeSet::new()));
            }
        }
        in_expression = match line.split_once(':') {
            Some(("expr", _)) => true,
            Some(("labels" | "for" | "annotations" | "- record" | "- alert" | "- name", _)) => false,
            _ => in_expression,
        };
        if in_expression && let Some((_, _, names)) = looks.last_mut() {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            names.extend(words.filter(|word| word.contains('_')).map(str::to_owned));
        }
    }
    let recorded: BTreeMap<_, _> = looks
        .iter()
        .filter(|(alert, ..)| !alert)
        .map(|(_, name, names)| (name.clone(), names.clone()))
        .collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, alert, names) in looks.iter().filter(|(alert, ..)| *alert) {
        for name in names {
            let itself = BTreeSet::from([name.clone()]);
            for name in recorded.get(name).unwrap_or(&itself) {
                found.entry(name.clone()).or_default().insert(alert.clone());
            }
        }
    }
    found
}

fn unit(name: &str) -> &'static str {
    let base = name.trim_end_matches("_total");
    match base.rsplit('_').next() {
        _ if base.ends_with("_timestamp_seconds") || base.ends_with("start_time_seconds") => "Unix time, s",
        Some("seconds") => "s",
        Some("bytes") => "byte",
        _ => "1",
    }
}

fn row(name: &str, family: &Family, alerts: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let code = |word: &String| format!("`{word}`");
    let labels: Vec<String> = family
        .labels
        .keys()
        .filter(|label| *label != "le")
        .map(code)
        .collect();
    let mut users: BTreeSet<&String> = BTreeSet::new();
    for suffix in ["", "_bucket", "_count", "_sum"] {
        users.extend(alerts.get(&format!("{name}{suffix}")).into_iter().flatten());
    }
    let link = |alert: &&String| format!("[{alert}](runbook.md#{})", alert.to_lowercase());
    let users: Vec<String> = users.iter().map(link).collect();
    vec![
        format!("`{name}`"),
        family.kind.clone(),
        unit(name).to_owned(),
        labels.join(", "),
        family.help.clone(),
        users.join(", "),
    ]
}

fn page() -> String {
    let families = families(&registry().render());
    let alerts = alerts();
    let mut page = String::from(
        "# Metrics\n\n\
         Every metric that `/metrics` shows, made from the program by `cargo test --test docs`, which fails if this page differs.\n\
         Prometheus's text format; histograms have `_bucket` (label `le`), `_sum` and `_count`. Everything that can be counted is there\n\
         from the start with 0, but for `cmd`: only commands that were seen, and those that an alert is likely to be about.\n\n\
         No label holds anything that a client has sent: `listener`, `upstream`, `user` and `name` are names of the configuration (a user\n\
         that is not configured is `user=\"\"`), `cmd` is a command of the built-in table or `_other`, everything else is one of the words\n\
         below. Client addresses are in the audit events.\n",
    );
    let mut left: Vec<(&String, &Family)> = families.iter().collect();
    for (heading, prefixes) in GROUPS {
        let (here, others) = left
            .into_iter()
            .partition(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        left = others;
        let here: Vec<_> = here;
        let head = ["metric", "type", "unit", "labels", "meaning", "alerts"];
        let rows = here.iter().map(|(name, family)| row(name, family, &alerts));
        page.push_str(&format!("\n## {heading}\n\n{}", table(&head, rows)));
    }
    assert!(left.is_empty(), "{left:?}");
    let mut words = Vec::new();
    for (name, family) in &families {
        for (label, found) in family
            .labels
            .iter()
            .filter(|(label, _)| !OPEN.contains(&label.as_str()))
        {
            let found: Vec<String> = found.iter().map(|word| format!("`{word}`")).collect();
            words.push(vec![format!("`{name}`"), format!("`{label}`"), found.join(", ")]);
        }
    }
    page.push_str(&format!(
        "\n## Words of labels\n\n{}",
        table(&["metric", "label", "words"], words)
    ));
    page
}

#[test]
fn the_page_is_what_the_registry_prints() {
    compare(FILE, &page());
}

#[test]
fn every_family_of_the_source_is_on_the_page() {
    // A family without a series is not printed: the list of those that exist comes from the source.
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(path("src/metrics")).unwrap() {
        let file = entry.unwrap().path();
        if file.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        let names = text.split('"').skip(1).step_by(2);
        let is_name = |name: &&str| {
            let rest = name
                .strip_prefix("keyward_")
                .or_else(|| name.strip_prefix("process_"));
            rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        };
        there.extend(names.filter(is_name).map(str::to_owned));
    }
    let shown: BTreeSet<String> = families(&registry().render()).into_keys().collect();
    assert!(shown.len() > 60, "{}", shown.len());
    let differing: Vec<_> = there.symmetric_difference(&shown).collect();
    assert!(
        differing.is_empty(),
        "count something in `registry` here, so that these have a series: {differing:?}"
    );
}

#[test]
fn every_alert_looks_at_a_metric_of_the_page() {
    let families = families(&registry().render());
    let mut seen = BTreeSet::new();
    for (name, users) in alerts() {
        let base = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(&name);
        if families.contains_key(&name) || families.contains_key(base) {
            seen.extend(users);
        }
    }
    let rules = read(RULES);
    let all = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    // `up` is Prometheus's own.
    let unseen: Vec<&str> = all
        .filter(|alert| !seen.contains(*alert) && *alert != "KeywardDown")
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
