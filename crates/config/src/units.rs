/// Reads a duration to milliseconds: `90s`, `1.5h`, `7d`, `1h30m`, or a bare number in `bare_ms` units.
/// Units: `ms s m h d w`. None when it is not one.
#[must_use]
pub fn duration_ms(text: &str, bare_ms: u64) -> Option<u64> {
    let units = [("ms", 1.0), ("s", 1000.0), ("m", 60_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0), ("w", 604_800_000.0)];
    measure(text, bare_ms as f64, &units)
}

/// Reads a size to bytes: `2mb`, `500 KB`, or a bare number of bytes. Units: `b kb mb gb tb`, each 1024 of the one before.
#[must_use]
pub fn size_bytes(text: &str) -> Option<u64> {
    let units = [
        ("b", 1.0),
        ("kb", 1024.0),
        ("k", 1024.0),
        ("mb", 1_048_576.0),
        ("m", 1_048_576.0),
        ("gb", 1_073_741_824.0),
        ("g", 1_073_741_824.0),
        ("tb", 1_099_511_627_776.0),
        ("t", 1_099_511_627_776.0),
    ];
    measure(text, 1.0, &units)
}

fn measure(text: &str, bare: f64, units: &[(&str, f64)]) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.as_str();
    let mut total = 0.0;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = rest.get(..letters)?;
        rest = rest.get(letters..)?.trim_start();
        let factor = if unit.is_empty() {
            if any || !rest.is_empty() {
                return None;
            }
            bare
        } else {
            units.iter().find(|(u, _)| *u == unit)?.1
        };
        total += number * factor;
        any = true;
    }
    (any && total.is_finite() && total <= 9.0e15).then_some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::{duration_ms, size_bytes};

    #[test]
    fn durations_and_sizes_have_units() {
        for (text, want) in [
            ("250ms", Some(250)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("5", Some(300_000)),
            ("", None),
            ("h", None),
            ("5x", None),
            ("-1s", None),
            ("1h5", None),
        ] {
            assert_eq!(duration_ms(text, 60_000), want, "{text}");
        }
        for (text, want) in [("2mb", Some(2 << 20)), ("500 KB", Some(512_000)), ("17", Some(17)), ("1tb", Some(1 << 40)), ("x", None)] {
            assert_eq!(size_bytes(text), want, "{text}");
        }
    }
}
