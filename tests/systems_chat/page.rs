//! The chat page in a browser: a question, its answer with where it comes from, and what a reload leaves of it. Never looks behind the page.

use crate::rig::{On, PATIENCE, Rig};
use bulkhead_testkit::browser::{Browser, Window};
use serde_json::Value;

/// Each turn of the conversation, as its reader sees it: what was asked, the answer, where that comes from.
const TURNS: &str = "return [...document.querySelectorAll('.turn')].map((turn) => ['query', 'answer', 'about']
    .map((part) => turn.querySelector('.' + part).textContent))";

fn ask(browser: &Browser, text: &str) {
    browser.type_into("#text", text);
    browser.click("#form button");
}

/// The turns, once there are so many and the last has an answer and tells where it comes from.
fn turns(browser: &Browser, count: usize) -> Value {
    browser.wait_for("the answer is shown", TURNS, PATIENCE, |turns| {
        let turns = turns.as_array().map(Vec::as_slice).unwrap_or_default();
        turns.len() == count && turns.last().is_some_and(|turn| turn[2] != "")
    })
}

#[test]
fn a_question_is_answered_with_its_sources_and_a_reload_keeps_it() {
    let rig = Rig::new(On::Embedded, &[]);
    let daemon = rig.start_as("data", &[]);
    let browser = Browser::start(Window::Phone);
    browser.open(&daemon.url("/chat"));
    ask(&browser, "What does a lane do?");
    let shown = turns(&browser, 1);
    assert_eq!(shown[0][0], "What does a lane do?");
    assert!(shown[0][1].as_str().is_some_and(|answer| answer.contains("lane")), "{shown}");
    assert!(
        shown[0][2].as_str().is_some_and(|about| about.contains(".md") && about.contains("without a model")),
        "{shown}"
    );
    let wide = "return document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(browser.eval(wide), true, "it fits a phone");

    browser.reload();
    assert_eq!(turns(&browser, 1), shown, "a reload forgets nothing");
    ask(&browser, "What is a link?");
    let after = turns(&browser, 2);
    assert_eq!((&after[0], &after[1][0]), (&shown[0], &Value::from("What is a link?")), "the conversation goes on");
    // The page has no icon of its own.
    let mistakes: Vec<_> = browser.console().into_iter().filter(|line| !line.contains("/favicon.ico")).collect();
    assert_eq!(mistakes, Vec::<String>::new(), "the page's own policy lets all of it through");
}
