//! The system prompt: who the agent is, its workspace files, its skills, the date. The same text from turn to turn
//! as long as nothing changed, so that providers can cache it; unchanged files are not read again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jiff::{Timestamp, tz::TimeZone};

use clawstead_terms::{Millis, SessionKey};

use crate::{
    AgentSettings,
    skills::{self, Skills, ThisHost},
};

/// Looks at the skill folders again after this long, ms.
const SKILLS_STALE_MS: i64 = 30_000;

/// Which workspace files a prompt gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// All of them.
    Full,
    /// Without HEARTBEAT, BOOTSTRAP and MEMORY: jobs and sub-agents.
    Light,
}

/// The workspace files in prompt order: name, in a light prompt too, announced when missing.
const FILES: &[(&str, bool, bool)] = &[
    ("AGENTS.md", true, true),
    ("SOUL.md", true, true),
    ("TOOLS.md", true, false),
    ("IDENTITY.md", true, true),
    ("USER.md", true, true),
    ("HEARTBEAT.md", false, false),
    ("BOOTSTRAP.md", false, false),
    ("MEMORY.md", false, false),
];

/// What a prompt is made for.
#[derive(Clone, Debug)]
pub struct PromptFor<'a> {
    /// The agent.
    pub settings: &'a AgentSettings,
    /// The session.
    pub session: &'a SessionKey,
    /// Which files.
    pub depth: Depth,
    /// True for heartbeats: HEARTBEAT.md is shown only to them.
    pub heartbeat: bool,
    /// Text of the letter's options.
    pub extra: Option<&'a str>,
    /// `provider/model` wanted.
    pub model: Option<&'a str>,
    /// Now.
    pub now: Millis,
}

#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

struct CachedFile {
    stamp: Stamp,
    text: Arc<str>,
}

#[derive(Default)]
struct Shelf {
    files: BTreeMap<PathBuf, CachedFile>,
    skills: BTreeMap<PathBuf, (Millis, Arc<Skills>)>,
}

/// Makes system prompts; remembers files by their time and size.
#[derive(Default)]
pub struct Contexts(Mutex<Shelf>);

impl Contexts {
    /// The system prompt. Reads the times of at most eight local files, and only changed ones themselves.
    #[must_use]
    pub fn prompt(&self, want: &PromptFor<'_>) -> Arc<str> {
        let settings = want.settings;
        let mut out = String::with_capacity(8 * 1024);
        let name = settings.identity.name.as_deref().unwrap_or(settings.id.as_str());
        let _ = write!(out, "You are {name}, an agent that works for its person through this gateway.");
        if let Some(theme) = &settings.identity.theme {
            let _ = write!(out, " {theme}");
        }
        if let Some(emoji) = &settings.identity.emoji {
            let _ = write!(out, " Your emoji is {emoji}.");
        }
        let _ = write!(
            out,
            "\n\n## Tools\nUse tools when they help; say what you did, not that you could. When a tool fails, read its message before you try again. \
When its outcome is unknown, check before you repeat it.\n\n## Workspace\nYour folder is {}. Relative paths start there.\n",
            settings.workspace.display()
        );
        self.add_files(want, &mut out);
        let section = self.skills(settings, want.now).section(settings.skills.as_deref());
        if !section.is_empty() {
            out.push('\n');
            out.push_str(&section);
        }
        let zone = zone_of(settings);
        let _ = write!(
            out,
            "\n## Silence\nWhen nothing needs to be said, answer exactly {} and nothing else.{}\n\n## Now\n{}Agent {}, session {}{}.\n",
            crate::silence::NO_REPLY,
            if want.heartbeat { " In a heartbeat, answer exactly HEARTBEAT_OK when nothing needs attention." } else { "" },
            date_line(want.now, &zone),
            settings.id,
            want.session,
            want.model.map(|model| format!(", model {model}")).unwrap_or_default(),
        );
        if let Some(extra) = want.extra.filter(|text| !text.trim().is_empty()) {
            out.push('\n');
            out.push_str(extra.trim());
            out.push('\n');
        }
        out.into()
    }

    /// The skills of an agent, as found at most 30 s ago. New warnings are logged once.
    #[must_use]
    pub fn skills(&self, settings: &AgentSettings, now: Millis) -> Arc<Skills> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = shelf.skills.get(&settings.workspace).cloned();
        if let Some((at, found)) = &old
            && now.since(*at).unsigned_abs() < SKILLS_STALE_MS.unsigned_abs()
        {
            return Arc::clone(found);
        }
        let mut roots = vec![settings.workspace.join("skills")];
        roots.extend(settings.skill_dirs.iter().cloned());
        let found = Arc::new(skills::find(&roots, &ThisHost { settings: settings.config_flags.clone() }));
        for warning in &found.warnings {
            if !old.as_ref().is_some_and(|(_, known)| known.warnings.contains(warning)) {
                tracing::warn!(agent = %settings.id, "skill: {warning}");
            }
        }
        shelf.skills.insert(settings.workspace.clone(), (now, Arc::clone(&found)));
        found
    }

    fn add_files(&self, want: &PromptFor<'_>, out: &mut String) {
        let settings = want.settings;
        let mut left = settings.bootstrap_total_chars_max;
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, light, required) in FILES {
            let wanted = match (*name, want.depth) {
                ("HEARTBEAT.md", _) => want.heartbeat,
                // Curated memory is private: groups and other people's sessions do not get it.
                ("MEMORY.md", Depth::Full) => want.session.is_main(),
                (_, Depth::Full) => true,
                (_, Depth::Light) => *light,
            };
            if !wanted {
                continue;
            }
            let path = settings.workspace.join(name);
            match shelf.read(&path, settings.bootstrap_chars_max) {
                Some(text) if text.trim().is_empty() => {}
                Some(text) if left == 0 => {
                    let _ = write!(
                        out,
                        "\n### {name}\n[left out: the workspace files are larger than {} characters together; read it with a tool ({} bytes)]\n",
                        settings.bootstrap_total_chars_max,
                        text.len()
                    );
                }
                Some(text) => {
                    let shown = cut(&text, left);
                    left = left.saturating_sub(shown.chars().count());
                    let _ = write!(out, "\n### {name}\n{}\n", shown.trim_end());
                    if shown.len() < text.len() {
                        let _ = writeln!(out, "[cut here: the workspace files are larger than {} characters together]", settings.bootstrap_total_chars_max);
                    }
                }
                None if *required => {
                    let _ = write!(out, "\n### {name}\n[missing: {} does not exist]\n", path.display());
                }
                None => {}
            }
        }
    }
}

impl Shelf {
    /// The file's text cut at `chars_max`; none when it is not there.
    fn read(&mut self, path: &Path, chars_max: usize) -> Option<Arc<str>> {
        let Ok(meta) = fs::metadata(path) else {
            self.files.remove(path);
            return None;
        };
        let stamp = Stamp { modified: meta.modified().ok(), bytes: meta.len() };
        if let Some(cached) = self.files.get(path)
            && cached.stamp == stamp
        {
            return Some(Arc::clone(&cached.text));
        }
        let mut bytes = Vec::new();
        // Four bytes a character are enough for any text that fits.
        fs::File::open(path).and_then(|file| file.take(chars_max as u64 * 4 + 4).read_to_end(&mut bytes)).ok()?;
        let whole = String::from_utf8_lossy(&bytes);
        let shown = cut(&whole, chars_max);
        let text: Arc<str> = if (shown.len() as u64) < stamp.bytes && shown.len() < whole.len() {
            format!("{shown}\n[cut here: the file has {} bytes; read the rest with a tool]", stamp.bytes).into()
        } else {
            shown.into()
        };
        self.files.insert(path.to_owned(), CachedFile { stamp, text: Arc::clone(&text) });
        Some(text)
    }
}

fn cut(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(at, _)| &text[..at])
}

/// The agent's time zone; UTC when the name is unknown.
#[must_use]
pub fn zone_of(settings: &AgentSettings) -> TimeZone {
    settings.timezone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
}

/// The date without the time of day: the prompt changes once a day, not once a turn.
fn date_line(now: Millis, zone: &TimeZone) -> String {
    let at = Timestamp::from_millisecond(now.0).unwrap_or_default().to_zoned(zone.clone());
    format!("Today is {}, time zone {}. ", at.strftime("%A, %Y-%m-%d"), zone.iana_name().unwrap_or("UTC"))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::{Contexts, Depth, PromptFor};
    use crate::AgentSettings;
    use clawstead_terms::{AgentId, Millis, SessionKey};

    fn prompt(contexts: &Contexts, settings: &AgentSettings, key: &str, depth: Depth, heartbeat: bool) -> Arc<str> {
        let session = SessionKey::of(&settings.id, key);
        contexts.prompt(&PromptFor {
            settings,
            session: &session,
            depth,
            heartbeat,
            extra: Some("Be quick."),
            model: Some("mock/m"),
            now: Millis(1_767_225_600_000),
        })
    }

    #[test]
    fn files_are_chosen_by_session_and_capped() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = AgentSettings::new(AgentId::normalise("jerry"), dir.path());
        settings.bootstrap_chars_max = 10;
        for name in ["AGENTS.md", "SOUL.md", "MEMORY.md", "HEARTBEAT.md"] {
            fs::write(dir.path().join(name), format!("{name} text that is long")).unwrap();
        }
        let contexts = Contexts::default();
        let main = prompt(&contexts, &settings, "main", Depth::Full, false);
        assert!(main.contains("### AGENTS.md\nAGENTS.md \n[cut here: the file has 27 bytes"), "{main}");
        assert!(
            main.contains("### USER.md\n[missing: ") && main.contains("### MEMORY.md") && !main.contains("### HEARTBEAT.md") && !main.contains("### TOOLS.md")
        );
        assert!(main.contains("Thursday, 2026-01-01") && main.trim_end().ends_with("Be quick."));
        assert!(!prompt(&contexts, &settings, "telegram:group:-1", Depth::Full, false).contains("### MEMORY.md"), "memory is private");
        assert!(!prompt(&contexts, &settings, "main", Depth::Light, false).contains("### MEMORY.md"));
        assert!(prompt(&contexts, &settings, "main", Depth::Full, true).contains("### HEARTBEAT.md"));
    }

    #[test]
    fn a_changed_file_is_seen_and_the_total_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = AgentSettings::new(AgentId::normalise("jerry"), dir.path());
        fs::write(dir.path().join("SOUL.md"), "calm").unwrap();
        let contexts = Contexts::default();
        assert_eq!(prompt(&contexts, &settings, "main", Depth::Full, false), prompt(&contexts, &settings, "main", Depth::Full, false));
        fs::write(dir.path().join("SOUL.md"), "stormy").unwrap();
        assert!(prompt(&contexts, &settings, "main", Depth::Full, false).contains("stormy"));
        settings.bootstrap_total_chars_max = 3;
        fs::write(dir.path().join("USER.md"), "somebody").unwrap();
        let small = prompt(&contexts, &settings, "main", Depth::Full, false);
        assert!(small.contains("sto\n[cut here") && small.contains("### USER.md\n[left out"), "{small}");
    }
}
