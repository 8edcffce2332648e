//! Reloading: build and check everything, then swap; on any fault keep the old and say why (idea 8, rules 11 and F-22).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::{Audit, CredentialChange};
use crate::auth::Users;
use crate::config::{self, Config, Diagnostic, Severity, code};
use crate::metrics::{CertificateRole, Metrics, MetricsError, UpstreamMetrics};
use crate::tls;
use crate::upstream::Upstream;

use super::counters;
use super::expiry::Expiries;
use super::listener::Settings;
use super::prepare::{self, Built, Prepared};
use super::privilege::Plan;
use super::status;
use super::watch;
use super::{Serving, now_unix};

impl Serving {
    /// SIGHUP: the configuration and every file it names.
    pub(super) async fn reload_configuration(&mut self) {
        let result = self.load_and_apply().await;
        self.report("signal", result);
    }

    async fn load_and_apply(&mut self) -> Result<(), Vec<Diagnostic>> {
        let loaded = prepare::load(&self.bound.sources)?;
        for warning in &loaded.warnings {
            tracing::warn!(event = "configuration_warning", code = warning.code, message = %warning.message);
        }
        self.refuse_what_needs_a_restart(&loaded.config)?;
        let files = watch::Files::new(prepare::watched_files(&loaded.config));
        self.apply(loaded.config).await?;
        self.bound.files = files;
        Ok(())
    }

    /// A watched file has changed: the configuration as it is, with the files as they are now.
    pub(super) async fn reload_files(&mut self) {
        let config = self.bound.config.clone();
        let result = self.apply(config).await;
        self.report("files", result);
    }

    fn report(&self, cause: &'static str, result: Result<(), Vec<Diagnostic>>) {
        let shared = &self.bound.shared;
        self.bound.board.reloaded(&result);
        match result {
            Ok(()) => {
                shared.metrics.reload_succeeded(now_unix());
                shared.audit.reload();
                tracing::info!(event = "reloaded", cause);
                self.service.reloaded("serving");
            }
            Err(faults) => {
                shared.metrics.reload_failed();
                self.service
                    .reloaded("serving; the last reload was refused, see the log");
                if let Some(first) = faults.first() {
                    shared.audit.reload_refused(&first.message);
                }
                for fault in faults.iter().filter(|fault| fault.severity == Severity::Error) {
                    let place = fault
                        .location
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    tracing::error!(
                        event = "reload_failed", cause, code = fault.code, error = %fault.message, place,
                        help = fault.help.as_deref().unwrap_or_default(),
                        consequence = "the former configuration stays in force"
                    );
                }
            }
        }
    }

    /// What sockets, threads and metric series were made for cannot change under them ([`config::schema::NEEDS_RESTART`]).
    fn refuse_what_needs_a_restart(&self, new: &Config) -> Result<(), Vec<Diagnostic>> {
        let old = &self.bound.config;
        let mut faults = Vec::new();
        let mut refuse = |changed: bool, what: &str| {
            if changed {
                let message = format!("{what} cannot be changed while running");
                faults.push(
                    Diagnostic::error(code::NEEDS_RESTART, message)
                        .helped("restart keyward to change it; SIGTERM drains first"),
                );
            }
        };
        let listeners = |config: &Config| -> Vec<_> {
            config
                .listeners
                .iter()
                .map(|listener| (listener.name.clone(), listener.address.clone()))
                .collect()
        };
        let upstreams = |config: &Config| -> Vec<_> {
            config
                .upstreams
                .iter()
                .map(|upstream| upstream.name.clone())
                .collect()
        };
        refuse(
            listeners(old) != listeners(new),
            "the set of listeners and their addresses",
        );
        refuse(upstreams(old) != upstreams(new), "the set of upstreams");
        refuse(old.server.workers != new.server.workers, "server.workers");
        refuse(old.admin.address != new.admin.address, "admin.address");
        refuse(
            old.admin.control_socket != new.admin.control_socket,
            "admin.control_socket",
        );
        refuse(old.log.format != new.log.format, "log.format");
        refuse(old.log.filter != new.log.filter, "log.filter");
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Builds all, then swaps all.
    async fn apply(&mut self, config: Config) -> Result<(), Vec<Diagnostic>> {
        let bound = &mut self.bound;
        let environment = |name: &str| bound.sources.env.get(name).cloned();
        let metrics = Arc::clone(&bound.shared.metrics);
        let audit = Arc::clone(&bound.shared.audit);
        let Built {
            listeners: prepared,
            upstreams,
            passwords,
        } = prepare::build(&config, &environment, &counters::of(&metrics, &audit))?;
        let mut faults = Vec::new();
        for (index, (section, next)) in config.upstreams.iter().zip(&upstreams).enumerate() {
            if section.require_least_privilege {
                // Signals wait meanwhile, for connect_timeout and auth_timeout and a few seconds at most.
                let plan = Plan::of_prepared(next, index, &config, &prepared);
                faults.extend(plan.demand(next).await.err());
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // Names and order are those of before, or a restart would have been asked for.
        let upstreams: Vec<_> = std::iter::zip(&bound.upstreams, upstreams)
            .map(|(present, next)| present.replaced_by(next))
            .collect();
        for (old, new) in std::iter::zip(&bound.upstreams, &upstreams) {
            // One that goes on says itself that its credential has changed.
            if !Arc::ptr_eq(old, new) && !new.has_same_credential(old) {
                audit.upstream_credential_changed(new.name());
            }
        }
        tell_metrics(&config, &prepared, &upstreams, &passwords, &metrics);
        let expiries = Expiries::new(&config, &prepared, &upstreams);
        let facts = status::facts(&config, &prepared, &upstreams, &bound.sources);
        let mut settings = Vec::new();
        for (section, prepared) in config.listeners.iter().zip(prepared) {
            settings.push(
                Settings::new(
                    section,
                    &config.server,
                    &config.login,
                    prepared,
                    &upstreams,
                    &metrics,
                )
                .map_err(|error| vec![Diagnostic::error(code::INTERNAL, error.to_string())])?,
            );
        }
        for (listener, settings) in bound.listeners.iter().zip(settings) {
            listener
                .metrics
                .connections_max
                .set(i64::try_from(settings.config.max_connections).unwrap_or(i64::MAX));
            let users = Arc::clone(&settings.users);
            let before = listener.settings.swap(Arc::new(settings));
            audit_credentials(&audit, &listener.name, &before.users, &users);
            bound.shared.throttle.retain_users(listener.index, &|name| {
                users.get(name).is_some_and(|user| user.enabled)
            });
            listener.warn_of_observing();
        }
        bound.shared.limits.reconfigure(&config);
        bound.shared.throttle.reconfigure(&config.login);
        bound.upstreams = upstreams;
        bound.config = config;
        bound.expiries = expiries;
        bound.board.configured(facts);
        self.start_probes();
        // Workers ask their sessions to look at the new settings.
        self.reloads.send_replace(self.bound.served());
        Ok(())
    }
}

/// Whose passwords are others than before. Rules that changed are no credential.
fn audit_credentials(audit: &Audit, listener: &str, before: &Users, after: &Users) {
    let enabled = |users: &Users, name: &str| users.get(name).filter(|user| user.enabled).map(Arc::clone);
    for name in after.names() {
        let change = match (enabled(before, name), enabled(after, name)) {
            (None, Some(_)) if before.get(name).is_none() => CredentialChange::Added,
            (None, Some(_)) => CredentialChange::Changed,
            (Some(_), None) => CredentialChange::Removed,
            (Some(old), Some(new)) if old.passwords != new.passwords || old.nopass != new.nopass => {
                CredentialChange::Changed
            }
            _ => continue,
        };
        audit.user_credential_changed(listener, name, change);
    }
    for name in before.names() {
        if after.get(name).is_none() {
            audit.user_credential_changed(listener, name, CredentialChange::Removed);
        }
    }
}

/// Who may log in where, certificates' ends and passwords' ages: of what is in force from now on.
pub(super) fn tell_metrics(
    config: &Config,
    prepared: &[Prepared],
    upstreams: &[Arc<Upstream>],
    passwords: &[(String, SystemTime)],
    metrics: &Metrics,
) {
    let mut certificates = Vec::new();
    let mut lists = Vec::new();
    for upstream in upstreams {
        for login in upstream.logins() {
            metrics.upstream(upstream.name()).prepare_login(login.user());
        }
    }
    for (section, prepared) in config.listeners.iter().zip(prepared) {
        metrics.add_users(&section.name, &prepared.users.names());
        lists.extend(prepared.crl_next_update.map(|end| (section.name.as_str(), end)));
        for certificate in &prepared.certificates {
            certificates.push((
                role(certificate.role),
                section.name.clone(),
                certificate.not_after,
            ));
        }
    }
    for upstream in upstreams {
        for certificate in upstream.certificates() {
            certificates.push((
                role(certificate.role),
                upstream.name().to_owned(),
                certificate.not_after,
            ));
        }
    }
    metrics.set_certificates(
        certificates
            .iter()
            .map(|(role, name, end)| (*role, name.as_str(), *end)),
    );
    metrics.set_revocation_lists(lists);
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    metrics.set_user_credentials(
        passwords
            .iter()
            .map(|(user, changed)| (user.as_str(), seconds(*changed))),
    );
    for upstream in upstreams {
        let credentials = upstream.credentials();
        let credentials = credentials
            .iter()
            .map(|(user, changed)| (user.as_str(), seconds(*changed)));
        metrics.upstream(upstream.name()).set_credentials(credentials);
    }
}

fn role(role: tls::CertificateRole) -> CertificateRole {
    match role {
        tls::CertificateRole::Listener => CertificateRole::Listener,
        tls::CertificateRole::ClientCa => CertificateRole::ClientCa,
        tls::CertificateRole::UpstreamCa => CertificateRole::UpstreamCa,
        tls::CertificateRole::UpstreamClient => CertificateRole::UpstreamClient,
    }
}

impl Settings {
    /// Puts one listener's settings together.
    pub(super) fn new(
        section: &config::Listener,
        server: &config::Server,
        login: &config::Login,
        prepared: Prepared,
        upstreams: &[Arc<Upstream>],
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        // The loader has checked the index.
        let upstream = upstreams.get(section.upstream).or_else(|| upstreams.first());
        let Some(upstream) = upstream.map(Arc::clone) else {
            return Err(prometheus::Error::Msg("no upstream".to_owned()).into());
        };
        let upstream_metrics: Arc<UpstreamMetrics> = metrics.upstream(upstream.name());
        Ok(Self {
            drain_timeout: server.drain_timeout,
            sharing: server.connections == config::Connections::Shared,
            config: section.clone(),
            login: login.clone(),
            max_handshakes: server.max_tls_handshakes,
            tls: prepared.tls,
            clients: prepared.clients,
            users: prepared.users,
            sources: prepared.sources,
            own_logins: prepared.own_logins,
            upstream,
            upstream_metrics,
        })
    }
}
