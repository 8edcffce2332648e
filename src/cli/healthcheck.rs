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
    match ask(address) {
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

fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), TIMEOUT).context("cannot connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: keyward\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

fn body(answer: &str) -> &str {
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
