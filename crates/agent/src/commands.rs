//! Text commands of people: `/new`, `/status`, ... Parsing is pure; the lane acts.

use clawstead_terms::{Envelope, EnvelopeKind, Origin, Part};

/// What a command wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextCommand {
    /// Start afresh; the text after it starts the new conversation.
    Reset {
        /// `new` or `reset`.
        reason: &'static str,
        /// What to begin with.
        rest: Option<String>,
    },
    /// Stop what is running, at once.
    Stop,
    /// How this session stands.
    Status,
    /// Show the model, or choose one (`default` takes the choice back).
    Model(Option<String>),
    /// Show the thinking level, or choose one.
    Think(Option<String>),
    /// Summarise the conversation now.
    Compact(Option<String>),
    /// What there is.
    Help,
}

/// Name, argument, what it does: the list of `/help` and of `commands.list`.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("new", "[message]", "start a new conversation"),
    ("reset", "[message]", "the same as /new"),
    ("stop", "", "stop what is running"),
    ("status", "", "show model, tokens and queue of this session"),
    ("model", "[provider/model|default]", "show or choose the model of this session"),
    ("think", "[off|low|medium|high|default]", "show or choose the thinking level of this session"),
    ("compact", "[what to keep]", "summarise the conversation to free context"),
    ("help", "", "show these commands"),
];

/// Reads a text. `triggers` are further texts that start afresh (`session.resetTriggers`).
#[must_use]
pub fn parse(text: &str, triggers: &[String]) -> Option<TextCommand> {
    let text = text.trim();
    for trigger in triggers {
        let trigger = trigger.trim();
        if trigger.is_empty() {
            continue;
        }
        if let Some(rest) = text.strip_prefix(trigger)
            && rest.chars().next().is_none_or(char::is_whitespace)
        {
            return Some(TextCommand::Reset { reason: "new", rest: filled(rest) });
        }
    }
    let body = text.strip_prefix('/')?;
    let (name, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    // Telegram writes `/new@botname`; some people write `/model: x`.
    let name = name.split('@').next().unwrap_or(name).trim_end_matches(':').to_ascii_lowercase();
    let rest = filled(rest);
    Some(match name.as_str() {
        "new" => TextCommand::Reset { reason: "new", rest },
        "reset" => TextCommand::Reset { reason: "reset", rest },
        "stop" | "abort" if rest.is_none() => TextCommand::Stop,
        "status" if rest.is_none() => TextCommand::Status,
        "model" => TextCommand::Model(rest),
        "think" | "thinking" | "t" => TextCommand::Think(rest),
        "compact" => TextCommand::Compact(rest),
        "help" | "commands" if rest.is_none() => TextCommand::Help,
        _ => return None,
    })
}

fn filled(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The command in a letter. Only people give commands: a webhook, a job or another agent that writes `/new` means
/// the text.
#[must_use]
pub fn of_letter(letter: &Envelope, triggers: &[String]) -> Option<TextCommand> {
    if letter.kind != EnvelopeKind::Request || !matches!(letter.from, Origin::Client { .. } | Origin::Channel { .. }) {
        return None;
    }
    match letter.body.as_slice() {
        [Part::Text { text }] => parse(text, triggers),
        _ => None,
    }
}

/// The text of `/help`.
#[must_use]
pub fn help() -> String {
    let mut out = String::from("Commands:");
    for (name, args, what) in COMMANDS {
        out.push_str("\n/");
        out.push_str(name);
        if !args.is_empty() {
            out.push(' ');
            out.push_str(args);
        }
        out.push_str(" - ");
        out.push_str(what);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{TextCommand, parse};

    #[test]
    fn commands_by_table() {
        let triggers = vec!["hello again".to_owned()];
        let reset = |reason, rest: Option<&str>| Some(TextCommand::Reset { reason, rest: rest.map(str::to_owned) });
        for (text, want) in [
            ("/new", reset("new", None)),
            (" /NEW  hi there ", reset("new", Some("hi there"))),
            ("/reset@clawbot", reset("reset", None)),
            ("/newer", None),
            ("hello again", reset("new", None)),
            ("hello again, Sam", None),
            ("/stop", Some(TextCommand::Stop)),
            ("/stop the music", None),
            ("/model", Some(TextCommand::Model(None))),
            ("/model: a/b", Some(TextCommand::Model(Some("a/b".into())))),
            ("/think high", Some(TextCommand::Think(Some("high".into())))),
            ("/compact names", Some(TextCommand::Compact(Some("names".into())))),
            ("say /new", None),
            ("/usr/bin is a folder", None),
        ] {
            assert_eq!(parse(text, &triggers), want, "{text:?}");
        }
    }
}
