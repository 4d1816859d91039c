"""Shows that a task in a virtual environment of its own reaches Kafka: it publishes one message to `kafka_test`, under the id of
the job that asked for it. The environment is made by Airflow at the first run, which takes a while, and kept."""

import os

try:  # Airflow 3
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

import bulkhead_kafka

TOPIC = os.environ.get("BULKHEAD_KAFKA_TEST", "kafka_test")
KEPT = os.environ.get("BULKHEAD_VENVS") or os.path.join(os.environ.get("AIRFLOW_HOME", "/tmp"), "venvs")


@dag(dag_id="test_kafka_in_virtualenv_dag", schedule=None, catchup=False, tags=["bulkhead"])
def test_kafka_in_virtualenv_dag():
    @task
    def job(dag_run=None):
        return dag_run.conf

    @task.virtualenv(
        requirements=["confluent-kafka==2.16.1"],
        system_site_packages=False,
        venv_cache_path=KEPT,
        on_failure_callback=bulkhead_kafka.tell_failure(TOPIC),
    )
    def publish(conf, brokers, topic):
        import json
        import sys

        from confluent_kafka import Producer, version

        failures = []
        message = {"message": "hello from a virtual environment", "client": str(version()), "python": sys.version.split()[0]}
        producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "message.timeout.ms": 20000})
        producer.produce(
            topic,
            key=conf["job_id"].encode(),
            value=json.dumps({"jobId": conf["job_id"], **message}).encode(),
            headers=[("__bulkhead.id", conf["job_id"].encode()), ("content-type", b"application/json")],
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        if producer.flush(25) or failures:
            raise RuntimeError(f"{topic}: {failures or 'not acknowledged'}")

    publish(job(), bulkhead_kafka.BROKERS, TOPIC)


test_kafka_in_virtualenv_dag()
