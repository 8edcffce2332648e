//! The password of a client.

use super::super::support::APP_PASSWORD;
use super::super::support::APP_PASSWORD_2;
use super::super::support::Client;
use super::super::support::Keyward;
use super::super::support::Redis;
use super::super::support::eventually;
use super::rotate;
use super::rotate_and_kill;
use super::rotate_and_kill_when_printed;
use super::setup;

const OLDER: [(&str, &str); 2] = [("user", "app"), ("credential", "older")];
const CURRENT: [(&str, &str); 2] = [("user", "app"), ("credential", "current")];

/// The password in the URL that was printed.
fn password_of(url: &str, start: &str) -> String {
    let rest = url
        .strip_prefix(start)
        .unwrap_or_else(|| panic!("{url:?} does not begin with {start:?}"));
    let (password, place) = rest.split_once('@').unwrap();
    assert!(
        place.ends_with('\n') && place.matches('\n').count() == 1,
        "one line"
    );
    password.to_owned()
}

fn can_log_in(keyward: &Keyward, password: &str) -> bool {
    keyward.connect().call_args(&["AUTH", "app", password]) == "+OK"
}

/// From one password to the next: what all ways of keeping them have in common.
fn rotate_whole(keyward: &Keyward, old: &str) {
    let mut before = keyward.connect().login("app", old);
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 1.0);
    let outcome = rotate(keyward, &["user", "app", "--host", "keyward.test:6380"])
        .is(0, &["both passwords of user app are good"]);
    let new = password_of(&outcome.out, "redis://app:");
    assert!(outcome.out.ends_with("@keyward.test:6380\n"));
    assert!(!outcome.said.contains(&new) && !keyward.text().contains(&new));
    // What was the one in force is an older one now, for those who are there as for those who come.
    keyward.wait_metric("keyward_password_sessions_open", &OLDER, 1.0);
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 0.0);
    assert_eq!(before.call("SET a 1"), "+OK");
    assert!(can_log_in(keyward, &new) && can_log_in(keyward, old));
    assert_eq!(keyward.metric("keyward_password_logins_total", &OLDER), 1.0);
    let event = keyward.wait_event("older_password_used");
    assert_eq!(
        (event["user"].as_str(), event["credential"].as_u64()),
        (Some("app"), Some(2))
    );
    assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.1:"));

    rotate(keyward, &["user", "app"]).is(1, &["a rotation is under way", "--finish", "--undo"]);
    rotate(keyward, &["user", "app", "--finish", "--unused-for", "0s"])
        .is(1, &["1 sessions at listener main", "is in use, so it stays"]);
    drop(before);
    keyward.wait_metric("keyward_password_sessions_open", &OLDER, 0.0);
    rotate(keyward, &["user", "app", "--finish"]).is(
        1,
        &[
            "ago somebody logged in with it",
            "--unused-for is 1h",
            "has not been unused for long enough, so it stays",
        ],
    );
    rotate(
        keyward,
        &["user", "app", "--finish", "--unused-for", "1ms", "--dry-run"],
    )
    .is(0, &["would take the old password"]);
    assert!(can_log_in(keyward, old));
    keyward.wait_metric("keyward_password_sessions_open", &OLDER, 0.0);
    eventually("an old password that nobody uses", || {
        (rotate(keyward, &["user", "app", "--finish", "--unused-for", "1ms"]).code == 0).then_some(())
    });
    assert!(can_log_in(keyward, &new) && !can_log_in(keyward, old));
    rotate(keyward, &["user", "app", "--finish"]).is(0, &["no rotation is under way"]);
}

#[test]
fn a_password_file_is_rotated_and_shows_who_uses_the_old_one() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    rotate_whole(&keyward, APP_PASSWORD);
    let text = std::fs::read_to_string(keyward.setup().dir().join("app.secret")).unwrap();
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn an_acl_file_is_rotated_and_keeps_every_other_byte() {
    let redis = Redis::start();
    let setup = setup(&redis).without_user("app");
    let text = format!(
        " user app on  >{APP_PASSWORD}  ~* &* (%R~x:* +get)  +@all -@dangerous \n\nuser other on >{APP_PASSWORD_2} ~o:* +get\n"
    );
    let file = setup.write("users.acl", &text);
    let keyward = setup.listener(&format!("users_file = {file:?}")).start();
    rotate_whole(&keyward, APP_PASSWORD);
    let after = std::fs::read_to_string(&file).unwrap();
    let start = after.find('#').unwrap();
    assert_eq!(
        after.replace(&after[start..start + 65], &format!(">{APP_PASSWORD}")),
        text
    );
    assert_eq!(
        keyward.connect().call_args(&["AUTH", "other", APP_PASSWORD_2]),
        "+OK"
    );
}

#[test]
fn what_nobody_got_is_taken_back_and_what_is_used_is_not() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let dry = rotate(&keyward, &["user", "app", "--dry-run"]).is(0, &["would print the new URL"]);
    assert_eq!(dry.out, "");
    let file = keyward.setup().dir().join("app.secret");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        format!("{APP_PASSWORD}\n")
    );
    let new = rotate(&keyward, &["user", "app"]).is(0, &["--host"]);
    let new = password_of(&new.out, "redis://app:");
    let user = keyward.connect().login("app", &new);
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 1.0);
    rotate(&keyward, &["user", "app", "--undo"]).is(1, &["the new password of user app is in use"]);
    let mut user = user;
    rotate(&keyward, &["user", "app", "--undo", "--force"]).is(0, &["did take the new password"]);
    user.expect_closed();
    assert!(can_log_in(&keyward, APP_PASSWORD) && !can_log_in(&keyward, &new));
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        format!("{APP_PASSWORD}\n")
    );
}

/// A Keyward whose user `app` stands in a table with a password file, and one whose `app` stands in an ACL file.
fn both_ways(redis: &Redis) -> [Keyward; 2] {
    let in_acl_file = setup(redis).without_user("app");
    let file = in_acl_file.write(
        "users.acl",
        &format!("user app on >{APP_PASSWORD} ~* &* +@all -@dangerous\n"),
    );
    [
        setup(redis).start(),
        in_acl_file.listener(&format!("users_file = {file:?}")).start(),
    ]
}

#[test]
fn killed_after_any_step_it_is_taken_back_or_finished_by_the_next_run() {
    let redis = Redis::start();
    for keyward in both_ways(&redis) {
        // The URL reached nobody: of an ACL file it cannot be had again, so the way is back and anew.
        rotate_and_kill(&keyward, &["user", "app"], 1);
        assert!(can_log_in(&keyward, APP_PASSWORD));
        rotate(&keyward, &["user", "app"]).is(1, &["a rotation is under way", "--undo"]);
        rotate(&keyward, &["user", "app", "--undo"]).is(0, &["did take the new password"]);
        assert!(can_log_in(&keyward, APP_PASSWORD));
        rotate(&keyward, &["user", "app", "--undo"]).is(0, &["no rotation is under way"]);

        // Whoever has read the URL has a password that is written already, and so good within a moment.
        let url = rotate_and_kill_when_printed(&keyward, &["user", "app"]);
        let new = password_of(&url, "redis://app:");
        eventually("the new password", || can_log_in(&keyward, &new).then_some(()));
        assert!(can_log_in(&keyward, APP_PASSWORD));

        let finish = ["user", "app", "--finish", "--force"];
        rotate_and_kill(&keyward, &finish, 1);
        rotate(&keyward, &finish).is(0, &["no rotation is under way"]);
        eventually("the end of the old password", || {
            (!can_log_in(&keyward, APP_PASSWORD)).then_some(())
        });
        assert!(can_log_in(&keyward, &new));
    }
}

#[test]
fn sessions_that_log_in_anew_or_reset_are_counted_once() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    keyward
        .setup()
        .write("app.secret", &format!("{APP_PASSWORD_2}\n{APP_PASSWORD}\n"));
    eventually("both passwords", || {
        can_log_in(&keyward, APP_PASSWORD_2).then_some(())
    });
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 0.0);
    let mut client: Client = keyward.connect().login("app", APP_PASSWORD);
    keyward.wait_metric("keyward_password_sessions_open", &OLDER, 1.0);
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD_2]), "+OK");
    keyward.wait_metric("keyward_password_sessions_open", &OLDER, 0.0);
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 1.0);
    assert_eq!(client.call("RESET"), "+RESET");
    keyward.wait_metric("keyward_password_sessions_open", &CURRENT, 0.0);
}

#[test]
fn digests_in_the_configuration_are_for_the_operator_to_change() {
    let redis = Redis::start();
    let digest = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";
    let hashes = format!("password_hashes = [\"sha256:{digest}\"]");
    let keyward = setup(&redis).bare_user("app", &[&hashes]).start();
    let outcome = rotate(&keyward, &["user", "app"]).is(
        78,
        &[
            "(password_hashes)",
            "keyward hash-password < FILE",
            "Nothing was changed",
        ],
    );
    assert!(outcome.out.is_empty() && !outcome.said.contains(digest));
}

#[test]
fn the_password_of_the_file_is_the_one_in_force_beside_digests_in_the_configuration() {
    let redis = Redis::start();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, APP_PASSWORD_2.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let keyward = setup(&redis)
        .user_line("app", &format!("password_hashes = [\"sha256:{hex}\"]"))
        .start();
    let _one = keyward.connect().login("app", APP_PASSWORD);
    keyward.wait_metric("keyward_password_logins_total", &CURRENT, 1.0);
    let _other = keyward.connect().login("app", APP_PASSWORD_2);
    keyward.wait_metric("keyward_password_logins_total", &OLDER, 1.0);
    let event = keyward.wait_event("older_password_used");
    assert_eq!(event["credential"], 2);
    assert_eq!(
        keyward.metric(
            "keyward_older_password_last_used_timestamp_seconds",
            &[("user", "root")]
        ),
        0.0
    );
}
