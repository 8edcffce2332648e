//! What the running Keywards know: asked through the metrics of their admin listeners, which change nothing.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::super::healthcheck::{ask, body};

/// The Keywards that read the files of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// Their admin listeners.
    pub(super) addresses: Vec<SocketAddr>,
    /// How long they may take to read a changed file.
    pub(super) patience: Duration,
}

/// One page of metrics.
#[derive(Debug)]
pub(super) struct Page(String);

impl Running {
    /// Waits until `arrived` says so of each of them.
    ///
    /// # Errors
    /// One does not answer, or time is over; `what` is what was waited for.
    pub(super) fn wait(
        &self,
        what: &str,
        arrived: impl Fn(&Page) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        // Looks are counted rather than time: whoever stops a whole machine for a while stops both sides.
        let mut left = self.patience.as_millis() / POLL.as_millis();
        for &address in &self.addresses {
            loop {
                let page = read(address)?;
                // One that refused to reload shows the dates of files that it did not take over.
                let refused = page.value(LOADED_WELL, &[]) == Some(0.0);
                if arrived(&page).with_context(|| format!("the Keyward at {address}"))? && !refused {
                    break;
                }
                if left == 0 {
                    let why = if refused {
                        "it refused to reload: its log line reload_failed says why"
                    } else {
                        "does it read the same file? A single file that is mounted into a container is not followed \
                         when it is replaced; mount its folder"
                    };
                    anyhow::bail!(
                        "the Keyward at {address} has not {what} within {}: {why}",
                        crate::config::show_duration(self.patience)
                    );
                }
                left -= 1;
                sleep(POLL);
            }
        }
        Ok(())
    }

    /// A page of each.
    pub(super) fn pages(&self) -> anyhow::Result<Vec<(SocketAddr, Page)>> {
        let pages = self
            .addresses
            .iter()
            .map(|&address| Ok((address, read(address)?)));
        pages.collect()
    }
}

impl Page {
    /// The value of a series with these labels, among others perhaps.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.values(name, labels).next()
    }

    /// Of all such series.
    pub(super) fn values<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            // Names of listeners, upstreams and users hold nothing that is escaped in a label.
            let (given, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.split_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let has = |(name, value): &(&str, &str)| {
                given
                    .split(',')
                    .any(|label| label == format!("{name}=\"{value}\""))
            };
            labels.iter().all(has).then(|| value.trim().parse().ok())?
        })
    }

    /// Whether a series holds this moment, as far as a number of seconds can.
    pub(super) fn is_at(&self, name: &str, labels: &[(&str, &str)], moment: SystemTime) -> Option<bool> {
        let value = self.value(name, labels)?;
        Some((value - unix(moment)).abs() < 1e-3)
    }
}

/// Seconds since 1970.
pub(super) fn unix(moment: SystemTime) -> f64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn read(address: SocketAddr) -> anyhow::Result<Page> {
    let answer = ask(address, "/metrics", MAX_PAGE).with_context(|| {
        format!(
            "no Keyward answers at its admin address {address} (--admin names others, --offline says that none runs)"
        )
    })?;
    if !answer.starts_with("HTTP/1.1 200") {
        anyhow::bail!("what answers at {address} is not the admin listener of a Keyward");
    }
    Ok(Page(body(&answer).to_owned()))
}

const LOADED_WELL: &str = "keyward_config_last_reload_successful";
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Ten thousand users have less.
const MAX_PAGE: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_their_labels() {
        let page = Page(
            "# HELP a x\na{user=\"app\",n=\"1\"} 3\na{user=\"app-2\",n=\"1\"} 4\nab 5\na_b{user=\"app\"} 6\nb 1.5e9\n"
                .to_owned(),
        );
        assert_eq!(page.value("a", &[("user", "app")]), Some(3.0));
        assert_eq!(page.value("a", &[("user", "ap")]), None);
        assert_eq!(page.values("a", &[("n", "1")]).sum::<f64>(), 7.0);
        assert_eq!(page.value("ab", &[]), Some(5.0));
        assert_eq!(page.value("b", &[]), Some(1.5e9));
        let moment = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        assert_eq!(page.is_at("b", &[], moment), Some(true));
        assert_eq!(
            page.is_at("b", &[], moment + Duration::from_millis(5)),
            Some(false)
        );
        assert_eq!(page.is_at("c", &[], moment), None);
    }
}
