//! `keyward doctor`: faults are provoked one by one, with real servers, and each must lead to its own sentence and remedy.

use std::fs;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::process::Command;

use serde_json::Value as Json;

use super::support::Action;
use super::support::Authority;
use super::support::Fake;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::Redis;
use super::support::SECRETS;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::certs::Wish;
use super::support::eventually;
use super::support::keyward::command_line;
use super::support::keyward::set_mode;
use super::support::redis::free_port;

/// What it said.
struct Diagnosis {
    code: i32,
    report: Json,
}

impl Diagnosis {
    /// Of a configuration with which nothing runs.
    fn of(setup: &Setup) -> Self {
        Self::with(setup, &[])
    }

    fn with(setup: &Setup, env: &[(&str, &str)]) -> Self {
        fs::write(setup.config_file(), setup.text()).unwrap();
        let file = setup.config_file();
        Self::read(command_line(
            &["doctor", "--json", "--config", file.to_str().unwrap()],
            env,
            "",
        ))
    }

    fn read((code, out, err): (i32, String, String)) -> Self {
        for secret in SECRETS {
            assert!(
                !out.contains(secret) && !err.contains(secret),
                "{secret}: {out}{err}"
            );
        }
        assert_eq!(err, "", "{out}");
        let report: Json = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
        let failed = report["counts"]["fail"].as_u64().unwrap() > 0;
        assert_eq!(code, i32::from(failed), "{report:#}");
        for found in report["checks"].as_array().unwrap() {
            let told = matches!(found["level"].as_str(), Some("warn" | "fail"));
            assert_eq!(found["remedy"].is_string(), told, "{found:#}");
        }
        Self { code, report }
    }

    /// Findings of a check.
    fn all(&self, check: &str) -> Vec<&Json> {
        let checks = self.report["checks"].as_array().unwrap();
        checks.iter().filter(|found| found["check"] == check).collect()
    }

    /// There is a finding of this check and level whose message and remedy hold these words.
    fn expect(&self, check: &str, level: &str, message: &str, remedy: &str) {
        let fits = |found: &&Json| {
            found["level"] == level
                && found["message"].as_str().unwrap().contains(message)
                && found["remedy"].as_str().unwrap_or_default().contains(remedy)
        };
        assert!(
            self.all(check).iter().any(fits),
            "no {level} of {check} with {message:?} and {remedy:?}: {:#?}",
            self.report
        );
    }

    /// Nothing failed but these checks; what came behind one of them says so.
    fn fails_only(&self, checks: &[&str]) {
        for found in self.report["checks"].as_array().unwrap() {
            let check = found["check"].as_str().unwrap();
            assert!(
                found["level"] != "fail" || checks.contains(&check),
                "{check} failed: {:#?}",
                self.report
            );
            if let Some(after) = found["after"].as_str() {
                assert!(checks.contains(&after) && found["level"] == "skip", "{found:#?}");
            }
        }
        assert_eq!(self.code, i32::from(!checks.is_empty()));
    }

    fn is_after(&self, check: &str, failure: &str) {
        let found = self.all(check);
        assert!(
            !found.is_empty() && found.iter().all(|found| found["after"] == failure),
            "{check} is not skipped after {failure}: {:#?}",
            self.report
        );
    }
}

/// Commands of `redis-cli`'s kind, as Redis's administrator.
fn administrate(redis: &Redis, commands: &[&str]) {
    let mut client = redis.client();
    for command in commands {
        assert_eq!(client.call(command), "+OK", "{command}");
    }
}

#[test]
fn a_setup_without_faults_has_no_failure_before_it_runs() {
    let redis = Redis::start_tcp();
    let diagnosis = Diagnosis::of(&Setup::to_url(&redis.tcp_url()));
    diagnosis.fails_only(&[]);
    for check in [
        "files",
        "open-files",
        "port",
        "dns",
        "connect",
        "auth",
        "ping",
        "server",
        "role",
    ] {
        diagnosis.expect(check, "ok", "", "");
    }
    diagnosis.expect("server", "ok", "redis ", "");
    diagnosis.expect("clock", "ok", "Redis's clock is", "");
    diagnosis.expect("around-login", "ok", "NOAUTH", "");
    diagnosis.expect("healthcheck", "warn", "no Keyward answers", "keyward run");
    // Every check has its line, whatever became of it.
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docs/doctor.md")).unwrap();
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("The checks"))
        .unwrap();
    let mut listed = 0;
    for check in section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
    {
        assert!(!diagnosis.all(check).is_empty(), "{check} has no line");
        listed += 1;
    }
    assert!(listed > 20, "{listed}");
}

/// Of a Keyward that runs, with its real addresses in place of port 0.
fn of_running(keyward: &Keyward) -> Diagnosis {
    let (admin, listen) = (keyward.admin_address().to_string(), keyward.address().to_string());
    Diagnosis::read(command_line(
        &[
            "doctor",
            "--json",
            "--config",
            keyward.setup().config_file().to_str().unwrap(),
        ],
        &[("KEYWARD_ADMIN", &admin), ("KEYWARD_LISTEN", &listen)],
        "",
    ))
}

#[test]
fn a_running_keyward_is_known_and_not_disturbed() {
    let redis = Redis::start_tcp();
    let keyward = Setup::to_url(&redis.tcp_url()).start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let accepted = keyward.metric("keyward_connections_total", &[]);
    let diagnosis = of_running(&keyward);
    diagnosis.fails_only(&[]);
    diagnosis.expect("healthcheck", "ok", "ready", "");
    diagnosis.expect("reload", "ok", "", "");
    diagnosis.expect("clients", "ok", "none was refused", "");
    diagnosis.expect("open-files", "ok", "the running process", "");
    let ports = diagnosis.all("port");
    assert_eq!(ports.len(), 2);
    let ours = format!("Keyward listens there (process {})", keyward.pid());
    for port in ports {
        assert!(
            port["level"] == "ok" && port["message"].as_str().unwrap().contains(&ours),
            "{port}"
        );
    }
    assert_eq!(keyward.metric("keyward_connections_total", &[]), accepted);
}

#[test]
fn clients_that_were_refused_are_told_by_reason() {
    let redis = Redis::start_tcp();
    let keyward = Setup::to_url(&redis.tcp_url()).start();
    assert!(keyward.connect().call("PING").starts_with("-NOAUTH"));
    let diagnosis = of_running(&keyward);
    diagnosis.expect(
        "clients",
        "warn",
        "no_credentials 1",
        "user and password into their URL",
    );
    for _ in 0..2 {
        let refused = keyward.connect().call_args(&["AUTH", "app", WRONG_PASSWORD]);
        assert!(refused.starts_with("-WRONGPASS"), "{refused}");
    }
    of_running(&keyward).expect("clients", "warn", "bad_password 2", "password_file");
}

#[test]
fn connection_refused() {
    let url = format!("redis://127.0.0.1:{}/0", free_port());
    let diagnosis = Diagnosis::of(&Setup::to_url(&url));
    diagnosis.fails_only(&["connect"]);
    diagnosis.expect(
        "connect",
        "fail",
        "connection refused",
        "start Redis, or correct `url`",
    );
    diagnosis.expect("connect", "fail", "connection refused", "another container");
    for check in ["tls", "auth", "ping", "server", "privileges", "around-login"] {
        diagnosis.is_after(check, "connect");
    }
    let setup = Setup::empty();
    let nowhere = format!("unix://{}", setup.dir().join("no.sock").display());
    let diagnosis = Diagnosis::of(&Setup::to_url(&nowhere));
    diagnosis.expect("connect", "fail", "nobody listens at", "unixsocket");
}

#[test]
fn noauth_because_no_password_is_configured() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url()).upstream("password_file = unset");
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["auth"]);
    diagnosis.expect("auth", "fail", "NOAUTH", "`password_file` of the upstream");
    diagnosis.is_after("ping", "auth");
}

#[test]
fn a_wrong_password_a_wrong_user_and_one_that_is_off() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    setup.write("main.redis", &format!("{WRONG_PASSWORD}\n"));
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["auth"]);
    diagnosis.expect(
        "auth",
        "fail",
        "WRONGPASS",
        "main.redis must be Redis's requirepass",
    );
    diagnosis.is_after("ping", "auth");

    setup.write("main.redis", &format!("{REDIS_PASSWORD}\n"));
    let setup = setup.upstream("username = \"keyward\"");
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["auth"]);
    diagnosis.expect("auth", "fail", "\"keyward\" (WRONGPASS)", "leave `username` out");

    let rule = format!("ACL SETUSER keyward off >{REDIS_PASSWORD} ~* &* +@all");
    administrate(&redis, &[&rule]);
    Diagnosis::of(&setup).expect("auth", "fail", "it is off", "ACL GETUSER keyward");
    administrate(&redis, &["ACL SETUSER keyward on"]);
    Diagnosis::of(&setup).fails_only(&[]);
}

#[test]
fn a_password_where_redis_has_none() {
    let redis = Redis::without_password().tcp().start();
    let diagnosis = Diagnosis::of(&Setup::to_url(&redis.tcp_url()));
    diagnosis.expect("auth", "fail", "has no password", "requirepass");
    diagnosis.expect(
        "around-login",
        "fail",
        "without a password and may read, write, FLUSHALL",
        "default off",
    );
    // Where that is how it was set up, on this host alone, it is a warning.
    let open = Setup::to_url(&redis.tcp_url()).upstream("password_file = unset");
    let diagnosis = Diagnosis::of(&open);
    diagnosis.expect("auth", "ok", "asks for none", "");
    diagnosis.expect(
        "around-login",
        "warn",
        "every process of this host",
        "requirepass",
    );
}

#[test]
fn the_health_check_fails_and_the_reason_is_told() {
    let mut redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url()).expect("redis_connection_failed");
    let keyward = setup.start();
    let config = keyward.setup().config_file();
    let admin = keyward.admin_address().to_string();
    let health = || {
        let args = ["healthcheck", "--config", config.to_str().unwrap()];
        command_line(&args, &[("KEYWARD_ADMIN", &admin)], "").0
    };
    eventually("readiness", || (health() == 0).then_some(()));
    redis.kill();
    eventually("the health check to fail", || (health() == 1).then_some(()));
    let diagnosis = of_running(&keyward);
    diagnosis.fails_only(&["healthcheck", "connect"]);
    diagnosis.expect("healthcheck", "fail", "no Redis can be used", "`dns` to `ping`");
    diagnosis.expect("connect", "fail", "connection refused", "start Redis");

    // Not the admin port of Keyward at all.
    let fake = Fake::start(|_| Action::SayAndClose(b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec()));
    let stranger = fake.url().replace("redis://", "").replace("/0", "");
    let env = [("KEYWARD_ADMIN", stranger.as_str())];
    let diagnosis = Diagnosis::with(keyward.setup(), &env);
    diagnosis.expect(
        "healthcheck",
        "fail",
        "is not Keyward",
        "another address for [admin]",
    );
    let diagnosis = Diagnosis::with(keyward.setup(), &[("KEYWARD_ADMIN", "off")]);
    diagnosis.expect("healthcheck", "warn", "the admin listener is off", "[admin]");
}

#[test]
fn a_reload_that_was_refused() {
    let redis = Redis::start_tcp();
    let keyward = Setup::to_url(&redis.tcp_url()).expect("reload_failed").start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    keyward.overwrite_config("[server]\nworkers = \"two\"\n");
    keyward.signal("HUP");
    keyward.wait_metric("keyward_config_last_reload_successful", &[], 0.0);
    let diagnosis = of_running(&keyward);
    diagnosis.expect("config", "fail", "workers", "");
    diagnosis.expect("reload", "fail", "the former configuration is in force", "SIGHUP");
    diagnosis.expect("healthcheck", "ok", "ready", "");
    diagnosis.is_after("port", "config");
    diagnosis.is_after("auth", "config");
    assert_eq!(diagnosis.all("config")[0]["code"], "KW0103");
}

#[test]
fn a_name_that_does_not_resolve() {
    let setup = Setup::to_url("redis://redis.invalid:6379/0").upstream("unsafe_plaintext = true");
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["dns"]);
    diagnosis.expect("dns", "fail", "resolve", "resolver");
    diagnosis.is_after("connect", "dns");
    diagnosis.is_after("around-network", "dns");
}

#[test]
fn certificates_of_redis_with_another_name_another_ca_or_no_time_left() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let redis = |wish| Redis::with_password().tls(&ca.issue(wish), &ca.file()).start();
    let setup = |redis: &Redis, authority: &Authority| {
        Setup::to_url(&format!("rediss://localhost:{}/0", redis.tls_port()))
            .upstream(&format!("ca_file = {:?}", authority.file()))
    };

    let elsewhere = redis(Wish::server("a").names(&["redis.test"]));
    let diagnosis = Diagnosis::of(&setup(&elsewhere, &ca));
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect(
        "tls",
        "fail",
        "is for DnsName(\"redis.test\"), not for localhost",
        "`server_name`",
    );
    diagnosis.is_after("auth", "tls");
    let named = setup(&elsewhere, &ca).upstream("server_name = \"redis.test\"");
    Diagnosis::of(&named).expect("tls", "ok", "TLS, verified", "");

    let good = redis(Wish::server("b"));
    let diagnosis = Diagnosis::of(&setup(&good, &other));
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect(
        "tls",
        "fail",
        "not signed by a CA that we trust",
        "it holds another",
    );
    let system = Setup::to_url(&format!("rediss://localhost:{}/0", good.tls_port()));
    if let Some(found) = Diagnosis::of(&system).all("tls").first() {
        assert!(
            found["remedy"].as_str().unwrap_or_default().contains("`ca_file`"),
            "{found}"
        );
    }
    let diagnosis = Diagnosis::of(&setup(&good, &ca));
    diagnosis.fails_only(&[]);
    diagnosis.expect("tls", "ok", "its certificate is good until", "");

    let soon = redis(Wish::server("c").days(5));
    let diagnosis = Diagnosis::of(&setup(&soon, &ca));
    diagnosis.fails_only(&[]);
    diagnosis.expect("tls", "warn", "Redis's certificate expires in", "tls-cert-file");
    let over = redis(Wish::server("d").expired());
    let diagnosis = Diagnosis::of(&setup(&over, &ca));
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect("tls", "fail", "expired at", "renew Redis's certificate");
    let early = redis(Wish::server("e").not_yet_valid());
    Diagnosis::of(&setup(&early, &ca)).expect("tls", "fail", "not valid before", "set the clock");
}

#[test]
fn plaintext_where_tls_is_expected_and_tls_where_plaintext_is() {
    let ca = Authority::new("ca");
    let redis = Redis::with_password()
        .tcp()
        .tls(&ca.server("server"), &ca.file())
        .start();
    let url = format!("rediss://localhost:{}/0", redis.port());
    let setup = Setup::to_url(&url).upstream(&format!("ca_file = {:?}", ca.file()));
    let diagnosis = Diagnosis::of(&setup.upstream("connect_timeout = \"500ms\""));
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect("tls", "fail", "speaks plaintext at that port", "tls-port");

    let diagnosis = Diagnosis::of(&Setup::to_url(&format!(
        "redis://127.0.0.1:{}/0",
        redis.tls_port()
    )));
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect("tls", "fail", "speaks TLS, and `url` says redis://", "rediss://");
    diagnosis.is_after("auth", "tls");
}

#[test]
fn a_client_certificate_that_redis_wants() {
    let ca = Authority::new("ca");
    let redis = Redis::with_password()
        .tls(&ca.server("server"), &ca.file())
        .line("tls-auth-clients yes")
        .start();
    let setup = Setup::to_url(&format!("rediss://localhost:{}/0", redis.tls_port()))
        .upstream(&format!("ca_file = {:?}", ca.file()));
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["tls"]);
    diagnosis.expect("tls", "fail", "client certificate", "client_certificate_file");
}

#[test]
fn certificates_of_listeners_that_end_or_fit_no_client() {
    let redis = Redis::start_tcp();
    let ca = Authority::new("ca");
    let look = |wish| Diagnosis::of(&Setup::to_url(&redis.tcp_url()).tls(&ca.issue(wish), ""));
    let diagnosis = look(Wish::server("good"));
    diagnosis.fails_only(&[]);
    diagnosis.expect("certificate", "ok", "for localhost, 127.0.0.1 until", "");
    look(Wish::server("soon").days(5)).expect("certificate", "warn", "expires in", "replace the file");
    let diagnosis = look(Wish::server("old").expired());
    diagnosis.fails_only(&["certificate"]);
    diagnosis.expect("certificate", "fail", "expired at", "replace the file");
    look(Wish::server("early").not_yet_valid()).expect("certificate", "fail", "not valid before", "clock");
    look(Wish::server("nameless").names(&[])).expect(
        "certificate",
        "fail",
        "no subject alternative names",
        "issue it anew",
    );
    look(Wish::client("app")).expect("certificate", "fail", "not for servers", "serverAuth");
}

#[test]
fn secrets_that_everyone_may_read_and_directories_that_everyone_may_write() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    let secret = setup.write("main.redis", &format!("{REDIS_PASSWORD}\n"));
    set_mode(&secret, 0o644);
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["files"]);
    diagnosis.expect("files", "fail", "main.redis is too open", "chmod 0640");
    assert_eq!(diagnosis.all("files")[0]["code"], "KW0404");
    for check in ["config", "open-files", "port", "auth"] {
        diagnosis.is_after(check, "files");
    }
    set_mode(&secret, 0o600);
    set_mode(setup.dir(), 0o777);
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["files"]);
    diagnosis.expect("files", "fail", "everyone may exchange", "chmod o-w");
    diagnosis.expect("auth", "ok", "", "");
    set_mode(setup.dir(), 0o700);
    let diagnosis = Diagnosis::with(&setup, &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    diagnosis.expect("files", "warn", "subPath", "mount the Secret as a directory");
}

/// From a shell that allows 256 open files.
fn in_a_narrow_shell(setup: &Setup, env: &[(&str, &str)]) -> Diagnosis {
    let output = Command::new("sh")
        // The tests' own settings are none of Keyward's.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["-c", "ulimit -n 256; exec \"$0\" doctor --json --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_keyward"))
        .arg(setup.config_file())
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Diagnosis::read((
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    ))
}

#[test]
fn too_few_open_files() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    fs::write(setup.config_file(), setup.text()).unwrap();
    let diagnosis = in_a_narrow_shell(&setup, &[]);
    diagnosis.fails_only(&["open-files"]);
    diagnosis.expect(
        "open-files",
        "fail",
        "needs 2064 open files, 256 are allowed",
        "LimitNOFILE=2064",
    );
    // The limit of a process that runs counts, not that of the shell.
    let keyward = setup.start();
    let admin = keyward.admin_address().to_string();
    let diagnosis = in_a_narrow_shell(keyward.setup(), &[("KEYWARD_ADMIN", &admin)]);
    diagnosis.expect("open-files", "ok", "the running process allows", "");
}

#[test]
fn a_port_that_somebody_else_has() {
    let redis = Redis::start_tcp();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::to_url(&redis.tcp_url());
    let diagnosis = Diagnosis::with(&setup, &[("KEYWARD_LISTEN", &address)]);
    diagnosis.fails_only(&["port"]);
    let process = format!("(process {})", std::process::id());
    diagnosis.expect(
        "port",
        "fail",
        &process,
        "choose another address for listener \"main\"",
    );
    let diagnosis = Diagnosis::with(
        &setup,
        &[("KEYWARD_LISTEN", &format!("127.0.0.1:{}", redis.port()))],
    );
    // That is Redis itself, which the loader already refuses as a loop.
    diagnosis.expect("config", "fail", "", "");

    // Another Keyward, with another configuration; and this one, at another address than the configuration says.
    let other = Setup::to_url(&redis.tcp_url()).start();
    let address = other.address().to_string();
    let diagnosis = Diagnosis::with(&setup, &[("KEYWARD_LISTEN", &address)]);
    diagnosis.fails_only(&["port"]);
    diagnosis.expect("port", "fail", "another Keyward", "an old instance");
    let env = [
        ("KEYWARD_ADMIN", other.admin_address().to_string()),
        ("KEYWARD_LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let diagnosis = Diagnosis::with(
        &setup,
        &env.each_ref().map(|(name, value)| (*name, value.as_str())),
    );
    diagnosis.expect("port", "warn", "is free although Keyward runs", "restart it");
    // An address that this host has not.
    let setup = setup.listener("tls = unset");
    let diagnosis = Diagnosis::with(&setup, &[("KEYWARD_ADMIN", "192.0.2.200:0")]);
    diagnosis.expect("port", "fail", "192.0.2.200", "change the address");
}

#[test]
fn a_keyward_by_another_name_is_no_stranger() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    // A file of its own, so that only what answers at the admin address tells.
    let program = setup.dir().join("frontdoor");
    fs::copy(env!("CARGO_BIN_EXE_keyward"), &program).unwrap();
    let keyward = setup.program(&program).start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    let comm = fs::read_to_string(format!("/proc/{}/comm", keyward.pid())).unwrap();
    assert_eq!(comm.trim(), "frontdoor");
    let diagnosis = of_running(&keyward);
    diagnosis.fails_only(&[]);
    let ours = format!("Keyward listens there (process {})", keyward.pid());
    let ports = diagnosis.all("port");
    assert_eq!(ports.len(), 2);
    for port in ports {
        assert!(port["message"].as_str().unwrap().contains(&ours), "{port}");
    }
}

#[test]
fn a_socket_that_the_service_manager_keeps_besides_is_ours() {
    let redis = Redis::start_tcp();
    // This process plays the service manager, and has the socket as long as Keyward has it.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let keyward = Setup::to_url(&redis.tcp_url())
        .listener(&format!("address = \"{address}\""))
        .inherit(
            socket.try_clone().unwrap(),
            "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=main",
        )
        .start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    let diagnosis = of_running(&keyward);
    diagnosis.fails_only(&[]);
    let ours = format!("{address}: Keyward listens there (process {})", keyward.pid());
    diagnosis.expect("port", "ok", &ours, "");
}

#[test]
fn unix_sockets_of_the_running_keyward_and_of_nobody() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).control_socket();
    let socket = setup.dir().join("clients.sock");
    let setup = setup.listener(&format!("address = \"unix:{}\"", socket.display()));
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&[]);
    assert_eq!(diagnosis.all("port").len(), 3);
    diagnosis.expect("dns", "skip", "unix socket", "");
    assert!(!socket.exists());
    let keyward = setup.start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    let admin = keyward.admin_address().to_string();
    let file = keyward.setup().config_file();
    let args = ["doctor", "--json", "--config", file.to_str().unwrap()];
    let diagnosis = Diagnosis::read(command_line(&args, &[("KEYWARD_ADMIN", &admin)], ""));
    diagnosis.fails_only(&[]);
    let ours = format!("(process {})", keyward.pid());
    for port in diagnosis.all("port") {
        assert!(port["message"].as_str().unwrap().contains(&ours), "{port}");
    }
    assert!(socket.exists());
}

#[test]
fn a_user_that_may_do_everything_and_one_that_may_do_what_is_needed() {
    let redis = Redis::start_tcp();
    let rule = format!("ACL SETUSER keyward on >{REDIS_PASSWORD} ~* &* +@all");
    administrate(&redis, &[&rule]);
    let setup = Setup::to_url(&redis.tcp_url())
        .upstream("username = \"keyward\"")
        .without_user("root");
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&[]);
    diagnosis.expect(
        "privileges",
        "warn",
        "FLUSHALL, FLUSHDB",
        "keyward acl upstream --upstream main",
    );
    diagnosis.expect(
        "around-default-user",
        "warn",
        "whoever has its password",
        "ACL SETUSER default off",
    );
    let strict = Setup::to_url(&redis.tcp_url())
        .upstream("username = \"keyward\"")
        .upstream("require_least_privilege = true")
        .without_user("root");
    Diagnosis::of(&strict).fails_only(&["privileges"]);

    let file = setup.config_file();
    let (code, rules, _) = command_line(&["acl", "upstream", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!(code, 0);
    let mut administrator = redis.client();
    let words: Vec<&str> = rules.split_whitespace().collect();
    // A selector is one argument.
    let mut arguments: Vec<String> = Vec::new();
    for word in words {
        match arguments
            .last_mut()
            .filter(|last| last.starts_with('(') && !last.ends_with(')'))
        {
            Some(last) => *last = format!("{last} {word}"),
            None => arguments.push(word.to_owned()),
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(administrator.call_args(&arguments), "+OK");
    let diagnosis = Diagnosis::of(&strict);
    diagnosis.fails_only(&[]);
    diagnosis.expect("privileges", "ok", "Redis refuses", "");
    // What it may not ask is no fault.
    diagnosis.expect("around-default-user", "skip", "may not ask", "");
    diagnosis.expect("server", "ok", "7.", "");
    assert_eq!(administrator.call("DBSIZE"), ":0");
}

#[test]
fn redis_can_be_reached_around_keyward() {
    // The user `default` is on and has no password.
    let redis = Redis::without_password().tcp().start();
    let mut client = redis.client();
    let rule = format!("ACL SETUSER keyward on >{REDIS_PASSWORD} ~* &* +@all");
    assert_eq!(client.call(&rule), "+OK");
    let setup = || Setup::to_url(&redis.tcp_url()).upstream("username = \"keyward\"");
    let diagnosis = Diagnosis::of(&setup());
    diagnosis.fails_only(&["around-login", "around-default-user"]);
    diagnosis.expect(
        "around-login",
        "fail",
        "without a password and may read, write, FLUSHALL",
        "ACL SETUSER default off",
    );
    diagnosis.expect("around-default-user", "fail", "has no password", "ACL file");
    assert_eq!(client.call("ACL SETUSER default -@all +ping"), "+OK");
    Diagnosis::of(&setup()).expect("around-login", "warn", "hardly anything", "default off");
    let mut administrator = redis.client();
    assert_eq!(
        administrator.call_args(&["AUTH", "keyward", REDIS_PASSWORD]),
        "+OK"
    );
    assert_eq!(administrator.call("ACL SETUSER default off"), "+OK");
    let diagnosis = Diagnosis::of(&setup());
    diagnosis.fails_only(&[]);
    diagnosis.expect("around-login", "ok", "NOAUTH", "");
    diagnosis.expect("around-default-user", "ok", "is off", "");

    // A plaintext port beside the one with TLS.
    let ca = Authority::new("ca");
    let setup = |redis: &Redis| {
        Setup::to_url(&format!("rediss://localhost:{}/0", redis.tls_port()))
            .upstream(&format!("ca_file = {:?}", ca.file()))
    };
    let identity = ca.server("server");
    let both = Redis::with_password().tcp().tls(&identity, &ca.file()).start();
    let diagnosis = Diagnosis::of(&setup(&both));
    diagnosis.fails_only(&[]);
    diagnosis.expect(
        "around-plaintext",
        "warn",
        &format!("port {} ", both.port()),
        "`port 0`",
    );
    let tls_alone = Redis::with_password().tls(&identity, &ca.file()).start();
    let diagnosis = Diagnosis::of(&setup(&tls_alone));
    assert!(matches!(
        diagnosis.all("around-plaintext")[0]["level"].as_str(),
        Some("skip" | "ok")
    ));
    let open = Redis::without_password().tcp().tls(&identity, &ca.file()).start();
    let diagnosis = Diagnosis::of(&setup(&open).upstream("password_file = unset"));
    diagnosis.fails_only(&["around-plaintext"]);
    diagnosis.expect(
        "around-plaintext",
        "fail",
        "without TLS and without a password",
        "`port 0`",
    );
}

#[test]
fn a_redis_for_this_host_that_listens_for_others() {
    let redis = Redis::with_password().tcp().line("bind * -::*").start();
    let found = Diagnosis::of(&Setup::to_url(&redis.tcp_url()));
    // The address that packets to elsewhere would come from; none is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let alone = socket.connect("192.0.2.1:9").is_err() || socket.local_addr().unwrap().ip().is_loopback();
    if alone {
        found.expect("around-network", "skip", "no other address", "");
    } else {
        found.expect(
            "around-network",
            "warn",
            "other hosts need its password",
            "`bind 127.0.0.1",
        );
    }
    for (mode, level, message) in [
        ("yes", "warn", "protected mode alone"),
        ("no", "fail", "lets in other hosts without a password"),
    ] {
        let redis = Redis::without_password()
            .tcp()
            .line("bind * -::*")
            .line(&format!("protected-mode {mode}"))
            .start();
        let setup = Setup::to_url(&redis.tcp_url()).upstream("password_file = unset");
        let found = Diagnosis::of(&setup);
        if !alone {
            found.expect("around-network", level, message, "`bind 127.0.0.1");
        }
    }
    let redis = Redis::start_tcp();
    let found = Diagnosis::of(&Setup::to_url(&redis.tcp_url()));
    assert!(matches!(
        found.all("around-network")[0]["level"].as_str(),
        Some("ok" | "skip")
    ));
}

#[test]
fn a_redis_that_evicts_forgets_or_has_too_few_places() {
    let redis = Redis::with_password()
        .tcp()
        .line("maxmemory 100mb")
        .line("maxmemory-policy allkeys-lru")
        .line("maxclients 500")
        .start();
    let diagnosis = Diagnosis::of(&Setup::to_url(&redis.tcp_url()));
    diagnosis.fails_only(&[]);
    diagnosis.expect(
        "maxmemory",
        "warn",
        "maxmemory 100 MiB, policy allkeys-lru: it evicts any key",
        "noeviction",
    );
    diagnosis.expect(
        "persistence",
        "warn",
        "a restart of Redis loses everything",
        "appendonly yes",
    );
    diagnosis.expect(
        "maxclients",
        "warn",
        "Redis takes 500 clients",
        "max_connections = 468",
    );
    // What is called a cache may evict and forget.
    let cache = Setup::empty()
        .add_upstream("page-cache", &redis.tcp_url())
        .add_listener("main", "page-cache", "127.0.0.1:0")
        .user("app", super::support::APP_PASSWORD, "")
        .upstream("max_connections = 400");
    let diagnosis = Diagnosis::of(&cache);
    for check in ["maxmemory", "persistence", "maxclients"] {
        diagnosis.expect(check, "ok", "", "");
    }
    let kept = Redis::with_password().tcp().line("appendonly yes").start();
    Diagnosis::of(&Setup::to_url(&kept.tcp_url())).expect("persistence", "ok", "append-only file", "");
}

#[test]
fn a_replica_a_cluster_and_a_server_that_hides() {
    let replica = Redis::with_password()
        .tcp()
        .line(&format!("replicaof 127.0.0.1 {}", free_port()))
        .start();
    let diagnosis = Diagnosis::of(&Setup::to_url(&replica.tcp_url()));
    diagnosis.fails_only(&[]);
    diagnosis.expect("role", "warn", "READONLY", "the master's address");
    administrate(&replica, &["CONFIG SET replica-serve-stale-data no"]);
    let diagnosis = Diagnosis::of(&Setup::to_url(&replica.tcp_url()));
    diagnosis.fails_only(&["ping"]);
    diagnosis.expect("ping", "fail", "MASTERDOWN", "point `url` to the master");

    let cluster = Redis::with_password().tcp().line("cluster-enabled yes").start();
    let diagnosis = Diagnosis::of(&Setup::to_url(&cluster.tcp_url()));
    diagnosis.fails_only(&["server"]);
    diagnosis.expect("server", "fail", "cluster mode", "without cluster mode");
}

/// A server of which only some answers matter.
fn scripted(answers: impl Fn(&str) -> Option<&'static str> + Send + Sync + 'static) -> Fake {
    Fake::start(move |command| match answers(&command.join(" ")) {
        Some(answer) => Action::say(answer),
        None => Action::healthy(command).unwrap_or_else(|| Action::say("-ERR unknown command\r\n")),
    })
}

#[test]
fn clocks_that_differ() {
    let fake = scripted(|command| (command == "TIME").then_some("*2\r\n$10\r\n1000000000\r\n$1\r\n0\r\n"));
    let diagnosis = Diagnosis::of(&Setup::to_url(&fake.url()));
    diagnosis.fails_only(&[]);
    diagnosis.expect("clock", "warn", "behind this host's", "chrony");
}

#[test]
fn a_save_that_failed() {
    let info = "$62\r\nrdb_last_bgsave_status:err\r\naof_enabled:0\r\nrdb_saves:1000000\r\n\r\n";
    let fake = scripted(move |command| command.starts_with("INFO").then_some(info));
    let diagnosis = Diagnosis::of(&Setup::to_url(&fake.url()));
    diagnosis.expect("persistence", "fail", "MISCONF", "disk is full");
}

#[test]
fn servers_that_turn_clients_away() {
    for (greeting, check, message, remedy) in [
        (
            "-DENIED Redis is running in protected mode\r\n",
            "auth",
            "protected mode",
            "give it a password",
        ),
        (
            "-ERR max number of clients reached\r\n",
            "auth",
            "maxclients",
            "CONFIG SET maxclients",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "auth",
            "is not Redis",
            "host and port in `url`",
        ),
    ] {
        let greeting = Action::SayAndClose(greeting.as_bytes().to_vec());
        let fake = Fake::start_with_greeting(Some(greeting), |_| Action::Silence);
        let diagnosis = Diagnosis::of(&Setup::to_url(&fake.url()));
        diagnosis.fails_only(&[check]);
        diagnosis.expect(check, "fail", message, remedy);
    }
    let loading = scripted(|command| (command == "PING").then_some("-LOADING Redis is loading\r\n"));
    Diagnosis::of(&Setup::to_url(&loading.url())).expect("ping", "fail", "LOADING", "loading_eta_seconds");
    let silent = Fake::start(|_| Action::Silence);
    let setup = Setup::to_url(&silent.url()).upstream("auth_timeout = \"100ms\"");
    Diagnosis::of(&setup).expect(
        "auth",
        "fail",
        "did not answer within 100ms",
        "hangs or is stopped",
    );
}

#[test]
fn users_with_a_login_of_their_own_are_tried_too() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    let file = setup.write("reports.redis", &format!("{WRONG_PASSWORD}\n"));
    let setup = setup
        .user_line("app", "upstream_username = \"reports\"")
        .user_line("app", &format!("upstream_password_file = {file:?}"));
    let diagnosis = Diagnosis::of(&setup);
    diagnosis.fails_only(&["auth"]);
    let found = diagnosis.all("auth");
    assert_eq!(found.len(), 2);
    assert_eq!(found[1]["subject"], "upstream \"main\" as user \"app\"");
    diagnosis.expect("auth", "fail", "\"reports\" (WRONGPASS)", "ACL GETUSER reports");
}

#[test]
fn the_text_is_for_people_and_usage_is_not_taken_for_a_fault() {
    let redis = Redis::start_tcp();
    let setup = Setup::to_url(&redis.tcp_url());
    fs::write(setup.config_file(), setup.text()).unwrap();
    let file = setup.config_file();
    let (code, out, err) = command_line(&["doctor", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!out.contains('\u{1b}'), "colours in a pipe: {out:?}");
    assert!(
        out.contains("ok    auth                 upstream \"main\": Redis takes the password\n"),
        "{out}"
    );
    assert!(out.contains("\n                           -> "), "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("0 failures, ") && last.ends_with(" ok"),
        "{last}"
    );
    let (code, _, _) = command_line(&["doctor", "--jsn"], &[], "");
    assert_eq!(code, 64);
    // A configuration that is not there is a fault that was found.
    let (code, out, _) = command_line(&["doctor", "--config", "/nonexistent/keyward.toml"], &[], "");
    assert_eq!(code, 1);
    assert!(out.contains("FAIL  files"), "{out}");
}
