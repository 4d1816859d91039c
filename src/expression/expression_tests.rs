//! Expressions over records: what they see, what they give, what they may not do, and how a mistake in one is told.

use super::*;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, ID_HEADER, Origin, Record};

const LIMITS: ExpressionLimits = ExpressionLimits { turns_max: 10_000, bytes_max: 10_000 };
const ORIGIN: Origin = Origin { partition: Partition(2), offset: Offset(17), attempt: 3 };

fn record(value: &str) -> Record {
    let headers = vec![Header::new("content-type", "application/json"), Header::new(ID_HEADER, "job-1")];
    Record { key: Some("k1".into()), value: Some(value.to_owned().into()), headers, ..Record::default() }
}

/// What an expression gives, each value as JSON.
fn run(expression: &str, record: &Record) -> Result<Vec<String>, Fault> {
    let jq: Jq = expression.parse().unwrap_or_else(|why| panic!("{expression}: {why}"));
    let subject = Subject::new(record, Some(Place { topic: "orders", origin: ORIGIN }))?;
    let values = jq.values(&subject, LIMITS, 100)?;
    let json = |value: &Value| value.to_json(LIMITS.bytes_max).map_err(|why| Fault::poison(FAILED, why));
    values.iter().map(|value| Ok(String::from_utf8(json(value)?).expect("JSON is text"))).collect()
}

fn gives(expression: &str, value: &str) -> String {
    run(expression, &record(value)).unwrap_or_else(|fault| panic!("{expression}: {fault}")).join(" ")
}

fn fails(expression: &str, value: &str) -> Fault {
    run(expression, &record(value)).expect_err(expression)
}

#[test]
fn an_expression_sees_the_record_and_where_it_lies() {
    assert_eq!(gives(".a, $key, $id", r#"{"a": [1, null]}"#), r#"[1,null] "k1" "job-1""#);
    let origin = r#"{"topic":"orders","partition":2,"offset":17,"attempt":3}"#;
    assert_eq!(gives("$origin", "0"), origin);
    assert_eq!(gives(r#"$headers["content-type"]"#, "0"), r#""application/json""#);
    assert_eq!(gives("$now > 1600000000000", "0"), "true");
    assert_eq!(gives(r#""/dags/\(.dag)/\($id)""#, r#"{"dag": "d 1"}"#), r#""/dags/d 1/job-1""#);
    assert_eq!(gives(r#"@uri "/dags/\(.dag)""#, r#"{"dag": "d 1/x"}"#), r#""/dags/d%201%2Fx""#);
}

#[test]
fn what_is_no_json_is_null_unless_it_says_that_it_is() {
    let plain = |content_type: Option<&str>, value: Option<&str>| {
        let headers = content_type.map(|media| Header::new("content-type", media.to_owned()));
        let value = value.map(|value| value.to_owned().into());
        Record { value, headers: headers.into_iter().collect(), ..Record::default() }
    };
    for (content_type, value, input) in [
        (None, Some("hello"), "null"),
        (None, Some("[1]"), "[1]"),
        (None, None, "null"),
        (Some("image/png"), Some("1"), "null"),
        (Some("application/problem+json; charset=utf-8"), Some("1"), "1"),
    ] {
        assert_eq!(
            run(".", &plain(content_type, value)).expect("it can be judged"),
            [input],
            "{content_type:?} {value:?}"
        );
    }
    let fault = run(".", &plain(Some("Application/JSON"), Some("{\"a\": }"))).expect_err("it says that it is JSON");
    assert_eq!(fault.code, NOT_JSON);
    assert!(fault.message.contains("line 1 column 7"), "{fault}");
}

#[test]
fn input_is_strict_and_bounded_json() {
    for wrong in ["NaN", "b\"x\"", "[1,]", "{1: 2}", "1 2", "# comment", "01", "'a'", "", "\"\u{1}\""] {
        assert_eq!(fails(".", wrong).code, NOT_JSON, "{wrong}");
    }
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(gives(".", &deep(128)), deep(128));
    assert!(fails(".", &deep(129)).message.contains("more than 128 levels"));
    assert_eq!(fails(".", &deep(1_000_000)).code, NOT_JSON);
    assert_eq!(fails("fromjson", &format!("\"{}\"", deep(1_000_000))).code, FAILED, "in a text, too");
    assert!(fails(".", &"7".repeat(1_001)).message.contains("1000 digits"));
    assert_eq!(gives(".[0]", r#"["[[\"{", "\\"]"#), r#""[[\"{""#, "brackets in text are text");
}

#[test]
fn numbers_keep_the_digits_they_came_with() {
    for number in ["12.30", "0.1", "1e400", "123456789012345678901234567890", "-0.00"] {
        assert_eq!(gives(".", number), number);
    }
    assert_eq!(gives("[.[] | cents] | add", "[0.1, 0.2, \"19.99\", 1e1]"), "3029");
    assert_eq!(gives("cents", "90071992547409931234.56"), "9007199254740993123456");
    let order = r#"{"items": [{"quantity": 3, "price": 0.1}, {"quantity": 1, "price": 0.29}], "total_amount": 0.59}"#;
    assert_eq!(gives("([.items[] | .quantity * (.price | cents)] | add) == (.total_amount | cents)", order), "true");
    assert_eq!(fails("cents", "1.005").message, "`cents`: 1.005 has more than two decimal places");
    assert!(fails(".[0] + .[1] | cents", "[0.1, 0.2]").message.contains("was calculated"));
    assert!(fails("cents", "[1]").message.contains("cannot use [1] as amount"));
}

#[test]
fn what_repeats_is_bounded() {
    for endless in [
        "[repeat(1)]",
        "[range(1e9)]",
        "[range(0; 1; 0)]",
        "last(range(1e9))",
        "until(false; . + 1)",
        "[while(true; .)]",
        "[recurse(.)]",
        "first(repeat(1) | select(. > 1))",
        // Whoever catches the error does not get away with it.
        "try last(repeat(1)) catch 7",
        "[.[]?, repeat(1)?]",
    ] {
        assert_eq!(fails(endless, "0").code, TOO_MUCH, "{endless}");
    }
    assert_eq!(fails("repeat(1)", "0").code, TOO_MANY);
    assert_eq!(
        gives("[limit(3; repeat(1))], [range(3)], [range(0; 10; 5)], ([recurse] | length)", "[1, [2]]"),
        "[1,1,1] [0,1,2] [0,5] 4"
    );
    assert_eq!(gives("(recurse | numbers) |= . + 1", "[1, [2]]"), "[2,[3]]", "and may be assigned to");
}

#[test]
fn results_are_json_or_none() {
    for (expression, why) in [
        ("nan", "JSON cannot"),
        ("infinite", "JSON cannot"),
        ("\"a\" | tobytes", "no text"),
        ("{(1): 2}", "keys are no text"),
        ("reduce range(200) as $i (null; [.])", "128 levels"),
        ("[range(9000)]", "10000 bytes"),
    ] {
        let fault = fails(expression, "0");
        assert!(fault.message.contains(why), "{expression}: {fault}");
    }
    assert_eq!(fails("error(\"too young\")", "0").message, "`error(\"too young\")`: too young");
}

#[test]
fn one_value_is_needed_where_one_is_used() {
    let subject = record(r#"{"n": 1.50, "t": "x", "no": null, "list": []}"#);
    let subject = Subject::new(&subject, None).expect("it is JSON");
    let text = |expression: &str| expression.parse::<Jq>().expect("it is right").text_of(&subject, LIMITS);
    assert_eq!(text(".n").expect("a number"), Some("1.50".to_owned()));
    assert_eq!(text(".t").expect("text"), Some("x".to_owned()));
    assert!(text(".no, .no").is_err(), "two values");
    assert_eq!(text(".no").expect("null is none"), None);
    assert!(text("empty").expect_err("none").message.contains("no value"));
    assert!(text(".n, .t").expect_err("two").message.contains("more than one"));
    assert!(text(".list").expect_err("an array").message.contains("[] is no text"));
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let told = |expression: &str| expression.parse::<Jq>().expect_err(expression);
    assert_eq!(told(".a | "), "at character 6: term is missing");
    assert_eq!(told("if .a then 1 els 2 end"), "at character 14: else or end expected, not `els`");
    assert_eq!(told(".a |\n  .b ||| 1"), "at line 2, character 6: nothing expected, not `|||`");
    assert_eq!(told("\"abc"), "at character 5: closing quote is missing");
    assert_eq!(told(".a | endwith(\"f\")"), "at character 6: there is no function endwith; did you mean endswith?");
    assert_eq!(told("endswith"), "at character 1: endswith takes 1 arguments, not 0");
    assert_eq!(
        told("$heders"),
        "at character 1: there is no variable $heders; there are $headers, $key, $id, $origin, $now"
    );
    assert!(told("now").contains("the time is $now"));
    assert!(told("env.HOME").contains("there is no function env here"));
    assert!(told("halt").contains("sees one record and no more"));
    assert!(told("def f: f; f").contains("defines no functions"));
    assert!(told("\"\\(def f: f; f)\"").contains("defines no functions"));
    assert!(told("include \"x\"; .").contains("complete in itself"));
    assert!(told(&"[".repeat(10_000)).contains("deep in one another"));
    assert!(told("").contains("term is missing"));
}
