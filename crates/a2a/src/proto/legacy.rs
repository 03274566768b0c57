//! Version 0.3: other method names, `kind` marks, lower-case states, files in a box of their own. Requests are turned
//! into 1.0 before anything looks at them, answers back.

use serde_json::{Map, Value, json};

use super::{AgentCard, Binding, TaskState};

/// The 1.0 name of a 0.3 method; None when it is none.
#[must_use]
pub fn method(name: &str) -> Option<&'static str> {
    Some(match name {
        "message/send" => "SendMessage",
        "message/stream" => "SendStreamingMessage",
        "tasks/get" => "GetTask",
        "tasks/list" => "ListTasks",
        "tasks/cancel" => "CancelTask",
        "tasks/resubscribe" => "SubscribeToTask",
        "tasks/pushNotificationConfig/set" => "CreateTaskPushNotificationConfig",
        "tasks/pushNotificationConfig/get" => "GetTaskPushNotificationConfig",
        "tasks/pushNotificationConfig/list" => "ListTaskPushNotificationConfigs",
        "tasks/pushNotificationConfig/delete" => "DeleteTaskPushNotificationConfig",
        "agent/getAuthenticatedExtendedCard" => "GetExtendedAgentCard",
        _ => return None,
    })
}

/// Parameters of 0.3 as 1.0 writes them. `method` is the 1.0 name. What is 1.0 already stays as it is.
#[must_use]
pub fn params(method: &str, params: Value) -> Value {
    let Value::Object(mut map) = params else { return params };
    match method {
        "SendMessage" | "SendStreamingMessage" => {
            if let Some(message) = map.remove("message") {
                map.insert("message".into(), message_in(message));
            }
            if let Some(Value::Object(configuration)) = map.get_mut("configuration") {
                if let Some(blocking) = configuration.remove("blocking").and_then(|b| b.as_bool()) {
                    configuration.insert("returnImmediately".into(), json!(!blocking));
                }
                if let Some(push) = configuration.remove("pushNotificationConfig") {
                    configuration.insert("taskPushNotificationConfig".into(), push_in(push));
                }
            }
        }
        "CreateTaskPushNotificationConfig" => {
            if let Some(inner) = map.remove("pushNotificationConfig") {
                let mut flat = push_in(inner);
                if let (Some(task), Some(flat)) = (map.remove("taskId").or_else(|| map.remove("id")), flat.as_object_mut()) {
                    flat.insert("taskId".into(), task);
                }
                return flat;
            }
        }
        // In 0.3 `id` is the task and the config has a name of its own.
        "GetTaskPushNotificationConfig" | "DeleteTaskPushNotificationConfig" => {
            if let (Some(config), Some(task)) = (map.get("pushNotificationConfigId").cloned(), map.get("id").cloned()) {
                map.insert("taskId".into(), task);
                map.insert("id".into(), config);
            }
        }
        "ListTaskPushNotificationConfigs" if !map.contains_key("taskId") => {
            if let Some(task) = map.remove("id") {
                map.insert("taskId".into(), task);
            }
        }
        _ => {}
    }
    Value::Object(map)
}

fn push_in(push: Value) -> Value {
    let Value::Object(mut push) = push else { return push };
    if let Some(Value::Object(how)) = push.get_mut("authentication") {
        let first = how.remove("schemes").and_then(|schemes| schemes.as_array().and_then(|all| all.first().cloned()));
        if let Some(first) = first {
            how.insert("scheme".into(), first);
        }
    }
    Value::Object(push)
}

fn message_in(message: Value) -> Value {
    let Value::Object(mut message) = message else { return message };
    message.remove("kind");
    let role = match message.get("role").and_then(Value::as_str) {
        Some("user") => Some("ROLE_USER"),
        Some("agent") => Some("ROLE_AGENT"),
        _ => None,
    };
    if let Some(role) = role {
        message.insert("role".into(), json!(role));
    }
    if let Some(Value::Array(parts)) = message.get_mut("parts") {
        for part in parts {
            *part = part_in(part.take());
        }
    }
    Value::Object(message)
}

fn part_in(part: Value) -> Value {
    let Value::Object(mut part) = part else { return part };
    part.remove("kind");
    if let Some(Value::Object(file)) = part.remove("file") {
        for (from, to) in [("bytes", "raw"), ("uri", "url"), ("name", "filename"), ("mimeType", "mediaType")] {
            if let Some(value) = file.get(from).filter(|value| !value.is_null()) {
                part.insert(to.into(), value.clone());
            }
        }
    }
    Value::Object(part)
}

/// A result of 1.0 as 0.3 writes it. `method` is the 1.0 name.
#[must_use]
pub fn result(method: &str, value: Value) -> Value {
    match method {
        "SendMessage" | "SendStreamingMessage" | "SubscribeToTask" => event_out(value),
        "GetTask" | "CancelTask" => task_out(value),
        "ListTasks" => {
            let Value::Object(mut page) = value else { return value };
            if let Some(Value::Array(tasks)) = page.get_mut("tasks") {
                for task in tasks {
                    *task = task_out(task.take());
                }
            }
            Value::Object(page)
        }
        "CreateTaskPushNotificationConfig" | "GetTaskPushNotificationConfig" => push_out(value),
        "ListTaskPushNotificationConfigs" => match value {
            Value::Object(mut page) => match page.remove("configs") {
                Some(Value::Array(configs)) => Value::Array(configs.into_iter().map(push_out).collect()),
                _ => json!([]),
            },
            other => other,
        },
        "DeleteTaskPushNotificationConfig" => Value::Null,
        _ => value,
    }
}

fn push_out(value: Value) -> Value {
    let Value::Object(mut config) = value else { return value };
    let task = config.remove("taskId").unwrap_or(Value::Null);
    config.remove("tenant");
    if let Some(Value::Object(how)) = config.get_mut("authentication")
        && let Some(scheme) = how.remove("scheme")
    {
        how.insert("schemes".into(), json!([scheme]));
    }
    json!({"taskId": task, "pushNotificationConfig": config})
}

fn event_out(value: Value) -> Value {
    let Value::Object(mut event) = value else { return value };
    if let Some(task) = event.remove("task") {
        return task_out(task);
    }
    if let Some(message) = event.remove("message") {
        return message_out(message);
    }
    if let Some(Value::Object(mut update)) = event.remove("statusUpdate") {
        update.insert("kind".into(), json!("status-update"));
        let state = update.get("status").and_then(|status| status["state"].as_str()).and_then(state_of);
        update.insert("final".into(), json!(state.is_some_and(|state| state.is_terminal() || state.is_interrupted())));
        status_out(&mut update);
        return Value::Object(update);
    }
    if let Some(Value::Object(mut update)) = event.remove("artifactUpdate") {
        update.insert("kind".into(), json!("artifact-update"));
        if let Some(artifact) = update.get_mut("artifact") {
            parts_out(artifact);
        }
        return Value::Object(update);
    }
    Value::Object(event)
}

fn state_of(name: &str) -> Option<TaskState> {
    serde_json::from_value(json!(name)).ok()
}

fn task_out(task: Value) -> Value {
    let Value::Object(mut task) = task else { return task };
    task.insert("kind".into(), json!("task"));
    status_out(&mut task);
    if let Some(Value::Array(artifacts)) = task.get_mut("artifacts") {
        artifacts.iter_mut().for_each(parts_out);
    }
    if let Some(Value::Array(history)) = task.get_mut("history") {
        for message in history {
            *message = message_out(message.take());
        }
    }
    Value::Object(task)
}

fn status_out(owner: &mut Map<String, Value>) {
    let Some(Value::Object(status)) = owner.get_mut("status") else { return };
    if let Some(state) = status.get("state").and_then(Value::as_str).and_then(state_of) {
        status.insert("state".into(), json!(state.word()));
    }
    if let Some(message) = status.remove("message") {
        status.insert("message".into(), message_out(message));
    }
}

fn message_out(message: Value) -> Value {
    let mut message = message;
    parts_out(&mut message);
    if let Value::Object(map) = &mut message {
        map.insert("kind".into(), json!("message"));
        let role = if map.get("role").and_then(Value::as_str) == Some("ROLE_USER") { "user" } else { "agent" };
        map.insert("role".into(), json!(role));
    }
    message
}

fn parts_out(owner: &mut Value) {
    let Some(Value::Array(parts)) = owner.get_mut("parts") else { return };
    for part in parts {
        let Value::Object(map) = part else { continue };
        if map.contains_key("text") {
            map.insert("kind".into(), json!("text"));
        } else if map.contains_key("data") {
            map.insert("kind".into(), json!("data"));
        } else {
            let mut file = Map::new();
            for (from, to) in [("raw", "bytes"), ("url", "uri"), ("filename", "name"), ("mediaType", "mimeType")] {
                if let Some(value) = map.remove(from) {
                    file.insert(to.into(), value);
                }
            }
            map.insert("kind".into(), json!("file"));
            map.insert("file".into(), Value::Object(file));
        }
    }
}

/// The card as 0.3 writes it, for `/.well-known/agent.json`.
#[must_use]
pub fn card(card: &AgentCard) -> Value {
    let mut out = json!(card);
    let Some(map) = out.as_object_mut() else { return out };
    for gone in ["supportedInterfaces", "signatures", "securityRequirements", "securitySchemes"] {
        map.remove(gone);
    }
    if let Some(Value::Object(capabilities)) = map.get_mut("capabilities") {
        let extended = capabilities.remove("extendedAgentCard").unwrap_or(json!(false));
        map.insert("supportsAuthenticatedExtendedCard".into(), extended);
    }
    if let Some(interface) = card.interface(Binding::JsonRpc) {
        map.insert("url".into(), json!(interface.url));
        map.insert("preferredTransport".into(), json!("JSONRPC"));
        map.insert("protocolVersion".into(), json!("0.3.0"));
    }
    if !card.security_requirements.is_empty() {
        map.insert("securitySchemes".into(), json!({"bearer": {"type": "http", "scheme": "bearer"}}));
        map.insert("security".into(), json!([{"bearer": []}]));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{params, result};

    #[test]
    fn a_message_of_0_3_becomes_one_of_1_0_and_an_answer_goes_back() {
        let old = json!({"message": {"kind": "message", "role": "user", "messageId": "m",
            "parts": [{"kind": "text", "text": "x"}, {"kind": "file", "file": {"bytes": "eA==", "mimeType": "text/plain", "name": "f"}}]},
            "configuration": {"blocking": false}});
        assert_eq!(
            params("SendMessage", old),
            json!({"message": {"role": "ROLE_USER", "messageId": "m",
                "parts": [{"text": "x"}, {"raw": "eA==", "filename": "f", "mediaType": "text/plain"}]},
                "configuration": {"returnImmediately": true}})
        );
        let update = json!({"statusUpdate": {"taskId": "t", "contextId": "c", "status": {"state": "TASK_STATE_INPUT_REQUIRED",
            "message": {"messageId": "a", "role": "ROLE_AGENT", "parts": [{"text": "which?"}]}}}});
        let out = result("SendStreamingMessage", update);
        assert_eq!(
            (out["kind"].as_str(), out["final"].as_bool(), out["status"]["state"].as_str()),
            (Some("status-update"), Some(true), Some("input-required"))
        );
        assert_eq!(out["status"]["message"]["parts"][0], json!({"text": "which?", "kind": "text"}));
    }

    #[test]
    fn push_configs_are_flat_in_1_0_and_boxed_in_0_3() {
        let old = json!({"taskId": "t", "pushNotificationConfig": {"url": "https://x", "authentication": {"schemes": ["Bearer"], "credentials": "k"}}});
        let new = params("CreateTaskPushNotificationConfig", old.clone());
        assert_eq!(new, json!({"url": "https://x", "authentication": {"credentials": "k", "scheme": "Bearer"}, "taskId": "t"}));
        assert_eq!(result("CreateTaskPushNotificationConfig", new), old);
    }
}
