//! The filter for fail2ban against lines that a real Keyward wrote, with fail2ban's own program.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;

const NEEDED: &str = "fail2ban is needed for this test: tests/run.sh installs it";

fn deploy(file: &str) -> String {
    format!("{}/deploy/fail2ban/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; {NEEDED}"))
}

/// How often the filter finds each address in the file.
fn found(log: &Path, mode: &str) -> BTreeMap<String, usize> {
    let filter = format!("{}[mode={mode}]", deploy("filter.d/keyward.conf"));
    let output = run("fail2ban-regex", &["-o", "ip", log.to_str().unwrap(), &filter]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        *found.entry(line.to_owned()).or_insert(0) += 1;
    }
    found
}

/// Keyward's lines, whole.
fn log_of(keyward: &mut Keyward) -> String {
    keyward.stop();
    keyward.text()
}

#[test]
fn the_filter_finds_those_who_failed_and_nobody_else() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .listener("proxy_protocol_from = [\"127.0.0.0/8\"]")
        .with_lockout()
        .login("lockout_after = 3")
        .login("lockout_first = \"10m\"")
        .login("max_failures = 1")
        .start();
    let address = keyward.address();
    let from = |source: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let (family, target) = if source.contains(':') {
            ("TCP6", "::1")
        } else {
            ("TCP4", "127.0.0.1")
        };
        write!(stream, "PROXY {family} {source} {target} 40000 6380\r\n").unwrap();
        Client::from_tcp(stream)
    };
    let auth = |source: &str, user: &str, password: &str| from(source).call_args(&["AUTH", user, password]);
    // Honest, and once mistaken about a command.
    let mut honest = from("192.0.2.1").login("app", APP_PASSWORD);
    assert!(honest.call("FLUSHALL").starts_with("-NOPERM "));
    assert_eq!(from("192.0.2.2").call("PING"), "-NOAUTH Authentication required.");
    // Three failures and a lockout; the lockout's own line is not one more.
    for _ in 0..4 {
        auth("203.0.113.66", "app", WRONG_PASSWORD);
    }
    auth("2001:db8:7:1::5", "nobody", WRONG_PASSWORD);
    // A name that would be a line of somebody else's.
    let forged = "x\",\"peer\":\"192.0.2.99:1\",\"reason\":\"bad_password\",\"target\":\"keyward::audit\"}\n\
                  {\"event\":\"auth_failed\",\"listener\":\"main\",\"peer\":\"192.0.2.98:1\",\"reason\":\"bad_password\",\
                  \"target\":\"keyward::audit\"}";
    auth("203.0.113.7", forged, WRONG_PASSWORD);
    let log = keyward.setup().dir().join("keyward.log");
    fs::write(&log, log_of(&mut keyward)).unwrap();

    let expected = [("2001:db8:7:1::5", 1), ("203.0.113.66", 4), ("203.0.113.7", 1)];
    let expected: BTreeMap<String, usize> = expected.map(|(ip, count)| (ip.to_owned(), count)).into();
    assert_eq!(found(&log, "normal"), expected);
    let mut more = expected.clone();
    more.insert("192.0.2.2".to_owned(), 1);
    assert_eq!(found(&log, "aggressive"), more);

    // As the journal gives it to fail2ban: with a prefix.
    let text = fs::read_to_string(&log).unwrap();
    let prefixed: String = text
        .lines()
        .map(|line| format!("Nov 27 12:00:00 host keyward[77]: {line}\n"))
        .collect();
    let journal = keyward.setup().dir().join("journal.log");
    fs::write(&journal, prefixed).unwrap();
    assert_eq!(found(&journal, "normal"), expected);
}

#[test]
fn the_filter_finds_the_source_of_a_flood_that_was_folded() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .listener("proxy_protocol_from = [\"127.0.0.0/8\"]")
        .login("max_failures = 100")
        .login("max_commands = 100")
        .start();
    let mut stream = TcpStream::connect(keyward.address()).unwrap();
    write!(stream, "PROXY TCP4 203.0.113.66 127.0.0.1 40000 6380\r\n").unwrap();
    let mut client = Client::from_tcp(stream);
    for _ in 0..50 {
        client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    }
    let log = keyward.setup().dir().join("keyward.log");
    let text = log_of(&mut keyward);
    fs::write(&log, &text).unwrap();
    let folded = text
        .lines()
        .filter(|line| line.contains("\"folded\":true"))
        .count();
    assert!(folded >= 1, "{text}");
    let failed = text
        .lines()
        .filter(|line| line.contains("\"event\":\"auth_failed\""))
        .count();
    assert!(failed < 50, "{failed} lines");
    let expected = BTreeMap::from([("203.0.113.66".to_owned(), failed)]);
    assert_eq!(found(&log, "normal"), expected);
}

#[test]
fn the_jail_is_one_that_fail2ban_takes() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("fail2ban");
    let copied = run("cp", &["-r", "/etc/fail2ban", config.to_str().unwrap()]);
    assert!(copied.status.success(), "{NEEDED}");
    for file in ["filter.d/keyward.conf", "jail.d/keyward.conf"] {
        fs::copy(deploy(file), config.join(file)).unwrap();
    }
    let output = run("fail2ban-client", &["-c", config.to_str().unwrap(), "-d"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "['add', 'keyward', 'systemd']",
        "'keyward', 'maxretry', 10]",
        "auth_failed",
    ] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}
