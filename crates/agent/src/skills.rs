//! Skills: folders with a `SKILL.md` whose front matter says what they are for. The model gets a list and reads the
//! file when it needs it. Everything here is bounded, and a bad file costs one warning, never a turn.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

/// Largest front matter and body that is read, bytes.
const SKILL_BYTES_MAX: u64 = 256 * 1024;
/// Skills on offer at most.
pub const SKILLS_MAX: usize = 150;
/// Folders below a root that are searched.
const DEPTH_MAX: usize = 6;
/// Folders looked at in one root at most.
const FOLDERS_MAX: usize = 2_000;
/// Characters of the prompt section.
const SECTION_CHARS_MAX: usize = 30_000;

/// One skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Its name.
    pub name: String,
    /// What it is for, one line.
    pub description: String,
    /// Its `SKILL.md`.
    pub file: PathBuf,
    /// True unless `disable-model-invocation` is set.
    pub offered: bool,
    /// A cron expression from `schedule:`; the gateway makes a job of it.
    pub schedule: Option<String>,
    /// The agent from `agent:` that runs the schedule.
    pub agent: Option<String>,
    /// Why it is not on offer now (a program, variable or setting is missing), where so.
    pub missing: Vec<String>,
}

/// All skills of an agent, and what was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skills {
    /// By name.
    pub skills: BTreeMap<String, Skill>,
    /// One line for each bad file, naming it.
    pub warnings: Vec<String>,
}

/// What requirements are checked against.
pub trait Host {
    /// True when the program is on the path.
    fn has_program(&self, name: &str) -> bool;
    /// True when the environment variable is set and not empty.
    fn has_variable(&self, name: &str) -> bool;
    /// True when the config path is set to something true.
    fn has_setting(&self, path: &str) -> bool;
    /// `linux`, `darwin`, `win32`.
    fn os(&self) -> &str;
}

/// This machine.
#[derive(Clone, Debug, Default)]
pub struct ThisHost {
    /// Config paths that are set.
    pub settings: Vec<String>,
}

impl Host for ThisHost {
    fn has_program(&self, name: &str) -> bool {
        !name.contains('/') && std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    }

    fn has_variable(&self, name: &str) -> bool {
        std::env::var_os(name).is_some_and(|value| !value.is_empty())
    }

    fn has_setting(&self, path: &str) -> bool {
        self.settings.iter().any(|known| known == path)
    }

    fn os(&self) -> &str {
        match std::env::consts::OS {
            "macos" => "darwin",
            "windows" => "win32",
            other => other,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct FrontMatter {
    name: Option<String>,
    description: Option<String>,
    disable_model_invocation: bool,
    schedule: Option<String>,
    agent: Option<String>,
    metadata: Option<Value>,
}

/// Reads the front matter of a `SKILL.md`. Pure.
///
/// # Errors
/// One sentence saying what is wrong.
pub fn parse(text: &str, folder: &str, file: &Path, host: &dyn Host) -> Result<Skill, String> {
    let text = text.trim_start_matches('\u{feff}');
    let rest = text
        .strip_prefix("---")
        .and_then(|rest| rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\r\n")))
        .ok_or("it does not begin with front matter (---)")?;
    let mut end = 0;
    let closed = rest.split_inclusive('\n').any(|line| {
        let is_end = line.trim_end() == "---";
        end += if is_end { 0 } else { line.len() };
        is_end
    });
    if !closed {
        return Err("its front matter has no end (---)".into());
    }
    let yaml = rest.get(..end).ok_or("its front matter is cut")?;
    let front: FrontMatter = serde_saphyr::from_str(yaml).map_err(|err| format!("its front matter is not valid YAML: {}", first_line(&err.to_string())))?;
    let name = front.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| folder.to_owned());
    if name.len() > 64 || name.chars().any(char::is_control) {
        return Err("its name must have at most 64 characters".into());
    }
    let description = one_line(front.description.as_deref().unwrap_or(""), 500);
    if description.is_empty() {
        return Err("its front matter has no description".into());
    }
    // Older skills write metadata as a JSON text inside YAML.
    let metadata = match front.metadata {
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::Null),
        Some(other) => other,
        None => Value::Null,
    };
    let openclaw = metadata.get("openclaw").or_else(|| metadata.get("clawdbot")).cloned().unwrap_or(Value::Null);
    Ok(Skill {
        name,
        description,
        file: file.to_owned(),
        offered: !front.disable_model_invocation,
        schedule: front.schedule,
        agent: front.agent,
        missing: unmet(&openclaw, host),
    })
}

fn unmet(openclaw: &Value, host: &dyn Host) -> Vec<String> {
    let mut missing = Vec::new();
    if openclaw.get("always").and_then(Value::as_bool) == Some(true) {
        return missing;
    }
    let os = words(openclaw.get("os"));
    if !os.is_empty() && !os.iter().any(|name| name == host.os()) {
        missing.push(format!("os {}", os.join(" or ")));
    }
    let requires = openclaw.get("requires").unwrap_or(&Value::Null);
    for name in words(requires.get("bins")) {
        if !host.has_program(&name) {
            missing.push(format!("program {name}"));
        }
    }
    let any = words(requires.get("anyBins"));
    if !any.is_empty() && !any.iter().any(|name| host.has_program(name)) {
        missing.push(format!("one of the programs {}", any.join(", ")));
    }
    for name in words(requires.get("env")) {
        if !host.has_variable(&name) {
            missing.push(format!("variable {name}"));
        }
    }
    for path in words(requires.get("config")) {
        if !host.has_setting(&path) {
            missing.push(format!("setting {path}"));
        }
    }
    missing
}

fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

fn one_line(text: &str, chars_max: usize) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(chars_max).collect()
}

/// Finds skills in `roots`, highest precedence first: the first folder with a name wins. A link that leads out of
/// its root is refused.
#[must_use]
pub fn find(roots: &[PathBuf], host: &dyn Host) -> Skills {
    let mut out = Skills::default();
    for root in roots {
        let Ok(real) = fs::canonicalize(root) else { continue };
        let mut left = FOLDERS_MAX;
        search(&real, &real, 0, &mut left, host, &mut out);
        if left == 0 {
            out.warnings.push(format!("{}: more than {FOLDERS_MAX} folders, the rest was not searched for skills", root.display()));
        }
    }
    out
}

fn search(root: &Path, folder: &Path, depth: usize, left: &mut usize, host: &dyn Host, out: &mut Skills) {
    if depth > DEPTH_MAX || *left == 0 {
        return;
    }
    *left -= 1;
    let file = folder.join("SKILL.md");
    if file.symlink_metadata().is_ok() {
        take(root, folder, &file, host, out);
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut below: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    below.sort();
    for path in below {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        if name.starts_with('.') || name == "node_modules" {
            continue;
        }
        let Ok(real) = fs::canonicalize(&path) else { continue };
        if !real.is_dir() {
            continue;
        }
        if !real.starts_with(root) {
            out.warnings.push(format!("{}: the link leads out of {}, it is not used", path.display(), root.display()));
            continue;
        }
        search(root, &real, depth + 1, left, host, out);
    }
}

fn take(root: &Path, folder: &Path, file: &Path, host: &dyn Host, out: &mut Skills) {
    let mut warn = |why: &str| out.warnings.push(format!("{}: {why}", file.display()));
    match fs::canonicalize(file) {
        Ok(real) if real.starts_with(root) => {}
        Ok(_) => return warn("the link leads out of its folder, it is not used"),
        Err(err) => return warn(&err.to_string()),
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|open| open.take(SKILL_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(err) = read {
        return warn(&err.to_string());
    }
    if bytes.len() as u64 > SKILL_BYTES_MAX {
        return warn("larger than 256 KiB, it is not used");
    }
    let Ok(text) = String::from_utf8(bytes) else { return warn("it is not UTF-8") };
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("skill");
    match parse(&text, name, file, host) {
        Ok(skill) => {
            if out.skills.len() < SKILLS_MAX || out.skills.contains_key(&skill.name) {
                out.skills.entry(skill.name.clone()).or_insert(skill);
            } else {
                out.warnings.push(format!("{}: more than {SKILLS_MAX} skills, it is not used", file.display()));
            }
        }
        Err(why) => warn(&why),
    }
}

impl Skills {
    /// The skills an agent may use; `allowed` none means all.
    pub fn usable<'a>(&'a self, allowed: Option<&'a [String]>) -> impl Iterator<Item = &'a Skill> {
        self.skills.values().filter(move |skill| skill.offered && skill.missing.is_empty() && allowed.is_none_or(|names| names.contains(&skill.name)))
    }

    /// The section of the system prompt; empty when there is nothing on offer.
    #[must_use]
    pub fn section(&self, allowed: Option<&[String]>) -> String {
        let mut out = String::new();
        for skill in self.usable(allowed) {
            let line = format!("- {}: {} ({})\n", skill.name, skill.description, skill.file.display());
            if out.len() + line.len() > SECTION_CHARS_MAX {
                out.push_str("- (more skills exist; list the skills folders to find them)\n");
                break;
            }
            out.push_str(&line);
        }
        if out.is_empty() {
            return out;
        }
        format!("## Skills\nInstructions for special tasks. When one fits the task, read its file first and follow it; otherwise leave it alone.\n{out}")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Host, find, parse};

    struct Fake;
    impl Host for Fake {
        fn has_program(&self, name: &str) -> bool {
            name == "git"
        }
        fn has_variable(&self, name: &str) -> bool {
            name == "TOKEN"
        }
        fn has_setting(&self, path: &str) -> bool {
            path == "browser.enabled"
        }
        fn os(&self) -> &str {
            "linux"
        }
    }

    #[test]
    fn front_matter_by_table() {
        let check = |text: &str| parse(text, "folder", Path::new("/x/SKILL.md"), &Fake);
        let good = check("---\nname: beat\ndescription: checks\n  things\nschedule: \"*/30 * * * *\"\nagent: jerry\n---\nbody").unwrap();
        assert_eq!(
            (good.name.as_str(), good.description.as_str(), good.schedule.as_deref(), good.agent.as_deref()),
            ("beat", "checks things", Some("*/30 * * * *"), Some("jerry"))
        );
        let gated = check("---\ndescription: d\nmetadata:\n  openclaw:\n    os: [darwin]\n    requires: {bins: [git, jq], env: [TOKEN, KEY], config: [browser.enabled, x.y]}\n---\n").unwrap();
        assert_eq!(
            (gated.name.as_str(), gated.missing),
            ("folder", vec!["os darwin".to_owned(), "program jq".into(), "variable KEY".into(), "setting x.y".into()])
        );
        let windows = check("---\r\nname: crlf\r\ndescription: d\r\nagent: bobby\r\n---\r\nbody").unwrap();
        assert_eq!((windows.name.as_str(), windows.agent.as_deref()), ("crlf", Some("bobby")));
        let old = check("---\ndescription: d\nmetadata: '{\"openclaw\":{\"requires\":{\"anyBins\":[\"a\",\"git\"]}}}'\n---\n").unwrap();
        assert!(old.missing.is_empty());
        for bad in ["no front matter", "---\nname: x\n", "---\nname: x\n---\n", "---\nname: [\n---\n", "---\ndescription: {a: 1}\n---\n"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn folders_are_searched_and_links_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (high, low, out) = (dir.path().join("high"), dir.path().join("low"), dir.path().join("out"));
        for (folder, text) in [
            (high.join("a"), "---\nname: one\ndescription: high\n---\n"),
            (low.join("deep/er/b"), "---\nname: one\ndescription: low\n---\n"),
            (low.join("c"), "---\nname: two\ndescription: fine\n---\n"),
            (low.join("bad"), "---\nname: two\n"),
            (out.join("d"), "---\nname: evil\ndescription: x\n---\n"),
        ] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("SKILL.md"), text).unwrap();
        }
        std::os::unix::fs::symlink(out.join("d"), low.join("link")).unwrap();
        let found = find(&[high, low, dir.path().join("absent")], &Fake);
        assert_eq!(found.skills.keys().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(found.skills["one"].description, "high");
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings.iter().any(|w| w.contains("bad/SKILL.md")));
        let only = vec!["two".to_owned()];
        assert!(found.section(Some(&only)).contains("two: fine") && !found.section(Some(&only)).contains("one:"));
        assert_eq!(found.section(Some(&[])), "");
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in "(---\n)?[ -~\n\r\t\u{e9}\u{fffd}]{0,200}(\n---\n)?", chars in 0_usize..40) {
            let _ = parse(&text, "folder", Path::new("/x/SKILL.md"), &Fake);
            let _ = crate::commands::parse(&text, &["hi".to_owned()]);
            let heard = crate::silence::judge(&text, true, chars);
            proptest::prop_assert!(heard.text.len() <= text.len());
            proptest::prop_assert!(crate::session::one_line(&text, chars).chars().count() <= chars + 1);
        }
    }
}
