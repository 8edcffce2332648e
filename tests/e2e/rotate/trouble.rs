//! What can go wrong on the way: said clearly, and nothing is lost.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::UNIX_EPOCH;

use super::super::support::REDIS_PASSWORD;
use super::super::support::REDIS_PASSWORD_2;
use super::super::support::Redis;
use super::super::support::Setup;
use super::super::support::certs::replace;
use super::super::support::eventually;
use super::is_as_before;
use super::is_rotated;
use super::lines;
use super::redis_takes;
use super::rotate;
use super::rotate_and_kill;
use super::secret_file;
use super::setup;

#[test]
fn a_file_that_cannot_be_replaced_is_noticed_before_redis_is_touched() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    // In the way of the new file, for root as for anybody.
    let draft = secret_file(&keyward).with_file_name(".main.redis.rotate");
    std::fs::create_dir(&draft).unwrap();
    rotate(&keyward, &["upstream"]).is(1, &["cannot replace", "whoever runs this must be its owner"]);
    is_as_before(&keyward, &redis);
    std::fs::remove_dir(&draft).unwrap();
}

#[test]
fn a_file_that_is_not_the_password_of_redis_is_left_alone() {
    let redis = Redis::start();
    let keyward = setup(&redis).expect("redis_connection_failed").start();
    replace(&secret_file(&keyward), &format!("{REDIS_PASSWORD_2}\n"), 0o600);
    rotate(&keyward, &["upstream"]).is(77, &["Redis refuses the password of user default"]);
    assert_eq!(lines(&keyward), [REDIS_PASSWORD_2]);
    assert!(redis_takes(&redis, "default", REDIS_PASSWORD));
    replace(&secret_file(&keyward), &format!("{REDIS_PASSWORD}\n"), 0o600);
}

#[test]
fn without_redis_or_keyward_nothing_begins() {
    let mut redis = Redis::start();
    let keyward = setup(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    rotate(&keyward, &["upstream", "--admin", "127.0.0.1:1"])
        .is(1, &["no Keyward answers at its admin address 127.0.0.1:1"]);
    is_as_before(&keyward, &redis);
    redis.kill();
    rotate(&keyward, &["upstream"]).is(69, &["redis ", "refused the connection"]);
    assert_eq!(lines(&keyward), [REDIS_PASSWORD]);
}

#[test]
fn a_redis_that_hangs_up_meanwhile_is_logged_in_to_again() {
    let redis = Redis::start();
    let keyward = setup(&redis).expect("upstream_closed").start();
    let slow = Slow::start(secret_file(&keyward));
    thread::scope(|scope| {
        let run = scope.spawn(|| rotate(&keyward, &["upstream", "--admin", &slow.address]));
        // Once before anything is done; then it waits.
        eventually("the wait for Keyward", || {
            (slow.asked.load(Ordering::SeqCst) > 2).then_some(())
        });
        redis.client().call("CLIENT KILL TYPE normal");
        slow.has_read.store(true, Ordering::SeqCst);
        run.join().unwrap().is(0, &["done: "]);
    });
    eventually("Redis through Keyward", || {
        (keyward.app().call("SET a 1") == "+OK").then_some(())
    });
    is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
}

#[test]
fn a_redis_without_acl_is_for_the_operator_to_rotate() {
    let redis = Redis::with_password().line("rename-command ACL \"\"").start();
    let keyward = setup(&redis).start();
    rotate(&keyward, &["upstream"]).is(
        1,
        &[
            "ACL GETUSER was answered with: ERR unknown command",
            "rotate by hand there",
        ],
    );
    is_as_before(&keyward, &redis);
}

#[test]
fn a_file_that_was_written_again_with_the_same_in_it_is_known_to_be_read() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let slow = Slow::start(secret_file(&keyward));
    rotate(
        &keyward,
        &["upstream", "--admin", &slow.address, "--patience", "100ms"],
    )
    .is(1, &["has not read"]);
    let both = std::fs::read_to_string(secret_file(&keyward)).unwrap();
    eventually("both", || {
        (keyward.events("upstream_credential_changed").len() == 1).then_some(())
    });
    // As a copy or a `touch` does: of another date.
    replace(&secret_file(&keyward), &both, 0o600);
    rotate(&keyward, &["upstream"]).is(0, &["done: "]);
    is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
}

#[test]
fn a_sidecar_without_a_configuration_file_is_rotated_by_its_environment() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        replace(&path, &format!("{text}\n"), 0o600);
        path.display().to_string()
    };
    let (secret, client) = (
        file("redis", REDIS_PASSWORD),
        file("client", super::super::support::APP_PASSWORD),
    );
    let url = redis.unix_url();
    let variables = [
        ("REDIS_URL", url.as_str()),
        ("REDIS_PASSWORD_FILE", &secret),
        ("KEYWARD_USER", "app"),
        ("KEYWARD_PASSWORD_FILE", &client),
    ];
    let keyward = Setup::environment(&variables).expect("KW0304").start();
    let admin = keyward.admin_address().to_string();
    for what in ["upstream", "user"] {
        let args: Vec<&str> = match what {
            "user" => vec!["rotate", "user", "app", "--admin", &admin],
            _ => vec!["rotate", "upstream", "--admin", &admin],
        };
        let (code, _, said) = super::command_line(&args, &variables, "");
        assert_eq!(code, 0, "{said}");
    }
    let new = std::fs::read_to_string(&secret).unwrap();
    assert!(redis_takes(&redis, "default", new.trim()) && !redis_takes(&redis, "default", REDIS_PASSWORD));
    assert_eq!(std::fs::read_to_string(&client).unwrap().lines().count(), 2);
    let mut client =
        super::Client::tcp(keyward.address_of("sidecar")).login("app", super::super::support::APP_PASSWORD);
    assert_eq!(client.call("SET a 1"), "+OK");
}

/// An admin listener that has not read the file until it is told to have.
struct Slow {
    address: String,
    has_read: Arc<AtomicBool>,
    /// Answers so far.
    asked: Arc<AtomicUsize>,
}

impl Slow {
    fn start(file: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let has_read = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_read);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // Ends with the test's process; it holds nothing.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                count.fetch_add(1, Ordering::SeqCst);
                let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
                let at = if flag.load(Ordering::SeqCst) {
                    modified.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
                } else {
                    1.0
                };
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\n\r\nkeyward_upstream_credential_changed_timestamp_seconds{{upstream=\"main\",user=\"\"}} {at}\n"
                );
            }
        });
        Self {
            address,
            has_read,
            asked,
        }
    }
}

#[test]
fn a_keyward_that_does_not_read_the_file_keeps_the_old_password_good() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let slow = Slow::start(secret_file(&keyward));
    let args = ["upstream", "--admin", &slow.address, "--patience", "300ms"];
    rotate(&keyward, &args).is(
        1,
        &[
            "has not read the new password within 300ms",
            "nothing is lost",
            "goes on from here",
        ],
    );
    let both = lines(&keyward);
    assert_eq!(both.len(), 2);
    for password in &both {
        assert!(redis_takes(&redis, "default", password));
    }
    slow.has_read.store(true, Ordering::SeqCst);
    rotate(&keyward, &args).is(0, &["this finishes it"]);
    is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
}

#[test]
fn redis_may_go_in_the_middle_and_come_back_with_the_old_password() {
    let mut redis = Redis::start();
    let keyward = setup(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    let slow = Slow::start(secret_file(&keyward));
    thread::scope(|scope| {
        let run = scope.spawn(|| rotate(&keyward, &["upstream", "--admin", &slow.address]));
        eventually("the new password at Redis", || {
            let both = lines(&keyward);
            (both.len() == 2 && redis_takes(&redis, "default", &both[0])).then_some(())
        });
        redis.kill();
        slow.has_read.store(true, Ordering::SeqCst);
        run.join()
            .unwrap()
            .is(69, &["redis ", "stopped in the middle; nothing is lost"]);
    });
    assert_eq!(lines(&keyward).len(), 2);
    // Nothing was saved: it knows the old one alone.
    redis.restart();
    assert!(!redis_takes(&redis, "default", &lines(&keyward)[0]));
    eventually("Redis through Keyward", || {
        (keyward.app().call("SET a 1") == "+OK").then_some(())
    });
    rotate(&keyward, &["upstream"]).is(0, &["did give user default"]);
    is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
}

#[test]
fn killed_after_any_step_the_rotation_of_an_acl_user_is_finished_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.acl");
    let text = format!(
        "user default on >{REDIS_PASSWORD} ~* &* +@all\nuser keyward on >{REDIS_PASSWORD_2} ~* &* +@all -@dangerous +info\n"
    );
    std::fs::write(&users, text).unwrap();
    let redis = Redis::with_password()
        .line(&format!("aclfile {}", users.display()))
        .start();
    let setup = setup(&redis).upstream("username = \"keyward\"");
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    let operator = setup.write("operator", &format!("{REDIS_PASSWORD}\n"));
    let operator = operator.display().to_string();
    let keyward = setup.start();
    let args = ["upstream", "--as", "default", "--as-password-file", &operator];
    let mut lasting = keyward.app();
    for steps in 1..=7 {
        let old = lines(&keyward)[0].clone();
        let (said, alive) = rotate_and_kill(&keyward, &args, steps);
        assert!(alive || steps == 7, "{said:?}");
        for client in [&mut lasting, &mut keyward.app()] {
            assert_eq!(client.call("SET a 1"), "+OK", "after {said:?}");
        }
        let finish: Vec<&str> = args.into_iter().chain(["--finish"]).collect();
        rotate(&keyward, &finish).is(0, &[]);
        let new = is_rotated(&keyward, &redis, "keyward", &old);
        // What Redis would know after a restart.
        let saved = std::fs::read_to_string(&users).unwrap();
        let line = saved
            .lines()
            .find(|line| line.starts_with("user keyward "))
            .unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, new.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            line.contains(&hex) && line.matches('#').count() == 1,
            "after {said:?}: {line}"
        );
    }
    assert_eq!(keyward.metric("keyward_upstream_auth_failures_total", &[]), 0.0);
}

#[test]
fn a_redis_that_cannot_save_leaves_the_old_password_in_the_file() {
    let redis = Redis::start();
    // May change users and not save them.
    let limited = [
        "ACL",
        "SETUSER",
        "limited",
        "on",
        &format!(">{REDIS_PASSWORD_2}"),
        "+acl|getuser",
        "+acl|setuser",
        "+acl|save",
        "+info",
    ];
    assert_eq!(redis.client().call_args(&limited), "+OK");
    let keyword = format!(">{REDIS_PASSWORD}");
    let keyward_user = ["ACL", "SETUSER", "keyward", "on", &keyword, "~*", "&*", "+@all"];
    assert_eq!(redis.client().call_args(&keyward_user), "+OK");
    let keyward = setup(&redis).upstream("username = \"keyward\"").start();
    let file = keyward
        .setup()
        .write("limited", &format!("{REDIS_PASSWORD_2}\n"))
        .display()
        .to_string();
    let args = ["upstream", "--as", "limited", "--as-password-file", &file];
    rotate(&keyward, &args).is(
        1,
        &[
            "could not have the change saved",
            "may not run CONFIG REWRITE",
            "not finished: ",
            "--finish --no-save",
        ],
    );
    let both = lines(&keyward);
    assert_eq!(both.len(), 2, "after a restart the old one would be needed");
    assert!(redis_takes(&redis, "keyward", &both[0]) && !redis_takes(&redis, "keyward", &both[1]));
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    let finish: Vec<&str> = args.into_iter().chain(["--finish", "--no-save"]).collect();
    rotate(&keyward, &finish).is(0, &["done: "]);
    is_rotated(&keyward, &redis, "keyward", REDIS_PASSWORD);
}

#[test]
fn what_cannot_be_rotated_is_said_with_the_way_out() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    rotate(&keyward, &["upstream", "other"]).is(78, &["there is no such upstream; there are: main"]);
    rotate(&keyward, &["upstream", "--user", "app"])
        .is(78, &["no [[user]] \"app\" has a Redis login of its own"]);
    rotate(&keyward, &["upstream", "--redis", "nonsense"]).is(64, &["--redis takes HOST:PORT"]);
    rotate(&keyward, &["upstream", "--as", "boss"]).is(64, &["--as-password-file"]);
    rotate(&keyward, &["user", "nobody"]).is(78, &["there is no user \"nobody\""]);
    is_as_before(&keyward, &redis);
    let keyward = Setup::environment(&[
        ("REDIS_URL", &redis.unix_url()),
        ("REDIS_PASSWORD", REDIS_PASSWORD),
        ("KEYWARD_PASSWORD", super::super::support::APP_PASSWORD),
    ])
    .expect("KW0401")
    .expect("configuration_warning")
    .start();
    let variables = [
        ("REDIS_URL", redis.unix_url()),
        ("REDIS_PASSWORD", REDIS_PASSWORD.to_owned()),
        ("KEYWARD_PASSWORD", super::super::support::APP_PASSWORD.to_owned()),
    ];
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    for what in [&["rotate", "upstream"][..], &["rotate", "user", "default"]] {
        let (code, out, said) = super::command_line(what, &variables, "");
        assert_eq!((code, out.as_str()), (78, ""), "{said}");
        assert!(said.contains("comes from an environment variable"), "{said}");
    }
    drop(keyward);
}
