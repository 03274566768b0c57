//! The Control UI's files: the build embedded in the binary, or a folder of the config.

use std::{
    borrow::Cow,
    path::{Component, Path},
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rust_embed::RustEmbed;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use clawstead_wire::limits::COMPATIBLE_VERSION;

use super::{DoorSettings, Facts};

/// The build in `web/dist`; empty when the page was not built.
#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Built;

/// Adds the headers of the page to a response.
pub(super) fn add_headers(headers: &mut HeaderMap) {
    add_headers_for(headers, &[]);
}

fn add_headers_for(headers: &mut HeaderMap, script_hashes: &[String]) {
    headers.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static("camera=(self), microphone=*, geolocation=*, clipboard-write=*"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let scripts: String = script_hashes.iter().map(|hash| format!(" 'sha256-{hash}'")).collect();
    let policy = format!(
        "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; frame-src 'self' http: https:; script-src 'self'{scripts}; \
         style-src 'self' 'unsafe-inline'; img-src 'self' data: blob: https:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self' ws: wss: data:; \
         worker-src 'self' blob:"
    );
    if let Ok(value) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, value);
    }
}

/// `control-ui-config.json`.
pub(super) fn config(settings: &DoorSettings, facts: &Facts) -> Value {
    let letter: String = facts.assistant_name.chars().take(1).collect();
    json!({
        "basePath": settings.base_path,
        "assistantName": facts.assistant_name,
        "assistantAvatar": letter,
        "assistantAvatarSource": null,
        "assistantAvatarStatus": null,
        "assistantAvatarReason": null,
        "assistantAgentId": facts.default_agent,
        "serverVersion": COMPATIBLE_VERSION,
        "embedSandbox": "scripts",
        "allowExternalEmbedUrls": false,
        "automaticallyFetchFavicons": false,
        "communityInvite": false,
        "terminalEnabled": false,
        "cliAgentsEnabled": false,
        "pluginAssetsRequireAuth": true,
        "pluginFrameGrants": [],
    })
}

/// Serves a file of the page, or `index.html` for paths without an extension. `None` when the path is not below
/// the base path.
pub(super) async fn serve(settings: &DoorSettings, path: &str) -> Option<Response<Body>> {
    let rest = path.strip_prefix(settings.base_path.as_str())?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let name = rest.trim_start_matches('/');
    // Pictures of agents are asked for below this path; there are none.
    let is_page = !name.starts_with("avatar/") && (name.is_empty() || !name.rsplit('/').next().unwrap_or("").contains('.'));
    if !is_page {
        return Some(match load(settings, name).await {
            Some(bytes) => file(name, bytes),
            None => missing(),
        });
    }
    let Some(page) = load(settings, "index.html").await else { return Some(missing()) };
    let page = String::from_utf8_lossy(&page);
    let hashes = inline_script_hashes(&page);
    let mark = format!("<html data-openclaw-control-ui-base-path=\"{}\" data-openclaw-terminal-enabled=\"false\"", escape(&settings.base_path));
    let mut response = Response::new(Body::from(page.replacen("<html", &mark, 1)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    add_headers_for(response.headers_mut(), &hashes);
    Some(response)
}

fn missing() -> Response<Body> {
    let mut missing = super::text_response(StatusCode::NOT_FOUND, "Not Found");
    add_headers(missing.headers_mut());
    missing
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

async fn load(settings: &DoorSettings, name: &str) -> Option<Cow<'static, [u8]>> {
    // No way out of the folder: plain names only.
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) || name.contains('\\') || name.contains('\0') {
        return None;
    }
    match &settings.control_ui_root {
        Some(root) => tokio::fs::read(root.join(name)).await.ok().map(Cow::Owned),
        None => Built::get(name).map(|file| file.data),
    }
}

fn file(name: &str, bytes: Cow<'static, [u8]>) -> Response<Body> {
    let body = match bytes {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    };
    let mut response = Response::new(body);
    add_headers(response.headers_mut());
    let kind = match name.rsplit('.').next().unwrap_or("") {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json; charset=utf-8",
        "webmanifest" => "application/manifest+json; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if name.starts_with("assets/") {
        // Names of assets carry a hash of their content.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    }
    response
}

/// Hashes of scripts written into the page itself, which the policy must name.
fn inline_script_hashes(page: &str) -> Vec<String> {
    let mut hashes = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find("<script") {
        rest = &rest[start..];
        let Some(open) = rest.find('>') else { break };
        let Some(end) = rest.find("</script>") else { break };
        if open < end && !rest[..open].contains(" src=") {
            hashes.push(STANDARD.encode(Sha256::digest(&rest.as_bytes()[open + 1..end])));
        }
        rest = &rest[end + "</script>".len()..];
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::inline_script_hashes;

    #[test]
    fn only_inline_scripts_are_named() {
        let page = "<script src=\"/a.js\"></script><script type=\"module\">1</script>";
        assert_eq!(inline_script_hashes(page), ["a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s="]);
    }
}
