//! `[[upstream]]` tables.

use std::path::PathBuf;

use super::address::is_loopback_host;
use super::code;
use super::context::{Context, Place};
use super::files::{self, Content};
use super::load::{Checked, MOST_CONNECTIONS, seconds, to_u64, to_usize};
use super::raw::{Given, Table};
use super::url::{RedactedUrl, RedisUrl};
use super::user::{PASSWORD_KEYS, credential_source, duplicates, name, name_or, usable};
use super::{CertificateFiles, CredentialSource, Upstream, UpstreamAddress, UpstreamPool, UpstreamTls};
use crate::config::context::Message;

/// Checks every table.
pub(super) fn check_all(context: &mut Context<'_>, tables: &[Table]) -> Vec<Checked<Upstream>> {
    duplicates(context, tables, "upstream");
    tables.iter().map(|table| check(context, table)).collect()
}

fn check(context: &mut Context<'_>, table: &Table) -> Checked<Upstream> {
    let name = name(context, table, "upstream");
    let url = url(context, table);
    let place = table.place_of("url");
    let username = username(context, table, url.as_ref());
    let credential = credential(context, table, url.as_ref());
    let credential = usable(context, table, credential, "Keyward", PASSWORD_KEYS);
    if let Ok(Some(source)) = &credential {
        warn_environment(context, table, source);
    }
    if username.is_some() && matches!(credential, Ok(None)) {
        context
            .error(
                code::NO_PASSWORD,
                &table.place_of("username"),
                "a user name without a password",
            )
            .help("add password_file or password_env (or REDIS_PASSWORD_FILE), or leave the user name out");
    }
    let tls = tls(context, table, url.as_ref());
    let limits = (std::time::Duration::from_millis(10), seconds(300));
    let connect_timeout = context.duration(table, "connect_timeout", seconds(2), limits);
    let auth_timeout = context.duration(table, "auth_timeout", seconds(2), limits);
    let pool = pool(context, table);
    let require_least_privilege = context.boolean(table, "require_least_privilege", false).value;
    let unsafe_plaintext = context.boolean(table, "unsafe_plaintext", false);
    if let Some(url) = &url
        && let (false, UpstreamAddress::Tcp { host, .. }) = (url.tls, &url.address)
        && !is_loopback_host(host)
    {
        plaintext(context, table, &place, unsafe_plaintext.value);
    }
    let sound = name.is_some() && url.is_some() && credential.is_ok() && tls.is_some();
    let (address, database) = match url {
        Some(url) => (url.address, url.database),
        // No listener has this address.
        None => (UpstreamAddress::Unix(PathBuf::new()), 0),
    };
    let value = Upstream {
        name: name_or(name, table),
        address,
        database,
        username,
        credential: credential.unwrap_or_default(),
        tls: tls.unwrap_or_default(),
        connect_timeout,
        auth_timeout,
        pool,
        require_least_privilege,
    };
    Checked { value, sound }
}

/// How many connections there may be, and which are kept ready.
fn pool(context: &mut Context<'_>, table: &Table) -> UpstreamPool {
    let default = UpstreamPool::default();
    let max_connections = context.integer_or(
        table,
        "max_connections",
        to_u64(default.max_connections),
        (1, MOST_CONNECTIONS),
    );
    let waits = (std::time::Duration::from_millis(10), seconds(300));
    let wait_timeout = context.duration(table, "wait_timeout", default.wait_timeout, waits);
    let most = (0, MOST_IDLE);
    let min = context.integer_or(table, "pool_min", to_u64(default.min), most);
    let max = context.integer_or(table, "pool_max", to_u64(default.max).max(min), most);
    if min > max {
        context
            .error(
                code::RANGE,
                &table.place_of("pool_min"),
                "`pool_min` is more than `pool_max`",
            )
            .label(format!("pool_max is {max}"))
            .help("raise pool_max, or lower pool_min");
    }
    let idle = (seconds(1), seconds(86_400));
    UpstreamPool {
        max_connections: to_usize(max_connections),
        wait_timeout,
        min: to_usize(min),
        max: to_usize(max),
        idle_time: context.duration(table, "pool_idle_time", default.idle_time, idle),
    }
}

/// Rule T-4: the password and the data cross a network in the clear only when that is said in words.
fn plaintext(context: &mut Context<'_>, table: &Table, place: &Place, allowed: bool) {
    let title = table.title.clone();
    if allowed {
        let message = format!("{title} is reached in plaintext: the network reads the password and the data");
        context
            .warning(code::PLAINTEXT, place, message)
            .help("use rediss:// as soon as Redis has TLS");
        return;
    }
    let way_out = match place {
        Place::Environment(_) => "KEYWARD_UNSAFE_PLAINTEXT=upstream",
        _ => "unsafe_plaintext = true",
    };
    context
        .error(
            code::PLAINTEXT,
            place,
            format!("{title} would be reached in plaintext beyond this host"),
        )
        .label("the network could read the password and the data")
        .help(format!("use rediss:// (TLS); or accept it in words: {way_out}"));
}

fn url(context: &mut Context<'_>, table: &Table) -> Option<RedisUrl> {
    let Some(given) = context.text_unrecorded(table, "url") else {
        context.required(table, "url");
        return None;
    };
    let secret_place = match &given.place {
        Place::File(span) => Place::Secret(span.clone()),
        other => other.clone(),
    };
    let url = match RedisUrl::parse(given.value.trim()) {
        Ok(url) => url,
        Err(error) => {
            // A URL without `@` has no user information, and the line helps.
            let place = if given.value.contains('@') {
                secret_place
            } else {
                given.place
            };
            context
                .error(code::URL, &place, "this is not a Redis URL")
                .label(error.to_string())
                .help("redis://host:6379/0, rediss://host:6379/0 (TLS) or unix:///path?db=0");
            return None;
        }
    };
    if url.password.is_some() && !matches!(given.place, Place::Environment(_)) {
        context
            .error(
                code::INLINE_SECRET,
                &secret_place,
                "a password must not stand in the URL of the configuration",
            )
            .help("write the URL without it and name the password with password_file or password_env");
        return None;
    }
    let scheme = if url.tls { "rediss://" } else { "" };
    let shown = RedactedUrl::new(url.address.clone(), url.database);
    context.record(table, "url", format!("{scheme}{shown}"), &given.place);
    if url.options.others {
        context
            .warning(
                code::NO_EFFECT,
                &given.place,
                "the URL has options without effect here",
            )
            .help("understood: db, ssl_ca_certs, ssl_cert_reqs, ssl_certfile, ssl_keyfile");
    }
    Some(url)
}

fn username(context: &mut Context<'_>, table: &Table, url: Option<&RedisUrl>) -> Option<String> {
    let given = context
        .text_unrecorded(table, "username")
        .filter(|given| !given.value.is_empty());
    let in_url = url.and_then(|url| url.username.clone());
    match (given, in_url) {
        // `REDIS_URL` comes before the file.
        (Some(given), Some(in_url)) if given.value != in_url => {
            if matches!(table.place_of("url"), Place::Environment(_)) {
                context.record(table, "username", in_url.clone(), &table.place_of("url"));
                return Some(in_url);
            }
            context
                .error(
                    code::TWO_SOURCES,
                    &given.place,
                    "`username` and the URL name different users",
                )
                .help("keep one of them");
            Some(given.value)
        }
        (Some(given), _) => {
            context.record(table, "username", given.value.clone(), &given.place);
            Some(given.value)
        }
        (None, Some(in_url)) => {
            context.record(table, "username", in_url.clone(), &table.place_of("url"));
            Some(in_url)
        }
        (None, None) => None,
    }
}

/// The password: `REDIS_PASSWORD(_FILE)`, then the one in `REDIS_URL`, then the file's keys.
fn credential(
    context: &mut Context<'_>,
    table: &Table,
    url: Option<&RedisUrl>,
) -> Result<Option<CredentialSource>, ()> {
    let named = credential_source(context, table, PASSWORD_KEYS)?;
    let Some(in_url) = url.and_then(|url| url.password.as_ref()) else {
        return Ok(named);
    };
    let from_url = CredentialSource::EnvironmentUrl("REDIS_URL".to_owned());
    let key = if table.has("password_file") {
        "password_file"
    } else {
        "password_env"
    };
    let (Some(named), Place::Environment(variable)) = (named, table.place_of(key)) else {
        return Ok(Some(from_url));
    };
    // Both in the environment: harmless when they agree.
    if named
        .read(&context.lookup())
        .is_ok_and(|credential| credential.iter().any(|secret| secret == in_url))
    {
        return Ok(Some(named));
    }
    context
        .error(
            code::TWO_SOURCES,
            &Place::Environment(variable),
            "REDIS_URL holds another password",
        )
        .help("keep one of them; a file is better than a variable");
    Err(())
}

/// Rule A-6: other processes of the same user can read an environment, and crash reports contain it.
fn warn_environment(context: &mut Context<'_>, table: &Table, source: &CredentialSource) {
    let place = match source {
        CredentialSource::File(_) => return,
        CredentialSource::Environment(_) => table.place_of("password_env"),
        CredentialSource::EnvironmentUrl(_) => table.place_of("url"),
    };
    let way_out = match place {
        Place::Environment(_) => "use REDIS_PASSWORD_FILE: a file is read again when it changes",
        _ => "use password_file: a file is read again when it changes",
    };
    context
        .warning(
            code::SECRET_IN_ENVIRONMENT,
            &place,
            "the password of Redis is in an environment variable",
        )
        .label("other processes of this user can read it")
        .help(way_out);
}

/// Outer `None`: reported.
#[expect(
    clippy::option_option,
    reason = "the outer one is 'reported', the inner one is 'no TLS'"
)]
fn tls(context: &mut Context<'_>, table: &Table, url: Option<&RedisUrl>) -> Option<Option<UpstreamTls>> {
    let place = table.place_of("url");
    let skip = context.boolean(table, "unsafe_skip_verify", false);
    let mut ca_file = context.path(table, "ca_file");
    let server_name = context.text(table, "server_name");
    let mut certificate = context.path(table, "certificate_file");
    let mut key = context.path(table, "key_file");
    let url = url?;
    // The options of REDIS_URL come before the keys of the file.
    let from_url = |text: &Option<String>, context: &mut Context<'_>| {
        text.as_ref().map(|text| {
            let value = context.resolve(text, &place);
            context.name_file(table, &value, &place);
            Given {
                value,
                place: place.clone(),
            }
        })
    };
    ca_file = from_url(&url.options.ca_file, context).or(ca_file);
    certificate = from_url(&url.options.certificate_file, context).or(certificate);
    key = from_url(&url.options.key_file, context).or(key);
    if !url.tls {
        return no_tls(context, table, url).then_some(None);
    }
    if url.options.no_verify && !skip.value {
        not_verified(
            context,
            &place,
            "ssl_cert_reqs=none would accept any server as Redis",
        );
        return None;
    }
    if url.options.no_name_check && !skip.value {
        not_verified(
            context,
            &place,
            "ssl_check_hostname=false would accept the certificate of any host",
        );
        return None;
    }
    if skip.value {
        let title = table.title.clone();
        let message =
            format!("{title} is NOT VERIFIED: whoever stands between reads the password and the data");
        context
            .warning(code::NOT_VERIFIED, &skip.place, message)
            .help("name the CA with ca_file instead");
    }
    let mut fine = true;
    if let Some(ca_file) = &ca_file {
        fine &= files::check(
            context,
            &ca_file.place,
            "CA file",
            &ca_file.value,
            Content::Public,
        );
    }
    if server_name.as_ref().is_some_and(|name| name.value.is_empty()) {
        context.error(
            code::EMPTY,
            &table.place_of("server_name"),
            "`server_name` is empty",
        );
        fine = false;
    }
    let client_certificate = certificate_pair(context, table, certificate, key, "client certificate");
    fine &= client_certificate.is_ok();
    fine.then_some(Some(UpstreamTls {
        ca_file: ca_file.map(|given| given.value),
        server_name: server_name.map(|given| given.value),
        client_certificate: client_certificate.ok()?,
        unsafe_skip_verify: skip.value,
    }))
}

fn not_verified(context: &mut Context<'_>, place: &Place, message: &str) {
    let way_out = match place {
        Place::Environment(_) => "KEYWARD_UNSAFE_SKIP_VERIFY=true",
        _ => "unsafe_skip_verify = true",
    };
    context.error(code::NOT_VERIFIED, place, message).help(format!(
        "name the CA with ca_file (ssl_ca_certs in the URL); or accept it in words: {way_out}"
    ));
}

/// Keys for TLS on a URL without TLS are a mistake in one of the two. Whether there are none.
fn no_tls(context: &mut Context<'_>, table: &Table, url: &RedisUrl) -> bool {
    let mut none = true;
    for key in [
        "ca_file",
        "server_name",
        "certificate_file",
        "key_file",
        "unsafe_skip_verify",
    ] {
        if table.has(key)
            && !(key == "unsafe_skip_verify" && matches!(table.place_of(key), Place::Environment(_)))
        {
            let message = context.error(
                code::TLS_INCOMPLETE,
                &table.place_of(key),
                format!("`{key}` without TLS"),
            );
            use_tls(message);
            none = false;
        }
    }
    if url.options.names_tls() {
        let message = context.error(
            code::TLS_INCOMPLETE,
            &table.place_of("url"),
            "ssl options in a URL without TLS",
        );
        use_tls(message);
        none = false;
    }
    none
}

fn use_tls(message: Message<'_>) {
    message
        .label("this upstream has no TLS")
        .help("write rediss:// instead of redis:// in the URL");
}

/// A certificate and its key, both or none. `Err`: reported.
pub(super) fn certificate_pair(
    context: &mut Context<'_>,
    table: &Table,
    certificate: Option<Given<PathBuf>>,
    key: Option<Given<PathBuf>>,
    what: &str,
) -> Result<Option<CertificateFiles>, ()> {
    let title = table.title.clone();
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let fine = files::check(
                context,
                &certificate.place,
                what,
                &certificate.value,
                Content::Public,
            );
            let fine = files::check(context, &key.place, "private key", &key.value, Content::Secret) && fine;
            if !fine {
                return Err(());
            }
            Ok(Some(CertificateFiles {
                certificate_file: certificate.value,
                key_file: key.value,
            }))
        }
        (Some(_), None) if table.has("key_file") => Err(()),
        (Some(certificate), None) => {
            context
                .error(
                    code::TLS_INCOMPLETE,
                    &certificate.place,
                    format!("{title} has a certificate without its key"),
                )
                .help("add key_file (KEYWARD_TLS_KEY for the environment)");
            Err(())
        }
        // A certificate that was refused has been reported.
        (None, Some(_)) if table.has("certificate_file") => Err(()),
        (None, Some(key)) => {
            context
                .error(
                    code::TLS_INCOMPLETE,
                    &key.place,
                    format!("{title} has a key without its certificate"),
                )
                .help("add certificate_file (KEYWARD_TLS_CERT for the environment)");
            Err(())
        }
        (None, None) => Ok(None),
    }
}

/// Idle connections of one worker at most: more would be a bound that bounds nothing.
const MOST_IDLE: u64 = 1_000;
