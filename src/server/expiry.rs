//! What ends soon: certificates and revocation lists, said at the start, after every reload, and daily (F-20, F-40).
//!
//! An expired certificate is served all the same: whether that matters is for the clients to decide. A revocation list that has
//! run out is worse, for no client certificate is accepted from then on; hence ERROR.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::tls::{self, CertificateInfo};
use crate::upstream::Upstream;

use super::prepare::Prepared;

/// Everything loaded that has an end.
pub(super) struct Expiries(Vec<Item>);

struct Item {
    kind: Kind,
    /// Name of the listener or upstream.
    owner: String,
    file: String,
    /// Of the certificate that ends first; empty for a list.
    subject: String,
    /// In seconds of Unix time.
    end: i64,
    /// What was said last, and when.
    said: Option<(Stage, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With the word for its role.
    Certificate(&'static str),
    RevocationList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Soon,
    Over,
}

impl Expiries {
    /// Of one load; nothing has been said about it.
    pub(super) fn new(config: &Config, prepared: &[Prepared], upstreams: &[Arc<Upstream>]) -> Self {
        let mut items = Vec::new();
        for (section, prepared) in config.listeners.iter().zip(prepared) {
            let of_listener = |info| Item::certificate(&section.name, info);
            items.extend(prepared.certificates.iter().map(of_listener));
            let list = section.tls.as_ref().and_then(|tls| tls.client_crl_file.as_ref());
            if let (Some(file), Some(end)) = (list, prepared.crl_next_update) {
                items.push(Item {
                    kind: Kind::RevocationList,
                    owner: section.name.clone(),
                    file: file.display().to_string(),
                    subject: String::new(),
                    end,
                    said: None,
                });
            }
        }
        for upstream in upstreams {
            let of_upstream = |info| Item::certificate(upstream.name(), info);
            items.extend(upstream.certificates().iter().map(of_upstream));
        }
        Self(items)
    }

    /// Says what is due now. Validity follows the wall clock, the daily repetition does not (F-36).
    pub(super) fn tick(&mut self, now: Instant) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        for item in &mut self.0 {
            if let Some(stage) = item.due(unix, now) {
                item.say(stage, unix);
            }
        }
    }
}

impl Item {
    fn certificate(owner: &str, info: &CertificateInfo) -> Self {
        Self {
            kind: Kind::Certificate(info.role.label()),
            owner: owner.to_owned(),
            file: info.name.clone(),
            subject: info.subject.clone(),
            end: info.not_after,
            said: None,
        }
    }

    /// What is to be said now, if anything; takes it as said.
    fn due(&mut self, unix: i64, now: Instant) -> Option<Stage> {
        let left = self.end.saturating_sub(unix);
        let notice = match self.kind {
            Kind::Certificate(_) => CERTIFICATE_NOTICE,
            Kind::RevocationList => LIST_NOTICE,
        };
        let stage = if left <= 0 {
            Stage::Over
        } else if left <= notice {
            Stage::Soon
        } else {
            // Also when the clock was wrong before.
            self.said = None;
            return None;
        };
        let said = self
            .said
            .is_some_and(|(said, at)| said == stage && now.saturating_duration_since(at) < REPEAT);
        (!said).then(|| {
            self.said = Some((stage, now));
            stage
        })
    }

    fn say(&self, stage: Stage, unix: i64) {
        let end = tls::show_time(self.end);
        let hours_left = self.end.saturating_sub(unix) / 3_600;
        let (owner, file) = (self.owner.as_str(), self.file.as_str());
        match (self.kind, stage) {
            (Kind::Certificate(role), Stage::Soon) => tracing::warn!(
                event = "certificate_expires_soon",
                role,
                name = owner,
                file,
                subject = self.subject,
                not_after = end,
                hours_left,
                help = "replace the file; it is read again when it changes"
            ),
            (Kind::Certificate(role), Stage::Over) => tracing::warn!(
                event = "certificate_expired",
                role,
                name = owner,
                file,
                subject = self.subject,
                not_after = end,
                help = "replace the file; it is read again when it changes"
            ),
            (Kind::RevocationList, Stage::Soon) => tracing::warn!(
                event = "revocation_list_expires_soon",
                listener = owner,
                file,
                next_update = end,
                hours_left,
                help = "fetch a new one from its CA; client certificates are refused from then on"
            ),
            (Kind::RevocationList, Stage::Over) => tracing::error!(
                event = "revocation_list_expired",
                listener = owner,
                file,
                next_update = end,
                help = "client certificates are refused; fetch a new list from its CA"
            ),
        }
    }
}

/// Two weeks: time for a person to be on holiday (F-20).
const CERTIFICATE_NOTICE: i64 = 14 * 86_400;
/// Lists live for a day to a week and are replaced by programs; half of the shortest of these lives.
const LIST_NOTICE: i64 = 12 * 3_600;
const REPEAT: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const END: i64 = 2_000_000_000;
    const DAY: i64 = 86_400;

    fn item(kind: Kind) -> Item {
        Item {
            kind,
            owner: "gateway".into(),
            file: "server.pem".into(),
            subject: String::new(),
            end: END,
            said: None,
        }
    }

    #[test]
    fn a_certificate_is_mentioned_from_two_weeks_before_its_end_and_once_a_day() {
        let (mut item, start) = (item(Kind::Certificate("listener")), Instant::now());
        assert_eq!(item.due(END - 15 * DAY, start), None);
        assert_eq!(item.due(END - 14 * DAY, start), Some(Stage::Soon));
        let mut mentions = 0;
        // An hour is looked at 24 times a day, for the 14 days.
        for hour in 1..14 * 24 {
            let now = start + Duration::from_secs(hour * 3_600);
            let unix = END - 14 * DAY + i64::try_from(hour).unwrap() * 3_600;
            mentions += usize::from(item.due(unix, now) == Some(Stage::Soon));
        }
        assert_eq!(mentions, 13);
        // Its end is said when it comes, not a day later.
        let now = start + Duration::from_secs(14 * 86_400);
        assert_eq!(item.due(END, now), Some(Stage::Over));
        assert_eq!(item.due(END + 1, now), None);
        assert_eq!(item.due(END + DAY, now + REPEAT), Some(Stage::Over));
    }

    #[test]
    fn a_revocation_list_is_mentioned_half_a_day_before() {
        let (mut item, start) = (item(Kind::RevocationList), Instant::now());
        assert_eq!(item.due(END - DAY, start), None);
        assert_eq!(item.due(END - DAY / 2, start), Some(Stage::Soon));
        assert_eq!(item.due(END, start), Some(Stage::Over));
    }

    #[test]
    fn a_clock_that_jumps_for_years_does_no_harm() {
        let (mut item, start) = (item(Kind::Certificate("listener")), Instant::now());
        assert_eq!(item.due(i64::MAX, start), Some(Stage::Over));
        assert_eq!(item.due(i64::MIN, start), None);
        item.end = i64::MIN;
        assert_eq!(item.due(i64::MAX, start), Some(Stage::Over));
    }
}
