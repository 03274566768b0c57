//! Engines for tests: a private PostgreSQL server in a folder of its own, gone with its handle.

mod replica;

pub use replica::kill_tree;

use std::{
    env, fs, io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Where binaries are looked for, besides the folder of the program that `CLAWSTEAD_POSTGRES` names, and `PATH`.
const PLACES: [&str; 6] = [
    "/usr/lib/postgresql/18/bin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql/bin",
];
const START_LIMIT: Duration = Duration::from_secs(30);

/// A private PostgreSQL server on 127.0.0.1, user and database `postgres`, no password. Ends when dropped.
pub struct Postgres {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    server: Option<Child>,
    /// Further settings, `name=value`.
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a server, or says `SKIPPED: postgres ...` and answers `None` when there are no binaries.
    ///
    /// # Errors
    /// When the binaries are there and do not work: that is a failure, not a reason to skip.
    pub fn start() -> io::Result<Option<Self>> {
        let Some(binaries) = find() else {
            skip("postgres", "it is not installed: no initdb beside CLAWSTEAD_POSTGRES, in /usr/lib/postgresql or in PATH");
            return Ok(None);
        };
        let mut server = Self::in_a_folder(binaries)?;
        let made = server
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(server.data())
            .output()?;
        succeeded("initdb", made.status, &made.stderr)?;
        server.run()?;
        Ok(Some(server))
    }

    fn in_a_folder(binaries: PathBuf) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("clawstead-postgres-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let server = Self { binaries, folder, port: free_port()?, server: None, settings: Vec::new() };
        server.give_away()?;
        Ok(server)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server without any order, as a power cut does (SIGQUIT: no checkpoint, all connections cut).
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn crash(&mut self) -> io::Result<()> {
        self.stop("immediate")
    }

    /// Starts it again after [`Self::crash`], with recovery, and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self) -> io::Result<()> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for setting in [
            &*format!("port={}", self.port),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=16MB",
            "max_connections=40",
            "logging_collector=off",
            "autovacuum=off",
        ] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        self.server = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let end = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            if let Some(status) = self.server.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(io::Error::other(format!("postgres ended with {status}: {}", self.log())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("postgres does not come up: {}", self.log())));
            }
            // There is nothing to wait on: a server that comes up can only be asked.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && self.command("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status().is_ok_and(|status| status.success())
    }

    fn stop(&mut self, mode: &str) -> io::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let stopped = self.command("pg_ctl").args(["stop", "-w", "-s", "-m", mode, "-D"]).arg(self.data()).output()?;
        if !stopped.status.success() {
            server.kill()?;
        }
        server.wait().map(|_| ())
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A program of the server.
    fn command(&self, program: &str) -> Command {
        server_command(&self.binaries.join(program), &self.folder)
    }

    fn give_away(&self) -> io::Result<()> {
        give_away(&self.folder)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(err) = self.stop("immediate") {
            tell(&format!("the test server could not be stopped: {err}"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port nobody listens on now.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program that works in `folder`; as user `postgres` when we are root, because the server refuses root.
#[must_use]
pub fn server_command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    #[cfg(unix)]
    if let Some((user, group)) = other_user() {
        use std::os::unix::process::CommandExt;
        command.uid(user).gid(group);
    }
    command.current_dir(folder);
    command
}

/// Gives a folder to the user that [`server_command`] works as.
///
/// # Errors
/// When that is not allowed.
pub fn give_away(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some((user, group)) = other_user() {
        std::os::unix::fs::chown(folder, Some(user), Some(group))?;
    }
    Ok(())
}

/// The folder of the server's programs, where it is installed.
#[must_use]
pub fn binaries() -> Option<PathBuf> {
    find()
}

fn find() -> Option<PathBuf> {
    let named = env::var_os("CLAWSTEAD_POSTGRES").and_then(|program| Some(PathBuf::from(program).parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    named.into_iter().chain(PLACES.map(PathBuf::from)).chain(env::split_paths(&path)).find(|folder| folder.join("initdb").is_file())
}

/// User and group `postgres`, when we are root.
#[cfg(unix)]
fn other_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self").map(|meta| meta.uid()).ok()? != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn succeeded(what: &str, status: ExitStatus, errors: &[u8]) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{what} ended with {status}: {}", String::from_utf8_lossy(errors)))) }
}

/// Says that something was not tested, on standard error and in the file that `CLAWSTEAD_SKIPS` names (`cargo xtask
/// test` counts its lines).
pub fn skip(engine: &str, why: &str) {
    use io::Write;
    tell(&format!("SKIPPED: {engine}: {why}"));
    let Some(path) = env::var_os("CLAWSTEAD_SKIPS") else { return };
    let noted = fs::File::options().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "state\t{engine}\t{why}"));
    if let Err(err) = noted {
        tell(&format!("the skip could not be noted: {err}"));
    }
}

/// Loud: a skipped test must be seen in the output of a run that passes. `println!` would be captured.
fn tell(text: &str) {
    use io::Write;
    let _ = writeln!(io::stderr(), "{text}");
}
