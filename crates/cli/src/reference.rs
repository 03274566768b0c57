//! The command reference as Markdown, made from the commands themselves.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use crate::commands::{Cli, elsewhere};

/// The whole page.
#[must_use]
pub fn cli() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = String::from("# Command line\n\nMade from the program by `openclaw __docs cli`; do not edit by hand.\n\n");
    out.push_str(
        "Global options work before and after the command: `--profile <name>`, `--dev`, `--log-level <level>`, `--no-color`, `-V`/`-v`/`--version`.\n\n",
    );
    out.push_str("Exit codes: 0 done, 1 failed, 2 bad global option (and a few documented cases), 78 the gateway must not be restarted as it is, 130/143 interrupted.\n\n");
    for command in root.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        section(&mut out, command, &[], 2);
    }
    out.push_str(
        "## Recognised, not available\n\nThese commands of OpenClaw are recognised and explained, with exit code 1.\n\n| Command | Instead |\n|---|---|\n",
    );
    for (name, why) in elsewhere::KNOWN {
        let _ = writeln!(out, "| `{name}` | {why} |");
    }
    out
}

fn section(out: &mut String, command: &Command, above: &[&str], depth: usize) {
    let mut path: Vec<&str> = above.to_vec();
    path.push(command.get_name());
    let name = path.join(" ");
    let _ = writeln!(out, "{} openclaw {name}\n", "#".repeat(depth.min(4)));
    if let Some(about) = command.get_about() {
        let _ = writeln!(out, "{about}.\n");
    }
    let aliases: Vec<String> = command.get_all_aliases().map(|a| format!("`{a}`")).collect();
    if !aliases.is_empty() {
        let _ = writeln!(out, "Also: {}.\n", aliases.join(", "));
    }
    let shown: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set() && !matches!(a.get_id().as_str(), "help" | "version")).collect();
    if !shown.is_empty() {
        out.push_str("| Argument | Meaning |\n|---|---|\n");
        for arg in shown {
            let _ = writeln!(out, "| `{}` | {}{} |", usage(arg), escape(&arg.get_help().map(ToString::to_string).unwrap_or_default()), detail(arg));
        }
        out.push('\n');
    }
    if let Some(after) = command.get_after_help() {
        let _ = writeln!(out, "```\n{after}\n```\n");
    }
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        section(out, inner, &path, depth + 1);
    }
}

fn usage(arg: &Arg) -> String {
    let values: Vec<String> = arg.get_value_names().into_iter().flatten().map(|v| format!("<{v}>")).collect();
    let takes = arg.get_action().takes_values();
    let value = if takes && !values.is_empty() { values.join(" ") } else { String::new() };
    let mut names = Vec::new();
    if let Some(short) = arg.get_short() {
        names.push(format!("-{short}"));
    }
    if let Some(long) = arg.get_long() {
        names.push(format!("--{long}"));
    }
    if names.is_empty() {
        return if value.is_empty() { format!("<{}>", arg.get_id()) } else { value };
    }
    let names = names.join(", ");
    if value.is_empty() { names } else { format!("{names} {value}") }
}

fn detail(arg: &Arg) -> String {
    let mut out = String::new();
    let values: Vec<String> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        let _ = write!(out, " ({})", values.join(", "));
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(out, " [default: {}]", defaults.join(", "));
    }
    escape(&out)
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_sound_and_all_on_the_page() {
        crate::commands::Cli::command().debug_assert();
        let page = super::cli();
        for name in ["## openclaw gateway\n", "openclaw cron add", "openclaw config set", "| `browser` |", "--expect-final"] {
            assert!(page.contains(name), "{name}");
        }
    }
}
