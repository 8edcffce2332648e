//! What every step of loading shares: the file, the environment, the messages so far, and the record of which value
//! came from where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::NamedFile;
use super::code;
use super::diagnostic::{Diagnostic, Location, Severity, SourceText, shown};
use super::raw::{Given, Raw, Table};
use super::values::{parse_boolean, parse_duration, show_duration};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file.
    File(Range<usize>),
    /// In the file, on a line that is never shown.
    Secret(Range<usize>),
    /// In this environment variable.
    Environment(&'static str),
    /// On the command line.
    Flag(&'static str),
    /// Nowhere.
    Default,
}

impl Place {
    pub(super) fn of(span: Range<usize>, secret: bool) -> Self {
        if secret {
            Self::Secret(span)
        } else {
            Self::File(span)
        }
    }

    /// It stands in the configuration file, from whose directory relative paths count.
    pub(super) fn in_file(&self) -> bool {
        matches!(self, Self::File(_) | Self::Secret(_))
    }
}

/// Where an effective value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file, at this line.
    File {
        /// As it was named.
        file: String,
        /// From 1.
        line: usize,
    },
    /// This environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
    /// Not given.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One effective value, for `keyward check --show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The table, such as `[server]` or `[[listener]] "gateway"`.
    pub section: String,
    /// The key.
    pub key: &'static str,
    /// Its value; `***` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Of each severity; nobody reads more.
const MOST_MESSAGES: usize = 1_000;

/// See the module.
pub(super) struct Context<'a> {
    source: Option<&'a SourceText>,
    base: Option<&'a Path>,
    pub(super) env: &'a BTreeMap<String, String>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    /// The file has syntax errors: what was read of it may not be what was meant.
    pub(super) garbled: bool,
    /// Lines that are never shown, because a value in them is a secret.
    hidden: BTreeSet<usize>,
    pub(super) settings: Vec<Setting>,
    pub(super) named_files: Vec<NamedFile>,
}

/// The message just reported, to be completed.
pub(super) struct Message<'m>(Option<&'m mut Diagnostic>);

impl Message<'_> {
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.label = label.into();
        }
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.help = Some(help.into());
        }
        self
    }
}

impl<'a> Context<'a> {
    /// `base`: what relative paths in the file are relative to (its directory).
    pub(super) fn new(
        source: Option<&'a SourceText>,
        base: Option<&'a Path>,
        env: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            source,
            base,
            env,
            diagnostics: Vec::new(),
            hidden: BTreeSet::new(),
            errors: 0,
            garbled: false,
            warnings: 0,
            settings: Vec::new(),
            named_files: Vec::new(),
        }
    }

    pub(super) fn source(&self) -> Option<&'a SourceText> {
        self.source
    }

    /// The environment as the lookup that credential sources take.
    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + 'a {
        let env = self.env;
        move |name| env.get(name).cloned()
    }

    pub(super) fn location(&self, place: &Place) -> Option<Location> {
        match place {
            Place::File(span) => Some(self.hiding(self.source?.location(span, false))),
            Place::Secret(span) => Some(self.source?.location(span, true)),
            Place::Environment(_) | Place::Flag(_) | Place::Default => None,
        }
    }

    /// Hides every line of a value that is a secret, whatever else of the line a message is about.
    pub(super) fn hide(&mut self, span: &Range<usize>) {
        if let Some(source) = self.source {
            self.hidden
                .extend(source.line(span.start)..=source.line(span.end));
        }
    }

    fn hiding(&self, mut location: Location) -> Location {
        if self.hidden.contains(&location.line) {
            location.source = None;
        }
        location
    }

    /// What stands at a place of the file, as it is written there.
    pub(super) fn raw(&self, place: &Place) -> &'a str {
        match (place, self.source) {
            (Place::File(span) | Place::Secret(span), Some(source)) => {
                source.text().get(span.clone()).unwrap_or_default()
            }
            _ => "",
        }
    }

    fn origin(&self, place: &Place) -> Origin {
        match (place, self.source) {
            (Place::File(span) | Place::Secret(span), Some(source)) => Origin::File {
                file: source.name().to_owned(),
                line: source.line(span.start),
            },
            (Place::Environment(name), _) => Origin::Environment((*name).to_owned()),
            (Place::Flag(name), _) => Origin::Flag((*name).to_owned()),
            _ => Origin::Default,
        }
    }

    pub(super) fn error(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) -> Message<'_> {
        self.report(code, Severity::Error, place, message.into())
    }

    pub(super) fn warning(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) -> Message<'_> {
        self.report(code, Severity::Warning, place, message.into())
    }

    fn report(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: &Place,
        message: String,
    ) -> Message<'_> {
        if !self.has_room(severity) {
            return Message(None);
        }
        let message = match place {
            Place::Environment(name) => format!("{name}: {message}"),
            Place::Flag(name) => format!("{name}: {message}"),
            _ => message,
        };
        let diagnostic = Diagnostic::new(code, severity, message).at(self.location(place));
        self.diagnostics.push(diagnostic);
        Message(self.diagnostics.last_mut())
    }

    pub(super) fn syntax_error(&mut self, span: &Range<usize>, message: &str) {
        self.garbled = true;
        if !self.has_room(Severity::Error) {
            return;
        }
        let location = self
            .source
            .map(|source| self.hiding(source.syntax_location(span)));
        let message = message.lines().next().unwrap_or("syntax error").to_owned();
        self.diagnostics
            .push(Diagnostic::error(code::SYNTAX, message).at(location));
    }

    /// How many errors there are: who compares it before and after reading some keys knows whether they are right,
    /// and does not complain about what a default in their place would mean.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Counts a message, and says whether it is still kept: a file of noise must not cost more than its size.
    fn has_room(&mut self, severity: Severity) -> bool {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        *count <= MOST_MESSAGES
    }

    /// Every message so far, and the settings.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Setting>) {
        let left_out =
            self.errors.saturating_sub(MOST_MESSAGES) + self.warnings.saturating_sub(MOST_MESSAGES);
        if left_out > 0 {
            let message = format!("{left_out} further messages are left out");
            self.diagnostics.push(
                Diagnostic::warning(code::TOO_MANY, message).helped("mend the first ones, then try again"),
            );
        }
        (self.diagnostics, self.settings)
    }

    /// Records an effective value.
    pub(super) fn record(
        &mut self,
        table: &Table,
        key: &'static str,
        value: impl Into<String>,
        place: &Place,
    ) {
        let origin = self.origin(place);
        self.settings.push(Setting {
            section: table.title.clone(),
            key,
            value: value.into(),
            origin,
        });
    }

    // Readers: take a key of a table, check its form, record it, and say where it stood.

    pub(super) fn text(&mut self, table: &Table, key: &'static str) -> Option<Given<String>> {
        let given = self.text_unrecorded(table, key)?;
        self.record(table, key, given.value.clone(), &given.place);
        Some(given)
    }

    /// A text that the caller records itself, because its value must be rendered or hidden.
    pub(super) fn text_unrecorded(&self, table: &Table, key: &'static str) -> Option<Given<String>> {
        let given = table.get(key)?;
        match &given.value {
            Raw::Text(text) => Some(Given {
                value: text.clone(),
                place: given.place.clone(),
            }),
            _ => None,
        }
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, table: &Table, key: &'static str) -> Option<Given<String>> {
        let found = self.text(table, key);
        if found.is_none() && !table.has(key) {
            let title = table.title.clone();
            self.error(code::MISSING_KEY, &table.place, format!("{title} has no `{key}`"))
                .label(format!("`{key}` is required here"));
        }
        found
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        table: &Table,
        key: &'static str,
        words: &[(&'static str, T)],
        default: (&'static str, T),
    ) -> Given<T> {
        let Some(given) = self.text_unrecorded(table, key) else {
            self.record(table, key, default.0, &Place::Default);
            return Given {
                value: default.1,
                place: Place::Default,
            };
        };
        if let Some((word, value)) = words.iter().find(|(word, _)| *word == given.value) {
            self.record(table, key, *word, &given.place);
            return Given {
                value: *value,
                place: given.place,
            };
        }
        let possible: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let near = super::diagnostic::did_you_mean(&given.value, words.iter().map(|(word, _)| *word));
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("possible: {}", possible.join(", ")),
        };
        self.error(
            code::CHOICE,
            &given.place,
            format!("`{key}` cannot be \"{}\"", shown(&given.value)),
        )
        .help(help);
        Given {
            value: default.1,
            place: given.place,
        }
    }

    /// A duration between `least` and `most`.
    pub(super) fn duration(
        &mut self,
        table: &Table,
        key: &'static str,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        match self.duration_given(table, key, (least, most)) {
            Some(duration) => duration,
            None => {
                if !table.has(key) {
                    self.record(table, key, show_duration(default), &Place::Default);
                }
                default
            }
        }
    }

    /// A duration, or `"off"`.
    pub(super) fn duration_or_off(
        &mut self,
        table: &Table,
        key: &'static str,
        limits: (Duration, Duration),
    ) -> Option<Duration> {
        match table.text(key) {
            None | Some("off") => {
                self.record(
                    table,
                    key,
                    "off",
                    &table.get(key).map_or(Place::Default, |g| g.place.clone()),
                );
                None
            }
            Some(_) => self.duration_given(table, key, limits),
        }
    }

    fn duration_given(
        &mut self,
        table: &Table,
        key: &'static str,
        (least, most): (Duration, Duration),
    ) -> Option<Duration> {
        let given = self.text_unrecorded(table, key)?;
        match parse_duration(&given.value) {
            Some(duration) if (least..=most).contains(&duration) => {
                self.record(table, key, given.value.clone(), &given.place);
                Some(duration)
            }
            Some(_) => {
                let range = format!("between {} and {}", show_duration(least), show_duration(most));
                self.error(code::RANGE, &given.place, format!("`{key}` is out of range"))
                    .label(range);
                None
            }
            None => {
                self.error(code::DURATION, &given.place, format!("`{key}` is not a duration"))
                    .label("expected a number and a unit")
                    .help(r#"units: ms, s, m, h, d; for example "500ms", "10s", "2m""#);
                None
            }
        }
    }

    /// An integer between `least` and `most`, if given.
    pub(super) fn integer(
        &mut self,
        table: &Table,
        key: &'static str,
        (least, most): (u64, u64),
    ) -> Option<Given<u64>> {
        let given = table.get(key)?.clone();
        let number = match &given.value {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => {
                self.record(table, key, number.to_string(), &given.place);
                Some(Given {
                    value: number,
                    place: given.place,
                })
            }
            None => {
                self.error(code::RANGE, &given.place, format!("`{key}` is out of range"))
                    .label(format!("expected a whole number between {least} and {most}"));
                None
            }
        }
    }

    /// An integer with a default.
    pub(super) fn integer_or(
        &mut self,
        table: &Table,
        key: &'static str,
        default: u64,
        limits: (u64, u64),
    ) -> u64 {
        match self.integer(table, key, limits) {
            Some(given) => given.value,
            None => {
                if !table.has(key) {
                    self.record(table, key, default.to_string(), &Place::Default);
                }
                default
            }
        }
    }

    /// `true` or `false`; from the environment also `on` and `off`.
    pub(super) fn boolean(&mut self, table: &Table, key: &'static str, default: bool) -> Given<bool> {
        let Some(given) = table.get(key).cloned() else {
            self.record(table, key, default.to_string(), &Place::Default);
            return Given {
                value: default,
                place: Place::Default,
            };
        };
        let value = match &given.value {
            Raw::Boolean(flag) => Some(*flag),
            Raw::Text(text) => parse_boolean(text),
            _ => None,
        };
        match value {
            Some(value) => {
                self.record(table, key, value.to_string(), &given.place);
                Given {
                    value,
                    place: given.place,
                }
            }
            None => {
                self.error(
                    code::CHOICE,
                    &given.place,
                    format!("`{key}` must be true or false"),
                )
                .help("possible: true, false, on, off");
                Given {
                    value: default,
                    place: given.place,
                }
            }
        }
    }

    /// A path; one from the file is relative to the file's directory.
    pub(super) fn path(&mut self, table: &Table, key: &'static str) -> Option<Given<PathBuf>> {
        let given = self.text_unrecorded(table, key)?;
        if given.value.is_empty() {
            self.error(code::EMPTY, &given.place, format!("`{key}` is empty"))
                .help("name a file, or leave the key out");
            return None;
        }
        let path = self.resolve(&given.value, &given.place);
        self.record(table, key, path.display().to_string(), &given.place);
        self.name_file(table, &path, &given.place);
        Some(Given {
            value: path,
            place: given.place,
        })
    }

    /// Remembers where a file was named.
    pub(super) fn name_file(&mut self, table: &Table, file: &Path, place: &Place) {
        self.named_files.push(NamedFile {
            section: table.title.clone(),
            file: file.to_owned(),
            location: self.location(place),
            variable: match place {
                Place::Environment(variable) => Some((*variable).to_owned()),
                _ => None,
            },
        });
    }

    /// See [`Self::path`].
    pub(super) fn resolve(&self, text: &str, place: &Place) -> PathBuf {
        match self.base {
            Some(base) if place.in_file() => base.join(text),
            _ => PathBuf::from(text),
        }
    }

    pub(super) fn list(&mut self, table: &Table, key: &'static str) -> Option<Vec<Given<String>>> {
        let given = table.get(key)?.clone();
        let Raw::List(items) = given.value else {
            return None;
        };
        if items.is_empty() {
            self.error(code::EMPTY, &given.place, format!("`{key}` is an empty list"))
                .help("leave the key out for its default");
            return None;
        }
        Some(items)
    }
}
