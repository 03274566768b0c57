//! The method table, one file for each area.

pub mod agents;
pub mod approvals;
pub mod channels;
pub mod chat;
pub mod config;
pub mod cron;
pub mod devices;
pub mod farm;
pub mod models;
pub mod nodes;
pub mod presence;
pub mod questions;
pub mod sessions;
pub mod surfaces;
pub mod system;
pub mod tools;

use std::{collections::HashMap, sync::OnceLock};

use crate::method::MethodSpec;

/// All areas with their rows, in the order of the reference page.
pub static AREAS: &[(&str, &[MethodSpec])] = &[
    ("system", system::ROWS),
    ("chat", chat::ROWS),
    ("sessions", sessions::ROWS),
    ("models", models::ROWS),
    ("agents", agents::ROWS),
    ("config", config::ROWS),
    ("cron", cron::ROWS),
    ("channels", channels::ROWS),
    ("devices", devices::ROWS),
    ("farm", farm::ROWS),
    ("nodes", nodes::ROWS),
    ("approvals", approvals::ROWS),
    ("questions", questions::ROWS),
    ("presence", presence::ROWS),
    ("tools", tools::ROWS),
    ("surfaces", surfaces::ROWS),
];

/// Every row.
pub fn all() -> impl Iterator<Item = &'static MethodSpec> {
    AREAS.iter().flat_map(|(_, rows)| rows.iter())
}

/// The row of a method.
#[must_use]
pub fn find(name: &str) -> Option<&'static MethodSpec> {
    static BY_NAME: OnceLock<HashMap<&'static str, &'static MethodSpec>> = OnceLock::new();
    BY_NAME.get_or_init(|| all().map(|row| (row.name, row)).collect()).get(name).copied()
}

/// The reference page: every method with scope, flags, parameters and result.
#[must_use]
pub fn reference_page() -> String {
    use std::fmt::Write as _;
    let mut page = String::from("# Gateway methods\n");
    for (area, rows) in AREAS {
        let _ = write!(page, "\n## {area}\n");
        for row in *rows {
            let scope = match row.scope {
                crate::method::Scope::Open => "none",
                crate::method::Scope::Node => "node role",
                crate::method::Scope::Dynamic => "depends on the parameters",
                other => other.name(),
            };
            let _ = write!(page, "\n### `{}`\n\n{}\nScope: {scope}.\n", row.name, row.doc.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
            let _ = write!(page, "\nParameters:\n\n```json\n{:#}\n```\n\nResult:\n\n```json\n{:#}\n```\n", (row.params)(), (row.result)());
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::{all, find, reference_page};

    #[test]
    fn names_are_unique_and_every_schema_can_be_made() {
        let mut seen = std::collections::BTreeSet::new();
        for row in all() {
            assert!(seen.insert(row.name), "{} twice", row.name);
            assert!((row.params)().is_object(), "{}", row.name);
            assert!(!row.doc.trim().is_empty());
        }
        assert!(find("chat.send").is_some() && find("nope").is_none());
        assert!(reference_page().contains("### `cron.add`"));
    }

    #[test]
    fn optional_fields_refuse_null_and_changes_take_it() {
        let patch = find("sessions.patch").unwrap();
        assert!(patch.check(&serde_json::json!({"key": "a", "label": null})).is_ok());
        let history = find("chat.history").unwrap();
        let err = history.check(&serde_json::json!({"sessionKey": "a", "limit": null})).unwrap_err();
        assert_eq!(err.message, "invalid chat.history params: at /limit: must be integer");
        let err = history.check(&serde_json::json!({"sessionKey": ""})).unwrap_err();
        assert_eq!(err.message, "invalid chat.history params: at /sessionKey: must not have fewer than 1 characters");
        let err = find("cron.run").unwrap().check(&serde_json::json!({"id": "a", "mode": "x"})).unwrap_err();
        assert_eq!(err.message, "invalid cron.run params: at /mode: must be equal to one of the allowed values");
    }
}
