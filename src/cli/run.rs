//! `keyward run`.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Overrides, Sources};
use crate::metrics::Metrics;
use crate::net::Inherited;
use crate::server::{self, Bound, StartError};

use super::{Exit, Running, logging, report, talk};

/// Serves until it is told to end.
pub(super) fn run(running: Running) -> anyhow::Result<Exit> {
    // First of all: from here on their descriptors have an owner.
    let inherited = match Inherited::from_process() {
        Ok(inherited) => inherited,
        Err(error) => {
            talk(&format!("error: {error}"));
            return Ok(Exit::Failed);
        }
    };
    let overrides = Overrides {
        listen: running.listen,
        admin: running.admin,
        workers: running.workers,
        log: running.log,
        log_format: running.log_format,
    };
    let sources = Sources::from_process(running.config.config, overrides);
    let loaded = match server::load(&sources) {
        Ok(loaded) => loaded,
        Err(faults) => {
            report(&faults);
            return Ok(Exit::Configuration);
        }
    };
    let metrics = server::metrics(&loaded.config)?;
    logging::init(&loaded.config.log, &metrics)?;
    report_panics(Arc::clone(&metrics));
    for warning in &loaded.warnings {
        let place = warning
            .location
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let help = warning.help.as_deref().unwrap_or_default();
        tracing::warn!(
            event = "configuration_warning", code = warning.code, problem = %warning.message, place, help
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let exit = runtime.block_on(async {
        match Bound::inheriting(sources, loaded, metrics, inherited) {
            Ok(bound) => Ok(match bound.run(std::future::pending()).await {
                Ok(()) => Exit::Done,
                Err(error) => failed(error),
            }),
            Err(error) => Ok::<_, anyhow::Error>(failed(error)),
        }
    });
    logging::finish();
    exit
}

fn failed(error: StartError) -> Exit {
    match error {
        StartError::Configuration(faults) => {
            report(&faults);
            Exit::Configuration
        }
        error => {
            tracing::error!(event = "start_failed", error = %error);
            talk(&format!("error: {error}"));
            Exit::Failed
        }
    }
}

/// A panic ends one connection, not the process; it is counted and its place is logged, never its message, which
/// could hold a client's bytes (F-38).
fn report_panics(metrics: Arc<Metrics>) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panics.inc();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            event = "panic",
            place,
            help = "this is a defect of keyward; please report it"
        );
    }));
}
