//! What is put before replies on chat platforms (`messages.responsePrefix`). Pure.

use std::collections::BTreeMap;

use clawstead_terms::DeliveryTarget;

/// Templates of prefixes: general, by platform, by account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyPrefix {
    /// `messages.responsePrefix`.
    pub general: Option<String>,
    /// `channels.<id>.responsePrefix` by `<id>`, and that of an account by `<id>/<account>`. An empty one switches the
    /// general one off.
    pub by_place: BTreeMap<String, String>,
}

/// What templates may name.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `provider/model` that answered, or that would.
    pub model: &'a str,
    /// The thinking level in force.
    pub thinking: &'a str,
    /// The agent's name.
    pub name: Option<&'a str>,
}

impl ReplyPrefix {
    /// The template for a place: of the account, else of the platform, else the general one.
    #[must_use]
    pub fn of(&self, target: &DeliveryTarget) -> Option<&str> {
        let account = self.by_place.get(&format!("{}/{}", target.channel, target.account));
        account.or_else(|| self.by_place.get(target.channel.as_str())).or(self.general.as_ref()).map(String::as_str).filter(|text| !text.trim().is_empty())
    }
}

/// A reply with its prefix. A text that begins with it already is left alone.
#[must_use]
pub fn put_before(template: &str, facts: Facts<'_>, text: &str) -> String {
    let prefix = match template.trim() {
        "auto" => facts.name.map(|name| format!("[{name}]")).unwrap_or_default(),
        template => render(template, facts),
    };
    if prefix.is_empty() || text.starts_with(&prefix) { text.to_owned() } else { format!("{prefix} {text}") }
}

/// Puts facts in place of `{model}`, `{modelFull}`, `{provider}`, `{thinkingLevel}` and `{identity.name}`, letter case
/// ignored. Other braces, and a name that the agent does not have, stay as they are.
fn render(template: &str, facts: Facts<'_>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let Some(close) = rest.find('}') else { break };
        let (provider, model) = facts.model.split_once('/').unwrap_or(("", facts.model));
        let value = match rest[1..close].trim().to_lowercase().as_str() {
            "model" => Some(model),
            "modelfull" => Some(facts.model),
            "provider" => Some(provider),
            "thinkinglevel" | "think" => Some(facts.thinking),
            "identity.name" | "identityname" => facts.name,
            _ => None,
        };
        out.push_str(value.unwrap_or(&rest[..=close]));
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{Facts, ReplyPrefix, put_before};
    use clawstead_terms::DeliveryTarget;

    #[test]
    fn templates_by_table() {
        let facts = Facts { model: "openrouter/qwen/q3", thinking: "high", name: Some("Jerry") };
        for (template, want) in [
            ("auto", "[Jerry] hi"),
            ("[{identity.name} {Model}]", "[Jerry qwen/q3] hi"),
            ("{provider}: {modelFull}, {thinkingLevel}:", "openrouter: openrouter/qwen/q3, high: hi"),
            ("{what} {", "{what} { hi"),
            ("", "hi"),
        ] {
            assert_eq!(put_before(template, facts, "hi"), want, "{template}");
        }
        assert_eq!(put_before("auto", Facts { name: None, ..facts }, "hi"), "hi");
        assert_eq!(put_before("{identity.name}:", Facts { name: None, ..facts }, "hi"), "{identity.name}: hi");
        assert_eq!(put_before("[x]", facts, "[x] hi"), "[x] hi", "not twice");
    }

    #[test]
    fn the_account_beats_the_platform() {
        let prefix =
            ReplyPrefix { general: Some("g".into()), by_place: [("slack".to_owned(), "s".to_owned()), ("slack/work".to_owned(), String::new())].into() };
        let at =
            |channel: &str, account: &str| DeliveryTarget { channel: channel.into(), account: account.into(), to: "x".into(), thread_id: None, reply_to: None };
        assert_eq!(prefix.of(&at("slack", "default")), Some("s"));
        assert_eq!(prefix.of(&at("slack", "work")), None);
        assert_eq!(prefix.of(&at("irc", "default")), Some("g"));
        assert_eq!(ReplyPrefix::default().of(&at("irc", "default")), None);
    }
}
