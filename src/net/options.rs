//! Socket options of every TCP connection, both sides (L-29).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Sets no-delay, keepalive and the user timeout.
///
/// Redis itself has no idle timeout by default, and neither have we; what finds dead peers is the kernel: after
/// 60 s of silence it probes every 10 s and gives up after 3 probes. Unacknowledged data gives up after 30 s.
///
/// # Errors
/// The kernel's, from `setsockopt`.
pub fn configure_tcp(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Has the kernel wait longer than `limit` for a peer that takes nothing, because the caller itself does: the kernel counts
/// a reader that pauses among the dead, and would end the connection without a word.
///
/// # Errors
/// The kernel's, from `setsockopt`.
pub(super) fn outwait(socket: &impl AsFd, limit: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(socket)
        .set_tcp_user_timeout(Some(USER_TIMEOUT.max(limit.saturating_add(OUTWAIT_MARGIN))))?;
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, limit);
    Ok(())
}

/// Silence before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes before the connection is dead.
const KEEPALIVE_PROBES: u32 = 3;
/// How much longer than the caller the kernel waits.
#[cfg(target_os = "linux")]
const OUTWAIT_MARGIN: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged, or unread by a peer that has no room for more.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);
