//! A cron job as it is stored and shown. Field names and kinds are those of OpenClaw's `cron/jobs.json` and RPC.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use clawstead_terms::{AgentId, Millis};

/// When a job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Schedule {
    /// Once, at an ISO moment.
    At {
        /// ISO 8601 with offset; without one it is UTC.
        at: String,
    },
    /// At a fixed distance.
    #[serde(rename_all = "camelCase")]
    Every {
        /// Milliseconds, at least 1,000.
        every_ms: i64,
        /// The instants are `anchor + n × every`; default: the moment the job was added.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        anchor_ms: Option<i64>,
    },
    /// By a cron expression of 5 or 6 fields.
    #[serde(rename_all = "camelCase")]
    Cron {
        /// The expression.
        expr: String,
        /// IANA time zone; default: the host's.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        tz: Option<String>,
        /// Spreads the start over this many milliseconds, by job id.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        stagger_ms: Option<i64>,
    },
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Payload {
    /// Puts a line into the main session.
    #[serde(rename_all = "camelCase")]
    SystemEvent {
        /// The line.
        text: String,
    },
    /// Runs a turn.
    #[serde(rename_all = "camelCase")]
    AgentTurn {
        /// What the agent is told.
        message: String,
        /// `provider/model` for this job.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        model: Option<String>,
        /// Models to fall back to.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        fallbacks: Option<Vec<String>>,
        /// Reasoning level.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        thinking: Option<String>,
        /// Time limit of the turn.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        timeout_seconds: Option<f64>,
        /// Only the short set of workspace files.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        light_context: Option<bool>,
        /// Accepted and kept for other programs.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        allow_unsafe_external_content: Option<bool>,
        /// The tools this job may use; `["*"]` is all.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        tools_allow: Option<Vec<String>>,
    },
    /// The built-in heartbeat of an agent.
    Heartbeat {},
}

/// Where a job's answer goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// `none`, `announce` or `webhook`.
    pub mode: DeliveryMode,
    /// The channel; `last` is the last one the agent talked on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<String>,
    /// Peer, room or, for webhooks, the address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// Our account on the channel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account_id: Option<String>,
    /// Thread or topic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thread_id: Option<Value>,
    /// A failed delivery does not fail the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_effort: Option<bool>,
    /// Kept for other programs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_destination: Option<Value>,
}

/// How a job's answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryMode {
    /// Not at all.
    None,
    /// As a message on a channel.
    Announce,
    /// As an HTTP POST.
    Webhook,
}

/// How an instant of a job ended. Exactly one for every scheduled instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum SlotEnd {
    /// The run is going, or was when the gateway stopped.
    Started,
    /// It ran.
    Ran {
        /// True when the run ended with an answer.
        ok: bool,
        /// The error otherwise.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    },
    /// It was due and not started, on purpose.
    Skipped {
        /// Why: `still running`, `no-route`, `outside active hours`, ...
        reason: String,
    },
    /// It was due while nobody could start it.
    Missed {
        /// Why: `gateway was not running`, `cron was disabled`.
        reason: String,
    },
}

/// What a job remembers. Names as OpenClaw writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobState {
    /// The next instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<i64>,
    /// Set while it runs: when the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_at_ms: Option<i64>,
    /// When it was switched on last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_activated_at_ms: Option<i64>,
    /// When the last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_at_ms: Option<i64>,
    /// `ok`, `error`, `skipped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_status: Option<String>,
    /// The same, older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_status: Option<String>,
    /// How long the last run took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_duration_ms: Option<i64>,
    /// Its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// `delivered`, `not-delivered`, `unknown`, `not-requested`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_delivery_status: Option<String>,
    /// Failed runs in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<u32>,
    /// Skipped runs in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_skipped: Option<u32>,
    /// Times the schedule could not be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_error_count: Option<u32>,
}

/// A cron job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// UUID.
    pub id: String,
    /// Idempotent identity given by whoever declared it (skills, `--declaration-key`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub declaration_key: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub display_name: Option<String>,
    /// The agent; none means the default agent at the time of the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent_id: Option<String>,
    /// Routing key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_key: Option<String>,
    /// Its name.
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<String>,
    /// Off jobs have no instants.
    pub enabled: bool,
    /// Removed after a run that went well.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delete_after_run: Option<bool>,
    /// When it was added.
    pub created_at_ms: i64,
    /// When it was changed.
    pub updated_at_ms: i64,
    /// When it runs.
    pub schedule: Schedule,
    /// `main`, `isolated`, `current` or `session:<id>`.
    pub session_target: String,
    /// `now` or `next-heartbeat`.
    pub wake_mode: String,
    /// What it does.
    pub payload: Payload,
    /// Where its answer goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivery: Option<Delivery>,
    /// Object or `false`; kept as given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_alert: Option<Value>,
    /// What it remembers.
    #[serde(default)]
    pub state: JobState,
    /// What OpenClaw writes for jobs of a trusted caller; shown for compatibility.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scheduled_tool_policy: Option<Value>,
}

impl Job {
    /// The agent it runs on.
    #[must_use]
    pub fn agent(&self, default: &AgentId) -> AgentId {
        self.agent_id.as_deref().map_or_else(|| default.clone(), AgentId::normalise)
    }

    /// True for the built-in heartbeat rows.
    #[must_use]
    pub const fn is_heartbeat(&self) -> bool {
        matches!(self.payload, Payload::Heartbeat {})
    }

    /// Changes when the job's definition changes (not its state): `sha256:<base64url>`.
    #[must_use]
    pub fn revision(&self) -> String {
        use base64::Engine as _;
        let mut bare = self.clone();
        bare.state = JobState::default();
        bare.updated_at_ms = 0;
        let text = serde_json::to_string(&bare).unwrap_or_default();
        format!("sha256:{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())))
    }

    /// The job as RPC results show it: with its revision and the next and last run lifted up.
    #[must_use]
    pub fn shown(&self, default_agent: &AgentId) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let lift = [
            ("configRevision", json!(self.revision())),
            ("nextRunAt", json!(self.state.next_run_at_ms.and_then(in_words))),
            ("nextRunAtMs", json!(self.state.next_run_at_ms)),
            ("scheduleKind", json!(value["schedule"]["kind"])),
            ("lastRunAt", json!(self.state.last_run_at_ms.and_then(in_words))),
            ("lastRunAtMs", json!(self.state.last_run_at_ms)),
            ("lastRunStatus", json!(self.state.last_run_status)),
            ("lastRunError", json!(self.state.last_error)),
            ("lastDeliveryStatus", json!(self.state.last_delivery_status)),
            ("effectiveAgentId", json!(self.agent(default_agent))),
        ];
        if let Some(object) = value.as_object_mut() {
            for (key, item) in lift {
                if !item.is_null() {
                    object.insert(key.into(), item);
                }
            }
        }
        value
    }
}

/// An instant as RFC 3339 in UTC.
fn in_words(at_ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(at_ms).ok().map(|at| at.to_string())
}

/// One finished run, as `cron.runs` lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunEntry {
    /// When it ended.
    pub ts: i64,
    /// The job.
    pub job_id: String,
    /// Always `finished`.
    pub action: String,
    /// `ok`, `error`, `skipped`.
    pub status: String,
    /// `succeeded`, `failed`, `skipped`.
    pub completion_status: String,
    /// The run's id.
    pub run_id: String,
    /// The error or the reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The answer, cut at 2,000 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<String>,
    /// The scheduled instant.
    pub run_at_ms: i64,
    /// How long it took.
    pub duration_ms: i64,
    /// The next instant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_run_at_ms: Option<i64>,
    /// The model that answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Its provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<String>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub usage: Option<Value>,
    /// True when the answer reached its channel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivered: Option<bool>,
    /// `delivered`, `not-delivered`, `unknown`, `not-requested`.
    pub delivery_status: String,
    /// Why it was not delivered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivery_error: Option<String>,
    /// The transcript.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_id: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_key: Option<String>,
    /// The job's name at the time.
    pub job_name: String,
    /// How the instant ended.
    pub end: SlotEnd,
}

/// The row of one instant in `Table::CronRuns`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotRow {
    /// The run id of its letter: the same after a crash, so that it runs once.
    pub run_id: String,
    /// When it was taken.
    pub at: Millis,
    /// The finished run, once there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entry: Option<RunEntry>,
    /// How it ended.
    pub end: SlotEnd,
}
