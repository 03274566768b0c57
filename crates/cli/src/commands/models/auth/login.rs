use std::{io::IsTerminal as _, time::Duration};

use clap::builder::PossibleValuesParser;
use clawstead_config::Secret;
use clawstead_providers::{CameBack, CodeRequest, DeviceCode, OAuthClient, Pkce, TokenBody, Tokens, provider_id};
use clawstead_world::World;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Keyring, paste};
use crate::{commands::Outcome, fail::Fail, print};

/// How long a browser is waited for.
const BROWSER_WAIT: Duration = Duration::from_secs(300);
/// How long one connection of a browser may take to say what it wants.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// Bytes of its first line at most.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Sign in: API key, token, browser or device code.
#[derive(clap::Args)]
pub struct Args {
    /// Provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// How [default: oauth with an authorize address, device-code with a device address, else api-key]
    #[arg(long, value_name = "METHOD", value_parser = PossibleValuesParser::new(["api-key", "token", "setup-token", "oauth", "device-code"]))]
    method: Option<String>,
    /// Same as --method device-code
    #[arg(long, conflicts_with = "method")]
    device_code: bool,
    /// Profile [default: <provider>:manual, for sign-ins <provider>:<mail or default>]
    #[arg(long, value_name = "ID")]
    profile_id: Option<String>,
    /// Make the provider's recommended model the default
    #[arg(long)]
    set_default: bool,
    /// First remove the provider's stored credentials
    #[arg(long)]
    force: bool,
    /// Page of the provider that asks the person
    #[arg(long, value_name = "URL", help_heading = "OAuth")]
    authorize_url: Option<String>,
    /// Where device codes are given out
    #[arg(long, value_name = "URL", help_heading = "OAuth")]
    device_url: Option<String>,
    /// Where tokens are given out
    #[arg(long, value_name = "URL", help_heading = "OAuth")]
    token_url: Option<String>,
    /// Public id of the registered program
    #[arg(long, value_name = "ID", help_heading = "OAuth")]
    client_id: Option<String>,
    /// What is asked for, words with spaces between
    #[arg(long, value_name = "SCOPES", default_value = "", hide_default_value = true, help_heading = "OAuth")]
    scope: String,
    /// Port on this machine to which the browser comes back [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true, help_heading = "OAuth")]
    redirect_port: u16,
    /// The token endpoint takes JSON
    #[arg(long, help_heading = "OAuth")]
    token_json: bool,
}

/// Runs it.
pub fn run(args: &Args, keys: &Keyring<'_>) -> Outcome {
    let Some(provider) = args.provider.as_deref().map(provider_id) else {
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            return paste::add(keys);
        }
        return Err(Fail::new("Choose a provider: --provider <id>.").hint("openclaw models auth login --help"));
    };
    let method = match (&args.method, args.device_code) {
        (_, true) => "device-code",
        (Some(method), _) => method.as_str(),
        _ if args.authorize_url.is_some() => "oauth",
        _ if args.device_url.is_some() => "device-code",
        _ => "api-key",
    };
    let profile = args.profile_id.as_deref();
    // What is there goes only when the new one is in hand, or about to be typed.
    match method {
        "oauth" | "device-code" => {
            let client = client(args, &provider)?;
            let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
            let tokens = keys.cx.block_on(async {
                if method == "oauth" { browser(args, &provider, &world, &client).await } else { device(args, &provider, &world, &client).await }
            })?;
            if args.force {
                paste::forget(keys, &provider)?;
            }
            keep(keys, &provider, profile, &client, &tokens)?;
        }
        _ => {
            if args.force {
                paste::forget(keys, &provider)?;
            }
            let kind = if method == "api-key" { paste::Kind::ApiKey } else { paste::Kind::Token };
            paste::store(keys, &provider, profile, kind, None)?;
        }
    }
    if args.set_default {
        paste::prefer(keys, &provider)?;
    }
    Ok(0)
}

fn client(args: &Args, provider: &str) -> Result<OAuthClient, Fail> {
    let (Some(token_url), Some(client_id)) = (&args.token_url, &args.client_id) else {
        return Err(Fail::new(format!("How to sign in to {provider} with OAuth is not built in: name its endpoints with --authorize-url or --device-url, --token-url and --client-id, or store a key or token."))
            .hint(format!("openclaw models auth paste-api-key --provider {provider}")));
    };
    Ok(OAuthClient {
        token_url: token_url.clone(),
        client_id: client_id.clone(),
        client_secret: None,
        body: if args.token_json { TokenBody::Json } else { TokenBody::Form },
    })
}

fn keep(keys: &Keyring<'_>, provider: &str, profile: Option<&str>, client: &OAuthClient, tokens: &Tokens) -> Result<(), Fail> {
    let id = paste::profile_id(provider, Some(profile.or(tokens.email.as_deref()).unwrap_or("default")))?;
    let mut row = json!({
        "type": "oauth", "provider": provider, "access": tokens.access.expose(), "expires": tokens.expires_at,
        "tokenUrl": client.token_url, "clientId": client.client_id,
    });
    if client.body == TokenBody::Json {
        row["tokenBody"] = "json".into();
    }
    if let Some(refresh) = &tokens.refresh {
        row["refresh"] = refresh.expose().into();
    }
    if let Some(mail) = &tokens.email {
        row["email"] = mail.as_str().into();
    }
    keys.file.put(&id, row)?;
    keys.stored(&id);
    if tokens.refresh.is_none() {
        print::line("The provider gave no refresh token: sign in again when this one expires.");
    }
    Ok(())
}

fn failed(err: &clawstead_providers::OAuthError) -> Fail {
    Fail::new(format!("The sign-in did not work: {err}")).hint("openclaw models auth login --help")
}

async fn device(args: &Args, provider: &str, world: &World, client: &OAuthClient) -> Result<Tokens, Fail> {
    let url = args.device_url.as_ref().ok_or_else(|| Fail::new(format!("Where {provider} gives out device codes is not known: --device-url.")))?;
    let code = DeviceCode::request(world, url, client, &args.scope).await.map_err(|err| failed(&err))?;
    print::line(&format!("Open {} and type {}", code.verification_uri, code.user_code));
    print::line("Waiting for you ...");
    code.wait(world, client).await.map_err(|err| failed(&err))
}

async fn browser(args: &Args, provider: &str, world: &World, client: &OAuthClient) -> Result<Tokens, Fail> {
    let authorize_url = args.authorize_url.as_deref().ok_or_else(|| Fail::new(format!("Where {provider} asks the person is not known: --authorize-url.")))?;
    let listener = TcpListener::bind(("127.0.0.1", args.redirect_port))
        .await
        .map_err(|err| Fail::new(format!("Port {} cannot be used for the sign-in: {err}", args.redirect_port)).hint("--redirect-port"))?;
    let redirect_uri = format!("http://127.0.0.1:{}/callback", listener.local_addr()?.port());
    let pkce = Pkce::new(world);
    let address =
        pkce.address(&CodeRequest { authorize_url, client_id: &client.client_id, redirect_uri: &redirect_uri, scope: &args.scope }).map_err(Fail::new)?;
    print::line("Open this address in a browser on this machine:");
    print::line(&address);
    print::line("Waiting for you ...");
    let code = tokio::time::timeout(BROWSER_WAIT, came_back(&listener, &pkce))
        .await
        .map_err(|_| Fail::new(format!("Nobody came back from {provider} within {} s.", BROWSER_WAIT.as_secs())))??;
    pkce.exchange(world, client, &code, &redirect_uri).await.map_err(|err| failed(&err))
}

/// Waits for the browser. Requests for anything else are answered and forgotten.
async fn came_back(listener: &TcpListener, pkce: &Pkce) -> Result<Secret, Fail> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        let Ok(Ok(path)) = tokio::time::timeout(REQUEST_WAIT, path_of(&mut socket)).await else { continue };
        if !path.starts_with("/callback") {
            let _ = answer(&mut socket, "404 Not Found", "Not here.").await;
            continue;
        }
        match pkce.code(&path) {
            Ok(code) => {
                let _ = answer(&mut socket, "200 OK", "Signed in. You can close this page.").await;
                return Ok(code);
            }
            // Some other page that knows the port must not end the sign-in.
            Err(CameBack::Foreign) => {
                let _ = answer(&mut socket, "400 Bad Request", "This belongs to another sign-in.").await;
            }
            Err(why) => {
                let _ = answer(&mut socket, "400 Bad Request", "The sign-in did not work; the terminal says why.").await;
                return Err(Fail::new(format!("The sign-in did not work: {why}")));
            }
        }
    }
}

async fn path_of(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(socket.take(LINE_BYTES_MAX));
    reader.read_line(&mut line).await?;
    // The rest of the head is read so that the answer is not lost to a reset.
    let mut rest = String::new();
    while reader.read_line(&mut rest).await? > 2 {
        rest.clear();
    }
    Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

async fn answer(socket: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    socket.write_all(head.as_bytes()).await?;
    socket.shutdown().await
}
