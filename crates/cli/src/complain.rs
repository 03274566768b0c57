//! Mistakes on the command line, in the wording that users of OpenClaw know.

use clap::{
    CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{commands::Cli, fail::Fail};

/// Prints what is wrong and answers the exit code.
pub fn about(err: &clap::Error, args: &[String], json: bool) -> u8 {
    match err.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = err.print();
            return 0;
        }
        // a group without a subcommand
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            anstream::println!("{}", err.render().ansi());
            return 0;
        }
        _ => {}
    }
    let path = command_path(args);
    let tried = if path.is_empty() { "openclaw --help".to_owned() } else { format!("openclaw {} --help", path.join(" ")) };
    let context = |kind| match err.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(list)) => list.first().cloned(),
        _ => None,
    };
    let message = match err.kind() {
        ErrorKind::UnknownArgument => {
            let shown = context(ContextKind::InvalidArg).unwrap_or_default();
            let name = shown.split_whitespace().next().unwrap_or_default();
            if name.starts_with('-') {
                format!("OpenClaw does not recognize option \"{name}\".")
            } else if path.is_empty() {
                format!("OpenClaw does not know the command \"{name}\".")
            } else {
                format!("OpenClaw {} does not take \"{name}\".", path.join(" "))
            }
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            if path.is_empty() {
                format!("OpenClaw does not know the command \"{name}\".")
            } else {
                format!("OpenClaw {} has no command \"{name}\".", path.join(" "))
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match err.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(list)) => list.join(", "),
                _ => String::new(),
            };
            format!("Missing {missing}.")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let arg = context(ContextKind::InvalidArg).unwrap_or_default();
            let value = context(ContextKind::InvalidValue).unwrap_or_default();
            let allowed = match err.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(list)) => format!(" (allowed: {})", list.join(", ")),
                _ => String::new(),
            };
            if value.is_empty() { format!("{arg} needs a value{allowed}.") } else { format!("\"{value}\" is not a value for {arg}{allowed}.") }
        }
        _ => {
            let text = err.render().to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    let suggestion = match err.kind() {
        ErrorKind::UnknownArgument => context(ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => context(ContextKind::SuggestedSubcommand),
        _ => context(ContextKind::SuggestedValue),
    };
    say(&message, suggestion.as_deref(), &tried, json)
}

/// A word where a top-level command should be.
pub fn unknown_command(name: &str, json: bool) -> u8 {
    let root = Cli::command();
    let names = root.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name);
    let near = nearest(name, names);
    say(&format!("OpenClaw does not know the command \"{name}\"."), near.as_deref(), "openclaw --help", json)
}

fn say(message: &str, suggestion: Option<&str>, tried: &str, json: bool) -> u8 {
    if json {
        return Fail::new(message).show(true);
    }
    anstream::eprintln!("{message}");
    if let Some(near) = suggestion {
        anstream::eprintln!("Did you mean \"{near}\"?");
    }
    anstream::eprintln!("Try: {tried}");
    1
}

/// The known word with the fewest edits, when it is near enough to be meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known.map(|k| (distance(word, k), k)).filter(|(d, k)| *d <= 1 + k.len() / 4).min().map(|(_, k)| k.to_owned())
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

/// The names of the commands that were understood.
fn command_path(args: &[String]) -> Vec<String> {
    let mut here = Cli::command();
    let mut path = Vec::new();
    for arg in args.iter().skip(1).filter(|a| !a.starts_with('-')) {
        let Some(next) = here.find_subcommand(arg).cloned() else { break };
        path.push(next.get_name().to_owned());
        here = next;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn near_words_are_found() {
        assert_eq!(distance("session", "sessions"), 1);
        assert_eq!(nearest("sesions", ["sessions", "status"].into_iter()).as_deref(), Some("sessions"));
        assert_eq!(nearest("xyzzy", ["sessions", "status"].into_iter()), None);
    }
}
