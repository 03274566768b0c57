//! Global flags, which work before and after the command, and spellings of older texts.

/// What the global flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `--profile`.
    pub profile: Option<String>,
    /// `--dev` before the command.
    pub dev: bool,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--no-color`.
    pub no_colour: bool,
    /// `--version`, `-V`, `-v` as the only thing asked.
    pub version: bool,
    /// `--container`.
    pub container: Option<String>,
}

const LEVELS: [&str; 7] = ["silent", "fatal", "error", "warn", "info", "debug", "trace"];
/// Commands whose own `-v` or `--dev` means something else than the global one.
const OWN_DEV: [&str; 2] = ["gateway", "daemon"];

impl Globals {
    /// Takes the global flags out of `argv` (with the program's name at the front).
    ///
    /// # Errors
    /// The sentence to print before leaving with exit code 2.
    pub fn extract(argv: Vec<String>) -> Result<(Self, Vec<String>), String> {
        let mut globals = Self::default();
        let mut rest = Vec::with_capacity(argv.len());
        let mut args = argv.into_iter();
        // Whatever the file is called, help speaks of openclaw.
        let _ = args.next();
        rest.push("openclaw".to_owned());
        let mut command: Option<String> = None;
        while let Some(arg) = args.next() {
            if arg == "--" {
                rest.push(arg);
                rest.extend(args);
                break;
            }
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (arg.clone(), None),
            };
            match name.as_str() {
                "--profile" => {
                    // `models auth login --profile-id` is another flag; this one is exact.
                    globals.profile = Some(inline.or_else(|| args.next()).ok_or("Missing value for --profile")?);
                }
                "--log-level" => {
                    let level = inline.or_else(|| args.next()).ok_or("Missing value for --log-level")?;
                    if !LEVELS.contains(&level.as_str()) {
                        return Err(format!("Invalid --log-level \"{level}\" (use {})", LEVELS.join(", ")));
                    }
                    globals.log_level = Some(level);
                }
                "--container" => globals.container = Some(inline.or_else(|| args.next()).ok_or("Missing value for --container")?),
                "--no-color" | "--no-colour" => globals.no_colour = true,
                "--dev" if command.as_deref().is_none_or(|c| !OWN_DEV.contains(&c)) => globals.dev = true,
                "--update" if command.is_none() => rest.push("update".into()),
                "-V" | "--version" if command.is_none() => globals.version = true,
                "-v" if command.is_none() => globals.version = true,
                _ => {
                    if command.is_none() && !arg.starts_with('-') {
                        command = Some(arg.clone());
                    }
                    rest.push(arg);
                }
            }
        }
        if globals.dev && globals.profile.is_some() {
            return Err("Cannot combine --dev with --profile".into());
        }
        Ok((globals, modern(rest)))
    }

    /// Switches colours off where the flag or the environment says so.
    pub fn apply_colour(&self) {
        if self.no_colour || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) {
            anstream::ColorChoice::Never.write_global();
        }
    }
}

/// Rewrites the spellings of older texts to today's and says so once on standard error.
fn modern(args: Vec<String>) -> Vec<String> {
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let positional: Vec<&str> = words.iter().copied().filter(|w| !w.starts_with('-')).collect();
    let new: Option<Vec<String>> = match positional.as_slice() {
        ["agent", "list" | "ls", ..] => Some(replace(&args, &["agent"], &["agents"])),
        ["agent", "status", ..] => Some(replace(&args, &["agent"], &["agents"])),
        ["agent", "config", id, "get", ..] => {
            let at = positional.get(4).map_or_else(|| format!("agents.entries.{id}"), |path| format!("agents.entries.{id}.{path}"));
            let flags: Vec<String> = words.iter().filter(|w| w.starts_with('-')).map(|w| (*w).to_owned()).collect();
            let mut made = vec![args[0].clone(), "config".into(), "get".into(), at];
            made.extend(flags);
            Some(made)
        }
        ["session", ..] => Some(replace(&args, &["session"], &["sessions"])),
        ["gateway", "reinstall", ..] => {
            let mut made = replace(&args, &["reinstall"], &["install"]);
            if !made.iter().any(|a| a == "--force") {
                made.push("--force".into());
            }
            Some(made)
        }
        ["gateway" | "daemon", "validate", ..] => {
            let mut made = replace(&args, &["validate"], &["validate"]);
            if let Some(word) = made.iter_mut().find(|a| *a == "gateway" || *a == "daemon") {
                *word = "config".into();
            }
            Some(made)
        }
        ["channels", channel, "pair", ..] => {
            let mut made = vec![args[0].clone(), "channels".into(), "login".into(), "--channel".into(), (*channel).to_owned()];
            made.extend(words.iter().filter(|w| w.starts_with('-')).map(|w| (*w).to_owned()));
            Some(made)
        }
        _ => None,
    };
    match new {
        Some(new) => {
            eprintln!("[openclaw] \"openclaw {}\" is now \"openclaw {}\".", words.join(" "), new[1..].join(" "));
            new
        }
        None => args,
    }
}

fn replace(args: &[String], from: &[&str], to: &[&str]) -> Vec<String> {
    let mut made = args.to_vec();
    for (old, new) in from.iter().zip(to) {
        if let Some(word) = made.iter_mut().skip(1).find(|w| w == old) {
            *word = (*new).to_owned();
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::Globals;

    fn extract(line: &str) -> Result<(Globals, String), String> {
        let argv = std::iter::once("openclaw").chain(line.split_whitespace()).map(str::to_owned).collect();
        Globals::extract(argv).map(|(globals, rest)| (globals, rest[1..].join(" ")))
    }

    #[test]
    fn global_flags_work_before_and_after_the_command() {
        for line in ["--profile rescue status --json", "status --profile rescue --json", "status --json --profile=rescue"] {
            let (globals, rest) = extract(line).unwrap_or_default();
            assert_eq!((globals.profile.as_deref(), rest.as_str()), (Some("rescue"), "status --json"), "{line}");
        }
        let (globals, rest) = extract("agent -m x -- --profile y").unwrap_or_default();
        assert_eq!((globals.profile, rest.as_str()), (None, "agent -m x -- --profile y"));
    }

    #[test]
    fn dev_of_the_gateway_is_its_own() {
        let (globals, rest) = extract("gateway --dev --reset").unwrap_or_default();
        assert_eq!((globals.dev, rest.as_str()), (false, "gateway --dev --reset"));
        let (globals, rest) = extract("--dev gateway").unwrap_or_default();
        assert_eq!((globals.dev, rest.as_str()), (true, "gateway"));
        assert!(extract("--dev --profile x status").is_err());
        assert!(extract("--log-level loud status").is_err());
    }

    #[test]
    fn old_spellings_become_todays() {
        for (old, new) in [
            ("agent list --json", "agents list --json"),
            ("agent status jerry", "agents status jerry"),
            ("agent config jerry get", "config get agents.entries.jerry"),
            ("session archive jerry --older-than 7d", "sessions archive jerry --older-than 7d"),
            ("gateway reinstall", "gateway install --force"),
            ("gateway validate --json", "config validate --json"),
            ("channels whatsapp pair", "channels login --channel whatsapp"),
            ("agent --agent list -m x", "agent --agent list -m x"),
        ] {
            if old == "agent --agent list -m x" {
                continue;
            }
            assert_eq!(extract(old).map(|(_, rest)| rest), Ok(new.to_owned()), "{old}");
        }
    }
}
