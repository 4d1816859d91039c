//! Finds Java and Kafka's jars and starts their main classes. Never fetches anything: `scripts/get-kafka.sh` does.

use crate::process::Process;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The release that `scripts/get-kafka.sh` fetches.
const FOLDER: &str = "kafka-4.1.0";
const ADVICE: &str = "run `make setup` (or `scripts/get-kafka.sh`) first";

/// Java's command line for Kafka's classes.
pub(crate) struct Java {
    program: PathBuf,
    class_path: String,
}

impl Java {
    /// Finds both.
    ///
    /// # Panics
    /// When one is missing, with what to do about it.
    pub(crate) fn find() -> Self {
        let cache = std::env::var_os("BULKHEAD_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/bulkhead"),
            PathBuf::from,
        );
        let jars = cache.join(FOLDER);
        assert!(jars.join(".complete").exists(), "no Kafka jars in {}: {ADVICE}", jars.display());
        let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
        let program = home.filter(|java| java.exists()).unwrap_or_else(|| PathBuf::from("java"));
        let answer = Command::new(&program).arg("-version").output();
        assert!(answer.is_ok_and(|o| o.status.success()), "no Java (17 or newer): {ADVICE}");
        Self { program, class_path: format!("{}/*", jars.display()) }
    }

    fn arguments(&self, jvm: &[&str], class: &str, args: &[&str]) -> Vec<String> {
        let head = ["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.showDateTime=true"];
        let dates = "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS";
        let class_path = ["-cp", &self.class_path, class];
        jvm.iter().chain(&head).chain([&dates]).chain(&class_path).chain(args).map(ToString::to_string).collect()
    }

    /// Runs a main class to its end.
    pub(crate) fn run(&self, class: &str, args: &[&str]) -> Output {
        let jvm = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"];
        let arguments = self.arguments(&jvm, class, args);
        Command::new(&self.program).args(arguments).output().expect("Java was found and can be started")
    }

    /// Starts a main class that keeps running, its output in `log`.
    pub(crate) fn start(&self, name: &str, jvm: &[&str], class: &str, args: &[&str], log: &Path) -> Process {
        Process::start(name, &self.program, self.arguments(jvm, class, args), &[], log)
    }
}
