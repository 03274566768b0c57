//! `session_status`: time, model and tokens of a session; can change its model.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use clawstead_terms::{EffectClass, SessionKey};

use crate::{Tool, ToolCx, ToolError, ToolOutput, ToolSpec};

/// Shows a session.
pub struct SessionStatus;

/// Arguments of `session_status`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// The session. Default: this one.
    #[serde(default, alias = "session_key")]
    session_key: Option<String>,
    /// A model for the session from now on, provider/model; default takes the change back.
    #[serde(default)]
    model: Option<String>,
}

#[async_trait]
impl Tool for SessionStatus {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "session_status",
        title: "Session status",
        description: "Show the current time, model and token use of a session, or change its model.",
        group: "group:sessions",
        class: EffectClass::Idempotent,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let key = match args.session_key.as_deref().map(str::trim).filter(|k| !k.is_empty() && *k != "current") {
            Some(key) => SessionKey::resolve(key, &cx.agent).map_err(|e| ToolError::BadArguments(format!("field `sessionKey`: {e}")))?,
            None => cx.session.clone(),
        };
        let wish = args.model.as_deref().map(str::trim).filter(|m| !m.is_empty());
        if let Some(model) = wish {
            let model = if model == "default" { Value::Null } else { json!(model) };
            cx.rpc("sessions.patch", json!({"key": key, "model": model})).await?;
        }
        let answer = cx.rpc("sessions.describe", json!({"key": key})).await?;
        let row = answer.get("session").filter(|s| !s.is_null()).ok_or_else(|| ToolError::Failed(format!("there is no session {key}")))?;
        let text = |field: &str| row.get(field).and_then(Value::as_str).unwrap_or("?");
        let number = |field: &str| row.get(field).and_then(Value::as_u64);
        let now = cx.world.clock.now().0;
        let mut lines = vec![
            format!("Time: {} (UTC)", utc(now)),
            format!("Session: {key}"),
            format!("Model: {}/{}", text("modelProvider"), text("model")),
            format!("Status: {}", text("status")),
        ];
        if let Some(used) = number("totalTokens") {
            lines.push(match number("contextTokens").filter(|max| *max > 0) {
                Some(max) => format!("Context: {used} of {max} tokens ({} %)", used * 100 / max),
                None => format!("Context: {used} tokens"),
            });
        }
        if let Some(level) = row.get("thinkingLevel").or_else(|| row.get("thinkingDefault")).and_then(Value::as_str) {
            lines.push(format!("Thinking: {level}"));
        }
        let status = lines.join("\n");
        let details = json!({"ok": true, "sessionKey": key, "agentId": key.agent(), "changedModel": wish.is_some(), "statusText": status});
        Ok(ToolOutput::text(status).with_details(details))
    }
}

/// A moment as `2026-11-20 13:45`, by the civil calendar.
fn utc(ms: i64) -> String {
    let (days, seconds) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1000);
    // Days since 0000-03-01, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::utc;
    use crate::test_kit::Kit;

    #[tokio::test]
    async fn a_status_is_shown_and_a_model_set() {
        let kit = Kit::new();
        kit.answer("sessions.describe", |p| {
            Ok(json!({"session": {"key": p["key"], "modelProvider": "mock", "model": "m1", "status": "done", "totalTokens": 50, "contextTokens": 200}}))
        });
        kit.answer("sessions.patch", |_| Ok(json!({"ok": true})));
        let seen = kit.call("session_status", json!({})).await.unwrap();
        assert!(
            seen.plain_text().contains("Model: mock/m1\n") && seen.plain_text().contains("25 %") && seen.plain_text().contains("2026-01-01 00:00"),
            "{}",
            seen.plain_text()
        );
        assert_eq!(seen.details.unwrap()["changedModel"], false);
        kit.call("session_status", json!({"sessionKey": "x", "model": "default"})).await.unwrap();
        assert_eq!(kit.calls("sessions.patch")[0], json!({"key": "agent:jerry:x", "model": null}));
    }

    #[test]
    fn dates() {
        for (ms, want) in [(0, "1970-01-01 00:00"), (951_782_400_000, "2000-02-29 00:00"), (1_795_174_784_253, "2026-11-20 11:39"), (-1, "1969-12-31 23:59")] {
            assert_eq!(utc(ms), want);
        }
    }
}
