//! Is the upstream there, and does it take commands? For readiness and `keyward_upstream_up`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::handshake::{Pong, ping};
use super::{DialError, Dialed, Upstream};

/// Checks one upstream again and again over a connection that it keeps. That one is not among `max_connections`, and
/// does not wait for its turn: it says whether Redis is there when everybody else waits.
pub struct Probe {
    upstream: Arc<Upstream>,
    kept: Option<(Dialed, Instant)>,
}

/// Outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHealth {
    /// It was reached, took our credential and answered PING in whatever way.
    pub up: bool,
    /// It takes commands: not loading, not without its master, not busy with a script (F-8 to F-10).
    pub ready: bool,
    /// One line for people; empty when there is nothing to say.
    pub detail: String,
    /// Time of the PING alone; `None` when it had no answer.
    pub ping: Option<Duration>,
}

impl Probe {
    /// Connects to nothing yet.
    pub fn new(upstream: Arc<Upstream>) -> Self {
        Self { upstream, kept: None }
    }

    /// Checks: connect, TLS, AUTH, PING; over the kept connection only PING. At most 3 s (F-6).
    ///
    /// The connection is renewed now and then, and at once when a client's attempt failed: Redis keeps connections
    /// whose password has been changed, so PING on an old one proves nothing about the credential.
    pub async fn check(&mut self) -> UpstreamHealth {
        let too_old = self
            .kept
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > MAX_AGE);
        if too_old || self.upstream.is_failing() {
            self.kept = None;
        }
        let outcome = match timeout(PATIENCE, self.once()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Whatever it still sends belongs to no question any more.
                self.kept = None;
                let error = DialError::AuthTimeout(PATIENCE);
                self.upstream.note_failure(&self.upstream.own, &error);
                Err(error)
            }
        };
        let health = match outcome {
            Ok((Pong::Ready, ping)) => UpstreamHealth {
                up: true,
                ready: true,
                detail: String::new(),
                ping: Some(ping),
            },
            Ok((Pong::NotReady(code), ping)) => UpstreamHealth {
                up: true,
                ready: false,
                detail: format!("it answers PING with {code}"),
                ping: Some(ping),
            },
            Err(error) => UpstreamHealth {
                up: false,
                ready: false,
                detail: error.to_string(),
                ping: None,
            },
        };
        self.upstream.counters.up(health.up);
        health
    }

    async fn once(&mut self) -> Result<(Pong, Duration), DialError> {
        // Taken out, so that a connection whose PING did not end well is closed.
        let asked = Instant::now();
        if let Some((mut kept, since)) = self.kept.take()
            && let Ok(pong) = ping(&mut kept.stream).await
        {
            self.kept = Some((kept, since));
            return Ok((pong, asked.elapsed()));
        }
        let mut dialed = self.upstream.dial_now(&self.upstream.own, None).await?;
        let asked = Instant::now();
        let pong = ping(&mut dialed.stream)
            .await
            .inspect_err(|error| self.upstream.note_failure(&self.upstream.own, error))?;
        self.kept = Some((dialed, Instant::now()));
        Ok((pong, asked.elapsed()))
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("upstream", &self.upstream.name())
            .finish_non_exhaustive()
    }
}

/// A check's time limit (F-6).
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection is kept for checks.
const MAX_AGE: Duration = Duration::from_secs(60);
