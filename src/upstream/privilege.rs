//! Would Redis run it? For what is refused here and must not be reached by a script either (C-9).

use std::time::Duration;

use tokio::time::timeout;

use super::{DialError, Login, Upstream, handshake};

impl Upstream {
    /// Whether Redis would run each of these requests for this login. None is run. It happens on a connection that is used
    /// for nothing else and closed behind it; that one is not among `max_connections`.
    ///
    /// `None`: the server cannot be asked, because it does not let this login open a transaction.
    ///
    /// # Errors
    /// [`DialError`]: it could not be reached, or answered nonsense.
    pub async fn would_run(
        &self,
        login: &Login,
        requests: &[Vec<&[u8]>],
    ) -> Result<Option<Vec<bool>>, DialError> {
        let mut dialed = self.dial_now(login, None).await?;
        timeout(PATIENCE, handshake::would_run(&mut dialed.stream, requests))
            .await
            .unwrap_or(Err(DialError::AuthTimeout(PATIENCE)))
    }

    /// Whether any client can be served; see [`Login::is_trusted`].
    pub fn is_trusted(&self) -> bool {
        let logins = self.logins();
        logins.is_empty() || logins.iter().any(|login| login.is_trusted())
    }
}

/// Some hundred answers that need no work.
const PATIENCE: Duration = Duration::from_secs(5);
