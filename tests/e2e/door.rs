//! The door for whoever guesses passwords: networks, users, the budget; lists and lifting; the audit of those who are in.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value as Json;

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;
use super::support::keyward::command_line;

/// A connection that comes from this address, as a load balancer would say it.
fn from(address: SocketAddr, source: &str) -> Client {
    let mut stream = TcpStream::connect(address).unwrap();
    let family = if source.contains(':') { "TCP6" } else { "TCP4" };
    let target = if source.contains(':') { "::1" } else { "127.0.0.1" };
    write!(stream, "PROXY {family} {source} {target} 40000 6380\r\n").unwrap();
    Client::from_tcp(stream)
}

fn guess(address: SocketAddr, source: &str) -> String {
    from(address, source).call_args(&["AUTH", "app", WRONG_PASSWORD])
}

fn log_in(address: SocketAddr, source: &str) -> String {
    from(address, source).call_args(&["AUTH", "app", APP_PASSWORD])
}

fn setup(redis: &Redis) -> Setup {
    Setup::new(redis)
        .listener("proxy_protocol_from = [\"127.0.0.0/8\"]")
        .with_lockout()
        .control_socket()
}

/// A command of the operator, with the configuration of the running process.
fn operate(keyward: &Keyward, args: &[&str]) -> (i32, String, String) {
    let file = keyward.setup().config_file();
    let mut all = args.to_vec();
    all.extend(["--config", file.to_str().unwrap()]);
    command_line(&all, &[], "")
}

fn listed(keyward: &Keyward) -> Json {
    let (code, out, err) = operate(keyward, &["lockouts", "--json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

const TOO_MANY: &str = "-ERR keyward: too many failed logins from this address, try again later";
const REFUSED: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

#[test]
fn lockouts_are_seen_and_lifted() {
    let redis = Redis::start();
    let mut keyward = setup(&redis)
        .login("lockout_after = 2")
        .login("lockout_first = \"10m\"")
        .login("lockout_max = \"10m\"")
        .start();
    let address = keyward.address();
    let (code, out, err) = operate(&keyward, &["lockouts"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "", "nobody is locked out\n")
    );
    for source in ["203.0.113.66", "2001:db8:7:1::5"] {
        assert_eq!(guess(address, source), REFUSED);
        assert_eq!(guess(address, source), REFUSED);
        assert_eq!(log_in(address, source), TOO_MANY);
    }
    // A reload forgives nobody.
    keyward.change(|setup| setup.login("max_failures = 4"));
    keyward.reload();
    assert_eq!(log_in(address, "203.0.113.66"), TOO_MANY);

    let (code, out, _) = operate(&keyward, &["lockouts"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(
        lines[3].starts_with("user app at main: refusals are held back"),
        "{out}"
    );
    assert!(lines[0].starts_with("SOURCE "), "{out}");
    let line = lines
        .iter()
        .find(|line| line.starts_with("203.0.113.66 "))
        .unwrap();
    assert!(line.contains(" main "), "{line}");
    let json = listed(&keyward);
    assert_eq!(json["total"], 2);
    let left = json["lockouts"][0]["seconds_left"].as_u64().unwrap();
    assert!((1..=600).contains(&left), "{json}");

    // Whoever is not locked out is not unlocked, and it is said.
    let (code, out, err) = operate(&keyward, &["unlock", "203.0.113.67"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("203.0.113.67 was not locked out"), "{err}");
    let (code, out, err) = operate(&keyward, &["unlock", "203.0.113.66"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "unlocked 203.0.113.66 (main)\n"),
        "{err}"
    );
    assert_eq!(log_in(address, "203.0.113.66"), "+OK");
    assert_eq!(log_in(address, "2001:db8:7:1::5"), TOO_MANY);
    let (code, out, _) = operate(&keyward, &["unlock", "2001:db8::/32"]);
    assert_eq!((code, out.as_str()), (0, "unlocked 2001:db8:7:1::/64 (main)\n"));
    assert_eq!(log_in(address, "2001:db8:7:1::5"), "+OK");

    keyward.wait_event_where("lockout_lifted", |line| line["source"] == "2001:db8:7:1::/64");
    let lifted = keyward.events("lockout_lifted");
    assert_eq!(lifted.len(), 2);
    assert_eq!(lifted[0]["source"], "203.0.113.66");
    assert_eq!(lifted[0]["listener"], "main");
    assert!(lifted[0]["by_uid"].is_u64(), "{}", lifted[0]);
    let main = [("listener", "main")];
    assert_eq!(keyward.metric("keyward_auth_lockouts_lifted_total", &main), 2.0);
    assert_eq!(keyward.metric("keyward_auth_locked_sources", &main), 0.0);
    assert_eq!(
        operate(&keyward, &["unlock", "--all"]).0,
        0,
        "nothing to do is done"
    );

    // Its file is there for its owner alone, and goes with the process.
    let path = keyward.setup().control_path();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    keyward.stop();
    assert!(!path.exists());
    let (code, _, err) = operate(&keyward, &["lockouts"]);
    assert_eq!(code, 1);
    assert!(err.contains("is keyward running?"), "{err}");
}

#[test]
fn unlocking_needs_a_target_and_a_socket() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).start();
    let (code, _, err) = operate(&keyward, &["unlock"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = operate(&keyward, &["unlock", "--all", "app"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = operate(&keyward, &["lockouts"]);
    assert_eq!(code, 78);
    assert!(err.contains("control_socket"), "{err}");
    for (value, part) in [
        ("control.sock", "not an absolute path"),
        (&format!("/{}", "x".repeat(200)), "longer than 107 bytes"),
    ] {
        let line = format!("control_socket = {value:?}");
        let (code, text) = Setup::new(&redis).admin(&line).refuse();
        assert_eq!(code, 78);
        assert!(text.contains(part), "{text}");
    }
}

/// What the socket answers to these bytes.
fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // What was not read of the request may end it with a reset, behind the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn the_control_socket_waits_for_nobody_and_reads_one_line() {
    let redis = Redis::start();
    let keyward = setup(&redis).expect("reload_failed").start();
    let path = keyward.setup().control_path();
    for bad in [
        &b"\n"[..],
        b"lockouts",
        b"LOCKOUTS\n",
        b"unlock \n",
        b"unlock\n",
        b"\xff\xfe\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        &[b'x'; 5000],
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bad);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"error\":"), "{bad:?}: {answer}");
    }
    // More that say nothing than there are places: they are left, and whoever comes after is served.
    let silent: Vec<UnixStream> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(say(&path, b"lockouts\n").starts_with("{\"lockouts\":[]"));
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed without an answer");
    }
    // It is not moved without a restart.
    keyward.overwrite_config(&keyward.setup().text().replace("control.sock", "other.sock"));
    keyward.signal("HUP");
    let failed = keyward.wait_event("reload_failed");
    assert!(
        failed["error"].as_str().unwrap().contains("admin.control_socket"),
        "{failed}"
    );
    assert!(say(&path, b"lockouts\n").starts_with("{\"lockouts\":[]"));
}

#[test]
fn a_user_under_attack_is_slowed_down_for_strangers_and_never_shut_out() {
    let redis = Redis::start();
    let keyward = setup(&redis).login("lockout_after = 5").start();
    let address = keyward.address();
    assert_eq!(log_in(address, "10.0.0.1"), "+OK");
    // One guess from each of many places.
    for n in 0..8 {
        assert_eq!(guess(address, &format!("203.0.{n}.1")), REFUSED);
    }
    let delayed = |reason: &str| {
        let labels = [("listener", "main"), ("reason", reason)];
        keyward.metric("keyward_auth_delays_total", &labels)
    };
    assert_eq!((delayed("user"), delayed("source")), (3.0, 0.0));
    // The application is as it was, and wherever else it comes up.
    assert_eq!(log_in(address, "10.0.0.1"), "+OK");
    assert_eq!(guess(address, "10.0.0.1"), REFUSED);
    assert_eq!(log_in(address, "192.0.2.1"), "+OK");
    assert_eq!(
        delayed("user"),
        3.0,
        "successes, and those who are known, are not held back"
    );
    assert_eq!(keyward.metric("keyward_auth_lockouts_total", &[]), 0.0);
    keyward.wait_metric("keyward_auth_slowed_users", &[], 1.0);
    let slowed = &listed(&keyward)["slowed_users"][0];
    assert_eq!((&slowed["user"], &slowed["failures"]), (&"app".into(), &8.into()));
    let (_, out, _) = operate(&keyward, &["lockouts"]);
    assert!(
        out.starts_with("user app at main: refusals are held back"),
        "{out}"
    );
    let (code, out, _) = operate(&keyward, &["unlock", "app"]);
    assert_eq!((code, out.as_str()), (0, "unlocked user app (main)\n"));
    assert_eq!(keyward.wait_event("lockout_lifted")["user"], "app");
    assert_eq!(guess(address, "203.0.99.1"), REFUSED);
    assert_eq!(delayed("user"), 3.0);
}

#[test]
fn a_network_that_misbehaves_is_one_source() {
    let redis = Redis::start();
    let keyward = setup(&redis)
        .login("lockout_after = 3")
        .login("lockout_first = \"10m\"")
        .login("lockout_max = \"10m\"")
        .login("aggregate_after = 4")
        .start();
    let address = keyward.address();
    assert_eq!(log_in(address, "2001:db8:7:ffff::1"), "+OK");
    let mut heard = 0;
    for n in 1..=9 {
        let reply = guess(address, &format!("2001:db8:7:{n:x}::1"));
        if reply == REFUSED {
            heard += 1;
        } else {
            assert_eq!(reply, TOO_MANY);
        }
    }
    // Three by themselves, and three as one.
    assert_eq!(heard, 6);
    let locked = keyward.wait_event("source_locked_out");
    assert_eq!(locked["source"], "2001:db8:7::/48");
    assert_eq!(
        log_in(address, "2001:db8:7:aaaa::1"),
        TOO_MANY,
        "a stranger of it"
    );
    assert_eq!(
        log_in(address, "2001:db8:7:ffff::9"),
        "+OK",
        "who has been here before"
    );
    assert_eq!(log_in(address, "2001:db8:8:1::1"), "+OK", "another network");
    keyward.wait_metric("keyward_auth_aggregated_networks", &[], 1.0);
    keyward.wait_metric("keyward_auth_tracked_sources", &[], 1.0);
    assert_eq!(keyward.metric("keyward_auth_locked_sources", &[]), 1.0);
    let (code, out, _) = operate(&keyward, &["unlock", "2001:db8:7:aaaa::1"]);
    assert_eq!((code, out.as_str()), (0, "unlocked 2001:db8:7::/48 (main)\n"));
    assert_eq!(log_in(address, "2001:db8:7:aaaa::1"), "+OK");
}

#[test]
fn all_strangers_together_get_so_many_verdicts_and_nobody_else_is_starved() {
    let redis = Redis::start();
    let keyward = setup(&redis)
        .login("max_failures_per_second = 2")
        .login("max_failures = 1")
        .start();
    let address = keyward.address();
    assert_eq!(log_in(address, "10.0.0.1"), "+OK");
    let began = Instant::now();
    let mut heard = 0;
    let guessers: Vec<_> = (0..60)
        .map(|n| {
            std::thread::spawn(move || {
                // Right or wrong: whoever is not heard learns nothing.
                let password = if n % 2 == 0 { WRONG_PASSWORD } else { APP_PASSWORD };
                from(address, &format!("203.{n}.0.1")).call_args(&["AUTH", "app", password])
            })
        })
        .collect();
    // The flood spends the budget again and again; the application and what is new beside it do not feel it.
    for n in 1..=20 {
        assert_eq!(log_in(address, "10.0.0.1"), "+OK");
        assert_eq!(log_in(address, &format!("10.0.0.{n}")), "+OK");
    }
    let mut unheard = 0;
    for guesser in guessers {
        match guesser.join().unwrap().as_str() {
            REFUSED => heard += 1,
            "+OK" => {}
            "-TRYAGAIN keyward: too many failed logins at present, try again later" => unheard += 1,
            other => panic!("{other}"),
        }
    }
    let allowed = 2.0 + 2.0 * began.elapsed().as_secs_f64();
    assert!(
        f64::from(heard) <= allowed,
        "{heard} were heard, {allowed} may be"
    );
    let reason = [("reason", "over_budget")];
    assert_eq!(
        keyward.metric("keyward_auth_failures_total", &reason),
        f64::from(unheard)
    );
    let failed = keyward.metric("keyward_auth_failures_total", &[("reason", "bad_password")]);
    assert_eq!(failed, f64::from(heard));
    let delayed = [("reason", "budget")];
    assert_eq!(
        keyward.metric("keyward_auth_delays_total", &delayed),
        f64::from(unheard)
    );
    // Spent it was, for as fast as this machine is; then a second brings more.
    eventually("a place for strangers", || {
        (log_in(address, "198.51.100.1") == "+OK").then_some(())
    });
}

#[test]
fn administrative_commands_that_are_allowed_are_on_record() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut root = keyward.root();
    for _ in 0..30 {
        assert!(root.call("CONFIG GET maxmemory").starts_with('*'));
    }
    root.call("CLIENT LIST");
    root.call("GET plain");
    keyward.app().call("CONFIG GET maxmemory");
    keyward.stop();
    let (mut written, mut counted) = (0, 0);
    for line in keyward.events("admin_command") {
        assert_eq!(
            (&line["user"], &line["listener"]),
            (&"root".into(), &"main".into())
        );
        assert!(["config|get", "client|list"].contains(&line["cmd"].as_str().unwrap()));
        assert!(!line.to_string().contains("maxmemory"), "{line}");
        written += 1;
        counted += line["count"].as_u64().unwrap_or(1);
    }
    // One line a command and window, and as many summaries as windows: far less than thirty-one.
    assert_eq!(counted, 31);
    assert!(written <= 12, "{written}");
}

#[test]
fn changes_of_credentials_are_on_record() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut app = keyward.app();
    keyward.change(|setup| {
        setup
            .user("app", APP_PASSWORD_2, "acl = \"safe\"")
            .user("late", APP_PASSWORD, "acl = \"safe\"")
            .without_user("default")
    });
    keyward.reload();
    app.expect_closed();
    let mut changes: Vec<String> = keyward
        .events("credential_changed")
        .iter()
        .map(|line| {
            assert_eq!(
                (&line["target"], &line["listener"]),
                (&"keyward::audit".into(), &"main".into())
            );
            format!(
                "{} {}",
                line["user"].as_str().unwrap(),
                line["change"].as_str().unwrap()
            )
        })
        .collect();
    changes.sort();
    assert_eq!(changes, ["app changed", "default removed", "late added"]);
    let closed = keyward.wait_event("session_closed");
    assert_eq!(
        (&closed["user"], &closed["reason"]),
        (&"app".into(), &"credential_removed".into())
    );
    // Rules are no credential.
    keyward.change(|setup| setup.user("late", APP_PASSWORD, "acl = \"strict\""));
    keyward.reload();
    assert_eq!(keyward.events("credential_changed").len(), 3);
    // The upstream's is one.
    let file = keyward.setup().dir().join("main.redis");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{}\n", super::support::REDIS_PASSWORD_2)).unwrap();
    keyward.reload();
    let upstreams: Vec<Json> = keyward
        .events("credential_changed")
        .into_iter()
        .filter(|line| line["upstream"] == "main")
        .collect();
    assert_eq!(upstreams.len(), 1, "{upstreams:?}");
}
