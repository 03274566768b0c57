use super::{BETWEEN, Cell, M};

/// What a series shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A counter or a gauge.
    Number(f64),
    /// Measurements by upper bound, each counted once; the last stands for everything above.
    Histogram {
        /// How many, one more than bounds.
        counts: Vec<u64>,
        /// All of them together.
        sum: f64,
    },
}

/// A series as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: Value,
}

impl Sample {
    pub(super) fn of(of: M, key: &str, cell: &Cell) -> Self {
        let labels = of.family().labels.iter().zip(key.split(BETWEEN)).map(|(name, value)| (*name, value.to_owned())).collect();
        let value = match cell {
            Cell::Number(number) => Value::Number(*number),
            Cell::Histogram { counts, sum } => Value::Histogram { counts: counts.clone(), sum: *sum },
        };
        Self { labels, value }
    }
}
