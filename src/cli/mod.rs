//! The command line: one file a subcommand. Data goes to standard output, talk to standard error.

mod acl;
mod certificates;
mod check;
mod dev;
mod dev_certs;
mod doctor;
mod gen_password;
mod hash_password;
mod healthcheck;
mod lockouts;
mod logging;
mod manual;
mod rotate;
mod run;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Diagnostic, Overrides, Sources};

/// How the program ends (sysexits.h, so that service managers can tell what a restart would mend).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or unhealthy.
    Failed = 1,
    /// Nobody answered (`keyward status` alone, so that 1 can mean problems).
    NoAnswer = 2,
    /// Wrong usage.
    Usage = 64,
    /// Redis is out of reach.
    Unavailable = 69,
    /// Refused: a file's mode, a wrong password.
    Refused = 77,
    /// Wrong configuration.
    Configuration = 78,
}

/// A secure front door for Redis and Valkey: TLS, login, ACL, limits and metrics, without a change in the apps.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, until SIGTERM; SIGHUP reloads
    Run(Running),
    /// Look for every fault in the configuration and the files it names, offline
    Check(Checking),
    /// Look for what is wrong, from the configuration to Redis, and say what to do; exit 1 if anything failed
    Doctor(doctor::Examining),
    /// Ask the rules: what a user may do, and what Keyward's own user needs on Redis
    #[command(subcommand)]
    Acl(Rules),
    /// Try it: throw-away certificates, passwords and Redis, and a proof that it works
    Dev {
        /// End after the proof
        #[arg(long)]
        once: bool,
    },
    /// Exit 0 if the running proxy is ready, else 1; needs no password
    Healthcheck(Config),
    /// Say in the terminal what the status page says: problems first, with what to do about them
    Status(status::Looking),
    /// List who is locked out after too many failed logins
    Lockouts(lockouts::Listing),
    /// Lift the lockouts of an address, a network or a user
    Unlock(lockouts::Unlocking),
    /// Make a random password of 256 bits
    GenPassword {
        /// Write it to a new file that only its owner can read, and print nothing
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Overwrite the file
        #[arg(long, requires = "write")]
        force: bool,
    },
    /// Change a password while everything runs
    #[command(subcommand)]
    Rotate(rotate::Rotation),
    /// Read a password from standard input, print its hash for a [[user]] or an ACL file
    HashPassword,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Make a private CA, a server certificate and a client certificate, or renew what is missing or ends soon
    DevCerts(dev_certs::Wish),
}

#[derive(Debug, Subcommand)]
enum Rules {
    /// Say whether a user may send a request, or which rule refuses which argument; exit 77 if refused
    Test(Asking),
    /// Print the ACL SETUSER line that gives Keyward's own Redis user what its users may do, and no more
    Upstream(Narrowing),
    /// Print the least rules that permit what users with `learn = true` were seen to do since Keyward started
    Learn(Learning),
}

#[derive(Debug, Args)]
struct Learning {
    #[command(flatten)]
    config: Config,
    /// Only this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, Args)]
struct Asking {
    #[command(flatten)]
    config: Config,
    /// Only the users of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Who asks
    #[arg(value_name = "USER")]
    user: String,
    /// The request, word by word: GET some:key
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    request: Vec<String>,
}

#[derive(Debug, Args)]
struct Narrowing {
    #[command(flatten)]
    config: Config,
    /// Only for this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// The oldest server that must take the line: redis-7.0, redis-8.2, valkey-8.0
    #[arg(long, value_name = "SERVER", default_value = "redis-7.0")]
    server: String,
    /// With the commands of modules, which must be loaded then
    #[arg(long)]
    modules: bool,
}

/// Where the configuration is.
#[derive(Debug, Clone, Default, Args)]
struct Config {
    /// The configuration file; without one, the environment alone (REDIS_URL, KEYWARD_...)
    #[arg(long, short, value_name = "FILE", env = "KEYWARD_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Running {
    #[command(flatten)]
    config: Config,
    /// Address of the listener, when there is one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address of metrics and health
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Worker threads
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// What to log: error, warn, info, debug, or a filter
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// json, human or auto
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Debug, Args)]
struct Checking {
    #[command(flatten)]
    config: Config,
    /// Print every effective value and where it came from
    #[arg(long)]
    show: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Config {
    fn sources(&self) -> Sources {
        Sources::from_process(self.config.clone(), Overrides::default())
    }
}

/// Runs the program with these arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(error) => {
            // Nothing is left to do if even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            }
            .into();
        }
    };
    let outcome = match line.command {
        Command::Run(running) => run::run(running),
        Command::Check(checking) => check::check(&checking),
        Command::Doctor(examining) => doctor::doctor(&examining),
        Command::Acl(Rules::Test(asking)) => acl::test(&asking),
        Command::Acl(Rules::Upstream(narrowing)) => acl::upstream(&narrowing),
        Command::Acl(Rules::Learn(learning)) => acl::learn(&learning),
        Command::Dev { once } => dev::dev(once),
        Command::Healthcheck(config) => healthcheck::healthcheck(&config),
        Command::Status(looking) => status::status(&looking),
        Command::Lockouts(listing) => lockouts::lockouts(&listing),
        Command::Unlock(unlocking) => lockouts::unlock(&unlocking),
        Command::GenPassword { write, force } => gen_password::gen_password(write.as_deref(), force),
        Command::Rotate(rotation) => rotate::rotate(&rotation),
        Command::HashPassword => hash_password::hash_password(),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::page(),
        Command::DevCerts(wish) => dev_certs::dev_certs(&wish),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            talk(&format!("error: {error:#}"));
            Exit::Failed.into()
        }
    }
}

/// A line for the person at the terminal.
#[allow(clippy::print_stderr, reason = "the one place of the command line that talks")]
fn talk(line: &str) {
    eprintln!("{line}");
}

/// A line of the command's result.
#[allow(
    clippy::print_stdout,
    reason = "the one place of the command line that prints data"
)]
fn print(line: &str) {
    println!("{line}");
}

/// Every message, the errors' number last.
fn report(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        talk(&format!("{diagnostic}\n"));
    }
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.is_error())
        .count();
    if errors > 0 {
        talk(&format!(
            "{errors} error{} in the configuration",
            if errors == 1 { "" } else { "s" }
        ));
    }
}

const AFTER_HELP: &str = "\
Example:     REDIS_URL=rediss://redis.internal:6379/0 REDIS_PASSWORD_FILE=/run/secrets/redis keyward run
Exit codes:  0 done, 1 failed or unhealthy, 64 usage, 69 Redis out of reach, 77 refused, 78 configuration";
