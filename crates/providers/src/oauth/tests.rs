use std::sync::Arc;

use serde_json::{Value, json};

use super::{AuthFile, CameBack, CodeRequest, DeviceCode, OAuthClient, OAuthError, Pkce, TokenBody};
use crate::{
    ErrorKind, ModelChain, Models, ModelsInput,
    testing::{Act, Server, ask, user, world},
};

fn client(url: &str) -> OAuthClient {
    OAuthClient { token_url: format!("{url}/token"), client_id: "app".into(), client_secret: None, body: TokenBody::Form }
}

fn given(access: &str, refresh: &str) -> Act {
    Act::Json(json!({"access_token": access, "refresh_token": refresh, "expires_in": 3600, "token_type": "bearer"}).to_string())
}

fn refused(code: &str) -> Act {
    Act::Status(400, "content-type: application/json\r\n", json!({"error": code, "error_description": format!("no: {code} for old-refresh-token")}).to_string())
}

/// What the server was sent as a form.
fn form(server: &Server, at: usize) -> Vec<(String, String)> {
    url::form_urlencoded::parse(server.forms()[at].as_bytes()).into_owned().collect()
}

fn field(form: &[(String, String)], name: &str) -> String {
    form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn good() -> Act {
    Act::Events("data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".into(), 1_000)
}

/// A registry whose one provider has one OAuth profile, stored in a file, that expires at `expires`.
fn models(model: &Server, token: &Server, expires: i64, file: &AuthFile) -> Models {
    let row = json!({"type": "oauth", "provider": "h", "access": "old-access-token", "refresh": "old-refresh-token", "expires": expires,
        "tokenUrl": format!("{}/token", token.url), "clientId": "app"});
    file.put("h:me", row).unwrap();
    built(model, file)
}

fn built(model: &Server, file: &AuthFile) -> Models {
    let store = file.read().unwrap();
    let mut input = ModelsInput::read(&json!({"models": {"providers": {"h": {"baseUrl": model.url}}}}), Some(&store), &|_| None);
    for profile in &mut input.profiles {
        profile.file = Some(file.path().to_path_buf());
    }
    Models::new(world(), input)
}

async fn heard(models: &Models) -> Result<(), crate::AskError> {
    models.ask(&ModelChain::only("h/m"), ask(vec![user("hello")]), &()).await.map(|_| ())
}

fn bearer(server: &Server, at: usize) -> String {
    server.seen()[at].0.lines().find_map(|l| l.strip_prefix("authorization: ")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_expired_token_is_exchanged_once_for_all_and_stored() {
    let dir = tempfile::tempdir().unwrap();
    let file = AuthFile::of(dir.path());
    let (model, token) =
        (Server::start(vec![good()]).await, Server::start(vec![given("new-access-token", "new-refresh-token"), refused("invalid_grant")]).await);
    let models = Arc::new(models(&model, &token, 1_000, &file));
    let (a, b, c) = tokio::join!(heard(&models), heard(&models), heard(&models));
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(token.seen().len(), 1, "one exchange for three turns");
    let sent = form(&token, 0);
    assert_eq!(
        (field(&sent, "grant_type").as_str(), field(&sent, "refresh_token").as_str(), field(&sent, "client_id").as_str()),
        ("refresh_token", "old-refresh-token", "app")
    );
    assert!((0..3).all(|at| bearer(&model, at) == "Bearer new-access-token"));
    let row = file.read().unwrap()["profiles"]["h:me"].clone();
    assert_eq!((row["access"].as_str(), row["refresh"].as_str()), (Some("new-access-token"), Some("new-refresh-token")));
    assert!(row["expires"].as_i64().unwrap() > world().clock.now().0);
    // Another process that still has the old token finds the new one in the file and asks nobody.
    let mut input = ModelsInput::read(
        &json!({"models": {"providers": {"h": {"baseUrl": model.url}}}}),
        Some(
            &json!({"profiles": {"h:me": {"type": "oauth", "access": "old-access-token", "refresh": "old-refresh-token", "expires": 1_000, "tokenUrl": format!("{}/token", token.url), "clientId": "app"}}}),
        ),
        &|_| None,
    );
    input.profiles[0].file = Some(file.path().to_path_buf());
    heard(&Models::new(world(), input)).await.unwrap();
    assert_eq!((token.seen().len(), bearer(&model, 3).as_str()), (1, "Bearer new-access-token"));
    // A second start uses what is stored.
    heard(&built(&model, &file)).await.unwrap();
    assert_eq!(token.seen().len(), 1);
}

#[tokio::test]
async fn a_sign_in_that_is_over_says_so_and_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = AuthFile::of(dir.path());
    let (model, token) = (Server::start(vec![good()]).await, Server::start(vec![refused("invalid_grant")]).await);
    let error = heard(&models(&model, &token, 1_000, &file)).await.unwrap_err();
    assert_eq!(error.error.kind, ErrorKind::Auth);
    let text = format!("{error} {error:?}");
    assert!(text.contains("models auth login --provider h") && !text.contains("old-refresh-token") && !text.contains("old-access-token"), "{text}");
    assert!(model.seen().is_empty(), "the model is not asked with a dead token");
    assert_eq!(file.read().unwrap()["profiles"]["h:me"]["refresh"], "old-refresh-token", "the file stays");
}

#[tokio::test]
async fn a_token_endpoint_that_is_away_costs_nothing_while_the_token_lives() {
    let dir = tempfile::tempdir().unwrap();
    let file = AuthFile::of(dir.path());
    let (model, token) = (Server::start(vec![good()]).await, Server::start(vec![Act::Status(503, "", String::new())]).await);
    let soon = world().clock.now().0 + super::REFRESH_AHEAD_MS / 2;
    heard(&models(&model, &token, soon, &file)).await.unwrap();
    assert_eq!(bearer(&model, 0), "Bearer old-access-token");
    let error = heard(&models(&model, &token, 1_000, &file)).await.unwrap_err();
    assert_eq!(error.error.kind, ErrorKind::Overloaded, "{error}");
}

#[tokio::test]
async fn an_expired_profile_without_a_way_to_renew_names_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = AuthFile::of(dir.path());
    file.put("openai:me", json!({"type": "oauth", "access": "a", "refresh": "r", "expires": 1_000})).unwrap();
    let models = Models::new(world(), ModelsInput::read(&json!({}), Some(&file.read().unwrap()), &|_| None));
    let error = models.ask(&ModelChain::only("openai/gpt-5"), ask(vec![user("x")]), &()).await.err().unwrap();
    assert!(error.to_string().contains("openai:me has expired") && error.to_string().contains("models auth login --provider openai"), "{error}");
}

#[tokio::test]
async fn a_browser_that_comes_back_is_believed_only_with_our_state() {
    let token = Server::start(vec![given("a", "r")]).await;
    let pkce = Pkce::new(&world());
    let request =
        CodeRequest { authorize_url: "https://id.example/authorize?x=1", client_id: "app", redirect_uri: "http://127.0.0.1:1/callback", scope: "a b" };
    let address = url::Url::parse(&pkce.address(&request).unwrap()).unwrap();
    let query: std::collections::BTreeMap<String, String> = address.query_pairs().into_owned().collect();
    assert_eq!((query["x"].as_str(), query["scope"].as_str(), query["code_challenge_method"].as_str()), ("1", "a b", "S256"));
    let state = &query["state"];
    assert!(pkce.code("/callback?code=c&state=other") == Err(CameBack::Foreign));
    assert!(pkce.code(&format!("/callback?error=access_denied&state={state}")) == Err(CameBack::Refused("access_denied".into())));
    assert!(pkce.code(&format!("/callback?state={state}")) == Err(CameBack::Empty));
    let code = pkce.code(&format!("/callback?code=c%2F1&state={state}")).unwrap();
    let tokens = pkce.exchange(&world(), &client(&token.url), &code, request.redirect_uri).await.unwrap();
    assert_eq!((tokens.access.expose(), tokens.refresh.unwrap().expose().to_owned()), ("a", "r".to_owned()));
    let sent = form(&token, 0);
    assert_eq!((field(&sent, "code").as_str(), field(&sent, "grant_type").as_str()), ("c/1", "authorization_code"));
    let (verifier, challenge) = (field(&sent, "code_verifier"), &query["code_challenge"]);
    use base64::Engine as _;
    use sha2::Digest as _;
    assert_eq!(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&verifier)), challenge);
}

#[tokio::test]
async fn a_device_code_is_waited_for_as_the_server_likes() {
    let device =
        json!({"device_code": "dev-code-secret", "user_code": "AB-CD", "verification_uri": "https://id.example/device", "expires_in": 600, "interval": 0});
    let pages = vec![Act::Json(device.to_string()), refused("authorization_pending"), refused("authorization_pending"), given("a", "r")];
    let server = Server::start(pages).await;
    let (world, client) = (world(), client(&server.url));
    let code = DeviceCode::request(&world, &format!("{}/device", server.url), &client, "read").await.unwrap();
    assert_eq!((code.user_code.as_str(), code.verification_uri.as_str()), ("AB-CD", "https://id.example/device"));
    let tokens = code.wait(&world, &client).await.unwrap();
    assert_eq!((tokens.access.expose(), server.seen().len()), ("a", 4));
    assert_eq!(field(&form(&server, 3), "device_code"), "dev-code-secret");
    let server = Server::start(vec![Act::Json(device.to_string()), refused("access_denied")]).await;
    let client = OAuthClient { token_url: format!("{}/token", server.url), ..client };
    let code = DeviceCode::request(&world, &format!("{}/device", server.url), &client, "").await.unwrap();
    let error = code.wait(&world, &client).await.unwrap_err();
    assert!(error.is_final(), "{error}");
}

#[tokio::test]
async fn credentials_do_not_travel_in_the_clear() {
    let client = OAuthClient { token_url: "http://192.168.1.2/token".into(), ..client("") };
    let error = client.refresh(&world(), &clawstead_config::Secret::new("r")).await.unwrap_err();
    assert!(matches!(error, OAuthError::Insecure(_)), "{error}");
}

#[test]
fn known_endpoints_serve_profiles_that_name_none() {
    let known = OAuthClient::of("anthropic", &Value::Null).unwrap();
    assert_eq!(known.body, TokenBody::Json);
    assert!(OAuthClient::of("nobody", &json!({"tokenUrl": "https://x"})).is_none(), "half an endpoint is none");
    let own = OAuthClient::of("anthropic", &json!({"tokenUrl": "https://x/t", "clientId": "c"})).unwrap();
    assert_eq!((own.token_url.as_str(), own.body), ("https://x/t", TokenBody::Form));
}

#[test]
fn the_file_keeps_what_it_does_not_know_and_refuses_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let file = AuthFile::of(&dir.path().join("agent"));
    assert_eq!(file.read().unwrap()["profiles"], json!({}));
    file.put("a:1", json!({"type": "api_key", "provider": "a", "key": "k"})).unwrap();
    file.change(|store| {
        store["mine"] = json!(7);
        store["order"] = json!({"a": ["a:1"]});
        store["usageStats"] = json!({"a:1": {"errorCount": 3}});
    })
    .unwrap();
    file.put("a:1", json!({"type": "api_key", "provider": "a", "key": "k2"})).unwrap();
    assert_eq!((file.read().unwrap()["mine"].clone(), file.read().unwrap()["usageStats"].clone()), (json!(7), json!({})));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(file.remove("a:1").unwrap() && !file.remove("a:1").unwrap());
    assert_eq!(file.read().unwrap()["order"], json!({}));
    std::fs::write(file.path(), "{ broken").unwrap();
    assert!(file.put("a:1", json!({})).is_err());
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "{ broken");
}
