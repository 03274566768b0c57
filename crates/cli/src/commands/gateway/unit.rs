//! The systemd user unit of a gateway: its text, its state, and the program that manages it.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{cx::Cx, fail::Fail};

/// The unit of this profile.
pub struct Unit {
    /// `openclaw-gateway.service` or `openclaw-gateway-<profile>.service`.
    pub name: String,
    /// Where its file is.
    pub path: PathBuf,
}

/// What `systemctl --user` said.
pub struct Answer {
    /// True for exit code 0.
    pub ok: bool,
    /// Standard output, trimmed.
    pub text: String,
    /// Standard error, trimmed.
    pub error: String,
}

impl Unit {
    /// The unit of the context's profile.
    #[must_use]
    pub fn of(cx: &Cx) -> Self {
        let name = cx.paths.service_name();
        let config_home = cx.env.trimmed("XDG_CONFIG_HOME").map_or_else(|| cx.paths.home.join(".config"), PathBuf::from);
        Self { path: config_home.join("systemd/user").join(&name), name }
    }

    /// The text of the unit file.
    ///
    /// # Errors
    /// When this program does not know where it lies.
    pub fn text(cx: &Cx, port: Option<u16>, wrapper: Option<&str>, allow_unconfigured: bool) -> Result<String, Fail> {
        let program = match wrapper {
            Some(wrapper) => wrapper.to_owned(),
            None => std::env::current_exe()?.display().to_string(),
        };
        let mut start = quote(&program);
        if let Some(profile) = cx.paths.profile.name() {
            start.push_str(&if profile == "dev" { " --dev".to_owned() } else { format!(" --profile {profile}") });
        }
        start.push_str(" gateway run");
        if let Some(port) = port {
            start.push_str(&format!(" --port {port}"));
        }
        if allow_unconfigured {
            start.push_str(" --allow-unconfigured");
        }
        let profile = cx.paths.profile.name().map(|name| format!(" (profile {name})")).unwrap_or_default();
        let mut environment =
            vec![format!("HOME={}", cx.paths.home.display()), "OPENCLAW_SERVICE_MARKER=openclaw".into(), "OPENCLAW_SERVICE_KIND=gateway".into()];
        if let Some(path) = cx.env.get("PATH") {
            environment.push(format!("PATH={path}"));
        }
        let lines: String = environment.iter().map(|pair| format!("Environment={}\n", quote(pair))).collect();
        Ok(format!(
            "[Unit]\nDescription=OpenClaw Gateway{profile}\nAfter=network-online.target\nWants=network-online.target\nStartLimitIntervalSec=60\nStartLimitBurst=5\n\n\
             [Service]\nType=notify\nNotifyAccess=main\nExecStart={start}\nExecReload=/bin/kill -USR2 $MAINPID\nRestart=always\nRestartSec=5\nRestartPreventExitStatus=78\n\
             SuccessExitStatus=0 143\nTimeoutStartSec=30\nTimeoutStopSec=330\nKillMode=mixed\nEnvironmentFile=-{}\n{lines}\n\
             [Install]\nWantedBy=default.target\n",
            cx.paths.env_file.display()
        ))
    }

    /// True when its file is there.
    #[must_use]
    pub fn installed(&self) -> bool {
        self.path.is_file()
    }

    /// Calls `systemctl --user`.
    ///
    /// # Errors
    /// With the next step, when there is no systemctl or no user session to talk to.
    pub fn systemctl(args: &[&str]) -> Result<Answer, Fail> {
        let hint = "run the gateway in the foreground: openclaw gateway";
        let output = Command::new("systemctl").arg("--user").args(args).stdin(Stdio::null()).output().map_err(|err| {
            let why = if err.kind() == std::io::ErrorKind::NotFound { "systemctl is not installed".to_owned() } else { err.to_string() };
            Fail::new(format!("There is no systemd user service manager here ({why}).")).hint(hint)
        })?;
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() && (error.contains("Failed to connect to") || error.contains("not been booted")) {
            return Err(Fail::new(format!("The systemd user session cannot be reached: {error}")).hint(format!("loginctl enable-linger $USER, or {hint}")));
        }
        Ok(Answer { ok: output.status.success(), text: String::from_utf8_lossy(&output.stdout).trim().to_owned(), error })
    }

    /// `running` or `stopped` with the unit's process, when a service manager knows it.
    #[must_use]
    pub fn runtime(&self) -> Option<Value> {
        if !self.installed() {
            return None;
        }
        let answer = Self::systemctl(&["show", &self.name, "--property=ActiveState,SubState,MainPID"]).ok().filter(|a| a.ok)?;
        let field = |name: &str| answer.text.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).unwrap_or_default().to_owned();
        let active = field("ActiveState");
        (active == "active" || active == "activating")
            .then(|| json!({"status": "running", "detail": format!("pid {}, state {active}", field("MainPID")), "pid": field("MainPID").parse::<u32>().ok()}))
    }

    /// The `service` block of reports.
    #[must_use]
    pub fn about(&self) -> Value {
        let installed = self.installed();
        let manager = Self::systemctl(&["is-enabled", &self.name]);
        let enabled = manager.as_ref().is_ok_and(|a| a.ok);
        let state = match (&manager, installed, enabled) {
            (Err(_), true, _) => "installed, no service manager",
            (Err(_), false, _) => "no service manager",
            (Ok(_), true, true) => "enabled",
            (Ok(_), true, false) => "disabled",
            (Ok(_), false, _) => "not installed",
        };
        let mut about = json!({
            "label": "systemd",
            "loaded": enabled,
            "loadedText": state,
            "notLoadedText": state,
            "loadState": {"status": if enabled { "loaded" } else if manager.is_err() { "unknown" } else { "not-loaded" }},
            "targetRole": "gateway",
            "command": null,
            "configAudit": {"ok": true, "issues": []},
            "systemdInstallation": {"kind": if installed { "user" } else { "none" }},
        });
        if installed {
            about["command"] = json!({"sourcePath": self.path, "programArguments": self.program()});
        }
        about
    }

    fn program(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines()
            .find_map(|l| l.strip_prefix("ExecStart="))
            .map(|l| l.split_whitespace().map(|w| w.trim_matches('"').to_owned()).collect())
            .unwrap_or_default()
    }
}

/// Units of other profiles and older names beside ours.
#[must_use]
pub fn others(cx: &Cx) -> Value {
    let own = Unit::of(cx);
    let names = own.path.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut found: Vec<String> =
        names.filter(|n| n.ends_with(".service") && ["openclaw", "clawdbot", "moltbot"].iter().any(|p| n.starts_with(p)) && *n != own.name).collect();
    found.sort();
    json!(found)
}

fn quote(text: &str) -> String {
    if text.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '\\' | '%' | '$')) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_of_a_unit_are_quoted() {
        assert_eq!(quote("/usr/bin/openclaw"), "/usr/bin/openclaw");
        assert_eq!(quote("PATH=/a b:100%"), "\"PATH=/a b:100%%\"");
    }
}
