"""What bulkhead's DAGs share: reading the one record that a run is about, and telling bulkhead how the run ended.

A run's `conf` locates its record: {"job_id", "topic", "partition", "offset"}. Its end is a record in the topic of results: the
result as JSON under the header `__bulkhead.id`, or a failure under `__bulkhead.errors.code` beside it. Whatever is told
twice, bulkhead takes the first.
"""

import json
import os
import time

BROKERS = os.environ.get("BULKHEAD_KAFKA", "localhost:9092")
# Headers that a result inherits, so that every gateway can tell whose it is and how long it took.
INHERITED = ("__bulkhead.id", "__bulkhead.accepted", "__bulkhead.fingerprint", "__bulkhead.round")


class Refused(Exception):
    """The record itself is wrong; trying again would change nothing."""


def read(conf, timeout_s=20.0):
    """The record's value and headers. Raises LookupError where it is not there (any more)."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": BROKERS,
            "group.id": "airflow-" + conf["job_id"],  # nothing is committed: the place is known
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 64 << 20,
        }
    )
    try:
        consumer.assign([TopicPartition(conf["topic"], conf["partition"], conf["offset"])])
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise LookupError(str(message.error()))
            headers = dict(message.headers() or [])
            if message.offset() != conf["offset"] or headers.get("__bulkhead.id", b"").decode() != conf["job_id"]:
                raise LookupError(f"the record at {conf} is not there any more")
            return message.value() or b"", headers
        raise LookupError(f"no record came from {BROKERS} for {conf} within {timeout_s} s")
    finally:
        consumer.close()


def tell(topic, conf, value, headers=None, errors=None):
    """Tells how a run ended: `value` as JSON; `errors` ({"code", "message", "class", "stage"}) where it failed."""
    from confluent_kafka import Producer

    own = {name: text for name, text in (headers or {}).items() if name in INHERITED}
    own["__bulkhead.id"] = conf["job_id"].encode()
    own["content-type"] = b"application/json"
    for name, text in (errors or {}).items():
        own["__bulkhead.errors." + name] = str(text).encode()
    failures = []
    producer = Producer({"bootstrap.servers": BROKERS, "enable.idempotence": True, "message.timeout.ms": 20000})
    producer.produce(
        topic,
        key=conf["job_id"].encode(),
        value=json.dumps(value).encode(),
        headers=list(own.items()),
        on_delivery=lambda error, _: failures.append(error) if error else None,
    )
    left = producer.flush(25)
    if failures or left:
        raise RuntimeError(f"{topic}: {failures or 'not acknowledged'}")


def tell_failure(topic):
    """An `on_failure_callback` for a task: the run failed, whatever the reason."""

    def callback(context):
        run = context["dag_run"]
        conf = run.conf or {}
        if "job_id" in conf:
            why = f"{run.dag_id}: {context.get('exception')}"[:1000]
            tell(topic, conf, None, errors={"code": "dag_failed", "message": why, "class": "fatal", "stage": "airflow"})

    return callback
