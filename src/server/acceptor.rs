//! One listener's accept loop: accept, take a permit, hand to the worker with the fewest sessions.
//!
//! It awaits nothing but `accept` and the order to stop: whatever a client can delay happens on a worker.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::drain::{DrainWatch, Level};
use crate::limits::Source;
use crate::metrics::{AcceptErrorKind, max_open_files};
use crate::net;

use super::connection::{Admission, Job};
use super::listener::Listener;
use super::workers::Workers;

/// Accepts until draining begins; the socket is closed then.
pub(super) async fn accept(
    socket: net::Listener,
    listener: Arc<Listener>,
    workers: Arc<Workers>,
    mut drain: DrainWatch,
) {
    let mut pause = FIRST_PAUSE;
    let mut reserve = Reserve::new();
    let mut reported: Option<Instant> = None;
    let mut patience = None;
    while drain.level() == Level::Running {
        let wanted = listener.settings.load().config.write_stall_timeout;
        if patience != Some(wanted) {
            patience = Some(wanted);
            if let Err(error) = socket.outwait(wanted) {
                tracing::debug!(event = "socket_option_failed", listener = &*listener.name, error = %error);
            }
        }
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = drain.draining() => continue,
        };
        match accepted {
            Ok(accepted) => {
                pause = FIRST_PAUSE;
                hand_over(accepted, &listener, &workers, &drain);
            }
            Err(error) => {
                let kind = AcceptErrorKind::from(&error);
                listener.metrics.accept_error(kind);
                if kind.is_transient() {
                    // The client's doing, and over (CVE-2025-48367: one such error must not starve the others).
                    tracing::debug!(event = "accept_failed", listener = &*listener.name, error = %error);
                    continue;
                }
                if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                    reported = Some(Instant::now());
                    tracing::error!(
                        event = "accept_failed", listener = &*listener.name, error = %error,
                        open_files_allowed = reserve.limit(),
                        help = "if it is the limit of open files, raise it (LimitNOFILE=, ulimit -n)"
                    );
                }
                if kind == AcceptErrorKind::Descriptors {
                    reserve.turn_away(&socket).await;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = drain.draining() => {}
                }
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// A descriptor that is given up for a moment, to take clients that none is left for out of the backlog and close them
/// (F-25): one that is turned away can try elsewhere, one that hangs cannot.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// How many there may be; to read that takes one.
    fn limit(&mut self) -> Option<u64> {
        self.0 = None;
        let limit = max_open_files();
        *self = Self::new();
        limit
    }

    async fn turn_away(&mut self, socket: &net::Listener) {
        for _ in 0..MOST_TURNED_AWAY {
            self.0 = None;
            // Whoever is there is accepted at once; nobody is waited for.
            let surplus = tokio::select! {
                biased;
                accepted = socket.accept() => accepted.ok(),
                () = std::future::ready(()) => None,
            };
            let more = surplus.is_some();
            drop(surplus);
            // Somebody else may have been faster; then there is nothing to give up until the next time.
            *self = Self::new();
            if !more || self.0.is_none() {
                return;
            }
        }
    }
}

fn hand_over(accepted: net::Accepted, listener: &Arc<Listener>, workers: &Workers, drain: &DrainWatch) {
    let Some(worker) = workers.idlest() else {
        return;
    };
    let address = accepted.source();
    let source = if address.is_some_and(|address| listener.settings.load().expects_proxy_header(address.ip()))
    {
        Source::Pending
    } else {
        address.map_or(Source::Unix(None), |address| Source::from(address.ip()))
    };
    let admission = match listener.shared.limits.admit(listener.index, source) {
        Ok(permit) => Admission::Admitted(permit),
        Err(reject) => {
            match listener.courtesy() {
                Some(courtesy) => Admission::Refused(reject, courtesy),
                None => {
                    // So many are being told already that nobody can be told any more.
                    listener.metrics.rejected(reject);
                    return;
                }
            }
        }
    };
    worker.send(Job {
        accepted,
        admission,
        listener: Arc::clone(listener),
        accepted_at: Instant::now(),
        load: worker.count(),
        guard: drain.session(),
    });
}

/// The pause after an error that will not go away by itself, doubled each time (rule F-25).
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Said once and then this often, while every error is counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Clients that are turned away before accepting in earnest is tried again.
const MOST_TURNED_AWAY: usize = 64;
