//! Which recordings are played, in which order, and why some are not.

use serde_json::Value;

use crate::{
    common::{self, Line},
    house::House,
    model::Gate,
    play,
};

/// Recordings that share a gateway.
pub struct Scene {
    /// `gateway.auth.mode`.
    pub mode: &'static str,
    /// What happened before the recordings began; not compared.
    pub before: Vec<&'static str>,
    /// In the order they are played.
    pub recordings: Vec<String>,
}

const DOORS: &str = "needs clocks, addresses or limits of its own: played in doors_golden";
const TWO: &str = "one side of two sockets that act at the same time; the other side is not in the file";

/// Recordings that are not played here, and why.
pub const ELSEWHERE: [(&str, &str); 31] = [
    ("binary-frame", "the frame's content was not kept"),
    ("connect-device-v3-again", DOORS),
    ("connect-during-startup-0", DOORS),
    ("connect-during-startup-1", DOORS),
    ("device-pair-approve-1-rejected", DOORS),
    ("device-pair-approve-2-accepted", DOORS),
    ("device-pair-approve-admin-side", TWO),
    ("device-token-reconnect", DOORS),
    ("err-controlui-bad-origin", DOORS),
    ("err-controlui-build-mismatch", DOORS),
    ("err-controlui-no-device-goodorigin", DOORS),
    ("err-forwarded-header-untrusted", DOORS),
    ("err-preauth-oversize", DOORS),
    ("err-rate-limited-browser-origin", DOORS),
    ("err-wrong-token-cli-device", DOORS),
    ("http-surface", "HTTP requests, played in doors_http"),
    ("mode-none-controlui", DOORS),
    ("mode-trusted-proxy-cli-device", DOORS),
    ("mode-trusted-proxy-controlui-nodevice", DOORS),
    ("mode-trusted-proxy-missing-user", DOORS),
    ("mode-trusted-proxy-no-proxy-headers", DOORS),
    ("ok-5mb-frame", DOORS),
    ("ok-controlui-dev-build", DOORS),
    ("oversize-after-auth", DOORS),
    ("pairing-admin-side", TWO),
    ("pairing-foreign-host-1-silent-approval", DOORS),
    ("pairing-foreign-host-2-known-device", DOORS),
    ("pairing-foreign-host-3-scope-upgrade-silent", DOORS),
    ("pairing-foreign-host-4-metadata-change-rejected", DOORS),
    ("ui-http-requests", "HTTP requests, played in doors_http"),
    ("unauth-timeout", DOORS),
];

const CRON: [&str; 6] = ["cli-cron-add-conn1", "cli-cron-add-conn2", "cli-cron-list", "cli-cron-run", "cli-cron-runs", "cli-cron-rm"];

/// All scenes.
pub fn scenes() -> Vec<Scene> {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut scenes = vec![
        Scene { mode: "token", before: vec![], recordings: own(&CRON) },
        // The Control UI was opened on a gateway with sessions.
        Scene { mode: "token", before: vec!["chat-send-nocaps"], recordings: own(&["ui-boot", "ui-chat-send"]) },
    ];
    let mut pages = Vec::new();
    let mut quick: Vec<(&'static str, Vec<String>)> = vec![("token", vec![]), ("password", vec![]), ("none", vec![])];
    for name in common::names() {
        let taken = ELSEWHERE.iter().any(|(other, _)| *other == name) || scenes.iter().any(|scene: &Scene| scene.recordings.contains(&name));
        if taken {
            continue;
        }
        let alone = |before| Scene { mode: "token", before, recordings: vec![name.clone()] };
        match name.as_str() {
            page if page.starts_with("ui-page-") => pages.push(name),
            mode if mode.starts_with("mode-none") => quick[2].1.push(name),
            mode if mode.starts_with("mode-password") => quick[1].1.push(name),
            door if ["err-", "connect-", "ok-"].iter().any(|head| door.starts_with(head)) => quick[0].1.push(name),
            "rpc-read-basics" | "chat-inject" | "sessions-lifecycle" | "chat-send-stream" | "chat-send-tool" => scenes.push(alone(vec!["chat-send-nocaps"])),
            "cli-message-send" | "logs-tail" | "cli-logs" => scenes.push(alone(vec![])),
            cli if cli.starts_with("cli-agent") => scenes.push(alone(vec![])),
            cli if cli.starts_with("cli") => quick[0].1.push(name),
            _ => scenes.push(alone(vec![])),
        }
    }
    scenes.push(Scene { mode: "token", before: vec!["ui-boot"], recordings: pages });
    scenes.extend(quick.into_iter().map(|(mode, recordings)| Scene { mode, before: vec![], recordings }));
    scenes
}

/// Pages were recorded without what every page load begins with.
fn with_connect(lines: Vec<Line>) -> Vec<Line> {
    let boot = common::sockets("ui-boot").remove(0);
    let end = boot.iter().position(|line| line.frame["type"] == "res").unwrap_or_default();
    boot.into_iter().take(end + 1).chain(lines).collect()
}

/// The recorder left out 29 equal requests between the first and the last.
fn with_repeats(lines: Vec<Line>) -> Vec<Line> {
    let mut all = Vec::new();
    for line in lines {
        let patch = line.sent() && line.frame["method"] == "config.patch";
        all.push(line.clone());
        if patch && line.frame["id"] == "0002" {
            for number in 3..32 {
                let mut again = line.clone();
                again.frame["id"] = Value::from(format!("{number:04}"));
                all.push(again);
            }
        }
    }
    all
}

fn headers(lines: &[Line], house: &House) -> Vec<(&'static str, String)> {
    let browser = lines.iter().any(|line| line.frame["headers"]["origin"].is_string());
    let ui = lines.iter().any(|line| line.frame["params"]["client"]["id"] == "openclaw-control-ui" && line.frame["params"].get("device").is_some());
    if browser || ui { vec![("origin", format!("http://127.0.0.1:{}", house.port))] } else { vec![] }
}

/// Plays a recording; the answer lists what differs.
pub async fn play(house: &mut House, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for lines in common::sockets(name) {
        let lines = match name {
            "control-plane-rate-limit" => with_repeats(lines),
            page if page.starts_with("ui-page-") => with_connect(lines),
            _ => lines,
        };
        let slow = lines.iter().any(|line| line.sent() && line.frame["params"]["message"].as_str().is_some_and(|text| text.contains("SLOW")));
        let aborted = name == "cli-agent-interrupted-sends-chat-abort" || slow;
        let meanwhile = matches!(name, "idempotency-agent-conflict" | "agent-wait-during-run" | "ui-chat-send");
        house.model.set(if aborted {
            Gate::After(4)
        } else if meanwhile {
            Gate::After(0)
        } else {
            Gate::Open
        });
        found.extend(play::play(house, name, &lines, &headers(&lines, house)).await);
    }
    found
}
