//! The file as a tree of values that know where they came from.
//!
//! serde stops at the first fault; a person wants all of them. So the file is parsed to a document with spans and
//! walked along [`schema`](super::schema): unknown keys, wrong types and inline secrets are all reported in one
//! run, and what is right is kept for the checks that follow.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::code;
use super::context::{Context, Place};
use super::diagnostic::{did_you_mean, names_secret, shown};
use super::schema::{Key, Kind, SECTIONS, SYNONYMS, Section};
use super::user::is_name;

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A value as written.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Given<String>>),
    Table(Table),
}

/// One table: only keys of its schema, only values of the right type.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// For messages and `check --show`: `[server]`, `[[listener]] "gateway"`.
    pub(super) title: String,
    /// Where the table begins.
    pub(super) place: Place,
    values: BTreeMap<&'static str, Given<Raw>>,
    /// Keys whose value was refused, and those that a misspelt one was meant to be: they count as given, so that
    /// nobody reports them as missing.
    refused: Vec<&'static str>,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, place: Place) -> Self {
        Self {
            title: title.into(),
            place,
            values: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Given<Raw>> {
        self.values.get(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key) || self.refused.contains(&key)
    }

    /// Whether one of the keys was given and could not be read.
    pub(super) fn refuses_any(&self, keys: &[&str]) -> bool {
        self.refused.iter().any(|refused| keys.contains(refused))
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Where a key was given, else where the table is.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.get(key)
            .map_or_else(|| self.place.clone(), |given| given.place.clone())
    }

    /// Overrides a value; the last source to be applied wins.
    pub(super) fn set(&mut self, key: &'static str, value: Raw, place: Place) {
        self.values.insert(key, Given { value, place });
    }

    /// The text of a key if it is one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Raw::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A table within this one.
    pub(super) fn table(&self, key: &str) -> Option<&Self> {
        match &self.get(key)?.value {
            Raw::Table(table) => Some(table),
            _ => None,
        }
    }

    /// A table within this one, made when it is missing.
    pub(super) fn table_mut(&mut self, key: &'static str, place: &Place) -> Option<&mut Self> {
        let title = format!("{} {key}", self.title);
        let given = self.values.entry(key).or_insert_with(|| Given {
            value: Raw::Table(Self::new(title, place.clone())),
            place: place.clone(),
        });
        match &mut given.value {
            Raw::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// Everything that the sources gave, before any meaning is looked at.
#[derive(Debug, Clone)]
pub(super) struct RawConfig {
    single: BTreeMap<&'static str, Table>,
    pub(super) upstreams: Vec<Table>,
    pub(super) listeners: Vec<Table>,
    pub(super) users: Vec<Table>,
    /// Sections that are there and could not be read: nobody reports them as missing.
    refused: Vec<&'static str>,
}

impl RawConfig {
    pub(super) fn new() -> Self {
        let single = SECTIONS
            .iter()
            .filter(|section| !section.many)
            .map(|section| {
                (
                    section.name,
                    Table::new(format!("[{}]", section.name), Place::Default),
                )
            })
            .collect();
        Self {
            single,
            upstreams: Vec::new(),
            listeners: Vec::new(),
            users: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Whether every table of a section could be read and has a right name: only then a name that is not there is wrong.
    pub(super) fn knows_all(&self, section: &str) -> bool {
        let tables = match section {
            "upstream" => &self.upstreams,
            "listener" => &self.listeners,
            _ => &self.users,
        };
        !self.refused(section)
            && tables
                .iter()
                .all(|table| table.text("name").is_some_and(|name| is_name(name, section)))
    }

    /// Whether a section is there that could not be read.
    pub(super) fn refused(&self, section: &str) -> bool {
        self.refused.contains(&section)
    }

    /// A table that exists once; an empty one when nothing was given.
    pub(super) fn section(&self, name: &'static str) -> Table {
        self.single
            .get(name)
            .cloned()
            .unwrap_or_else(|| Table::new(format!("[{name}]"), Place::Default))
    }

    pub(super) fn section_mut(&mut self, name: &'static str) -> &mut Table {
        self.single
            .entry(name)
            .or_insert_with(|| Table::new(format!("[{name}]"), Place::Default))
    }
}

/// Walks the text of the file. Returns the tree and whether the syntax was right; after a syntax error some keys
/// are missing that the file has, so nobody should complain about missing ones.
pub(super) fn parse(context: &mut Context<'_>) -> (RawConfig, bool) {
    let mut raw = RawConfig::new();
    let Some(source) = context.source() else {
        return (raw, true);
    };
    let text = source.text().to_owned();
    let (document, errors) = DeTable::parse_recoverable(&text);
    hide_secrets(context, document.get_ref());
    let sound = errors.is_empty();
    let mut last_line = 0;
    for error in errors {
        // The parser recovers at the next line at the earliest; a second message about one line is noise.
        let span = error.span().unwrap_or_default();
        let line = source.line(span.start);
        if line != last_line {
            context.syntax_error(&span, error.message());
        }
        last_line = line;
    }
    for (key, value) in document.get_ref() {
        let name = key.get_ref().as_ref();
        match SECTIONS.iter().find(|section| section.name == name) {
            Some(section) => read_section(context, &mut raw, section, key.span(), value),
            None => {
                let names = SECTIONS.iter().map(|s| s.name);
                let meant = unknown_key(context, name, key.span(), names, "the file", value);
                raw.refused.extend(meant);
            }
        }
    }
    (raw, sound)
}

/// Lets no message show a line with a value that is a secret by its key, wherever the key stands.
fn hide_secrets(context: &mut Context<'_>, document: &DeTable<'_>) {
    let mut left = vec![document];
    let mut arrays = Vec::new();
    while let Some(table) = left.pop() {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if names_secret(name) {
                context.hide(&value.span());
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) => left.push(inner),
                DeValue::Array(items) => arrays.push(items),
                _ => {}
            }
        }
        while let Some(items) = arrays.pop() {
            for item in items.iter() {
                match item.get_ref() {
                    DeValue::Table(inner) => left.push(inner),
                    DeValue::Array(items) => arrays.push(items),
                    _ => {}
                }
            }
        }
    }
}

fn read_section(
    context: &mut Context<'_>,
    raw: &mut RawConfig,
    section: &'static Section,
    key: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) {
    if !section.many {
        if let Some(table) = value.get_ref().as_table() {
            let title = format!("[{}]", section.name);
            let table = read_table(context, title, Place::File(key), section.keys, table);
            raw.single.insert(section.name, table);
        } else {
            raw.refused.push(section.name);
            let place = Place::File(value.span());
            context
                .error(
                    code::WRONG_TYPE,
                    &place,
                    format!("`{}` must be a table", section.name),
                )
                .label(format!("found {}", article(value.get_ref())))
                .help(format!("write it as a table: [{}]", section.name));
        }
        return;
    }
    let tables = match value.get_ref() {
        DeValue::Array(array) => array.iter().collect::<Vec<_>>(),
        other => {
            let place = Place::File(value.span());
            context
                .error(
                    code::WRONG_TYPE,
                    &place,
                    format!("`{}` may exist several times", section.name),
                )
                .label(format!("found {}", article(other)))
                .help(format!("write it with two brackets: [[{}]]", section.name));
            if !other.is_table() {
                raw.refused.push(section.name);
                return;
            }
            // What stands in it is looked at all the same.
            vec![value]
        }
    };
    for (index, item) in tables.into_iter().enumerate() {
        if index == section.most {
            let place = Place::File(item.span());
            let message = format!("there are more than {} [[{}]] tables", section.most, section.name);
            context.error(code::TOO_MANY, &place, message);
            raw.refused.push(section.name);
            break;
        }
        let Some(table) = item.get_ref().as_table() else {
            let place = Place::File(item.span());
            context
                .error(
                    code::WRONG_TYPE,
                    &place,
                    format!("each `{}` must be a table", section.name),
                )
                .label(format!("found {}", article(item.get_ref())))
                .help(format!("write it with two brackets: [[{}]]", section.name));
            raw.refused.push(section.name);
            continue;
        };
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let title = match name {
            Some(name) => format!("[[{}]] \"{}\"", section.name, shown(name)),
            None => format!("[[{}]]", section.name),
        };
        let table = read_table(context, title, Place::File(item.span()), section.keys, table);
        match section.name {
            "upstream" => raw.upstreams.push(table),
            "listener" => raw.listeners.push(table),
            _ => raw.users.push(table),
        }
    }
}

fn read_table(
    context: &mut Context<'_>,
    title: String,
    place: Place,
    keys: &'static [Key],
    document: &DeTable<'_>,
) -> Table {
    let mut table = Table::new(title, place);
    for (key, value) in document {
        let name = key.get_ref().as_ref();
        let Some(known) = keys.iter().find(|known| known.name == name) else {
            let title = table.title.clone();
            let names = keys.iter().map(|k| k.name);
            let meant = unknown_key(context, name, key.span(), names, &title, value);
            table.refused.extend(meant);
            continue;
        };
        let place = Place::of(value.span(), known.secret);
        let raw = read_value(context, &table.title, known, value);
        match raw {
            Some(raw) => table.set(known.name, raw, place),
            None => table.refused.push(known.name),
        }
    }
    table
}

fn read_value(
    context: &mut Context<'_>,
    title: &str,
    key: &'static Key,
    value: &Spanned<DeValue<'_>>,
) -> Option<Raw> {
    let wanted = match (key.kind, value.get_ref()) {
        (Kind::Text, DeValue::String(text)) => return Some(Raw::Text(text.to_string())),
        (Kind::Boolean, DeValue::Boolean(flag)) => return Some(Raw::Boolean(*flag)),
        (Kind::Integer, DeValue::Integer(integer)) => {
            if let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix()) {
                return Some(Raw::Integer(number));
            }
            "an integer of at most 64 bits"
        }
        (Kind::List | Kind::Ids, DeValue::Array(items)) => {
            let (mut list, ids) = (Vec::new(), key.kind == Kind::Ids);
            for item in items.iter() {
                let place = Place::of(item.span(), key.secret);
                let text = match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    DeValue::Integer(number) if ids && number.radix() == 10 => {
                        Some(number.as_str().to_owned())
                    }
                    _ => None,
                };
                match text {
                    Some(value) => list.push(Given { value, place }),
                    None => {
                        let what = if ids { "names or numbers" } else { "strings" };
                        context
                            .error(
                                code::WRONG_TYPE,
                                &place,
                                format!("`{}` must hold {what}", key.name),
                            )
                            .label(format!("found {}", article(item.get_ref())));
                    }
                }
            }
            return Some(Raw::List(list));
        }
        (Kind::Integers, DeValue::Array(items)) => {
            let mut list = Vec::new();
            for item in items.iter() {
                let place = Place::of(item.span(), key.secret);
                match item.get_ref() {
                    DeValue::Integer(number) if number.radix() == 10 => list.push(Given {
                        value: number.as_str().to_owned(),
                        place,
                    }),
                    other => {
                        context
                            .error(
                                code::WRONG_TYPE,
                                &place,
                                format!("`{}` must hold whole numbers", key.name),
                            )
                            .label(format!("found {}", article(other)));
                    }
                }
            }
            return Some(Raw::List(list));
        }
        (Kind::Table(keys), DeValue::Table(table)) => {
            let title = format!("{title} {}", key.name);
            let place = Place::File(value.span());
            return Some(Raw::Table(read_table(context, title, place, keys, table)));
        }
        (Kind::Text, _) => "a string",
        (Kind::Boolean, _) => "true or false",
        (Kind::Integer, _) => "an integer",
        (Kind::List, _) => "an array of strings",
        (Kind::Integers, _) => "an array of whole numbers",
        (Kind::Ids, _) => "an array of names or numbers",
        (Kind::Table(_), _) => "a table",
    };
    let place = Place::of(value.span(), key.secret);
    let help = match (key.kind, value.get_ref()) {
        (Kind::Text, DeValue::Integer(_)) => Some(r#"durations have a unit and quotes, such as "10s""#),
        (Kind::Integer | Kind::Boolean, DeValue::String(_)) => Some("without quotes"),
        (Kind::List | Kind::Ids, DeValue::String(_) | DeValue::Integer(_))
        | (Kind::Integers, DeValue::Integer(_)) => Some("put it in brackets"),
        _ => None,
    };
    let message = context.error(
        code::WRONG_TYPE,
        &place,
        format!("`{}` must be {wanted}", key.name),
    );
    let message = message.label(format!("found {}", article(value.get_ref())));
    if let Some(help) = help {
        message.help(help);
    }
    None
}

/// Reports a key that does not exist; gives the one that was probably meant.
fn unknown_key(
    context: &mut Context<'_>,
    name: &str,
    span: Range<usize>,
    known: impl Iterator<Item = &'static str> + Clone,
    title: &str,
    value: &Spanned<DeValue<'_>>,
) -> Option<&'static str> {
    // A key such as `password_fiel` is a misspelling first.
    let near = did_you_mean(name, known.clone());
    // Where quotes are missing, a key may be anything, even a secret.
    let written = if context.garbled && near.is_none() {
        "…"
    } else {
        shown(name)
    };
    if near.is_none() && names_secret(name) && !value.get_ref().is_table() {
        let place = Place::Secret(span);
        let with_env = known.clone().any(|key| key == "password_env");
        let message = context.error(
            code::INLINE_SECRET,
            &place,
            format!("a secret must not stand in the configuration: `{written}`"),
        );
        message.help(if with_env {
            "put it into a file (mode 0640 or narrower) and name it with password_file, or into an environment \
             variable and name that with password_env"
        } else {
            "secrets are only named: password_file or password_env in [[upstream]] and [[user]]"
        });
        return with_env.then_some("password_file");
    }
    let synonym = SYNONYMS
        .iter()
        .find(|(other, ours)| *other == name && known.clone().any(|k| k == *ours));
    let suggestion = near.or_else(|| synonym.map(|(_, ours)| *ours));
    let place = Place::of(span, names_secret(name));
    let names: Vec<&'static str> = known.collect();
    let message = context
        .error(
            code::UNKNOWN_KEY,
            &place,
            format!("{title} has no key `{written}`"),
        )
        .label("unknown key");
    match suggestion {
        Some(suggestion) => message.help(format!("did you mean `{suggestion}`?")),
        None => message.help(format!("possible here: {}", names.join(", "))),
    };
    suggestion
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
