//! The channels there are. To add one: its folder and one line in [`CHANNELS`].

use std::collections::BTreeMap;

use serde_json::Value;

use clawstead_terms::AccountId;

use crate::{channel::ChannelSpec, loopback};

/// The channels this build can run.
pub const CHANNELS: &[ChannelSpec] = &[loopback::SPEC];

/// Channels of OpenClaw that configs name: id, label, and whether this build runs them. One that it does not run is
/// named in a warning at start and left alone.
pub const KNOWN: &[(&str, &str)] = &[
    ("slack", "Slack"),
    ("discord", "Discord"),
    ("telegram", "Telegram"),
    ("whatsapp", "WhatsApp"),
    ("signal", "Signal"),
    ("imessage", "iMessage"),
    ("matrix", "Matrix"),
    ("mattermost", "Mattermost"),
    ("msteams", "Microsoft Teams"),
    ("googlechat", "Google Chat"),
    ("irc", "IRC"),
    ("line", "LINE"),
    ("feishu", "Feishu"),
    ("nostr", "Nostr"),
    ("bluebubbles", "BlueBubbles"),
    ("loopback", "Loopback"),
];

/// The channel with this id, if this build runs it.
#[must_use]
pub fn find(id: &str) -> Option<&'static ChannelSpec> {
    CHANNELS.iter().find(|spec| spec.id == id)
}

/// The accounts of a channel section, each merged over the section: `default` when none is named. Accounts that are
/// switched off (`enabled: false`, on the section or the account) are left out.
#[must_use]
pub fn accounts(section: &Value) -> BTreeMap<AccountId, Value> {
    let on = |value: &Value| value.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    let mut out = BTreeMap::new();
    if !on(section) {
        return out;
    }
    let named = section.get("accounts").and_then(Value::as_object).filter(|map| !map.is_empty());
    let Some(named) = named else {
        out.insert(AccountId::from("default"), section.clone());
        return out;
    };
    for (name, account) in named {
        if !on(account) {
            continue;
        }
        let mut merged = section.as_object().cloned().unwrap_or_default();
        merged.remove("accounts");
        for (key, value) in account.as_object().into_iter().flatten() {
            merged.insert(key.clone(), value.clone());
        }
        out.insert(AccountId::from(name.to_lowercase()), Value::Object(merged));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::accounts;
    use serde_json::json;

    #[test]
    fn accounts_inherit_from_their_section() {
        let all = accounts(&json!({"url": "http://x", "accounts": {"Work": {"token": "w"}, "home": {"url": "http://y"}, "off": {"enabled": false}}}));
        let shown: Vec<String> = all.iter().map(|(id, value)| format!("{id} {value}")).collect();
        assert_eq!(shown, [r#"home {"url":"http://y"}"#, r#"work {"url":"http://x","token":"w"}"#]);
        assert_eq!(accounts(&json!({"enabled": false})).len(), 0);
        assert_eq!(accounts(&json!({})).keys().next().map(|k| k.to_string()), Some("default".into()));
    }
}
