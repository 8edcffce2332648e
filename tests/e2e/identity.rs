//! Who a client is without a password: certificates and users of the host; `WHOAMI`.

use std::sync::Arc;

use rustls::ClientConfig;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Client;
use super::support::Identity;
use super::support::Keyward;
use super::support::ROOT_PASSWORD;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::certs::Wish;
use super::support::words;

/// A listener that knows clients by certificates: `web` and `batch` by certificate alone, `both` with a password as well,
/// `app` and `root` by password as ever.
struct Stage {
    ca: Authority,
    clients: Authority,
    redis: Redis,
}

const NOT_MAPPED: &str = "-NOAUTH keyward: the client certificate belongs to no user here";

impl Stage {
    fn new() -> Self {
        Self {
            ca: Authority::new("ca"),
            clients: Authority::new("clients"),
            redis: Redis::start(),
        }
    }

    fn setup(&self, mode: &str, more: &str) -> Setup {
        let more = format!(
            ", client_ca_file = {:?}, client_certificates = \"{mode}\"{more}",
            self.clients.file()
        );
        Setup::new(&self.redis)
            .tls(&self.ca.server("server"), &more)
            .bare_user(
                "web",
                &[
                    "certificate_uris = [\"spiffe://prod/web\"]",
                    "certificate_dns_names = [\"web.test\"]",
                    "acl = \"+@all -flushall ~* &*\"",
                ],
            )
            .bare_user(
                "batch",
                &[
                    "certificate_common_name = \"batch\"",
                    "acl = \"+@read +ping +acl|whoami ~* &*\"",
                ],
            )
            .user("both", ROOT_PASSWORD, "certificate_dns_names = [\"both.test\"]")
            .user_line("both", "certificate_required = true")
    }

    fn config(&self, identity: &Identity) -> Arc<ClientConfig> {
        self.ca.client_config(Some(identity))
    }

    fn connect(&self, keyward: &Keyward, wish: Wish<'_>) -> Client {
        let config = self.config(&self.clients.issue(wish));
        Client::tls(keyward.address(), &config).unwrap()
    }

    fn web(&self) -> Identity {
        self.clients.issue(Wish::client("any").names(&["web.test"]))
    }
}

fn failures(keyward: &Keyward, user: &str, reason: &str, count: f64) {
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", user), ("reason", reason)],
        count,
    );
}

#[test]
fn a_certificate_is_the_user_that_its_name_belongs_to() {
    let stage = Stage::new();
    let keyward = stage.setup("required", "").start();
    let wishes = [
        ("web", Wish::client("x").names(&["web.test"])),
        ("web", Wish::client("x").names(&[]).uris(&["spiffe://prod/web"])),
        ("web", Wish::client("x").names(&["other.test", "web.test"])),
        (
            "web",
            Wish::client("x")
                .names(&["web.test"])
                .uris(&["spiffe://prod/web"]),
        ),
        ("batch", Wish::client("batch").names(&[])),
        ("batch", Wish::client("batch").names(&["other.test"]).any_usage()),
    ];
    let count = wishes.len();
    for (user, wish) in wishes {
        let mut client = stage.connect(&keyward, wish);
        assert_eq!(client.call("ACL WHOAMI"), format!("${user}"));
        // Its rules are in force, and only its own.
        let set = client.call("SET k v");
        assert_eq!(set == "+OK", user == "web", "{user}: {set}");
        assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
    }
    keyward.wait_metric(
        "keyward_auth_attempts_total",
        &[("method", "client_cert")],
        count as f64,
    );
    keyward.wait_metric("keyward_connections_unauthenticated", &[], 0.0);
    assert_eq!(keyward.metric("keyward_auth_failures_total", &[]), 0.0);
}

#[test]
fn every_connection_with_a_certificate_is_verified_anew_in_both_versions() {
    // a resumed session would be accepted without a look at the certificate.
    let stage = Stage::new();
    let keyward = stage.setup("optional", "").start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = stage.ca.client_config_for(Some(&stage.web()), &[version]);
        for _ in 0..3 {
            let mut client = Client::tls(keyward.address(), &config).unwrap();
            assert_eq!(client.call("ACL WHOAMI"), "$web");
            let kind = client.tls_session().handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{:?}", version.version);
        }
    }
}

#[test]
fn a_certificate_that_is_not_exactly_one_users_is_sent_away() {
    let stage = Stage::new();
    let keyward = stage.setup("required", "").start();
    let wishes = [
        ("no name of ours", Wish::client("x").names(&["other.test"])),
        ("case", Wish::client("x").names(&["Web.test"])),
        (
            "a part",
            Wish::client("x").names(&["a.web.test", "web.test.evil", "eb.test"]),
        ),
        ("a wildcard", Wish::client("x").names(&["*.test"])),
        ("a NUL", Wish::client("x").names(&["web.test\0.evil"])),
        ("a NUL beside it", Wish::client("x").names(&["web.test", "x\0"])),
        (
            "a NUL in a URI",
            Wish::client("x").names(&[]).uris(&["spiffe://prod/web\0"]),
        ),
        (
            "a NUL in the common name",
            Wish::client("x").names(&[]).common_names(&["batch\0"]),
        ),
        ("another kind", Wish::client("web.test").names(&["batch"])),
        ("two users", Wish::client("batch").names(&["web.test"])),
        (
            "two users by DNS",
            Wish::client("x").names(&["web.test", "both.test"]),
        ),
    ];
    let count = wishes.len();
    for (what, wish) in wishes {
        let mut client = stage.connect(&keyward, wish);
        assert_eq!(client.reply(), NOT_MAPPED, "{what}");
        client.expect_closed();
    }
    failures(&keyward, "", "client_cert_not_mapped", count as f64);
    let line = keyward.wait_event("auth_failed");
    assert_eq!(line["reason"], "client_cert_not_mapped");
    assert_eq!(
        keyward.metric("keyward_upstream_connects_total", &[]),
        1.0,
        "the health check's"
    );
}

#[test]
fn what_is_not_verified_is_nobody() {
    let stage = Stage::new();
    let stranger = Authority::new("stranger");
    let revoked = stage.web();
    let list = stage.clients.revocation_list(&[&revoked]);
    let keyward = stage
        .setup("required", &format!(", client_crl_file = {list:?}"))
        .start();
    let wish = || Wish::client("x").names(&["web.test"]);
    let bad = [
        ("another authority", Some(stranger.issue(wish()))),
        ("expired", Some(stage.clients.issue(wish().expired()))),
        ("revoked", Some(revoked)),
        ("self-signed", Some(stage.clients.self_signed(wish()))),
        (
            "a server's",
            Some(stage.clients.issue(Wish::server("x").names(&["web.test"]))),
        ),
        ("none", None),
    ];
    for (what, identity) in &bad {
        let config = stage.ca.client_config(identity.as_ref());
        let refused = match Client::tls(keyward.address(), &config) {
            Err(_) => true,
            Ok(mut client) => client.try_send(&words("PING")).is_err() || client.try_value().is_err(),
        };
        assert!(refused, "{what}");
    }
    failures(&keyward, "", "client_cert_missing", 1.0);
    failures(&keyward, "", "client_cert_expired", 1.0);
    failures(&keyward, "", "client_cert_revoked", 1.0);
    failures(&keyward, "", "client_cert_untrusted", 3.0);
    assert_eq!(stage.connect(&keyward, wish()).call("ACL WHOAMI"), "$web");
}

#[test]
fn passwords_do_not_reach_a_user_that_needs_a_certificate() {
    let stage = Stage::new();
    let keyward = stage.setup("optional", "").start();
    let bare = || Client::tls(keyward.address(), &stage.ca.client_config(None)).unwrap();
    // certificate-only users have no password, whatever is tried.
    for password in ["", WRONG_PASSWORD, "web"] {
        let reply = bare().call_args(&["AUTH", "web", password]);
        assert!(reply.starts_with("-WRONGPASS "), "{reply}");
    }
    failures(&keyward, "web", "bad_password", 3.0);
    // Both are needed.
    let reply = bare().call_args(&["AUTH", "both", ROOT_PASSWORD]);
    assert!(reply.starts_with("-WRONGPASS "), "{reply}");
    let mut other = stage.connect(&keyward, Wish::client("x").names(&["web.test"]));
    let reply = other.call_args(&["AUTH", "both", ROOT_PASSWORD]);
    assert!(reply.starts_with("-WRONGPASS "), "{reply}");
    assert_eq!(other.call("ACL WHOAMI"), "$web", "it stays who it is");
    failures(&keyward, "both", "client_cert_mismatch", 2.0);
    let mut own = stage.connect(&keyward, Wish::client("x").names(&["both.test"]));
    assert_eq!(own.call("PING"), "-NOAUTH Authentication required.");
    assert!(
        own.call_args(&["AUTH", "both", WRONG_PASSWORD])
            .starts_with("-WRONGPASS ")
    );
    let mut own = own.login("both", ROOT_PASSWORD);
    assert_eq!(own.call("ACL WHOAMI"), "$both");
    // Without a certificate the others log in as ever.
    assert_eq!(bare().login("app", APP_PASSWORD).call("ACL WHOAMI"), "$app");
}

#[test]
fn auth_makes_it_another_user_and_reset_takes_it_back() {
    let stage = Stage::new();
    let keyward = stage.setup("required", "").start();
    let config = stage.config(&stage.web());
    let mut client = Client::tls(keyward.address(), &config)
        .unwrap()
        .login("app", APP_PASSWORD);
    assert_eq!(client.call("ACL WHOAMI"), "$app");
    assert!(client.call("KEYS *").starts_with("-NOPERM "), "the rules of app");
    assert_eq!(client.call("RESET"), "+RESET");
    assert_eq!(client.call("ACL WHOAMI"), "$web");
    assert_eq!(client.call("KEYS nothing"), "*[]");
    assert_eq!(
        client.call("HELLO 3 AUTH app x").split(' ').next(),
        Some("-WRONGPASS")
    );
    assert_eq!(client.call("ACL WHOAMI"), "$web");
}

#[test]
fn the_limit_of_a_user_holds_for_certificates() {
    let stage = Stage::new();
    let keyward = stage
        .setup("required", "")
        .user_line("web", "max_connections = 1")
        .start();
    let config = stage.config(&stage.web());
    let mut first = Client::tls(keyward.address(), &config).unwrap();
    assert_eq!(first.call("PING"), "+PONG");
    let mut second = Client::tls(keyward.address(), &config).unwrap();
    assert!(second.reply().starts_with("-ERR "));
    second.expect_closed();
    drop(first);
    keyward.wait_metric("keyward_connections_open", &[], 0.0);
    assert_eq!(
        Client::tls(keyward.address(), &config).unwrap().call("PING"),
        "+PONG"
    );
}

#[test]
fn a_reload_ends_sessions_whose_certificate_is_revoked_or_not_theirs_any_more() {
    let stage = Stage::new();
    let (revoked, spared) = (stage.web(), stage.web());
    let batch = stage.clients.issue(Wish::client("batch").names(&[]));
    let list = stage.clients.revocation_list(&[]);
    let setup = stage.setup("required", &format!(", client_crl_file = {list:?}"));
    let keyward = setup.start();
    let connect = |identity: &Identity| Client::tls(keyward.address(), &stage.config(identity)).unwrap();
    let mut gone = connect(&revoked);
    let mut gone_as_app = connect(&revoked).login("app", APP_PASSWORD);
    let (mut stays, mut other) = (connect(&spared), connect(&batch));
    for client in [&mut gone, &mut gone_as_app, &mut stays, &mut other] {
        assert_eq!(client.call("PING"), "+PONG");
    }
    stage.clients.revocation_list(&[&revoked]);
    keyward.reload();
    gone.expect_closed();
    gone_as_app.expect_closed();
    assert_eq!(stays.call("PING"), "+PONG");
    assert_eq!(other.call("PING"), "+PONG");
    let closed = [("reason", "credential_removed")];
    keyward.wait_metric("keyward_connections_closed_total", &closed, 2.0);
    // The name is another's now: who was known by it has to go, also who has logged in as somebody else meanwhile and
    // would come back to it by RESET.
    let mut as_app = connect(&spared).login("app", APP_PASSWORD);
    let text = std::fs::read_to_string(keyward.setup().config_file()).unwrap();
    let text = text.replace("[\"web.test\"]", "[\"other.test\"]");
    std::fs::write(keyward.setup().config_file(), text).unwrap();
    keyward.reload();
    stays.expect_closed();
    as_app.expect_closed();
    assert_eq!(other.call("PING"), "+PONG");
    keyward.wait_metric("keyward_connections_closed_total", &closed, 4.0);
}

#[test]
fn the_whole_chain_is_looked_up_in_the_revocation_lists() {
    let stage = Stage::new();
    let below = stage.clients.intermediate("below");
    let identity = below.issue(Wish::client("x").names(&["web.test"]));
    let file = stage.clients.dir().join("lists.pem");
    let (own, above) = (below.list_with_intermediate(None), |revoked| {
        stage.clients.list_with_intermediate(revoked)
    });
    std::fs::write(&file, format!("{own}{}", above(None))).unwrap();
    let keyward = stage
        .setup("required", &format!(", client_crl_file = {file:?}"))
        .start();
    let config = stage.config(&identity);
    let mut client = Client::tls(keyward.address(), &config).unwrap();
    assert_eq!(client.call("ACL WHOAMI"), "$web");
    // The certificate of its issuer is revoked.
    std::fs::write(&file, format!("{own}{}", above(Some("below")))).unwrap();
    keyward.reload();
    client.expect_closed();
    let refused = || match Client::tls(keyward.address(), &config) {
        Err(_) => true,
        Ok(mut client) => client.try_send(&words("PING")).is_err() || client.try_value().is_err(),
    };
    assert!(refused());
    failures(&keyward, "", "client_cert_revoked", 1.0);
    // Nobody says whether it is revoked.
    std::fs::write(&file, above(None)).unwrap();
    keyward.reload();
    assert!(refused());
    failures(&keyward, "", "client_cert_untrusted", 1.0);
}

#[test]
fn a_reload_that_verifies_no_certificates_or_others_ends_those_that_were_known_by_one() {
    let stage = Stage::new();
    let next = Authority::new("next");
    let ca_file = stage.clients.file();
    let to_other_ca = |text: String| {
        let now = format!("client_ca_file = {ca_file:?}");
        assert!(text.contains(&now));
        text.replace(&now, &format!("client_ca_file = {:?}", next.file()))
    };
    let to_none = |text: String| {
        let now = format!(", client_ca_file = {ca_file:?}, client_certificates = \"optional\"");
        assert!(text.contains(&now));
        text.replace(&now, "")
    };
    let changes: [(&dyn Fn(String) -> String, bool); 2] = [(&to_other_ca, false), (&to_none, true)];
    for (change, password_stays) in changes {
        // That nobody asks for certificates any more is worth a warning at the reload.
        let keyward = stage
            .setup("optional", "")
            .expect("configuration_warning")
            .start();
        let config = stage.config(&stage.web());
        let mut known = Client::tls(keyward.address(), &config).unwrap();
        assert_eq!(known.call("PING"), "+PONG");
        let mut by_password = Client::tls(keyward.address(), &config)
            .unwrap()
            .login("app", APP_PASSWORD);
        assert_eq!(by_password.call("PING"), "+PONG");
        let mut bare = Client::tls(keyward.address(), &stage.ca.client_config(None))
            .unwrap()
            .login("app", APP_PASSWORD);
        let text = std::fs::read_to_string(keyward.setup().config_file()).unwrap();
        keyward.overwrite_config(&change(text));
        keyward.reload();
        known.expect_closed();
        if password_stays {
            assert_eq!(by_password.call("PING"), "+PONG");
        } else {
            by_password.expect_closed();
        }
        assert_eq!(bare.call("PING"), "+PONG");
    }
}

#[test]
fn a_process_is_the_user_that_its_user_of_the_host_belongs_to() {
    use std::os::unix::fs::MetadataExt;
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let me = dir.path().metadata().unwrap().uid();
    let socket = dir.path().join("s");
    let setup = |line: &str| {
        Setup::new(&redis)
            .listener(&format!("address = \"unix:{}\"", socket.display()))
            .bare_user("local", &[line, "acl = \"+@read +ping +acl|whoami ~* &*\""])
    };
    let keyward = setup(&format!("unix_users = [{me}]")).start();
    let mut client = Client::unix(&socket);
    assert_eq!(client.call("ACL WHOAMI"), "$local");
    assert!(client.call("SET a 1").starts_with("-NOPERM "));
    assert!(
        client
            .call_args(&["AUTH", "local", WRONG_PASSWORD])
            .starts_with("-WRONGPASS ")
    );
    let mut client = client.login("app", APP_PASSWORD);
    assert_eq!(client.call("ACL WHOAMI"), "$app");
    keyward.wait_metric("keyward_auth_attempts_total", &[("method", "unix_user")], 1.0);
    drop(keyward);
    // Another user of the host is a client like any other.
    let _keyward = setup(&format!("unix_users = [{}]", me + 1)).start();
    let mut client = Client::unix(&socket);
    assert_eq!(client.call("PING"), "-NOAUTH Authentication required.");
    assert_eq!(client.login("app", APP_PASSWORD).call("PING"), "+PONG");
}

#[test]
fn whoami_tells_the_clients_own_name_and_what_it_may_do() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).start();
    let mut stranger = keyward.connect();
    assert!(
        stranger
            .call("KEYWARD WHOAMI")
            .starts_with("-ERR unknown command")
    );
    assert_eq!(stranger.call("ACL WHOAMI"), "-NOAUTH Authentication required.");
    let mut client = keyward.connect().login("app", APP_PASSWORD);
    assert_eq!(client.call("ACL WHOAMI"), "$app");
    let reply = client.call("keyward whoami");
    let begin = "*[$user, $app, $identified-by, $password 1, $listener, $main, $rule, $user app safe on ";
    assert!(reply.starts_with(begin), "{reply}");
    assert!(!reply.contains('#'), "no digest: {reply}");
    assert!(client.call("HELLO 3").starts_with('%'));
    assert!(client.call("KEYWARD WHOAMI").starts_with("%{$user: $app, "));
    assert!(
        client
            .call("KEYWARD")
            .starts_with("-ERR wrong number of arguments")
    );
    assert!(client.call("KEYWARD NOPE").starts_with("-ERR unknown subcommand"));
    assert!(client.call("KEYWARD WHOAMI x").starts_with("-ERR wrong number"));
    // Answers keep their place, and a transaction cannot hold one of ours.
    client.send(&super::support::pipeline(&[
        "SET a 1",
        "ACL WHOAMI",
        "GET a",
        "KEYWARD WHOAMI",
        "PING",
    ]));
    let replies = client.replies(5);
    assert_eq!(
        (&*replies[0], &*replies[1], &*replies[2], &*replies[4]),
        ("+OK", "$app", "$1", "+PONG")
    );
    assert_eq!(client.call("MULTI"), "+OK");
    assert!(client.call("ACL WHOAMI").contains("not allowed inside MULTI"));
    assert!(client.call("EXEC").starts_with("-EXECABORT"));
    // Only where the rules allow it, as in Redis.
    let keyward = Setup::new(&redis)
        .user("app", APP_PASSWORD, "acl = \"+@read ~* &*\"")
        .start();
    let mut client = keyward.connect().login("app", APP_PASSWORD);
    assert!(client.call("ACL WHOAMI").starts_with("-NOPERM "));
    assert!(client.call("KEYWARD WHOAMI").starts_with("*[$user, $app, "));
}

#[test]
fn two_users_of_one_certificate_are_refused_at_start_with_both_names() {
    let stage = Stage::new();
    let cases = [
        (
            stage
                .setup("required", "")
                .bare_user("other", &["certificate_dns_names = [\"web.test\"]"]),
            vec!["\"web\"", "\"other\"", "certificate_dns_names"],
        ),
        (
            stage
                .setup("required", "")
                .user_line("both", "certificate_required = unset"),
            vec!["certificate_required"],
        ),
        (
            stage.setup("required", "").bare_user(
                "any",
                &["certificate_uris = [\"spiffe://x/y\"]", "acl = \"+@all nopass\""],
            ),
            vec!["nopass"],
        ),
        (
            stage
                .setup("required", "")
                .bare_user("any", &["certificate_dns_names = [\"*.test\"]"]),
            vec!["wildcard"],
        ),
        (
            stage
                .setup("required", "")
                .bare_user("any", &["certificate_required = true"]),
            vec!["no certificate belongs to"],
        ),
        (
            Setup::new(&stage.redis)
                .bare_user("one", &["unix_users = [7]"])
                .bare_user("two", &["unix_users = [8, 7]"]),
            vec!["\"one\"", "\"two\"", "unix_users"],
        ),
        (
            Setup::new(&stage.redis).bare_user("one", &["unix_users = [\"no-such-user-here\"]"]),
            vec!["no-such-user-here"],
        ),
    ];
    for (setup, wanted) in cases {
        let (code, text) = setup.refuse();
        assert_eq!(code, 78, "{text}");
        for word in wanted {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

/// A session that changes threads keeps its own login at Redis.
#[test]
fn a_session_that_changes_workers_is_the_same_user_of_redis() {
    if !super::support::keyward::sharing() {
        return;
    }
    let redis = Redis::start();
    let secret = "redis-side-secret-0fYq7ZbT3mKx9LwPvRj2";
    let made = redis.client().call_args(&[
        "ACL",
        "SETUSER",
        "tenant",
        "on",
        &format!(">{secret}"),
        "~*",
        "&*",
        "+@all",
    ]);
    assert_eq!(made, "+OK");
    let setup = Setup::new(&redis)
        .server("workers = 3")
        .server("worker_busy_percent = 1");
    let file = setup.write("tenant.redis", &format!("{secret}\n"));
    let keyward = setup
        .user(
            "tenant",
            super::support::APP_PASSWORD_2,
            &format!(
                "acl = \"safe\"\nupstream_username = \"tenant\"\nupstream_password_file = \"{}\"",
                file.display()
            ),
        )
        .start();
    let clients: Vec<_> = (0..12)
        .map(|number| {
            let mut client = keyward.connect();
            assert_eq!(
                client.call_args(&["AUTH", "tenant", super::support::APP_PASSWORD_2]),
                "+OK"
            );
            std::thread::spawn(move || {
                for count in 1..=2_000_u32 {
                    assert_eq!(client.call(&format!("INCR n-{number}")), format!(":{count}"));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert!(keyward.metric("keyward_sessions_moved_total", &[]) > 0.0);
    let list = redis.client().call("CLIENT LIST");
    let busy = |user: &str| {
        list.lines()
            .filter(|line| line.contains(&format!("user={user} ")) && line.contains("cmd=incr"))
            .count()
    };
    assert!(busy("tenant") > 0, "{list}");
    assert_eq!(busy("default"), 0, "{list}");
}
