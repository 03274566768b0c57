use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{BYTES_MAX, DEPTH_MAX, Refusal};

/// Largest whole number, either way: 2^53 − 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Reads JSON as letters may be written: at most [`BYTES_MAX`] bytes (looked at first), UTF-8, at most [`DEPTH_MAX`]
/// levels of arrays and objects, no key twice in one object, no number beyond ±(2^53 − 1) however it is written, nothing
/// after the value.
///
/// # Errors
/// `TooLarge` or `Malformed`.
pub fn parse_strict(bytes: &[u8]) -> Result<Value, Refusal> {
    parse_within(bytes, BYTES_MAX)
}

/// The same with another bound of the size, for bodies that travel by reference.
pub(super) fn parse_within(bytes: &[u8], bytes_max: usize) -> Result<Value, Refusal> {
    if bytes.len() > bytes_max {
        return Err(Refusal::TooLarge { bytes: bytes.len(), bytes_max });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let malformed = |err: serde_json::Error| Refusal::malformed(err.to_string());
    let value = Strict { left: DEPTH_MAX }.deserialize(&mut reader).map_err(malformed)?;
    reader.end().map_err(malformed)?;
    Ok(value)
}

/// Checks what we are about to sign by the same rules.
pub(super) fn check_value(value: &Value, left: usize) -> Result<(), Refusal> {
    match value {
        Value::Number(number) if !number_is_safe(number) => Err(Refusal::malformed(format!("the number {number} is beyond 2^53 - 1"))),
        Value::Array(_) | Value::Object(_) if left == 0 => Err(too_deep()),
        Value::Array(items) => items.iter().try_for_each(|item| check_value(item, left - 1)),
        Value::Object(map) => map.values().try_for_each(|item| check_value(item, left - 1)),
        _ => Ok(()),
    }
}

fn too_deep() -> Refusal {
    Refusal::malformed(format!("more than {DEPTH_MAX} levels deep"))
}

fn number_is_safe(number: &Number) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is exact as f64")]
    let bound = INTEGER_MAX as f64;
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= INTEGER_MAX,
        (None, Some(n)) => n.unsigned_abs() <= INTEGER_MAX,
        _ => number.as_f64().is_some_and(|n| n.is_finite() && n.abs() <= bound),
    }
}

struct Strict {
    left: usize,
}

impl Strict {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.left.checked_sub(1).ok_or_else(|| E::custom(format_args!("more than {DEPTH_MAX} levels deep")))
    }
}

fn number<E: Error>(number: Number) -> Result<Value, E> {
    if number_is_safe(&number) { Ok(Value::Number(number)) } else { Err(E::custom(format_args!("the number {number} is beyond 2^53 - 1"))) }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        number(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        number(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        number(Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?)
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let left = self.deeper()?;
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(Strict { left })? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let left = self.deeper()?;
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if out.contains_key(&key) {
                let shown: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format_args!("the key {shown:?} is there twice")));
            }
            let value = entries.next_value_seed(Strict { left })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> String {
        parse_strict(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_json_allows_and_we_do_not() {
        assert!(refused(r#"{"a":1,"b":{"c":1,"c":2}}"#).contains("\"c\" is there twice"));
        assert!(refused(r#"{"a":1,"\u0061":2}"#).contains("twice"));
        for number in ["9007199254740992", "-9007199254740992", "18446744073709551616", "1e300", "9007199254740992.0"] {
            assert!(refused(&format!("[{number}]")).contains("beyond"), "{number}");
        }
        for fine in ["9007199254740991", "-9007199254740991", "0.1", "1e-7", "-0"] {
            assert!(parse_strict(fine.as_bytes()).is_ok(), "{fine}");
        }
        for broken in ["", "{", "[1,]", "nul", "{} {}", "\"\\ud800\"", "NaN", "{'a':1}"] {
            assert!(matches!(parse_strict(broken.as_bytes()), Err(Refusal::Malformed { .. })), "{broken}");
        }
        assert!(matches!(parse_strict(b"\"\xff\""), Err(Refusal::Malformed { .. })));
    }

    #[test]
    fn depth_and_size_have_bounds() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let deepest = parse_strict(nested(DEPTH_MAX).as_bytes()).unwrap();
        assert_eq!(check_value(&deepest, DEPTH_MAX), Ok(()));
        assert!(refused(&nested(DEPTH_MAX + 1)).contains("levels deep"));
        assert!(refused(&nested(100_000)).contains("levels deep"));
        assert!(check_value(&Value::Array(vec![deepest]), DEPTH_MAX).is_err());
        // Size is looked at before anything is read.
        assert!(matches!(parse_strict(&vec![0xff; BYTES_MAX + 1]), Err(Refusal::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn reads_what_serde_json_writes(text in "\\PC{0,40}", n in -9_007_199_254_740_991i64..=9_007_199_254_740_991, f in -1e15f64..1e15) {
            let value = serde_json::json!({"text": text, "n": n, "f": f, "list": [null, true, {"k": text}]});
            prop_assert_eq!(parse_strict(value.to_string().as_bytes()).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_strict(&bytes);
        }
    }
}
