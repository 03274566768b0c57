//! Anything may be in a file.

use clawstead_config::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(json!(null)), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from), "[ -~äß\u{2028}]{0,8}".prop_map(Value::from)];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]{1,2}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
        ]
    })
}

fn gap(dice: &mut dyn FnMut() -> u8, out: &mut String, count: &mut usize) {
    match dice() % 8 {
        0 => {
            *count += 1;
            out.push_str(&format!(" // §{count}§\n  "));
        }
        1 => {
            *count += 1;
            out.push_str(&format!("/* §{count}§ */"));
        }
        2 => out.push('\n'),
        3 => out.push_str("\r\n\t"),
        _ => out.push(' '),
    }
}

/// Writes a value as JSON5 with numbered comments, odd spaces and quotes chosen by `dice`.
fn print(v: &Value, dice: &mut dyn FnMut() -> u8, count: &mut usize, out: &mut String) {
    gap(dice, out, count);
    match v {
        Value::Object(map) => {
            out.push('{');
            let last = map.len();
            for (i, (k, inner)) in map.iter().enumerate() {
                gap(dice, out, count);
                // a bare key right before a comment is more than the editor's parser understands
                out.push_str(&if i % 2 == 0 { format!("{k} ") } else { format!("'{k}'") });
                gap(dice, out, count);
                out.push(':');
                print(inner, dice, count, out);
                gap(dice, out, count);
                if i + 1 < last || i % 2 == 0 {
                    out.push(',');
                }
            }
            gap(dice, out, count);
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for (i, inner) in list.iter().enumerate() {
                print(inner, dice, count, out);
                gap(dice, out, count);
                if i + 1 < list.len() {
                    out.push(',');
                }
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
    gap(dice, out, count);
}

fn env() -> (Env, Paths) {
    let env = Env::from_pairs([("HOME", "/nobody")]);
    let paths = Paths::resolve(Profile::Main, &env);
    (env, paths)
}

/// A key in the settings of a plugin: no rule says what is there.
fn free(key: &str) -> Vec<String> {
    ["plugins", "entries", "any", "config", key].map(str::to_owned).to_vec()
}

/// Comments of `text` that are not inside the value at `path`.
fn comments(text: &str) -> Vec<String> {
    text.split('§').filter(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit())).map(str::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_any(&bytes);
    }

    #[test]
    fn any_json5_soup_is_read_without_a_panic(text in "[\\[\\]{}:,'\"a-c0-9$/* \n\\\\.+-]{0,60}") {
        let _ = parse_any(text.as_bytes());
    }

    #[test]
    fn any_shape_under_known_keys_is_read_without_a_panic(
        key in prop::sample::select(vec!["agents", "gateway", "bindings", "models", "channels", "session", "tools", "cron", "env", "routing", "agent", "identity", "model_routing", "mcp", "memory", "hooks", "workspace", "secrets", "browser", "messages"]),
        inner in prop::sample::select(vec!["list", "entries", "defaults", "providers", "slack", "sandbox", "maintenance", "aliases", "port", "servers", "agents", "bindings"]),
        v in value(),
    ) {
        let _ = parse_any(json!({ key: { inner: v.clone() } }).to_string().as_bytes());
        let _ = parse_any(json!({ key: v.clone() }).to_string().as_bytes());
        let (env, paths) = env();
        let s = Snapshot::from_bytes(json!({ key: { inner: [v.clone(), { "id": v }] } }).to_string().as_bytes(), &paths, &env, ReadOptions::default());
        let _ = s.load(Strictness::Tolerant, SecretOptions::default());
        let _ = redact(&s.normal);
    }

    #[test]
    fn a_change_keeps_all_comments(v in prop::collection::btree_map("[a-c]{1,2}", value(), 0..5), dice in prop::collection::vec(any::<u8>(), 1..40), new in value()) {
        let whole = json!({ "plugins": { "entries": { "any": { "config": Value::Object(v.clone().into_iter().collect()) } } } });
        let (mut text, mut count, mut i) = (String::new(), 0, 0);
        print(&whole, &mut || { i += 1; dice[i % dice.len()] }, &mut count, &mut text);
        let (env, paths) = env();
        let s = Snapshot::from_bytes(text.as_bytes(), &paths, &env, ReadOptions::default());
        prop_assert!(s.issues.iter().all(|i| i.severity != Severity::Error), "{:?}\n{text}", s.issues);
        prop_assert_eq!(&s.parsed, &whole);
        let all = comments(&text);

        // a new key: everything stays
        let at = free("zz");
        let p = plan_edit(&s, &[Edit::Set { path: at.clone(), value: new.clone(), mode: MapWrite::Protect }], &env, EditOptions::default()).unwrap_or_else(|e| panic!("{e:?} {text:?}"));
        let after = &p.files[0].after;
        let mut want = whole.clone();
        want["plugins"]["entries"]["any"]["config"]["zz"] = new.clone();
        prop_assert_eq!(&p.snapshot.parsed, &want, "{}", after);
        prop_assert_eq!(comments(after), all.clone(), "{}\n---\n{}", text, after);

        // and taken out again
        let again = Snapshot::from_bytes(after.as_bytes(), &paths, &env, ReadOptions::default());
        let p = plan_edit(&again, &[Edit::Unset { path: at }], &env, EditOptions::default()).unwrap();
        prop_assert_eq!(&p.snapshot.parsed, &whole, "{}", p.files[0].after);
        prop_assert_eq!(comments(&p.files[0].after), all.clone(), "{}", p.files[0].after);

        // scalars replaced and removed in place lose no comment either
        for (k, old) in v.iter().filter(|(_, v)| !v.is_object() && !v.is_array()) {
            let at = free(k);
            for edit in [Edit::Set { path: at.clone(), value: json!({"n": 1}), mode: MapWrite::Protect }, Edit::Unset { path: at.clone() }] {
                let p = plan_edit(&s, std::slice::from_ref(&edit), &env, EditOptions::default()).unwrap();
                prop_assert!(!p.files.is_empty(), "{old}");
                let after = &p.files[0].after;
                let mut want = whole.clone();
                match edit {
                    Edit::Set { value, .. } => want["plugins"]["entries"]["any"]["config"][k] = value,
                    _ => drop(want["plugins"]["entries"]["any"]["config"].as_object_mut().unwrap().shift_remove(k)),
                }
                prop_assert_eq!(&p.snapshot.parsed, &want, "{}\n---\n{}", text, after);
                // a comment between a key and its value goes with the key
                let lost = all.iter().filter(|c| !comments(after).contains(c)).count();
                let inside = text.split(k.as_str()).count();
                prop_assert!(lost <= 2 * inside, "{}\n---\n{}", text, after);
            }
        }
    }
}
