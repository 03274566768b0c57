//! May this command run, without asking, after asking, or not at all? Everything here only looks.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    approvals::{Allowed, Ask, Effective, Program, Security, allowed_by},
    exec::{safe_bins::SafeBins, words},
};

/// Programs that run the program named in their arguments.
const WRAPPERS: [&str; 34] = [
    "env",
    "nice",
    "nohup",
    "timeout",
    "xargs",
    "sudo",
    "doas",
    "su",
    "setsid",
    "stdbuf",
    "time",
    "busybox",
    "toybox",
    "chroot",
    "unshare",
    "nsenter",
    "ionice",
    "taskset",
    "watch",
    "strace",
    "ltrace",
    "gdb",
    "script",
    "flock",
    "parallel",
    "setpriv",
    "runuser",
    "systemd-run",
    "chrt",
    "prlimit",
    "rlwrap",
    "expect",
    "entr",
    "unbuffer",
];
/// Shells: whoever runs one runs anything.
const SHELLS: [&str; 15] = ["sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "ash", "csh", "tcsh", "pwsh", "powershell", "nu", "elvish", "xonsh"];
/// Languages that take a program as an argument.
const INTERPRETERS: [&str; 16] =
    ["python", "pypy", "node", "nodejs", "deno", "bun", "perl", "ruby", "php", "lua", "luajit", "rscript", "osascript", "tclsh", "guile", "ghci"];
/// Languages whose first argument is a program.
const PROGRAM_FIRST: [&str; 5] = ["awk", "gawk", "mawk", "nawk", "sed"];

/// The rules that hold for one call: the stricter of config, approvals file and call.
#[derive(Clone, Debug)]
pub struct ExecRules {
    /// How much may run.
    pub security: Security,
    /// When a person is asked.
    pub ask: Ask,
    /// What holds when nobody answers.
    pub fallback: Security,
    /// What may run without asking.
    pub allowlist: Vec<Allowed>,
    /// Filters that may run without asking.
    pub safe_bins: SafeBins,
    /// Whether an allowed interpreter may be given its program as an argument.
    pub inline_eval: InlineEval,
}

/// Whether an allowed interpreter may be given its program as an argument (`python -c ..`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InlineEval {
    /// It is a miss; the default.
    Ask,
    /// It is like any argument (`tools.exec.strictInlineEval: false`).
    Allow,
}

impl ExecRules {
    /// From `tools.exec`, the approvals of the agent and the wishes of the call, which can only tighten.
    #[must_use]
    pub fn of(exec: Option<&Value>, file: Effective, call_security: Option<Security>, call_ask: Option<Ask>) -> Self {
        let text = |key: &str| exec.and_then(|e| e.get(key)).and_then(Value::as_str);
        let mode = text("mode").and_then(|mode| match mode {
            "deny" => Some((Security::Deny, Ask::Off)),
            "allowlist" => Some((Security::Allowlist, Ask::Off)),
            "ask" | "auto" => Some((Security::Allowlist, Ask::OnMiss)),
            "full" => Some((Security::Full, Ask::Off)),
            _ => None,
        });
        // An unreadable word must not open a door: it counts as the strictest.
        let security = text("security").map(|s| serde_json::from_value(Value::from(s)).unwrap_or(Security::Deny));
        let ask = text("ask").map(|s| serde_json::from_value(Value::from(s)).unwrap_or(Ask::Always));
        let (config_security, config_ask) = match mode {
            Some((s, a)) => (security.map_or(s, |own| own.min(s)), ask.map_or(a, |own| own.max(a))),
            None if text("mode").is_some() => (Security::Deny, Ask::Always),
            None => (security.unwrap_or(Security::Full), ask.unwrap_or(Ask::OnMiss)),
        };
        Self {
            security: config_security.min(file.security).min(call_security.unwrap_or(Security::Full)),
            ask: config_ask.max(file.ask).max(call_ask.unwrap_or(Ask::Off)),
            fallback: file.ask_fallback,
            allowlist: file.allowlist,
            safe_bins: SafeBins::of(exec),
            inline_eval: match exec.and_then(|e| e.get("strictInlineEval")).and_then(Value::as_bool) {
                Some(false) => InlineEval::Allow,
                _ => InlineEval::Ask,
            },
        }
    }
}

/// One program of a command, found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The program.
    pub program: Program,
    /// Its arguments, literal.
    pub args: Vec<String>,
    /// Identity of the file: device, inode, size, change time. A swapped file is not what was looked at.
    pub stamp: (u64, u64, u64, i64, i64),
}

/// A command that needs no shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stages of its pipe.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Splits a command and finds its programs.
    ///
    /// # Errors
    /// A sentence: why it is no plain command, or what was not found.
    pub fn of(command: &str, cwd: &Path, search: &str) -> Result<Self, String> {
        let stages = words::split(command).map_err(|e| e.to_string())?;
        let stages = stages
            .into_iter()
            .map(|mut words| {
                let named = words.remove(0);
                let program = find(&named, cwd, search).ok_or_else(|| format!("{named} was not found"))?;
                let stamp = stamp(&program.real).ok_or_else(|| format!("{named} cannot be looked at"))?;
                Ok(Stage { program, args: words, stamp })
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self { stages })
    }

    /// The command written anew from what will run: programs by their real paths, arguments quoted.
    #[must_use]
    pub fn preview(&self) -> String {
        let stage = |s: &Stage| words::join(&std::iter::once(s.program.real.display().to_string()).chain(s.args.iter().cloned()).collect::<Vec<_>>());
        self.stages.iter().map(stage).collect::<Vec<_>>().join(" | ")
    }

    /// Whether the files are still those that were looked at.
    #[must_use]
    pub fn unchanged(&self) -> bool {
        self.stages.iter().all(|s| stamp(&s.program.real) == Some(s.stamp) && s.program.found.canonicalize().is_ok_and(|real| real == s.program.real))
    }
}

fn stamp(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let meta = path.metadata().ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
}

/// Finds a program as `execvp` would, but only in absolute folders.
#[must_use]
pub fn find(named: &str, cwd: &Path, search: &str) -> Option<Program> {
    let runs = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let found: PathBuf = if named.contains('/') {
        Some(cwd.join(named)).filter(|path| runs(path))?
    } else {
        search.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(named)).find(|path| runs(path))?
    };
    let real = found.canonicalize().ok()?;
    Some(Program { named: named.to_owned(), found, real })
}

/// What the allowlist says of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// An allowlist entry names it.
    Listed {
        /// Its pattern.
        pattern: String,
    },
    /// It is a safe filter.
    SafeBin,
    /// Nothing allows it.
    Miss {
        /// Why, as a sentence.
        why: String,
        /// The pattern that would allow it from now on; none for programs that run other programs.
        remedy: Option<String>,
    },
}

/// Judges one stage by allowlist and safe bins.
#[must_use]
pub fn judge(stage: &Stage, rules: &ExecRules, home: &Path, workspace: &Path) -> Judged {
    if let Some(why) = runs_others(stage, rules.inline_eval) {
        return Judged::Miss { why, remedy: None };
    }
    let remedy = Some(stage.program.real.display().to_string());
    if let Some(entry) = allowed_by(&rules.allowlist, &stage.program, home, workspace) {
        return Judged::Listed { pattern: entry.pattern.clone() };
    }
    match rules.safe_bins.check(&stage.program, &stage.args, workspace) {
        Some(Ok(())) => Judged::SafeBin,
        Some(Err(why)) => Judged::Miss { why, remedy },
        None => Judged::Miss { why: format!("{} is not on the allowlist", stage.program.real.display()), remedy },
    }
}

/// Why a stage could run something that the allowlist did not see.
fn runs_others(stage: &Stage, inline: InlineEval) -> Option<String> {
    let base = |path: &Path| path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let names = [base(Path::new(&stage.program.named)), base(&stage.program.found), base(&stage.program.real)];
    let is = |list: &[&str]| {
        names.iter().find(|name| list.contains(&name.as_str()) || list.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-')))
    };
    if let Some(name) = is(&SHELLS) {
        return Some(format!("{name} is a shell, which can run anything; name the program itself"));
    }
    if let Some(name) = is(&WRAPPERS) {
        return Some(format!("{name} runs another program; name that program itself"));
    }
    let options = || stage.args.iter();
    if names.iter().any(|n| n == "find" || n == "gfind" || n == "fd")
        && options().any(|a| a.starts_with("-exec") || a.starts_with("-ok") || a == "-x" || a == "-X" || a.starts_with("--exec"))
    {
        return Some("find would run other programs (-exec)".into());
    }
    if names.iter().any(|n| n == "git")
        && options().any(|a| {
            a == "-c"
                || a.starts_with("-c") && !a.starts_with("-c ") && a.contains('=')
                || a.starts_with("--config-env")
                || a.starts_with("--exec-path")
                || a.starts_with("--upload-pack")
                || a.starts_with("--receive-pack")
        })
    {
        return Some("git could run other programs with these options".into());
    }
    if inline == InlineEval::Allow {
        return None;
    }
    if let Some(name) = is(&PROGRAM_FIRST) {
        return Some(format!("{name} is given a program as an argument"));
    }
    let name = is(&INTERPRETERS)?;
    let first = stage.args.iter().take_while(|a| a.starts_with('-') && a.len() > 1);
    let evals = first.clone().any(|arg| {
        if let Some(long) = arg.strip_prefix("--") {
            ["e", "p", "r", "i"].iter().any(|start| long.starts_with(start)) || long.is_empty()
        } else {
            arg.chars().skip(1).any(|c| matches!(c, 'c' | 'e' | 'E' | 'p' | 'r' | 'm' | 'i' | 'I' | 'S' | 'M'))
        }
    });
    let script = stage.args.get(first.count());
    if evals || script.is_none_or(|s| s == "-" || s == "eval") {
        return Some(format!("{name} is given a program in its arguments or on standard input (tools.exec.strictInlineEval)"));
    }
    None
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
