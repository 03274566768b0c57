//! What is known to differ, and why. A difference that is not here counts.

/// Part of a recording's name (empty: all), how the difference begins, why it is right.
const KNOWN: &[(&str, &str, &str)] = &[
    ("", "connect: payload.controlUiWidgetKinds", PLUGINS),
    ("", "connect: payload.controlUiLinkReaders", PLUGINS),
    ("", "connect: payload.pluginSurfaceUrls", PLUGINS),
    ("", "plugin.surface.refresh: ok is false", PLUGINS),
    ("", "chat.history: payload.nextOffset is missing", PAST),
    ("", "chat.startup: payload.nextOffset is missing", PAST),
    ("", "chat.startup: payload.metadata", "optional: the client asks chat.metadata then"),
    ("", "cron.list: payload.jobs[].last", PAST),
    ("", "last-heartbeat: payload is null", PAST),
    ("ui-chat-send", "chat.history: payload.sessionInfo", "asks for a session of a job that is not there"),
    ("ui-chat-send", "chat.history: payload.thinkingLevel", "asks for a session of a job that is not there"),
    ("", "chat.history: payload.messages[].api", INSIDE),
    ("", "chat.history: payload.messages[].responseId", INSIDE),
    ("", "chat.startup: payload.messages[].api", INSIDE),
    ("", "chat.startup: payload.messages[].responseId", INSIDE),
    ("", "chat.send: payload.serverTiming", INSIDE),
    ("", "agent:lifecycle/model released.lane", INSIDE),
    ("", "agent:lifecycle/finishing data.replayInvalid", INSIDE),
    ("", "agent:lifecycle/end data.replayInvalid", INSIDE),
    ("", "agent:item/start data.meta", TITLES),
    ("", "agent:item/end data.meta", TITLES),
    ("", "agent:tool/result data.meta", TITLES),
    ("chat-abort", "run: agent:lifecycle/error", "nothing follows the end of a stopped run"),
    ("chat-error", "run: chat:error", "an error is told once"),
    ("chat-error", "run: agent:lifecycle/fallback_step", "told where another model is tried"),
    ("sessions-lifecycle", "sessions.compact: payload.compacted", SHORT),
    ("sessions-lifecycle", "sessions.compact: payload.result", SHORT),
    ("sessions-lifecycle", "event \"sessions.changed compact\"", SHORT),
    ("", "event \"sessions.changed message\"", INSIDE),
    ("", "event \"task ", "there is no table of tasks; runs are told by agent and chat events"),
    ("", "event \"sessions.changed participants\"", "one owner: there are no participants"),
    ("", "event \"controlUi.sessionPullRequests.changed\"", "pull requests are not looked up"),
    ("chat-abort", "run: agent:lifecycle/model did", "nothing follows the end of a stopped run"),
    ("", "event \"session.message user\".senderIsOwner", "told inside the message"),
    ("", "event \"session.message user\".endedAt", RUNNING),
    ("", "event \"session.message user\".runtimeMs", RUNNING),
    ("", "event \"sessions.changed send\".endedAt", RUNNING),
    ("", "event \"sessions.changed send\".runtimeMs", RUNNING),
    ("", "event \"session.message assistant\".activeModel", "the answer and the end of its run are stored together"),
    ("ui-chat-send", "chat.history: payload.messages[].", "the session is told once, in sessionInfo"),
    ("", "chat.send: payload.messageSeq", "not known before the turn begins"),
    ("ui-page", "models.list: payload.models[].manualSelectionAllowed", "the recorder cut the capability that asks for it"),
    ("cli-models-list", "models.list: payload.models[].local", "optional"),
    ("", "cron.remove: payload.sessionCleanup", "sessions of a removed job stay in the list"),
    ("cli-cron-rm", "event \"cron finished\"", "the recorded job was removed while its model was slow"),
    ("cron-lifecycle", "event \"cron finished\".", "the recorded run failed"),
    ("cron-lifecycle", "event \"sessions.changed cron-binding\"", INSIDE),
    (
        "sessions-lifecycle",
        "event \"sessions.changed send\".catalogChanged",
        "optional: it makes the original's page read its list again, which a row it does not know does as well, five seconds later",
    ),
    ("", "event \"sessions.changed create\".createdVia", INSIDE),
    ("", "event \"sessions.changed delete\".sessionId", "a deleted session has no row"),
    ("cli-message-send", "message.action: error", TELEGRAM),
    ("rpc-errors", "send: error.code", TELEGRAM),
    ("rpc-errors", "send: error.details", TELEGRAM),
    ("", "send: error.message", OWN_WORDS),
    ("", "cron.remove: error.message", OWN_WORDS),
    ("", "cron.run: error.message", OWN_WORDS),
    ("", "cron.add: error.message", OWN_WORDS),
    ("", "agents.update: error.message", OWN_WORDS),
    ("", "chat.send: error.message", OWN_WORDS),
    ("", "config.patch: error.message is \"SyntaxError: JSON5:", OWN_WORDS),
    ("rpc-read-basics", "tts.status: payload.prefsPath", "speech is not in this version, so there is no file of it"),
    ("rpc-tools-invoke", "tools.invoke: payload.ok is false", "the tool session_status is not in this version"),
    ("rpc-tools-invoke", "tools.invoke: payload.output", "the tool session_status is not in this version"),
];

const PLUGINS: &str = "surfaces of plugins are not in this version";
const PAST: &str = "the recorded gateway had a longer past";
const INSIDE: &str = "optional, tells of the inside of the original; its own page does without";
const TITLES: &str = "a caption that the original derives from the command; clients show the name";
const TELEGRAM: &str = "the recorded gateway has a Telegram channel without a token, this version has no Telegram channel";
const OWN_WORDS: &str = "same code, own words";

const SHORT: &str = "one short turn is not summarised: the answer says so";
const RUNNING: &str = "a session that runs shows no end";

/// Fields of session rows that are not told, wherever a row is, and why.
const ROW: [(&str, &str); 3] = [
    (".contextBudgetStatus is missing", "the budget of the context is not estimated apart"),
    (".hasAutomation is missing", "jobs are listed by cron.list"),
    (".parentSessionKey is missing", "a session that a client makes belongs to no other"),
];

/// Why a difference is no fault.
pub fn why(recording: &str, difference: &str) -> Option<&'static str> {
    if let Some((_, why)) = ROW.iter().find(|(end, _)| difference.ends_with(end) && !difference.contains("payload")) {
        return Some(why);
    }
    KNOWN.iter().find(|(name, begin, _)| recording.contains(name) && difference.starts_with(begin)).map(|(_, _, why)| *why)
}
