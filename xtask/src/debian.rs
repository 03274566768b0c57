//! Debian packages unpacked into a folder of ours instead of installed: works without rights of an administrator, for
//! another release of Debian than the machine's, and leaves the machine as it was.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// Names the packages a folder holds, in the form of [`wanted`].
const MARK: &str = "packages.txt";
/// Where the scripts that start the programs are, below the folder.
const SCRIPTS: &str = "run";

/// True when the folder holds these packages of this release.
pub fn present(folder: &Path, suite: &str, packages: &BTreeMap<String, String>) -> bool {
    fs::read_to_string(folder.join(MARK)).is_ok_and(|mark| mark == wanted(suite, packages))
}

/// Downloads the packages with apt and unpacks them into `folder`. Each program (a path below the folder) gets a script
/// of the same name in `run/` that finds the unpacked libraries.
///
/// `cache` keeps the package lists of each release; `run` runs a command and says how it failed.
///
/// # Errors
/// When apt has no source of Debian packages, the release has no such package or version, or a command fails.
pub fn unpack(
    folder: &Path,
    cache: &Path,
    suite: &str,
    packages: &BTreeMap<String, String>,
    programs: &[String],
    run: &dyn Fn(&mut Command) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let apt = Apt::new(&cache.join(suite), suite)?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let fetched = folder.join("fetched");
    fs::create_dir_all(&fetched)?;
    if !apt.updated() {
        run(apt.get().arg("update"))?;
    }
    run(apt.get().arg("download").args(packages.keys()).current_dir(&fetched))?;
    let mut files: Vec<PathBuf> = fs::read_dir(&fetched)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    for (package, version) in packages {
        let start = format!("{package}_{version}");
        let file = files.iter().find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)));
        let Some(file) = file else { bail!("{suite} has {package} in another version than {version}") };
        run(Command::new("dpkg").arg("-x").arg(file).arg(folder))?;
    }
    fs::remove_dir_all(&fetched)?;
    for program in programs {
        script(folder, program)?;
    }
    fs::write(folder.join(MARK), wanted(suite, packages))?;
    Ok(())
}

fn wanted(suite: &str, packages: &BTreeMap<String, String>) -> String {
    packages.iter().fold(format!("{suite}\n"), |text, (package, version)| format!("{text}{package} {version}\n"))
}

/// A script that starts an unpacked program with its libraries. It becomes that program, so signals reach it.
fn script(folder: &Path, program: &str) -> anyhow::Result<()> {
    let folder = folder.canonicalize()?;
    let binary = folder.join(program);
    if !binary.exists() {
        bail!("the package has no {program}");
    }
    let libraries = folder.join("usr/lib");
    let paths: Vec<String> = fs::read_dir(&libraries)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-gnu"))
        .map(|path| path.display().to_string())
        .collect();
    let scripts = folder.join(SCRIPTS);
    fs::create_dir_all(&scripts)?;
    let name = Path::new(program).file_name().context("a program without a name")?;
    let path = scripts.join(name);
    fs::write(&path, format!("#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n", paths.join(":"), binary.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// apt with lists, cache and sources of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> anyhow::Result<Self> {
        let codename = codename().context("this system is not Debian")?;
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let folder = folder.canonicalize()?;
        let mut found = String::new();
        for file in source_files() {
            let text = fs::read_to_string(&file).unwrap_or_default();
            match file.extension().is_some_and(|end| end == "sources") {
                true => found.push_str(&stanzas(&text, &codename, suite)),
                false => fs::write(folder.join("sources.list"), lines(&text, &codename, suite))?,
            }
        }
        fs::write(folder.join("parts/suite.sources"), &found)?;
        let listed = fs::read_to_string(folder.join("sources.list")).unwrap_or_default();
        if found.is_empty() && listed.is_empty() {
            bail!("apt has no source of {codename} to take {suite} from");
        }
        Ok(Self { folder })
    }

    fn get(&self) -> Command {
        let at = |part: &str| self.folder.join(part).display().to_string();
        let mut command = Command::new("apt-get");
        command.arg("-q");
        for (name, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", at("parts")),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache", at("cache")),
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".into()),
        ] {
            command.arg("-o").arg(format!("{name}={value}"));
        }
        command
    }

    /// True when the lists are there from an earlier run.
    fn updated(&self) -> bool {
        let lists = fs::read_dir(self.folder.join("lists")).into_iter().flatten().flatten();
        lists.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
    }
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"').to_owned())
}

fn source_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| is_source(path)).collect();
    files.sort();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    files.retain(|file| file.exists());
    files
}

/// Lists of other vendors (`*.list`) hold nothing of Debian.
fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "sources")
}

/// The stanzas that serve the machine's own release, made to serve another.
fn stanzas(text: &str, codename: &str, suite: &str) -> String {
    let mut out = String::new();
    for stanza in text.split("\n\n") {
        let serves = stanza.lines().any(|line| line.strip_prefix("Suites:").is_some_and(|suites| suites.split_whitespace().any(|one| one == codename)));
        if serves {
            for line in stanza.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
                out.push_str(&if line.starts_with("Suites:") { format!("Suites: {suite}\n") } else { format!("{line}\n") });
            }
            out.push('\n');
        }
    }
    out
}

/// The same for the one-line form.
fn lines(text: &str, codename: &str, suite: &str) -> String {
    let served = text.lines().filter(|line| line.starts_with("deb ") && line.split_whitespace().any(|word| word == codename));
    served.map(|line| format!("{}\n", line.split_whitespace().map(|word| if word == codename { suite } else { word }).collect::<Vec<_>>().join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use super::{lines, stanzas};

    #[test]
    fn only_the_stanza_of_the_own_release_is_turned() {
        let text = "Types: deb\n# note\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://mirror/security\nSuites: bookworm-security\nComponents: main\n";
        assert_eq!(stanzas(text, "bookworm", "bullseye"), "Types: deb\nURIs: http://mirror/debian\nSuites: bullseye\nComponents: main\n\n");
        let text = "deb http://mirror/debian bookworm main\n#deb x bookworm main\ndeb http://mirror/security bookworm-security main\n";
        assert_eq!(lines(text, "bookworm", "bullseye"), "deb http://mirror/debian bullseye main\n");
    }
}
