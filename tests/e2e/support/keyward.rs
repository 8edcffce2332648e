//! The program under test as a guard: a configuration, a process, its output, its metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value as Json;

use super::APP_PASSWORD;
use super::Client;
use super::DEFAULT_PASSWORD;
use super::Identity;
use super::PATIENCE;
use super::REDIS_PASSWORD;
use super::ROOT_PASSWORD;
use super::Redis;
use super::SECRETS;
use super::certs::replace;
use super::eventually;
use super::signal;

/// Security events are what the program is for; they are no sign of a defect.
const AUDIT: &str = "keyward::audit";

/// A configuration in the making. The standard one: an upstream `main`, a listener `main` on a loopback port, the
/// users `app` (preset `safe`), `default` (the same) and `root` (everything), no lockout.
pub(crate) struct Setup {
    dir: tempfile::TempDir,
    server: Vec<String>,
    login: Vec<String>,
    admin: String,
    log: String,
    upstreams: Vec<(String, Vec<String>)>,
    listeners: Vec<(String, Vec<String>)>,
    users: Vec<(String, Vec<String>)>,
    env: BTreeMap<String, String>,
    expected: Vec<String>,
    file: bool,
    /// `ulimit -n` for the process.
    open_files: Option<u64>,
    args: Vec<String>,
    /// A listening socket for the process, and what its `LISTEN_` variables are.
    inherited: Option<(OwnedFd, String)>,
    program: Option<PathBuf>,
    /// Lines of libraries are in the log as well: they have no `event`.
    any_target: bool,
}

/// A running Keyward.
pub(crate) struct Keyward {
    setup: Option<Setup>,
    child: Child,
    output: Arc<Output>,
    exit: Option<ExitStatus>,
    /// It refused to start: what it said then is for people, and the test's own affair.
    refused: bool,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
    /// Everything that came by other ways (scraped pages); searched for secrets as well.
    pages: Mutex<String>,
}

impl Output {
    /// A failed assertion elsewhere leaves the lines whole: they are wanted most then.
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> MutexGuard<'_, String> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Setup {
    /// The standard configuration in front of a Redis of ours, through its unix socket.
    pub(crate) fn new(redis: &Redis) -> Self {
        Self::to_url(&redis.unix_url())
    }

    /// The standard configuration with any upstream URL and [`REDIS_PASSWORD`].
    pub(crate) fn to_url(url: &str) -> Self {
        let setup = Self::empty();
        let mut setup = setup.add_upstream("main", url);
        setup = setup.add_listener("main", "main", "127.0.0.1:0");
        setup
            .user("app", APP_PASSWORD, "acl = \"safe\"")
            .user("default", DEFAULT_PASSWORD, "acl = \"safe\"")
            .user("root", ROOT_PASSWORD, "acl = \"+@all ~* &*\"")
    }

    /// No upstream, no listener, no user.
    pub(crate) fn empty() -> Self {
        let env = BTreeMap::from([
            ("KEYWARD_LOCKOUT".to_owned(), "off".to_owned()),
            ("KEYWARD_CONNECTIONS".to_owned(), connections()),
        ]);
        Self {
            dir: tempfile::tempdir().unwrap(),
            server: vec!["max_connections = 1000".to_owned()],
            login: Vec::new(),
            admin: "address = \"127.0.0.1:0\"".to_owned(),
            log: "format = \"json\"".to_owned(),
            upstreams: Vec::new(),
            listeners: Vec::new(),
            users: Vec::new(),
            env,
            // The user of Redis in most tests may do everything there.
            expected: vec!["KW0409".to_owned(), "upstream_overprivileged".to_owned()],
            file: true,
            open_files: None,
            args: Vec::new(),
            inherited: None,
            program: None,
            any_target: false,
        }
    }

    /// A sidecar: environment variables alone, no file.
    pub(crate) fn environment(variables: &[(&str, &str)]) -> Self {
        let mut setup = Self::empty();
        setup.file = false;
        setup
            .env
            .insert("KEYWARD_ADMIN".to_owned(), "127.0.0.1:0".to_owned());
        setup
            .env
            .insert("KEYWARD_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        for &(name, value) in variables {
            setup.env.insert(name.to_owned(), value.to_owned());
        }
        setup
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file with mode 0600 in the test's directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        replace(&path, text, 0o600);
        path
    }

    pub(crate) fn server(mut self, line: &str) -> Self {
        set(&mut self.server, line);
        self
    }

    /// A further line for `[admin]`.
    pub(crate) fn admin(mut self, line: &str) -> Self {
        self.admin.push('\n');
        self.admin.push_str(line);
        self
    }

    /// Another address for `[admin]`.
    pub(crate) fn admin_address(mut self, address: &str) -> Self {
        self.admin = format!("address = {address:?}");
        self
    }

    /// All of `[log]`.
    pub(crate) fn log(mut self, lines: &str) -> Self {
        self.log = lines.to_owned();
        self
    }

    /// Another name for the first listener.
    pub(crate) fn rename_listener(mut self, name: &str) -> Self {
        self.listeners[0].0 = name.to_owned();
        self
    }

    /// Another name for the first upstream, also where it is named.
    pub(crate) fn rename_upstream(mut self, name: &str) -> Self {
        self.upstreams[0].0 = name.to_owned();
        self.listener(&format!("upstream = {name:?}"))
    }

    /// The control socket, at this path in the test's directory.
    pub(crate) fn control_socket(self) -> Self {
        let line = format!("control_socket = {:?}", self.control_path());
        self.admin(&line)
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub(crate) fn login(mut self, line: &str) -> Self {
        set(&mut self.login, line);
        self
    }

    /// A line for the first upstream.
    pub(crate) fn upstream(mut self, line: &str) -> Self {
        set(&mut self.upstreams[0].1, line);
        self
    }

    /// A line for the first listener.
    pub(crate) fn listener(mut self, line: &str) -> Self {
        set(&mut self.listeners[0].1, line);
        self
    }

    pub(crate) fn add_upstream(mut self, name: &str, url: &str) -> Self {
        let secret = self.write(&format!("{name}.redis"), &format!("{REDIS_PASSWORD}\n"));
        let lines = vec![format!("url = {url:?}"), format!("password_file = {:?}", secret)];
        self.upstreams.push((name.to_owned(), lines));
        self
    }

    pub(crate) fn add_listener(mut self, name: &str, upstream: &str, address: &str) -> Self {
        let lines = vec![
            format!("upstream = {upstream:?}"),
            format!("address = {address:?}"),
        ];
        self.listeners.push((name.to_owned(), lines));
        self
    }

    /// A line for a listener by name.
    pub(crate) fn listener_line(mut self, name: &str, line: &str) -> Self {
        let (_, lines) = self
            .listeners
            .iter_mut()
            .find(|(known, _)| known == name)
            .unwrap();
        set(lines, line);
        self
    }

    /// TLS for the first listener; `more` are further keys of the inline table (with a leading comma).
    pub(crate) fn tls(self, identity: &Identity, more: &str) -> Self {
        let line = format!(
            "tls = {{ certificate_file = {:?}, key_file = {:?}{more} }}",
            identity.certificate, identity.key
        );
        self.listener(&line)
    }

    /// Adds a user without a password, or replaces the one of this name.
    pub(crate) fn bare_user(mut self, name: &str, lines: &[&str]) -> Self {
        self.users.retain(|(known, _)| known != name);
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        self.users.push((name.to_owned(), lines));
        self
    }

    /// Adds a user, or replaces the one of this name.
    pub(crate) fn user(mut self, name: &str, password: &str, line: &str) -> Self {
        let secret = self.write(&format!("{name}.secret"), &format!("{password}\n"));
        let mut lines = vec![format!("password_file = {:?}", secret)];
        if !line.is_empty() {
            lines.push(line.to_owned());
        }
        self.users.retain(|(known, _)| known != name);
        self.users.push((name.to_owned(), lines));
        self
    }

    pub(crate) fn without_user(mut self, name: &str) -> Self {
        self.users.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn without_users(mut self) -> Self {
        self.users.clear();
        self
    }

    /// A line for a user by name.
    pub(crate) fn user_line(mut self, name: &str, line: &str) -> Self {
        let (_, lines) = self.users.iter_mut().find(|(known, _)| known == name).unwrap();
        set(lines, line);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Failed logins are throttled and locked out as in production.
    pub(crate) fn with_lockout(mut self) -> Self {
        self.env.remove("KEYWARD_LOCKOUT");
        self
    }

    /// WARN and ERROR lines with this event or this code (`KW0304`) are part of the test.
    pub(crate) fn expect(mut self, event: &str) -> Self {
        self.expected.push(event.to_owned());
        self
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("keyward.toml")
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("[log]\n{}\n\n[admin]\n", self.log);
        writeln!(text, "{}\n\n[server]\n{}\n", self.admin, self.server.join("\n")).unwrap();
        writeln!(text, "[login]\n{}\n", self.login.join("\n")).unwrap();
        for (kind, tables) in [
            ("upstream", &self.upstreams),
            ("listener", &self.listeners),
            ("user", &self.users),
        ] {
            for (name, lines) in tables {
                writeln!(text, "[[{kind}]]\nname = {name:?}\n{}\n", lines.join("\n")).unwrap();
            }
        }
        text
    }

    /// The process may have so many files open.
    pub(crate) fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// The filter lets lines of libraries pass.
    pub(crate) fn any_target(mut self) -> Self {
        self.any_target = true;
        self
    }

    /// A further argument of `keyward run`.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// The process gets this socket as its descriptor 3, as from systemd; `variables` are further ones for the shell, where
    /// `$$` is the process.
    pub(crate) fn inherit(mut self, socket: impl Into<OwnedFd>, variables: &str) -> Self {
        self.inherited = Some((socket.into(), variables.to_owned()));
        self
    }

    /// Runs this file instead of the program that cargo has built.
    pub(crate) fn program(mut self, file: &Path) -> Self {
        self.program = Some(file.to_owned());
        self
    }

    fn command(&self) -> Command {
        let program = self
            .program
            .as_deref()
            .unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_keyward")));
        let mut preparation = String::new();
        if let Some(limit) = self.open_files {
            preparation.push_str(&format!("ulimit -n {limit}; "));
        }
        if let Some((_, variables)) = &self.inherited {
            preparation.push_str(&format!("exec 3<&0 </dev/null; export {variables}; "));
        }
        let mut command = if preparation.is_empty() {
            Command::new(program)
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{preparation}exec \"$0\" \"$@\"")]);
            shell.arg(program);
            shell
        };
        command.arg("run");
        if self.file {
            fs::write(self.config_file(), self.text()).unwrap();
            command.arg("--config").arg(self.config_file());
        }
        command.args(&self.args);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(&self.env)
            .current_dir(self.dir.path())
            .stdin(match &self.inherited {
                Some((socket, _)) => Stdio::from(socket.try_clone().unwrap()),
                None => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts and waits until the program says that it is ready.
    pub(crate) fn start(self) -> Keyward {
        let keyward = self.spawn();
        keyward.wait_event("ready");
        keyward
    }

    /// Starts without waiting for anything.
    pub(crate) fn spawn(self) -> Keyward {
        let mut child = self.command().spawn().unwrap();
        let output = Arc::new(Output::default());
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Keyward {
            setup: Some(self),
            child,
            output,
            exit: None,
            refused: false,
        }
    }

    /// Starts, and expects the program to refuse: its exit code and what it said.
    pub(crate) fn refuse(self) -> (i32, String) {
        let mut keyward = self.spawn();
        let status = keyward.wait_exit();
        let text = keyward.text();
        keyward.refused = true;
        (status.code().unwrap_or(-1), text)
    }
}

impl Keyward {
    /// The standard configuration in front of this Redis.
    pub(crate) fn start(redis: &Redis) -> Self {
        Setup::new(redis).start()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn setup(&self) -> &Setup {
        self.setup.as_ref().unwrap()
    }

    /// Rewrites the configuration file; nothing is told to the process.
    pub(crate) fn change(&mut self, change: impl FnOnce(Setup) -> Setup) {
        let setup = change(self.setup.take().unwrap());
        fs::write(setup.config_file(), setup.text()).unwrap();
        self.setup = Some(setup);
    }

    /// Replaces the text of the configuration file, valid or not.
    pub(crate) fn overwrite_config(&self, text: &str) {
        fs::write(self.setup().config_file(), text).unwrap();
    }

    /// SIGHUP, and the number of loads (of either kind) there must be afterwards.
    pub(crate) fn reload(&self) {
        let before = self.events("reloaded").len();
        self.signal("HUP");
        eventually("a reload", || {
            (self.events("reloaded").len() > before).then_some(())
        });
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Where a listener really listens, as it said itself.
    pub(crate) fn address_of(&self, listener: &str) -> SocketAddr {
        let line = self.wait_event_where("listening", |line| line["listener"] == listener);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of("main")
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.wait_event("admin_listening")["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// A new connection to the listener `main`, not logged in.
    pub(crate) fn connect(&self) -> Client {
        Client::tcp(self.address())
    }

    /// A connection as `app`.
    pub(crate) fn app(&self) -> Client {
        self.connect().login("app", APP_PASSWORD)
    }

    /// A connection as `root`, who may do everything that passes through a proxy at all.
    pub(crate) fn root(&self) -> Client {
        self.connect().login("root", ROOT_PASSWORD)
    }

    /// A connection as `app` that speaks RESP3.
    pub(crate) fn app3(&self) -> Client {
        let mut client = self.connect();
        let hello = client.call_args(&["HELLO", "3", "AUTH", "app", APP_PASSWORD]);
        assert!(hello.starts_with("%{"), "{hello}");
        client
    }

    /// All lines with this event so far.
    pub(crate) fn events(&self, event: &str) -> Vec<Json> {
        let lines = self.output.lines();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Json>(line).ok())
            .filter(|line| line["event"] == event)
            .collect()
    }

    pub(crate) fn wait_event(&self, event: &str) -> Json {
        self.wait_event_where(event, |_| true)
    }

    /// Waits for a line with this event that satisfies the condition; panics when the process ends or time is over.
    pub(crate) fn wait_event_where(&self, event: &str, mut fits: impl FnMut(&Json) -> bool) -> Json {
        let deadline = Instant::now() + PATIENCE;
        let mut looked = 0;
        let mut lines = self.output.lines();
        loop {
            while looked < lines.len() {
                let line = serde_json::from_str::<Json>(&lines[looked]).unwrap_or(Json::Null);
                looked += 1;
                if line["event"] == event && fits(&line) {
                    return line;
                }
            }
            let now = Instant::now();
            assert!(
                now < deadline && Path::new(&format!("/proc/{}/fd/0", self.child.id())).exists(),
                "no event {event:?}; the output so far:\n{}",
                lines.join("\n")
            );
            let limit = (deadline - now).min(Duration::from_millis(100));
            lines = self
                .output
                .changed
                .wait_timeout(lines, limit)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Everything written so far.
    pub(crate) fn text(&self) -> String {
        self.output.lines().join("\n")
    }

    /// A page of the admin listener: status and body.
    pub(crate) fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        self.output.pages().push_str(&answer);
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// The sum of all series of this name that carry these labels; panics when there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find_metric(name, labels).unwrap_or_else(|| {
            let (_, body) = self.page("/metrics");
            let alike: Vec<&str> = body.lines().filter(|line| line.starts_with(name)).collect();
            panic!("no series {name} {labels:?}; there are: {alike:#?}")
        })
    }

    pub(crate) fn find_metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let (status, body) = self.page("/metrics");
        assert_eq!(status, 200);
        let mut sum = None;
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (known, rest) = series.split_once('{').unwrap_or((series, ""));
            if known == name && labels.iter().all(|(label, value)| has_label(rest, label, value)) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().unwrap();
            }
        }
        sum
    }

    /// Polls until the metric has this value.
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let mut seen = f64::NAN;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            seen = self.metric(name, labels);
            if seen == wanted {
                return;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!("{name} {labels:?} is {seen}, not {wanted}");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = eventually("the end of the process", || self.child.try_wait().unwrap());
        self.exit = Some(status);
        // The readers of both pipes end with the process; the last lines must be in before anyone looks.
        eventually("the end of the output", || {
            (Arc::strong_count(&self.output) == 1).then_some(())
        });
        status
    }

    /// SIGTERM; demands exit code 0.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait_exit();
        assert_eq!(
            status.code(),
            Some(0),
            "exit status after SIGTERM; the output:\n{}",
            self.text()
        );
    }

    /// SIGKILL; the configuration is left for a successor.
    pub(crate) fn kill(mut self) -> Setup {
        self.child.kill().unwrap();
        self.wait_exit();
        self.into_setup()
    }

    /// SIGTERM; for output that is not JSON, which is searched for secrets alone.
    pub(crate) fn end_unsearched(mut self) {
        self.stop();
        self.refused = true;
    }

    /// What is left when the process has ended.
    pub(crate) fn into_setup(mut self) -> Setup {
        assert!(self.exit.is_some(), "still running");
        self.search_for_secrets();
        self.search_for_surprises();
        self.setup.take().unwrap()
    }

    fn search_for_secrets(&self) {
        let mut text = self.text();
        text.push_str(&self.output.pages());
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret:?} is in the output:\n{text}");
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
            let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(
                !text.contains(&hex),
                "the digest of {secret:?} is in the output:\n{text}"
            );
        }
    }

    fn search_for_surprises(&self) {
        let expected = &self.setup().expected;
        for line in self.output.lines().iter() {
            let json: Json = serde_json::from_str(line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
            let (level, event) = (json["level"].as_str().unwrap(), json["event"].as_str());
            let target = json["target"].as_str().unwrap_or_default();
            if self.setup().any_target && !target.starts_with("keyward") {
                continue;
            }
            let event = event.unwrap_or_else(|| panic!("a line without `event`: {line}"));
            let code = json["code"].as_str().unwrap_or_default();
            let known =
                json["target"] == AUDIT || expected.iter().any(|known| known == event || known == code);
            assert!(
                known || !matches!(level, "WARN" | "ERROR"),
                "unexpected {level} line: {line}"
            );
        }
    }
}

impl Drop for Keyward {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("output of keyward:\n{}", self.text());
            return;
        }
        if self.setup.is_none() {
            return;
        }
        if self.exit.is_none() {
            self.stop();
        }
        self.search_for_secrets();
        if !self.refused {
            self.search_for_surprises();
        }
    }
}

/// Runs a subcommand to its end: exit code, standard output, standard error.
pub(crate) fn command_line(args: &[&str], env: &[(&str, &str)], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may have ended before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Makes a file wider or narrower than it should be.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Adds a line, or replaces the one with the same key.
fn set(lines: &mut Vec<String>, line: &str) {
    let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
    lines.retain(|known| key(known) != key(line));
    if !line.ends_with("= unset") {
        lines.push(line.to_owned());
    }
}

fn has_label(series: &str, label: &str, value: &str) -> bool {
    let wanted = format!("{label}=\"{value}\"");
    series.trim_end_matches('}').split(',').any(|pair| pair == wanted)
}

fn collect(pipe: impl Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { break };
            output.lines().push(line);
            output.changed.notify_all();
        }
    });
}

/// The mode that the whole suite runs in: `dedicated`, or what KEYWARD_TEST_CONNECTIONS says.
fn connections() -> String {
    std::env::var("KEYWARD_TEST_CONNECTIONS").unwrap_or_else(|_| "dedicated".to_owned())
}

/// Whether sessions share connections to Redis in this run.
pub(crate) fn sharing() -> bool {
    connections() == "shared"
}

/// Connections to Redis that may stay open when every client has gone: the health check's, and in shared mode the
/// shared and the idle ones.
pub(crate) fn resting_lanes() -> usize {
    if sharing() { 12 } else { 1 }
}
