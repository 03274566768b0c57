//! `$include`: other files in the place of an object.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    paths::{Paths, clean},
    text::{self, FILE_BYTES_MAX, ParseProblem},
};

/// Files inside files at most.
pub const INCLUDE_DEPTH_MAX: usize = 10;
/// All files of one configuration together at most.
pub const INCLUDE_FILES_MAX: usize = 256;
const PATH_CHARS_MAX: usize = 4096;
/// The key.
pub const INCLUDE_KEY: &str = "$include";

/// One file that was read.
#[derive(Clone)]
pub struct SourceFile {
    /// As opened.
    pub path: PathBuf,
    /// Its text without byte order mark.
    pub text: String,
    /// Its value with `$include` and `${}` as written.
    pub value: Value,
}

/// Something wrong with an include: where in the merged value, in which file, and what.
pub(crate) struct IncludeProblem {
    pub at: Vec<String>,
    pub file: PathBuf,
    pub problem: ParseProblem,
}

pub(crate) struct Includes<'a> {
    roots: Vec<PathBuf>,
    stack: Vec<PathBuf>,
    pub files: Vec<SourceFile>,
    pub problems: Vec<IncludeProblem>,
    at: Vec<String>,
    read: &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>,
}

impl<'a> Includes<'a> {
    pub fn new(paths: &Paths, root_file: &Path, read: &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>) -> Self {
        let dir = root_file.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let roots = std::iter::once(&dir).chain(&paths.include_roots).map(|d| d.canonicalize().unwrap_or_else(|_| clean(d))).collect();
        let stack = vec![root_file.canonicalize().unwrap_or_else(|_| clean(root_file))];
        Self { roots, stack, files: Vec::new(), problems: Vec::new(), at: Vec::new(), read }
    }

    /// The value with every include in place. What cannot be read is left out and noted.
    pub fn expand(&mut self, value: &Value, file: &Path) -> Value {
        match value {
            Value::Object(map) if map.contains_key(INCLUDE_KEY) => self.include(map, file),
            Value::Object(map) => Value::Object(self.children(map, file)),
            Value::Array(list) => {
                let mut out = Vec::with_capacity(list.len());
                for (i, inner) in list.iter().enumerate() {
                    self.at.push(i.to_string());
                    out.push(self.expand(inner, file));
                    self.at.pop();
                }
                Value::Array(out)
            }
            other => other.clone(),
        }
    }

    fn children(&mut self, map: &Map<String, Value>, file: &Path) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, inner) in map {
            if key == INCLUDE_KEY {
                continue;
            }
            self.at.push(key.clone());
            let value = self.expand(inner, file);
            self.at.pop();
            out.insert(key.clone(), value);
        }
        out
    }

    fn include(&mut self, map: &Map<String, Value>, file: &Path) -> Value {
        let names: Vec<&str> = match map.get(INCLUDE_KEY) {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => list.iter().filter_map(Value::as_str).collect(),
            _ => {
                self.problem(file, "Invalid $include: expected a path or a list of paths");
                return Value::Object(self.children(map, file));
            }
        };
        let mut merged: Option<Value> = None;
        for name in names {
            if let Some(value) = self.load(name, file) {
                merged = Some(match merged {
                    Some(before) => deep_merge(before, value),
                    None => value,
                });
            }
        }
        let siblings = self.children(map, file);
        match merged {
            None => Value::Object(siblings),
            Some(value) if siblings.is_empty() => value,
            Some(value @ Value::Object(_)) => deep_merge(value, Value::Object(siblings)),
            Some(value) => {
                self.problem(file, "Sibling keys of $include need an included object");
                value
            }
        }
    }

    fn load(&mut self, name: &str, file: &Path) -> Option<Value> {
        if self.stack.len() > INCLUDE_DEPTH_MAX {
            self.problem(file, format!("Maximum include depth ({INCLUDE_DEPTH_MAX}) exceeded at: {name}"));
            return None;
        }
        if self.files.len() >= INCLUDE_FILES_MAX {
            self.problem(file, format!("More than {INCLUDE_FILES_MAX} included files"));
            return None;
        }
        if name.is_empty() || name.len() >= PATH_CHARS_MAX || name.contains('\0') {
            self.problem(file, "Include path is empty, too long or contains NUL");
            return None;
        }
        let joined = clean(&file.parent().unwrap_or(Path::new(".")).join(name));
        let real = match joined.canonicalize() {
            Ok(real) => real,
            Err(_) => {
                if !self.roots.iter().any(|r| joined.starts_with(r)) && !file.parent().is_some_and(|d| joined.starts_with(d)) {
                    self.problem(file, format!("Include path escapes the config directory: {name}"));
                } else {
                    self.problem(file, format!("Failed to read include file: {name} (not found)"));
                }
                return None;
            }
        };
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            self.problem(file, format!("Include path escapes the config directory: {name}"));
            return None;
        }
        if self.stack.contains(&real) {
            let chain: Vec<String> =
                self.stack.iter().chain([&real]).map(|p| p.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())).collect();
            self.problem(file, format!("Circular include detected: {}", chain.join(" -> ")));
            return None;
        }
        let (value, text) = match self.read(&real) {
            Ok(read) => read,
            Err(problem) => {
                let message = format!("Failed to parse include file: {name} ({})", problem.message);
                self.problems.push(IncludeProblem { at: self.at.clone(), file: real, problem: ParseProblem { message, ..problem } });
                return None;
            }
        };
        self.files.push(SourceFile { path: real.clone(), text, value: value.clone() });
        self.stack.push(real.clone());
        let expanded = self.expand(&value, &real);
        self.stack.pop();
        Some(expanded)
    }

    fn read(&self, path: &Path) -> Result<(Value, String), ParseProblem> {
        let fail = |message: String| ParseProblem { message, line: None, column: None };
        let meta = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
        if !meta.is_file() {
            return Err(fail("not a regular file".into()));
        }
        if meta.len() > FILE_BYTES_MAX as u64 {
            return Err(fail(format!("file is larger than {FILE_BYTES_MAX} bytes")));
        }
        let bytes = (self.read)(path).map_err(|e| fail(e.to_string()))?;
        let value = text::parse_bytes(&bytes)?;
        Ok((value, text::strip_bom(&String::from_utf8_lossy(&bytes)).to_owned()))
    }

    fn problem(&mut self, file: &Path, message: impl Into<String>) {
        let problem = ParseProblem { message: message.into(), line: None, column: None };
        self.problems.push(IncludeProblem { at: self.at.clone(), file: file.to_path_buf(), problem });
    }
}

/// Objects merge, lists are joined, everything else is replaced.
pub(crate) fn deep_merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut a), Value::Object(b)) => {
            for (key, value) in b {
                let merged = match a.shift_remove(&key) {
                    Some(old) => deep_merge(old, value),
                    None => value,
                };
                a.insert(key, merged);
            }
            Value::Object(a)
        }
        (Value::Array(mut a), Value::Array(b)) => {
            a.extend(b);
            Value::Array(a)
        }
        (_, over) => over,
    }
}
