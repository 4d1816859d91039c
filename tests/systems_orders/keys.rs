//! Idempotency keys of orders: in the header, in the order, or drawn; what comes of an order that is sent again.

use crate::{Orders, PATIENCE, ended, keyed, metric, order, post};
use bulkhead_testkit::process::eventually;
use serde_json::json;

#[test]
fn an_order_is_answered_at_once_and_told_of_when_it_is_done() {
    let orders = Orders::new("simple");
    let daemon = orders.start(None);
    let accepted = post(&daemon, &order("ada"), None);
    let id = accepted.id();
    let job = ended(&daemon, &id);
    let expected = json!({
        "customer_id": "ada",
        "items": [{ "product_id": "lamp", "quantity": 2, "price": 29.99 }],
        "total_amount": 59.98,
        "order_id": id,
        "status": "processed",
        "total_cents": 5_998,
    });
    assert_eq!((&job["status"], &job["result"]), (&"completed".into(), &expected));

    // Without a key, the same order is another one, on purpose; under the key that was drawn, it is the same.
    let key = accepted.key.clone().expect("the drawn key is told");
    assert_eq!(accepted.body["idempotencyKey"], *key);
    assert_ne!(post(&daemon, &order("ada"), None).id(), id);
    let again = post(&daemon, &order("ada"), Some(&key));
    assert!(again.is_replay);
    assert_eq!((again.key, again.body), (accepted.key, accepted.body));
}

#[test]
fn one_key_is_one_order_wherever_the_key_stands() {
    let orders = Orders::new("keys");
    let daemon = orders.start(None);
    let header = post(&daemon, &order("ada"), Some("k-header"));
    let field = post(&daemon, &keyed("ada", "k-field"), None);
    let both = post(&daemon, &keyed("ada", "k-both"), Some("\"k-both\""));
    let answers = [&header, &field, &both];
    assert_eq!(answers.map(|answer| (answer.status, answer.is_replay)), [(202, false); 3]);
    for answer in answers {
        assert_eq!(ended(&daemon, &answer.id())["status"], "completed");
    }
    // Counted once their batch is settled, which is after its commit, by which a job is known to be done.
    eventually("three orders have three effects", PATIENCE, || match metric(&daemon, "bulkhead_records_out_total") {
        3.0 => Ok(()),
        other => Err(other.to_string()),
    });

    // Whatever was restarted in between, and however hard.
    daemon.sigkill();
    let daemon = orders.start(None);
    let again = [
        post(&daemon, &order("ada"), Some("\"k-header\"")),
        post(&daemon, &keyed("ada", "k-field"), None),
        post(&daemon, &keyed("ada", "k-both"), Some("k-both")),
    ];
    for (answer, again) in answers.into_iter().zip(again) {
        assert!(again.is_replay, "{again:?}");
        assert_eq!(again.body, answer.body, "the first answer, to the letter");
    }
    // Another body is refused, also where another customer's partition would take it.
    for (body, key) in
        [(order("bob"), Some("k-header")), (keyed("bob", "k-field"), None), (keyed("ada", "k-both"), Some("k-header"))]
    {
        let refused = post(&daemon, &body, key);
        let expected =
            if body["idempotency_key"] == "k-both" { "idempotency-keys-differ" } else { "idempotency-key-reused" };
        assert_eq!(refused.problem(), expected, "{refused:?}");
    }
    assert!(metric(&daemon, "bulkhead_records_out_total") < 1.0, "and none since");
}

#[test]
fn a_customer_that_ends_in_f_is_a_failure_to_look_at() {
    let orders = Orders::new("failures");
    let daemon = orders.start(None);
    let id = post(&daemon, &order("jeff"), Some("k")).id();
    let job = ended(&daemon, &id);
    assert_eq!((&job["status"], &job["result"]), (&"failed".into(), &json!(null)));
    let error = &job["error"];
    let told = (&error["code"], &error["stage"], &error["class"], &error["attempts"]);
    assert_eq!(told, (&"simulated_failure".into(), &"process".into(), &"poison".into(), &1.into()), "{error}");
    assert_eq!(ended(&daemon, &post(&daemon, &order("fay"), None).id())["status"], "completed");
    assert_eq!(daemon.get_json(&daemon.url("/orders/AQGh-leM6K75dBuyvNsNYnk6XFPe2e598HGc75tg")).0, 404);
}
