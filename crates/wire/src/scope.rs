//! Which scope a call needs, and whether a caller has it.

use serde_json::Value;

use crate::method::{MethodSpec, Scope};

/// Everything an owner can be given.
pub const ALL_OPERATOR_SCOPES: [&str; 8] = [
    "operator.admin",
    "operator.read",
    "operator.write",
    "operator.approvals",
    "operator.questions",
    "operator.pairing",
    "operator.talk",
    "operator.talk.secrets",
];

/// Fields of `sessions.patch` that a writer may change; the rest needs admin.
const PATCH_WRITE_FIELDS: [&str; 24] = [
    "key",
    "agentId",
    "expectedSessionId",
    "expectedLifecycleRevision",
    "expectedPermissionMode",
    "expectedSandboxMode",
    "expectedNativeRuntimeConsent",
    "expectedToolOverrides",
    "expectedMarkedUnreadAt",
    "label",
    "autoLabel",
    "icon",
    "color",
    "category",
    "boardFace",
    "boardPresentation",
    "pinned",
    "archived",
    "unread",
    "model",
    "agentRuntime",
    "thinkingLevel",
    "fastMode",
    "permissionMode",
];
/// Fields of `sessions.delete` that a writer may use, together with `archivedOnly: true`.
const DELETE_WRITE_FIELDS: [&str; 5] = ["key", "agentId", "deleteTranscript", "expectedSessionId", "archivedOnly"];
/// Node commands that need admin.
const NODE_ADMIN_COMMANDS: [&str; 4] = ["browser.proxy", "browser.proxy.upload.v1", "fs.listDir", "terminal.upload"];

/// True when `granted` satisfies `scope`: admin satisfies everything, write satisfies read and talk.
#[must_use]
pub fn satisfies<S: AsRef<str>>(granted: &[S], scope: Scope) -> bool {
    let has = |name: &str| granted.iter().any(|g| g.as_ref() == name);
    match scope {
        Scope::Open => true,
        Scope::Node | Scope::Dynamic => false,
        _ if has("operator.admin") => true,
        Scope::Read | Scope::Talk if has("operator.write") => true,
        other => has(other.name()),
    }
}

/// True when a device with `approved` scopes may use `wanted`.
#[must_use]
pub fn covers<S: AsRef<str>, T: AsRef<str>>(approved: &[S], wanted: &[T]) -> bool {
    let has = |name: &str| approved.iter().any(|a| a.as_ref() == name);
    wanted.iter().all(|want| {
        let want = want.as_ref();
        has(want) || (want.starts_with("operator.") && has("operator.admin")) || (want == "operator.read" && has("operator.write"))
    })
}

/// The scope of a call, with [`Scope::Dynamic`] resolved by the parameters.
#[must_use]
pub fn needed(spec: &MethodSpec, params: &Value) -> Scope {
    if spec.scope != Scope::Dynamic {
        return spec.scope;
    }
    let flag = |name: &str| params.get(name).and_then(Value::as_bool) == Some(true);
    let only = |allowed: &[&str]| params.as_object().is_some_and(|fields| fields.keys().all(|name| allowed.contains(&name.as_str())));
    let admin = match spec.name {
        "agent" => params.get("message").and_then(Value::as_str).is_some_and(is_reset_command),
        "sessions.patch" => !only(&PATCH_WRITE_FIELDS) || params.get("permissionMode").is_some_and(|mode| mode == "full"),
        "sessions.create" => {
            flag("incognito")
                || ["execNode", "toolOverrides"].iter().any(|name| params.get(name).is_some())
                || params.get("permissionMode").is_some_and(|mode| mode == "full")
        }
        "sessions.delete" => !(flag("archivedOnly") && only(&DELETE_WRITE_FIELDS)),
        "node.invoke" => params.get("command").and_then(Value::as_str).is_some_and(|command| NODE_ADMIN_COMMANDS.contains(&command)),
        "environments.list" => return if params.get("runtimeId").is_some() { Scope::Write } else { Scope::Read },
        "channels.pairing.approve" => return if flag("bootstrapCommandOwner") { Scope::Admin } else { Scope::Pairing },
        _ => true,
    };
    if admin { Scope::Admin } else { Scope::Write }
}

/// True for `/new` and `/reset`, alone or followed by text.
fn is_reset_command(message: &str) -> bool {
    let word = message.split_whitespace().next().unwrap_or("");
    message.trim_start().starts_with(word) && (word.eq_ignore_ascii_case("/new") || word.eq_ignore_ascii_case("/reset"))
}

#[cfg(test)]
mod tests {
    use super::{covers, needed, satisfies};
    use crate::{method::Scope, methods::find};
    use serde_json::json;

    #[test]
    fn parameters_decide_the_scope() {
        for (method, params, want) in [
            ("agent", json!({"message": "hi"}), Scope::Write),
            ("agent", json!({"message": " /Reset now"}), Scope::Admin),
            ("agent", json!({"message": "/newer"}), Scope::Write),
            ("sessions.patch", json!({"key": "a", "label": "x"}), Scope::Write),
            ("sessions.patch", json!({"key": "a", "sendPolicy": "x"}), Scope::Admin),
            ("sessions.patch", json!({"key": "a", "permissionMode": "full"}), Scope::Admin),
            ("sessions.create", json!({}), Scope::Write),
            ("sessions.create", json!({"incognito": true}), Scope::Admin),
            ("sessions.delete", json!({"key": "a"}), Scope::Admin),
            ("sessions.delete", json!({"key": "a", "archivedOnly": true}), Scope::Write),
            ("environments.list", json!({}), Scope::Read),
            ("node.invoke", json!({"command": "fs.listDir"}), Scope::Admin),
            ("channels.pairing.approve", json!({}), Scope::Pairing),
            ("chat.history", json!({}), Scope::Read),
        ] {
            assert_eq!(needed(find(method).unwrap(), &params), want, "{method} {params}");
        }
    }

    #[test]
    fn admin_and_write_imply_less() {
        assert!(satisfies(&["operator.admin"], Scope::Pairing));
        assert!(satisfies(&["operator.write"], Scope::Read));
        assert!(!satisfies(&["operator.read"], Scope::Write));
        assert!(satisfies::<&str>(&[], Scope::Open));
        assert!(covers(&["operator.admin"], &["operator.read"]) && !covers(&["operator.read"], &["operator.write"]));
    }
}
