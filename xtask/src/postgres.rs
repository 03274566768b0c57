//! A PostgreSQL server of its own for a test run.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::run::{End, is_root, logged, tail};

/// A running server; dropping it stops it and deletes its data.
pub struct Postgres {
    folder: PathBuf,
    bin: PathBuf,
    /// A URL for `CLAWSTEAD_POSTGRES_URL`.
    pub url: String,
}

impl Postgres {
    /// Makes a cluster below `target` and starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When one of the server's programs fails.
    pub fn start(program: &Path, target: &Path) -> anyhow::Result<Self> {
        let bin = program.parent().context("the server has no folder")?.to_owned();
        let folder = std::env::temp_dir().join(format!("clawstead-postgres-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let server = Self { url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), folder, bin };
        if is_root() {
            // The server refuses to run as root.
            let done = Command::new("chown").args(["-R", "postgres"]).arg(&server.folder).status()?;
            if !done.success() {
                bail!("no user postgres to run the server as");
            }
        }
        let data = server.folder.join("data");
        let log = target.join("postgres.log");
        let text = |path: &Path| path.as_os_str().to_owned();
        server.run("initdb", &["-A".into(), "trust".into(), "-U".into(), "postgres".into(), "-D".into(), text(&data)], &log)?;
        let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c max_connections=200", server.folder.display());
        server.run(
            "pg_ctl",
            &["-D".into(), text(&data), "-l".into(), text(&server.folder.join("server.log")), "-w".into(), "-o".into(), options.into(), "start".into()],
            &log,
        )?;
        Ok(server)
    }

    fn run(&self, program: &str, args: &[OsString], log: &Path) -> anyhow::Result<()> {
        let path = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.args(args).current_dir(&self.folder);
        match logged(&mut command, log, Duration::from_secs(90))? {
            End::Good => Ok(()),
            _ => bail!("{program}: {}", tail(&fs::read_to_string(log).unwrap_or_default(), 2)),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let log = self.folder.with_extension("stop.log");
        let _ = self.run("pg_ctl", &["-D".into(), self.folder.join("data").into(), "-m".into(), "immediate".into(), "stop".into()], &log);
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(log);
    }
}
