//! `keyward check`: every fault at once, offline.

use crate::config::Loaded;
use crate::server;

use super::{Checking, Exit, print, report, talk};

/// Loads the configuration and everything it names, and says what is wrong.
pub(super) fn check(checking: &Checking) -> anyhow::Result<Exit> {
    let loaded = match server::load(&checking.config.sources()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let Loaded {
        config,
        warnings,
        settings,
    } = loaded;
    if checking.show {
        for setting in &settings {
            print(&format!(
                "{} {} = {}  ({})",
                setting.section, setting.key, setting.value, setting.origin
            ));
        }
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
