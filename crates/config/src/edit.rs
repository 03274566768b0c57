//! Changing a configuration: what to write where, checked as a whole before anything is written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    edit_text::{self, TextEditError},
    env::Env,
    include::INCLUDE_KEY,
    issue::{Issue, join_path},
    redact::restore_placeholders,
    snapshot::{ReadOptions, Snapshot, Strictness},
    view::value_at,
};

/// What to do with entries of a user map (agents, providers, profiles) that the new value does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapWrite {
    /// Refuse to lose any.
    #[default]
    Protect,
    /// Keep them: the new value is laid over the old (`--merge`).
    Merge,
    /// Let them go (`--replace`).
    Replace,
}

/// One change. Paths are segments, see [`crate::split_path`].
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Put a value there.
    Set {
        /// Where.
        path: Vec<String>,
        /// What.
        value: Value,
        /// For user maps.
        mode: MapWrite,
    },
    /// Take it out.
    Unset {
        /// Where.
        path: Vec<String>,
    },
    /// A JSON merge patch: null deletes, lists replace.
    Patch {
        /// The patch.
        patch: Value,
        /// Dotted paths of lists that may lose entries.
        replace_paths: Vec<String>,
    },
    /// A whole new file (`config.apply`).
    Replace {
        /// The new root.
        value: Value,
    },
}

/// Why a change is refused. Nothing was written.
#[derive(Clone, Debug, PartialEq)]
pub enum EditError {
    /// `OPENCLAW_CONFIG_READONLY` or `OPENCLAW_NIX_MODE`.
    ReadOnly,
    /// The file changed since `baseHash`.
    Conflict,
    /// The file cannot be parsed.
    Unreadable(String),
    /// The path leads nowhere or into an include that cannot be written.
    Place(String),
    /// User entries would be lost: the path and their names.
    WouldRemove(String, Vec<String>),
    /// The result is not valid.
    Invalid(Vec<Issue>),
    /// The result would lose the gateway mode or more than half of the file; the reason in words.
    Destructive(String),
    /// A placeholder for a secret that is not there.
    Placeholder(String),
    /// The disk; the reason in words.
    Io(String),
}

impl std::fmt::Display for EditError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("Config is read-only (OPENCLAW_CONFIG_READONLY or OPENCLAW_NIX_MODE is set)"),
            Self::Conflict => f.write_str("config changed since last load; re-run config.get and retry"),
            Self::Unreadable(why) | Self::Place(why) | Self::Destructive(why) | Self::Io(why) => f.write_str(why),
            Self::WouldRemove(path, names) => {
                write!(f, "Refusing to replace {path}: it would remove {}. Use --merge to add or --replace to replace.", names.join(", "))
            }
            Self::Invalid(issues) => {
                let lines: Vec<String> = issues.iter().map(ToString::to_string).collect();
                write!(f, "Config validation failed: {}", lines.join("\n"))
            }
            Self::Placeholder(path) => write!(f, "{path}: the redaction placeholder is not a value and nothing is stored there"),
        }
    }
}

impl std::error::Error for EditError {}

/// One file that changes.
#[derive(Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Which.
    pub path: PathBuf,
    /// None when it is new.
    pub before: Option<String>,
    /// The new text.
    pub after: String,
}

// the texts may hold credentials
impl std::fmt::Debug for FileChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileChange").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A checked change, ready for [`crate::write`].
#[derive(Clone, Debug)]
pub struct Planned {
    /// Empty when nothing would change.
    pub files: Vec<FileChange>,
    /// The configuration as it will be.
    pub snapshot: Snapshot,
    /// Paths of today's spelling that change, as [`crate::diff`] gives them.
    pub changed: Vec<Vec<String>>,
    pub(crate) before: Snapshot,
}

/// What a change depends on.
#[derive(Clone, Copy, Default)]
pub struct EditOptions<'a> {
    /// The hash the caller saw; another one is a conflict.
    pub base_hash: Option<&'a str>,
    /// Written to `meta.lastTouchedVersion` when something changes.
    pub version: Option<&'a str>,
}

/// Maps whose keys are the user's own.
fn is_protected(path: &[String]) -> bool {
    let p: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        p.as_slice(),
        ["agents", "defaults", "models"]
            | ["agents", "entries" | "list"]
            | ["models", "providers"]
            | ["models", "providers", _, "models"]
            | ["plugins", "entries"]
            | ["auth", "profiles"]
    )
}

struct Work<'a> {
    snapshot: &'a Snapshot,
    /// New text by file; the root file is there from the start.
    texts: BTreeMap<PathBuf, String>,
    root: PathBuf,
}

/// Works out the new texts and checks the result. Reads nothing but includes; writes nothing.
///
/// # Errors
/// See [`EditError`].
pub fn plan_edit(snapshot: &Snapshot, edits: &[Edit], env: &Env, options: EditOptions<'_>) -> Result<Planned, EditError> {
    if env.flag("OPENCLAW_CONFIG_READONLY") || env.flag("OPENCLAW_NIX_MODE") {
        return Err(EditError::ReadOnly);
    }
    if options.base_hash.is_some_and(|h| h != snapshot.hash) {
        return Err(EditError::Conflict);
    }
    if snapshot.exists
        && let Err(problem) = crate::text::parse_text(&snapshot.text)
        && !edits.iter().any(|e| matches!(e, Edit::Replace { .. }))
    {
        return Err(EditError::Unreadable(problem.message));
    }
    let root = snapshot.paths.config_path.clone();
    let mut work = Work { snapshot, texts: BTreeMap::from([(root.clone(), snapshot.text.clone())]), root };
    for edit in edits {
        work.apply(edit)?;
    }
    let mut files = work.changes();
    if let (Some(version), false) = (options.version, files.is_empty()) {
        let path = vec!["meta".to_owned(), "lastTouchedVersion".to_owned()];
        work.set_leaf(&path, &Value::String(version.to_owned()))?;
        files = work.changes();
    }
    let after = work.reread(env);
    let blocking: Vec<Issue> = after.blocking(Strictness::Strict).into_iter().cloned().collect();
    if !blocking.is_empty() && !files.is_empty() {
        return Err(EditError::Invalid(blocking));
    }
    let changed = crate::reload::diff(&snapshot.normal, &after.normal);
    Ok(Planned { files, snapshot: after, changed, before: snapshot.clone() })
}

impl Work<'_> {
    fn changes(&self) -> Vec<FileChange> {
        self.texts
            .iter()
            .filter_map(|(path, after)| {
                let before = self.original(path);
                (before.as_deref() != Some(after.as_str()) && !(before.is_none() && after.is_empty())).then(|| FileChange {
                    path: path.clone(),
                    before,
                    after: after.clone(),
                })
            })
            .collect()
    }

    fn original(&self, path: &Path) -> Option<String> {
        if path == self.root {
            return self.snapshot.exists.then(|| self.snapshot.text.clone());
        }
        self.snapshot.included.iter().find(|f| f.path == path).map(|f| f.text.clone())
    }

    fn reread(&self, env: &Env) -> Snapshot {
        let root = self.texts.get(&self.root).cloned().unwrap_or_default();
        let root = if root.is_empty() { "{}\n".to_owned() } else { root };
        Snapshot::from_texts(root.as_bytes(), &self.texts, &self.snapshot.paths, env, ReadOptions::default())
    }

    fn apply(&mut self, edit: &Edit) -> Result<(), EditError> {
        match edit {
            Edit::Set { path, value, mode } => {
                let path = self.in_file_spelling(path, Some(value));
                let mut value = named(path_of(edit), &path, value);
                let old = value_at(&self.snapshot.resolved, &path).cloned();
                restore_placeholders(&mut value, old.as_ref()).map_err(|tail| EditError::Placeholder(join_path(&[path.as_slice(), &tail].concat())))?;
                match mode {
                    MapWrite::Merge if value.is_object() => self.merge(&path, &value),
                    MapWrite::Protect if is_protected(&path) => {
                        let lost = lost_names(old.as_ref(), &value);
                        if lost.is_empty() { self.set(&path, &value, old.as_ref()) } else { Err(EditError::WouldRemove(join_path(&path), lost)) }
                    }
                    _ => self.set(&path, &value, old.as_ref()),
                }
            }
            Edit::Unset { path } => {
                let path = self.in_file_spelling(path, None);
                self.unset(&path)
            }
            Edit::Patch { patch, replace_paths } => {
                if !patch.is_object() {
                    return Err(EditError::Place("a patch must be an object".into()));
                }
                self.patch(&mut Vec::new(), patch, replace_paths)
            }
            Edit::Replace { value } => {
                let mut value = value.clone();
                restore_placeholders(&mut value, Some(&self.snapshot.resolved)).map_err(|at| EditError::Placeholder(join_path(&at)))?;
                if crate::text::parse_text(&self.snapshot.text).is_err() {
                    let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
                    self.texts.insert(self.root.clone(), text);
                    return Ok(());
                }
                let old = self.snapshot.resolved.clone();
                self.set(&[], &value, Some(&old))
            }
        }
    }

    /// Sets with as few changes as possible: parts that stay the same keep their text, also `${NAME}`.
    fn set(&mut self, path: &[String], value: &Value, old: Option<&Value>) -> Result<(), EditError> {
        if old == Some(value) {
            return Ok(());
        }
        match (old, value) {
            (Some(Value::Object(was)), Value::Object(now)) => {
                for key in was.keys().filter(|k| !now.contains_key(*k)) {
                    self.unset(&[path, std::slice::from_ref(key)].concat())?;
                }
                for (key, inner) in now {
                    self.set(&[path, std::slice::from_ref(key)].concat(), inner, was.get(key))?;
                }
                Ok(())
            }
            (Some(Value::Array(was)), Value::Array(now)) if now.len() >= was.len() && !was.is_empty() => {
                for (i, inner) in now.iter().enumerate() {
                    self.set(&[path, &[i.to_string()]].concat(), inner, was.get(i))?;
                }
                Ok(())
            }
            _ => self.set_leaf(path, value),
        }
    }

    fn merge(&mut self, path: &[String], value: &Value) -> Result<(), EditError> {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    self.merge(&[path, std::slice::from_ref(key)].concat(), inner)?;
                }
                Ok(())
            }
            leaf => {
                let old = value_at(&self.snapshot.resolved, path).cloned();
                if leaf.is_object() && old.as_ref().is_some_and(Value::is_object) { Ok(()) } else { self.set(path, leaf, old.as_ref()) }
            }
        }
    }

    fn patch(&mut self, at: &mut Vec<String>, patch: &Value, replace: &[String]) -> Result<(), EditError> {
        for (key, inner) in patch.as_object().into_iter().flatten() {
            if crate::text::BLOCKED_KEYS.contains(&key.as_str()) {
                return Err(EditError::Place(format!("Blocked config key: {key}")));
            }
            at.push(key.clone());
            let path = self.in_file_spelling(at, Some(inner));
            let old = value_at(&self.snapshot.resolved, &path).cloned();
            match inner {
                Value::Null => self.unset(&path)?,
                Value::Object(_)
                    if (path == *at || old.is_some())
                        && old.as_ref().is_none_or(Value::is_object)
                        && (old.is_some() || !inner.as_object().is_some_and(serde_json::Map::is_empty)) =>
                {
                    self.patch(at, inner, replace)?;
                }
                value => {
                    let mut value = named(at, &path, value);
                    restore_placeholders(&mut value, old.as_ref()).map_err(|tail| EditError::Placeholder(join_path(&[path.as_slice(), &tail].concat())))?;
                    if let (Some(Value::Array(was)), Value::Array(now)) = (&old, &value) {
                        let name = join_path(at);
                        let allowed = replace.iter().any(|r| *r == name || crate::split_path(r).ok().as_ref() == Some(at));
                        let lost: Vec<String> = was.iter().filter(|w| !kept(w, now)).map(shown).collect();
                        if !allowed && !lost.is_empty() {
                            return Err(EditError::WouldRemove(name, lost));
                        }
                    }
                    self.set(&path, &value, old.as_ref())?;
                }
            }
            at.pop();
        }
        Ok(())
    }

    fn set_leaf(&mut self, path: &[String], value: &Value) -> Result<(), EditError> {
        let (file, inner) = self.owner(path)?;
        self.edit_file(file, |text| edit_text::set(text, &inner, value))
    }

    fn unset(&mut self, path: &[String]) -> Result<(), EditError> {
        let (file, inner) = self.owner(path)?;
        self.edit_file(file, |text| edit_text::unset(text, &inner))
    }

    fn edit_file(&mut self, file: PathBuf, change: impl Fn(&str) -> Result<String, TextEditError>) -> Result<(), EditError> {
        let text = self.texts.get(&file).cloned().or_else(|| self.original(&file)).unwrap_or_default();
        let after = change(&text).map_err(|e| match e {
            TextEditError::Syntax(why) => EditError::Unreadable(why),
            TextEditError::Place(at) => EditError::Place(format!("Cannot set a value below {}", join_path(&at))),
        })?;
        self.texts.insert(file, after);
        Ok(())
    }

    /// The file that holds a path and the path inside it: the deepest single include on the way.
    fn owner(&self, path: &[String]) -> Result<(PathBuf, Vec<String>), EditError> {
        let mut file = self.root.clone();
        let mut start = 0;
        for _ in 0..=crate::include::INCLUDE_DEPTH_MAX {
            let text = self.texts.get(&file).cloned().or_else(|| self.original(&file)).unwrap_or_default();
            let value = if text.trim().is_empty() { Value::Null } else { crate::text::parse_text(&text).map_err(|p| EditError::Unreadable(p.message))? };
            let mut here = &value;
            let mut next = None;
            let mut i = start;
            loop {
                if let Some(include) = here.get(INCLUDE_KEY) {
                    let in_place = path.get(i).is_some_and(|s| here.get(s).is_some());
                    if !in_place {
                        let Value::String(name) = include else {
                            return Err(EditError::Place(format!("{} comes from several included files; edit them by hand", join_path(&path[..i]))));
                        };
                        next = Some((name.clone(), i));
                        break;
                    }
                }
                let Some(segment) = path.get(i) else { break };
                match value_at(here, std::slice::from_ref(segment)) {
                    Some(inner) => here = inner,
                    None => break,
                }
                i += 1;
            }
            let Some((name, at)) = next else { return Ok((file, path[start..].to_vec())) };
            let target = crate::paths::clean(&file.parent().unwrap_or(Path::new(".")).join(&name));
            file = target.canonicalize().map_err(|_| EditError::Place(format!("included file {name} is missing")))?;
            start = at;
        }
        Err(EditError::Place("includes are too deep".into()))
    }

    /// Agents under the key that the file uses.
    fn in_file_spelling(&self, path: &[String], value: Option<&Value>) -> Vec<String> {
        let list = value_at(&self.snapshot.resolved, &["agents".into(), "list".into()]).and_then(Value::as_array);
        match (path, list) {
            ([a, e, id, rest @ ..], Some(list)) if a == "agents" && e == "entries" => {
                let same = |x: &Value| x.get("id").and_then(Value::as_str).is_some_and(|i| clawstead_terms::AgentId::normalise(i).as_str() == id);
                // a new agent goes to the end of the list
                let new = value.is_some_and(Value::is_object) && rest.is_empty();
                let Some(position) = list.iter().position(same).or(new.then_some(list.len())) else { return path.to_vec() };
                [&["agents".into(), "list".into(), position.to_string()], rest].concat()
            }
            ([a, l, n, rest @ ..], None) if a == "agents" && l == "list" => {
                let entries = value_at(&self.snapshot.resolved, &["agents".into(), "entries".into()]).and_then(Value::as_object);
                match n.parse::<usize>().ok().and_then(|n| entries?.keys().nth(n)) {
                    Some(id) => [&["agents".into(), "entries".into(), id.clone()], rest].concat(),
                    None => path.to_vec(),
                }
            }
            _ => path.to_vec(),
        }
    }
}

fn path_of(edit: &Edit) -> &[String] {
    match edit {
        Edit::Set { path, .. } | Edit::Unset { path } => path,
        _ => &[],
    }
}

/// An entry of `agents.entries` that is written to a list carries its id.
fn named(asked: &[String], written: &[String], value: &Value) -> Value {
    let mut value = value.clone();
    if let ([a, e, id], [_, l, _], Value::Object(map)) = (asked, written, &mut value)
        && (a, e.as_str(), l.as_str()) == (&"agents".to_owned(), "entries", "list")
        && !map.contains_key("id")
    {
        map.shift_insert(0, "id".into(), Value::String(id.clone()));
    }
    value
}

fn lost_names(old: Option<&Value>, new: &Value) -> Vec<String> {
    match (old, new) {
        (Some(Value::Object(was)), Value::Object(now)) => was.keys().filter(|k| !now.contains_key(*k)).cloned().collect(),
        (Some(Value::Array(was)), Value::Array(now)) => was.iter().filter(|w| !kept(w, now)).map(shown).collect(),
        (Some(Value::Object(was)), _) => was.keys().cloned().collect(),
        (Some(Value::Array(was)), _) => was.iter().map(shown).collect(),
        _ => Vec::new(),
    }
}

/// An entry stays when it is there as it was, or one with the same id is.
fn kept(entry: &Value, now: &[Value]) -> bool {
    let id = entry.get("id");
    now.iter().any(|n| n == entry || (id.is_some() && n.get("id") == id))
}

fn shown(entry: &Value) -> String {
    match entry.get("id").unwrap_or(entry) {
        Value::String(s) => format!("\"{s}\""),
        Value::Object(_) | Value::Array(_) => "an entry".into(),
        other => other.to_string(),
    }
}
