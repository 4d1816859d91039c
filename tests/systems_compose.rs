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
