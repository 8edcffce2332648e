//! `keyward healthcheck`: for containers and scripts. Needs no password and writes nothing to Redis.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

use crate::config;

use super::{Config, Exit, talk};

/// Asks the admin listener of the same configuration; exit code 0 or 1 only (Docker keeps 2 for itself).
pub(super) fn healthcheck(config: &Config) -> anyhow::Result<Exit> {
    let Some(address) = config::admin_section(&config.sources()).address else {
        talk("unhealthy: the admin listener is off (admin.address)");
        return Ok(Exit::Failed);
    };
    match ask(address, "/readyz", MAX_ANSWER) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
            talk(&format!("healthy: {}", body(&answer)));
            Ok(Exit::Done)
        }
        Ok(answer) => {
            talk(&format!("unhealthy: {}", body(&answer)));
            Ok(Exit::Failed)
        }
        Err(error) => {
            talk(&format!("unhealthy: no answer from {address}: {error:#}"));
            Ok(Exit::Failed)
        }
    }
}

/// Asks the admin listener for a page; the answer as it came, head and all.
pub(super) fn ask(address: SocketAddr, path: &str, most: u64) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), TIMEOUT).context("cannot connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(most).read_to_string(&mut answer)?;
    Ok(answer)
}

pub(super) fn body(answer: &str) -> &str {
    answer
        .split_once("\r\n\r\n")
        .map_or(answer, |(_, body)| body)
        .trim()
}

/// An address that listens everywhere is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ANSWER: u64 = 16 * 1024;
