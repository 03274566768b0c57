//! Exec approvals: what people have allowed agents to run on this host. Pure types and matching; the gateway
//! keeps the file (`exec-approvals.json`, now one row) and answers for it through RPC.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use globset::GlobBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How much an agent may run. The order is from strict to lax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Nothing.
    Deny,
    /// What the allowlist and the safe bins name.
    Allowlist,
    /// Everything.
    Full,
}

/// When a person is asked. The order is from never to always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Never.
    Off,
    /// When the allowlist does not name the command.
    OnMiss,
    /// Each time.
    Always,
}

/// What a person answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Run this one.
    AllowOnce,
    /// Run it, and from now on without asking.
    AllowAlways,
    /// Do not run it.
    Deny,
}

/// Rules, as they stand in `defaults` or for an agent. Absent means: as the next wider level says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// How much may be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// When a person is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask: Option<Ask>,
    /// What holds when nobody answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask_fallback: Option<Security>,
    /// Programs that skills bring are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_allow_skills: Option<bool>,
    /// What may be run without asking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowlist: Vec<Allowed>,
    /// Keys this version does not know, kept.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

/// One allowlist entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allowed {
    /// Its UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A program: an absolute path, with `~`, `*` and `**`; or a bare name, found along PATH.
    pub pattern: String,
    /// When it was last used, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
    /// The command it was last used for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_command: Option<String>,
    /// The program it last stood for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_resolved_path: Option<String>,
    /// Keys this version does not know, kept.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

/// The approvals file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalsFile {
    /// Always 1.
    pub version: u32,
    /// Local approval socket: path and token. Kept, never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Value>,
    /// For every agent.
    pub defaults: Rules,
    /// By agent id; `*` is for every agent.
    pub agents: BTreeMap<String, Rules>,
}

impl Default for ApprovalsFile {
    fn default() -> Self {
        Self { version: 1, socket: None, defaults: Rules::default(), agents: BTreeMap::new() }
    }
}

/// What holds for one agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// How much may be run.
    pub security: Security,
    /// When a person is asked.
    pub ask: Ask,
    /// What holds when nobody answers.
    pub ask_fallback: Security,
    /// What may be run without asking.
    pub allowlist: Vec<Allowed>,
}

impl ApprovalsFile {
    /// What this file says for an agent; where it says nothing, nothing is forbidden (`full`, `off`) and an
    /// unanswered question is a no (`deny`).
    #[must_use]
    pub fn of(&self, agent: &str) -> Effective {
        let levels = [self.agents.get(agent), self.agents.get("*"), Some(&self.defaults)];
        let first = |pick: fn(&Rules) -> Option<Security>| levels.iter().flatten().find_map(|r| pick(r));
        Effective {
            security: first(|r| r.security).unwrap_or(Security::Full),
            ask: levels.iter().flatten().find_map(|r| r.ask).unwrap_or(Ask::Off),
            ask_fallback: first(|r| r.ask_fallback).unwrap_or(Security::Deny),
            allowlist: levels.iter().flatten().flat_map(|r| r.allowlist.iter().cloned()).collect(),
        }
    }

    /// Adds patterns to an agent's allowlist; a pattern that is there stays once. Answers how many are new.
    pub fn allow(&mut self, agent: &str, patterns: &[String], mut new_id: impl FnMut() -> String) -> usize {
        let rules = self.agents.entry(agent.to_owned()).or_default();
        let before = rules.allowlist.len();
        for pattern in patterns.iter().filter(|p| !p.trim().is_empty()) {
            if !rules.allowlist.iter().any(|a| a.pattern == *pattern) {
                rules.allowlist.push(Allowed { id: Some(new_id()), pattern: pattern.clone(), ..Allowed::default() });
            }
        }
        rules.allowlist.len() - before
    }

    /// Stamps the entry that let a command through. Answers whether there was one.
    pub fn used(&mut self, agent: &str, pattern: &str, command: &str, resolved: &str, now_ms: i64) -> bool {
        let mut found = false;
        for key in [agent, "*"] {
            for entry in self.agents.get_mut(key).into_iter().flat_map(|r| &mut r.allowlist).filter(|e| e.pattern == pattern) {
                entry.last_used_at = Some(now_ms);
                entry.last_used_command = Some(crate::bound::head(command, 500).to_owned());
                entry.last_resolved_path = Some(resolved.to_owned());
                found = true;
            }
        }
        found
    }
}

/// A program as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// As the command names it.
    pub named: String,
    /// Where it was found, absolute; may be a link.
    pub found: PathBuf,
    /// The file itself, links followed. This is what is run.
    pub real: PathBuf,
}

/// The entry that allows a program, if any.
///
/// A pattern with a slash is compared with paths. When the program was found through a link, the link's path is
/// good enough only if the file behind it has the same name (package managers link `bin/rg` to a versioned
/// folder); otherwise a pattern must match the file itself, so that a link called `rg` cannot stand for a shell.
/// A bare name matches a program that was named bare and found along PATH outside `workspace`.
#[must_use]
pub fn allowed_by<'a>(allowlist: &'a [Allowed], program: &Program, home: &Path, workspace: &Path) -> Option<&'a Allowed> {
    let same_name = program.found.file_name() == program.real.file_name();
    let in_workspace = program.found.starts_with(workspace) || program.real.starts_with(workspace);
    allowlist.iter().find(|entry| {
        let pattern = entry.pattern.trim();
        if pattern.is_empty() {
            return false;
        }
        if pattern.contains('/') {
            let Some(glob) = glob(pattern, home) else { return false };
            return glob.is_match(&program.real) || (same_name && !program.found.starts_with(workspace) && glob.is_match(&program.found));
        }
        !program.named.contains('/') && !in_workspace && crate::policy::matches(pattern, &program.named)
    })
}

fn glob(pattern: &str, home: &Path) -> Option<globset::GlobMatcher> {
    let full = match pattern.strip_prefix("~/") {
        Some(rest) => format!("{}/{rest}", globset::escape(home.to_str()?)),
        None => pattern.to_owned(),
    };
    if !full.starts_with('/') && !full.starts_with("**") {
        return None;
    }
    GlobBuilder::new(&full).literal_separator(true).build().ok().map(|g| g.compile_matcher())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{Allowed, ApprovalsFile, Ask, Program, Security, allowed_by};

    #[test]
    fn a_real_file_is_read_and_kept() {
        let text = json!({
            "version": 1, "socket": {"path": "~/.openclaw/exec-approvals.sock", "token": "t"},
            "defaults": {"security": "allowlist", "ask": "on-miss", "askFallback": "deny", "autoAllowSkills": false},
            "agents": {"main": {"ask": "always", "allowlist": [{"id": "u", "pattern": "~/x/**/bin/rg", "lastUsedAt": 0, "lastUsedCommand": "", "lastResolvedPath": "", "new": 1}]},
                       "*": {"allowlist": [{"pattern": "/usr/bin/git"}]}}
        });
        let file: ApprovalsFile = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&file).unwrap(), text);
        let main = file.of("main");
        assert_eq!((main.security, main.ask, main.allowlist.len()), (Security::Allowlist, Ask::Always, 2));
        let other = file.of("other");
        assert_eq!((other.security, other.ask, other.ask_fallback, other.allowlist.len()), (Security::Allowlist, Ask::OnMiss, Security::Deny, 1));
        let none = ApprovalsFile::default().of("x");
        assert_eq!((none.security, none.ask, none.ask_fallback), (Security::Full, Ask::Off, Security::Deny));
    }

    #[test]
    fn entries_are_added_once_and_stamped() {
        let mut file = ApprovalsFile::default();
        let mut n = 0;
        let mut id = || {
            n += 1;
            format!("id{n}")
        };
        assert_eq!(file.allow("main", &["/usr/bin/git".into(), "/usr/bin/git".into(), " ".into()], &mut id), 1);
        assert_eq!(file.allow("main", &["/usr/bin/git".into()], &mut id), 0);
        assert!(file.used("main", "/usr/bin/git", "git status", "/usr/bin/git", 5));
        assert!(!file.used("main", "/usr/bin/other", "x", "x", 5));
        assert_eq!(file.agents["main"].allowlist[0].last_used_at, Some(5));
    }

    #[test]
    fn patterns_and_links() {
        let check = |pattern: &str, named: &str, found: &str, real: &str| {
            let list = [Allowed { pattern: pattern.into(), ..Allowed::default() }];
            let program = Program { named: named.into(), found: found.into(), real: real.into() };
            allowed_by(&list, &program, Path::new("/home/u"), Path::new("/home/u/ws")).is_some()
        };
        assert!(check("/usr/bin/git", "git", "/usr/bin/git", "/usr/bin/git"));
        assert!(check("~/x/**/bin/rg", "rg", "/home/u/x/a/b/bin/rg", "/home/u/x/a/b/bin/rg"));
        assert!(check("/opt/bin/*", "rg", "/opt/bin/rg", "/opt/cellar/rg/14/bin/rg"));
        assert!(check("rg", "rg", "/opt/bin/rg", "/opt/cellar/rg/14/bin/rg"));
        assert!(!check("/usr/bin/*", "x", "/usr/bin/sub/x", "/usr/bin/sub/x"), "one star crosses no slash");
        assert!(!check("~/bin/rg", "rg", "/home/u/bin/rg", "/bin/sh"), "a link must not stand for another program");
        assert!(!check("rg", "./rg", "/home/u/ws/rg", "/home/u/ws/rg"), "a bare name is no path");
        assert!(!check("rg", "rg", "/home/u/ws/bin/rg", "/home/u/ws/bin/rg"), "the agent could have put it there");
        assert!(!check("", "rg", "/bin/rg", "/bin/rg"));
        assert!(check("/home/u/ws/tool", "./tool", "/home/u/ws/tool", "/home/u/ws/tool"));
    }
}
