//! `keyward doctor`: what is wrong, from the configuration to Redis, one line a check, each with the way out.
//!
//! `probe` gathers facts by the same code that serves: the loader, the dialler, the login, the question about privileges.
//! Everything else turns facts into findings and knows no sockets. Nothing is changed anywhere: sockets are bound for
//! a moment, connections made and closed, and Redis is asked what it would tell any client of its user.

mod around;
mod certificates;
mod finding;
mod local;
mod ports;
mod probe;
mod redis;
mod refusals;
mod render;
mod running;
mod upstream;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, timeout_at};

use crate::config::{self, Admin, Config, ListenAddress, Sources};
use crate::server::Examination;
use crate::tls;
use crate::upstream::DialError;

use finding::{Check, Finding, Report};
use ports::{PortFacts, PortState, Running};
use running::AdminFacts;
use upstream::UpstreamFacts;

use super::{Exit, print};

#[derive(Debug, clap::Args)]
pub(super) struct Examining {
    #[command(flatten)]
    config: super::Config,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Gathers findings, and prints each at once where people watch.
struct Desk {
    report: Report,
    json: bool,
    colours: bool,
}

impl Desk {
    fn say(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            if !self.json {
                print(&render::text(&finding, self.colours));
            }
            self.report.0.push(finding);
        }
    }

    fn says_anything_of(&self, check: Check) -> bool {
        self.report.0.iter().any(|finding| finding.check == check)
    }
}

/// Looks at everything; exit 1 if anything failed.
pub(super) fn doctor(examining: &Examining) -> anyhow::Result<Exit> {
    let mut sources = examining.config.sources();
    let section = config::admin_section(&sources);
    let admin = probe::admin(section.address);
    // A shell's limit says nothing about a service.
    let of_running = admin.open_files();
    sources.descriptor_limit = of_running.or(sources.descriptor_limit);
    let whose = if of_running.is_some() {
        "the running process"
    } else {
        "this shell"
    };
    let mut desk = Desk {
        report: Report::default(),
        json: examining.json,
        colours: std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        match Examination::new(&sources) {
            Ok(examined) => {
                configuration(&mut desk, &sources, &examined, whose);
                chains(&mut desk, &examined);
                ports(&mut desk, &examined.config, &admin).await;
                process(&mut desk, &admin);
                upstreams(&mut desk, &examined).await;
            }
            Err(faults) => refused(&mut desk, &faults, &admin),
        }
    });
    // A resolver that hangs holds a thread, which nobody waits for.
    runtime.shutdown_background();
    if desk.json {
        print(&render::json(&desk.report));
    } else {
        print(&render::summary(&desk.report));
    }
    Ok(if desk.report.has_failed() {
        Exit::Failed
    } else {
        Exit::Done
    })
}

/// The loader's warnings, and what it does not look at.
fn configuration(desk: &mut Desk, sources: &Sources, examined: &Examination, whose: &str) {
    let mut found: Vec<Finding> = examined.warnings.iter().map(local::of_diagnostic).collect();
    let facts = probe::files(sources, examined);
    let in_kubernetes = sources.env.contains_key("KUBERNETES_SERVICE_HOST");
    found.extend(local::files(&facts, in_kubernetes));
    let config = &examined.config;
    let says = |check: Check| found.iter().any(|finding| finding.check == check);
    let mut good = Vec::new();
    if !says(Check::Config) {
        let place = sources.file.as_ref().map(|file| file.display().to_string());
        let place = place.unwrap_or_else(|| "the environment alone".to_owned());
        let (listeners, upstreams) = (config.listeners.len(), config.upstreams.len());
        good.push(Finding::ok(
            Check::Config,
            "",
            format!("{place}: {listeners} listener(s), {upstreams} upstream(s)"),
        ));
    }
    if !says(Check::Files) {
        good.push(Finding::ok(
            Check::Files,
            "",
            format!("{} file(s), none of them open to others", facts.len()),
        ));
    }
    if !says(Check::OpenFiles) {
        let limit = sources.descriptor_limit.map(|limit| (limit, whose));
        good.push(local::open_files(config.server.max_connections, limit));
    }
    found.extend(good);
    found.sort_by_key(|finding| finding.check);
    desk.say(found);
}

fn chains(desk: &mut Desk, examined: &Examination) {
    let now = probe::now();
    let mut authorities = Vec::new();
    let listeners = examined.config.listeners.iter().enumerate();
    for (index, listener) in listeners {
        let subject = subject_of(&listener.name);
        let Some(section) = &listener.tls else {
            desk.say([Finding::skip(Check::Certificate, &subject, "no TLS")]);
            continue;
        };
        let file = &section.certificate.certificate_file;
        let chain = tls::chain_facts(file).unwrap_or_default();
        desk.say(certificates::certificate(
            &subject,
            &file.display().to_string(),
            &chain,
            now,
        ));
        let loaded = examined
            .certificates
            .get(index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let bundles = loaded
            .iter()
            .filter(|info| info.role == tls::CertificateRole::ClientCa);
        let bundles = bundles.map(|info| certificates::Expiring {
            what: format!("client_ca_file {} ({})", info.name, info.subject),
            end: info.not_after,
            short_lived: false,
        });
        let list = examined.revocation_lists.get(index).copied().flatten();
        let list = list.map(|end| certificates::Expiring {
            what: "the revocation list (client_crl_file)".to_owned(),
            end,
            short_lived: true,
        });
        let items: Vec<certificates::Expiring> = bundles.chain(list).collect();
        authorities.extend(certificates::client_ca(&subject, &items, now));
    }
    if authorities.is_empty() {
        authorities.push(Finding::skip(
            Check::ClientCa,
            "",
            "no client certificates are asked for",
        ));
    }
    desk.say(authorities);
}

async fn ports(desk: &mut Desk, config: &Config, admin: &AdminFacts) {
    let Admin {
        address,
        control_socket,
    } = &config.admin;
    let admin_state = address.map(probe::admin_port);
    let running = match (&admin_state, admin.is_keyward()) {
        (None, _) => Running::Unknown,
        (Some(PortState::Taken(holders)), true) => Running::Yes(holders.first().map(|holder| holder.pid)),
        _ => Running::No,
    };
    let mut found = Vec::new();
    for listener in &config.listeners {
        let facts = PortFacts {
            subject: subject_of(&listener.name),
            address: shown(&listener.address),
            state: probe::listener(&listener.address).await,
            announced: admin.has_listener(&listener.name),
        };
        found.push(ports::port(&facts, running));
    }
    if let (Some(address), Some(state)) = (address, admin_state) {
        let facts = PortFacts {
            subject: "admin".to_owned(),
            address: address.to_string(),
            state,
            announced: admin.is_keyward(),
        };
        found.push(ports::port(&facts, running));
    }
    if let Some(path) = control_socket {
        let facts = PortFacts {
            subject: "control socket".to_owned(),
            address: path.display().to_string(),
            state: control_socket_state(path).await,
            announced: admin.is_keyward(),
        };
        found.push(ports::port(&facts, running));
    }
    desk.say(found);
}

async fn control_socket_state(path: &Path) -> PortState {
    probe::listener(&ListenAddress::Unix {
        path: path.to_owned(),
        mode: 0o600,
        owner: None,
    })
    .await
}

fn process(desk: &mut Desk, admin: &AdminFacts) {
    desk.say([
        local::clock(probe::now()),
        running::healthcheck(admin),
        running::reload(admin),
        running::clients(admin),
    ]);
}

/// All at once, since each may have to wait, and told in order.
async fn upstreams(desk: &mut Desk, examined: &Examination) {
    let deadline = Instant::now() + PATIENCE;
    let sections = &examined.config.upstreams;
    let mut all: Vec<UpstreamFacts> = sections.iter().map(UpstreamFacts::new).collect();
    let visits = examined.upstreams.iter().zip(&mut all).map(|(one, facts)| {
        let visit = probe::upstream(one, &examined.config, facts);
        Box::pin(timeout_at(deadline, visit))
    });
    // What was found out by then is in the facts.
    let _: Vec<Result<(), _>> = join(visits.collect()).await;
    for mut facts in all {
        if !facts.own.logged_in && facts.own.error.is_none() {
            facts.own.error = Some(DialError::ConnectTimeout(PATIENCE));
        }
        desk.say(upstream::upstream(&facts, probe::now()));
    }
}

/// Runs all of them on this thread; results in their order.
async fn join<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    std::task::Poll::Ready(output) => *result = Some(output),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(results.iter_mut().filter_map(Option::take).collect())
    })
    .await
}

/// What the loader refuses, and what can be said all the same.
fn refused(desk: &mut Desk, faults: &[config::Diagnostic], admin: &AdminFacts) {
    let mut found: Vec<Finding> = faults.iter().map(local::of_diagnostic).collect();
    let failure = faults
        .iter()
        .find(|fault| fault.is_error())
        .map(local::of_diagnostic);
    let failure = failure.map_or(Check::Config, |finding| finding.check);
    found.sort_by_key(|finding| finding.check);
    desk.say(found);
    let alone = [Check::Clock, Check::Healthcheck, Check::Reload, Check::Clients];
    for (check, ..) in Check::ALL {
        if *check == Check::Clock {
            process(desk, admin);
        }
        if !alone.contains(check) && !desk.says_anything_of(*check) {
            desk.say([Finding::after(*check, "", failure)]);
        }
    }
}

fn subject_of(listener: &str) -> String {
    format!("listener \"{listener}\"")
}

fn shown(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix { path, .. } => format!("unix:{}", path.display()),
    }
}

/// For all upstreams together.
const PATIENCE: Duration = Duration::from_secs(45);
