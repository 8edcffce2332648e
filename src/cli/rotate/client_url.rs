//! The URL that a client is configured with.

use crate::config::{self, ListenAddress};
use crate::secret::Secret;

/// What a client is configured with.
pub(super) fn url(user: &str, password: &Secret, section: &config::Listener, host: Option<&str>) -> String {
    let password = String::from_utf8_lossy(password.expose());
    let user = percent_encoded(user);
    let scheme = if section.tls.is_some() { "rediss" } else { "redis" };
    match (&section.address, host) {
        (ListenAddress::Unix { path, .. }, _) => format!("unix://{user}:{password}@{}", path.display()),
        (ListenAddress::Tcp(address), host) => {
            let port = match address.port() {
                0 => "PORT".to_owned(),
                port => port.to_string(),
            };
            let place = match host {
                Some(host) if has_port(host) => host.to_owned(),
                Some(host) => format!("{host}:{port}"),
                None if address.ip().is_unspecified() => format!("HOST:{port}"),
                None if address.is_ipv6() => format!("[{}]:{port}", address.ip()),
                None => format!("{}:{port}", address.ip()),
            };
            format!("{scheme}://{user}:{password}@{place}")
        }
    }
}

fn has_port(host: &str) -> bool {
    let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    behind.contains(':')
}

/// Whether the configuration knows where clients connect to.
pub(super) fn has_host(section: &config::Listener) -> bool {
    match &section.address {
        ListenAddress::Tcp(address) => !address.ip().is_unspecified() && address.port() != 0,
        ListenAddress::Unix { .. } => true,
    }
}

/// Names may have `@`, `:`, `/` and `+` in them.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hosts_are_written_as_urls_need_them() {
        assert_eq!(percent_encoded("team/app@x:1+2"), "team%2Fapp%40x%3A1%2B2");
        for (host, port) in [("h", false), ("h:1", true), ("[::1]", false), ("[::1]:1", true)] {
            assert_eq!(has_port(host), port, "{host}");
        }
    }
}
