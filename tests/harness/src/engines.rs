//! The foreign programs the suites need, and what happens when one is missing.
//!
//! `cargo xtask test` fetches them and names each in an environment variable. A suite whose engine is missing says so
//! loudly, is counted as skipped in the table at the end of the run, and never passes in silence.

use std::{io::Write as _, path::PathBuf};

/// A foreign program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The original's program (`openclaw.mjs`), gateway and command line.
    OpenClaw,
    /// Node.js, which runs it.
    Node,
    /// The original's published client library: its package folder.
    GatewayClient,
    /// The LiteLLM proxy: its executable.
    LiteLlm,
    /// A Python with llama.cpp's server in it.
    LlamaServer,
}

impl Engine {
    /// The variable that says where it is.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::OpenClaw => "CLAWSTEAD_OPENCLAW_CLI",
            Self::Node => "CLAWSTEAD_NODE",
            Self::GatewayClient => "CLAWSTEAD_GATEWAY_CLIENT",
            Self::LiteLlm => "CLAWSTEAD_LITELLM",
            Self::LlamaServer => "CLAWSTEAD_LLAMA_PYTHON",
        }
    }

    /// Its name in the table of skipped engines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenClaw => "openclaw",
            Self::Node => "node",
            Self::GatewayClient => "gateway-client",
            Self::LiteLlm => "litellm",
            Self::LlamaServer => "llama-server",
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// A sentence that says why it cannot be used.
    pub fn find(self) -> Result<PathBuf, String> {
        let variable = self.variable();
        let path = std::env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("{variable} is not set (cargo xtask test sets it)"))?;
        if path.exists() { Ok(path) } else { Err(format!("{variable} names a file that does not exist")) }
    }

    /// Finds it, or reports the suite as skipped and answers `None`.
    #[must_use]
    pub fn or_skip(self, suite: &str) -> Option<PathBuf> {
        match self.find() {
            Ok(path) => Some(path),
            Err(why) => {
                skipped(suite, self.name(), &why);
                None
            }
        }
    }
}

/// Says that a suite did not run. `cargo xtask test` gives a file in `CLAWSTEAD_SKIPS` and counts the lines.
pub fn skipped(suite: &str, engine: &str, why: &str) {
    eprintln!("SKIPPED: {suite}: {engine}: {why}");
    let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") else { return };
    if let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path) {
        let _ = writeln!(file, "{suite}\t{engine}\t{why}");
    }
}

/// Our binary: `CLAWSTEAD_BIN`, else `openclaw` beside the running test or benchmark.
///
/// # Errors
/// When it has not been built.
pub fn our_binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("CLAWSTEAD_BIN").map(PathBuf::from) {
        return if path.exists() { Ok(path) } else { Err("CLAWSTEAD_BIN names a file that does not exist".into()) };
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join("openclaw")).find(|path| path.exists());
    found.ok_or_else(|| "build it first: cargo build -p clawstead-cli".into())
}
