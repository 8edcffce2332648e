//! The status page, its JSON and `keyward status`: troubles are provoked, and have to be told with their remedy.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value as Json;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Keyward;
use super::support::PATIENCE;
use super::support::Redis;
use super::support::SAMPLE_KEY;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::certs::Wish;
use super::support::eventually;
use super::support::keyward::command_line;
use super::support::pipeline;

/// A Redis whose user may do no more than it needs is nothing to complain about.
fn healthy(redis: &Redis) -> Setup {
    Setup::new(redis).with_lockout()
}

fn status(keyward: &Keyward) -> Json {
    let (code, body) = keyward.page("/status.json");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn problem<'a>(status: &'a Json, id: &str, subject: &str) -> Option<&'a Json> {
    let mut problems = status["problems"].as_array().unwrap().iter();
    problems.find(|problem| problem["id"] == id && problem["subject"] == subject)
}

/// Waits until the problem is told: title, detail and remedy in one text.
fn told(keyward: &Keyward, id: &str, subject: &str) -> String {
    eventually(&format!("{id} about {subject:?}"), || {
        let status = status(keyward);
        problem(&status, id, subject).map(|problem| {
            let word = |field: &str| problem[field].as_str().unwrap().to_owned();
            format!("{} {} {}", word("title"), word("detail"), word("remedy"))
        })
    })
}

/// A page with its head, as anybody might ask for it.
fn ask(keyward: &Keyward, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(keyward.admin_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn run(keyward: &Keyward, args: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", keyward.admin_address());
    let all = [&["status", "--url", &url], args].concat();
    command_line(&all, &[], "")
}

#[test]
fn an_upstream_that_is_gone_is_told_and_so_is_its_return() {
    let mut redis = Redis::start_tcp();
    let keyward = Setup::to_url(&redis.tcp_url())
        .expect("redis_connection_failed")
        .start();
    eventually("an upstream that is up", || {
        (status(&keyward)["upstreams"][0]["state"] == "up").then_some(())
    });
    let before = status(&keyward);
    assert!(before["upstreams"][0]["ping_seconds"].as_f64().unwrap() > 0.0);
    redis.kill();
    let told = told(&keyward, "KeywardUpstreamDown", "main");
    assert!(
        told.contains("Redis (main) cannot be used") && told.contains("refused the connection"),
        "{told}"
    );
    assert!(told.contains("Start Redis, or correct host and port"), "{told}");
    let now = status(&keyward);
    assert_eq!(
        (&now["state"], &now["upstreams"][0]["state"]),
        (&Json::from("critical"), &Json::from("down"))
    );
    assert!(
        keyward
            .page("/")
            .1
            .contains("<strong>Redis (main) cannot be used</strong>")
    );
    redis.restart();
    eventually("no such problem", || {
        problem(&status(&keyward), "KeywardUpstreamDown", "main")
            .is_none()
            .then_some(())
    });
}

#[test]
fn a_password_that_redis_refuses_is_told_with_its_file() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).add_upstream("rotated", &redis.unix_url());
    let file = setup.write("rotated.redis", &format!("{WRONG_PASSWORD}\n"));
    let keyward = setup
        .add_listener("second", "rotated", "127.0.0.1:0")
        .expect("redis_connection_failed")
        .start();
    let told = told(&keyward, "KeywardUpstreamRefusesCredential", "rotated");
    assert!(told.contains(file.to_str().unwrap()), "{told}");
    assert!(
        told.contains("wrongpass") && told.contains("the new one on the first line"),
        "{told}"
    );
    let now = eventually("both upstreams checked", || {
        let now = status(&keyward);
        (now["phase"] == "serving").then_some(now)
    });
    assert_eq!(now["upstreams"][0]["state"], "up", "the other one is well");
    assert_eq!(now["upstreams"][1]["state"], "down");
    assert!(
        problem(&now, "KeywardUpstreamDown", "rotated").is_none(),
        "one cause, one problem"
    );
    assert!(problem(&now, "KeywardUpstreamRefusesCredential", "main").is_none());
}

#[test]
fn who_is_refused_is_told_by_user_reason_and_command() {
    let redis = Redis::start();
    let keyward = healthy(&redis)
        .login("max_failures = 100")
        .login("lockout_after = 8")
        .login("lockout_first = \"60s\"")
        .start();
    let mut client = keyward.connect();
    for _ in 0..7 {
        client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    }
    let told_of = told(&keyward, "KeywardAuthFailures", "main");
    assert!(
        told_of.contains("Logins of user app at main are refused: bad_password"),
        "{told_of}"
    );
    assert!(told_of.contains("second line"), "{told_of}");
    assert!(problem(&status(&keyward), "KeywardAuthBruteForce", "main").is_none());
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    client.call("FLUSHALL");
    for _ in 0..51 {
        client.call_args(&["KEYS", SAMPLE_KEY]);
    }
    client.call_args(&["SET", SAMPLE_KEY, SAMPLE_VALUE]);
    let told_of = told(&keyward, "KeywardDangerousCommandDenied", "main");
    assert!(
        told_of.contains("app tried FLUSHALL at main and was refused"),
        "{told_of}"
    );
    let told_of = told(&keyward, "KeywardCommandsDenied", "main");
    assert!(
        told_of.contains("KEYS of app") && told_of.contains("keyward acl test"),
        "{told_of}"
    );
    let mut stranger = keyward.connect();
    // The answers are held back for longer and longer: nobody waits for them here.
    let guess = format!("AUTH nobody {WRONG_PASSWORD}");
    stranger.send(&pipeline(&[guess.as_str(); 9]));
    let told_of = told(&keyward, "KeywardAuthBruteForce", "main");
    assert!(told_of.contains("keyward unlock"), "{told_of}");
    let now = status(&keyward);
    let row = |list: &str, field: &str, value: &str| {
        let rows = now["refused"][list].as_array().unwrap();
        let found = rows.iter().find(|row| row[field] == value);
        found.unwrap_or_else(|| panic!("no {value}: {rows:?}")).clone()
    };
    let logins = row("logins", "reason", "bad_password");
    assert_eq!(
        (&logins["user"], &logins["count"]),
        (&Json::from("app"), &Json::from(7))
    );
    assert_eq!(
        row("logins", "reason", "unknown_user")["user"],
        "",
        "names of strangers are not kept"
    );
    let keys = row("commands", "command", "keys");
    assert_eq!(
        (&keys["user"], &keys["count"], &keys["reason"]),
        (&"app".into(), &51.into(), &"command".into())
    );
    assert_eq!(row("lockouts", "source", "127.0.0.1")["listener"], "main");
    let users = now["users"].as_array().unwrap();
    assert_eq!(users[0]["name"], "app", "whoever is refused most comes first");
    assert_eq!(
        (&users[0]["connections"], &users[0]["refused_commands"]),
        (&1.into(), &52.into())
    );
    let total: u64 = now["history"]["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert!(total > 7 + 52, "{total}");
    let requests = now["history"]["requests"].as_array().unwrap();
    assert_eq!(
        requests.iter().filter_map(Json::as_u64).sum::<u64>(),
        1,
        "SET alone was forwarded"
    );
    assert_eq!(requests.len(), 60);
    let page = keyward.page("/status").1;
    for word in ["strangers", "FLUSHALL", "127.0.0.1", "bad_password"] {
        assert!(page.contains(word), "{word} is not on the page");
    }
}

#[test]
fn a_certificate_that_expires_is_told_with_its_file() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let identity = ca.issue(Wish::server("server").days(5));
    let keyward = Setup::new(&redis)
        .tls(&identity, "")
        .expect("certificate_expires_soon")
        .start();
    let told = told(&keyward, "KeywardCertificateExpiresSoon", "main");
    assert!(
        told.contains(identity.certificate.to_str().unwrap()) && told.contains(" ends in "),
        "{told}"
    );
    assert!(told.contains("Replace certificate and key files"), "{told}");
    // Replaced, it is no problem any more, without a restart.
    ca.server("fresh").write_to(&identity.certificate, &identity.key);
    eventually("a certificate that lasts", || {
        problem(&status(&keyward), "KeywardCertificateExpiresSoon", "main")
            .is_none()
            .then_some(())
    });
}

#[test]
fn a_refused_reload_is_told_with_its_fault() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).expect("reload_failed").start();
    eventually("a start", || {
        (status(&keyward)["phase"] == "serving").then_some(())
    });
    let text = keyward.setup().text();
    keyward.overwrite_config(&text.replace("[[user]]", "[[usher]]"));
    keyward.signal("HUP");
    let told = told(&keyward, "KeywardConfigReloadFailed", "");
    assert!(told.contains("usher") && told.contains("keyward.toml:"), "{told}");
    assert!(told.contains("keyward check"), "{told}");
    keyward.overwrite_config(&text);
    keyward.reload();
    eventually("no such problem", || {
        problem(&status(&keyward), "KeywardConfigReloadFailed", "")
            .is_none()
            .then_some(())
    });
}

#[test]
fn the_page_lets_nothing_in_and_changes_nothing() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for path in ["/", "/status", "/status?refresh=off", "/status.json"] {
        let (head, body) = ask(&keyward, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:6390"));
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        for header in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "x-frame-options: deny",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(head.contains(header), "{path} has no {header}: {head}");
        }
        assert!(!head.contains("unsafe-"), "{head}");
        let page = !path.ends_with("json");
        assert_eq!(head.contains("; style-src 'sha256-"), page, "{head}");
        assert_eq!(
            head.contains("refresh: 10"),
            page && !path.contains("off"),
            "{head}"
        );
        if page {
            assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
            let body = body.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "<script", "http://", "https://", "style=", "@import", "url(", "<iframe", "<form",
            ] {
                assert!(!body.contains(forbidden), "{path} has {forbidden}");
            }
            assert!(body.starts_with("<!doctype html>") && body.trim_end().ends_with("</html>"));
        } else {
            assert!(head.contains("content-type: application/json"), "{head}");
        }
        let (head, _) = ask(
            &keyward,
            &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0"),
        );
        assert!(head.starts_with("HTTP/1.1 405"), "{head}");
        // A page from elsewhere that has its own name lead here must not read what is told.
        let (head, body) = ask(
            &keyward,
            &format!("GET {path} HTTP/1.1\r\nHost: evil.example:6390"),
        );
        assert!(
            head.starts_with("HTTP/1.1 403") && body.contains("localhost"),
            "{head} {body}"
        );
    }
}

#[test]
fn the_command_says_the_same_and_its_exit_code_tells() {
    let mut redis = Redis::start();
    // Rights at Redis are another test's affair.
    let mut keyward = Setup::new(&redis)
        .env("KEYWARD_LOCKOUT", "off")
        .user("root", super::support::ROOT_PASSWORD, "acl = \"+@all ~* &*\"")
        .expect("redis_connection_failed")
        .start();
    eventually("a status without problems", || {
        let (code, out, err) = run(&keyward, &[]);
        assert_eq!(err, "");
        let well = code == 0 && !out.starts_with("Starting");
        well.then(|| {
            assert!(out.starts_with("All is well  keyward "), "{out}");
            assert!(
                out.contains("NOTICE    Failed logins are neither slowed down nor locked out"),
                "{out}"
            );
            assert!(!out.contains('\x1b'), "no colours but on a terminal");
        })
    });
    redis.kill();
    let out = eventually("a status with problems", || {
        let (code, out, _) = run(&keyward, &[]);
        (code == 1).then_some(out)
    });
    assert!(out.contains("CRITICAL  Redis (main) cannot be used"), "{out}");
    assert!(out.contains("-> "), "{out}");
    let (code, json, _) = run(&keyward, &["--json"]);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["state"]), (1, &Json::from("critical")));
    // The address may come from the configuration, too.
    let file = keyward.setup().config_file();
    let admin = keyward.admin_address().to_string();
    let args = ["status", "--config", file.to_str().unwrap()];
    let (code, out, _) = command_line(&args, &[("KEYWARD_ADMIN", &admin)], "");
    assert_eq!(code, 1, "{out}");
    keyward.stop();
    let (code, out, err) = command_line(&["status"], &[("KEYWARD_ADMIN", &admin)], "");
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(
        err.contains(&admin) && err.contains("is keyward running?"),
        "{err}"
    );
    let (code, _, err) = command_line(&["status", "--url", "no such thing"], &[], "");
    assert_eq!(code, 64, "{err}");
}

#[test]
fn watching_looks_again_and_again() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let url = format!("http://{}", keyward.admin_address());
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["status", "--watch", "1", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let heads = lines
        .map(Result::unwrap)
        .filter(|line| line.contains("  keyward "));
    assert_eq!(heads.take(3).count(), 3);
    // Whoever read it is gone: that is its end, too.
    child.kill().unwrap();
    child.wait().unwrap();
}
