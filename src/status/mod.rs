//! What a person wants to know of a running Keyward: problems first, in words and with the remedy, then who is being refused,
//! then listeners, upstreams, users and certificates, and a picture of the last hour.
//!
//! Everything here is pure: facts, readings of the metrics and a time come in, a [`Status`] comes out ([`assemble()`]), and a
//! `Status` becomes a page ([`html`]), lines for a terminal ([`text`]) or JSON (serde). Who collects is `server::status`, who
//! serves `admin`, who asks from outside `cli::status`.
//!
//! [`Status`] is also the form of `/status.json`: its field names are a promise. Fields are added, never renamed or given
//! another meaning. Times are seconds of Unix time, durations seconds, sizes bytes; what is not known is `null`.

pub mod assemble;
mod chart;
pub mod facts;
pub mod history;
pub mod html;
mod markup;
mod problems;
pub mod reading;
mod remedies;
pub mod text;
mod words;

use serde::{Deserialize, Serialize};

pub use assemble::assemble;
pub use problems::{ALERTS, DANGEROUS_COMMANDS};

/// Everything that the page, the terminal and `/status.json` show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program that answers.
    pub version: String,
    /// When this was put together.
    pub now: i64,
    /// When the process started.
    pub started: i64,
    /// Whether it serves.
    pub phase: Phase,
    /// Worst severity of all problems; `ok` with notices or nothing.
    pub state: State,
    /// Where the configuration came from, and whether the last reload was taken over.
    pub configuration: Configuration,
    /// What is wrong, the worst first; at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// How many problems there are, named or not.
    pub problems_total: usize,
    /// Who has been refused within the last hour.
    pub refused: Refused,
    /// Every listener, in the order of the configuration.
    pub listeners: Vec<Listener>,
    /// Every upstream, in the order of the configuration.
    pub upstreams: Vec<Upstream>,
    /// Users by name, those who were refused most within the last hour first; at most [`MAX_USERS`].
    pub users: Vec<User>,
    /// How many users there are, named or not.
    pub users_total: usize,
    /// Loaded certificates and revocation lists, the one that ends first at the top.
    pub certificates: Vec<Certificate>,
    /// The last hour in minutes.
    pub history: History,
    /// The process.
    pub process: Process,
}

/// Whether the process serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has begun and does not know every upstream yet.
    #[default]
    Starting,
    /// It serves.
    Serving,
    /// It lets sessions end and takes no new ones.
    Draining,
}

/// The state in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing that anybody has to do.
    #[default]
    Ok,
    /// Something for working hours.
    Warning,
    /// Something for now.
    Critical,
}

/// How bad a problem is; the words of the alert rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Wakes somebody up.
    Critical,
    /// For working hours.
    Warning,
    /// Good to know; so it was configured, or it passes by itself.
    Notice,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The name of the alert that the same facts fire ([`ALERTS`]); of a notice, a name of its own.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: name of a listener, upstream or user; empty for the process as a whole.
    pub subject: String,
    /// What is wrong, in one sentence.
    pub title: String,
    /// More of it: numbers, reasons, what follows from it. May be empty.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when it has been so, as far as this process has seen.
    pub since: i64,
    /// Where the runbook has more, under `deploy/docs`; empty for notices.
    pub runbook: String,
}

/// `configuration`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// The file, or `environment`.
    pub source: String,
    /// When it was last loaded with success.
    pub loaded: Option<i64>,
    /// False: the last reload was refused and the former configuration is in force.
    pub successful: bool,
    /// Why it was refused; empty otherwise.
    pub fault: String,
}

/// `refused`: counts of the last hour, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// Length of the window in seconds; less while the process is younger.
    pub window_seconds: u64,
    /// Logins; at most [`MAX_REFUSED`] rows.
    pub logins: Vec<RefusedRow>,
    /// Commands; at most [`MAX_REFUSED`] rows.
    pub commands: Vec<RefusedRow>,
    /// Connections that a limit refused; at most [`MAX_REFUSED`] rows.
    pub connections: Vec<RefusedRow>,
    /// Logins refused in all.
    pub logins_total: u64,
    /// Commands refused in all.
    pub commands_total: u64,
    /// Connections refused in all.
    pub connections_total: u64,
    /// Sources that are locked out now, those that stay so longest first; at most [`MAX_LOCKOUTS`].
    pub lockouts: Vec<Lockout>,
    /// How many there are, named or not.
    pub lockouts_total: usize,
    /// Users whose refusals are held back for strangers, because many sources guess at them; at most [`MAX_LOCKOUTS`].
    pub slowed_users: Vec<SlowedUser>,
    /// Series that were not followed because there are too many ([`history::MAX_SERIES`]); the totals have them.
    pub not_followed: usize,
}

/// Refusals of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedRow {
    /// Where.
    pub listener: String,
    /// Whom; empty: nobody who is configured.
    pub user: String,
    /// Which command, as the command table calls it; empty unless a command was refused.
    pub command: String,
    /// Why; a label of the metric.
    pub reason: String,
    /// How often within the window.
    pub count: u64,
    /// When it was last seen to happen, within a sampling interval.
    pub last: i64,
}

/// A source that is locked out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lockout {
    /// Address or network.
    pub source: String,
    /// Where it failed.
    pub listener: String,
    /// For how long yet.
    pub seconds_left: u64,
    /// Its lockouts in a row.
    pub times: u32,
}

/// A user at whom many sources guess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowedUser {
    /// Name.
    pub user: String,
    /// Where.
    pub listener: String,
    /// Failures on record.
    pub failures: u32,
}

/// One listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Configured name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Name of its upstream.
    pub upstream: String,
    /// Clients need TLS.
    pub tls: bool,
    /// `off`, `optional` or `required`.
    pub client_certificates: String,
    /// `password` or `none`.
    pub login: String,
    /// Client connections.
    pub connections: u64,
    /// How many there may be.
    pub connections_max: u64,
    /// Those of them that have not logged in.
    pub unauthenticated: u64,
    /// Requests forwarded, a second, over the last minute.
    pub requests_per_second: f64,
    /// Median time from a whole command to its whole reply, over the last five minutes.
    pub p50_seconds: Option<f64>,
    /// The time that one command in a hundred exceeds, likewise.
    pub p99_seconds: Option<f64>,
    /// Logins and commands refused within the last hour.
    pub refused: u64,
}

/// One upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// Configured name.
    pub name: String,
    /// Host, port and database; never a user or a password.
    pub address: String,
    /// Connections to it are encrypted.
    pub tls: bool,
    /// What the last check found.
    pub state: UpstreamState,
    /// Since when.
    pub since: Option<i64>,
    /// What the last check says, when it is not `up`.
    pub detail: String,
    /// Time of the last PING.
    pub ping_seconds: Option<f64>,
    /// Median time of connecting (TCP, TLS and AUTH), since the start.
    pub connect_p50_seconds: Option<f64>,
    /// Connections.
    pub connections: u64,
    /// How many there may be.
    pub connections_max: u64,
    /// Those shared by the sessions of a user.
    pub lanes_shared: u64,
    /// Those that one session has for itself.
    pub lanes_own: u64,
    /// Those that nobody uses.
    pub lanes_idle: u64,
    /// Clients that wait for one.
    pub waiting: u64,
    /// Requests without a reply yet on shared connections.
    pub queued: u64,
    /// When the credential in use was last changed.
    pub credential_changed: Option<i64>,
}

/// What is known of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// Not checked yet.
    #[default]
    Unknown,
    /// It answers, and takes our credential and commands.
    Up,
    /// It answers and does not take commands: it loads, or has no master.
    NotReady,
    /// It does not answer, or not to us.
    Down,
}

/// One user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Configured name.
    pub name: String,
    /// Where it may log in.
    pub listeners: Vec<String>,
    /// Connections that are logged in.
    pub connections: u64,
    /// How many there may be.
    pub connections_max: Option<u64>,
    /// Logins refused within the last hour.
    pub refused_logins: u64,
    /// Commands refused within the last hour.
    pub refused_commands: u64,
    /// When its password file was last changed; `null` if it has none.
    pub credential_changed: Option<i64>,
    /// When the password of its own login at Redis was last changed (`upstream_password_file`); `null` if it has none.
    pub redis_credential_changed: Option<i64>,
    /// False: it may not log in.
    pub enabled: bool,
    /// What its rules refuse is forwarded all the same.
    pub observed: bool,
}

/// A certificate or revocation list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// `listener`, `client_ca`, `upstream_ca`, `upstream_client` or `revocation_list`.
    pub role: String,
    /// The listener or upstream that it belongs to.
    pub owner: String,
    /// The file.
    pub file: String,
    /// Subject of the certificate that ends first; empty for a list.
    pub subject: String,
    /// When it ends.
    pub ends: i64,
}

/// The last hour: one value a minute, the oldest first; the last minute is the one that is going on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When the last of them ends.
    pub until: i64,
    /// Seconds for which there are readings.
    pub known_seconds: u64,
    /// Requests forwarded.
    pub requests: Vec<u64>,
    /// Logins, commands and connections refused.
    pub refusals: Vec<u64>,
    /// Median time of a command; `null` for a minute without one.
    pub p50_seconds: Vec<Option<f64>>,
    /// The time that one command in a hundred exceeds.
    pub p99_seconds: Vec<Option<f64>>,
}

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Open files.
    pub open_files: u64,
    /// How many there may be.
    pub open_files_max: u64,
    /// Processor time since the start.
    pub cpu_seconds: f64,
}

/// Problems that are named.
pub const MAX_PROBLEMS: usize = 100;
/// Rows in each list of refusals.
pub const MAX_REFUSED: usize = 50;
/// Lockouts and slowed users that are named.
pub const MAX_LOCKOUTS: usize = 50;
/// Users that are named.
pub const MAX_USERS: usize = 200;

#[cfg(test)]
mod tests;
