//! Figures that are counted where things happen and read by whoever scrapes: one cheap handle, a fixed table of
//! families ([`M`]), bounded series.
//!
//! Written by us: a client library would be a crate for what is a map with a lock and a page of text.

mod families;
mod sample;
mod text;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

pub use families::{Family, M, Sort};
pub use sample::{Sample, Value};

/// Series that are kept in all; a new one above is dropped and counted in `openclaw_prometheus_series_dropped_total`.
pub const SERIES_MAX: usize = 2048;
/// Series of one family at most, so that one bad label cannot take the room of all.
pub const FAMILY_MAX: usize = 256;
/// Characters of a label value; a longer one is `other`.
pub const LABEL_MAX: usize = 64;
/// Between the label values of a series in its key; never part of a value.
const BETWEEN: char = '\u{1f}';

#[derive(Clone, Debug)]
enum Cell {
    Number(f64),
    Histogram { counts: Vec<u64>, sum: f64 },
}

struct Shared {
    on: AtomicBool,
    families: Vec<Mutex<BTreeMap<String, Cell>>>,
    series: AtomicUsize,
    dropped: AtomicU64,
}

/// The counters, gauges and histograms of one gateway. Clones are handles on the same ones.
///
/// Label values are given in the order of [`Family::labels`]; one that is missing counts as `none`. Values come out
/// as they went in when they are short and plain, and as `other` when not: nothing that a stranger writes makes a
/// page of new series.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at nothing, counting.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            on: AtomicBool::new(true),
            families: M::ALL.iter().map(|_| Mutex::default()).collect(),
            series: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Stops counting for good and forgets (`diagnostics.enabled: false`).
    pub fn switch_off(&self) {
        self.0.on.store(false, Ordering::Relaxed);
        for family in &self.0.families {
            family.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Whether anything is counted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn inc(&self, of: M, labels: &[&str]) {
        self.add(of, labels, 1.0);
    }

    /// `by` more. With 0 the series appears, so that its first event is an increase.
    pub fn add(&self, of: M, labels: &[&str], by: f64) {
        self.with(of, labels, |cell| {
            if let Cell::Number(number) = cell {
                *number += by;
            }
        });
    }

    /// The value is this now.
    pub fn set(&self, of: M, labels: &[&str], to: f64) {
        self.with(of, labels, |cell| {
            if let Cell::Number(number) = cell {
                *number = to;
            }
        });
    }

    /// One measurement, in the unit of the family's name (seconds).
    pub fn observe(&self, of: M, labels: &[&str], value: f64) {
        let bounds = of.family().bounds();
        self.with(of, labels, |cell| {
            if let Cell::Histogram { counts, sum } = cell {
                let place = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
                if let Some(count) = counts.get_mut(place) {
                    *count += 1;
                }
                *sum += value;
            }
        });
    }

    /// Forgets the series of a family: a gauge whose labels (peers, states) are told anew.
    pub fn clear(&self, of: M) {
        let mut family = self.family(of);
        self.0.series.fetch_sub(family.len(), Ordering::Relaxed);
        family.clear();
    }

    /// The value of one series, or how many measurements it has; none when nothing was counted.
    #[must_use]
    pub fn value(&self, of: M, labels: &[&str]) -> Option<f64> {
        self.family(of).get(&key(of, labels)).map(|cell| match cell {
            Cell::Number(number) => *number,
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
            Cell::Histogram { counts, .. } => counts.iter().sum::<u64>() as f64,
        })
    }

    /// Everything as it is now, in the order of the table.
    #[must_use]
    pub fn samples(&self) -> Vec<(M, Vec<Sample>)> {
        let mut out = Vec::new();
        for of in M::ALL {
            let mut found: Vec<Sample> = self.family(*of).iter().map(|(key, cell)| Sample::of(*of, key, cell)).collect();
            if *of == M::SeriesDropped && self.is_on() {
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
                found.push(Sample { labels: Vec::new(), value: Value::Number(self.0.dropped.load(Ordering::Relaxed) as f64) });
            }
            if !found.is_empty() {
                out.push((*of, found));
            }
        }
        out
    }

    /// The page that Prometheus reads, text format 0.0.4; empty when nothing is counted.
    #[must_use]
    pub fn text(&self) -> String {
        text::page(&self.samples())
    }

    fn family(&self, of: M) -> MutexGuard<'_, BTreeMap<String, Cell>> {
        self.0.families[of as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, of: M, labels: &[&str], change: impl FnOnce(&mut Cell)) {
        if !self.is_on() {
            return;
        }
        let key = key(of, labels);
        let mut family = self.family(of);
        if let Some(cell) = family.get_mut(&key) {
            return change(cell);
        }
        if family.len() >= FAMILY_MAX || self.0.series.load(Ordering::Relaxed) >= SERIES_MAX {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.0.series.fetch_add(1, Ordering::Relaxed);
        let cell = family.entry(key).or_insert_with(|| match of.family().sort {
            Sort::Histogram(bounds) => Cell::Histogram { counts: vec![0; bounds.len() + 1], sum: 0.0 },
            Sort::Counter | Sort::Gauge => Cell::Number(0.0),
        });
        change(cell);
    }
}

fn key(of: M, labels: &[&str]) -> String {
    let mut key = String::new();
    for place in 0..of.family().labels.len() {
        if place > 0 {
            key.push(BETWEEN);
        }
        key.push_str(plain(labels.get(place).copied().unwrap_or_default()));
    }
    key
}

/// A label value as it may be shown: what is long, odd or looks like a session is not.
fn plain(value: &str) -> &str {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@' | '+');
    if value.is_empty() {
        "none"
    } else if value.len() > LABEL_MAX || !value.chars().all(fits) || value.starts_with("agent:") {
        "other"
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::{FAMILY_MAX, M, Metrics};

    #[test]
    fn what_is_counted_is_on_the_page() {
        let metrics = Metrics::new();
        metrics.inc(M::FarmEvents, &["farm.msg.queued", ""]);
        metrics.add(M::FarmEvents, &["farm.msg.queued"], 2.0);
        metrics.set(M::FarmMembers, &["healthy"], 3.0);
        metrics.observe(M::FarmCoordSeconds, &["put_if", "ok"], 0.03);
        metrics.observe(M::FarmCoordSeconds, &["put_if", "ok"], 99.0);
        let page = metrics.text();
        for line in [
            "# TYPE openclaw_farm_events_total counter",
            "openclaw_farm_events_total{event=\"farm.msg.queued\",reason=\"none\"} 3",
            "openclaw_farm_members{state=\"healthy\"} 3",
            "openclaw_farm_coord_seconds_bucket{op=\"put_if\",outcome=\"ok\",le=\"0.05\"} 1",
            "openclaw_farm_coord_seconds_bucket{op=\"put_if\",outcome=\"ok\",le=\"+Inf\"} 2",
            "openclaw_farm_coord_seconds_count{op=\"put_if\",outcome=\"ok\"} 2",
            "openclaw_farm_coord_seconds_sum{op=\"put_if\",outcome=\"ok\"} 99.03",
            "openclaw_prometheus_series_dropped_total 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn strange_label_values_become_other_and_series_are_bounded() {
        let metrics = Metrics::new();
        metrics.inc(M::FarmEvents, &["farm.msg.rejected", "a \"quoted\"\nline"]);
        metrics.inc(M::FarmEvents, &["agent:main:main", &"x".repeat(500)]);
        assert_eq!(metrics.value(M::FarmEvents, &["farm.msg.rejected", "other"]), Some(1.0));
        assert_eq!(metrics.value(M::FarmEvents, &["other", "other"]), Some(1.0));
        for n in 0..FAMILY_MAX * 2 {
            metrics.inc(M::FarmEvents, &[&format!("e{n}"), ""]);
        }
        assert!(metrics.text().contains(&format!("openclaw_prometheus_series_dropped_total {}\n", FAMILY_MAX + 2)));
        metrics.clear(M::FarmEvents);
        metrics.inc(M::FarmEvents, &["again"]);
        assert_eq!(metrics.value(M::FarmEvents, &["again"]), Some(1.0));
    }

    #[test]
    fn switched_off_nothing_is_counted_and_the_page_is_empty() {
        let metrics = Metrics::new();
        metrics.inc(M::Runs, &[]);
        metrics.switch_off();
        metrics.inc(M::Runs, &[]);
        assert_eq!(metrics.text(), "");
    }

    #[test]
    fn names_are_there_once_and_counters_end_in_total() {
        let mut seen = std::collections::BTreeSet::new();
        for of in M::ALL {
            let family = of.family();
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert_eq!(family.name.ends_with("_total"), matches!(family.sort, super::Sort::Counter), "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.contains('\n'), "{}", family.name);
        }
    }
}
