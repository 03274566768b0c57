//! What commands read on this machine without a gateway.

use std::path::PathBuf;

use clawstead_config::{AuthMode, Config, Env, Secret};
use clawstead_state::StateDirLock;

use crate::{cx::Cx, device, fail::Fail};

/// The file of a token that was made because the config names none.
#[must_use]
pub fn token_file(cx: &Cx) -> PathBuf {
    cx.paths.state_dir.join("gateway-token")
}

/// The shared token of the local gateway: config, environment, or the generated one.
#[must_use]
pub fn gateway_token(cx: &Cx, config: &Config) -> Option<Secret> {
    config.gateway.auth.token.clone().or_else(|| {
        let text = std::fs::read_to_string(token_file(cx)).ok()?;
        let token = text.trim();
        (!token.is_empty()).then(|| Secret::new(token))
    })
}

/// As [`gateway_token`], making one when there is none and the gateway asks for one.
///
/// # Errors
/// When it cannot be stored.
pub fn gateway_token_or_new(cx: &Cx, config: &Config) -> Result<Option<Secret>, Fail> {
    if config.gateway.auth.mode != AuthMode::Token {
        return Ok(None);
    }
    if let Some(token) = gateway_token(cx, config) {
        return Ok(Some(token));
    }
    let made = device::new_token();
    let path = token_file(cx);
    device::write_private(&path, &format!("{made}\n")).map_err(|err| Fail::new(format!("The gateway token cannot be stored in {}: {err}", path.display())))?;
    Ok(Some(Secret::new(made)))
}

/// The process that holds our state folder, when it lives.
#[must_use]
pub fn running(cx: &Cx) -> Option<clawstead_state::Holder> {
    let holder = StateDirLock::holder(&cx.paths.state_dir)?;
    alive(holder.pid).then_some(holder)
}

/// True when a process with this id exists.
#[must_use]
pub fn alive(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).is_some_and(|pid| match rustix::process::test_kill_process(pid) {
        Ok(()) => true,
        Err(err) => err == rustix::io::Errno::PERM,
    })
}

/// Where the port comes from, in the words of `gateway status`.
#[must_use]
pub fn port_source(env: &Env) -> &'static str {
    if env.trimmed("OPENCLAW_GATEWAY_PORT").is_some() { "env" } else { "env/config" }
}

/// Whether something listens on a port of this machine.
#[must_use]
pub fn port_busy(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_err_and(|err| err.kind() == std::io::ErrorKind::AddrInUse)
}

/// The process that listens on a port, from the kernel's tables (Linux only): pid and command line.
#[must_use]
pub fn listener(port: u16) -> Option<(u32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let here = fields.get(1)?.rsplit(':').next()?;
            let listening = *fields.get(3)? == "0A";
            (listening && u16::from_str_radix(here, 16).ok()? == port).then(|| (*fields.get(9).unwrap_or(&"")).to_owned())
        })
    })?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        if files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.to_str() == Some(wanted.as_str()))) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            return Some((pid, line.trim().to_owned()));
        }
    }
    None
}
