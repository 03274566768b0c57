//! `openclaw backup`: archives of state and config.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Subcommand;
use clawstead_state::{SqliteStore, Store as _, sqlite};
use serde_json::{Value, json};

use super::Outcome;
use crate::{cx::Cx, fail::Fail, local, print};

/// Archives of state and config (tar.gz).
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw backup create --output ~/backups --verify\n  openclaw backup restore claw.tar.gz --target /tmp/restored"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make an archive
    Create {
        /// File or folder
        #[arg(long, value_name = "PATH")]
        output: Option<PathBuf>,
        /// Read it back
        #[arg(long)]
        verify: bool,
        /// Only the config file
        #[arg(long)]
        only_config: bool,
        /// Without workspaces
        #[arg(long)]
        no_include_workspace: bool,
        /// Say what would be in it
        #[arg(long)]
        dry_run: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Read an archive
    Verify {
        /// Archive
        archive: PathBuf,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Unpack an archive into an empty folder
    Restore {
        /// Archive
        archive: PathBuf,
        /// Folder; must be empty or new
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

fn tar(args: &[&str]) -> Result<String, Fail> {
    let output =
        Command::new("tar").args(args).stdin(Stdio::null()).output().map_err(|err| Fail::new(format!("tar cannot be started: {err}")).hint("install tar"))?;
    // 1 means that a file changed while it was read, which a copy of the database makes harmless.
    if matches!(output.status.code(), Some(0 | 1)) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Fail::new(format!("tar: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Create { output, verify, only_config, no_include_workspace, dry_run, json } => {
            create(cx, output, verify, only_config, no_include_workspace, dry_run, json)
        }
        Verb::Verify { archive, json } => {
            let count = tar(&["-tzf", &archive.display().to_string()])?.lines().count();
            if json {
                print::json(&json!({"ok": true, "archivePath": archive, "entryCount": count}));
            } else {
                print::line(&format!("{} is readable: {count} entries.", archive.display()));
            }
            Ok(0)
        }
        Verb::Restore { archive, target, json } => {
            if target.exists() && std::fs::read_dir(&target)?.next().is_some() {
                return Err(Fail::new(format!("{} is not empty.", target.display())).hint("choose a new folder"));
            }
            std::fs::create_dir_all(&target)?;
            tar(&["-xzf", &archive.display().to_string(), "-C", &target.display().to_string()])?;
            if json {
                print::json(&json!({"ok": true, "archivePath": archive, "target": target}));
            } else {
                print::line(&format!("Unpacked into {}. Try it: OPENCLAW_STATE_DIR={}/state openclaw status", target.display(), target.display()));
            }
            Ok(0)
        }
    }
}

#[allow(clippy::fn_params_excessive_bools, reason = "the flags of one command")]
fn create(cx: &Cx, output: Option<PathBuf>, verify: bool, only_config: bool, no_workspace: bool, dry: bool, json_wanted: bool) -> Outcome {
    let stamp = jiff::Zoned::now().strftime("%Y-%m-%dT%H-%M-%S").to_string();
    let name = format!("{stamp}-openclaw-backup.tar.gz");
    let archive = match output {
        Some(path) if path.is_dir() => path.join(&name),
        Some(path) => path,
        None => std::env::current_dir()?.join(&name),
    };
    if archive.exists() {
        return Err(Fail::new(format!("{} exists already.", archive.display())));
    }
    let (_, config) = cx.config_or_defaults();
    let mut assets: Vec<Value> = Vec::new();
    let mut skipped: Vec<Value> = Vec::new();
    let mut sources: Vec<(&str, PathBuf, String)> = Vec::new();
    let mut add = |kind: &'static str, path: &Path, inside: &str| {
        if path.exists() {
            assets.push(json!({"kind": kind, "sourcePath": path, "displayPath": cx.paths.display(path), "archivePath": inside}));
            sources.push((kind, path.to_path_buf(), inside.to_owned()));
        } else {
            skipped.push(json!({"kind": kind, "sourcePath": path, "displayPath": cx.paths.display(path), "reason": "missing", "coveredBy": null}));
        }
    };
    if only_config {
        add("config", &cx.paths.config_path, "config/openclaw.json");
    } else {
        add("state", &cx.paths.state_dir, "state");
        if !cx.paths.config_path.starts_with(&cx.paths.state_dir) {
            add("config", &cx.paths.config_path, "config/openclaw.json");
        }
        if !no_workspace {
            for agent in config.agents.list.iter().filter(|a| !a.workspace.starts_with(&cx.paths.state_dir)) {
                add("workspace", &agent.workspace, &format!("workspaces/{}", agent.id));
            }
        }
    }
    let mut verified = false;
    if !dry {
        pack(cx, &archive, &sources, &config, no_workspace)?;
        if verify {
            tar(&["-tzf", &archive.display().to_string()])?;
            verified = true;
        }
    }
    let roots: Vec<Value> = config.agents.list.iter().map(|a| json!({"agentId": a.id, "sourcePath": a.agent_dir})).collect();
    if json_wanted {
        print::json(&json!({
            "createdAt": format!("{:.3}", jiff::Timestamp::now()), "archiveRoot": name.trim_end_matches(".tar.gz"), "archivePath": archive, "dryRun": dry,
            "includeWorkspace": !no_workspace, "onlyConfig": only_config, "verified": verified, "assets": assets, "agentRoots": roots, "skipped": skipped, "skippedVolatileCount": 0,
        }));
    } else {
        print::line(&format!("{} {}", if dry { "Would write" } else { "Wrote" }, archive.display()));
        for asset in &assets {
            print::line(&format!("  {}", crate::format::text(asset, "displayPath")));
        }
    }
    Ok(0)
}

/// Packs through a staging folder of links, with a consistent copy of the database instead of the living file.
fn pack(cx: &Cx, archive: &Path, sources: &[(&str, PathBuf, String)], config: &clawstead_config::Config, no_workspace: bool) -> Result<(), Fail> {
    let stage = std::env::temp_dir().join(format!("openclaw-backup-{}-{}", std::process::id(), crate::format::now_ms()));
    let work = || -> Result<(), Fail> {
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).recursive(true).create(&stage)?;
        let database = cx.paths.state_dir.join(clawstead_gateway::run::DATABASE);
        let whole_state = sources.iter().any(|(kind, ..)| *kind == "state");
        let copied = whole_state && database.is_file();
        if copied {
            let copy = stage.join(clawstead_gateway::run::DATABASE);
            cx.block_on(async {
                let store = SqliteStore::open(&database, sqlite::Options::default())?;
                let done = store.backup_to(&copy).await;
                store.close().await;
                done.map_err(Fail::from)
            })?;
        }
        let mut args: Vec<String> = vec!["-czf".into(), archive.display().to_string()];
        let base = clawstead_gateway::run::DATABASE;
        for (kind, path, inside) in sources {
            let (dir, file) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            if *kind == "state" {
                for tail in ["", "-wal", "-shm"] {
                    args.push(format!("--exclude={file}/{base}{tail}"));
                }
                args.push(format!("--exclude={file}/gateway.lock*"));
                if no_workspace {
                    for agent in &config.agents.list {
                        if let Ok(rest) = agent.workspace.strip_prefix(&cx.paths.state_dir) {
                            args.push(format!("--exclude={file}/{}", rest.display()));
                        }
                    }
                }
            }
            args.push(format!("--transform=s,^{},{inside},", file.replace('.', "\\.")));
            args.push("-C".into());
            args.push(dir.display().to_string());
            args.push(file);
        }
        if copied {
            args.push(format!("--transform=s,^{},state/{base},", base.replace('.', "\\.")));
            args.push("-C".into());
            args.push(stage.display().to_string());
            args.push(base.into());
        }
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        tar(&words)?;
        Ok(std::fs::set_permissions(archive, std::os::unix::fs::PermissionsExt::from_mode(0o600))?)
    };
    let done = work();
    let _ = std::fs::remove_dir_all(&stage);
    let _ = local::running(cx);
    done
}
