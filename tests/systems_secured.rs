//! Every connection to a system outside with TLS, and a Kafka that wants a password: the daemon works by them, and with an
//! authority that vouches for nobody it waits, tells why, and loses nothing.

use bulkhead_testkit::certificates::Certificates;
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::postgres::Postgres;
use bulkhead_testkit::process::{Process, eventually};
use bulkhead_testkit::redis::Redis;
use reqwest::blocking::{Client, Response};
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
const PATIENCE: Duration = Duration::from_secs(90);
const PASSWORD: &str = "known-to-this-test";
const PIPELINE: &str = r#"version = 1
[pipeline]
name         = "secured"
delivery     = "exactly_once"
failed_retry = "1s"
source       = { topic = "secured.in", partitions = 1, group = "secured" }
output       = { topic = "secured.out" }
dlq          = { topic = "secured.dlq" }
[[stage]]
name  = "call"
retry = { initial = "50ms", max = "500ms" }
[[stage.steps]]
http = { url = '"${PAGE}"', method = "GET", tls = { ca = "HTTP.pem" } }
[[stage.steps]]
redis = { key = "k:", server = { address = "${REDIS}", tls = { ca = "REDIS.pem" } } }
[[stage.steps]]
postgres = { url = "${DATABASE}", table = "things", columns = { name = ".name" }, tls = { ca = "DATABASE.pem" } }
[[route]]
path    = "/things"
method  = "POST"
produce = {}
[[route]]
path    = "/things/{id}"
method  = "GET"
results = {}
"#;

/// An HTTPS server that answers with a page about itself.
struct Page {
    _process: Process,
    url: String,
}

impl Page {
    fn start(certificates: &Certificates, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (certificate, key) = (text(&certificates.certificate()), text(&certificates.key()));
        let args = ["s_server", "-quiet", "-www", "-accept", &address.to_string(), "-cert", &certificate, "-key", &key];
        let args = args.map(str::to_owned).to_vec();
        let process = Process::start("openssl s_server", Path::new("openssl"), args, &[], &folder.join("page.log"));
        eventually("the page is served", PATIENCE, || TcpStream::connect(address).map(drop).map_err(|e| e.to_string()));
        Self { _process: process, url: format!("https://{address}/") }
    }
}

/// The systems outside, and a config directory.
struct World {
    folder: TempDir,
    kafka: Kafka,
    redis: Redis,
    database: Postgres,
    page: Page,
}

impl World {
    fn start() -> Self {
        let (folder, certificates) = (tempfile::tempdir().expect("a folder"), Certificates::make());
        let kafka = Kafka::start_secured(&certificates, "bulkhead", PASSWORD);
        let world = Self {
            kafka,
            redis: Redis::start_encrypted(&certificates),
            database: Postgres::start_encrypted(&certificates),
            page: Page::start(&certificates, folder.path()),
            folder,
        };
        drop(world.database.query("CREATE TABLE things (id text PRIMARY KEY, name text NOT NULL)"));
        fs::create_dir_all(world.config().join("pipelines")).expect("a folder");
        let properties = r#"version = 1
[kafka.properties]
"security.protocol" = "SASL_SSL"
"sasl.mechanism"    = "SCRAM-SHA-512"
"sasl.username"     = "bulkhead"
"sasl.password"     = "${KAFKA_PASSWORD}"
"ssl.ca.location"   = "KAFKA"
"#;
        let ca = world.config().join("KAFKA.pem");
        let properties = properties.replace("KAFKA\"", &format!("{}\"", ca.display()));
        fs::write(world.config().join("bulkhead.toml"), properties).expect("written");
        fs::write(world.config().join("pipelines/secured.toml"), PIPELINE).expect("written");
        for name in ["KAFKA", "HTTP", "REDIS", "DATABASE"] {
            world.trust(name, &certificates);
        }
        world
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("config")
    }

    /// Whom the daemon believes about one of the systems.
    fn trust(&self, name: &str, certificates: &Certificates) {
        let to = self.config().join(format!("{name}.pem"));
        fs::copy(certificates.ca(), to).expect("a temporary folder can be written");
    }

    fn daemon(&self) -> Daemon {
        let spec = DaemonSpec::new(BINARY, self.config(), self.folder.path().join("data")).on(self.kafka.secured());
        let (page, redis, database) = (&self.page.url, self.redis.encrypted(), self.database.url());
        let spec = spec.env("KAFKA_PASSWORD", PASSWORD).env("PAGE", page).env("REDIS", &redis);
        Daemon::start(&spec.env("DATABASE", &database))
    }
}

fn post(daemon: &Daemon, name: &str) -> Value {
    let client = Client::builder().timeout(PATIENCE).build().expect("a client");
    let sent = client.post(daemon.url("/things")).json(&serde_json::json!({ "name": name })).send().expect("answered");
    assert_eq!(sent.status(), 202);
    sent.json().expect("JSON")
}

fn ended(daemon: &Daemon, accepted: &Value) -> Value {
    let url = daemon.url(&format!("/things/{}", accepted["jobId"].as_str().expect("an id")));
    let client = Client::builder().timeout(PATIENCE).build().expect("a client");
    eventually("the job ends", PATIENCE, || {
        let answer = client.get(&url).header("Prefer", "wait=10").send().and_then(Response::json);
        let job: Value = answer.map_err(|e| e.to_string())?;
        if job["status"] == "pending" { Err(job.to_string()) } else { Ok(job) }
    })
}

#[test]
fn each_connection_is_encrypted_and_a_stranger_is_not_believed() {
    let world = World::start();
    let daemon = world.daemon();
    daemon.wait_ready(PATIENCE);
    let job = ended(&daemon, &post(&daemon, "first"));
    assert_eq!(job["status"], "completed", "{job}");
    assert_eq!(world.database.query("SELECT name FROM things"), ["first"]);
    let ours = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'bulkhead%'";
    assert_eq!(world.database.query(ours), ["t"]);
    assert!(world.redis.ask(&["KEYS", "k:*"]).starts_with("*1\r\n"));
    assert!(!daemon.output().contains(PASSWORD));

    // Each system in its turn is vouched for by a stranger: the record waits, the log tells why, and it is not lost.
    let stranger = Certificates::make();
    let mut running = daemon;
    for (name, told) in [("HTTP", "http_unreachable"), ("REDIS", "redis_away"), ("DATABASE", "postgres_unavailable")] {
        running.sigterm();
        assert!(running.wait_exit(PATIENCE).success());
        let file = world.config().join(format!("{name}.pem"));
        let right = fs::read(&file).expect("it was written");
        world.trust(name, &stranger);
        running = world.daemon();
        running.wait_ready(PATIENCE);
        let accepted = post(&running, name);
        eventually("it is told", PATIENCE, || {
            let output = running.output();
            if output.contains(told) && output.contains("certificate") { Ok(()) } else { Err(output) }
        });
        running.sigkill();
        fs::write(&file, right).expect("it can be written");
        running = world.daemon();
        let job = ended(&running, &accepted);
        assert_eq!(job["status"], "completed", "{job}");
    }
    assert_eq!(world.database.query("SELECT count(*) FROM things"), ["4"]);
}

#[test]
fn a_kafka_that_does_not_know_us_or_is_not_known_is_told() {
    let certificates = Certificates::make();
    let kafka = Kafka::start_secured(&certificates, "bulkhead", PASSWORD);
    let check = |password: &str, ca: &Certificates| {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        fs::create_dir_all(config.join("pipelines")).expect("a folder");
        let properties = format!(
            "version = 1\n[kafka]\nbrokers = \"{}\"\n[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\n\
             \"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"bulkhead\"\n\"sasl.password\" = \
             \"${{KAFKA_PASSWORD}}\"\n\"ssl.ca.location\" = \"{}\"\n",
            kafka.secured(),
            ca.ca().display(),
        );
        fs::write(config.join("bulkhead.toml"), properties).expect("written");
        let pipeline = "version = 1\n[pipeline]\nname = \"p\"\nsource = { topic = \"p.in\", partitions = 1, group = \"p\" }\n\
                        output = { topic = \"p.out\" }\ndlq = { topic = \"p.dlq\" }\n[[stage]]\nname = \"s\"\nsteps = [{ pass = {} }]\n";
        fs::write(config.join("pipelines/p.toml"), pipeline).expect("written");
        let mut command = std::process::Command::new(BINARY);
        command.arg("check").arg("--config").arg(&config).args(["--connect"]).env("KAFKA_PASSWORD", password);
        let told = command.output().expect("it runs");
        let text = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        (told.status.success(), text)
    };
    let (is_good, told) = check(PASSWORD, &certificates);
    assert!(is_good, "{told}");
    for (password, ca, word) in
        [("another", &certificates, "uthentication"), (PASSWORD, &Certificates::make(), "certificate")]
    {
        let (is_good, told) = check(password, ca);
        assert!(!is_good && told.contains(word), "{word}: {told}");
        assert!(!told.contains(PASSWORD), "{told}");
    }
}
