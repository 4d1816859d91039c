//! Every bad order by name: each is refused with what is wrong with it, and none is stored.

use crate::{Orders, metric, order, post, try_post};
use bulkhead_testkit::daemon::Daemon;
use reqwest::blocking::Client;
use serde_json::{Value, json};

/// The order with one place in it changed.
fn with(pointer: &str, value: Value) -> String {
    let mut order = order("ada");
    *order.pointer_mut(pointer).expect("the order has it") = value;
    order.to_string()
}

fn of_items(items: &str, total: &str) -> String {
    format!(r#"{{"customer_id":"ada","items":[{items}],"total_amount":{total}}}"#)
}

fn item(quantity: &str, price: &str) -> String {
    format!(r#"{{"product_id":"lamp","quantity":{quantity},"price":{price}}}"#)
}

#[test]
fn every_violation_of_the_schema_is_told_with_its_place() {
    let orders = Orders::new("violations");
    let daemon = orders.start(None);
    let mut without = order("ada");
    without.as_object_mut().expect("an object").remove("customer_id");
    for (what, body, places) in [
        ("no customer", without.to_string(), &[""] as &[&str]),
        ("an empty customer", with("/customer_id", json!("")), &["/customer_id"]),
        ("a customer that is a number", with("/customer_id", json!(7)), &["/customer_id"]),
        ("no items", with("/items", json!([])), &["/items"]),
        ("a quantity of zero", with("/items/0/quantity", json!(0)), &["/items/0/quantity"]),
        ("a negative quantity", with("/items/0/quantity", json!(-1)), &["/items/0/quantity"]),
        ("half a lamp", with("/items/0/quantity", json!(0.5)), &["/items/0/quantity"]),
        ("a negative price", with("/items/0/price", json!(-1)), &["/items/0/price"]),
        ("a price that is text", with("/items/0/price", json!("29.99")), &["/items/0/price"]),
        ("a total that is null", with("/total_amount", Value::Null), &["/total_amount"]),
        ("an array", "[1]".to_owned(), &[""]),
        (
            "three mistakes at once",
            r#"{"customer_id":"","items":[{"product_id":"lamp","quantity":0,"price":-1}],"total_amount":0}"#.to_owned(),
            &["/customer_id", "/items/0/price", "/items/0/quantity"],
        ),
    ] {
        let refused = try_post(&daemon, &body, Some("k")).expect("answered");
        assert_eq!((refused.status, refused.problem()), (422, "rejected"), "{what}: {refused:?}");
        assert_eq!((&refused.body["code"], &refused.body["step"]), (&"schema_violation".into(), &"validate".into()));
        let violations = refused.body["violations"].as_array().expect("they are listed");
        let mut found: Vec<&str> = violations.iter().map(|one| one["path"].as_str().expect("a path")).collect();
        found.sort_unstable();
        assert_eq!(found, places, "{what}: {refused:?}");
        let is_told = |one: &Value| one["message"].as_str().is_some_and(|message| !message.is_empty());
        assert!(violations.iter().all(is_told), "{what}: {refused:?}");
    }
    assert_eq!(post(&daemon, &order("ada"), Some("k")).status, 202, "the key was not used up");
}

#[test]
fn totals_are_exact_to_the_cent_however_they_are_written() {
    let orders = Orders::new("totals");
    let daemon = orders.start(None);
    let pair = |a: &str, b: &str| format!("{},{}", item("1", a), item("1", b));
    let many = vec![item("1", "0.1"); 3].join(",");
    for (what, items, total, code) in [
        ("0.1 + 0.2 is 0.3", pair("0.1", "0.2"), "0.3", None),
        ("0.1 + 0.2 is not what floats make of it", pair("0.1", "0.2"), "0.30000000000000004", Some("bad_amount")),
        ("ten cents three times", many, "0.30", None),
        ("29.99 twice", item("2", "29.99"), "59.98", None),
        ("a cent too much", item("2", "29.99"), "59.99", Some("wrong_total")),
        ("a cent too little", item("2", "29.99"), "59.97", Some("wrong_total")),
        ("1.1 times 3 is 3.3", item("3", "1.1"), "3.3", None),
        ("exponents", item("1e1", "1.5e-1"), "15e-1", None),
        ("a quantity of 2.0", item("2.0", "0.07"), "0.14", None),
        ("beyond 2^53", item("1000000", "90071992547409.93"), "90071992547409930000", None),
        ("beyond 2^53, off by a cent", item("1", "90071992547409.93"), "90071992547409.94", Some("wrong_total")),
        ("beyond i64", item("1000000", "9223372036854775807.99"), "9223372036854775807990000", None),
        (
            "beyond i64, off by a cent",
            item("1", "9223372036854775807.99"),
            "9223372036854775807.98",
            Some("wrong_total"),
        ),
        ("a part of a cent", item("1", "0.005"), "0.005", Some("bad_amount")),
        ("more digits than money has", item("1", "1e40"), "1e40", Some("bad_amount")),
    ] {
        let answer = try_post(&daemon, &of_items(&items, total), None).expect("answered");
        match code {
            None => assert_eq!(answer.status, 202, "{what}: {answer:?}"),
            Some(code) => {
                assert_eq!((answer.status, answer.problem()), (422, "rejected"), "{what}: {answer:?}");
                assert_eq!((&answer.body["code"], &answer.body["step"]), (&code.into(), &"reject".into()), "{what}");
            }
        }
    }
}

/// Posts bytes as this media type: the status and the problem.
fn raw(daemon: &Daemon, kind: Option<&str>, key: Option<&str>, body: &'static [u8]) -> (u16, String) {
    let mut request = Client::new().post(daemon.url("/orders/")).body(body);
    for (name, value) in [("Content-Type", kind), ("Idempotency-Key", key)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let answer = crate::Answer::of(request.send().expect("answered"));
    assert!(!answer.body["detail"].as_str().unwrap_or_default().is_empty(), "{answer:?}");
    (answer.status, answer.problem().to_owned())
}

#[test]
fn what_is_no_order_at_all_is_told_by_name() {
    let orders = Orders::new("none");
    let daemon = orders.start(None);
    let json = Some("application/json");
    let good = br#"{"customer_id":"a","items":[{"product_id":"l","quantity":1,"price":1}],"total_amount":1}"#;
    let mut long = vec![b' '; (256 << 10) + 1];
    long[0] = b'{';
    for (what, kind, key, body, status, code) in [
        ("no JSON", json, None, b"{" as &[u8], 400, "bad-json"),
        ("no UTF-8", json, None, b"{\"customer_id\":\"\xff\"}", 400, "bad-json"),
        ("nothing", json, None, b"", 400, "empty-body"),
        ("a form", Some("application/x-www-form-urlencoded"), None, good, 415, "unsupported-media-type"),
        ("no media type", None, None, good, 415, "unsupported-media-type"),
        ("a key that is none", json, Some("a b"), good, 400, "bad-idempotency-key"),
        ("a key in the order that is none", json, None, br#"{"idempotency_key":"\u00e4"}"#, 400, "bad-idempotency-key"),
        ("an empty key in the order", json, None, br#"{"idempotency_key":""}"#, 400, "bad-idempotency-key"),
        ("a key in the order that is a list", json, None, br#"{"idempotency_key":[]}"#, 400, "bad-idempotency-key"),
        ("too much", json, None, long.leak(), 413, "body-too-large"),
    ] {
        assert_eq!(raw(&daemon, kind, key, body), (status, code.to_owned()), "{what}");
    }
    let other = Client::new().put(daemon.url("/orders/")).send().expect("answered");
    assert_eq!(other.status(), 405);
    assert!(metric(&daemon, "bulkhead_records_in_total") < 1.0, "nothing was stored");
    assert_eq!(raw_ok(&daemon, good), 202);
}

fn raw_ok(daemon: &Daemon, body: &'static [u8]) -> u16 {
    let request = Client::new().post(daemon.url("/orders/")).header("Content-Type", "application/json");
    request.body(body).send().expect("answered").status().as_u16()
}
