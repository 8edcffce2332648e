//! What all workers have learned of users, put together when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::acl::Learned;
use crate::admin::LearnedRules;

use super::listener::Listener;
use super::worker::Colleague;

/// Answers the admin listener.
pub(super) struct Learning {
    listeners: Vec<Arc<Listener>>,
    workers: OnceLock<Vec<Colleague>>,
    /// The last answer.
    last: Mutex<Option<(Instant, String)>>,
}

impl Learning {
    pub(super) fn new(listeners: Vec<Arc<Listener>>) -> Self {
        Self {
            listeners,
            workers: OnceLock::new(),
            last: Mutex::default(),
        }
    }

    /// The workers have been started: they are asked from now on.
    pub(super) fn ask(&self, workers: Vec<Colleague>) {
        // Once in the life of a process.
        let _ = self.workers.set(workers);
    }

    async fn text(&self) -> Option<String> {
        if !self.listeners.iter().any(|listener| listener.learns()) {
            return None;
        }
        // Workers are asked once a second at most, however many ask here: their sessions come first.
        let mut last = self.last.lock().await;
        match &*last {
            Some((when, text)) if when.elapsed() < FRESH => Some(text.clone()),
            _ => {
                let text = self.gather().await;
                *last = Some((Instant::now(), text.clone()));
                Some(text)
            }
        }
    }

    async fn gather(&self) -> String {
        let mut all = BTreeMap::<String, Learned>::new();
        let (mut silent, mut incomplete) = (false, false);
        let deadline = Instant::now() + PATIENCE;
        let workers = self.workers.get().into_iter().flatten();
        let answers: Vec<_> = workers.map(Colleague::ask_lessons).collect();
        for answer in answers {
            match timeout_at(deadline, answer).await {
                Ok(Ok(lessons)) => {
                    incomplete |= lessons.incomplete;
                    for (user, learned) in &lessons.users {
                        all.entry(user.clone()).or_default().merge(learned);
                    }
                }
                Ok(Err(_)) | Err(_) => silent = true,
            }
        }
        let mut text = String::new();
        for (user, learned) in &all {
            let (rule, notes) = learned.to_rule(user);
            for note in notes {
                text.extend(["# ", user, ": ", &note, "\n"]);
            }
            text.extend([&rule, "\n"]);
        }
        if silent {
            text.push_str("# incomplete: a worker thread gave no answer in time; ask again\n");
        }
        if incomplete {
            text.push_str(
                "# incomplete: too many users learn at once; set learn = true for some of them only\n",
            );
        }
        text
    }
}

impl LearnedRules for Learning {
    fn text(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>> {
        Box::pin(Self::text(self))
    }
}

impl fmt::Debug for Learning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learning").finish_non_exhaustive()
    }
}

/// For the workers to answer, which they do between two rounds of their sessions.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer may be so old.
const FRESH: Duration = Duration::from_secs(1);
