use clawstead_terms::Millis;

/// Writes a moment as RFC 3339 in UTC with milliseconds: `2026-11-20T11:00:00.000Z`.
///
/// Moments outside of what the calendar can show are written as its first or last millisecond.
#[must_use]
pub fn format_stamp(at: Millis) -> String {
    let bounded = at.0.clamp(-62_135_596_800_000, 253_402_207_200_000);
    let moment = jiff::Timestamp::from_millisecond(bounded).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Reads exactly the form that [`format_stamp`] writes. One moment has one text, so that a signature over a text read
/// and written again still holds.
#[must_use]
pub fn parse_stamp(text: &str) -> Option<Millis> {
    if text.len() != 24 {
        return None;
    }
    let at = Millis(text.parse::<jiff::Timestamp>().ok()?.as_millisecond());
    (format_stamp(at) == text).then_some(at)
}

/// For `#[serde(with = ..)]`.
pub(crate) mod text {
    use clawstead_terms::Millis;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(at: &Millis, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_stamp(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_stamp(&text).ok_or_else(|| D::Error::custom("a moment must look like 2026-11-20T11:00:00.000Z"))
    }
}

/// For `#[serde(with = ..)]` on an `Option`.
pub(crate) mod text_opt {
    use clawstead_terms::Millis;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(at: &Option<Millis>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::text::serialize(at, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Millis>, D::Error> {
        super::text::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::{format_stamp, parse_stamp};
    use clawstead_terms::Millis;

    #[test]
    fn one_moment_has_one_text() {
        let text = "2026-11-20T11:00:00.000Z";
        assert_eq!(parse_stamp(text).map(format_stamp).as_deref(), Some(text));
        assert_eq!(format_stamp(Millis(0)), "1970-01-01T00:00:00.000Z");
        for bad in
            ["2026-11-20T11:00:00Z", "2026-11-20T11:00:00.000+00:00", "2026-11-20 11:00:00.000Z", "2026-11-20t11:00:00.000z", "2026-02-30T00:00:00.000Z", ""]
        {
            assert_eq!(parse_stamp(bad), None, "{bad}");
        }
        assert_eq!(format_stamp(Millis(i64::MAX)).len(), 24);
        assert_eq!(format_stamp(Millis(i64::MIN)).len(), 24);
    }
}
