//! What is counted for every request: by each worker for itself, without atomic read-modify-write and without sharing a
//! cache line, and summed when somebody asks. So metrics do not cost what they measure.

use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Side;
use super::labels::OTHER;

/// One worker's counts for one listener. Belongs to that worker's thread alone: adding is a load and a store.
#[derive(Debug)]
pub struct Tally {
    cells: Arc<[AtomicU64]>,
    /// Two threads adding would lose counts.
    not_sync: PhantomData<Cell<()>>,
}

/// All tallies of one process: the collector of the four families that are counted for every request.
#[derive(Debug, Clone)]
pub(super) struct Tallies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    descriptions: Vec<Desc>,
    commands: Arc<[&'static str]>,
    listeners: Mutex<Vec<Listener>>,
}

/// The tallies of one listener, of all workers.
#[derive(Debug)]
struct Listener {
    name: String,
    tallies: Vec<Arc<[AtomicU64]>>,
}

impl Tally {
    /// Counts bytes read from this side.
    pub fn received(&self, side: Side, bytes: usize) {
        self.add(RECEIVED + side_index(side), bytes as u64);
    }

    /// Counts bytes written to this side.
    pub fn sent(&self, side: Side, bytes: usize) {
        self.add(SENT + side_index(side), bytes as u64);
    }

    /// Counts a forwarded command by its number in the command table; `_other` if it has none.
    pub fn command(&self, index: usize) {
        self.add(
            if self.cells.len() > COMMANDS + index {
                COMMANDS + index
            } else {
                OTHERS
            },
            1,
        );
    }

    /// Records the time from a whole command to its whole reply, for `n` commands that were read and answered together.
    pub fn observe(&self, duration: Duration, n: usize) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS
            .iter()
            .position(|bound| nanos <= *bound)
            .unwrap_or(BOUNDS_NS.len());
        self.add(BUCKETS + bucket, n as u64);
        self.add(NANOS, nanos.saturating_mul(n as u64));
    }

    fn add(&self, cell: usize, n: u64) {
        if let Some(cell) = self.cells.get(cell) {
            // This thread alone writes here, so nothing can come in between.
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }
}

impl Tallies {
    /// # Errors
    /// A name or help text of this module is not valid.
    pub(super) fn new(commands: &Arc<[&'static str]>) -> Result<Self, prometheus::Error> {
        let describe = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().copied().map(str::to_owned).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        Ok(Self(Arc::new(Inner {
            descriptions: vec![
                describe(COMMANDS_TOTAL, &["listener", "cmd"])?,
                describe(DURATION, &["listener"])?,
                describe(RECEIVED_BYTES, &["listener", "side"])?,
                describe(SENT_BYTES, &["listener", "side"])?,
            ],
            commands: Arc::clone(commands),
            listeners: Mutex::default(),
        })))
    }

    /// Makes the listener's series, at zero.
    pub(super) fn add_listener(&self, name: &str) {
        let mut listeners = self.listeners();
        if !listeners.iter().any(|listener| listener.name == name) {
            listeners.push(Listener {
                name: name.to_owned(),
                tallies: Vec::new(),
            });
        }
    }

    /// A further worker's tally.
    pub(super) fn tally(&self, listener: &str) -> Tally {
        let cells: Arc<[AtomicU64]> = (0..COMMANDS + self.0.commands.len())
            .map(|_| AtomicU64::new(0))
            .collect();
        self.add_listener(listener);
        for known in self.listeners().iter_mut().filter(|known| known.name == listener) {
            known.tallies.push(Arc::clone(&cells));
        }
        Tally {
            cells,
            not_sync: PhantomData,
        }
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    fn sum(&self, cell: usize) -> u64 {
        let values = self.tallies.iter().filter_map(|cells| cells.get(cell));
        values.fold(0, |sum, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)))
    }

    fn labels(&self, more: &[(&str, &str)]) -> Vec<LabelPair> {
        // In the order of their names, as the text format has them.
        let mut labels: Vec<(&str, &str)> = more.to_vec();
        labels.push(("listener", &self.name));
        labels.sort_unstable();
        labels
            .into_iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value.to_owned());
                pair
            })
            .collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
    fn counter(&self, cell: usize, label: (&str, &str)) -> Metric {
        let mut counter = Counter::default();
        counter.set_value(self.sum(cell) as f64);
        let mut metric = Metric::from_label(self.labels(&[label]));
        metric.set_counter(counter);
        metric
    }

    #[allow(clippy::cast_precision_loss, reason = "Prometheus measures in doubles")]
    fn histogram(&self) -> Metric {
        let mut count = 0;
        let mut buckets = Vec::new();
        for (index, bound) in BOUNDS_NS.iter().enumerate() {
            count += self.sum(BUCKETS + index);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + self.sum(BUCKETS + BOUNDS_NS.len()));
        histogram.set_sample_sum(self.sum(NANOS) as f64 / 1e9);
        let mut metric = Metric::from_label(self.labels(&[]));
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for Tallies {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let listeners = self.listeners();
        let family = |(name, help): (&str, &str), kind, metrics: Vec<Metric>| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family.set_metric(metrics);
            family
        };
        let by_side = |first: usize| {
            let sides = |listener: &Listener| {
                let counter =
                    |side: &Side| listener.counter(first + side_index(*side), ("side", side.label()));
                Side::ALL.iter().map(counter).collect::<Vec<_>>()
            };
            listeners.iter().flat_map(sides).collect()
        };
        let commands = |listener: &Listener| {
            let known = self.0.commands.iter().enumerate();
            let mut metrics: Vec<Metric> = known
                // Several hundred, of which a program uses a few.
                .filter(|(index, _)| listener.sum(COMMANDS + index) > 0)
                .map(|(index, command)| listener.counter(COMMANDS + index, ("cmd", *command)))
                .collect();
            metrics.push(listener.counter(OTHERS, ("cmd", OTHER)));
            metrics
        };
        vec![
            family(
                COMMANDS_TOTAL,
                MetricType::COUNTER,
                listeners.iter().flat_map(commands).collect(),
            ),
            family(
                DURATION,
                MetricType::HISTOGRAM,
                listeners.iter().map(Listener::histogram).collect(),
            ),
            family(RECEIVED_BYTES, MetricType::COUNTER, by_side(RECEIVED)),
            family(SENT_BYTES, MetricType::COUNTER, by_side(SENT)),
        ]
    }
}

const fn side_index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Upstream => 1,
    }
}

// Where in the cells which count lies.
const RECEIVED: usize = 0;
const SENT: usize = 2;
const OTHERS: usize = 4;
const NANOS: usize = 5;
const BUCKETS: usize = 6;
/// One cell for each row of the command table from here on.
const COMMANDS: usize = BUCKETS + BOUNDS_NS.len() + 1;

/// Upper bounds of the histogram's buckets, in nanoseconds: the same as of all histograms of durations.
const BOUNDS_NS: [u64; 15] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
];

const COMMANDS_TOTAL: (&str, &str) = (
    "keyward_commands_total",
    "Commands forwarded. cmd is the lower-case command of the built-in table, else _other.",
);
const DURATION: (&str, &str) = (
    "keyward_command_duration_seconds",
    "Time from a whole command read from the client to its whole reply written back.",
);
const RECEIVED_BYTES: (&str, &str) = (
    "keyward_network_received_bytes_total",
    "Bytes read. side is client or upstream.",
);
const SENT_BYTES: (&str, &str) = (
    "keyward_network_sent_bytes_total",
    "Bytes written. side is client or upstream.",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_count_apart_and_are_shown_together() {
        let tallies = Tallies::new(&["get", "set"].into()).unwrap();
        tallies.add_listener("main");
        let (one, other) = (tallies.tally("main"), tallies.tally("main"));
        one.command(0);
        other.command(0);
        other.command(1);
        other.command(7);
        one.received(Side::Client, 10);
        other.received(Side::Client, 5);
        other.sent(Side::Upstream, 3);
        one.observe(Duration::from_micros(70), 5);
        other.observe(Duration::from_secs(3), 1);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&tallies.collect())
            .unwrap();
        for line in [
            "keyward_commands_total{cmd=\"get\",listener=\"main\"} 2",
            "keyward_commands_total{cmd=\"set\",listener=\"main\"} 1",
            "keyward_commands_total{cmd=\"_other\",listener=\"main\"} 1",
            "keyward_network_received_bytes_total{listener=\"main\",side=\"client\"} 15",
            "keyward_network_sent_bytes_total{listener=\"main\",side=\"upstream\"} 3",
            "keyward_network_sent_bytes_total{listener=\"main\",side=\"client\"} 0",
            "keyward_command_duration_seconds_bucket{listener=\"main\",le=\"0.00005\"} 0",
            "keyward_command_duration_seconds_bucket{listener=\"main\",le=\"0.0001\"} 5",
            "keyward_command_duration_seconds_bucket{listener=\"main\",le=\"2.5\"} 5",
            "keyward_command_duration_seconds_bucket{listener=\"main\",le=\"+Inf\"} 6",
            "keyward_command_duration_seconds_count{listener=\"main\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let tallies = Tallies::new(&Arc::default()).unwrap();
        let tally = tallies.tally("main");
        tally.observe(Duration::from_nanos(50_000), 1);
        tally.observe(Duration::from_nanos(50_001), 1);
        let listeners = tallies.listeners();
        assert_eq!(listeners[0].sum(BUCKETS), 1);
        assert_eq!(listeners[0].sum(BUCKETS + 1), 1);
    }
}
