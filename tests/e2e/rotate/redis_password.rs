//! The password that Keyward logs in to Redis with.

use std::os::unix::fs::PermissionsExt;

use super::super::support::Authority;
use super::super::support::Keyward;
use super::super::support::REDIS_PASSWORD;
use super::super::support::REDIS_PASSWORD_2;
use super::super::support::Redis;
use super::super::support::Setup;
use super::super::support::certs::replace;
use super::super::support::keyward::set_mode;
use super::is_as_before;
use super::is_rotated;
use super::lines;
use super::redis_takes;
use super::rotate;
use super::rotate_and_kill;
use super::rotate_with;
use super::secret_file;
use super::setup;

const NEW: &str = "a-new-password-of-redis-Yc83LqTn5wZpXv0R2sK";

/// The lines of Redis's own configuration that begin so.
fn redis_conf(redis: &Redis, start: &str) -> Vec<String> {
    let text = std::fs::read_to_string(redis.socket().with_file_name("redis.conf")).unwrap();
    text.lines()
        .filter(|line| line.starts_with(start))
        .map(str::to_owned)
        .collect()
}

#[test]
fn requirepass_is_rotated_and_saved_and_every_step_is_said() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    set_mode(&secret_file(&keyward), 0o640);
    let mut before = keyward.app();
    assert_eq!(before.call("SET a 1"), "+OK");
    let outcome = rotate(&keyward, &["upstream"]).is(
        0,
        &[
            "did write a new password above the old one into",
            "did give user default the new password beside the old one",
            "did log in with the new password",
            "did wait until Keyward has read the new password",
            "did put the new password into requirepass",
            "(CONFIG REWRITE, which also saves",
            "did take the old password out of",
            "done: ",
        ],
    );
    let new = is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
    assert_eq!(outcome.out, "");
    for secret in [new.as_str(), REDIS_PASSWORD] {
        assert!(!outcome.said.contains(secret) && !keyward.text().contains(secret));
    }
    let mode = std::fs::metadata(secret_file(&keyward))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640, "mode and owner are kept");
    assert_eq!(before.call("GET a"), "$1", "who was there stays");
    assert_eq!(
        redis_conf(&redis, "requirepass "),
        [format!("requirepass \"{new}\"")]
    );
    rotate(&keyward, &["upstream", "--finish"]).is(0, &["there is nothing to finish"]);
    assert_eq!(lines(&keyward), [new], "and nothing was begun");
    assert_eq!(keyward.metric("keyward_upstream_auth_failures_total", &[]), 0.0);
}

#[test]
fn a_dry_run_says_the_steps_and_changes_nothing() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let acl = redis.client().call("ACL LIST");
    let written = std::fs::metadata(secret_file(&keyward))
        .unwrap()
        .modified()
        .unwrap();
    let conf = redis_conf(&redis, "");
    rotate(&keyward, &["upstream", "--dry-run"]).is(
        0,
        &[
            "dry run",
            "would write a new password",
            "would put the new password into requirepass",
            "would take the old password out",
        ],
    );
    is_as_before(&keyward, &redis);
    assert_eq!(redis.client().call("ACL LIST"), acl);
    assert_eq!(redis_conf(&redis, ""), conf);
    assert_eq!(
        std::fs::metadata(secret_file(&keyward))
            .unwrap()
            .modified()
            .unwrap(),
        written
    );
}

/// A Redis with TLS, an ACL file, a user for Keyward that may not change users, and one that may.
fn with_acl_file(authority: &Authority) -> (Redis, Keyward) {
    let folder = authority.dir();
    let users = folder.join("redis-users.acl");
    let text = format!(
        "user default on >{REDIS_PASSWORD} ~* &* +@all\nuser keyward on >{REDIS_PASSWORD_2} ~* &* +@all -@dangerous +info\n\
         user boss on >boss-password-0123456789abcdefghijklmn ~* &* +@all\n"
    );
    std::fs::write(&users, text).unwrap();
    let redis = Redis::with_password()
        .tls(&authority.server("localhost"), &authority.file())
        .line(&format!("aclfile {}", users.display()))
        .start();
    let url = format!("rediss://keyward@localhost:{}/0", redis.tls_port());
    let setup = Setup::to_url(&url)
        .server("watch_interval = \"100ms\"")
        .upstream(&format!("ca_file = {:?}", authority.file()));
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    (redis, setup.start())
}

const BOSS: [&str; 5] = ["upstream", "--as", "boss", "--as-password-file", "-"];

#[test]
fn an_acl_user_is_rotated_over_tls_by_whoever_may() {
    let authority = Authority::new("ca");
    let (redis, keyward) = with_acl_file(&authority);
    let wait = ["(127.0.0.1:"];
    rotate(&keyward, &["upstream"]).is(
        77,
        &[
            "user keyward may not run ACL GETUSER",
            "--as NAME --as-password-file FILE",
        ],
    );
    rotate_with(&keyward, &BOSS, "wrong\n").is(77, &["Redis refuses the password of user boss"]);
    assert_eq!(lines(&keyward), [REDIS_PASSWORD_2]);
    assert!(redis_takes(&redis, "keyward", REDIS_PASSWORD_2));
    let outcome = rotate_with(&keyward, &BOSS, "boss-password-0123456789abcdefghijklmn\n")
        .is(
            0,
            &["did take the old password from user keyward", "(ACL SAVE, which"],
        )
        .is(0, &wait);
    assert!(!outcome.said.contains("boss-password"));
    let new = is_rotated(&keyward, &redis, "keyward", REDIS_PASSWORD_2);
    let saved = std::fs::read_to_string(authority.dir().join("redis-users.acl")).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, new.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = saved
        .lines()
        .find(|line| line.starts_with("user keyward "))
        .unwrap();
    assert!(line.contains(&hex) && line.matches('#').count() == 1, "{line}");
}

/// What Redis and the file can hold between two steps: the file's lines, and Redis's passwords.
const BETWEEN: [(&[&str], &[&str]); 5] = [
    (&[REDIS_PASSWORD], &[REDIS_PASSWORD]),
    (&[NEW, REDIS_PASSWORD], &[REDIS_PASSWORD]),
    (&[NEW, REDIS_PASSWORD], &[REDIS_PASSWORD, NEW]),
    (&[NEW, REDIS_PASSWORD], &[NEW]),
    (&[NEW], &[NEW]),
];

#[test]
fn a_rotation_goes_on_from_every_point_that_a_crash_can_leave() {
    let redis = Redis::with_password().start();
    let boss = [
        "ACL",
        "SETUSER",
        "boss",
        "on",
        ">boss-password-0123456789abcdefghijklmn",
        "~*",
        "&*",
        "+@all",
    ];
    assert_eq!(redis.client().call_args(&boss), "+OK");
    for user in ["default", "keyward"] {
        for (stage, (file, known)) in BETWEEN.into_iter().enumerate() {
            let mut operator = super::Client::unix(&redis.socket());
            assert_eq!(
                operator.call_args(&["AUTH", "boss", "boss-password-0123456789abcdefghijklmn"]),
                "+OK"
            );
            if user == "default" {
                // Drops all the others, as the last step leaves it.
                let first = if known.contains(&REDIS_PASSWORD) {
                    REDIS_PASSWORD
                } else {
                    NEW
                };
                assert_eq!(
                    operator.call_args(&["CONFIG", "SET", "requirepass", first]),
                    "+OK"
                );
            }
            let mut words: Vec<String> = ["ACL", "SETUSER", user, "resetpass", "on", "~*", "&*", "+@all"]
                .map(str::to_owned)
                .to_vec();
            words.extend(known.iter().map(|password| format!(">{password}")));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(operator.call_args(&words), "+OK");
            let setup = setup(&redis).upstream(&format!("username = {user:?}"));
            setup.write("main.redis", &(file.join("\n") + "\n"));
            let keyward = setup.start();
            assert_eq!(keyward.app().call("SET a 1"), "+OK", "{user} {stage}");
            let begun = file.len() == 2;
            let outcome = rotate(
                &keyward,
                if stage == 4 {
                    &["upstream", "--finish"]
                } else {
                    &["upstream"]
                },
            )
            .is(0, &[]);
            assert_eq!(
                outcome.said.contains("has two lines"),
                begun,
                "{user} {stage}: {}",
                outcome.said
            );
            assert_eq!(
                outcome.said.contains("did write"),
                stage == 0,
                "{user} {stage}: {}",
                outcome.said
            );
            assert_eq!(
                outcome.said.contains("did give"),
                stage < 2,
                "{user} {stage}: {}",
                outcome.said
            );
            let new = is_rotated(&keyward, &redis, user, REDIS_PASSWORD);
            assert!(stage == 0 || new == NEW);
        }
    }
}

#[test]
fn killed_after_any_step_it_is_finished_by_the_next_run() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let mut lasting = keyward.app();
    for steps in 1..=7 {
        let old = lines(&keyward)[0].clone();
        let (said, alive) = rotate_and_kill(&keyward, &["upstream"], steps);
        assert!(alive || steps == 7, "{said:?}");
        assert_eq!(
            said.iter().filter(|line| line.starts_with("did ")).count(),
            steps,
            "{said:?}"
        );
        for client in [&mut lasting, &mut keyward.app()] {
            assert_eq!(client.call("SET a 1"), "+OK", "after {said:?}");
        }
        let finished = lines(&keyward).len() == 1;
        rotate(&keyward, &["upstream", "--finish"]).is(
            0,
            &[if finished {
                "nothing to finish"
            } else {
                "this finishes it"
            }],
        );
        // `requirepass` is what the kit logs in with, so Redis is asked by hand.
        let new = lines(&keyward);
        assert_eq!(new.len(), 1);
        assert!(
            redis_takes(&redis, "default", &new[0]) && !redis_takes(&redis, "default", &old),
            "after {said:?}"
        );
        assert_eq!(
            redis_conf(&redis, "requirepass "),
            [format!("requirepass \"{}\"", new[0])]
        );
    }
}

#[test]
fn the_passwords_of_others_for_the_same_user_stay() {
    let redis = Redis::start();
    let others = format!(">{NEW}");
    assert_eq!(
        redis.client().call_args(&["ACL", "SETUSER", "default", &others]),
        "+OK"
    );
    let keyward = setup(&redis).start();
    rotate(&keyward, &["upstream"]).is(0, &["did take the old password from user default"]);
    is_rotated(&keyward, &redis, "default", REDIS_PASSWORD);
    assert!(redis_takes(&redis, "default", NEW));
}

#[test]
fn replicas_are_rotated_with_their_master_or_it_is_said_that_they_are_not() {
    let master = Redis::start_tcp();
    let follow = Redis::with_password()
        .tcp()
        .line(&format!("replicaof 127.0.0.1 {}", master.port()))
        .line(&format!("masterauth {REDIS_PASSWORD}"))
        .start();
    super::super::support::eventually("the replica", || {
        (follow.info("master_link_status") == "up").then_some(())
    });
    let keyward = Setup::to_url(&master.tcp_url())
        .server("watch_interval = \"100ms\"")
        .start();
    rotate(&keyward, &["upstream"]).is(
        1,
        &[
            "replicas are connected (127.0.0.1:",
            "--redis HOST:PORT",
            "nothing was changed",
        ],
    );
    is_as_before(&keyward, &master);
    let address = format!("127.0.0.1:{}", follow.port());
    rotate(&keyward, &["upstream", "--redis", &address]).is(0, &["did put the new password into masterauth"]);
    let new = is_rotated(&keyward, &master, "default", REDIS_PASSWORD);
    assert!(redis_takes(&follow, "default", &new) && !redis_takes(&follow, "default", REDIS_PASSWORD));
    let mut replica = super::Client::unix(&follow.socket());
    assert_eq!(replica.call_args(&["AUTH", &new]), "+OK");
    assert_eq!(
        replica.call("CONFIG GET masterauth"),
        format!("*[$masterauth, ${new}]")
    );
    // Its link is made again with the new one.
    let mut operator = super::Client::unix(&master.socket());
    assert_eq!(operator.call_args(&["AUTH", &new]), "+OK");
    operator.call("CLIENT KILL TYPE replica");
    super::super::support::eventually("the replica's return", || {
        (operator.call("INFO replication").contains("state=online")).then_some(())
    });
}

#[test]
fn the_redis_login_of_a_user_is_rotated_by_its_name() {
    let redis = Redis::start();
    let rules = [
        "ACL",
        "SETUSER",
        "redis-app",
        "on",
        &format!(">{REDIS_PASSWORD_2}"),
        "~*",
        "&*",
        "+@all",
        "-@admin",
    ];
    assert_eq!(redis.client().call_args(&rules), "+OK");
    let setup = setup(&redis);
    let secret = setup.write("app.redis", &format!("{REDIS_PASSWORD_2}\n"));
    let keyward = setup
        .user_line("app", "upstream_username = \"redis-app\"")
        .user_line("app", &format!("upstream_password_file = {secret:?}"))
        .start();
    let file = keyward.setup().write("boss", &format!("{REDIS_PASSWORD}\n"));
    let file = file.display().to_string();
    let args = [
        "upstream",
        "--user",
        "app",
        "--as",
        "default",
        "--as-password-file",
        &file,
    ];
    rotate(&keyward, &args).is(0, &["did take the old password from user redis-app"]);
    let text = std::fs::read_to_string(&secret).unwrap();
    assert!(
        redis_takes(&redis, "redis-app", text.trim()) && !redis_takes(&redis, "redis-app", REDIS_PASSWORD_2)
    );
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    is_as_before(&keyward, &redis);
    // Two users of Redis cannot be told apart by one file.
    replace(&secret, &format!("{REDIS_PASSWORD}\n"), 0o600);
}
