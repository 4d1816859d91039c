//! A real Apache Kafka (KRaft, one node or several) as child processes on free ports, with its data in a temporary
//! folder. Never shared between test processes, never left behind.

use crate::certificates::Certificates;
use crate::java::Java;
use crate::ports::Port;
use crate::process::{Process, Signal, eventually, tail};
use crate::scratch::scratch;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long a node may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct KafkaSpec {
    /// How many nodes, each broker and controller.
    pub nodes: u16,
    /// The heap of each, MiB.
    pub heap_mib: u32,
    /// Whether the JVM compiles for speed (a benchmark) rather than for a quick start (a test).
    pub fast: bool,
    /// Broker settings that replace or add to ours.
    pub settings: Vec<(String, String)>,
    /// Who is known with a password (SCRAM-SHA-512), as the format tool takes it.
    pub known: Option<String>,
}

impl KafkaSpec {
    /// For tests: starts quickly, small.
    #[must_use]
    pub const fn test(nodes: u16) -> Self {
        Self { nodes, heap_mib: 512, fast: false, settings: Vec::new(), known: None }
    }

    /// For benchmarks: one node, 1 GiB, the whole compiler.
    #[must_use]
    pub const fn bench() -> Self {
        Self { nodes: 1, heap_mib: 1024, fast: true, settings: Vec::new(), known: None }
    }

    /// The same for workloads of a hundred records a second: its JVM is done with compiling after seconds. The whole compiler goes
    /// on for minutes at such a rate, in bursts of half a core.
    #[must_use]
    pub fn bench_slow() -> Self {
        Self { fast: false, ..Self::bench() }
    }

    /// With one broker setting more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }
}

struct Node {
    id: u16,
    broker: Port,
    controller: Port,
    folder: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }
}

/// A running cluster; dropping it kills it and removes its data.
pub struct Kafka {
    spec: KafkaSpec,
    java: Java,
    nodes: Vec<Node>,
    secured: Option<Port>,
    _folder: TempDir,
}

impl Kafka {
    /// A cluster of `nodes` nodes with the settings of a test.
    ///
    /// # Panics
    /// When Java or the jars are missing, or it does not come up.
    #[must_use]
    pub fn start(nodes: u16) -> Self {
        Self::start_with(KafkaSpec::test(nodes))
    }

    /// One node for all tests of this binary; it ends with the process.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    /// A cluster as described.
    ///
    /// # Panics
    /// When Java or the jars are missing, or it does not come up.
    #[must_use]
    pub fn start_with(spec: KafkaSpec) -> Self {
        Self::planned(spec).formatted()
    }

    /// One node that names another address than its own to its clients: that of `front`, which is given the node's port
    /// before the node runs, and must serve from then on.
    ///
    /// # Panics
    /// When Java or the jars are missing, or it does not come up.
    #[must_use]
    pub fn start_behind(front: impl FnOnce(u16) -> SocketAddr) -> Self {
        let mut kafka = Self::planned(KafkaSpec::test(1));
        let address = front(kafka.nodes[0].broker.number);
        kafka.spec.settings.push(("advertised.listeners".into(), format!("PLAINTEXT://{address}")));
        kafka.formatted()
    }

    /// One node that also has a port with TLS, for those who know a password alone (`SASL_SSL`, SCRAM-SHA-512).
    ///
    /// # Panics
    /// When Java or the jars are missing, or it does not come up.
    #[must_use]
    pub fn start_secured(certificates: &Certificates, user: &str, password: &str) -> Self {
        let mut kafka = Self::planned(KafkaSpec::test(1));
        let (node, port) = (&kafka.nodes[0], Port::take());
        let plain = format!("PLAINTEXT://127.0.0.1:{}", node.broker.number);
        let secured = format!("SASL_SSL://127.0.0.1:{}", port.number);
        let controller = format!("CONTROLLER://127.0.0.1:{}", node.controller.number);
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let settings = [
            ("listeners", format!("{plain},{controller},{secured}")),
            ("advertised.listeners", format!("{plain},{secured}")),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL".into()),
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512".into()),
            ("listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config", login.into()),
            ("ssl.keystore.type", "PEM".into()),
            ("ssl.keystore.location", path(&certificates.both()).to_owned()),
        ];
        kafka.spec.settings.extend(settings.map(|(name, value)| (name.to_owned(), value)));
        kafka.spec.known = Some(format!("SCRAM-SHA-512=[name={user},password={password}]"));
        kafka.secured = Some(port);
        kafka.formatted()
    }

    /// `host:port` of the port with TLS.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn secured(&self) -> String {
        format!("127.0.0.1:{}", self.secured.as_ref().expect("it was started secured").number)
    }

    /// A cluster that has its ports, no more.
    fn planned(spec: KafkaSpec) -> Self {
        assert!(spec.nodes > 0, "a cluster has at least one node");
        let (java, folder) = (Java::find(), scratch("kafka"));
        let nodes: Vec<Node> = (1..=spec.nodes)
            .map(|id| Node {
                id,
                broker: Port::take(),
                controller: Port::take(),
                folder: folder.path().join(format!("node-{id}")),
                process: Mutex::new(None),
            })
            .collect();
        Self { spec, java, nodes, secured: None, _folder: folder }
    }

    fn formatted(self) -> Self {
        std::thread::scope(|scope| {
            for node in &self.nodes {
                scope.spawn(|| self.format(node));
            }
        });
        self.start_again();
        self
    }

    /// `host:port` of every node, comma-separated.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.broker.number)).collect();
        hosts.join(",")
    }

    /// How many nodes it has.
    #[must_use]
    pub fn nodes(&self) -> u16 {
        self.spec.nodes
    }

    /// Client settings that every client of a test starts from.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        // A client that asks while the broker is down or elsewhere is part of the test, no news.
        config.set("log_level", "2");
        config
    }

    /// Stops every node in good order.
    pub fn stop(&self) {
        for node in &self.nodes {
            if let Some(process) = &*node.process() {
                process.signal(Signal::Term);
            }
        }
        for id in 1..=self.spec.nodes {
            self.stop_node(id);
        }
    }

    /// Starts every node that does not run, on the same ports and data, and waits until all answer.
    pub fn start_again(&self) {
        for node in &self.nodes {
            self.launch(node);
        }
        self.wait_for(self.nodes.len());
    }

    /// Kills every node (SIGKILL).
    pub fn kill(&self) {
        for id in 1..=self.spec.nodes {
            self.kill_node(id);
        }
    }

    /// Makes every node stand still (SIGSTOP).
    pub fn pause(&self) {
        self.signal_all(Signal::Stop);
    }

    /// Lets every node go on (SIGCONT).
    pub fn resume(&self) {
        self.signal_all(Signal::Cont);
    }

    /// Stops node `id` (from 1) in good order; the rest of the cluster may go on without it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop_node(&self, id: u16) {
        if let Some(process) = self.node(id).process().take() {
            process.signal(Signal::Term);
            // A controller without a majority waits for one before it ends, so a whole cluster is not stopped politely.
            if process.wait_exit(Duration::from_secs(20)).is_none() {
                process.kill();
            }
        }
    }

    /// Kills node `id` (from 1).
    pub fn kill_node(&self, id: u16) {
        if let Some(process) = self.node(id).process().take() {
            process.kill();
        }
    }

    /// Starts node `id` (from 1) on the same ports and data, and waits until it answers beside those that run.
    pub fn start_node(&self, id: u16) {
        self.launch(self.node(id));
        self.wait_for(self.nodes.iter().filter(|n| n.process().is_some()).count());
    }

    /// Sends a signal to node `id` (from 1), if it runs.
    pub fn signal_node(&self, id: u16, signal: Signal) {
        if let Some(process) = &*self.node(id).process() {
            process.signal(signal);
        }
    }

    fn signal_all(&self, signal: Signal) {
        (1..=self.spec.nodes).for_each(|id| self.signal_node(id, signal));
    }

    fn node(&self, id: u16) -> &Node {
        &self.nodes[usize::from(id) - 1]
    }

    pub(crate) const fn java(&self) -> &Java {
        &self.java
    }

    fn format(&self, node: &Node) {
        std::fs::create_dir_all(&node.folder).expect("a temporary folder can be made");
        std::fs::write(node.config(), self.properties(node)).expect("the broker's settings can be written");
        let config = node.config();
        let mut args = vec!["format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config", path(&config)];
        args.extend(self.spec.known.iter().flat_map(|known| ["--add-scram", known]));
        let output = self.java.run("kafka.tools.StorageTool", &args);
        assert!(output.status.success(), "Kafka's format: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn launch(&self, node: &Node) {
        let mut process = node.process();
        if process.is_none() {
            let (least, most) = (format!("-Xms{}m", self.spec.heap_mib / 2), format!("-Xmx{}m", self.spec.heap_mib));
            let jit = if self.spec.fast { "-XX:+TieredCompilation" } else { "-XX:TieredStopAtLevel=1" };
            let jvm = ["-XX:+UseSerialGC", jit, &least, &most];
            let name = format!("kafka node {}", node.id);
            *process = Some(self.java.start(&name, &jvm, "kafka.Kafka", &[path(&node.config())], &node.log()));
        }
    }

    /// Waits until `count` nodes are in the metadata.
    fn wait_for(&self, count: usize) {
        let consumer: BaseConsumer = self.client().create().expect("a client can be made");
        eventually("Kafka answers", PATIENCE, || {
            for node in &self.nodes {
                if let Some(status) = node.process().as_ref().and_then(Process::exit_status) {
                    panic!("kafka node {} ended ({status}):\n{}", node.id, tail(&node.log(), 40));
                }
            }
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(1)).map_err(|e| e.to_string())?;
            let up = metadata.brokers().len();
            if up >= count { Ok(()) } else { Err(format!("{up} of {count} nodes")) }
        });
    }

    fn properties(&self, node: &Node) -> String {
        let voters: Vec<String> =
            self.nodes.iter().map(|n| format!("{}@127.0.0.1:{}", n.id, n.controller.number)).collect();
        let listener = format!("PLAINTEXT://127.0.0.1:{}", node.broker.number);
        let (copies, least) = (self.spec.nodes.min(3), if self.spec.nodes >= 3 { 2 } else { 1 });
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners={listener},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={listener}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             default.replication.factor={copies}\n\
             min.insync.replicas={least}\n\
             offsets.topic.num.partitions=4\n\
             offsets.topic.replication.factor={copies}\n\
             transaction.state.log.num.partitions=4\n\
             transaction.state.log.replication.factor={copies}\n\
             transaction.state.log.min.isr={least}\n\
             share.coordinator.state.topic.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor={copies}\n\
             share.coordinator.state.topic.min.isr={least}\n\
             group.initial.rebalance.delay.ms=0\n\
             group.consumer.min.session.timeout.ms=10000\n\
             group.consumer.session.timeout.ms=10000\n\
             group.consumer.min.heartbeat.interval.ms=2000\n\
             group.consumer.heartbeat.interval.ms=2000\n\
             log.cleaner.dedupe.buffer.size=8388608\n",
            id = node.id,
            voters = voters.join(","),
            controller = node.controller.number,
            data = path(&node.folder.join("data")),
        );
        for (name, value) in &self.spec.settings {
            writeln!(text, "{name}={value}").expect("text can be appended to");
        }
        text
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- kafka node {}, last lines\n{}", node.id, tail(&node.log(), 20));
            }
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
