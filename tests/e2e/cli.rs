//! The command line: exit codes, `check`, and the small helpers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::Redis;
use super::support::SECRETS;
use super::support::Setup;
use super::support::keyward::command_line;

#[test]
fn exit_codes_are_as_documented() {
    let usage: &[&[&str]] = &[&["nosuch"], &["run", "--nosuch"], &[], &["chekc"]];
    for args in usage {
        let (code, _, err) = command_line(args, &[], "");
        assert_eq!(code, 64, "{args:?}: {err}");
    }
    let (_, _, err) = command_line(&["chekc"], &[], "");
    assert!(err.contains("check"), "what was meant: {err}");
    let (code, out, _) = command_line(&["--help"], &[], "");
    assert_eq!(code, 0);
    assert!(out.lines().count() <= 40, "help fits one screen: {out}");
    for word in [
        "run",
        "check",
        "acl",
        "dev",
        "healthcheck",
        "gen-password",
        "hash-password",
        "dev-certs",
    ] {
        assert!(out.contains(word), "{word} is missing in: {out}");
    }
    let (code, out, _) = command_line(&["--version"], &[], "");
    assert_eq!(code, 0);
    assert!(out.starts_with("keyward "), "{out}");
    let (code, _, err) = command_line(&["run"], &[], "");
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("REDIS_URL"), "the way out is named: {err}");
    let (code, _, err) = command_line(&["run", "--config", "/nonexistent/keyward.toml"], &[], "");
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("/nonexistent/keyward.toml"), "{err}");
}

#[test]
fn check_finds_every_fault_at_once() {
    let redis = Redis::start();
    let setup = Setup::new(&redis)
        .server("max_conections = 7")
        .listener("upstream = \"mian\"")
        .login("timeout = \"ten\"");
    let file = setup.config_file();
    fs::write(&file, setup.text()).unwrap();
    let (code, out, err) = command_line(&["check", "--config", file.to_str().unwrap()], &[], "");
    let text = format!("{out}{err}");
    assert_eq!(code, 78, "{text}");
    for part in [
        "max_conections",
        "max_connections",
        "mian",
        "did you mean",
        "ten",
        "keyward.toml:",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    let errors = text.matches("error[KW").count();
    assert!(errors >= 3, "{errors} errors in:\n{text}");
    assert!(!text.contains(APP_PASSWORD), "{text}");
}

/// What `keyward check` says about a text; the files it names are in `setup`'s directory.
fn faults(setup: &Setup, text: &str) -> String {
    let file = setup.write("keyward.toml", text);
    let (code, out, err) = command_line(&["check", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!(code, 78, "{out}{err}");
    assert_eq!(out, "", "talk goes to standard error");
    for secret in SECRETS {
        assert!(!err.contains(secret), "{secret}");
    }
    err
}

/// Code and place (`line:column`) of every error, in the order they were said.
fn places(said: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("error[") else {
            continue;
        };
        let code = rest.split(']').next().unwrap().to_owned();
        let place = lines
            .peek()
            .and_then(|line| line.trim_start().strip_prefix("--> "));
        let place = place.map_or("", |place| place.rsplit('/').next().unwrap());
        found.push((code, place.to_owned()));
    }
    found
}

fn expect_places(said: &str, expected: &[(&str, &str)]) {
    let found = places(said);
    let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(found, expected, "{said}");
}

#[test]
fn check_finds_faults_of_every_kind_in_one_run() {
    let setup = Setup::empty();
    setup.write("app.secret", &format!("{APP_PASSWORD}\n"));
    setup.write("broken.pem", "no certificate\n");
    setup.write("broken.key", "no key\n");
    setup.write(
        "users.acl",
        "user a on nopass ~* +get\nuser b on nopass ~* +mgett\n",
    );
    let text = r#"[server]
max_conections = 7

[[upstream]]
name = "main"
url = "rediss://localhost:6379/0"
ca_file = "broken.pem"

[[listener]]
name = "one"
address = "127.0.0.1:0"
upstream = "mian"
users_file = "users.acl"
tls = { certificate_file = "broken.pem", key_file = "broken.key" }

[[listener]]
name = "two"
address = "127.0.0.1:0"
users_file = "users.acl"
login = "pasword"

[[user]]
name = "app"
password_file = "app.secret"
acl = "safe +gett -@dangeros"

[[user]]
name = "lines"
password_file = "app.secret"
idle = 1
acl = """
  +get ~*
  +sett
"""
"#;
    let said = faults(&setup, text);
    expect_places(
        &said,
        &[
            ("KW0102", "keyward.toml:2:1"),
            ("KW0602", "keyward.toml:7:11"),
            ("KW0203", "keyward.toml:12:12"),
            ("KW0601", "keyward.toml:14:28"),
            ("KW0601", "keyward.toml:14:53"),
            ("KW0209", "keyward.toml:20:9"),
            ("KW0501", "keyward.toml:25:13"),
            ("KW0501", "keyward.toml:25:19"),
            ("KW0102", "keyward.toml:30:1"),
            ("KW0501", "keyward.toml:33:3"),
            ("KW0501", "users.acl:2:21"),
        ],
    );
    for help in [
        "`max_connections`",
        "\"main\"",
        "`+get`",
        "`-@dangerous`",
        "`+set`",
        "`+mget`",
    ] {
        assert!(said.contains(&format!("did you mean {help}?")), "{help}: {said}");
    }
    assert!(said.contains("11 errors in the configuration"), "{said}");
}

#[test]
fn one_fault_is_reported_once_and_nothing_because_of_it() {
    let ca = Authority::new("ca");
    let identity = ca.server("server");
    let setup = Setup::empty();
    setup.write("app.secret", &format!("{APP_PASSWORD}\n"));
    setup.write("empty.secret", "\n");
    let good = format!(
        r#"[server]
max_connections = 100
max_unauthenticated = 50

[login]
lockout_first = "20s"
lockout_max = "30m"

[[upstream]]
name = "main"
url = "redis://localhost:6379/0"
username = "keyward"
password_file = "app.secret"

[[listener]]
name = "one"
address = "0.0.0.0:0"
upstream = "main"
users = ["app"]
max_connections = 50
tls = {{ certificate_file = {:?}, key_file = {:?} }}

[[listener]]
name = "open"
address = "127.0.0.1:0"
login = "none"
acl = "safe"

[[user]]
name = "app"
password_file = "app.secret"
acl = "safe"
"#,
        identity.certificate, identity.key
    );
    let file = setup.write("keyward.toml", &good);
    let (code, _, err) = command_line(&["check", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!(code, 0, "{err}");
    // What is written instead of what, and the one code that is expected.
    let cases = [
        ("max_connections = 100\n", "max_connections = \"x\"\n", "KW0103"),
        ("max_connections = 100\n", "max_connections = 0\n", "KW0208"),
        ("lockout_max = \"30m\"", "lockout_max = \"30\"", "KW0207"),
        ("lockout_max = \"30m\"\n", "lockout_mx = \"10s\"\n", "KW0102"),
        ("[[upstream]]", "[upstream]", "KW0103"),
        ("[[upstream]]", "[[upstrem]]", "KW0102"),
        ("name = \"main\"", "nmae = \"main\"", "KW0102"),
        ("name = \"main\"\n", "", "KW0104"),
        ("name = \"main\"", "name = \"m n\"", "KW0204"),
        ("url =", "ulr =", "KW0102"),
        ("url = \"redis:", "url = \"http:", "KW0206"),
        (
            "password_file = \"app.secret\"\n\n[[listener]]",
            "password_file = \"empty.secret\"\n\n[[listener]]",
            "KW0302",
        ),
        (
            "password_file = \"app.secret\"\n\n[[listener]]",
            "password_fiel = \"app.secret\"\n\n[[listener]]",
            "KW0102",
        ),
        ("tls =", "tsl =", "KW0102"),
        ("certificate_file =", "certificat_file =", "KW0102"),
        ("key_file =", "kye_file =", "KW0102"),
        ("key_file =", "key_file = \"\", client_ca_fil =", "KW0216"),
        ("login = \"none\"", "login = \"nnoe\"", "KW0209"),
        ("login = \"none\"", "login = 1", "KW0103"),
        ("users = [\"app\"]", "users = [\"app\", \"nobody\"]", "KW0203"),
        ("[[user]]", "[user]", "KW0103"),
        ("[[user]]", "[[users]]", "KW0102"),
        ("name = \"app\"", "name = \"a b\"", "KW0204"),
        ("name = \"app\"", "nam = \"app\"", "KW0102"),
        (
            "password_file = \"app.secret\"\nacl",
            "password_file = \"empty.secret\"\nacl",
            "KW0302",
        ),
        (
            "password_file = \"app.secret\"\nacl",
            "password = \"hidden\"\nacl",
            "KW0401",
        ),
        (
            "password_file = \"app.secret\"\nacl = \"safe\"",
            "acl = \"on >hidden ~* +get\"",
            "KW0401",
        ),
    ];
    for (from, to, code) in cases {
        assert!(good.contains(from), "{from}");
        let said = faults(&setup, &good.replacen(from, to, 1));
        let mut codes: Vec<String> = places(&said).into_iter().map(|(code, _)| code).collect();
        if to.contains("client_ca_fil") {
            codes.retain(|code| code != "KW0102");
        }
        assert_eq!(codes, [code], "{to}\n{said}");
        assert!(!said.contains("hidden\""), "{said}");
    }
}

#[test]
fn run_and_check_say_the_same() {
    let setup = Setup::empty();
    let text = "[[upstream]]\nname = \"main\"\nurl = \"redis://localhost\"\ncolour = 1\n\
                [[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\nlogin = \"none\"\nacl = \"+gett\"\n";
    let said = faults(&setup, text);
    expect_places(
        &said,
        &[("KW0102", "keyward.toml:4:1"), ("KW0501", "keyward.toml:9:8")],
    );
    let file = setup.dir().join("keyward.toml");
    let (code, _, err) = command_line(&["run", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!((code, err), (78, said));
}

#[test]
fn a_missing_file_says_from_where_its_path_counts() {
    let setup = Setup::empty();
    let text = "[[upstream]]\nname = \"main\"\nurl = \"redis://localhost\"\npassword_file = \"/nowhere/redis\"\n\
                [[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
                tls = { certificate_file = \"server.pem\", key_file = \"server.key\" }\nlogin = \"none\"\n";
    fs::write(setup.config_file(), text).unwrap();
    // The same whether the file itself is named by a relative path or by an absolute one.
    for named in ["keyward.toml", setup.config_file().to_str().unwrap()] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(["check", "--config", named])
            .env_clear()
            .current_dir(setup.dir())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert_eq!(
            said.matches("counts from the directory of the configuration file")
                .count(),
            3,
            "{said}"
        );
        assert!(!said.contains("was started in"), "{said}");
    }
    let env = [
        ("REDIS_URL", "redis://localhost"),
        ("REDIS_PASSWORD_FILE", "secret"),
    ];
    let (code, _, said) = command_line(&["check"], &env, "");
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("counts from the directory that Keyward was started in"),
        "{said}"
    );
}

#[test]
fn a_certificate_of_the_environment_is_named_by_its_variable() {
    let setup = Setup::empty();
    let certificate = setup.write("broken.pem", "no certificate\n");
    let key = setup.write("broken.key", "no key\n");
    let env = [
        ("REDIS_URL", "redis://localhost"),
        ("KEYWARD_TLS_CERT", certificate.to_str().unwrap()),
        ("KEYWARD_TLS_KEY", key.to_str().unwrap()),
    ];
    let (code, _, err) = command_line(&["check"], &env, "");
    assert_eq!(code, 78, "{err}");
    for part in [
        "KEYWARD_TLS_CERT: listener \"sidecar\": ",
        "KEYWARD_TLS_KEY: listener",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

#[test]
fn check_is_content_with_what_runs_and_shows_no_secret() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let file = keyward.setup().config_file();
    let args = ["check", "--show", "--config", file.to_str().unwrap()];
    let (code, out, err) = command_line(&args, &[], "");
    assert_eq!(code, 0, "{out}{err}");
    for secret in SECRETS {
        assert!(!out.contains(secret) && !err.contains(secret), "{secret}");
    }
    assert!(
        out.contains("max_connections"),
        "every effective value is shown: {out}"
    );
}

#[test]
fn passwords_are_made_and_hashed() {
    let (code, one, _) = command_line(&["gen-password"], &[], "");
    let (_, two, _) = command_line(&["gen-password"], &[], "");
    assert_eq!(code, 0);
    assert_ne!(one, two);
    assert!(one.trim().len() >= 43, "256 bits in base64url: {one:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new.secret");
    let args = ["gen-password", "--write", file.to_str().unwrap()];
    let (code, out, err) = command_line(&args, &[], "");
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "", "a password that is written is not shown");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, _, _) = command_line(&args, &[], "");
    assert_ne!(code, 0, "an existing file is not overwritten");
    let (code, hash, _) = command_line(&["hash-password"], &[], "abc\n");
    assert_eq!(code, 0);
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hash.trim(), format!("sha256:{known}"));
}

#[test]
fn development_certificates_work() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made");
    let (code, _, err) = command_line(&["dev-certs", "--out", out.to_str().unwrap()], &[], "");
    assert_eq!(code, 0, "{err}");
    let mut keys = 0;
    for entry in fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("PRIVATE KEY") {
            keys += 1;
            let metadata = fs::metadata(&path).unwrap();
            let mode = metadata.permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }
    assert!(keys >= 2, "server and client at least");
}

#[test]
fn completions_and_the_manual_know_every_subcommand() {
    let (status, help, _) = command_line(&["--help"], &[], "");
    assert_eq!(status, 0);
    assert!(help.lines().count() <= 40, "{help}");
    let (status, manual, _) = command_line(&["man"], &[], "");
    assert_eq!(status, 0);
    let shells = ["bash", "zsh", "fish"].map(|shell| {
        let (status, script, _) = command_line(&["completions", shell], &[], "");
        assert_eq!(status, 0);
        script
    });
    for command in ["run", "check", "dev", "healthcheck", "gen-password", "dev-certs"] {
        assert!(
            manual.contains(&command.replace('-', "\\-")),
            "{command}\n{manual}"
        );
        assert!(shells.iter().all(|script| script.contains(command)), "{command}");
    }
}

#[test]
fn the_rules_can_be_asked() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).user(
        "tenant",
        APP_PASSWORD,
        "acl = \"+@all -@dangerous ~own:* (%R~shared:* +get)\"\ndatabases = [0]",
    );
    let file = setup.write("keyward.toml", &setup.text());
    let file = file.to_str().unwrap();
    let ask = |request: &[&str]| {
        let mut args = vec!["acl", "test", "--config", file];
        args.extend(request);
        command_line(&args, &[], "")
    };
    for allowed in [
        &["tenant", "SET", "own:1", "-1"][..],
        &["tenant", "get", "shared:1"],
        &["app", "EVAL", "return 1", "0"],
    ] {
        let (code, out, err) = ask(allowed);
        assert_eq!((code, out.trim()), (0, "allowed"), "{allowed:?}: {err}");
    }
    for (refused, parts) in [
        (
            &["tenant", "MSET", "own:1", "a", "other", "b"][..],
            &[
                "refused: ",
                "argument 3, 'other'",
                "write",
                "~own:*",
                "selector 1",
            ][..],
        ),
        (&["tenant", "KEYS", "*"], &["'keys'", "-@dangerous"]),
        (&["tenant", "SELECT", "1"], &["argument 1, '1'", "databases"]),
        (&["app", "FLUSHALL"], &["preset 'safe'", "destroys"]),
        (&["app", "GET"], &["number of arguments"]),
        (&["app", "NOSUCH"], &["no such command"]),
        (&["app", "CONFIG", "NOSUCH"], &["no such subcommand"]),
    ] {
        let (code, out, err) = ask(refused);
        assert_eq!(code, 77, "{refused:?}: {out}{err}");
        for part in parts {
            assert!(out.contains(part), "{refused:?}: {part} is missing in: {out}");
        }
    }
    let (code, _, err) = ask(&["nobody", "GET", "k"]);
    assert_eq!(code, 64);
    assert!(err.contains("'nobody'") && err.contains("tenant"), "{err}");
    assert_eq!(ask(&["tenant"]).0, 64, "a command is missing");
    let (code, out, _) = command_line(&["acl", "--help"], &[], "");
    assert!(
        code == 0 && out.contains("test") && out.contains("upstream"),
        "{out}"
    );
}

#[test]
fn the_printed_line_makes_redis_refuse_what_no_user_may_do() {
    let redis = Redis::start();
    let setup = Setup::new(&redis)
        .without_user("root")
        .without_user("default")
        .user(
            "app",
            APP_PASSWORD,
            "acl = \"safe resetkeys ~own:* resetchannels &own:*\"",
        )
        .user("reader", APP_PASSWORD, "acl = \"%R~shared:* +get +select\"")
        .upstream("username = \"keyward\"");
    let file = setup.write("keyward.toml", &setup.text());
    let args = ["acl", "upstream", "--config", file.to_str().unwrap()];
    let (code, line, err) = command_line(&args, &[], "");
    assert_eq!(code, 0, "{err}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with("ACL SETUSER keyward on "), "{line}");
    for secret in SECRETS {
        assert!(!line.contains(secret) && !err.contains(secret), "{secret}");
    }
    let mut admin = redis.client();
    let create = format!("ACL SETUSER keyward >{REDIS_PASSWORD}");
    assert_eq!(admin.call(&create), "+OK");
    assert_eq!(admin.call(line.trim()), "+OK");
    // Keyward itself works with it, and so do its users.
    let keyward = setup.start();
    let mut app = keyward.app();
    assert_eq!(app.call("SET own:1 a"), "+OK");
    assert_eq!(app.call("CLIENT SETNAME me"), "+OK");
    assert_eq!(app.call("MULTI"), "+OK");
    assert_eq!(app.call("INCR own:2"), "+QUEUED");
    assert_eq!(app.call("EXEC"), "*[:1]");
    assert!(app.call("SUBSCRIBE own:1").starts_with('*'));
    // What the proxy cannot see, Redis refuses now.
    let mut app = keyward.app();
    for script in ["FLUSHALL", "KEYS','*", "SET','other','1", "SET','shared:1','1"] {
        let script = format!("return redis.call('{script}')");
        let reply = app.call_args(&["EVAL", &script, "0"]);
        assert!(reply.starts_with('-'), "{script}: {reply}");
    }
    assert_eq!(
        app.call_args(&["EVAL", "return redis.call('GET', 'own:1')", "0"]),
        "$a"
    );
    let mut direct = redis.client();
    assert_eq!(direct.call_args(&["AUTH", "keyward", REDIS_PASSWORD]), "+OK");
    for refused in [
        "FLUSHALL",
        "CONFIG GET dir",
        "GET other",
        "SET shared:1 x",
        "PUBLISH other m",
    ] {
        assert!(direct.call(refused).starts_with("-NOPERM "), "{refused}");
    }
    assert_eq!(direct.call("GET shared:1"), "$-1");
    let mut reader = keyward.connect().login("reader", APP_PASSWORD);
    assert_eq!(reader.call("SELECT 1"), "+OK");
    assert_eq!(reader.call("GET shared:1"), "$-1");
}

#[test]
fn the_printed_line_is_taken_for_every_preset() {
    let redis = Redis::start();
    for acl in ["safe", "strict", "+@all ~* &*"] {
        let setup = Setup::new(&redis)
            .without_users()
            .user("app", APP_PASSWORD, &format!("acl = {acl:?}"));
        let file = setup.write("keyward.toml", &setup.text());
        let args = ["acl", "upstream", "--config", file.to_str().unwrap()];
        let (code, line, err) = command_line(&args, &[], "");
        assert_eq!(code, 0, "{err}");
        let line = line.replace("SETUSER default", "SETUSER other");
        assert_eq!(redis.client().call(line.trim()), "+OK", "{acl}");
    }
}

#[test]
fn limits_of_a_user_that_are_none_are_named() {
    let redis = Redis::start();
    for (line, parts) in [
        (
            "databases = [\"0\"]",
            &["`databases` must hold whole numbers"][..],
        ),
        (
            "databases = [-1]",
            &["not the number of a database", "between 0 and"],
        ),
        ("databases = [0, 5000000]", &["not the number of a database"]),
        ("databases = []", &["`databases` is an empty list"]),
        (
            "databases = 0",
            &["`databases` must be an array of whole numbers", "brackets"],
        ),
        (
            "databases = [3]",
            &["may not use database 0", "listener \"main\""],
        ),
        ("sources = [\"10.0.0.0/33\"]", &["not a network", "10.0.0.0/8"]),
        ("sources = [\"here\"]", &["not a network"]),
        ("database = [0]", &["databases"]),
    ] {
        let setup = Setup::new(&redis).user("tenant", APP_PASSWORD, line);
        let said = faults(&setup, &setup.text());
        for part in parts {
            assert!(said.contains(part), "{line}: {part} is missing in:\n{said}");
        }
    }
}
