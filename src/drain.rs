//! Draining: how the process learns that it should end or reload, and how it waits for its sessions.
//!
//! ```text
//!  Running ── SIGTERM, SIGINT ──▶ Draining ── second signal, or the deadline ──▶ Aborting
//! ```
//!
//! The trigger belongs to the composition root, watches go everywhere. A level only ever rises. Sessions hold a
//! [`SessionGuard`]; the trigger can wait until none is left (rule F-34).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Serving.
    #[default]
    Running,
    /// No new connections; idle sessions close at once, outstanding replies are waited for.
    Draining,
    /// Everything closes now.
    Aborting,
}

/// Raises the level. Owned by the composition root.
#[derive(Debug)]
pub struct DrainTrigger {
    level: watch::Sender<Level>,
    sessions: Arc<Sessions>,
}

/// Sees the level and counts sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    level: watch::Receiver<Level>,
    sessions: Arc<Sessions>,
}

/// Counts one session as active until dropped.
#[derive(Debug)]
pub struct SessionGuard(Arc<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    active: AtomicUsize,
    ended: Notify,
}

/// A connected trigger and watch at [`Level::Running`].
pub fn channel() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(Level::Running);
    let sessions = Arc::<Sessions>::default();
    (
        DrainTrigger {
            level: sender,
            sessions: Arc::clone(&sessions),
        },
        DrainWatch {
            level: receiver,
            sessions,
        },
    )
}

impl DrainTrigger {
    /// Begins draining; without effect if it has begun.
    pub fn drain(&self) {
        self.raise(Level::Draining);
    }

    /// Ends everything now.
    pub fn abort(&self) {
        self.raise(Level::Aborting);
    }

    /// The level at present.
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Another watch.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            level: self.level.subscribe(),
            sessions: Arc::clone(&self.sessions),
        }
    }

    /// Sessions active at present.
    pub fn sessions(&self) -> usize {
        self.sessions.active.load(Ordering::Acquire)
    }

    /// Waits until no session is active or the deadline has come; returns how many are left.
    pub async fn idle(&self, deadline: Instant) -> usize {
        let wait = async {
            loop {
                let ended = self.sessions.ended.notified();
                tokio::pin!(ended);
                // Registered before the count is read, so the last end cannot be missed.
                ended.as_mut().enable();
                if self.sessions() == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _ = timeout_at(deadline, wait).await;
        self.sessions()
    }

    fn raise(&self, level: Level) {
        self.level.send_if_modified(|current| {
            let raised = level > *current;
            if raised {
                *current = level;
            }
            raised
        });
    }
}

impl DrainWatch {
    /// The level at present: one uncontended read lock.
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Whether draining or aborting has begun.
    pub fn is_draining(&self) -> bool {
        self.level() >= Level::Draining
    }

    /// Ready once draining (or aborting) has begun. Cancel-safe. A dropped trigger counts as aborting: whoever
    /// could have ended the process in order is gone.
    pub async fn draining(&mut self) {
        self.at_least(Level::Draining).await;
    }

    /// Ready once everything has to close. Cancel-safe.
    pub async fn aborting(&mut self) {
        self.at_least(Level::Aborting).await;
    }

    /// Counts a session until the guard is dropped.
    pub fn session(&self) -> SessionGuard {
        self.sessions.active.fetch_add(1, Ordering::AcqRel);
        SessionGuard(Arc::clone(&self.sessions))
    }

    async fn at_least(&mut self, level: Level) {
        // An error means that the trigger was dropped.
        let _ = self.level.wait_for(|current| *current >= level).await;
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

/// What the operating system's signals ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// First SIGTERM or SIGINT: drain.
    Terminate,
    /// A further one: stop now.
    Abort,
    /// SIGHUP, one or many.
    Reload,
}

/// The stream of [`Event`]s.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    terminating: bool,
    reloads: Coalesce,
}

/// Installs the handlers for SIGTERM, SIGINT and SIGHUP.
///
/// # Errors
/// The system refused a handler.
pub fn signals() -> io::Result<Signals> {
    Ok(Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        terminating: false,
        reloads: Coalesce::default(),
    })
}

impl Signals {
    /// The next event. Cancel-safe: nothing seen is lost when the future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            let due = self.reloads.due();
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return self.terminated(),
                _ = self.interrupt.recv() => return self.terminated(),
                _ = self.hangup.recv() => self.reloads.ask(),
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.reloads.served(Instant::now());
                    return Event::Reload;
                }
            }
        }
    }

    fn terminated(&mut self) -> Event {
        if self.terminating {
            return Event::Abort;
        }
        self.terminating = true;
        Event::Terminate
    }
}

/// Makes one reload of many requests (rule F-23): the first is served at once, those that come within
/// [`RELOAD_INTERVAL`] of it together afterwards. The last request is always followed by a reload.
#[derive(Debug, Default)]
struct Coalesce {
    asked: bool,
    last: Option<Instant>,
}

impl Coalesce {
    fn ask(&mut self) {
        self.asked = true;
    }

    /// When the next reload is due, if one was asked for.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now;
        self.asked.then(|| {
            self.last
                .and_then(|last| last.checked_add(RELOAD_INTERVAL))
                .unwrap_or_else(now)
        })
    }

    fn served(&mut self, now: Instant) {
        self.asked = false;
        self.last = Some(now);
    }
}

/// A storm of 100 SIGHUPs in one second costs two or three reloads.
const RELOAD_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_level_only_rises() {
        let (trigger, watch) = channel();
        assert_eq!(watch.level(), Level::Running);
        trigger.abort();
        trigger.drain();
        assert_eq!(watch.level(), Level::Aborting);
        assert!(watch.is_draining());
    }

    #[test]
    fn watches_see_a_level_raised_before_they_looked() {
        let (trigger, mut watch) = channel();
        trigger.drain();
        runtime().block_on(async {
            watch.draining().await;
            let mut late = trigger.watch();
            late.draining().await;
            assert_eq!(late.level(), Level::Draining);
        });
    }

    #[test]
    fn a_dropped_trigger_ends_the_wait() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        runtime().block_on(watch.aborting());
    }

    #[test]
    fn idle_waits_for_the_last_session_and_says_how_many_are_left_at_the_deadline() {
        let (trigger, watch) = channel();
        let first = watch.session();
        let second = watch.clone().session();
        runtime().block_on(async {
            assert_eq!(trigger.idle(Instant::now()).await, 2);
            let far = Instant::now() + Duration::from_secs(60);
            let end = async {
                drop(first);
                tokio::task::yield_now().await;
                drop(second);
            };
            let (left, ()) = tokio::join!(trigger.idle(far), end);
            assert_eq!(left, 0);
        });
    }

    #[test]
    fn a_storm_of_reload_requests_is_served_once_at_once_and_once_afterwards() {
        let mut reloads = Coalesce::default();
        assert_eq!(reloads.due(), None);
        reloads.ask();
        let start = Instant::now();
        assert!(reloads.due().unwrap() <= Instant::now());
        reloads.served(start);
        for _ in 0..100 {
            reloads.ask();
        }
        assert_eq!(reloads.due(), Some(start + RELOAD_INTERVAL));
        reloads.served(start + RELOAD_INTERVAL);
        assert_eq!(reloads.due(), None);
    }

    #[test]
    fn real_signals_become_events() {
        runtime().block_on(async {
            let mut signals = signals().unwrap();
            let send = |name: &str| {
                let status = std::process::Command::new("sh")
                    .args(["-c", &format!("kill -{name} {}", std::process::id())])
                    .status();
                assert!(status.unwrap().success());
            };
            send("HUP");
            assert_eq!(signals.next().await, Event::Reload);
            send("TERM");
            assert_eq!(signals.next().await, Event::Terminate);
            send("INT");
            assert_eq!(signals.next().await, Event::Abort);
        });
    }
}
