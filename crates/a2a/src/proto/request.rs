use serde::{Deserialize, Serialize};

use super::{Message, Object, Task, TaskPushNotificationConfig, TaskState, filled, nullable};

/// How a message is to be handled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendMessageConfiguration {
    /// Media types the client takes.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub accepted_output_modes: Vec<String>,
    /// Where changes are to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_push_notification_config: Option<TaskPushNotificationConfig>,
    /// Most messages of history in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_length: Option<u32>,
    /// Answer as soon as the task exists; else when it ends or waits for the client.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub return_immediately: bool,
}

/// `SendMessage` and `SendStreamingMessage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendMessageRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The message.
    pub message: Message,
    /// How to handle it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<SendMessageConfiguration>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

impl SendMessageRequest {
    /// A request that says nothing but the message.
    #[must_use]
    pub const fn new(message: Message) -> Self {
        Self { tenant: None, message, configuration: None, metadata: None }
    }
}

/// What `SendMessage` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SendMessageResponse {
    /// A task was made or went on.
    Task(Task),
    /// The agent answered at once.
    Message(Message),
}

/// `GetTask`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetTaskRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The task.
    pub id: String,
    /// Most messages of history in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_length: Option<u32>,
}

/// `CancelTask`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelTaskRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The task.
    pub id: String,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

/// `SubscribeToTask`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscribeToTaskRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The task.
    pub id: String,
}

/// `ListTasks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListTasksRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only of this conversation.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskState>,
    /// Most tasks in the answer, 1 to 100; default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// Where the page before ended.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
    /// Most messages of history of each task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_length: Option<u32>,
    /// Only with a status of this moment or later.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub status_timestamp_after: Option<String>,
    /// With artifacts; default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_artifacts: Option<bool>,
}

/// What `ListTasks` answers: newest status first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListTasksResponse {
    /// The tasks of this page.
    #[serde(default, deserialize_with = "nullable")]
    pub tasks: Vec<Task>,
    /// Where the next page begins; empty when there is none.
    #[serde(default, deserialize_with = "nullable")]
    pub next_page_token: String,
    /// The page size that was used.
    #[serde(default, deserialize_with = "nullable")]
    pub page_size: u32,
    /// How many tasks match on all pages.
    #[serde(default, deserialize_with = "nullable")]
    pub total_size: u32,
}

/// `GetTaskPushNotificationConfig` and `DeleteTaskPushNotificationConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushConfigRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The task.
    pub task_id: String,
    /// The config.
    pub id: String,
}

/// `ListTaskPushNotificationConfigs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListPushConfigsRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The task.
    pub task_id: String,
    /// Most configs in the answer; a task has at most 16, so that one page is enough.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub page_size: u32,
    /// Where the page before ended: the id of its last config.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What `ListTaskPushNotificationConfigs` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListPushConfigsResponse {
    /// The configs.
    #[serde(default, deserialize_with = "nullable")]
    pub configs: Vec<TaskPushNotificationConfig>,
    /// Where the next page begins; empty when there is none.
    #[serde(default, deserialize_with = "nullable")]
    pub next_page_token: String,
}

/// `GetExtendedAgentCard`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetExtendedAgentCardRequest {
    /// The agent, where several share an address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}
