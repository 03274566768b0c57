//! What gateways show to engines: TLS with an authority of the farm's own, users, passwords and tokens; their change under
//! load (row C7), and what a credential that was taken back looks like.

use std::{
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clawstead_harness::{PATIENCE, fault_proxy::FaultProxy, until};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

use super::kit::{Consul, Farm, Plan, Server, engine};

const OPERATOR: &str = "b1aa0331-15d9-4aa1-a8b4-4b1a31a1b1aa";
const FIRST: &str = "11111111-15d9-4aa1-a8b4-4b1a31a1b1aa";
const SECOND: &str = "22222222-15d9-4aa1-a8b4-4b1a31a1b1aa";
/// What docs/runbook/farm-keys.md says a gateway needs.
const RULES: &str = r#"key_prefix "openclaw/" { policy = "write" } service "openclaw-gateway" { policy = "write" }"#;

/// An authority with a server's and a client's certificate, made by the program openssl.
struct Papers {
    folder: tempfile::TempDir,
}

impl Papers {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let papers = Self { folder };
        std::fs::write(papers.path("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
        std::fs::write(papers.path("client.ext"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").unwrap();
        papers.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=farm-ca -keyout ca.key -out ca.pem");
        for name in ["server", "client"] {
            papers.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
            papers.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"));
        }
        papers
    }

    fn openssl(&self, args: &str) {
        let made = Command::new("openssl").args(args.split(' ')).current_dir(self.folder.path()).output().unwrap();
        assert!(made.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn authority(&self) -> Value {
        json!({"caFile": self.text("ca.pem")})
    }

    fn all(&self) -> Value {
        json!({"caFile": self.text("ca.pem"), "certFile": self.text("client.pem"), "keyFile": self.text("client.key")})
    }
}

fn openssl(suite: &str) -> Option<Papers> {
    if Command::new("openssl").arg("version").output().is_err() {
        clawstead_harness::engines::skipped(suite, "openssl", "the program openssl is not there; it makes the certificates of this test");
        return None;
    }
    Some(Papers::make())
}

fn with(mut of: Value, more: &Value) -> Value {
    of.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    of
}

fn from_env(name: &str) -> Value {
    json!({"source": "env", "provider": "default", "id": name})
}

async fn serves(farm: &Farm) {
    farm.talk().await;
    let status = farm.status().await;
    assert_eq!((status["coord"]["ok"].as_bool(), status["bus"]["ok"].as_bool()), (Some(true), Some(true)), "{status}");
    for secret in ["pass-4711", "nats-4712", "sql-4713"] {
        assert!(!status.to_string().contains(secret) && !farm.jerry.log().contains(secret), "{secret} is told");
    }
}

#[tokio::test]
async fn consul_over_tls() {
    let Some(papers) = openssl("Consul over TLS") else { return };
    let extra = json!({"ports": {"https": 1}, "ca_file": papers.text("ca.pem"), "cert_file": papers.text("server.pem"), "key_file": papers.text("server.key"), "verify_incoming_https": true});
    let Some(consul) = Consul::start("Consul over TLS", 1, extra).await else { return };
    let coord = with(json!({"kind": "consul", "addr": format!("https://127.0.0.1:{}", consul.servers[0].port)}), &papers.all());
    let farm = Farm::make(&Plan::over(coord, json!({"kind": "consul"}))).await;
    serves(&farm).await;
}

fn redis_with_tls(program: &Path, papers: &Papers) -> impl Future<Output = Server> {
    let (ca, cert, key) = (papers.text("ca.pem"), papers.text("server.pem"), papers.text("server.key"));
    Server::start(program, "127.0.0.1", move |port, folder| {
        let text = format!(
            "port 0\ntls-port {port}\nbind 127.0.0.1\ndir {}\nappendonly yes\ntls-ca-cert-file {ca}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-auth-clients yes\nuser default off\nuser farm on >pass-4711 ~* &* +@all\n",
            folder.display()
        );
        std::fs::write(folder.join("redis.conf"), text).unwrap();
        vec![folder.join("redis.conf").display().to_string()]
    })
}

#[tokio::test]
async fn redis_over_tls_with_a_user() {
    let (Some(papers), Some(program)) = (openssl("Redis over TLS"), engine("CLAWSTEAD_REDIS_SERVER", "Redis over TLS")) else { return };
    let Some(consul) = Consul::start("Redis over TLS", 1, json!({})).await else { return };
    let redis = redis_with_tls(&program, &papers).await;
    let bus = json!({"kind": "redis", "addr": format!("rediss://127.0.0.1:{}", redis.port), "user": "farm", "password": from_env("REDIS_PASSWORD")});
    let plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), with(bus, &papers.all())).env("REDIS_PASSWORD", "pass-4711");
    let farm = Farm::make(&plan).await;
    serves(&farm).await;
}

#[tokio::test]
async fn nats_over_tls_with_a_user() {
    let (Some(papers), Some(program)) = (openssl("NATS over TLS"), engine("CLAWSTEAD_NATS_SERVER", "NATS over TLS")) else { return };
    let Some(consul) = Consul::start("NATS over TLS", 1, json!({})).await else { return };
    let tls = format!(
        "ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\", verify: true",
        papers.text("ca.pem"),
        papers.text("server.pem"),
        papers.text("server.key")
    );
    let nats = Server::start(&program, "127.0.0.1", |port, folder| {
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\ntls {{ {tls} }}\nauthorization {{ user: \"farm\", password: \"nats-4712\" }}\n",
            folder.join("store").display()
        );
        std::fs::write(folder.join("nats.conf"), text).unwrap();
        ["-c".to_owned(), folder.join("nats.conf").display().to_string()].to_vec()
    });
    let nats = nats.await;
    let bus = json!({"kind": "nats", "addr": format!("tls://127.0.0.1:{}", nats.port), "user": "farm", "password": from_env("NATS_PASSWORD")});
    let plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), with(bus, &papers.all())).env("NATS_PASSWORD", "nats-4712");
    let farm = Farm::make(&plan).await;
    serves(&farm).await;
}

#[tokio::test]
async fn nats_with_a_token() {
    let Some(program) = engine("CLAWSTEAD_NATS_SERVER", "NATS with a token") else { return };
    let Some(consul) = Consul::start("NATS with a token", 1, json!({})).await else { return };
    let nats = Server::start(&program, "127.0.0.1", |port, folder| {
        ["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd", &folder.display().to_string(), "--auth", "nats-4712"].map(str::to_owned).to_vec()
    });
    let nats = nats.await;
    let bus = json!({"kind": "nats", "addr": format!("nats://127.0.0.1:{}", nats.port), "token": from_env("NATS_TOKEN")});
    let farm = Farm::make(&Plan::over(json!({"kind": "consul", "addr": consul.urls()}), bus).env("NATS_TOKEN", "nats-4712")).await;
    serves(&farm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_over_tls_with_a_password() {
    let (Some(papers), Some(mut server)) = (openssl("PostgreSQL over TLS"), Postgres::start().unwrap()) else { return };
    let port = server.port();
    // The server is another user where the tests are root, and reads no key that is not its own.
    let data = PathBuf::from(server.sql("SHOW data_directory").unwrap().trim());
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["server.pem", "server.key"] {
        std::fs::copy(papers.path(name), data.join(name)).unwrap();
        std::fs::set_permissions(data.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        chown(data.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    server.sql("CREATE ROLE claw LOGIN PASSWORD 'sql-4713'").unwrap();
    server.sql("GRANT CREATE ON DATABASE postgres TO claw").unwrap();
    let rules = data.join("pg_hba.conf");
    std::fs::write(&rules, "hostssl all claw 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n").unwrap();
    for setting in ["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"] {
        server.set(setting);
    }
    let server = tokio::task::spawn_blocking(move || {
        server.crash().unwrap();
        server.run().unwrap();
        server
    });
    let _server = server.await.unwrap();
    let coord = with(json!({"kind": "postgres", "url": from_env("FARM_DATABASE_URL")}), &papers.authority());
    let url = format!("postgres://claw:sql-4713@127.0.0.1:{port}/postgres?sslmode=require");
    let farm = Farm::make(&Plan::over(coord, json!({"kind": "peer"})).env("FARM_DATABASE_URL", &url)).await;
    serves(&farm).await;
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused_with_words() {
    let (Some(papers), Some(strange)) = (openssl("a strange certificate"), openssl("a strange certificate")) else { return };
    let Some(program) = engine("CLAWSTEAD_REDIS_SERVER", "a strange certificate") else { return };
    let Some(consul) = Consul::start("a strange certificate", 1, json!({})).await else { return };
    let redis = redis_with_tls(&program, &papers).await;
    // The server is not the one that this authority vouches for.
    let bus = json!({"kind": "redis", "addr": format!("rediss://127.0.0.1:{}", redis.port), "user": "farm", "password": from_env("REDIS_PASSWORD")});
    let plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), with(bus, &strange.all())).env("REDIS_PASSWORD", "pass-4711");
    let farm = Farm::make(&plan).await;
    let status = farm.status().await;
    let why = status["bus"]["why"].as_str().unwrap_or_default().to_lowercase();
    assert!(status["bus"]["ok"] == false && why.contains("certificate"), "{status}");
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|one| one.as_str().unwrap().contains("redis")), "it is told as a problem: {problems:?}");
}

/// A Consul with access control, and a token for the farm under each of these names.
async fn guarded(suite: &str, tokens: &[&str]) -> Option<Consul> {
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": OPERATOR, "agent": OPERATOR}}});
    let consul = Consul::start(suite, 1, acl).await?;
    let policy = json!({"Name": "farm", "Rules": RULES});
    let made = until(PATIENCE, async || consul.ask(0, "PUT", "/v1/acl/policy", OPERATOR, &policy).await.filter(|(status, _)| *status == 200));
    assert!(made.await.is_some(), "{}", consul.servers[0].output());
    for token in tokens {
        give(&consul, token).await;
    }
    Some(consul)
}

async fn give(consul: &Consul, token: &str) {
    let body = json!({"SecretID": token, "AccessorID": token, "Policies": [{"Name": "farm"}]});
    let (status, said) = consul.ask(0, "PUT", "/v1/acl/token", OPERATOR, &body).await.unwrap();
    assert_eq!(status, 200, "{said}");
}

async fn take_back(consul: &Consul, token: &str) {
    let (status, said) = consul.ask(0, "DELETE", &format!("/v1/acl/token/{token}"), OPERATOR, &Value::Null).await.unwrap();
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn c7_a_token_of_consul_is_changed_under_load_and_then_taken_back() {
    let Some(consul) = guarded("row C7: Consul", &[FIRST]).await else { return };
    let proxy = FaultProxy::start(([127, 0, 0, 1], consul.servers[0].port).into(), 7).unwrap();
    let coord = json!({"kind": "consul", "addr": format!("http://{}", proxy.addr()), "token": from_env("CONSUL_TOKEN")});
    let plan = Plan::over(coord, json!({"kind": "consul"})).env("CONSUL_TOKEN", FIRST).env("CONSUL_TOKEN_2", SECOND);
    let farm = Farm::make(&plan).await;
    farm.talk().await;
    let steps = farm.jerry.run(&["farm", "rotate", "consul", "--dry-run", "--json"]).await;
    assert_eq!(steps["steps"].as_array().map(Vec::len), Some(3), "{steps}");
    // The second token is not there yet: it is tried, and nothing is written.
    let early = farm.jerry.ran(&["farm", "rotate", "consul", "--ref-source", "env", "--ref-id", "CONSUL_TOKEN_2", "--yes"]).await;
    assert!(early.code == Some(1) && early.stderr.contains("nothing was written"), "{}", early.stderr);

    give(&consul, SECOND).await;
    let asked = farm.load(1, 20);
    for node in [&farm.bobby, &farm.jerry] {
        let done = node.run(&["farm", "rotate", "consul", "--ref-source", "env", "--ref-id", "CONSUL_TOKEN_2", "--yes", "--json"]).await;
        assert_eq!(done["written"], true, "{done}");
    }
    farm.all_once(asked, 1, 20).await;
    farm.together().await;
    take_back(&consul, FIRST).await;
    let asked = farm.load(100, 6);
    farm.all_once(asked, 100, 6).await;
    let status = farm.status().await;
    assert_eq!((status["coord"]["ok"].as_bool(), status["bus"]["ok"].as_bool()), (Some(true), Some(true)), "{status}");

    // Taken back: a clean word, and no storm.
    take_back(&consul, SECOND).await;
    let told = until(PATIENCE, async || {
        let status = farm.status().await;
        let why = status["coord"]["why"].as_str().unwrap_or_default().to_owned();
        (status["coord"]["ok"] == false && why.contains("ACL token")).then_some(status)
    });
    let status = told.await.expect("farm status says it");
    assert!(!status.to_string().contains(SECOND) && !farm.jerry.log().contains(SECOND), "no token is told");
    let before = proxy.counters();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = proxy.counters();
    // Two gateways, about twenty watches and heartbeats between them, each with a growing pause: some requests a second.
    let bytes = after.to_server - before.to_server;
    assert!(bytes < 300_000 && after.accepted - before.accepted < 200, "{bytes} bytes in {} connections within 5 s", after.accepted - before.accepted);
    let found = farm.jerry.ran(&["doctor", "--json", "--all", "--only", "farm"]).await;
    assert!(found.stdout.contains("ACL token"), "{}", found.stdout);
    // Given again, everything goes on without a restart.
    give(&consul, SECOND).await;
    farm.together().await;
    let asked = farm.load(200, 4);
    farm.all_once(asked, 200, 4).await;
}

#[tokio::test]
async fn c7_a_password_of_redis_is_changed_under_load() {
    let Some(program) = engine("CLAWSTEAD_REDIS_SERVER", "row C7: Redis") else { return };
    let Some(consul) = Consul::start("row C7: Redis", 1, json!({})).await else { return };
    // A user of Redis has several passwords at once: the overlap.
    let redis = Server::start(&program, "127.0.0.1", |port, folder| {
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nappendonly yes\nuser default off\nuser farm on >pass-4711 >pass-4712 ~* &* +@all\nuser operator on >boss ~* &* +@all\n",
            folder.display()
        );
        std::fs::write(folder.join("redis.conf"), text).unwrap();
        vec![folder.join("redis.conf").display().to_string()]
    });
    let redis = redis.await;
    let bus = json!({"kind": "redis", "addr": format!("redis://127.0.0.1:{}", redis.port), "user": "farm", "password": from_env("REDIS_PASSWORD")});
    let plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), bus).env("REDIS_PASSWORD", "pass-4711").env("REDIS_PASSWORD_2", "pass-4712");
    let farm = Farm::make(&plan).await;
    let asked = farm.load(1, 16);
    for node in [&farm.bobby, &farm.jerry] {
        let done = node.run(&["farm", "rotate", "redis", "--ref-source", "env", "--ref-id", "REDIS_PASSWORD_2", "--yes", "--json"]).await;
        assert_eq!(done["written"], true, "{done}");
    }
    farm.all_once(asked, 1, 16).await;
    farm.together().await;
    // The old one goes; whoever is still connected with it is thrown out.
    redis_says(&redis, "ACL SETUSER farm <pass-4711").await;
    redis_says(&redis, "CLIENT KILL USER farm").await;
    let asked = farm.load(100, 6);
    farm.all_once(asked, 100, 6).await;
    // Taken back altogether: a clean word.
    redis_says(&redis, "ACL SETUSER farm resetpass").await;
    redis_says(&redis, "CLIENT KILL USER farm").await;
    let told = until(PATIENCE, async || {
        let status = farm.status().await;
        let why = status["bus"]["why"].as_str().unwrap_or_default().to_owned();
        (status["bus"]["ok"] == false && why.contains("refuses us")).then_some(())
    });
    assert!(told.await.is_some(), "{}", farm.status().await["bus"]);
    assert!(!farm.jerry.log().contains("pass-4712"), "no password is told");
}

async fn redis_says(redis: &Server, command: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect((&*redis.host, redis.port)).await.unwrap();
    socket.write_all(format!("AUTH operator boss\r\n{command}\r\nQUIT\r\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    assert!(!said.contains("-ERR") && !said.contains("-WRONGPASS") && !said.contains("-NOPERM"), "{command}: {said}");
}

#[tokio::test]
async fn c7_a_user_of_nats_is_changed_under_load() {
    let Some(program) = engine("CLAWSTEAD_NATS_SERVER", "row C7: NATS") else { return };
    let Some(consul) = Consul::start("row C7: NATS", 1, json!({})).await else { return };
    let nats = Server::start(&program, "127.0.0.1", |port, folder| {
        std::fs::write(folder.join("nats.conf"), nats_conf(port, folder, &["nats-4711", "nats-4712"])).unwrap();
        ["-c".to_owned(), folder.join("nats.conf").display().to_string()].to_vec()
    });
    let nats = nats.await;
    // One user name with two passwords is not possible there: the second user is another one, with the same rights.
    let bus = json!({"kind": "nats", "addr": format!("nats://127.0.0.1:{}", nats.port), "user": "farm0", "password": from_env("NATS_PASSWORD")});
    let plan = Plan::over(json!({"kind": "consul", "addr": consul.urls()}), bus).env("NATS_PASSWORD", "nats-4711").env("NATS_PASSWORD_2", "nats-4712");
    let farm = Farm::make(&plan).await;
    let asked = farm.load(1, 16);
    for node in [&farm.bobby, &farm.jerry] {
        let args = ["farm", "rotate", "nats", "--new-user", "farm1", "--ref-source", "env", "--ref-id", "NATS_PASSWORD_2", "--yes", "--json"];
        let done = node.run(&args).await;
        assert_eq!(done["written"], true, "{done}");
    }
    farm.all_once(asked, 1, 16).await;
    farm.together().await;
    std::fs::write(nats.folder.path().join("nats.conf"), nats_conf(nats.port, nats.folder.path(), &["", "nats-4712"])).unwrap();
    nats.signal(rustix::process::Signal::HUP);
    let asked = farm.load(100, 6);
    farm.all_once(asked, 100, 6).await;
    // The last one goes too: a clean word.
    std::fs::write(nats.folder.path().join("nats.conf"), nats_conf(nats.port, nats.folder.path(), &["nats-nobody"])).unwrap();
    nats.signal(rustix::process::Signal::HUP);
    let told = until(PATIENCE, async || {
        let status = farm.status().await;
        let why = status["bus"]["why"].as_str().unwrap_or_default().to_lowercase();
        (status["bus"]["ok"] == false && why.contains("authorization")).then_some(())
    });
    assert!(told.await.is_some(), "{}", farm.status().await["bus"]);
    assert!(!farm.jerry.log().contains("nats-4712"), "no password is told");
}

/// Users `farm0`, `farm1`.. with these passwords; empty ones are left out.
fn nats_conf(port: u16, folder: &Path, passwords: &[&str]) -> String {
    let users: Vec<String> = (0..)
        .zip(passwords)
        .filter(|(_, password)| !password.is_empty())
        .map(|(n, password)| format!("{{ user: \"farm{n}\", password: \"{password}\" }}"))
        .collect();
    format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\nauthorization {{ users: [ {} ] }}\n",
        folder.join("store").display(),
        users.join(", ")
    )
}
