//! Gateways as services of Consul's catalogue, with a check that turns critical when they are silent: for DNS, routers
//! and people. Registrations belong to one agent; when another one is asked, they are made there.

use http::StatusCode;
use serde_json::json;

use super::client::{Ask, Client, in_path};
use crate::{CoordError, Member};

/// A service whose check stays critical for this long is removed by Consul: long enough to see what died.
const REMOVED_AFTER: &str = "24h";
/// How often Consul asks a gateway itself, and how long it waits for the answer.
const ASKED_EVERY: (&str, &str) = ("10s", "2s");
/// Bytes of a note that are kept: what Consul shows.
const NOTE_MAX: usize = 4096;

pub(super) async fn register(client: &Client, me: &Member) -> Result<(), CoordError> {
    let mut checks = vec![json!({
        "CheckID": check(me),
        "Name": "the gateway is alive",
        "TTL": format!("{}ms", me.check_ttl.as_millis()),
        "DeregisterCriticalServiceAfter": REMOVED_AFTER,
    })];
    if let Some(url) = &me.check_url {
        // It begins as passing: the first look comes within ten seconds, and the other check tells of life at once.
        checks.push(json!({
            "CheckID": format!("http:{}", me.id),
            "Name": "the gateway answers",
            "HTTP": url,
            "Interval": ASKED_EVERY.0,
            "Timeout": ASKED_EVERY.1,
            "Status": "passing",
            "DeregisterCriticalServiceAfter": REMOVED_AFTER,
        }));
    }
    let body = json!({
        "ID": me.id,
        "Name": me.service,
        "Address": me.address,
        "Port": me.port,
        "Tags": me.tags,
        "Meta": me.meta,
        "EnableTagOverride": false,
        "Checks": checks,
    });
    let answer = client.ask(Ask::put("/v1/agent/service/register", body.to_string())).await?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(client.odd(&format!("status {} to a registration", answer.status))) }
}

pub(super) async fn beat(client: &Client, me: &Member, note: &str) -> Result<(), CoordError> {
    let note: String = note.char_indices().take_while(|(at, c)| at + c.len_utf8() <= NOTE_MAX).map(|(_, c)| c).collect();
    let ask = Ask::put(format!("/v1/agent/check/update/{}", in_path(&check(me))), json!({"Status": "passing", "Output": note}).to_string());
    if client.ask(ask.clone()).await?.status == StatusCode::OK {
        return Ok(());
    }
    // An agent that was restarted without its data, or another one than before.
    register(client, me).await?;
    let answer = client.ask(ask).await?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(client.odd(&format!("status {} to a sign of life", answer.status))) }
}

pub(super) async fn deregister(client: &Client, me: &Member) -> Result<(), CoordError> {
    // Unknown is as good as removed.
    client.ask(Ask::put(format!("/v1/agent/service/deregister/{}", in_path(&me.id)), "")).await.map(|_| ()).map_err(Into::into)
}

fn check(me: &Member) -> String {
    format!("service:{}", me.id)
}
