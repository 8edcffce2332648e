//! Addresses to listen on.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// `127.0.0.1:6380`, `[::1]:6380`, `localhost:6380`. The error says what to write.
pub(super) fn parse_tcp(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let any = text
        .strip_prefix(':')
        .or_else(|| text.strip_prefix("*:"))
        .unwrap_or(text);
    if let Some(port) = port(any) {
        return Err(format!(
            "write \"127.0.0.1:{port}\" for this host or \"0.0.0.0:{port}\" for all interfaces"
        ));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("a port is missing, as in \"127.0.0.1:6380\" or \"[::1]:6380\"".to_owned());
    }
    Err("write an IP address and a port, as in \"127.0.0.1:6380\" or \"[::1]:6380\"".to_owned())
}

/// `unix:/path`, `unix:///path` or `/path`; `None` when it is none of these.
pub(super) fn unix_path(text: &str) -> Option<PathBuf> {
    let path = match text.strip_prefix("unix:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => text,
    };
    (path.starts_with('/') && path.len() > 1).then(|| PathBuf::from(path))
}

/// The longest path that `sockaddr_un` holds, without the final NUL.
pub(super) fn unix_path_fits(path: &Path) -> bool {
    path.as_os_str().len() <= 107
}

/// Only this host reaches it.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Whether a host of a URL is this host, without asking a resolver.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_addresses_are_an_ip_and_a_port() {
        for (text, shown) in [
            ("127.0.0.1:6380", "127.0.0.1:6380"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:0", "[::]:0"),
            ("0.0.0.0:65535", "0.0.0.0:65535"),
        ] {
            assert_eq!(
                parse_tcp(text).map(|a| a.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
        for (text, part) in [
            (":6380", "\"0.0.0.0:6380\""),
            ("*:6380", "\"0.0.0.0:6380\""),
            ("6380", "\"127.0.0.1:6380\""),
            ("::1", "port is missing"),
            ("redis.internal:6380", "IP address"),
            ("127.0.0.1:99999", "IP address"),
            ("", "IP address"),
        ] {
            assert!(parse_tcp(text).is_err_and(|help| help.contains(part)), "{text}");
        }
    }

    #[test]
    fn unix_addresses_are_absolute_paths() {
        for text in ["unix:/run/k.sock", "unix:///run/k.sock", "/run/k.sock"] {
            assert_eq!(unix_path(text), Some(PathBuf::from("/run/k.sock")), "{text}");
        }
        for text in ["unix:", "unix:run/k.sock", "k.sock", "/", "127.0.0.1:1"] {
            assert_eq!(unix_path(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_is_known_without_a_resolver() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["redis", "localhost.example.org", "0.0.0.0", "10.0.0.1", "::"] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
