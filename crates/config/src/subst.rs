//! `${NAME}` in any text of the configuration.

use serde_json::Value;

use crate::env::Env;

/// A variable that was named and is not set.
pub(crate) struct MissingVar {
    pub at: Vec<String>,
    pub name: String,
}

/// Replaces in place; what is missing stays as written and is noted. `$${NAME}` becomes `${NAME}`.
pub(crate) fn substitute(value: &mut Value, env: &Env, at: &mut Vec<String>, missing: &mut Vec<MissingVar>) {
    match value {
        Value::String(text) if text.contains("${") => {
            let replaced = substitute_text(text, |name| {
                let found = env.get(name).map(str::to_owned);
                if found.is_none() {
                    missing.push(MissingVar { at: at.clone(), name: name.to_owned() });
                }
                found
            });
            *text = replaced;
        }
        Value::Array(list) => {
            for (i, inner) in list.iter_mut().enumerate() {
                at.push(i.to_string());
                substitute(inner, env, at, missing);
                at.pop();
            }
        }
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                at.push(key.clone());
                substitute(inner, env, at, missing);
                at.pop();
            }
        }
        _ => {}
    }
}

fn substitute_text(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        let Some(end) = from.find('}').filter(|end| is_var_name(&from[2..*end])) else {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        };
        let name = &from[2..end];
        rest = &from[end + 1..];
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str(&from[..=end]);
            continue;
        }
        out.push_str(before);
        match lookup(name) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&from[..=end]),
        }
    }
    out.push_str(rest);
    out
}

fn is_var_name(name: &str) -> bool {
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in() {
        let env = |n: &str| match n {
            "A" => Some("1".to_owned()),
            "B_2" => Some("${A}".to_owned()),
            _ => None,
        };
        for (text, want) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${B_2}", "${A}"),
            ("${NOPE}/v1", "${NOPE}/v1"),
            ("${a}", "${a}"),
            ("${}", "${}"),
            ("${A", "${A"),
            ("${ ${A}", "${ 1"),
            ("$A", "$A"),
            ("ä${A}ö", "ä1ö"),
            ("${1A}", "${1A}"),
        ] {
            assert_eq!(substitute_text(text, env), want, "{text}");
        }
    }
}
