//! With a real Airflow and the DAGs that are shipped.

use crate::rig::{Answer, On, PATIENCE, PICTURE, Uploads, form};
use bulkhead_testkit::airflow::Airflow;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const DETECTION: &str = "object_detection_single_task";
const VIRTUALENV: &str = "test_kafka_in_virtualenv_dag";
/// DAG runs take about eight seconds each, a virtual environment's first longer; on a busy machine much more.
const LONG: &[(&str, &str)] = &[
    ("wait_max = \"30s\"", "wait_max = \"170s\""),
    ("wait_max = \"60s\"", "wait_max = \"170s\""),
    ("timeout = \"5s\"", "timeout = \"20s\""),
];

/// A task that cannot reach Airflow's own API in time fails; on a busy machine the 5 s that it has are too few.
const PATIENT: (&str, &str) = ("AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT", "60");

fn runs(airflow: &Airflow, dag: &str) -> u64 {
    let (_, runs) = airflow.get(&format!("/api/v2/dags/{dag}/dagRuns")).expect("Airflow answers");
    runs["total_entries"].as_u64().expect("it counts its runs")
}

/// The things on the picture (tests/systems_uploads/two-things.png), each side within a few pixels.
fn assert_two_things(found: &Value) {
    let objects = found["objects"].as_array().unwrap_or_else(|| panic!("no objects in {found}"));
    assert_eq!(
        (objects.len(), found["width"].as_u64(), found["height"].as_u64()),
        (2, Some(640), Some(480)),
        "{found}"
    );
    for wanted in [[400, 250, 560, 350], [80, 80, 180, 200]] {
        let is_near = |object: &Value| {
            let sides =
                object["box"].as_array().into_iter().flatten().map(|side| side.as_i64().unwrap_or(i64::MIN / 2));
            sides.zip(wanted).all(|(is, should)| (is - should).abs() <= 5)
        };
        assert!(objects.iter().any(is_near), "nothing at {wanted:?} in {found}");
    }
}

#[test]
fn a_picture_goes_through_a_real_airflow_and_its_things_come_back() {
    let kafka = Kafka::shared();
    let dags = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/airflow/dags");
    let airflow = Airflow::start(&dags, &[DETECTION, VIRTUALENV], &[("BULKHEAD_KAFKA", &kafka.bootstrap()), PATIENT]);
    let uploads = Uploads::start(On::Kafka("images"), &airflow.url(), LONG);

    // The slow one is asked for first and looked at last.
    let prefer = |path: &str| uploads.post(path).header("Prefer", "respond-async");
    let virtualenv = Answer::of(prefer("/trigger-test-kafka-dag/").send().expect("it is answered"));
    assert_eq!(virtualenv.status, 202, "{virtualenv:?}");

    let keyed = || uploads.post("/upload/").header("Idempotency-Key", "once").multipart(form(PICTURE, &[]));
    let first = Answer::of(keyed().send().expect("it is answered"));
    assert_eq!(first.status, 200, "{first:?}");
    assert_two_things(&first.body);
    let again = Answer::of(keyed().send().expect("it is answered"));
    assert_eq!((again.status, again.body), (200, first.body), "the first answer again");
    assert_eq!(runs(&airflow, DETECTION), 1, "one run for one key");

    let unknown = uploads.upload(PICTURE, &[("dag_id", "no_such_dag")]);
    assert_eq!((unknown.status, unknown.body["code"].as_str()), (422, Some("http_404")), "{unknown:?}");
    assert!(unknown.detail().contains("no_such_dag"), "{unknown:?}");

    let id = virtualenv.body["jobId"].as_str().expect("a job").to_owned();
    let job = eventually("the message came", Duration::from_secs(170), || match uploads.job(&id) {
        job if job["status"] == "pending" => Err(job.to_string()),
        job => Ok(job),
    });
    assert_eq!((&job["status"], &job["result"]["jobId"]), (&Value::from("completed"), &Value::from(id)), "{job}");
    assert_eq!(job["result"]["message"], "hello from a virtual environment");

    airflow.kill();
    let begun = Instant::now();
    let down = uploads.upload(PICTURE, &[]);
    assert_eq!(down.status, 503, "{down:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "told within seconds: {:?}", begun.elapsed());
    assert_eq!(uploads.job(down.job())["status"], "failed");
    eventually("it stays told at once", PATIENCE, || {
        let answer = uploads.upload(PICTURE, &[]);
        if answer.body["code"] == "circuit_open" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
