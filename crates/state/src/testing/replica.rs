//! Standby servers, promotion, and death without warning.

use std::{
    fs,
    io::{self, Read},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Postgres, START_LIMIT, succeeded};

impl Postgres {
    /// A streaming standby of this server that every commit waits for (`synchronous_standby_names`): what was
    /// confirmed is on both. Waits until it is connected.
    ///
    /// # Errors
    /// When it cannot be made or does not connect.
    pub fn synchronous_standby(&self) -> io::Result<Self> {
        let standby = self.standby()?;
        self.sql("ALTER SYSTEM SET synchronous_standby_names='*'")?;
        self.sql("SELECT pg_reload_conf()")?;
        self.sql_until("SELECT count(*) FROM pg_stat_replication WHERE sync_state='sync'", "1")?;
        Ok(standby)
    }

    /// A streaming standby of this server that no commit waits for.
    ///
    /// # Errors
    /// As [`Self::synchronous_standby`].
    pub fn standby(&self) -> io::Result<Self> {
        let mut standby = Self::in_a_folder(self.binaries.clone())?;
        let from = format!("host=127.0.0.1 port={} user=postgres", self.port);
        let copied =
            standby.command("pg_basebackup").args(["--no-sync", "-c", "fast", "-X", "stream", "-R", "-d", &from, "-D"]).arg(standby.data()).output()?;
        succeeded("pg_basebackup", copied.status, &copied.stderr)?;
        standby.run()?;
        self.sql_until("SELECT count(*) > 0 FROM pg_stat_replication WHERE state='streaming'", "t")?;
        Ok(standby)
    }

    /// Makes a standby the primary, with no standby of its own; answers when it takes writes.
    ///
    /// # Errors
    /// When it does not.
    pub fn promote(&self) -> io::Result<()> {
        // The setting was copied with the files.
        self.sql("ALTER SYSTEM RESET synchronous_standby_names")?;
        let done = self.command("pg_ctl").args(["promote", "-w", "-s", "-D"]).arg(self.data()).output()?;
        succeeded("pg_ctl promote", done.status, &done.stderr)?;
        self.sql("SELECT pg_reload_conf()").map(drop)
    }

    /// Ends all its processes with SIGKILL at once: the death of its machine.
    ///
    /// # Errors
    /// When they cannot be signalled.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let killed = kill_tree(server.id());
        server.wait()?;
        killed
    }

    /// A setting for the next start, `name=value`.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Runs one statement; the first value it answers.
    ///
    /// # Errors
    /// What the server says.
    pub fn sql(&self, statement: &str) -> io::Result<String> {
        let port = self.port.to_string();
        let done = self
            .command("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-c", statement])
            .output()?;
        succeeded("psql", done.status, &done.stderr)?;
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Asks until the answer is `wanted`; there is nothing to wait on.
    fn sql_until(&self, statement: &str, wanted: &str) -> io::Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let said = self.sql(statement)?;
            if said == wanted {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{statement} answers {said} instead of {wanted}: {}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ends a process and its children with SIGKILL, and waits until they are gone. The process itself must be there.
///
/// # Errors
/// When they cannot be signalled, or stay.
pub fn kill_tree(pid: u32) -> io::Result<()> {
    let mut all = vec![pid.to_string()];
    let mut children = String::new();
    fs::File::open(format!("/proc/{pid}/task/{pid}/children"))?.read_to_string(&mut children)?;
    all.extend(children.split_whitespace().map(str::to_owned));
    let killed = Command::new("kill").arg("-9").args(&all).stdin(Stdio::null()).output()?;
    // A child may have ended by itself meanwhile; the process itself was there.
    if !killed.status.success() && all.len() == 1 {
        succeeded("kill", killed.status, &killed.stderr)?;
    }
    // A server that starts while one of them is still there would find its memory in use.
    let alive = |pid: &String| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let end = Instant::now() + START_LIMIT;
    while all.iter().any(alive) {
        if Instant::now() > end {
            return Err(io::Error::other("a killed process does not end"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
