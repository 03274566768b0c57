use std::fmt;

use serde::{Deserialize, Serialize};

use super::filled;

/// How a notification proves who sends it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationInfo {
    /// `Bearer`, `Basic`, ...
    pub scheme: String,
    /// What follows the scheme in the header. A secret.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

impl fmt::Debug for AuthenticationInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticationInfo").field("scheme", &self.scheme).field("credentials", &self.credentials.as_ref().map(|_| "hidden")).finish()
    }
}

/// Where the changes of a task are sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskPushNotificationConfig {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its id; the server makes one when there is none.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The task.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Where to.
    pub url: String,
    /// Sent as `X-A2A-Notification-Token`. A secret.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Sent as `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<AuthenticationInfo>,
}

impl fmt::Debug for TaskPushNotificationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskPushNotificationConfig")
            .field("id", &self.id)
            .field("task_id", &self.task_id)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("authentication", &self.authentication)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::TaskPushNotificationConfig;

    #[test]
    fn secrets_do_not_print() {
        let text = r#"{"url": "https://u/?key=abc", "token": "tok", "authentication": {"scheme": "Bearer", "credentials": "cred"}}"#;
        let shown = format!("{:?}", serde_json::from_str::<TaskPushNotificationConfig>(text).unwrap());
        for secret in ["abc", "tok\"", "cred\""] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
