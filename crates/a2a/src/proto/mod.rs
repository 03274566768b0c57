//! The words of the protocol, version 1.0, with their exact JSON names, and the dialect of version 0.3 beside them.
//!
//! JSON follows the rules of ProtoJSON: camel case, enum values by their full name, a field that is absent, `null` or
//! empty is "not set", and fields nobody knows are ignored.

mod card;
mod error;
pub mod legacy;
mod message;
mod push;
mod request;
mod task;

use clawstead_terms::Millis;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use card::{
    AgentCapabilities, AgentCard, AgentCardSignature, AgentExtension, AgentInterface, AgentProvider, AgentSkill, Binding, SecurityRequirement, StringList,
};
pub use error::{A2aError, ErrorKind, FieldViolation, REASON_DOMAIN};
pub use message::{Artifact, Content, Message, Part, Role};
pub use push::{AuthenticationInfo, TaskPushNotificationConfig};
pub use request::{
    CancelTaskRequest, GetExtendedAgentCardRequest, GetTaskRequest, ListPushConfigsRequest, ListPushConfigsResponse, ListTasksRequest, ListTasksResponse,
    PushConfigRequest, SendMessageConfiguration, SendMessageRequest, SendMessageResponse, SubscribeToTaskRequest,
};
pub use task::{StreamResponse, Task, TaskArtifactUpdateEvent, TaskState, TaskStatus, TaskStatusUpdateEvent};

/// A free JSON object: metadata, extension data.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// The version this crate speaks, as `A2A-Version` and cards name it.
pub const VERSION: &str = "1.0";

/// The version before, accepted from callers that use its method names.
pub const VERSION_BEFORE: &str = "0.3";

/// The media type of the REST binding.
pub const MEDIA_TYPE: &str = "application/a2a+json";

/// `null` counts as not set.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// `null` and the empty string count as not set.
pub(crate) fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// The same with JSON names where it has those of the proto file (`task_id`): ProtoJSON wants readers to take both. What
/// belongs to the caller (metadata, data) stays as it is.
#[must_use]
pub fn json_names(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let free = |name: &str| matches!(name, "metadata" | "data" | "params" | "header");
            map.into_iter().map(|(name, value)| (camel(&name), if free(&name) { value } else { json_names(value) })).collect::<Object>().into()
        }
        Value::Array(items) => items.into_iter().map(json_names).collect(),
        other => other,
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_').filter(|word| !word.is_empty());
    let mut out = words.next().unwrap_or(name).to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        out.push_str(&first.to_ascii_uppercase());
        out.push_str(rest);
    }
    out
}

/// A moment as the protocol writes it: `2025-10-28T10:30:00.000Z`.
#[must_use]
pub fn stamp(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Reads a moment of the protocol; None when it is not one.
#[must_use]
pub fn moment(text: &str) -> Option<Millis> {
    text.parse::<jiff::Timestamp>().ok().map(|at| Millis(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use clawstead_terms::Millis;

    use serde_json::json;

    use super::{json_names, moment, stamp};

    #[test]
    fn names_of_the_proto_file_are_taken_too() {
        let given = json!({"task_id": "t", "history_length": 1, "message": {"message_id": "m", "parts": [{"data": {"a_b": 1}, "media_type": "x"}], "metadata": {"c_d": 2}}});
        let wanted = json!({"taskId": "t", "historyLength": 1, "message": {"messageId": "m", "parts": [{"data": {"a_b": 1}, "mediaType": "x"}], "metadata": {"c_d": 2}}});
        assert_eq!(json_names(given), wanted);
    }

    #[test]
    fn moments_are_written_with_milliseconds_in_utc() {
        assert_eq!(stamp(Millis(1_761_647_400_007)), "2025-10-28T10:30:00.007Z");
        assert_eq!(moment("2025-10-28T10:30:00.007Z"), Some(Millis(1_761_647_400_007)));
        assert_eq!(moment("2025-10-28T12:30:00+02:00"), Some(Millis(1_761_647_400_000)));
        assert_eq!(moment("yesterday"), None);
    }
}
