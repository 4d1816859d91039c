//! Sockets: words as they come, answers, what was missed, and nobody else's.

use crate::openai::{Mode, OpenAi};
use crate::rig::{On, PATIENCE, Rig, ask, ended};
use crate::socket::{Got, Socket};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::process::eventually;
use serde_json::{Value, json};

fn url(daemon: &Daemon, at: &Value) -> String {
    let text = |name: &str| at[name].as_str().unwrap_or_else(|| panic!("no {name} in {at}")).to_owned();
    let mut url = daemon.url(&format!("/ws/chat?session={}", text("session")));
    if at["offset"].is_string() {
        url += &format!("&epoch={}&offset={}", text("epoch"), text("offset"));
    }
    url
}

/// Opens a socket once the daemon has read its topics.
fn open(daemon: &Daemon, url: &str) -> Socket {
    eventually("a socket opens", PATIENCE, || {
        assert!(daemon.is_running());
        Socket::try_open(url, &[]).map_err(|(status, text)| {
            assert_eq!(status, 503, "{text}");
            text
        })
    })
}

fn words_come_before_the_answer_and_to_their_session_alone(on: On) {
    let server = OpenAi::start(Mode::Held(&["Bulk", "heads", " hold."]));
    let rig = Rig::new(on, &[]);
    let env = [("BULKHEAD_CHAT_ENDPOINT", server.endpoint()), ("BULKHEAD_CHAT_MODEL", "small")];
    let daemon = rig.start_as("data", &env);
    let mut mine = open(&daemon, &daemon.url("/ws/chat"));
    let hello = mine.message();
    assert_eq!((&hello["type"], &hello["recovered"]), (&json!("session"), &json!(false)));
    let mut other = open(&daemon, &daemon.url("/ws/chat"));
    assert_ne!(other.message()["session"], hello["session"]);

    mine.ask("What holds?", "q-1");
    let accepted = mine.wait_for("accepted");
    assert_eq!(accepted["id"], "q-1");
    let token = mine.wait_for("token");
    assert_eq!((&token["text"], &token["attempt"], &token["index"]), (&json!("Bulk"), &json!(1), &json!(0)));
    assert_eq!(token["jobId"], accepted["jobId"]);
    server.go();
    let token = mine.wait_for("token");
    assert_eq!((&token["text"], &token["index"]), (&json!("heads hold."), &json!(1)));
    let answer = mine.wait_for("completed");
    assert_eq!((&answer["jobId"], &answer["result"]["answer"]), (&accepted["jobId"], &json!("Bulkheads hold.")));

    // The same query again is the same job, and is answered no second time; the one after it is.
    mine.ask("What holds?", "q-1");
    assert_eq!(mine.wait_for("accepted")["jobId"], accepted["jobId"]);
    mine.ask("What else?", "q-2");
    let second = mine.wait_for("accepted");
    assert_eq!(mine.wait_for("completed")["jobId"], second["jobId"]);

    // All that the other session is ever told is its own.
    other.ask("And me?", "q-1");
    let own = other.message();
    assert_eq!(own["type"], "accepted", "{own}");
    assert_ne!(own["jobId"], accepted["jobId"], "an id is its session's");
    assert_eq!(other.wait_for("completed")["jobId"], own["jobId"]);
}

#[test]
fn words_come_before_the_answer_on_the_embedded_log() {
    words_come_before_the_answer_and_to_their_session_alone(On::Embedded);
}

#[test]
fn words_come_before_the_answer_on_kafka() {
    words_come_before_the_answer_and_to_their_session_alone(On::Kafka);
}

fn a_socket_that_comes_again_misses_nothing(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    let mut socket = open(&daemon, &daemon.url("/ws/chat"));
    let session = socket.message()["session"].clone();
    socket.ask("What is a lane?", "a");
    let seen = socket.wait_for("completed");
    let at = json!({ "session": session, "epoch": seen["epoch"], "offset": seen["offset"] });
    drop(socket);

    // Answers and a failure while nobody listens, of this session and of another.
    let token = session.as_str();
    let missed = [
        ask(&daemon, token, "What is a ledger?"),
        ask(&daemon, token, "what the fuck"),
        ask(&daemon, token, "Who supervises?"),
    ];
    let foreign = ask(&daemon, None, "Not yours");
    missed.iter().chain([&foreign]).for_each(|asked| drop(ended(&daemon, asked)));
    daemon.sigkill();

    let daemon = rig.start();
    let mut socket = open(&daemon, &url(&daemon, &at));
    let hello = socket.message();
    assert_eq!((&hello["type"], &hello["recovered"], &hello["session"]), (&json!("session"), &json!(true), &session));
    let mut told: Vec<_> =
        (0..3).map(|_| socket.message()).map(|told| (told["type"].clone(), told["jobId"].clone())).collect();
    let mut wanted: Vec<_> = ["completed", "failed", "completed"]
        .iter()
        .zip(&missed)
        .map(|(kind, asked)| (json!(kind), asked["jobId"].clone()))
        .collect();
    // Answers are in order among themselves, and failures among themselves.
    told.sort_by_key(|(kind, _)| kind.to_string());
    wanted.sort_by_key(|(kind, _)| kind.to_string());
    assert_eq!(told, wanted);
    socket.ask("Still here?", "b");
    let next = socket.wait_for("accepted");
    assert_eq!(socket.message()["jobId"], next["jobId"], "nothing else was told in between");

    // A position of a topic that never was: it says that it cannot know.
    let lost = json!({ "session": session, "epoch": "1.1", "offset": "0.0" });
    let hello = open(&daemon, &url(&daemon, &lost)).message();
    assert_eq!(hello["recovered"], json!(false));
}

#[test]
fn a_socket_comes_again_on_the_embedded_log() {
    a_socket_that_comes_again_misses_nothing(On::Embedded);
}

#[test]
fn a_socket_comes_again_on_kafka() {
    a_socket_that_comes_again_misses_nothing(On::Kafka);
}

#[test]
fn a_socket_that_says_too_much_or_nothing_is_told_so() {
    let rig = Rig::new(
        On::Embedded,
        &[(
            "socket = { text_max = \"8KiB\" }",
            "socket = { text_max = \"1KiB\", per_second = 1, burst = 2, ping = \"200ms\" }",
        )],
    );
    let daemon = rig.start();
    let mut socket = open(&daemon, &daemon.url("/ws/chat"));
    socket.message();
    for (message, code) in [
        ("no JSON", "bad-message"),
        ("{\"type\": \"shout\"}", "bad-message"),
        ("{\"type\": \"query\"}", "bad-message"),
        ("{\"type\": \"query\", \"text\": \"x\", \"id\": \"\"}", "bad-message"),
    ] {
        socket.send(message);
        assert_eq!(socket.wait_for("error")["code"], code, "{message}");
    }
    for (text, id, code) in [(" ".to_owned(), "blank", "empty-query"), ("x".repeat(1_025), "long", "query-too-long")] {
        socket.ask(&text, id);
        let error = socket.wait_for("error");
        assert_eq!((&error["code"], &error["id"]), (&json!(code), &json!(id)), "{error}");
    }
    socket.ask("one", "1");
    let refused = eventually("the rate is reached", PATIENCE, || {
        socket.ask("more", "more");
        let told = socket.message();
        if told["code"] == "too-many-requests" { Ok(told) } else { Err(told.to_string()) }
    });
    assert!(refused["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0), "{refused}");
    socket.send(&"x".repeat(64 * 1024));
    loop {
        if let Got::Closed(code) = socket.next() {
            assert_eq!(code, 1009, "too large");
            break;
        }
    }

    // One that answers no ping is cut: it is read no more until the server has closed.
    let mut silent = open(&daemon, &daemon.url("/ws/chat"));
    silent.mute();
    assert_eq!(silent.closed(), 1008);
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
}

#[test]
fn a_daemon_that_drains_says_goodbye() {
    let rig = Rig::new(On::Embedded, &[]);
    let daemon = rig.start();
    let mut socket = open(&daemon, &daemon.url("/ws/chat"));
    socket.message();
    daemon.sigterm();
    assert_eq!(socket.closed(), 1001);
    assert!(daemon.wait_exit(PATIENCE).success());
}
