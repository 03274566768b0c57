//! `openclaw message`: send through channels.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    print,
    rpc::{self, Connect},
};

/// Send messages through channels.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw message send --channel telegram --target 12345 --message \"Hello\"\n  openclaw message send --channel slack -t channel:C123 -m \"Done\" --dry-run --json\n  openclaw message react --channel discord -t channel:1 --message-id 2 --emoji 👍"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// Where to, and how to answer.
#[derive(clap::Args)]
struct Common {
    /// Channel (needed when several are configured)
    #[arg(long, value_name = "ID")]
    channel: Option<String>,
    /// Account
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Target: number, chat id, @name, channel:<id>, user:<id>
    #[arg(short, long, value_name = "TARGET")]
    target: Option<String>,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    /// More words
    #[arg(long)]
    verbose: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Send a message
    Send(Box<SendArgs>),
    /// Send one message to several targets
    Broadcast {
        /// Targets
        #[arg(long, required = true, num_args = 1..)]
        targets: Vec<String>,
        /// Text
        #[arg(short, long)]
        message: Option<String>,
        /// File or URL
        #[arg(long)]
        media: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Ask a question with options
    Poll {
        /// Question
        #[arg(long)]
        poll_question: String,
        /// An option (2 to 12)
        #[arg(long, required = true)]
        poll_option: Vec<String>,
        /// Several answers
        #[arg(long)]
        poll_multi: bool,
        /// Open for hours
        #[arg(long)]
        poll_duration_hours: Option<u32>,
        /// Open for seconds
        #[arg(long)]
        poll_duration_seconds: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// React to a message
    React {
        /// Message
        #[arg(long)]
        message_id: String,
        /// Emoji; empty takes the reaction away
        #[arg(long)]
        emoji: Option<String>,
        /// Take the reaction away
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Read recent messages
    Read {
        /// Messages
        #[arg(long)]
        limit: Option<u32>,
        /// Before this message
        #[arg(long)]
        before: Option<String>,
        /// After this message
        #[arg(long)]
        after: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Change a message
    Edit {
        /// Message
        #[arg(long)]
        message_id: String,
        /// New text
        #[arg(short, long)]
        message: String,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a message
    Delete {
        /// Message
        #[arg(long)]
        message_id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Pin a message
    Pin {
        /// Message
        #[arg(long)]
        message_id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Unpin a message
    Unpin {
        /// Message
        #[arg(long)]
        message_id: String,
        #[command(flatten)]
        common: Common,
    },
}

/// Send a message.
#[derive(clap::Args)]
struct SendArgs {
    /// Text
    #[arg(short, long)]
    message: Option<String>,
    /// File or URL, repeatable
    #[arg(long)]
    media: Vec<String>,
    /// Message to answer
    #[arg(long, value_name = "ID")]
    reply_to: Option<String>,
    /// Thread
    #[arg(long, value_name = "ID")]
    thread_id: Option<String>,
    /// Without a sound
    #[arg(long)]
    silent: bool,
    /// Play videos like GIFs
    #[arg(long)]
    gif_playback: bool,
    /// Send pictures as files
    #[arg(long)]
    force_document: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Send(args) => send(&args, cx),
        Verb::Broadcast { targets, message, media, common } => {
            let mut results = Vec::new();
            for target in &targets {
                let one = Common {
                    target: Some(target.clone()),
                    channel: common.channel.clone(),
                    account: common.account.clone(),
                    dry_run: common.dry_run,
                    verbose: common.verbose,
                    json: common.json,
                };
                let params = send_params(cx, &one, message.as_deref(), media.iter())?;
                results.push(match deliver(cx, &one, params) {
                    Ok(payload) => json!({"target": target, "ok": true, "payload": payload}),
                    Err(fail) => json!({"target": target, "ok": false, "error": fail.message}),
                });
            }
            let good = results.iter().all(|r| r["ok"] == true);
            print::json(&json!({"action": "broadcast", "dryRun": common.dry_run, "results": results}));
            Ok(u8::from(!good))
        }
        Verb::Poll { poll_question, poll_option, poll_multi, poll_duration_hours, poll_duration_seconds, common } => {
            let mut params =
                json!({"to": target(&common)?, "question": poll_question, "options": poll_option, "channel": channel(cx, &common)?, "idempotencyKey": key()});
            if poll_multi {
                params["maxSelections"] = poll_option.len().min(12).into();
            }
            for (name, value) in [("durationHours", poll_duration_hours), ("durationSeconds", poll_duration_seconds)] {
                if let Some(value) = value {
                    params[name] = value.into();
                }
            }
            method(cx, &common, "poll", "poll", params)
        }
        Verb::React { message_id, emoji, remove, common } => {
            action(cx, &common, "react", json!({"messageId": message_id, "emoji": emoji.unwrap_or_default(), "remove": remove}))
        }
        Verb::Read { limit, before, after, common } => action(cx, &common, "read", json!({"limit": limit, "before": before, "after": after})),
        Verb::Edit { message_id, message, common } => action(cx, &common, "edit", json!({"messageId": message_id, "message": message})),
        Verb::Delete { message_id, common } => action(cx, &common, "delete", json!({"messageId": message_id})),
        Verb::Pin { message_id, common } => action(cx, &common, "pin", json!({"messageId": message_id})),
        Verb::Unpin { message_id, common } => action(cx, &common, "unpin", json!({"messageId": message_id})),
    }
}

fn key() -> String {
    crate::device::new_id()
}

fn target(common: &Common) -> Result<String, Fail> {
    common.target.clone().ok_or_else(|| Fail::new("Missing target. Use --target <number, chat id or channel:id>.").hint("openclaw message send --help"))
}

/// The channel meant: the flag, the prefix of the target, or the only one configured.
fn channel(cx: &Cx, common: &Common) -> Result<String, Fail> {
    if let Some(channel) = &common.channel {
        return Ok(channel.to_lowercase());
    }
    let (_, config) = cx.config_or_defaults();
    let enabled: Vec<&String> =
        config.channels.blocks.iter().filter(|(id, _)| config.channels.accounts(id).iter().any(|a| a.enabled)).map(|(id, _)| id).collect();
    match enabled.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(Fail::new("Channel is required (no configured channels detected).").hint("openclaw channels add")),
        several => Err(Fail::new(format!(
            "Channel is required when multiple channels are configured: {}",
            several.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
        ))
        .hint("add --channel <id>")),
    }
}

fn send_params(cx: &Cx, common: &Common, message: Option<&str>, media: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Map<String, Value>, Fail> {
    let media: Vec<String> = media.into_iter().map(|m| m.as_ref().to_owned()).collect();
    if message.is_none_or(str::is_empty) && media.is_empty() {
        return Err(Fail::new("Missing message. Use --message <text> or --media <file>.").hint("openclaw message send --help"));
    }
    let mut params = Map::new();
    params.insert("to".into(), target(common)?.into());
    params.insert("channel".into(), channel(cx, common)?.into());
    if let Some(message) = message {
        params.insert("message".into(), message.into());
    }
    match media.as_slice() {
        [] => {}
        [one] => drop(params.insert("mediaUrl".into(), one.as_str().into())),
        several => drop(params.insert("mediaUrls".into(), json!(several))),
    }
    if let Some(account) = &common.account {
        params.insert("accountId".into(), account.as_str().into());
    }
    Ok(params)
}

fn deliver(cx: &Cx, common: &Common, mut params: Map<String, Value>) -> Result<Value, Fail> {
    if common.dry_run {
        let mut payload = json!({"channel": params["channel"], "to": params["to"], "via": "direct", "mediaUrl": params.get("mediaUrl"), "dryRun": true});
        if payload["mediaUrl"].is_null() {
            payload["mediaUrl"] = Value::Null;
        }
        return Ok(payload);
    }
    params.insert("idempotencyKey".into(), key().into());
    let (channel, to, media) = (params["channel"].clone(), params["to"].clone(), params.get("mediaUrl").cloned().unwrap_or_default());
    let result = rpc::call(cx, &Connect::configured(None), 30_000, "send", Value::Object(params))?;
    Ok(json!({"channel": channel, "to": to, "via": "gateway", "mediaUrl": media, "result": result}))
}

fn send(args: &SendArgs, cx: &Cx) -> Outcome {
    let common = &args.common;
    let mut params = send_params(cx, common, args.message.as_deref(), &args.media)?;
    for (name, value) in [("replyToId", &args.reply_to), ("threadId", &args.thread_id)] {
        if let Some(value) = value {
            params.insert(name.into(), value.as_str().into());
        }
    }
    for (name, given) in [("silent", args.silent), ("gifPlayback", args.gif_playback), ("forceDocument", args.force_document)] {
        if given {
            params.insert(name.into(), true.into());
        }
    }
    let channel = params["channel"].clone();
    let payload = deliver(cx, common, params)?;
    if common.json {
        print::json(&json!({"action": "send", "channel": channel, "dryRun": common.dry_run, "handledBy": "core", "payload": payload}));
    } else if common.dry_run {
        print::line(&format!("[dry-run] would send to {} on {}.", crate::format::scalar(&payload["to"]), crate::format::scalar(&channel)));
    } else {
        let id = payload.pointer("/result/messageId").and_then(Value::as_str).map(|id| format!(" Message ID: {id}")).unwrap_or_default();
        print::line(&format!("Sent via {}.{id}", crate::format::scalar(&channel)));
    }
    Ok(0)
}

fn action(cx: &Cx, common: &Common, name: &str, mut params: Value) -> Outcome {
    if let Some(map) = params.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    params["to"] = target(common)?.into();
    let mut call = json!({"channel": channel(cx, common)?, "action": name, "params": params, "idempotencyKey": key()});
    if let Some(account) = &common.account {
        call["accountId"] = account.as_str().into();
    }
    method(cx, common, name, "message.action", call)
}

fn method(cx: &Cx, common: &Common, name: &str, method: &str, params: Value) -> Outcome {
    let channel = params["channel"].clone();
    let payload = if common.dry_run { json!({"dryRun": true}) } else { rpc::call(cx, &Connect::configured(None), 30_000, method, params)? };
    if common.json {
        print::json(&json!({"action": name, "channel": channel, "dryRun": common.dry_run, "handledBy": "core", "payload": payload}));
    } else {
        print::line(&format!("{name}: {}", if common.dry_run { "dry run" } else { "done" }));
    }
    Ok(0)
}
