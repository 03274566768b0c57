//! Commands of OpenClaw that this program knows of but does not have, and words that are no commands.

use super::Outcome;
use crate::{complain, cx::Cx, fail::Fail};

/// Names and what to do instead, one sentence each.
pub const KNOWN: &[(&str, &str)] = &[
    ("acp", "The bridge for editors is not part of this program; editors can use the HTTP endpoint /v1/chat/completions."),
    ("attach", "External coding agents are not attached to sessions here; use openclaw agent --session-key."),
    ("audit", "There are no activity records yet; openclaw sessions and openclaw cron runs show what happened."),
    ("browser", "Browser control is not part of this version."),
    ("capability", "Providers are called through agents only; use openclaw agent."),
    ("infer", "Providers are called through agents only; use openclaw agent."),
    ("chat", "Start a gateway and use openclaw tui."),
    ("clawbot", "This old name has no commands left; see openclaw --help."),
    ("connect", "Joining a gateway as a node is not part of this version."),
    ("database", "The database checks itself at every start; openclaw doctor shows the result."),
    ("directory", "Contacts and groups cannot be looked up in this version; use ids as targets."),
    ("dns", "Wide-area discovery is not part of this program; give clients the address."),
    ("docs", "The documentation is in the docs folder of the source and in openclaw help <command>."),
    ("exec-policy", "Use openclaw approvals and openclaw config get tools.exec."),
    ("file-transfer", "Files are exchanged through the agents' workspaces."),
    ("fleet", "Use one profile for each gateway: openclaw --profile <name>."),
    ("googlemeet", "Meetings are not part of this program."),
    ("hooks", "Internal hooks are not part of this version; use openclaw cron and skills."),
    ("memory", "Agents search MEMORY.md and memory/ with their tools; there is no separate index to manage."),
    ("migrate", "Configs and files of older releases are read as they are; openclaw doctor says what remains."),
    ("node", "Running a headless node is not part of this version; openclaw nodes lists the ones that connect."),
    ("plugins", "Plugins are not part of this version."),
    ("promos", "There are none."),
    ("proxy", "Set HTTPS_PROXY for outgoing requests."),
    ("qr", "Open the dashboard on the phone instead: openclaw dashboard --no-open."),
    ("reset", "Stop the gateway and move the state folder away; openclaw gateway --dev --reset does it for the dev profile."),
    ("resume", "Turns go on by themselves after a restart."),
    ("sandbox", "Sandbox containers are not part of this version."),
    ("tasks", "Background tasks are sessions here: openclaw sessions."),
    ("teamsmeetings", "Meetings are not part of this program."),
    ("telemetry", "This program sends none."),
    ("transcripts", "Use openclaw sessions get and openclaw sessions export."),
    ("triage", "Use openclaw doctor and openclaw logs."),
    ("uninstall", "Run openclaw gateway uninstall, then remove the binary and, if you want, the state folder."),
    ("update", "Replace the binary by a newer one; the gateway finishes its turns and starts again with openclaw gateway restart."),
    ("users", "There is one owner; devices are managed with openclaw devices."),
    ("webhooks", "Webhooks are set in the config: openclaw config get hooks."),
    ("worker", "Workers are not part of this version."),
    ("worktrees", "Work trees are not managed here."),
    ("zoommeetings", "Meetings are not part of this program."),
];

/// Explains, or suggests the nearest command.
pub fn run(words: &[String], cx: &Cx) -> Outcome {
    let name = words.first().map_or("", String::as_str);
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, why)) => Err(Fail::new(format!("openclaw {name} is not available here. {why}")).hint("openclaw --help")),
        None => Ok(complain::unknown_command(name, cx.json)),
    }
}
