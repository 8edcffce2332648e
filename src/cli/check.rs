//! `keyward check`: every fault at once, offline.

use crate::config::{self, Diagnostic, Loaded};
use crate::server;

use super::{Checking, Exit, print, report, talk};

/// Loads the configuration and everything it names, and says what is wrong.
pub(super) fn check(checking: &Checking) -> anyhow::Result<Exit> {
    let sources = checking.config.sources();
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    if checking.show {
        for setting in &loaded.settings {
            print(&format!(
                "{} {} = {}  ({})",
                setting.section, setting.key, setting.value, setting.origin
            ));
        }
    }
    let Loaded { config, warnings, .. } = loaded;
    let environment = |name: &str| sources.env.get(name).cloned();
    let mut found = server::check(&config, &environment);
    if found.iter().any(Diagnostic::is_error) {
        found.extend(warnings);
        report(&found);
        return Ok(Exit::Configuration);
    }
    if !checking.quiet {
        report(&warnings);
        talk(&format!(
            "the configuration is good: {} listener(s), {} upstream(s)",
            config.listeners.len(),
            config.upstreams.len()
        ));
    }
    Ok(Exit::Done)
}
