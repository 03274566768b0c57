//! `openclaw completion`: completion scripts.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Cli, Outcome};
use crate::{cx::Cx, fail::Fail, print};

/// Completion scripts for your shell.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  source <(openclaw completion --shell bash)\n  openclaw completion --shell zsh > ~/.zfunc/_openclaw\n  openclaw completion --install"
)]
pub struct Args {
    /// Shell [default: from SHELL]
    #[arg(short, long, value_enum)]
    shell: Option<Shell>,
    /// Write it where the shell looks
    #[arg(short, long)]
    install: bool,
    /// Write it into the state folder
    #[arg(long)]
    write_state: bool,
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let shell = args
        .shell
        .or_else(Shell::from_env)
        .ok_or_else(|| Fail::new("Which shell? Pass --shell bash, zsh, fish or powershell.").hint("openclaw completion --shell bash"))?;
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "openclaw", &mut script);
    if args.write_state || args.install {
        let (name, line) = match shell {
            Shell::Zsh => ("openclaw.zsh", Some((".zshrc", "source"))),
            Shell::Fish => ("openclaw.fish", None),
            Shell::PowerShell => ("openclaw.ps1", None),
            _ => ("openclaw.bash", Some((".bashrc", "source"))),
        };
        let path = if args.install && shell == Shell::Fish {
            cx.paths.home.join(".config/fish/completions/openclaw.fish")
        } else {
            cx.paths.state_dir.join("completions").join(name)
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&path, script)?;
        print::line(&format!("Wrote {}", cx.paths.display(&path)));
        if let (true, Some((rc, word))) = (args.install, line) {
            let rc = cx.paths.home.join(rc);
            let wanted = format!("{word} \"{}\"", path.display());
            let text = std::fs::read_to_string(&rc).unwrap_or_default();
            if !text.contains(&wanted) {
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&rc)?;
                writeln!(file, "{}# OpenClaw completion\n{wanted}", if text.is_empty() || text.ends_with('\n') { "" } else { "\n" })?;
                print::line(&format!("Added it to {}; open a new shell.", cx.paths.display(&rc)));
            }
        }
        return Ok(0);
    }
    print::piece(&String::from_utf8_lossy(&script));
    Ok(0)
}
