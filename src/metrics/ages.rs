//! When credentials were changed: series of those in force and of no others, so that no alert is about a user who is gone.

use std::collections::BTreeMap;

use prometheus::GaugeVec;
use prometheus::core::Collector as _;

/// Replaces the values by user; of several upstreams only those of this one.
pub(super) fn set<'a>(
    family: &GaugeVec,
    upstream: Option<&str>,
    all: impl IntoIterator<Item = (&'a str, f64)>,
) {
    let labels = |user| upstream.into_iter().chain([user]).collect::<Vec<&str>>();
    let ages: BTreeMap<&str, f64> = all.into_iter().collect();
    // First: whoever waits for one never finds it missing.
    for (user, changed) in &ages {
        family.with_label_values(&labels(user)).set(*changed);
    }
    for metric in family
        .collect()
        .iter()
        .flat_map(|found| found.get_metric().iter())
    {
        let label = |name: &str| {
            let mut pairs = metric.get_label().iter();
            pairs
                .find(|pair| pair.name() == name)
                .map_or("", |pair| pair.value())
        };
        let is_ours = upstream.is_none_or(|name| label("upstream") == name);
        if is_ours && !ages.contains_key(label("user")) {
            // It was there a moment ago.
            let _ = family.remove_label_values(&labels(label("user")));
        }
    }
}
