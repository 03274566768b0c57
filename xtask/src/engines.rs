//! `cargo xtask engines`: fetches the foreign programs the tests run against.
//!
//! What and which version is in `engines.json`. Everything goes below `.cache/engines` (or `CLAWSTEAD_ENGINES`), apart
//! from Debian packages of the kind `apt`, which are installed when we are root and `apt-get` exists; those of the kind
//! `deb` are only unpacked there. What is there already is left alone.
//! An engine that cannot be had is reported and counted; the suites that need it say that they were skipped.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::{
    debian,
    run::{End, is_root, logged, tail, which},
};

/// Longest time one engine may take to fetch or build.
const FETCH_LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(Deserialize)]
struct Manifest {
    engines: Vec<Engine>,
}

/// One row of `engines.json`.
#[derive(Deserialize)]
pub struct Engine {
    /// Its name in messages.
    pub name: String,
    kind: Kind,
    #[serde(default)]
    folder: String,
    packages: BTreeMap<String, String>,
    /// Programs that must exist before it can be built.
    #[serde(default)]
    needs: Vec<String>,
    /// For installed Debian packages: where the program may be. For unpacked ones: the program, below the folder.
    #[serde(default)]
    programs: Vec<String>,
    /// For unpacked Debian packages: the release they come from.
    #[serde(default)]
    suite: String,
    /// Environment variables for the tests, with the path below the folder.
    variables: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Npm,
    Pip,
    Apt,
    Deb,
}

/// What could be had.
#[derive(Default)]
pub struct Found {
    /// Environment variables that name the engines.
    pub variables: BTreeMap<String, PathBuf>,
    /// Engines that could not be had, with the reason.
    pub missing: Vec<(String, String)>,
}

/// Whether missing engines are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Fetch what is missing.
    Missing,
    /// Only look.
    No,
}

/// Makes every engine available that can be had.
///
/// # Errors
/// When `engines.json` cannot be read or the folder cannot be made. A failed download is not an error.
pub fn prepare(repo: &Path, fetch: Fetch) -> anyhow::Result<Found> {
    let text = fs::read_to_string(repo.join("xtask/engines.json")).context("xtask/engines.json")?;
    let manifest: Manifest = serde_json::from_str(&text).context("xtask/engines.json")?;
    let root = std::env::var_os("CLAWSTEAD_ENGINES").map_or_else(|| repo.join(".cache/engines"), PathBuf::from);
    fs::create_dir_all(root.join("logs"))?;
    let shop = Shop { root, fetch, apt_updated: std::cell::Cell::new(false) };
    let mut found = Found::default();
    for engine in &manifest.engines {
        match shop.get(engine) {
            Ok(variables) => {
                println!("engine {}: ready", engine.name);
                found.variables.extend(variables);
            }
            Err(why) => {
                let why = format!("{why:#}").replace('\n', " ");
                println!("SKIPPED: {}: {why}", engine.name);
                found.missing.push((engine.name.clone(), why));
            }
        }
    }
    Ok(found)
}

/// `cargo xtask engines [--env]`.
///
/// # Errors
/// As [`prepare`].
pub fn command(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    let found = prepare(repo, Fetch::Missing)?;
    if args.iter().any(|arg| arg == "--env") {
        for (name, path) in &found.variables {
            println!("export {name}={}", path.display());
        }
    }
    println!("{} variables set, {} engines skipped", found.variables.len(), found.missing.len());
    Ok(())
}

struct Shop {
    root: PathBuf,
    fetch: Fetch,
    apt_updated: std::cell::Cell<bool>,
}

impl Shop {
    fn get(&self, engine: &Engine) -> anyhow::Result<Vec<(String, PathBuf)>> {
        if engine.kind == Kind::Apt {
            return self.apt(engine);
        }
        let folder = self.root.join(&engine.folder);
        if !self.present(engine, &folder) {
            if self.fetch == Fetch::No {
                return on_path(engine).context("not fetched yet (cargo xtask engines)");
            }
            for need in &engine.needs {
                which(need).with_context(|| format!("needs {need}"))?;
            }
            println!("engine {}: fetching {}", engine.name, wanted(engine, " "));
            match engine.kind {
                Kind::Npm => self.npm(engine, &folder)?,
                Kind::Pip => self.pip(engine, &folder)?,
                Kind::Deb => {
                    if let Err(why) = self.deb(engine, &folder) {
                        return on_path(engine).ok_or(why);
                    }
                }
                Kind::Apt => {}
            }
            if !self.present(engine, &folder) {
                bail!("installed, but not in the version asked for");
            }
        }
        Ok(engine.variables.iter().map(|(name, path)| (name.clone(), folder.join(path))).collect())
    }

    /// All packages are there in the pinned version, and the files the variables name exist.
    fn present(&self, engine: &Engine, folder: &Path) -> bool {
        engine.variables.values().all(|path| folder.join(path).exists())
            && (engine.kind != Kind::Deb || debian::present(folder, &engine.suite, &engine.packages))
            && engine.packages.iter().all(|(package, version)| match engine.kind {
                Kind::Npm => npm_version(folder, package).as_deref() == Some(version),
                Kind::Pip => pip_has(folder, package, version),
                Kind::Apt | Kind::Deb => true,
            })
    }

    fn npm(&self, engine: &Engine, folder: &Path) -> anyhow::Result<()> {
        let npm = which("npm").or_else(|| self.install("npm").ok().and_then(|()| which("npm"))).context("needs npm")?;
        fs::create_dir_all(folder)?;
        let manifest = folder.join("package.json");
        if !manifest.exists() {
            fs::write(&manifest, "{\"name\": \"engine\", \"private\": true}\n")?;
        }
        let mut command = Command::new(npm);
        command.args(["install", "--no-audit", "--no-fund", "--save-exact", "--prefix"]).arg(folder);
        command.args(engine.packages.iter().map(|(package, version)| format!("{package}@{version}"))).current_dir(folder);
        self.run(&engine.name, &mut command)
    }

    fn pip(&self, engine: &Engine, folder: &Path) -> anyhow::Result<()> {
        if !folder.join("bin/pip").exists() {
            let python = which("python3").or_else(|| self.install("python3").ok().and_then(|()| which("python3"))).context("needs python3")?;
            let make = |log: &str| self.run(log, Command::new(&python).args(["-m", "venv"]).arg(folder));
            if make("venv").is_err() {
                self.install("python3-venv")?;
                make("venv")?;
            }
        }
        let mut command = Command::new(folder.join("bin/pip"));
        command.args(["install", "--disable-pip-version-check", "--no-input"]);
        command.args(engine.packages.iter().map(|(package, version)| format!("{package}=={version}")));
        // A portable build is quicker, and no test measures this server.
        command.env("CMAKE_ARGS", "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF");
        self.run(&engine.name, &mut command)
    }

    fn deb(&self, engine: &Engine, folder: &Path) -> anyhow::Result<()> {
        let run = |command: &mut Command| self.run(&engine.name, command);
        debian::unpack(folder, &self.root.join("apt"), &engine.suite, &engine.packages, &engine.programs, &run)
    }

    fn apt(&self, engine: &Engine) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let find = || engine.programs.iter().find_map(|program| which(program));
        let path = match find() {
            Some(path) => path,
            None if self.fetch == Fetch::No => bail!("not installed"),
            None => {
                for package in engine.packages.keys() {
                    println!("engine {}: installing the Debian package {package}", engine.name);
                    self.install(package)?;
                }
                find().context("installed, but its program was not found")?
            }
        };
        // A link on the path hides the folder the programs that belong to it are in.
        let path = path.canonicalize().unwrap_or(path);
        Ok(engine.variables.keys().map(|name| (name.clone(), path.clone())).collect())
    }

    /// Installs a Debian package.
    fn install(&self, package: &str) -> anyhow::Result<()> {
        if self.fetch == Fetch::No || !is_root() || which("apt-get").is_none() {
            bail!("needs the Debian package {package}, and this user cannot install packages");
        }
        let apt = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
            self.run(&format!("apt-{package}"), &mut command)
        };
        if !self.apt_updated.replace(true) {
            apt(&["update", "-qq"])?;
        }
        apt(&["install", "-y", "-qq", "--no-install-recommends", package])
    }

    fn run(&self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        let log = self.root.join("logs").join(format!("{name}.log"));
        match logged(command, &log, FETCH_LIMIT)? {
            End::Good => Ok(()),
            End::Bad => bail!("{}", tail(&fs::read_to_string(&log).unwrap_or_default(), 2)),
            End::TooLong => bail!("took longer than {} minutes", FETCH_LIMIT.as_secs() / 60),
        }
    }
}

/// A program of an unpacked package that somebody installed: taken where ours cannot be had, in whatever version.
fn on_path(engine: &Engine) -> Option<Vec<(String, PathBuf)>> {
    if engine.kind != Kind::Deb {
        return None;
    }
    let find = |path: &str| which(Path::new(path).file_name()?.to_str()?);
    engine.variables.iter().map(|(name, path)| Some((name.clone(), find(path)?))).collect()
}

fn wanted(engine: &Engine, between: &str) -> String {
    engine.packages.iter().map(|(package, version)| format!("{package} {version}")).collect::<Vec<_>>().join(between)
}

fn npm_version(folder: &Path, package: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let text = fs::read_to_string(folder.join("node_modules").join(package).join("package.json")).ok()?;
    serde_json::from_str::<Package>(&text).ok().map(|package| package.version)
}

/// True when the environment has the package in that version: pip leaves a folder of that name.
fn pip_has(folder: &Path, package: &str, version: &str) -> bool {
    let name = package.split('[').next().unwrap_or(package).replace('-', "_");
    let pythons = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
    pythons.into_iter().any(|python| python.path().join("site-packages").join(format!("{name}-{version}.dist-info")).exists())
}
