//! The reference pages that are made from the code: methods, events, tools, channels, config keys. `cargo xtask docs`
//! writes them to `docs/reference`, and a test here says when they are stale.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use clawstead_channels::{CHANNELS, KNOWN};
use clawstead_config::schema::{self, Era};
use clawstead_terms::EffectClass;
use clawstead_tools::{Places, ToolPolicy, Toolbox};
use clawstead_wire::{
    Flags, Scope,
    event::{Audience, EVENTS, Loss},
    methods::AREAS,
};

/// The first line of every page.
const MADE: &str = "<!-- Made from the code by `cargo xtask docs`; edit the code instead. -->\n";

/// All pages: file name and text.
#[must_use]
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("methods.md", methods()),
        ("methods.schema.json", method_schemas()),
        ("events.md", events()),
        ("tools.md", tools()),
        ("channels.md", channels()),
        ("config.md", config()),
    ]
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Open => "none",
        Scope::Node => "node role",
        Scope::Dynamic => "by parameters",
        other => other.name(),
    }
}

fn flag_words(flags: Flags) -> String {
    let all = [
        (Flags::HIDDEN, "not listed"),
        (Flags::SIDECARS, "waits for the start"),
        (Flags::CONTROL, "30 a minute"),
        (Flags::TWICE, "answers twice"),
        (Flags::TARGET, "session first"),
    ];
    all.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

fn methods() -> String {
    let mut page = format!("{MADE}# Methods of the gateway\n\n");
    page.push_str(
        "Call one with `openclaw gateway call <method> --params '<json>'`. JSON schemas of all parameters and results are in \
         [methods.schema.json](methods.schema.json).\n\n\
         Remarks: *not listed*: absent from `features.methods`. *Waits for the start*: answers a retryable `UNAVAILABLE` until the gateway's \
         parts run. *30 a minute*: counted per client. *Answers twice*: accepted first, then the end, with the same id. *Session first*: looks \
         for its session before it checks other parameters.\n",
    );
    for (area, rows) in AREAS {
        let _ = write!(page, "\n## {area}\n\n| Method | What it does | Scope | Remarks |\n| --- | --- | --- | --- |\n");
        for row in *rows {
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", row.name, cell(row.doc), scope_word(row.scope), flag_words(row.flags));
        }
    }
    page
}

fn method_schemas() -> String {
    let rows = AREAS.iter().flat_map(|(_, rows)| rows.iter());
    let all: Map<String, Value> = rows.map(|row| (row.name.to_owned(), json!({ "params": (row.params)(), "result": (row.result)() }))).collect();
    // One method a line: small, and a change shows as one changed line.
    let lines: Vec<String> = all.iter().map(|(name, value)| format!("  {}: {value}", Value::from(name.as_str()))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn events() -> String {
    let mut page = format!("{MADE}# Events of the gateway\n\n| Event | Who gets it | When a client reads too slowly |\n| --- | --- | --- |\n");
    for rule in EVENTS {
        let audience = match rule.audience {
            Audience::Everybody => "every connection",
            Audience::Having(scope) => scope_word(scope),
        };
        let loss = match rule.loss {
            Loss::Skip => "skipped; its number is used up",
            Loss::Close => "the connection is closed",
        };
        let _ = writeln!(page, "| `{}` | {audience} | {loss} |", rule.name);
    }
    page
}

fn class_word(class: EffectClass) -> &'static str {
    match class {
        EffectClass::Read => "runs again",
        EffectClass::Idempotent => "runs again under the same key, which the receiver knows",
        EffectClass::Once => "never runs again by itself: an uncertain end is reported as unknown",
    }
}

fn tools() -> String {
    let toolbox = Toolbox::new(Places::default());
    let offer = toolbox.offer(&ToolPolicy::default());
    let mut page = format!("{MADE}# Tools of the agents\n\nWhich of them an agent has is decided by `tools.profile`, `tools.allow` and `tools.deny`.\n");
    for spec in toolbox.specs() {
        let limit = if spec.timeout_ms == 0 { "its own".to_owned() } else { format!("{} s", spec.timeout_ms / 1_000) };
        let _ = write!(
            page,
            "\n## `{}`\n\n{}\n\n- Group: `{}`\n- Time limit: {limit}\n- After a crash: {}\n",
            spec.name,
            spec.description.trim(),
            spec.group,
            class_word(spec.class)
        );
        if let Some(offered) = offer.iter().find(|offered| offered.name == spec.name) {
            let _ = write!(page, "\n```json\n{:#}\n```\n", offered.parameters);
        }
    }
    page
}

fn channels() -> String {
    let mut page = format!("{MADE}# Channels\n\n| Section | Channel | In this version |\n| --- | --- | --- |\n");
    for (id, label) in KNOWN {
        let runs = CHANNELS.iter().any(|spec| spec.id == *id);
        let word = if runs { "runs" } else { "named in a warning at the start and left alone" };
        let _ = writeln!(page, "| `channels.{id}` | {label} | {word} |");
    }
    page
}

/// The alternatives of a type in the table's notation; a bar inside brackets belongs to the list's items.
fn alternatives(kind: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, c) in kind.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                out.push(&kind[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&kind[start..]);
    out
}

/// A type of the table in words.
fn kind_words(kind: &str) -> String {
    let words = alternatives(kind).into_iter().map(|one| {
        let (letter, rest) = one.split_at(one.chars().next().map_or(0, char::len_utf8));
        match letter {
            "b" => "true or false".to_owned(),
            "s" => match rest.strip_prefix('#').and_then(|bounds| bounds.split_once(',')) {
                Some((least, "")) => format!("text, at least {least} characters"),
                Some(("0", most)) => format!("text, at most {most} characters"),
                Some((least, most)) => format!("text, {least} to {most} characters"),
                None => "text".to_owned(),
            },
            "S" => "text (secret)".to_owned(),
            "i" => format!("whole number {rest}").trim_end().to_owned(),
            "n" => format!("number {rest}").trim_end().to_owned(),
            "o" => "object".to_owned(),
            "m" => "object with any keys".to_owned(),
            "x" => "anything".to_owned(),
            "0" => "null".to_owned(),
            "T" => "`true`".to_owned(),
            "F" => "`false`".to_owned(),
            "=" => rest.split(',').map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            "~" => format!("text such as {}", rest.split(',').map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
            "[" => format!("list of ({})", kind_words(rest.strip_suffix(']').unwrap_or(rest))),
            "@" => format!("as `{rest}`"),
            _ => one.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join("; or ")
}

fn config() -> String {
    let mut page = format!("{MADE}# Keys of the config\n\n");
    page.push_str(
        "Every key that is known, in path order; `*` stands for any name or position. Unknown keys are warned about once, a wrong value of a \
         known key stops the start (exit code 78). A known key is not always one that changes something: see `COMPATIBILITY.md`. \
         `openclaw config schema` prints the same as JSON Schema.\n\n\
         Releases: *both*: March 2026 and now; *March*: an older spelling that is still read; *now*: new since then.\n",
    );
    let mut section = "";
    for row in schema::rows() {
        let top = row.path.split('.').next().unwrap_or(row.path);
        if top != section {
            section = top;
            let _ = write!(page, "\n## {section}\n\n| Key | Type | Releases |\n| --- | --- | --- |\n");
        }
        let era = match row.era {
            Era::Both => "both",
            Era::March => "March",
            Era::Now => "now",
        };
        let _ = writeln!(page, "| `{}` | {} | {era} |", row.path, cell(&kind_words(row.kind)));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clawstead_config::{DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};

    use super::{kind_words, pages};

    #[test]
    fn types_are_told_in_words() {
        assert_eq!(kind_words("b|=auto,off"), "true or false; or `auto`, `off`");
        assert_eq!(kind_words("[s|i>=1]|0"), "list of (text; or whole number >=1); or null");
        assert_eq!(kind_words("s#1,"), "text, at least 1 characters");
    }

    #[test]
    fn the_example_config_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/one-gateway/openclaw.json5");
        let env = Env::from_pairs([("HOME", "/home/ann"), ("EXAMPLE_TOKEN", "secret-token-of-ann")]);
        let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env);
        let snapshot = Snapshot::from_bytes(&fs::read(path).unwrap(), &paths, &env, ReadOptions::default());
        let loaded = snapshot.load(Strictness::Strict, SecretOptions::default()).unwrap();
        assert_eq!(loaded.config.agents.list.len(), 3);
        assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    }

    #[test]
    fn the_reference_is_fresh() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        for (name, text) in pages() {
            let held = fs::read_to_string(folder.join(name)).unwrap_or_default();
            assert!(held == text, "docs/reference/{name} is stale: run `cargo xtask docs`");
        }
    }
}
