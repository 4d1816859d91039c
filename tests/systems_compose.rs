//! What runs beside the daemon in docker-compose.yml: every profile is a whole, what it mounts is there, and what dashboard
//! and alerts ask for is counted by the daemon. Starts no container.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The composition with these profiles, as docker-compose reads it.
fn composed(profiles: &[&str]) -> String {
    let mut command = Command::new("docker-compose");
    command.current_dir(root()).args(profiles.iter().flat_map(|profile| ["--profile", profile])).arg("config");
    let output = command.output().expect("docker-compose is there (Debian: docker-compose)");
    assert!(output.status.success(), "{profiles:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn every_profile_adds_its_service_to_the_daemon_and_its_kafka() {
    for (profile, service) in [
        ("redis", "redis"),
        ("postgres", "postgres"),
        ("airflow", "airflow"),
        ("metrics", "prometheus"),
        ("metrics", "grafana"),
    ] {
        let composed = composed(&[profile]);
        // Services are indented by two, what is said of them by four.
        let of = |name: &str| {
            let from = composed.lines().skip_while(|line| *line != format!("  {name}:")).skip(1);
            from.take_while(|line| line.starts_with("    ")).map(str::trim).collect::<Vec<_>>()
        };
        let said = of(service);
        let is_off = said.windows(2).any(|lines| lines == ["profiles:", &format!("- {profile}")]);
        assert!(is_off && said.iter().any(|line| line.starts_with("image: ")), "{service}: {said:?}");
        for always in ["bulkhead", "kafka"] {
            let said = of(always);
            assert!(!said.is_empty() && !said.contains(&"profiles:"), "{always}: {said:?}");
        }
    }
}

#[test]
fn what_is_mounted_is_there() {
    let file = read("docker-compose.yml");
    let mounted: Vec<_> = file.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next()).collect();
    assert!(mounted.len() >= 4, "{mounted:?}");
    // Git keeps no empty folder: the DAGs' comes with the system that runs them.
    for path in mounted {
        assert!(root().join(path).is_dir(), "{path}");
    }
}

/// What a service is told by environment variables, in the file as it stands.
fn variables(service: &str) -> BTreeSet<String> {
    let file = read("docker-compose.yml");
    let of = file.lines().skip_while(|line| *line != format!("  {service}:")).skip(1);
    let of = of.take_while(|line| line.is_empty() || line.starts_with("    "));
    let environment = of.skip_while(|line| *line != "    environment:").skip(1);
    let told = environment.take_while(|line| line.starts_with("      ")).map(str::trim);
    let told = told.filter(|line| !line.starts_with('#'));
    told.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

/// The text of every file below this folder.
fn texts(folder: &str, ending: &str) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|is| is == ending) {
            text += &std::fs::read_to_string(&path).expect("it is text");
        }
    }
    text
}

#[test]
fn what_services_are_told_somebody_reads() {
    let (daemon, airflow) = (variables("bulkhead"), variables("airflow"));
    assert!(daemon.len() >= 8 && airflow.len() >= 4, "{daemon:?} {airflow:?}");
    let config = texts("config", "toml") + &texts("config/pipelines", "toml");
    let read_by_config: BTreeSet<String> = config
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split("${").skip(1))
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect();
    assert_eq!(daemon, read_by_config, "what the daemon is told, and what the shipped config reads");
    let dags = texts("config/airflow/dags", "py");
    for name in airflow.iter().filter(|name| !name.starts_with("AIRFLOW__") && !name.starts_with("_PIP")) {
        assert!(dags.contains(&format!("\"{name}\"")), "no DAG reads {name}");
    }
    let needed = read("config/airflow/requirements.txt");
    let needed = needed.lines().filter(|line| !line.starts_with('#'));
    let file = read("docker-compose.yml");
    let given =
        file.lines().find_map(|line| line.trim().strip_prefix("_PIP_ADDITIONAL_REQUIREMENTS: ")).expect("it is there");
    for package in needed.filter_map(|line| line.split(['=', '>', '<']).next()) {
        assert!(given.contains(package), "{package} is missing in {given}");
    }
}

/// The metrics that the daemon has, as they are named for Prometheus: without their endings.
fn metrics() -> BTreeSet<String> {
    let source = read("actors/src/metrics.rs");
    let names = source.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": "));
    names.filter(|(_, rest)| rest.contains(" = ")).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_what_is_counted() {
    let (known, dashboard) = (metrics(), read("config/grafana/dashboards/bulkhead.json"));
    let page: Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    assert!(page["panels"].as_array().is_some_and(|panels| panels.len() >= 10));
    let asked = format!("{dashboard}{}", read("config/prometheus/alerts.yml"));
    let words = asked
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter_map(|word| word.strip_prefix("bulkhead_"));
    let asked: BTreeSet<_> = words.collect();
    assert!(asked.len() >= 15, "{asked:?}");
    let bare = |name: &str| name.trim_end_matches("_total").trim_end_matches("_bucket").to_owned();
    let unknown: Vec<_> = asked.into_iter().filter(|name| !known.contains(&bare(name))).collect();
    assert!(unknown.is_empty(), "nobody counts {unknown:?}: {known:?}");
    assert!(Path::new(&root().join("config/prometheus/prometheus.yml")).is_file());
}
