//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use super::{M, Sample, Sort, Value};

pub(super) fn page(families: &[(M, Vec<Sample>)]) -> String {
    let mut out = String::new();
    for (of, samples) in families {
        let family = of.family();
        let sort = match family.sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram(_) => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {sort}", family.name, family.help, family.name);
        for sample in samples {
            match &sample.value {
                Value::Number(number) => line(&mut out, family.name, &sample.labels, None, *number),
                Value::Histogram { counts, sum } => {
                    let bucket = format!("{}_bucket", family.name);
                    let mut below = 0_u64;
                    for (place, count) in counts.iter().enumerate() {
                        below += count;
                        let le = family.bounds().get(place).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
                        line(&mut out, &bucket, &sample.labels, Some(&le), count_of(below));
                    }
                    line(&mut out, &format!("{}_sum", family.name), &sample.labels, None, *sum);
                    line(&mut out, &format!("{}_count", family.name), &sample.labels, None, count_of(below));
                }
            }
        }
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn count_of(count: u64) -> f64 {
    count as f64
}

fn line(out: &mut String, name: &str, labels: &[(&'static str, String)], le: Option<&str>, value: f64) {
    out.push_str(name);
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(le.map(|le| ("le", le)));
    let mut open = '{';
    for (name, value) in all {
        // Values have no quotes, backslashes or line ends: see `plain`.
        let _ = write!(out, "{open}{name}=\"{value}\"");
        open = ',';
    }
    if open == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}
