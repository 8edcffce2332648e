//! What all workers have learned of users, put together when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::acl::Learned;
use crate::admin::LearnedRules;

use super::listener::Listener;
use super::worker::Colleague;

/// Answers the admin listener.
pub(super) struct Learning {
    listeners: Vec<Arc<Listener>>,
    workers: OnceLock<Vec<Colleague>>,
}

impl Learning {
    pub(super) fn new(listeners: Vec<Arc<Listener>>) -> Self {
        Self {
            listeners,
            workers: OnceLock::new(),
        }
    }

    /// The workers have been started: they are asked from now on.
    pub(super) fn ask(&self, workers: Vec<Colleague>) {
        // Once in the life of a process.
        let _ = self.workers.set(workers);
    }

    async fn gather(&self) -> Option<String> {
        if !self.listeners.iter().any(|listener| listener.learns()) {
            return None;
        }
        let mut all = BTreeMap::<String, Learned>::new();
        let mut silent = 0;
        for worker in self.workers.get().into_iter().flatten() {
            match worker.lessons(PATIENCE).await {
                Some(lessons) => {
                    for (user, learned) in lessons {
                        all.entry(user).or_default().merge(&learned);
                    }
                }
                None => silent += 1,
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
        if silent > 0 {
            text.push_str("# incomplete: a worker thread gave no answer in time; ask again\n");
        }
        Some(text)
    }
}

impl LearnedRules for Learning {
    fn text(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>> {
        Box::pin(self.gather())
    }
}

impl fmt::Debug for Learning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learning").finish_non_exhaustive()
    }
}

/// For one worker to answer, which it does between two rounds of its sessions.
const PATIENCE: Duration = Duration::from_secs(1);
