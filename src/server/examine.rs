//! Everything that a start would load and build, for those who look at it without serving: `keyward doctor`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Diagnostic, Sources};
use crate::tls::CertificateInfo;
use crate::upstream::{DialError, NoCounters, Upstream};

use super::prepare::{self, Built};
use super::privilege::{Finding, Plan};

/// A configuration that would start.
pub struct Examination {
    /// It.
    pub config: Config,
    /// What was said about it.
    pub warnings: Vec<Diagnostic>,
    /// Expiry of what each listener has loaded, in the order of the listeners.
    pub certificates: Vec<Vec<CertificateInfo>>,
    /// When the first revocation list of each listener runs out, in Unix seconds.
    pub revocation_lists: Vec<Option<i64>>,
    /// In the order of the configuration. Nothing is connected.
    pub upstreams: Vec<Examined>,
    /// Every certificate, key, secret and ACL file that it names.
    pub files: Vec<PathBuf>,
}

/// An upstream, and what nobody may do here.
pub struct Examined {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    plan: Plan,
}

/// What Redis would run for Keyward although nobody may have it run here (C-9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// Names of commands, the worst first; `None`: it does not tell.
    pub commands: Option<Vec<&'static str>>,
    /// Somebody may run scripts here, so that these commands are within reach.
    pub scripts: bool,
}

impl Examination {
    /// Loads and builds as a start does; connects to nothing.
    ///
    /// # Errors
    /// Every fault, and the warnings behind them.
    pub fn new(sources: &Sources) -> Result<Self, Vec<Diagnostic>> {
        let loaded = prepare::load(sources)?;
        let environment = |name: &str| sources.env.get(name).cloned();
        let Built {
            listeners, upstreams, ..
        } = prepare::build(&loaded.config, &environment, &|_| Arc::new(NoCounters))?;
        let upstreams = upstreams
            .into_iter()
            .enumerate()
            .map(|(index, upstream)| Examined {
                plan: Plan::of_prepared(&upstream, index, &loaded.config, &listeners),
                upstream: Arc::new(upstream),
            });
        Ok(Self {
            upstreams: upstreams.collect(),
            certificates: listeners
                .iter()
                .map(|listener| listener.certificates.clone())
                .collect(),
            revocation_lists: listeners
                .iter()
                .map(|listener| listener.crl_next_update)
                .collect(),
            files: prepare::watched_files(&loaded.config),
            config: loaded.config,
            warnings: loaded.warnings,
        })
    }
}

impl Examined {
    /// Asks Redis, which runs nothing of what it is asked about, but notes in ACL LOG what it refuses.
    ///
    /// # Errors
    /// [`DialError`]: it could not be asked.
    pub async fn excess(&self) -> Result<Excess, DialError> {
        let finding = self.plan.ask_all(&self.upstream).await?;
        Ok(Excess {
            scripts: self.plan.has_scripts(),
            commands: match finding {
                Finding::Known(_) => Some(finding.worst_first()),
                Finding::Unknown => None,
            },
        })
    }
}
