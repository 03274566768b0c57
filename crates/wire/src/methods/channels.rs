//! Channels and sending.

use serde_json::Value;

use crate::method::{Loose, methods, params};

params! {
    /// For `channels.status`.
    #[derive(Default)]
    StatusParams { probe?: bool, timeout_ms?: int, channel?: text }
    /// A channel account.
    AccountRef { channel: text, account_id?: text }
    /// For `send`.
    SendParams {
        to: text,
        message?: String,
        media_url?: String,
        media_urls?: Vec<String>,
        buffer?: String,
        filename?: String,
        content_type?: String,
        as_voice?: bool,
        gif_playback?: bool,
        channel?: String,
        account_id?: String,
        agent_id?: String,
        reply_to_id?: String,
        thread_id?: String,
        force_document?: bool,
        silent?: bool,
        parse_mode?: String,
        session_key?: String,
        idempotency_key: text,
    }
    /// For `message.action`: what `openclaw message send` uses.
    ActionParams {
        channel: text,
        /// `send`, `react`, `edit`, `delete`, ...
        action: text,
        params: Loose,
        reply?: Value,
        account_id?: text,
        requester_account_id?: text,
        requester_sender_id?: text,
        sender_is_owner?: bool,
        session_key?: text,
        session_id?: text,
        inbound_turn_kind?: String,
        agent_id?: text,
        tool_context?: Value,
        conversation_read_origin?: String,
        idempotency_key: text,
    }
    /// For `poll`.
    PollParams {
        to: text,
        question: text,
        #[schemars(length(min = 2, max = 12))]
        options: Vec<String>,
        max_selections?: int(1..12),
        duration_seconds?: int(1..604_800),
        duration_hours?: int(1..),
        silent?: bool,
        is_anonymous?: bool,
        thread_id?: String,
        channel?: String,
        account_id?: String,
        idempotency_key: text,
    }
    /// For `channels.pairing.list`.
    #[derive(Default)]
    PairingListParams { channel?: text, account_id?: text }
    /// For `channels.pairing.approve`.
    PairingApproveParams { channel: text, account_id: text, request_id: text, notify?: bool, bootstrap_command_owner?: bool }
    /// For `channels.pairing.dismiss`.
    PairingDismissParams { channel: text, account_id: text, request_id: text }
}

methods! {
    /// Channels and sending.
    trait ChannelsApi {
        /// How every channel account is.
        Status: "channels.status" => fn status(StatusParams) -> Value, scope: Read;
        /// Starts an account.
        Start: "channels.start" => fn start(AccountRef) -> Value, scope: Admin;
        /// Stops an account.
        Stop: "channels.stop" => fn stop(AccountRef) -> Value, scope: Admin;
        /// Forgets an account's login.
        Logout: "channels.logout" => fn logout(AccountRef) -> Value, scope: Admin;
        /// Sends a message to a person or room.
        Send: "send" => fn send(SendParams) -> Value, scope: Write;
        /// Does something with messages on a channel.
        Action: "message.action" => fn action(ActionParams) -> Value, scope: Write;
        /// Sends a poll.
        Poll: "poll" => fn poll(PollParams) -> Value, scope: Write, flags: [HIDDEN];
        /// People who asked to talk to this gateway and wait for a yes.
        PairingList: "channels.pairing.list" => fn pairing_list(PairingListParams) -> Value, scope: Pairing;
        /// Says yes.
        PairingApprove: "channels.pairing.approve" => fn pairing_approve(PairingApproveParams) -> Value, scope: Dynamic;
        /// Says no.
        PairingDismiss: "channels.pairing.dismiss" => fn pairing_dismiss(PairingDismissParams) -> Value, scope: Pairing;
    }
}
