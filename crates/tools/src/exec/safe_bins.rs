//! Safe bins: filters that may run without approval because they read standard input and nothing else. Each has
//! a profile of the options it may have; every option that is not named is refused, shortened long options too.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::approvals::Program;

/// The filters when `tools.exec.safeBins` is absent.
pub const DEFAULT: [&str; 6] = ["cut", "uniq", "head", "tail", "tr", "wc"];
/// Where a safe bin must lie when `tools.exec.safeBinTrustedDirs` is absent.
const TRUSTED_DIRS: [&str; 2] = ["/bin", "/usr/bin"];

/// What a filter may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    min_positional: usize,
    max_positional: usize,
    /// Options that take a value.
    values: Vec<String>,
    /// Options without a value.
    flags: Vec<String>,
    denied: Vec<String>,
    /// `-20` is allowed.
    number: bool,
}

/// The built-in profile of a filter: positionals, options with a value, options without.
type Row = (&'static str, (usize, usize), &'static str, &'static str);

const ROWS: [Row; 9] = [
    ("cut", (0, 0), "-b -c -d -f --bytes --characters --delimiter --fields --output-delimiter", "-n -s -z --complement --only-delimited --zero-terminated"),
    ("uniq", (0, 0), "-f -s -w --skip-fields --skip-chars --check-chars", "-c -d -D -i -u -z --count --repeated --ignore-case --unique --zero-terminated"),
    ("head", (0, 0), "-n -c --lines --bytes", "-q -v -z --quiet --silent --verbose --zero-terminated"),
    ("tail", (0, 0), "-n -c --lines --bytes", "-q -v -z --quiet --silent --verbose --zero-terminated"),
    ("tr", (1, 2), "", "-c -C -d -s -t --complement --delete --squeeze-repeats --truncate-set1"),
    ("wc", (0, 0), "", "-c -m -l -L -w --bytes --chars --lines --max-line-length --words"),
    (
        "jq",
        (1, 1),
        "--indent",
        "-r -c -n -s -S -e -j -a -M -C --raw-output --compact-output --null-input --slurp --sort-keys --exit-status --join-output --tab",
    ),
    (
        "grep",
        (1, 1),
        "-e -m -A -B -C --regexp --max-count",
        "-E -F -i -v -n -c -o -w -x -q --extended-regexp --fixed-strings --ignore-case --invert-match --line-number --count --only-matching",
    ),
    (
        "sort",
        (0, 0),
        "-k -t --key --field-separator",
        "-b -d -f -g -h -i -M -n -r -R -s -u -V -z --numeric-sort --reverse --unique --stable --version-sort --human-numeric-sort",
    ),
];

/// The safe bins of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SafeBins {
    named: Vec<(String, Option<Profile>)>,
    dirs: Vec<PathBuf>,
}

impl SafeBins {
    /// Reads `tools.exec` (`safeBins`, `safeBinProfiles`, `safeBinTrustedDirs`).
    #[must_use]
    pub fn of(exec: Option<&Value>) -> Self {
        let list = |key: &str| {
            exec.and_then(|e| e.get(key)).and_then(Value::as_array).map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        };
        let names = list("safeBins").unwrap_or_else(|| DEFAULT.iter().map(|n| (*n).to_owned()).collect());
        let profiles = exec.and_then(|e| e.get("safeBinProfiles"));
        let dirs = list("safeBinTrustedDirs").unwrap_or_default().into_iter().chain(TRUSTED_DIRS.iter().map(|d| (*d).to_owned()));
        let dirs = dirs.map(PathBuf::from).filter(|d| d.is_absolute()).map(|d| d.canonicalize().unwrap_or(d)).collect();
        let named = names
            .into_iter()
            .map(|name| name.trim().to_lowercase())
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(|name| {
                let profile = profiles.and_then(|p| p.get(&name)).map(custom).or_else(|| built_in(&name));
                (name, profile)
            })
            .collect();
        Self { named, dirs }
    }

    /// Whether a program with these arguments is a safe filter. `None` when its name is no safe bin.
    ///
    /// A safe bin without a profile stands for the program itself, with any arguments, as an allowlist entry of
    /// that bare name would: so a list such as `["nomad", "curl"]` does what its author meant.
    #[must_use]
    pub fn check(&self, program: &Program, args: &[String], workspace: &Path) -> Option<Result<(), String>> {
        if program.named.contains('/') {
            return None;
        }
        let (name, profile) = self.named.iter().find(|(name, _)| *name == program.named)?;
        let Some(profile) = profile else {
            if program.found.starts_with(workspace) || program.real.starts_with(workspace) {
                return Some(Err(format!("{name} was found in the workspace")));
            }
            return Some(Ok(()));
        };
        let trusted = program.found.parent().is_some_and(|dir| self.dirs.iter().any(|d| *d == dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf())));
        if !trusted {
            return Some(Err(format!("{name} was found at {}, which is no trusted folder (tools.exec.safeBinTrustedDirs)", program.found.display())));
        }
        Some(profile.check(name, args))
    }
}

fn built_in(name: &str) -> Option<Profile> {
    let (_, (min_positional, max_positional), values, flags) = ROWS.iter().find(|row| row.0 == name)?;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let number = matches!(name, "head" | "tail");
    Some(Profile { min_positional: *min_positional, max_positional: *max_positional, values: words(values), flags: words(flags), denied: Vec::new(), number })
}

fn custom(value: &Value) -> Profile {
    let count = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Profile {
        min_positional: count("minPositional").unwrap_or(0),
        max_positional: count("maxPositional").unwrap_or(0),
        values: list("allowedValueFlags"),
        flags: Vec::new(),
        denied: list("deniedFlags"),
        number: false,
    }
}

impl Profile {
    fn check(&self, name: &str, args: &[String]) -> Result<(), String> {
        let mut positional = 0;
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                for rest in args.by_ref() {
                    positional += 1;
                    operand(name, rest)?;
                }
            } else if let Some(long) = arg.strip_prefix("--") {
                let (flag, value) = match long.split_once('=') {
                    Some((flag, value)) => (format!("--{flag}"), Some(value)),
                    None => (arg.clone(), None),
                };
                if self.denied.contains(&flag) || !(self.values.contains(&flag) || (self.flags.contains(&flag) && value.is_none())) {
                    return Err(format!("{name} may not have the option {flag}"));
                }
                if self.values.contains(&flag) {
                    let value = value.or_else(|| args.next().map(String::as_str)).ok_or_else(|| format!("{name} {flag} needs a value"))?;
                    operand(name, value)?;
                }
            } else if arg.len() > 1 && arg.starts_with('-') {
                if self.number && arg[1..].bytes().all(|b| b.is_ascii_digit()) {
                    continue;
                }
                for (at, letter) in arg[1..].char_indices() {
                    let flag = format!("-{letter}");
                    if self.denied.contains(&flag) {
                        return Err(format!("{name} may not have the option {flag}"));
                    }
                    if self.values.contains(&flag) {
                        let rest = &arg[1 + at + letter.len_utf8()..];
                        let value = if rest.is_empty() { args.next().map(String::as_str).ok_or_else(|| format!("{name} {flag} needs a value"))? } else { rest };
                        operand(name, value)?;
                        break;
                    }
                    if !self.flags.contains(&flag) {
                        return Err(format!("{name} may not have the option {flag}"));
                    }
                }
            } else {
                positional += 1;
                operand(name, arg)?;
            }
        }
        if positional < self.min_positional || positional > self.max_positional {
            return Err(format!(
                "{name} may have {} to {} arguments, not {positional}: as a safe bin it reads standard input, no files",
                self.min_positional, self.max_positional
            ));
        }
        Ok(())
    }
}

/// Refuses what names a file.
fn operand(name: &str, text: &str) -> Result<(), String> {
    let path = text.len() > 1 && (text.starts_with(['/', '~', '@']) || text.starts_with("./") || text.starts_with("../") || text.contains("/../"));
    if path { Err(format!("{name} may not be given the path {text}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::SafeBins;
    use crate::{approvals::Program, exec::words::split};

    fn check(exec: serde_json::Value, command: &str) -> Option<Result<(), String>> {
        let mut words = split(command).unwrap().remove(0);
        let named = words.remove(0);
        let found: std::path::PathBuf = if named.contains('/') { named.clone().into() } else { format!("/usr/bin/{named}").into() };
        let program = Program { named, found: found.clone(), real: found };
        SafeBins::of(Some(&exec)).check(&program, &words, "/ws".as_ref())
    }

    #[test]
    fn filters_read_standard_input_only() {
        for good in
            ["head -20", "head -n 5", "head -n5", "cut -d / -f 1,2", "cut --fields=1 -d:", "tr a-z A-Z", "tr -d '\\n'", "wc -l", "uniq -c", "tail -c +5"]
        {
            assert_eq!(check(json!({}), good), Some(Ok(())), "{good}");
        }
        for bad in [
            "head /etc/passwd",
            "head -n 5 file",
            "wc --files0-from=x",
            "wc --files0=x",
            "head --lin 5",
            "tr a b c",
            "tr",
            "cut -f 1 -- /etc/passwd",
            "tail -f",
            "uniq in out",
            "cut -d ~/x -f1x ../y",
        ] {
            let Ok(_) = split(bad) else { continue };
            assert!(matches!(check(json!({}), bad), Some(Err(_))), "{bad}");
        }
        assert_eq!(check(json!({}), "jq ."), None, "no default any more");
        assert_eq!(check(json!({}), "/usr/bin/head -1"), None, "a path is no bare name");
    }

    #[test]
    fn profiles_of_ones_own_and_programs_without_one() {
        let sort = json!({"safeBins": ["sort", "jq"]});
        assert_eq!(check(sort.clone(), "sort -rn"), Some(Ok(())));
        for bad in
            ["sort -o out", "sort --compress-program=sh", "sort --compress-prog=sh", "sort --files0-from=x", "jq -f x .", "jq . file", "jq --rawfile a b ."]
        {
            assert!(matches!(check(sort.clone(), bad), Some(Err(_))), "{bad}");
        }
        let own = json!({"safeBins": ["myfilter"], "safeBinProfiles": {"myfilter": {"maxPositional": 1, "allowedValueFlags": ["--limit", "-l"], "deniedFlags": ["-x"]}}});
        assert_eq!(check(own.clone(), "myfilter --limit=3 -l 4 word"), Some(Ok(())));
        for bad in ["myfilter a b", "myfilter -x", "myfilter --lim=3", "myfilter /etc/passwd"] {
            assert!(matches!(check(own.clone(), bad), Some(Err(_))), "{bad}");
        }
        assert_eq!(check(json!({"safeBins": ["nomad", "curl"]}), "nomad job status web"), Some(Ok(())));
    }
}
