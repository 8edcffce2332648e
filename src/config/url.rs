//! Redis URLs: `redis://`, `rediss://` and `unix://`, with user information and the query options of redis-py.
//!
//! No error of this module repeats any part of the URL: a password with an unescaped `/` or `@` ends up in the
//! wrong part, and would be shown.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::UpstreamAddress;
use crate::secret::Secret;

/// A URL in its parts.
#[derive(Debug)]
pub(super) struct RedisUrl {
    pub(super) tls: bool,
    pub(super) address: UpstreamAddress,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: u32,
    pub(super) options: UrlOptions,
}

/// What the query said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UrlOptions {
    pub(super) ca_file: Option<String>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
    /// `ssl_cert_reqs=none`.
    pub(super) no_verify: bool,
    /// `ssl_check_hostname=false`.
    pub(super) no_name_check: bool,
    /// There are options which belong to client libraries.
    pub(super) others: bool,
}

impl UrlOptions {
    pub(super) fn names_tls(&self) -> bool {
        self.ca_file.is_some()
            || self.certificate_file.is_some()
            || self.key_file.is_some()
            || self.no_verify
            || self.no_name_check
    }
}

/// Why a text is not a Redis URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UrlError {
    /// No scheme, or another one.
    #[error("a Redis URL begins with redis://, rediss:// or unix://")]
    Scheme,
    /// Nothing between user information and port.
    #[error("the URL has no host")]
    NoHost,
    /// A host with characters that hosts do not have.
    #[error("the host is not a host name or address (are all of @ : / ? # in the password percent-encoded?)")]
    Host,
    /// Not 1 to 65,535.
    #[error(
        "the port is not a number from 1 to 65535 (are all of @ : / ? # in the password percent-encoded?)"
    )]
    Port,
    /// The path or `db=` is not a number.
    #[error("the database is not a number (are all of @ : / ? # in the password percent-encoded?)")]
    Database,
    /// A `%` without two hexadecimal digits, or what it gives is not text.
    #[error("a percent-encoding is broken")]
    Percent,
    /// A unix URL without a path.
    #[error("a unix URL needs the path of a socket, as in unix:///run/redis/redis.sock")]
    NoPath,
    /// `ssl_cert_reqs` with another word.
    #[error("ssl_cert_reqs must be required, optional or none")]
    CertReqs,
    /// `#...`.
    #[error("a Redis URL has no fragment (is every # in the password percent-encoded as %23?)")]
    Fragment,
}

impl RedisUrl {
    /// Takes a URL apart.
    pub(super) fn parse(url: &str) -> Result<Self, UrlError> {
        if url.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let unix = scheme.eq_ignore_ascii_case("unix");
        let tls = scheme.eq_ignore_ascii_case("rediss");
        if !unix && !tls && !scheme.eq_ignore_ascii_case("redis") {
            return Err(UrlError::Scheme);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // The last `@` ends the user information, as in Python's urllib.
        let (user_information, place) = match authority.rsplit_once('@') {
            Some((user_information, place)) => (Some(user_information), place),
            None => (None, authority),
        };
        let (username, password) = user_information.map_or(Ok((None, None)), parse_user)?;
        let (options, query_database) = parse_query(query)?;
        let (address, path_database) = if unix {
            if !place.is_empty() || path.len() < 2 {
                return Err(UrlError::NoPath);
            }
            (UpstreamAddress::Unix(PathBuf::from(decode_text(path)?)), None)
        } else {
            let database = match path.strip_prefix('/').unwrap_or_default() {
                "" => None,
                text => Some(text.parse().map_err(|_| UrlError::Database)?),
            };
            (parse_place(place)?, database)
        };
        // redis-py: `db=` of the query wins over the path.
        let database = query_database.or(path_database).unwrap_or(0);
        Ok(Self {
            tls,
            address,
            username,
            password,
            database,
            options,
        })
    }
}

/// `user`, `user:password` or `:password`.
fn parse_user(text: &str) -> Result<(Option<String>, Option<Secret>), UrlError> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    let user = Some(decode_text(user)?).filter(|user| !user.is_empty());
    let password = password
        .filter(|password| !password.is_empty())
        .map(decode)
        .transpose()?;
    Ok((user, password.map(Secret::new)))
}

/// `host`, `host:port`, `[::1]:port`.
fn parse_place(place: &str) -> Result<UpstreamAddress, UrlError> {
    const DEFAULT_PORT: u16 = 6_379;
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
        match rest {
            "" => (host, None),
            _ => (host, Some(rest.strip_prefix(':').ok_or(UrlError::Port)?)),
        }
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(UrlError::Port),
            Ok(port) => port,
        },
    };
    if !place.starts_with('[')
        && !host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    {
        return Err(UrlError::Host);
    }
    Ok(UpstreamAddress::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn parse_query(query: &str) -> Result<(UrlOptions, Option<u32>), UrlError> {
    let mut options = UrlOptions::default();
    let mut database = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode_text(value)?;
        match name {
            "db" => database = Some(value.parse().map_err(|_| UrlError::Database)?),
            "ssl_ca_certs" => options.ca_file = Some(value),
            "ssl_certfile" => options.certificate_file = Some(value),
            "ssl_keyfile" => options.key_file = Some(value),
            // `optional` means the same as `required` for a client.
            "ssl_cert_reqs" => match value.to_ascii_lowercase().as_str() {
                "required" | "optional" | "cert_required" | "cert_optional" => options.no_verify = false,
                "none" | "cert_none" => options.no_verify = true,
                _ => return Err(UrlError::CertReqs),
            },
            "ssl_check_hostname" => {
                options.no_name_check = matches!(
                    value.to_ascii_lowercase().as_str(),
                    "false" | "no" | "0" | "f" | "n"
                );
            }
            _ => options.others = true,
        }
    }
    Ok((options, database))
}

fn decode_text(text: &str) -> Result<String, UrlError> {
    String::from_utf8(decode(text)?).map_err(|_| UrlError::Percent)
}

/// Percent-decoding; `+` stays `+`.
fn decode(text: &str) -> Result<Vec<u8>, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            bytes
                .next()
                .and_then(|b| char::from(b).to_digit(16))
                .ok_or(UrlError::Percent)
        };
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).map_err(|_| UrlError::Percent)?);
    }
    Ok(out)
}

/// The address of an upstream as logs show it, `localhost:6379/0`: user and password cannot get into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactedUrl {
    address: UpstreamAddress,
    database: u32,
}

impl RedactedUrl {
    /// From what is safe to show.
    pub fn new(address: UpstreamAddress, database: u32) -> Self {
        Self { address, database }
    }
}

impl fmt::Display for RedactedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            UpstreamAddress::Tcp { host, port } if host.contains(':') => {
                write!(f, "[{host}]:{port}/{}", self.database)
            }
            UpstreamAddress::Tcp { host, port } => write!(f, "{host}:{port}/{}", self.database),
            UpstreamAddress::Unix(path) => write!(f, "unix:{}?db={}", path.display(), self.database),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(url: &RedisUrl) -> String {
        RedactedUrl::new(url.address.clone(), url.database).to_string()
    }

    #[test]
    fn urls_are_taken_apart() {
        #[allow(clippy::type_complexity, reason = "a table")]
        let cases: &[(&str, bool, &str, Option<&str>, Option<&[u8]>)] = &[
            ("redis://localhost", false, "localhost:6379/0", None, None),
            ("redis://localhost:6380/3", false, "localhost:6380/3", None, None),
            ("REDISS://h", true, "h:6379/0", None, None),
            (
                "rediss://app:pa%40ss@h:1/2",
                true,
                "h:1/2",
                Some("app"),
                Some(b"pa@ss"),
            ),
            ("redis://:pw@h", false, "h:6379/0", None, Some(b"pw")),
            ("redis://app@h", false, "h:6379/0", Some("app"), None),
            ("redis://app:@h", false, "h:6379/0", Some("app"), None),
            ("redis://a@b:c@d@h", false, "h:6379/0", Some("a@b"), Some(b"c@d")),
            ("redis://:a:b@h", false, "h:6379/0", None, Some(b"a:b")),
            ("redis://:%ff%00@h", false, "h:6379/0", None, Some(b"\xff\x00")),
            ("redis://[::1]:7000/1", false, "[::1]:7000/1", None, None),
            ("redis://h/1?db=5", false, "h:6379/5", None, None),
            ("redis://h?db=4", false, "h:6379/4", None, None),
            (
                "unix:///run/r.sock?db=2",
                false,
                "unix:/run/r.sock?db=2",
                None,
                None,
            ),
            (
                "unix://u:p@/run/r.sock",
                false,
                "unix:/run/r.sock?db=0",
                Some("u"),
                Some(b"p"),
            ),
        ];
        for (text, tls, shown, user, password) in cases {
            let url = RedisUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.tls, *tls, "{text}");
            assert_eq!(show(&url), *shown, "{text}");
            assert_eq!(url.username.as_deref(), *user, "{text}");
            assert_eq!(url.password.as_ref().map(Secret::expose), *password, "{text}");
        }
    }

    #[test]
    fn broken_urls_are_refused_without_repeating_them() {
        let cases = [
            ("localhost:6379", UrlError::Scheme),
            ("http://h", UrlError::Scheme),
            ("redis://", UrlError::NoHost),
            ("redis://:s3cret@", UrlError::NoHost),
            ("redis://:s3cret/x@h", UrlError::Database),
            ("redis://u:s3cret/x@h", UrlError::Database),
            ("redis://h:0", UrlError::Port),
            ("redis://h:70000", UrlError::Port),
            ("redis://h/s3cret", UrlError::Database),
            ("redis://h?db=-1", UrlError::Database),
            ("redis://:s3cret%4@h", UrlError::Percent),
            ("redis://:s3cret#1@h", UrlError::Fragment),
            ("redis://h!", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("unix://", UrlError::NoPath),
            ("unix://run/redis.sock", UrlError::NoPath),
            ("rediss://h?ssl_cert_reqs=maybe", UrlError::CertReqs),
        ];
        for (text, wanted) in cases {
            let error = RedisUrl::parse(text).err();
            assert_eq!(error, Some(wanted), "{text}");
            assert!(!wanted.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn the_query_options_of_redis_py_are_understood() {
        let url = RedisUrl::parse(
            "rediss://h?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none&ssl_certfile=c&ssl_keyfile=k&decode_responses=True",
        );
        let options = url.expect("parses").options;
        assert_eq!(options.ca_file.as_deref(), Some("/ca.pem"));
        assert_eq!(
            (options.certificate_file.as_deref(), options.key_file.as_deref()),
            (Some("c"), Some("k"))
        );
        assert!(options.no_verify && options.others && options.names_tls());
        let url = RedisUrl::parse("rediss://h?ssl_cert_reqs=required").expect("parses");
        assert!(!url.options.no_verify && !url.options.names_tls());
    }
}
