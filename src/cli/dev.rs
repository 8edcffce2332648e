//! `keyward dev`: everything thrown up for a try, and a proof by a client of our own that it does what it says.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::{self, Sources};
use crate::metrics::Metrics;
use crate::net::{Socket, Stream};
use crate::resp::{ReplyScan, ReplyScanner, encode};
use crate::server::{self, Bound};
use crate::tls::ClientTls;

use super::gen_password::{generate, write_secret};
use super::{Exit, certificates, report, talk};

/// A directory and a Redis that go when this goes.
struct Stage {
    dir: PathBuf,
    redis: Option<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut redis) = self.redis.take() {
            // It may have ended by itself.
            let _ = redis.kill();
            let _ = redis.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Sets everything up, proves that it works, and serves until Ctrl-C unless `once`.
pub(super) fn dev(once: bool) -> anyhow::Result<Exit> {
    let mut stage = Stage {
        dir: fresh_dir()?,
        redis: None,
    };
    let dir = stage.dir.clone();
    let password = generate()?;
    write_secret(&dir.join("app.password"), password.as_bytes(), false)?;
    let authority = certificates::authority()?;
    let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let server = certificates::issue(&authority, "keyward", &hosts, certificates::LEAF_DAYS)?;
    fs::write(dir.join("ca.pem"), &authority.certificate)?;
    fs::write(dir.join("server.pem"), &server.certificate)?;
    write_secret(&dir.join("server.key"), server.key.trim_end().as_bytes(), false)?;
    talk(&format!(
        "made a CA, a server certificate and a password in {}",
        dir.display()
    ));

    let mut sources = Sources::from_process(None, config::Overrides::default());
    sources.file = None;
    if sources.env.contains_key("REDIS_URL") {
        talk("using the Redis of REDIS_URL");
    } else {
        let redis_password = generate()?;
        stage.redis = Some(start_redis(&dir, &redis_password)?);
        write_secret(&dir.join("redis.password"), redis_password.as_bytes(), false)?;
        let mut set = |name: &str, value: String| sources.env.insert(name.to_owned(), value);
        set(
            "REDIS_URL",
            format!("unix://{}", dir.join("redis.sock").display()),
        );
        set(
            "REDIS_PASSWORD_FILE",
            dir.join("redis.password").display().to_string(),
        );
    }
    for (name, file) in [
        ("KEYWARD_TLS_CERT", "server.pem"),
        ("KEYWARD_TLS_KEY", "server.key"),
        ("KEYWARD_PASSWORD_FILE", "app.password"),
    ] {
        sources
            .env
            .insert(name.to_owned(), dir.join(file).display().to_string());
    }
    for (name, default) in [
        ("KEYWARD_LISTEN", "127.0.0.1:0"),
        ("KEYWARD_ADMIN", "127.0.0.1:0"),
    ] {
        sources
            .env
            .entry(name.to_owned())
            .or_insert_with(|| default.to_owned());
    }
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let metrics = server::metrics(&loaded.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bound = Bound::new(sources, loaded, Arc::clone(&metrics))?;
        let address: SocketAddr = bound
            .addresses()
            .first()
            .context("no listener")?
            .1
            .parse()
            .context("not a TCP listener")?;
        let admin = bound.admin_address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = bound.run(async {
            // An error means that the sender is gone, which is an order to stop as well.
            let _ = stopped.await;
        });
        let prove = async {
            let proof = prove(address, &dir.join("ca.pem"), &password, &metrics).await;
            let good = matches!(proof, Ok(true));
            if let Err(error) = proof {
                talk(&format!("FAIL {error:#}"));
            }
            if once || !good {
                drop(stop);
                return good;
            }
            talk(&format!(
                "\nREDIS_URL for your application (the password is in {}):",
                dir.join("app.password").display()
            ));
            talk(&format!(
                "  rediss://:<password>@localhost:{}/0?ssl_ca_certs={}",
                address.port(),
                dir.join("ca.pem").display()
            ));
            if let Some(admin) = admin {
                talk(&format!(
                    "metrics: http://{admin}/metrics   health: http://{admin}/readyz"
                ));
            }
            talk("Ctrl-C ends it and removes everything");
            // Serving ends by Ctrl-C; until then the order to stop is held back.
            stop.closed_by_peer().await;
            true
        };
        let (served, good) = tokio::join!(serve, prove);
        served?;
        Ok(if good { Exit::Done } else { Exit::Failed })
    })
}

trait ClosedByPeer {
    async fn closed_by_peer(self);
}

impl ClosedByPeer for tokio::sync::oneshot::Sender<()> {
    /// Waits until the receiver is gone, holding the sender.
    async fn closed_by_peer(mut self) {
        self.closed().await;
    }
}

/// One line for each promise; `false` when one is broken.
async fn prove(address: SocketAddr, ca: &Path, password: &str, metrics: &Metrics) -> anyhow::Result<bool> {
    let before = metrics.render();
    let tls = ClientTls::load(&config::UpstreamTls {
        ca_file: Some(ca.to_path_buf()),
        ..config::UpstreamTls::default()
    })?;
    let mut good = true;
    let mut expect = |what: &str, reply: &str, wanted: &str| {
        let right = reply.starts_with(wanted);
        good &= right;
        let first = reply.lines().next().unwrap_or_default();
        talk(&format!(
            "{}  {what}: {first}",
            if right { "ok  " } else { "FAIL" }
        ));
    };
    let mut stranger = connect(&tls, address).await?;
    expect(
        "no password",
        &call(&mut stranger, &["GET", "keyward:dev"]).await?,
        "-NOAUTH",
    );
    expect(
        "a wrong password",
        &call(&mut stranger, &["AUTH", "not-the-password"]).await?,
        "-WRONGPASS",
    );
    let mut client = connect(&tls, address).await?;
    expect(
        "the right password",
        &call(&mut client, &["AUTH", password]).await?,
        "+OK",
    );
    expect("PING", &call(&mut client, &["PING"]).await?, "+PONG");
    expect(
        "SET",
        &call(&mut client, &["SET", "keyward:dev", "precious", "EX", "60"]).await?,
        "+OK",
    );
    expect("FLUSHALL", &call(&mut client, &["FLUSHALL"]).await?, "-NOPERM");
    expect("KEYS *", &call(&mut client, &["KEYS", "*"]).await?, "-NOPERM");
    expect(
        "the data is still there",
        &call(&mut client, &["GET", "keyward:dev"]).await?,
        "$8\r\nprecious",
    );
    let mut plain = TcpStream::connect(address).await?;
    expect(
        "plain text instead of TLS",
        &call(&mut plain, &["PING"]).await?,
        "-ERR this port needs TLS",
    );

    talk("\nmetrics that moved:");
    let after = metrics.render();
    let names = [
        "keyward_auth_failures",
        "keyward_commands_denied",
        "keyward_commands_total",
        "keyward_tls_handshake_failures",
    ];
    for line in after
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
    {
        if !before.contains(line) && !line.ends_with(" 0") {
            talk(&format!("  {line}"));
        }
    }
    Ok(good)
}

/// As any client would: the CA is verified, and the name.
async fn connect(tls: &ClientTls, address: SocketAddr) -> anyhow::Result<Stream> {
    let socket = Socket::Tcp(TcpStream::connect(address).await?);
    tls.connect(socket, "localhost")
        .await
        .map_err(|failure| anyhow::anyhow!("the TLS handshake failed: {}", failure.detail))
}

/// One request and its whole reply.
async fn call(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    words: &[&str],
) -> anyhow::Result<String> {
    let mut request = BytesMut::new();
    encode::request(
        &mut request,
        &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(),
    );
    stream.write_all(&request).await?;
    let mut scanner = ReplyScanner::new();
    let (mut reply, mut used) = (BytesMut::new(), 0_usize);
    loop {
        match scanner.scan(reply.get(used..).unwrap_or_default()) {
            Ok(ReplyScan::Piece { len, last, .. }) => {
                used = used.saturating_add(len);
                if last {
                    return Ok(String::from_utf8_lossy(reply.get(..used).unwrap_or_default()).into_owned());
                }
                continue;
            }
            Ok(ReplyScan::Incomplete) => {}
            Err(error) => bail!("not a reply: {}", error.label()),
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut reply))
            .await
            .context("no answer in time")??;
        if read == 0 {
            bail!("the connection was closed without an answer");
        }
    }
}

/// A real Redis on a unix socket; its password comes by standard input and so stands in no process list.
fn start_redis(dir: &Path, password: &str) -> anyhow::Result<Child> {
    let socket = dir.join("redis.sock");
    let config = format!(
        "port 0\nunixsocket {}\nunixsocketperm 700\nrequirepass {password}\nsave \"\"\ndir {}\nlogfile {}\n",
        socket.display(),
        dir.display(),
        dir.join("redis.log").display()
    );
    for program in ["redis-server", "valkey-server"] {
        let spawned = Command::new(program)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else { continue };
        if let Some(mut input) = child.stdin.take() {
            input.write_all(config.as_bytes())?;
        }
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > deadline {
                let _ = child.kill();
                bail!(
                    "{program} did not start; its log is {}",
                    dir.join("redis.log").display()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        talk(&format!("started a {program} with a random password"));
        return Ok(child);
    }
    bail!(
        "no redis-server in the PATH: apt-get install redis-server, or set REDIS_URL, or run deploy/demo.sh"
    )
}

/// A new directory that only we can enter.
fn fresh_dir() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let name = format!("keyward-{}", generate()?.chars().take(12).collect::<String>());
    let dir = std::env::temp_dir().join(name);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
