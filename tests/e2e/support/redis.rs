//! A real `redis-server` of the test's own, killed when the guard goes.

use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use tempfile::TempDir;

use super::Client;
use super::Identity;
use super::PATIENCE;
use super::REDIS_PASSWORD;
use super::signal;

/// Runs until dropped. Listens on a unix socket always, on TCP or TLS when asked to.
pub(crate) struct Redis {
    dir: TempDir,
    options: Options,
    child: Option<Child>,
    port: u16,
    tls_port: u16,
}

/// How the server is to run.
#[derive(Default, Clone)]
pub(crate) struct Options {
    password: Option<String>,
    tcp: bool,
    tls: Option<(Identity, PathBuf)>,
    lines: Vec<String>,
}

impl Redis {
    /// A server on a unix socket alone, with [`REDIS_PASSWORD`].
    pub(crate) fn start() -> Self {
        Self::with_password().start()
    }

    /// The same, on a TCP port as well.
    pub(crate) fn start_tcp() -> Self {
        Self::with_password().tcp().start()
    }

    pub(crate) fn with_password() -> Options {
        Options {
            password: Some(REDIS_PASSWORD.to_owned()),
            ..Options::default()
        }
    }

    pub(crate) fn without_password() -> Options {
        Options::default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn port(&self) -> u16 {
        assert_ne!(self.port, 0, "started without TCP");
        self.port
    }

    pub(crate) fn tls_port(&self) -> u16 {
        assert_ne!(self.tls_port, 0, "started without TLS");
        self.tls_port
    }

    pub(crate) fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A connection of its own, past Keyward, logged in.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::unix(&self.socket());
        if let Some(password) = &self.options.password {
            assert_eq!(client.call_args(&["AUTH", password]), "+OK");
        }
        client
    }

    /// How often Redis has run a command, from `INFO commandstats`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let info = self.client().call("INFO commandstats");
        info.lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")))
            .and_then(|rest| rest.split(',').next())
            .map_or(0, |count| count.parse().unwrap())
    }

    /// A field of `INFO`.
    pub(crate) fn info(&self, field: &str) -> String {
        let info = self.client().call("INFO everything");
        let prefix = format!("{field}:");
        info.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Connections other than the one that asks.
    pub(crate) fn other_clients(&self) -> usize {
        self.client()
            .call("CLIENT LIST")
            .lines()
            .filter(|line| line.contains("addr="))
            .count()
            - 1
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Ends the process at once (SIGKILL); the port and the socket path stay ours for [`Redis::restart`].
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    /// Starts it again on the same socket and port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(
            self.launch(),
            "redis-server did not start again; see {}",
            self.log()
        );
    }

    fn launch(&mut self) -> bool {
        let path = self.dir.path();
        let mut conf = vec![
            format!("port {}", self.port),
            "bind 127.0.0.1".to_owned(),
            format!("unixsocket {}", self.socket().display()),
            "unixsocketperm 700".to_owned(),
            format!("dir {}", path.display()),
            format!("logfile {}", path.join("redis.log").display()),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            "daemonize no".to_owned(),
            "enable-debug-command yes".to_owned(),
        ];
        if let Some(password) = &self.options.password {
            conf.push(format!("requirepass {password}"));
        }
        if let Some((identity, ca)) = &self.options.tls {
            conf.push(format!("tls-port {}", self.tls_port));
            conf.push(format!("tls-cert-file {}", identity.certificate.display()));
            conf.push(format!("tls-key-file {}", identity.key.display()));
            conf.push(format!("tls-ca-cert-file {}", ca.display()));
            if !self
                .options
                .lines
                .iter()
                .any(|line| line.starts_with("tls-auth-clients"))
            {
                conf.push("tls-auth-clients no".to_owned());
            }
        }
        conf.extend(self.options.lines.iter().cloned());
        let file = path.join("redis.conf");
        std::fs::write(&file, conf.join("\n") + "\n").unwrap();
        let mut child = Command::new("redis-server")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed: run tests/run.sh, which installs it");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                break;
            }
            if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        self.child = Some(child);
        true
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Options {
    pub(crate) fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// TLS on a port of its own, with this certificate.
    pub(crate) fn tls(mut self, identity: &Identity, ca: &Path) -> Self {
        self.tls = Some((identity.clone(), ca.to_owned()));
        self
    }

    /// A line of `redis.conf`.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Redis cannot pick a port itself (0 means none), so one is asked from the kernel, released, and the start is
    /// repeated when somebody else was faster.
    pub(crate) fn start(self) -> Redis {
        for _ in 0..20 {
            let mut redis = Redis {
                dir: tempfile::tempdir().unwrap(),
                child: None,
                port: if self.tcp { free_port() } else { 0 },
                tls_port: if self.tls.is_some() { free_port() } else { 0 },
                options: self.clone(),
            };
            if redis.launch() {
                return redis;
            }
            let log = redis.log();
            assert!(
                log.contains("ddress already in use"),
                "redis-server did not start: {log}"
            );
        }
        panic!("no free port for redis-server in 20 attempts");
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
