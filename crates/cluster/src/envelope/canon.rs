use serde::Serialize;

use super::Refusal;

/// The one text of a value (RFC 8785, JSON Canonicalization Scheme): keys in the order of their UTF-16 units, numbers as
/// ECMAScript writes them, no spaces. Two values are equal exactly when their canonical bytes are.
///
/// # Errors
/// `Malformed` when the value has no such text (a key that is not a string, a number that is not finite).
pub fn canonical(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_jcs::to_vec(value).map_err(|err| Refusal::malformed(format!("no canonical form: {err}")))
}

#[cfg(test)]
mod tests {
    use super::canonical;
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

    proptest! {
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
