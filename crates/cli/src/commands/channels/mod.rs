//! `openclaw channels`: channel accounts.

mod ask;

use std::io::IsTerminal as _;

use clap::Subcommand;
use clawstead_config::{Edit, MapWrite};
use serde_json::{Map, Value, json};

use super::{Outcome, config};
use crate::{
    cx::Cx,
    fail::{Fail, Kind},
    format::{list, text},
    print,
    rpc::{self, Connect},
};

/// Channel accounts.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw channels list --json\n  openclaw channels status --probe\n  openclaw channels add --channel telegram --token 123:abc\n  openclaw channels remove --channel telegram --account alerts --delete"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Configured accounts
    List(ListArgs),
    /// How accounts are doing
    Status(StatusArgs),
    /// Add or change an account
    Add(Box<AddArgs>),
    /// Switch an account off, or delete it
    Remove(RemoveArgs),
    /// Sign in to a channel
    Login(LoginArgs),
    /// Sign out of a channel
    Logout(LoginArgs),
    /// What channels can do
    Capabilities(ask::CapabilitiesArgs),
    /// Names to ids
    Resolve(ask::ResolveArgs),
    /// Log lines of channels
    Logs(LogsArgs),
}

/// Configured accounts.
#[derive(clap::Args)]
struct ListArgs {
    /// Those that are not configured too
    #[arg(long)]
    all: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    no_usage: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// How accounts are doing.
#[derive(clap::Args)]
struct StatusArgs {
    /// One channel
    #[arg(long, value_name = "ID")]
    channel: Option<String>,
    /// Ask the platforms now
    #[arg(long)]
    probe: bool,
    /// Budget, milliseconds
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Add or change an account.
#[derive(clap::Args)]
struct AddArgs {
    /// Channel
    name_of_channel: Option<String>,
    /// Channel
    #[arg(long, value_name = "ID")]
    channel: Option<String>,
    /// Account
    #[arg(long, default_value = "default", value_name = "ID")]
    account: String,
    /// Display name
    #[arg(long)]
    name: Option<String>,
    /// Agent that gets its messages
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Bot token (Telegram, Discord)
    #[arg(long)]
    token: Option<String>,
    /// File with the token
    #[arg(long, value_name = "PATH")]
    token_file: Option<String>,
    /// Slack bot token
    #[arg(long)]
    bot_token: Option<String>,
    /// Slack app token
    #[arg(long)]
    app_token: Option<String>,
    /// Take credentials from the environment
    #[arg(long)]
    use_env: bool,
    /// WhatsApp credentials folder
    #[arg(long, value_name = "DIR")]
    auth_dir: Option<String>,
    /// Signal number
    #[arg(long, value_name = "E.164")]
    signal_number: Option<String>,
    /// Path of a helper program
    #[arg(long, value_name = "PATH")]
    cli_path: Option<String>,
    /// Address of a helper service
    #[arg(long, value_name = "URL")]
    http_url: Option<String>,
    /// Webhook path
    #[arg(long, value_name = "PATH")]
    webhook_path: Option<String>,
    /// Webhook URL
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// Matrix home server
    #[arg(long, value_name = "URL")]
    homeserver: Option<String>,
    /// User id
    #[arg(long)]
    user_id: Option<String>,
    /// Access token
    #[arg(long)]
    access_token: Option<String>,
    /// Password
    #[arg(long)]
    password: Option<String>,
    /// Senders allowed in direct messages, comma-separated
    #[arg(long, value_delimiter = ',')]
    dm_allowlist: Vec<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Switch an account off, or delete it.
#[derive(clap::Args)]
struct RemoveArgs {
    /// Channel
    #[arg(long, value_name = "ID")]
    channel: String,
    /// Account
    #[arg(long, default_value = "default", value_name = "ID")]
    account: String,
    /// Delete its block
    #[arg(long)]
    delete: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Sign in to or out of a channel.
#[derive(clap::Args)]
struct LoginArgs {
    /// Channel [default: the only one]
    #[arg(long, value_name = "ID")]
    channel: Option<String>,
    /// Account
    #[arg(long, default_value = "default", value_name = "ID")]
    account: String,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    verbose: bool,
}

/// Log lines of channels.
#[derive(clap::Args)]
struct LogsArgs {
    /// Channel, or all
    #[arg(long, default_value = "all", value_name = "ID")]
    channel: String,
    /// Lines
    #[arg(long, default_value_t = 200)]
    lines: u32,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::List(args) => accounts(&args, cx),
        Verb::Status(args) => status(&args, cx),
        Verb::Add(args) => add(&args, cx),
        Verb::Remove(args) => remove(&args, cx),
        Verb::Login(args) => login(&args, cx),
        Verb::Logout(args) => logout(&args, cx),
        Verb::Capabilities(args) => ask::capabilities(&args, cx),
        Verb::Resolve(args) => ask::resolve(&args, cx),
        Verb::Logs(args) => logs(&args, cx),
    }
}

/// The ids that the original's `--channel` takes.
const ACCEPTED: &[&str] = &[
    "telegram",
    "whatsapp",
    "discord",
    "irc",
    "googlechat",
    "slack",
    "signal",
    "imessage",
    "feishu",
    "nostr",
    "buzz",
    "msteams",
    "mattermost",
    "nextcloud-talk",
    "matrix",
    "raft",
    "a2a",
    "line",
    "zalo",
    "clickclack",
    "zalouser",
    "sms",
    "synology-chat",
    "tlon",
    "qa-channel",
    "reef",
    "twitch",
    "bluebubbles",
];

fn unknown(id: &str) -> Fail {
    Fail::new(format!("Unknown channel \"{id}\".")).hint("openclaw channels add --help")
}

/// Refuses a channel that this build does not run, in words.
fn must_run(id: &str) -> Result<(), Fail> {
    if clawstead_channels::find(id).is_some() {
        return Ok(());
    }
    if ACCEPTED.contains(&id) {
        return Err(
            Fail::new(format!("{} is not run by this version. Its block in the config is kept and left alone.", label(id))).hint("openclaw channels list")
        );
    }
    Err(unknown(id))
}

/// `Telegram` for `telegram`.
fn label(channel: &str) -> String {
    match channel {
        "whatsapp" => "WhatsApp".into(),
        "imessage" => "iMessage".into(),
        "msteams" => "Microsoft Teams".into(),
        "googlechat" => "Google Chat".into(),
        other => other.chars().next().map(|c| c.to_uppercase().collect::<String>() + &other[c.len_utf8()..]).unwrap_or_default(),
    }
}

fn accounts(args: &ListArgs, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let channels = &loaded.config.channels;
    if args.json {
        let mut chat = Map::new();
        for (id, _) in &channels.blocks {
            let own: Vec<Value> = channels.accounts(id).iter().map(|a| json!(a.id)).collect();
            let enabled = channels.accounts(id).iter().any(|a| a.enabled);
            chat.insert(id.clone(), json!({"accounts": own, "installed": true, "configured": !own.is_empty(), "enabled": enabled}));
        }
        print::json(&json!({"chat": chat}));
        return Ok(0);
    }
    print::line("Chat channels:");
    if channels.blocks.is_empty() {
        print::line("- none configured (openclaw channels add --help)");
    }
    for (id, _) in &channels.blocks {
        for account in channels.accounts(id) {
            let name = account.config.0.get("name").and_then(Value::as_str).map(|n| format!(" ({n})")).unwrap_or_default();
            print::line(&format!("- {} {}{name}: configured, {}", label(id), account.id, if account.enabled { "enabled" } else { "disabled" }));
        }
    }
    Ok(0)
}

fn status(args: &StatusArgs, cx: &Cx) -> Outcome {
    let mut params = json!({"probe": args.probe});
    if let Some(channel) = &args.channel {
        params["channel"] = channel.as_str().into();
    }
    if let Some(ms) = args.timeout {
        params["timeoutMs"] = ms.into();
    }
    if !args.json {
        print::line("Checking channel status…");
    }
    match rpc::call(cx, &Connect::configured(args.timeout), 60_000, "channels.status", params) {
        Ok(found) if args.json => print::json(&found),
        Ok(found) => {
            print::line("Gateway reachable.");
            let mut any = false;
            for (channel, accounts) in found["channelAccounts"].as_object().into_iter().flatten() {
                for account in accounts.as_array().into_iter().flatten() {
                    any = true;
                    let mut words: Vec<String> = Vec::new();
                    for (name, yes, no) in [
                        ("enabled", "enabled", "disabled"),
                        ("configured", "configured", "not configured"),
                        ("running", "running", "stopped"),
                        ("connected", "connected", ""),
                    ] {
                        let word = if account[name] == true { yes } else { no };
                        if !word.is_empty() {
                            words.push(word.into());
                        }
                    }
                    for (name, title) in [("mode", "mode"), ("tokenSource", "token"), ("lastError", "error")] {
                        if let Some(value) = account.get(name).and_then(Value::as_str).filter(|v| !v.is_empty()) {
                            words.push(format!("{title}:{value}"));
                        }
                    }
                    let title = found["channelLabels"].get(channel).and_then(Value::as_str).map_or_else(|| label(channel), str::to_owned);
                    print::line(&format!("- {title} {}: {}", text(account, "accountId"), words.join(", ")));
                }
            }
            if !any {
                print::line("- no configured chat channels (openclaw channels add)");
            }
            for issue in list(&found, "statusIssues") {
                print::line(&format!("! {}", issue.get("message").and_then(Value::as_str).map_or_else(|| issue.to_string(), str::to_owned)));
            }
        }
        // Without a gateway there is still the config to tell about.
        Err(fail) if fail.kind == Kind::Transport && !args.json => {
            print::line(&format!("Gateway not reachable: {}", fail.message));
            print::line("From the config only:");
            return accounts(&ListArgs { all: false, no_usage: false, json: false }, cx);
        }
        Err(fail) if fail.kind == Kind::Transport => {
            let (_, config) = cx.config_or_defaults();
            let ids: Vec<&String> = config.channels.blocks.iter().map(|(id, _)| id).collect();
            print::json(&json!({"gatewayReachable": false, "error": fail.message, "configOnly": true, "configuredChannels": ids}));
        }
        Err(fail) => return Err(fail),
    }
    Ok(0)
}

fn add(args: &AddArgs, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let Some(channel) = args.channel.as_ref().or(args.name_of_channel.as_ref()).map(|c| c.trim().to_lowercase()) else {
        return Err(Fail::new("Choose a channel: --channel telegram.").hint("openclaw channels add --help"));
    };
    let runs = clawstead_channels::find(&channel).is_some();
    if !runs && !ACCEPTED.contains(&channel.as_str()) && loaded.config.channels.block(&channel).is_none() {
        return Err(unknown(&channel));
    }
    let mut block = Map::new();
    let token = if channel == "telegram" { "botToken" } else { "token" };
    let pairs = [
        ("name", &args.name),
        (token, &args.token),
        ("tokenFile", &args.token_file),
        ("botToken", &args.bot_token),
        ("appToken", &args.app_token),
        ("authDir", &args.auth_dir),
        ("account", &args.signal_number),
        ("cliPath", &args.cli_path),
        ("httpUrl", &args.http_url),
        ("webhookPath", &args.webhook_path),
        ("webhookUrl", &args.webhook_url),
        ("homeserver", &args.homeserver),
        ("userId", &args.user_id),
        ("accessToken", &args.access_token),
        ("password", &args.password),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            block.insert(name.into(), value.as_str().into());
        }
    }
    if !args.dm_allowlist.is_empty() {
        block.insert("allowFrom".into(), json!(args.dm_allowlist));
    }
    if block.is_empty() && !args.use_env {
        if !std::io::stdin().is_terminal() {
            return Err(Fail::new(format!("Pass the credentials of {} as flags; there is no terminal to ask on.", label(&channel)))
                .hint("openclaw channels add --help"));
        }
        let secret = cliclack::password(format!("Token of {}", label(&channel))).mask('*').interact()?;
        block.insert(if channel == "slack" { "botToken" } else { token }.into(), secret.into());
    }
    block.insert("enabled".into(), true.into());
    let there = loaded.config.channels.block(&channel).is_some_and(|b| b.get("accounts").is_some());
    let path: Vec<String> = if args.account == "default" && !there {
        vec!["channels".into(), channel.clone()]
    } else {
        vec!["channels".into(), channel.clone(), "accounts".into(), args.account.clone()]
    };
    let mut edits: Vec<Edit> = block
        .into_iter()
        .map(|(name, value)| Edit::Set { path: path.iter().cloned().chain(std::iter::once(name)).collect(), value, mode: MapWrite::Merge })
        .collect();
    if let Some(agent) = &args.agent {
        let agent = super::agents::find(&loaded.config, Some(agent))?;
        let spec = if args.account == "default" { channel.clone() } else { format!("{channel}:{}", args.account) };
        edits.extend(super::agents::Bound::plan(&snapshot, &loaded.config, agent.id.as_str(), &[spec])?.edits);
    }
    config::apply(cx, &snapshot, &edits, false)?;
    if args.json {
        print::json(&json!({"ok": true, "channel": channel, "accountId": args.account}));
    } else {
        print::line(&format!("Added {} account \"{}\".", label(&channel), args.account));
    }
    if !runs {
        anstream::eprintln!("{} is not run by this version: the account is kept in the config for the one that does.", label(&channel));
    }
    Ok(0)
}

fn remove(args: &RemoveArgs, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let channel = args.channel.to_lowercase();
    let Some(block) = loaded.config.channels.block(&channel) else {
        return Err(Fail::new(format!("Channel {channel} is not configured.")).hint("openclaw channels list"));
    };
    let named = block.get("accounts").and_then(|a| a.get(&args.account)).is_some();
    if !named && args.account != "default" {
        return Err(Fail::new(format!("{} has no account \"{}\".", label(&channel), args.account)).hint("openclaw channels list"));
    }
    let mut path = vec!["channels".to_owned(), channel.clone()];
    if named {
        path.extend(["accounts".to_owned(), args.account.clone()]);
    }
    let edit = if args.delete {
        Edit::Unset { path }
    } else {
        path.push("enabled".into());
        Edit::Set { path, value: false.into(), mode: MapWrite::Merge }
    };
    config::apply(cx, &snapshot, &[edit], false)?;
    let word = if args.delete { "Deleted" } else { "Disabled" };
    if args.json {
        print::json(&json!({"ok": true, "channel": channel, "accountId": args.account, "deleted": args.delete}));
    } else {
        print::line(&format!("{word} {} account \"{}\".", label(&channel), args.account));
    }
    Ok(0)
}

fn chosen(cx: &Cx, channel: Option<&String>) -> Result<String, Fail> {
    if let Some(channel) = channel {
        return Ok(channel.to_lowercase());
    }
    let (_, loaded) = cx.loaded()?;
    match loaded.config.channels.blocks.as_slice() {
        [(only, _)] => Ok(only.clone()),
        _ => Err(Fail::new("Choose a channel: --channel <id>.").hint("openclaw channels list")),
    }
}

fn login(args: &LoginArgs, cx: &Cx) -> Outcome {
    let channel = chosen(cx, args.channel.as_ref())?;
    must_run(&channel)?;
    Err(Fail::new(format!("{} has no sign-in: what it needs is in its block of the config.", label(&channel)))
        .hint(format!("openclaw channels add --channel {channel} --account {}", args.account)))
}

fn logout(args: &LoginArgs, cx: &Cx) -> Outcome {
    let channel = chosen(cx, args.channel.as_ref())?;
    must_run(&channel)?;
    let answer = match rpc::call(cx, &Connect::configured(None), 10_000, "channels.logout", json!({"channel": channel, "accountId": args.account})) {
        // Without a gateway nobody is signed in.
        Err(fail) if fail.kind == Kind::Transport => json!({"cleared": false}),
        other => other?,
    };
    print::line(&format!("{}: {}", label(&channel), if answer["cleared"] == true { "signed out" } else { "nothing to sign out of" }));
    Ok(0)
}

fn logs(args: &LogsArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let file = config
        .logging
        .file
        .clone()
        .or_else(|| clawstead_gateway::logs::newest(&cx.paths.log_dir))
        .unwrap_or_else(|| cx.paths.log_dir.join(clawstead_gateway::logs::file_of_today()));
    let page = clawstead_gateway::logs::tail(&file, None, 5_000, 1_000_000)?;
    let wanted = args.channel.to_lowercase();
    let about = |subsystem: &str| subsystem.contains("channel") && (wanted == "all" || subsystem.contains(&wanted));
    let mut lines: Vec<Value> = page
        .lines
        .iter()
        .filter_map(|line| super::logs::parse(line))
        .filter(|entry| about(text(entry, "subsystem")) || (wanted != "all" && text(entry, "message").to_lowercase().contains(&wanted)))
        .collect();
    let keep = usize::try_from(args.lines).unwrap_or(usize::MAX);
    let cut = lines.len().saturating_sub(keep);
    lines.drain(..cut);
    if args.json {
        print::json(&json!({"file": file, "channel": wanted, "truncated": cut > 0 || page.truncated, "lines": lines}));
        return Ok(0);
    }
    print::line(&format!("Log file: {}", file.display()));
    for entry in &lines {
        print::line(&format!("{} {} {} {}", text(entry, "time"), text(entry, "level"), text(entry, "subsystem"), text(entry, "message")));
    }
    if lines.is_empty() {
        print::line("No matching log lines.");
    }
    Ok(0)
}
