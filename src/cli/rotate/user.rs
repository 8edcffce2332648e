//! `keyward rotate user`: a new password for a client, beside the old one until nobody uses that any more.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;

use crate::acl::rule;
use crate::config::{self, CredentialSource};
use crate::secret::Secret;

use super::super::gen_password::generate;
use super::super::{Config, Exit, print, report, talk};
use super::acl_file::{self, Edit};
use super::client_url::{has_host, url};
use super::running::{Page, Running, unix};
use super::secret_file::{SecretFile, lines};
use super::{Keywards, duration};

#[derive(Debug, Args)]
pub(in super::super) struct UserArgs {
    #[command(flatten)]
    config: Config,
    /// Whose password
    #[arg(value_name = "NAME")]
    user: String,
    /// Only at this listener, when users of this name come from several ACL files
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// What clients call this host, for the URL that is printed
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// Take the old password away, if nobody uses it any more
    #[arg(long, conflicts_with = "undo")]
    finish: bool,
    /// Take the new password away again, if nobody uses it yet
    #[arg(long)]
    undo: bool,
    /// How long the old password must not have been used before --finish takes it away
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    unused_for: Duration,
    /// Whoever uses the password: its sessions end
    #[arg(long)]
    force: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keywards: Keywards,
}

/// A user whose passwords can be changed here.
struct Account {
    name: String,
    store: Store,
    file: SecretFile,
    content: Secret,
    /// Its passwords, as many as there are.
    count: usize,
    /// Where it logs in.
    listeners: Vec<config::Listener>,
}

/// How the file holds passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// One or two lines, of this user alone.
    Lines,
    /// Redis's ACL file.
    Acl,
}

/// That a password is in use, or may be.
struct Use {
    /// Sessions are open that logged in with it.
    open: bool,
    told: String,
}

/// Rotates, finishes or takes back.
pub(in super::super) fn rotate(args: &UserArgs) -> anyhow::Result<Exit> {
    let config = match config::load(&args.config.sources()) {
        Ok(loaded) => loaded.config,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let (store, path, listeners) = match find(&config, &args.user, args.listener.as_deref()) {
        Ok(found) => found,
        Err(problem) => {
            talk(&format!("error: {problem}"));
            return Ok(Exit::Configuration);
        }
    };
    let account = Account::open(&args.user, store, path, listeners)?;
    let running = args.keywards.find(&config.admin)?;
    if args.finish || args.undo {
        return account.drop_one(args, running.as_ref());
    }
    account.begin(args, running.as_ref())
}

/// The user's file, and the listeners that it belongs to.
fn find(
    config: &config::Config,
    name: &str,
    listener: Option<&str>,
) -> Result<(Store, PathBuf, Vec<config::Listener>), String> {
    let wanted = |section: &&config::Listener| listener.is_none_or(|name| section.name == name);
    let here: Vec<&config::Listener> = config.listeners.iter().filter(wanted).collect();
    if here.is_empty() {
        return Err("there is no such listener".to_owned());
    }
    if let Some(index) = config.users.iter().position(|entry| entry.name == name)
        && let Some(entry) = config.users.get(index)
    {
        let listeners: Vec<config::Listener> = here
            .iter()
            .filter(|section| section.users.contains(&index))
            .map(|section| (*section).clone())
            .collect();
        return match &entry.credential {
            Some(CredentialSource::File(file)) => Ok((Store::Lines, file.clone(), listeners)),
            Some(_) => Err(format!(
                "the password of user \"{name}\" comes from an environment variable, which a running process cannot read \
                 again. Put it into a file, name that with password_file (KEYWARD_PASSWORD_FILE), restart Keyward once, and \
                 rotate then"
            )),
            None if entry.password_hashes.is_empty() => Err(format!(
                "user \"{name}\" has no password_file: it logs in by a certificate or a unix user, or its digest stands in \
                 `acl`. {BY_HAND}"
            )),
            None => Err(format!(
                "the passwords of user \"{name}\" are digests in the configuration (password_hashes), which this command does \
                 not edit. {BY_HAND}"
            )),
        };
    }
    let mut found: Option<(PathBuf, Vec<config::Listener>)> = None;
    for section in here {
        let Some(file) = &section.users_file else { continue };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if acl_file::passwords(&text, name).is_none() {
            continue;
        }
        match &mut found {
            None => found = Some((file.clone(), vec![section.clone()])),
            Some((known, listeners)) if known == file => listeners.push(section.clone()),
            Some((known, _)) => {
                return Err(format!(
                    "user \"{name}\" stands in {} and in {}: they are two; say which with --listener",
                    known.display(),
                    file.display()
                ));
            }
        }
    }
    let (file, listeners) = found.ok_or_else(|| format!("there is no user \"{name}\""))?;
    Ok((Store::Acl, file, listeners))
}

impl Account {
    fn open(
        name: &str,
        store: Store,
        path: PathBuf,
        listeners: Vec<config::Listener>,
    ) -> anyhow::Result<Self> {
        let file = SecretFile::find(&path)?;
        let content = file.read()?;
        let count = match store {
            Store::Lines => {
                let credential = config::Credential::parse(content.expose());
                credential
                    .with_context(|| format!("the secret file {file} is not usable"))?
                    .iter()
                    .count()
            }
            Store::Acl => {
                let text = std::str::from_utf8(content.expose()).context("the ACL file is not UTF-8 text")?;
                acl_file::passwords(text, name)
                    .with_context(|| format!("{file} was changed in this moment"))?
            }
        };
        Ok(Self {
            name: name.to_owned(),
            store,
            file,
            content,
            count,
            listeners,
        })
    }

    /// A new password beside the old one.
    fn begin(&self, args: &UserArgs, running: Option<&Running>) -> anyhow::Result<Exit> {
        let name = &self.name;
        if self.count > 1 {
            talk(&format!(
                "error: user \"{name}\" has {} passwords in {}: a rotation is under way. When its clients have the new one (the \
                 first): keyward rotate user {name} --finish. If nobody has got it: keyward rotate user {name} --undo",
                self.count, self.file
            ));
            return Ok(Exit::Failed);
        }
        if args.dry_run {
            talk("dry run: nothing is changed");
            talk(&format!(
                "would write a new password of user {name} above the old one into {}",
                self.file
            ));
            talk("would print the new URL");
            talk("would wait until Keyward has read it; both passwords are good from then on");
            return Ok(Exit::Done);
        }
        let password = Secret::new(generate()?.into_bytes());
        let content = match self.store {
            Store::Lines => {
                let old = config::Credential::parse(self.content.expose())?;
                lines(&[&password, &old.current])
            }
            Store::Acl => self.edited(Edit::Add(rule::hash_password(password.expose())))?,
        };
        self.file.replace(&self.content, &content)?;
        // At once: of an ACL file it cannot be had later.
        for section in &self.listeners {
            print(&url(name, &password, section, args.host.as_deref()));
        }
        talk(&format!(
            "did write a new password of user {name} above the old one into {}",
            self.file
        ));
        if self.listeners.iter().any(|section| !has_host(section)) && args.host.is_none() {
            talk("note: put the host that clients know into the URL; --host does");
        }
        self.wait(running)?;
        talk(&format!(
            "both passwords of user {name} are good now. Give the URL to its clients; when none uses the old one any more: \
             keyward rotate user {name} --finish"
        ));
        Ok(Exit::Done)
    }

    /// The old one goes, or the new one again.
    fn drop_one(&self, args: &UserArgs, running: Option<&Running>) -> anyhow::Result<Exit> {
        let name = &self.name;
        if self.count < 2 {
            talk(&format!(
                "user \"{name}\" has one password in {}: no rotation is under way, nothing was changed",
                self.file
            ));
            return Ok(Exit::Done);
        }
        let which = if args.undo { "new" } else { "old" };
        match running {
            None if !args.force => anyhow::bail!(
                "nobody can be asked whether the {which} password is in use; --force takes it away all the same (nothing was \
                 changed)"
            ),
            None => {}
            Some(running) => {
                // Before, the metrics speak of other passwords.
                self.wait(Some(running))?;
                let used = running
                    .pages()?
                    .iter()
                    .filter_map(|(address, page)| self.use_of(args, *address, page).transpose())
                    .collect::<anyhow::Result<Vec<Use>>>()?;
                for found in &used {
                    talk(&found.told);
                }
                if !used.is_empty() && !args.force {
                    let why = match used.iter().any(|found| found.open) {
                        true => "is in use",
                        false => "has not been unused for long enough",
                    };
                    talk(&format!(
                        "error: the {which} password of user {name} {why}, so it stays (--force takes it away, and its \
                         sessions end). The audit events older_password_used have the addresses"
                    ));
                    return Ok(Exit::Failed);
                }
            }
        }
        if args.dry_run {
            talk("dry run: nothing is changed");
            talk(&format!(
                "would take the {which} password of user {name} out of {}",
                self.file
            ));
            return Ok(Exit::Done);
        }
        let content = match self.store {
            Store::Lines => {
                let credential = config::Credential::parse(self.content.expose())?;
                let other = credential.other.context("the file has lost its second line")?;
                lines(&[if args.undo { &other } else { &credential.current }])
            }
            Store::Acl => self.edited(if args.undo {
                Edit::DropNewest
            } else {
                Edit::DropOlder
            })?,
        };
        self.file.replace(&self.content, &content)?;
        talk(&format!(
            "did take the {which} password of user {name} out of {}",
            self.file
        ));
        self.wait(running)?;
        talk(&format!(
            "done: the {which} password is good for nothing any more"
        ));
        Ok(Exit::Done)
    }

    /// Who uses the password that is to go, if anybody does.
    fn use_of(&self, args: &UserArgs, address: SocketAddr, page: &Page) -> anyhow::Result<Option<Use>> {
        let (name, credential) = (self.name.as_str(), if args.undo { "current" } else { "older" });
        for section in &self.listeners {
            let at = [
                ("listener", section.name.as_str()),
                ("user", name),
                ("credential", credential),
            ];
            let open = page.value(SESSIONS, &at).with_context(|| {
                format!(
                    "the Keyward at {address} knows no user {name} at listener \"{}\"; is it of another configuration?",
                    section.name
                )
            })?;
            if open > 0.0 {
                let told = format!(
                    "{open:.0} sessions at listener {} of the Keyward at {address} logged in with it",
                    section.name
                );
                return Ok(Some(Use { open: true, told }));
            }
            if args.undo {
                continue;
            }
            let last = page.value(LAST_USED, &at[..2]).unwrap_or_default();
            let start = page.value("process_start_time_seconds", &[]).unwrap_or_default();
            // Nothing is known of the time before the process, and before there were two passwords.
            let quiet_since = last.max(start).max(unix(self.file.modified()?));
            let quiet =
                Duration::try_from_secs_f64(unix(SystemTime::now()) - quiet_since).unwrap_or_default();
            if quiet < args.unused_for {
                let seconds = Duration::from_secs(quiet.as_secs());
                let why = if last > 0.0 && last >= quiet_since {
                    "ago somebody logged in with it"
                } else {
                    "is all that is known of its use: so long has the process run, or has the user had two passwords"
                };
                let told = format!(
                    "at listener {} of the Keyward at {address}: {} {why} (--unused-for is {})",
                    section.name,
                    config::show_duration(seconds),
                    config::show_duration(args.unused_for)
                );
                return Ok(Some(Use { open: false, told }));
            }
        }
        Ok(None)
    }

    fn edited(&self, edit: Edit) -> anyhow::Result<Secret> {
        let text = std::str::from_utf8(self.content.expose()).context("the ACL file is not UTF-8 text")?;
        let edited = acl_file::edit(text, &self.name, edit)
            .with_context(|| format!("{} is not edited by this command. {BY_HAND}", self.file))?;
        Ok(Secret::new(edited.into_bytes()))
    }

    /// Until every Keyward has read the file as it is.
    fn wait(&self, running: Option<&Running>) -> anyhow::Result<()> {
        let Some(running) = running else { return Ok(()) };
        let modified = self.file.modified()?;
        running.wait("read the passwords", |page| {
            let read = match self.store {
                Store::Lines => page.is_at(AGE, &[("user", &self.name)], modified),
                Store::Acl => page.value(LOADED, &[]).map(|loaded| loaded >= unix(modified)),
            };
            read.with_context(|| format!("knows no user {}: is it of another configuration?", self.name))
        })
    }
}

const BY_HAND: &str = "By hand: keyward gen-password --write FILE makes a password; keyward hash-password < FILE prints its \
    digest, which goes in front of the others (password_hashes = [\"sha256:NEW\", \"sha256:OLD\"], or #NEW before #OLD in \
    rules); SIGHUP has Keyward read it; take the old one out and SIGHUP again when \
    keyward_older_password_last_used_timestamp_seconds stands still. Nothing was changed";
const SESSIONS: &str = "keyward_password_sessions_open";
const LAST_USED: &str = "keyward_older_password_last_used_timestamp_seconds";
const AGE: &str = "keyward_user_credential_changed_timestamp_seconds";
const LOADED: &str = "keyward_config_last_reload_success_timestamp_seconds";
