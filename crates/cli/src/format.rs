//! Times, sizes and other things in words.

use serde_json::Value;

/// Now, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// `3m`, `2h`, `5d`.
#[must_use]
pub fn span(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..172_800 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// `in 3m`, `3m ago`, `-`.
#[must_use]
pub fn relative(at: Option<i64>) -> String {
    match at {
        None => "-".into(),
        Some(at) if at >= now_ms() => format!("in {}", span(at - now_ms())),
        Some(at) => format!("{} ago", span(now_ms() - at)),
    }
}

/// `2026-11-20 13:36Z`.
#[must_use]
pub fn minute(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(|_| text.to_owned(), |t| t.strftime("%Y-%m-%d %H:%MZ").to_string())
}

/// `every 30m` from milliseconds.
#[must_use]
pub fn every(ms: i64) -> String {
    match ms {
        _ if ms > 0 && ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        _ if ms > 0 && ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        _ if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        _ if ms > 0 && ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// A duration as flags give it (`30m`, `7d`, `500ms`; a bare number means `bare_ms` each).
///
/// # Errors
/// With a sentence for the user.
pub fn duration(text: &str, bare_ms: u64) -> Result<u64, String> {
    clawstead_config::duration_ms(text.trim(), bare_ms).ok_or_else(|| format!("\"{text}\" is not a duration (use for example 30s, 20m, 2h, 7d)"))
}

/// A field of a JSON object as text, empty when it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A field as a whole number.
#[must_use]
pub fn number(value: &Value, name: &str) -> Option<i64> {
    let field = value.get(name)?;
    field.as_i64().or_else(|| field.as_f64().map(|f| f as i64))
}

/// A field as a list; empty when it is not one.
#[must_use]
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Any scalar as text.
#[must_use]
pub fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `-` for nothing.
#[must_use]
pub fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{duration, every, span};

    #[test]
    fn spans_read_well() {
        assert_eq!([0, 59_000, 60_000, 3_600_000, 172_800_000].map(span), ["0s", "59s", "1m", "1h", "2d"]);
        assert_eq!([1_800_000, 86_400_000, 1_500, 90_000].map(every), ["30m", "1d", "1500ms", "90s"]);
        assert_eq!(duration("7d", 1), Ok(604_800_000));
        assert_eq!(duration("20", 60_000), Ok(1_200_000));
        assert!(duration("soon", 1).is_err());
    }
}
