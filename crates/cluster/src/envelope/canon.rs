use serde::Serialize;
use serde_json::Value;

use super::Refusal;

/// The one text of a value (RFC 8785, JSON Canonicalization Scheme): keys in the order of their UTF-16 units, numbers as
/// ECMAScript writes them, no spaces. Two values are equal exactly when their canonical bytes are.
///
/// # Errors
/// `Malformed` when the value has no such text (a key that is not a string, a number that is not finite).
pub fn canonical(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_jcs::to_vec(value).map_err(|err| Refusal::malformed(format!("no canonical form: {err}")))
}

/// As [`canonical`], for what is a JSON value already: every letter is written so several times on its way.
///
/// # Errors
/// As [`canonical`].
pub(super) fn write_canonical(value: &Value, out: &mut Vec<u8>) -> Result<(), Refusal> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::String(text) => write_text(text, out)?,
        Value::Number(number) if number.is_f64() => out.extend(canonical(number)?),
        // Beyond 2^53 ECMAScript writes another number: that is the library's to say.
        Value::Number(number) if number.as_i64().is_none_or(|n| n.unsigned_abs() > super::INTEGER_MAX) => out.extend(canonical(number)?),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_canonical(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => write_object(map.iter().map(|(name, value)| (name.as_str(), value)).collect(), out)?,
    }
    Ok(())
}

/// An object of these fields, in their canonical order.
///
/// # Errors
/// As [`canonical`].
pub(super) fn write_object(mut fields: Vec<(&str, &Value)>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    // Bytes and UTF-16 units of ASCII texts have the same order.
    if fields.iter().all(|(name, _)| name.is_ascii()) {
        fields.sort_unstable_by(|a, b| a.0.cmp(b.0));
    } else {
        fields.sort_unstable_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
    }
    out.push(b'{');
    for (at, (name, value)) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(name, out)?;
        out.push(b':');
        write_canonical(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Escapes are the same in JSON as serde writes it.
fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
    serde_json::to_writer(out, text).map_err(|err| Refusal::malformed(format!("no canonical form: {err}")))
}

#[cfg(test)]
mod tests {
    use super::{canonical, write_canonical};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text(json: &str) -> String {
        let value: Value = serde_json::from_str(json).unwrap();
        String::from_utf8(canonical(&value).unwrap()).unwrap()
    }

    /// The examples of RFC 8785: section 3.2.2 (values), 3.2.3 (order of keys), appendix B (numbers).
    #[test]
    fn vectors_of_rfc_8785() {
        assert_eq!(
            text(
                r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                    "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#
            ),
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        let sorted: Vec<Value> = {
            let out = text(
                r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
                    "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#,
            );
            let map: serde_json::Map<String, Value> = serde_json::from_str(&out).unwrap();
            map.values().cloned().collect()
        };
        assert_eq!(
            json!(sorted),
            json!([
                "Carriage Return",
                "One",
                "Control",
                "Latin Small Letter O With Diaeresis",
                "Euro Sign",
                "Emoji: Grinning Face",
                "Hebrew Letter Dalet With Dagesh"
            ])
        );
        for (bits, want) in [
            (0x0000_0000_0000_0000u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(String::from_utf8(canonical(&f64::from_bits(bits)).unwrap()).unwrap(), want, "{bits:x}");
        }
        assert!(canonical(&f64::NAN).is_err() || canonical(&f64::NAN).unwrap() == b"null");
    }

    /// Values of every shape.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            "\\PC{0,12}|[\\x00-\\x7f]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("\\PC{0,4}|[a-z_\\x00-\\x1f]{0,4}", inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_short_way_writes_the_same_bytes(value in values()) {
            let mut out = Vec::new();
            match (write_canonical(&value, &mut out), canonical(&value)) {
                (Ok(()), Ok(want)) => prop_assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(want).unwrap()),
                (ours, theirs) => prop_assert_eq!(ours.is_err(), theirs.is_err()),
            }
        }

        #[test]
        fn reading_and_writing_again_changes_nothing(keys in proptest::collection::vec("\\PC{0,8}", 0..8), f in any::<f64>(), n in any::<i32>()) {
            let mut map = serde_json::Map::new();
            for key in keys {
                map.insert(key.clone(), json!([n, key]));
            }
            if f.is_finite() {
                map.insert("f".into(), json!(f));
            }
            let once = canonical(&map).unwrap();
            let again: Value = serde_json::from_slice(&once).unwrap();
            prop_assert_eq!(canonical(&again).unwrap(), once);
            let order: Vec<Vec<u16>> = again.as_object().unwrap().keys().map(|key| key.encode_utf16().collect()).collect();
            let mut sorted = order.clone();
            sorted.sort();
            prop_assert_eq!(order, sorted);
        }
    }
}
