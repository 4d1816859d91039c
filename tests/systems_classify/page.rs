//! The page as people use it: in Chromium on a desk and on a phone, with pictures and with what is none, while streams are
//! refused and while the daemon is away. Never reaches into the page but to read it, and to move files as a hand would.

use super::{BROKEN, PATIENCE, Setup, sample};
use bulkhead_testkit::browser::{Browser, Window};
use bulkhead_testkit::relay::Relay;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Every job on the page by its file's name: its state, its label, what it says, its bars, its times, its thumbnail.
const JOBS: &str = r"
    const text = (job, part) => job.querySelector(part).textContent;
    return Object.fromEntries([...document.querySelectorAll('.job')].map((job) => [text(job, '.name'), {
        state: job.dataset.state, label: text(job, '.label'), message: text(job, '.message'), times: text(job, '.times'),
        bars: [...job.querySelectorAll('.top i')].map((bar) => bar.getBoundingClientRect().width),
        thumb: job.querySelector('.thumb img')?.naturalWidth ?? 0,
        buttons: [...job.querySelectorAll('button')].filter((button) => !button.hidden).map((button) => button.textContent),
    }]));";

fn choose(browser: &Browser, files: &[PathBuf]) {
    let paths: Vec<_> = files.iter().map(|file| file.to_str().expect("a plain path")).collect();
    browser.type_into("#files", &paths.join("\n"));
}

/// The jobs, once all of these are in these states.
fn jobs(browser: &Browser, wanted: &[(&str, &str)]) -> Value {
    let states: Vec<_> = wanted.iter().map(|(name, state)| format!("{name} is {state}")).collect();
    browser.wait_for(&states.join(", "), JOBS, PATIENCE, |jobs| {
        wanted.iter().all(|(name, state)| jobs[name]["state"] == *state)
    })
}

/// What the page's own policy kept out, and what its scripts stumbled over: refusals by the daemon are no mistakes.
fn mistakes(browser: &Browser) -> Vec<String> {
    browser.console().into_iter().filter(|line| !line.contains("the server responded with a status of 4")).collect()
}

#[test]
fn on_a_desk_pictures_become_classes_and_everything_else_is_told() {
    let setup = Setup::new();
    let daemon = setup.start();
    let other = |name: &str, content: &[u8]| {
        let path = setup.folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    };
    let files = [
        sample("5-drawn-0.jpg"),
        sample("7-scan.png"),
        sample("3-scan.png"),
        other("broken.png", BROKEN),
        other("notes.txt", b"hello"),
        other("large.jpg", &[&b"\xff\xd8\xff"[..], &vec![0; 17 << 20]].concat()),
    ];
    let browser = Browser::start(Window::Desk);
    browser.open(&daemon.url("/"));
    choose(&browser, &files);
    let wanted = [
        ("5-drawn-0.jpg", "completed"),
        ("7-scan.png", "completed"),
        ("3-scan.png", "completed"),
        ("broken.png", "failed"),
        ("notes.txt", "refused"),
    ];
    let shown = jobs(&browser, &wanted);
    for (name, label) in [("5-drawn-0.jpg", "5"), ("7-scan.png", "7"), ("3-scan.png", "3")] {
        let job = &shown[name];
        assert_eq!(job["label"], label, "{job}");
        let bars: Vec<f64> = job["bars"].as_array().expect("bars").iter().filter_map(Value::as_f64).collect();
        assert!(bars.len() == 3 && bars[0] > 2.0 * bars[1] && bars[2] > 0.0, "{name}: {bars:?}");
        assert!(job["thumb"].as_u64() > Some(0), "{name} has a thumbnail");
        let times = job["times"].as_str().unwrap_or_default();
        assert!(["stored in", "answered after", "model digits"].iter().all(|part| times.contains(part)), "{times}");
    }
    let told = |name: &str| shown[name]["message"].as_str().unwrap_or_default().to_owned();
    assert!(told("broken.png").contains("truncated_image"), "{}", told("broken.png"));
    assert!(told("notes.txt").contains("image/jpeg"), "{}", told("notes.txt"));
    // 413 comes while the picture is being sent: the browser has the answer, or a connection that ended.
    let large = browser.wait_for("the large file is told", JOBS, PATIENCE, |jobs| jobs["large.jpg"]["message"] != "");
    let large = large["large.jpg"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(large.contains("larger than") || large.contains("too large"), "{large}");

    browser.reload();
    let again = jobs(&browser, &wanted);
    assert_eq!(again["7-scan.png"]["label"], "7", "a reload forgets nothing");
    assert!(again["7-scan.png"]["thumb"].as_u64() > Some(0), "nor what it looked like");
    browser.click("#clear");
    browser.wait_for(
        "finished jobs are gone",
        "return document.querySelectorAll('.job[data-state=completed]').length",
        PATIENCE,
        |count| *count == 0,
    );

    for (path, shows) in [("/docs", ".opblock"), ("/redoc", "[data-section-id]")] {
        browser.open(&daemon.url(path));
        let count = format!("return document.querySelectorAll('{shows}').length");
        browser.wait_for(path, &count, PATIENCE, |count| count.as_u64() >= Some(3));
    }
    assert_eq!(mistakes(&browser).iter().filter(|line| !line.contains("/api/classify")).count(), 0);
}

#[test]
fn on_a_phone_it_fits_and_a_job_outlives_streams_and_the_daemon() {
    let setup = Setup::new();
    let daemon = setup.start();
    let relay = Relay::to(daemon.url("").trim_start_matches("http://"));
    let browser = Browser::start(Window::Phone);
    browser.open(&relay.url("/"));
    let width = browser.eval(
        "return [innerWidth, document.documentElement.scrollWidth, document.querySelector('#drop').offsetHeight]",
    );
    assert!(width[0] == 390 && width[1].as_u64() <= Some(390) && width[2].as_u64() >= Some(44), "{width}");

    // No stream comes through: jobs are asked for instead.
    browser.devtools("Network.enable", &json!({}));
    browser.devtools("Network.setBlockedURLs", &json!({ "urls": ["*/events"] }));
    choose(&browser, &[sample("2-drawn-1.jpg")]);
    let polled = jobs(&browser, &[("2-drawn-1.jpg", "completed")]);
    assert_eq!(polled["2-drawn-1.jpg"]["label"], "2");
    let streams = "bulkhead_http_requests_total{route=\"/api/results/{jobId}/events\",status=\"200\"}";
    assert_eq!(daemon.metrics().get(streams), None, "there was no stream");

    // A stream that is cut in the middle of a job, by the daemon's end; meanwhile another picture is chosen.
    browser.devtools("Network.setBlockedURLs", &json!({ "urls": [] }));
    browser.devtools("Network.setExtraHTTPHeaders", &json!({ "headers": { "x-request-id": "slow:2000" } }));
    choose(&browser, &[sample("6-drawn-0.jpg")]);
    jobs(&browser, &[("6-drawn-0.jpg", "pending")]);
    daemon.sigkill();
    relay.switch(None);
    choose(&browser, &[sample("9-drawn-0.jpg")]);
    let waiting = jobs(&browser, &[("9-drawn-0.jpg", "delayed")]);
    assert!(waiting["9-drawn-0.jpg"]["buttons"].to_string().contains("Try again"), "{waiting}");
    let daemon = setup.start();
    relay.switch(Some(daemon.url("").trim_start_matches("http://")));
    let done = jobs(&browser, &[("6-drawn-0.jpg", "completed"), ("9-drawn-0.jpg", "completed")]);
    assert_eq!(
        (&done["6-drawn-0.jpg"]["label"], &done["9-drawn-0.jpg"]["label"]),
        (&"6".into(), &"9".into()),
        "{done}"
    );
    let fits = browser.eval("return document.documentElement.scrollWidth <= innerWidth");
    assert_eq!(fits, true, "long names and messages wrap");
    let small =
        "return [...document.querySelectorAll('button')].filter((b) => b.offsetHeight && b.offsetHeight < 44).length";
    assert_eq!(browser.eval(small), 0, "what is touched is large enough to be touched");
}
