//! The usual `process_*` families, read from `/proc/self` at each scrape.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Collects CPU time, resident memory, file descriptors and start time. What cannot be read is left out.
#[derive(Debug)]
pub struct ProcessMetrics {
    descriptions: Vec<Desc>,
}

impl ProcessMetrics {
    /// # Errors
    /// A name or help text of this module is not valid.
    pub fn new() -> Result<Self, prometheus::Error> {
        let describe = |(name, help): (&str, &str)| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                std::collections::HashMap::new(),
            )
        };
        let all = [CPU, MEMORY, OPEN_FDS, MAX_FDS, START];
        Ok(Self {
            descriptions: all.into_iter().map(describe).collect::<Result<_, _>>()?,
        })
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let status = fs::read_to_string("/proc/self/status").ok();
        let gauges = [
            (MEMORY, status.as_deref().and_then(resident_bytes)),
            (OPEN_FDS, open_files()),
            (MAX_FDS, max_open_files().map(float)),
            (
                START,
                stat.as_deref()
                    .zip(boot_time())
                    .and_then(|(stat, boot)| start_time(stat, boot)),
            ),
        ];
        let mut families = Vec::new();
        if let Some(seconds) = stat.as_deref().and_then(cpu_seconds)
            && let Ok(counter) = Counter::new(CPU.0, CPU.1)
        {
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
        for ((name, help), value) in gauges {
            if let Some(value) = value
                && let Ok(gauge) = Gauge::new(name, help)
            {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

/// The soft limit of open files (`RLIMIT_NOFILE`, rule L-31); `None` if it is unlimited or cannot be read.
pub fn max_open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The calling thread's number, for [`thread_cpu_seconds`]; `None` where there is no Linux `/proc`.
pub fn thread_number() -> Option<u32> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

/// Processor time of one thread of this process, in steps of 10 ms.
pub fn thread_cpu_seconds(thread: u32) -> Option<f64> {
    cpu_seconds(&fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?)
}

/// The directory that is being read holds one descriptor itself.
fn open_files() -> Option<f64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(float(u64::try_from(entries.saturating_sub(1)).ok()?))
}

/// From `VmRSS`, which is in kB: no page size is needed.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(float(kilobytes.saturating_mul(1024)))
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, boot: f64) -> Option<f64> {
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

/// When the system booted, in Unix seconds.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// A field by its number in proc(5). The second is the program's name in parentheses and may hold anything, so
/// the fields are counted from the last closing one.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "bytes and descriptors of one process stay below 2^53"
)]
fn float(value: u64) -> f64 {
    value as f64
}

const CPU: (&str, &str) = (
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds.",
);
const MEMORY: (&str, &str) = ("process_resident_memory_bytes", "Resident memory size in bytes.");
const OPEN_FDS: (&str, &str) = ("process_open_fds", "Number of open file descriptors.");
const MAX_FDS: (&str, &str) = ("process_max_fds", "Maximum number of open file descriptors.");
const START: (&str, &str) = (
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
);

/// `USER_HZ`: what the kernel shows times in, 100 on every architecture that Linux and Rust share; unlike the
/// kernel's own `HZ` it is part of the ABI and does not depend on the build.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_hostile_program_name() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194304 1 0 0 0 250 150 0 0 20 0 1 0 1000 1 1";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(start_time(stat, 50.0), Some(60.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn this_thread_has_a_number_and_used_time() {
        assert!(thread_cpu_seconds(thread_number().unwrap()).unwrap() >= 0.0);
        assert_eq!(thread_cpu_seconds(0), None);
    }

    #[test]
    fn this_process_has_sensible_values() {
        assert_eq!(ProcessMetrics::new().unwrap().collect().len(), 5);
        assert!(max_open_files().unwrap() > 0);
        assert!(open_files().unwrap() >= 3.0);
    }
}
